//! `bench ingest`: the same observations through the front door of Lamppost and of its peers, one after the other, on the same disk.
//!
//! Each server is a process of its own on an empty folder. Bodies are made before the clock runs, batch by batch the same rows for
//! everybody: some points of some series, each series in the order of time. Connections share the series between them. In the end every
//! server is asked how many rows it has.
//!
//! CPU is the server's alone (and of whatever it started), from the first row on: once until the last acknowledgement, and once until it has
//! settled, because an engine that puts its work off has not saved it.

use std::{
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use kernel::Timestamp;
use serde_json::Value;

use crate::{
    Place,
    city::City,
    http::{Connection, request},
    peers::{Influx, Postgres, Victoria},
    usage,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Server {
    Lamppost,
    Influxdb,
    Victoriametrics,
    Postgresql,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub place: Place,
    #[arg(long, default_value_t = 1_000)]
    pub series: usize,
    /// Of each series. The full comparison has 1000000.
    #[arg(long, default_value_t = 2_000)]
    pub points: usize,
    /// Rows in a batch.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Rows of one series in a batch.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub run: u32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub connections: u32,
    /// Rows that are prepared at a time; decides the memory of this program.
    #[arg(long, default_value_t = 2_000_000)]
    pub slab: usize,
    /// The longest that a server may take to settle, in seconds.
    #[arg(long, default_value_t = 180)]
    pub settle: u64,
    /// All of them unless named; Lamppost is what the others are compared with.
    #[arg(long, value_enum)]
    pub server: Vec<Server>,
}

/// Rows of one series that follow each other.
pub struct Stretch {
    pub series: usize,
    pub first: usize,
    pub rows: usize,
}

/// 2024-01-01, an observation each ten seconds: past for every server, and within a year's partition for most sizes.
const START: i64 = 1_704_067_200;
const EVERY: i64 = 10;
/// Points of a day, for the wave that most measurements have.
const DAY: f64 = 8_640.0;

impl Stretch {
    /// Time in seconds since 1970, and the value in hundredths.
    pub fn each(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        (self.first..self.first + self.rows).map(|point| (START + point as i64 * EVERY, hundredths(self.series, point)))
    }
}

/// What a gauge says: a day's wave and some noise, two decimals. The same for the same series and point, always.
fn hundredths(series: usize, point: usize) -> i64 {
    let phase = (point as f64 / DAY + series as f64 / 97.0) * std::f64::consts::TAU;
    // SplitMix64's last step: every bit of the result depends on every bit of the input.
    let mut mixed = ((series as u64) << 32 | point as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let noise = ((mixed ^ (mixed >> 31)) % 41) as i64 - 20;
    2_000 + (500.0 * phase.sin()) as i64 + noise
}

pub fn decimal(out: &mut String, hundredths: i64) {
    let sign = if hundredths < 0 { "-" } else { "" };
    // Writing to a String cannot fail.
    let _ = write!(out, "{sign}{}.{:02}", hundredths.abs() / 100, hundredths.abs() % 100);
}

/// A server that rows can be put into.
pub trait Peer: Sync {
    fn name(&self) -> &'static str;
    /// When it acknowledges.
    fn promise(&self) -> &'static str;
    fn pid(&self) -> u32;
    /// The bytes that put these rows, as they go over the wire.
    fn encode(&self, rows: &[Stretch]) -> Vec<u8>;
    fn connect(&self) -> anyhow::Result<Box<dyn Sink>>;
    /// Waits until it has done what it had put off.
    fn settle(&self, patience: Duration) -> anyhow::Result<()>;
    fn rows(&self) -> anyhow::Result<u64>;
    /// Stops it, and says what its rows take on the disk, and CPU-seconds spent on that after `settle`.
    fn finish(self: Box<Self>) -> anyhow::Result<(u64, f64)>;
}

/// One connection.
pub trait Sink: Send {
    /// Puts a batch and waits for the acknowledgement.
    fn put(&mut self, batch: &[u8]) -> anyhow::Result<()>;
}

/// A connection whose batches are HTTP requests.
pub struct Posting(pub Connection);

impl Sink for Posting {
    fn put(&mut self, batch: &[u8]) -> anyhow::Result<()> {
        let answer = self.0.send(batch)?;
        ensure!((200..300).contains(&answer.status), "{} {}", answer.status, answer.text());
        Ok(())
    }
}

struct Figure {
    name: &'static str,
    promise: &'static str,
    rows: u64,
    wall: f64,
    cpu: f64,
    cpu_settled: f64,
    bytes: u64,
    acks: Vec<Duration>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.series > 0 && args.points > 0, "there is nothing to send");
    let all = [Server::Lamppost, Server::Influxdb, Server::Victoriametrics, Server::Postgresql];
    let chosen = if args.server.is_empty() { all.to_vec() } else { args.server.clone() };
    println!(
        "{} series x {} points, batches of {} rows ({} of a series), {} connections",
        args.series, args.points, args.batch, args.run, args.connections
    );
    let mut figures = Vec::new();
    for server in chosen {
        let folder = tempfile::Builder::new().prefix("bench-ingest-").tempdir_in(&args.place.folder)?;
        let peer: Box<dyn Peer> = match server {
            Server::Lamppost => Box::new(Lamppost::start(&args.place, folder.path(), args.series)?),
            Server::Influxdb => Box::new(Influx::start(folder.path())?),
            Server::Victoriametrics => Box::new(Victoria::start(folder.path())?),
            Server::Postgresql => Box::new(Postgres::start(&args.place.folder)?),
        };
        let figure = measure(peer, args)?;
        show(&figure);
        figures.push(figure);
    }
    if let Some((ours, others)) = figures.split_first().filter(|(first, _)| first.name == LAMPPOST) {
        for other in others {
            println!(
                "{LAMPPOST} to {}: {:.2} x rows per CPU-second ({:.2} x settled), {:.2} x bytes a row",
                other.name,
                rate(ours.rows, ours.cpu) / rate(other.rows, other.cpu),
                rate(ours.rows, ours.cpu_settled) / rate(other.rows, other.cpu_settled),
                ours.bytes as f64 / other.bytes.max(1) as f64,
            );
        }
    }
    Ok(())
}

fn rate(rows: u64, seconds: f64) -> f64 {
    rows as f64 / seconds.max(0.01)
}

fn show(f: &Figure) {
    println!(
        "{:16} {:>9.0} rows/CPU-s  {:>9.0} settled  {:>9.0} rows/s  {:>6.2} bytes a row  ack p50 {:>7.2} ms  p99 {:>7.2} ms   acknowledges {}",
        f.name,
        rate(f.rows, f.cpu),
        rate(f.rows, f.cpu_settled),
        rate(f.rows, f.wall),
        f.bytes as f64 / f.rows as f64,
        usage::quantile(&f.acks, 0.5).as_secs_f64() * 1e3,
        usage::quantile(&f.acks, 0.99).as_secs_f64() * 1e3,
        f.promise,
    );
}

fn measure(peer: Box<dyn Peer>, args: &Args) -> anyhow::Result<Figure> {
    let (name, promise) = (peer.name(), peer.promise());
    let context = || name.to_owned();
    let connections = args.connections as usize;
    let mut sinks: Vec<Box<dyn Sink>> =
        (0..connections).map(|_| peer.connect()).collect::<Result<_, _>>().with_context(context)?;
    let (mut wall, mut acks) = (Duration::ZERO, Vec::new());
    let before = usage::cpu(peer.pid())?;
    let (run, batch) = (args.run as usize, args.batch as usize);
    // Whole runs, so that a slab's border is nothing special.
    let at_once = (args.slab / args.series / run).max(1) * run;
    let mut first = 0;
    while first < args.points {
        let until = args.points.min(first + at_once);
        let prepared: Vec<Vec<Vec<u8>>> =
            (0..connections).map(|c| batches(&*peer, args.series, c, connections, first..until, run, batch)).collect();
        let started = Instant::now();
        let took: Vec<anyhow::Result<Vec<Duration>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = sinks
                .iter_mut()
                .zip(&prepared)
                .map(|(sink, prepared)| {
                    scope.spawn(move || {
                        let mut took = Vec::with_capacity(prepared.len());
                        for batch in prepared {
                            let asked = Instant::now();
                            sink.put(batch)?;
                            took.push(asked.elapsed());
                        }
                        anyhow::Ok(took)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        wall += started.elapsed();
        for one in took {
            acks.extend(one.with_context(context)?);
        }
        first = until;
    }
    let cpu = usage::cpu(peer.pid())? - before;
    drop(sinks);
    peer.settle(Duration::from_secs(args.settle)).with_context(context)?;
    let settled = usage::cpu(peer.pid())? - before;
    let (rows, wanted) = (peer.rows().with_context(context)?, (args.series * args.points) as u64);
    ensure!(rows == wanted, "{name}: {rows} rows are there, {wanted} were acknowledged");
    let (bytes, after) = peer.finish().with_context(context)?;
    acks.sort_unstable();
    Ok(Figure { name, promise, rows, wall: wall.as_secs_f64(), cpu, cpu_settled: settled + after, bytes, acks })
}

/// What one connection sends of a range of points: every `connections`th series, `run` points of each at a time.
fn batches(
    peer: &dyn Peer,
    series: usize,
    connection: usize,
    connections: usize,
    points: std::ops::Range<usize>,
    run: usize,
    batch: usize,
) -> Vec<Vec<u8>> {
    let (mut out, mut rows, mut gathered) = (Vec::new(), 0, Vec::new());
    for first in points.clone().step_by(run) {
        for series in (connection..series).step_by(connections) {
            let stretch = Stretch { series, first, rows: run.min(points.end - first) };
            rows += stretch.rows;
            gathered.push(stretch);
            if rows >= batch {
                out.push(peer.encode(&gathered));
                gathered.clear();
                rows = 0;
            }
        }
    }
    if !gathered.is_empty() {
        out.push(peer.encode(&gathered));
    }
    out
}

const LAMPPOST: &str = "Lamppost";

struct Lamppost {
    city: City,
    ids: Vec<i64>,
    authorization: String,
}

impl Lamppost {
    fn start(place: &Place, folder: &Path, series: usize) -> anyhow::Result<Self> {
        let city = City::start(&place.program()?, &place.pack, folder)?;
        let ids = city.datastreams(series)?;
        let authorization = city.authorization();
        Ok(Self { city, ids, authorization })
    }
}

impl Peer for Lamppost {
    fn name(&self) -> &'static str {
        LAMPPOST
    }
    fn promise(&self) -> &'static str {
        "after fdatasync"
    }
    fn pid(&self) -> u32 {
        self.city.pid()
    }

    fn encode(&self, rows: &[Stretch]) -> Vec<u8> {
        let mut body = String::from("[");
        for (n, stretch) in rows.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            let id = self.ids[stretch.series];
            let _ = write!(
                body,
                r#"{comma}{{"Datastream":{{"@iot.id":{id}}},"components":["phenomenonTime","result"],"dataArray":["#
            );
            for (n, (at, value)) in stretch.each().enumerate() {
                let comma = if n > 0 { "," } else { "" };
                let _ = write!(body, r#"{comma}["{}","#, Timestamp::from_secs(at));
                decimal(&mut body, value);
                body.push(']');
            }
            body.push_str("]}");
        }
        body.push(']');
        let headers = [
            ("Authorization", &*self.authorization),
            ("Content-Type", "application/json"),
            ("Prefer", "return=minimal"),
        ];
        request(self.city.http, "POST", "/v1.1/CreateObservations", &headers, body.as_bytes())
    }

    fn connect(&self) -> anyhow::Result<Box<dyn Sink>> {
        Ok(Box::new(Posting(Connection::open(self.city.http)?)))
    }

    /// Until everything is in the lake.
    fn settle(&self, patience: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.city.figure("lamppost_sensing_unsealed_rows")? > 0.0 {
            ensure!(began.elapsed() < patience, "not everything is sealed after {} s", patience.as_secs());
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn rows(&self) -> anyhow::Result<u64> {
        let mut connection = Connection::open(self.city.http)?;
        let mut rows = 0;
        for id in &self.ids {
            let path = format!("/v1.1/Datastreams({id})/Observations?$count=true&$top=0");
            let page: Value = serde_json::from_slice(&self.city.get(&mut connection, &path)?)?;
            rows += page["@iot.count"].as_u64().context("no @iot.count")?;
        }
        Ok(rows)
    }

    /// The server merges files after every sixteenth seal, which a short run never reaches. So the same is done here on the folder that it has
    /// left, and the CPU for it is counted in.
    fn finish(self: Box<Self>) -> anyhow::Result<(u64, f64)> {
        let Self { city, .. } = *self;
        let data = city.data.clone();
        city.stop()?;
        let before = usage::own_cpu()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let bytes = runtime.block_on(async {
            let topics = [stream::TopicOptions::new("observations").guarded(), stream::TopicOptions::new("events")];
            let log = stream::Stream::open(
                stream::Options::local(data.join("stream"), topics),
                Arc::new(kernel::SystemClock),
            )
            .await?;
            let lake = lake::Lake::open(lake::Options::new(lake::Root::Local(data.join("lake"))))?;
            let options = sensing::observe::Options::new(data.join("heads"));
            let observe = sensing::observe::Observe::open(options, log.topic("observations")?, &lake).await?;
            observe.table().compact(lake::Compaction { min_files: 2, ..lake::Compaction::default() }).await?;
            let bytes = observe.table().stats().bytes;
            observe.close(Duration::from_secs(10)).await;
            log.close().await;
            anyhow::Ok(bytes)
        })?;
        drop(runtime);
        Ok((bytes, usage::own_cpu()? - before))
    }
}
