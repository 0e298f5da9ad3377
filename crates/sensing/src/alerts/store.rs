//! The rows of warnings: every message that was ever issued, and which alarms a standing warning is about.

use kernel::{Tenant, Timestamp};
use records::{Param, Read, Row, Tx, params};

use super::{model::Message, publisher::Issued};
use crate::{alarms::model::Alarm, rules::model::Severity};

/// Where a message belongs.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// The id of the alarm that began it.
    pub warning: String,
    pub number: u32,
    pub rule: String,
    pub tenant: Tenant,
    pub district: Option<String>,
    pub severity: Severity,
    /// `rule/district` or `rule/thing` while it stands: a unique index lets one warning stand for each.
    pub open_key: Option<String>,
    /// Seconds for which a message of it holds.
    pub lasts: i64,
}

/// A message as it is listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub chain: Chain,
    pub message: Message,
    pub sent: Timestamp,
    pub expires: Timestamp,
}

impl Stored {
    /// Whether people are to heed it at `now`.
    pub fn stands(&self, now: Timestamp) -> bool {
        self.chain.open_key.is_some() && self.expires > now
    }
}

const COLUMNS: &str = "warning, number, rule, tenant, district, severity, open_key, lasts, sent, expires, body";

fn stored(row: &Row<'_>) -> Result<Stored, records::Error> {
    let wrong = |e: &dyn std::fmt::Display| records::Error::Statement(format!("a stored warning: {e}"));
    Ok(Stored {
        chain: Chain {
            warning: row.get(0)?,
            number: row.get(1)?,
            rule: row.get(2)?,
            tenant: row.get(3)?,
            district: row.get(4)?,
            severity: Severity::from_rank(row.get(5)?).ok_or_else(|| wrong(&"its severity"))?,
            open_key: row.get(6)?,
            lasts: row.get(7)?,
        },
        sent: row.get(8)?,
        expires: row.get(9)?,
        message: serde_json::from_str(&row.get::<String>(10)?).map_err(|e| wrong(&e))?,
    })
}

/// Writes a message as the newest of its warning; `false` when it is there already.
pub fn insert(tx: &mut Tx<'_>, chain: &Chain, issued: &Issued) -> Result<bool, records::Error> {
    let Issued { message, xml, sent, expires } = issued;
    let body = serde_json::to_string(message).map_err(|e| records::Error::Invalid(e.to_string()))?;
    // The one before stands no more: its successor does, or nothing.
    let before =
        "UPDATE sensing_alert SET newest = 0, open_key = NULL, renew_at = NULL WHERE warning = $1 AND newest = 1
         AND number < $2";
    tx.execute(before, params![chain.warning, chain.number])?;
    let renew_at = chain.open_key.is_some().then(|| expires.plus_secs(-chain.lasts / 4));
    let added = tx.execute(
        "INSERT INTO sensing_alert (identifier, warning, number, newest, rule, tenant, district, severity, open_key, lasts,
             status, msg_type, sent, expires, renew_at, reference, body, xml)
         VALUES ($1, $2, $3, 1, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT DO NOTHING",
        params![
            message.identifier,
            chain.warning,
            chain.number,
            chain.rule,
            chain.tenant,
            chain.district,
            chain.severity.rank(),
            chain.open_key,
            chain.lasts,
            message.status.name(),
            message.msg_type.name(),
            sent,
            expires,
            renew_at,
            message.reference(),
            body,
            xml,
        ],
    )?;
    Ok(added > 0)
}

/// The newest message of the warning that stands under this key.
pub fn standing(read: &mut Read<'_>, open_key: &str) -> Result<Option<Stored>, records::Error> {
    let sql = format!("SELECT {COLUMNS} FROM sensing_alert WHERE open_key = $1");
    read.query_opt(&sql, params![open_key], stored)
}

/// The newest message of a warning, if it stands.
pub fn newest(read: &mut Read<'_>, warning: &str) -> Result<Option<Stored>, records::Error> {
    let sql = format!("SELECT {COLUMNS} FROM sensing_alert WHERE warning = $1 AND newest = 1 AND open_key IS NOT NULL");
    read.query_opt(&sql, params![warning], stored)
}

/// Earlier messages that one may name as references; a receiver has forgotten those that are long over.
const MAX_REFERENCES: i64 = 20;

/// How the messages of a warning are named that have not expired, and the last one in any case; oldest first.
pub fn references(read: &mut Read<'_>, warning: &str, now: Timestamp) -> Result<Vec<String>, records::Error> {
    let mut found = read.query(
        "SELECT reference FROM sensing_alert WHERE warning = $1 AND (expires > $2 OR newest = 1) ORDER BY number DESC LIMIT $3",
        params![warning, now, MAX_REFERENCES],
        |row| row.get::<String>(0),
    )?;
    found.reverse();
    Ok(found)
}

/// The alarm is one of those that a warning is about.
pub fn join(tx: &mut Tx<'_>, alarm: &Alarm, warning: &str) -> Result<(), records::Error> {
    let sql = "INSERT INTO sensing_alert_alarm (alarm, warning) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    tx.execute(sql, params![alarm.id, warning])?;
    Ok(())
}

/// The alarm is over. The warning that it belonged to, when no other alarm holds it up.
pub fn leave(tx: &mut Tx<'_>, alarm: &Alarm) -> Result<Option<String>, records::Error> {
    let of = "SELECT warning FROM sensing_alert_alarm WHERE alarm = $1";
    let Some(warning) = tx.query_opt(of, params![alarm.id], |row| row.get::<String>(0))? else { return Ok(None) };
    tx.execute("DELETE FROM sensing_alert_alarm WHERE alarm = $1", params![alarm.id])?;
    let other = "SELECT alarm FROM sensing_alert_alarm WHERE warning = $1 LIMIT 1";
    let other = tx.query_opt(other, params![warning], |row| row.get::<String>(0))?;
    Ok(other.is_none().then_some(warning))
}

/// Standing warnings whose message is soon over.
pub fn due(read: &mut Read<'_>, now: Timestamp, limit: i64) -> Result<Vec<Stored>, records::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM sensing_alert WHERE renew_at <= $1 AND open_key IS NOT NULL ORDER BY renew_at LIMIT $2"
    );
    read.query(&sql, params![now, limit], stored)
}

/// What a list is narrowed by. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub district: Option<String>,
    pub rule: Option<String>,
    /// Only those that stand.
    pub standing: bool,
    /// Without those that were sent before.
    pub since: Option<Timestamp>,
}

/// The newest message of each warning, newest first.
pub fn list(read: &mut Read<'_>, filter: &Filter, now: Timestamp, limit: usize) -> Result<Vec<Stored>, records::Error> {
    let mut values: Vec<Param<'_>> = Vec::new();
    let mut wheres = vec!["newest = 1".to_owned()];
    let mut compare = |text: &str, value: Param<'static>| {
        values.push(value);
        wheres.push(text.replace('?', &format!("${}", values.len())));
    };
    if let Some(district) = &filter.district {
        compare("district = ?", Param::Text(district.clone().into()));
    }
    if let Some(rule) = &filter.rule {
        compare("rule = ?", Param::Text(rule.clone().into()));
    }
    if filter.standing {
        compare("open_key IS NOT NULL AND expires > ?", Param::Integer(now.as_micros()));
    }
    if let Some(since) = filter.since {
        compare("sent >= ?", Param::Integer(since.as_micros()));
    }
    values.push(Param::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    let (wheres, last) = (wheres.join(" AND "), values.len());
    let sql =
        format!("SELECT {COLUMNS} FROM sensing_alert WHERE {wheres} ORDER BY sent DESC, identifier DESC LIMIT ${last}");
    read.query(&sql, &values, stored)
}

/// One message by its identifier.
pub fn get(read: &mut Read<'_>, identifier: &str) -> Result<Option<Stored>, records::Error> {
    let sql = format!("SELECT {COLUMNS} FROM sensing_alert WHERE identifier = $1");
    read.query_opt(&sql, params![identifier], stored)
}

pub fn xml(read: &mut Read<'_>, identifier: &str) -> Result<Option<String>, records::Error> {
    read.query_opt("SELECT xml FROM sensing_alert WHERE identifier = $1", params![identifier], |row| row.get(0))
}

/// One line of a warning's history.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub identifier: String,
    pub msg_type: String,
    pub sent: Timestamp,
}

/// Messages of one warning that are read: one that is renewed four times a day for two months.
const MAX_LINES: i64 = 240;

/// All messages of a warning, newest first.
pub fn history(read: &mut Read<'_>, warning: &str) -> Result<Vec<Line>, records::Error> {
    read.query(
        "SELECT identifier, msg_type, sent FROM sensing_alert WHERE warning = $1 ORDER BY number DESC LIMIT $2",
        params![warning, MAX_LINES],
        |row| Ok(Line { identifier: row.get(0)?, msg_type: row.get(1)?, sent: row.get(2)? }),
    )
}

/// Keeps the public half of a key for as long as its signatures are read.
pub fn put_key(tx: &mut Tx<'_>, id: &str, jwk: &str) -> Result<(), records::Error> {
    let sql = "INSERT INTO sensing_alert_key (id, jwk, since) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    tx.execute(sql, params![id, jwk, tx.now()])?;
    Ok(())
}

/// Keys that were ever used, newest first. A city changes its key rarely.
pub fn keys(read: &mut Read<'_>) -> Result<Vec<String>, records::Error> {
    read.query("SELECT jwk FROM sensing_alert_key ORDER BY since DESC, id LIMIT 100", params![], |row| row.get(0))
}
