//! One Datastream: chart, table, download, and the data behind them.

use askama::Template;
use axum::{
    Extension,
    body::Body,
    extract::{Path, RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
};
use kernel::{Caller, Problem, Timestamp};
use serde_json::Value;
use ui::{Cell, Column, Html, LineChart, LiveNumber, Page, Pager, Query, Series, Table};

use super::{Pages, decimals, name_of, origin::Origin, time};
use crate::{
    Error,
    catalog::Entity,
    model::{EntityId, EntityType, Observation, ObservationId, ResultValue},
    observe::{Fill, Order, SeriesQuery},
    spreadsheet::field,
};

const PER_PAGE: usize = 100;
/// Rows read at a time for a download.
const CSV_CHUNK: usize = 5_000;

#[derive(Template)]
#[template(path = "datastream.html")]
struct DatastreamPage {
    page: Page,
    number: LiveNumber,
    chart: LineChart,
    table: Table,
    pager: Pager,
    facts: Vec<(String, String)>,
    simulated: bool,
    api: String,
    thing: Option<(String, String)>,
    /// The form for a table, for those who may.
    upload: Option<String>,
    /// Its profiles, when it is sampled at depth.
    profiles: Option<String>,
    origin: Origin,
    /// What is no longer as it was observed.
    borders: Vec<String>,
}

impl Pages {
    pub(super) async fn datastream(&self, caller: &Caller, id: &str) -> Result<Entity, Problem> {
        let missing = || Problem::not_found(format!("The Datastream {}", id.chars().take(20).collect::<String>()));
        let id = id.parse().map(EntityId).map_err(|_| missing())?;
        self.catalog.get(&self.scope(caller), EntityType::Datastream, id).await?.ok_or_else(missing)
    }
}

/// The span that the address asks for: `from` and `to`, by default the last day, or the last year of what comes once a day.
pub(super) fn span(
    query: &Query,
    now: Timestamp,
    newest: Option<Timestamp>,
    interval: Option<i64>,
) -> Result<(Timestamp, Timestamp), Problem> {
    let to = time(query, "to")?;
    let from = time(query, "from")?;
    let end = to.unwrap_or_else(|| newest.map_or(now, |n| n.max(now.plus_secs(-86_400)).min(now)));
    // A record that ended long ago is shown up to its end, not as an empty day.
    let end = if to.is_none() { newest.filter(|n| *n < now.plus_secs(-86_400)).unwrap_or(end) } else { end };
    let width = if interval.unwrap_or(60) >= 86_400 { 366 * 86_400 } else { 86_400 };
    let from = from.unwrap_or_else(|| end.plus_secs(-width));
    if from > end {
        return Err(Problem::field("from", "it must not be later than 'to'"));
    }
    Ok((from, end))
}

pub async fn page(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    page: Page,
) -> Result<Html<impl Template>, Problem> {
    let entity = pages.datastream(&page.caller, &id).await?;
    let entity = pages.version(entity, &page.query).await?;
    let properties = entity.properties();
    let name = name_of(entity.name(), &properties);
    let label = page.text(&name).to_owned();
    let unit = entity.field("unitOfMeasurement").to_value()["symbol"].as_str().unwrap_or_default().to_owned();
    let interval = properties.get("interval").and_then(Value::as_i64);
    let simulated = properties.get("simulated") == Some(&Value::Bool(true));
    let head = pages.observe.head(entity.id);
    let newest = head.as_ref().map(|h| h.phenomenon.end);
    let (from, to) = span(&page.query, page.now(), newest, interval)?;
    let drawn = pages.drawn(entity.id, (from, to), &page.site.zone, Fill::Skip).await?;
    let version = if page.query.get("version").as_deref() == Some("raw") { "raw" } else { "corrected" };
    let csv = format!("/api/datastreams/{}/observations.csv?from={from}&to={to}&version={version}", entity.id);
    let zone = ui::encode(page.site.zone.iana_name().unwrap_or("UTC"));
    let mut chart = LineChart::new(&label, &unit)
        .series(Series::new(&label, drawn.points).datastream(entity.id).simulated(simulated))
        .range(from, to)
        .source(format!("/api/datastreams/{}/series?zone={zone}&version={version}", entity.id))
        .download("CSV", csv.clone());
    let mut number = LiveNumber::new(&label, head.as_ref().and_then(|h| h.latest.result.number()), &unit)
        .simulated(simulated)
        .datastream(entity.id);
    if let Some(h) = &head {
        number = number.at(h.latest.phenomenon.end).decimals(h.latest.result.number().map_or(0, decimals));
    }
    if let Some(interval) = interval {
        number = number.stale_after(interval * 3);
        chart = chart.gap_after((interval * 5).max(1_800));
    }
    let after = page
        .query
        .get("after")
        .map(|a| a.parse::<ObservationId>())
        .transpose()
        .map_err(|e| Problem::field("after", e))?;
    let query = SeriesQuery {
        from: Some(from),
        to: Some(to),
        order: Order::Descending,
        after,
        limit: PER_PAGE + 1,
        ..SeriesQuery::all(entity.id)
    };
    let mut rows = pages.observe.read(query).await.map_err(Error::from)?;
    let more = rows.len() > PER_PAGE;
    rows.truncate(PER_PAGE);
    let next = rows.last().filter(|_| more).map(|o| o.id().to_string());
    let table = Table::new(page.t("datastream.observations"))
        .column(Column::text("at", page.t("datastream.time")))
        .column(Column::number("value", page.t("datastream.value")))
        .column(Column::text("quality", page.t("datastream.quality")))
        .rows(rows.iter().map(|o| {
            let value = match &o.result {
                ResultValue::Number(n) => Cell::quantity(*n, decimals(*n), &unit),
                ResultValue::Json(raw) => Cell::text(raw.get().trim_matches('"')),
            };
            let said = summed(o).map_or_else(|| quality(o), |n| page.count("retention.row", n));
            vec![Cell::At(o.phenomenon.start), value, Cell::text(said)]
        }))
        .download("CSV", csv)
        .empty(page.t("datastream.none"));
    let mut borders = Vec::new();
    if let Some(retention) = &pages.retention {
        for border in retention.borders(entity.id).await?.iter().filter(|border| border.until > from) {
            let minutes =
                border.interval.strip_prefix("PT").and_then(|t| t.strip_suffix('M')).and_then(|m| m.parse().ok());
            let form = minutes
                .map_or_else(|| page.t("retention.hourly").to_owned(), |m: u64| page.count("retention.means", m));
            let until = ui::format::day(page.language, border.until, &page.site.zone);
            borders.push(page.msg("retention.border").with("until", until).with("form", form).to_string());
        }
    }
    let origin = pages.origin(&page, &entity, &rows).await?;
    let pager = Pager::after(&page, next.as_deref());
    let mut facts = vec![(
        page.t("datastream.type").to_owned(),
        entity.text("observationType").rsplit('/').next().unwrap_or_default().to_owned(),
    )];
    if let Some(h) = &head {
        facts.push((page.t("datastream.count").to_owned(), page.number(&(h.count as f64), 0)));
        facts.push((page.t("datastream.first").to_owned(), page.exact(&h.phenomenon.start)));
        facts.push((page.t("datastream.last").to_owned(), page.exact(&h.phenomenon.end)));
    }
    if let Some(interval) = interval {
        facts.push((
            page.t("datastream.interval").to_owned(),
            page.msg("datastream.seconds").n(interval as u64).to_string(),
        ));
    }
    let scope = pages.scope(&page.caller);
    let thing = match entity.one("Thing") {
        Some(id) => pages.catalog.get(&scope, EntityType::Thing, id).await?,
        None => None,
    };
    let thing = thing.map(|t| {
        let name = name_of(t.name(), &t.properties());
        (page.href(&format!("/things/{}", t.id)), page.text(&name).to_owned())
    });
    let api = format!("/v1.1/Datastreams({})/Observations", entity.id);
    let upload =
        super::upload::offered(&pages, &page, &entity).then(|| page.href(&format!("/upload?datastream={}", entity.id)));
    let deep = head.as_ref().and_then(|h| h.latest.parameters.as_ref()).is_some_and(|p| p.get().contains("\"depth\""));
    let profiles = (deep && pages.moving.is_some()).then(|| page.href(&format!("/datastreams/{}/profiles", entity.id)));
    let mut page =
        page.in_section("live").under_t("things.heading", "/things").with_island("chart").with_island("live");
    if let Some((href, name)) = &thing {
        let path = href.split_once("/things/").map_or("/things".to_owned(), |(_, id)| format!("/things/{id}"));
        page = page.under(name, &path);
    }
    let page = page.titled(label);
    Ok(Html(DatastreamPage {
        number,
        chart,
        table,
        pager,
        facts,
        simulated,
        api,
        thing,
        upload,
        profiles,
        origin,
        borders,
        page,
    }))
}

/// How many Observations one stands for that sums up others.
fn summed(o: &Observation) -> Option<u64> {
    let parameters = o.parameters.as_ref().filter(|_| o.is_summed())?;
    serde_json::from_str::<Value>(parameters.get()).ok()?["aggregate"]["count"].as_u64()
}

/// The code of resultQuality, or its text.
fn quality(o: &Observation) -> String {
    let Some(raw) = &o.quality else { return String::new() };
    let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    value["code"].as_str().map_or_else(|| raw.get().chars().take(60).collect(), str::to_owned)
}

/// `GET /api/datastreams/{id}/observations.csv?from=…&to=…`: every Observation of the span, streamed in constant memory.
pub async fn csv(
    State(pages): State<Pages>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let entity = pages.datastream(&caller, &id).await?;
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let entity = pages.version(entity, &query).await?;
    let (from, to) = (time(&query, "from")?, time(&query, "to")?);
    let name = format!("attachment; filename=\"datastream-{}.csv\"", entity.id);
    let start = SeriesQuery { from, to, limit: CSV_CHUNK, ..SeriesQuery::all(entity.id) };
    let lines = futures::stream::try_unfold(Some((start, true)), move |state| {
        let observe = pages.observe.clone();
        async move {
            let Some((mut query, first)) = state else { return Ok(None) };
            let rows = observe.read(query).await.map_err(std::io::Error::other)?;
            let mut out = String::new();
            if first {
                out.push_str("phenomenonTime,resultTime,result,resultQuality\r\n");
            }
            rows.iter().for_each(|o| line(&mut out, o));
            let next = (rows.len() == CSV_CHUNK).then(|| rows.last().map(Observation::id)).flatten().map(|id| {
                query.after = Some(id);
                (query, false)
            });
            Ok::<_, std::io::Error>(Some((out, next)))
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn line(out: &mut String, o: &Observation) {
    use std::fmt::Write as _;
    // Writing to a String cannot fail.
    let _ = write!(out, "{},", o.phenomenon);
    if let Some(at) = o.result_time {
        let _ = write!(out, "{at}");
    }
    out.push(',');
    match &o.result {
        ResultValue::Number(n) => {
            let _ = write!(out, "{n}");
        }
        ResultValue::Json(raw) => field(out, &super::export::words(raw)),
    }
    out.push(',');
    if let Some(quality) = &o.quality {
        field(out, quality.get());
    }
    out.push_str("\r\n");
}
