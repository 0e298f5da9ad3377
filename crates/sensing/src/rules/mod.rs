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

use kernel::{Caller, FieldError, Problem, Resource, Tenant};
use records::params;
use serde_json::json;

use crate::{
    Error,
    alarms::{self, Alarms},
    notify::{self, Recipient, guard::Allowed},
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
        for (at, rule) in rules.iter().enumerate() {
            for (nth, key) in rule.notify.iter().enumerate() {
                match recipients.iter().find(|r| r.key == *key) {
                    None => {
                        return Err(Error::field(
                            format!("/{at}/notify/{nth}"),
                            format!("no recipient has the key '{key}'"),
                        ));
                    }
                    Some(r) if r.tenant != rule.tenant => {
                        let detail = format!("the recipient '{key}' belongs to another tenant");
                        return Err(Error::field(format!("/{at}/notify/{nth}"), detail));
                    }
                    Some(_) => {}
                }
            }
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

fn count(applied: &mut Applied, written: bool) {
    if written {
        applied.written += 1;
    } else {
        applied.unchanged += 1;
    }
}
