//! From a request to its [`Caller`]: a key in `Authorization`, a session in a cookie, or nobody.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderValue, Method, header};
use kernel::{Caller, Clock, Id, Problem, Timestamp};
use parking_lot::Mutex;
use sensing::{
    dashboards::Walls,
    devices::{Devices, token},
};
use sha2::{Digest, Sha256};
use ui::SessionKey;

use super::{Operators, Session};

/// Callers remembered, so that a device that posts each second does not cost a query each second.
const REMEMBERED: usize = 65_536;
/// For so long; a key or session that is taken away here is forgotten at once, elsewhere within this.
const FOR: i64 = 10 * 1_000_000;

/// The session a request came with.
#[derive(Clone, Copy, Debug)]
pub struct CurrentSession(pub Id<Session>);

/// When the visit of whoever asks is over.
#[derive(Clone, Copy, Debug)]
pub struct VisitEnds(pub Timestamp);

pub struct Callers {
    pub operators: Operators,
    pub devices: Devices,
    pub clock: Arc<dyn Clock>,
    /// The site is reached by `https`.
    pub secure: bool,
    /// The screens that hang somewhere; none where there are no dashboards.
    walls: Option<Walls>,
    cache: Mutex<HashMap<[u8; 32], Known>>,
}

#[derive(Clone)]
struct Known {
    caller: Caller,
    session: Option<Id<Session>>,
    ends_at: Option<Timestamp>,
    until: Timestamp,
    generation: (u64, u64),
}

impl Callers {
    pub fn new(operators: Operators, devices: Devices, clock: Arc<dyn Clock>, secure: bool) -> Self {
        Self { operators, devices, clock, secure, walls: None, cache: Mutex::default() }
    }
    #[must_use]
    pub fn with_walls(mut self, walls: Walls) -> Self {
        self.walls = Some(walls);
        self
    }

    /// `__Host-` binds the cookie to this host and to TLS (RFC 6265bis section 4.1.3.2); without TLS a browser would refuse it.
    pub const fn cookie(&self) -> &'static str {
        if self.secure { "__Host-lamppost" } else { "lamppost" }
    }
    const fn visitor(&self) -> &'static str {
        if self.secure { "__Host-lamppost-visitor" } else { "lamppost-visitor" }
    }
    fn set(&self, name: &str, value: &str) -> HeaderValue {
        let secure = if self.secure { "; Secure" } else { "" };
        let ends = if value.is_empty() { "; Max-Age=0" } else { "" };
        // Names and values here are plain ASCII of our own.
        HeaderValue::from_str(&format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{ends}"))
            .unwrap_or_else(|_| HeaderValue::from_static(""))
    }
    /// `Set-Cookie` for a new session; an empty token ends it.
    pub fn set_session(&self, token: &str) -> HeaderValue {
        self.set(self.cookie(), token)
    }

    fn generation(&self) -> (u64, u64) {
        let walls = self.walls.as_ref().map_or(0, Walls::generation);
        // Both only grow, and so does their sum.
        (self.operators.generation(), self.devices.generation().wrapping_add(walls))
    }

    async fn known(&self, text: &str, kind: Credential) -> Result<Option<Known>, Problem> {
        let key: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let (now, generation) = (self.clock.now(), self.generation());
        let cached = self.cache.lock().get(&key).cloned();
        if let Some(known) = cached.filter(|k| k.until > now && k.generation == generation) {
            return Ok(Some(known));
        }
        let found = match kind {
            Credential::Session => {
                self.operators.session_until(text).await?.map(|(caller, id, ends_at)| (caller, Some(id), ends_at))
            }
            Credential::Wall => match &self.walls {
                Some(walls) => walls.authenticate(text).await?.map(|wall| (wall.caller(), None, Some(wall.expires_at))),
                None => None,
            },
            Credential::Key => match token::parse(text) {
                Some((token::Kind::Device, _)) => self.devices.authenticate(text).await?.map(|c| (c, None, None)),
                Some((token::Kind::Program, _)) => self.operators.authenticate(text).await?.map(|c| (c, None, None)),
                None => None,
            },
        };
        // The generation of before the look: a change meanwhile makes the entry stale, not wrong.
        let known = found.map(|(caller, session, ends_at)| {
            let until = now.plus_micros(FOR);
            Known { caller, session, ends_at, until: ends_at.map_or(until, |end| end.min(until)), generation }
        });
        let mut cache = self.cache.lock();
        match &known {
            Some(known) => {
                if cache.len() >= REMEMBERED {
                    cache.retain(|_, k| k.until > now);
                    if cache.len() >= REMEMBERED {
                        cache.clear();
                    }
                }
                cache.insert(key, known.clone());
            }
            None => drop(cache.remove(&key)),
        }
        Ok(known)
    }

    /// The caller of a device or program by its key, for doors that are not HTTP.
    pub async fn by_key(&self, text: &str) -> Result<Option<Caller>, Problem> {
        Ok(self.known(text, Credential::Key).await?.map(|k| k.caller))
    }
}

#[derive(Clone, Copy)]
enum Credential {
    Session,
    Key,
    /// What a screen on a wall carries.
    Wall,
}

/// Where the cookie of a wall counts: on its own pages, to read. Everywhere else its browser is anybody's.
fn of_wall(path: &str, method: &Method) -> bool {
    let below = path.strip_prefix('/').and_then(|p| p.split_once('/')).map_or("", |(_, below)| below);
    matches!(*method, Method::GET | Method::HEAD) && matches!(below, "wall" | "wall/tiles")
}

/// The middleware. What it puts into the request: [`Caller`], [`SessionKey`], [`CurrentSession`].
pub async fn callers(State(callers): State<Arc<Callers>>, mut request: Request, next: Next) -> Response {
    let identified = identify(&callers, request.headers(), request.method(), request.uri().path()).await;
    let (known, session_key, fresh) = match identified {
        Ok(identified) => identified,
        Err(problem) => return problem.into_response(),
    };
    let extensions = request.extensions_mut();
    match known {
        Some(known) => {
            extensions.insert(known.caller);
            if let Some(session) = known.session {
                extensions.insert(CurrentSession(session));
            }
            if let Some(ends_at) = known.ends_at {
                extensions.insert(VisitEnds(ends_at));
            }
        }
        None => drop(extensions.insert(Caller::anonymous())),
    }
    if let Some(key) = session_key {
        extensions.insert(SessionKey(key));
    }
    let mut response = next.run(request).await;
    if let Some(visitor) = fresh {
        response.headers_mut().append(header::SET_COOKIE, callers.set(callers.visitor(), &visitor));
    }
    response
}

type Identified = (Option<Known>, Option<Arc<str>>, Option<String>);

async fn identify(callers: &Callers, headers: &HeaderMap, method: &Method, path: &str) -> Result<Identified, Problem> {
    if let Some(authorization) = headers.get(header::AUTHORIZATION) {
        let text = credentials(authorization).ok_or_else(Problem::unauthenticated)?;
        // Somebody who shows a key wants to be known by it: a wrong one is not the public.
        let known = callers.known(&text, Credential::Key).await?.ok_or_else(Problem::unauthenticated)?;
        return Ok((Some(known), None, None));
    }
    if let Some(walls) = callers.walls.as_ref().filter(|_| of_wall(path, method))
        && let Some(token) = cookie(headers, walls.cookie()).filter(|t| t.len() == 43)
    {
        // Where it is over nobody is asking: the page then says so, and asks for another code.
        if let Some(known) = callers.known(token, Credential::Wall).await? {
            return Ok((Some(known), None, None));
        }
    }
    let unsafe_method = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if let Some(token) = cookie(headers, callers.cookie()).filter(|t| t.len() == 43)
        && let Some(known) = callers.known(token, Credential::Session).await?
    {
        if unsafe_method && !ui::csrf::same_origin(headers) {
            return Err(Problem::forbidden("The request came from another site."));
        }
        return Ok((Some(known), Some(token.into()), None));
    }
    // A visitor's forms (signing in) are bound to this browser by a cookie that says nothing else.
    let visitor = cookie(headers, callers.visitor()).filter(|v| v.len() == 22);
    let page = headers.get(header::ACCEPT).is_some_and(|a| a.as_bytes().starts_with(b"text/html"));
    Ok(match visitor {
        Some(visitor) => (None, Some(visitor.into()), None),
        None if page && *method == Method::GET => {
            let fresh = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
            (None, Some(fresh.as_str().into()), Some(fresh))
        }
        None => (None, None, None),
    })
}

/// The key in `Bearer <key>` (or `Token <key>`, as clients of InfluxDB have it), or in the password of `Basic` for device clients that know no
/// other way.
fn credentials(value: &HeaderValue) -> Option<String> {
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token") {
        return Some(rest.to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") && rest.len() <= 1_024 {
        let decoded = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        return Some(decoded.split_once(':')?.1.to_owned());
    }
    None
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(';')).find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walls_cookie_counts_on_its_own_pages_alone() {
        for path in ["/en/wall", "/zh-hant/wall/tiles"] {
            assert!(of_wall(path, &Method::GET) && !of_wall(path, &Method::POST), "{path}");
        }
        for path in [
            "/",
            "/wall",
            "/en",
            "/en/walls",
            "/en/wall/",
            "/en/wall/x",
            "/en/dashboards/wall",
            "/en/x/wall",
            "/v1.1/wall/tiles/x",
        ] {
            assert!(!of_wall(path, &Method::GET), "{path}");
        }
    }
}
