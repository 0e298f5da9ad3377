//! Batch requests (18-088 section 11): many requests in one, as multipart/mixed (OData 4.0 Part 1 section 11.7) or as JSON (OData JSON
//! Format 4.01 section 19).
//!
//! A part is answered by the handler that would answer it alone, with the same caller; nothing is sent anywhere. Of a part's header only what
//! describes its body and the wished answer counts, so that no part acts for somebody else.

mod json;
mod multipart;
mod set;

use std::collections::HashSet;

use axum::{
    Extension,
    extract::{RawQuery, State},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use kernel::{Caller, Problem};

use super::{MaybeCaller, Response, SensorThings, caller, landing, observe, prefers, read, write};
use crate::Error;
use set::Names;

/// Requests of one batch, those of change sets included.
pub const PARTS: usize = 1_000;
/// Bytes of all answers together; what is read beyond is refused, part by part.
const ANSWERS: usize = 32 << 20;
/// How long a batch may begin further parts. Below `http.timeout`, so that what was done is told and not cut off.
pub(super) const TIME: std::time::Duration = std::time::Duration::from_secs(20);
/// Bytes of what a part is called.
const NAME: usize = 200;

/// One request inside a batch.
#[derive(Clone, Debug)]
pub struct Part {
    /// Content-ID, or `id` in JSON.
    pub name: Option<String>,
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Where it stands, for sentences: `part 2.1`, `/requests/3`.
    pub at: String,
    /// Names of parts and groups that must have succeeded.
    pub after: Vec<String>,
}

/// What is done together.
#[derive(Clone, Debug)]
pub enum Group {
    One(Part),
    /// All or nothing. In JSON it has a name.
    Set(Option<String>, Vec<Part>),
}

/// What of a part's header counts: what describes its body and its answer, and what names it when it is sent again. `Host`, `Authorization` and `Cookie` are the batch's.
const COUNTED: [HeaderName; 3] =
    [header::CONTENT_TYPE, HeaderName::from_static("prefer"), HeaderName::from_static("idempotency-key")];

fn method(text: &str) -> Option<Method> {
    [Method::GET, Method::POST, Method::PATCH, Method::PUT, Method::DELETE]
        .into_iter()
        .find(|m| m.as_str().eq_ignore_ascii_case(text))
}

fn named(at: &str, name: &str) -> Result<String, Error> {
    let good = (1..=NAME).contains(&name.len()) && !name.chars().any(|c| c.is_control() || "/()?#".contains(c));
    if good {
        return Ok(name.to_owned());
    }
    Err(Error::field(at, format!("a name is 1 to {NAME} bytes of printable text without / ( ) ? #")))
}

/// The address of a part as a path of this service. One that leads elsewhere is refused: nothing is fetched from other hosts, and nobody
/// shall believe that it was.
fn inside(base: &str, url: &str) -> Result<Uri, String> {
    let elsewhere = || format!("the address leads out of the service; it begins with {base}/, /v1.1/ or an entity set");
    let below = |root: &str| url.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let root = base.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or("/v1.1");
    let scheme = url.find([':', '/', '?', '(']).is_some_and(|at| url[at..].starts_with(':'));
    let rest = match below(base).or_else(|| below(root)).or_else(|| below("/v1.1")) {
        Some(rest) => rest,
        None if scheme || url.starts_with('/') => return Err(elsewhere()),
        None => url,
    };
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    let mut path = "/v1.1".to_owned();
    if !rest.is_empty() && !rest.starts_with('?') {
        path.push('/');
    }
    // As clients write them: what a URI may not hold is encoded, what is encoded already stays.
    for c in rest.chars() {
        if c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' | '#') {
            path.push(c);
        } else {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().for_each(|b| path.push_str(&format!("%{b:02X}")));
        }
    }
    path.parse().map_err(|_| "this is not an address".to_owned())
}

/// What became of a part, with its body in memory.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// The part's name, to be told again.
    name: Option<String>,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// What of an answer's header is told.
const TOLD: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::LOCATION,
    header::ALLOW,
    header::RETRY_AFTER,
    header::CONTENT_DISPOSITION,
    HeaderName::from_static("preference-applied"),
];

impl Reply {
    /// `wrote` says that the part was no question: what it has done is told even where its answer has no room.
    async fn of(name: Option<&String>, response: Response, left: &mut usize, wrote: bool) -> Self {
        let (head, body) = response.into_parts();
        let told = |header: &HeaderName| Some((header.clone(), head.headers.get(header)?.clone()));
        let Ok(body) = axum::body::to_bytes(body, *left).await else {
            if wrote && head.status.is_success() {
                let mut headers: HeaderMap = TOLD.iter().filter_map(told).collect();
                headers.remove(header::CONTENT_TYPE);
                return Self { name: name.cloned(), status: StatusCode::NO_CONTENT, headers, body: Bytes::new() };
            }
            let detail = "The answers of the batch are larger than may be; ask for this by itself, or for less.";
            return Self::problem(name, Problem::too_large(detail));
        };
        *left -= body.len().min(*left);
        Self { name: name.cloned(), status: head.status, headers: TOLD.iter().filter_map(told).collect(), body }
    }
    fn problem(name: Option<&String>, problem: Problem) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = problem.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        let body = serde_json::to_vec(&problem).unwrap_or_default().into();
        Self { name: name.cloned(), status: problem.status, headers, body }
    }
    fn failed(&self) -> bool {
        self.status.is_client_error() || self.status.is_server_error()
    }
}

/// The answers of one group.
pub(super) enum Replies {
    One(Reply),
    Set(Vec<Reply>),
    /// A change set of which nothing was done: the part that is to blame, where one is.
    Refused(Reply, Option<usize>),
}

impl SensorThings {
    /// Answers one part as if it had come alone.
    async fn part(&self, caller: &Caller, outer: &HeaderMap, part: &Part, names: &Names) -> Result<Response, Error> {
        let base = self.base(outer);
        let (uri, body) = set::known(&base, part, names)?;
        let mut headers = part.headers.clone();
        if let Some(host) = outer.get(header::HOST) {
            headers.insert(header::HOST, host.clone());
        }
        let (state, extension) = (State(self.clone()), Some(Extension(caller.clone())));
        let path = uri.path().trim_end_matches('/');
        match (&part.method, path) {
            (_, "/v1.1/$batch" | "/v1.1/%24batch") => Err(Error::field(&part.at, "a batch holds no batch")),
            (&Method::GET, "/v1.1") => Ok(landing::landing(state, headers).await),
            (&Method::GET, _) => read::read(state, extension, uri, headers).await,
            (&Method::POST, "/v1.1/CreateObservations") => {
                observe::create_observations(state, extension, headers, body).await
            }
            (&Method::POST, _) => write::create(state, extension, uri, headers, body).await,
            (&Method::PATCH, _) => write::update(state, extension, uri, headers, body).await,
            (&Method::PUT, _) => write::replace(state, extension, uri, headers, body).await,
            _ => write::delete(state, extension, uri).await,
        }
    }

    /// All groups, one after the other; what is not begun has no answer.
    async fn batch(&self, caller: &Caller, outer: &HeaderMap, groups: &[Group], on: bool) -> Vec<Replies> {
        let begun = tokio::time::Instant::now();
        let (mut replies, mut left) = (Vec::with_capacity(groups.len()), ANSWERS);
        // What requests of their own have created may be named by all that follow; so may, in JSON, what groups have.
        let mut names = Names::default();
        let mut failed: HashSet<String> = HashSet::new();
        for group in groups {
            let late = begun.elapsed() >= self.patience;
            let answered = match group {
                Group::One(part) => {
                    let name = part.name.as_ref();
                    let asks = part.method == Method::GET;
                    let answer = async {
                        let response = if late {
                            Err(too_late())
                        } else {
                            match waits(&failed, std::slice::from_ref(part)) {
                                Some(error) => Err(error),
                                None => self.part(caller, outer, part, &names).await,
                            }
                        };
                        match response {
                            Ok(response) => Reply::of(name, response, &mut left, !asks).await,
                            Err(error) => Reply::problem(name, error.into()),
                        }
                    };
                    // A question may not outlast the batch, whose other answers wait for it; what writes is never broken off.
                    let reply = if asks && !late {
                        let until = begun + self.patience;
                        let answered = tokio::time::timeout_at(until, answer).await;
                        answered.unwrap_or_else(|_| Reply::problem(name, too_late().into()))
                    } else {
                        answer.await
                    };
                    if let (Some(name), false) = (name, reply.failed()) {
                        names.learn(name, &reply);
                    }
                    failed.extend(name.filter(|_| reply.failed()).cloned());
                    Replies::One(reply)
                }
                Group::Set(group, parts) => {
                    let done = if late {
                        Err((None, too_late()))
                    } else {
                        match waits(&failed, parts) {
                            Some(error) => Err((None, error)),
                            None => self.change_set(caller, outer, parts, &names).await,
                        }
                    };
                    match done {
                        Ok((responses, made)) => {
                            let mut all = Vec::with_capacity(parts.len());
                            for (part, response) in parts.iter().zip(responses) {
                                let name = part.name.as_ref();
                                all.push(match response {
                                    Ok(response) => Reply::of(name, response, &mut left, true).await,
                                    Err(error) => Reply::problem(name, error.into()),
                                });
                            }
                            if group.is_some() {
                                names.extend(made);
                            }
                            Replies::Set(all)
                        }
                        Err((index, error)) => {
                            let blamed = index.and_then(|index| parts.get(index));
                            let mut problem = Problem::from(error);
                            problem.detail = match blamed {
                                Some(part) => {
                                    format!("Nothing of the change set was done. {}: {}", part.at, problem.detail)
                                }
                                None => format!("Nothing of the change set was done. {}", problem.detail),
                            };
                            failed.extend(parts.iter().filter_map(|part| part.name.clone()).chain(group.clone()));
                            Replies::Refused(Reply::problem(blamed.and_then(|part| part.name.as_ref()), problem), index)
                        }
                    }
                }
            };
            let stop = match &answered {
                Replies::One(reply) => reply.failed(),
                Replies::Set(replies) => replies.iter().any(Reply::failed),
                Replies::Refused(..) => true,
            };
            replies.push(answered);
            // OData 4.0 Part 1 section 8.2.8.3: the first failure ends a batch unless the client wants it otherwise.
            if late || (stop && !on) {
                break;
            }
        }
        replies
    }
}

fn too_late() -> Error {
    let detail =
        "The batch has taken too long; this and what follows was not begun. Send that again, in smaller batches.";
    Problem::unavailable(detail, 1).into()
}

/// Whether something fails because what it depends on has failed.
fn waits(failed: &HashSet<String>, parts: &[Part]) -> Option<Error> {
    let name = parts.iter().flat_map(|part| &part.after).find(|name| failed.contains(*name))?;
    Some(depends(format!("'{name}', which this depends on, has failed.")).into())
}

fn depends(detail: String) -> Problem {
    Problem::new(StatusCode::FAILED_DEPENDENCY, "failed-dependency", "What this depends on has failed", detail)
}

/// The type of a media type, without its parameters.
fn essence(kind: &str) -> String {
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn read_groups(kind: &str, body: &Bytes) -> Result<Vec<Group>, Error> {
    match essence(kind).as_str() {
        "multipart/mixed" => multipart::parse(kind, body),
        "application/json" => json::parse(body),
        _ => {
            let detail =
                "A batch is sent as multipart/mixed with a boundary, or as application/json (18-088 section 11).";
            Err(Problem::unsupported_media(detail).into())
        }
    }
}

/// How many requests a batch holds, without doing any.
pub(crate) fn count(kind: &str, body: &Bytes) -> Result<usize, Error> {
    let groups = read_groups(kind, body)?;
    Ok(groups.iter().map(|group| if let Group::Set(_, parts) = group { parts.len() } else { 1 }).sum())
}

/// What a batch asks for, `GET Things(1)` for each part; nothing of what cannot be read, which is not done either.
pub fn asked(kind: &str, body: &Bytes) -> Vec<String> {
    let parts = |group| match group {
        Group::One(part) => vec![part],
        Group::Set(_, parts) => parts,
    };
    let groups = read_groups(kind, body).unwrap_or_default();
    groups.into_iter().flat_map(parts).map(|part| format!("{} {}", part.method, part.url)).collect()
}

/// `POST /v1.1/$batch`.
pub async fn batch(
    State(state): State<SensorThings>,
    extension: MaybeCaller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = caller(extension);
    if query.is_some_and(|query| query.contains('$')) {
        return Err(Error::field("query", "a batch takes no query options; its parts do"));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let on = ["continue-on-error", "continue-on-error=true", "odata.continue-on-error", "odata.continue-on-error=true"]
        .iter()
        .any(|wish| prefers(&headers, wish));
    let groups = read_groups(&kind, &body)?;
    // On a task of its own: whoever hangs up in the middle must not tear a change set from its Observations.
    let work = tokio::spawn(async move {
        let replies = state.batch(&caller, &headers, &groups, on).await;
        (groups, replies)
    });
    let (groups, replies) = work.await.map_err(|stopped| Error::internal(format!("the batch broke off: {stopped}")))?;
    // The answer has the form of the question.
    if essence(&kind) == "multipart/mixed" {
        Ok(multipart::response(&replies))
    } else {
        Ok(json::response(&groups, &replies))
    }
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn an_address_stays_inside() {
        let base = "https://city.example/v1.1";
        for (url, path) in [
            ("Things(1)", "/v1.1/Things(1)"),
            ("/v1.1/Things(1)", "/v1.1/Things(1)"),
            ("https://city.example/v1.1/Things", "/v1.1/Things"),
            ("https://city.example/v1.1", "/v1.1"),
            ("Things?$filter=name eq 'http://x/é'", "/v1.1/Things?$filter=name%20eq%20'http://x/%C3%A9'"),
            ("$sensor1/Datastreams", "/v1.1/$sensor1/Datastreams"),
            ("?$top=1", "/v1.1?$top=1"),
        ] {
            assert_eq!(inside(base, url).map(|uri| uri.to_string()), Ok(path.to_owned()), "{url}");
        }
        for url in [
            "http://169.254.169.254/latest",
            "https://city.example.evil/v1.1/Things",
            "https://city.example/v1.1evil",
            "//evil.example/v1.1/Things",
            "/api/devices",
            "/v1.10/Things",
            "file:///etc/passwd",
            "javascript:alert(1)",
        ] {
            assert!(inside(base, url).is_err(), "{url}");
        }
    }
}
