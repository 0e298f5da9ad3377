//! `GET /api/datastreams/{id}/series`: one Datastream at any resolution, from the Observations themselves to a value a year.

use axum::{
    Extension, Json,
    extract::{Path, RawQuery, State},
};
use jiff::tz::TimeZone;
use kernel::{Caller, Problem, Timestamp};
use serde_json::{Map, Value, json};
use ui::Query;

use super::{Pages, datastream::span};
use crate::{
    Error,
    model::EntityId,
    observe::{AggregateQuery, Bucket, Fill, SeriesQuery, Step},
};

/// Points that a chart can show on a wide screen.
pub(super) const CHART_POINTS: i64 = 1_500;
/// Observations in one answer at `resolution=raw`. Who wants more wants the file.
const RAW_POINTS: usize = 50_000;

/// How fine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Resolution {
    /// Whatever fits a chart.
    Auto,
    Raw,
    Every(Step),
}

impl std::str::FromStr for Resolution {
    type Err = String;
    /// `auto`, `raw`, `15m`, `1h`, `1d`, `1mo`, `1y`, or an ISO 8601 duration of one unit.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "raw" => return Ok(Self::Raw),
            _ if text.starts_with('P') => return text.parse().map(Self::Every),
            _ => {}
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let iso = match unit {
            "m" => format!("PT{number}M"),
            "h" => format!("PT{number}H"),
            "d" => format!("P{number}D"),
            "mo" => format!("P{number}M"),
            "y" => format!("P{number}Y"),
            _ => String::new(),
        };
        iso.parse().map(Self::Every).map_err(|_| {
            let shown: String = text.chars().take(20).collect();
            format!("'{shown}' is not a resolution; use auto, raw, 1m, 15m, 1h, 1d, 1mo, 1y, or an ISO 8601 duration of one unit")
        })
    }
}

/// What a series is at the resolution that was chosen.
pub(super) struct Drawn {
    pub points: Vec<(Timestamp, Option<f64>)>,
    /// `None` for the Observations themselves.
    pub step: Option<Step>,
    buckets: Vec<Bucket>,
}

impl Drawn {
    fn of(step: Step, buckets: Vec<Bucket>) -> Self {
        Self { points: buckets.iter().map(|b| (b.start, b.mean)).collect(), step: Some(step), buckets }
    }
}

/// The finest interval with which a span fits a chart.
fn fitting(from: Timestamp, to: Timestamp) -> Step {
    match to.micros_since(from) / 60_000_000 / CHART_POINTS {
        ..=1 => Step::Minutes(1),
        2..=5 => Step::Minutes(5),
        6..=15 => Step::Minutes(15),
        16..=60 => Step::Hours(1),
        61..=360 => Step::Hours(6),
        361..=1_440 => Step::Days(1),
        1_441..=10_080 => Step::Days(7),
        10_081..=43_200 => Step::Months(1),
        _ => Step::Years(1),
    }
}

impl Pages {
    /// A series that fits a chart: the Observations themselves when they are few, else means by a fitting interval.
    pub(super) async fn drawn(
        &self,
        id: EntityId,
        (from, to): (Timestamp, Timestamp),
        zone: &TimeZone,
        fill: Fill,
    ) -> Result<Drawn, Problem> {
        match self.raw(id, from, to, CHART_POINTS as usize).await? {
            Some(points) => Ok(Drawn { points, step: None, buckets: Vec::new() }),
            None => self.summed(id, (from, to), fitting(from, to), zone, fill).await,
        }
    }

    /// `None` when there are more than `most`.
    async fn raw(
        &self,
        id: EntityId,
        from: Timestamp,
        to: Timestamp,
        most: usize,
    ) -> Result<Option<Vec<(Timestamp, Option<f64>)>>, Problem> {
        let query = SeriesQuery { from: Some(from), to: Some(to), limit: most + 1, ..SeriesQuery::all(id) };
        let rows = self.observe.read(query).await.map_err(Error::from)?;
        let points = rows.iter().map(|o| (o.phenomenon.start, o.result.number()));
        Ok((rows.len() <= most).then(|| points.collect()))
    }

    async fn summed(
        &self,
        id: EntityId,
        (from, to): (Timestamp, Timestamp),
        step: Step,
        zone: &TimeZone,
        fill: Fill,
    ) -> Result<Drawn, Problem> {
        // The end of the span is in it.
        let query = AggregateQuery { datastream: id, from, to: to.plus_micros(1), step, zone: zone.clone(), fill };
        Ok(Drawn::of(step, self.observe.aggregate(query).await.map_err(Error::from)?))
    }
}

fn choice<T: Copy>(query: &Query, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Problem> {
    let Some(given) = query.get(name) else { return Ok(None) };
    let found = choices.iter().find(|(choice, _)| *choice == given).map(|(_, value)| *value);
    let known = || choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>().join(", ");
    found.map(Some).ok_or_else(|| Problem::field(name, format!("one of {} is expected", known())))
}

/// `GET /api/datastreams/{id}/series?from=…&to=…&resolution=auto&zone=UTC&fill=skip&values=mean`. See docs/history.md.
pub async fn series(
    State(pages): State<Pages>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let entity = pages.datastream(&caller, &id).await?;
    let query = Query::parse(query.as_deref().unwrap_or_default());
    let entity = pages.version(entity, &query).await?;
    let newest = pages.observe.head(entity.id).map(|h| h.phenomenon.end);
    let interval = entity.properties().get("interval").and_then(Value::as_i64);
    let (from, to) = span(&query, pages.catalog.now(), newest, interval)?;
    // `step` is what the resolution was called first.
    let (name, wanted) = match query.get("step") {
        Some(step) => ("step", Some(step)),
        None => ("resolution", query.get("resolution")),
    };
    let resolution =
        wanted.map_or(Ok(Resolution::Auto), |text| text.parse().map_err(|e: String| Problem::field(name, e)))?;
    let zone = query.get("zone").unwrap_or_else(|| "UTC".to_owned());
    let wrong = |_| Problem::field("zone", "an IANA time zone is expected, such as Asia/Hong_Kong");
    let zone = if zone.len() > 60 {
        Err(Problem::field("zone", "it is too long"))
    } else {
        TimeZone::get(&zone).map_err(wrong)
    }?;
    let fills = [("skip", Fill::Skip), ("empty", Fill::Empty), ("previous", Fill::Previous), ("linear", Fill::Linear)];
    let fill = choice(&query, "fill", &fills)?.unwrap_or_default();
    let all = choice(&query, "values", &[("mean", false), ("all", true)])?.unwrap_or(false);
    let drawn = match resolution {
        Resolution::Auto => pages.drawn(entity.id, (from, to), &zone, fill).await?,
        Resolution::Every(step) => pages.summed(entity.id, (from, to), step, &zone, fill).await?,
        Resolution::Raw => {
            let points = pages.raw(entity.id, from, to, RAW_POINTS).await?.ok_or_else(|| {
                let detail = format!("more than {RAW_POINTS} Observations lie there; ask for less time, a coarser resolution, or the file");
                Problem::field(name, detail)
            })?;
            Drawn { points, step: None, buckets: Vec::new() }
        }
    };
    let points: Vec<Value> = drawn.points.iter().map(|(at, v)| json!([at.as_micros() / 1_000, v])).collect();
    let mut answer = Map::new();
    let unit = entity.field("unitOfMeasurement").to_value();
    answer.insert("resolution".into(), drawn.step.map_or_else(|| "raw".into(), |step| step.to_string().into()));
    answer.insert("zone".into(), zone.iana_name().unwrap_or("UTC").into());
    answer.insert("unit".into(), unit["symbol"].clone());
    answer.insert("from".into(), json!(from));
    answer.insert("to".into(), json!(to));
    answer.insert("series".into(), json!([{ "points": points }]));
    // What lies before a border is no longer as it was observed, whatever was asked for.
    if let Some(retention) = &pages.retention {
        let mut borders = retention.borders(entity.id).await?;
        borders.retain(|border| border.until > from);
        if !borders.is_empty() {
            answer.insert("downsampled".into(), json!(borders));
        }
    }
    if all {
        answer.insert("intervals".into(), json!(drawn.buckets));
    }
    Ok(Json(Value::Object(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolutions_have_short_names() {
        for (text, step) in [
            ("1m", Step::Minutes(1)),
            ("15m", Step::Minutes(15)),
            ("1h", Step::Hours(1)),
            ("7d", Step::Days(7)),
            ("1mo", Step::Months(1)),
            ("1y", Step::Years(1)),
            ("PT6H", Step::Hours(6)),
        ] {
            assert_eq!(text.parse(), Ok(Resolution::Every(step)), "{text}");
            assert_eq!(step.to_string().parse(), Ok(step), "{text}");
        }
        assert_eq!("raw".parse(), Ok(Resolution::Raw));
        for bad in ["", "h", "1", "0h", "1s", "1w", "PT", "-1h", "1é", "99999999999h"] {
            assert!(bad.parse::<Resolution>().is_err(), "{bad}");
        }
    }

    /// From a minute to a century, what is drawn is neither more than a chart can show nor a handful.
    #[test]
    fn a_chart_is_neither_full_nor_empty() {
        let from = Timestamp::from_secs(0);
        for minutes in [1_600, 5_000, 40_000, 80_000, 525_600, 5_256_000, 52_560_000] {
            let to = from.plus_secs(minutes * 60);
            let each = match fitting(from, to) {
                Step::Minutes(n) => i64::from(n),
                Step::Hours(n) => 60 * i64::from(n),
                Step::Days(n) => 1_440 * i64::from(n),
                Step::Months(n) => 43_200 * i64::from(n),
                Step::Years(n) => 525_600 * i64::from(n),
            };
            let points = minutes / each;
            assert!((100..=2 * CHART_POINTS).contains(&points), "{minutes} minutes are {points} points");
        }
    }
}
