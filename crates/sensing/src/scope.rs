//! What a caller may read: everything that is published, and everything of some tenants.
//!
//! The policy is asked once per known tenant and caller, not once per row: the answer becomes a set of tenants that goes into SQL as
//! `public = 1 OR tenant IN (…)` and is checked again, row by row, wherever rows do not come from SQL.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use kernel::{Caller, Policy, Principal, Resource, Role, Tenant};
use parking_lot::RwLock;

use crate::route::action;

/// The readable part of the city for one caller. Cheap to clone behind an `Arc`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The program itself: rules, connectors, backups.
    Everything,
    /// What is published, and all that these tenants own.
    Tenants(BTreeSet<Tenant>),
}

impl Scope {
    /// What everybody may read.
    pub const fn public() -> Self {
        Self::Tenants(BTreeSet::new())
    }
    pub fn admits(&self, tenant: &Tenant, public: bool) -> bool {
        match self {
            Self::Everything => true,
            Self::Tenants(tenants) => public || tenants.contains(tenant),
        }
    }
    /// Asks `policy` about each of `tenants`.
    pub fn compute<'a>(policy: &dyn Policy, caller: &Caller, tenants: impl IntoIterator<Item = &'a Tenant>) -> Self {
        if caller.is_system() {
            return Self::Everything;
        }
        let allowed = tenants.into_iter().filter(|tenant| {
            let resource = Resource { kind: "Thing", id: "", tenant: Some(tenant), public: false };
            policy.allows(caller, action::READ, &resource)
        });
        Self::Tenants(allowed.cloned().collect())
    }
}

/// Callers whose scope is kept. More only costs asking the policy again.
const CACHED_CALLERS: usize = 4_096;

type Key = (Principal, Option<Tenant>, BTreeSet<Role>);

/// Computes scopes and remembers them until a tenant appears or the policy changes.
pub struct Scopes {
    policy: Arc<dyn Policy>,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    tenants: BTreeSet<Tenant>,
    cache: HashMap<Key, Arc<Scope>>,
}

impl Scopes {
    pub fn new(policy: Arc<dyn Policy>) -> Self {
        Self { policy, state: RwLock::new(State::default()) }
    }
    pub fn policy(&self) -> &Arc<dyn Policy> {
        &self.policy
    }
    /// Tells of a tenant that owns something here.
    pub fn know(&self, tenant: &Tenant) {
        if self.state.read().tenants.contains(tenant) {
            return;
        }
        let mut state = self.state.write();
        state.tenants.insert(tenant.clone());
        state.cache.clear();
    }
    pub fn tenants(&self) -> Vec<Tenant> {
        self.state.read().tenants.iter().cloned().collect()
    }
    /// Forgets every answer; to be called when the policy has been replaced.
    pub fn forget(&self) {
        self.state.write().cache.clear();
    }
    pub fn of(&self, caller: &Caller) -> Arc<Scope> {
        let key: Key = (caller.principal.clone(), caller.tenant.clone(), caller.roles.clone());
        let tenants = {
            let state = self.state.read();
            if let Some(scope) = state.cache.get(&key) {
                return Arc::clone(scope);
            }
            state.tenants.clone()
        };
        // The policy is asked outside the lock; an answer for an older set of tenants is used once but not kept.
        let scope = Arc::new(Scope::compute(self.policy.as_ref(), caller, &tenants));
        let mut state = self.state.write();
        if state.tenants == tenants {
            if state.cache.len() >= CACHED_CALLERS {
                state.cache.clear();
            }
            state.cache.insert(key, Arc::clone(&scope));
        }
        scope
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::{Action, Decision};

    /// Allows what belongs to the caller's own tenant.
    struct Own;
    impl Policy for Own {
        fn decide(&self, caller: &Caller, _: Action, resource: &Resource<'_>) -> Decision {
            if caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant {
                Decision::Allow
            } else {
                Decision::Deny
            }
        }
    }

    #[test]
    fn a_scope_is_public_data_and_own_tenants() {
        let (dsd, epd) = (Tenant::parse("dsd").expect("slug"), Tenant::parse("epd").expect("slug"));
        let scopes = Scopes::new(Arc::new(Own));
        let person = Caller {
            principal: Principal::Person { id: "p".into(), name: "P".into() },
            tenant: Some(dsd.clone()),
            roles: BTreeSet::new(),
        };
        assert!(!scopes.of(&person).admits(&dsd, false), "an unknown tenant is nobody's");
        scopes.know(&dsd);
        scopes.know(&epd);
        assert!(scopes.of(&person).admits(&dsd, false), "a cached answer must not outlive a new tenant");
        assert!(!scopes.of(&person).admits(&epd, false));
        assert!(scopes.of(&person).admits(&epd, true));
        assert!(!scopes.of(&Caller::anonymous()).admits(&dsd, false));
        assert_eq!(*scopes.of(&Caller::system("rules")), Scope::Everything);
    }
}
