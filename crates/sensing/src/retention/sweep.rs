//! What is confirmed is applied: Datastreams are gathered under their declarations, and the lake's partitions given their forms one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering::Relaxed,
};

use jiff::ToSpan;
use kernel::{Caller, Id, Timestamp};
use records::{Job, JobFailure, NewJob};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Border, Hold, Month, QUEUE, Report, Retention, Run, RunKind, RunState, StreamReport, Under, body,
    model::{Declaration, declaration_of},
    store::{self, Known, Stored, Stream},
};
use crate::{
    Error,
    model::EntityId,
    observe::thin::{Form, Forms, Outcome, Plan, iso},
};

/// Datastreams that are looked at together.
const CHUNK: usize = 1_000;
/// Datastreams and partitions that a report names.
const NAMED: usize = 200;
const MONTHS: usize = 600;
/// How far the clock is followed from one night to the next. One that has jumped years ahead would otherwise take everything in one night; so it
/// takes a week's worth, and somebody has time to read what the log and the figures say.
const LEAP_SECS: i64 = 8 * 86_400;
/// Times that a partition is looked at again because a hold was placed meanwhile.
const TRIES: usize = 5;

enum Sweep<'a> {
    /// What this declaration would do.
    Preview(&'a Declaration),
    Apply,
}

impl Retention {
    /// Works until `shutdown`: previews when they are asked for, and a sweep once a night.
    ///
    /// # Errors
    /// When the records cannot be written.
    pub async fn work(&self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let next = self.next_night();
        let enqueued = self.records().write(move |tx| {
            store::end_broken_runs(tx)?;
            if store::clock(tx)?.is_none() {
                let now = tx.now();
                store::set_clock(tx, now)?;
            }
            tx.enqueue(nightly(next)).map(drop)
        });
        let enqueued: Result<(), records::Error> = enqueued.await;
        enqueued?;
        let retention = self.clone();
        let worker = move |job: Job| {
            let retention = retention.clone();
            async move { retention.take(&job).await }
        };
        Ok(self.records().jobs().run(QUEUE, 1, worker, shutdown).await?)
    }

    /// Three o'clock in the city's night.
    fn next_night(&self) -> Timestamp {
        let now = self.records().now();
        let local = now.to_jiff().to_zoned(self.0.zone.clone());
        let at = local.start_of_day().and_then(|day| day.checked_add(27.hours()));
        at.map_or(now.plus_secs(86_400), |at| Timestamp::from_jiff(at.timestamp()))
    }

    async fn take(&self, job: &Job) -> Result<(), JobFailure> {
        let failed = |error: Error| JobFailure::Retry(error.to_string());
        if let Some(id) = job.payload["run"].as_str().and_then(|id| id.parse::<Id<Run>>().ok()) {
            return match self.look(id).await {
                Ok(()) => Ok(()),
                Err(error) if job.attempt >= job.max_attempts => {
                    self.give_up(id).await.map_err(failed)?;
                    Err(JobFailure::GiveUp(error.to_string()))
                }
                Err(error) => Err(failed(error)),
            };
        }
        let now = self.records().now();
        let swept = match self.followed(now).await {
            Ok(at) => self.sweep(Sweep::Apply, now, at).await.map(|_| at),
            Err(error) => Err(error),
        };
        let at = match swept {
            Ok(at) => at,
            Err(error) => {
                self.0.stats.failures.fetch_add(1, Relaxed);
                return Err(failed(error));
            }
        };
        self.0.stats.sweeps.fetch_add(1, Relaxed);
        if job.payload["sweep"] == "nightly" {
            let (job, next) = (job.clone(), self.next_night());
            let done = self.records().write(move |tx| {
                tx.complete(&job)?;
                // A clock that has been put back is not followed back, or it would take years to come forward again.
                let known = store::clock(tx)?;
                store::set_clock(tx, known.map_or(at, |known| known.max(at)))?;
                tx.enqueue(nightly(next)).map(drop)
            });
            let done: Result<(), records::Error> = done.await;
            done?;
        }
        Ok(())
    }

    /// The moment by which borders are drawn: now, unless the clock has jumped since the last night that was swept.
    async fn followed(&self, now: Timestamp) -> Result<Timestamp, Error> {
        let known: Result<_, records::Error> = self.records().read(store::clock).await;
        let at = known?.map_or(now, |known| now.min(known.plus_secs(LEAP_SECS)));
        let behind = now.micros_since(at) / 1_000_000;
        if behind > 0 {
            tracing::warn!(
                clock = %now, followed = %at,
                "the clock is far ahead of the last sweep; Observations are thinned as of a week after that"
            );
        }
        self.0.stats.behind.store(u64::try_from(behind).unwrap_or(0), Relaxed);
        Ok(at)
    }

    async fn look(&self, id: Id<Run>) -> Result<(), Error> {
        let found: Result<_, records::Error> = self.records().read(move |read| store::run_of(read, id)).await;
        let Some(mut run) = found?.filter(|run| run.state != RunState::Done) else { return Ok(()) };
        let began = self.records().now();
        run.began_at = Some(began);
        run.state = RunState::Running;
        self.keep(run.clone()).await?;
        let declaration: Declaration = serde_json::from_str(&run.body).map_err(Error::internal)?;
        // Datastreams that are met here for the first time are under the declaration since then, and confirmed with it.
        let at = self.followed(began).await?;
        let mut reports = self.sweep(Sweep::Preview(&declaration), began, at).await?;
        run.report = Some(reports.remove(&declaration.key).unwrap_or_default());
        run.ended_at = Some(self.records().now());
        run.state = RunState::Done;
        self.keep(run).await
    }

    async fn give_up(&self, id: Id<Run>) -> Result<(), Error> {
        let found: Result<_, records::Error> = self.records().read(move |read| store::run_of(read, id)).await;
        let Some(mut run) = found? else { return Ok(()) };
        run.ended_at = Some(self.records().now());
        run.state = RunState::Failed;
        self.keep(run).await
    }

    async fn keep(&self, run: Run) -> Result<(), Error> {
        let kept: Result<(), records::Error> = self.records().write(move |tx| store::put_run(tx, &run)).await;
        Ok(kept?)
    }

    /// Applies what is confirmed now, and returns when it is done. What the nightly job does.
    ///
    /// # Errors
    /// Those of the lake and the records. What was done is done, and what was not is done by the next one.
    pub async fn sweep_now(&self) -> Result<BTreeMap<String, Report>, Error> {
        let now = self.records().now();
        let at = self.followed(now).await?;
        self.sweep(Sweep::Apply, now, at).await
    }

    /// Which Datastreams are under which declaration, with those that may be swept. New ones, and those that came under another declaration, are
    /// written down: free where they have nothing to lose.
    async fn gather(
        &self,
        declared: &[Stored],
        bodies: &[Declaration],
        what: &Sweep<'_>,
        (now, as_of): (Timestamp, Timestamp),
    ) -> Result<BTreeMap<i64, Under>, Error> {
        let current: Vec<Declaration> = declared.iter().map(|s| s.declaration.clone()).collect();
        // The youngest moment at which either what is declared or what is confirmed takes anything.
        let youngest: Vec<Option<Timestamp>> = declared
            .iter()
            .map(|s| {
                let of = |d: &Declaration| d.forms(as_of).0.last().map(|(end, _)| *end);
                of(&s.declaration).max(s.confirmed.as_ref().and_then(of))
            })
            .collect();
        let mut under = BTreeMap::new();
        // The oldest of each series in the lake; read when the first Datastream is met that nothing is known of.
        let mut sealed: Option<BTreeMap<i64, Timestamp>> = None;
        for table in store::TABLES {
            let mut after = i64::MIN;
            loop {
                let read = self.records().read(move |read| store::streams(read, table, after, CHUNK));
                let streams: Result<Vec<Stream>, records::Error> = read.await;
                let streams = streams?;
                let Some(last) = streams.last() else { break };
                after = last.id.0;
                let full = streams.len() == CHUNK;
                let mut changed = Vec::new();
                for stream in streams {
                    let (named, system) = (stream.named.as_deref(), stream.system.as_deref());
                    let of = declaration_of(&current, stream.tenant.as_str(), named, system);
                    let Some(at) = of.and_then(|of| current.iter().position(|d| d.key == of.key)) else {
                        if stream.known.is_some() {
                            changed.push((stream.id, None));
                        }
                        continue;
                    };
                    let known = stream.known.filter(|known| known.declaration == current[at].key);
                    let known = match known {
                        Some(known) => known,
                        None => {
                            // The lake is asked as well: a head that cannot be read says nothing of what there is to lose.
                            if sealed.is_none() {
                                let all = self.0.observe.table().view().summaries().await;
                                let all = all.map_err(crate::observe::Error::from)?;
                                sealed = Some(all.into_iter().map(|s| (s.series, s.first)).collect());
                            }
                            let told = self.0.observe.head(stream.id).map(|head| head.phenomenon.start);
                            let kept = sealed.as_ref().and_then(|sealed| sealed.get(&stream.id.0).copied());
                            let mut oldest = told.into_iter().chain(kept);
                            let free = youngest[at].is_none_or(|border| oldest.all(|oldest| oldest >= border));
                            let known = Known { declaration: current[at].key.clone(), since: now, free };
                            changed.push((stream.id, Some(known.clone())));
                            known
                        }
                    };
                    let swept = match what {
                        Sweep::Preview(declaration) => declaration.key == current[at].key,
                        Sweep::Apply => {
                            declared[at].confirmed.is_some()
                                && (known.free || known.since <= declared[at].confirmed_through)
                        }
                    };
                    let place = bodies.iter().position(|b| b.key == current[at].key).filter(|_| swept);
                    if let Some(declaration) = place {
                        let Stream { id, tenant, thing, .. } = stream;
                        under.insert(id.0, Under { id, declaration, tenant, thing });
                    }
                }
                if !changed.is_empty() {
                    let written = self.records().write(move |tx| {
                        changed.iter().try_for_each(|(id, known)| store::assign(tx, *id, known.as_ref()))
                    });
                    let written: Result<(), records::Error> = written.await;
                    written?;
                }
                if !full {
                    break;
                }
            }
        }
        Ok(under)
    }

    /// Looks or applies at `now`, with borders as of another moment.
    async fn sweep(
        &self,
        what: Sweep<'_>,
        now: Timestamp,
        as_of: Timestamp,
    ) -> Result<BTreeMap<String, Report>, Error> {
        let dry = matches!(what, Sweep::Preview(_));
        let since = self.0.declared.load(Relaxed);
        let declared: Result<Vec<Stored>, records::Error> = self.records().read(store::all).await;
        let mut declared = declared?;
        declared.retain(|s| s.declared);
        let bodies: Vec<Declaration> = match &what {
            Sweep::Preview(declaration) => vec![(*declaration).clone()],
            Sweep::Apply => declared
                .iter()
                .filter_map(|s| Some(Declaration { key: s.declaration.key.clone(), ..s.confirmed.clone()? }))
                .collect(),
        };
        let under = self.gather(&declared, &bodies, &what, (now, as_of)).await?;
        let mut reports: BTreeMap<String, Report> = bodies.iter().map(|b| (b.key.clone(), Report::default())).collect();
        let forms: Vec<Forms> = bodies.iter().map(|b| b.forms(as_of)).collect();
        let border = forms.iter().filter_map(|f| f.0.last().map(|(end, _)| *end)).max();
        let (Some(border), false) = (border, under.is_empty()) else { return Ok(reports) };
        // What was observed before now is in the lake then, where it can be summed up.
        self.0.observe.seal().await?;
        let parts = self.0.observe.parts(border).await?;
        let mut thinning = self.0.observe.thinning().await;
        if !dry {
            let ended: Result<_, records::Error> = self.records().write(store::end_broken_runs).await;
            ended?;
        }
        let (mut streams, mut held): (Vec<BTreeMap<i64, Outcome>>, Vec<BTreeSet<i64>>) =
            (vec![BTreeMap::new(); bodies.len()], vec![BTreeSet::new(); bodies.len()]);
        let begun = Id::<Run>::generate();
        let mut overtaken = false;
        for part in parts {
            // What was read when this began is not what is declared now; the next attempt reads it.
            if !dry && self.0.declared.load(Relaxed) != since {
                overtaken = true;
                break;
            }
            // What is done is done; the rest waits for the next start.
            if self.0.observe.is_stopping() {
                return Err(crate::observe::Error::Stopping.into());
            }
            let name = part.partition.clone().unwrap_or_default();
            let mut tries = 0..TRIES;
            let (thinned, fingerprint) = loop {
                let epoch = self.0.epoch.load(Relaxed);
                let standing: Result<Vec<Hold>, records::Error> = self.records().read(store::standing).await;
                let standing = standing?;
                let mut plan = BTreeMap::new();
                for summary in &part.series {
                    let Some(stream) = under.get(&summary.series) else { continue };
                    let forms = &forms[stream.declaration];
                    if forms.0.last().is_none_or(|(end, _)| summary.first >= *end) {
                        continue;
                    }
                    if standing.iter().any(|hold| hold.covers(stream)) {
                        held[stream.declaration].insert(summary.series);
                        continue;
                    }
                    plan.insert(summary.series, forms.clone());
                }
                let fingerprint = fingerprint(&part, &plan);
                if plan.is_empty() {
                    break (None, fingerprint);
                }
                if !dry {
                    let wanted = name.clone();
                    let known: Result<_, records::Error> =
                        self.records().read(move |read| store::done(read, &wanted)).await;
                    if known?.as_ref() == Some(&fingerprint) {
                        break (None, fingerprint);
                    }
                }
                let keeper = self.clone();
                let plan = Plan::new(plan, move || {
                    keeper.0.epoch.load(Relaxed) == epoch && keeper.0.declared.load(Relaxed) == since
                });
                match thinning.part(&part, plan, dry).await {
                    Ok(thinned) => break (Some(thinned), fingerprint),
                    Err(crate::observe::Error::Lake(lake::Error::Busy)) if self.0.declared.load(Relaxed) != since => {
                        overtaken = true;
                        break (None, fingerprint);
                    }
                    // A hold was placed meanwhile.
                    Err(crate::observe::Error::Lake(lake::Error::Busy)) if tries.next().is_some() => {}
                    Err(error) => return Err(error.into()),
                }
            };
            let Some(thinned) = thinned else { continue };
            let all: u64 = thinned.by_series.values().map(|o| o.gone + o.summed).sum();
            let mut months: Vec<Outcome> = vec![Outcome::default(); bodies.len()];
            for (series, outcome) in &thinned.by_series {
                let Some(stream) = under.get(series) else { continue };
                months[stream.declaration].add(*outcome);
                streams[stream.declaration].entry(*series).or_default().add(*outcome);
            }
            for (at, outcome) in months.iter().enumerate().filter(|(_, o)| **o != Outcome::default()) {
                let Some(report) = reports.get_mut(&bodies[at].key) else { continue };
                let share =
                    u128::from(thinned.bytes) * u128::from(outcome.gone + outcome.summed) / u128::from(all.max(1));
                let bytes = u64::try_from(share).unwrap_or(u64::MAX);
                report.outcome.add(*outcome);
                report.bytes += bytes;
                report.datastreams = streams[at].len() as u64;
                if report.months.len() < MONTHS {
                    report.months.push(Month { month: name.clone(), outcome: *outcome, bytes });
                }
            }
            if !dry {
                let touched: Vec<(i64, String)> = thinned
                    .by_series
                    .keys()
                    .filter_map(|series| Some((*series, borders_of(&forms[under.get(series)?.declaration]))))
                    .collect();
                // Only what had nothing left to do is done: the next sweep looks once more at what was just written.
                let done = thinned.by_series.is_empty().then_some(fingerprint);
                self.wrote(&reports, &bodies, &months, &streams, (name, done, touched), begun).await?;
            }
        }
        thinning.finish().await?;
        if overtaken {
            return Err(Error::conflict("What is declared has changed since the sweep began; another one goes on."));
        }
        if !dry {
            self.0.observe.vacuum().await?;
        }
        for (at, body) in bodies.iter().enumerate() {
            let Some(report) = reports.get_mut(&body.key) else { continue };
            finish(report, &streams[at], held[at].len() as u64);
            if !dry && !report.is_empty() {
                self.keep(applied_run(begun, at, body, report, now, RunState::Done)).await?;
            }
        }
        Ok(reports)
    }

    /// Writes down what a commit of the lake has done, in one transaction: how far the run has come, the audit, what is done.
    async fn wrote(
        &self,
        reports: &BTreeMap<String, Report>,
        bodies: &[Declaration],
        months: &[Outcome],
        streams: &[BTreeMap<i64, Outcome>],
        (part, done, touched): (String, Option<String>, Vec<(i64, String)>),
        begun: Id<Run>,
    ) -> Result<(), Error> {
        let now = self.records().now();
        let mut runs = Vec::new();
        for (at, outcome) in months.iter().enumerate().filter(|(_, o)| **o != Outcome::default()) {
            let Some(report) = reports.get(&bodies[at].key) else { continue };
            let mut so_far = report.clone();
            finish(&mut so_far, &streams[at], 0);
            let stats = &self.0.stats;
            stats.gone.fetch_add(outcome.gone, Relaxed);
            stats.summed.fetch_add(outcome.summed, Relaxed);
            stats.sums.fetch_add(outcome.sums, Relaxed);
            stats.bytes.fetch_add(report.months.last().map_or(0, |month| month.bytes), Relaxed);
            runs.push((applied_run(begun, at, &bodies[at], &so_far, now, RunState::Running), *outcome));
        }
        let written = self.records().write(move |tx| {
            let system = Caller::system("retention");
            for (run, outcome) in &runs {
                store::put_run(tx, run)?;
                let detail = json!({ "month": part, "rows": outcome });
                tx.audit(&system, "retention:apply", "Retention", &run.declaration, Some(&run.tenant), detail)?;
            }
            for (series, borders) in &touched {
                store::set_borders(tx, *series, borders)?;
            }
            if let Some(done) = &done {
                store::set_done(tx, &part, done)?;
            }
            Ok::<_, records::Error>(())
        });
        Ok(written.await?)
    }
}

fn applied_run(begun: Id<Run>, at: usize, body: &Declaration, report: &Report, now: Timestamp, state: RunState) -> Run {
    // One id for each declaration of a sweep, so that the row of a sweep is written over as it goes on.
    let id = Id::new(now_of(begun), begun.uuid().as_u128() ^ (at as u128 + 1));
    Run {
        id,
        kind: RunKind::Applied,
        declaration: body.key.clone(),
        tenant: body.tenant.clone(),
        state,
        body: self::body(body),
        asked_by: Caller::system("retention").label(),
        asked_at: now,
        began_at: Some(now),
        ended_at: (state == RunState::Done).then_some(now),
        report: Some(report.clone()),
    }
}

/// The moment in an id.
fn now_of(id: Id<Run>) -> Timestamp {
    let millis = id.uuid().as_u128() >> 80;
    Timestamp::from_micros(i64::try_from(millis).unwrap_or(0).saturating_mul(1_000))
}

fn finish(report: &mut Report, streams: &BTreeMap<i64, Outcome>, held: u64) {
    let mut all: Vec<StreamReport> =
        streams.iter().map(|(id, outcome)| StreamReport { datastream: EntityId(*id), outcome: *outcome }).collect();
    all.sort_by_key(|s| std::cmp::Reverse(s.outcome.gone + s.outcome.summed));
    all.truncate(NAMED);
    report.streams = all;
    report.held = held;
}

fn borders_of(forms: &Forms) -> String {
    let borders: Vec<Border> = forms
        .0
        .iter()
        .filter_map(|(until, form)| match form {
            Form::Every(seconds) => Some(Border { until: *until, interval: iso(i64::from(*seconds)) }),
            Form::Raw | Form::Gone => None,
        })
        .collect();
    json!(borders).to_string()
}

/// The same for the same rows under the same forms.
fn fingerprint(part: &lake::Part, plan: &BTreeMap<i64, Forms>) -> String {
    let mut hash = Sha256::new();
    for file in &part.files {
        hash.update(file.as_bytes());
        hash.update([0]);
    }
    for (series, forms) in plan {
        hash.update(series.to_be_bytes());
        for (end, form) in forms.0.iter().filter(|(end, _)| *end > part.from) {
            hash.update((*end).min(part.to).as_micros().to_be_bytes());
            hash.update(json!(form).to_string().as_bytes());
            if *end >= part.to {
                break;
            }
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nightly(at: Timestamp) -> NewJob {
    let mut job = NewJob::new(QUEUE, json!({ "sweep": "nightly" }));
    job.unique_key = Some("nightly".to_owned());
    job.run_at = at;
    job.max_attempts = 1_000;
    job
}
