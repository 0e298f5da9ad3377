//! `bench alarms`: how long it takes from a device's PUBLISH until a browser that is open knows of the alarm, with a thousand rules and with other messages coming
//! in meanwhile. On the way lie the log's flush, the rules, the transaction that writes the alarm, the outbox, the log of events and its flush.
//! The browser is a client of `GET /api/live` that reads server-sent events as a browser does.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use kernel::{Clock as _, SystemClock, Timestamp};
use serde_json::{Value, json};

use crate::{
    Place,
    city::{City, TENANT},
    http::Connection,
    mqtt::{Broker, Client},
    usage,
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Each watches a Datastream of its own.
    #[arg(long, default_value_t = 1_000)]
    rules: usize,
    /// Alarms a second.
    #[arg(long, default_value_t = 20)]
    alarms: u64,
    /// Messages a second that raise none, on the same Datastreams.
    #[arg(long, default_value_t = 500)]
    messages: u64,
    /// Then this many alarms at once.
    #[arg(long, default_value_t = 200)]
    storm: usize,
}

const RAISE: f64 = 10.0;
const QUIET: f64 = 1.0;

/// When each rule's Datastream was told to raise, by the rule's key; then how long it took.
#[derive(Default)]
struct Watch {
    sent: Mutex<HashMap<String, Instant>>,
    took: Mutex<Vec<Duration>>,
    /// Events of any kind that came.
    events: AtomicUsize,
}

impl Watch {
    fn heard(&self, rule: &str) {
        let sent = self.sent.lock().unwrap_or_else(|e| e.into_inner()).remove(rule);
        if let Some(sent) = sent {
            self.took.lock().unwrap_or_else(|e| e.into_inner()).push(sent.elapsed());
        }
    }
    fn missing(&self) -> usize {
        self.sent.lock().unwrap_or_else(|e| e.into_inner()).len()
    }
    fn all(&self) -> Vec<Duration> {
        let mut took = std::mem::take(&mut *self.took.lock().unwrap_or_else(|e| e.into_inner()));
        took.sort_unstable();
        took
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.rules > 0 && args.storm <= args.rules, "--storm: at most one alarm of each rule");
    let folder = tempfile::Builder::new().prefix("bench-alarms-").tempdir_in(&args.place.folder)?;
    let pack = pack(&args.place.pack, folder.path(), args.rules)?;
    let city = City::start(&args.place.program()?, &pack, folder.path())?;
    let streams = streams(&city, args.rules)?;
    let key = city.device()?;
    let broker = Broker {
        name: "",
        address: city.mqtt,
        pid: city.pid(),
        user: "bench".to_owned(),
        password: key,
        topics: streams.iter().map(|id| format!("v1.1/Datastreams({id})/Observations")).collect(),
        filter: "",
    };
    let watch = Arc::new(Watch::default());
    listen(&city, watch.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let clock = Arc::new(Times { first: SystemClock.now(), number: AtomicUsize::new(0) });
    // Every rule has seen its Datastream once, and everything is warm.
    runtime.block_on(publish_all(&broker, &clock, 0..args.rules, QUIET, None))?;
    println!("{} rules over {} Datastreams; {} other messages a second", args.rules, streams.len(), args.messages);

    let cpu = usage::cpu(city.pid())?;
    let began = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    runtime.block_on(async {
        let noise = tokio::spawn(noise(broker.clone(), clock.clone(), args.messages, stop.clone()));
        let steady = steady(&broker, &clock, args, &watch).await;
        stop.store(true, Relaxed);
        noise.await??;
        steady
    })?;
    settled(&watch)?;
    let seconds = began.elapsed().as_secs_f64();
    show(&format!("{} alarms, {} a second", args.rules, args.alarms), &watch.all());
    println!(
        "  {:<44} {:.0} % of one CPU, {} events to the browser",
        "the server meanwhile",
        (usage::cpu(city.pid())? - cpu) / seconds * 100.0,
        watch.events.load(Relaxed)
    );

    if args.storm > 0 {
        runtime.block_on(publish_all(&broker, &clock, 0..args.rules, QUIET, None))?;
        std::thread::sleep(Duration::from_secs(2));
        runtime.block_on(publish_all(&broker, &clock, 0..args.storm, RAISE, Some(&watch)))?;
        settled(&watch)?;
        show(&format!("{} alarms at once", args.storm), &watch.all());
    }
    let raised = city.figure("lamppost_sensing_alarms_raised_total")? as usize;
    println!("  {raised} alarms raised, {} wanted", args.rules + args.storm);
    ensure!(raised == args.rules + args.storm, "alarms are missing or doubled");
    city.stop()
}

fn show(what: &str, took: &[Duration]) {
    let millis = |share| usage::quantile(took, share).as_secs_f64() * 1e3;
    println!(
        "  {what:<44} p50 {:>7.2} ms   p99 {:>7.2} ms   longest {:>7.2} ms   of {}",
        millis(0.5),
        millis(0.99),
        millis(1.0),
        took.len()
    );
}

fn settled(watch: &Watch) -> anyhow::Result<()> {
    let began = Instant::now();
    while watch.missing() > 0 {
        ensure!(began.elapsed() < Duration::from_secs(60), "{} alarms never reached the browser", watch.missing());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The pack with so many more rules.
fn pack(from: &Path, folder: &Path, rules: usize) -> anyhow::Result<std::path::PathBuf> {
    fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                copy(&entry.path(), &target)?;
            } else {
                std::fs::copy(entry.path(), target)?;
            }
        }
        Ok(())
    }
    let to = folder.join("pack");
    copy(from, &to)?;
    let mut text = String::new();
    for n in 0..rules {
        text.push_str(&format!(
            "[[rule]]\nkey = \"bench-{n}\"\ntenant = \"{TENANT}\"\nseverity = \"Minor\"\n\
             name = {{ en = \"Bench {n}\", zh-hant = \"測試 {n}\", zh-hans = \"测试 {n}\" }}\n\
             select = {{ datastream = \"bench-{n}\" }}\nwhen = {{ above = {{ raise = 5, clear = 2 }} }}\n\n"
        ));
    }
    std::fs::write(to.join("rules").join("bench.toml"), text)?;
    Ok(to)
}

/// A Datastream for each rule, each of a Thing of its own.
fn streams(city: &City, rules: usize) -> anyhow::Result<Vec<i64>> {
    let mut connection = Connection::open(city.http)?;
    let (sensor, property) = city.sensor_and_property(&mut connection)?;
    let authorization = city.authorization();
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let numbers: Vec<usize> = (0..rules).collect();
    for some in numbers.chunks(200) {
        let requests: Vec<Value> = some
            .iter()
            .map(|n| {
                json!({"id": n.to_string(), "method": "post", "url": "Things", "atomicityGroup": "all", "body": {
                "name": format!("bench {n}"), "description": "bench",
                "Datastreams": [{
                    "@iot.key": format!("bench-{n}"), "name": n.to_string(), "description": "bench",
                    "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
                    "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
                    "Sensor": {"@iot.id": sensor}, "ObservedProperty": {"@iot.id": property},
                }]}})
            })
            .collect();
        let body = json!({ "requests": requests }).to_string();
        let answer = connection.ask("POST", "/v1.1/$batch", &headers, body.as_bytes())?;
        let answer: Value = serde_json::from_slice(&answer.body)?;
        let failed = answer["responses"].as_array().into_iter().flatten().find(|r| r["status"] != 201);
        ensure!(failed.is_none(), "{failed:?}");
    }
    let mut ids = vec![0; rules];
    let mut path = "/v1.1/Datastreams?$select=id,name&$filter=description%20eq%20'bench'&$top=1000".to_owned();
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

/// Opens the live view and reads it until the end; returns when it is open.
fn listen(city: &City, watch: Arc<Watch>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(city.http)?;
    stream.set_nodelay(true)?;
    write!(
        stream,
        "GET /api/live HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nAuthorization: {}\r\n\r\n",
        city.http,
        city.authorization()
    )?;
    let mut lines = BufReader::new(stream);
    let mut status = String::new();
    lines.read_line(&mut status)?;
    ensure!(status.contains(" 200 "), "/api/live: {status}");
    std::thread::spawn(move || {
        let (mut line, mut alarm) = (String::new(), false);
        // Chunks of HTTP end with events, so their own lines are passed over as those of no event.
        while lines.read_line(&mut line).is_ok_and(|n| n > 0) {
            if let Some(event) = line.strip_prefix("event: ") {
                alarm = event.trim() == "alarm";
                watch.events.fetch_add(1, Relaxed);
            } else if alarm
                && let Some(data) = line.strip_prefix("data: ")
                && let Ok(data) = serde_json::from_str::<Value>(data.trim())
                && data["type"] == "alarm.raised"
                && let Some(rule) = data["rule"].as_str()
            {
                watch.heard(rule);
            }
            line.clear();
        }
    });
    Ok(())
}

/// Times go on, whoever publishes.
struct Times {
    first: Timestamp,
    number: AtomicUsize,
}

fn body(clock: &Times, result: f64) -> String {
    let at = clock.first.plus_micros(clock.number.fetch_add(1, Relaxed) as i64 * 1_000);
    format!(r#"{{"phenomenonTime":"{at}","result":{result}}}"#)
}

/// One message to each of these, as fast as they go out; waits for all PUBACKs.
async fn publish_all(
    broker: &Broker,
    clock: &Times,
    which: std::ops::Range<usize>,
    result: f64,
    watch: Option<&Watch>,
) -> anyhow::Result<()> {
    let mut client = Client::connect(broker, "bench-all").await?;
    let mut waiting = 0;
    for n in which {
        if let Some(watch) = watch {
            watch.sent.lock().unwrap_or_else(|e| e.into_inner()).insert(format!("bench-{n}"), Instant::now());
        }
        client.publish(&broker.topics[n], body(clock, result), (n % 60_000) as u16 + 1)?;
        waiting += 1;
        if waiting == 100 {
            client.flush().await?;
            while waiting > 0 {
                client.next().await?;
                waiting -= 1;
            }
        }
    }
    client.flush().await?;
    while waiting > 0 {
        client.next().await?;
        waiting -= 1;
    }
    Ok(())
}

/// One alarm after the other.
async fn steady(broker: &Broker, clock: &Times, args: &Args, watch: &Watch) -> anyhow::Result<()> {
    let mut client = Client::connect(broker, "bench-alarms").await?;
    let start = Instant::now();
    for n in 0..args.rules {
        let at = start + Duration::from_secs_f64(n as f64 / args.alarms as f64);
        tokio::time::sleep_until(at.into()).await;
        watch.sent.lock().unwrap_or_else(|e| e.into_inner()).insert(format!("bench-{n}"), Instant::now());
        client.publish(&broker.topics[n], body(clock, RAISE), (n % 60_000) as u16 + 1)?;
        client.flush().await?;
        client.next().await?;
    }
    Ok(())
}

/// What raises nothing: results between the level that raises and the one that clears.
async fn noise(broker: Broker, clock: Arc<Times>, rate: u64, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let mut client = Client::connect(&broker, "bench-noise").await?;
    let start = Instant::now();
    let mut n = 0usize;
    while rate > 0 && !stop.load(Relaxed) {
        tokio::time::sleep_until((start + Duration::from_secs_f64(n as f64 / rate as f64)).into()).await;
        client.publish(&broker.topics[n % broker.topics.len()], body(&clock, 3.0), (n % 60_000) as u16 + 1)?;
        client.flush().await?;
        client.next().await?;
        n += 1;
    }
    Ok(())
}
