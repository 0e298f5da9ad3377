//! The engine: follows the stream, and computes what it touches.
//!
//! It keeps nothing of the inputs. An Observation touches a span of outputs; the span is computed from the series as they are now, compared with
//! what is there, and only the difference is written. So it does not matter whether an Observation is new, late, a correction or a repetition,
//! how often a record is read again after a crash, or in which order: an Observation is named by its Datastream, phenomenonTime and
//! FeatureOfInterest, so the end is the same. What is long (history, a correction that reaches far) is a row of work, done piece by piece
//! while nothing new is there to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::FutureExt as _;
use jiff::tz::TimeZone;
use kernel::{Caller, Interval, Timestamp};
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Derived,
    compute::{self, Lead, Outcome, Point},
    model::Faulty,
    plan::{Instance, Plan},
    store::{self, Output, Work},
};
use crate::{
    Error,
    model::{EntityId, Observation, ObservationId, ResultValue},
    observe::{Applied, Batch, Frame, Replay, SeriesQuery},
    rules::quality::is_faulty,
};

/// How the engine is known to [`crate::observe::Observe::hold`].
const FOLLOWER: &str = "derived";
/// Records that are looked at together.
const RECORDS: usize = 256;
/// Outputs that are computed together.
const CHUNK: usize = 1_000;
/// Observations of one input that are looked at together; a window with more is not computed.
const MAX_POINTS: usize = 100_000;
/// Pieces of a touched span that are computed before what comes next is looked at; the rest becomes work.
const FRESH: usize = 4;
/// How often a piece is tried before it becomes work, and how long between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Options {
    /// The longest that what was done waits to be written down: what a restart computes again.
    pub checkpoint: Duration,
    /// How often the clock is looked at for outputs at fixed intervals.
    pub tick: Duration,
    /// How often the catalogue is looked at for new Things.
    pub refresh: Duration,
    /// The city's, for hours and weekdays in formulas.
    pub zone: TimeZone,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checkpoint: Duration::from_secs(5),
            tick: Duration::from_secs(1),
            refresh: Duration::from_secs(60),
            zone: TimeZone::UTC,
        }
    }
}

/// Counters since the start, for metrics.
#[derive(Debug, Default)]
pub struct Stats {
    pub computed: AtomicU64,
    pub written: AtomicU64,
    pub removed: AtomicU64,
    pub failures: AtomicU64,
}

/// The running engine. Dropping the handle does not stop it.
#[derive(Clone)]
pub struct Handle {
    reload: Arc<Notify>,
    evaluated: watch::Receiver<u64>,
    idle: watch::Receiver<u64>,
    stop: CancellationToken,
    stopped: CancellationToken,
    /// Ends it as a crash would, for tests.
    #[cfg(test)]
    pub(super) crash: CancellationToken,
}

impl Handle {
    pub fn reload(&self) {
        self.reload.notify_one();
    }
    /// Waits until everything before `next` is evaluated.
    pub async fn evaluated(&self, next: u64) {
        let _ = self.evaluated.clone().wait_for(|done| *done >= next).await;
    }
    /// Waits until declarations have been read more than `seen` times and no work is left.
    pub async fn idle(&self, seen: u64) {
        let _ = self.idle.clone().wait_for(|loads| *loads > seen).await;
    }
    /// How often declarations had been read when there was last no work left.
    pub fn idled(&self) -> u64 {
        *self.idle.borrow()
    }
    /// Writes down how far it has come and ends.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }
}

struct Engine {
    derived: Derived,
    options: Options,
    plan: Arc<Plan>,
    outputs: BTreeMap<EntityId, Output>,
    changed: BTreeSet<EntityId>,
    /// Whether work has been done since the last checkpoint.
    moved: bool,
    works: Vec<Work>,
    ended: Vec<i64>,
    /// Work that has failed waits until then.
    later: BTreeMap<i64, Timestamp>,
    turn: usize,
    /// How often declarations have been read.
    loads: u64,
    next: u64,
    written: u64,
}

/// Starts where the last checkpoint ended; at the end of the stream when there is none, because history is work of its own.
pub(super) async fn start(derived: Derived, options: Options) -> Result<Handle, Error> {
    let observe = derived.observe().clone();
    let stored = derived.records().read(store::position).await?;
    let (first, end) = (observe.first_offset(), observe.next_offset());
    let next = stored.unwrap_or(end).min(end);
    observe.hold(FOLLOWER, next.max(first));
    let missed = stored.is_some_and(|n| n < first || n > end);
    derived.records().write(move |tx| store::put_position(tx, next.max(first))).await?;
    // From the first request on nobody adds to what is computed.
    match derived.plan().await {
        Ok(plan) => derived.0.plan.store(Arc::new(plan)),
        Err(error) => tracing::error!(%error, "what is derived cannot be read yet"),
    }
    let mut engine = Engine {
        derived,
        options,
        plan: Arc::default(),
        outputs: BTreeMap::new(),
        changed: BTreeSet::new(),
        moved: false,
        works: Vec::new(),
        ended: Vec::new(),
        later: BTreeMap::new(),
        turn: 0,
        loads: 0,
        next: next.max(first),
        written: next.max(first),
    };
    let reader = observe.replay(engine.next).await.map_err(Error::internal)?;
    let (evaluated, seen) = watch::channel(engine.next);
    let (idle, idle_seen) = watch::channel(0);
    let handle = Handle {
        reload: Arc::clone(&engine.derived.0.reload),
        evaluated: seen,
        idle: idle_seen,
        stop: CancellationToken::new(),
        stopped: CancellationToken::new(),
        #[cfg(test)]
        crash: CancellationToken::new(),
    };
    let running = handle.clone();
    tokio::spawn(async move {
        let _ended = running.stopped.clone().drop_guard();
        let work = async {
            if !engine.load_patiently(&running.stop).await {
                return;
            }
            // The stream has forgotten what was to be read: from a backup into another stream, for one.
            if missed {
                engine.everything("the stream was not followed for a while").await;
            }
            engine.run(reader, &running, &evaluated, &idle).await;
        };
        #[cfg(test)]
        tokio::select! {
            () = running.crash.cancelled() => {}
            () = work => {}
        }
        #[cfg(not(test))]
        work.await;
    });
    Ok(handle)
}

impl Engine {
    async fn run(
        &mut self,
        mut reader: Replay,
        handle: &Handle,
        evaluated: &watch::Sender<u64>,
        idle: &watch::Sender<u64>,
    ) {
        let mut tick = tokio::time::interval(self.options.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut checkpoint, mut refresh) = (tokio::time::Instant::now(), tokio::time::Instant::now());
        loop {
            let due = self.due();
            if self.works.is_empty() {
                idle.send_replace(self.loads);
            }
            tokio::select! {
                biased;
                () = handle.stop.cancelled() => {
                    self.checkpoint().await;
                    return;
                }
                () = handle.reload.notified() => {
                    if !self.load_patiently(&handle.stop).await {
                        return;
                    }
                }
                _ = tick.tick() => {
                    self.by_the_clock(&handle.stop).await;
                    if refresh.elapsed() >= self.options.refresh {
                        refresh = tokio::time::Instant::now();
                        if !self.load_patiently(&handle.stop).await {
                            return;
                        }
                    }
                    if checkpoint.elapsed() >= self.options.checkpoint {
                        checkpoint = tokio::time::Instant::now();
                        self.checkpoint().await;
                    }
                }
                arrived = reader.next() => match arrived {
                    Ok(first) => {
                        let mut records = vec![first];
                        while records.len() < RECORDS {
                            match reader.next().now_or_never() {
                                Some(Ok(more)) => records.push(more),
                                _ => break,
                            }
                        }
                        if !self.take(&records, &handle.stop).await {
                            return;
                        }
                        evaluated.send_replace(self.next);
                    }
                    Err(error) => {
                        tracing::error!(%error, "derived Datastreams cannot follow the stream; trying again");
                        tokio::time::sleep(PAUSE).await;
                        if let Ok(again) = self.derived.observe().replay(self.next).await {
                            reader = again;
                        }
                    }
                },
                () = std::future::ready(()), if due.is_some() => {
                    self.work(due.unwrap_or_default()).await;
                }
            }
        }
    }

    // --- what is declared ------------------------------------------------------------------------------------------

    async fn load_patiently(&mut self, stop: &CancellationToken) -> bool {
        while let Err(error) = self.load().await {
            tracing::error!(%error, "what is derived cannot be read; trying again");
            self.derived.0.stats.failures.fetch_add(1, Relaxed);
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
        true
    }

    /// Reads declarations and Things. An output that is new, or computed in another way than before, gets the work of its whole history.
    async fn load(&mut self) -> Result<(), Error> {
        // Work is read before the plan: what was found out in between then has work that the next look finds, and no work is done by an older plan.
        let (outputs, works) = self
            .derived
            .records()
            .read(|read| Ok::<_, records::Error>((store::outputs(read)?, store::works(read)?)))
            .await?;
        let mut plan = Arc::new(self.derived.plan().await?);
        let known: BTreeMap<EntityId, Output> = outputs.into_iter().map(|o| (o.datastream, o)).collect();
        if plan.instances.iter().any(|i| !known.contains_key(&i.output)) {
            // What is to become an output is closed to everybody else first, and then looked at again: nothing is measured into it in between.
            self.derived.0.plan.store(plan);
            plan = Arc::new(self.derived.plan().await?);
        }
        let now = self.derived.now().as_micros();
        let (mut fresh, mut histories) = (Vec::new(), Vec::new());
        for instance in &plan.instances {
            let key = &instance.definition.key;
            let before = known.get(&instance.output);
            let same = before.is_some_and(|o| o.definition == *key && o.version == instance.version);
            let through = instance.definition.every.map(|every| floor(now, every));
            let held = self.outputs.get(&instance.output).or(before).and_then(|o| o.done_through);
            let output = Output {
                datastream: instance.output,
                definition: key.clone(),
                version: instance.version,
                done_through: through.map(|through| if same { held.unwrap_or(through) } else { through }),
            };
            if !same {
                if instance.definition.backfill == super::model::Backfill::All || before.is_some() {
                    let reason = if before.is_some() { "another version" } else { "history" };
                    histories.push((instance.output, reason));
                }
                fresh.push(output.clone());
            }
            self.outputs.insert(instance.output, output);
        }
        let gone = known.values().filter(|o| !o.definition.is_empty() && plan.of(o.datastream).is_none());
        let gone: Vec<EntityId> = gone.map(|o| o.datastream).collect();
        self.outputs.retain(|id, _| plan.of(*id).is_some());
        self.adopt(works);
        let again = !fresh.is_empty() || !gone.is_empty();
        if again {
            let write = self.derived.records().write(move |tx| {
                for output in &fresh {
                    store::put_output(tx, output)?;
                }
                for (output, reason) in &histories {
                    // To the end of time: what comes while this is written belongs to it too.
                    let (first, last) = (Timestamp::MIN.as_micros(), Timestamp::MAX.as_micros());
                    store::add_work(tx, *output, reason, first, last)?;
                }
                for output in &gone {
                    store::end_output(tx, *output)?;
                }
                Ok::<_, records::Error>(())
            });
            write.await?;
            self.derived.0.reload.notify_one();
        }
        self.plan = Arc::clone(&plan);
        self.derived.0.plan.store(plan);
        self.loads += u64::from(!again);
        self.show();
        Ok(())
    }

    /// Rows of work as they are stored; of what is at work here the memory is newer.
    fn adopt(&mut self, stored: Vec<Work>) {
        let mut before: BTreeMap<i64, Work> = std::mem::take(&mut self.works).into_iter().map(|w| (w.id, w)).collect();
        let ended = &self.ended;
        self.works =
            stored.into_iter().filter(|w| !ended.contains(&w.id)).map(|w| before.remove(&w.id).unwrap_or(w)).collect();
    }

    async fn everything(&mut self, reason: &'static str) {
        let outputs: Vec<EntityId> = self.plan.instances.iter().map(|i| i.output).collect();
        for output in outputs {
            self.add(output, reason, Timestamp::MIN.as_micros(), Timestamp::MAX.as_micros()).await;
        }
    }

    /// Makes a row of work, and keeps trying: what is touched must not be forgotten. It is found with the next look at what is declared.
    async fn add(&mut self, output: EntityId, reason: &'static str, first: i64, last: i64) {
        while let Err(error) =
            self.derived.records().write(move |tx| store::add_work(tx, output, reason, first, last)).await
        {
            tracing::error!(%error, "work on a derived Datastream cannot be written down; trying again");
            tokio::time::sleep(PAUSE).await;
        }
        self.derived.0.reload.notify_one();
    }

    // --- what comes ------------------------------------------------------------------------------------------------

    async fn take(&mut self, records: &[Applied], stop: &CancellationToken) -> bool {
        // The stream shows what is durable; what is read below is what is applied, which comes a moment later.
        let next = records.last().map_or(self.next, |r| r.offset + 1);
        if self.derived.observe().applied(next).await.is_err() {
            return false;
        }
        let plan = Arc::clone(&self.plan);
        let mut dirty: BTreeMap<usize, Vec<(i64, i64)>> = BTreeMap::new();
        let mut touch = |input: EntityId, times: &mut dyn Iterator<Item = i64>| {
            let readers = plan.readers(input);
            if readers.is_empty() {
                return;
            }
            let times: Vec<i64> = times.collect();
            for (at, nth) in readers {
                let reach = plan.instances[*at].definition.reach(*nth);
                compute::touched(times.iter().copied(), reach, dirty.entry(*at).or_default());
            }
        };
        let mut dropped = Vec::new();
        for record in records {
            match &record.frame {
                Frame::Observed(batch) => {
                    batch.runs().iter().for_each(|run| touch(run.datastream, &mut run.times.iter().copied()));
                }
                Frame::Removed(ids) => {
                    ids.iter().for_each(|id| touch(id.datastream, &mut std::iter::once(id.at.as_micros())));
                }
                Frame::Dropped(id) => dropped.push(*id),
            }
        }
        // By the plan's order: what is computed from what is computed comes later.
        for (at, spans) in dirty {
            for (from, to) in spans {
                if !self.fresh(&plan.instances[at], from, to, stop).await {
                    return false;
                }
            }
        }
        for input in dropped {
            for (at, _) in plan.readers(input) {
                let output = plan.instances[*at].output;
                self.add(output, "an input was deleted", Timestamp::MIN.as_micros(), Timestamp::MAX.as_micros()).await;
            }
        }
        self.next = next;
        true
    }

    /// Computes a touched span now, as far as it is short; `false` when it was told to stop before it could.
    async fn fresh(&mut self, instance: &Instance, from: i64, to: i64, stop: &CancellationToken) -> bool {
        // What an interval is not over for yet is the clock's.
        let to = match self.outputs.get(&instance.output).and_then(|o| o.done_through) {
            Some(through) => to.min(through),
            None => to,
        };
        let (mut from, mut tries) = (from, 0);
        for _ in 0..FRESH {
            if from > to {
                return true;
            }
            loop {
                match self.derived.chunk(&self.options.zone, instance, from, to).await {
                    Ok(done) => {
                        from = done.next;
                        break;
                    }
                    Err(error) => {
                        tries += 1;
                        self.failed(instance, &error);
                        if tries >= TRIES {
                            self.add(instance.output, "it could not be computed at once", from, to).await;
                            return true;
                        }
                        tokio::select! {
                            () = stop.cancelled() => return false,
                            () = tokio::time::sleep(PAUSE) => {}
                        }
                    }
                }
            }
        }
        if from <= to {
            self.add(instance.output, "late data", from, to).await;
        }
        true
    }

    fn failed(&self, instance: &Instance, error: &Error) {
        self.derived.0.stats.failures.fetch_add(1, Relaxed);
        tracing::warn!(output = %instance.output, definition = instance.definition.key, %error, "a derived Datastream could not be computed");
    }

    /// Outputs at fixed intervals whose time has come.
    async fn by_the_clock(&mut self, stop: &CancellationToken) {
        let now = self.derived.now().as_micros();
        let plan = Arc::clone(&self.plan);
        for instance in &plan.instances {
            let Some(every) = instance.definition.every else { continue };
            let through = floor(now, every);
            let Some(output) = self.outputs.get_mut(&instance.output) else { continue };
            let Some(done) = output.done_through.filter(|done| *done < through) else { continue };
            output.done_through = Some(through);
            self.changed.insert(instance.output);
            if !self.fresh(instance, done + 1, through, stop).await {
                // Not computed: the stored mark is still the one before.
                if let Some(output) = self.outputs.get_mut(&instance.output) {
                    output.done_through = Some(done);
                }
                return;
            }
        }
    }

    // --- what takes long -------------------------------------------------------------------------------------------

    /// The next piece of work that may be done, in turns.
    fn due(&self) -> Option<usize> {
        let now = self.derived.now();
        let count = self.works.len();
        (0..count).map(|n| (self.turn + n) % count).find(|at| {
            let work = &self.works[*at];
            let waits = self.later.get(&work.id).is_some_and(|until| now < *until);
            let paused = self.plan.of(work.datastream).is_some_and(|i| i.paused);
            !waits && !paused
        })
    }

    async fn work(&mut self, at: usize) {
        self.turn = at + 1;
        let work = self.works[at].clone();
        let plan = Arc::clone(&self.plan);
        let outcome = match plan.of(work.datastream) {
            Some(instance) => {
                let through = self.outputs.get(&work.datastream).and_then(|o| o.done_through);
                let last = through.map_or(work.last, |t| work.last.min(t));
                let outcome = self.derived.chunk(&self.options.zone, instance, work.next, last).await;
                if let Err(error) = &outcome {
                    self.failed(instance, error);
                }
                outcome.map(|done| (done, last))
            }
            None => Ok((Done { next: i64::MAX, written: 0, began: None }, work.last)),
        };
        let Some(known) = self.works.get_mut(at) else { return };
        match outcome {
            Ok((done, last)) => {
                self.moved = true;
                known.written += done.written;
                if let Some(began) = done.began.filter(|_| known.first == Timestamp::MIN.as_micros()) {
                    // Progress counts from where there is something.
                    known.first = began;
                }
                known.next = done.next;
                if done.next > last {
                    self.ended.push(work.id);
                    self.works.remove(at);
                }
            }
            Err(_) => {
                self.later.insert(work.id, self.derived.now().plus_secs(30));
            }
        }
        self.show();
    }

    fn show(&self) {
        *self.derived.0.works.lock() = self.works.clone();
    }

    /// Writes down how far everything has come.
    async fn checkpoint(&mut self) {
        if self.written == self.next && self.changed.is_empty() && !self.moved && self.ended.is_empty() {
            return;
        }
        let (next, works, ended) = (self.next, self.works.clone(), self.ended.clone());
        let outputs: Vec<Output> = self.changed.iter().filter_map(|id| self.outputs.get(id).cloned()).collect();
        let write = self.derived.records().write(move |tx| {
            store::put_position(tx, next)?;
            for output in &outputs {
                store::put_output(tx, output)?;
            }
            for work in &works {
                store::move_work(tx, work)?;
            }
            for id in &ended {
                store::end_work(tx, *id)?;
            }
            Ok::<_, records::Error>(())
        });
        match write.await {
            Ok(()) => {
                self.written = self.next;
                self.moved = false;
                self.changed.clear();
                for id in std::mem::take(&mut self.ended) {
                    self.later.remove(&id);
                }
                self.derived.observe().hold(FOLLOWER, self.next);
            }
            // The next checkpoint says the same and more.
            Err(error) => tracing::error!(%error, "how far derived Datastreams have come could not be written down"),
        }
    }
}

/// The last multiple of `every` seconds that is over.
fn floor(now: i64, every: u32) -> i64 {
    let every = i64::from(every) * 1_000_000;
    now.div_euclid(every) * every
}

/// What became of a piece.
pub(super) struct Done {
    /// Everything of the span before is done.
    pub next: i64,
    /// Observations written or taken away.
    pub written: u64,
    /// The first output of the piece.
    pub began: Option<i64>,
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros.clamp(Timestamp::MIN.as_micros(), Timestamp::MAX.as_micros()))
}

/// A number, or a truth as one; nothing else can be computed with.
fn point(o: &Observation) -> Option<Point> {
    let value = match &o.result {
        ResultValue::Number(n) => *n,
        ResultValue::Json(raw) => match raw.get().trim() {
            "true" => 1.0,
            "false" => 0.0,
            _ => return None,
        },
    };
    let good = !o.quality.as_ref().is_some_and(|q| is_faulty(q.get()));
    Some(Point { at: o.phenomenon.start.as_micros(), value, good })
}

fn raw(text: &str) -> Option<Arc<RawValue>> {
    RawValue::from_string(text.to_owned()).ok().map(Into::into)
}

impl Derived {
    async fn rows(&self, datastream: EntityId, from: i64, to: i64, limit: usize) -> Result<Vec<Observation>, Error> {
        if from > to {
            return Ok(Vec::new());
        }
        let query = SeriesQuery { from: Some(time(from)), to: Some(time(to)), limit, ..SeriesQuery::all(datastream) };
        Ok(self.observe().read(query).await?)
    }

    /// Computes the beginning of a span of one output, and writes what differs from what is there.
    pub(super) async fn chunk(&self, zone: &TimeZone, instance: &Instance, from: i64, to: i64) -> Result<Done, Error> {
        // Where nothing was ever observed there is nothing to compute, and no FeatureOfInterest is made for it.
        let mut known = instance.inputs.iter().chain([&instance.output]);
        if !known.any(|id| self.observe().head(*id).is_some()) {
            return Ok(Done { next: to.saturating_add(1), written: 0, began: None });
        }
        let definition = &instance.definition;
        let catalog = self.catalog();
        let Some(info) = catalog.datastream(instance.output).await? else {
            return Ok(Done { next: i64::MAX, written: 0, began: None });
        };
        let (mut leads, mut end) = match definition.every {
            Some(every) => self.intervals(instance, info.feature, from, to, i64::from(every) * 1_000_000).await?,
            None => self.leads(instance, info.feature, from, to).await?,
        };
        let series = self.series(instance, &mut leads, &mut end).await?;
        let outcomes = match (&series, &instance.corrections) {
            (_, Some(corrections)) => leads.iter().map(|lead| corrections.outcome(lead)).collect(),
            (Some(series), None) => compute::outcomes(definition, zone, series, &leads),
            // One window alone holds more than is looked at: nothing is said rather than something wrong.
            (None, None) => vec![None; leads.len()],
        };
        self.0.stats.computed.fetch_add(leads.len() as u64, Relaxed);
        let mut wanted: BTreeMap<ObservationId, Observation> = BTreeMap::new();
        for (lead, outcome) in leads.iter().zip(outcomes) {
            let Some(observation) = outcome.and_then(|o| written(instance, lead, &o)) else { continue };
            if lead.feature != info.feature
                && !catalog.admit_feature(&Caller::system("derived"), instance.output, lead.feature).await?
            {
                continue;
            }
            wanted.insert(observation.id(), observation);
        }
        let began = wanted.keys().next().map(|id| id.at.as_micros());
        let mut gone = Vec::new();
        for old in self.rows(instance.output, from, end, MAX_POINTS).await? {
            match wanted.get(&old.id()) {
                Some(new) if *new == old => drop(wanted.remove(&old.id())),
                Some(_) => {}
                None => gone.push(old.id()),
            }
        }
        let count = (wanted.len() + gone.len()) as u64;
        if !wanted.is_empty() {
            let mut batch = Batch::new();
            self.0.stats.written.fetch_add(wanted.len() as u64, Relaxed);
            wanted.into_values().for_each(|o| batch.push(o));
            self.observe().record(batch).await?;
        }
        if !gone.is_empty() {
            self.0.stats.removed.fetch_add(gone.len() as u64, Relaxed);
            self.observe().remove(gone).await?;
        }
        // Where nothing is, the next that is there is looked for, so that ten empty years are one step.
        let mut next = end.saturating_add(1);
        if definition.every.is_some() && count == 0 && began.is_none() && next <= to {
            next = self.next_input(instance, next, to).await?;
        }
        Ok(Done { next, written: count, began })
    }

    /// What leads to the outputs from `from` on: Observations of the first input. Also the time that they reach through.
    async fn leads(&self, instance: &Instance, own: EntityId, from: i64, to: i64) -> Result<(Vec<Lead>, i64), Error> {
        let input = instance.inputs[0];
        let usual = self.catalog().datastream(input).await?.map(|i| i.feature);
        let mut rows = self.rows(input, from, to, CHUNK).await?;
        let mut end = to;
        if rows.len() == CHUNK
            && let Some(last) = rows.last().map(|o| o.phenomenon.start)
        {
            let before = rows.partition_point(|o| o.phenomenon.start < last);
            if before > 0 {
                rows.truncate(before);
                end = last.as_micros() - 1;
            } else {
                // So many features at one moment: all of them together.
                end = last.as_micros();
                rows = self.rows(input, end, end, MAX_POINTS).await?;
            }
        }
        let skip = instance.definition.faulty == Faulty::Skip && instance.corrections.is_none();
        let leads = rows.iter().filter_map(|o| {
            let point = point(o).filter(|p| p.good || !skip)?;
            let feature = if Some(o.feature) == usual { own } else { o.feature };
            Some(Lead { at: point.at, end: o.phenomenon.end.as_micros(), feature, own: Some(point) })
        });
        Ok((leads.collect(), end))
    }

    /// The same for outputs at fixed intervals.
    async fn intervals(
        &self,
        instance: &Instance,
        own: EntityId,
        from: i64,
        to: i64,
        every: i64,
    ) -> Result<(Vec<Lead>, i64), Error> {
        // Before the first input there is nothing, and what was there before is taken away with the first piece.
        let start = instance.inputs.iter().chain([&instance.output]);
        let start = start.filter_map(|id| self.observe().head(*id)).map(|h| h.phenomenon.start.as_micros()).min();
        let Some(start) = start else { return Ok((Vec::new(), to)) };
        let times = compute::grid(from.max(start), to, every, CHUNK);
        let end = if times.len() == CHUNK { times.last().copied().unwrap_or(to) } else { to };
        let lead = |at| Lead { at, end: at, feature: own, own: None };
        Ok((times.into_iter().map(lead).collect(), end))
    }

    /// The first time from `from` on at which an output could depend on something.
    async fn next_input(&self, instance: &Instance, from: i64, to: i64) -> Result<i64, Error> {
        let mut next = to.saturating_add(1);
        for (nth, input) in instance.inputs.iter().enumerate() {
            let back = from.saturating_sub(instance.definition.reach(nth));
            let found = self.rows(*input, back, to, 1).await?;
            next = next.min(found.first().map_or(next, |o| o.phenomenon.start.as_micros()));
        }
        let there = self.rows(instance.output, from, to, 1).await?;
        next = next.min(there.first().map_or(next, |o| o.phenomenon.start.as_micros()));
        Ok(next.max(from))
    }

    /// The inputs as far as `leads` look; fewer leads where that would be too much. `None` where even one looks at too much.
    async fn series(
        &self,
        instance: &Instance,
        leads: &mut Vec<Lead>,
        end: &mut i64,
    ) -> Result<Option<Vec<Vec<Point>>>, Error> {
        let definition = &instance.definition;
        let skip = definition.faulty == Faulty::Skip;
        'fewer: loop {
            let Some((first, last)) = leads.first().zip(leads.last()).map(|(a, b)| (a.at, b.at)) else {
                return Ok(Some(vec![Vec::new(); instance.inputs.len()]));
            };
            let mut series = Vec::with_capacity(instance.inputs.len());
            for (nth, input) in instance.inputs.iter().enumerate() {
                let reach = definition.reach(nth);
                // An input that leads and has no window is looked at through the leads themselves.
                if nth == 0 && definition.every.is_none() && reach == 0 {
                    series.push(Vec::new());
                    continue;
                }
                let rows = self.rows(*input, first.saturating_sub(reach), last, MAX_POINTS + 1).await?;
                if rows.len() > MAX_POINTS {
                    let keep = leads.partition_point(|l| l.at <= leads[(leads.len() - 1) / 2].at);
                    if keep >= leads.len() {
                        return Ok(None);
                    }
                    leads.truncate(keep);
                    *end = leads.last().map_or(*end, |l| l.at);
                    continue 'fewer;
                }
                series.push(rows.iter().filter_map(point).filter(|p| p.good || !skip).collect());
            }
            return Ok(Some(series));
        }
    }
}

/// The Observation that an outcome is; `None` where it does not fit the Datastream.
fn written(instance: &Instance, lead: &Lead, outcome: &Outcome) -> Option<Observation> {
    let result = if instance.definition.truth {
        ResultValue::Json(raw(if outcome.value == 0.0 { "false" } else { "true" })?)
    } else {
        ResultValue::Number(outcome.value)
    };
    instance.kind.check(&result).ok()?;
    let quality = match (&instance.corrections, outcome.faulty) {
        (Some(corrections), _) => corrections.quality(lead, outcome),
        (None, true) => raw(r#"{"code":"suspect","reason":"computed from a faulty input"}"#),
        (None, false) => None,
    };
    Some(Observation {
        datastream: instance.output,
        phenomenon: Interval { start: time(lead.at), end: time(lead.end) },
        result_time: None,
        result,
        feature: lead.feature,
        quality,
        valid: None,
        parameters: None,
    })
}
