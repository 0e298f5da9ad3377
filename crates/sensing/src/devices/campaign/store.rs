//! Rows of campaigns and firmware: only this file names their tables.

use kernel::{Caller, Id, Tenant, Timestamp};
use records::{NewJob, Param, Read, Row, ToParam, Tx, params};
use serde_json::json;

use super::{
    QUEUE,
    model::{Campaign, Load, Next, Stage, Status, Wave, next},
};
use crate::{Error, devices::Device};

/// The numbers of a wave are kept beside it, so that neither a page nor a device's word counts its devices.
pub const TABLES: &str = "CREATE TABLE sensing_firmware (
        tenant TEXT NOT NULL, sha256 TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, size BIGINT NOT NULL,
        created_at BIGINT NOT NULL, created_by TEXT NOT NULL, PRIMARY KEY (tenant, sha256));
    CREATE TABLE sensing_firmware_part (
        tenant TEXT NOT NULL, sha256 TEXT NOT NULL, part BIGINT NOT NULL, content BYTES NOT NULL, PRIMARY KEY (tenant, sha256, part));
    CREATE TABLE sensing_campaign (
        id TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT, size BIGINT, document TEXT,
        version TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, waves TEXT NOT NULL, failures BIGINT NOT NULL,
        timeout BIGINT NOT NULL, created_by TEXT NOT NULL, created_at BIGINT NOT NULL, decided_by TEXT, decided_at BIGINT,
        ended_at BIGINT, revision BIGINT NOT NULL);
    CREATE INDEX sensing_campaign_tenant ON sensing_campaign (tenant, id);
    CREATE TABLE sensing_campaign_wave (
        campaign TEXT NOT NULL, wave BIGINT NOT NULL, total BIGINT NOT NULL, waiting BIGINT NOT NULL, sent BIGINT NOT NULL,
        downloading BIGINT NOT NULL, installed BIGINT NOT NULL, failed BIGINT NOT NULL, skipped BIGINT NOT NULL,
        forgiven BIGINT NOT NULL, due_at BIGINT, PRIMARY KEY (campaign, wave));
    CREATE TABLE sensing_campaign_device (
        campaign TEXT NOT NULL, device TEXT NOT NULL, wave BIGINT NOT NULL, stage TEXT NOT NULL, detail TEXT NOT NULL,
        changed_at BIGINT NOT NULL, PRIMARY KEY (campaign, device));
    CREATE INDEX sensing_campaign_device_own ON sensing_campaign_device (device, stage);
    CREATE INDEX sensing_campaign_device_stage ON sensing_campaign_device (campaign, stage, device);
    CREATE INDEX sensing_campaign_device_wave ON sensing_campaign_device (campaign, wave, stage, device)";

const COLUMNS: &str =
    "SELECT id, tenant, name, sha256, size, document, version, status, reason, waves, failures, timeout, created_by,
         created_at, decided_by, decided_at, ended_at, revision FROM sensing_campaign";

fn read_campaign(row: &Row<'_>) -> Result<Campaign, records::Error> {
    let document: Option<String> = row.get(5)?;
    let load = match (row.get::<Option<String>>(3)?, document) {
        (Some(sha256), _) => Load::Firmware { sha256, size: row.get::<Option<i64>>(4)?.unwrap_or_default() },
        (None, document) => {
            let document = document.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            Load::Configuration { document }
        }
    };
    let status: String = row.get(7)?;
    Ok(Campaign {
        id: row.get(0)?,
        tenant: row.get(1)?,
        name: row.get(2)?,
        load,
        version: row.get(6)?,
        status: Status::from_name(&status).ok_or_else(|| records::Error::Check(format!("a campaign is '{status}'")))?,
        reason: row.get(8)?,
        waves: row.get(9)?,
        failures_per_mille: row.get(10)?,
        timeout: row.get(11)?,
        created_by: row.get(12)?,
        created_at: row.get(13)?,
        decided_by: row.get(14)?,
        decided_at: row.get(15)?,
        ended_at: row.get(16)?,
        revision: row.get(17)?,
    })
}

pub fn get(read: &mut Read<'_>, id: Id<Campaign>) -> Result<Option<Campaign>, records::Error> {
    read.query_opt(&format!("{COLUMNS} WHERE id = $1"), params![id], read_campaign)
}

/// Newest first, before an id.
pub fn list(read: &mut Read<'_>, tenant: &Tenant, before: &str, limit: usize) -> Result<Vec<Campaign>, records::Error> {
    let sql = format!("{COLUMNS} WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3");
    read.query(&sql, params![tenant, before, limit as i64], read_campaign)
}

pub fn waves(read: &mut Read<'_>, id: Id<Campaign>) -> Result<Vec<Wave>, records::Error> {
    let sql = "SELECT total, waiting, sent, downloading, installed, failed, skipped, forgiven, due_at
               FROM sensing_campaign_wave WHERE campaign = $1 ORDER BY wave";
    read.query(sql, params![id], |row| {
        Ok(Wave {
            total: row.get(0)?,
            waiting: row.get(1)?,
            sent: row.get(2)?,
            downloading: row.get(3)?,
            installed: row.get(4)?,
            failed: row.get(5)?,
            skipped: row.get(6)?,
            forgiven: row.get(7)?,
            due_at: row.get(8)?,
        })
    })
}

/// The numbers of all waves of some campaigns together.
pub fn totals(read: &mut Read<'_>, ids: &[Id<Campaign>]) -> Result<Vec<(Id<Campaign>, Wave)>, records::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let values: Vec<Param<'_>> = ids.iter().map(ToParam::to_param).collect();
    let sql = format!(
        "SELECT campaign, CAST(SUM(total) AS BIGINT), CAST(SUM(installed) AS BIGINT), CAST(SUM(failed) AS BIGINT)
         FROM sensing_campaign_wave WHERE campaign IN ({}) GROUP BY campaign",
        crate::devices::store::marks(1, ids.len())
    );
    read.query(&sql, &values, |row| {
        let wave = Wave { total: row.get(1)?, installed: row.get(2)?, failed: row.get(3)?, ..Wave::default() };
        Ok((row.get(0)?, wave))
    })
}

/// A device of a campaign, for its page.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Member {
    pub device: Id<Device>,
    pub key: String,
    pub name: String,
    pub wave: u32,
    pub stage: Stage,
    pub detail: String,
    pub changed_at: Timestamp,
}

/// Devices of a campaign in one stage, by their ids.
pub fn members(
    read: &mut Read<'_>,
    id: Id<Campaign>,
    stage: Stage,
    after: &str,
    limit: usize,
) -> Result<Vec<Member>, records::Error> {
    let sql = "SELECT m.device, COALESCE(d.key, ''), COALESCE(d.name, ''), m.wave, m.detail, m.changed_at
               FROM sensing_campaign_device m LEFT JOIN sensing_device d ON d.id = m.device
               WHERE m.campaign = $1 AND m.stage = $2 AND m.device > $3 ORDER BY m.device LIMIT $4";
    read.query(sql, params![id, stage.name(), after, limit as i64], |row| {
        Ok(Member {
            device: row.get(0)?,
            key: row.get(1)?,
            name: row.get(2)?,
            wave: row.get::<u32>(3)? + 1,
            stage,
            detail: row.get(4)?,
            changed_at: row.get(5)?,
        })
    })
}

/// Writes a campaign that waits to be approved, with its waves.
pub fn insert(tx: &mut Tx<'_>, caller: &Caller, campaign: &Campaign, waves: &[Vec<Id<Device>>]) -> Result<(), Error> {
    let (sha256, size, document) = match &campaign.load {
        Load::Firmware { sha256, size } => (Some(sha256.clone()), Some(*size), None),
        Load::Configuration { document } => (None, None, Some(document.to_string())),
    };
    let now = tx.now();
    tx.execute(
        "INSERT INTO sensing_campaign (id, tenant, name, sha256, size, document, version, status, reason, waves, failures, timeout,
             created_by, created_at, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '', $9, $10, $11, $12, $13, 1)",
        params![
            campaign.id,
            campaign.tenant,
            campaign.name,
            sha256,
            size,
            document,
            campaign.version,
            campaign.status.name(),
            campaign.waves,
            campaign.failures_per_mille,
            campaign.timeout,
            campaign.created_by,
            now
        ],
    )?;
    for (at, devices) in waves.iter().enumerate() {
        let (at, total) = (at as i64, devices.len() as i64);
        tx.execute(
            "INSERT INTO sensing_campaign_wave (campaign, wave, total, waiting, sent, downloading, installed, failed, skipped, forgiven)
             VALUES ($1, $2, $3, $3, 0, 0, 0, 0, 0, 0)",
            params![campaign.id, at, total],
        )?;
        for chunk in devices.chunks(500) {
            let mut values: Vec<Param<'_>> = vec![
                campaign.id.to_param(),
                Param::Integer(at),
                Param::Text(Stage::Waiting.name().into()),
                Param::Integer(now.as_micros()),
            ];
            values.extend(chunk.iter().map(|device| Param::Text(device.to_string().into())));
            let rows: Vec<String> = (0..chunk.len()).map(|n| format!("($1, ${}, $2, $3, '', $4)", n + 5)).collect();
            let into = "INSERT INTO sensing_campaign_device (campaign, device, wave, stage, detail, changed_at) VALUES";
            tx.execute(&format!("{into} {}", rows.join(", ")), &values)?;
        }
    }
    let detail = json!({
        "name": campaign.name, "kind": campaign.load.kind(), "version": campaign.version, "sha256": sha256,
        "waves": waves.iter().map(Vec::len).collect::<Vec<_>>(),
    });
    audit(tx, caller, campaign, "campaign:propose", detail)
}

pub fn audit(
    tx: &mut Tx<'_>,
    caller: &Caller,
    campaign: &Campaign,
    action: &str,
    detail: serde_json::Value,
) -> Result<(), Error> {
    Ok(tx.audit(caller, action, "Campaign", &campaign.id.to_string(), Some(&campaign.tenant), detail)?)
}

/// Another status, with its reason. `by` when a person has decided it.
pub fn set_status(
    tx: &mut Tx<'_>,
    id: Id<Campaign>,
    status: Status,
    reason: &str,
    by: Option<&str>,
) -> Result<(), Error> {
    let ended = status.is_over().then(|| tx.now());
    let decided = by.map(|_| tx.now());
    tx.execute(
        "UPDATE sensing_campaign SET status = $2, reason = $3, ended_at = $4, decided_by = COALESCE($5, decided_by),
             decided_at = COALESCE($6, decided_at), revision = revision + 1 WHERE id = $1",
        params![id, status.name(), reason, ended, by, decided],
    )?;
    Ok(())
}

/// Waves that have begun have their whole time again, and their failures are let pass.
pub fn forgive(tx: &mut Tx<'_>, campaign: &Campaign) -> Result<(), Error> {
    let due = tx.now().plus_secs(campaign.timeout);
    let sql =
        "UPDATE sensing_campaign_wave SET forgiven = failed, due_at = $2 WHERE campaign = $1 AND due_at IS NOT NULL";
    tx.execute(sql, params![campaign.id, due])?;
    for (at, wave) in waves(tx, campaign.id)?.iter().enumerate() {
        // Commands were withheld meanwhile.
        if wave.due_at.is_some() && wave.sent > 0 {
            tx.enqueue(NewJob::new(QUEUE, json!({"campaign": campaign.id, "tell": at})))?;
        }
    }
    wake(tx, campaign.id, due)
}

/// The kill switch was lifted, a tenant's or the city's: what had begun has its whole time again, and is told once more.
pub fn go_on(tx: &mut Tx<'_>, tenant: Option<&Tenant>) -> Result<(), records::Error> {
    let of = tenant.map_or("", Tenant::as_str);
    let sql = format!("{COLUMNS} WHERE status = 'running' AND ($1 = '' OR tenant = $1) ORDER BY id");
    for campaign in tx.query(&sql, params![of], read_campaign)? {
        if crate::tasking::is_stopped(tx, &campaign.tenant)? {
            continue;
        }
        let due = tx.now().plus_secs(campaign.timeout);
        let sql = "UPDATE sensing_campaign_wave SET due_at = $2 WHERE campaign = $1 AND due_at IS NOT NULL";
        tx.execute(sql, params![campaign.id, due])?;
        for (at, wave) in waves(tx, campaign.id)?.iter().enumerate() {
            if wave.due_at.is_some() && wave.sent > 0 {
                tx.enqueue(NewJob::new(QUEUE, json!({"campaign": campaign.id, "tell": at})))?;
            }
        }
        for run_at in [tx.now(), due] {
            let job = NewJob { run_at, max_attempts: 1_000, ..NewJob::new(QUEUE, json!({"campaign": campaign.id})) };
            tx.enqueue(job)?;
        }
    }
    Ok(())
}

/// A look at the campaign at a time. Several may be due; each finds what is to be done, or nothing.
fn wake(tx: &mut Tx<'_>, id: Id<Campaign>, at: Timestamp) -> Result<(), Error> {
    let job = NewJob { run_at: at, max_attempts: 1_000, ..NewJob::new(QUEUE, json!({"campaign": id})) };
    tx.enqueue(job)?;
    Ok(())
}

/// Does what a running campaign does next, until it waits. All of it lies in the rows: after a crash it is decided again, and is the same.
pub fn advance(tx: &mut Tx<'_>, id: Id<Campaign>) -> Result<(), Error> {
    let system = Caller::system("campaigns");
    loop {
        let Some(campaign) = get(tx, id)?.filter(|c| c.status == Status::Running) else { return Ok(()) };
        // Nothing begins and nothing is given up while the kill switch is on: devices are told nothing, so they are not late either.
        if crate::tasking::is_stopped(tx, &campaign.tenant)? {
            return Ok(());
        }
        let waves = waves(tx, id)?;
        match next(campaign.failures_per_mille, &waves, tx.now()) {
            Next::Wait => return Ok(()),
            Next::Begin(at) => begin(tx, &campaign, at)?,
            Next::GiveUp(at) => give_up(tx, id, at)?,
            Next::Halt(reason) => {
                set_status(tx, id, Status::Halted, &reason, None)?;
                audit(tx, &system, &campaign, "campaign:halt", json!({"reason": reason}))?;
            }
            Next::Done => {
                set_status(tx, id, Status::Done, "", None)?;
                audit(tx, &system, &campaign, "campaign:done", json!({}))?;
            }
        }
    }
}

fn begin(tx: &mut Tx<'_>, campaign: &Campaign, at: usize) -> Result<(), Error> {
    let (id, wave, due) = (campaign.id, at as i64, tx.now().plus_secs(campaign.timeout));
    let sql = "UPDATE sensing_campaign_device SET stage = 'sent', changed_at = $3
               WHERE campaign = $1 AND wave = $2 AND stage = 'waiting'";
    let sent = tx.execute(sql, params![id, wave, tx.now()])?;
    let sql =
        "UPDATE sensing_campaign_wave SET waiting = 0, sent = sent + $3, due_at = $4 WHERE campaign = $1 AND wave = $2";
    tx.execute(sql, params![id, wave, i64::try_from(sent).unwrap_or(i64::MAX), due])?;
    // Told at once to those that listen; the others ask.
    tx.enqueue(NewJob::new(QUEUE, json!({"campaign": id, "tell": at})))?;
    wake(tx, id, due)?;
    audit(tx, &Caller::system("campaigns"), campaign, "campaign:wave", json!({"wave": at + 1, "devices": sent}))
}

fn give_up(tx: &mut Tx<'_>, id: Id<Campaign>, at: usize) -> Result<(), Error> {
    let sql =
        "UPDATE sensing_campaign_device SET stage = 'failed', detail = 'It did not answer in time.', changed_at = $3
               WHERE campaign = $1 AND wave = $2 AND stage IN ('sent', 'downloading')";
    tx.execute(sql, params![id, at as i64, tx.now()])?;
    let sql = "UPDATE sensing_campaign_wave SET failed = failed + sent + downloading, sent = 0, downloading = 0
               WHERE campaign = $1 AND wave = $2";
    tx.execute(sql, params![id, at as i64])?;
    Ok(())
}

/// Where a device is in a campaign: its wave and stage.
pub fn stage(
    read: &mut Read<'_>,
    id: Id<Campaign>,
    device: Id<Device>,
) -> Result<Option<(i64, Stage)>, records::Error> {
    let sql = "SELECT wave, stage FROM sensing_campaign_device WHERE campaign = $1 AND device = $2";
    read.query_opt(sql, params![id, device], |row| {
        let stage: String = row.get(1)?;
        let stage = Stage::from_name(&stage)
            .ok_or_else(|| records::Error::Check(format!("a device of a campaign is '{stage}'")))?;
        Ok((row.get(0)?, stage))
    })
}

/// Moves a device from one stage to another, and the numbers of its wave with it.
pub fn step(
    tx: &mut Tx<'_>,
    id: Id<Campaign>,
    device: Id<Device>,
    (wave, from): (i64, Stage),
    to: Stage,
    detail: &str,
) -> Result<(), Error> {
    let sql = "UPDATE sensing_campaign_device SET stage = $3, detail = $4, changed_at = $5 WHERE campaign = $1 AND device = $2";
    tx.execute(sql, params![id, device, to.name(), detail, tx.now()])?;
    let (less, more) = (from.name(), to.name());
    let sql = format!(
        "UPDATE sensing_campaign_wave SET {less} = {less} - 1, {more} = {more} + 1 WHERE campaign = $1 AND wave = $2"
    );
    tx.execute(&sql, params![id, wave])?;
    Ok(())
}

/// A device that is decommissioned or removed leaves every campaign that has not reached it.
pub fn leave(tx: &mut Tx<'_>, device: Id<Device>) -> Result<(), Error> {
    let sql = "SELECT campaign FROM sensing_campaign_device WHERE device = $1 AND stage IN ('waiting', 'sent', 'downloading')";
    for id in tx.query(sql, params![device], |row| row.get::<Id<Campaign>>(0))? {
        if let Some(at) = stage(tx, id, device)? {
            step(tx, id, device, at, Stage::Skipped, "It left the register.")?;
            advance(tx, id)?;
        }
    }
    Ok(())
}

/// The oldest command that a device has not done, of a campaign that runs; also those that it is downloading.
pub fn open_command(read: &mut Read<'_>, device: Id<Device>) -> Result<Option<Campaign>, records::Error> {
    let sql = format!(
        "{COLUMNS} WHERE status = 'running' AND id IN
             (SELECT campaign FROM sensing_campaign_device WHERE device = $1 AND stage IN ('sent', 'downloading'))
         ORDER BY id LIMIT 1"
    );
    let found = read.query_opt(&sql, params![device], read_campaign)?;
    // A command waits, as a Task does, until the kill switch is lifted.
    match found {
        Some(campaign) if crate::tasking::is_stopped(read, &campaign.tenant)? => Ok(None),
        found => Ok(found),
    }
}

/// Whether a device has a firmware to fetch: a command of a campaign that has not ended.
pub fn may_fetch(read: &mut Read<'_>, device: Id<Device>, sha256: &str) -> Result<bool, records::Error> {
    let sql = "SELECT 1 FROM sensing_campaign_device m JOIN sensing_campaign c ON c.id = m.campaign
               WHERE m.device = $1 AND m.stage IN ('sent', 'downloading') AND c.sha256 = $2 AND c.status IN ('running', 'paused')
               LIMIT 1";
    Ok(read.query_opt(sql, params![device, sha256], |row| row.get::<i64>(0))?.is_some())
}

/// Devices of a wave whose command is there, some hundred after an id.
pub fn to_tell(
    read: &mut Read<'_>,
    id: Id<Campaign>,
    wave: i64,
    after: &str,
    limit: i64,
) -> Result<Vec<Id<Device>>, records::Error> {
    let sql = "SELECT device FROM sensing_campaign_device WHERE campaign = $1 AND wave = $2 AND stage = 'sent' AND device > $3
               ORDER BY device LIMIT $4";
    read.query(sql, params![id, wave, after, limit], |row| row.get(0))
}

/// Id, key and firmware.
pub type Candidate = (Id<Device>, String, Option<String>);

/// Devices in service of a department that a campaign may be for.
pub fn candidates(
    read: &mut Read<'_>,
    tenant: &Tenant,
    kind: Option<&str>,
    most: usize,
) -> Result<Vec<Candidate>, records::Error> {
    let of_kind = if kind.is_some() { "kind = $3" } else { "COALESCE($3, '') = ''" };
    let sql = format!(
        "SELECT id, key, firmware FROM sensing_device
         WHERE tenant = $1 AND enabled = 1 AND decommissioned_at IS NULL AND {of_kind} ORDER BY key LIMIT $2"
    );
    read.query(&sql, params![tenant, most as i64, kind], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

/// An image that was uploaded.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Firmware {
    pub tenant: Tenant,
    pub sha256: String,
    pub name: String,
    pub version: String,
    pub size: i64,
    pub created_at: Timestamp,
    pub created_by: String,
}

pub fn firmware(read: &mut Read<'_>, tenant: &Tenant, sha256: Option<&str>) -> Result<Vec<Firmware>, records::Error> {
    let one = if sha256.is_some() { "sha256 = $2" } else { "COALESCE($2, '') = ''" };
    let sql = format!(
        "SELECT tenant, sha256, name, version, size, created_at, created_by FROM sensing_firmware
         WHERE tenant = $1 AND {one} ORDER BY created_at DESC, sha256 LIMIT 1000"
    );
    read.query(&sql, params![tenant, sha256], |row| {
        Ok(Firmware {
            tenant: row.get(0)?,
            sha256: row.get(1)?,
            name: row.get(2)?,
            version: row.get(3)?,
            size: row.get(4)?,
            created_at: row.get(5)?,
            created_by: row.get(6)?,
        })
    })
}

pub fn part(read: &mut Read<'_>, tenant: &Tenant, sha256: &str, part: i64) -> Result<Vec<u8>, records::Error> {
    let sql = "SELECT content FROM sensing_firmware_part WHERE tenant = $1 AND sha256 = $2 AND part = $3";
    read.query_one(sql, params![tenant, sha256, part], |row| row.get(0))
}
