//! One Datastream: chart, table, download, and the data behind them.

use askama::Template;
use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
};
use jiff::tz::TimeZone;
use kernel::{Caller, Problem, Timestamp};
use serde_json::{Value, json};
use ui::{Cell, Column, Html, LineChart, LiveNumber, Page, Pager, Query, Series, Table};

use super::{Pages, decimals, name_of, time};
use crate::{
    Error,
    catalog::Entity,
    model::{EntityId, EntityType, Observation, ObservationId, ResultValue},
    observe::{AggregateQuery, Fill, Order, SeriesQuery, Step},
    spreadsheet::field,
};

const PER_PAGE: usize = 100;
/// Points that a chart can show on a wide screen.
const CHART_POINTS: i64 = 1_500;
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
}

impl Pages {
    async fn datastream(&self, caller: &Caller, id: &str) -> Result<Entity, Problem> {
        let missing = || Problem::not_found(format!("The Datastream {}", id.chars().take(20).collect::<String>()));
        let id = id.parse().map(EntityId).map_err(|_| missing())?;
        self.catalog.get(&self.scope(caller), EntityType::Datastream, id).await?.ok_or_else(missing)
    }

    /// A series that fits a chart: the Observations themselves when they are few, else means by a fitting interval.
    async fn points(
        &self,
        id: EntityId,
        from: Timestamp,
        to: Timestamp,
        zone: &TimeZone,
    ) -> Result<Vec<(Timestamp, Option<f64>)>, Problem> {
        let raw =
            SeriesQuery { from: Some(from), to: Some(to), limit: CHART_POINTS as usize + 1, ..SeriesQuery::all(id) };
        let rows = self.observe.read(raw).await.map_err(Error::from)?;
        if rows.len() <= CHART_POINTS as usize {
            return Ok(rows.iter().map(|o| (o.phenomenon.start, o.result.number())).collect());
        }
        let minutes = to.micros_since(from) / 60_000_000 / CHART_POINTS;
        let step = match minutes {
            ..=1 => Step::Minutes(1),
            2..=5 => Step::Minutes(5),
            6..=15 => Step::Minutes(15),
            16..=60 => Step::Hours(1),
            61..=360 => Step::Hours(6),
            361..=1_440 => Step::Days(1),
            1_441..=10_080 => Step::Days(7),
            10_081..=43_200 => Step::Months(1),
            _ => Step::Years(1),
        };
        self.means(id, from, to, step, zone).await
    }

    async fn means(
        &self,
        id: EntityId,
        from: Timestamp,
        to: Timestamp,
        step: Step,
        zone: &TimeZone,
    ) -> Result<Vec<(Timestamp, Option<f64>)>, Problem> {
        let query =
            AggregateQuery { datastream: id, from, to: to.plus_micros(1), step, zone: zone.clone(), fill: Fill::Skip };
        let buckets = self.observe.aggregate(query).await.map_err(Error::from)?;
        Ok(buckets.into_iter().map(|b| (b.start, b.mean)).collect())
    }
}

/// The span that the address asks for: `from` and `to`, by default the last day, or the last year of what comes once a day.
fn span(
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
    let properties = entity.properties();
    let name = name_of(entity.name(), &properties);
    let label = page.text(&name).to_owned();
    let unit = entity.field("unitOfMeasurement").to_value()["symbol"].as_str().unwrap_or_default().to_owned();
    let interval = properties.get("interval").and_then(Value::as_i64);
    let simulated = properties.get("simulated") == Some(&Value::Bool(true));
    let head = pages.observe.head(entity.id);
    let newest = head.as_ref().map(|h| h.phenomenon.end);
    let (from, to) = span(&page.query, page.now(), newest, interval)?;
    let points = pages.points(entity.id, from, to, &page.site.zone).await?;
    let csv = format!("/api/datastreams/{}/observations.csv?from={from}&to={to}", entity.id);
    let mut chart = LineChart::new(&label, &unit)
        .series(Series::new(&label, points).datastream(entity.id).simulated(simulated))
        .range(from, to)
        .source(format!("/api/datastreams/{}/series", entity.id))
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
            vec![Cell::At(o.phenomenon.start), value, Cell::text(quality(o))]
        }))
        .download("CSV", csv)
        .empty(page.t("datastream.none"));
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
    let mut page =
        page.in_section("live").under_t("things.heading", "/things").with_island("chart").with_island("live");
    if let Some((href, name)) = &thing {
        let path = href.split_once("/things/").map_or("/things".to_owned(), |(_, id)| format!("/things/{id}"));
        page = page.under(name, &path);
    }
    let page = page.titled(label);
    Ok(Html(DatastreamPage { number, chart, table, pager, facts, simulated, api, thing, page }))
}

/// The code of resultQuality, or its text.
fn quality(o: &Observation) -> String {
    let Some(raw) = &o.quality else { return String::new() };
    let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    value["code"].as_str().map_or_else(|| raw.get().chars().take(60).collect(), str::to_owned)
}

/// `GET /api/datastreams/{id}/series?from=…&to=…`: `{"series":[{"points":[[ms, value|null], …]}]}`. With `step=PT1H` (an ISO 8601 duration of
/// one unit) the points are means by that interval, in UTC; without, whatever fits a chart.
pub async fn series(
    State(pages): State<Pages>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let entity = pages.datastream(&caller, &id).await?;
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let newest = pages.observe.head(entity.id).map(|h| h.phenomenon.end);
    let interval = entity.properties().get("interval").and_then(Value::as_i64);
    let (from, to) = span(&query, pages.catalog.now(), newest, interval)?;
    let points = match query.get("step") {
        Some(step) => {
            let step = step.parse().map_err(|error: String| Problem::field("step", error))?;
            pages.means(entity.id, from, to, step, &TimeZone::UTC).await?
        }
        None => pages.points(entity.id, from, to, &TimeZone::UTC).await?,
    };
    let points: Vec<Value> = points.into_iter().map(|(at, v)| json!([at.as_micros() / 1_000, v])).collect();
    Ok(Json(json!({ "series": [{ "points": points }] })))
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
        ResultValue::Json(raw) => field(out, raw.get().trim_matches('"')),
    }
    out.push(',');
    if let Some(quality) = &o.quality {
        field(out, quality.get());
    }
    out.push_str("\r\n");
}
