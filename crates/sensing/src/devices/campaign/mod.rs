//! Campaigns: firmware or a configuration for many devices, wave by wave, stopped by itself when too many fail.
//!
//! Everything a campaign knows is in rows, and what it does next is decided from them alone ([`model::next`]), in the transaction of whatever has
//! changed: a device's word, a person's deed, a time that is over (a job of the records). So a crash at any moment changes nothing of it.
//!
//! A person proposes, and another approves, with the actions that Tasks have (docs/tasking.md); who may act alone there may here. The kill
//! switch of Tasks stops campaigns too.

pub mod api;
pub mod firmware;
pub mod model;
pub mod store;

use std::{collections::HashSet, future::Future, time::Duration};

use http::StatusCode;
use kernel::{Action, Caller, Id, Principal, Problem, Resource, Tenant};
use records::{Job, JobFailure, RetryPolicy, Tx};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Device, Devices, model::check_word};
use crate::{Error, route::action};
use model::{Campaign, Deed, Load, Stage, Status, Wave};
pub use store::{Firmware, Member};

/// The queue of the jobs.
pub const QUEUE: &str = "device-campaigns";
/// Jobs at once.
const CONCURRENCY: usize = 4;
/// Devices of one campaign.
const DEVICES: usize = 50_000;
/// Devices that one proposal names one by one.
const NAMED: usize = 10_000;
/// Bytes of a configuration.
const DOCUMENT: usize = 64 << 10;
/// Campaigns on a page, and devices on one.
const PAGE: usize = 100;
/// Devices that are told at once.
const TOLD: i64 = 1_000;
/// Hours that a device may have.
const TIMEOUT: std::ops::RangeInclusive<i64> = 1..=24 * 90;

/// Gives commands to the devices that listen: labels of callers and what each is told. What the MQTT door offers.
pub type Tell = Box<dyn Fn(&HashSet<String>, &Value) + Send + Sync>;

/// What is proposed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    pub tenant: Tenant,
    pub name: String,
    /// SHA-256 of an uploaded image, in hexadecimal.
    pub firmware: Option<String>,
    /// A JSON object, with the version that devices then have.
    pub configuration: Option<Value>,
    /// Of a configuration; firmware has its own.
    pub version: Option<String>,
    pub target: Target,
    /// `1%, 10%, rest` unless said.
    pub waves: Option<String>,
    /// Failures that a wave may have, in percent of its devices; 5 unless said.
    pub max_failures: Option<f64>,
    /// Hours that a device has from its command to its last word; 24 unless said.
    pub timeout_hours: Option<i64>,
}

/// Which devices: all in service, those of a kind, or those that are named.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub kind: Option<String>,
    /// Keys in the register.
    #[serde(default)]
    pub devices: Vec<String>,
}

/// What a device says of a command.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    pub campaign: Id<Campaign>,
    /// `downloading`, `installed` or `failed`.
    pub state: Stage,
    pub detail: Option<String>,
}

fn missing() -> Error {
    Error::not_found("The campaign")
}

impl Devices {
    /// Whether a caller may do `action` to a department's campaigns.
    pub fn may_campaign(&self, caller: &Caller, action: Action, tenant: &Tenant) -> bool {
        let resource = Resource { kind: "Campaign", id: "", tenant: Some(tenant), public: false };
        self.inner.policy.allows(caller, action, &resource)
    }

    /// Says how devices that listen are told. Once; later calls change nothing.
    pub fn telling_with(&self, tell: Tell) {
        drop(self.inner.tell.set(tell));
    }

    /// Proposes a campaign. It has its devices from now on; those that have the version already are left out.
    ///
    /// # Errors
    /// 400 that names the field; 403 where the caller may not manage the department's devices.
    pub async fn propose(&self, caller: &Caller, wanted: Proposal) -> Result<(Campaign, Vec<Wave>), Error> {
        Tenant::parse(wanted.tenant.as_str()).map_err(|detail| Error::field("/tenant", detail))?;
        if !self.may_campaign(caller, action::DEVICE_MANAGE, &wanted.tenant) {
            return Err(Problem::forbidden("You may not begin campaigns of this department.").into());
        }
        check_word("/name", &wanted.name, 200)?;
        let shares = wanted.waves.as_deref().filter(|w| !w.trim().is_empty()).unwrap_or("1%, 10%, rest").to_owned();
        let waves = model::shares(&shares).map_err(|detail| Error::field("/waves", detail))?;
        let failures = wanted.max_failures.unwrap_or(5.0);
        if !(0.0..=100.0).contains(&failures) {
            return Err(Error::field("/max_failures", "a percentage from 0 to 100 is expected"));
        }
        let hours = wanted.timeout_hours.unwrap_or(24);
        if !TIMEOUT.contains(&hours) {
            return Err(Error::field("/timeout_hours", "1 to 2160 hours are expected"));
        }
        if wanted.target.devices.len() > NAMED {
            return Err(Error::field("/target/devices", format!("at most {NAMED} devices can be named")));
        }
        let (load, version) = self.load(&wanted).await?;
        let campaign = Campaign {
            id: Id::generate(),
            tenant: wanted.tenant,
            name: wanted.name,
            load,
            version,
            status: Status::Proposed,
            reason: String::new(),
            waves: shares,
            failures_per_mille: (failures * 10.0).round() as u32,
            timeout: hours * 3_600,
            created_by: caller.label(),
            created_at: self.now(),
            decided_by: None,
            decided_at: None,
            ended_at: None,
            revision: 1,
        };
        let (caller, target, id) = (caller.clone(), wanted.target, campaign.id);
        let command = move |tx: &mut Tx<'_>| {
            // Whoever removed it meanwhile was faster: a campaign without its image could only fail.
            if let Load::Firmware { sha256, .. } = &campaign.load
                && store::firmware(tx, &campaign.tenant, Some(sha256))?.is_empty()
            {
                return Err(Error::field("/firmware", "the department has no image of this SHA-256"));
            }
            let members = chosen(tx, &campaign, &target)?;
            let mut rest = members.as_slice();
            let mut split = Vec::new();
            for size in model::sizes(&waves, members.len()) {
                let (these, others) = rest.split_at(size);
                split.push(these.to_vec());
                rest = others;
            }
            store::insert(tx, &caller, &campaign, &split)?;
            let campaign = store::get(tx, id)?.ok_or_else(missing)?;
            Ok::<_, Error>((campaign, store::waves(tx, id)?))
        };
        self.inner.records.write(command).await
    }

    async fn load(&self, wanted: &Proposal) -> Result<(Load, String), Error> {
        match (&wanted.firmware, &wanted.configuration) {
            (Some(sha256), None) => {
                let (tenant, asked) = (wanted.tenant.clone(), sha256.to_lowercase());
                let found = self
                    .inner
                    .records
                    .read(move |read| store::firmware(read, &tenant, Some(&asked)))
                    .await?
                    .pop()
                    .ok_or_else(|| Error::field("/firmware", "the department has no image of this SHA-256"))?;
                Ok((Load::Firmware { sha256: found.sha256, size: found.size }, found.version))
            }
            (None, Some(document)) => {
                if !document.is_object() || document.to_string().len() > DOCUMENT {
                    return Err(Error::field("/configuration", format!("a JSON object of at most {DOCUMENT} bytes")));
                }
                let version = wanted.version.clone().unwrap_or_default();
                check_word("/version", &version, 200)?;
                Ok((Load::Configuration { document: document.clone() }, version))
            }
            _ => Err(Error::field("/firmware", "either firmware or a configuration is expected")),
        }
    }

    /// Approves, rejects, pauses, resumes or aborts. `revision` is the one that the caller has seen.
    ///
    /// # Errors
    /// 404, 403 as everywhere, also for whoever approves their own proposal; 412 when somebody was faster; 409 when it cannot be done now.
    pub async fn decide(
        &self,
        caller: &Caller,
        id: Id<Campaign>,
        deed: Deed,
        revision: Option<u32>,
        comment: &str,
    ) -> Result<(Campaign, Vec<Wave>), Error> {
        let (campaign, _) = self.campaign(caller, id).await?;
        let action = match deed {
            Deed::Approve | Deed::Reject => action::TASK_APPROVE,
            Deed::Pause | Deed::Resume | Deed::Abort => action::DEVICE_MANAGE,
        };
        if !self.may_campaign(caller, action, &campaign.tenant) {
            return Err(Problem::forbidden("You may look at this campaign but not do this to it.").into());
        }
        let alone = self.may_campaign(caller, action::TASK_ALONE, &campaign.tenant);
        if !comment.is_empty() {
            check_word("/comment", comment, 500)?;
        }
        let (caller, comment) = (caller.clone(), comment.to_owned());
        let command = move |tx: &mut Tx<'_>| {
            let campaign = store::get(tx, id)?.ok_or_else(missing)?;
            if revision.is_some_and(|seen| seen != campaign.revision) {
                let detail = "Somebody has changed the campaign meanwhile. Look at it again, then decide.";
                return Err(Problem::new(
                    StatusCode::PRECONDITION_FAILED,
                    "campaign-changed",
                    "The campaign has changed meanwhile",
                    detail,
                )
                .into());
            }
            if deed == Deed::Approve && !alone && campaign.created_by == caller.label() {
                return Err(Problem::forbidden("Somebody else must approve what you have proposed.").into());
            }
            let Some(status) = deed.after(campaign.status) else {
                let detail = format!("The campaign is {}: it cannot be done now.", campaign.status.name());
                return Err(Error::conflict(detail));
            };
            store::set_status(tx, id, status, &comment, Some(&caller.label()))?;
            if deed == Deed::Resume {
                store::forgive(tx, &campaign)?;
            }
            let name = format!("campaign:{}", deed.name());
            store::audit(tx, &caller, &campaign, &name, json!({"from": campaign.status.name(), "comment": comment}))?;
            store::advance(tx, id)?;
            let campaign = store::get(tx, id)?.ok_or_else(missing)?;
            Ok((campaign, store::waves(tx, id)?))
        };
        self.inner.records.write(command).await
    }

    /// A campaign and the numbers of its waves.
    ///
    /// # Errors
    /// 404 when there is none, or the caller may not see the department's devices.
    pub async fn campaign(&self, caller: &Caller, id: Id<Campaign>) -> Result<(Campaign, Vec<Wave>), Error> {
        let found = self
            .inner
            .records
            .read(move |read| {
                let Some(campaign) = store::get(read, id)? else { return Ok(None) };
                Ok::<_, records::Error>(Some((campaign, store::waves(read, id)?)))
            })
            .await?;
        found.filter(|(c, _)| self.may_campaign(caller, action::DEVICE_READ, &c.tenant)).ok_or_else(missing)
    }

    /// Up to 100 campaigns of a tenant, newest first; `before` is the last id of the page before.
    ///
    /// # Errors
    /// 404 when the caller may not see the department's devices.
    pub async fn campaigns(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        before: Option<Id<Campaign>>,
    ) -> Result<Vec<Campaign>, Error> {
        if !self.may_campaign(caller, action::DEVICE_READ, tenant) {
            return Err(Error::not_found("The list"));
        }
        let (tenant, before) = (tenant.clone(), before.map_or_else(|| "~".to_owned(), |id| id.to_string()));
        Ok(self.inner.records.read(move |read| store::list(read, &tenant, &before, PAGE)).await?)
    }

    /// The numbers of all waves of some campaigns together, which the caller has been shown.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn totals(&self, ids: &[Id<Campaign>]) -> Result<std::collections::HashMap<Id<Campaign>, Wave>, Error> {
        let ids: Vec<Id<Campaign>> = ids.iter().copied().take(PAGE).collect();
        let found = self.inner.records.read(move |read| store::totals(read, &ids)).await;
        Ok(found.map_err(|e: records::Error| e)?.into_iter().collect())
    }

    /// Up to 100 devices of a campaign that are in a stage, by their ids.
    ///
    /// # Errors
    /// As [`Devices::campaign`].
    pub async fn members(
        &self,
        caller: &Caller,
        id: Id<Campaign>,
        stage: Stage,
        after: Option<Id<Device>>,
    ) -> Result<Vec<Member>, Error> {
        self.campaign(caller, id).await?;
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        Ok(self.inner.records.read(move |read| store::members(read, id, stage, &after, PAGE)).await?)
    }

    /// What a device is to do now, if anything: as it is sent to it.
    ///
    /// # Errors
    /// When the register cannot be read.
    pub async fn command_for(&self, device: Id<Device>) -> Result<Option<Value>, Error> {
        let found = self.inner.records.read(move |read| store::open_command(read, device)).await?;
        Ok(found.map(|campaign| command(&campaign)))
    }

    /// What a device says of its command. Saying it again changes nothing.
    ///
    /// # Errors
    /// 404 for a campaign that is not the device's, 409 for a command that it was not sent, 400 for another word.
    pub async fn heard(&self, device: Id<Device>, word: &Word) -> Result<(), Error> {
        let detail = word.detail.clone().unwrap_or_default();
        if detail.len() > 500 || detail.chars().any(char::is_control) {
            return Err(Error::field("/detail", "at most 500 bytes without control characters are expected"));
        }
        let (id, said, now) = (word.campaign, word.state, self.now());
        let command = move |tx: &mut Tx<'_>| {
            let campaign = store::get(tx, id)?.ok_or_else(missing)?;
            let at = store::stage(tx, id, device)?.ok_or_else(missing)?;
            let to = at.1.after(said).map_err(|model::Unasked| match said {
                Stage::Downloading | Stage::Installed | Stage::Failed => {
                    Error::conflict("The command was not sent to this device yet.")
                }
                _ => Error::field("/state", "downloading, installed or failed is expected"),
            })?;
            let Some(to) = to else { return Ok(None) };
            let mut firmware = None;
            store::step(tx, id, device, at, to, &detail)?;
            if to == Stage::Installed && matches!(campaign.load, Load::Firmware { .. }) {
                let sql = "UPDATE sensing_device SET firmware = $2 WHERE id = $1";
                tx.execute(sql, records::params![device, campaign.version])?;
                firmware = Some(campaign.version);
            }
            store::advance(tx, id)?;
            Ok::<_, Error>(firmware)
        };
        if let Some(firmware) = self.inner.records.write(command).await? {
            // What it said of itself before, and what is not written down yet, is over.
            let report = super::Report { firmware: Some(firmware), ..super::Report::default() };
            self.inner.live.said(&device.to_string(), now, &report);
        }
        Ok(())
    }

    /// Runs the jobs of campaigns until told to stop.
    ///
    /// # Errors
    /// When the records have closed.
    pub async fn run_campaigns(&self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let policy = RetryPolicy { longest_pause: Duration::from_secs(60), ..RetryPolicy::default() };
        let jobs = self.inner.records.jobs().with_policy(policy);
        let devices = self.clone();
        let work = move |job: Job| devices.clone().work(job);
        Ok(jobs.run(QUEUE, CONCURRENCY, work, shutdown).await?)
    }

    /// One look at a campaign, or one wave that is told.
    pub(super) async fn work(self, job: Job) -> Result<(), JobFailure> {
        if let Some(scope) = job.payload["lifted"].as_str() {
            let tenant = Tenant::parse(scope).ok();
            let lifted = self.inner.records.write(move |tx| {
                tx.complete(&job)?;
                store::go_on(tx, tenant.as_ref())
            });
            return lifted.await.map_err(|error: records::Error| JobFailure::Retry(error.to_string()));
        }
        let id = job.payload["campaign"].as_str().and_then(|id| id.parse().ok());
        let Some(id) = id else { return Err(JobFailure::GiveUp("the job names no campaign".to_owned())) };
        let failed = |error: Error| JobFailure::Retry(error.to_string());
        match job.payload["tell"].as_i64() {
            None => self
                .inner
                .records
                .write(move |tx| {
                    tx.complete(&job)?;
                    store::advance(tx, id)
                })
                .await
                .map_err(failed),
            Some(wave) => self.tell_wave(id, wave).await.map_err(failed),
        }
    }

    async fn tell_wave(&self, id: Id<Campaign>, wave: i64) -> Result<(), Error> {
        let Some(tell) = self.inner.tell.get() else { return Ok(()) };
        let found = self.inner.records.read(move |read| {
            let campaign = store::get(read, id)?;
            let stopped = campaign.as_ref().map(|c| crate::tasking::is_stopped(read, &c.tenant)).transpose()?;
            Ok::<_, records::Error>(campaign.filter(|_| stopped != Some(true)))
        });
        let Some(campaign) = found.await? else { return Ok(()) };
        if campaign.status != Status::Running {
            return Ok(());
        }
        let (command, mut after) = (command(&campaign), String::new());
        loop {
            let from = after.clone();
            let found = self.inner.records.read(move |read| store::to_tell(read, id, wave, &from, TOLD)).await?;
            let Some(last) = found.last() else { return Ok(()) };
            after = last.to_string();
            tell(&found.iter().map(|device| format!("device:{device}")).collect(), &command);
        }
    }
}

/// The devices of a campaign, in an order that has nothing to do with where they stand: the first wave is no single district.
fn chosen(tx: &mut Tx<'_>, campaign: &Campaign, target: &Target) -> Result<Vec<Id<Device>>, Error> {
    let found = store::candidates(tx, &campaign.tenant, target.kind.as_deref(), DEVICES + 1)?;
    if found.len() > DEVICES {
        return Err(Error::field("/target", format!("more than {DEVICES} devices; name a kind")));
    }
    let named: HashSet<&str> = target.devices.iter().map(String::as_str).collect();
    let known: HashSet<&str> = found.iter().map(|(_, key, _)| key.as_str()).collect();
    if let Some(unknown) = named.iter().find(|key| !known.contains(**key)) {
        let unknown: String = unknown.chars().take(80).collect();
        return Err(Error::field("/target/devices", format!("there is no device '{unknown}' in service")));
    }
    let firmware = matches!(campaign.load, Load::Firmware { .. });
    let mut members: Vec<(Vec<u8>, Id<Device>)> = found
        .into_iter()
        .filter(|(_, key, _)| named.is_empty() || named.contains(key.as_str()))
        .filter(|(_, _, has)| !(firmware && has.as_ref() == Some(&campaign.version)))
        .map(|(id, ..)| (Sha256::digest(format!("{} {id}", campaign.id)).to_vec(), id))
        .collect();
    if members.is_empty() {
        let detail = "no device in service is meant, or all of them have this version already";
        return Err(Error::field("/target", detail));
    }
    members.sort_unstable();
    Ok(members.into_iter().map(|(_, id)| id).collect())
}

/// What a device is told.
fn command(campaign: &Campaign) -> Value {
    let mut out = json!({
        "campaign": campaign.id, "name": campaign.name, "kind": campaign.load.kind(), "version": campaign.version,
    });
    match &campaign.load {
        Load::Firmware { sha256, size } => {
            out["sha256"] = json!(sha256);
            out["size"] = json!(size);
            out["url"] = json!(format!("/api/devices/self/firmware/{sha256}"));
        }
        Load::Configuration { document } => out["document"] = document.clone(),
    }
    out
}

/// The id of the device that a caller is.
pub fn device_of(caller: &Caller) -> Option<Id<Device>> {
    match &caller.principal {
        Principal::Device { id } => id.parse().ok(),
        _ => None,
    }
}
