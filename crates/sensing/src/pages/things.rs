//! Things: the list and one of them.

use askama::Template;
use axum::extract::{Path, State};
use kernel::{Problem, Timestamp};
use ui::{Cell, Column, FilterChoice, Filters, Html, LineChart, LiveNumber, Markup, Page, Pager, Series, Table};

use super::{Pages, decimals, directory::DatastreamEntry};
use crate::{Error, model::ResultValue, observe::SeriesQuery};

const PER_PAGE: usize = 100;
/// Observations in the small chart of a thing's page.
const CHART_POINTS: usize = 500;

#[derive(Template)]
#[template(path = "things.html")]
struct Things {
    page: Page,
    filters: Filters,
    table: Table,
    pager: Pager,
}

pub async fn list(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    let all = pages.directory.things(&pages.scope(&page.caller)).await?;
    let (systems, districts) = (page.query.all("system"), page.query.all("district"));
    let sought = page.query.get("q").unwrap_or_default().trim().to_lowercase();
    let chosen: Vec<_> = all
        .iter()
        .filter(|t| systems.is_empty() || systems.contains(&t.system))
        .filter(|t| districts.is_empty() || districts.contains(&t.district))
        .filter(|t| {
            sought.is_empty() || kernel::Language::ALL.iter().any(|l| t.name.get(*l).to_lowercase().contains(&sought))
        })
        .collect();
    let number: usize = page.query.get("page").and_then(|p| p.parse().ok()).unwrap_or(1usize).max(1);
    let rows = chosen.iter().skip((number - 1).saturating_mul(PER_PAGE)).take(PER_PAGE).map(|t| {
        let first = t.datastreams.first();
        let latest = first.and_then(|d| pages.observe.head(d.id)).map(|h| h.latest);
        let value = match (first, latest.as_ref().map(|o| &o.result)) {
            (Some(d), Some(ResultValue::Number(n))) => Cell::quantity(*n, decimals(*n), &d.unit),
            (_, Some(ResultValue::Json(raw))) => Cell::text(raw.get().trim_matches('"')),
            _ => Cell::Empty,
        };
        vec![
            Cell::link(page.href(&format!("/things/{}", t.id)), page.text(&t.name)),
            Cell::text(pages.directory.system(&t.system).map_or("", |s| page.text(&s.name))),
            Cell::text(&t.district),
            value,
            latest.map_or(Cell::Empty, |o| Cell::Ago(o.phenomenon.end)),
            if t.simulated { Cell::text(page.t("state.simulated")) } else { Cell::Empty },
        ]
    });
    let table = Table::new(page.count("things.caption", chosen.len() as u64))
        .column(Column::text("name", page.t("thing.name")))
        .column(Column::text("system", page.t("thing.system")))
        .column(Column::text("district", page.t("thing.district")))
        .column(Column::number("value", page.t("thing.value")))
        .column(Column::text("at", page.t("thing.as-of")))
        .column(Column::text("origin", page.t("thing.origin")))
        .rows(rows)
        .empty(page.t("things.none"));
    let count = |f: &dyn Fn(&super::directory::ThingEntry) -> bool| all.iter().filter(|t| f(t)).count() as u64;
    let system_choices = pages
        .directory
        .systems()
        .iter()
        .map(|s| FilterChoice::new(&s.key, page.text(&s.name)).count(count(&|t| t.system == s.key)));
    let mut names: Vec<&str> = all.iter().map(|t| t.district.as_str()).filter(|d| !d.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    let district_choices = names.iter().map(|d| FilterChoice::new(*d, d).count(count(&|t| t.district == *d)));
    let filters = Filters::default()
        .search("q", page.t("things.search"))
        .checks("system", page.t("thing.system"), system_choices.collect())
        .checks("district", page.t("thing.district"), district_choices.collect());
    let pager = Pager::numbered(&page, PER_PAGE as u64, chosen.len() as u64);
    let page = page.in_section("live").wide().titled_t("things.heading");
    Ok(Html(Things { filters, table, pager, page }))
}

#[derive(Template)]
#[template(path = "thing.html")]
struct ThingPage {
    page: Page,
    simulated: bool,
    description: String,
    numbers: Vec<LiveNumber>,
    charts: Vec<Markup>,
    properties: Vec<(String, String)>,
    alarms: Option<Table>,
    api: String,
    owner: String,
}

pub async fn thing(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    page: Page,
) -> Result<Html<impl Template>, Problem> {
    let missing = || Problem::not_found(format!("The thing {}", id.chars().take(20).collect::<String>()));
    let number: i64 = id.parse().map_err(|_| missing())?;
    let scope = pages.scope(&page.caller);
    let things = pages.directory.things(&scope).await?;
    let thing = things.into_iter().find(|t| t.id.0 == number).ok_or_else(missing)?;
    let entity = pages.catalog.get(&scope, crate::model::EntityType::Thing, thing.id).await?.ok_or_else(missing)?;
    let mut numbers = Vec::new();
    let mut charts = Vec::new();
    for (at, d) in thing.datastreams.iter().enumerate() {
        numbers.push(live_number(&pages, &page, d));
        if at < 3 {
            charts.extend(chart(&pages, &page, d).await?);
        }
    }
    let hidden = ["key", "system", "name_zh_hant", "name_zh_hans", "simulated", "interval"];
    let properties =
        entity.properties().into_iter().filter(|(k, _)| !hidden.contains(&k.as_str()) && !k.starts_with("description"));
    let shown = |v: serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let alarms =
        if page.caller.is_anonymous() { None } else { Some(super::alarms::of_thing(&pages, &page, thing.id).await?) };
    let localized = entity
        .properties()
        .get(&format!("description_{}", page.language.segment().replace('-', "_")))
        .and_then(|v| v.as_str().map(str::to_owned));
    let description = localized.unwrap_or_else(|| entity.text("description").to_owned());
    let system = pages.directory.system(&thing.system);
    let heading = page.text(&thing.name).to_owned();
    let api = format!("/v1.1/Things({})?$expand=Locations,Datastreams", thing.id);
    let properties = properties.map(|(k, v)| (k.replace('_', " "), shown(v))).collect();
    let mut page =
        page.in_section("live").under_t("things.heading", "/things").with_island("live").with_island("chart");
    if let Some(system) = system {
        let name = page.text(&system.name).to_owned();
        page = page.under(name, &format!("/things?system={}", system.key));
    }
    let owner = pages
        .owners
        .get(thing.tenant.as_str())
        .map_or_else(|| thing.tenant.to_string(), |name| page.text(name).to_owned());
    let page = page.titled(heading);
    Ok(Html(ThingPage {
        simulated: thing.simulated,
        description,
        numbers,
        charts,
        properties,
        alarms,
        api,
        owner,
        page,
    }))
}

fn live_number(pages: &Pages, page: &Page, d: &DatastreamEntry) -> LiveNumber {
    let head = pages.observe.head(d.id);
    let value = head.as_ref().and_then(|h| h.latest.result.number());
    let mut number = LiveNumber::new(page.text(&d.name), value, &d.unit)
        .decimals(value.map_or(0, decimals))
        .simulated(d.simulated)
        .href(page.href(&format!("/datastreams/{}", d.id)))
        .datastream(d.id);
    if let Some(head) = head {
        number = number.at(head.latest.phenomenon.end);
    }
    match d.interval {
        Some(interval) => number.stale_after(interval * 3),
        None => number,
    }
}

async fn chart(pages: &Pages, page: &Page, d: &DatastreamEntry) -> Result<Option<Markup>, Problem> {
    let rows = pages.observe.read(SeriesQuery::latest(d.id, CHART_POINTS)).await.map_err(Error::from)?;
    let points: Vec<(Timestamp, Option<f64>)> =
        rows.iter().rev().map(|o| (o.phenomenon.start, o.result.number())).collect();
    if points.iter().all(|(_, v)| v.is_none()) {
        return Ok(None);
    }
    let mut chart = LineChart::new(page.text(&d.name), &d.unit)
        .series(Series::new(page.text(&d.name), points).datastream(d.id).simulated(d.simulated))
        .download("CSV", format!("/api/datastreams/{}/observations.csv", d.id));
    if let Some(interval) = d.interval {
        // History may be coarser than what is live: a gap is only what is longer than both.
        chart = chart.gap_after((interval * 5).max(1_800));
    }
    Ok(Some(chart.html(page)))
}
