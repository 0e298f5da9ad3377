//! Screens on a wall: what each shows, for how long, and what it carries to prove that it is the one.
//!
//! An officer makes a wall and is given a code, once. The code is good for a day and for one screen: whoever types it into `/{language}/wall`, or opens
//! the link whose fragment it is (RFC 3986 section 3.5: a fragment is never sent, so it stands in no log), gets a cookie instead, and the code is used up.
//! The cookie opens the pages of the wall and nothing else, reads and never writes, and ends with the wall. Only hashes are kept.
//!
//! A wall is not the person who made it. It acts for their tenant with the one role [`ROLE`], so what a screen may show is said by the pack's policies,
//! stays when that person leaves, and is no more when they are promoted.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kernel::{Caller, Id, Kind, Principal, Problem, Resource, Role, Tenant, Timestamp};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{Dashboards, store};
use crate::{Error, route::action};

/// The role that policies know walls by.
pub const ROLE: &str = "wall";
/// Seconds that a dashboard stands before the next.
pub const EVERY: std::ops::RangeInclusive<u32> = 5..=3_600;
/// Dashboards of one wall, walls of one tenant, days that one lasts.
pub const MAX_BOARDS: usize = 12;
pub const MAX_WALLS: usize = 100;
pub const DAYS: std::ops::RangeInclusive<u32> = 1..=400;
const MAX_NAME: usize = 100;
/// How long a code waits for its screen.
const CODE: i64 = 86_400;
/// How often it is noted that a screen was heard of.
const SEEN: i64 = 60;
/// Letters of a code: none that look like another.
const LETTERS: &[u8; 32] = b"ABCDEFGHJKMNPQRSTVWXYZ0123456789";

/// A screen, as officers see it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Wall {
    pub id: Id<Wall>,
    pub tenant: Tenant,
    pub name: String,
    /// Keys of the dashboards that it goes through.
    pub boards: Vec<String>,
    /// Seconds that each stands.
    pub every: u32,
    /// [`Caller::label`].
    pub made_by: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    /// Until when its code waits for a screen; `None` when it is used up.
    pub code_until: Option<Timestamp>,
    /// When a screen took it over.
    pub paired_at: Option<Timestamp>,
    /// When that was last heard of, to the minute.
    pub seen_at: Option<Timestamp>,
}

impl Kind for Wall {
    const NAME: &'static str = "wall";
}

impl Wall {
    pub fn caller(&self) -> Caller {
        Caller {
            principal: Principal::ApiKey { id: format!("wall-{}", self.id).into() },
            tenant: Some(self.tenant.clone()),
            roles: BTreeSet::from([Role::Borrowed(ROLE)]),
        }
    }
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.revoked_at.is_some() || self.expires_at <= now
    }
}

/// The hash of what a screen carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Screen(pub(super) String);

impl Screen {
    pub fn of(token: &str) -> Self {
        Self(hash("screen", token))
    }
}

/// What a wall shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub tenant: Tenant,
    pub name: String,
    pub boards: Vec<String>,
    pub every: u32,
    pub days: u32,
}

fn hash(what: &str, secret: &str) -> String {
    let mut sha = Sha256::new();
    sha.update(b"lamppost wall ");
    sha.update(what.as_bytes());
    sha.update(b"\0");
    sha.update(secret.as_bytes());
    hex::encode(sha.finalize())
}

/// `ABCD-EFGH-JKMN-PQRS-TVWX`: 100 bits, in groups that a person can type on a remote control.
fn code() -> String {
    let bytes: [u8; 20] = rand::random();
    let letters: Vec<u8> = bytes.iter().map(|b| LETTERS[usize::from(*b) % LETTERS.len()]).collect();
    letters.chunks(4).map(|c| String::from_utf8_lossy(c).into_owned()).collect::<Vec<_>>().join("-")
}

/// As it was made, however it was typed.
fn typed(code: &str) -> String {
    let clean = |c: char| match c.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        'U' => 'V',
        c => c,
    };
    code.chars().filter(char::is_ascii_alphanumeric).take(40).map(clean).collect()
}

/// Walls and their screens. Cheap to clone.
#[derive(Clone)]
pub struct Walls {
    dashboards: Dashboards,
    /// The site is reached by `https`.
    secure: bool,
    /// Grows with every change after which a remembered screen may be wrong.
    generation: Arc<AtomicU64>,
}

impl Walls {
    pub fn new(dashboards: Dashboards, secure: bool) -> Self {
        Self { dashboards, secure, generation: Arc::default() }
    }
    pub fn dashboards(&self) -> &Dashboards {
        &self.dashboards
    }
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }
    /// `__Host-` binds the cookie to this host and to TLS (RFC 6265bis section 4.1.3.2).
    pub const fn cookie(&self) -> &'static str {
        if self.secure { "__Host-lamppost-wall" } else { "lamppost-wall" }
    }
    /// `Set-Cookie` for a screen, good as long as its wall.
    pub fn set(&self, token: &str, wall: &Wall, now: Timestamp) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        let age = wall.expires_at.micros_since(now).max(0) / 1_000_000;
        format!("{}={token}; Path=/; HttpOnly; SameSite=Lax{secure}; Max-Age={age}", self.cookie())
    }

    fn records(&self) -> &records::Records {
        self.dashboards.records()
    }

    /// Whether somebody may make and revoke walls of a tenant. A wall goes on when its maker's own time is over, so it takes the right to give keys
    /// away: visitors of a sealed department have neither.
    pub fn may(&self, caller: &Caller, tenant: &Tenant) -> bool {
        let keys = Resource { kind: "Device", id: "", tenant: Some(tenant), public: false };
        self.dashboards.may_manage(caller, tenant)
            && self.dashboards.policy().allows(caller, action::DEVICE_MANAGE, &keys)
    }
    fn permitted(&self, caller: &Caller, tenant: &Tenant) -> Result<(), Error> {
        if self.may(caller, tenant) {
            return Ok(());
        }
        if self.dashboards.reads(caller, tenant) && !caller.is_anonymous() {
            return Err(
                Problem::forbidden("Ask the department's administrator for the right to manage its walls.").into()
            );
        }
        Err(Error::not_found("The list of walls"))
    }

    /// The walls of a tenant, those that stand and then the newest first.
    ///
    /// # Errors
    /// 403 without the right to manage them, 404 where nothing of the tenant may be read.
    pub async fn list(&self, caller: &Caller, tenant: &Tenant) -> Result<Vec<Wall>, Error> {
        self.permitted(caller, tenant)?;
        let (tenant, now) = (tenant.clone(), self.dashboards.now());
        Ok(self.records().read(move |read| store::walls(read, &tenant, now, MAX_WALLS)).await?)
    }

    /// Makes a wall and the code for its screen, which is told this once.
    ///
    /// # Errors
    /// 400 with every field that is wrong; 403 and 404 as [`Walls::list`]; 409 when the tenant has too many.
    pub async fn make(&self, caller: &Caller, draft: Draft) -> Result<(Wall, String), Error> {
        self.permitted(caller, &draft.tenant)?;
        let mut errors = Vec::new();
        let mut wrong = |field: &str, detail: String| {
            errors.push(kernel::FieldError { field: field.to_owned(), detail });
        };
        let name = draft.name.trim().to_owned();
        if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            wrong("/name", format!("1 to {MAX_NAME} characters without control characters are expected"));
        }
        if !(1..=MAX_BOARDS).contains(&draft.boards.len()) {
            wrong("/boards", format!("1 to {MAX_BOARDS} dashboards are expected"));
        }
        for (nth, key) in draft.boards.iter().take(MAX_BOARDS).enumerate() {
            // What its maker may not see is not put on a wall by them.
            if self.dashboards.get(caller, key).await.is_err() {
                let shown: String = key.chars().take(80).collect();
                wrong(&format!("/boards/{nth}"), format!("there is no dashboard '{shown}'"));
            }
        }
        if !EVERY.contains(&draft.every) {
            wrong("/every", format!("{} to {} seconds are expected", EVERY.start(), EVERY.end()));
        }
        if !DAYS.contains(&draft.days) {
            wrong("/days", format!("{} to {} days are expected", DAYS.start(), DAYS.end()));
        }
        if !errors.is_empty() {
            return Err(super::model::refused(errors).into());
        }
        let (code, entropy, caller) = (code(), Id::<Wall>::generate(), caller.clone());
        let hashed = hash("code", &typed(&code));
        let made = self.records().write(move |tx| {
            let now = tx.now();
            let standing = store::walls(tx, &draft.tenant, now, MAX_WALLS)?;
            if standing.iter().filter(|w| !w.is_over(now)).count() >= MAX_WALLS {
                let detail = format!("The department has {MAX_WALLS} walls. Revoke one of them first.");
                return Err(Error::conflict(detail));
            }
            let wall = Wall {
                id: Id::new(now, entropy.uuid().as_u128()),
                tenant: draft.tenant.clone(),
                name: name.clone(),
                boards: draft.boards.clone(),
                every: draft.every,
                made_by: caller.label(),
                created_at: now,
                expires_at: now.plus_secs(i64::from(draft.days) * 86_400),
                revoked_at: None,
                code_until: Some(now.plus_secs(CODE)),
                paired_at: None,
                seen_at: None,
            };
            store::insert_wall(tx, &caller, &wall, &hashed)?;
            Ok(wall)
        });
        Ok((made.await?, code))
    }

    async fn one(&self, caller: &Caller, id: Id<Wall>) -> Result<Wall, Error> {
        let found = self.records().read(move |read| store::wall_by_id(read, id)).await?;
        let missing = || Error::not_found(format!("The wall {id}"));
        let wall = found.ok_or_else(missing)?;
        match self.permitted(caller, &wall.tenant) {
            Ok(()) => Ok(wall),
            Err(Error::Refused(problem)) if problem.status == http::StatusCode::FORBIDDEN => {
                Err(Error::Refused(problem))
            }
            Err(_) => Err(missing()),
        }
    }

    /// A new code for another screen; told this once. The screen that hangs there goes on until it is used.
    ///
    /// # Errors
    /// 403, 404; 409 when the wall is over.
    pub async fn renew(&self, caller: &Caller, id: Id<Wall>) -> Result<(Wall, String), Error> {
        let wall = self.one(caller, id).await?;
        let (code, caller, renewed) = (code(), caller.clone(), wall.clone());
        let hashed = hash("code", &typed(&code));
        let done = self.records().write(move |tx| {
            let until = tx.now().plus_secs(CODE);
            store::renew(tx, &caller, &renewed, &hashed, until)
        });
        if !done.await? {
            return Err(Error::conflict("The wall is over. Make another one."));
        }
        Ok((wall, code))
    }

    /// Takes a wall away from its screen, now.
    ///
    /// # Errors
    /// 403, 404; 409 when that was done already.
    pub async fn revoke(&self, caller: &Caller, id: Id<Wall>) -> Result<(), Error> {
        let wall = self.one(caller, id).await?;
        let caller = caller.clone();
        let done = self.records().write(move |tx| store::revoke(tx, &caller, &wall)).await?;
        self.generation.fetch_add(1, Relaxed);
        if done { Ok(()) } else { Err(Error::conflict("The wall was revoked already.")) }
    }

    /// Uses a code up: the screen's own token, and its wall. `None` for a code that is used, over or never was.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn pair(&self, code: &str) -> Result<Option<(Wall, String)>, Error> {
        let code = typed(code);
        if code.len() != 20 {
            return Ok(None);
        }
        let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let (hashed, screen) = (hash("code", &code), Screen::of(&token));
        let paired = self.records().write(move |tx| store::pair(tx, &hashed, &screen)).await?;
        // The screen that had it before has it no more. A guess has changed nothing, and must not make everybody be looked up anew.
        if paired.is_some() {
            self.generation.fetch_add(1, Relaxed);
        }
        Ok(paired.map(|wall| (wall, token)))
    }

    /// The wall of a screen, by what it carries; `None` when that is not good, or not any more.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn authenticate(&self, token: &str) -> Result<Option<Wall>, Error> {
        let screen = Screen::of(token);
        let found = self.records().read(move |read| store::wall_by_screen(read, &screen)).await?;
        let now = self.dashboards.now();
        let Some(wall) = found.filter(|w| !w.is_over(now)) else { return Ok(None) };
        let before = now.plus_secs(-SEEN);
        if wall.seen_at.is_none_or(|seen| seen < before) {
            let id = wall.id;
            // That a screen was heard of is worth a row, not a refusal.
            if let Err(error) = self.records().write(move |tx| store::saw(tx, id, before)).await {
                tracing::warn!(%error, "when a wall was last heard of could not be written down");
            }
        }
        Ok(Some(wall))
    }

    /// The wall that a caller is, where it is one.
    ///
    /// # Errors
    /// 401 for everybody else, and once it is over.
    pub async fn of(&self, caller: &Caller) -> Result<Wall, Error> {
        let id = match &caller.principal {
            Principal::ApiKey { id } if caller.roles.contains(ROLE) => {
                id.strip_prefix("wall-").and_then(|id| id.parse().ok())
            }
            _ => None,
        };
        let id: Id<Wall> = id.ok_or_else(Problem::unauthenticated)?;
        let found = self.records().read(move |read| store::wall_by_id(read, id)).await?;
        let now = self.dashboards.now();
        Ok(found.filter(|w| !w.is_over(now)).ok_or_else(Problem::unauthenticated)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_again_however_it_is_typed() {
        for _ in 0..50 {
            let code = code();
            assert_eq!(code.len(), 24);
            let plain = typed(&code);
            assert_eq!(plain.len(), 20);
            assert_eq!(typed(&code.to_lowercase()), plain);
            assert_eq!(typed(&format!(" {} ", code.replace('-', " "))), plain);
            assert_eq!(typed(&code.replace('0', "o").replace('1', "l")), plain);
        }
        assert!(typed(&"A".repeat(10_000)).len() <= 40);
    }

    #[test]
    fn a_code_and_a_token_of_the_same_text_are_two() {
        assert_ne!(hash("code", "x"), hash("screen", "x"));
    }
}
