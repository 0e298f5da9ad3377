//! Answers already given. A question is the caller's kind, tenant and roles, the action, and the resource's kind, tenant and whether it
//! is public; nothing else reaches a policy, so nothing else is part of the key.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, Hash, Hasher},
    mem::discriminant,
};

use kernel::{Action, Caller, Decision, Principal, Resource, Role, Tenant};
use parking_lot::RwLock;

/// Different questions kept. A pack of 100 tenants with 10 roles asks fewer; beyond it, everything is asked anew.
const ENTRIES: usize = 65_536;

pub struct Cache {
    hasher: ahash::RandomState,
    /// By the question's hash; the question itself is compared, so two that collide never share an answer.
    answers: RwLock<HashMap<u64, (Question, Decision), ahash::RandomState>>,
}

struct Question {
    principal: std::mem::Discriminant<Principal>,
    tenant: Option<Tenant>,
    roles: BTreeSet<Role>,
    action: Action,
    kind: &'static str,
    owner: Option<Tenant>,
    public: bool,
}

impl Question {
    fn is(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> bool {
        self.action == action
            && self.kind == resource.kind
            && self.public == resource.public
            && self.owner.as_ref() == resource.tenant
            && self.tenant == caller.tenant
            && self.principal == discriminant(&caller.principal)
            && self.roles == caller.roles
    }
}

impl Cache {
    pub fn new() -> Self {
        Self { hasher: ahash::RandomState::new(), answers: RwLock::default() }
    }

    pub fn get(
        &self,
        caller: &Caller,
        action: Action,
        resource: &Resource<'_>,
        ask: impl FnOnce() -> Decision,
    ) -> Decision {
        let mut hasher = self.hasher.build_hasher();
        discriminant(&caller.principal).hash(&mut hasher);
        caller.tenant.hash(&mut hasher);
        caller.roles.hash(&mut hasher);
        (action, resource.kind, resource.tenant, resource.public).hash(&mut hasher);
        let hash = hasher.finish();
        if let Some((question, decision)) = self.answers.read().get(&hash)
            && question.is(caller, action, resource)
        {
            return *decision;
        }
        let decision = ask();
        let question = Question {
            principal: discriminant(&caller.principal),
            tenant: caller.tenant.clone(),
            roles: caller.roles.clone(),
            action,
            kind: resource.kind,
            owner: resource.tenant.cloned(),
            public: resource.public,
        };
        let mut answers = self.answers.write();
        if answers.len() >= ENTRIES {
            answers.clear();
        }
        answers.insert(hash, (question, decision));
        decision
    }
}
