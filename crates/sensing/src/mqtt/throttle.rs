//! Guessing keys must be slow: failed sign-ins are counted by address and user name, and by address alone.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Failures by one address for one user name before it is not even tried.
const BY_USER: u32 = 10;
/// Failures by one address for any user names: a school's or a gateway's address may carry many devices.
const BY_ADDRESS: u32 = 200;
/// How long failures are remembered after the last one.
const MEMORY: Duration = Duration::from_secs(60);
/// Entries kept; when an attacker fills them, the oldest minute is forgotten for all.
const ENTRIES: usize = 20_000;

type Key = (IpAddr, Option<String>);

#[derive(Default)]
pub struct Throttle(Mutex<HashMap<Key, (u32, Instant)>>);

fn keys(address: IpAddr, user: &str) -> [Key; 2] {
    [(address, Some(user.chars().take(64).collect())), (address, None)]
}

impl Throttle {
    /// Whether a sign-in may be tried at all.
    pub fn admits(&self, address: IpAddr, user: &str, now: Instant) -> bool {
        let failures = self.0.lock();
        keys(address, user).iter().zip([BY_USER, BY_ADDRESS]).all(|(key, limit)| {
            failures.get(key).is_none_or(|(count, at)| *count < limit || now.duration_since(*at) > MEMORY)
        })
    }

    /// Counts a failure; the answer is to wait this long, twice as long each time.
    pub fn failed(&self, address: IpAddr, user: &str, now: Instant) -> Duration {
        let mut failures = self.0.lock();
        if failures.len() >= ENTRIES {
            failures.retain(|_, (_, at)| now.duration_since(*at) <= MEMORY);
            if failures.len() >= ENTRIES {
                failures.clear();
            }
        }
        let mut most = 0;
        for key in keys(address, user) {
            let by_user = key.1.is_some();
            let (count, at) = failures.entry(key).or_insert((0, now));
            if now.duration_since(*at) > MEMORY {
                *count = 0;
            }
            (*count, *at) = (count.saturating_add(1), now);
            if by_user {
                most = *count;
            }
        }
        Duration::from_millis(100 << most.min(6))
    }

    pub fn succeeded(&self, address: IpAddr, user: &str) {
        let [key, _] = keys(address, user);
        self.0.lock().remove(&key);
    }

    pub fn forget_old(&self, now: Instant) {
        self.0.lock().retain(|_, (_, at)| now.duration_since(*at) <= MEMORY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slows_down_and_forgets() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let address: IpAddr = [192, 0, 2, 1].into();
        let mut last = Duration::ZERO;
        for _ in 0..BY_USER {
            assert!(throttle.admits(address, "a", start));
            let wait = throttle.failed(address, "a", start);
            assert!(wait >= last);
            last = wait;
        }
        assert!(!throttle.admits(address, "a", start));
        assert!(throttle.admits(address, "b", start), "another device behind the same address");
        assert!(throttle.admits([192, 0, 2, 2].into(), "a", start), "the same device from elsewhere");
        assert!(throttle.admits(address, "a", start + MEMORY * 2));
        for n in 0..BY_ADDRESS {
            throttle.failed(address, &format!("u{n}"), start);
        }
        assert!(!throttle.admits(address, "c", start), "guessing names does not help");
        throttle.forget_old(start + MEMORY * 2);
        assert!(throttle.0.lock().is_empty());
    }
}
