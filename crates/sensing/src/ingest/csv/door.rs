//! A file to a Thing's or a Datastream's Observations.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use kernel::{Caller, Problem, Tenant, Text};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    super::{Admission, Door, Ingest},
    guess::{self, Guess, Wishes},
};
use crate::{
    Error,
    catalog::Entity,
    connect::{
        declaration::{
            Connector, Declaration, Format, Gaps, Header, Placeholder, QualityField, Source, Stamp, Time, Value,
        },
        map::MISSING,
        report::{Report, shorten},
        work::{Writer, take},
    },
    model::{DatastreamInfo, EntityId, EntityType},
    sta::Sent,
};

/// What a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A column for each Datastream of the Thing.
    Thing(EntityId),
    /// One column of values.
    Datastream(EntityId),
}

/// A file and what is said of it.
#[derive(Clone, Debug)]
pub struct Upload {
    pub target: Target,
    pub bytes: Vec<u8>,
    pub wishes: Wishes,
    /// Otherwise everything is done but the recording.
    pub commit: bool,
}

/// A column of the file and the Datastream that it becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    pub column: String,
    #[serde(rename = "datastreamId")]
    pub datastream: EntityId,
    pub name: String,
}

/// What became, or would become, of a file.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub committed: bool,
    pub guess: Guess,
    pub columns: Vec<Column>,
    /// Its account balances; `written` are those that are recorded, or would be.
    pub report: Report,
}

/// Texts that stand where nothing was measured.
const NOTHING: [&str; 15] =
    ["N.A.", "N/A", "n/a", "NA", "#N/A", "NaN", "nan", "NULL", "null", "***", "*", "-", "--", "---", "未有數據"];
/// Texts of the quality column that say that nothing is wrong.
const GOOD: [&str; 9] = ["", "C", "good", "Good", "GOOD", "ok", "OK", "valid", "正常"];
/// Names of the column of values, where a file is about one Datastream.
const VALUES: [&str; 6] = ["value", "result", "reading", "數值", "数值", "讀數"];

impl Ingest {
    /// Reads a table and records what differs from what is stored.
    ///
    /// # Errors
    /// 400 with what would help, when the file cannot be read as a table; 404 when the target is not there for the caller, 403 when it may not add to it.
    pub async fn upload(&self, caller: &Caller, upload: Upload) -> Result<Outcome, Error> {
        self.tenant(caller)?;
        let (tenant, streams) = self.streams(caller, upload.target).await?;
        let guess = guess::guess(&upload.bytes, &upload.wishes, &self.0.zone)
            .map_err(|(field, why)| Error::field(field, why))?;
        let columns = match upload.target {
            Target::Datastream(_) => one(&guess, &streams),
            Target::Thing(_) => many(&guess, &streams),
        };
        if columns.is_empty() {
            let names = streams.iter().map(|s| shorten(s.name())).take(20).collect::<Vec<_>>().join(", ");
            let why = format!("no column is called as a Datastream: {names}");
            return Err(Error::field("columns", why));
        }
        let mut chosen: HashMap<Arc<str>, Arc<DatastreamInfo>> = HashMap::new();
        for column in &columns {
            let id = column.datastream;
            let nothing = || Error::not_found(format!("Datastreams({id})"));
            let info = self.0.catalog.datastream(id).await?.ok_or_else(nothing)?;
            match self.admission(caller, &info) {
                Admission::Yes => drop(chosen.insert(id.to_string().into(), info)),
                Admission::No => {
                    return Err(
                        Problem::forbidden(format!("You may not add Observations to Datastreams({id}).")).into()
                    );
                }
                Admission::Hidden => return Err(nothing()),
            }
        }
        let connector = Connector::new(declaration(&tenant, &guess, &columns)).map_err(|errors| {
            let mut problem = Problem::bad_request("The table cannot be read so.");
            problem.errors = errors;
            problem
        })?;
        let connector = Arc::new(connector);
        let hash = hex::encode(Sha256::digest(&upload.bytes));
        let writer = Writer::given(&self.0.catalog, &self.0.observe, &connector, chosen, !upload.commit);
        let taken = take(&connector, upload.bytes, writer, true).await;
        let (report, _) = taken.map_err(|failure| match failure.store {
            Some(problem) => Error::Refused(problem),
            None => Error::field("file", failure.text),
        })?;
        if upload.commit {
            self.count(
                Door::Csv,
                usize::try_from(report.written).unwrap_or(usize::MAX),
                usize::try_from(report.rejected + report.rows_rejected).unwrap_or(usize::MAX),
            );
            self.sent(caller, Sent::Recorded(report.written, None));
            let (kind, id) = match upload.target {
                Target::Thing(id) => ("Thing", id),
                Target::Datastream(id) => ("Datastream", id),
            };
            let detail = json!({
                "sha256": hash, "rows": report.rows, "written": report.written, "unchanged": report.unchanged,
                "rejected": report.rejected + report.rows_rejected,
            });
            let (caller, id) = (caller.clone(), id.to_string());
            let audited =
                self.0.catalog.records().write(move |tx| {
                    tx.audit(&caller, "observations:upload", kind, &id, Some(&tenant), detail.clone())
                });
            audited.await?;
        }
        Ok(Outcome { committed: upload.commit, guess, columns, report })
    }

    /// The Datastreams that a file for this target may be about.
    async fn streams(&self, caller: &Caller, target: Target) -> Result<(Tenant, Vec<Entity>), Error> {
        let scope = self.0.catalog.scope(caller);
        let (entity, id) = match target {
            Target::Thing(id) => (EntityType::Thing, id),
            Target::Datastream(id) => (EntityType::Datastream, id),
        };
        let nothing = || Error::not_found(format!("{}({id})", entity.set()));
        let found = self.0.catalog.get(&scope, entity, id).await?.ok_or_else(nothing)?;
        let tenant = found.tenant.clone();
        if entity == EntityType::Datastream {
            return Ok((tenant, vec![found]));
        }
        let streams = self.0.catalog.streams_of(&scope, id).await?;
        if streams.is_empty() {
            return Err(Error::field("thing", "the Thing has no Datastreams"));
        }
        Ok((tenant, streams))
    }
}

/// The column of the values of one Datastream.
fn one(guess: &Guess, streams: &[Entity]) -> Vec<Column> {
    let Some(stream) = streams.first() else { return Vec::new() };
    let free = |column: &&String| **column != guess.time && Some(*column) != guess.quality.as_ref();
    let is_value = |column: &&String| VALUES.contains(&column.to_lowercase().as_str());
    let found = guess.columns.iter().filter(free).find(is_value);
    let found = found.or_else(|| guess.columns.iter().filter(free).find(|c| means(c, stream)));
    let found = found.or_else(|| guess.columns.iter().find(free));
    found.map(|column| named(column, stream)).into_iter().collect()
}

/// Columns that are called as a Datastream; a Datastream is the first such column only.
fn many(guess: &Guess, streams: &[Entity]) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for column in guess.columns.iter().filter(|column| **column != guess.time) {
        let stream = streams.iter().find(|stream| means(column, stream));
        if let Some(stream) = stream.filter(|s| columns.iter().all(|c| c.datastream != s.id)) {
            columns.push(named(column, stream));
        }
    }
    columns
}

fn named(column: &str, stream: &Entity) -> Column {
    Column { column: column.to_owned(), datastream: stream.id, name: stream.name().to_owned() }
}

/// Whether a column is called as a Datastream: by its number, its key, the last part of its key, or its name in any language; a unit in brackets behind it is nobody's.
fn means(column: &str, stream: &Entity) -> bool {
    let plain = column.split(['(', '[', '（']).next().unwrap_or_default().trim().to_lowercase();
    let same = |name: &str| {
        !plain.is_empty() && (name.to_lowercase() == plain || name.to_lowercase() == column.trim().to_lowercase())
    };
    let properties = stream.properties();
    let name = |key: &str| properties.get(key).and_then(serde_json::Value::as_str).is_some_and(same);
    let key = stream.key.as_deref().unwrap_or_default();
    same(&stream.id.to_string())
        || same(key)
        || key.rsplit_once('.').is_some_and(|(_, last)| same(last))
        || same(stream.name())
        || name("name_zh_hant")
        || name("name_zh_hans")
}

/// The file as the document of a connector.
fn declaration(tenant: &Tenant, guess: &Guess, columns: &[Column]) -> Declaration {
    let placeholder = |quality: &str| Placeholder { value: None, quality: quality.to_owned() };
    let mut placeholders: BTreeMap<String, Placeholder> =
        NOTHING.into_iter().map(|text| (text.to_owned(), placeholder(MISSING))).collect();
    // A trace is more than nothing and less than the instrument's least: no number says that.
    placeholders.extend(["Trace", "trace", "TRACE", "微量"].map(|text| (text.to_owned(), placeholder("trace"))));
    let name = "upload".to_owned();
    Declaration {
        key: name.clone(),
        tenant: tenant.clone(),
        name: Text { en: name.clone(), zh_hant: Some(name.clone()), zh_hans: Some(name) },
        every: "PT1H".to_owned(),
        source: Source {
            url: None,
            file: Some("upload.csv".to_owned()),
            folder: None,
            pattern: None,
            modbus: None,
            format: Format::Csv,
            encoding: guess.encoding,
            header: Some(Header::Line(guess.header)),
            delimiter: guess.delimiter,
            skip: Vec::new(),
            at: None,
        },
        time: Time {
            fields: vec![guess.time.clone()],
            format: guess.format.clone(),
            zone: Some(guess.zone.clone()),
            covers: None,
            stamp: Stamp::Start,
        },
        value: columns
            .iter()
            .map(|column| Value {
                field: Some(column.column.clone()),
                columns: None,
                datastream: column.datastream.to_string(),
                scale: 1.0,
                offset: 0.0,
                optional: true,
            })
            .collect(),
        decimal: guess.decimal,
        placeholders,
        quality: guess.quality.as_ref().map(|field| QualityField {
            field: field.clone(),
            good: GOOD.map(str::to_owned).to_vec(),
            flags: BTreeMap::new(),
        }),
        tables: BTreeMap::new(),
        only: BTreeMap::new(),
        gaps: Gaps::Leave,
        enabled: true,
    }
}
