//! What whoever did something is called. What is kept of a deed is a label (`person:…`, `key:…`), which tells a reader nothing.
//!
//! All names are near: a city has some thousands. A person keeps theirs, and nobody does anything who has not signed in here, so a name is learned
//! when its owner comes; those of before are read at the start.

use std::collections::HashMap;

use kernel::Tenant;
use parking_lot::RwLock;

/// Names that are kept; whoever comes after that goes by the label.
const MOST: usize = 200_000;

#[derive(Default)]
pub struct Names(RwLock<HashMap<String, (Tenant, String)>>);

impl Names {
    pub fn of(found: impl IntoIterator<Item = (String, Tenant, String)>) -> Self {
        let found = found.into_iter().take(MOST).map(|(label, tenant, name)| (label, (tenant, name)));
        Self(RwLock::new(found.collect()))
    }
    pub fn learn(&self, label: String, tenant: &Tenant, name: &str) {
        if self.0.read().contains_key(&label) {
            return;
        }
        let mut all = self.0.write();
        if all.len() < MOST {
            all.insert(label, (tenant.clone(), name.to_owned()));
        }
    }
    pub fn get(&self, label: &str) -> Option<(Tenant, String)> {
        self.0.read().get(label).cloned()
    }
}
