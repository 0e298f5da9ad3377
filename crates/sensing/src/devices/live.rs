//! What is known of devices that talk to this process: in memory, written down about once a minute, never once per message.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use kernel::{Tenant, Timestamp};
use parking_lot::{Mutex, RwLock};

use super::model::{Health, Report};
use crate::model::EntityId;

/// Devices that were not heard of for so long are forgotten here; their next sign-in brings them back.
const FORGET: i64 = 24 * 3_600 * 1_000_000;
const MINUTE: i64 = 60_000_000;
/// Devices at most; beyond it the longest silent ones go.
const MOST: usize = 1_000_000;
/// Keys whose last use waits to be written down; more are not noted until the next minute.
const MOST_KEYS: usize = 1_000_000;

/// Characters of a refusal that are kept.
const REASON: usize = 300;

/// What is written down of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub device: String,
    pub seen: Timestamp,
    pub observed: Option<Timestamp>,
    pub refused: Option<(Timestamp, Arc<str>)>,
    pub battery: Option<i64>,
    pub signal: Option<i64>,
    pub skew: Option<i64>,
    pub firmware: Option<String>,
}

/// What a Datastream of a device's Thing may tell of the device itself: `health` among the Datastream's properties. `"battery"` is a charge in percent,
/// `"signal"` a strength in dBm, `{"is": "battery", "empty": 11.8, "full": 13.8}` a charge by the voltage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Vital {
    /// Between the results that mean 0 and 100 percent.
    Battery(f64, f64),
    /// dBm.
    Signal,
}

impl Vital {
    pub fn of(declared: &serde_json::Value) -> Option<Self> {
        let name = declared.as_str().or_else(|| declared.get("is")?.as_str())?;
        let number = |key: &str, usual: f64| match declared.get(key) {
            None => Some(usual),
            Some(value) => value.as_f64(),
        };
        match name {
            "battery" => {
                let (empty, full) = (number("empty", 0.0)?, number("full", 100.0)?);
                (full > empty).then_some(Self::Battery(empty, full))
            }
            "signal" => Some(Self::Signal),
            _ => None,
        }
    }

    fn set(self, result: f64, said: &mut Said) {
        match self {
            Self::Battery(empty, full) => {
                let percent = (result - empty) / (full - empty) * 100.0;
                said.battery = Some((percent.round() as i64).clamp(0, 100));
            }
            Self::Signal => said.signal = Some((result.round() as i64).clamp(-200, 50)),
        }
    }
}

/// Datastreams that tell of the device, and when they were looked up.
pub type Vitals = Arc<[(EntityId, Vital)]>;

/// How long it is believed which Datastreams those are.
const BELIEVED: i64 = 10 * MINUTE;

/// Differences between arrival and a device's own time, of its last messages.
const SAMPLES: usize = 8;

/// A message can be late and cannot be early: of the last eight the promptest tell how the clock stands. The second, because one that is dated
/// into the future by mistake is no clock.
#[derive(Clone, Copy, Default)]
struct Clock {
    last: [i64; SAMPLES],
    count: usize,
}

impl Clock {
    fn take(&mut self, difference: i64) {
        self.last[self.count % SAMPLES] = difference;
        self.count += 1;
    }
    fn skew(&self) -> Option<i64> {
        let mut known = self.last;
        let known = &mut known[..self.count.min(SAMPLES)];
        known.sort_unstable();
        known.get(usize::from(known.len() > 2)).copied()
    }
}

pub struct Entry {
    pub tenant: Tenant,
    pub gateway: bool,
    pub things: HashSet<EntityId>,
    seen: AtomicI64,
    observed: AtomicI64,
    refused: Mutex<Option<(Timestamp, Arc<str>)>>,
    /// What `seen` was when it was last written down.
    written: AtomicI64,
    observations: AtomicU64,
    errors: AtomicU64,
    said: Mutex<Said>,
    connected: AtomicBool,
    rate: Mutex<Rate>,
}

/// What a device said of itself, or its Datastreams of it.
#[derive(Clone, Default)]
struct Said {
    clock: Clock,
    battery: Option<i64>,
    signal: Option<i64>,
    firmware: Option<String>,
    vitals: Option<(Timestamp, Vitals)>,
}

#[derive(Default)]
struct Rate {
    minute: i64,
    now: u64,
    last: u64,
}

impl Rate {
    fn turn(&mut self, minute: i64) {
        if minute != self.minute {
            self.last = if minute == self.minute + 1 { self.now } else { 0 };
            (self.minute, self.now) = (minute, 0);
        }
    }
}

impl Entry {
    pub fn new(tenant: Tenant, gateway: bool, things: HashSet<EntityId>) -> Self {
        Self {
            tenant,
            gateway,
            things,
            seen: AtomicI64::new(i64::MIN),
            observed: AtomicI64::new(i64::MIN),
            refused: Mutex::default(),
            written: AtomicI64::new(i64::MIN),
            observations: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            said: Mutex::default(),
            connected: AtomicBool::new(false),
            rate: Mutex::default(),
        }
    }

    fn saw(&self, arrival: Timestamp) {
        self.seen.fetch_max(arrival.as_micros(), Relaxed);
    }

    fn observed(&self, arrival: Timestamp, phenomenon: Option<Timestamp>, count: u64) {
        self.saw(arrival);
        self.observed.fetch_max(arrival.as_micros(), Relaxed);
        self.observations.fetch_add(count, Relaxed);
        {
            let mut rate = self.rate.lock();
            rate.turn(arrival.as_micros().div_euclid(MINUTE));
            rate.now += count;
        }
        if let Some(phenomenon) = phenomenon {
            self.said.lock().clock.take(arrival.micros_since(phenomenon));
        }
    }

    /// What it said, and what its Datastreams show now, which is newer than what was said before.
    fn tellings(&self, latest: &dyn Fn(EntityId) -> Option<f64>) -> Said {
        let vitals = self.said.lock().vitals.clone();
        let shown: Vec<(Vital, f64)> = vitals
            .iter()
            .flat_map(|(_, vitals)| vitals.iter())
            .filter_map(|(id, vital)| Some((*vital, latest(*id).filter(|v| v.is_finite())?)))
            .collect();
        let mut said = self.said.lock();
        for (vital, result) in shown {
            vital.set(result, &mut said);
        }
        said.clone()
    }

    fn health(&self, now: Timestamp) -> Health {
        let some = |value: i64| (value != i64::MIN).then_some(value);
        let per_minute = {
            let mut rate = self.rate.lock();
            rate.turn(now.as_micros().div_euclid(MINUTE));
            rate.last
        };
        let refused = self.refused.lock().clone();
        let (skew_micros, battery, signal) = {
            let said = self.said.lock();
            (said.clock.skew(), said.battery, said.signal)
        };
        Health {
            seen_at: some(self.seen.load(Relaxed)).map(Timestamp::from_micros),
            observed_at: some(self.observed.load(Relaxed)).map(Timestamp::from_micros),
            refused_at: refused.as_ref().map(|(at, _)| *at),
            refusal: refused.map(|(_, why)| why.to_string()),
            per_minute,
            observations: self.observations.load(Relaxed),
            errors: self.errors.load(Relaxed),
            skew_micros,
            battery,
            signal,
            connected: self.connected.load(Relaxed),
        }
    }
}

#[derive(Default)]
pub struct Live {
    devices: RwLock<HashMap<Arc<str>, Arc<Entry>>>,
    /// Prefixes of keys that were used, and when, since it was last written down.
    used: Mutex<HashMap<String, Timestamp>>,
    /// Devices that came in with a certificate, and until when it is good.
    certified: Mutex<HashMap<Arc<str>, Timestamp>>,
}

impl Live {
    pub fn get(&self, device: &str) -> Option<Arc<Entry>> {
        self.devices.read().get(device).cloned()
    }

    /// Puts in what the register says now; what was counted stays.
    pub fn put(&self, device: &str, entry: Entry) {
        let mut all = self.devices.write();
        if let Some(old) = all.get(device) {
            for (to, from) in
                [(&entry.seen, &old.seen), (&entry.observed, &old.observed), (&entry.written, &old.written)]
            {
                to.store(from.load(Relaxed), Relaxed);
            }
            entry.refused.lock().clone_from(&old.refused.lock());
            let mut said = old.said.lock().clone();
            if old.things != entry.things {
                said.vitals = None;
            }
            *entry.said.lock() = said;
            entry.observations.store(old.observations.load(Relaxed), Relaxed);
            entry.errors.store(old.errors.load(Relaxed), Relaxed);
            entry.connected.store(old.connected.load(Relaxed), Relaxed);
            std::mem::swap(&mut *entry.rate.lock(), &mut *old.rate.lock());
        } else if all.len() >= MOST
            && let Some(oldest) = all.iter().min_by_key(|(_, e)| e.seen.load(Relaxed)).map(|(k, _)| k.clone())
        {
            all.remove(&oldest);
        }
        all.insert(device.into(), Arc::new(entry));
    }

    pub fn remove(&self, device: &str) {
        self.devices.write().remove(device);
    }

    pub fn observed(&self, device: &str, arrival: Timestamp, phenomenon: Option<Timestamp>, count: u64) {
        if let Some(entry) = self.get(device) {
            entry.observed(arrival, phenomenon, count);
        }
    }
    pub fn refused(&self, device: &str, arrival: Timestamp, why: &str) {
        if let Some(entry) = self.get(device) {
            entry.saw(arrival);
            entry.errors.fetch_add(1, Relaxed);
            let why = why.chars().filter(|c| !c.is_control()).take(REASON).collect::<String>();
            *entry.refused.lock() = Some((arrival, why.into()));
        }
    }
    /// A device says how it is.
    pub fn said(&self, device: &str, arrival: Timestamp, report: &Report) {
        let Some(entry) = self.get(device) else { return };
        entry.saw(arrival);
        let mut said = entry.said.lock();
        if let Some(time) = report.time {
            said.clock.take(arrival.micros_since(time));
        }
        said.battery = report.battery.map(|b| b.round() as i64).or(said.battery);
        said.signal = report.signal.map(|s| s.round() as i64).or(said.signal);
        if report.firmware.is_some() {
            said.firmware.clone_from(&report.firmware);
        }
    }
    /// Of devices that were heard of, those whose telling Datastreams are not known (any more), with their Things.
    pub fn unread(&self, now: Timestamp) -> Vec<(Arc<str>, Vec<EntityId>)> {
        let all = self.devices.read();
        let stale = |entry: &Entry| {
            let known = entry.said.lock().vitals.as_ref().is_some_and(|(at, _)| now.micros_since(*at) < BELIEVED);
            !known && !entry.things.is_empty() && entry.seen.load(Relaxed) != entry.written.load(Relaxed)
        };
        let found = all.iter().filter(|(_, entry)| stale(entry));
        found.map(|(device, entry)| (device.clone(), entry.things.iter().copied().collect())).collect()
    }
    pub fn tell(&self, device: &str, at: Timestamp, vitals: Vitals) {
        if let Some(entry) = self.get(device) {
            entry.said.lock().vitals = Some((at, vitals));
        }
    }

    /// A key was proved. Its device is known by then.
    pub fn used(&self, prefix: &str, at: Timestamp) {
        let mut used = self.used.lock();
        if used.len() < MOST_KEYS || used.contains_key(prefix) {
            used.insert(prefix.to_owned(), at);
        }
    }
    /// When a key was used, when that is not written down yet.
    pub fn last_used(&self, prefix: &str) -> Option<Timestamp> {
        self.used.lock().get(prefix).copied()
    }
    /// Until when the certificate is good that a device came in with.
    pub fn certified(&self, device: &str, until: Option<Timestamp>) {
        let mut all = self.certified.lock();
        match until {
            Some(until) if all.len() < MOST || all.contains_key(device) => drop(all.insert(device.into(), until)),
            _ => drop(all.remove(device)),
        }
    }
    /// Devices whose certificate is over; forgotten by being asked for.
    pub fn take_uncertified(&self, now: Timestamp) -> Vec<Arc<str>> {
        let mut over = Vec::new();
        self.certified.lock().retain(|device, until| {
            let good = *until > now;
            if !good {
                over.push(device.clone());
            }
            good
        });
        over
    }
    /// When keys were used since it was last asked.
    pub fn take_used(&self) -> Vec<(String, Timestamp)> {
        std::mem::take(&mut *self.used.lock()).into_iter().collect()
    }
    pub fn connected(&self, device: &str, arrival: Timestamp, connected: bool) {
        if let Some(entry) = self.get(device) {
            entry.saw(arrival);
            entry.connected.store(connected, Relaxed);
        }
    }
    pub fn health(&self, device: &str, now: Timestamp) -> Option<Health> {
        self.get(device).map(|entry| entry.health(now))
    }
    pub fn len(&self) -> usize {
        self.devices.read().len()
    }

    /// What must be written down: whoever was heard of since. Forgets the long silent.
    pub fn unwritten(&self, now: Timestamp, latest: &dyn Fn(EntityId) -> Option<f64>) -> Vec<Heard> {
        let mut all = self.devices.write();
        all.retain(|_, e| {
            let seen = e.seen.load(Relaxed);
            e.connected.load(Relaxed)
                || seen == i64::MIN
                || now.as_micros() - seen < FORGET
                || seen != e.written.load(Relaxed)
        });
        all.iter()
            .filter_map(|(device, entry)| {
                let seen = entry.seen.load(Relaxed);
                let observed = entry.observed.load(Relaxed);
                if seen == entry.written.load(Relaxed) {
                    return None;
                }
                let said = entry.tellings(latest);
                (seen != entry.written.load(Relaxed)).then(|| Heard {
                    device: device.to_string(),
                    seen: Timestamp::from_micros(seen),
                    observed: (observed != i64::MIN).then(|| Timestamp::from_micros(observed)),
                    refused: entry.refused.lock().clone(),
                    battery: said.battery,
                    signal: said.signal,
                    skew: said.clock.skew(),
                    firmware: said.firmware,
                })
            })
            .collect()
    }
    pub fn wrote(&self, written: &[Heard]) {
        for heard in written {
            if let Some(entry) = self.get(&heard.device) {
                entry.written.fetch_max(heard.seen.as_micros(), Relaxed);
                let mut said = entry.said.lock();
                // Said once, written once: what the register learns of it later, from a campaign or a person, is not undone every minute.
                if said.firmware == heard.firmware {
                    said.firmware = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_minutes_and_smooths_the_clock() {
        let live = Live::default();
        let tenant = Tenant::parse("dsd").unwrap();
        live.put("d", Entry::new(tenant.clone(), false, HashSet::new()));
        let at = |secs| Timestamp::from_secs(secs);
        live.observed("d", at(61), Some(at(51)), 3);
        assert_eq!(live.health("d", at(62)).unwrap().per_minute, 0, "the minute is not over");
        live.observed("d", at(121), Some(at(121)), 1);
        let health = live.health("d", at(122)).unwrap();
        assert_eq!((health.per_minute, health.observations, health.seen_at), (3, 4, Some(at(121))));
        assert_eq!(health.skew_micros, Some(0), "the promptest of two");
        assert_eq!(live.health("d", at(400)).unwrap().per_minute, 0);
        live.put("d", Entry::new(tenant, true, HashSet::new()));
        assert_eq!(live.health("d", at(122)).unwrap().observations, 4, "a change in the register forgets nothing");
    }

    #[test]
    fn late_messages_and_one_mistake_are_no_wrong_clock() {
        let check = |differences: &[i64], expect: Option<i64>| {
            let mut clock = Clock::default();
            differences.iter().for_each(|d| clock.take(*d));
            assert_eq!(clock.skew(), expect, "{differences:?}");
        };
        check(&[], None);
        check(&[7], Some(7));
        check(&[900, 2, 800, 700, 3, 600, 500, 400], Some(3));
        check(&[2, -86_400, 2, 3, 4, 2, 2, 2], Some(2));
        check(&[-60, -58, -59, -61, -60, -60, 500, -60], Some(-60));
        check(&[9, 9, 9, 9, 9, 9, 9, 9, 1, 1, 1, 1, 1, 1, 1, 1], Some(1));
    }

    #[test]
    fn a_device_is_what_it_says_and_what_its_datastreams_show() {
        let live = Live::default();
        let things = HashSet::from([EntityId(7)]);
        let tenant = Tenant::parse("dsd").unwrap();
        live.put("d", Entry::new(tenant.clone(), false, things.clone()));
        let at = Timestamp::from_secs;
        assert!(live.unread(at(1)).is_empty(), "not heard of yet");
        let report = Report { signal: Some(-71.4), firmware: Some("2".into()), time: Some(at(5)), battery: None };
        live.said("d", at(10), &report);
        assert_eq!(live.unread(at(11)), [("d".into(), vec![EntityId(7)])]);
        let declared = serde_json::json!({"is": "battery", "empty": 11.0, "full": 13.0});
        live.tell("d", at(11), [(EntityId(3), Vital::of(&declared).unwrap())].into());
        assert_eq!(Vital::of(&serde_json::json!("battery")), Some(Vital::Battery(0.0, 100.0)));
        assert_eq!(Vital::of(&serde_json::json!({"is": "battery", "empty": 5, "full": 5})), None);
        assert_eq!(Vital::of(&serde_json::json!("colour")), None);
        assert!(live.unread(at(12)).is_empty());
        let heard = live.unwritten(at(12), &|id| (id == EntityId(3)).then_some(11.4)).remove(0);
        assert_eq!((heard.battery, heard.signal, heard.skew), (Some(20), Some(-71), Some(5_000_000)));
        assert_eq!(heard.firmware.as_deref(), Some("2"));
        live.wrote(&[heard]);
        live.said("d", at(12), &Report { signal: Some(-70.0), ..Report::default() });
        let heard = live.unwritten(at(12), &|_| None).remove(0);
        assert_eq!((heard.firmware, heard.signal), (None, Some(-70)), "a word of it is written down once");
        live.put("d", Entry::new(tenant.clone(), false, things));
        assert!(live.unread(at(12)).is_empty(), "the same Things");
        assert_eq!(live.unread(at(1_000)).len(), 1, "looked up again after a while");
        live.put("d", Entry::new(tenant, false, HashSet::from([EntityId(8)])));
        assert_eq!(live.unread(at(12)).len(), 1, "other Things");
    }

    #[test]
    fn is_written_down_once() {
        let live = Live::default();
        live.put("d", Entry::new(Tenant::parse("dsd").unwrap(), false, HashSet::new()));
        assert!(live.unwritten(Timestamp::from_secs(1), &|_| None).is_empty());
        live.observed("d", Timestamp::from_secs(5), None, 1);
        let unwritten = live.unwritten(Timestamp::from_secs(6), &|_| None);
        let at = Timestamp::from_secs(5);
        let (device, observed, refused) = ("d".to_owned(), Some(at), None);
        let (battery, signal, skew, firmware) = (None, None, None, None);
        let heard = Heard { device, seen: at, observed, refused, battery, signal, skew, firmware };
        assert_eq!(unwritten, [heard]);
        live.wrote(&unwritten);
        assert!(live.unwritten(Timestamp::from_secs(7), &|_| None).is_empty());
        live.refused("d", Timestamp::from_secs(8), "no\nnumber");
        let unwritten = live.unwritten(Timestamp::from_secs(9), &|_| None);
        assert_eq!(unwritten[0].refused, Some((Timestamp::from_secs(8), "nonumber".into())));
        live.wrote(&unwritten);
        live.used("p", at);
        assert_eq!((live.take_used().len(), live.take_used().len()), (1, 0));
        assert_eq!(live.len(), 1);
        live.unwritten(Timestamp::from_secs(2 * 86_400), &|_| None);
        assert_eq!(live.len(), 0, "silent for a day");
    }
}
