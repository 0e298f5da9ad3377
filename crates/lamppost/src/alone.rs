//! One program serves a city at a time, however many are started on the same PostgreSQL: the first one serves, the others wait and answer
//! 503, and one of them takes over when the first has stopped or has been silent for `records.lease`.
//!
//! Two at once would seal, judge and poll twice. What keeps the city whole even in the seconds in which the old one does not know yet that
//! it was replaced: its writes to the records are fenced ([`records::Records::fence`]), a seal is one Delta commit that carries the stream's
//! offset and loses against a newer one, and appends to the stream are seen by whoever reads it.
//!
//! With SQLite the lock on the data folder says the same, and this module does nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use axum::{Router, response::IntoResponse, routing::get};
use http::StatusCode;
use kernel::{Clock, Problem};
use records::{Look, Patience, Records, Term};
use sensing::observe::Gate;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, RecordsEngine},
    http::serve,
    stores::records_options,
};

/// The lease that whoever serves the city holds.
const NAME: &str = "city";
/// Beats within `records.lease`: so many may be late or lost before the holder counts as silent.
const BEATS: u32 = 5;
/// How often one who waits looks; more often when the lease is short.
const LOOK: Duration = Duration::from_secs(1);

/// The right to serve, renewed until it is given back or lost.
pub struct Alone {
    /// On connections of its own, so that no queue of the city's makes the holder look dead.
    records: Records,
    term: Term,
    confirmed: Arc<Confirmed>,
    keeper: JoinHandle<()>,
    stop: CancellationToken,
    /// Somebody else has taken over.
    pub lost: CancellationToken,
}

/// When the lease was last known to be ours.
struct Confirmed {
    started: Instant,
    at_millis: AtomicU64,
    length: Duration,
}

impl Confirmed {
    fn now(&self, began: Instant) {
        self.at_millis.store(began.duration_since(self.started).as_millis() as u64, Relaxed);
    }
    /// Nobody can have taken over yet.
    fn is_certain(&self) -> bool {
        let since = self.started.elapsed().saturating_sub(Duration::from_millis(self.at_millis.load(Relaxed)));
        since < self.length * 2 / 3
    }
}

/// Waits for the right to serve; `None` when a lock on the folder is enough. Meanwhile the address of the city answers that it waits.
pub async fn wait(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Option<Alone>> {
    let Some(lease) = Lease::open(config, clock).await? else { return Ok(None) };
    if let Some(alone) = lease.look(None).await?.1 {
        return Ok(Some(alone));
    }
    let address = config.http.listen;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("http.listen: {address} cannot be listened on"))?;
    let over = CancellationToken::new();
    let waiting = serve::serve_meanwhile(&listener, waiting_room(), config.http.head_timeout, over.clone());
    let taken = async {
        let _over = over.clone().drop_guard();
        lease.outlast(None).await
    };
    let (alone, ()) = tokio::join!(taken, waiting);
    Ok(Some(alone?))
}

/// Takes the right to serve for a command that must not run beside a program that serves. Waits no longer than it takes to know that one does.
pub async fn take(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Option<Alone>> {
    let Some(lease) = Lease::open(config, clock).await? else { return Ok(None) };
    let most = lease.length + lease.length / BEATS * 2;
    lease.outlast(Some(most)).await.map(Some)
}

struct Lease {
    records: Records,
    holder: String,
    length: Duration,
}

impl Lease {
    async fn open(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Option<Self>> {
        if matches!(config.records, RecordsEngine::Sqlite) {
            return Ok(None);
        }
        let mut options = records_options(config);
        (options.readers, options.writers, options.queue) = (1, 1, 16);
        let records = tokio::task::spawn_blocking(move || Records::open(&options, clock)).await?.context("records")?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let holder = format!("{} (process {}, {})", host.trim(), std::process::id(), config.data.display());
        Ok(Some(Self { records, holder, length: config.records_lease }))
    }

    /// The holder as it is now, or the lease itself.
    async fn look(
        &self,
        silent: Option<records::Holder>,
    ) -> Result<(Option<records::Holder>, Option<Alone>), records::Error> {
        let began = Instant::now();
        match self.records.take_lease(NAME, &self.holder, silent).await? {
            Look::Held(by) => Ok((Some(by), None)),
            Look::Mine(term) => {
                tracing::info!(term = term.number(), "this program serves the city");
                Ok((None, Some(Alone::keep(self.records.clone(), term, self.length, began))))
            }
        }
    }

    /// Looks until the lease is free or its holder silent, at most so long.
    async fn outlast(&self, most: Option<Duration>) -> anyhow::Result<Alone> {
        let began = Instant::now();
        let mut patience = Patience::new(self.length);
        let (mut silent, mut said) = (None, None);
        loop {
            match self.look(silent.take()).await {
                Ok((_, Some(alone))) => return Ok(alone),
                Ok((by, None)) => {
                    let Some(by) = by else { continue };
                    if most.is_some_and(|most| began.elapsed() > most) {
                        bail!("another lamppost serves this city: {}", by.holder);
                    }
                    if said.as_ref() != Some(&by.holder) {
                        tracing::info!(holder = by.holder, "another lamppost serves this city; waiting to take over");
                        said = Some(by.holder.clone());
                    }
                    silent = patience.saw(&by, began.elapsed());
                }
                Err(error) => {
                    tracing::warn!(%error, "who serves the city cannot be seen");
                    patience.blind();
                }
            }
            if silent.is_none() {
                tokio::time::sleep(LOOK.min(self.length / BEATS)).await;
            }
        }
    }
}

impl Alone {
    fn keep(records: Records, term: Term, length: Duration, began: Instant) -> Self {
        let confirmed = Arc::new(Confirmed { started: began, at_millis: AtomicU64::new(0), length });
        let (stop, lost) = (CancellationToken::new(), CancellationToken::new());
        let keeper = tokio::spawn(renew(records.clone(), term, confirmed.clone(), stop.clone(), lost.clone()));
        Self { records, term, confirmed, keeper, stop, lost }
    }

    /// From now on `city` writes only while this right stands.
    pub fn fence(&self, city: &Records) -> Result<(), records::Error> {
        city.fence(self.term)
    }

    /// Open while nobody else can have begun to serve.
    pub fn gate(&self) -> Gate {
        let confirmed = self.confirmed.clone();
        Gate::new(move || confirmed.is_certain())
    }

    /// To be called when nothing of the city is at work any more.
    pub async fn give_back(self) {
        self.stop.cancel();
        drop(self.keeper.await);
        if let Err(error) = self.records.release_lease(self.term).await {
            tracing::warn!(%error, "the right to serve could not be given back; the next program waits for it");
        }
        self.records.close().await;
    }
}

async fn renew(
    records: Records,
    term: Term,
    confirmed: Arc<Confirmed>,
    stop: CancellationToken,
    lost: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(confirmed.length / BEATS) => {}
        }
        let began = Instant::now();
        match records.renew_lease(term).await {
            Ok(true) => confirmed.now(began),
            Ok(false) => {
                tracing::error!(term = term.number(), "another lamppost has taken over");
                lost.cancel();
                return;
            }
            // Nobody can take over by a database that is away for all; when it is away for this one alone, the fence holds.
            Err(error) => tracing::warn!(%error, "the right to serve could not be renewed"),
        }
    }
}

/// What one who waits answers: it lives, and it is not ready.
fn waiting_room() -> Router {
    let ready = || async {
        let body = serde_json::json!({"status": "not ready", "parts": {"lease": "held by another"}});
        (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body))
    };
    let other = || async {
        let detail = "Another program serves this city; this one waits to take over from it.";
        Problem::unavailable(detail, 5).into_response()
    };
    Router::new()
        .route("/health/live", get(crate::http::health::live))
        .route("/health/ready", get(ready))
        .fallback(other)
}
