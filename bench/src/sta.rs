//! `bench sta`: what clients of a SensorThings service ask, through HTTP, of ours and of django-ogc-sensorthings (PyPI) on PostgreSQL 15.
//!
//! Both have the same Things, Locations, Datastreams and Observations, and are asked the same. Lamppost is filled through its doors, its peer by
//! SQL, because its doors would need hours. Every answer is looked at; what a service does not answer is said, with its reason.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use kernel::Timestamp;
use postgres::{Client, NoTls};
use serde_json::{Value, json};

use crate::{
    Place,
    city::City,
    http::{Connection, free_address, request},
    usage,
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// With a Location each.
    #[arg(long, default_value_t = 100_000)]
    things: usize,
    /// Of the first Things, one each.
    #[arg(long, default_value_t = 10_000)]
    datastreams: usize,
    /// Of all Datastreams together, for Lamppost.
    #[arg(long, default_value_t = 10_000_000)]
    observations: usize,
    /// Of all Datastreams together, for the peer: each takes some 250 bytes there.
    #[arg(long, default_value_t = 1_000_000)]
    peer_observations: usize,
    /// Connections that post single Observations.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long they do.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// How often each question is asked.
    #[arg(long, default_value_t = 20)]
    times: usize,
    /// Only Lamppost.
    #[arg(long)]
    alone: bool,
}

/// 2024-01-01, in microseconds.
const START: i64 = 1_704_067_200_000_000;
/// Between two Observations of a Datastream.
const STEP: i64 = 10_000_000;
/// Things stand on a grid of this width, 0.001 degrees apart.
const GRID: usize = 400;
/// The south-west corner of the grid, far from the Things that the pack itself has.
const CORNER: (f64, f64) = (10.1, 50.2);

fn at(point: usize) -> String {
    Timestamp::from_micros(START + point as i64 * STEP).to_string()
}
fn place(thing: usize) -> (f64, f64) {
    (CORNER.0 + (thing % GRID) as f64 / 1e3, CORNER.1 + (thing / GRID) as f64 / 1e3)
}
/// What a Datastream says at a point of time: another number each time, so that an answer can be told from every other.
fn value(stream: usize, point: usize) -> f64 {
    (stream * 7 + point) as f64 / 10.0
}

/// A service under test.
trait Service: Sync {
    fn name(&self) -> &'static str;
    fn address(&self) -> SocketAddr;
    /// Before `/Things`.
    fn root(&self) -> &'static str;
    fn authorization(&self) -> Option<String>;
    /// CPU-seconds so far, with its database.
    fn cpu(&self) -> anyhow::Result<f64>;
    /// Ids of its Datastreams as they stand in an address, with quotes.
    fn streams(&self) -> &[String];
    /// Observations of each Datastream.
    fn points(&self) -> usize;
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.datastreams > 0 && args.datastreams <= args.things, "every Datastream has a Thing of its own");
    let side = args.things / GRID;
    ensure!(side >= 20, "at least {} Things: the question by area takes a square of 20 of them", 20 * GRID);
    let folder = tempfile::Builder::new().prefix("bench-sta-").tempdir_in(&args.place.folder)?;
    println!("{} Things, {} Datastreams", args.things, args.datastreams);
    let ours = Ours::start(args, folder.path())?;
    measure(&ours, args)?;
    ours.city.stop()?;
    if !args.alone {
        measure(&Peer::start(args, folder.path())?, args)?;
    }
    Ok(())
}

fn measure(service: &dyn Service, args: &Args) -> anyhow::Result<()> {
    println!("{}, {} observations", service.name(), service.points() * args.datastreams);
    let streams = args.datastreams;
    let last = service.points() - 1;
    let mut asker = Asker { service, connection: Connection::open(service.address())?, times: args.times };
    asker.ask("latest value of every Datastream, one request", |a, _| {
        let path = format!(
            "Datastreams?$filter=description%20eq%20'bench'&$top={streams}&$select=name&$expand=Observations($select=result;$orderby=phenomenonTime%20desc;$top=1)"
        );
        let page = a.get(&path)?;
        let rows = page["value"].as_array().context("no value")?;
        ensure!(rows.len() == streams, "{} Datastreams", rows.len());
        for row in rows {
            let stream: usize = row["name"].as_str().and_then(|n| n.parse().ok()).with_context(|| format!("no name: {row}"))?;
            ensure!(row["Observations"][0]["result"] == value(stream, last), "{row}");
        }
        Ok(())
    })?;
    asker.ask("$count of all Observations", |a, _| {
        let page = a.get("Observations?$count=true&$top=1&$select=result")?;
        ensure!(page["@iot.count"].as_u64() == Some((streams * (last + 1)) as u64), "{page}");
        Ok(())
    })?;
    asker.ask("$count of one Datastream", |a, n| {
        let page = a.get(&format!("{}?$count=true&$top=1&$select=result", a.observations(n * 37 % streams)))?;
        ensure!(page["@iot.count"].as_u64() == Some(last as u64 + 1), "{page}");
        Ok(())
    })?;
    asker.ask("last 100 of one Datastream", |a, n| {
        let stream = n * 37 % streams;
        let page = a.get(&format!("{}?$orderby=phenomenonTime%20desc&$top=100", a.observations(stream)))?;
        let rows = page["value"].as_array().context("no value")?;
        ensure!(rows.len() == 100.min(last + 1) && rows[0]["result"] == value(stream, last), "{page}");
        Ok(())
    })?;
    asker.ask("a page of 100 Things in the middle", |a, n| {
        let skip = args.things / 2 + n * 100;
        let page = a.get(&format!("Things?$top=100&$skip={skip}"))?;
        ensure!(page["value"].as_array().is_some_and(|v| v.len() == 100), "{page}");
        Ok(())
    })?;
    asker.ask("Things in a square, by st_within", |a, n| {
        // 20 by 20 of them, whose edges run between two.
        let (x, y) = place(n * 7 % (GRID - 20));
        let (west, south, east, north) = (x - 0.0005, y - 0.0005, x + 0.0195, y + 0.0195);
        let ring = format!("{west} {south},{east} {south},{east} {north},{west} {north},{west} {south}");
        let filter = format!("st_within(Locations/location,geography'POLYGON(({ring}))')").replace(' ', "%20");
        let page = a.get(&format!("Things?$filter={filter}&$count=true&$top=100"))?;
        ensure!(page["@iot.count"] == 400, "{}", page["@iot.count"]);
        Ok(())
    })?;
    single(service, args)
}

struct Asker<'a> {
    service: &'a dyn Service,
    connection: Connection,
    times: usize,
}

impl Asker<'_> {
    fn observations(&self, stream: usize) -> String {
        format!("Datastreams({})/Observations", self.service.streams()[stream])
    }

    fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let authorization = self.service.authorization();
        let headers: Vec<(&str, &str)> = authorization.iter().map(|key| ("Authorization", key.as_str())).collect();
        let answer = self.connection.ask("GET", &format!("{}/{path}", self.service.root()), &headers, b"")?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Asks once to see whether there is an answer, then so many times.
    fn ask(
        &mut self,
        what: &str,
        mut question: impl FnMut(&mut Self, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        if let Err(error) = question(self, 0) {
            // What is wrong stands behind the address that was asked.
            let reason: Vec<char> = format!("{error:#}").chars().filter(|c| !c.is_control()).collect();
            let reason: String = reason[reason.len().saturating_sub(200)..].iter().collect();
            println!("  {what:<50} not answered: …{reason}");
            self.connection = Connection::open(self.service.address())?;
            return Ok(());
        }
        let first = began.elapsed();
        // What takes seconds is not asked for minutes.
        let times = self.times.min((30.0 / first.as_secs_f64()) as usize).max(2);
        let cpu = self.service.cpu()?;
        let mut took = Vec::with_capacity(times);
        for n in 1..=times {
            let began = Instant::now();
            question(self, n).with_context(|| what.to_owned())?;
            took.push(began.elapsed());
        }
        let each = (self.service.cpu()? - cpu) / times as f64;
        took.sort_unstable();
        println!(
            "  {what:<50} p50 {:>9.2} ms   p99 {:>9.2} ms   first {:>9.2} ms   CPU each {:>9.2} ms",
            millis(usage::quantile(&took, 0.5)),
            millis(usage::quantile(&took, 0.99)),
            millis(first),
            each * 1e3
        );
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// One Observation a request, from many connections at once, each with the next time of a Datastream of its own.
fn single(service: &dyn Service, args: &Args) -> anyhow::Result<()> {
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let connections = args.connections.min(args.datastreams);
    let cpu = service.cpu()?;
    let began = Instant::now();
    let mut took = std::thread::scope(|scope| {
        let (done, stop) = (&done, &stop);
        let posting: Vec<_> = (0..connections)
            .map(|stream| {
                scope.spawn(move || {
                    let mut connection = Connection::open(service.address())?;
                    let path = format!("{}/Observations", service.root());
                    let id = &service.streams()[stream];
                    let id = id.parse::<i64>().map_or_else(|_| json!(id.trim_matches('\'')), |number| json!(number));
                    let authorization = service.authorization();
                    let mut headers = vec![("Content-Type", "application/json")];
                    headers.extend(authorization.iter().map(|key| ("Authorization", key.as_str())));
                    let mut took = Vec::new();
                    let mut point = service.points();
                    while !stop.load(Relaxed) {
                        let at = at(point);
                        let body = json!({"phenomenonTime": at, "resultTime": at, "result": value(stream, point), "Datastream": {"@iot.id": id}});
                        let began = Instant::now();
                        let bytes = request(service.address(), "POST", &path, &headers, body.to_string().as_bytes());
                        let answer = connection.send(&bytes)?;
                        ensure!(answer.status == 201, "{path}: {} {}", answer.status, answer.text());
                        took.push(began.elapsed());
                        done.fetch_add(1, Relaxed);
                        point += 1;
                    }
                    Ok(took)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(args.seconds));
        stop.store(true, Relaxed);
        let mut all = Vec::new();
        for thread in posting {
            all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        anyhow::Ok(all)
    })?;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), service.cpu()? - cpu);
    let count = done.load(Relaxed);
    took.sort_unstable();
    println!(
        "  {:<50} {:>9.0}/s   {:>9.0} per CPU-second   p50 {:.2} ms   p99 {:.2} ms   {connections} connections",
        "single POST of an Observation, acknowledged",
        count as f64 / wall,
        count as f64 / cpu,
        millis(usage::quantile(&took, 0.5)),
        millis(usage::quantile(&took, 0.99)),
    );
    let mut asker = Asker { service, connection: Connection::open(service.address())?, times: 1 };
    let page = asker.get("Observations?$count=true&$top=1")?;
    let expected = service.points() * args.datastreams + count;
    ensure!(page["@iot.count"].as_u64() == Some(expected as u64), "{} of {expected} are there", page["@iot.count"]);
    Ok(())
}

// --- Lamppost -----------------------------------------------------------------------------------------------------

struct Ours {
    city: City,
    streams: Vec<String>,
    points: usize,
}

/// Things in one batch of creations.
const TOGETHER: usize = 200;

impl Ours {
    fn start(args: &Args, folder: &Path) -> anyhow::Result<Self> {
        let city = City::start(&args.place.program()?, &args.place.pack, folder)?;
        let began = Instant::now();
        let streams = Self::things(&city, args)?;
        let points = args.observations / args.datastreams;
        Self::observe(&city, &streams, points)?;
        while city.figure("lamppost_sensing_unsealed_rows")? > 0.0 {
            ensure!(began.elapsed() < Duration::from_secs(1_800), "not everything is sealed after half an hour");
            std::thread::sleep(Duration::from_millis(200));
        }
        println!("filled and sealed in {:.0} s", began.elapsed().as_secs_f64());
        Ok(Self { city, streams: streams.iter().map(i64::to_string).collect(), points })
    }

    /// Creates the Things with all that belongs to them, as JSON batches (OData 4.01); ids of the Datastreams.
    fn things(city: &City, args: &Args) -> anyhow::Result<Vec<i64>> {
        let mut connection = Connection::open(city.http)?;
        let (sensor, property) = city.sensor_and_property(&mut connection)?;
        let authorization = city.authorization();
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        for first in (0..args.things).step_by(TOGETHER) {
            let things = first..args.things.min(first + TOGETHER);
            let requests: Vec<Value> = things
                .map(|thing| {
                    let (x, y) = place(thing);
                    let mut body = json!({
                        "name": format!("bench {thing}"), "description": "bench", "properties": {"number": thing},
                        "Locations": [{"name": "bench", "description": "bench", "encodingType": "application/geo+json",
                            "location": {"type": "Point", "coordinates": [x, y]}}],
                    });
                    if thing < args.datastreams {
                        body["Datastreams"] = json!([{
                            "name": thing.to_string(), "description": "bench",
                            "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
                            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
                            "Sensor": {"@iot.id": sensor}, "ObservedProperty": {"@iot.id": property},
                        }]);
                    }
                    json!({"id": thing.to_string(), "atomicityGroup": "all", "method": "post", "url": "Things", "body": body})
                })
                .collect();
            let body = json!({ "requests": requests }).to_string();
            let answer = connection.ask("POST", "/v1.1/$batch", &headers, body.as_bytes())?;
            let answer: Value = serde_json::from_slice(&answer.body)?;
            let failed = answer["responses"].as_array().into_iter().flatten().find(|r| r["status"] != 201);
            ensure!(failed.is_none(), "{failed:?}");
        }
        let mut ids = vec![0; args.datastreams];
        let mut path = "/v1.1/Datastreams?$select=id,name&$filter=description%20eq%20'bench'&$top=10000".to_owned();
        loop {
            let page: Value = serde_json::from_slice(&city.get(&mut connection, &path)?)?;
            for row in page["value"].as_array().into_iter().flatten() {
                let name: usize = row["name"].as_str().and_then(|n| n.parse().ok()).context("no name")?;
                ids[name] = row["@iot.id"].as_i64().context("no id")?;
            }
            let Some(next) = page["@iot.nextLink"].as_str() else { break };
            path = next.split_once(&city.http.to_string()).context("a link to elsewhere")?.1.to_owned();
        }
        ensure!(!ids.contains(&0), "not every Datastream was made");
        Ok(ids)
    }

    fn observe(city: &City, streams: &[i64], points: usize) -> anyhow::Result<()> {
        let authorization = city.authorization();
        let headers =
            [("Authorization", &*authorization), ("Content-Type", "application/json"), ("Prefer", "return=minimal")];
        let mut connection = Connection::open(city.http)?;
        for first in (0..points).step_by(100) {
            let stretch = first..points.min(first + 100);
            for (chunk, some) in streams.chunks(50).enumerate() {
                let mut body = String::from("[");
                for (n, id) in some.iter().enumerate() {
                    let stream = chunk * 50 + n;
                    let comma = if n > 0 { "," } else { "" };
                    let _ = write!(
                        body,
                        r#"{comma}{{"Datastream":{{"@iot.id":{id}}},"components":["phenomenonTime","result"],"dataArray":["#
                    );
                    for (n, point) in stretch.clone().enumerate() {
                        let comma = if n > 0 { "," } else { "" };
                        let _ = write!(body, r#"{comma}["{}",{}]"#, at(point), value(stream, point));
                    }
                    body.push_str("]}");
                }
                body.push(']');
                connection.ask("POST", "/v1.1/CreateObservations", &headers, body.as_bytes())?;
            }
        }
        Ok(())
    }
}

impl Service for Ours {
    fn name(&self) -> &'static str {
        "Lamppost, on files"
    }
    fn address(&self) -> SocketAddr {
        self.city.http
    }
    fn root(&self) -> &'static str {
        "/v1.1"
    }
    fn authorization(&self) -> Option<String> {
        Some(self.city.authorization())
    }
    fn cpu(&self) -> anyhow::Result<f64> {
        usage::cpu(self.city.pid())
    }
    fn streams(&self) -> &[String] {
        &self.streams
    }
    fn points(&self) -> usize {
        self.points
    }
}

// --- django-ogc-sensorthings --------------------------------------------------------------------------------------

/// What the peer is made of, from PyPI.
const PACKAGES: [&str; 4] =
    ["django-ogc-sensorthings==1.2.0", "Django==5.2.19", "uvicorn==0.54.0", "psycopg[binary,pool]==3.3.9"];

struct Peer {
    child: Child,
    address: SocketAddr,
    database: testkit::postgres::Database,
    streams: Vec<String>,
    points: usize,
}

/// Django's own defaults but for what its guides say first: connections that stay open, and pages as large as ours may be.
fn settings(address: SocketAddr, host: &str, database: &str) -> String {
    format!(
        r#"from uuid import UUID
SECRET_KEY = "bench"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "bench_urls"
INSTALLED_APPS = ["sensorthings.versions.v1_1", "sensorthings.versions.v1_1.backends.django"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "NAME": "{database}", "USER": "postgres", "HOST": "{host}",
    "OPTIONS": {{"pool": {{"min_size": 4, "max_size": 32}}}}}}}}
SENSORTHINGS_V1_1_SERVICE_URL = "http://{address}/sensorthings"
SENSORTHINGS_V1_1_BACKEND_ADAPTER = "sensorthings.versions.v1_1.backends.django.adapter.DjangoBackendAdapter"
SENSORTHINGS_V1_1_ID_TYPE = UUID
SENSORTHINGS_V1_1_ID_DELIMITER = "'"
SENSORTHINGS_V1_1_MAX_TOP = 10000
"#
    )
}

const URLS: &str = "from django.urls import include, path
urlpatterns = [path('sensorthings/', include('sensorthings.versions.v1_1.urls'))]
";
const APPLICATION: &str = "import os
os.environ['DJANGO_SETTINGS_MODULE'] = 'bench_settings'
from django.core.asgi import get_asgi_application
application = get_asgi_application()
";

/// A virtual environment with the peer in it, kept between runs.
fn python() -> anyhow::Result<PathBuf> {
    let venv = std::env::temp_dir().join("lamppost-bench-sta");
    let (stamp, wanted) = (venv.join("installed.txt"), PACKAGES.join("\n"));
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&*wanted) {
        let done = |command: &mut Command| -> anyhow::Result<()> {
            ensure!(command.status()?.success(), "{command:?} failed");
            Ok(())
        };
        done(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        done(Command::new(venv.join("bin/pip")).args(["install", "--quiet"]).args(PACKAGES))?;
        std::fs::write(&stamp, wanted)?;
    }
    Ok(venv.join("bin/python3"))
}

impl Peer {
    fn start(args: &Args, folder: &Path) -> anyhow::Result<Self> {
        let python = python()?;
        testkit::postgres::settings(&["shared_buffers=1GB", "max_wal_size=8GB", "wal_compression=on"]);
        let database = testkit::postgres::database();
        let part = |name: &str| {
            let found = database.url().split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            found.map(str::to_owned).with_context(|| format!("no {name}"))
        };
        let address = free_address()?;
        std::fs::write(folder.join("bench_settings.py"), settings(address, &part("host")?, &part("dbname")?))?;
        std::fs::write(folder.join("bench_urls.py"), URLS)?;
        std::fs::write(folder.join("bench_application.py"), APPLICATION)?;
        let migrated = Command::new(&python)
            .args(["-m", "django", "migrate", "--settings", "bench_settings", "--verbosity", "0"])
            .current_dir(folder)
            .env("PYTHONPATH", ".")
            .output()?;
        ensure!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        let points = args.peer_observations / args.datastreams;
        ensure!(points > 0, "--peer-observations: at least one of each Datastream");
        let began = Instant::now();
        let streams = fill(&database, args, points)?;
        println!("filled in {:.0} s", began.elapsed().as_secs_f64());
        let log = std::fs::File::create(folder.join("peer.log"))?;
        let child = Command::new(&python)
            .args(["-m", "uvicorn", "bench_application:application", "--workers", "2", "--no-access-log"])
            .args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut peer = Self { child, address, database, streams, points };
        let began = Instant::now();
        while Connection::open(address)
            .and_then(|mut c| c.ask("GET", "/sensorthings/v1.1/Things?$top=1", &[], b""))
            .is_err()
        {
            if let Some(status) = peer.child.try_wait()? {
                bail!(
                    "the peer ended with {status}: {}",
                    std::fs::read_to_string(folder.join("peer.log")).unwrap_or_default()
                );
            }
            ensure!(began.elapsed() < Duration::from_secs(60), "the peer does not answer within a minute");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(peer)
    }
}

/// The same by SQL; ids of the Datastreams, quoted.
fn fill(database: &testkit::postgres::Database, args: &Args, points: usize) -> anyhow::Result<Vec<String>> {
    const APP: &str = "sensorthings_v1_1_django_backend";
    let Args { things, datastreams, .. } = args;
    // Ids that ascend, as the peer's own do.
    let id = |kind: u32, n: &str| format!("('{kind:08}-0000-7000-8000-' || lpad(to_hex({n}), 12, '0'))::uuid");
    let (x, y) = CORNER;
    let statements = [
        format!(
            "INSERT INTO {APP}_thing (id, name, description, properties)
             SELECT {}, 'bench ' || n, 'bench', jsonb_build_object('number', n) FROM generate_series(0, {things} - 1) n",
            id(1, "n")
        ),
        format!(
            "INSERT INTO {APP}_location (id, name, description, encoding_type, location)
             SELECT {}, 'bench', 'bench', 'application/geo+json',
                    jsonb_build_object('type', 'Point', 'coordinates', jsonb_build_array({x} + n % {GRID} / 1000.0, {y} + n / {GRID} / 1000.0))
             FROM generate_series(0, {things} - 1) n",
            id(2, "n")
        ),
        format!(
            "INSERT INTO {APP}_location_things (location_id, thing_id) SELECT {}, {} FROM generate_series(0, {things} - 1) n",
            id(2, "n"),
            id(1, "n")
        ),
        format!(
            "INSERT INTO {APP}_sensor (id, name, description, encoding_type, metadata) VALUES ({}, 'bench', 'bench', 'text/html', 'https://example.org/')",
            id(3, "0")
        ),
        format!(
            "INSERT INTO {APP}_observedproperty (id, name, definition, description) VALUES ({}, 'bench', 'https://example.org/bench', 'bench')",
            id(4, "0")
        ),
        format!(
            "INSERT INTO {APP}_datastream (id, name, description, unit_of_measurement, observation_type, thing_id, sensor_id, observed_property_id)
             SELECT {}, n::text, 'bench', '{{\"name\": \"metre\", \"symbol\": \"m\", \"definition\": \"ucum:m\"}}'::jsonb,
                    'http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement', {}, {}, {}
             FROM generate_series(0, {datastreams} - 1) n",
            id(5, "n"),
            id(1, "n"),
            id(3, "0"),
            id(4, "0")
        ),
        format!(
            "INSERT INTO {APP}_featureofinterest (id, name, description, encoding_type, feature)
             SELECT {}, 'bench', 'bench', 'application/geo+json', '{{}}'::jsonb FROM generate_series(0, {datastreams} - 1) n",
            id(6, "n")
        ),
        format!(
            "INSERT INTO {APP}_observation (id, phenomenon_time_begin, result, result_time, datastream_id, feature_of_interest_id)
             SELECT {}, to_timestamp({} + p * 10), (n * 7 + p) / 10.0, to_timestamp({} + p * 10), {}, {}
             FROM generate_series(0, {points} - 1) p, generate_series(0, {datastreams} - 1) n",
            id(7, &format!("p::bigint * {datastreams} + n")),
            START / 1_000_000,
            START / 1_000_000,
            id(5, "n"),
            id(6, "n")
        ),
        "ANALYZE".to_owned(),
    ];
    statements.iter().for_each(|sql| database.run(sql));
    let mut client = Client::connect(database.url(), NoTls)?;
    let rows = client.query(&format!("SELECT id::text FROM {APP}_datastream ORDER BY name::int"), &[])?;
    Ok(rows.iter().map(|row| format!("'{}'", row.get::<_, String>(0))).collect())
}

impl Service for Peer {
    fn name(&self) -> &'static str {
        "django-ogc-sensorthings 1.2 (uvicorn, two workers), PostgreSQL 15"
    }
    fn address(&self) -> SocketAddr {
        self.address
    }
    fn root(&self) -> &'static str {
        "/sensorthings/v1.1"
    }
    fn authorization(&self) -> Option<String> {
        None
    }
    fn cpu(&self) -> anyhow::Result<f64> {
        Ok(usage::cpu(self.child.id())? + usage::cpu(crate::peers::postgres_pid(&self.database)?)?)
    }
    fn streams(&self) -> &[String] {
        &self.streams
    }
    fn points(&self) -> usize {
        self.points
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its workers end with it when it is asked to stop, not when it is killed.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}
