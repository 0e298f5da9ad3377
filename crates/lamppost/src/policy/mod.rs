//! Who may do what: Cedar policies from the pack behind [`kernel::Policy`].
//!
//! Nothing is allowed that no policy permits. A policy sees kinds, tenants and roles, never a single id (docs/packs.md), so there are
//! few different questions and each is put to Cedar once; afterwards the answer is a look-up.

mod cache;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
    str::FromStr,
};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Request,
    RestrictedExpression, Schema, ValidationMode, Validator,
};
use kernel::{Action, Caller, Decision, Policy, Principal, Resource, Role, Tenant};

use cache::Cache;

/// What is wrong with a policy or the schema: the file, where in it, and what.
#[derive(Debug)]
pub struct Invalid {
    pub file: String,
    pub at: Option<Range<usize>>,
    pub message: String,
}

/// The policies of a pack, validated against their schema.
pub struct CedarPolicy {
    authorizer: Authorizer,
    policies: PolicySet,
    schema: Schema,
    types: Types,
    sealed: BTreeSet<Tenant>,
    actions: HashSet<String>,
    cache: Cache,
}

struct Types {
    anonymous: EntityUid,
    person: EntityUid,
    device: EntityUid,
    api_key: EntityUid,
    resource: EntityUid,
    action: EntityTypeName,
}

impl Types {
    /// One entity stands for every principal of its kind: a policy cannot name a single one.
    fn new() -> Option<Self> {
        let uid = |kind: &str| Some(EntityUid::from_type_name_and_id(type_name(kind)?, EntityId::new("any")));
        Some(Self {
            anonymous: uid("Anonymous")?,
            person: uid("Person")?,
            device: uid("Device")?,
            api_key: uid("ApiKey")?,
            resource: uid("Resource")?,
            action: type_name("Action")?,
        })
    }
    fn principal(&self, principal: &Principal) -> Option<&EntityUid> {
        match principal {
            Principal::Anonymous => Some(&self.anonymous),
            Principal::Person { .. } => Some(&self.person),
            Principal::Device { .. } => Some(&self.device),
            Principal::ApiKey { .. } => Some(&self.api_key),
            Principal::System { .. } => None,
        }
    }
}

fn type_name(kind: &str) -> Option<EntityTypeName> {
    EntityTypeName::from_str(&format!("Lamppost::{kind}")).ok()
}

impl CedarPolicy {
    /// `schema` and `files` are (name, text). `sealed` are the tenants whose resources say so.
    pub fn new(schema: (&str, &str), files: &[(&str, &str)], sealed: BTreeSet<Tenant>) -> Result<Self, Vec<Invalid>> {
        let whole = |file: &str, message: String| Invalid { file: file.to_owned(), at: None, message };
        let parsed = Schema::from_cedarschema_str(schema.1);
        let (parsed, _warnings) =
            parsed.map_err(|e| vec![Invalid { at: place(&e), ..whole(schema.0, e.to_string()) }])?;
        let mut errors = Vec::new();
        let mut policies = PolicySet::new();
        let mut home: HashMap<PolicyId, &str> = HashMap::new();
        for (name, text) in files {
            match PolicySet::from_str(text) {
                Err(e) => errors.extend(e.iter().map(|e| Invalid {
                    file: (*name).to_owned(),
                    at: place(e),
                    message: e.to_string(),
                })),
                Ok(set) => {
                    if set.num_of_templates() > 0 {
                        errors.push(whole(name, "templates (?principal, ?resource) are not used here".to_owned()));
                    }
                    for policy in set.policies() {
                        let id = PolicyId::new(format!("{name}#{}", policy.id()));
                        home.insert(id.clone(), name);
                        if let Err(e) = policies.add(policy.new_id(id)) {
                            errors.push(whole(name, e.to_string()));
                        }
                    }
                }
            }
        }
        let validated = Validator::new(parsed.clone()).validate(&policies, ValidationMode::Strict);
        for error in validated.validation_errors() {
            let file = home.get(error.policy_id()).copied().unwrap_or(schema.0);
            errors.push(Invalid { file: file.to_owned(), at: place(error), message: error.to_string() });
        }
        let Some(types) = Types::new() else {
            return Err(vec![whole(schema.0, "the names of the program's entity types are refused".to_owned())]);
        };
        for uid in [&types.anonymous, &types.person, &types.device, &types.api_key, &types.resource] {
            if !parsed.entity_types().any(|t| t == uid.type_name()) {
                errors.push(whole(schema.0, format!("the entity type {} is missing", uid.type_name())));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let actions = parsed.actions().map(|a| a.id().unescaped().to_owned()).collect();
        let authorizer = Authorizer::new();
        Ok(Self { authorizer, policies, schema: parsed, types, sealed, actions, cache: Cache::new() })
    }

    /// Asks Cedar itself, past the cache.
    fn ask(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let answer = self.request(caller, action, resource);
        match answer {
            Ok(decision) => decision,
            Err(error) => {
                tracing::error!(%error, action = action.0, kind = resource.kind, "the policy could not be asked; denied");
                Decision::Deny
            }
        }
    }

    fn request(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Result<Decision, String> {
        let Some(principal) = self.types.principal(&caller.principal) else {
            // The program's own parts act on what a person or the pack has already decided.
            return Ok(Decision::Allow);
        };
        // No policy of a pack opens what is sealed: a mistake there must not, and whoever runs the city may change a pack.
        if resource.tenant.is_some_and(|tenant| self.sealed.contains(tenant) && caller.tenant.as_ref() != Some(tenant))
        {
            return Ok(Decision::Deny);
        }
        if !self.actions.contains(action.0) {
            return Err("the schema does not know this action".to_owned());
        }
        let text = |t: &str| RestrictedExpression::new_string(t.to_owned());
        let mut who = HashMap::new();
        if let Some(tenant) = &caller.tenant {
            who.insert("tenant".to_owned(), text(tenant.as_str()));
        }
        if principal != &self.types.anonymous {
            let roles = caller.roles.iter().map(|r| text(r));
            who.insert("roles".to_owned(), RestrictedExpression::new_set(roles));
        }
        let mut what = HashMap::from([
            ("kind".to_owned(), text(resource.kind)),
            ("public".to_owned(), RestrictedExpression::new_bool(resource.public)),
            (
                "sealed".to_owned(),
                RestrictedExpression::new_bool(resource.tenant.is_some_and(|t| self.sealed.contains(t))),
            ),
        ]);
        if let Some(tenant) = resource.tenant {
            what.insert("tenant".to_owned(), text(tenant.as_str()));
        }
        let entity = |uid: &EntityUid, attributes| {
            Entity::new(uid.clone(), attributes, HashSet::new()).map_err(|e| e.to_string())
        };
        let entities = [entity(principal, who)?, entity(&self.types.resource, what)?];
        let entities = Entities::from_entities(entities, Some(&self.schema)).map_err(|e| e.to_string())?;
        let action = EntityUid::from_type_name_and_id(self.types.action.clone(), EntityId::new(action.0));
        let request =
            Request::new(principal.clone(), action, self.types.resource.clone(), Context::empty(), Some(&self.schema));
        let request = request.map_err(|e| e.to_string())?;
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        if let Some(error) = response.diagnostics().errors().next() {
            return Err(error.to_string());
        }
        Ok(match response.decision() {
            cedar_policy::Decision::Allow => Decision::Allow,
            cedar_policy::Decision::Deny => Decision::Deny,
        })
    }

    /// The actions that the schema knows, sorted.
    pub fn actions(&self) -> BTreeSet<&str> {
        self.actions.iter().map(String::as_str).collect()
    }

    /// Which kinds of caller may do `action` to a `kind` of `tenant`, each as a line: `person dsd operator`.
    pub fn who_can(
        &self,
        action: Action,
        resource: &Resource<'_>,
        tenants: &[Tenant],
        roles: &[String],
    ) -> Vec<String> {
        let mut out = Vec::new();
        let id: std::sync::Arc<str> = "any".into();
        if self.ask(&Caller::anonymous(), action, resource) == Decision::Allow {
            out.push("anonymous".to_owned());
        }
        let person = Principal::Person { id: id.clone(), name: id.clone() };
        let principals =
            [("person", person), ("key", Principal::ApiKey { id: id.clone() }), ("device", Principal::Device { id })];
        for tenant in tenants {
            for (name, principal) in &principals {
                let sets = std::iter::once(BTreeSet::new())
                    .chain(roles.iter().map(|r| BTreeSet::from([Role::Owned(r.clone())])));
                for set in sets.take(if *name == "device" { 1 } else { usize::MAX }) {
                    let role = set.iter().next().map_or("(no role)".to_owned(), ToString::to_string);
                    let caller = Caller { principal: principal.clone(), tenant: Some(tenant.clone()), roles: set };
                    if self.ask(&caller, action, resource) == Decision::Allow {
                        out.push(if *name == "device" {
                            format!("{name} {tenant}")
                        } else {
                            format!("{name} {tenant} {role}")
                        });
                    }
                }
            }
        }
        out
    }
}

/// Where in its text a mistake of Cedar's is.
fn place(error: &dyn miette::Diagnostic) -> Option<Range<usize>> {
    let label = error.labels()?.next()?;
    Some(label.offset()..label.offset() + label.len())
}

impl std::fmt::Debug for CedarPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CedarPolicy({} policies)", self.policies.num_of_policies())
    }
}

impl Policy for CedarPolicy {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        if caller.is_system() {
            return Decision::Allow;
        }
        self.cache.get(caller, action, resource, || self.ask(caller, action, resource))
    }

    fn seals(&self, tenant: &Tenant) -> bool {
        self.sealed.contains(tenant)
    }
}

#[cfg(test)]
mod tests;
