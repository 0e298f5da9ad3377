//! Looks at every part now and then, and keeps what was seen: pages, programs and Prometheus read the same.
//!
//! Some parts only count since the start (refused values, seals that failed). Whether they are wrong now follows from two looks: what has grown in
//! between is going on.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use kernel::{Caller, Policy, Resource, Tenant, Timestamp};
use sensing::{
    Catalog,
    connect::{Connect, Health},
    derived::Derived,
    devices::{DeviceState, Devices, patience},
    health::{self, Learned},
    ingest::{self, Ingest},
    observe::Observe,
    route::action,
    rules::engine,
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::parts::{self, Kind, Part, State, Wrong};
use crate::{
    http::metrics::{Figure, Metrics},
    stores::Stores,
};

/// Between two looks of its own.
const EVERY: Duration = Duration::from_secs(60);
/// A look that is younger is shown as it is.
const FRESH: i64 = 10 * 1_000_000;
/// The longest that `df` may take: a file system on a network that is away never answers.
const DISK: Duration = Duration::from_secs(3);
/// Rows in memory that are more than a lake that keeps up ever leaves.
const MANY_ROWS: u64 = 1_000_000;
/// Seconds that an event or job may wait before somebody should know.
const WAITS: i64 = 60;

/// What is looked at.
pub struct Sources {
    pub catalog: Catalog,
    pub connect: Connect,
    pub devices: Devices,
    pub derived: Derived,
    pub ingest: Ingest,
    pub observe: Observe,
    pub engine: engine::Handle,
    pub stores: Stores,
    pub policy: Arc<dyn Policy>,
    pub tenants: Vec<Tenant>,
    pub data: PathBuf,
}

/// What was seen at one time, the worst first.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub at: Timestamp,
    pub parts: Vec<Part>,
}

/// What only grows, as of the last look; and since when something has been behind.
#[derive(Default)]
struct Before {
    refused: BTreeMap<&'static str, u64>,
    refusing_since: BTreeMap<&'static str, Timestamp>,
    messages: BTreeMap<&'static str, u64>,
    heard: BTreeMap<&'static str, Timestamp>,
    seals: u64,
    seal_failures: u64,
    sealed_at: Option<Timestamp>,
    failing_since: Option<Timestamp>,
    /// Where the stream ended.
    end: u64,
    behind_since: Option<Timestamp>,
    at: Option<Timestamp>,
}

pub struct Watch {
    sources: Sources,
    learned: Learned,
    latest: ArcSwapOption<Snapshot>,
    /// One look at a time; whoever comes meanwhile waits for it and has it too.
    looking: Mutex<Before>,
}

impl Watch {
    pub fn new(sources: Sources) -> Self {
        Self { sources, learned: Learned::default(), latest: ArcSwapOption::empty(), looking: Mutex::default() }
    }

    /// Looks until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the health of the feeds could not be looked at");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.sources.catalog.now()
    }

    /// How everything is, as of a few seconds ago.
    ///
    /// # Errors
    /// Those of the stores.
    pub async fn look(&self) -> Result<Arc<Snapshot>, sensing::Error> {
        let fresh = || {
            let kept = self.latest.load_full();
            kept.filter(|s| (0..FRESH).contains(&self.now().micros_since(s.at)))
        };
        if let Some(kept) = fresh() {
            return Ok(kept);
        }
        let mut before = self.looking.lock().await;
        if let Some(kept) = fresh() {
            return Ok(kept);
        }
        let now = self.now();
        let mut all = self.feeds(now).await?;
        all.extend(self.program(now, &mut before).await?);
        parts::rank(&mut all);
        let seen = Arc::new(Snapshot { at: now, parts: all });
        self.latest.store(Some(seen.clone()));
        Ok(seen)
    }

    /// What departments have.
    async fn feeds(&self, now: Timestamp) -> Result<Vec<Part>, sensing::Error> {
        let s = &self.sources;
        let groups = health::groups(&s.catalog, &s.observe, &self.learned).await?;
        let mut all: Vec<Part> = groups.iter().filter(|g| !g.system.is_empty()).map(parts::of_series).collect();
        let system = Caller::system("watch");
        all.extend(s.connect.connectors(&system).await?.iter().map(connector));
        for tenant in &s.tenants {
            let (found, _) = s.devices.survey(&system, tenant, "").await?;
            if found.is_empty() {
                continue;
            }
            let intervals = s.devices.intervals(tenant).await?;
            let mut kinds: BTreeMap<&str, Vec<(DeviceState, Option<Timestamp>)>> = BTreeMap::new();
            for (device, health) in &found {
                let shortest = intervals.get(&device.id).copied();
                let state = DeviceState::of(device, health, patience(shortest), now);
                kinds.entry(&device.kind).or_default().push((state, health.seen_at));
            }
            all.extend(kinds.into_iter().map(|(kind, of)| devices(tenant, kind, &of)));
        }
        all.extend(s.derived.list(&system).await?.iter().map(derived));
        for letters in health::letters(&s.catalog).await? {
            let mut part = Part::new(Kind::Letters, "notifications", Some(letters.tenant));
            (part.since, part.failed) = (letters.oldest, letters.dead);
            let part = match (letters.dead, letters.trying) {
                (0, 0) => part,
                (0, trying) => part.is(State::Some, Wrong::LettersTrying, trying, trying),
                (dead, trying) => part.is(State::Failing, Wrong::LettersDead, dead, dead + trying),
            };
            all.push(part);
        }
        Ok(all)
    }

    /// What the program itself does.
    async fn program(&self, now: Timestamp, before: &mut Before) -> Result<Vec<Part>, sensing::Error> {
        let s = &self.sources;
        let mut all = Vec::new();
        for door in ingest::Door::ALL {
            let (stats, name) = (s.ingest.stats(door), door.name());
            let known = before.at.is_some();
            let grown = |map: &mut BTreeMap<&'static str, u64>, value: u64| {
                map.insert(name, value).is_some_and(|was| value > was)
            };
            if grown(&mut before.messages, stats.messages) || (!known && stats.messages > 0) {
                before.heard.insert(name, now);
            }
            let refusing = grown(&mut before.refused, stats.refused);
            let mut part = Part::new(Kind::Door, name, None);
            (part.taken, part.failed, part.last) = (stats.observations, stats.refused, before.heard.get(name).copied());
            part.state = if stats.messages == 0 { State::New } else { State::Good };
            if refusing {
                part.since = Some(*before.refusing_since.entry(name).or_insert(now));
                part = part.is(State::Some, Wrong::DoorRefuses, stats.refused, stats.refused + stats.observations);
            } else {
                before.refusing_since.remove(name);
            }
            all.push(part);
        }
        let (position, end) = (s.engine.position(), s.observe.next_offset());
        // What was there at the look before should have been evaluated by now.
        let behind = before.at.is_some() && position < before.end;
        before.behind_since = behind.then(|| before.behind_since.or(before.at).unwrap_or(now));
        let mut rules = Part::new(Kind::Rules, "rules", None);
        (rules.n, rules.taken) = (end.saturating_sub(position), position);
        if let Some(since) = before.behind_since {
            (rules.since, rules.lag) = (Some(since), Some(now.micros_since(since) / 1_000_000));
            let n = rules.n;
            rules = rules.is(State::Late, Wrong::RulesBehind, n, n);
        }
        before.end = end;
        all.push(rules);
        all.push(lake(s.observe.stats(), now, before));

        let backlog = s.stores.records.backlog().await?;
        let mut outbox = Part::new(Kind::Outbox, "outbox", None);
        (outbox.n, outbox.lag) =
            (backlog.events, backlog.events_since.map(|at| now.micros_since(at).max(0) / 1_000_000));
        if outbox.lag.is_some_and(|lag| lag > WAITS) {
            outbox.since = backlog.events_since;
            outbox = outbox.is(State::Late, Wrong::OutboxBehind, backlog.events, backlog.events);
        }
        all.push(outbox);
        for (name, queue) in &backlog.queues {
            let mut part = Part::new(Kind::Jobs, name.clone(), None);
            let lag = queue.due_at.map_or(0, |at| now.micros_since(at).max(0) / 1_000_000);
            (part.n, part.failed, part.lag) = (queue.jobs, queue.dead, Some(lag));
            if lag > WAITS {
                part.since = queue.due_at;
                part = part.is(State::Late, Wrong::JobsOverdue, queue.jobs, queue.jobs);
            } else if queue.dead > 0 {
                part = part.is(State::Some, Wrong::JobsDead, queue.dead, queue.dead + queue.jobs);
            }
            all.push(part);
        }
        all.push(parts::of_disk(room(&s.data).await));
        before.at = Some(now);
        Ok(all)
    }

    /// The parts that somebody may know of: their department's, and the platform's for who runs it.
    pub fn visible(&self, snapshot: &Snapshot, caller: &Caller, platform: bool) -> Vec<Part> {
        let may = |tenant: &Tenant| {
            let resource = Resource { kind: "Connector", id: "", tenant: Some(tenant), public: false };
            self.sources.policy.allows(caller, action::CONNECTOR_READ, &resource)
        };
        let seen: BTreeMap<&Tenant, bool> = self.sources.tenants.iter().map(|t| (t, may(t))).collect();
        let admits = |p: &&Part| p.tenant.as_ref().map_or(platform, |t| seen.get(t).copied().unwrap_or(false));
        snapshot.parts.iter().filter(admits).cloned().collect()
    }

    /// What everybody may know: how the published Datastreams of each system are, whoever has them.
    pub fn public(snapshot: &Snapshot) -> Vec<Part> {
        let mut systems: BTreeMap<&str, Part> = BTreeMap::new();
        for part in snapshot.parts.iter().filter(|p| p.public && p.kind == Kind::Series && p.state != State::New) {
            match systems.get_mut(part.key.as_str()) {
                // The worse of two speaks for the system.
                Some(known) if known.state >= part.state => known.last = known.last.max(part.last),
                _ => drop(systems.insert(&part.key, Part { tenant: None, ..part.clone() })),
            }
        }
        let mut all: Vec<Part> = systems.into_values().collect();
        parts::rank(&mut all);
        all
    }

    /// Figures for Prometheus. Nothing here names a department; sealed ones are not even counted.
    pub fn measure(self: &Arc<Self>, metrics: &Metrics) {
        let watch = self.clone();
        metrics.add(move |out| {
            let Some(seen) = watch.latest.load_full() else { return };
            let seals = |p: &Part| p.tenant.as_ref().is_some_and(|t| watch.sources.policy.seals(t));
            let mut counts: BTreeMap<(Kind, State), u64> = BTreeMap::new();
            for part in seen.parts.iter().filter(|p| !seals(p)) {
                *counts.entry((part.kind, part.state)).or_default() += 1;
            }
            for ((kind, state), count) in counts {
                out.push(
                    Figure::gauge("parts", "Feeds and parts of the program, by how they are", count)
                        .label("kind", kind.name())
                        .label("state", state.name()),
                );
            }
            let named = seen.parts.iter().filter(|p| p.tenant.is_none()).cloned();
            for part in named.chain(Self::public(&seen)) {
                let label = |figure: Figure| figure.label("kind", part.kind.name()).label("part", part.key.clone());
                let ill = u64::from(part.state.needs_a_look());
                out.push(label(Figure::gauge("part_needs_a_look", "1 while somebody should look at it", ill)));
                let lag = part.lag.or_else(|| part.last.map(|at| seen.at.micros_since(at) / 1_000_000));
                if let Some(lag) = lag.and_then(|lag| u64::try_from(lag).ok()) {
                    out.push(label(Figure::gauge(
                        "part_lag_seconds",
                        "How far behind it is, or how old its newest is",
                        lag,
                    )));
                }
            }
        });
    }
}

/// A connector as it is now.
pub fn connector(view: &sensing::connect::View) -> Part {
    let mut part = Part::new(Kind::Connector, view.key.clone(), Some(view.tenant.clone()));
    let report = view.report.as_ref();
    let refused = report.map_or(0, |r| r.rejected + r.rows_rejected);
    (part.last, part.failed) = (view.succeeded_at, refused);
    part.taken = report.map_or(0, |r| r.written);
    part.interval = view.every.parse::<jiff::SignedDuration>().ok().map(|d| d.as_secs());
    part.since = view.succeeded_at;
    let n = u64::from(view.failures);
    match view.health {
        Health::Failing => {
            part.cause.clone_from(&view.error);
            part.is(State::Failing, Wrong::ConnectorFails, n, n)
        }
        Health::Late => {
            let late = part.interval.unwrap_or(0).saturating_mul(3);
            part.since = part.since.map(|at| at.plus_secs(late));
            part.is(State::Late, Wrong::ConnectorLate, n, n)
        }
        Health::Rejecting => {
            part.is(State::Some, Wrong::ConnectorRefuses, refused, refused + report.map_or(0, |r| r.written))
        }
        Health::New | Health::Disabled => Part { state: State::New, since: None, ..part },
        Health::Ok => Part { since: None, ..part },
    }
}

fn devices(tenant: &Tenant, kind: &str, of: &[(DeviceState, Option<Timestamp>)]) -> Part {
    let count = |state| of.iter().filter(|(s, _)| *s == state).count() as u64;
    let (healthy, silent, refused) =
        (count(DeviceState::Healthy), count(DeviceState::Silent), count(DeviceState::Refused));
    let spoken = healthy + silent + refused;
    let mut part = Part::new(Kind::Devices, kind, Some(tenant.clone()));
    part.last = of.iter().filter_map(|(_, seen)| *seen).max();
    (part.taken, part.failed, part.n, part.all) = (healthy, silent + refused, healthy, of.len() as u64);
    // Since the first of those that are silent was last heard of.
    part.since = of
        .iter()
        .filter(|(s, _)| matches!(s, DeviceState::Silent | DeviceState::Refused))
        .filter_map(|(_, seen)| *seen)
        .min();
    match () {
        () if spoken == 0 => Part { state: State::New, since: None, ..part },
        () if silent * 2 >= spoken => part.is(State::Late, Wrong::DevicesSilent, silent, spoken),
        () if refused > 0 => part.is(State::Some, Wrong::DevicesRefused, refused, spoken),
        () if silent > 0 => part.is(State::Some, Wrong::DevicesSilent, silent, spoken),
        () => part,
    }
}

fn derived(view: &sensing::derived::View) -> Part {
    let mut part = Part::new(Kind::Derived, view.key.clone(), Some(view.tenant.clone()));
    (part.all, part.taken) = (view.outputs as u64, view.outputs as u64);
    let troubles = view.troubles.len() as u64;
    match () {
        () if !view.enabled => Part { state: State::New, ..part },
        () if troubles > 0 => {
            part.cause = view.troubles.first().map(|t| t.detail.clone());
            part.since = Some(view.changed_at);
            part.is(State::Some, Wrong::DerivedStuck, troubles, view.outputs as u64)
        }
        () if view.paused => {
            part.since = Some(view.changed_at);
            part.is(State::Some, Wrong::DerivedPaused, 1, 1)
        }
        () => part,
    }
}

fn lake(stats: sensing::observe::Stats, now: Timestamp, before: &mut Before) -> Part {
    let mut part = Part::new(Kind::Lake, "lake", None);
    let first = before.at.is_none();
    let failed = stats.seal_failures > before.seal_failures && !first;
    if stats.seals > before.seals {
        (before.sealed_at, before.failing_since) = (Some(now), None);
    }
    if failed {
        before.failing_since.get_or_insert(now);
    }
    (before.seals, before.seal_failures) = (stats.seals, stats.seal_failures);
    (part.n, part.taken, part.failed, part.last) =
        (stats.unsealed_rows, stats.seals, stats.seal_failures, before.sealed_at);
    if let Some(since) = before.failing_since {
        (part.since, part.lag) = (Some(since), Some(now.micros_since(since) / 1_000_000));
        return part.is(State::Failing, Wrong::LakeFails, stats.unsealed_rows, stats.unsealed_rows);
    }
    if stats.unsealed_rows > MANY_ROWS {
        part.since = before.sealed_at;
        return part.is(State::Late, Wrong::LakeBehind, stats.unsealed_rows, stats.unsealed_rows);
    }
    part
}

/// Room on the disk of a folder; `None` where nobody can say. The standard library cannot ask, and what can needs `unsafe` or another dependency.
async fn room(folder: &std::path::Path) -> Option<(u64, u64)> {
    let mut command = tokio::process::Command::new("df");
    command.arg("-Pk").arg(folder).env("LC_ALL", "C").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DISK, command.output()).await.ok()?.ok()?;
    parts::disk(&String::from_utf8_lossy(&output.stdout))
}
