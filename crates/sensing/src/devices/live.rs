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

use super::model::Health;
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
    /// `i64::MIN` until there is a first one.
    skew: AtomicI64,
    connected: AtomicBool,
    rate: Mutex<Rate>,
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
            skew: AtomicI64::new(i64::MIN),
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
            let skew = arrival.micros_since(phenomenon);
            let before = self.skew.load(Relaxed);
            // An eighth of the news: one late message does not look like a wrong clock.
            let smoothed = if before == i64::MIN { skew } else { before + (skew - before) / 8 };
            self.skew.store(smoothed, Relaxed);
        }
    }

    fn health(&self, now: Timestamp) -> Health {
        let some = |value: i64| (value != i64::MIN).then_some(value);
        let per_minute = {
            let mut rate = self.rate.lock();
            rate.turn(now.as_micros().div_euclid(MINUTE));
            rate.last
        };
        let refused = self.refused.lock().clone();
        Health {
            seen_at: some(self.seen.load(Relaxed)).map(Timestamp::from_micros),
            observed_at: some(self.observed.load(Relaxed)).map(Timestamp::from_micros),
            refused_at: refused.as_ref().map(|(at, _)| *at),
            refusal: refused.map(|(_, why)| why.to_string()),
            per_minute,
            observations: self.observations.load(Relaxed),
            errors: self.errors.load(Relaxed),
            skew_micros: some(self.skew.load(Relaxed)),
            connected: self.connected.load(Relaxed),
        }
    }
}

#[derive(Default)]
pub struct Live {
    devices: RwLock<HashMap<Arc<str>, Arc<Entry>>>,
    /// Prefixes of keys that were used, and when, since it was last written down.
    used: Mutex<HashMap<String, Timestamp>>,
}

impl Live {
    pub fn get(&self, device: &str) -> Option<Arc<Entry>> {
        self.devices.read().get(device).cloned()
    }

    /// Puts in what the register says now; what was counted stays.
    pub fn put(&self, device: &str, entry: Entry) {
        let mut all = self.devices.write();
        if let Some(old) = all.get(device) {
            for (to, from) in [
                (&entry.seen, &old.seen),
                (&entry.observed, &old.observed),
                (&entry.written, &old.written),
                (&entry.skew, &old.skew),
            ] {
                to.store(from.load(Relaxed), Relaxed);
            }
            entry.refused.lock().clone_from(&old.refused.lock());
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
    pub fn unwritten(&self, now: Timestamp) -> Vec<Heard> {
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
                (seen != entry.written.load(Relaxed)).then(|| Heard {
                    device: device.to_string(),
                    seen: Timestamp::from_micros(seen),
                    observed: (observed != i64::MIN).then(|| Timestamp::from_micros(observed)),
                    refused: entry.refused.lock().clone(),
                })
            })
            .collect()
    }
    pub fn wrote(&self, written: &[Heard]) {
        for heard in written {
            if let Some(entry) = self.get(&heard.device) {
                entry.written.fetch_max(heard.seen.as_micros(), Relaxed);
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
        assert_eq!(health.skew_micros, Some(8_750_000));
        assert_eq!(live.health("d", at(400)).unwrap().per_minute, 0);
        live.put("d", Entry::new(tenant, true, HashSet::new()));
        assert_eq!(live.health("d", at(122)).unwrap().observations, 4, "a change in the register forgets nothing");
    }

    #[test]
    fn is_written_down_once() {
        let live = Live::default();
        live.put("d", Entry::new(Tenant::parse("dsd").unwrap(), false, HashSet::new()));
        assert!(live.unwritten(Timestamp::from_secs(1)).is_empty());
        live.observed("d", Timestamp::from_secs(5), None, 1);
        let unwritten = live.unwritten(Timestamp::from_secs(6));
        let at = Timestamp::from_secs(5);
        assert_eq!(unwritten, [Heard { device: "d".to_owned(), seen: at, observed: Some(at), refused: None }]);
        live.wrote(&unwritten);
        assert!(live.unwritten(Timestamp::from_secs(7)).is_empty());
        live.refused("d", Timestamp::from_secs(8), "no\nnumber");
        let unwritten = live.unwritten(Timestamp::from_secs(9));
        assert_eq!(unwritten[0].refused, Some((Timestamp::from_secs(8), "nonumber".into())));
        live.wrote(&unwritten);
        live.used("p", at);
        assert_eq!((live.take_used().len(), live.take_used().len()), (1, 0));
        assert_eq!(live.len(), 1);
        live.unwritten(Timestamp::from_secs(2 * 86_400));
        assert_eq!(live.len(), 0, "silent for a day");
    }
}
