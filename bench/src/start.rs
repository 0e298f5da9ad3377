//! `bench start`: how long from the start of the process to `GET /health/ready` 200, what it holds in memory when nobody asks anything, and how
//! long pages and answers take, with the pack alone and with a million Things beside it.
//!
//! The Things are written through the catalogue's own facade (`Catalog::upsert_all`, 500 entities to a transaction), into the data folder
//! of a program that has been stopped: the rows, indexes, audit rows and counts are those that the program itself writes. Every Datastream
//! then gets an Observation through `Observe::record`, which is sealed into the lake.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use kernel::{Action, Caller, Clock as _, Decision, Policy, Resource, SystemClock, Tenant};
use lake::Lake;
use rand::{Rng, SeedableRng, rngs::StdRng};
use records::{Options, Records};
use sensing::{
    Catalog,
    catalog::Declared,
    model::{EntityId, EntityType},
    observe::{self, Batch, Observe, Run},
};
use serde_json::{Value, json};
use stream::{Stream, TopicOptions};

use crate::{
    Place,
    http::{Connection, free_address},
    usage::quantile,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Things to fill in; each has two Datastreams and a Location.
    #[arg(long, default_value_t = 1_000_000)]
    things: usize,
    /// How many of them a rule of the pack watches.
    #[arg(long, default_value_t = 10_000)]
    watched: usize,
    /// How many of the Datastreams have an Observation in the lake [default: all].
    #[arg(long)]
    observed: Option<usize>,
    /// Starts to measure.
    #[arg(long, default_value_t = 11)]
    starts: usize,
    /// Seconds without a request before memory is read.
    #[arg(long, default_value_t = 15)]
    idle: u64,
    /// Keeps the filled folder, or uses one that was kept.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

/// Things written by one call of the facade.
const BATCH: usize = 5_000;
/// Who owns them, and to which of the pack's systems they belong.
const OWNERS: [(&str, &str); 4] = [("hyd", "lamppost"), ("dsd", "flood"), ("td", "parking"), ("fehd", "toilet")];
/// What a rule of the pack watches at lampposts.
const WATCHED: &str = "no2";
const DISTRICTS: usize = 18;

pub fn run(args: &Args) -> anyhow::Result<()> {
    let program = args.place.program()?;
    let folder = tempfile::Builder::new().prefix("bench-start-").tempdir_in(&args.place.folder)?;
    println!("pack alone: {}", args.place.pack.display());
    let small = folder.path().join("small");
    Server::start(&program, &args.place.pack, &small)?.0.stop()?;
    measure(args, &program, &small, &[])?;

    let large = args.keep.clone().unwrap_or_else(|| folder.path().join("large"));
    if !large.join("filled").exists() {
        Server::start(&program, &args.place.pack, &large)?.0.stop()?;
        fill(args, &large)?;
        observe(args, &large)?;
        File::create(large.join("filled"))?;
    }
    println!("with {} Things beside it:", args.things);
    // The first start after the filling moves what waits in the outbox; what is measured is an ordinary start.
    Server::start(&program, &args.place.pack, &large)?.0.settled()?.stop()?;
    measure(args, &program, &large, PAGES)
}

const PAGES: &[&str] = &[
    "/en",
    "/en/map",
    "/en/things",
    "/en/things?sort=-name",
    "/en/things?system=lamppost&district=District%207",
    "/en/things?q=lamppost%20499999",
    "/en/things?q=nowhere",
    "/en/things/1000",
    "/api/map/layers/lamppost.geojson",
    "/api/map/layers/lamppost.geojson?bbox=114.10,22.30,114.12,22.32",
    "/api/map/layers/hepa.geojson",
    "/v1.1/Things?$top=100",
    "/v1.1/Things?$top=100&$orderby=name",
    "/v1.1/Things?$filter=name%20eq%20%27Lamppost%20499999%27&$expand=Datastreams,Locations",
    "/v1.1/Datastreams?$top=100&$expand=Thing",
    "/v1.1/Things?$count=true&$top=1",
];

fn measure(args: &Args, program: &Path, data: &Path, pages: &[&str]) -> anyhow::Result<()> {
    let (mut times, mut cpu) = (Vec::with_capacity(args.starts), Vec::with_capacity(args.starts));
    for _ in 0..args.starts {
        let (server, took) = Server::start(program, &args.place.pack, data)?;
        cpu.push(Duration::from_secs_f64(crate::usage::cpu(server.child.id())?));
        times.push(took);
        server.stop()?;
    }
    times.sort();
    cpu.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    println!(
        "  start to ready   median {:>7.1} ms   least {:>7.1} ms   most {:>7.1} ms   of {} starts; CPU until then {:.0} ms",
        ms(quantile(&times, 0.5)),
        ms(times[0]),
        ms(times[times.len() - 1]),
        times.len(),
        ms(quantile(&cpu, 0.5))
    );
    let (server, _) = Server::start(program, &args.place.pack, data)?;
    std::thread::sleep(Duration::from_secs(args.idle));
    server.memory(&format!("idle for {} s", args.idle))?;
    let mut connection = Connection::open(server.http)?;
    for page in pages {
        let mut took = Vec::new();
        let mut bytes = 0;
        for _ in 0..9 {
            let began = Instant::now();
            bytes = connection.ask("GET", page, &[], b"")?.body.len();
            took.push(began.elapsed());
        }
        let first = took[0];
        took.sort();
        println!("  {:>8.1} ms   first {:>8.1} ms   {:>8} bytes   {page}", ms(quantile(&took, 0.5)), ms(first), bytes);
    }
    if !pages.is_empty() {
        server.memory("after these")?;
    }
    drop(connection);
    server.stop()
}

struct Server {
    child: Child,
    http: SocketAddr,
}

impl Server {
    /// Starts the program; how long until it was ready.
    fn start(program: &Path, pack: &Path, data: &Path) -> anyhow::Result<(Self, Duration)> {
        let (http, mqtt) = (free_address()?, free_address()?);
        std::fs::create_dir_all(data)?;
        let log = data.join("bench.log");
        let output = File::create(&log)?;
        let began = Instant::now();
        let child = Command::new(program)
            .arg("serve")
            .arg("--data")
            .arg(data)
            .arg("--pack")
            .arg(pack)
            .args(["--listen", &http.to_string(), "--mqtt", &mqtt.to_string(), "--set", "log.level=warn"])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut server = Self { child, http };
        loop {
            // 503 is an error of `ask`, so only 200 ends the wait.
            if Connection::open(http).and_then(|mut c| c.ask("GET", "/health/ready", &[], b"")).is_ok() {
                return Ok((server, began.elapsed()));
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("lamppost ended with {status}:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            ensure!(began.elapsed() < Duration::from_secs(600), "lamppost is not ready after ten minutes");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it has used no CPU to speak of for two seconds.
    fn settled(self) -> anyhow::Result<Self> {
        let began = Instant::now();
        let mut before = crate::usage::cpu(self.child.id())?;
        loop {
            std::thread::sleep(Duration::from_secs(2));
            let now = crate::usage::cpu(self.child.id())?;
            if now - before < 0.1 {
                return Ok(self);
            }
            ensure!(began.elapsed() < Duration::from_secs(1_800), "lamppost does not come to rest");
            before = now;
        }
    }

    /// proc(5), `status`: what of the process is in memory, of which its own and of files.
    fn memory(&self, when: &str) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
        };
        println!(
            "  memory {when}: RSS {:.1} MB (own {:.1}, files {:.1}), {} threads",
            field("VmRSS") / 1e3,
            field("RssAnon") / 1e3,
            field("RssFile") / 1e3,
            field("Threads")
        );
        Ok(())
    }

    fn stop(mut self) -> anyhow::Result<()> {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(told.success(), "lamppost could not be told to stop");
        let status = self.child.wait()?;
        ensure!(status.success(), "lamppost ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended by itself when it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nobody but this benchmark writes.
struct Everything;
impl Policy for Everything {
    fn decide(&self, _: &Caller, _: Action, _: &Resource<'_>) -> Decision {
        Decision::Allow
    }
}

fn fill(args: &Args, data: &Path) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let records = Records::open(&Options::sqlite(data.join("records.sqlite")), clock.clone())?;
    let catalog = Catalog::open(records.clone(), Arc::new(Everything), clock)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let began = Instant::now();
    runtime.block_on(async {
        let caller = Caller::system("bench");
        let shared = |entity, key: &str, body: Value| Declared { entity, key: key.to_owned(), body };
        let city = Tenant::parse("city").map_err(anyhow::Error::msg)?;
        let declared = vec![
            shared(
                EntityType::Sensor,
                "bench",
                json!({"name": "bench", "description": "d", "encodingType": "text/html", "metadata": "m"}),
            ),
            shared(
                EntityType::ObservedProperty,
                "bench",
                json!({"name": "bench", "definition": "https://example.org/bench", "description": "d"}),
            ),
        ];
        let ids = catalog.upsert_all(&caller, &city, declared).await?;
        let watched = catalog.by_key(EntityType::ObservedProperty, &city, WATCHED).await?;
        let watched = watched.with_context(|| format!("the pack has no observed property '{WATCHED}'"))?;
        let shared = Shared { sensor: ids[0].0, property: ids[1].0, watched: watched.0 };
        let mut random = StdRng::seed_from_u64(1);
        let mut made = 0;
        while made < args.things {
            for (owner, (tenant, system)) in OWNERS.into_iter().enumerate() {
                let tenant = Tenant::parse(tenant).map_err(anyhow::Error::msg)?;
                let numbers = (made..args.things.min(made + BATCH)).filter(|n| n % OWNERS.len() == owner);
                let declared = numbers.flat_map(|n| {
                    let watched = system == "lamppost" && n / OWNERS.len() < args.watched;
                    thing(n, system, &shared, watched, &mut random)
                });
                catalog.upsert_all(&caller, &tenant, declared.collect()).await?;
            }
            made += BATCH;
            if made.is_multiple_of(100_000) {
                println!("  {made} Things written, {:.0} s", began.elapsed().as_secs_f64());
            }
        }
        records.close().await;
        anyhow::Ok(())
    })
}

/// One Observation for each of the youngest Datastreams, through the facade of observations: stream, head, lake.
fn observe(args: &Args, data: &Path) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let records = Records::open(&Options::sqlite(data.join("records.sqlite")), clock.clone())?;
    let newest: i64 = records.read_blocking(|read| {
        read.query_one("SELECT MAX(id) FROM sensing_datastream", &[], |row| row.get(0)).map_err(anyhow::Error::from)
    })?;
    let wanted = args.observed.unwrap_or(2 * args.things).min(2 * args.things) as i64;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let topics = ["observations", "events"].map(|name| TopicOptions::new(name).guarded());
        let stream = Stream::open(stream::Options::local(data.join("stream"), topics), clock.clone()).await?;
        let lake = Lake::open(lake::Options::new(lake::Root::Local(data.join("lake"))))?;
        let options = observe::Options::new(data.join("heads"));
        let observe = Observe::open(options, stream.topic("observations")?, &lake).await?;
        let now = clock.now();
        let ids: Vec<i64> = (newest - wanted + 1..=newest).collect();
        for ids in ids.chunks(20_000) {
            let mut batch = Batch::new();
            for id in ids {
                let mut run = Run::new(EntityId(*id), EntityId(1));
                run.push_number(now, *id as f64);
                batch.push_run(run);
            }
            observe.record(batch).await?;
        }
        observe.seal().await?;
        println!("  {wanted} Observations recorded and sealed");
        observe.close(Duration::from_secs(60)).await;
        stream.close().await;
        records.close().await;
        anyhow::Ok(())
    })
}

struct Shared {
    sensor: i64,
    property: i64,
    watched: i64,
}

/// A Location, a Thing and its two Datastreams; each refers only to what comes before it.
fn thing(n: usize, system: &str, shared: &Shared, watched: bool, random: &mut StdRng) -> Vec<Declared> {
    let key = format!("bench-{n}");
    let mut name = system.to_owned();
    name[..1].make_ascii_uppercase();
    let name = format!("{name} {n}");
    let at = [random.random_range(113.83..114.44), random.random_range(22.15..22.56)];
    let location = json!({
        "name": name, "description": "where it stands", "encodingType": "application/geo+json",
        "location": {"type": "Point", "coordinates": at}, "@lamppost.public": true,
    });
    let properties = json!({
        "key": key, "system": system, "district": format!("District {}", n % DISTRICTS),
        "name_zh_hant": format!("燈柱 {n}"), "name_zh_hans": format!("灯柱 {n}"),
    });
    let thing = json!({
        "name": name, "description": "One of many.", "properties": properties, "@lamppost.public": true,
        "Locations": [{"@iot.key": key}],
    });
    let stream = |shape: &str, property: i64| Declared {
        entity: EntityType::Datastream,
        key: format!("{key}.{shape}"),
        body: json!({
            "name": format!("{name} {shape}"), "description": "d", "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
            "properties": {"key": format!("{key}.{shape}"), "interval": 300},
            "Thing": {"@iot.key": key}, "ObservedProperty": {"@iot.id": property}, "Sensor": {"@iot.id": shared.sensor},
        }),
    };
    vec![
        Declared { entity: EntityType::Location, key: key.clone(), body: location },
        Declared { entity: EntityType::Thing, key: key.clone(), body: thing },
        stream("first", if watched { shared.watched } else { shared.property }),
        stream("second", shared.property),
    ]
}
