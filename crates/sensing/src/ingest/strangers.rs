//! Devices that speak and that nobody has declared: for an officer to look at. Kept in memory, because a device that matters speaks again.

use std::collections::BTreeMap;

use kernel::{Tenant, Timestamp};
use serde::Serialize;

use super::{Door, lorawan::event::Named};

/// Devices kept for a tenant, and for the city.
pub const OF_TENANT: usize = 200;
const IN_ALL: usize = 10_000;

/// A device that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stranger {
    pub dev_eui: String,
    pub name: String,
    pub profile: String,
    pub application: String,
    /// The door it came to.
    pub door: &'static str,
    /// Why it was not taken.
    pub why: &'static str,
    pub first: Timestamp,
    pub last: Timestamp,
    pub messages: u64,
}

#[derive(Default)]
pub struct Strangers(BTreeMap<Tenant, BTreeMap<String, Stranger>>);

impl Strangers {
    pub fn saw(&mut self, tenant: &Tenant, door: Door, device: &Named, now: Timestamp, why: &'static str) {
        let all: usize = self.0.values().map(BTreeMap::len).sum();
        let of = self.0.entry(tenant.clone()).or_default();
        if let Some(known) = of.get_mut(&device.eui) {
            known.last = now;
            known.messages += 1;
            known.why = why;
            return;
        }
        if of.len() >= OF_TENANT || all >= IN_ALL {
            // The one that has been silent for longest makes room.
            let oldest = of.values().min_by_key(|s| s.last).map(|s| s.dev_eui.clone());
            match oldest {
                Some(oldest) => drop(of.remove(&oldest)),
                None => return,
            }
        }
        let short = crate::connect::report::shorten;
        let stranger = Stranger {
            dev_eui: device.eui.clone(),
            name: short(&device.name),
            profile: short(&device.profile),
            application: device.applications.first().map(|a| short(a)).unwrap_or_default(),
            door: door.name(),
            why,
            first: now,
            last: now,
            messages: 1,
        };
        of.insert(device.eui.clone(), stranger);
    }

    /// It has been declared meanwhile.
    pub fn forget(&mut self, tenant: &Tenant, eui: &str) {
        if let Some(of) = self.0.get_mut(tenant) {
            of.remove(eui);
        }
    }

    pub fn of(&self, tenant: &Tenant) -> Vec<Stranger> {
        let mut all: Vec<Stranger> = self.0.get(tenant).into_iter().flat_map(BTreeMap::values).cloned().collect();
        all.sort_by(|a, b| b.last.cmp(&a.last).then_with(|| a.dev_eui.cmp(&b.dev_eui)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_keeps_who_spoke_last() {
        let tenant = Tenant::parse("fehd").expect("slug");
        let mut list = Strangers::default();
        for n in 0..OF_TENANT as i64 + 50 {
            let device = Named { eui: format!("{n:016x}"), ..Named::default() };
            list.saw(&tenant, Door::ChirpStack, &device, Timestamp::from_secs(n), "w");
        }
        let of = list.of(&tenant);
        assert_eq!(of.len(), OF_TENANT);
        assert_eq!(of[0].dev_eui, format!("{:016x}", OF_TENANT + 49));
        let again = Named { eui: of[3].dev_eui.clone(), ..Named::default() };
        list.saw(&tenant, Door::ChirpStack, &again, Timestamp::from_secs(9_000), "w");
        assert_eq!((list.of(&tenant)[0].dev_eui.as_str(), list.of(&tenant)[0].messages), (again.eui.as_str(), 2));
        list.forget(&tenant, &again.eui);
        assert_eq!(list.of(&tenant).len(), OF_TENANT - 1);
        assert!(list.of(&Tenant::parse("dsd").expect("slug")).is_empty());
    }
}
