//! The MQTT door (3.1.1 and 5.0), and SensorThings over it (OGC 18-088 section 14).
//!
//! # Publish
//! | Topic | Payload |
//! |---|---|
//! | `v1.1/Datastreams(<id>)/Observations` | create body of an Observation, or a bare number |
//! | `v1.1/MultiDatastreams(<id>)/Observations` | create body of an Observation, or a bare array |
//! | `v1.1/FeaturesOfInterest(<id>)/Observations`, `v1.1/Observations` | create body that names its Datastream or MultiDatastream |
//! | `v1.1/CreateObservations` | data array |
//! | `v1.1/TaskingCapabilities(<id>)/Tasks`, `v1.1/Tasks` | a Task that is proposed (17-079 section 9.1) |
//! | `v1.1/Tasks(<id>)` | `{"@lamppost.status": "acknowledged"}`, or `failed` with `@lamppost.reason`: what a device says of a Task (docs/tasking.md) |
//! | `devices/<device>/<datastream key>` | create body, a bare number or a bare array, for devices that know no ids |
//! | `devices/self/health`, `devices/self/command` | how a device is, and what has become of its command (docs/devices.md) |
//! | `tenant/<slug>/...` | anything; a tenant's own messages, for its signed-in callers |
//!
//! # Subscribe (18-088 section 14.2)
//! | Topic | Messages |
//! |---|---|
//! | `v1.1/Datastreams(<id>)/Observations`, the same of a MultiDatastream or feature, `v1.1/Observations` | each new or changed Observation |
//! | `v1.1/Observations('<id>')`, and with a property behind it | that Observation when it is written again |
//! | `v1.1/Things`, any other entity set | each entity that is created or changed |
//! | `v1.1/Things(<id>)` | the entity when it is changed |
//! | `v1.1/TaskingCapabilities(<id>)/Tasks`, `v1.1/Tasks` | each Task when it is sent, and not before (17-079 section 9) |
//! | `v1.1/Tasks(<id>)/@lamppost.status` | what becomes of a Task that was sent |
//! | `v1.1/Things(<id>)/name`, any other property | `{"name": …}` when it has another value |
//! | `v1.1/Things(<id>)/Datastreams`, any other path | the entities where the path leads |
//! | any of these with `?$select=name,description` | those properties alone, under the topic as it was subscribed to |
//! | `devices/self/command` | what the device itself is to do: at once when it subscribes, then whenever there is something new |
//! | `tenant/<slug>/...` | the tenant's own messages |
//!
//! An entity's message is what a GET would answer. A Datastream or MultiDatastream is also sent when Observations have moved its phenomenonTime or
//! resultTime, a few times a second at most. `+`, `#` and `$share` work on all; `#` brings an Observation under its Datastream's topic and
//! an entity under its own, once. Wildcards reach no longer path than `v1.1/Things(1)/Datastreams(2)`. A
//! filter that names nothing that could ever be is refused. What a caller may not read
//! does not exist for it: a subscription to it is granted and stays silent.
//!
//! # What is promised
//! - PUBACK and PUBREC of an observation are sent when it is durable, in the order in which the messages came. When it cannot be made
//!   durable now, the connection is closed without one, so that the client keeps the message. MQTT 5 clients are told why a message is
//!   refused; 3.1.1 has no words for that, and the connection is closed.
//! - A Datastream's topic retains its latest value: it is the head's, not a copy.
//! - QoS 1 and 2 subscriptions to observations miss nothing: a client that is absent or slow is given the rest from the stream, from the
//!   position where it stood, as far back as the stream's retention reaches (`stream.retain_age`, `stream.retain`). Sessions do not hold
//!   retention back, or one lost client would fill the disk. A session that comes back too late goes on at the oldest record that is
//!   kept; an MQTT 5 client is told how many records are gone by the user property `missed-records` of its next message, and both
//!   versions are counted (`overtaken`, `overtaken_records`) and logged. What it missed is in the lake: ask for it over HTTP.
//! - A session with an expiry survives a restart of the server: subscriptions and position are kept in `records`. Packet identifiers
//!   under way are not, so after a restart of the *server* a message may come twice at any QoS; inbound, an Observation with a
//!   phenomenonTime that is sent twice is still one Observation.
//! - A tenant's own messages and entities are routed in memory: at most `queue.messages` wait for a session, none survives a
//!   restart but the retained ones. Shared subscriptions are live only: what no member can take is dropped and counted.
//!
//! # Layers
//! `wire` (bytes) → `handshake` → `connection` (one task each) → `inbound` (what a PUBLISH means) and `session` (what is owed to the
//! client) → `hub` (who wants what: `interest`), `route` (Observations) and `entities` (everything else). `city` has the traits through
//! which the door sees the rest.

mod catalogue;
mod city;
mod connection;
mod entities;
mod handshake;
mod hub;
mod inbound;
mod interest;
mod listen;
mod observed;
mod payload;
mod render;
mod route;
mod saved;
mod session;
mod stats;
mod store;
mod throttle;
mod topic;
mod trie;
mod wire;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};

use kernel::Clock;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use catalogue::Catalogued;
pub use city::{
    Anchored, Applied, Authenticate, Catalogue, Changed, Entities, Field, Keep, Kept, Live, Login, Owner, Parent,
    RecordError, Refusal, Rights, SavedMessage, SavedSession,
};
pub use listen::Tls;
pub use observed::Observed;
pub use session::QueueLimits;
pub use stats::{Counter, Stats};
pub use store::Store;

use hub::Hub;
use wire::Reason;

/// What goes wrong when the door opens. Afterwards it serves or it counts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("MQTT cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("TLS for MQTT: {0}")]
    Tls(String),
    #[error("the sessions that were kept cannot be read: {0}")]
    Keep(RecordError),
}

/// Addresses and bounds.
#[derive(Clone, Debug)]
pub struct Options {
    /// Plain TCP, usually port 1883.
    pub plain: Option<SocketAddr>,
    /// TLS, usually port 8883.
    pub tls: Option<(SocketAddr, Tls)>,
    /// The SensorThings service root for links in payloads, without a slash at the end.
    pub base: String,
    /// Connections at a time.
    pub clients: usize,
    /// Bytes of a packet.
    pub max_packet: usize,
    /// Subscriptions of one session.
    pub subscriptions: usize,
    /// What waits for subscribers.
    pub queue: QueueLimits,
    /// QoS 1 and 2 messages under way to one client.
    pub window: usize,
    /// QoS 1 and 2 messages under way from one client (MQTT 5 Receive Maximum).
    pub receive_max: NonZeroU16,
    /// Topic aliases in each direction.
    pub topic_aliases: u16,
    /// The longest session expiry granted, in seconds.
    pub session_seconds: u32,
    /// The longest keep alive granted to MQTT 5 clients, in seconds.
    pub keep_alive: u16,
    /// Retained messages of tenants, and their bytes together.
    pub retained: usize,
    pub retained_bytes: usize,
    /// How long a client may take to say who it is.
    pub handshake: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub stall: Duration,
    /// How often sessions are saved and expired ones ended.
    pub sweep: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            plain: None,
            tls: None,
            base: "http://localhost:8080/v1.1".to_owned(),
            clients: 20_000,
            max_packet: 256 << 10,
            subscriptions: 256,
            queue: QueueLimits { messages: 1_000, bytes: 1 << 20, total_bytes: 256 << 20 },
            window: 64,
            receive_max: NonZeroU16::new(1_024).unwrap_or(NonZeroU16::MIN),
            topic_aliases: 16,
            session_seconds: 7 * 86_400,
            keep_alive: 3_600,
            retained: 10_000,
            retained_bytes: 16 << 20,
            handshake: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            sweep: Duration::from_secs(5),
        }
    }
}

/// The parts of the city that the door works with.
pub struct Parts {
    pub field: Arc<dyn Field>,
    pub entities: Arc<dyn Entities>,
    pub rights: Arc<dyn Rights>,
    pub authenticate: Arc<dyn Authenticate>,
    pub keep: Arc<dyn Keep>,
    pub clock: Arc<dyn Clock>,
}

/// The open door.
pub struct Door {
    hub: Arc<Hub>,
    tasks: JoinSet<()>,
    addresses: Vec<SocketAddr>,
}

/// A way to the door for the rest of the program; cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Hub>);

impl Door {
    /// Restores the sessions, then listens. Port 0 takes a free one, see [`Door::addresses`].
    pub async fn open(options: Options, parts: Parts) -> Result<Self, Error> {
        let (plain, tls, sweep) = (options.plain, options.tls.clone(), options.sweep);
        let places = Arc::new(Semaphore::new(options.clients));
        let Parts { field, entities, rights, authenticate, keep, clock } = parts;
        // The feed is opened before the hub reads the stream's end: a frame between the two comes twice, never not at all.
        let (live, changes) = (field.live(), entities.changes());
        let stats = Arc::new(Stats::default());
        let hub = Arc::new(Hub::new(
            options,
            field,
            entities,
            rights,
            authenticate,
            keep,
            clock,
            stats,
            CancellationToken::new(),
        ));
        hub.restore().await.map_err(Error::Keep)?;
        hub.anchor_all().await;
        let mut door = Self { hub: Arc::clone(&hub), tasks: JoinSet::new(), addresses: Vec::new() };
        door.tasks.spawn(Arc::clone(&hub).route(live));
        door.tasks.spawn(Arc::clone(&hub).follow(changes));
        door.tasks.spawn(sweeper(Arc::clone(&hub), sweep));
        let tls = match tls {
            Some((address, tls)) => Some((address, Some(listen::acceptor(&tls, &hub.clock)?))),
            None => None,
        };
        for (address, acceptor) in plain.map(|address| (address, None)).into_iter().chain(tls) {
            let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
            door.addresses.push(listener.local_addr().map_err(|source| Error::Listen { address, source })?);
            door.tasks.spawn(listen::accept(Arc::clone(&hub), listener, acceptor, Arc::clone(&places)));
        }
        Ok(door)
    }

    /// Where it listens: plain first, then TLS.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.hub))
    }

    /// Tells every client that the server is going, lets what they sent become durable, and saves their sessions.
    pub async fn close(mut self) {
        self.hub.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.hub.sweep().await;
    }
}

async fn sweeper(hub: Arc<Hub>, every: Duration) {
    let mut tick = tokio::time::interval(every);
    loop {
        tokio::select! {
            () = hub.stop.cancelled() => return,
            _ = tick.tick() => hub.sweep().await,
        }
    }
}

impl Handle {
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Serves MQTT on any stream, such as a WebSocket or a test's pipe, to its end.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, peer: SocketAddr) {
        listen::serve(Arc::clone(&self.0), stream, tokio::io::split, peer, None).await;
    }

    /// Tells those of some principals (`Caller::label`) that listen under `devices/self/command` what they are to do. Answers how many.
    pub fn tell(&self, principals: &std::collections::HashSet<String>, payload: Vec<u8>) -> usize {
        self.0.tell(principals, payload.into())
    }

    /// Ends the connections of a principal for good: with its sessions, their subscriptions and what waits for it.
    pub fn forget(&self, principal: &str) -> usize {
        let own = |key: &str| key.strip_prefix(principal).is_some_and(|rest| rest.starts_with('|'));
        let sessions: Vec<_> = self.0.sessions.lock().values().filter(|s| own(&s.key)).cloned().collect();
        let mut ended = 0;
        for session in sessions {
            let generation = {
                let mut state = session.lock();
                state.expiry = 0;
                if let Some(link) = &state.link {
                    link.end(Reason::AdministrativeAction, true);
                    ended += 1;
                }
                state.generation
            };
            self.0.end(&session, generation);
            let (hub, key) = (Arc::clone(&self.0), session.key.clone());
            tokio::spawn(async move { hub.forget(key).await });
        }
        ended
    }

    /// Ends the connections of a principal (`Caller::label`): its key has been revoked. Answers how many there were.
    pub fn disconnect(&self, principal: &str) -> usize {
        let sessions: Vec<_> = self.0.sessions.lock().values().cloned().collect();
        let mut ended = 0;
        for session in sessions {
            let state = session.lock();
            if let (Some(link), Some(caller)) = (&state.link, &state.caller)
                && caller.label() == principal
            {
                link.end(Reason::AdministrativeAction, true);
                ended += 1;
            }
        }
        ended
    }
}
