//! Rows of the register: only this file names its tables.

use std::{collections::HashMap, ops::ControlFlow};

use kernel::{Caller, Id, Tenant, Timestamp};
use records::{Migration, Read, Row, Tx, params};
use serde_json::json;

use super::{
    live::Heard,
    model::{Change, Device, DeviceKey, NewDevice},
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
];

const DEVICES: &str = "CREATE TABLE sensing_device (
        id TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, firmware TEXT,
        gateway BIGINT NOT NULL, enabled BIGINT NOT NULL, created_at BIGINT NOT NULL, seen_at BIGINT, UNIQUE (tenant, key));
    CREATE TABLE sensing_device_thing (device TEXT NOT NULL, thing BIGINT NOT NULL, PRIMARY KEY (device, thing));
    CREATE TABLE sensing_device_key (
        prefix TEXT NOT NULL PRIMARY KEY, device TEXT NOT NULL, hash TEXT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT);
    CREATE INDEX sensing_device_key_device ON sensing_device_key (device)";

const COLUMNS: &str = "SELECT id, tenant, key, name, kind, firmware, gateway, enabled, created_at, seen_at, observed_at, refused_at, refusal
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
    let mut devices = read.query(&sql, params![tenant, after, limit as i64], read_device)?;
    let Some(last) = devices.last().map(|d| d.key.clone()) else { return Ok(devices) };
    let at: HashMap<Id<Device>, usize> = devices.iter().enumerate().map(|(at, d)| (d.id, at)).collect();
    let sql = "SELECT t.device, t.thing FROM sensing_device d JOIN sensing_device_thing t ON t.device = d.id
               WHERE d.tenant = $1 AND d.key > $2 AND d.key <= $3 ORDER BY t.device, t.thing";
    read.for_each(sql, params![tenant, after, last], |row| {
        if let Some(at) = at.get(&row.get::<Id<Device>>(0)?) {
            devices[*at].things.push(EntityId(row.get(1)?));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let sql = "SELECT k.prefix, k.created_at, k.expires_at, k.used_at, k.device
               FROM sensing_device d JOIN sensing_device_key k ON k.device = d.id
               WHERE d.tenant = $1 AND d.key > $2 AND d.key <= $3 ORDER BY k.created_at, k.prefix";
    read.for_each(sql, params![tenant, after, last], |row| {
        if let Some(at) = at.get(&row.get::<Id<Device>>(4)?) {
            devices[*at].keys.push(read_key(row)?);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(devices)
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

pub fn update(tx: &mut Tx<'_>, caller: &Caller, device: &Device, change: &Change) -> Result<Device, Error> {
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
    for sql in [
        "DELETE FROM sensing_device_key WHERE device = $1",
        "DELETE FROM sensing_device_thing WHERE device = $1",
        "DELETE FROM sensing_device WHERE id = $1",
    ] {
        tx.execute(sql, params![device.id])?;
    }
    let detail = json!({"key": device.key});
    Ok(tx.audit(caller, "device:delete", "Device", &device.id.to_string(), Some(&device.tenant), detail)?)
}

pub fn insert_key(
    tx: &mut Tx<'_>,
    caller: &Caller,
    device: &Device,
    prefix: &str,
    hash: &str,
    expires_at: Option<Timestamp>,
) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO sensing_device_key (prefix, device, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        params![prefix, device.id, hash, tx.now(), expires_at],
    )?;
    let detail = json!({"prefix": prefix, "expires_at": expires_at});
    Ok(tx.audit(caller, "device:key-issue", "Device", &device.id.to_string(), Some(&device.tenant), detail)?)
}

/// Lets every key but `prefix` end at `at`, unless it ends before.
pub fn expire_others(tx: &mut Tx<'_>, device: &Device, prefix: &str, at: Timestamp) -> Result<u64, Error> {
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
                   refused_at = CASE WHEN COALESCE(refused_at, 0) < $4 THEN $4 ELSE refused_at END
               WHERE id = $1";
    for heard in heard {
        let observed = heard.observed.map_or(0, Timestamp::as_micros);
        let (refused, why) = heard.refused.as_ref().map_or((0, ""), |(at, why)| (at.as_micros(), why.as_ref()));
        tx.execute(sql, params![heard.device, heard.seen, observed, refused, why])?;
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
