//! `bench ingest`: the same observations through the front door of Lamppost and of its peers, one after the other, on the same disk.
//!
//! Each server is a process of its own on an empty folder. Bodies are made a slab at a time while the clock stands, batch by batch the same
//! rows for everybody: some points of some series, each series in the order of time (`series.rs` says what they look like). Connections
//! share the series between them. In the end every server is asked how many rows it has, and for the values of some of them.
//!
//! CPU is the server's alone (and of whatever it started), from the first row on: once until the last acknowledgement, and once until it has
//! settled, because an engine that puts its work off has not saved it.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::ValueEnum;

use crate::{
    Place,
    http::Connection,
    lamppost::{self, Lamppost},
    peers::{Influx, Postgres, Victoria},
    series::{Stretch, millis, thousandths},
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
    #[arg(long, default_value_t = 600)]
    pub settle: u64,
    /// Rows that PostgreSQL gets at most, the first of every series: with its two indexes a row takes some 130 bytes.
    #[arg(long, default_value_t = 20_000_000)]
    pub postgres_rows: usize,
    /// A setting of Lamppost, such as `lake.seal=5s`.
    #[arg(long)]
    pub set: Vec<String>,
    /// All of them unless named; Lamppost is what the others are compared with.
    #[arg(long, value_enum)]
    pub server: Vec<Server>,
}

impl Server {
    /// Bytes a row that a server may need on the disk for a while, generously: its log, what it has merged and not yet removed, its data.
    fn room(self) -> u64 {
        match self {
            Self::Lamppost => 24,
            Self::Influxdb => 20,
            Self::Victoriametrics => 8,
            Self::Postgresql => 250,
        }
    }
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
    /// The values of a series at a time; one, when all is well.
    fn value(&self, series: usize, millis: i64) -> anyhow::Result<Vec<f64>>;
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

/// Rows whose values are asked for in the end.
const SAMPLES: usize = 16;

struct Figure {
    name: &'static str,
    promise: &'static str,
    rows: u64,
    wall: f64,
    cpu: f64,
    cpu_settled: f64,
    bytes: u64,
    /// The most memory that the process held, in bytes; `None` for a server of several processes, which share most of it.
    memory: Option<u64>,
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
    let points = |server| {
        if server == Server::Postgresql {
            args.points.min(args.postgres_rows.div_ceil(args.series))
        } else {
            args.points
        }
    };
    // One after the other, each on an empty folder, so the largest decides.
    let room = |server: &Server| (args.series * points(*server)) as u64 * server.room() + (2 << 30);
    let (needed, free) = (chosen.iter().map(room).max().unwrap_or(0), free_bytes(&args.place.folder)?);
    println!("room on the disk: {:.1} GB needed at most, {:.1} GB free", needed as f64 / 1e9, free as f64 / 1e9);
    ensure!(needed <= free, "{} has too little room", args.place.folder.display());
    if chosen.contains(&Server::Postgresql) && points(Server::Postgresql) < args.points {
        println!(
            "PostgreSQL gets the first {} points of each series: all of them would take {:.0} GB. Its trees stay smaller, which is to its advantage.",
            points(Server::Postgresql),
            (args.series * args.points) as f64 * 130.0 / 1e9
        );
    }
    let settings: Vec<&str> = args.set.iter().map(String::as_str).collect();
    let mut figures = Vec::new();
    for server in chosen {
        let folder = tempfile::Builder::new().prefix("bench-ingest-").tempdir_in(&args.place.folder)?;
        let peer: Box<dyn Peer> = match server {
            Server::Lamppost => Box::new(Lamppost::start(&args.place, folder.path(), args.series, &settings)?),
            Server::Influxdb => Box::new(Influx::start(folder.path())?),
            Server::Victoriametrics => Box::new(Victoria::start(folder.path())?),
            Server::Postgresql => Box::new(Postgres::start(&args.place.folder)?),
        };
        let figure = measure(peer, args, points(server))?;
        show(&figure);
        figures.push(figure);
    }
    if let Some((ours, others)) = figures.split_first().filter(|(first, _)| first.name == lamppost::NAME) {
        for other in others {
            println!(
                "{} to {}: {:.2} x rows per CPU-second ({:.2} x settled), {:.2} x bytes a row",
                lamppost::NAME,
                other.name,
                rate(ours.rows, ours.cpu) / rate(other.rows, other.cpu),
                rate(ours.rows, ours.cpu_settled) / rate(other.rows, other.cpu_settled),
                per_row(ours) / per_row(other),
            );
        }
    }
    Ok(())
}

/// As df(1) tells it.
fn free_bytes(folder: &Path) -> anyhow::Result<u64> {
    let output = Command::new("df").args(["--block-size=1", "--output=avail"]).arg(folder).output().context("df")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().nth(1).and_then(|line| line.trim().parse().ok()).context("df did not say how much is free")
}

fn per_row(figure: &Figure) -> f64 {
    figure.bytes as f64 / figure.rows.max(1) as f64
}

fn rate(rows: u64, seconds: f64) -> f64 {
    rows as f64 / seconds.max(0.01)
}

fn show(f: &Figure) {
    println!(
        "{:16} {:>9.0} rows/CPU-s  {:>9.0} settled  {:>9.0} rows/s  {:>6.2} bytes a row  {:>6} MB  ack p50 {:>7.2} ms  p99 {:>7.2} ms   acknowledges {}",
        f.name,
        rate(f.rows, f.cpu),
        rate(f.rows, f.cpu_settled),
        rate(f.rows, f.wall),
        per_row(f),
        f.memory.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string()),
        usage::quantile(&f.acks, 0.5).as_secs_f64() * 1e3,
        usage::quantile(&f.acks, 0.99).as_secs_f64() * 1e3,
        f.promise,
    );
}

fn measure(peer: Box<dyn Peer>, args: &Args, points: usize) -> anyhow::Result<Figure> {
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
    while first < points {
        let until = points.min(first + at_once);
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
    let (rows, wanted) = (peer.rows().with_context(context)?, (args.series * points) as u64);
    ensure!(rows == wanted, "{name}: {rows} rows are there, {wanted} were acknowledged");
    for n in 0..SAMPLES {
        // Spread over series and points, the last point of the last series among them.
        let (series, point) = ((n + 1) * args.series / SAMPLES - 1, (SAMPLES - n) * points / SAMPLES - 1);
        let found = peer.value(series, millis(series, point)).with_context(context)?;
        let sent = thousandths(series, point) as f64 / 1e3;
        ensure!(found == [sent], "{name}: series {series}, point {point}: {found:?} is there, {sent} was acknowledged");
    }
    let memory = usage::peak_memory(peer.pid());
    let (bytes, after) = peer.finish().with_context(context)?;
    acks.sort_unstable();
    Ok(Figure { name, promise, rows, wall: wall.as_secs_f64(), cpu, cpu_settled: settled + after, bytes, memory, acks })
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
