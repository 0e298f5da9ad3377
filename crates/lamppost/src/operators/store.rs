//! Rows of operators: people, invitations, sessions, API keys. Every secret is stored as its hash.

use std::collections::BTreeSet;

use kernel::{Caller, Id, Kind, Role, Tenant, Timestamp};
use records::{Error, Migration, Read, Row, Tx, params};
use serde_json::json;

pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "people, invitations, sessions, API keys", sql: OPERATORS },
    Migration {
        version: 2,
        name: "links that set a new password, when keys were last used",
        sql: "ALTER TABLE operators_invite ADD COLUMN person TEXT;
    ALTER TABLE operators_key ADD COLUMN used_at BIGINT",
    },
    Migration {
        version: 3,
        name: "visits: accounts that end, and why they were given",
        sql: "ALTER TABLE operators_invite ADD COLUMN visitor TEXT;
    ALTER TABLE operators_invite ADD COLUMN reason TEXT;
    ALTER TABLE operators_invite ADD COLUMN ends_at BIGINT;
    ALTER TABLE operators_person ADD COLUMN reason TEXT;
    ALTER TABLE operators_person ADD COLUMN invited_by TEXT;
    ALTER TABLE operators_person ADD COLUMN ends_at BIGINT",
    },
];

const OPERATORS: &str = "CREATE TABLE operators_person (
        id TEXT NOT NULL PRIMARY KEY, account TEXT NOT NULL UNIQUE, name TEXT NOT NULL, password TEXT NOT NULL, tenant TEXT NOT NULL,
        roles TEXT NOT NULL, enabled BIGINT NOT NULL, created_at BIGINT NOT NULL);
    CREATE TABLE operators_invite (
        hash TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, roles TEXT NOT NULL, invited_by TEXT NOT NULL, created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL, used_at BIGINT);
    CREATE TABLE operators_session (
        hash TEXT NOT NULL PRIMARY KEY, id TEXT NOT NULL UNIQUE, person TEXT NOT NULL, agent TEXT NOT NULL, address TEXT NOT NULL,
        created_at BIGINT NOT NULL, seen_at BIGINT NOT NULL);
    CREATE INDEX operators_session_person ON operators_session (person);
    CREATE TABLE operators_key (
        prefix TEXT NOT NULL PRIMARY KEY, hash TEXT NOT NULL, name TEXT NOT NULL, tenant TEXT NOT NULL, roles TEXT NOT NULL,
        made_by TEXT NOT NULL, created_at BIGINT NOT NULL, expires_at BIGINT);
    CREATE INDEX operators_key_tenant ON operators_key (tenant)";

#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    pub id: Id<Person>,
    /// What is typed to sign in; lower case.
    pub account: String,
    pub name: String,
    pub tenant: Tenant,
    pub roles: BTreeSet<Role>,
    pub enabled: bool,
    pub created_at: Timestamp,
    /// When the account of a visitor is over; `None` for everybody else.
    pub ends_at: Option<Timestamp>,
}

/// Somebody from outside who may look for a while: who, why, and until when.
#[derive(Clone, Debug, PartialEq)]
pub struct Visit {
    pub name: String,
    pub reason: String,
    pub ends_at: Timestamp,
}

/// A visit as those see it who are visited.
#[derive(Clone, Debug, PartialEq)]
pub struct Visited {
    /// [`Caller::label`] of the account; `None` while the link is not used.
    pub caller: Option<String>,
    pub visit: Visit,
    pub roles: BTreeSet<Role>,
    /// [`Caller::label`] of who let them in: `system:admin` is whoever holds the machine.
    pub by: String,
    /// Their name, where it is a person who has an account still.
    pub by_name: Option<String>,
    pub since: Timestamp,
}

impl Kind for Person {
    const NAME: &'static str = "person";
}

#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub id: Id<Session>,
    pub agent: String,
    pub address: String,
    pub created_at: Timestamp,
    pub seen_at: Timestamp,
}

impl Kind for Session {
    const NAME: &'static str = "session";
}

/// What an unused invitation gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Invite {
    pub tenant: Tenant,
    pub roles: BTreeSet<Role>,
    pub expires_at: Timestamp,
    pub visit: Option<Visit>,
    /// [`Caller::label`].
    pub by: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    pub prefix: String,
    pub name: String,
    pub tenant: Tenant,
    pub roles: BTreeSet<Role>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// To the minute.
    pub used_at: Option<Timestamp>,
}

pub fn join(roles: &BTreeSet<Role>) -> String {
    roles.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ")
}
fn split(roles: &str) -> BTreeSet<Role> {
    roles.split_whitespace().map(|r| Role::Owned(r.to_owned())).collect()
}

/// Fields of a person; what follows them begins at [`AFTER`].
const PERSON: &str = "SELECT p.id, p.account, p.name, p.tenant, p.roles, p.enabled, p.created_at, p.ends_at";
const AFTER: usize = 8;

fn read_person(row: &Row<'_>) -> Result<Person, Error> {
    Ok(Person {
        id: row.get(0)?,
        account: row.get(1)?,
        name: row.get(2)?,
        tenant: row.get(3)?,
        roles: split(&row.get::<String>(4)?),
        enabled: row.get(5)?,
        created_at: row.get(6)?,
        ends_at: row.get(7)?,
    })
}

/// Whose account is neither shut nor over; `$2` is now.
const OPEN: &str = "p.enabled = 1 AND (p.ends_at IS NULL OR p.ends_at > $2)";

pub fn anybody(read: &mut Read<'_>) -> Result<bool, Error> {
    Ok(read.query_opt("SELECT id FROM operators_person LIMIT 1", params![], |_| Ok(()))?.is_some())
}

/// People of a department by account, and when each was last here.
pub fn people(read: &mut Read<'_>, tenant: &Tenant) -> Result<Vec<(Person, Option<Timestamp>)>, Error> {
    let sql = format!(
        "{PERSON}, (SELECT MAX(s.seen_at) FROM operators_session s WHERE s.person = p.id)
         FROM operators_person p WHERE p.tenant = $1 ORDER BY p.account LIMIT 1000"
    );
    read.query(&sql, params![tenant], |row| Ok((read_person(row)?, row.get(AFTER)?)))
}

/// Labels, departments and names of all people and programs.
pub fn names(read: &mut Read<'_>) -> Result<Vec<(String, Tenant, String)>, Error> {
    let mut all = Vec::new();
    for (kind, sql) in [
        ("person", "SELECT id, tenant, name FROM operators_person"),
        ("key", "SELECT prefix, tenant, name FROM operators_key"),
    ] {
        let found = read.query(sql, params![], |row| {
            Ok((format!("{kind}:{}", row.get::<String>(0)?), row.get::<Tenant>(1)?, row.get::<String>(2)?))
        });
        all.extend(found?);
    }
    Ok(all)
}

pub fn person(read: &mut Read<'_>, id: Id<Person>) -> Result<Option<Person>, Error> {
    read.query_opt(&format!("{PERSON} FROM operators_person p WHERE p.id = $1"), params![id], read_person)
}

/// A person by account, also one who is shut out.
pub fn named(read: &mut Read<'_>, account: &str) -> Result<Option<Person>, Error> {
    read.query_opt(&format!("{PERSON} FROM operators_person p WHERE p.account = $1"), params![account], read_person)
}

/// The stored password of a person who may sign in.
pub fn password(read: &mut Read<'_>, id: &str) -> Result<Option<(Person, String)>, Error> {
    let sql = format!("{PERSON}, p.password FROM operators_person p WHERE p.id = $1 AND {OPEN}");
    let now = read.now();
    read.query_opt(&sql, params![id, now], |row| Ok((read_person(row)?, row.get(AFTER)?)))
}

/// Stores a new password and ends every session but `keep`.
pub fn set_password(
    tx: &mut Tx<'_>,
    by: &Caller,
    person: &Person,
    password: &str,
    keep: Option<&str>,
    action: &str,
) -> Result<(), Error> {
    tx.execute("UPDATE operators_person SET password = $2 WHERE id = $1", params![person.id, password])?;
    let ended = tx.execute(
        "DELETE FROM operators_session WHERE person = $1 AND id <> $2",
        params![person.id, keep.unwrap_or_default()],
    )?;
    let detail = json!({"sessions_ended": ended});
    tx.audit(by, action, "Operator", &person.id.to_string(), Some(&person.tenant), detail)
}

pub fn set_roles(tx: &mut Tx<'_>, by: &Caller, person: &Person, roles: &BTreeSet<Role>) -> Result<(), Error> {
    tx.execute("UPDATE operators_person SET roles = $2 WHERE id = $1", params![person.id, join(roles)])?;
    let detail = json!({"from": join(&person.roles), "to": join(roles)});
    tx.audit(by, "operator:roles", "Operator", &person.id.to_string(), Some(&person.tenant), detail)
}

/// Lets somebody in again, or shuts them out and ends where they are signed in.
pub fn set_enabled(tx: &mut Tx<'_>, by: &Caller, person: &Person, enabled: bool) -> Result<(), Error> {
    tx.execute("UPDATE operators_person SET enabled = $2 WHERE id = $1", params![person.id, i64::from(enabled)])?;
    if !enabled {
        tx.execute("DELETE FROM operators_session WHERE person = $1", params![person.id])?;
        tx.execute("DELETE FROM operators_invite WHERE person = $1", params![person.id.to_string()])?;
    }
    let action = if enabled { "operator:enable" } else { "operator:disable" };
    tx.audit(by, action, "Operator", &person.id.to_string(), Some(&person.tenant), json!({}))
}

/// A link that sets a new password, once; the ones before end.
pub fn insert_reset(
    tx: &mut Tx<'_>,
    by: &Caller,
    hash: &str,
    person: &Person,
    expires_at: Timestamp,
) -> Result<(), Error> {
    let id = person.id.to_string();
    tx.execute("DELETE FROM operators_invite WHERE person = $1 AND used_at IS NULL", params![id])?;
    tx.execute(
        "INSERT INTO operators_invite (hash, tenant, roles, invited_by, created_at, expires_at, person)
         VALUES ($1, $2, '', $3, $4, $5, $6)",
        params![hash, person.tenant, by.label(), tx.now(), expires_at, id],
    )?;
    let detail = json!({"expires_at": expires_at});
    tx.audit(by, "operator:reset-link", "Operator", &id, Some(&person.tenant), detail)
}

/// Whose password a link sets, while it is good.
pub fn reset(read: &mut Read<'_>, hash: &str) -> Result<Option<Person>, Error> {
    let sql = format!(
        "{PERSON} FROM operators_invite i JOIN operators_person p ON p.id = i.person
         WHERE i.hash = $1 AND i.used_at IS NULL AND i.expires_at > $2 AND {OPEN}"
    );
    let now = read.now();
    read.query_opt(&sql, params![hash, now], read_person)
}

/// Uses up such a link, once.
pub fn use_reset(tx: &mut Tx<'_>, hash: &str) -> Result<Option<Person>, Error> {
    let Some(person) = reset(tx, hash)? else { return Ok(None) };
    let sql = "UPDATE operators_invite SET used_at = $2 WHERE hash = $1 AND used_at IS NULL";
    Ok((tx.execute(sql, params![hash, tx.now()])? == 1).then_some(person))
}

/// A person and the stored password.
pub fn by_account(read: &mut Read<'_>, account: &str) -> Result<Option<(Person, String)>, Error> {
    let sql = format!("{PERSON}, p.password FROM operators_person p WHERE p.account = $1 AND {OPEN}");
    let now = read.now();
    read.query_opt(&sql, params![account, now], |row| Ok((read_person(row)?, row.get(AFTER)?)))
}

pub fn insert_invite(tx: &mut Tx<'_>, by: &Caller, hash: &str, invite: &Invite) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO operators_invite (hash, tenant, roles, invited_by, created_at, expires_at, visitor, reason, ends_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        params![
            hash,
            invite.tenant,
            join(&invite.roles),
            by.label(),
            tx.now(),
            invite.expires_at,
            invite.visit.as_ref().map(|v| v.name.as_str()),
            invite.visit.as_ref().map(|v| v.reason.as_str()),
            invite.visit.as_ref().map(|v| v.ends_at)
        ],
    )?;
    let mut detail = json!({"roles": join(&invite.roles), "expires_at": invite.expires_at});
    let Some(visit) = &invite.visit else {
        return tx.audit(by, "operator:invite", "Operator", "", Some(&invite.tenant), detail);
    };
    detail["visitor"] = visit.name.as_str().into();
    detail["reason"] = visit.reason.as_str().into();
    detail["ends_at"] = json!(visit.ends_at);
    tx.audit(by, "operator:visit", "Operator", "", Some(&invite.tenant), detail)
}

/// Ends the unused invitations that `by` has made.
pub fn end_invites(tx: &mut Tx<'_>, by: &Caller) -> Result<u64, Error> {
    tx.execute(
        "DELETE FROM operators_invite WHERE invited_by = $1 AND used_at IS NULL AND person IS NULL",
        params![by.label()],
    )
}

pub fn invite(read: &mut Read<'_>, hash: &str) -> Result<Option<Invite>, Error> {
    let sql = "SELECT tenant, roles, expires_at, invited_by, visitor, reason, ends_at FROM operators_invite
               WHERE hash = $1 AND used_at IS NULL AND expires_at > $2 AND person IS NULL";
    let now = read.now();
    read.query_opt(sql, params![hash, now], |row| {
        Ok(Invite {
            tenant: row.get(0)?,
            roles: split(&row.get::<String>(1)?),
            expires_at: row.get(2)?,
            by: row.get(3)?,
            visit: read_visit(row, 4)?,
        })
    })
}

fn read_visit(row: &Row<'_>, at: usize) -> Result<Option<Visit>, Error> {
    let (name, reason, ends_at) =
        (row.get::<Option<String>>(at)?, row.get::<Option<String>>(at + 1)?, row.get(at + 2)?);
    Ok(name.zip(reason).zip(ends_at).map(|((name, reason), ends_at)| Visit { name, reason, ends_at }))
}

/// Who was let in from outside, newest first: links that are good still, and accounts that were made with one.
pub fn visits(read: &mut Read<'_>, tenant: &Tenant, limit: u32) -> Result<Vec<Visited>, Error> {
    let now = read.now();
    let sql =
        "SELECT i.visitor, i.reason, i.ends_at, i.roles, i.invited_by, i.created_at, b.name FROM operators_invite i
               LEFT JOIN operators_person b ON i.invited_by = 'person:' || b.id
               WHERE i.tenant = $1 AND i.visitor IS NOT NULL AND i.used_at IS NULL AND i.expires_at > $2
               ORDER BY i.created_at DESC LIMIT $3";
    let visited = |row: &Row<'_>, caller: Option<String>| {
        let Some(visit) = read_visit(row, 0)? else { return Ok(None) };
        let (roles, by) = (split(&row.get::<String>(3)?), row.get::<Option<String>>(4)?.unwrap_or_default());
        Ok(Some(Visited { caller, visit, roles, by, by_name: row.get(6)?, since: row.get(5)? }))
    };
    let mut all = read.query(sql, params![tenant, now, i64::from(limit)], |row| visited(row, None))?;
    let sql =
        "SELECT p.name, p.reason, p.ends_at, p.roles, p.invited_by, p.created_at, b.name, p.id FROM operators_person p
               LEFT JOIN operators_person b ON p.invited_by = 'person:' || b.id
               WHERE p.tenant = $1 AND p.ends_at IS NOT NULL ORDER BY p.created_at DESC LIMIT $2";
    let made = read.query(sql, params![tenant, i64::from(limit)], |row| {
        visited(row, Some(format!("person:{}", row.get::<String>(7)?)))
    })?;
    all.extend(made);
    Ok(all.into_iter().flatten().collect())
}

/// Uses up an invitation, once; `None` when it is used, over or unknown.
pub fn use_invite(tx: &mut Tx<'_>, hash: &str) -> Result<Option<Invite>, Error> {
    let Some(invite) = invite(tx, hash)? else { return Ok(None) };
    let sql = "UPDATE operators_invite SET used_at = $2 WHERE hash = $1 AND used_at IS NULL";
    Ok((tx.execute(sql, params![hash, tx.now()])? == 1).then_some(invite))
}

pub fn insert_person(
    tx: &mut Tx<'_>,
    person: &Person,
    password: &str,
    by: &str,
    reason: Option<&str>,
) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO operators_person (id, account, name, password, tenant, roles, enabled, created_at, ends_at, invited_by, reason)
         VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, $10)",
        params![
            person.id,
            person.account,
            person.name,
            password,
            person.tenant,
            join(&person.roles),
            tx.now(),
            person.ends_at,
            by,
            reason
        ],
    )?;
    let caller = caller(person);
    let detail = json!({"roles": join(&person.roles)});
    tx.audit(&caller, "operator:join", "Operator", &person.id.to_string(), Some(&person.tenant), detail)
}

pub fn caller(person: &Person) -> Caller {
    Caller {
        principal: kernel::Principal::Person { id: person.id.to_string().into(), name: person.name.as_str().into() },
        tenant: Some(person.tenant.clone()),
        roles: person.roles.clone(),
    }
}

pub fn insert_session(tx: &mut Tx<'_>, person: &Person, hash: &str, session: &Session) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO operators_session (hash, id, person, agent, address, created_at, seen_at) VALUES ($1, $2, $3, $4, $5, $6, $6)",
        params![hash, session.id, person.id, session.agent, session.address, tx.now()],
    )?;
    let detail = json!({"address": session.address});
    tx.audit(&caller(person), "operator:sign-in", "Operator", &person.id.to_string(), Some(&person.tenant), detail)
}

/// The person behind a session that began after `begun` and was used after `used`.
pub fn by_session(
    read: &mut Read<'_>,
    hash: &str,
    begun: Timestamp,
    used: Timestamp,
) -> Result<Option<(Person, Session)>, Error> {
    let sql = format!(
        "{PERSON}, s.id, s.agent, s.address, s.created_at, s.seen_at FROM operators_session s
         JOIN operators_person p ON p.id = s.person
         WHERE s.hash = $1 AND {OPEN} AND s.created_at > $3 AND s.seen_at > $4"
    );
    let now = read.now();
    read.query_opt(&sql, params![hash, now, begun, used], |row| Ok((read_person(row)?, read_session(row, AFTER)?)))
}

fn read_session(row: &Row<'_>, at: usize) -> Result<Session, Error> {
    Ok(Session {
        id: row.get(at)?,
        agent: row.get(at + 1)?,
        address: row.get(at + 2)?,
        created_at: row.get(at + 3)?,
        seen_at: row.get(at + 4)?,
    })
}

pub fn saw_session(tx: &mut Tx<'_>, hash: &str) -> Result<(), Error> {
    tx.execute("UPDATE operators_session SET seen_at = $2 WHERE hash = $1", params![hash, tx.now()]).map(drop)
}

pub fn sessions(read: &mut Read<'_>, person: &str, begun: Timestamp, used: Timestamp) -> Result<Vec<Session>, Error> {
    let sql = "SELECT id, agent, address, created_at, seen_at FROM operators_session
               WHERE person = $1 AND created_at > $2 AND seen_at > $3 ORDER BY seen_at DESC LIMIT 100";
    read.query(sql, params![person, begun, used], |row| read_session(row, 0))
}

pub fn end_session(tx: &mut Tx<'_>, by: &Caller, person: &str, session: &str) -> Result<u64, Error> {
    let ended = tx.execute("DELETE FROM operators_session WHERE person = $1 AND id = $2", params![person, session])?;
    if ended > 0 {
        tx.audit(by, "operator:sign-out", "Operator", person, by.tenant.as_ref(), json!({"session": session}))?;
    }
    Ok(ended)
}

/// Removes sessions that are over; they are refused before that already.
pub fn sweep(tx: &mut Tx<'_>, begun: Timestamp, used: Timestamp) -> Result<u64, Error> {
    tx.execute("DELETE FROM operators_session WHERE created_at <= $1 OR seen_at <= $2", params![begun, used])
}

pub fn insert_key(tx: &mut Tx<'_>, by: &Caller, key: &ApiKey, hash: &str) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO operators_key (prefix, hash, name, tenant, roles, made_by, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        params![key.prefix, hash, key.name, key.tenant, join(&key.roles), by.label(), tx.now(), key.expires_at],
    )?;
    let detail = json!({"name": key.name, "roles": join(&key.roles), "expires_at": key.expires_at});
    tx.audit(by, "operator:key-make", "ApiKey", &key.prefix, Some(&key.tenant), detail)
}

const KEY: &str = "SELECT prefix, name, tenant, roles, created_at, expires_at, used_at, hash FROM operators_key";

fn read_key(row: &Row<'_>) -> Result<ApiKey, Error> {
    Ok(ApiKey {
        prefix: row.get(0)?,
        name: row.get(1)?,
        tenant: row.get(2)?,
        roles: split(&row.get::<String>(3)?),
        created_at: row.get(4)?,
        expires_at: row.get(5)?,
        used_at: row.get(6)?,
    })
}

pub fn keys(read: &mut Read<'_>, tenant: &Tenant) -> Result<Vec<ApiKey>, Error> {
    read.query(&format!("{KEY} WHERE tenant = $1 ORDER BY created_at LIMIT 1000"), params![tenant], read_key)
}

/// A key that is not over, with its hash.
pub fn key(read: &mut Read<'_>, prefix: &str) -> Result<Option<(ApiKey, String)>, Error> {
    let now = read.now();
    let sql = format!("{KEY} WHERE prefix = $1 AND (expires_at IS NULL OR expires_at > $2)");
    read.query_opt(&sql, params![prefix, now], |row| Ok((read_key(row)?, row.get(7)?)))
}

pub fn delete_key(tx: &mut Tx<'_>, by: &Caller, key: &ApiKey) -> Result<(), Error> {
    tx.execute("DELETE FROM operators_key WHERE prefix = $1", params![key.prefix])?;
    tx.audit(by, "operator:key-revoke", "ApiKey", &key.prefix, Some(&key.tenant), json!({"name": key.name}))
}

pub fn used(tx: &mut Tx<'_>, used: &[(String, Timestamp)]) -> Result<(), Error> {
    let sql = "UPDATE operators_key SET used_at = $2 WHERE prefix = $1 AND COALESCE(used_at, 0) < $2";
    for (prefix, at) in used {
        tx.execute(sql, params![prefix, *at])?;
    }
    Ok(())
}
