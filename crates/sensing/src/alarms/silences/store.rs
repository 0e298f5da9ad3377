//! The rows of silences, and of what the pack says about them.

use kernel::{Caller, Id, Tenant, Timestamp};
use records::{Param, Read, Row, ToParam, Tx, params};
use serde_json::json;

use super::model::{Limits, Matchers, Silence, SilenceState, Silencing};
use crate::{
    alarms::model::{Alarm, Mark},
    notify::hold::{Hold, look_back},
};

/// Silences of one tenant that are not over.
pub const MAX_STANDING: usize = 100;

const COLUMNS: &str = "id, tenant, matchers, starts_at, ends_at, reason, made_by, created_at, ended_by, ended_at";

fn silence(row: &Row<'_>) -> Result<Silence, records::Error> {
    let matchers = serde_json::from_str::<Matchers>(&row.get::<String>(2)?);
    let ended: (Option<String>, Option<Timestamp>) = (row.get(8)?, row.get(9)?);
    Ok(Silence {
        id: row.get(0)?,
        tenant: row.get(1)?,
        matchers: matchers.map_err(|e| records::Error::Statement(format!("what a silence covers: {e}")))?,
        starts_at: row.get(3)?,
        ends_at: row.get(4)?,
        reason: row.get(5)?,
        by: row.get(6)?,
        created_at: row.get(7)?,
        ended: ended.0.zip(ended.1).map(|(by, at)| Mark { by, at }),
    })
}

pub fn get(read: &mut Read<'_>, id: Id<Silence>) -> Result<Option<Silence>, records::Error> {
    read.query_opt(&format!("SELECT {COLUMNS} FROM sensing_silence WHERE id = $1"), params![id], silence)
}

/// Those of a tenant that are not over, the one that ends last first.
pub fn standing(read: &mut Read<'_>, tenant: &Tenant) -> Result<Vec<Silence>, records::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM sensing_silence WHERE tenant = $1 AND ends_at > $2 ORDER BY ends_at DESC, id LIMIT $3"
    );
    let most = i64::try_from(MAX_STANDING).unwrap_or(i64::MAX);
    read.query(&sql, params![tenant, read.now(), most], silence)
}

/// What holds for a tenant.
pub fn limits(read: &mut Read<'_>, tenant: &Tenant) -> Result<Limits, records::Error> {
    let bodies = read.query("SELECT body FROM sensing_silencing WHERE tenant IN ('', $1)", params![tenant], |row| {
        row.get::<String>(0)
    })?;
    let declared: Vec<Silencing> = bodies.iter().filter_map(|b| serde_json::from_str(b).ok()).collect();
    Ok(Limits::of(&declared, tenant))
}

/// The silences of one tenant as a transaction sees them.
#[derive(Clone, Debug, Default)]
pub struct Quiet {
    pub silences: Vec<Silence>,
    pub limits: Limits,
}

impl Quiet {
    pub fn of(read: &mut Read<'_>, tenant: &Tenant) -> Result<Self, records::Error> {
        let silences = standing(read, tenant)?;
        // Most of the time nothing is silent, and nobody needs to know what could be.
        let limits = if silences.is_empty() { Limits::default() } else { limits(read, tenant)? };
        Ok(Self { silences, limits })
    }

    /// The silences that keep letters about this alarm back, the one that ends last first.
    pub fn over<'a>(&'a self, alarm: &'a Alarm, now: Timestamp) -> impl Iterator<Item = &'a Silence> {
        self.silences.iter().filter(move |s| s.covers(alarm, &self.limits, now))
    }
}

/// Newest first, of these tenants, in these states (all where none is named).
pub fn list(
    read: &mut Read<'_>,
    tenants: &[Tenant],
    states: &[SilenceState],
    after: Option<Id<Silence>>,
    limit: usize,
) -> Result<Vec<Silence>, records::Error> {
    if tenants.is_empty() {
        return Ok(Vec::new());
    }
    let now = read.now();
    let mut values: Vec<Param<'_>> = vec![now.to_param()];
    let marks: Vec<String> = (2..tenants.len() + 2).map(|n| format!("${n}")).collect();
    values.extend(tenants.iter().map(Tenant::to_param));
    let mut wheres = vec!["$1 = $1".to_owned(), format!("tenant IN ({})", marks.join(", "))];
    let states: Vec<&str> = states
        .iter()
        .map(|state| match state {
            SilenceState::Pending => "starts_at > $1 AND ends_at > $1",
            SilenceState::Active => "starts_at <= $1 AND ends_at > $1",
            SilenceState::Expired => "ends_at <= $1",
        })
        .collect();
    if !states.is_empty() {
        wheres.push(format!("(({}))", states.join(") OR (")));
    }
    if let Some(after) = after {
        values.push(Param::Text(after.to_string().into()));
        wheres.push(format!("id < ${}", values.len()));
    }
    values.push(Param::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    let sql = format!(
        "SELECT {COLUMNS} FROM sensing_silence WHERE {} ORDER BY id DESC LIMIT ${}",
        wheres.join(" AND "),
        values.len()
    );
    read.query(&sql, &values, silence)
}

/// Writes a new silence, its audit row and the job that looks back when it is over.
pub fn put(tx: &mut Tx<'_>, caller: &Caller, s: &Silence) -> Result<(), records::Error> {
    let matchers = serde_json::to_string(&s.matchers).map_err(|e| records::Error::Invalid(e.to_string()))?;
    tx.execute(
        "INSERT INTO sensing_silence (id, tenant, matchers, starts_at, ends_at, reason, made_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        params![s.id, s.tenant, matchers, s.starts_at, s.ends_at, s.reason, s.by, s.created_at],
    )?;
    let detail = json!({ "covers": s.matchers, "starts_at": s.starts_at, "ends_at": s.ends_at, "reason": s.reason });
    tx.audit(caller, "silence:create", "Silence", &s.id.to_string(), Some(&s.tenant), detail)?;
    look_back(tx, &Hold::Silence(s.id, s.ends_at), s.ends_at)
}

/// Ends a silence now; `false` when it is over already.
pub fn end(tx: &mut Tx<'_>, caller: &Caller, s: &Silence) -> Result<bool, records::Error> {
    let now = tx.now();
    let ended = tx.execute(
        "UPDATE sensing_silence SET ends_at = $2, ended_by = $3, ended_at = $2 WHERE id = $1 AND ends_at > $2",
        params![s.id, now, caller.label()],
    )?;
    if ended == 0 {
        return Ok(false);
    }
    let detail = json!({ "would_have_ended_at": s.ends_at });
    tx.audit(caller, "silence:expire", "Silence", &s.id.to_string(), Some(&s.tenant), detail)?;
    look_back(tx, &Hold::Silence(s.id, now), now)?;
    Ok(true)
}

/// Makes what the pack says that which is given; how many rows changed.
pub fn declare(tx: &mut Tx<'_>, declared: &[Silencing]) -> Result<u64, records::Error> {
    let mut changed = 0;
    let key = |s: &Silencing| s.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
    for silencing in declared {
        let body = serde_json::to_string(silencing).map_err(|e| records::Error::Invalid(e.to_string()))?;
        changed += tx.execute(
            "INSERT INTO sensing_silencing (tenant, body) VALUES ($1, $2)
             ON CONFLICT (tenant) DO UPDATE SET body = excluded.body WHERE sensing_silencing.body <> excluded.body",
            params![key(silencing), body],
        )?;
    }
    for tenant in tx.query("SELECT tenant FROM sensing_silencing", params![], |row| row.get::<String>(0))? {
        if !declared.iter().any(|s| key(s) == tenant) {
            changed += tx.execute("DELETE FROM sensing_silencing WHERE tenant = $1", params![tenant])?;
        }
    }
    Ok(changed)
}
