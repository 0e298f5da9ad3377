//! Rules: what raises an alarm. Declared by the pack, watched by the [`engine`], read through this facade.

pub mod api;
pub mod cel;
mod columns;
pub mod condition;
pub mod core;
pub mod engine;
pub mod facts;
mod feed;
pub mod machine;
pub mod model;
pub mod quality;
pub mod store;
pub mod trial;

use kernel::{Caller, FieldError, Problem, Resource, Tenant};
use records::params;
use serde_json::json;

use crate::{
    Error,
    alarms::{
        self, Alarms,
        silences::{self, model::Silencing},
    },
    notify::{self, Recipient, guard::Allowed, inhibit::Inhibition},
    route::action,
};
use model::{Rule, RuleDeclaration, check_all};

/// Rules that one city may have.
pub const MAX_RULES: usize = 10_000;

/// The facade over rules and recipients.
#[derive(Clone)]
pub struct Rules {
    alarms: Alarms,
    /// Internal hosts that webhooks may reach.
    allowed: Allowed,
}

/// What applying a pack has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    pub written: usize,
    pub removed: usize,
    pub unchanged: usize,
}

impl Rules {
    pub fn new(alarms: Alarms, allowed: Allowed) -> Self {
        Self { alarms, allowed }
    }

    fn may(&self, caller: &Caller, action: kernel::Action, tenant: &Tenant, key: &str) -> bool {
        let resource = Resource { kind: "Rule", id: key, tenant: Some(tenant), public: false };
        caller.is_system() || self.alarms.policy().allows(caller, action, &resource)
    }

    /// The rules that `caller` may read, by key.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<std::sync::Arc<Rule>>, Error> {
        let mut rules = self.alarms.records().read(store::rules).await.map_err(alarms::stored)?;
        rules.retain(|r| self.may(caller, action::RULE_READ, &r.tenant, &r.key));
        Ok(rules)
    }

    /// # Errors
    /// 404 when there is no such rule or `caller` may not read it.
    pub async fn get(&self, caller: &Caller, key: &str) -> Result<std::sync::Arc<Rule>, Error> {
        let shown: String = key.chars().take(80).collect();
        let found = self.list(caller).await?.into_iter().find(|r| r.key == key);
        found.ok_or_else(|| Error::not_found(format!("The rule '{shown}'")))
    }

    /// Checks declarations without storing them.
    ///
    /// # Errors
    /// 400 with every mistake and its place.
    pub fn check(&self, declarations: Vec<RuleDeclaration>, recipients: &[Recipient]) -> Result<Vec<Rule>, Error> {
        if declarations.len() > MAX_RULES || recipients.len() > MAX_RULES {
            return Err(
                Problem::too_large(format!("At most {MAX_RULES} rules and as many recipients are possible.")).into()
            );
        }
        let mut errors = Vec::new();
        let mut keys = std::collections::BTreeSet::new();
        for (at, recipient) in recipients.iter().enumerate() {
            let found = recipient.check(&self.allowed).into_iter();
            errors.extend(found.map(|e| FieldError { field: format!("/recipient/{at}{}", e.field), ..e }));
            if !keys.insert(&recipient.key) {
                errors.push(FieldError {
                    field: format!("/recipient/{at}/key"),
                    detail: "the key is used twice".to_owned(),
                });
            }
        }
        if let Some(first) = errors.first() {
            let mut problem = Problem::field(first.field.clone(), first.detail.clone());
            problem.errors = errors;
            return Err(problem.into());
        }
        Ok(check_all(declarations)?)
    }

    /// Makes what the pack says about silences and about alarms that speak for others that which is given; whether anything changed. The rules are those
    /// that are stored.
    ///
    /// # Errors
    /// 400 with every mistake and its place; 403 for everybody but the program itself.
    pub async fn apply_duty(
        &self,
        caller: &Caller,
        silencing: Vec<Silencing>,
        inhibit: Vec<Inhibition>,
    ) -> Result<bool, Error> {
        if !caller.is_system() {
            return Err(Problem::forbidden("What is kept quiet is said by the pack.").into());
        }
        let stored = self.alarms.records().read(store::rules).await.map_err(alarms::stored)?;
        let known = stored.iter().map(|r| (r.key.as_str(), &r.tenant)).collect();
        let mut errors = silences::check(&silencing);
        errors.extend(notify::inhibit::check(&inhibit, &known));
        if let Some(first) = errors.first() {
            let mut problem = Problem::field(first.field.clone(), first.detail.clone());
            problem.errors = errors;
            return Err(problem.into());
        }
        let caller = caller.clone();
        let changed = self.alarms.records().write(move |tx| {
            let changed = silences::store::declare(tx, &silencing)? + notify::hold::declare(tx, &inhibit)?;
            if changed > 0 {
                tx.audit(
                    &caller,
                    "rule:duty",
                    "Rule",
                    "",
                    None,
                    json!({ "silencing": silencing, "inhibit": inhibit }),
                )?;
            }
            Ok::<_, records::Error>(changed > 0)
        });
        changed.await.map_err(alarms::stored)
    }

    /// Makes the stored rules and recipients those that are given: what is missing is removed, and alarms of a removed rule are cleared. All or
    /// nothing; applying the same twice writes nothing the second time. The engine must be told to reload when anything was written.
    ///
    /// # Errors
    /// 400 as [`Rules::check`], also when a rule names a recipient that is not declared; 403 without `rule:manage`.
    pub async fn apply(
        &self,
        caller: &Caller,
        declarations: Vec<RuleDeclaration>,
        recipients: Vec<Recipient>,
    ) -> Result<Applied, Error> {
        let rules = self.check(declarations, &recipients)?;
        if let Some(error) = addressees(rules.iter().map(|r| r.declaration()), &recipients).into_iter().next() {
            return Err(Error::field(error.field, error.detail));
        }
        let before = self.alarms.records().read(store::rules).await.map_err(alarms::stored)?;
        let tenants = rules.iter().map(|r| (&r.tenant, &r.key)).chain(before.iter().map(|r| (&r.tenant, &r.key)));
        for (tenant, key) in tenants {
            if !self.may(caller, action::RULE_MANAGE, tenant, key) {
                return Err(Problem::forbidden(format!("You may not manage the rules of '{tenant}'.")).into());
            }
        }
        for rule in &rules {
            self.alarms.scopes().know(&rule.tenant);
        }
        let caller = caller.clone();
        let applied = self.alarms.records().write(move |tx| {
            let mut applied = Applied::default();
            for recipient in &recipients {
                let written = notify::store::put_recipient(tx, recipient)?;
                count(&mut applied, written);
            }
            for key in notify::store::recipient_keys(tx)? {
                if !recipients.iter().any(|r| r.key == key) && notify::store::delete_recipient(tx, &key)? {
                    applied.removed += 1;
                }
            }
            for rule in &rules {
                let written = store::put_rule(tx, rule)?;
                count(&mut applied, written);
                if written {
                    tx.audit(
                        &caller,
                        "rule:apply",
                        "Rule",
                        &rule.key,
                        Some(&rule.tenant),
                        json!({ "severity": rule.severity }),
                    )?;
                }
            }
            let stored = tx.query("SELECT key, tenant FROM sensing_rule ORDER BY key", params![], |row| {
                Ok((row.get::<String>(0)?, row.get::<Tenant>(1)?))
            })?;
            for (key, tenant) in stored {
                if !rules.iter().any(|r| r.key == key) && store::delete_rule(tx, &key)? {
                    tx.audit(&caller, "rule:remove", "Rule", &key, Some(&tenant), json!({}))?;
                    applied.removed += 1;
                }
            }
            Ok::<_, records::Error>(applied)
        });
        applied.await.map_err(alarms::stored)
    }
}

/// Recipients that rules name and nobody declares, or that belong to somebody else.
fn addressees<'a>(rules: impl IntoIterator<Item = &'a RuleDeclaration>, recipients: &[Recipient]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, rule) in rules.into_iter().enumerate() {
        let told = rule.notify.iter().enumerate().map(|(nth, key)| (format!("/{at}/notify/{nth}"), key));
        let steps = rule.escalate.iter().enumerate().flat_map(|(step, s)| {
            let named = s.notify.iter().enumerate();
            named.map(move |(nth, key)| (format!("/{at}/escalate/{step}/notify/{nth}"), key))
        });
        for (field, key) in told.chain(steps) {
            let detail = match recipients.iter().find(|r| r.key == *key) {
                None => format!("no recipient has the key '{key}'"),
                Some(r) if r.tenant != rule.tenant => format!("the recipient '{key}' belongs to another tenant"),
                Some(_) => continue,
            };
            errors.push(FieldError { field, detail });
        }
    }
    errors
}

/// Checks all of what a pack declares about rules, each part by itself and what one says of the other. Pointers begin with the table: `/rule/3/when/above`,
/// `/recipient/0/key`, `/silencing/0/longest`, `/inhibit/1/while`.
pub fn check_file(file: &model::RuleFile, allowed: &Allowed) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut add = |table: &str, found: Vec<FieldError>| {
        errors.extend(found.into_iter().map(|e| FieldError { field: format!("/{table}{}", e.field), ..e }));
    };
    if let Err(problem) = check_all(file.rule.clone()) {
        add("rule", problem.errors);
    }
    add("rule", addressees(&file.rule, &file.recipient));
    let mut keys = std::collections::BTreeSet::new();
    for (at, recipient) in file.recipient.iter().enumerate() {
        add(&format!("recipient/{at}"), recipient.check(allowed));
        if !keys.insert(&recipient.key) {
            let detail = format!("the key '{}' is used twice", recipient.key);
            add("recipient", vec![FieldError { field: format!("/{at}/key"), detail }]);
        }
    }
    add("silencing", silences::check(&file.silencing));
    let rules = file.rule.iter().map(|r| (r.key.as_str(), &r.tenant)).collect();
    add("inhibit", notify::inhibit::check(&file.inhibit, &rules));
    errors
}

fn count(applied: &mut Applied, written: bool) {
    if written {
        applied.written += 1;
    } else {
        applied.unchanged += 1;
    }
}
