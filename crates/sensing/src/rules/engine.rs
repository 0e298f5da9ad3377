//! The engine: follows the stream, moves the machines, writes what happens.
//!
//! Crash-proof by construction, not by care. Every state row says up to which offset it has been moved, and is written in the one
//! transaction that writes its alarm; so however far back the stream is read again, a machine never takes the same record
//! twice. An alarm's id follows from its rule, Datastream and number, so writing it again after an unknown outcome writes nothing.
//! Between transitions, states are written every [`Options::checkpoint`] together with the offset to continue from.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::tz::TimeZone;
use kernel::{Caller, Clock, Timestamp};
use records::Records;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    core::{Changes, Core, Happening},
    facts, store,
};
use crate::{
    Error,
    alarms::{
        self, Alarms, Failure,
        model::{Alarm, AlarmState, Command},
    },
    alerts, notify,
    observe::{Batch, Frame},
};

/// Records that are evaluated before what has happened is written.
const TOGETHER: usize = 256;

/// What arrives, in the order of the stream. `Observe` is the one that counts; a test may read a topic of its own.
pub trait Feed: Send + Sync + 'static {
    type Reader: Reader;
    /// Everything from `offset` on without gaps, then what comes.
    fn read(&self, offset: u64) -> impl Future<Output = Result<Self::Reader, Error>> + Send;
    /// The offset after the last durable record.
    fn end(&self) -> u64;
    /// A moment, and the offset before which lies everything that was stamped before it.
    fn settled(&self) -> (Timestamp, u64);
    /// Keeps what has not been evaluated yet from being forgotten.
    fn hold(&self, offset: u64);
}

pub trait Reader: Send {
    fn next(&mut self) -> impl Future<Output = Result<Arrived, Error>> + Send;
    /// The next one, when it has been read already.
    fn ready(&mut self) -> Option<Arrived> {
        None
    }
}

/// One record: its offset, when the stream took it, and what it says.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub offset: u64,
    pub at: Timestamp,
    pub frame: Frame,
}

/// A clock that is never set: time since some moment.
pub type Elapsed = Arc<dyn Fn() -> Duration + Send + Sync>;

#[derive(Clone)]
pub struct Options {
    /// The longest that states wait to be written: what a restart reads again.
    pub checkpoint: Duration,
    /// How often holds and silences are looked at: their alarms are at most so late.
    pub tick: Duration,
    /// How often the catalogue is read again for Things that have changed their properties. New Datastreams are noticed at once.
    pub refresh: Duration,
    /// A clock that moves by so much more or less than time has passed has jumped.
    pub jump: Duration,
    pub elapsed: Elapsed,
    /// The city's, for hours and weekdays in expressions.
    pub zone: TimeZone,
}

impl Default for Options {
    fn default() -> Self {
        let start = Instant::now();
        Self {
            checkpoint: Duration::from_secs(10),
            tick: Duration::from_secs(1),
            refresh: Duration::from_secs(300),
            jump: Duration::from_secs(5),
            elapsed: Arc::new(move || start.elapsed()),
            zone: TimeZone::UTC,
        }
    }
}

/// Counters since the start, for metrics.
#[derive(Debug, Default)]
pub struct Stats {
    pub observations: AtomicU64,
    pub raised: AtomicU64,
    pub cleared: AtomicU64,
    pub checkpoints: AtomicU64,
    pub ticks: AtomicU64,
    pub failures: AtomicU64,
    pub slots: AtomicU64,
}

/// The running engine. Dropping the handle does not stop it; [`Handle::stop`] does.
#[derive(Clone)]
pub struct Handle {
    reload: Arc<Notify>,
    evaluated: watch::Receiver<u64>,
    ticked: watch::Receiver<Timestamp>,
    stop: CancellationToken,
    stopped: CancellationToken,
    stats: Arc<Stats>,
}

impl Handle {
    /// Rules or Things have changed: read them again now.
    pub fn reload(&self) {
        self.reload.notify_one();
    }
    /// Waits until everything before `next` is evaluated and its alarms are written.
    pub async fn evaluated(&self, next: u64) {
        let _ = self.evaluated.clone().wait_for(|done| *done >= next).await;
    }
    /// Waits until holds and silences that were over by `at` have been looked at.
    pub async fn ticked(&self, at: Timestamp) {
        let _ = self.ticked.clone().wait_for(|done| *done >= at).await;
    }
    /// The offset after the last record that was evaluated: what lies between it and the stream's end, rules have yet to see.
    pub fn position(&self) -> u64 {
        *self.evaluated.borrow()
    }
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
    /// Writes a last checkpoint and ends.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }
}

struct Engine<F> {
    feed: F,
    records: Records,
    alarms: Alarms,
    clock: Arc<dyn Clock>,
    options: Options,
    core: Core,
    next: u64,
    /// The greatest Datastream that the last look at the catalogue knew.
    newest: i64,
    written: u64,
    stats: Arc<Stats>,
}

/// Starts the engine where its last checkpoint ended; at the end of the stream when there is none. What it watches is read afterwards, beside
/// everything else: until then the stream waits, so nothing is missed, and nobody waits for a city of a million rules' worth.
///
/// # Errors
/// Those of the records and of the stream.
pub async fn start<F: Feed>(feed: F, alarms: Alarms, clock: Arc<dyn Clock>, options: Options) -> Result<Handle, Error> {
    let records = alarms.records().clone();
    let stored = records.read(store::position).await.map_err(alarms::stored)?;
    let next = stored.unwrap_or_else(|| feed.end());
    feed.hold(next);
    if stored.is_none() {
        // From here on a crash continues from this offset, even if nothing has ever happened.
        records.write(move |tx| store::put_position(tx, next)).await.map_err(alarms::stored)?;
    }
    let stats = Arc::new(Stats::default());
    let core = Core::new(clock.now()).in_zone(options.zone.clone());
    let mut engine = Engine {
        feed,
        records,
        alarms,
        clock,
        options,
        core,
        next,
        newest: 0,
        written: next,
        stats: Arc::clone(&stats),
    };
    let reader = engine.feed.read(next).await?;
    let (evaluated, seen) = watch::channel(next);
    let (ticked, tick_seen) = watch::channel(Timestamp::MIN);
    let handle = Handle {
        reload: Arc::new(Notify::new()),
        evaluated: seen,
        ticked: tick_seen,
        stop: CancellationToken::new(),
        stopped: CancellationToken::new(),
        stats,
    };
    let running = handle.clone();
    tokio::spawn(async move {
        let _ended = running.stopped.clone().drop_guard();
        // Stopped before anything was read: everything is still to be evaluated, as the stored position says.
        if engine.load_patiently(&running.stop).await {
            engine.run(reader, &running, &evaluated, &ticked).await;
        }
    });
    Ok(handle)
}

impl<F: Feed> Engine<F> {
    async fn run(
        &mut self,
        mut reader: F::Reader,
        handle: &Handle,
        evaluated: &watch::Sender<u64>,
        ticked: &watch::Sender<Timestamp>,
    ) {
        let mut tick = tokio::time::interval(self.options.tick);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut jumps = Jumps::new(self.clock.now(), (self.options.elapsed)(), self.options.jump);
        let (mut checkpoint, mut refresh) = ((self.options.elapsed)(), (self.options.elapsed)());
        // A moment, and the offset that must have been evaluated before it may be said that nothing came until then.
        let mut pending: Option<(Timestamp, u64)> = None;
        loop {
            if let Some((now, end)) = pending
                && self.next >= end
            {
                pending = None;
                self.core.tick(now);
                self.settle(false).await;
                self.stats.ticks.fetch_add(1, Relaxed);
                ticked.send_replace(now);
            }
            tokio::select! {
                biased;
                () = handle.stop.cancelled() => {
                    self.settle(true).await;
                    return;
                }
                () = handle.reload.notified() => {
                    self.load_patiently(&handle.stop).await;
                }
                arrived = reader.next() => match arrived {
                    Ok(arrived) => {
                        if let Some(now) = jumps.look(self.clock.now(), (self.options.elapsed)()) {
                            self.core.forgive(now);
                        }
                        self.take(&arrived, &handle.stop).await;
                        // What happens in one moment is written by one transaction, or the last of a thousand alarms waits for a thousand flushes.
                        let mut left = TOGETHER;
                        let mut last = arrived.offset;
                        while left > 0
                            && self.next == last + 1
                            && let Some(arrived) = reader.ready()
                        {
                            self.take(&arrived, &handle.stop).await;
                            (left, last) = (left - 1, arrived.offset);
                        }
                        self.settle(false).await;
                        evaluated.send_replace(self.next);
                    }
                    Err(error) => {
                        tracing::error!(%error, "the rules cannot read the stream; trying again");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        if let Ok(again) = self.feed.read(self.next).await {
                            reader = again;
                        }
                    }
                },
                _ = tick.tick() => {
                    let (now, elapsed) = (self.clock.now(), (self.options.elapsed)());
                    if let Some(now) = jumps.look(now, elapsed) {
                        tracing::warn!(%now, "the clock has jumped; silence counts from now");
                        self.core.forgive(now);
                    }
                    // Not `now`: a batch that a slow disk holds up has arrived, and is about to say so.
                    pending.get_or_insert_with(|| self.feed.settled());
                    if elapsed.saturating_sub(refresh) >= self.options.refresh {
                        refresh = elapsed;
                        self.load_patiently(&handle.stop).await;
                    }
                    if elapsed.saturating_sub(checkpoint) >= self.options.checkpoint {
                        checkpoint = elapsed;
                        self.settle(true).await;
                    }
                }
            }
        }
    }

    async fn take(&mut self, arrived: &Arrived, stop: &CancellationToken) {
        match &arrived.frame {
            Frame::Observed(batch) => {
                // A Datastream that the rules have not been matched with: its first Observation must count too.
                if newest(batch) > self.newest && !self.extend_patiently(newest(batch), stop).await {
                    return;
                }
                self.core.apply(arrived.offset, arrived.at, batch);
                self.stats.observations.fetch_add(batch.len() as u64, Relaxed);
            }
            Frame::Dropped(datastream) => self.core.dropped(*datastream, arrived.at),
            Frame::Removed(_) => {}
        }
        self.next = arrived.offset + 1;
    }

    /// Reads rules and Things, and matches them.
    async fn load(&mut self) -> Result<(), Error> {
        let load = self.records.read(|read| {
            let rules = store::rules(read)?;
            let rules = crate::moving::fences::attach(read, rules)?;
            let (facts, newest) = facts::load(read, &rules)?;
            Ok::<_, records::Error>((rules, facts, newest, store::states(read)?, store::standing(read)?))
        });
        let (rules, facts, newest, states, standing) = load.await.map_err(alarms::stored)?;
        self.core.install(rules, &facts, &states, &standing, self.clock.now());
        self.newest = newest;
        self.stats.slots.store(self.core.slots() as u64, Relaxed);
        Ok(())
    }

    /// `false` when it was told to stop before it could.
    async fn load_patiently(&mut self, stop: &CancellationToken) -> bool {
        while let Err(error) = self.load().await {
            tracing::error!(%error, "the rules cannot be read; trying again");
            self.stats.failures.fetch_add(1, Relaxed);
            if pause(stop).await {
                return false;
            }
        }
        self.settle(false).await;
        true
    }

    /// Matches the rules with the Datastreams up to `through` that are newer than the last look at the catalogue, and with no others. `false`
    /// when it was told to stop before it could: the record is then for the next start.
    async fn extend_patiently(&mut self, through: i64, stop: &CancellationToken) -> bool {
        loop {
            let (rules, after) = (self.core.rules().to_vec(), self.newest);
            let found = self.records.read(move |read| facts::between(read, &rules, after, through)).await;
            match found.map_err(alarms::stored) {
                // A Datastream that others look at, or that looks at others, is matched with them: rarely, and not alone.
                Ok(found) if self.core.entangles(&found) => {
                    if !self.load_patiently(stop).await {
                        return false;
                    }
                    self.newest = self.newest.max(through);
                    return true;
                }
                Ok(found) => {
                    self.core.extend(&found);
                    self.newest = through;
                    self.stats.slots.store(self.core.slots() as u64, Relaxed);
                    return true;
                }
                Err(error) => {
                    tracing::error!(%error, "the catalogue cannot be read; trying again");
                    self.stats.failures.fetch_add(1, Relaxed);
                    if pause(stop).await {
                        return false;
                    }
                }
            }
        }
    }

    /// Writes when something has happened, or in any case; tries until it is written. Meanwhile nothing more is read, so nothing piles up.
    async fn settle(&mut self, always: bool) {
        if !always && !self.core.has_happened() {
            return;
        }
        while let Err(error) = self.write(always).await {
            tracing::error!(%error, "alarms cannot be written; trying again");
            self.stats.failures.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn write(&mut self, position: bool) -> Result<(), Error> {
        let changes = Arc::new(self.core.take(position));
        let next = self.next;
        let outcome = self.write_changes(&changes, position.then_some(next)).await;
        match outcome {
            Ok((raised, cleared)) => {
                self.stats.raised.fetch_add(raised, Relaxed);
                self.stats.cleared.fetch_add(cleared, Relaxed);
                if position {
                    self.written = next;
                    self.stats.checkpoints.fetch_add(1, Relaxed);
                    self.feed.hold(next);
                }
                if raised + cleared > 0 {
                    self.alarms.changed();
                }
                Ok(())
            }
            Err(error) => {
                self.core.give_back(Arc::unwrap_or_clone(changes));
                Err(error)
            }
        }
    }

    async fn write_changes(&self, changes: &Arc<Changes>, position: Option<u64>) -> Result<(u64, u64), Error> {
        // One transaction for everything that happened and all states that moved: neither is ever there without the other.
        let (changes, publisher, zone) = (Arc::clone(changes), self.alarms.publisher(), self.options.zone.clone());
        let command = move |tx: &mut records::Tx<'_>| {
            let caller = Caller::system("rules");
            let (mut raised, mut cleared) = (0, 0);
            let mut desk = notify::Desk::new(zone.clone());
            for happening in &changes.happenings {
                match happening {
                    Happening::Raised { id, rule, facts, at, value } => {
                        let alarm = Alarm {
                            id: *id,
                            rule: rule.key.clone(),
                            tenant: rule.tenant.clone(),
                            public: facts.public,
                            severity: rule.severity,
                            state: AlarmState::Open,
                            name: rule.name.clone(),
                            instruction: rule.instruction.clone(),
                            thing: facts.thing,
                            thing_name: facts.thing_name.clone(),
                            datastream: facts.datastream,
                            system: facts.system.clone(),
                            district: facts.district.clone(),
                            value: *value,
                            unit: facts.unit.clone(),
                            raised_at: *at,
                            recorded_at: tx.now(),
                            acknowledged: None,
                            cleared_at: None,
                            closed: None,
                            assignee: None,
                            version: 1,
                        };
                        if alarms::raise(tx, &caller, &alarm, rule.area.is_some())? {
                            raised += 1;
                            desk.tell(tx, &alarm, notify::Occasion::Raised, &rule.notify, "")?;
                            notify::escalate::arm(tx, &alarm, &rule.escalate)?;
                            if let Some(publisher) = &publisher {
                                alerts::raised(tx, publisher, &caller, &alarm, rule, facts)?;
                            }
                        }
                    }
                    Happening::Cleared { id, rule, at, value } => {
                        let command = Command::Clear { at: *at, value: *value };
                        match alarms::apply(tx, &caller, *id, "alarm:clear", None, &command) {
                            Ok(alarm) => {
                                cleared += 1;
                                let told = notify::told_by(tx, rule)?;
                                desk.tell(tx, &alarm, notify::Occasion::Cleared, &told, "")?;
                                if let Some(publisher) = &publisher {
                                    alerts::ended(tx, publisher, &caller, &alarm)?;
                                }
                            }
                            Err(Failure::Records(error)) => return Err(error),
                            // Closed by a person, or written before the connection was lost: there is nothing left to clear.
                            Err(Failure::Gone | Failure::NoTeam | Failure::Version(_) | Failure::Refused(_)) => {}
                        }
                    }
                }
            }
            for (rule, datastream) in &changes.gone {
                store::delete_state(tx, rule, *datastream)?;
            }
            store::put_states(tx, &changes.slots)?;
            if let Some(next) = position {
                store::put_position(tx, next)?;
            }
            Ok::<_, records::Error>((raised, cleared))
        };
        self.records.write(command).await.map_err(alarms::stored)
    }
}

fn newest(batch: &Batch) -> i64 {
    batch.runs().iter().map(|run| run.datastream.0).max().unwrap_or(0)
}

/// Whether to stop.
async fn pause(stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(Duration::from_secs(1)) => false,
    }
}

/// Notices that the clock was set, by comparing it with a time that cannot be.
struct Jumps {
    wall: Timestamp,
    elapsed: Duration,
    most: Duration,
}

impl Jumps {
    fn new(wall: Timestamp, elapsed: Duration, most: Duration) -> Self {
        Self { wall, elapsed, most }
    }
    /// The new time, when the clock has jumped since the last look.
    fn look(&mut self, wall: Timestamp, elapsed: Duration) -> Option<Timestamp> {
        let passed = i64::try_from(elapsed.saturating_sub(self.elapsed).as_micros()).unwrap_or(i64::MAX);
        let drift = wall.micros_since(self.wall).saturating_sub(passed).unsigned_abs();
        (self.wall, self.elapsed) = (wall, elapsed);
        (u128::from(drift) > self.most.as_micros()).then_some(wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_what_time_does_not_explain() {
        let (at, secs) = (Timestamp::from_secs, Duration::from_secs);
        let mut jumps = Jumps::new(at(1_000), secs(0), secs(5));
        assert_eq!(jumps.look(at(1_600), secs(600)), None, "time passed");
        assert_eq!(jumps.look(at(1_604), secs(601)), None, "a small correction");
        assert_eq!(jumps.look(at(9_000), secs(602)), Some(at(9_000)), "forward, or a machine that slept");
        assert_eq!(jumps.look(at(9_001), secs(603)), None);
        assert_eq!(jumps.look(at(1_000), secs(604)), Some(at(1_000)), "back");
    }
}
