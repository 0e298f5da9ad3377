//! The rows of recipients and deliveries.

use kernel::{Id, Kind as _, Tenant, Timestamp};
use records::{NewJob, Param, Read, Row, ToParam, Tx, params};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::model::{Delivery, DeliveryState, Occasion, Recipient};
use crate::{
    alarms::{Visible, model::Alarm},
    rules::model::RuleDeclaration,
};

/// The queue of `records` that carries deliveries.
pub const QUEUE: &str = "sensing-notify";
/// Attempts before a delivery is given up: about two hours.
const ATTEMPTS: u32 = 12;

pub fn put_recipient(tx: &mut Tx<'_>, recipient: &Recipient) -> Result<bool, records::Error> {
    let body = serde_json::to_string(recipient).map_err(|e| records::Error::Invalid(e.to_string()))?;
    let changed = tx.execute(
        "INSERT INTO sensing_recipient (key, tenant, body, changed_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (key) DO UPDATE SET tenant = excluded.tenant, body = excluded.body, changed_at = excluded.changed_at
         WHERE sensing_recipient.body <> excluded.body",
        params![recipient.key, recipient.tenant, body, tx.now()],
    )?;
    Ok(changed > 0)
}

pub fn recipient(read: &mut Read<'_>, key: &str) -> Result<Option<Recipient>, records::Error> {
    let body =
        read.query_opt("SELECT body FROM sensing_recipient WHERE key = $1", params![key], |row| row.get::<String>(0))?;
    Ok(body.and_then(|b| serde_json::from_str(&b).ok()))
}

/// The keys of a tenant's recipients: the teams that an alarm can be given to.
pub fn recipients_of(read: &mut Read<'_>, tenant: &Tenant) -> Result<Vec<String>, records::Error> {
    let sql = "SELECT key FROM sensing_recipient WHERE tenant = $1 ORDER BY key LIMIT 500";
    read.query(sql, params![tenant], |row| row.get(0))
}

pub fn recipient_keys(read: &mut Read<'_>) -> Result<Vec<String>, records::Error> {
    read.query("SELECT key FROM sensing_recipient ORDER BY key", params![], |row| row.get(0))
}

pub fn delete_recipient(tx: &mut Tx<'_>, key: &str) -> Result<bool, records::Error> {
    Ok(tx.execute("DELETE FROM sensing_recipient WHERE key = $1", params![key])? > 0)
}

/// Whom a rule tells, as it is stored now.
pub fn told_by(read: &mut Read<'_>, rule: &str) -> Result<Vec<String>, records::Error> {
    let body =
        read.query_opt("SELECT body FROM sensing_rule WHERE key = $1", params![rule], |row| row.get::<String>(0))?;
    Ok(body.and_then(|b| serde_json::from_str::<RuleDeclaration>(&b).ok()).map(|d| d.notify).unwrap_or_default())
}

/// Writes a delivery; `false` when it is there already. `withheld`: why it is kept back, and whose end it awaits.
pub(super) fn put(
    tx: &mut Tx<'_>,
    id: Id<Delivery>,
    alarm: &Alarm,
    occasion: Occasion,
    recipient: &Recipient,
    withheld: Option<(&str, Option<&str>)>,
) -> Result<bool, records::Error> {
    let state = if withheld.is_some() { DeliveryState::Withheld } else { DeliveryState::Pending };
    let (why, awaits) = withheld.map_or((None, None), |(why, awaits)| (Some(why), awaits));
    let added = tx.execute(
        "INSERT INTO sensing_delivery
             (id, alarm, version, recipient, tenant, event, state, attempts, created_at, withheld_by, awaits)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10) ON CONFLICT DO NOTHING",
        params![
            id,
            alarm.id,
            alarm.version,
            recipient.key,
            recipient.tenant,
            occasion.name(),
            state.name(),
            tx.now(),
            why,
            awaits,
        ],
    )?;
    Ok(added > 0)
}

/// Keeps a delivery back.
pub(super) fn withhold(tx: &mut Tx<'_>, id: Id<Delivery>, why: &str, awaits: &str) -> Result<(), records::Error> {
    let withhold = "UPDATE sensing_delivery SET state = 'withheld', withheld_by = $2, awaits = $3 WHERE id = $1";
    tx.execute(withhold, params![id, why, awaits])?;
    Ok(())
}

/// It awaits nothing any more, and never goes out.
pub(super) fn settle(tx: &mut Tx<'_>, id: Id<Delivery>) -> Result<(), records::Error> {
    tx.execute("UPDATE sensing_delivery SET awaits = NULL WHERE id = $1", params![id])?;
    Ok(())
}

/// It goes out after all.
pub(super) fn free(tx: &mut Tx<'_>, id: Id<Delivery>) -> Result<(), records::Error> {
    tx.execute("UPDATE sensing_delivery SET state = 'pending', awaits = NULL WHERE id = $1", params![id])?;
    Ok(())
}

pub(super) fn remove(tx: &mut Tx<'_>, id: Id<Delivery>) -> Result<(), records::Error> {
    tx.execute("DELETE FROM sensing_delivery WHERE id = $1", params![id])?;
    Ok(())
}

/// Those that await the end of something, oldest first.
pub(super) fn awaiting(
    read: &mut Read<'_>,
    awaits: &str,
    after: Option<Id<Delivery>>,
    limit: usize,
) -> Result<Vec<Delivery>, records::Error> {
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    read.query(
        &format!("SELECT {COLUMNS} FROM sensing_delivery WHERE awaits = $1 AND id > $2 ORDER BY id LIMIT $3"),
        params![awaits, after, i64::try_from(limit).unwrap_or(i64::MAX)],
        delivery,
    )
}

/// `count`: how many alarms the letter is about. When this alarm is told about; `None` when it is gathered into a delivery that waits already. A storm of alarms of one rule in one district is so
/// one letter at once, and one for each span that it lasts.
pub(super) fn turn(
    tx: &mut Tx<'_>,
    alarm: &Alarm,
    occasion: Occasion,
    recipient: &Recipient,
    (id, count): (Id<Delivery>, u32),
) -> Result<Option<Timestamp>, records::Error> {
    let now = tx.now();
    if recipient.group == 0 {
        return Ok(Some(now));
    }
    let district = alarm.district.as_deref().unwrap_or_default();
    let key = format!("{}/{}/{}/{district}", recipient.key, occasion.name(), alarm.rule);
    let open = tx.query_opt("SELECT ends_at, delivery FROM sensing_group WHERE key = $1", params![key], |row| {
        Ok((row.get::<Timestamp>(0)?, row.get::<Option<String>>(1)?))
    })?;
    match open.filter(|(ends_at, _)| *ends_at > now) {
        None => {
            tx.execute(
                "INSERT INTO sensing_group (key, ends_at, delivery) VALUES ($1, $2, NULL)
                 ON CONFLICT (key) DO UPDATE SET ends_at = excluded.ends_at, delivery = NULL",
                params![key, now.plus_secs(i64::from(recipient.group))],
            )?;
            Ok(Some(now))
        }
        Some((_, Some(delivery))) => {
            let more = "UPDATE sensing_delivery SET gathered = gathered + $2 WHERE id = $1";
            tx.execute(more, params![delivery, count])?;
            Ok(None)
        }
        Some((ends_at, None)) => {
            let takes = "UPDATE sensing_group SET delivery = $2 WHERE key = $1";
            tx.execute(takes, params![key, id])?;
            Ok(Some(ends_at))
        }
    }
}

pub(super) fn push(tx: &mut Tx<'_>, id: Id<Delivery>, run_at: Timestamp) -> Result<(), records::Error> {
    push_as(tx, id, run_at, id.to_string())
}

/// The job of a delivery that had one before. That may not be gone yet when this one is written, so the new one has a name of its own.
pub(super) fn push_again(tx: &mut Tx<'_>, id: Id<Delivery>, run_at: Timestamp) -> Result<(), records::Error> {
    let name = format!("{id}@{}", tx.now().as_micros());
    push_as(tx, id, run_at, name)
}

fn push_as(tx: &mut Tx<'_>, id: Id<Delivery>, run_at: Timestamp, name: String) -> Result<(), records::Error> {
    let mut job = NewJob::new(QUEUE, json!({ "delivery": id }));
    job.run_at = run_at;
    job.unique_key = Some(name);
    job.max_attempts = ATTEMPTS;
    tx.enqueue(job)?;
    Ok(())
}

/// One alarm, occasion, recipient and round is one delivery, however often it is written.
pub(super) fn delivery_id(alarm: &Alarm, occasion: Occasion, recipient: &str, round: &str) -> Id<Delivery> {
    let mut name = format!("{}/{}/{recipient}", alarm.id, occasion.name());
    if !round.is_empty() {
        // No recipient's key holds a slash.
        name = format!("{name}/{round}");
    }
    let digest: [u8; 32] = Sha256::digest(name).into();
    let (entropy, _) = digest.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    let at = if occasion == Occasion::Cleared { alarm.cleared_at.unwrap_or(alarm.raised_at) } else { alarm.raised_at };
    Id::new(at, u128::from_be_bytes(*entropy))
}

/// A dead delivery is tried again from the beginning; `false` when it is not dead.
pub fn revive(tx: &mut Tx<'_>, id: Id<Delivery>) -> Result<bool, records::Error> {
    let revive = "UPDATE sensing_delivery SET state = 'pending', attempts = 0 WHERE id = $1 AND state = 'dead'";
    let revived = tx.execute(revive, params![id])? > 0;
    if revived {
        let now = tx.now();
        push_again(tx, id, now)?;
    }
    Ok(revived)
}

pub fn attempted(
    tx: &mut Tx<'_>,
    id: Id<Delivery>,
    state: DeliveryState,
    attempts: u32,
    error: Option<&str>,
) -> Result<(), records::Error> {
    let delivered_at = (state == DeliveryState::Delivered).then(|| tx.now());
    let error: Option<String> = error.map(|e| e.replace('\0', "").chars().take(1_000).collect());
    tx.execute(
        "UPDATE sensing_delivery SET state = $2, attempts = $3, last_error = $4, delivered_at = $5 WHERE id = $1",
        params![id, state.name(), attempts, error, delivered_at],
    )?;
    Ok(())
}

const COLUMNS: &str = "id, alarm, recipient, tenant, event, state, attempts, last_error, created_at, delivered_at,
    gathered, withheld_by";

fn delivery(row: &Row<'_>) -> Result<Delivery, records::Error> {
    let unknown = || records::Error::Statement(format!("a {} is not known", Delivery::NAME));
    Ok(Delivery {
        id: row.get(0)?,
        alarm: row.get(1)?,
        recipient: row.get(2)?,
        tenant: row.get(3)?,
        occasion: Occasion::from_name(&row.get::<String>(4)?).ok_or_else(unknown)?,
        state: DeliveryState::from_name(&row.get::<String>(5)?).ok_or_else(unknown)?,
        attempts: row.get(6)?,
        last_error: row.get(7)?,
        created_at: row.get(8)?,
        delivered_at: row.get(9)?,
        gathered: row.get(10)?,
        withheld_by: row.get(11)?,
    })
}

pub fn get(read: &mut Read<'_>, id: Id<Delivery>) -> Result<Option<Delivery>, records::Error> {
    read.query_opt(&format!("SELECT {COLUMNS} FROM sensing_delivery WHERE id = $1"), params![id], delivery)
}

/// Newest first, of the tenants whose alarms are wholly visible: that somebody was told is no public matter.
pub fn list(
    read: &mut Read<'_>,
    visible: &Visible,
    state: Option<DeliveryState>,
    alarm: Option<Id<Alarm>>,
    after: Option<Id<Delivery>>,
    limit: usize,
) -> Result<Vec<Delivery>, records::Error> {
    let mut values: Vec<Param<'_>> = Vec::new();
    let mut wheres = vec!["1 = 1".to_owned()];
    if !visible.everything {
        let marks: Vec<String> = (1..=visible.all.len()).map(|n| format!("${n}")).collect();
        values.extend(visible.all.iter().map(Tenant::to_param));
        wheres.push(if marks.is_empty() { "1 = 0".to_owned() } else { format!("tenant IN ({})", marks.join(", ")) });
    }
    let mut compare = |text: &str, value: Param<'static>| {
        values.push(value);
        wheres.push(format!("{text} ${}", values.len()));
    };
    if let Some(state) = state {
        compare("state =", Param::Text(state.name().into()));
    }
    if let Some(alarm) = alarm {
        compare("alarm =", Param::Text(alarm.to_string().into()));
    }
    if let Some(after) = after {
        compare("id <", Param::Text(after.to_string().into()));
    }
    values.push(Param::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    let (wheres, last) = (wheres.join(" AND "), values.len());
    read.query(
        &format!("SELECT {COLUMNS} FROM sensing_delivery WHERE {wheres} ORDER BY id DESC LIMIT ${last}"),
        &values,
        delivery,
    )
}
