//! Room `sensing`, put together: observations, rules, alarms, letters, live views, the MQTT door, the SensorThings door and pages.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use futures::{FutureExt, future::BoxFuture};
use kernel::{Caller, Clock, Limits, Policy, Timestamp};
use records::RetryPolicy;
use sensing::{
    Catalog, Route, Scope, Scopes,
    alarms::{self, Alarms, silences::Silences},
    alerts::{self, Alerts, publisher::Publisher},
    connect::{self, Connect},
    dashboards::{self, Dashboards, Walls},
    derived::{self, Derived},
    devices::{Cuts, Devices},
    ingest::{self, Ingest},
    model::DatastreamInfo,
    moving::{self, Moving},
    mqtt,
    notify::{
        self, Notifier,
        guard::Allowed,
        live::Live,
        mail::{Security, Smtp, Stationery},
    },
    observe::{self, Observe},
    pages::{BaseMap, Door, Pages, System},
    query::Engine,
    retention::{self, Retention},
    rules::{self, Rules, engine, trial::Trials},
    sta::{self, SensorThings, Settings},
    tasking::{self, Tasking},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    declared,
    http::metrics::{Figure, Metrics},
    operations::watch,
    pack::Pack,
    sealed::{Look, Sealed},
    stores::{EVENTS, Layout, OBSERVATIONS, Stores},
    warnings,
};

/// Letters and webhooks under way at once.
const DELIVERIES: usize = 8;

/// Everything of `sensing` that runs.
pub struct City {
    pub catalog: Catalog,
    pub observe: Observe,
    pub alarms: Alarms,
    pub alerts: Alerts,
    pub rules: Rules,
    pub trials: Trials,
    pub live: Live<Catalog>,
    pub connect: Connect,
    pub tasking: Tasking,
    pub moving: Moving,
    ingest: Ingest,
    pub derived: Derived,
    pub retention: Retention,
    dashboards: Dashboards,
    devices: Devices,
    engine: engine::Handle,
    deriving: derived::engine::Handle,
    door: Option<mqtt::Door>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// What [`City::open`] builds on.
pub struct Ground<'a> {
    pub config: &'a Config,
    pub layout: &'a Layout,
    pub stores: &'a Stores,
    pub pack: &'a Pack,
    pub catalog: &'a Catalog,
    pub devices: &'a Devices,
    /// Who of a sealed department looks is put on record here.
    pub sealed: &'a Arc<Sealed>,
    pub policy: Arc<dyn Policy>,
    pub clock: Arc<dyn Clock>,
    /// The catalogue of texts, for letters.
    pub texts: Arc<ui::Catalogue>,
    /// Open while no other program can be sealing.
    pub may_seal: observe::Gate,
}

impl City {
    /// Opens everything in the order in which it depends on each other: observations, then who evaluates them, then who sends them.
    pub async fn open(ground: Ground<'_>) -> anyhow::Result<Self> {
        let Ground { config, layout, stores, pack, catalog, devices, sealed, policy, clock, texts, may_seal } = ground;
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let topic = stores.stream.topic(OBSERVATIONS)?;
        let options = observe::Options::new(layout.heads());
        let options = observe::Options {
            seal_every: config.lake_seal,
            may_seal,
            max_unsealed: config.lake_unsealed,
            // A seal begins long before the bound is reached, so that a lake that keeps up is never felt.
            seal_rows: options.seal_rows.min(config.lake_unsealed / 4).max(1),
            ..options
        };
        let observe = Observe::open(options, topic, &stores.lake).await.context("observations")?;

        let scopes = Arc::new(Scopes::new(policy));
        pack.tenants.iter().for_each(|tenant| scopes.know(tenant));
        let (records, known) = (stores.records.clone(), scopes.clone());
        // Migrations block.
        let alarms = tokio::task::spawn_blocking(move || Alarms::open(records, known)).await?.context("alarms")?;
        // Before the rules run: they name fences.
        let fences = declared::open_fences(pack, &alarms).await.context("geofences")?;
        // A pack may name a receiver on this machine, as that of the demonstration does. Whether anything is sent there is decided at the
        // sending, by what the operator allows.
        let declared = config.outgoing.iter().cloned().chain(["127.0.0.1".to_owned()]);
        let rules = Rules::new(alarms.clone(), Allowed::new(declared));
        declared::apply_rules(pack, &rules).await?;
        let zone = jiff::tz::TimeZone::get(pack.city.time_zone.get_ref())?;
        let address = config.http.public_url.clone().unwrap_or_else(|| format!("http://{}", config.http.listen));
        // Before the rules run: what they raise is published in the same transaction.
        let alerts = open_alerts(pack, layout, &alarms, &texts, &zone, &address).await.context("public warnings")?;
        tasks.spawn(alerts.clone().run(stop.clone()));
        let trials = Trials::new(rules.clone(), Arc::new(observe.clone()), zone.clone());
        // Before the rules run: the pack has just written Datastreams as it has them, and this says again which of them have a corrected one beside them.
        // Otherwise a gauge that is known to be wrong would raise its alarm at every start.
        let (known, observed) = (catalog.clone(), observe.clone());
        let derived = tokio::task::spawn_blocking(move || Derived::open(known, observed)).await?;
        let derived = derived.context("derived Datastreams")?;
        declared::apply_derived(pack, &derived).await?;
        let (known, observed, night) = (catalog.clone(), observe.clone(), zone.clone());
        let retention = tokio::task::spawn_blocking(move || Retention::open(known, observed, night)).await?;
        let retention = retention.context("what is kept")?;
        declared::apply_retention(pack, &retention).await?;
        let (keeper, until) = (retention.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = keeper.work(until.cancelled_owned()).await {
                tracing::error!(%error, "nothing is summed up or deleted any more");
            }
        });
        let options = engine::Options { zone: zone.clone(), ..engine::Options::default() };
        let engine =
            engine::start(observe.clone(), alarms.clone(), clock.clone(), options).await.context("the rules")?;

        let reloading = engine.clone();
        fences.telling(move || reloading.reload());
        let (known, observed) = (catalog.clone(), observe.clone());
        let moving = tokio::task::spawn_blocking(move || Moving::open(known, observed, fences)).await?;
        let moving = moving.context("things that move")?;
        tasks.spawn(moving::locate::run(moving.clone(), moving::locate::Options::default(), stop.clone()));

        let options = derived::engine::Options { zone: zone.clone(), ..derived::engine::Options::default() };
        let deriving = derived.start(options).await.context("derived Datastreams")?;

        let letters = notify::Options {
            smtp: config.mail.as_ref().map(smtp).transpose()?,
            secrets: config.webhook_secrets.clone(),
            allowed: Allowed::new(config.outgoing.iter().cloned()),
            timeout: Duration::from_secs(10),
            concurrency: DELIVERIES,
            retry: RetryPolicy::default(),
            stationery: Stationery { catalogue: texts, zone, address: address.clone() },
        };
        let notifier = Notifier::new(stores.records.clone(), letters).context("notifications")?;
        let until = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = notifier.run(until.cancelled_owned()).await {
                tracing::error!(%error, "notifications have stopped");
            }
        });

        let mut options = connect::Options::new(pack.folder.root.clone());
        options.allowed = connect::Allowed::new(config.outgoing.iter().cloned());
        let (known, observed) = (catalog.clone(), observe.clone());
        let connect = tokio::task::spawn_blocking(move || Connect::open(options, known, observed))
            .await?
            .context("connectors")?;
        declared::apply_connectors(pack, &connect).await?;
        tasks.spawn(connect.clone().run(stop.clone()));

        let (known, observed, raised) = (catalog.clone(), observe.clone(), alarms.clone());
        let dashboards = tokio::task::spawn_blocking(move || Dashboards::open(known, observed, raised)).await?;
        let dashboards = dashboards.context("dashboards")?;
        declared::apply_dashboards(pack, &dashboards).await?;

        devices.reading_from(Arc::new(observe.clone()));
        let (campaigns, until) = (devices.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = campaigns.run_campaigns(until.cancelled_owned()).await {
                tracing::error!(%error, "campaigns do not go on any more");
            }
        });

        let register = devices.clone();
        let owns: tasking::Owns = Arc::new(move |caller, tenant, thing| register.has(caller, tenant, thing));
        let tasking = Tasking::new(catalog.clone(), Arc::new(observe.clone()), owns);
        tasks.spawn(tasking.clone().follow(observe.clone(), stop.clone()));
        let (worker, until) = (tasking.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = worker.run(until.cancelled_owned()).await {
                tracing::error!(%error, "the time limits of Tasks are not looked at any more");
            }
        });

        let (rights, watch) = guards(devices, &derived);
        let ingest = Ingest::new(
            catalog.clone(),
            observe.clone(),
            pack.operations.clone(),
            pack.city.time_zone.get_ref(),
            Limits::DEFAULT.body_bytes,
        )
        .guarded(rights, watch);
        ingest.declare(declared::declared_ingest(pack)?).context("the pack's doors")?;

        let events = stores.stream.topic(EVENTS)?;
        let from = events.end();
        let live = Live::new(catalog.clone(), alarms.clone(), notify::live::Options::default(), from.0);
        tasks.spawn(live.clone().follow_observations(observe.clone(), stop.clone()));
        tasks.spawn(live.clone().follow_events(events.subscribe(from).await?, stop.clone()));

        let door = match &config.mqtt {
            Some(mqtt) => {
                let parts = (catalog, devices, &tasking, &derived, sealed);
                Some(open_door(mqtt, &address, stores, parts, &observe, clock).await?)
            }
            None => None,
        };
        if let Some(door) = &door {
            let handle = door.handle();
            let (forgetting, telling) = (door.handle(), door.handle());
            devices.cutting_with(Cuts {
                connections: Box::new(move |label| handle.disconnect(label)),
                sessions: Box::new(move |label| forgetting.forget(label)),
            });
            devices.telling_with(Box::new(move |labels, command| {
                telling.tell(labels, command.to_string().into_bytes());
            }));
        }
        let (catalog, devices) = (catalog.clone(), devices.clone());
        Ok(Self {
            catalog,
            observe,
            alarms,
            alerts,
            rules,
            trials,
            live,
            connect,
            tasking,
            moving,
            ingest,
            derived,
            retention,
            dashboards,
            devices,
            engine,
            deriving,
            door,
            tasks,
            stop,
        })
    }

    /// Where devices connect; `None` when the door is closed.
    pub fn mqtt(&self) -> Option<SocketAddr> {
        self.door.as_ref().and_then(|door| door.addresses().first().copied())
    }

    /// Where devices connect, as the public knows it: the public address's host, or this machine's own where it listens on one.
    fn door_as_seen(&self, config: &Config) -> Option<Door> {
        let address = *self.door.as_ref()?.addresses().last()?;
        let public = config.http.public_url.as_deref().and_then(|url| reqwest::Url::parse(url).ok());
        let host = public.and_then(|url| url.host_str().map(str::to_owned));
        let host = host.or_else(|| (!address.ip().is_unspecified()).then(|| address.ip().to_string()));
        let tls = config.mqtt.as_ref().is_some_and(|mqtt| mqtt.tls.is_some());
        Some(Door { host, port: address.port(), tls })
    }

    /// What the health of the feeds is read from.
    pub fn sources(&self, stores: &Stores, pack: &Pack, devices: &Devices, data: std::path::PathBuf) -> watch::Sources {
        watch::Sources {
            catalog: self.catalog.clone(),
            connect: self.connect.clone(),
            devices: devices.clone(),
            derived: self.derived.clone(),
            ingest: self.ingest.clone(),
            observe: self.observe.clone(),
            engine: self.engine.clone(),
            stores: stores.clone(),
            policy: pack.policy.clone(),
            tenants: pack.tenants.clone(),
            data,
        }
    }

    /// The screens that show dashboards; `secure` where the site is reached by `https`.
    pub fn walls(&self, secure: bool) -> Walls {
        Walls::new(self.dashboards.clone(), secure)
    }

    /// Everything the room answers over HTTP.
    pub fn router(&self, config: &Config, pack: &Pack, base: Option<BaseMap>, walls: Walls) -> Router {
        let series: Arc<dyn sensing::query::Series> = Arc::new(self.observe.clone());
        let engine = Engine::new(self.catalog.clone(), series, Limits::DEFAULT);
        let mqtt = self.mqtt().map(|address| format!("mqtt://{address}")).into_iter().collect();
        let (rights, watch) = guards(&self.devices, &self.derived);
        let settings = Settings { base_url: config.http.public_url.clone(), mqtt };
        let derived = self.derived.clone();
        let things = SensorThings::new(engine, settings).guarded(rights).tasking(self.tasking.clone()).watched(watch);
        let things = things.computed(Arc::new(move |datastream| derived.is_output(datastream)));
        let systems = pack.city.system.iter().map(|s| System { key: s.key.get_ref().clone(), name: s.name.clone() });
        let owners = pack.city.tenant.iter().map(|t| (t.slug.get_ref().clone(), t.name.clone())).collect();
        let parts = (self.catalog.clone(), self.observe.clone(), self.alarms.clone(), self.devices.clone());
        let (rules, trials) = (self.rules.clone(), self.trials.clone());
        let pages = Pages::new(parts, systems.collect(), owners, base, self.door_as_seen(config));
        let pages = pages
            .warning(self.alerts.clone())
            .ruled(rules, trials)
            .uploading(self.ingest.clone())
            .deriving(self.derived.clone())
            .moving(self.moving.clone())
            .keeping(self.retention.clone())
            .tasking(self.tasking.clone())
            .showing(walls);
        // It was read when the pack was, or there would be no city.
        let zone = jiff::tz::TimeZone::get(pack.city.time_zone.get_ref()).unwrap_or(jiff::tz::TimeZone::UTC);
        sta::router(things)
            .merge(alarms::api::router(self.alarms.clone()))
            .merge(alerts::api::router(self.alerts.clone()))
            .merge(rules::api::router(self.rules.clone()))
            .merge(notify::api::router(self.alarms.clone()))
            .merge(alarms::silences::api::router(Silences::new(self.alarms.clone())))
            .merge(rules::trial::api::router(self.trials.clone()))
            .merge(notify::live::router(self.live.clone()))
            .merge(connect::api::router(self.connect.clone()))
            .merge(tasking::api::router(self.tasking.clone()))
            .merge(ingest::api::router(self.ingest.clone()))
            .merge(derived::api::router(self.derived.clone()))
            .merge(moving::api::router(self.moving.clone()))
            .merge(retention::api::router(self.retention.clone()))
            .merge(dashboards::api::router(self.dashboards.clone(), zone))
            .merge(sensing::pages::router(pages))
    }

    /// Figures for `/metrics`. Nothing here names a tenant.
    pub fn measure(&self, metrics: &Metrics) {
        if let Some(door) = &self.door {
            let door = door.handle();
            metrics.add(move |out| {
                out.extend(door.stats().list().into_iter().map(
                    |(name, help, value)| match help.ends_with("(gauge).") {
                        true => Figure::gauge(name, help, value),
                        false => Figure::counter(name, help, value),
                    },
                ));
            });
        }
        let ingest = self.ingest.clone();
        metrics.add(move |out| {
            for door in ingest::Door::ALL {
                let s = ingest.stats(door);
                let figures = [
                    Figure::counter("sensing_ingest_messages", "Requests with something to be recorded", s.messages),
                    Figure::counter("sensing_ingest_observations", "Observations made durable", s.observations),
                    Figure::counter("sensing_ingest_refused", "Values and lines that were not taken", s.refused),
                ];
                out.extend(figures.map(|figure| figure.label("door", door.name())));
            }
        });
        let retention = self.retention.clone();
        metrics.add(move |out| {
            let s = retention.stats();
            let count = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
            out.extend([
                Figure::counter("sensing_retention_deleted", "Rows deleted as declared", count(&s.gone)),
                Figure::counter("sensing_retention_summed", "Rows summed up as declared", count(&s.summed)),
                Figure::counter("sensing_retention_sums", "Rows that hold sums, written", count(&s.sums)),
                Figure::counter("sensing_retention_bytes", "Bytes of the rows that went, about", count(&s.bytes)),
                Figure::counter(
                    "sensing_retention_sweeps",
                    "Times that what is confirmed was applied",
                    count(&s.sweeps),
                ),
                Figure::counter("sensing_retention_failures", "Times that it could not be applied", count(&s.failures)),
                Figure::gauge(
                    "sensing_retention_clock_ahead_seconds",
                    "By how much the clock has jumped ahead of the last sweep and is not followed",
                    count(&s.behind),
                ),
                Figure::gauge("sensing_retention_waiting", "Declarations that wait for an officer", count(&s.waiting)),
                Figure::gauge("sensing_retention_holds", "Holds that stand", count(&s.holds)),
            ]);
        });
        let (observe, live, engine) = (self.observe.clone(), self.live.clone(), self.engine.clone());
        let derived = self.derived.clone();
        metrics.add(move |out| {
            let s = observe.stats();
            let rules = engine.stats();
            let count = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
            out.extend([
                Figure::counter("sensing_observations", "Observations made durable", s.observations),
                Figure::counter("sensing_refused", "Observations refused", s.refused),
                Figure::counter("sensing_seals", "Seals of observations into the lake", s.seals),
                Figure::counter("sensing_seal_failures", "Seals that the lake did not take", s.seal_failures),
                Figure::gauge("sensing_unsealed_rows", "Observations in memory, not yet in the lake", s.unsealed_rows),
                Figure::gauge("sensing_datastreams", "Datastreams with observations", s.datastreams),
                Figure::gauge("sensing_live_connections", "Browsers that follow along", live.connections() as u64),
                Figure::counter("sensing_alarms_raised", "Alarms raised", count(&rules.raised)),
                Figure::counter("sensing_alarms_cleared", "Alarms cleared", count(&rules.cleared)),
                Figure::counter(
                    "sensing_rules_failures",
                    "Times the rules could not be evaluated",
                    count(&rules.failures),
                ),
                Figure::counter(
                    "sensing_derived_computed",
                    "Derived results computed",
                    count(&derived.stats().computed),
                ),
                Figure::counter("sensing_derived_written", "Derived results written", count(&derived.stats().written)),
                Figure::counter(
                    "sensing_derived_failures",
                    "Times derived results could not be computed",
                    count(&derived.stats().failures),
                ),
            ]);
        });
    }

    /// Rules or things have been declared anew.
    pub async fn declared(&self, pack: &Pack) -> anyhow::Result<()> {
        declared::apply_fences(pack, self.moving.fences()).await?;
        declared::apply_rules(pack, &self.rules).await?;
        declared::apply_connectors(pack, &self.connect).await?;
        self.ingest.declare(declared::declared_ingest(pack)?).context("the pack's doors")?;
        declared::apply_derived(pack, &self.derived).await?;
        declared::apply_retention(pack, &self.retention).await?;
        declared::apply_dashboards(pack, &self.dashboards).await?;
        self.engine.reload();
        Ok(())
    }

    /// Closes the doors, then lets what came in reach the rules, the lake and the readers.
    pub async fn stop(self) {
        if let Some(door) = self.door {
            door.close().await;
        }
        self.stop.cancel();
        self.engine.stop().await;
        self.deriving.stop().await;
        self.observe.close(Duration::from_secs(10)).await;
        let mut tasks = self.tasks;
        while tasks.join_next().await.is_some() {}
        if let Err(error) = self.devices.persist().await {
            tracing::warn!(%error, "when devices were last heard of could not be written down");
        }
    }
}

/// All routes of the room.
pub fn routes() -> Vec<Route> {
    let parts: &[&[Route]] = &[
        sta::ROUTES,
        alarms::api::ROUTES,
        alarms::silences::api::ROUTES,
        alerts::api::ROUTES,
        rules::api::ROUTES,
        rules::trial::api::ROUTES,
        notify::api::ROUTES,
        notify::live::ROUTES,
        connect::api::ROUTES,
        tasking::api::ROUTES,
        ingest::api::ROUTES,
        derived::api::ROUTES,
        moving::api::ROUTES,
        retention::api::ROUTES,
        dashboards::api::ROUTES,
    ];
    let mut routes = parts.concat();
    routes.extend(sensing::pages::routes());
    routes
}

/// The words of the room.
pub fn texts() -> Vec<ui::Texts> {
    vec![sensing::pages::TEXTS, moving::TEXTS, notify::TEXTS]
}

/// `smtp://` asks for STARTTLS, `smtps://` speaks TLS from the start, and a relay on this machine may be reached in the clear.
fn smtp(mail: &crate::config::Mail) -> anyhow::Result<Smtp> {
    // The address holds a password, so it is not repeated in the error.
    let url = reqwest::Url::parse(mail.smtp.expose())
        .ok()
        .filter(|u| u.has_host())
        .context("mail.smtp_url: write it as smtp://user:password@host:587")?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let (security, port) = match url.scheme() {
        "smtps" => (Security::Tls, 465),
        "smtp" if local => (Security::None, 25),
        "smtp" => (Security::StartTls, 587),
        _ => anyhow::bail!("mail.smtp_url: the address must begin with smtp:// or smtps://"),
    };
    let login = url.password().map(|password| (url.username().to_owned(), password.to_owned()));
    Ok(Smtp { host, port: url.port().unwrap_or(port), security, from: mail.from.clone(), login })
}

/// The key, the districts and the words of public warnings.
async fn open_alerts(
    pack: &Pack,
    layout: &Layout,
    alarms: &Alarms,
    texts: &Arc<ui::Catalogue>,
    zone: &jiff::tz::TimeZone,
    address: &str,
) -> anyhow::Result<Alerts> {
    let (key, file) = (layout.warning_key(), pack.city.map.districts.as_ref());
    let file = file.map(|f| pack.folder.root.join(f.get_ref()));
    let names = pack.city.district.clone();
    let read = move || anyhow::Ok((warnings::signer(&key)?, warnings::districts(file.as_deref(), &names)?));
    let (signer, districts) = tokio::task::spawn_blocking(read).await??;
    let named = pack.city.tenant.iter();
    let named = named.filter_map(|t| Some((kernel::Tenant::parse(t.slug.get_ref()).ok()?, t.name.clone())));
    let publisher = Publisher {
        signer,
        districts,
        city: pack.city.city.clone(),
        tenants: named.collect(),
        address: address.to_owned(),
        zone: zone.clone(),
        catalogue: texts.clone(),
    };
    Ok(Alerts::open(alarms, publisher).await?)
}

/// Who may add Observations, and who is told of them: the same at every door.
fn guards(devices: &Devices, derived: &Derived) -> (sta::Rights, sta::Watch) {
    let (register, derived) = (devices.clone(), derived.clone());
    // What is computed is computed, and by nobody else.
    let rights: sta::Rights = Arc::new(move |caller, datastream| {
        !derived.is_output(datastream.id) && register.may_publish(caller, datastream)
    });
    let watching = devices.clone();
    let watch: sta::Watch = Arc::new(move |caller, sent| match sent {
        sta::Sent::Recorded(count, newest) => watching.observed(caller, newest, count),
        sta::Sent::Refused(why) => watching.refused(caller, why),
    });
    (rights, watch)
}

async fn open_door(
    config: &crate::config::Mqtt,
    address: &str,
    stores: &Stores,
    (catalog, devices, tasking, derived, sealed): (&Catalog, &Devices, &Tasking, &Derived, &Arc<Sealed>),
    observe: &Observe,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<mqtt::Door> {
    let tls = config.tls.as_ref().map(|tls| {
        let files = mqtt::Tls {
            certificates: tls.certificate.clone(),
            key: tls.key.clone(),
            client_authorities: tls.client_authorities.clone(),
            client_revocations: tls.client_revocations.clone(),
        };
        (tls.listen, files)
    });
    let options =
        mqtt::Options { plain: Some(config.listen), tls, base: format!("{address}/v1.1"), ..mqtt::Options::default() };
    let engine = Engine::new(catalog.clone(), Arc::new(observe.clone()), Limits::DEFAULT);
    let entities = mqtt::Catalogued::new(engine, stores.stream.topic(EVENTS)?);
    let observed = mqtt::Observed::new(observe.clone(), catalog.clone()).tasking(tasking.clone());
    let keeper = Keeper {
        devices: devices.clone(),
        catalog: catalog.clone(),
        derived: derived.clone(),
        sealed: sealed.clone(),
        tasking: tasking.clone(),
    };
    let records = stores.records.clone();
    let store = tokio::task::spawn_blocking(move || mqtt::Store::open(records)).await?.context("MQTT sessions")?;
    let parts = mqtt::Parts {
        field: Arc::new(observed),
        entities: Arc::new(entities),
        rights: Arc::new(keeper.clone()),
        authenticate: Arc::new(keeper),
        keep: Arc::new(store),
        clock,
    };
    mqtt::Door::open(options, parts).await.context("the MQTT door")
}

/// Who may come in by MQTT, and what they may do there: the register of devices and the policy.
#[derive(Clone)]
struct Keeper {
    devices: Devices,
    catalog: Catalog,
    derived: Derived,
    sealed: Arc<Sealed>,
    tasking: Tasking,
}

impl mqtt::Authenticate for Keeper {
    /// The password is the device's key, which names the device; the user name is for the device's own logs. Without a password a certificate
    /// says who it is.
    fn authenticate<'a>(&'a self, login: mqtt::Login<'a>) -> BoxFuture<'a, Result<Caller, mqtt::Refusal>> {
        async move {
            let key = std::str::from_utf8(login.password).map_err(|_| mqtt::Refusal::Credentials)?;
            let found = match login.certificate.filter(|_| key.is_empty()) {
                Some(certificate) => self.devices.authenticate_certificate(certificate).await,
                None => self.devices.authenticate(key).await,
            };
            match found {
                Ok(Some(caller)) => Ok(caller),
                Ok(None) => Err(mqtt::Refusal::Credentials),
                Err(error) => {
                    tracing::warn!(%error, "a device's key could not be looked up");
                    Err(mqtt::Refusal::Unavailable)
                }
            }
        }
        .boxed()
    }
}

impl mqtt::Rights for Keeper {
    fn may_publish(&self, caller: &Caller, datastream: &DatastreamInfo) -> bool {
        !self.derived.is_output(datastream.id) && self.devices.may_publish(caller, datastream)
    }
    fn scope(&self, caller: &Caller) -> Arc<Scope> {
        self.catalog.scope(caller)
    }
    /// What is published may be followed without a key.
    fn anonymous(&self) -> bool {
        true
    }
    fn recorded(&self, caller: &Caller, latest: Option<Timestamp>, count: u64) {
        self.devices.observed(caller, latest, count);
    }
    fn refused(&self, caller: &Caller, why: &str) {
        self.devices.refused(caller, why);
    }
    fn connected(&self, caller: &Caller, connected: bool) {
        self.devices.connected(caller, connected);
        if connected && self.tasking.comes_first(caller) {
            self.follows_tasks(caller);
        }
    }
    fn follows_tasks(&self, caller: &Caller) {
        let (tasking, caller) = (self.tasking.clone(), caller.clone());
        tokio::spawn(async move {
            if let Err(error) = tasking.tell_again(&caller).await {
                tracing::warn!(%error, "a device could not be told again of its Tasks; their time limits hold");
            }
        });
    }
    fn said(
        &self,
        caller: &Caller,
        what: &'static str,
        body: Vec<u8>,
    ) -> BoxFuture<'static, Result<(), mqtt::RecordError>> {
        let (devices, caller) = (self.devices.clone(), caller.clone());
        async move {
            devices.said(&caller, what, &body).await.map_err(|error| {
                let problem = kernel::Problem::from(error);
                if problem.status.is_server_error() {
                    return mqtt::RecordError::Unavailable;
                }
                devices.refused(&caller, &problem.detail);
                mqtt::RecordError::Refused(problem.detail)
            })
        }
        .boxed()
    }
    fn command(&self, caller: &Caller) -> BoxFuture<'static, Option<Vec<u8>>> {
        let (devices, device) = (self.devices.clone(), sensing::devices::campaign::device_of(caller));
        async move {
            // A device that cannot be told now asks again, or is told at its next connection.
            let command = devices.command_for(device?).await.ok()??;
            Some(command.to_string().into_bytes())
        }
        .boxed()
    }
    fn looks<'a>(&'a self, caller: &'a Caller, what: String) -> BoxFuture<'a, bool> {
        async move {
            let recorded = self.sealed.record(caller, vec![Look { door: "mqtt", what, answer: 0 }]).await;
            if let Err(error) = &recorded {
                tracing::warn!(%error, "a look by MQTT could not be put on record; it was refused");
            }
            recorded.is_ok()
        }
        .boxed()
    }
}
