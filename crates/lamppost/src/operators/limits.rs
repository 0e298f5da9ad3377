//! How often somebody may try: by account and address together, by account, by address, and in all.

use std::{collections::HashMap, hash::Hash, net::IpAddr};

use kernel::Timestamp;
use parking_lot::Mutex;

/// Accounts and addresses remembered; those with all their tries left are forgotten first.
const REMEMBERED: usize = 50_000;

/// Tries at once, and microseconds until one more.
type Allowance = (u32, i64);
/// One guesser at one account.
const PAIR: Allowance = (5, 60_000_000);
/// Many guessers at one account. Wide, so that a stranger cannot lock the owner out with a handful of tries.
const ACCOUNT: Allowance = (50, 10_000_000);
/// One address at many accounts; a department may share one.
const ADDRESS: Allowance = (30, 5_000_000);
const ALL: Allowance = (300, 100_000);

#[derive(Default)]
pub struct Attempts(Mutex<Tries>);

#[derive(Default)]
struct Tries {
    pairs: HashMap<(String, IpAddr), Bucket>,
    accounts: HashMap<String, Bucket>,
    addresses: HashMap<IpAddr, Bucket>,
    all: Bucket,
}

/// Microseconds of waiting that are owed; each try adds one interval.
#[derive(Clone, Copy, Default)]
struct Bucket {
    /// When nothing is owed any more.
    clear: i64,
}

impl Bucket {
    /// Seconds to wait, or `None` when a try is free.
    fn wait(self, (tries, every): Allowance, now: i64) -> Option<u32> {
        let over = self.clear.max(now) - now - i64::from(tries - 1) * every;
        (over > 0).then(|| u32::try_from(over / 1_000_000 + 1).unwrap_or(u32::MAX))
    }
    fn take(&mut self, (_, every): Allowance, now: i64) {
        self.clear = self.clear.max(now) + every;
    }
    fn give_back(&mut self, (_, every): Allowance) {
        self.clear -= every;
    }
}

fn prune<K: Hash + Eq + Clone>(all: &mut HashMap<K, Bucket>, now: i64) {
    if all.len() >= REMEMBERED {
        all.retain(|_, b| b.clear > now);
    }
    if all.len() >= REMEMBERED {
        // Only an attack fills it with live entries: the limit over all still holds.
        all.clear();
    }
}

impl Attempts {
    /// Counts a try, or says how many seconds to wait. The same for accounts that do not exist.
    pub fn take(&self, account: &str, address: IpAddr, now: Timestamp) -> Result<(), u32> {
        let now = now.as_micros();
        let mut tries = self.0.lock();
        prune(&mut tries.pairs, now);
        prune(&mut tries.accounts, now);
        prune(&mut tries.addresses, now);
        let pair = (account.to_owned(), address);
        let of = |bucket: Option<&Bucket>| bucket.copied().unwrap_or_default();
        let wait = [
            of(tries.pairs.get(&pair)).wait(PAIR, now),
            of(tries.accounts.get(account)).wait(ACCOUNT, now),
            of(tries.addresses.get(&address)).wait(ADDRESS, now),
            tries.all.wait(ALL, now),
        ];
        if let Some(seconds) = wait.into_iter().flatten().max() {
            return Err(seconds);
        }
        tries.pairs.entry(pair).or_default().take(PAIR, now);
        tries.accounts.entry(account.to_owned()).or_default().take(ACCOUNT, now);
        tries.addresses.entry(address).or_default().take(ADDRESS, now);
        tries.all.take(ALL, now);
        Ok(())
    }

    /// The try was right: it does not count.
    pub fn succeeded(&self, account: &str, address: IpAddr) {
        let mut tries = self.0.lock();
        tries.pairs.remove(&(account.to_owned(), address));
        if let Some(bucket) = tries.accounts.get_mut(account) {
            bucket.give_back(ACCOUNT);
        }
        if let Some(bucket) = tries.addresses.get_mut(&address) {
            bucket.give_back(ADDRESS);
        }
        tries.all.give_back(ALL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + secs)
    }
    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn a_guesser_is_slowed_and_the_owner_is_not_locked_out() {
        let attempts = Attempts::default();
        for _ in 0..5 {
            assert_eq!(attempts.take("chan", address(1), at(0)), Ok(()));
        }
        assert_eq!(attempts.take("chan", address(1), at(0)), Err(61));
        assert_eq!(attempts.take("chan", address(1), at(59)), Err(2));
        assert_eq!(attempts.take("chan", address(2), at(0)), Ok(()), "the owner, from elsewhere");
        assert_eq!(attempts.take("chan", address(1), at(61)), Ok(()), "one more each minute");
        assert!(attempts.take("chan", address(1), at(61)).is_err());
    }

    #[test]
    fn many_accounts_from_one_address_are_slowed_too() {
        let attempts = Attempts::default();
        let tried = (0..100).filter(|i| attempts.take(&format!("a{i}"), address(1), at(0)).is_ok()).count();
        assert_eq!(tried, 30);
        let tried = (0..2_000u32)
            .filter(|i| attempts.take(&format!("b{i}"), IpAddr::from(i.to_be_bytes()), at(0)).is_ok())
            .count();
        assert_eq!(tried, 270, "and in all");
    }

    #[test]
    fn success_is_free() {
        let attempts = Attempts::default();
        for _ in 0..1_000 {
            assert_eq!(attempts.take("chan", address(1), at(0)), Ok(()));
            attempts.succeeded("chan", address(1));
        }
    }
}
