//! Rows of the register: only this file names its tables.

use kernel::{Caller, Id, Tenant, Timestamp};
use records::{Migration, Read, Row, Tx, params};
use serde_json::json;

use super::model::{Change, Device, DeviceKey, NewDevice};
use crate::{Error, model::EntityId};

pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "devices and their keys",
    sql: "CREATE TABLE sensing_device (
        id TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, firmware TEXT,
        gateway BIGINT NOT NULL, enabled BIGINT NOT NULL, created_at BIGINT NOT NULL, seen_at BIGINT, UNIQUE (tenant, key));
    CREATE TABLE sensing_device_thing (device TEXT NOT NULL, thing BIGINT NOT NULL, PRIMARY KEY (device, thing));
    CREATE TABLE sensing_device_key (
        prefix TEXT NOT NULL PRIMARY KEY, device TEXT NOT NULL, hash TEXT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT);
    CREATE INDEX sensing_device_key_device ON sensing_device_key (device)",
}];

const COLUMNS: &str =
    "SELECT id, tenant, key, name, kind, firmware, gateway, enabled, created_at, seen_at FROM sensing_device";

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
        keys: Vec::new(),
    })
}

fn fill(read: &mut Read<'_>, mut device: Device) -> Result<Device, records::Error> {
    let sql = "SELECT thing FROM sensing_device_thing WHERE device = $1 ORDER BY thing";
    device.things = read.query(sql, params![device.id], |row| row.get(0).map(EntityId))?;
    let sql =
        "SELECT prefix, created_at, expires_at FROM sensing_device_key WHERE device = $1 ORDER BY created_at, prefix";
    device.keys = read.query(sql, params![device.id], |row| {
        Ok(DeviceKey { prefix: row.get(0)?, created_at: row.get(1)?, expires_at: row.get(2)? })
    })?;
    Ok(device)
}

pub fn get(read: &mut Read<'_>, id: Id<Device>) -> Result<Option<Device>, records::Error> {
    let found = read.query_opt(&format!("{COLUMNS} WHERE id = $1"), params![id], read_device)?;
    found.map(|device| fill(read, device)).transpose()
}

/// Devices of a tenant after the key `after`, in the order of keys.
pub fn list(read: &mut Read<'_>, tenant: &Tenant, after: &str, limit: usize) -> Result<Vec<Device>, records::Error> {
    let sql = format!("{COLUMNS} WHERE tenant = $1 AND key > $2 ORDER BY key LIMIT $3");
    let found = read.query(&sql, params![tenant, after, limit as i64], read_device)?;
    found.into_iter().map(|device| fill(read, device)).collect()
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
    let firmware = change.firmware.as_ref().or(device.firmware.as_ref());
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

pub fn saw(tx: &mut Tx<'_>, seen: &[(String, Timestamp)]) -> Result<(), records::Error> {
    for (device, at) in seen {
        let sql = "UPDATE sensing_device SET seen_at = $2 WHERE id = $1 AND (seen_at IS NULL OR seen_at < $2)";
        tx.execute(sql, params![device, *at])?;
    }
    Ok(())
}
