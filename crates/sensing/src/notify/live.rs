//! `GET /api/live`: what is happening, as server-sent events (WHATWG HTML section 9.2).
//!
//! `event: observation` with `{datastream, thing, at, value, unit?, offset}` and `event: alarm` with `{id, type, state, severity, rule, thing,
//! name, at}`. `?datastreams=1,2` and `?layers=flood,air` narrow the Observations; alarms come to everybody who may read them. Alarm
//! events carry an id, so a browser that was away gets the alarms it missed (`Last-Event-ID`); `event: resync` says that this is not possible
//! and the page should be loaded again.
//!
//! No connection has a queue. There is one board with the latest Observation of each Datastream in the order of change, and every
//! connection remembers how far it has read: who is slow skips what was overtaken, and costs nobody anything.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::{AHashMap, AHashSet};
use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use futures::StreamExt;
use kernel::{Caller, Problem, Tenant, Timestamp};
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::sync::watch;

use crate::{
    Audience, Error, Route, Scope,
    alarms::{Alarms, Visible},
    door::{Who, caller},
    model::{DatastreamInfo, EntityId},
    observe::{Batch, Run},
    route::action,
};

pub const ROUTES: &[Route] = &[Route {
    method: "GET",
    path: "/api/live",
    action: action::READ,
    audience: Audience::Public,
    audit: false,
    summary: "Observations and alarms as they happen, as server-sent events.",
}];

/// What the live stream must know of Datastreams.
pub trait Directory: Send + Sync + 'static {
    /// At once, from memory; `None` when it is not known there (its Observation is then not shown).
    fn describe(&self, datastream: EntityId) -> Option<Arc<DatastreamInfo>>;
    /// What `caller` may read, from a cache: it is asked again at every heartbeat of every connection.
    fn scope(&self, caller: &Caller) -> Arc<Scope>;
    /// The system that the Datastream's Thing belongs to, such as `flood`; at once, from memory.
    fn system(&self, datastream: EntityId) -> Option<Arc<str>>;
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub max_connections: usize,
    /// Of one person or key; the anonymous public shares half of `max_connections`.
    pub max_per_caller: usize,
    /// The shortest time between two answers to one connection. An alarm does not wait for it.
    pub pace: Duration,
    /// The shortest time between two answers that only alarms have brought about: a storm of them is a few answers.
    pub alarm_pace: Duration,
    /// How often a sign of life is sent, and rights are looked at again.
    pub heartbeat: Duration,
    /// After which a connection is closed; browsers come back by themselves, with whatever session they then have.
    pub lifetime: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 2_000,
            max_per_caller: 20,
            pace: Duration::from_millis(250),
            alarm_pace: Duration::from_millis(20),
            heartbeat: Duration::from_secs(15),
            lifetime: Duration::from_secs(3_600),
        }
    }
}

/// Datastreams on the board; the one that has been quiet the longest makes room.
const MAX_SHOWN: usize = 200_000;
/// Alarm events that can be caught up on.
const MAX_MISSED: usize = 1_000;
/// Events in one answer.
const MAX_AT_ONCE: usize = 500;
const MAX_ASKED: usize = 1_000;

/// The latest Observation of a Datastream.
struct Shown {
    info: Arc<DatastreamInfo>,
    /// Empty for none.
    system: Arc<str>,
    at: Timestamp,
    value: f64,
    result: Option<Arc<RawValue>>,
    offset: u64,
}

struct AlarmEvent {
    offset: u64,
    tenant: Tenant,
    public: bool,
    data: String,
}

#[derive(Default)]
struct Board {
    last: u64,
    /// By the number of the change; each Datastream stands there once.
    order: BTreeMap<u64, Arc<Shown>>,
    places: AHashMap<i64, u64>,
    alarms: VecDeque<Arc<AlarmEvent>>,
    /// The offset before which alarm events are not remembered.
    alarms_from: u64,
    alarms_next: u64,
}

pub struct Live<D> {
    inner: Arc<Inner<D>>,
}

impl<D> Clone for Live<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<D> {
    directory: D,
    alarms: Alarms,
    options: Options,
    board: RwLock<Board>,
    changes: watch::Sender<u64>,
    /// The same for alarms alone.
    alarmed: watch::Sender<u64>,
    connected: Mutex<AHashMap<String, usize>>,
}

impl<D: Directory> Live<D> {
    /// `events_from` is the offset on the topic `events` from which [`Live::event`] will be called.
    pub fn new(directory: D, alarms: Alarms, options: Options, events_from: u64) -> Self {
        let board = Board { alarms_from: events_from, alarms_next: events_from, ..Board::default() };
        let (board, changes, connected) = (RwLock::new(board), watch::channel(0).0, Mutex::default());
        let alarmed = watch::channel(0).0;
        Self { inner: Arc::new(Inner { directory, alarms, options, board, changes, alarmed, connected }) }
    }

    pub fn connections(&self) -> usize {
        self.inner.connected.lock().values().sum()
    }

    /// Shows what was applied; to be called for every record, in order. Costs nothing while nobody looks.
    pub fn observed(&self, offset: u64, batch: &Batch) {
        if self.connections() == 0 {
            return;
        }
        let shown: Vec<Shown> = batch.runs().iter().filter_map(|run| self.latest(offset, run)).collect();
        if shown.is_empty() {
            return;
        }
        let mut board = self.inner.board.write();
        for shown in shown {
            board.show(shown);
        }
        drop(board);
        self.inner.changes.send_modify(|n| *n += 1);
    }

    fn latest(&self, offset: u64, run: &Run) -> Option<Shown> {
        let row = (0..run.len()).max_by_key(|row| run.times[*row])?;
        let info = self.inner.directory.describe(run.datastream)?;
        let system = self.inner.directory.system(run.datastream).unwrap_or_default();
        let result = run.extra(row).and_then(|e| e.result.clone());
        Some(Shown { info, system, at: Timestamp::from_micros(run.times[row]), value: run.values[row], result, offset })
    }

    /// Shows an event of the topic `events`, if it is about an alarm; to be called for every record, in order.
    pub fn event(&self, offset: u64, payload: &[u8]) {
        let event = serde_json::from_slice::<Value>(payload).ok().and_then(|value| alarm_event(offset, value));
        let is_alarm = event.is_some();
        let mut board = self.inner.board.write();
        board.alarms_next = offset + 1;
        if let Some(event) = event {
            if board.alarms.len() == MAX_MISSED
                && let Some(old) = board.alarms.pop_front()
            {
                board.alarms_from = old.offset + 1;
            }
            board.alarms.push_back(Arc::new(event));
        }
        drop(board);
        if is_alarm {
            self.inner.alarms.changed();
            self.inner.alarmed.send_modify(|n| *n += 1);
            self.inner.changes.send_modify(|n| *n += 1);
        }
    }

    /// Counts the connection in, or says why not.
    fn admit(&self, caller: &Caller) -> Result<Ticket<D>, Error> {
        let options = self.inner.options;
        let label = caller.label();
        let most = if caller.is_anonymous() { options.max_connections / 2 } else { options.max_per_caller };
        let mut connected = self.inner.connected.lock();
        if connected.values().sum::<usize>() >= options.max_connections {
            return Err(Problem::unavailable("Too many live connections. Try again in a minute.", 60).into());
        }
        let mine = connected.entry(label.clone()).or_default();
        if *mine >= most {
            return Err(Problem::too_many("You have too many live connections open. Close some.", 60).into());
        }
        *mine += 1;
        Ok(Ticket { live: self.clone(), label })
    }
}

/// Counts the connection out when it ends, however it ends.
struct Ticket<D> {
    live: Live<D>,
    label: String,
}

impl<D> Drop for Ticket<D> {
    fn drop(&mut self) {
        let mut connected = self.live.inner.connected.lock();
        if let Some(count) = connected.get_mut(&self.label) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.label);
            }
        }
    }
}

impl Board {
    fn show(&mut self, shown: Shown) {
        let id = shown.info.id.0;
        if let Some(place) = self.places.get(&id).copied() {
            // A straggler must not turn the page's clock back.
            if self.order.get(&place).is_some_and(|before| before.at > shown.at) {
                return;
            }
            self.order.remove(&place);
        } else if self.places.len() >= MAX_SHOWN
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.places.remove(&oldest.info.id.0);
        }
        self.last += 1;
        self.places.insert(id, self.last);
        self.order.insert(self.last, Arc::new(shown));
    }
}

/// The alarm in an event, as an envelope or bare; `None` for other events.
fn alarm_event(offset: u64, value: Value) -> Option<AlarmEvent> {
    let is_alarm = |v: &Value| v.get("type").and_then(Value::as_str).is_some_and(|t| t.starts_with("alarm."));
    let value = match value.get("payload") {
        Some(payload) if is_alarm(payload) => payload,
        _ if is_alarm(&value) => &value,
        _ => return None,
    };
    let tenant = Tenant::parse(value.get("tenant")?.as_str()?).ok()?;
    let public = value.get("public").and_then(Value::as_bool).unwrap_or(false);
    let told = [
        "id",
        "type",
        "state",
        "severity",
        "rule",
        "thing",
        "thing_name",
        "name",
        "system",
        "district",
        "version",
        "raised_at",
        "at",
    ];
    let data: serde_json::Map<_, _> =
        told.into_iter().filter_map(|k| Some((k.to_owned(), value.get(k)?.clone()))).collect();
    Some(AlarmEvent { offset, tenant, public, data: Value::Object(data).to_string() })
}

/// What was asked for: some Datastreams, and all of some systems, however many those have.
#[derive(Default)]
struct Wanted {
    ids: AHashSet<i64>,
    systems: AHashSet<String>,
}

impl Wanted {
    fn fits(&self, shown: &Shown) -> bool {
        self.ids.contains(&shown.info.id.0) || self.systems.contains(&*shown.system)
    }
}

/// One open connection.
struct Connection<D> {
    ticket: Ticket<D>,
    caller: Caller,
    /// `None` for all.
    wanted: Option<Wanted>,
    scope: Arc<Scope>,
    visible: Visible,
    checked: Instant,
    opened: Instant,
    answered: Option<Instant>,
    seen: u64,
    alarms_seen: u64,
    resync: bool,
    changes: watch::Receiver<u64>,
    alarmed: watch::Receiver<u64>,
    /// When an answer was last given before its time, because of an alarm.
    hurried: Option<Instant>,
}

impl<D: Directory> Connection<D> {
    /// The next events; `None` ends the connection.
    async fn next(&mut self) -> Option<Vec<Event>> {
        let options = self.ticket.live.inner.options;
        loop {
            if self.opened.elapsed() >= options.lifetime {
                return None;
            }
            if self.checked.elapsed() >= options.heartbeat {
                self.look_at_rights();
            }
            let wait = self.answered.and_then(|at| options.pace.checked_sub(at.elapsed()));
            if let Some(wait) = wait
                && self.alarm_within(wait).await?
            {
                let mut events = Vec::new();
                self.collect_alarms(&mut events);
                // Also when none of them is for this caller: a storm of other people's alarms is a few looks too.
                self.hurried = Some(Instant::now());
                if !events.is_empty() {
                    return Some(events);
                }
                continue;
            }
            self.changes.mark_unchanged();
            self.alarmed.mark_unchanged();
            let events = self.collect();
            if !events.is_empty() {
                self.answered = Some(Instant::now());
                return Some(events);
            }
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                () = tokio::time::sleep(options.heartbeat) => {}
            }
        }
    }

    /// Waits until the pace allows an answer, or an alarm comes and it has its turn: then `true`.
    async fn alarm_within(&mut self, wait: Duration) -> Option<bool> {
        let options = self.ticket.live.inner.options;
        let end = Instant::now() + wait;
        tokio::select! {
            () = tokio::time::sleep(wait) => return Some(false),
            changed = self.alarmed.changed() => changed.ok()?,
        }
        if let Some(pause) = self.hurried.and_then(|at| options.alarm_pace.checked_sub(at.elapsed())) {
            tokio::time::sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
            self.alarmed.mark_unchanged();
        }
        Some(true)
    }

    fn look_at_rights(&mut self) {
        let inner = &self.ticket.live.inner;
        self.scope = inner.directory.scope(&self.caller);
        self.visible = inner.alarms.visible(&self.caller);
        self.checked = Instant::now();
    }

    fn collect(&mut self) -> Vec<Event> {
        let inner = Arc::clone(&self.ticket.live.inner);
        let mut events = Vec::new();
        if std::mem::take(&mut self.resync) {
            events.push(Event::default().event("resync").data("{}"));
        }
        self.collect_alarms(&mut events);
        // Only pointers are taken under the lock; text is made afterwards.
        let shown = self.changed(&inner.board.read());
        for shown in shown.iter().filter(|s| self.scope.admits(&s.info.tenant, s.info.public)) {
            events.push(Event::default().event("observation").data(observation(shown)));
        }
        events
    }

    fn collect_alarms(&mut self, events: &mut Vec<Event>) {
        let inner = Arc::clone(&self.ticket.live.inner);
        let alarms: Vec<_> = {
            let board = inner.board.read();
            if self.alarms_seen < board.alarms_from {
                self.alarms_seen = board.alarms_from;
                events.push(Event::default().event("resync").data("{}"));
            }
            let from = board.alarms.partition_point(|a| a.offset < self.alarms_seen);
            let alarms: Vec<_> = board.alarms.iter().skip(from).take(MAX_AT_ONCE).cloned().collect();
            self.alarms_seen = match alarms.last() {
                Some(last) if alarms.len() == MAX_AT_ONCE => {
                    // There are more: do not wait for another one.
                    self.changes.mark_changed();
                    self.alarmed.mark_changed();
                    last.offset + 1
                }
                _ => board.alarms_next,
            };
            alarms
        };
        for alarm in alarms.iter().filter(|a| self.visible.admits(&a.tenant, a.public)) {
            events.push(Event::default().event("alarm").id(alarm.offset.to_string()).data(&alarm.data));
        }
    }

    /// What has changed since the last time and is wanted, oldest change first.
    fn changed(&mut self, board: &Board) -> Vec<Arc<Shown>> {
        let since = self.seen + 1;
        let mut found: Vec<(u64, Arc<Shown>)> = match &self.wanted {
            Some(wanted) if wanted.systems.is_empty() && wanted.ids.len() < board.order.len() => {
                let places = wanted.ids.iter().filter_map(|id| board.places.get(id)).filter(|place| **place >= since);
                places.filter_map(|place| Some((*place, Arc::clone(board.order.get(place)?)))).collect()
            }
            wanted => {
                let fits = |s: &Shown| wanted.as_ref().is_none_or(|w| w.fits(s));
                let all = board.order.range(since..).filter(|(_, s)| fits(s)).take(MAX_AT_ONCE + 1);
                all.map(|(place, s)| (*place, Arc::clone(s))).collect()
            }
        };
        found.sort_unstable_by_key(|(place, _)| *place);
        if found.len() > MAX_AT_ONCE {
            found.truncate(MAX_AT_ONCE);
            self.seen = found.last().map_or(self.seen, |(place, _)| *place);
            // There is more: do not wait for another change.
            self.changes.mark_changed();
        } else {
            self.seen = board.last;
        }
        found.into_iter().map(|(_, shown)| shown).collect()
    }
}

fn observation(shown: &Shown) -> String {
    let mut out = String::with_capacity(128);
    let (id, thing, at) = (shown.info.id, shown.info.thing, shown.at);
    // Writing into a String cannot fail.
    let _ = write!(out, "{{\"datastream\":{id},\"thing\":{thing},\"at\":\"{at}\",\"value\":");
    match &shown.result {
        // A line break inside a result would end the event's line.
        Some(raw) => out.push_str(&serde_json::from_str::<Value>(raw.get()).unwrap_or_default().to_string()),
        None => out.push_str(&Value::from(shown.value).to_string()),
    }
    if let Some(unit) = &shown.info.unit {
        let _ = write!(out, ",\"unit\":{}", Value::from(&**unit));
    }
    let _ = write!(out, ",\"offset\":{}}}", shown.offset);
    out
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    datastreams: Option<String>,
    layers: Option<String>,
}

pub fn router<D: Directory>(live: Live<D>) -> Router {
    Router::new().route("/api/live", get(open::<D>)).with_state(live)
}

type Queried<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

async fn open<D: Directory>(
    State(live): State<Live<D>>,
    who: Who,
    headers: HeaderMap,
    query: Queried<Asked>,
) -> Result<Response, Error> {
    let caller = caller(who);
    let Query(asked) = query.map_err(|e| Error::bad_request(e.body_text()))?;
    let wanted = wanted(&asked)?;
    let resume = headers.get("last-event-id").map(|v| v.to_str().ok().and_then(|v| v.trim().parse::<u64>().ok()));
    let ticket = live.admit(&caller)?;
    let inner = &live.inner;
    let (seen, alarms_next) = {
        let board = inner.board.read();
        (board.last, board.alarms_next)
    };
    let (alarms_seen, resync) = match resume {
        None => (alarms_next, false),
        // An id from another life of the stream, or no id at all: nobody knows what was missed.
        Some(None) => (alarms_next, true),
        Some(Some(id)) if id >= alarms_next => (alarms_next, true),
        Some(Some(id)) => (id + 1, false),
    };
    let connection = Connection {
        scope: inner.directory.scope(&caller),
        visible: inner.alarms.visible(&caller),
        changes: inner.changes.subscribe(),
        alarmed: inner.alarmed.subscribe(),
        hurried: None,
        ticket,
        caller,
        wanted,
        checked: Instant::now(),
        opened: Instant::now(),
        answered: None,
        seen,
        alarms_seen,
        resync,
    };
    let heartbeat = inner.options.heartbeat;
    let events = futures::stream::unfold(connection, |mut connection| async move {
        let events = connection.next().await?;
        Some((futures::stream::iter(events.into_iter().map(Ok::<_, Infallible>)), connection))
    });
    let sse = Sse::new(events.flatten()).keep_alive(KeepAlive::new().interval(heartbeat).text("alive"));
    let mut response = sse.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Some reverse proxies collect an answer before they pass it on, unless they are told not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn wanted(asked: &Asked) -> Result<Option<Wanted>, Error> {
    if asked.datastreams.is_none() && asked.layers.is_none() {
        return Ok(None);
    }
    let mut wanted = Wanted::default();
    for id in asked.datastreams.iter().flat_map(|list| list.split(',')).filter(|id| !id.is_empty()) {
        let id = id.trim().parse().map_err(|_| Error::field("datastreams", "ids separated by commas are expected"))?;
        wanted.ids.insert(id);
        if wanted.ids.len() > MAX_ASKED {
            return Err(Error::field(
                "datastreams",
                format!("at most {MAX_ASKED} ids are expected; leave it out for all"),
            ));
        }
    }
    let layers = asked.layers.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|l| !l.is_empty());
    for (nth, layer) in layers.enumerate() {
        if nth >= 50 || layer.len() > 80 {
            return Err(Error::field("layers", "at most 50 names of systems are expected"));
        }
        wanted.systems.insert(layer.to_owned());
    }
    Ok(Some(wanted))
}
