//! One run: fetch → rows → readings → Observations → what differs is recorded.
//!
//! What is stored is compared with what came, so that a file of a century with one new day writes one Observation, and no second memory of what
//! was written can ever disagree with the store.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::Arc,
};

use kernel::Timestamp;
use tokio::sync::mpsc;

use super::{
    Connect,
    declaration::{Connector, Gaps},
    fetch::{Answer, Failure, Tags, content_hash},
    fit::{self, Candidate, Extent, MAX_GAPS},
    map::{Mapper, Reading},
    modbus::{self, Modbus},
    report::{Rejection, Report},
    rows::{self, Fields, Item},
    store::{self, Stored, Success},
};
use crate::{
    Catalog,
    model::{DatastreamInfo, EntityId, EntityType, Observation, ObservationId},
    observe::{Batch, Observe, Order, SeriesQuery},
};

/// Readings that are compared at a time: the bound on memory.
const WINDOW: usize = 50_000;
/// Observations of one batch on the stream.
const BATCH: usize = 20_000;
/// Stored Observations read at a time.
const PAGE: usize = 20_000;
/// Up to so many are looked up one by one, however long a time lies between them.
const SINGLE: usize = 32;

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        let text = error.to_string();
        Self { store: Some(Box::new(error.into())), ..Self::new(text) }
    }
}
impl From<crate::observe::Error> for Failure {
    fn from(error: crate::observe::Error) -> Self {
        let text = error.to_string();
        Self { store: Some(Box::new(crate::Error::from(error).into())), ..Self::new(text) }
    }
}
impl From<records::Error> for Failure {
    fn from(error: records::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl Connect {
    /// Does the whole run and says what the next must know.
    pub(super) async fn work(&self, connector: &Arc<Connector>, stored: &Stored) -> Result<Success, Failure> {
        // A changed declaration reads the same document differently, and an operator who asks for a run wants all of it.
        let fresh = stored.forced || stored.read_as.as_ref() != Some(&connector.hash);
        let source = &connector.source;
        if let Some(url) = &source.url {
            let known = if fresh { Tags::default() } else { stored.tags.clone() };
            return match self.0.fetcher.url(url, &known).await? {
                Answer::Same => Ok(unchanged(stored, stored.tags.clone())),
                Answer::Document { bytes, tags } => self.document(connector, stored, fresh, bytes, tags).await,
            };
        }
        if let Some(modbus) = &source.modbus {
            return self.registers(connector, modbus).await;
        }
        if let Some(path) = source.file.clone() {
            let connect = self.clone();
            let bytes = blocking(move || connect.0.fetcher.file(&path)).await??;
            return self.document(connector, stored, fresh, bytes, Tags::default()).await;
        }
        self.folder(connector, fresh).await
    }

    async fn document(
        &self,
        connector: &Arc<Connector>,
        stored: &Stored,
        fresh: bool,
        bytes: Vec<u8>,
        tags: Tags,
    ) -> Result<Success, Failure> {
        let content = content_hash(&bytes);
        if !fresh && stored.content.as_ref() == Some(&content) {
            return Ok(unchanged(stored, tags));
        }
        let (report, settled) = self.take(connector, bytes).await?;
        if !settled {
            // Something may be accepted once its Datastream exists, so the document must come again.
            return Ok(Success { report: Some(report), ..Success::default() });
        }
        Ok(Success { tags, content: Some(content), read_as: Some(connector.hash.clone()), report: Some(report) })
    }

    /// One row of what the registers say now.
    async fn registers(&self, connector: &Connector, modbus: &Modbus) -> Result<Success, Failure> {
        let row = modbus::poll(modbus, &self.0.options.allowed, self.now()).await?;
        let (mut report, mut readings) = (Report::default(), Vec::new());
        Mapper::new(connector).take(&Item::Row { line: 1, row: &row }, &mut report, &mut readings);
        let mut writer = Writer::new(&self.0.catalog, &self.0.observe, connector);
        writer.window(readings).await?;
        report.add(writer.report);
        Ok(Success { report: Some(report), read_as: Some(connector.hash.clone()), ..Success::default() })
    }

    /// Every file that is new or has changed. Each is remembered when it is done, so that a failure repeats only the rest.
    async fn folder(&self, connector: &Arc<Connector>, fresh: bool) -> Result<Success, Failure> {
        let (path, pattern) = (connector.source.folder.clone().unwrap_or_default(), connector.source.pattern.clone());
        let connect = self.clone();
        let listed = blocking(move || connect.0.fetcher.folder(&path, pattern.as_deref())).await??;
        let key = connector.key.clone();
        let mut known = self.records().read(move |read| store::files(read, &key)).await?;
        let mut total: Option<Report> = None;
        for (name, path) in listed {
            let before = known.remove(&name);
            let connect = self.clone();
            let bytes = blocking(move || connect.0.fetcher.read(&path)).await??;
            let content = content_hash(&bytes);
            if !fresh && before.as_ref() == Some(&content) {
                continue;
            }
            let (report, settled) =
                self.take(connector, bytes).await.map_err(|e| Failure::new(format!("{name}: {e}")))?;
            total.get_or_insert_default().add(report);
            let key = connector.key.clone();
            // A file in which something may be accepted later is not remembered, so that it comes again.
            let remember = move |tx: &mut records::Tx<'_>| match settled {
                true => store::put_file(tx, &key, &name, &content),
                false => store::forget_file(tx, &key, &name),
            };
            self.records().write(remember).await?;
        }
        for name in known.into_keys() {
            let key = connector.key.clone();
            self.records().write(move |tx| store::forget_file(tx, &key, &name)).await?;
        }
        Ok(Success { read_as: Some(connector.hash.clone()), report: total, ..Success::default() })
    }

    /// Reads a document and records what differs. `false` when something was refused that may be accepted later as it is.
    pub(super) async fn take(&self, connector: &Arc<Connector>, bytes: Vec<u8>) -> Result<(Report, bool), Failure> {
        let writer = Writer::new(&self.0.catalog, &self.0.observe, connector);
        take(connector, bytes, writer, false).await
    }
}

/// A row in which what is empty is not there.
struct Filled<'a>(&'a dyn Fields);

impl Fields for Filled<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get(name).filter(|text| !text.trim().is_empty())
    }
}

/// Reads a document and gives its readings to the writer. With `sparse`, an empty field is none: tables that people make have holes.
pub(crate) async fn take(
    connector: &Arc<Connector>,
    bytes: Vec<u8>,
    mut writer: Writer<'_>,
    sparse: bool,
) -> Result<(Report, bool), Failure> {
    let (send, mut windows) = mpsc::channel::<Vec<Reading>>(1);
    let reading = Arc::clone(connector);
    // Reading is work for a processor; one window waits while the one before it is compared.
    let reader = tokio::task::spawn_blocking(move || {
        let mut report = Report::default();
        let mut mapper = Mapper::new(&reading);
        let mut window = Vec::new();
        let done = rows::read(&reading, &bytes, &mut |item| {
            match item {
                Item::Row { line, row } if sparse => {
                    mapper.take(&Item::Row { line, row: &Filled(row) }, &mut report, &mut window);
                }
                item => mapper.take(&item, &mut report, &mut window),
            }
            if window.len() >= WINDOW && send.blocking_send(std::mem::take(&mut window)).is_err() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if done.is_ok() && !window.is_empty() {
            // Nobody listens only when the run has failed already.
            drop(send.blocking_send(window));
        }
        done.map(|()| report)
    });
    while let Some(window) = windows.recv().await {
        writer.window(window).await?;
    }
    let report = reader.await.map_err(|e| Failure::new(format!("reading stopped: {e}")))?;
    let mut report = report.map_err(Failure::new)?;
    report.add(writer.report);
    Ok((report, writer.settled))
}

fn unchanged(stored: &Stored, tags: Tags) -> Success {
    Success { tags, content: stored.content.clone(), read_as: stored.read_as.clone(), report: None }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::new(e.to_string()))
}

/// What is kept of a document from window to window.
pub(crate) struct Writer<'a> {
    catalog: &'a Catalog,
    observe: &'a Observe,
    connector: &'a Connector,
    infos: HashMap<Arc<str>, Option<Arc<DatastreamInfo>>>,
    extents: HashMap<EntityId, Option<Extent>>,
    gaps_left: u64,
    report: Report,
    settled: bool,
    /// Everything is done but recording.
    dry: bool,
    /// The Datastreams are chosen; none is looked up.
    given: bool,
}

impl<'a> Writer<'a> {
    fn new(catalog: &'a Catalog, observe: &'a Observe, connector: &'a Connector) -> Self {
        Self {
            catalog,
            observe,
            connector,
            infos: HashMap::new(),
            extents: HashMap::new(),
            gaps_left: MAX_GAPS,
            report: Report::default(),
            settled: true,
            dry: false,
            given: false,
        }
    }

    /// For Datastreams that somebody has chosen already, under names of their own. With `dry` nothing is recorded.
    pub(crate) fn given(
        catalog: &'a Catalog,
        observe: &'a Observe,
        connector: &'a Connector,
        chosen: HashMap<Arc<str>, Arc<DatastreamInfo>>,
        dry: bool,
    ) -> Self {
        let infos = chosen.into_iter().map(|(name, info)| (name, Some(info))).collect();
        Self { infos, dry, given: true, ..Self::new(catalog, observe, connector) }
    }

    async fn info(&mut self, key: &Arc<str>) -> Result<Option<Arc<DatastreamInfo>>, Failure> {
        if let Some(known) = self.infos.get(key) {
            return Ok(known.clone());
        }
        if self.given {
            return Ok(None);
        }
        let id = self.catalog.by_key(EntityType::Datastream, &self.connector.tenant, key).await?;
        let info = match id {
            Some(id) => self.catalog.datastream(id).await?,
            None => None,
        };
        self.infos.insert(key.clone(), info.clone());
        Ok(info)
    }

    async fn window(&mut self, readings: Vec<Reading>) -> Result<(), Failure> {
        let mut series: BTreeMap<EntityId, Vec<Observation>> = BTreeMap::new();
        for reading in readings {
            let place = |text: &str, reason: &str| Rejection::new(reading.line, &reading.field, text, reason);
            let Some(info) = self.info(&reading.datastream).await? else {
                self.settled = false;
                let reason = format!("'{}' has no such Datastream", self.connector.tenant);
                self.report.reject(place(&reading.datastream, &reason));
                continue;
            };
            match fit::fit(&reading, &self.connector.plans[reading.plan], &info) {
                Ok(observation) => series.entry(info.id).or_default().push(observation),
                Err(reason) => {
                    let text = match &reading.content {
                        super::map::Content::Text(text) => text,
                        _ => "",
                    };
                    self.report.reject(place(text, &reason));
                }
            }
        }
        let mut batch = Batch::new();
        for (id, observations) in series {
            let (mut kept, repeated) = fit::settle(observations);
            self.report.repeated += repeated;
            if self.connector.gaps == Gaps::Flag {
                self.fill(id, &mut kept);
            }
            self.report.flagged += kept.iter().filter(|c| c.observation.quality.is_some()).count() as u64;
            let stored = self.stored(id, &kept).await?;
            let all = kept.len();
            let changed = fit::changed(kept, &stored);
            self.report.unchanged += (all - changed.len()) as u64;
            self.report.written += changed.len() as u64;
            for observation in changed {
                if self.dry {
                    continue;
                }
                batch.push(observation);
                if batch.len() >= BATCH {
                    self.observe.record(std::mem::take(&mut batch)).await?;
                }
            }
        }
        if !batch.is_empty() {
            self.observe.record(batch).await?;
        }
        Ok(())
    }

    fn fill(&mut self, id: EntityId, kept: &mut Vec<Candidate>) {
        let before = kept.len();
        let filled = fit::fill(&self.connector.when, kept, self.extents.entry(id).or_default(), &mut self.gaps_left);
        self.report.gaps += (kept.len() - before) as u64;
        if let Err(at) = filled {
            self.report.gaps += 1;
            let reason = format!("more than {MAX_GAPS} steps without a row; those after this time are not flagged");
            self.report.reject(Rejection::new(0, "", &at.to_string(), &reason));
        }
    }

    /// What is stored under the identities of `kept`.
    async fn stored(&self, id: EntityId, kept: &[Candidate]) -> Result<HashMap<ObservationId, Observation>, Failure> {
        let mut found = HashMap::new();
        if self.observe.head(id).is_none() {
            return Ok(found);
        }
        if kept.len() <= SINGLE {
            for candidate in kept {
                let id = candidate.observation.id();
                found.extend(self.observe.get(&id).await?.map(|stored| (id, stored)));
            }
            return Ok(found);
        }
        let times = || kept.iter().map(|c| c.observation.phenomenon.start);
        let (from, to): (Option<Timestamp>, Option<Timestamp>) = (times().min(), times().max());
        let wanted: std::collections::HashSet<ObservationId> = kept.iter().map(|c| c.observation.id()).collect();
        let mut after = None;
        loop {
            let page = SeriesQuery { datastream: id, from, to, order: Order::Ascending, after, limit: PAGE };
            let page = self.observe.read(page).await?;
            let last = page.len() < PAGE;
            after = page.last().map(Observation::id);
            found.extend(page.into_iter().map(|o| (o.id(), o)).filter(|(id, _)| wanted.contains(id)));
            if last {
                return Ok(found);
            }
        }
    }
}
