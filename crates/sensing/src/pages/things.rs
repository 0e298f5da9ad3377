//! Things: the list and one of them.

use askama::Template;
use axum::extract::{Path, State};
use kernel::{Problem, Timestamp};
use ui::{Cell, Column, FilterChoice, Filters, Html, LineChart, LiveNumber, Markup, Page, Pager, Series, Table};

use super::{
    Pages, decimals,
    directory::{Asked, DatastreamEntry, Directory, Listing, Observed, Place},
    several,
};
use crate::{Error, model::ResultValue, observe::SeriesQuery};

const PER_PAGE: usize = 100;
/// Characters of a search.
const MOST_SOUGHT: usize = 100;
/// Districts that are offered to narrow a list by: a city has dozens, and nobody reads more. Others can still be named in the address.
const MOST_CHOICES: usize = 500;
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
    let all = pages.directory.groups(&pages.scope(&page.caller)).await?;
    let (systems, districts) = (page.query.all("system"), page.query.all("district"));
    let chosen = all.narrowed(|g| {
        (systems.is_empty() || systems.contains(&g.system)) && (districts.is_empty() || districts.contains(&g.district))
    });
    let total = chosen.count(|_| true).things;
    let sought = page.query.get("q").unwrap_or_default().trim().chars().take(MOST_SOUGHT).collect::<String>();
    let searched = !sought.is_empty();
    let too_much = searched && Directory::is_too_much(&chosen);
    let asked = Asked {
        sought,
        descending: page.query.get("sort").as_deref() == Some("-name"),
        after: page.query.get("after").as_deref().and_then(Place::parse),
        limit: PER_PAGE,
    };
    let begins = asked.after.is_none();
    let listing = if too_much { Listing::default() } else { pages.directory.list(chosen, asked).await? };
    let rows = listing.things.iter().map(|t| {
        let first = t.first.as_ref();
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
    let next = listing.next.as_ref().map(Place::cursor);
    let caption = match (searched, begins && next.is_none()) {
        (false, _) => page.count("things.caption", total),
        (true, true) => page.count("things.caption", listing.things.len() as u64),
        // How many more fit would take as long to find out as to show them.
        (true, false) => page.t("things.found").to_owned(),
    };
    let table = Table::new(caption)
        .column(Column::text("name", page.t("thing.name")).sortable())
        .column(Column::text("system", page.t("thing.system")))
        .column(Column::text("district", page.t("thing.district")))
        .column(Column::number("value", page.t("thing.value")))
        .column(Column::text("at", page.t("thing.as-of")))
        .column(Column::text("origin", page.t("thing.origin")))
        .rows(rows)
        .empty(page.t(if too_much { "things.narrow" } else { "things.none" }));
    let system_choices = pages
        .directory
        .systems()
        .iter()
        .map(|s| FilterChoice::new(&s.key, page.text(&s.name)).count(all.count(|g| g.system == s.key).things));
    let district_choices = all
        .districts()
        .into_iter()
        .map(|d| FilterChoice::new(d, d).count(all.count(|g| g.district == d).things))
        .take(MOST_CHOICES);
    let filters = Filters::default()
        .search("q", page.t("things.search"))
        .checks("system", page.t("thing.system"), system_choices.collect())
        .checks("district", page.t("thing.district"), district_choices.collect());
    let pager = Pager::after(&page, next.as_deref());
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
    /// Of each MultiDatastream.
    tables: Vec<Table>,
    /// There are more Datastreams or MultiDatastreams than are shown.
    more: bool,
    charts: Vec<Markup>,
    properties: Vec<(String, String)>,
    alarms: Option<Table>,
    api: String,
    owner: String,
    /// The form for a table, for those who may.
    upload: Option<String>,
    /// Where its track is shown, when it moves.
    track: Option<String>,
    /// What can be asked of it, for those who may see that.
    moves: Vec<(String, String)>,
}

pub async fn thing(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    page: Page,
) -> Result<Html<impl Template>, Problem> {
    let missing = || Problem::not_found(format!("The thing {}", id.chars().take(20).collect::<String>()));
    let number: i64 = id.parse().map_err(|_| missing())?;
    let scope = pages.scope(&page.caller);
    let found = pages.directory.thing(&scope, crate::model::EntityId(number)).await?.ok_or_else(missing)?;
    let Observed { thing, mut streams, multi, more } = found;
    // Where there is a corrected version, that is shown; what was measured is a step behind it.
    streams.retain(|d| pages.derived.as_ref().is_none_or(|derived| derived.corrected(d.id).is_none()));
    let entity = pages.catalog.get(&scope, crate::model::EntityType::Thing, thing.id).await?.ok_or_else(missing)?;
    let upload = (!streams.is_empty() && super::upload::offered(&pages, &page, &entity))
        .then(|| page.href(&format!("/upload?thing={}", thing.id)));
    let track = match &pages.moving {
        Some(moving) => moving
            .mover(&scope, thing.id)
            .await
            .ok()
            .map(|m| (m.datastream, page.href(&format!("/things/{}/track", thing.id)))),
        None => None,
    };
    // Where it is says its track better than a number could.
    streams.retain(|d| track.as_ref().is_none_or(|(position, _)| *position != d.id));
    let track = track.map(|(_, href)| href);
    let mut numbers = Vec::new();
    let mut charts = Vec::new();
    for (at, d) in streams.iter().enumerate() {
        numbers.push(live_number(&pages, &page, d));
        if at < 3 {
            charts.extend(chart(&pages, &page, d).await?);
        }
    }
    let tables = multi.iter().map(|entry| several::table(&pages, &page, entry)).collect();
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
    let mut moves = Vec::new();
    if let Some(tasking) = pages.tasking.as_ref().filter(|_| !page.caller.is_anonymous()) {
        for (id, name) in tasking.of_thing(&page.caller, thing.id).await? {
            moves.push((page.href(&format!("/tasking/{id}")), page.text(&name).to_owned()));
        }
    }
    let system = pages.directory.system(&thing.system);
    let heading = page.text(&thing.name).to_owned();
    let also = if multi.is_empty() { "" } else { ",MultiDatastreams" };
    let api = format!("/v1.1/Things({})?$expand=Locations,Datastreams{also}", thing.id);
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
        tables,
        more,
        charts,
        properties,
        alarms,
        api,
        owner,
        upload,
        track,
        moves,
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
