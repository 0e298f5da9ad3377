//! The rows of rules and of what their machines remember.

use std::{ops::ControlFlow, sync::Arc};

use kernel::Timestamp;
use records::{Param, Read, ToParam, Tx, params};

use super::{
    core::{Open, SlotRow},
    machine::{State, Turning},
    model::{Rule, RuleDeclaration},
};
use crate::model::EntityId;

/// All rules, by key. One that this program does not understand (written by a newer one) is left out and named in the log.
pub fn rules(read: &mut Read<'_>) -> Result<Vec<Arc<Rule>>, records::Error> {
    let bodies = read.query("SELECT key, body FROM sensing_rule ORDER BY key", params![], |row| {
        Ok((row.get::<String>(0)?, row.get::<String>(1)?))
    })?;
    Ok(bodies.into_iter().filter_map(|(key, body)| parse(&key, &body)).collect())
}

fn parse(key: &str, body: &str) -> Option<Arc<Rule>> {
    let declaration = serde_json::from_str::<RuleDeclaration>(body).map_err(|e| e.to_string());
    let rule = declaration.and_then(|d| Rule::new(d).map_err(|e| format!("{e:?}")));
    rule.inspect_err(|error| tracing::error!(rule = key, %error, "the stored rule is not valid and is not watched"))
        .ok()
        .map(Arc::new)
}

/// Writes a rule if it differs from what is stored; whether it did.
pub fn put_rule(tx: &mut Tx<'_>, rule: &Rule) -> Result<bool, records::Error> {
    let body = serde_json::to_string(rule.declaration()).map_err(|e| records::Error::Invalid(e.to_string()))?;
    let changed = tx.execute(
        "INSERT INTO sensing_rule (key, tenant, body, revision, changed_at) VALUES ($1, $2, $3, 1, $4)
         ON CONFLICT (key) DO UPDATE SET tenant = excluded.tenant, body = excluded.body,
             revision = sensing_rule.revision + 1, changed_at = excluded.changed_at
         WHERE sensing_rule.body <> excluded.body",
        params![rule.key, rule.tenant, body, tx.now()],
    )?;
    Ok(changed > 0)
}

pub fn delete_rule(tx: &mut Tx<'_>, key: &str) -> Result<bool, records::Error> {
    Ok(tx.execute("DELETE FROM sensing_rule WHERE key = $1", params![key])? > 0)
}

pub fn states(read: &mut Read<'_>) -> Result<Vec<SlotRow>, records::Error> {
    let mut all = Vec::new();
    read.for_each(
        "SELECT rule, datastream, thing, next_offset, latest, seen, value, raised, raises, turning_since, turning_arrived,
             memory, raised_at
         FROM sensing_rule_state",
        params![],
        |row| {
            let since: Option<Timestamp> = row.get(9)?;
            let arrived: Option<Timestamp> = row.get(10)?;
            all.push(SlotRow {
                rule: row.get(0)?,
                datastream: EntityId(row.get(1)?),
                thing: EntityId(row.get(2)?),
                next_offset: row.get(3)?,
                state: State {
                    latest: row.get(4)?,
                    seen: row.get(5)?,
                    value: row.get(6)?,
                    raised: row.get(7)?,
                    raises: row.get(8)?,
                    since: row.get(12)?,
                    turning: since.zip(arrived).map(|(since, arrived)| Turning { since, arrived }),
                },
                memory: row.get(11)?,
            });
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(all)
}

const COLUMNS: usize = 13;
/// Rows of one statement; a statement holds 4,096 parameters at most.
const ROWS: usize = 200;

/// Writes states, and never an older one over a newer: the last write of a program that is dying may come after the first of the next. Many rows go in one statement, because a checkpoint writes every Datastream that has moved.
pub fn put_states(tx: &mut Tx<'_>, rows: &[SlotRow]) -> Result<(), records::Error> {
    for rows in rows.chunks(ROWS) {
        let mut sql = String::from(
            "INSERT INTO sensing_rule_state (rule, datastream, thing, next_offset, latest, seen, value, raised, raises,
                turning_since, turning_arrived, memory, raised_at) VALUES ",
        );
        let offsets: Vec<i64> = rows.iter().map(|r| i64::try_from(r.next_offset).unwrap_or(i64::MAX)).collect();
        let turning: Vec<_> =
            rows.iter().map(|r| (r.state.turning.map(|t| t.since), r.state.turning.map(|t| t.arrived))).collect();
        let mut values: Vec<Param<'_>> = Vec::with_capacity(rows.len() * COLUMNS);
        for (nth, row) in rows.iter().enumerate() {
            let first = nth * COLUMNS;
            let marks: Vec<String> = (1..=COLUMNS).map(|n| format!("${}", first + n)).collect();
            sql.push_str(if nth == 0 { "(" } else { ", (" });
            sql.push_str(&marks.join(", "));
            sql.push(')');
            let s = &row.state;
            values.extend([
                row.rule.to_param(),
                row.datastream.0.to_param(),
                row.thing.0.to_param(),
                offsets[nth].to_param(),
                s.latest.to_param(),
                s.seen.to_param(),
                s.value.to_param(),
                s.raised.to_param(),
                s.raises.to_param(),
                turning[nth].0.to_param(),
                turning[nth].1.to_param(),
                row.memory.to_param(),
                s.since.to_param(),
            ]);
        }
        sql.push_str(
            " ON CONFLICT (rule, datastream) DO UPDATE SET thing = excluded.thing, next_offset = excluded.next_offset,
                latest = excluded.latest, seen = excluded.seen, value = excluded.value, raised = excluded.raised,
                raises = excluded.raises, turning_since = excluded.turning_since,
                turning_arrived = excluded.turning_arrived, memory = excluded.memory,
                raised_at = excluded.raised_at
             WHERE excluded.next_offset >= sensing_rule_state.next_offset",
        );
        tx.execute(&sql, &values)?;
    }
    Ok(())
}

pub fn delete_state(tx: &mut Tx<'_>, rule: &str, datastream: EntityId) -> Result<(), records::Error> {
    let delete = "DELETE FROM sensing_rule_state WHERE rule = $1 AND datastream = $2";
    tx.execute(delete, params![rule, datastream.0])?;
    Ok(())
}

/// The offset from which the stream has to be read again after a restart.
pub fn position(read: &mut Read<'_>) -> Result<Option<u64>, records::Error> {
    read.query_opt("SELECT next_offset FROM sensing_rule_position WHERE one = 1", params![], |row| row.get(0))
}

pub fn put_position(tx: &mut Tx<'_>, next: u64) -> Result<(), records::Error> {
    let next = i64::try_from(next).unwrap_or(i64::MAX);
    tx.execute(
        "INSERT INTO sensing_rule_position (one, next_offset) VALUES (1, $1)
         ON CONFLICT (one) DO UPDATE SET next_offset = excluded.next_offset",
        params![next],
    )?;
    Ok(())
}

/// Alarms whose condition stands.
pub fn standing(read: &mut Read<'_>) -> Result<Vec<Open>, records::Error> {
    read.query("SELECT rule, thing, district, id FROM sensing_alarm WHERE open_key IS NOT NULL", params![], |row| {
        Ok(Open { rule: row.get(0)?, thing: EntityId(row.get(1)?), district: row.get(2)?, id: row.get(3)? })
    })
}
