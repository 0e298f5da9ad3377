//! The register of devices: who they are, which key they carry, whose Datastreams they may add to, how they are doing.

pub mod api;
pub mod bulk;
pub mod campaign;
pub mod certificate;
pub mod claim;
pub mod desk;
#[cfg(test)]
mod fleet_tests;
mod live;
mod model;
pub mod own;
mod places;
mod store;
#[cfg(test)]
mod tests;
pub mod token;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kernel::{Caller, Id, Policy, Principal, Resource, Tenant, Timestamp};
use records::Records;

pub use model::{
    Change, Condition, Decommissioned, Device, DeviceKey, DeviceState, Health, NewDevice, Report, patience,
};
pub use places::{Place, Stream};

use crate::{
    Error,
    model::{DatastreamInfo, EntityId},
    query::Series,
    route::action,
};
use live::{Entry, Live};
use model::check_word;
use token::Kind;

/// Things of one device.
const THINGS: usize = 1_000;
/// Keys of one device that are good at once.
const KEYS: usize = 10;
/// Devices on a page of the list.
const PAGE: usize = 200;
/// Rows written down in one transaction.
const CHUNK: usize = 1_000;
/// Devices that one look at the desk goes through.
const SURVEY: usize = 5_000;

/// What the MQTT door offers: takes a caller's label.
pub type Cut = Box<dyn Fn(&str) -> usize + Send + Sync>;

/// How the MQTT door ends what a device has there.
pub struct Cuts {
    /// Its connections. Its sessions stay and wait for it.
    pub connections: Cut,
    /// Its connections, and its sessions with their subscriptions.
    pub sessions: Cut,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Devices {
    inner: Arc<Inner>,
}

struct Inner {
    records: Records,
    policy: Arc<dyn Policy>,
    live: Live,
    /// Grows with every change after which a cached caller may be wrong.
    generation: AtomicU64,
    cut: OnceLock<Cuts>,
    /// The heads of the Datastreams that tell of devices.
    series: OnceLock<Arc<dyn Series>>,
    /// Those who try claim codes.
    guessers: claim::Guard,
    /// How devices that listen are told what they are to do.
    tell: OnceLock<campaign::Tell>,
    /// Until when keys that ended have cut the connections that were opened with them.
    cut_until: AtomicI64,
}

/// A key that was just made.
pub struct NewKey {
    /// To be shown once.
    pub secret: String,
    pub prefix: String,
}

impl Devices {
    /// Brings the tables up to date. Blocks; may be called anywhere.
    pub fn open(records: Records, policy: Arc<dyn Policy>) -> Result<Self, Error> {
        records.migrate("sensing_devices", store::MIGRATIONS)?;
        let cut_until = AtomicI64::new(records.now().as_micros());
        let (live, generation, cut) = (Live::default(), AtomicU64::new(0), OnceLock::new());
        let (series, guessers, tell) = (OnceLock::new(), claim::Guard::default(), OnceLock::new());
        let inner = Inner { records, policy, live, generation, cut, series, guessers, tell, cut_until };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Says how connections are ended whose key or device is no longer good. Once; later calls change nothing.
    pub fn cutting_with(&self, cuts: Cuts) {
        drop(self.inner.cut.set(cuts));
    }
    /// Says where the latest values of Datastreams are. Once; later calls change nothing.
    pub fn reading_from(&self, series: Arc<dyn Series>) {
        drop(self.inner.series.set(series));
    }
    /// A connection is let in by its key and stays open without it, so that whoever takes a key away must end it. A device that has another
    /// good key comes back by itself.
    fn cut(&self, id: Id<Device>) {
        if let Some(cuts) = self.inner.cut.get() {
            (cuts.connections)(&format!("device:{id}"));
        }
    }
    /// Whose device is gone for good subscribes to nothing any more.
    fn cut_off(&self, id: Id<Device>) {
        if let Some(cuts) = self.inner.cut.get() {
            (cuts.sessions)(&format!("device:{id}"));
        }
    }

    fn now(&self) -> Timestamp {
        self.inner.records.now()
    }

    fn may(&self, caller: &Caller, manage: bool, tenant: &Tenant) -> bool {
        let action = if manage { action::DEVICE_MANAGE } else { action::DEVICE_READ };
        self.inner.policy.allows(
            caller,
            action,
            &Resource { kind: "Device", id: "", tenant: Some(tenant), public: false },
        )
    }

    /// Whether a caller may see, or also manage, the devices of a department.
    pub fn allows(&self, caller: &Caller, manage: bool, tenant: &Tenant) -> bool {
        self.may(caller, manage, tenant)
    }

    /// 404 for those who may not even read it, 403 for those who may only read.
    fn demand(&self, caller: &Caller, manage: bool, device: &Device) -> Result<(), Error> {
        if self.may(caller, manage, &device.tenant) {
            return Ok(());
        }
        if manage && self.may(caller, false, &device.tenant) {
            return Err(kernel::Problem::forbidden("You may look at this device but not change it.").into());
        }
        Err(Error::not_found("The device"))
    }

    async fn find(&self, id: Id<Device>) -> Result<Device, Error> {
        let found = self.inner.records.read(move |read| store::get(read, id)).await?;
        let mut device = found.ok_or_else(|| Error::not_found("The device"))?;
        for key in &mut device.keys {
            key.used_at = key.used_at.max(self.inner.live.last_used(&key.prefix));
        }
        Ok(device)
    }

    /// Adds a device. It has no key yet.
    pub async fn register(&self, caller: &Caller, new: NewDevice) -> Result<Device, Error> {
        Tenant::parse(new.tenant.as_str()).map_err(|detail| Error::field("/tenant", detail))?;
        if !self.may(caller, true, &new.tenant) {
            return Err(kernel::Problem::forbidden("You may not register devices of this department.").into());
        }
        check_word("/key", &new.key, 80)?;
        check_word("/kind", &new.kind, 80)?;
        for (field, text) in [("/name", &new.name), ("/firmware", &new.firmware)] {
            text.as_deref().map_or(Ok(()), |text| check_word(field, text, 200))?;
        }
        check_things(&new.things)?;
        let (caller, id) = (caller.clone(), Id::generate());
        self.inner.records.write(move |tx| store::insert(tx, &caller, id, &new)).await
    }

    pub async fn get(&self, caller: &Caller, id: Id<Device>) -> Result<Device, Error> {
        let device = self.find(id).await?;
        self.demand(caller, false, &device)?;
        Ok(device)
    }

    /// A device that the caller may change.
    ///
    /// # Errors
    /// 404 for those who may not even read it, 403 for those who may only read.
    pub async fn managed(&self, caller: &Caller, id: Id<Device>) -> Result<Device, Error> {
        let device = self.find(id).await?;
        self.demand(caller, true, &device)?;
        Ok(device)
    }

    /// Up to 200 devices of a tenant in the order of their keys; `after` is the last key of the page before.
    pub async fn list(&self, caller: &Caller, tenant: &Tenant, after: Option<&str>) -> Result<Vec<Device>, Error> {
        if !self.may(caller, false, tenant) {
            return Err(Error::not_found("The list"));
        }
        let (tenant, after) = (tenant.clone(), after.unwrap_or("").to_owned());
        Ok(self.inner.records.read(move |read| store::list(read, &tenant, &after, PAGE)).await?)
    }

    /// Up to 200 devices of a tenant in a condition, the worst first; `after` is [`Condition::place`] of the last of the page before.
    ///
    /// # Errors
    /// 404 when the caller may not see the department's devices.
    pub async fn in_condition(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        condition: Condition,
        after: Option<(i64, String)>,
    ) -> Result<Vec<Device>, Error> {
        if !self.may(caller, false, tenant) {
            return Err(Error::not_found("The list"));
        }
        let (tenant, after) = (tenant.clone(), after.unwrap_or((i64::MIN, String::new())));
        Ok(self.inner.records.read(move |read| store::in_condition(read, &tenant, condition, &after, PAGE)).await?)
    }

    /// Devices of a tenant with their health, up to 5,000 after a key, and whether there are more: for a desk that sorts them by how they are, which no
    /// index knows.
    pub async fn survey(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        after: &str,
    ) -> Result<(Vec<(Device, Health)>, bool), Error> {
        if !self.may(caller, false, tenant) {
            return Err(Error::not_found("The list"));
        }
        let (tenant, after) = (tenant.clone(), after.to_owned());
        let mut found = self.inner.records.read(move |read| store::list(read, &tenant, &after, SURVEY + 1)).await?;
        let more = found.len() > SURVEY;
        found.truncate(SURVEY);
        let with_health = found.into_iter().map(|device| {
            let health = self.health(&device);
            (device, health)
        });
        Ok((with_health.collect(), more))
    }

    /// The shortest interval that the Datastreams of each device of a tenant expect, in seconds.
    pub async fn intervals(&self, tenant: &Tenant) -> Result<std::collections::HashMap<Id<Device>, i64>, Error> {
        let tenant = tenant.clone();
        Ok(self.inner.records.read(move |read| places::intervals(read, &tenant)).await?)
    }

    /// The same for the devices of a page, at most 200.
    pub async fn intervals_of(
        &self,
        devices: &[Id<Device>],
    ) -> Result<std::collections::HashMap<Id<Device>, i64>, Error> {
        let devices: Vec<Id<Device>> = devices.iter().copied().take(PAGE).collect();
        Ok(self.inner.records.read(move |read| places::intervals_of(read, &devices)).await?)
    }

    /// Things of a tenant with their Datastreams, as a device may be given to them.
    pub async fn places(&self, tenant: &Tenant, things: &[EntityId]) -> Result<Vec<Place>, Error> {
        let (tenant, things) = (tenant.clone(), things.to_vec());
        Ok(self.inner.records.read(move |read| places::places(read, &tenant, &things)).await?)
    }

    /// Things of a tenant whose name, key or number contains `sought`; without a word, those that no device writes to yet.
    pub async fn find_places(&self, tenant: &Tenant, sought: &str, most: usize) -> Result<Vec<Place>, Error> {
        let (tenant, sought) = (tenant.clone(), sought.to_lowercase());
        Ok(self.inner.records.read(move |read| places::find(read, &tenant, &sought, most)).await?)
    }

    pub async fn update(&self, caller: &Caller, id: Id<Device>, change: Change) -> Result<Device, Error> {
        let device = self.find(id).await?;
        self.demand(caller, true, &device)?;
        for (field, text, most) in
            [("/name", &change.name, 200), ("/kind", &change.kind, 80), ("/firmware", &change.firmware, 200)]
        {
            // No word for the firmware is a word too: it is not known any more.
            let given = text.as_deref().filter(|text| !(text.is_empty() && field == "/firmware"));
            given.map_or(Ok(()), |text| check_word(field, text, most))?;
        }
        check_things(change.things.as_deref().unwrap_or_default())?;
        let caller = caller.clone();
        let device = self.inner.records.write(move |tx| store::update(tx, &caller, &device, &change)).await?;
        self.changed(&device);
        Ok(device)
    }

    pub async fn delete(&self, caller: &Caller, id: Id<Device>) -> Result<(), Error> {
        let device = self.find(id).await?;
        self.demand(caller, true, &device)?;
        let caller = caller.clone();
        self.inner.records.write(move |tx| store::delete(tx, &caller, &device)).await?;
        self.gone(id);
        Ok(())
    }

    fn gone(&self, id: Id<Device>) {
        self.inner.live.remove(&id.to_string());
        self.inner.generation.fetch_add(1, Relaxed);
        self.cut_off(id);
    }

    /// The end of a device: its keys, certificates and claim are cut, its subscriptions end, what it has measured stays, and the register says who
    /// did it, when and why. It cannot be undone; its key in the register stays taken, so that nobody takes another for it.
    ///
    /// # Errors
    /// 404, 403 as everywhere; 409 when it is decommissioned already.
    pub async fn decommission(&self, caller: &Caller, id: Id<Device>, reason: &str) -> Result<Device, Error> {
        let device = self.find(id).await?;
        self.demand(caller, true, &device)?;
        check_word("/reason", reason, 500)?;
        let (caller, reason) = (caller.clone(), reason.to_owned());
        let device = self.inner.records.write(move |tx| store::decommission(tx, &caller, &device, &reason)).await?;
        self.gone(id);
        Ok(device)
    }

    /// A further key. The others stay good.
    pub async fn issue_key(
        &self,
        caller: &Caller,
        id: Id<Device>,
        expires_at: Option<Timestamp>,
    ) -> Result<NewKey, Error> {
        self.make_key(caller, id, expires_at, None).await
    }

    /// A new key; the others end after `grace`, so that the device can be given the new one without a gap.
    pub async fn rotate_key(&self, caller: &Caller, id: Id<Device>, grace: Duration) -> Result<NewKey, Error> {
        let micros = i64::try_from(grace.as_micros()).unwrap_or(i64::MAX);
        self.make_key(caller, id, None, Some(self.now().plus_micros(micros))).await
    }

    async fn make_key(
        &self,
        caller: &Caller,
        id: Id<Device>,
        expires_at: Option<Timestamp>,
        others: Option<Timestamp>,
    ) -> Result<NewKey, Error> {
        let device = self.find(id).await?;
        self.demand(caller, true, &device)?;
        self.key_for(caller, device, expires_at, others).await
    }

    /// A key for a device that the caller may give one to.
    async fn key_for(
        &self,
        caller: &Caller,
        device: Device,
        expires_at: Option<Timestamp>,
        others: Option<Timestamp>,
    ) -> Result<NewKey, Error> {
        let (id, now) = (device.id, self.now());
        let at_once = others.is_some_and(|at| at <= now);
        let good = device.keys.iter().filter(|k| k.expires_at.is_none_or(|at| at > now)).count();
        if good >= KEYS {
            return Err(Error::conflict(format!("The device has {good} keys already. Revoke one first.")));
        }
        let key = token::issue(Kind::Device);
        let (caller, prefix, hash) = (caller.clone(), key.prefix.clone(), key.hash.clone());
        self.inner
            .records
            .write(move |tx| store::insert_key(tx, &caller, &device, (&prefix, &hash), expires_at, others))
            .await?;
        self.inner.generation.fetch_add(1, Relaxed);
        if at_once {
            self.cut(id);
        }
        Ok(NewKey { secret: key.text, prefix: key.prefix })
    }

    pub async fn revoke_key(&self, caller: &Caller, id: Id<Device>, prefix: &str) -> Result<(), Error> {
        let device = self.find(id).await?;
        self.demand(caller, true, &device)?;
        let (caller, prefix) = (caller.clone(), prefix.to_owned());
        self.inner.records.write(move |tx| store::delete_key(tx, &caller, &device, &prefix)).await?;
        self.inner.generation.fetch_add(1, Relaxed);
        self.cut(id);
        Ok(())
    }

    /// The caller behind a device's key; `None` for every key that is not good, whatever the reason.
    pub async fn authenticate(&self, key: &str) -> Result<Option<Caller>, Error> {
        let Some((Kind::Device, prefix)) = token::parse(key) else { return Ok(None) };
        let (prefix, now) = (prefix.to_owned(), self.now());
        let asked = prefix.clone();
        let found = self.inner.records.read(move |read| store::by_prefix(read, &asked, now)).await?;
        let Some((device, hash)) = found else { return Ok(None) };
        if !token::matches(key, &hash) {
            return Ok(None);
        }
        self.inner.live.used(&prefix, now);
        Ok(Some(self.come_in(&device)))
    }

    /// The caller that a device is, known to this process from now on.
    fn come_in(&self, device: &Device) -> Caller {
        self.inner.live.put(&device.id.to_string(), entry(device));
        as_caller(device)
    }

    /// Whether a caller may add Observations to a Datastream: what the policy says, and for a device, that the Thing is its own. Answers from
    /// memory.
    pub fn may_publish(&self, caller: &Caller, datastream: &DatastreamInfo) -> bool {
        if let Principal::Device { id } = &caller.principal {
            let own = self.inner.live.get(id).is_some_and(|device| {
                device.tenant == datastream.tenant && (device.gateway || device.things.contains(&datastream.thing))
            });
            if !own {
                return false;
            }
        }
        let resource =
            Resource { kind: "Datastream", id: "", tenant: Some(&datastream.tenant), public: datastream.public };
        self.inner.policy.allows(caller, action::OBSERVE, &resource)
    }

    /// Whether a caller is a device of this tenant, in service, that has the Thing (a gateway has all of them). Answers from memory.
    pub fn has(&self, caller: &Caller, tenant: &Tenant, thing: EntityId) -> bool {
        let Principal::Device { id } = &caller.principal else { return false };
        let entry = self.inner.live.get(id);
        entry.is_some_and(|device| device.tenant == *tenant && (device.gateway || device.things.contains(&thing)))
    }

    /// A device sent `count` Observations; `phenomenon` is the time of the newest. Callers that are no device are ignored.
    pub fn observed(&self, caller: &Caller, phenomenon: Option<Timestamp>, count: u64) {
        if let Principal::Device { id } = &caller.principal {
            self.inner.live.observed(id, self.now(), phenomenon, count);
        }
    }
    /// A device sent what was refused, and why.
    pub fn refused(&self, caller: &Caller, why: &str) {
        if let Principal::Device { id } = &caller.principal {
            self.inner.live.refused(id, self.now(), why);
        }
    }
    /// A device's MQTT connection began or ended.
    pub fn connected(&self, caller: &Caller, connected: bool) {
        if let Principal::Device { id } = &caller.principal {
            self.inner.live.connected(id, self.now(), connected);
        }
    }
    /// How a device is doing; the zero of everything for one that has not spoken to this process.
    pub fn health(&self, device: &Device) -> Health {
        let live = self.inner.live.health(&device.id.to_string(), self.now()).unwrap_or_default();
        let (refused_at, refusal) = if device.refused_at > live.refused_at {
            (device.refused_at, device.refusal.clone())
        } else {
            (live.refused_at, live.refusal)
        };
        Health {
            seen_at: live.seen_at.max(device.seen_at),
            observed_at: live.observed_at.max(device.observed_at),
            refused_at,
            refusal,
            battery: live.battery.or(device.battery),
            signal: live.signal.or(device.signal),
            skew_micros: live.skew_micros.or(device.skew_micros),
            ..live
        }
    }
    /// Devices heard of by this process within a day.
    pub fn live(&self) -> usize {
        self.inner.live.len()
    }

    /// Changes whenever a key, a device or its rights changed: who caches callers forgets them then.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Relaxed)
    }

    /// Writes down when devices were last heard of and keys last used, and ends connections whose key has ended meanwhile. To be called about once a
    /// minute and before the end.
    pub async fn persist(&self) -> Result<usize, Error> {
        self.look_up_vitals().await?;
        let series = self.inner.series.get().cloned();
        let latest = |id: EntityId| series.as_ref()?.latest(id)?.result.number();
        let unwritten = self.inner.live.unwritten(self.now(), &latest);
        for chunk in unwritten.chunks(CHUNK) {
            let rows = chunk.to_vec();
            self.inner.records.write(move |tx| store::saw(tx, &rows)).await?;
            self.inner.live.wrote(chunk);
        }
        let used = self.inner.live.take_used();
        for chunk in used.chunks(CHUNK) {
            let rows = chunk.to_vec();
            self.inner.records.write(move |tx| store::used(tx, &rows)).await?;
        }
        let (from, until) = (Timestamp::from_micros(self.inner.cut_until.load(Relaxed)), self.now());
        let ended = self.inner.records.read(move |read| store::expired(read, from, until)).await?;
        self.inner.cut_until.store(until.as_micros(), Relaxed);
        ended.into_iter().for_each(|id| self.cut(id));
        self.cut_uncertified();
        Ok(unwritten.len())
    }

    /// Which Datastreams tell of the devices that were heard of: a query for 500 Things, now and then, never one for a message.
    async fn look_up_vitals(&self) -> Result<(), Error> {
        let (now, unread) = (self.now(), self.inner.live.unread(self.now()));
        for chunk in unread.chunks(CHUNK) {
            let mut things: Vec<EntityId> = chunk.iter().flat_map(|(_, things)| things.iter().copied()).collect();
            things.sort_unstable();
            things.dedup();
            let found = self.inner.records.read(move |read| places::vitals(read, &things)).await?;
            for (device, things) in chunk {
                let Some(entry) = self.inner.live.get(device) else { continue };
                let told = things.iter().filter_map(|thing| found.get(thing)).flatten();
                let own = told.filter(|(tenant, _)| *tenant == entry.tenant).map(|(_, telling)| *telling).collect();
                self.inner.live.tell(device, now, own);
            }
        }
        Ok(())
    }

    fn changed(&self, device: &Device) {
        let id = device.id.to_string();
        if !device.enabled {
            self.inner.live.remove(&id);
            self.cut(device.id);
        } else if self.inner.live.get(&id).is_some() {
            self.inner.live.put(&id, entry(device));
        }
        self.inner.generation.fetch_add(1, Relaxed);
    }
}

fn entry(device: &Device) -> Entry {
    Entry::new(device.tenant.clone(), device.gateway, device.things.iter().copied().collect())
}

/// The caller that a device is.
fn as_caller(device: &Device) -> Caller {
    Caller {
        principal: Principal::Device { id: device.id.to_string().into() },
        tenant: Some(device.tenant.clone()),
        roles: std::collections::BTreeSet::new(),
    }
}

fn check_things(things: &[EntityId]) -> Result<(), Error> {
    if things.len() > THINGS {
        return Err(Error::field(
            "/things",
            format!("{} Things; at most {THINGS}, or make it a gateway", things.len()),
        ));
    }
    Ok(())
}
