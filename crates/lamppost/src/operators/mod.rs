//! The people who run the city, and the keys of their programs. A later room `identity` takes this over; `Caller` stays.

mod account;
pub mod layer;
mod limits;
/// What whoever did something is called.
mod names;
pub mod pages;
mod password;
mod people;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kernel::{Action, Caller, Id, Policy, Principal, Problem, Resource, Role, Tenant, Timestamp};
use parking_lot::Mutex;
use records::Records;
use sensing::devices::token;
use sha2::{Digest, Sha256};

pub use store::{ApiKey, Invite, Person, Session, Visit, Visited};

use crate::config;
use limits::Attempts;
use names::Names;
use password::Passwords;

pub const READ: Action = Action("operator:read");
pub const MANAGE: Action = Action("operator:manage");

/// Keys whose last use waits to be written down; more are not noted until the next minute.
const NOTED: usize = 100_000;

/// The tables of operators, for tests of what joins them.
#[cfg(test)]
pub(crate) fn migrations() -> &'static [records::Migration] {
    store::MIGRATIONS
}

/// Hours that somebody from outside may be let in for.
pub const LONGEST_VISIT: u32 = 72;

/// A session's time of last use is written when it is older than this.
const SEEN_EVERY: i64 = 60 * 1_000_000;

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Operators {
    inner: Arc<Inner>,
}

struct Inner {
    records: Records,
    policy: Arc<dyn Policy>,
    /// What an invitation or key may give.
    roles: BTreeSet<Role>,
    options: config::Operators,
    passwords: Passwords,
    attempts: Attempts,
    /// Grows with every change after which a cached caller may be wrong.
    generation: AtomicU64,
    /// Keys that were used since it was last written down.
    used: Mutex<HashMap<String, Timestamp>>,
    names: Names,
}

/// Why somebody could not join or sign in, to be said on the form.
#[derive(Debug)]
pub enum Refusal {
    /// A text's key: what is wrong with what was typed, and with which field.
    Form {
        field: &'static str,
        text: &'static str,
    },
    /// The account or the password is wrong. Never says which.
    Wrong,
    /// Seconds to wait.
    Slow(u32),
    /// The link is used, over or never was.
    Link,
    Failed(Problem),
}

impl From<records::Error> for Refusal {
    fn from(error: records::Error) -> Self {
        match error {
            records::Error::Unique(_) => Self::Form { field: "account", text: "operators.account-taken" },
            other => Self::Failed(failed(&other)),
        }
    }
}
impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

/// A store's failure as a client sees it.
fn failed(error: &records::Error) -> Problem {
    tracing::warn!(%error, "operators");
    sensing::error::away(error).unwrap_or_else(Problem::internal)
}

/// 256 random bits as text, and what of it is stored.
fn secret() -> (String, String) {
    let text = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let hash = hash(&text);
    (text, hash)
}
fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Operators {
    /// Brings the tables up to date. Blocks; may be called anywhere.
    pub fn open(
        records: Records,
        policy: Arc<dyn Policy>,
        roles: BTreeSet<Role>,
        options: config::Operators,
    ) -> anyhow::Result<Self> {
        records.migrate("operators", store::MIGRATIONS)?;
        let passwords = Passwords::new()?;
        let (attempts, generation, used) = (Attempts::default(), AtomicU64::new(0), Mutex::default());
        let names = Names::of(records.read_blocking(store::names)?);
        let inner = Inner { records, policy, roles, options, passwords, attempts, generation, used, names };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn now(&self) -> Timestamp {
        self.inner.records.now()
    }
    /// Sessions begun, and used, before these are over.
    fn over(&self) -> (Timestamp, Timestamp) {
        let now = self.now();
        (
            now.plus_micros(-micros(self.inner.options.session_limit)),
            now.plus_micros(-micros(self.inner.options.session_idle)),
        )
    }
    fn changed(&self) {
        self.inner.generation.fetch_add(1, Relaxed);
    }
    /// Changes whenever a session, key or right was taken away.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Relaxed)
    }
    pub fn allows(&self, caller: &Caller, action: Action, tenant: &Tenant) -> bool {
        self.inner.policy.allows(
            caller,
            action,
            &Resource { kind: "Operator", id: "", tenant: Some(tenant), public: false },
        )
    }

    /// What somebody who did something is called, for their own department and for who may list its people. `None` for everybody else.
    pub fn name(&self, caller: &Caller, label: &str) -> Option<String> {
        let (tenant, name) = self.inner.names.get(label)?;
        let colleague =
            caller.tenant.as_ref() == Some(&tenant) && !matches!(caller.principal, Principal::Device { .. });
        (colleague || self.allows(caller, READ, &tenant)).then_some(name)
    }

    // --- joining ---------------------------------------------------------------------------------------------------

    /// The one-time link of a city without operators: its token, good once; the one before ends. `None` when there is somebody.
    pub async fn first_link(&self, operations: &Tenant) -> Result<Option<String>, records::Error> {
        if self.inner.records.read(store::anybody).await? {
            return Ok(None);
        }
        let by = Caller::system("start");
        let roles = BTreeSet::from([Role::Borrowed("admin")]);
        let (text, hash) = secret();
        let invite = Invite {
            tenant: operations.clone(),
            roles,
            expires_at: self.now().plus_micros(micros(self.inner.options.invite_limit)),
            visit: None,
            by: by.label(),
        };
        self.inner
            .records
            .write(move |tx| {
                store::end_invites(tx, &by)?;
                store::insert_invite(tx, &by, &hash, &invite)
            })
            .await?;
        Ok(Some(text))
    }

    /// A one-time link for somebody more: its token.
    pub async fn invite(&self, caller: &Caller, tenant: &Tenant, roles: BTreeSet<Role>) -> Result<String, Problem> {
        if !self.allows(caller, MANAGE, tenant) {
            return Err(Problem::forbidden("You may not invite people to this department."));
        }
        self.known(&roles)?;
        self.link(caller, tenant, roles, None).await
    }

    async fn link(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        roles: BTreeSet<Role>,
        visit: Option<Visit>,
    ) -> Result<String, Problem> {
        let (text, hash) = secret();
        let expires_at = self.now().plus_micros(micros(self.inner.options.invite_limit));
        let expires_at = visit.as_ref().map_or(expires_at, |visit| visit.ends_at.min(expires_at));
        let invite = Invite { tenant: tenant.clone(), roles, expires_at, visit, by: caller.label() };
        let caller = caller.clone();
        let written = self.inner.records.write(move |tx| store::insert_invite(tx, &caller, &hash, &invite)).await;
        written.map_err(|e: records::Error| failed(&e))?;
        Ok(text)
    }

    /// A one-time link for somebody from outside who must look into a department: named, for a reason, for hours. Who may manage the
    /// department's people gives it, or whoever holds the machine; the account ends by itself, and cannot let in others.
    pub async fn visit(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        roles: BTreeSet<Role>,
        (name, reason): (&str, &str),
        hours: u32,
    ) -> Result<String, Problem> {
        if !self.allows(caller, MANAGE, tenant) {
            return Err(Problem::not_found("The department"));
        }
        self.known(&roles)?;
        let text = |field: &str, text: &str, least: usize, most: usize| {
            let text = text.trim();
            let fits = (least..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control);
            let detail = format!("{least} to {most} characters without control characters are expected");
            if fits { Ok(text.to_owned()) } else { Err(Problem::field(field, detail)) }
        };
        let (name, reason) = (text("name", name, 1, 100)?, text("reason", reason, 10, 500)?);
        if !(1..=LONGEST_VISIT).contains(&hours) {
            return Err(Problem::field("hours", format!("1 to {LONGEST_VISIT} hours are expected")));
        }
        self.looks_only(tenant, &roles)?;
        let ends_at = self.now().plus_micros(i64::from(hours) * 3_600_000_000);
        self.link(caller, tenant, roles, Some(Visit { name, reason, ends_at })).await
    }

    /// What a visitor may be: who manages people or devices could give an account or a key that is good for longer than the visit.
    fn looks_only(&self, tenant: &Tenant, roles: &BTreeSet<Role>) -> Result<(), Problem> {
        let id: Arc<str> = "visitor".into();
        let visitor = Caller {
            principal: Principal::Person { id: id.clone(), name: id },
            tenant: Some(tenant.clone()),
            roles: roles.clone(),
        };
        let devices = Resource { kind: "Device", id: "", tenant: Some(tenant), public: false };
        let gives = self.inner.policy.allows(&visitor, sensing::route::action::DEVICE_MANAGE, &devices);
        if gives || self.allows(&visitor, MANAGE, tenant) {
            let detail = "a visitor manages neither people nor devices; give a role that looks";
            return Err(Problem::field("roles", detail));
        }
        Ok(())
    }

    /// Who was let in from outside, the newest 200. Who may see them is the caller's business.
    pub(crate) async fn visits(&self, tenant: &Tenant) -> Result<Vec<Visited>, Problem> {
        let tenant = tenant.clone();
        let found = self.inner.records.read(move |read| store::visits(read, &tenant, 200)).await;
        found.map_err(|e: records::Error| failed(&e))
    }

    fn known(&self, roles: &BTreeSet<Role>) -> Result<(), Problem> {
        match roles.iter().find(|r| !self.inner.roles.contains(*r)) {
            Some(role) => Err(Problem::field("roles", format!("there is no role '{role}'"))),
            None if roles.is_empty() => Err(Problem::field("roles", "at least one role is needed")),
            None => Ok(()),
        }
    }

    /// What a link gives, while it is good.
    pub async fn invitation(&self, token: &str) -> Result<Option<Invite>, Problem> {
        let hash = hash(token);
        self.inner.records.read(move |read| store::invite(read, &hash)).await.map_err(|e: records::Error| failed(&e))
    }

    /// Makes the account that a link promises. The link is used up with it, or not at all.
    pub async fn join(&self, token: &str, account: &str, name: &str, password: String) -> Result<Person, Refusal> {
        let account = account.trim().to_lowercase();
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '+');
        if !(3..=100).contains(&account.chars().count()) || !account.chars().all(plain) {
            return Err(Refusal::Form { field: "account", text: "operators.account-form" });
        }
        let name = name.trim().to_owned();
        if !(1..=100).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return Err(Refusal::Form { field: "name", text: "operators.name-form" });
        }
        password::acceptable(&password, &account).map_err(|text| Refusal::Form { field: "password", text })?;
        // Looked at first, so that nobody without a link makes the server hash.
        self.invitation(token).await?.ok_or(Refusal::Link)?;
        let stored = self.inner.passwords.hash(password).await?;
        let (hash, id) = (hash(token), Id::generate());
        self.inner
            .records
            .write(move |tx| {
                let invite = store::use_invite(tx, &hash)?.ok_or(Refusal::Link)?;
                let (visit, by) = (invite.visit, invite.by);
                let person = Person {
                    id,
                    account: account.clone(),
                    // A visitor is called what they were let in as.
                    name: visit.as_ref().map_or_else(|| name.clone(), |visit| visit.name.clone()),
                    tenant: invite.tenant,
                    roles: invite.roles,
                    enabled: true,
                    created_at: tx.now(),
                    ends_at: visit.as_ref().map(|visit| visit.ends_at),
                };
                store::insert_person(tx, &person, &stored, &by, visit.as_ref().map(|visit| visit.reason.as_str()))?;
                Ok(person)
            })
            .await
    }

    /// Everybody of a department, and when each was last here.
    pub async fn people(&self, caller: &Caller, tenant: &Tenant) -> Result<Vec<(Person, Option<Timestamp>)>, Problem> {
        if !self.allows(caller, READ, tenant) {
            return Err(Problem::not_found("The list"));
        }
        let tenant = tenant.clone();
        self.inner.records.read(move |read| store::people(read, &tenant)).await.map_err(|e: records::Error| failed(&e))
    }

    // --- signing in ------------------------------------------------------------------------------------------------

    /// A session's token for the right account and password.
    pub async fn sign_in(
        &self,
        account: &str,
        password: String,
        address: IpAddr,
        agent: &str,
    ) -> Result<String, Refusal> {
        let account: String = account.trim().to_lowercase().chars().take(100).collect();
        self.inner.attempts.take(&account, address, self.now()).map_err(Refusal::Slow)?;
        let asked = account.clone();
        let found = self.inner.records.read(move |read| store::by_account(read, &asked)).await?;
        let (person, stored) = found.unzip();
        // The work is the same whether or not there is such an account.
        let right = self.inner.passwords.verify(password.chars().take(1_000).collect(), stored).await?;
        let Some(person) = person.filter(|_| right) else { return Err(Refusal::Wrong) };
        self.inner.attempts.succeeded(&account, address);
        let (text, hash) = secret();
        let now = self.now();
        let session = Session {
            id: Id::generate(),
            agent: agent.chars().filter(|c| !c.is_control()).take(200).collect(),
            address: address.to_string(),
            created_at: now,
            seen_at: now,
        };
        self.inner.records.write(move |tx| store::insert_session(tx, &person, &hash, &session)).await?;
        Ok(text)
    }

    /// Who a session's token belongs to; its time of last use is kept up.
    pub async fn session(&self, token: &str) -> Result<Option<(Caller, Id<Session>)>, Problem> {
        Ok(self.session_until(token).await?.map(|(caller, session, _)| (caller, session)))
    }

    /// The same, and when it is over whatever happens: the end of a visit.
    pub async fn session_until(
        &self,
        token: &str,
    ) -> Result<Option<(Caller, Id<Session>, Option<Timestamp>)>, Problem> {
        let (hash, (begun, used)) = (hash(token), self.over());
        let asked = hash.clone();
        let found = self.inner.records.read(move |read| store::by_session(read, &asked, begun, used)).await;
        let Some((person, session)) = found.map_err(|e: records::Error| failed(&e))? else { return Ok(None) };
        if self.now().micros_since(session.seen_at) > SEEN_EVERY {
            let written = self.inner.records.write(move |tx| store::saw_session(tx, &hash)).await;
            written.map_err(|e: records::Error| failed(&e))?;
        }
        let caller = store::caller(&person);
        self.inner.names.learn(caller.label(), &person.tenant, &person.name);
        Ok(Some((caller, session.id, person.ends_at)))
    }

    /// The sessions of a person, last used first.
    pub async fn sessions(&self, caller: &Caller) -> Result<Vec<Session>, Problem> {
        let (person, (begun, used)) = (Self::person(caller)?.to_owned(), self.over());
        let found = self.inner.records.read(move |read| store::sessions(read, &person, begun, used)).await;
        found.map_err(|e: records::Error| failed(&e))
    }

    /// Ends one of the caller's own sessions.
    pub async fn end_session(&self, caller: &Caller, session: &str) -> Result<(), Problem> {
        let person = Self::person(caller)?.to_owned();
        let (caller, session) = (caller.clone(), session.to_owned());
        let ended = self.inner.records.write(move |tx| store::end_session(tx, &caller, &person, &session)).await;
        self.changed();
        match ended {
            Ok(0) => Err(Problem::not_found("The session")),
            Ok(_) => Ok(()),
            Err(e) => Err(failed(&e)),
        }
    }

    fn person(caller: &Caller) -> Result<&str, Problem> {
        match &caller.principal {
            Principal::Person { id, .. } => Ok(id),
            _ => Err(Problem::unauthenticated()),
        }
    }

    // --- what becomes of an account ---------------------------------------------------------------------------------

    /// One person of a department.
    pub async fn one(&self, caller: &Caller, id: &str) -> Result<Person, Problem> {
        let missing = || Problem::not_found("The person");
        let id: Id<Person> = id.parse().map_err(|_| missing())?;
        let found = self.inner.records.read(move |read| store::person(read, id)).await;
        let found = found.map_err(|e: records::Error| failed(&e))?;
        found.filter(|person| self.allows(caller, READ, &person.tenant)).ok_or_else(missing)
    }

    /// The caller's own account.
    pub async fn own(&self, caller: &Caller) -> Result<Person, Problem> {
        let id: Id<Person> = Self::person(caller)?.parse().map_err(|_| Problem::unauthenticated())?;
        let found = self.inner.records.read(move |read| store::person(read, id)).await;
        found.map_err(|e: records::Error| failed(&e))?.ok_or_else(Problem::unauthenticated)
    }

    /// Somebody whose account the caller may change; never the caller's own, which would be a way to lock oneself out.
    async fn other(&self, caller: &Caller, id: &str) -> Result<Person, Problem> {
        let person = self.one(caller, id).await?;
        if !self.allows(caller, MANAGE, &person.tenant) {
            return Err(Problem::forbidden("You may not change people of this department."));
        }
        if Self::person(caller).is_ok_and(|own| own == person.id.to_string()) {
            return Err(Problem::conflict("Ask another administrator to change your own account."));
        }
        Ok(person)
    }

    pub async fn set_roles(&self, caller: &Caller, id: &str, roles: BTreeSet<Role>) -> Result<(), Problem> {
        let person = self.other(caller, id).await?;
        self.known(&roles)?;
        if person.ends_at.is_some() {
            self.looks_only(&person.tenant, &roles)?;
        }
        let caller = caller.clone();
        let written = self.inner.records.write(move |tx| store::set_roles(tx, &caller, &person, &roles)).await;
        self.changed();
        written.map_err(|e: records::Error| failed(&e))
    }

    /// Shuts somebody out, at once and everywhere, or lets them in again.
    pub async fn set_enabled(&self, caller: &Caller, id: &str, enabled: bool) -> Result<(), Problem> {
        let person = self.other(caller, id).await?;
        let caller = caller.clone();
        let written = self.inner.records.write(move |tx| store::set_enabled(tx, &caller, &person, enabled)).await;
        self.changed();
        written.map_err(|e: records::Error| failed(&e))
    }

    /// The token of a link with which somebody sets a new password, once. The password that they have stays good until then.
    pub async fn reset_link(&self, caller: &Caller, id: &str) -> Result<String, Problem> {
        let person = self.other(caller, id).await?;
        if !person.enabled {
            return Err(Problem::conflict("The account is shut. Open it first."));
        }
        let (text, hash) = secret();
        let expires_at = self.now().plus_micros(micros(self.inner.options.invite_limit));
        let caller = caller.clone();
        let written =
            self.inner.records.write(move |tx| store::insert_reset(tx, &caller, &hash, &person, expires_at)).await;
        written.map_err(|e: records::Error| failed(&e))?;
        Ok(text)
    }

    /// A person by account, for the command line.
    pub async fn named(&self, account: &str) -> Result<Option<Person>, Problem> {
        let account = account.trim().to_lowercase();
        self.inner.records.read(move |read| store::named(read, &account)).await.map_err(|e: records::Error| failed(&e))
    }

    /// Whose password a link sets, while it is good.
    pub async fn resetting(&self, token: &str) -> Result<Option<Person>, Problem> {
        let hash = hash(token);
        self.inner.records.read(move |read| store::reset(read, &hash)).await.map_err(|e: records::Error| failed(&e))
    }

    /// Sets the password that a link is for, and ends every session. The link is used up with it, or not at all.
    pub async fn reset(&self, token: &str, password: String) -> Result<Person, Refusal> {
        // Looked at first, so that nobody without a link makes the server hash.
        let person = self.resetting(token).await?.ok_or(Refusal::Link)?;
        password::acceptable(&password, &person.account).map_err(|text| Refusal::Form { field: "password", text })?;
        let stored = self.inner.passwords.hash(password).await?;
        let hash = hash(token);
        let done = self.inner.records.write(move |tx| {
            let person = store::use_reset(tx, &hash)?.ok_or(Refusal::Link)?;
            let by = store::caller(&person);
            store::set_password(tx, &by, &person, &stored, None, "operator:password-reset")?;
            Ok(person)
        });
        let done: Result<Person, Refusal> = done.await;
        self.changed();
        done
    }

    /// Changes one's own password; whoever knows only the session does not. Every session but `keep` ends.
    pub async fn change_password(
        &self,
        caller: &Caller,
        keep: Option<Id<Session>>,
        present: String,
        new: String,
        address: IpAddr,
    ) -> Result<(), Refusal> {
        let id = Self::person(caller)?.to_owned();
        let found = self.inner.records.read(move |read| store::password(read, &id)).await?;
        let (person, stored) = found.ok_or_else(Problem::unauthenticated)?;
        // A guesser with a stolen session is as slow as one without.
        self.inner.attempts.take(&person.account, address, self.now()).map_err(Refusal::Slow)?;
        let new_is_present = new == present;
        if !self.inner.passwords.verify(present.chars().take(1_000).collect(), Some(stored)).await? {
            return Err(Refusal::Form { field: "present", text: "operators.present-wrong" });
        }
        self.inner.attempts.succeeded(&person.account, address);
        if new_is_present {
            return Err(Refusal::Form { field: "password", text: "operators.password-same" });
        }
        password::acceptable(&new, &person.account).map_err(|text| Refusal::Form { field: "password", text })?;
        let stored = self.inner.passwords.hash(new).await?;
        let (caller, keep) = (caller.clone(), keep.map(|id| id.to_string()));
        let written = self
            .inner
            .records
            .write(move |tx| store::set_password(tx, &caller, &person, &stored, keep.as_deref(), "operator:password"));
        let written: Result<(), records::Error> = written.await;
        self.changed();
        Ok(written?)
    }

    /// Writes down when keys were last used. To be called about once a minute and before the end.
    pub async fn persist(&self) -> Result<usize, records::Error> {
        let used: Vec<_> = std::mem::take(&mut *self.inner.used.lock()).into_iter().collect();
        let count = used.len();
        if count > 0 {
            self.inner.records.write(move |tx| store::used(tx, &used)).await?;
        }
        Ok(count)
    }

    /// Removes what is over. To be called now and then.
    pub async fn sweep(&self) -> Result<u64, records::Error> {
        let (begun, used) = self.over();
        self.inner.records.write(move |tx| store::sweep(tx, begun, used)).await
    }

    // --- keys of programs -------------------------------------------------------------------------------------------

    /// A key for a program: its text, shown once. Nobody gives a key more than they may manage.
    pub async fn make_key(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        name: &str,
        roles: BTreeSet<Role>,
        expires_at: Option<Timestamp>,
    ) -> Result<String, Problem> {
        if !self.allows(caller, MANAGE, tenant) {
            return Err(Problem::forbidden("You may not make keys for this department."));
        }
        self.known(&roles)?;
        if !(1..=100).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return Err(Problem::field("name", "1 to 100 characters without control characters are expected"));
        }
        let issued = token::issue(token::Kind::Program);
        let key = ApiKey {
            prefix: issued.prefix,
            name: name.to_owned(),
            tenant: tenant.clone(),
            roles,
            created_at: self.now(),
            expires_at,
            used_at: None,
        };
        let (caller, hash) = (caller.clone(), issued.hash);
        let written = self.inner.records.write(move |tx| store::insert_key(tx, &caller, &key, &hash)).await;
        written.map_err(|e: records::Error| failed(&e))?;
        Ok(issued.text)
    }

    pub async fn keys(&self, caller: &Caller, tenant: &Tenant) -> Result<Vec<ApiKey>, Problem> {
        if !self.allows(caller, READ, tenant) {
            return Err(Problem::not_found("The list"));
        }
        let tenant = tenant.clone();
        let found = self.inner.records.read(move |read| store::keys(read, &tenant)).await;
        let mut keys = found.map_err(|e: records::Error| failed(&e))?;
        let used = self.inner.used.lock();
        for key in &mut keys {
            key.used_at = key.used_at.max(used.get(&key.prefix).copied());
        }
        Ok(keys)
    }

    pub async fn revoke_key(&self, caller: &Caller, prefix: &str) -> Result<(), Problem> {
        let asked = prefix.to_owned();
        let found = self
            .inner
            .records
            .read(move |read| store::key(read, &asked))
            .await
            .map_err(|e: records::Error| failed(&e))?;
        let key = found.map(|(key, _)| key).filter(|key| self.allows(caller, MANAGE, &key.tenant));
        let key = key.ok_or_else(|| Problem::not_found("The key"))?;
        let caller = caller.clone();
        let written = self.inner.records.write(move |tx| store::delete_key(tx, &caller, &key)).await;
        self.changed();
        written.map_err(|e: records::Error| failed(&e))
    }

    /// The caller behind a program's key; `None` for every key that is not good, whatever the reason.
    pub async fn authenticate(&self, text: &str) -> Result<Option<Caller>, Problem> {
        let Some((token::Kind::Program, prefix)) = token::parse(text) else { return Ok(None) };
        let prefix = prefix.to_owned();
        let found = self
            .inner
            .records
            .read(move |read| store::key(read, &prefix))
            .await
            .map_err(|e: records::Error| failed(&e))?;
        let proved = found.filter(|(_, stored)| token::matches(text, stored)).map(|(key, _)| key);
        Ok(proved.map(|key| {
            let mut used = self.inner.used.lock();
            if used.len() < NOTED || used.contains_key(&key.prefix) {
                used.insert(key.prefix.clone(), self.now());
            }
            let principal = Principal::ApiKey { id: key.prefix.into() };
            let caller = Caller { principal, tenant: Some(key.tenant.clone()), roles: key.roles };
            self.inner.names.learn(caller.label(), &key.tenant, &key.name);
            caller
        }))
    }
}
