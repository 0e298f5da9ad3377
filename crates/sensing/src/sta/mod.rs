//! OGC SensorThings API 1.1 over HTTP (18-088), with its MultiDatastream extension, at `/v1.1`.

mod batch;
mod data_array;
mod formats;
mod json;
mod landing;
mod observe;
mod path;
mod read;
mod single;
mod write;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kernel::{Caller, Problem};

use crate::{
    Audience, Error, Route,
    query::{Engine, Item},
    route::action,
};

pub use batch::asked as asked_in_batch;
pub(crate) use batch::{PARTS as BATCH_PARTS, count as parse_batch};
pub use data_array::{Broken, Group, Known, Reader, Rows, Stop};
pub use path::Path;
pub(crate) use {
    json::Writer,
    path::{Step, Tail},
    read::Place,
};

/// What the operator says about this door.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The public address of the service without `/v1.1`, such as `https://city.example`. Needed behind a proxy; without it the `Host` header
    /// decides, with `http`.
    pub base_url: Option<String>,
    /// Addresses of the MQTT door, such as `mqtt://city.example:1883`; empty when there is none.
    pub mqtt: Vec<String>,
}

/// The door's state. Cheap to clone.
#[derive(Clone)]
pub struct SensorThings {
    engine: Engine,
    settings: Arc<Settings>,
    rights: Option<Rights>,
    computed: Option<Computed>,
    tasking: Option<crate::tasking::Tasking>,
    watch: Option<Watch>,
    /// How long a batch may begin further requests.
    patience: std::time::Duration,
}

/// What came of Observations that a caller sent by HTTP; for the health of devices.
#[derive(Clone, Copy, Debug)]
pub enum Sent<'a> {
    /// So many were recorded; the phenomenonTime of the newest, where it is known.
    Recorded(u64, Option<kernel::Timestamp>),
    Refused(&'a str),
}

/// Is told what came of it.
pub type Watch = Arc<dyn Fn(&kernel::Caller, Sent<'_>) + Send + Sync>;

/// Whether a caller may add Observations to a Datastream: the same question, with the same answer, as at the MQTT door.
pub type Rights = Arc<dyn Fn(&kernel::Caller, &crate::model::DatastreamInfo) -> bool + Send + Sync>;

/// Whether the Observations of a Datastream are computed: nobody changes or deletes them by hand.
pub type Computed = Arc<dyn Fn(crate::model::EntityId) -> bool + Send + Sync>;

impl SensorThings {
    pub fn new(engine: Engine, settings: Settings) -> Self {
        Self {
            engine,
            settings: Arc::new(settings),
            rights: None,
            computed: None,
            tasking: None,
            watch: None,
            patience: batch::TIME,
        }
    }
    /// Asks `rights` instead of the policy alone who may add Observations: a device writes to its own Things only.
    #[must_use]
    pub fn guarded(mut self, rights: Rights) -> Self {
        self.rights = Some(rights);
        self
    }
    /// Refuses changes to Observations of Datastreams of which `computed` is true.
    #[must_use]
    pub fn computed(mut self, computed: Computed) -> Self {
        self.computed = Some(computed);
        self
    }
    /// Takes Tasks; without it they are read only.
    #[must_use]
    pub fn tasking(mut self, tasking: crate::tasking::Tasking) -> Self {
        self.tasking = Some(tasking);
        self
    }
    /// Tells `watch` of every Observation that came by HTTP.
    #[must_use]
    pub fn watched(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }
    #[cfg(test)]
    fn hasty(self, patience: std::time::Duration) -> Self {
        Self { patience, ..self }
    }
    fn sent(&self, caller: &kernel::Caller, sent: Sent<'_>) {
        if let Some(watch) = &self.watch {
            watch(caller, sent);
        }
    }
    /// Tells of a refusal that the sender is to blame for; what the server could not do is none.
    fn told(&self, caller: &kernel::Caller, error: &crate::Error) {
        if let crate::Error::Refused(problem) = error
            && problem.status.is_client_error()
        {
            self.sent(caller, Sent::Refused(&problem.detail));
        }
    }
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// `https://city.example/v1.1`, without a slash at the end.
    fn base(&self, headers: &HeaderMap) -> String {
        if let Some(base) = &self.settings.base_url {
            return format!("{}/v1.1", base.trim_end_matches('/'));
        }
        // The header goes into every link, so only what can stand in an authority is taken from it (RFC 3986 section 3.2).
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
        let good = |h: &&str| {
            !h.is_empty()
                && h.len() <= 255
                && h.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_'))
        };
        format!("http://{}/v1.1", host.filter(good).unwrap_or("localhost"))
    }
}

const fn route(
    method: &'static str,
    path: &'static str,
    action: kernel::Action,
    audience: Audience,
    audit: bool,
    summary: &'static str,
) -> Route {
    Route { method, path, action, audience, audit, summary }
}

pub const ROUTES: &[Route] = &[
    route(
        "GET",
        "/v1.1",
        action::READ,
        Audience::Public,
        false,
        "SensorThings: the entity sets and what the server supports.",
    ),
    route(
        "GET",
        "/v1.1/{*path}",
        action::READ,
        Audience::Public,
        false,
        "SensorThings: read entities, properties and links, with $filter, $expand and their like.",
    ),
    route(
        "POST",
        "/v1.1/{*path}",
        action::WRITE,
        Audience::SignedIn,
        true,
        "SensorThings: create an entity and those inside it, or an Observation.",
    ),
    route(
        "PATCH",
        "/v1.1/{*path}",
        action::WRITE,
        Audience::SignedIn,
        true,
        "SensorThings: change an entity by merge or JSON Patch.",
    ),
    route(
        "PUT",
        "/v1.1/{*path}",
        action::WRITE,
        Audience::SignedIn,
        true,
        "SensorThings: replace an entity's properties.",
    ),
    route(
        "DELETE",
        "/v1.1/{*path}",
        action::DELETE,
        Audience::SignedIn,
        true,
        "SensorThings: delete an entity and what depends on it.",
    ),
    route(
        "POST",
        "/v1.1/CreateObservations",
        action::OBSERVE,
        Audience::SignedIn,
        false,
        "SensorThings: create many Observations as dataArray.",
    ),
    route(
        "POST",
        "/v1.1/$batch",
        action::WRITE,
        Audience::Public,
        true,
        "SensorThings: many requests in one, as multipart/mixed or JSON; change sets are all or nothing.",
    ),
];

/// The routes of [`ROUTES`].
pub fn router(state: SensorThings) -> Router {
    let limit = state.engine.limits().body_bytes;
    Router::new()
        .route("/v1.1", get(landing::landing))
        .route("/v1.1/", get(landing::landing))
        .route("/v1.1/CreateObservations", post(observe::create_observations))
        .route("/v1.1/$batch", post(batch::batch))
        .route(
            "/v1.1/{*path}",
            get(read::read).post(write::create).patch(write::update).put(write::replace).delete(write::delete),
        )
        .layer(DefaultBodyLimit::max(limit))
        .with_state(state)
}

/// The caller that the program's session and key layer has put there; nobody when it has not.
pub(crate) type MaybeCaller = Option<axum::Extension<Caller>>;

pub(crate) fn caller(extension: MaybeCaller) -> Caller {
    extension.map_or_else(Caller::anonymous, |axum::Extension(caller)| caller)
}

type Response = axum::response::Response;

fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // What a caller may see depends on who it is.
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Authorization, Cookie"));
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = status;
    response
}

/// Whether the client asks for this in `Prefer` (RFC 7240).
fn prefers(headers: &HeaderMap, what: &str) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split([',', ';'])).any(|p| p.trim().eq_ignore_ascii_case(what))
}

/// The tail of a path behind `/v1.1/`, percent-decoded.
fn tail(uri: &http::Uri) -> Result<String, Error> {
    let raw = uri.path().strip_prefix("/v1.1/").unwrap_or_default().replace('+', "%2B");
    crate::query::decode(&raw).map_err(Error::bad_request)
}

fn nothing_there(path: &str) -> Error {
    let shown: String = path.chars().take(100).collect();
    Problem::not_found(format!("/v1.1/{shown}")).into()
}

/// The kind and id of an item, for sentences.
fn name_of(item: &Item) -> String {
    match item {
        Item::Entity(entity, _) => format!("{}({})", entity.entity.set(), entity.id),
        Item::Observation(o, _) => format!("Observations('{}')", o.id()),
    }
}
