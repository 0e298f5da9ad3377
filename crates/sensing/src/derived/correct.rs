//! Calibrations and corrections: what officers have found out about a raw Datastream. Nothing is written over: each is a row with a reason and a
//! name, a withdrawal is another, and what follows from them is a Datastream of its own beside the raw one, computed as any derived one is.

use std::collections::BTreeMap;

use kernel::{FieldError, Problem, Timestamp};
use records::{Read, Row, Tx, params};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use std::sync::Arc;

use super::{
    compute::{Lead, Outcome},
    model::{Between, Beyond, Table},
};
use crate::model::{EntityId, ObservationId};

/// Calibrations of one Datastream, and corrections of its single Observations.
pub const MAX_CALIBRATIONS: usize = 1_000;
pub const MAX_CORRECTIONS: usize = 10_000;
const MAX_COEFFICIENTS: usize = 10;
const MAX_TEXT: usize = 1_000;

/// How a true value follows from one that was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Method {
    /// `gain × value + offset`.
    Linear {
        #[serde(default = "one")]
        gain: f64,
        #[serde(default)]
        offset: f64,
    },
    /// `c0 + c1 × value + c2 × value² …`.
    Polynomial { coefficients: Vec<f64> },
    /// By points: what was read, what it was.
    Table {
        points: Vec<[f64; 2]>,
        #[serde(default)]
        between: Between,
        #[serde(default)]
        beyond: Beyond,
    },
}

const fn one() -> f64 {
    1.0
}

impl Method {
    /// `None` where it says nothing about such a value.
    pub fn apply(&self, value: f64) -> Option<f64> {
        let found = match self {
            Self::Linear { gain, offset } => gain * value + offset,
            Self::Polynomial { coefficients } => coefficients.iter().rev().fold(0.0, |sum, c| sum * value + c),
            Self::Table { .. } => self.table()?.at(value)?,
        };
        found.is_finite().then_some(found)
    }

    fn table(&self) -> Option<Table> {
        match self {
            Self::Table { points, between, beyond } => {
                Some(Table { name: "table".to_owned(), points: points.clone(), between: *between, beyond: *beyond })
            }
            _ => None,
        }
    }

    fn mistake(&self) -> Option<String> {
        match self {
            Self::Linear { gain, offset } => (!gain.is_finite() || !offset.is_finite() || *gain == 0.0)
                .then(|| "a gain other than 0 and finite numbers are expected".to_owned()),
            Self::Polynomial { coefficients } => {
                let fine =
                    (1..=MAX_COEFFICIENTS).contains(&coefficients.len()) && coefficients.iter().all(|c| c.is_finite());
                (!fine).then(|| format!("1 to {MAX_COEFFICIENTS} finite coefficients are expected"))
            }
            Self::Table { .. } => self.table().and_then(|t| t.mistake()),
        }
    }
}

/// A calibration as it is entered.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCalibration {
    pub method: Method,
    /// phenomenonTimes from here on.
    pub from: Timestamp,
    /// Up to here, exclusive; without it, until another one is entered.
    pub to: Option<Timestamp>,
    pub reason: String,
    /// Number of the certificate, or where it lies.
    pub certificate: Option<String>,
}

/// What is said about one Observation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewCorrection {
    /// The result as it should have been; without it, the result stays.
    pub value: Option<f64>,
    /// Whether it is to be believed; neither this nor a value takes back what was said before.
    pub quality: Option<Verdict>,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    Suspect,
    Bad,
}

impl Verdict {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Suspect => "suspect",
            Self::Bad => "bad",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Good, Self::Suspect, Self::Bad].into_iter().find(|v| v.name() == name)
    }
}

fn refuse(errors: Vec<FieldError>) -> Result<(), Problem> {
    match errors.first() {
        None => Ok(()),
        Some(first) => {
            let mut problem = Problem::field(first.field.clone(), first.detail.clone());
            problem.errors = errors;
            Err(problem)
        }
    }
}

fn text(field: &str, text: &str, errors: &mut Vec<FieldError>) {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.len() > MAX_TEXT || trimmed.chars().any(|c| c.is_control() && c != '\n') {
        let detail = format!("a text of 1 to {MAX_TEXT} bytes is expected");
        errors.push(FieldError { field: field.to_owned(), detail });
    }
}

/// # Errors
/// 400 with every mistake and its place.
pub fn check_reason(reason: &str) -> Result<(), Problem> {
    let mut errors = Vec::new();
    text("/reason", reason, &mut errors);
    refuse(errors)
}

impl NewCalibration {
    /// # Errors
    /// 400 with every mistake and its place.
    pub fn check(&self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, detail: String| errors.push(FieldError { field: field.to_owned(), detail });
        if let Some(detail) = self.method.mistake() {
            wrong("/method", detail);
        }
        if self.to.is_some_and(|to| to <= self.from) {
            wrong("/to", "it must be later than 'from'".to_owned());
        }
        text("/reason", &self.reason, &mut errors);
        if let Some(certificate) = &self.certificate {
            text("/certificate", certificate, &mut errors);
        }
        refuse(errors)
    }
}

impl NewCorrection {
    /// # Errors
    /// 400 with every mistake and its place.
    pub fn check(&self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        if self.value.is_some_and(|v| !v.is_finite()) {
            errors.push(FieldError { field: "/value".to_owned(), detail: "a finite number is expected".to_owned() });
        }
        text("/reason", &self.reason, &mut errors);
        refuse(errors)
    }
}

/// A calibration as it was entered, and whether it still counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    pub id: i64,
    pub method: Method,
    pub from: Timestamp,
    pub to: Option<Timestamp>,
    pub reason: String,
    pub certificate: Option<String>,
    pub by: String,
    pub at: Timestamp,
    pub withdrawn: Option<Withdrawn>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Withdrawn {
    pub at: Timestamp,
    pub by: String,
    pub reason: String,
}

impl Calibration {
    fn holds(&self, at: i64) -> bool {
        self.withdrawn.is_none() && self.from.as_micros() <= at && self.to.is_none_or(|to| at < to.as_micros())
    }
}

/// What was said about one Observation, the latest last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correction {
    pub version: i64,
    pub value: Option<f64>,
    pub quality: Option<Verdict>,
    pub reason: String,
    pub by: String,
    pub at: Timestamp,
}

impl Correction {
    const fn says_something(&self) -> bool {
        self.value.is_some() || self.quality.is_some()
    }
}

/// Everything that counts for one raw Datastream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corrections {
    calibrations: Vec<Calibration>,
    /// By phenomenonTime and feature.
    single: BTreeMap<(i64, EntityId), Correction>,
}

impl Corrections {
    pub fn new(calibrations: Vec<Calibration>, single: BTreeMap<(i64, EntityId), Correction>) -> Self {
        Self { calibrations, single }
    }

    /// The calibration that counts at a time: of several, the one that was entered last.
    pub fn calibration(&self, at: i64) -> Option<&Calibration> {
        self.calibrations.iter().rev().find(|c| c.holds(at))
    }

    fn single(&self, lead: &Lead) -> Option<&Correction> {
        self.single.get(&(lead.at, lead.feature)).filter(|c| c.says_something())
    }

    pub fn outcome(&self, lead: &Lead) -> Option<Outcome> {
        let own = lead.own?;
        let single = self.single(lead);
        let value = match (single.and_then(|c| c.value), self.calibration(lead.at)) {
            (Some(value), _) => value,
            (None, Some(calibration)) => calibration.method.apply(own.value)?,
            (None, None) => own.value,
        };
        let faulty = match single.and_then(|c| c.quality) {
            Some(verdict) => verdict != Verdict::Good,
            // A value that somebody has put right is to be believed.
            None => !own.good && single.is_none_or(|c| c.value.is_none()),
        };
        Some(Outcome { value, faulty })
    }

    /// `resultQuality` of the corrected Observation: what was done to it, and why.
    pub fn quality(&self, lead: &Lead, outcome: &Outcome) -> Option<Arc<RawValue>> {
        let said = match (self.single(lead), self.calibration(lead.at)) {
            (Some(one), _) => {
                let code = match one.quality {
                    Some(Verdict::Good) | None if !outcome.faulty => "corrected",
                    Some(verdict) => verdict.name(),
                    None => "suspect",
                };
                json!({ "code": code, "reason": one.reason, "version": one.version })
            }
            (None, Some(calibration)) => {
                let code = if outcome.faulty { "suspect" } else { "corrected" };
                json!({ "code": code, "calibration": calibration.id })
            }
            (None, None) if outcome.faulty => json!({ "code": "suspect", "reason": "as it was measured" }),
            (None, None) => return None,
        };
        RawValue::from_string(said.to_string()).ok().map(Into::into)
    }
}

// --- rows ----------------------------------------------------------------------------------------------------------

/// A raw Datastream and the corrected one beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub raw: EntityId,
    pub corrected: EntityId,
    /// Counts every calibration, correction and withdrawal.
    pub version: i64,
}

pub fn pairs(read: &mut Read<'_>) -> Result<Vec<Pair>, records::Error> {
    read.query("SELECT raw, corrected, version FROM sensing_corrected ORDER BY raw", params![], |row| {
        Ok(Pair { raw: EntityId(row.get(0)?), corrected: EntityId(row.get(1)?), version: row.get(2)? })
    })
}

/// Notes that something was said about a raw Datastream.
pub fn touch(tx: &mut Tx<'_>, raw: EntityId, corrected: EntityId) -> Result<i64, records::Error> {
    tx.query_one(
        "INSERT INTO sensing_corrected (raw, corrected, version) VALUES ($1, $2, 1)
         ON CONFLICT (raw) DO UPDATE SET corrected = excluded.corrected, version = sensing_corrected.version + 1
         RETURNING version",
        params![raw.0, corrected.0],
        |row| row.get(0),
    )
}

fn calibration(row: &Row<'_>) -> Result<Option<Calibration>, records::Error> {
    let Ok(method) = serde_json::from_str(&row.get::<String>(3)?) else { return Ok(None) };
    let withdrawn =
        match (row.get::<Option<Timestamp>>(8)?, row.get::<Option<String>>(9)?, row.get::<Option<String>>(10)?) {
            (Some(at), Some(by), Some(reason)) => Some(Withdrawn { at, by, reason }),
            _ => None,
        };
    Ok(Some(Calibration {
        id: row.get(0)?,
        from: row.get(1)?,
        to: row.get(2)?,
        method,
        reason: row.get(4)?,
        certificate: row.get(5)?,
        by: row.get(6)?,
        at: row.get(7)?,
        withdrawn,
    }))
}

/// In the order in which they were entered.
pub fn calibrations(read: &mut Read<'_>, raw: EntityId) -> Result<Vec<Calibration>, records::Error> {
    let sql =
        "SELECT id, begins, ends, method, reason, certificate, actor, at, withdrawn_at, withdrawn_by, withdrawn_reason
               FROM sensing_calibration WHERE datastream = $1 ORDER BY id";
    Ok(read.query(sql, params![raw.0], calibration)?.into_iter().flatten().collect())
}

pub fn put_calibration(
    tx: &mut Tx<'_>,
    raw: EntityId,
    new: &NewCalibration,
    by: &str,
) -> Result<Calibration, records::Error> {
    let id = tx.query_one("SELECT MAX(id) FROM sensing_calibration", params![], |row| row.get::<Option<i64>>(0))?;
    let id = id.unwrap_or(0) + 1;
    let method = serde_json::to_string(&new.method).map_err(|e| records::Error::Invalid(e.to_string()))?;
    let at = tx.now();
    tx.execute(
        "INSERT INTO sensing_calibration (id, datastream, begins, ends, method, reason, certificate, actor, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        params![id, raw.0, new.from, new.to, method, new.reason, new.certificate, by, at],
    )?;
    Ok(Calibration {
        id,
        method: new.method.clone(),
        from: new.from,
        to: new.to,
        reason: new.reason.clone(),
        certificate: new.certificate.clone(),
        by: by.to_owned(),
        at,
        withdrawn: None,
    })
}

/// Whether there was one that counted.
pub fn withdraw(tx: &mut Tx<'_>, raw: EntityId, id: i64, by: &str, reason: &str) -> Result<bool, records::Error> {
    let done = tx.execute(
        "UPDATE sensing_calibration SET withdrawn_at = $3, withdrawn_by = $4, withdrawn_reason = $5
         WHERE datastream = $1 AND id = $2 AND withdrawn_at IS NULL",
        params![raw.0, id, tx.now(), by, reason],
    )?;
    Ok(done > 0)
}

const CORRECTION: &str = "version, value, quality, reason, actor, at";

fn correction(row: &Row<'_>) -> Result<Correction, records::Error> {
    let quality: Option<String> = row.get(2)?;
    Ok(Correction {
        version: row.get(0)?,
        value: row.get(1)?,
        quality: quality.as_deref().and_then(Verdict::from_name),
        reason: row.get(3)?,
        by: row.get(4)?,
        at: row.get(5)?,
    })
}

/// What was said about one Observation, in order.
pub fn of_observation(read: &mut Read<'_>, id: &ObservationId) -> Result<Vec<Correction>, records::Error> {
    let sql = format!(
        "SELECT {CORRECTION} FROM sensing_correction WHERE datastream = $1 AND observed_at = $2 AND feature = $3 ORDER BY version"
    );
    read.query(&sql, params![id.datastream.0, id.at, id.feature.0], correction)
}

/// The latest of each Observation of a raw Datastream.
pub fn latest(read: &mut Read<'_>, raw: EntityId) -> Result<BTreeMap<(i64, EntityId), Correction>, records::Error> {
    let sql = format!(
        "SELECT {CORRECTION}, observed_at, feature FROM sensing_correction WHERE datastream = $1
         ORDER BY observed_at, feature, version"
    );
    // Of one Observation the later row replaces the earlier.
    let rows =
        read.query(&sql, params![raw.0], |row| Ok(((row.get::<i64>(6)?, EntityId(row.get(7)?)), correction(row)?)))?;
    Ok(rows.into_iter().collect())
}

pub fn count(read: &mut Read<'_>, raw: EntityId) -> Result<(i64, i64), records::Error> {
    let one = |read: &mut Read<'_>, table: &str| {
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE datastream = $1");
        read.query_one(&sql, params![raw.0], |row| row.get::<i64>(0))
    };
    Ok((one(read, "sensing_calibration")?, one(read, "sensing_correction")?))
}

pub fn put_correction(
    tx: &mut Tx<'_>,
    id: &ObservationId,
    new: &NewCorrection,
    by: &str,
) -> Result<Correction, records::Error> {
    let sql = "SELECT MAX(version) FROM sensing_correction WHERE datastream = $1 AND observed_at = $2 AND feature = $3";
    let before = tx.query_one(sql, params![id.datastream.0, id.at, id.feature.0], |row| row.get::<Option<i64>>(0))?;
    let (version, at) = (before.unwrap_or(0) + 1, tx.now());
    tx.execute(
        "INSERT INTO sensing_correction (datastream, observed_at, feature, version, value, quality, reason, actor, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        params![
            id.datastream.0,
            id.at,
            id.feature.0,
            version,
            new.value,
            new.quality.map(Verdict::name),
            new.reason,
            by,
            at
        ],
    )?;
    Ok(Correction {
        version,
        value: new.value,
        quality: new.quality,
        reason: new.reason.clone(),
        by: by.to_owned(),
        at,
    })
}
