//! Rows of the register: only this file names its tables.

use std::{collections::HashMap, ops::ControlFlow};

use kernel::{Caller, Id, Tenant, Timestamp};
use records::{Migration, Param, Read, Row, ToParam, Tx, params};
use serde_json::json;

use super::{
    live::Heard,
    model::{Change, Condition, Decommissioned, Device, DeviceKey, NewDevice},
};
use crate::{Error, model::EntityId};

pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "devices and their keys", sql: DEVICES },
    Migration {
        version: 2,
        name: "what devices last sent, and when keys were last used",
        sql: "ALTER TABLE sensing_device ADD COLUMN observed_at BIGINT;
    ALTER TABLE sensing_device ADD COLUMN refused_at BIGINT;
    ALTER TABLE sensing_device ADD COLUMN refusal TEXT;
    ALTER TABLE sensing_device_key ADD COLUMN used_at BIGINT;
    CREATE INDEX sensing_device_key_expiry ON sensing_device_key (expires_at)",
    },
    Migration { version: 3, name: "claims, certificates and the end of devices", sql: ENDS_AND_BEGINNINGS },
    Migration { version: 4, name: "how devices are", sql: CONDITION },
    Migration { version: 5, name: "firmware and campaigns", sql: super::campaign::store::TABLES },
];

/// A claim is found by the hash of its code; of a certificate that was revoked the row stays, so that it never counts again.
const ENDS_AND_BEGINNINGS: &str = "ALTER TABLE sensing_device ADD COLUMN decommissioned_at BIGINT;
    ALTER TABLE sensing_device ADD COLUMN decommissioned_by TEXT;
    ALTER TABLE sensing_device ADD COLUMN decommission_reason TEXT;
    CREATE TABLE sensing_device_claim (
        hash TEXT NOT NULL PRIMARY KEY, device TEXT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT,
        collected_at BIGINT, placed_at BIGINT, placed_by TEXT, refusals BIGINT NOT NULL, refused_at BIGINT);
    CREATE UNIQUE INDEX sensing_device_claim_device ON sensing_device_claim (device);
    CREATE TABLE sensing_device_certificate (
        fingerprint TEXT NOT NULL PRIMARY KEY, device TEXT NOT NULL, subject TEXT NOT NULL, serial TEXT NOT NULL,
        not_after BIGINT NOT NULL, created_at BIGINT NOT NULL, revoked_at BIGINT);
    CREATE INDEX sensing_device_certificate_device ON sensing_device_certificate (device)";

/// Each condition that a list is made of has an index in the order of the list: the worst first, then by key.
const CONDITION: &str = "ALTER TABLE sensing_device ADD COLUMN battery BIGINT;
    ALTER TABLE sensing_device ADD COLUMN signal BIGINT;
    ALTER TABLE sensing_device ADD COLUMN skew BIGINT;
    ALTER TABLE sensing_device ADD COLUMN clock_off BIGINT;
    CREATE INDEX sensing_device_battery ON sensing_device (tenant, battery, key);
    CREATE INDEX sensing_device_seen ON sensing_device (tenant, seen_at, key);
    CREATE INDEX sensing_device_clock ON sensing_device (tenant, clock_off, key)";

const DEVICES: &str = "CREATE TABLE sensing_device (
        id TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, firmware TEXT,
        gateway BIGINT NOT NULL, enabled BIGINT NOT NULL, created_at BIGINT NOT NULL, seen_at BIGINT, UNIQUE (tenant, key));
    CREATE TABLE sensing_device_thing (device TEXT NOT NULL, thing BIGINT NOT NULL, PRIMARY KEY (device, thing));
    CREATE TABLE sensing_device_key (
        prefix TEXT NOT NULL PRIMARY KEY, device TEXT NOT NULL, hash TEXT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT);
    CREATE INDEX sensing_device_key_device ON sensing_device_key (device)";

const COLUMNS: &str = "SELECT id, tenant, key, name, kind, firmware, gateway, enabled, created_at, seen_at, observed_at, refused_at, refusal,
         decommissioned_at, decommissioned_by, decommission_reason, battery, signal, skew
     FROM sensing_device";

fn read_device(row: &Row<'_>) -> Result<Device, records::Error> {
    Ok(Device {
        id: row.get(0)?,
        tenant: row.get(1)?,
        key: row.get(2)?,
        name: row.get(3)?,
        kind: row.get(4)?,
        firmware: row.get(5)?,
        things: Vec::new(),
        gateway: row.get(6)?,
        enabled: row.get(7)?,
        created_at: row.get(8)?,
        seen_at: row.get(9)?,
        observed_at: row.get(10)?,
        refused_at: row.get(11)?,
        refusal: row.get(12)?,
        decommissioned: match row.get::<Option<Timestamp>>(13)? {
            Some(at) => Some(Decommissioned { at, by: row.get(14)?, reason: row.get(15)? }),
            None => None,
        },
        battery: row.get(16)?,
        signal: row.get(17)?,
        skew_micros: row.get(18)?,
        keys: Vec::new(),
    })
}

fn read_key(row: &Row<'_>) -> Result<DeviceKey, records::Error> {
    Ok(DeviceKey { prefix: row.get(0)?, created_at: row.get(1)?, expires_at: row.get(2)?, used_at: row.get(3)? })
}

fn fill(read: &mut Read<'_>, mut device: Device) -> Result<Device, records::Error> {
    let sql = "SELECT thing FROM sensing_device_thing WHERE device = $1 ORDER BY thing";
    device.things = read.query(sql, params![device.id], |row| row.get(0).map(EntityId))?;
    let sql = "SELECT prefix, created_at, expires_at, used_at FROM sensing_device_key WHERE device = $1
               ORDER BY created_at, prefix";
    device.keys = read.query(sql, params![device.id], read_key)?;
    Ok(device)
}

pub fn get(read: &mut Read<'_>, id: Id<Device>) -> Result<Option<Device>, records::Error> {
    let found = read.query_opt(&format!("{COLUMNS} WHERE id = $1"), params![id], read_device)?;
    found.map(|device| fill(read, device)).transpose()
}

/// Devices of a tenant after the key `after`, in the order of keys. Three queries, however many there are.
pub fn list(read: &mut Read<'_>, tenant: &Tenant, after: &str, limit: usize) -> Result<Vec<Device>, records::Error> {
    let sql = format!("{COLUMNS} WHERE tenant = $1 AND key > $2 ORDER BY key LIMIT $3");
    let devices = read.query(&sql, params![tenant, after, limit as i64], read_device)?;
    fill_all(read, devices)
}

/// Devices of a tenant in a condition, the worst first, beyond a place in that order. Decommissioned ones are in no condition.
pub fn in_condition(
    read: &mut Read<'_>,
    tenant: &Tenant,
    condition: Condition,
    after: &(i64, String),
    limit: usize,
) -> Result<Vec<Device>, records::Error> {
    let (column, order, bound) = match condition {
        Condition::BatteryBelow(percent) => ("battery", "", percent),
        Condition::UnseenSince(at) => ("seen_at", "", at.as_micros()),
        // Kept negative, so that all three lists ascend.
        Condition::ClockOffBy(micros) => ("clock_off", "", -micros),
    };
    let sql = format!(
        "{COLUMNS} WHERE tenant = $1 AND {column} < $2 AND ({column}, key) > ($3, $4) AND decommissioned_at IS NULL
         ORDER BY {column}{order}, key LIMIT $5"
    );
    let devices = read.query(&sql, params![tenant, bound, after.0, after.1, limit as i64], read_device)?;
    fill_all(read, devices)
}

/// Parameters of one statement that names many.
pub const NAMED: usize = 500;

/// `$1, $2, …`: as many as there are, from the number `from` on.
pub fn marks(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

/// Things and keys of these devices: two queries for each 500 of them.
fn fill_all(read: &mut Read<'_>, mut devices: Vec<Device>) -> Result<Vec<Device>, records::Error> {
    let at: HashMap<Id<Device>, usize> = devices.iter().enumerate().map(|(at, d)| (d.id, at)).collect();
    let ids: Vec<Id<Device>> = devices.iter().map(|d| d.id).collect();
    for chunk in ids.chunks(NAMED) {
        let named: Vec<Param<'_>> = chunk.iter().map(ToParam::to_param).collect();
        let within = marks(1, chunk.len());
        let sql =
            format!("SELECT device, thing FROM sensing_device_thing WHERE device IN ({within}) ORDER BY device, thing");
        read.for_each(&sql, &named, |row| {
            if let Some(at) = at.get(&row.get::<Id<Device>>(0)?) {
                devices[*at].things.push(EntityId(row.get(1)?));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let sql = format!(
            "SELECT prefix, created_at, expires_at, used_at, device FROM sensing_device_key
             WHERE device IN ({within}) ORDER BY created_at, prefix"
        );
        read.for_each(&sql, &named, |row| {
            if let Some(at) = at.get(&row.get::<Id<Device>>(4)?) {
                devices[*at].keys.push(read_key(row)?);
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(devices)
}

/// Devices of a tenant by their keys, as they are in the register.
pub fn by_keys(read: &mut Read<'_>, tenant: &Tenant, keys: &[&str]) -> Result<Vec<Device>, records::Error> {
    let mut found = Vec::new();
    for chunk in keys.chunks(NAMED) {
        let mut values: Vec<Param<'_>> = vec![tenant.to_param()];
        values.extend(chunk.iter().map(|key| key.to_param()));
        let sql = format!("{COLUMNS} WHERE tenant = $1 AND key IN ({})", marks(2, chunk.len()));
        found.extend(read.query(&sql, &values, read_device)?);
    }
    fill_all(read, found)
}

pub fn insert(tx: &mut Tx<'_>, caller: &Caller, id: Id<Device>, new: &NewDevice) -> Result<Device, Error> {
    let name = new.name.as_ref().unwrap_or(&new.key);
    tx.execute(
        "INSERT INTO sensing_device (id, tenant, key, name, kind, firmware, gateway, enabled, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8)",
        params![id, new.tenant, new.key, name, new.kind, new.firmware, i64::from(new.gateway), tx.now()],
    )?;
    put_things(tx, id, &new.things)?;
    let detail = json!({"key": new.key, "kind": new.kind, "gateway": new.gateway, "things": new.things});
    tx.audit(caller, "device:register", "Device", &id.to_string(), Some(&new.tenant), detail)?;
    get(tx, id)?.ok_or_else(|| Error::internal("a device that was just written is not there"))
}

fn put_things(tx: &mut Tx<'_>, id: Id<Device>, things: &[EntityId]) -> Result<(), Error> {
    tx.execute("DELETE FROM sensing_device_thing WHERE device = $1", params![id])?;
    for thing in things {
        let sql =
            "INSERT INTO sensing_device_thing (device, thing) VALUES ($1, $2) ON CONFLICT (device, thing) DO NOTHING";
        tx.execute(sql, params![id, thing.0])?;
    }
    Ok(())
}

/// What is decommissioned stays so.
pub fn over() -> Error {
    Error::conflict("The device is decommissioned. Register the one that stands there now.")
}

pub fn update(tx: &mut Tx<'_>, caller: &Caller, device: &Device, change: &Change) -> Result<Device, Error> {
    // As it is now: what is not changed must not become again what it was when somebody looked, least of all in service.
    let Some(device) = get(tx, device.id)?.filter(|now| now.decommissioned.is_none()) else { return Err(over()) };
    let firmware = change.firmware.as_ref().or(device.firmware.as_ref()).filter(|text| !text.is_empty());
    tx.execute(
        "UPDATE sensing_device SET name = $2, kind = $3, firmware = $4, gateway = $5, enabled = $6 WHERE id = $1",
        params![
            device.id,
            change.name.as_ref().unwrap_or(&device.name),
            change.kind.as_ref().unwrap_or(&device.kind),
            firmware,
            i64::from(change.gateway.unwrap_or(device.gateway)),
            i64::from(change.enabled.unwrap_or(device.enabled)),
        ],
    )?;
    if let Some(things) = &change.things {
        put_things(tx, device.id, things)?;
    }
    let detail = json!({
        "name": change.name, "kind": change.kind, "firmware": change.firmware, "things": change.things, "gateway": change.gateway,
        "enabled": change.enabled,
    });
    tx.audit(caller, "device:change", "Device", &device.id.to_string(), Some(&device.tenant), detail)?;
    get(tx, device.id)?.ok_or_else(|| Error::not_found("The device"))
}

pub fn delete(tx: &mut Tx<'_>, caller: &Caller, device: &Device) -> Result<(), Error> {
    if get(tx, device.id)?.is_some_and(|now| now.decommissioned.is_some()) {
        return Err(Error::conflict("The device is decommissioned: the register keeps who ended it, and when."));
    }
    super::campaign::store::leave(tx, device.id)?;
    for sql in [
        "DELETE FROM sensing_device_key WHERE device = $1",
        "DELETE FROM sensing_device_thing WHERE device = $1",
        "DELETE FROM sensing_device_claim WHERE device = $1",
        // One that was revoked names the next device of this key too, and must not be good for it.
        "DELETE FROM sensing_device_certificate WHERE device = $1 AND revoked_at IS NULL",
        "DELETE FROM sensing_device WHERE id = $1",
    ] {
        tx.execute(sql, params![device.id])?;
    }
    let detail = json!({"key": device.key});
    Ok(tx.audit(caller, "device:delete", "Device", &device.id.to_string(), Some(&device.tenant), detail)?)
}

/// `others` is when the other keys are to end, if they are.
pub fn insert_key(
    tx: &mut Tx<'_>,
    caller: &Caller,
    device: &Device,
    (prefix, hash): (&str, &str),
    expires_at: Option<Timestamp>,
    others: Option<Timestamp>,
) -> Result<(), Error> {
    // As it is now: whoever decommissions it may have been faster.
    let standing = "SELECT 1 FROM sensing_device WHERE id = $1 AND decommissioned_at IS NULL";
    if tx.query_opt(standing, params![device.id], |row| row.get::<i64>(0))?.is_none() {
        return Err(over());
    }
    tx.execute(
        "INSERT INTO sensing_device_key (prefix, device, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        params![prefix, device.id, hash, tx.now(), expires_at],
    )?;
    let (action, detail) = match others {
        None => ("device:key-issue", json!({"prefix": prefix, "expires_at": expires_at})),
        Some(at) => {
            let ended = expire_others(tx, device, prefix, at)?;
            ("device:key-rotate", json!({"prefix": prefix, "others": ended, "others_end_at": at}))
        }
    };
    Ok(tx.audit(caller, action, "Device", &device.id.to_string(), Some(&device.tenant), detail)?)
}

/// Microseconds for which a key that has ended still stands on the device's page; the audit knows it for good.
const ENDED: i64 = 7 * 86_400 * 1_000_000;

/// Lets every key but `prefix` end at `at`, unless it ends before. Those that ended long ago go: all keys of a device are read when it signs in, and
/// one that changes its key each day would have thousands.
fn expire_others(tx: &mut Tx<'_>, device: &Device, prefix: &str, at: Timestamp) -> Result<u64, Error> {
    let ended = tx.now().plus_micros(-ENDED);
    tx.execute("DELETE FROM sensing_device_key WHERE device = $1 AND expires_at < $2", params![device.id, ended])?;
    let sql = "UPDATE sensing_device_key SET expires_at = $3 WHERE device = $1 AND prefix <> $2
               AND (expires_at IS NULL OR expires_at > $3)";
    Ok(tx.execute(sql, params![device.id, prefix, at])?)
}

pub fn delete_key(tx: &mut Tx<'_>, caller: &Caller, device: &Device, prefix: &str) -> Result<(), Error> {
    let sql = "DELETE FROM sensing_device_key WHERE device = $1 AND prefix = $2";
    if tx.execute(sql, params![device.id, prefix])? == 0 {
        return Err(Error::not_found("The key"));
    }
    let detail = json!({"prefix": prefix});
    Ok(tx.audit(caller, "device:key-revoke", "Device", &device.id.to_string(), Some(&device.tenant), detail)?)
}

/// The device and stored hash behind a prefix, when the key is not over and the device is enabled.
pub fn by_prefix(
    read: &mut Read<'_>,
    prefix: &str,
    now: Timestamp,
) -> Result<Option<(Device, String)>, records::Error> {
    let sql =
        "SELECT device, hash FROM sensing_device_key WHERE prefix = $1 AND (expires_at IS NULL OR expires_at > $2)";
    let found =
        read.query_opt(sql, params![prefix, now], |row| Ok((row.get::<Id<Device>>(0)?, row.get::<String>(1)?)))?;
    let Some((id, hash)) = found else { return Ok(None) };
    Ok(get(read, id)?.filter(|device| device.enabled).map(|device| (device, hash)))
}

/// The end of a device: its keys, certificates and claim are gone, it is out of service, and the register says by whom and why.
pub fn decommission(tx: &mut Tx<'_>, caller: &Caller, device: &Device, reason: &str) -> Result<Device, Error> {
    let sql = "UPDATE sensing_device SET enabled = 0, decommissioned_at = $2, decommissioned_by = $3, decommission_reason = $4
               WHERE id = $1 AND decommissioned_at IS NULL";
    if tx.execute(sql, params![device.id, tx.now(), caller.label(), reason])? == 0 {
        return Err(over());
    }
    let keys = tx.execute("DELETE FROM sensing_device_key WHERE device = $1", params![device.id])?;
    tx.execute("DELETE FROM sensing_device_claim WHERE device = $1", params![device.id])?;
    // Of certificates the rows stay: one that was good here is never good again.
    let sql = "UPDATE sensing_device_certificate SET revoked_at = $2 WHERE device = $1 AND revoked_at IS NULL";
    let certificates = tx.execute(sql, params![device.id, tx.now()])?;
    super::campaign::store::leave(tx, device.id)?;
    let detail = json!({"key": device.key, "reason": reason, "keys": keys, "certificates": certificates});
    tx.audit(caller, "device:decommission", "Device", &device.id.to_string(), Some(&device.tenant), detail)?;
    get(tx, device.id)?.ok_or_else(|| Error::not_found("The device"))
}

/// Devices with a key that ended within a span.
pub fn expired(read: &mut Read<'_>, after: Timestamp, until: Timestamp) -> Result<Vec<Id<Device>>, records::Error> {
    let sql = "SELECT DISTINCT device FROM sensing_device_key WHERE expires_at > $1 AND expires_at <= $2";
    read.query(sql, params![after, until], |row| row.get(0))
}

pub fn saw(tx: &mut Tx<'_>, heard: &[Heard]) -> Result<(), records::Error> {
    // Several processes may write down the same device: the later news stands.
    let sql = "UPDATE sensing_device SET
                   seen_at = CASE WHEN COALESCE(seen_at, 0) < $2 THEN $2 ELSE seen_at END,
                   observed_at = CASE WHEN COALESCE(observed_at, 0) < $3 THEN $3 ELSE observed_at END,
                   refusal = CASE WHEN COALESCE(refused_at, 0) < $4 THEN $5 ELSE refusal END,
                   refused_at = CASE WHEN COALESCE(refused_at, 0) < $4 THEN $4 ELSE refused_at END,
                   battery = COALESCE($6, battery), signal = COALESCE($7, signal), skew = COALESCE($8, skew),
                   clock_off = COALESCE($9, clock_off), firmware = COALESCE($10, firmware)
               WHERE id = $1";
    for heard in heard {
        let observed = heard.observed.map_or(0, Timestamp::as_micros);
        let (refused, why) = heard.refused.as_ref().map_or((0, ""), |(at, why)| (at.as_micros(), why.as_ref()));
        let off = heard.skew.map(|skew| -skew.abs());
        let firmware = heard.firmware.as_deref();
        tx.execute(
            sql,
            params![
                heard.device,
                heard.seen,
                observed,
                refused,
                why,
                heard.battery,
                heard.signal,
                heard.skew,
                off,
                firmware
            ],
        )?;
    }
    Ok(())
}

pub fn used(tx: &mut Tx<'_>, used: &[(String, Timestamp)]) -> Result<(), records::Error> {
    let sql = "UPDATE sensing_device_key SET used_at = $2 WHERE prefix = $1 AND COALESCE(used_at, 0) < $2";
    for (prefix, at) in used {
        tx.execute(sql, params![prefix, *at])?;
    }
    Ok(())
}
