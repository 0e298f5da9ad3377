//! The whole program, put together: stores below, rooms above them, one router, and an order for stopping.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{Router, extract::DefaultBodyLimit, routing::get};
use kernel::{Clock, Policy, Role, Tenant, Text};
use records::Records;
use sensing::{
    Catalog, Route,
    devices::{self, Devices},
    pages::BaseMap,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tower_http::{catch_panic::CatchPanicLayer, compression::CompressionLayer, limit::RequestBodyLimitLayer};
use ui::{Assets, Catalogue, NavItem, Site};

use crate::{
    alone::{self, Alone},
    backup::{self, api::Backups},
    basemap,
    city::{self, City, Ground},
    config::Config,
    http::{
        edge::{self, Edge},
        health::{self, Health},
        metrics::{Figure, Metrics},
        openapi, serve,
    },
    operations::{self, Console, watch::Watch},
    operators::{
        Operators,
        layer::{self, Callers},
        pages::{self, Desk},
    },
    pack::{Pack, apply},
    relay,
    sealed::{self, Sealed},
    stores::{EVENTS, Layout, Stores},
    telemetry::trace::Tracer,
};

/// A program that serves.
pub struct Running {
    pub http: SocketAddr,
    /// `None` when the door is closed.
    pub mqtt: Option<SocketAddr>,
    pub city: City,
    pub stores: Stores,
    pub pack: Arc<Pack>,
    pub catalog: Catalog,
    pub devices: Devices,
    pub metrics: Metrics,
    pub routes: Vec<Route>,
    pub operators: Operators,
    /// Where the first operator makes an account; `None` when there is one.
    pub first_link: Option<String>,
    stop: CancellationToken,
    server: JoinHandle<()>,
    relay: JoinHandle<()>,
    register: JoinHandle<()>,
    traces: Option<JoinHandle<()>>,
    limit: Duration,
    alone: Option<Alone>,
    _lock: std::fs::File,
}

/// Opens the stores, brings them to the pack, and listens. Everything that can be wrong is wrong here, before anything is served.
pub async fn start(config: Config, clock: Arc<dyn Clock>) -> anyhow::Result<Running> {
    let (began, started_at) = (Instant::now(), clock.now());
    crate::client::install_crypto();
    let layout = Layout::new(&config.data);
    layout.create()?;
    let lock = layout.take()?;
    let pack = load_pack(config.pack.clone()).await?;
    let alone = alone::wait(&config, clock.clone()).await?;
    let stores = Stores::open(&config, clock.clone()).await?;
    if let Some(alone) = &alone {
        alone.fence(&stores.records)?;
    }
    let opened = began.elapsed();

    let policy: Arc<dyn Policy> = pack.policy.clone();
    let catalog = Catalog::open(stores.records.clone(), policy.clone(), clock.clone()).context("the catalogue")?;
    let devices = Devices::open(stores.records.clone(), policy).context("the register of devices")?;
    let operators = operators(&config, &stores.records, &pack)?;
    let (written, tenants) = (stores.records.clone(), pack.sealed.clone());
    let sealed = tokio::task::spawn_blocking(move || Sealed::open(written, tenants)).await?.context("looks")?;
    let sealed = Arc::new(sealed);
    apply::bring(&pack, &catalog, &stores.records).await?;
    let texts = Arc::new(Catalogue::new(&all_texts())?);
    let city = City::open(Ground {
        config: &config,
        layout: &layout,
        stores: &stores,
        pack: &pack,
        catalog: &catalog,
        devices: &devices,
        sealed: &sealed,
        policy: pack.policy.clone(),
        clock: clock.clone(),
        texts,
        may_seal: alone.as_ref().map(Alone::gate).unwrap_or_default(),
    })
    .await?;

    let stop = CancellationToken::new();
    let metrics = Metrics::new();
    measure(&metrics, &stores);
    city.measure(&metrics);
    let events = stores.stream.topic(EVENTS)?;
    let relay = tokio::spawn(relay::run(stores.records.clone(), events, stop.clone()));
    let watch = Arc::new(Watch::new(city.sources(&stores, &pack, &devices, config.data.clone())));
    watch.measure(&metrics);
    let (watching, noting) =
        (watch.clone().run(stop.clone()), write_down(devices.clone(), operators.clone(), sealed.clone(), stop.clone()));
    let register = tokio::spawn(async move {
        tokio::join!(watching, noting);
    });
    let (tracer, traces) = match &config.trace {
        Some(options) => Tracer::start(options, clock.clone()).map(|(t, task)| (Some(t), Some(task)))?,
        None => (None, None),
    };

    let listener = TcpListener::bind(config.http.listen)
        .await
        .with_context(|| format!("http.listen: {} cannot be listened on", config.http.listen))?;
    let http = listener.local_addr()?;
    let public_url = config.http.public_url.clone().unwrap_or_else(|| format!("http://{http}"));
    let (site, base) = site(&layout, &pack, &operators, clock.clone())?;
    let routes = routes();
    let secure = public_url.starts_with("https://");
    let walls = city.walls(secure);
    let callers = Callers::new(operators.clone(), devices.clone(), clock.clone(), secure).with_walls(walls.clone());
    let callers = Arc::new(callers);
    let desk = desk(&operators, &callers, &pack, &public_url);
    let record = sealed::Record {
        sealed: sealed.clone(),
        operators: operators.clone(),
        policy: pack.policy.clone(),
        tenants: tenant_names(&pack),
        roles: pack.city.role.iter().map(|r| (Role::Owned(r.key.get_ref().clone()), r.name.clone())).collect(),
        public_url: public_url.clone(),
    };
    let backups = Backups::new(stores.clone(), config.clone(), pack.hash.clone(), pack.policy.clone(), clock);
    let rooms = devices::api::router(devices.clone())
        .merge(devices::desk::router(devices.clone()))
        .merge(devices::own::router(devices.clone()))
        .merge(devices::campaign::api::router(devices.clone()))
        .merge(backup::api::router(Arc::new(backups)))
        .merge(pages::router(Arc::new(desk)))
        .merge(sealed::router(Arc::new(record)))
        .merge(city.router(&config, &pack, base, walls));
    let console = |health| Console {
        connect: city.connect.clone(),
        alarms: city.alarms.clone(),
        observe: city.observe.clone(),
        stores: stores.clone(),
        health,
        policy: pack.policy.clone(),
        tenants: tenant_names(&pack),
        systems: pack.city.system.iter().map(|s| (s.key.get_ref().clone(), s.name.clone())).collect(),
        watch: watch.clone(),
        mqtt: city.mqtt().is_some(),
        started_at,
        pack: format!("{} {}", pack.city.name, pack.hash.chars().take(12).collect::<String>()),
    };
    let router = router(
        &config,
        (&stores, city.observe.table()),
        rooms,
        &site,
        (&callers, &sealed),
        &metrics,
        tracer,
        &routes,
        console,
    );
    let first_link = operators.first_link(&pack.operations).await?.map(|token| format!("{public_url}/en/join/{token}"));
    let server = tokio::spawn(serve::serve(listener, router, config.http.head_timeout, stop.clone()));
    tracing::info!(
        address = %http,
        stores_ms = opened.as_millis() as u64,
        ready_ms = began.elapsed().as_millis() as u64,
        "ready"
    );
    Ok(Running {
        http,
        mqtt: city.mqtt(),
        city,
        stores,
        pack,
        catalog,
        devices,
        metrics,
        routes,
        stop,
        server,
        relay,
        register,
        traces,
        first_link,
        operators,
        limit: config.shutdown_limit,
        alone,
        _lock: lock,
    })
}

impl Running {
    /// Says where it is, to whoever started it.
    pub fn announce(&self) {
        println!("Lamppost: http://{}/", self.http);
        if let Some(mqtt) = self.mqtt {
            println!("Devices: mqtt://{mqtt}");
        }
        if let Some(link) = &self.first_link {
            println!("Make the first account here, once, within a day: {link}");
        }
    }

    /// Resolves when another program has taken over: then this one must end, and has nothing to write any more.
    pub async fn taken_over(&self) {
        match &self.alone {
            Some(alone) => alone.lost.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Takes no more, finishes what is at work, writes what is queued, closes. Ends within the configured limit in any case; what was
    /// acknowledged is durable either way.
    pub async fn stop(self) {
        tracing::info!("stopping");
        self.stop.cancel();
        let orderly = async {
            drop(self.server.await);
            self.city.stop().await;
            drop(self.relay.await);
            drop(self.register.await);
            if let Some(traces) = self.traces {
                drop(tokio::time::timeout(Duration::from_secs(3), traces).await);
            }
            self.stores.close().await;
            if let Some(alone) = self.alone {
                alone.give_back().await;
            }
        };
        if tokio::time::timeout(self.limit, orderly).await.is_err() {
            tracing::warn!(limit_s = self.limit.as_secs(), "stopped before everything was closed in order");
        } else {
            tracing::info!("stopped");
        }
    }
}

/// Writes down once a minute, and at the end, when devices were last heard of; removes sessions that are over.
async fn write_down(devices: Devices, operators: Operators, sealed: Arc<Sealed>, stop: CancellationToken) {
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(Duration::from_secs(60)) => false,
        };
        if let Err(error) = devices.persist().await {
            tracing::warn!(%error, "when devices were last heard of could not be written down");
        }
        if let Err(error) = operators.persist().await {
            tracing::warn!(%error, "when keys were last used could not be written down");
        }
        if ended {
            return;
        }
        if let Err(error) = operators.sweep().await {
            tracing::warn!(%error, "sessions that are over could not be removed");
        }
        if let Err(error) = sealed.sweep().await {
            tracing::warn!(%error, "looks of long ago could not be removed");
        }
    }
}

/// The people and keys, from the pack's roles and policy.
pub fn operators(config: &Config, records: &Records, pack: &Pack) -> anyhow::Result<Operators> {
    let roles = pack.city.role.iter().map(|r| Role::Owned(r.key.get_ref().clone())).collect();
    Operators::open(records.clone(), pack.policy.clone(), roles, config.operators.clone()).context("operators")
}

/// The pack without its things.
pub async fn load_pack(root: std::path::PathBuf) -> anyhow::Result<Arc<Pack>> {
    let shown = root.display().to_string();
    let loaded = tokio::task::spawn_blocking(move || Pack::load(&root)).await?;
    loaded.map(Arc::new).map_err(|mistakes| apply::refused(&shown, &mistakes))
}

/// Every address of the program, for tests and for its description.
pub fn routes() -> Vec<Route> {
    let devices = [devices::api::ROUTES, devices::desk::ROUTES, devices::own::ROUTES, devices::campaign::api::ROUTES];
    [OWN, pages::ROUTES, sealed::ROUTES, operations::ROUTES, backup::api::ROUTES, &devices.concat(), &city::routes()]
        .concat()
}

const OWN: &[Route] = &[
    own("/health/live", "Whether the process answers"),
    own("/health/ready", "Whether every store answers"),
    Route {
        audience: sensing::Audience::SignedIn,
        ..own(
            "/metrics",
            "Figures for Prometheus, which name no department and no device; for everybody where no department is sealed",
        )
    },
    own("/api/openapi.json", "This description"),
    own("/assets/{file}", "Styles, scripts and the base map, named by their content"),
];

const fn own(path: &'static str, summary: &'static str) -> Route {
    Route {
        method: "GET",
        path,
        action: sensing::route::action::OPS_READ,
        audience: sensing::Audience::Public,
        audit: false,
        summary,
    }
}

#[expect(clippy::too_many_arguments, reason = "everything that surrounds the rooms, named once")]
fn router(
    config: &Config,
    (stores, lake): (&Stores, &lake::Table),
    rooms: Router,
    site: &Arc<Site>,
    (callers, sealed): (&Arc<Callers>, &Arc<Sealed>),
    metrics: &Metrics,
    tracer: Option<Tracer>,
    routes: &[Route],
    console: impl FnOnce(Arc<Health>) -> Console,
) -> Router {
    let records = stores.records.clone();
    let (stream, lake) = (stores.stream.clone(), lake.clone());
    let health = Health::default()
        .with("records", move || {
            let records = records.clone();
            async move {
                let one = records.read(|r| r.query_one("SELECT 1", &[], |row| row.get::<i64>(0))).await;
                one.map(drop).map_err(|e: records::Error| e.to_string())
            }
        })
        .with("stream", move || {
            let stream = stream.clone();
            async move { stream.ping().await.map_err(|e| e.to_string()) }
        })
        .with("lake", move || {
            let lake = lake.clone();
            async move { lake.ping().await.map_err(|e| e.to_string()) }
        });
    let health = Arc::new(health);
    let figures = metrics.clone();
    let console = Arc::new(console(health.clone()));
    // How much happens in all is told to everybody only where no part of it is a sealed department's.
    let (any_sealed, platform) = (sealed.any(), console.clone());
    let figures = move |caller: Option<axum::Extension<kernel::Caller>>| {
        let caller = caller.map_or_else(kernel::Caller::anonymous, |axum::Extension(caller)| caller);
        std::future::ready(if !any_sealed || platform.sees_platform(&caller) {
            Ok(figures.text())
        } else if caller.is_anonymous() {
            Err(kernel::Problem::unauthenticated())
        } else {
            Err(kernel::Problem::not_found("This address"))
        })
    };
    let pages = Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready).with_state(health))
        .route("/metrics", get(figures))
        .merge(rooms)
        .merge(operations::router(console))
        .merge(openapi::router(openapi::document(routes, "Lamppost")))
        .fallback(ui::to_language)
        .layer(CatchPanicLayer::custom(edge::panicked));
    let edge = Edge {
        metrics: metrics.clone(),
        tracer,
        permits: Arc::new(Semaphore::new(config.http.concurrency)),
        timeout: config.http.timeout,
        body_limit: config.http.body_limit,
        trust_proxy: config.http.trust_proxy,
        https: callers.secure,
    };
    ui::install(pages.layer(axum::middleware::from_fn(edge::problems)), site)
        .layer(axum::middleware::from_fn(edge::problems))
        .layer(axum::middleware::from_fn_with_state(sealed.clone(), sealed::looks))
        .layer(axum::middleware::from_fn_with_state(callers.clone(), layer::callers))
        .layer(DefaultBodyLimit::disable())
        .layer(RequestBodyLimitLayer::new(config.http.body_limit))
        .layer(CompressionLayer::new())
        .layer(axum::middleware::from_fn_with_state(Arc::new(edge), edge::edge))
}

fn tenant_names(pack: &Pack) -> BTreeMap<Tenant, Text> {
    let named = pack.city.tenant.iter().filter_map(|t| Some((Tenant::parse(t.slug.get_ref()).ok()?, t.name.clone())));
    named.collect()
}

fn desk(operators: &Operators, callers: &Arc<Callers>, pack: &Pack, public_url: &str) -> Desk {
    Desk {
        operators: operators.clone(),
        callers: callers.clone(),
        tenants: tenant_names(pack),
        order: pack.city.role.iter().map(|r| Role::Owned(r.key.get_ref().clone())).collect(),
        roles: pack.city.role.iter().map(|r| (Role::Owned(r.key.get_ref().clone()), r.name.clone())).collect(),
        public_url: public_url.to_owned(),
    }
}

/// Every text of every room.
fn all_texts() -> Vec<ui::Texts> {
    let mut texts = vec![ui::TEXTS, pages::TEXTS];
    texts.extend(city::texts());
    texts
}

fn site(
    layout: &Layout,
    pack: &Pack,
    operators: &Operators,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<(Arc<Site>, Option<BaseMap>)> {
    let catalogue = Catalogue::new(&all_texts())?;
    let dist = islands();
    let mut assets = Assets::new(dist.as_deref())?;
    let base = match &pack.city.map.land {
        Some(file) => {
            let land = basemap::kept(&pack.folder.root.join(file.get_ref()), &layout.cache())?;
            let bounds = *pack.city.map.bounds.get_ref();
            let outline = basemap::outline(&land, bounds).context("the outline of the land")?;
            let outline = Some(assets.add("land.svg", outline, "image/svg+xml"));
            let url = assets.add("land.geojson", land, "application/geo+json");
            Some(BaseMap { url, outline, bounds })
        }
        None => None,
    };
    let zone = jiff::tz::TimeZone::get(pack.city.time_zone.get_ref())?;
    let city = &pack.city.city;
    let zone_name = Text {
        en: format!("{} time", city.en),
        zh_hant: city.zh_hant.as_ref().map(|c| format!("{c}時間")),
        zh_hans: city.zh_hans.as_ref().map(|c| format!("{c}时间")),
    };
    let operators = operators.clone();
    let item = |section, key, path: &str| NavItem { section, key, path: path.to_owned(), needs: None };
    let staff =
        |section, key, path: &str, action, kind| NavItem { needs: Some((action, kind)), ..item(section, key, path) };
    let site = Site {
        city: city.clone(),
        zone,
        zone_name,
        nav: vec![
            item("live", "nav.live", "/things"),
            item("map", "nav.map", "/map"),
            item("alarms", "nav.alarms", "/alarms"),
            item("dashboards", "nav.dashboards", "/dashboards"),
            staff("devices", "nav.devices", "/devices", sensing::route::action::DEVICE_READ, "Device"),
            staff("tasking", "nav.tasking", "/tasking", sensing::route::action::TASK_READ, "Task"),
            staff("operations", "nav.operations", "/operations", sensing::route::action::CONNECTOR_READ, "Connector"),
            staff("looks", "nav.looks", "/looks", sealed::READ, "Look"),
        ],
        alerts_path: Some("/alarms".to_owned()),
        sign_in_path: Some("/sign-in".to_owned()),
        account_path: Some("/account".to_owned()),
        footer: vec![item("", "footer.api", "/api/openapi.json"), item("", "footer.status", "/status")],
        catalogue,
        assets,
        clock,
        csrf: ui::csrf::Key::new(secret(layout)?),
        policy: Some(pack.policy.clone()),
        names: Some(Arc::new(move |caller, label| operators.name(caller, label))),
    };
    Ok((Arc::new(site), base))
}

/// Where the built islands are: beside the program as it is released, or in the repository as it is developed.
fn islands() -> Option<std::path::PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("islands")));
    [beside, Some("web/dist".into())].into_iter().flatten().find(|folder| folder.is_dir())
}

/// 32 random bytes kept in the data folder, readable by its owner alone: what CSRF tokens are made with.
fn secret(layout: &Layout) -> anyhow::Result<[u8; 32]> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let path = layout.secret();
    match std::fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            anyhow::anyhow!("{} is damaged: remove it, forms that are open must then be sent again", path.display())
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let fresh: [u8; 32] = rand::random();
            let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(&fresh)?;
            file.sync_all()?;
            Ok(fresh)
        }
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", path.display())),
    }
}

fn measure(metrics: &Metrics, stores: &Stores) {
    let records = stores.records.clone();
    metrics.add(move |out| {
        let s = records.stats();
        out.extend([
            Figure::gauge("records_queued", "Commands waiting for a writer", s.queued),
            Figure::counter("records_commands", "Commands answered", s.commands),
            Figure::counter("records_undone", "Commands that failed by themselves and were undone", s.undone),
            Figure::counter("records_panics", "Commands that panicked", s.panics),
            Figure::counter("records_flushes", "Transactions made durable", s.flushes),
            Figure::counter("records_failed_flushes", "Transactions that the database refused", s.failed_flushes),
            Figure::counter("records_retries", "Runs of a command beyond the first", s.retries),
            Figure::counter("records_reads", "Queries answered", s.reads),
        ]);
    });
    let stream = stores.stream.clone();
    metrics.add(move |out| {
        for s in stream.stats() {
            out.extend(
                [
                    Figure::gauge("stream_end", "Offset of the next record", s.end.0),
                    Figure::gauge("stream_stored_bytes", "Bytes on disk", s.stored_bytes),
                    Figure::gauge("stream_queued", "Records waiting for the writer", s.queued as u64),
                    Figure::counter("stream_appended", "Records made durable", s.appended),
                    Figure::counter("stream_appended_bytes", "Bytes made durable", s.appended_bytes),
                    Figure::counter("stream_refused", "Records refused", s.refused),
                    Figure::counter("stream_flushes", "Group commits", s.flushes),
                    Figure::counter("stream_flush_micros", "Microseconds spent in them", s.flush_micros),
                ]
                .map(|f| f.label("topic", s.topic.clone())),
            );
            if let Ok(topic) = stream.topic(&s.topic) {
                out.extend(topic.consumers().into_iter().map(|c| {
                    Figure::gauge("stream_lag", "Durable records not yet committed by a consumer", c.lag)
                        .label("topic", s.topic.clone())
                        .label("consumer", c.name)
                }));
            }
        }
    });
}
