//! The rows of alarms and their histories.

use std::collections::BTreeSet;

use kernel::{Caller, Id, Tenant, Text, Timestamp};
use records::{Event, Param, Read, Row, ToParam, Tx, params};
use serde_json::json;

use super::model::{Alarm, AlarmState, Assignee, Entry, EntryKind, Mark};
use crate::{model::EntityId, rules::model::Severity};

/// The topic of the stream on which alarms are announced.
pub const TOPIC: &str = "events";

const COLUMNS: &str = "id, rule, tenant, public, severity, state, name, instruction, thing, thing_name, datastream, system, \
    district, value, unit, raised_at, recorded_at, acknowledged_by, acknowledged_at, cleared_at, closed_by, closed_at, version, assignee";

fn text(json: &str) -> Result<Text, records::Error> {
    serde_json::from_str(json).map_err(|e| records::Error::Statement(format!("a text in three languages: {e}")))
}

fn form(text: &Text) -> String {
    // Three strings always serialise.
    serde_json::to_string(text).unwrap_or_default()
}

fn alarm(row: &Row<'_>) -> Result<Alarm, records::Error> {
    let unknown = |what: &str| records::Error::Statement(format!("an alarm's {what} is not known"));
    let mark = |by: Option<String>, at: Option<Timestamp>| by.zip(at).map(|(by, at)| Mark { by, at });
    Ok(Alarm {
        id: row.get(0)?,
        rule: row.get(1)?,
        tenant: row.get(2)?,
        public: row.get(3)?,
        severity: Severity::from_rank(row.get(4)?).ok_or_else(|| unknown("severity"))?,
        state: AlarmState::from_name(&row.get::<String>(5)?).ok_or_else(|| unknown("state"))?,
        name: text(&row.get::<String>(6)?)?,
        instruction: row.get::<Option<String>>(7)?.map(|t| text(&t)).transpose()?,
        thing: EntityId(row.get(8)?),
        thing_name: text(&row.get::<String>(9)?)?,
        datastream: EntityId(row.get(10)?),
        system: row.get(11)?,
        district: row.get(12)?,
        value: row.get(13)?,
        unit: row.get(14)?,
        raised_at: row.get(15)?,
        recorded_at: row.get(16)?,
        acknowledged: mark(row.get(17)?, row.get(18)?),
        cleared_at: row.get(19)?,
        closed: mark(row.get(20)?, row.get(21)?),
        version: row.get(22)?,
        assignee: row.get::<Option<String>>(23)?.and_then(|a| Assignee::parse(&a).ok()),
    })
}

/// Writes a new alarm; `false` when it is there already, or another one of the same rule and Thing stands: of the same rule and district where
/// the rule asks for several Things.
pub fn insert(tx: &mut Tx<'_>, a: &Alarm, of_district: bool) -> Result<bool, records::Error> {
    let open_key = match of_district {
        // No Thing's number begins so.
        true => format!("{}/district:{}", a.rule, a.district.as_deref().unwrap_or_default()),
        false => format!("{}/{}", a.rule, a.thing),
    };
    let added = tx.execute(
        "INSERT INTO sensing_alarm (id, rule, tenant, public, severity, state, open_key, name, instruction, thing, thing_name,
             datastream, system, district, value, unit, raised_at, recorded_at, version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
         ON CONFLICT DO NOTHING",
        params![
            a.id,
            a.rule,
            a.tenant,
            a.public,
            a.severity.rank(),
            a.state.name(),
            open_key,
            form(&a.name),
            a.instruction.as_ref().map(form),
            a.thing.0,
            form(&a.thing_name),
            a.datastream.0,
            a.system,
            a.district,
            a.value,
            a.unit,
            a.raised_at,
            a.recorded_at,
            a.version,
        ],
    )?;
    Ok(added > 0)
}

/// Writes what a decision has changed, if the alarm is still as it was when it was taken.
pub fn update(tx: &mut Tx<'_>, a: &Alarm) -> Result<bool, records::Error> {
    let (acknowledged, closed) = (a.acknowledged.as_ref(), a.closed.as_ref());
    let changed = tx.execute(
        "UPDATE sensing_alarm SET state = $2, acknowledged_by = $3, acknowledged_at = $4, cleared_at = $5, closed_by = $6,
             closed_at = $7, version = $8, assignee = $11,
             open_key = CASE WHEN $9 = 1 THEN open_key ELSE NULL END
         WHERE id = $1 AND version = $10",
        params![
            a.id,
            a.state.name(),
            acknowledged.map(|m| m.by.as_str()),
            acknowledged.map(|m| m.at),
            a.cleared_at,
            closed.map(|m| m.by.as_str()),
            closed.map(|m| m.at),
            a.version,
            a.state.stands(),
            a.version - 1,
            a.assignee.as_ref().map(Assignee::as_str),
        ],
    )?;
    Ok(changed > 0)
}

pub fn get(read: &mut Read<'_>, id: Id<Alarm>) -> Result<Option<Alarm>, records::Error> {
    read.query_opt(&format!("SELECT {COLUMNS} FROM sensing_alarm WHERE id = $1"), params![id], alarm)
}

pub fn put_entry(tx: &mut Tx<'_>, id: Id<Alarm>, e: &Entry) -> Result<(), records::Error> {
    tx.execute(
        "INSERT INTO sensing_alarm_entry (alarm, version, at, actor, kind, remark, value) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![id, e.version, e.at, e.by, e.kind.name(), e.comment, e.value],
    )?;
    Ok(())
}

/// Lines of one history that are read; a longer one would need a thousand people to disagree.
const MAX_ENTRIES: i64 = 1_000;

pub fn entries(read: &mut Read<'_>, id: Id<Alarm>) -> Result<Vec<Entry>, records::Error> {
    read.query(
        "SELECT version, at, actor, kind, remark, value FROM sensing_alarm_entry WHERE alarm = $1 ORDER BY version LIMIT $2",
        params![id, MAX_ENTRIES],
        |row| {
            let kind = EntryKind::from_name(&row.get::<String>(3)?);
            Ok(Entry {
                version: row.get(0)?,
                at: row.get(1)?,
                by: row.get(2)?,
                kind: kind.ok_or_else(|| records::Error::Statement("an entry's kind is not known".to_owned()))?,
                comment: row.get(4)?,
                value: row.get(5)?,
            })
        },
    )
}

/// What a list is narrowed by. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub states: BTreeSet<AlarmState>,
    pub severity_at_least: Option<Severity>,
    pub tenant: Option<Tenant>,
    pub system: Option<String>,
    pub district: Option<String>,
    pub rule: Option<String>,
    pub thing: Option<EntityId>,
    /// As [`Assignee`] writes it.
    pub assignee: Option<String>,
}

/// Which tenants' alarms somebody may see: all of them, or only those that are public.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visible {
    pub everything: bool,
    pub all: BTreeSet<Tenant>,
    pub published: BTreeSet<Tenant>,
}

impl Visible {
    pub fn admits(&self, tenant: &Tenant, public: bool) -> bool {
        self.everything || self.all.contains(tenant) || (public && self.published.contains(tenant))
    }
}

/// Newest first; `after` is the last id of the page before. Of several states each is a stretch of the index by state and id, and a page of all of them is
/// found among a page of each: a board of ten thousand standing alarms costs what one of fifty does.
pub fn list(
    read: &mut Read<'_>,
    visible: &Visible,
    filter: &Filter,
    after: Option<Id<Alarm>>,
    limit: usize,
) -> Result<Vec<Alarm>, records::Error> {
    if filter.states.len() < 2 || filter.states.len() == AlarmState::ALL.len() {
        return page(read, visible, filter, after, limit);
    }
    let mut found = Vec::new();
    for state in &filter.states {
        let one = Filter { states: [*state].into(), ..filter.clone() };
        found.extend(page(read, visible, &one, after, limit)?);
    }
    found.sort_by_key(|a| std::cmp::Reverse(a.id));
    found.truncate(limit);
    Ok(found)
}

fn page(
    read: &mut Read<'_>,
    visible: &Visible,
    filter: &Filter,
    after: Option<Id<Alarm>>,
    limit: usize,
) -> Result<Vec<Alarm>, records::Error> {
    let mut query = Query::default();
    if !visible.everything {
        let all = query.any_of("tenant", visible.all.iter().map(ToParam::to_param));
        let published = query.any_of("tenant", visible.published.iter().map(ToParam::to_param));
        query.wheres.push(format!("({all} OR (public = 1 AND {published}))"));
    }
    // All of them are no condition.
    if !filter.states.is_empty() && filter.states.len() < AlarmState::ALL.len() {
        let states = query.any_of("state", filter.states.iter().map(|s| Param::Text(s.name().into())));
        query.wheres.push(states);
    }
    let texts = [
        ("system", filter.system.as_ref()),
        ("district", filter.district.as_ref()),
        ("rule", filter.rule.as_ref()),
        ("assignee", filter.assignee.as_ref()),
    ];
    for (column, value) in texts {
        if let Some(value) = value {
            query.compare(column, "=", value.to_param());
        }
    }
    if let Some(tenant) = &filter.tenant {
        query.compare("tenant", "=", tenant.to_param());
    }
    if let Some(severity) = filter.severity_at_least {
        query.compare("severity", ">=", Param::Integer(severity.rank()));
    }
    if let Some(thing) = filter.thing {
        query.compare("thing", "=", Param::Integer(thing.0));
    }
    if let Some(after) = after {
        query.compare("id", "<", Param::Text(after.to_string().into()));
    }
    let wheres = if query.wheres.is_empty() { "1 = 1".to_owned() } else { query.wheres.join(" AND ") };
    let limit = query.mark(Param::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    read.query(
        &format!("SELECT {COLUMNS} FROM sensing_alarm WHERE {wheres} ORDER BY id DESC LIMIT {limit}"),
        &query.values,
        alarm,
    )
}

/// A WHERE being put together; values never enter the text.
#[derive(Default)]
struct Query<'a> {
    wheres: Vec<String>,
    values: Vec<Param<'a>>,
}

impl<'a> Query<'a> {
    fn mark(&mut self, value: Param<'a>) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }
    fn compare(&mut self, column: &str, operator: &str, value: Param<'a>) {
        let mark = self.mark(value);
        self.wheres.push(format!("{column} {operator} {mark}"));
    }
    fn any_of(&mut self, column: &str, values: impl Iterator<Item = Param<'a>>) -> String {
        let marks: Vec<String> = values.map(|v| self.mark(v)).collect();
        if marks.is_empty() { "1 = 0".to_owned() } else { format!("{column} IN ({})", marks.join(", ")) }
    }
}

/// Everybody who has rules or alarms.
pub fn tenants(read: &mut Read<'_>) -> Result<Vec<Tenant>, records::Error> {
    read.query("SELECT tenant FROM sensing_rule UNION SELECT tenant FROM sensing_alarm", params![], |row| row.get(0))
}

/// How many alarms of a tenant are in a state with a severity; closed ones are not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub tenant: Tenant,
    pub public: bool,
    pub state: AlarmState,
    pub severity: Severity,
    pub count: u64,
}

pub fn counts(read: &mut Read<'_>) -> Result<Vec<Count>, records::Error> {
    let unknown = || records::Error::Statement("an alarm's state or severity is not known".to_owned());
    read.query(
        "SELECT tenant, public, state, severity, COUNT(*) FROM sensing_alarm WHERE state IN ('open', 'acknowledged', 'cleared')
         GROUP BY tenant, public, state, severity",
        params![],
        |row| {
            Ok(Count {
                tenant: row.get(0)?,
                public: row.get(1)?,
                state: AlarmState::from_name(&row.get::<String>(2)?).ok_or_else(unknown)?,
                severity: Severity::from_rank(row.get(3)?).ok_or_else(unknown)?,
                count: row.get(4)?,
            })
        },
    )
}

/// Leaves the audit row and the event of a change: `kind` as in `alarm.raised`.
pub fn announce(
    tx: &mut Tx<'_>,
    caller: &Caller,
    action: &str,
    a: &Alarm,
    kind: EntryKind,
) -> Result<(), records::Error> {
    let id = a.id.to_string();
    let detail = json!({ "rule": a.rule, "thing": a.thing, "state": a.state, "version": a.version });
    tx.audit(caller, action, "Alarm", &id, Some(&a.tenant), detail)?;
    let payload = json!({
        "type": format!("alarm.{}", kind.name()),
        "id": a.id, "state": a.state, "severity": a.severity, "rule": a.rule, "tenant": a.tenant, "public": a.public,
        "thing": a.thing, "thing_name": a.thing_name, "datastream": a.datastream, "name": a.name, "system": a.system,
        "district": a.district, "value": a.value, "unit": a.unit, "raised_at": a.raised_at, "assignee": a.assignee, "version": a.version,
        "at": tx.now(),
    });
    tx.emit(Event { topic: TOPIC.to_owned(), key: id, payload })?;
    Ok(())
}
