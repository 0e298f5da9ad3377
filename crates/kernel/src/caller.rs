//! Who is asking, and the question that every facade puts to the policy before it reads or writes.

use std::{borrow::Cow, collections::BTreeSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A department, company or other owner of data: the slug from the pack, such as `dsd` or `epd`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// Slugs are 1 to 40 of `a-z 0-9 -`, starting with a letter: they appear in addresses, topics and metrics.
    pub fn parse(slug: &str) -> Result<Self, String> {
        let ok = (1..=40).contains(&slug.len())
            && slug.starts_with(|c: char| c.is_ascii_lowercase())
            && slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if ok {
            Ok(Self(slug.into()))
        } else {
            Err(format!("'{slug}' is not a tenant: use 1 to 40 of a-z, 0-9 and '-', starting with a letter"))
        }
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A role inside a tenant, as the pack names it: `operator`, `duty-officer`, `device-manager`, `admin`.
pub type Role = Cow<'static, str>;

#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Principal {
    /// Nobody signed in: the public.
    Anonymous,
    /// A person with an account.
    Person { id: Arc<str>, name: Arc<str> },
    /// A device with its own key; `id` is the device's id in the register.
    Device { id: Arc<str> },
    /// A program with an API key.
    ApiKey { id: Arc<str> },
    /// The program itself: connectors, jobs, the pack being applied.
    System { part: &'static str },
}

/// Who calls, for which tenant, in which roles. Built once at each door from a verified session or key, then passed by reference into every facade.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    pub principal: Principal,
    /// The tenant the caller acts for; `None` for the public and for the program itself.
    pub tenant: Option<Tenant>,
    pub roles: BTreeSet<Role>,
}

impl Caller {
    pub fn anonymous() -> Self {
        Self { principal: Principal::Anonymous, tenant: None, roles: BTreeSet::new() }
    }
    pub fn system(part: &'static str) -> Self {
        Self { principal: Principal::System { part }, tenant: None, roles: BTreeSet::new() }
    }
    pub fn is_anonymous(&self) -> bool {
        self.principal == Principal::Anonymous
    }
    pub fn is_system(&self) -> bool {
        matches!(self.principal, Principal::System { .. })
    }
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }
    /// How audit rows and logs name the caller: never a key, a token or a person's name.
    pub fn label(&self) -> String {
        match &self.principal {
            Principal::Anonymous => "anonymous".to_owned(),
            Principal::Person { id, .. } => format!("person:{id}"),
            Principal::Device { id } => format!("device:{id}"),
            Principal::ApiKey { id } => format!("key:{id}"),
            Principal::System { part } => format!("system:{part}"),
        }
    }
}

/// What the caller wants to do, `room:verb`: `sensing:read`, `sensing:observe`, `alarm:acknowledge`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Action(pub &'static str);

/// What it is to be done to, with what policies may look at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Resource<'a> {
    /// The kind of thing, in the field's own word: `Thing`, `Datastream`, `Alarm`, `Device`, `Table`.
    pub kind: &'static str,
    /// Its id as text; empty when the question is about the whole kind within a tenant.
    pub id: &'a str,
    /// The tenant that owns it; `None` for what belongs to the city as a whole.
    pub tenant: Option<&'a Tenant>,
    /// Whether its owner has published it.
    pub public: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Allow,
    Deny,
}

/// The question every facade asks first. The program answers it with Cedar policies from the pack; a test with [`Policy`] of its own.
pub trait Policy: Send + Sync + 'static {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision;

    fn allows(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> bool {
        self.decide(caller, action, resource) == Decision::Allow
    }

    /// Whether nothing of `tenant` may reach anybody outside it, whatever its rows say: it publishes nothing and is tied to nothing outside.
    fn seals(&self, _tenant: &Tenant) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_slugs() {
        assert!(Tenant::parse("dsd").is_ok());
        for bad in ["", "DSD", "1a", "a/b", "a b", &"x".repeat(41)] {
            assert!(Tenant::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_name_no_person() {
        let caller = Caller {
            principal: Principal::Person { id: "p1".into(), name: "Chan Tai Man".into() },
            ..Caller::anonymous()
        };
        assert_eq!(caller.label(), "person:p1");
    }
}
