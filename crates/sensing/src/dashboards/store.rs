//! The rows of dashboards and walls, and the question how many alarms stand.

use std::collections::BTreeMap;

use kernel::{Caller, Id, Tenant, Timestamp};
use records::{Migration, Param, Read, Row, Tx, params};
use serde::Serialize;
use serde_json::json;

use super::{
    model::Declaration,
    walls::{Screen, Wall},
};
use crate::{
    alarms::{Visible, model::AlarmState},
    rules::model::{Selection, Severity},
};

pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "dashboards and walls",
    sql: "CREATE TABLE sensing_dashboard (
            key TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, declared BIGINT NOT NULL, body TEXT NOT NULL,
            version BIGINT NOT NULL, changed_at BIGINT NOT NULL, changed_by TEXT NOT NULL);
          CREATE INDEX sensing_dashboard_tenant ON sensing_dashboard (tenant, key);
          CREATE TABLE sensing_wall (
            id TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, boards TEXT NOT NULL, every BIGINT NOT NULL,
            made_by TEXT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT NOT NULL, revoked_at BIGINT,
            code TEXT, code_until BIGINT, screen TEXT, paired_at BIGINT, seen_at BIGINT);
          CREATE INDEX sensing_wall_tenant ON sensing_wall (tenant, id);
          CREATE UNIQUE INDEX sensing_wall_code ON sensing_wall (code);
          CREATE UNIQUE INDEX sensing_wall_screen ON sensing_wall (screen);",
}];

/// A dashboard as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dashboard {
    #[serde(flatten)]
    pub declaration: Declaration,
    /// By the pack; what officers make is theirs to change.
    pub declared: bool,
    pub version: u32,
    pub changed_at: Timestamp,
    pub changed_by: String,
}

const COLUMNS: &str = "body, declared, version, changed_at, changed_by, key";

fn dashboard(row: &Row<'_>) -> Result<Option<Dashboard>, records::Error> {
    let declaration = match serde_json::from_str(&row.get::<String>(0)?) {
        Ok(declaration) => declaration,
        Err(error) => {
            let key: String = row.get(5)?;
            tracing::error!(key, %error, "the stored dashboard is not understood and is not shown");
            return Ok(None);
        }
    };
    Ok(Some(Dashboard {
        declaration,
        declared: row.get(1)?,
        version: row.get(2)?,
        changed_at: row.get(3)?,
        changed_by: row.get(4)?,
    }))
}

pub fn get(read: &mut Read<'_>, key: &str) -> Result<Option<Dashboard>, records::Error> {
    let sql = format!("SELECT {COLUMNS} FROM sensing_dashboard WHERE key = $1");
    Ok(read.query_opt(&sql, params![key], dashboard)?.flatten())
}

/// All of them: there are as many as packs and people have made, which is bounded.
pub fn all(read: &mut Read<'_>) -> Result<Vec<Dashboard>, records::Error> {
    let sql = format!("SELECT {COLUMNS} FROM sensing_dashboard ORDER BY declared DESC, key");
    Ok(read.query(&sql, params![], dashboard)?.into_iter().flatten().collect())
}

/// How many officers of a tenant have made.
pub fn own(read: &mut Read<'_>, tenant: &Tenant) -> Result<u64, records::Error> {
    let sql = "SELECT COUNT(*) FROM sensing_dashboard WHERE tenant = $1 AND declared = 0";
    read.query_one(sql, params![tenant], |row| row.get(0))
}

fn body(declaration: &Declaration) -> Result<String, records::Error> {
    serde_json::to_string(declaration).map_err(|e| records::Error::Invalid(e.to_string()))
}

/// Writes one that the pack declares, if it differs from what is stored; whether it did.
pub fn declare(tx: &mut Tx<'_>, caller: &Caller, d: &Declaration) -> Result<bool, records::Error> {
    let changed = tx.execute(
        "INSERT INTO sensing_dashboard (key, tenant, declared, body, version, changed_at, changed_by)
         VALUES ($1, $2, 1, $3, 1, $4, $5)
         ON CONFLICT (key) DO UPDATE SET tenant = excluded.tenant, declared = 1, body = excluded.body,
             version = sensing_dashboard.version + 1, changed_at = excluded.changed_at, changed_by = excluded.changed_by
         WHERE sensing_dashboard.body <> excluded.body OR sensing_dashboard.declared = 0",
        params![d.key, d.tenant, body(d)?, tx.now(), caller.label()],
    )?;
    if changed > 0 {
        audit(tx, caller, "dashboard:apply", d, json!({ "tiles": d.tiles.len() }))?;
    }
    Ok(changed > 0)
}

/// What the pack declared once.
pub fn declared(read: &mut Read<'_>) -> Result<Vec<(String, Tenant)>, records::Error> {
    read.query("SELECT key, tenant FROM sensing_dashboard WHERE declared = 1 ORDER BY key", params![], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

fn audit(
    tx: &mut Tx<'_>,
    caller: &Caller,
    action: &str,
    d: &Declaration,
    detail: serde_json::Value,
) -> Result<(), records::Error> {
    tx.audit(caller, action, "Dashboard", &d.key, Some(&d.tenant), detail)
}

pub fn insert(tx: &mut Tx<'_>, caller: &Caller, d: &Declaration) -> Result<(), records::Error> {
    tx.execute(
        "INSERT INTO sensing_dashboard (key, tenant, declared, body, version, changed_at, changed_by)
         VALUES ($1, $2, 0, $3, 1, $4, $5)",
        params![d.key, d.tenant, body(d)?, tx.now(), caller.label()],
    )?;
    audit(tx, caller, "dashboard:create", d, json!({ "audience": d.audience, "tiles": d.tiles.len() }))
}

/// Changes the one of this version; `false` when it has another by now.
pub fn update(tx: &mut Tx<'_>, caller: &Caller, d: &Declaration, version: u32) -> Result<bool, records::Error> {
    let changed = tx.execute(
        "UPDATE sensing_dashboard SET body = $3, version = version + 1, changed_at = $4, changed_by = $5
         WHERE key = $1 AND version = $2 AND declared = 0",
        params![d.key, version, body(d)?, tx.now(), caller.label()],
    )?;
    if changed > 0 {
        let detail = json!({ "audience": d.audience, "tiles": d.tiles.len(), "version": version + 1 });
        audit(tx, caller, "dashboard:change", d, detail)?;
    }
    Ok(changed > 0)
}

/// Takes it away in this version, or in whichever there is.
pub fn delete(
    tx: &mut Tx<'_>,
    caller: &Caller,
    key: &str,
    tenant: &Tenant,
    version: Option<u32>,
) -> Result<bool, records::Error> {
    let gone = match version {
        Some(version) => {
            tx.execute("DELETE FROM sensing_dashboard WHERE key = $1 AND version = $2", params![key, version])?
        }
        None => tx.execute("DELETE FROM sensing_dashboard WHERE key = $1", params![key])?,
    };
    if gone > 0 {
        tx.audit(caller, "dashboard:remove", "Dashboard", key, Some(tenant), json!({}))?;
    }
    Ok(gone > 0)
}

// ---- walls ---------------------------------------------------------------------------------------------------------

const WALL: &str =
    "id, tenant, name, boards, every, made_by, created_at, expires_at, revoked_at, code_until, paired_at, seen_at";

fn wall(row: &Row<'_>) -> Result<Wall, records::Error> {
    Ok(Wall {
        id: row.get(0)?,
        tenant: row.get(1)?,
        name: row.get(2)?,
        boards: serde_json::from_str(&row.get::<String>(3)?).unwrap_or_default(),
        every: row.get(4)?,
        made_by: row.get(5)?,
        created_at: row.get(6)?,
        expires_at: row.get(7)?,
        revoked_at: row.get(8)?,
        code_until: row.get(9)?,
        paired_at: row.get(10)?,
        seen_at: row.get(11)?,
    })
}

/// Of a tenant, the newest first, behind those that stand: however many are over, what can be revoked is in the list.
pub fn walls(read: &mut Read<'_>, tenant: &Tenant, now: Timestamp, most: usize) -> Result<Vec<Wall>, records::Error> {
    let sql = format!(
        "SELECT {WALL} FROM sensing_wall WHERE tenant = $1
         ORDER BY CASE WHEN revoked_at IS NULL AND expires_at > $2 THEN 0 ELSE 1 END, id DESC LIMIT $3"
    );
    read.query(&sql, params![tenant, now, i64::try_from(most).unwrap_or(i64::MAX)], wall)
}

pub fn wall_by_id(read: &mut Read<'_>, id: Id<Wall>) -> Result<Option<Wall>, records::Error> {
    read.query_opt(&format!("SELECT {WALL} FROM sensing_wall WHERE id = $1"), params![id], wall)
}

/// By the hash of what its screen carries.
pub fn wall_by_screen(read: &mut Read<'_>, screen: &Screen) -> Result<Option<Wall>, records::Error> {
    read.query_opt(&format!("SELECT {WALL} FROM sensing_wall WHERE screen = $1"), params![screen.0], wall)
}

pub fn insert_wall(tx: &mut Tx<'_>, caller: &Caller, w: &Wall, code: &str) -> Result<(), records::Error> {
    let boards = serde_json::to_string(&w.boards).map_err(|e| records::Error::Invalid(e.to_string()))?;
    tx.execute(
        "INSERT INTO sensing_wall (id, tenant, name, boards, every, made_by, created_at, expires_at, code, code_until)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        params![w.id, w.tenant, w.name, boards, w.every, w.made_by, w.created_at, w.expires_at, code, w.code_until],
    )?;
    let detail = json!({ "dashboards": w.boards, "expires_at": w.expires_at });
    tx.audit(caller, "wall:create", "Wall", &w.id.to_string(), Some(&w.tenant), detail)
}

/// A new code for another screen; the one that hangs there goes on until it is used.
pub fn renew(tx: &mut Tx<'_>, caller: &Caller, w: &Wall, code: &str, until: Timestamp) -> Result<bool, records::Error> {
    let changed = tx.execute(
        "UPDATE sensing_wall SET code = $2, code_until = $3 WHERE id = $1 AND revoked_at IS NULL AND expires_at > $4",
        params![w.id, code, until, tx.now()],
    )?;
    if changed > 0 {
        tx.audit(caller, "wall:renew", "Wall", &w.id.to_string(), Some(&w.tenant), json!({ "code_until": until }))?;
    }
    Ok(changed > 0)
}

pub fn revoke(tx: &mut Tx<'_>, caller: &Caller, w: &Wall) -> Result<bool, records::Error> {
    let changed = tx.execute(
        "UPDATE sensing_wall SET revoked_at = $2, code = NULL, screen = NULL WHERE id = $1 AND revoked_at IS NULL",
        params![w.id, tx.now()],
    )?;
    if changed > 0 {
        tx.audit(caller, "wall:revoke", "Wall", &w.id.to_string(), Some(&w.tenant), json!({}))?;
    }
    Ok(changed > 0)
}

/// Uses a code up: whoever holds it has the wall from now on, and nobody else.
pub fn pair(tx: &mut Tx<'_>, code: &str, screen: &Screen) -> Result<Option<Wall>, records::Error> {
    let now = tx.now();
    let sql = format!(
        "UPDATE sensing_wall SET code = NULL, code_until = NULL, screen = $2, paired_at = $3, seen_at = $3
         WHERE code = $1 AND code_until > $3 AND expires_at > $3 AND revoked_at IS NULL RETURNING {WALL}"
    );
    let paired = tx.query_opt(&sql, params![code, screen.0, now], wall)?;
    if let Some(w) = &paired {
        let caller = w.caller();
        tx.audit(&caller, "wall:pair", "Wall", &w.id.to_string(), Some(&w.tenant), json!({}))?;
    }
    Ok(paired)
}

/// Notes that a screen was heard of, at most once a minute each.
pub fn saw(tx: &mut Tx<'_>, id: Id<Wall>, before: Timestamp) -> Result<(), records::Error> {
    tx.execute(
        "UPDATE sensing_wall SET seen_at = $2 WHERE id = $1 AND (seen_at IS NULL OR seen_at < $3)",
        params![id, tx.now(), before],
    )?;
    Ok(())
}

// ---- alarms --------------------------------------------------------------------------------------------------------

/// Standing alarms of a severity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Standing {
    pub open: u64,
    pub acknowledged: u64,
}

/// Standing alarms by severity: those of these systems and districts that somebody may see. Costs what stands, not what there ever was: the index
/// begins with the state.
pub fn standing(
    read: &mut Read<'_>,
    visible: &Visible,
    select: &Selection,
    tenant: Option<&Tenant>,
) -> Result<BTreeMap<Severity, Standing>, records::Error> {
    let mut values: Vec<Param<'_>> = Vec::new();
    let mut mark = |value: Param<'static>| {
        values.push(value);
        format!("${}", values.len())
    };
    let owned = |t: &Tenant| Param::Text(t.as_str().to_owned().into());
    let mut sql =
        "SELECT severity, state, COUNT(*) FROM sensing_alarm WHERE state IN ('open', 'acknowledged')".to_owned();
    if !visible.everything {
        let any = |tenants: &std::collections::BTreeSet<Tenant>, mark: &mut dyn FnMut(Param<'static>) -> String| {
            let marks: Vec<String> = tenants.iter().map(|t| mark(owned(t))).collect();
            if marks.is_empty() { "1 = 0".to_owned() } else { format!("tenant IN ({})", marks.join(", ")) }
        };
        let all = any(&visible.all, &mut mark);
        let published = any(&visible.published, &mut mark);
        sql.push_str(&format!(" AND ({all} OR (public = 1 AND {published}))"));
    }
    for (column, value) in [("system", &select.system), ("district", &select.district)] {
        if let Some(value) = value {
            let mark = mark(Param::Text(value.clone().into()));
            sql.push_str(&format!(" AND {column} = {mark}"));
        }
    }
    if let Some(tenant) = tenant {
        let mark = mark(owned(tenant));
        sql.push_str(&format!(" AND tenant = {mark}"));
    }
    sql.push_str(" GROUP BY severity, state");
    let unknown = || records::Error::Statement("an alarm's state or severity is not known".to_owned());
    let mut found: BTreeMap<Severity, Standing> = BTreeMap::new();
    let rows = read.query(&sql, &values, |row| {
        let severity = Severity::from_rank(row.get(0)?).ok_or_else(unknown)?;
        let state = AlarmState::from_name(&row.get::<String>(1)?).ok_or_else(unknown)?;
        Ok((severity, state, row.get::<u64>(2)?))
    })?;
    for (severity, state, count) in rows {
        let entry = found.entry(severity).or_default();
        match state {
            AlarmState::Acknowledged => entry.acknowledged += count,
            _ => entry.open += count,
        }
    }
    Ok(found)
}
