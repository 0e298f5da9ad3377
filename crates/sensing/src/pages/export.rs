//! `GET /api/datastreams/{id}/export` and `GET /api/things/{id}/export`: years of Observations as a file, sent while it is written.
//!
//! Memory holds one page of rows and one row group, however long the file gets. Rows are ordered by Datastream and time, so whoever was cut
//! off asks again from the last time of the last Datastream that they have.

use std::{fmt::Write as _, pin::pin, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Path, RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kernel::{Caller, Problem, Timestamp};
use lake::ParquetRows;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use ui::Query;

use super::{Pages, time};
use crate::{
    Error, Scope,
    catalog::Entity,
    model::{EntityId, EntityType, Observation, ObservationId, ResultValue},
    observe::{ExportPage, Observe, SeriesQuery},
    spreadsheet::field,
};

/// Files that are written at the same time; the next one is asked to come back.
pub(super) const AT_ONCE: usize = 4;
/// Rows read at a time.
const PAGE: usize = 10_000;
/// How long a client may take for one piece of a file.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first line of CSV. The last three are of rows that sum up others.
const COLUMNS: &str = "datastream,phenomenonTime,resultTime,result,resultQuality,count,min,max\r\n";
/// Datastreams of one file.
const SERIES: usize = 1_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Parquet,
    Csv,
    NdJson,
}

impl Format {
    fn of(query: &Query) -> Result<Self, Problem> {
        match query.get("format").as_deref() {
            None | Some("parquet") => Ok(Self::Parquet),
            Some("csv") => Ok(Self::Csv),
            Some("ndjson") => Ok(Self::NdJson),
            Some(_) => Err(Problem::field("format", "parquet, csv or ndjson is expected")),
        }
    }
    const fn ending(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::NdJson => "ndjson",
        }
    }
    const fn media_type(self) -> &'static str {
        match self {
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Csv => "text/csv; charset=utf-8",
            Self::NdJson => "application/x-ndjson",
        }
    }
}

/// `GET /api/datastreams/{id}/export?format=parquet&from=…&to=…`.
pub async fn of_datastream(
    State(pages): State<Pages>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let entity = pages.datastream(&caller, &id).await?;
    let entity = pages.version(entity, &Query::parse(query.as_deref().unwrap_or_default())).await?;
    let name = format!("datastream-{}", entity.id);
    pages.export(&caller, vec![entity], &name, query.as_deref()).await
}

/// `GET /api/things/{id}/export?format=parquet&from=…&to=…`: all its Datastreams and MultiDatastreams, one after the other.
pub async fn of_thing(
    State(pages): State<Pages>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found(format!("The thing {}", id.chars().take(20).collect::<String>()));
    let number = id.parse().map(EntityId).map_err(|_| missing())?;
    let scope = pages.scope(&caller);
    let thing = pages.catalog.get(&scope, EntityType::Thing, number).await?.ok_or_else(missing)?;
    let ids = pages.catalog.series_of(thing.id, SERIES + 1).await?;
    if ids.len() > SERIES {
        return Err(Problem::field(
            "id",
            format!("the Thing has more than {SERIES} Datastreams; export them one by one"),
        ));
    }
    let mut all = Vec::with_capacity(ids.len());
    for (of, id) in ids {
        all.extend(pages.catalog.get(&scope, of, id).await?);
    }
    pages.export(&caller, all, &format!("thing-{number}"), query.as_deref()).await
}

impl Pages {
    async fn export(
        &self,
        caller: &Caller,
        all: Vec<Entity>,
        name: &str,
        query: Option<&str>,
    ) -> Result<Response, Problem> {
        let query = Query::parse(query.unwrap_or_default());
        let format = Format::of(&query)?;
        let (from, to) = (time(&query, "from")?, time(&query, "to")?);
        if from.zip(to).is_some_and(|(from, to)| from > to) {
            return Err(Problem::field("from", "it must not be later than 'to'"));
        }
        let permit = self.exports.clone().try_acquire_owned().map_err(|_| {
            Problem::unavailable(format!("{AT_ONCE} files are being written. Try again in a minute."), 60)
        })?;
        let scope = self.scope(caller);
        let mut about = Vec::with_capacity(all.len());
        for entity in &all {
            about.push(self.provenance(&scope, entity).await?);
        }
        let about = json!({
            "exported": self.catalog.now(),
            "from": from,
            "to": to,
            "order": ["datastream", "phenomenon_time"],
            "datastreams": about,
        });
        let mut ids: Vec<EntityId> = all.iter().map(|entity| entity.id).collect();
        ids.sort_unstable();
        let writer = Writer::start(format, &about)?;
        let work = Work {
            observe: self.observe.clone(),
            ids,
            at: 0,
            after: None,
            from,
            to,
            writer: Some(writer),
            _permit: permit,
        };
        let body = patiently(futures::stream::try_unfold(work, |work| async move {
            work.next().await.map_err(std::io::Error::other)
        }));
        let disposition = format!("attachment; filename=\"{name}.{}\"", format.ending());
        let headers = [
            (header::CONTENT_TYPE, format.media_type().to_owned()),
            (header::CONTENT_DISPOSITION, disposition),
            (header::CACHE_CONTROL, "private, no-store".to_owned()),
        ];
        Ok((headers, Body::from_stream(body)).into_response())
    }

    /// What the numbers are: where they come from, in which unit, by which instrument.
    async fn provenance(&self, scope: &Scope, entity: &Entity) -> Result<Value, Problem> {
        let mut about = json!({
            "id": entity.id,
            "kind": entity.entity.singular(),
            "name": entity.name(),
            "simulated": entity.properties().get("simulated") == Some(&Value::Bool(true)),
        });
        for field in ["observationType", "unitOfMeasurement", "unitOfMeasurements"] {
            if entity.schema().property(field).is_some() {
                about[field] = entity.field(field).to_value();
            }
        }
        for (link, of) in [
            ("Thing", EntityType::Thing),
            ("Sensor", EntityType::Sensor),
            ("ObservedProperty", EntityType::ObservedProperty),
        ] {
            let Some(id) = entity.one(link) else { continue };
            if let Some(found) = self.catalog.get(scope, of, id).await? {
                about[link] = json!({"id": id, "name": found.name()});
                if of == EntityType::ObservedProperty {
                    about[link]["definition"] = found.field("definition").to_value();
                }
            }
        }
        Ok(about)
    }
}

/// A file on its way.
struct Work {
    observe: Observe,
    ids: Vec<EntityId>,
    at: usize,
    after: Option<ObservationId>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    /// `None` when the file is whole.
    writer: Option<Writer>,
    _permit: OwnedSemaphorePermit,
}

impl Work {
    /// The next piece of the file.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        loop {
            let Some(writer) = self.writer.as_mut() else { return Ok(None) };
            let Some(&id) = self.ids.get(self.at) else {
                let rest = self.writer.take().map(Writer::finish).transpose()?.unwrap_or_default();
                return Ok((!rest.is_empty()).then_some((rest, self)));
            };
            let query =
                SeriesQuery { from: self.from, to: self.to, after: self.after, limit: PAGE, ..SeriesQuery::all(id) };
            let page = self.observe.export(query).await?;
            match page.last.filter(|_| page.rows == PAGE) {
                Some(last) => self.after = Some(last),
                None => (self.at, self.after) = (self.at + 1, None),
            }
            let ready = writer.write(&page)?;
            // A piece without bytes would say nothing.
            if !ready.is_empty() {
                return Ok(Some((ready, self)));
            }
        }
    }
}

/// The file as its client fetches it. Whoever takes nothing for [`PATIENCE`] would keep the place of others with an open connection: their file ends
/// there, and not as if it were whole.
fn patiently(
    pieces: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let (give, take) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut pieces = pin!(pieces);
        loop {
            let piece = pieces.next().await.transpose();
            let over = !matches!(piece, Ok(Some(_)));
            let given = tokio::time::timeout(PATIENCE, give.send(piece)).await;
            if over || !matches!(given, Ok(Ok(()))) {
                return;
            }
        }
    });
    futures::stream::try_unfold(take, |mut take| async move {
        match take.recv().await {
            Some(piece) => Ok(piece?.map(|piece| (piece, take))),
            None => Err(std::io::Error::other("the file was not fetched for too long")),
        }
    })
}

enum Writer {
    Parquet(Box<ParquetRows>),
    /// Whether the first line is still to come.
    Csv(bool),
    NdJson,
}

impl Writer {
    fn start(format: Format, about: &Value) -> Result<Self, Problem> {
        Ok(match format {
            Format::Parquet => {
                let about = vec![("lamppost.export".to_owned(), about.to_string())];
                let file = ParquetRows::start(Observe::export_schema(), about);
                Self::Parquet(Box::new(file.map_err(|error| Problem::from(Error::internal(error.to_string())))?))
            }
            Format::Csv => Self::Csv(true),
            Format::NdJson => Self::NdJson,
        })
    }

    fn write(&mut self, page: &ExportPage) -> Result<Bytes, Error> {
        match self {
            Self::Parquet(file) => {
                let batch = page.batch()?;
                file.write(&batch).map_err(|error| Error::internal(error.to_string()))
            }
            Self::Csv(first) => {
                let mut out = String::new();
                if std::mem::take(first) {
                    out.push_str(COLUMNS);
                }
                page.observations().for_each(|o| csv(&mut out, &o));
                Ok(out.into())
            }
            Self::NdJson => {
                let mut out = String::new();
                page.observations().for_each(|o| ndjson(&mut out, &o));
                Ok(out.into())
            }
        }
    }

    fn finish(self) -> Result<Bytes, Error> {
        match self {
            Self::Parquet(file) => file.finish().map_err(|error| Error::internal(error.to_string())),
            Self::Csv(true) => Ok(Bytes::from_static(COLUMNS.as_bytes())),
            Self::Csv(false) | Self::NdJson => Ok(Bytes::new()),
        }
    }
}

/// A result that is a text without its quotes, and anything else as JSON.
pub(super) fn words(raw: &serde_json::value::RawValue) -> String {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
}

/// Writing to a String cannot fail.
fn csv(out: &mut String, o: &Observation) {
    let _ = write!(out, "{},{},", o.datastream, o.phenomenon);
    if let Some(at) = o.result_time {
        let _ = write!(out, "{at}");
    }
    out.push(',');
    match &o.result {
        ResultValue::Number(n) => {
            let _ = write!(out, "{n}");
        }
        ResultValue::Json(raw) => field(out, &words(raw)),
    }
    out.push(',');
    if let Some(quality) = &o.quality {
        field(out, quality.get());
    }
    // What a row stands for that sums up others; of any other row there is nothing to say.
    let summed = if o.is_summed() { o.parameters.as_deref() } else { None };
    let summed = summed.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()).unwrap_or_default();
    for part in ["count", "min", "max"] {
        out.push(',');
        if let Some(number) = summed["aggregate"].get(part) {
            let _ = write!(out, "{number}");
        }
    }
    out.push_str("\r\n");
}

fn ndjson(out: &mut String, o: &Observation) {
    let _ = write!(out, "{{\"datastream\":{},\"phenomenonTime\":\"{}\"", o.datastream, o.phenomenon);
    if let Some(at) = o.result_time {
        let _ = write!(out, ",\"resultTime\":\"{at}\"");
    }
    match &o.result {
        ResultValue::Number(n) => {
            let _ = write!(out, ",\"result\":{}", Value::from(*n));
        }
        ResultValue::Json(raw) => {
            let _ = write!(out, ",\"result\":{}", raw.get());
        }
    }
    if let Some(quality) = &o.quality {
        let _ = write!(out, ",\"resultQuality\":{}", quality.get());
    }
    if let Some(parameters) = o.parameters.as_ref().filter(|_| o.is_summed()) {
        let _ = write!(out, ",\"parameters\":{}", parameters.get());
    }
    out.push_str("}\n");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_fetches_nothing_keeps_no_place() {
        let gate = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&gate).try_acquire_owned().expect("free");
        let endless = futures::stream::repeat_with(move || {
            assert_eq!(permit.num_permits(), 1);
            Ok(Bytes::from_static(b"row"))
        });
        let mut file = pin!(patiently(endless));
        for _ in 0..10 {
            tokio::time::sleep(PATIENCE / 2).await;
            assert!(file.next().await.is_some_and(|piece| piece.is_ok()), "slow is not gone");
        }
        assert_eq!(gate.available_permits(), 0);
        tokio::time::sleep(PATIENCE * 2).await;
        assert_eq!(gate.available_permits(), 1);
        let rest: Vec<_> = file.collect().await;
        assert!(rest.last().is_some_and(Result::is_err), "it does not look whole");
        let whole: Vec<_> = patiently(futures::stream::iter([Ok(Bytes::from_static(b"row"))])).collect().await;
        assert!(matches!(whole.as_slice(), [Ok(_)]));
    }
}
