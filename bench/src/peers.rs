//! The servers beside which Lamppost is measured, each as Debian packages it, on an empty folder, with the settings of a careful operator.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use kernel::Timestamp;
use postgres::{Client, NoTls};
use serde_json::Value;
use std::{io::Write as _, os::unix::fs::MetadataExt as _};

use crate::{
    http::{Connection, free_address, request},
    ingest::{Peer, Posting, Sink},
    series::{Stretch, decimal, decimals},
    usage,
};

/// A child that ends with its handle.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, package: &str) -> anyhow::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(started.with_context(|| format!("{program} cannot be started; apt-get install {package}"))?))
    }

    fn answers(&mut self, address: SocketAddr, path: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                bail!("the server ended with {status}");
            }
            if Connection::open(address).and_then(|mut c| c.ask("GET", path, &[], b"")).is_ok() {
                return Ok(());
            }
            ensure!(began.elapsed() < Duration::from_secs(60), "the server does not answer within a minute");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a folder has kept its size for ten seconds.
fn quiet(folder: &Path, patience: Duration) -> anyhow::Result<()> {
    let (began, mut since, mut size) = (Instant::now(), Instant::now(), usage::disk(folder));
    while since.elapsed() < Duration::from_secs(10) {
        ensure!(began.elapsed() < patience, "it is still writing after {} s", patience.as_secs());
        std::thread::sleep(Duration::from_millis(500));
        let now = usage::disk(folder);
        if now != size {
            (size, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Line protocol with times in milliseconds, which both InfluxDB and VictoriaMetrics take at `/write`.
fn lines(address: SocketAddr, path: &str, rows: &[Stretch]) -> Vec<u8> {
    let mut body = String::new();
    for stretch in rows {
        for (at, value) in stretch.each() {
            let _ = write!(body, "level,series=s{} value=", stretch.series);
            decimal(&mut body, value, decimals(stretch.series));
            let _ = writeln!(body, " {at}");
        }
    }
    request(address, "POST", path, &[("Content-Type", "text/plain")], body.as_bytes())
}

pub struct Influx {
    process: Process,
    http: SocketAddr,
    data: PathBuf,
}

impl Influx {
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let (http, rpc) = (free_address()?, free_address()?);
        let data = folder.canonicalize()?.join("influxdb");
        std::fs::create_dir_all(&data)?;
        // What has been quiet for ten seconds is compacted at once, not after ten minutes and four hours: a short run is to see it.
        let configuration = format!(
            "reporting-disabled = true\nbind-address = \"{rpc}\"\n\
             [meta]\ndir = \"{0}/meta\"\nlogging-enabled = false\n\
             [data]\ndir = \"{0}/data\"\nwal-dir = \"{0}/wal\"\nquery-log-enabled = false\n\
             cache-snapshot-write-cold-duration = \"10s\"\ncompact-full-write-cold-duration = \"10s\"\n\
             [monitor]\nstore-enabled = false\n\
             [http]\nbind-address = \"{http}\"\nlog-enabled = false\n\
             [logging]\nlevel = \"error\"\n",
            data.display()
        );
        let file = folder.join("influxdb.conf");
        std::fs::write(&file, configuration)?;
        let mut process = Process::start(Command::new("influxd").arg("-config").arg(&file), "influxdb")?;
        process.answers(http, "/ping")?;
        Connection::open(http)?.ask("POST", "/query?q=CREATE%20DATABASE%20bench", &[], b"")?;
        Ok(Self { process, http, data })
    }
}

impl Peer for Influx {
    fn name(&self) -> &'static str {
        "InfluxDB 1.6"
    }
    fn promise(&self) -> &'static str {
        "after fsync of its log"
    }
    fn pid(&self) -> u32 {
        self.process.0.id()
    }
    fn encode(&self, rows: &[Stretch]) -> Vec<u8> {
        lines(self.http, "/write?db=bench&precision=ms", rows)
    }
    fn connect(&self) -> anyhow::Result<Box<dyn Sink>> {
        Ok(Box::new(Posting(Connection::open(self.http)?)))
    }
    fn settle(&self, patience: Duration) -> anyhow::Result<()> {
        // Its snapshot begins ten seconds after the last row, and a compaction as long after that.
        std::thread::sleep(Duration::from_secs(25));
        quiet(&self.data, patience)
    }
    fn rows(&self) -> anyhow::Result<u64> {
        let path = "/query?db=bench&q=SELECT%20count(value)%20FROM%20level";
        let answer = Connection::open(self.http)?.ask("GET", path, &[], b"")?;
        let found: Value = serde_json::from_slice(&answer.body)?;
        found["results"][0]["series"][0]["values"][0][1].as_u64().with_context(|| answer.text())
    }
    fn value(&self, series: usize, millis: i64) -> anyhow::Result<Vec<f64>> {
        let path = format!(
            "/query?db=bench&q=SELECT%20value%20FROM%20level%20WHERE%20%22series%22%3D's{series}'%20AND%20time%3D{millis}ms"
        );
        let answer = Connection::open(self.http)?.ask("GET", &path, &[], b"")?;
        let found: Value = serde_json::from_slice(&answer.body)?;
        let rows = found["results"][0]["series"][0]["values"].as_array();
        Ok(rows.into_iter().flatten().filter_map(|row| row[1].as_f64()).collect())
    }
    fn finish(self: Box<Self>) -> anyhow::Result<(u64, f64)> {
        Ok((usage::disk(&self.data), 0.0))
    }
}

pub struct Victoria {
    process: Process,
    http: SocketAddr,
    data: PathBuf,
}

impl Victoria {
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let http = free_address()?;
        let data = folder.canonicalize()?.join("victoria-metrics");
        let mut command = Command::new("victoria-metrics");
        command
            .arg(format!("-storageDataPath={}", data.display()))
            .arg(format!("-httpListenAddr={http}"))
            // In months: a hundred years. It closes connections that are two minutes old, unless told otherwise.
            .args(["-retentionPeriod=1200", "-loggerLevel=ERROR", "-http.connTimeout=24h"]);
        let mut process = Process::start(&mut command, "victoria-metrics")?;
        process.answers(http, "/health")?;
        Ok(Self { process, http, data })
    }
}

impl Peer for Victoria {
    fn name(&self) -> &'static str {
        "VictoriaMetrics"
    }
    fn promise(&self) -> &'static str {
        "BEFORE anything is on the disk"
    }
    fn pid(&self) -> u32 {
        self.process.0.id()
    }
    fn encode(&self, rows: &[Stretch]) -> Vec<u8> {
        lines(self.http, "/write?precision=ms", rows)
    }
    fn connect(&self) -> anyhow::Result<Box<dyn Sink>> {
        Ok(Box::new(Posting(Connection::open(self.http)?)))
    }
    fn settle(&self, patience: Duration) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.http)?;
        connection.ask("GET", "/internal/force_flush", &[], b"")?;
        connection.ask("GET", "/internal/force_merge", &[], b"")?;
        quiet(&self.data, patience)
    }
    /// `vm_rows` of the parts that hold samples; the index has rows of its own.
    fn rows(&self) -> anyhow::Result<u64> {
        let text = Connection::open(self.http)?.ask("GET", "/metrics", &[], b"")?.text();
        let parts = text.lines().filter_map(|line| line.strip_prefix("vm_rows{type=\"storage/")?.split_once("} "));
        Ok(parts.filter_map(|(_, count)| count.trim().parse::<f64>().ok()).sum::<f64>() as u64)
    }
    fn value(&self, series: usize, millis: i64) -> anyhow::Result<Vec<f64>> {
        let time = format!("{}.{:03}", millis / 1_000, millis % 1_000);
        let path =
            format!("/api/v1/export?match%5B%5D=level_value%7Bseries%3D%22s{series}%22%7D&start={time}&end={time}");
        let answer = Connection::open(self.http)?.ask("GET", &path, &[], b"")?;
        if answer.body.is_empty() {
            return Ok(Vec::new());
        }
        let found: Value = serde_json::from_slice(&answer.body)?;
        Ok(found["values"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect())
    }
    fn finish(self: Box<Self>) -> anyhow::Result<(u64, f64)> {
        Ok((usage::disk(&self.data), 0.0))
    }
}

pub struct Postgres {
    database: testkit::postgres::Database,
    pid: u32,
}

/// Ids and times apart would be two columns and a B-tree each, as the usual SensorThings servers have them.
const TABLE: &str = "CREATE TABLE observation (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    datastream BIGINT NOT NULL,
    phenomenon_time TIMESTAMPTZ NOT NULL,
    result DOUBLE PRECISION);
CREATE UNIQUE INDEX ON observation (datastream, phenomenon_time)";

impl Postgres {
    /// A throw-away cluster in the temporary folder, which must lie on the disk that is measured.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let temporary = std::env::temp_dir();
        ensure!(
            std::fs::metadata(&temporary)?.dev() == std::fs::metadata(folder)?.dev(),
            "PostgreSQL would run in {}, which is on another disk than {}: set TMPDIR",
            temporary.display(),
            folder.display()
        );
        // What every guide says first: memory, and a log that does not force a checkpoint every minute.
        testkit::postgres::settings(&[
            "shared_buffers=1GB",
            "max_wal_size=8GB",
            "checkpoint_timeout=15min",
            "wal_compression=on",
        ]);
        let database = testkit::postgres::database();
        database.run(TABLE);
        let pid = postgres_pid(&database)?;
        Ok(Self { database, pid })
    }
}

/// The process that all others of the cluster come from.
pub fn postgres_pid(database: &testkit::postgres::Database) -> anyhow::Result<u32> {
    let data: String = Client::connect(database.url(), NoTls)?.query_one("SHOW data_directory", &[])?.get(0);
    // The first line of postmaster.pid; only its owner and root may look into the folder.
    let lock = std::fs::read_to_string(Path::new(&data).join("postmaster.pid")).context("postmaster.pid")?;
    lock.lines().next().and_then(|line| line.trim().parse().ok()).context("postmaster.pid")
}

struct Copying(Client);

impl Sink for Copying {
    fn put(&mut self, batch: &[u8]) -> anyhow::Result<()> {
        let mut copy = self.0.copy_in("COPY observation (datastream, phenomenon_time, result) FROM STDIN")?;
        copy.write_all(batch)?;
        copy.finish()?;
        Ok(())
    }
}

impl Peer for Postgres {
    fn name(&self) -> &'static str {
        "PostgreSQL 15"
    }
    fn promise(&self) -> &'static str {
        "after fsync of its log"
    }
    fn pid(&self) -> u32 {
        self.pid
    }
    fn encode(&self, rows: &[Stretch]) -> Vec<u8> {
        let mut body = String::new();
        for stretch in rows {
            for (at, value) in stretch.each() {
                let _ = write!(body, "{}\t{}\t", stretch.series, Timestamp::from_micros(at * 1_000));
                decimal(&mut body, value, decimals(stretch.series));
                body.push('\n');
            }
        }
        body.into_bytes()
    }
    fn connect(&self) -> anyhow::Result<Box<dyn Sink>> {
        Ok(Box::new(Copying(Client::connect(self.database.url(), NoTls)?)))
    }
    fn settle(&self, _patience: Duration) -> anyhow::Result<()> {
        self.database.run("VACUUM ANALYZE observation");
        self.database.run("CHECKPOINT");
        Ok(())
    }
    fn rows(&self) -> anyhow::Result<u64> {
        let mut client = Client::connect(self.database.url(), NoTls)?;
        let rows: i64 = client.query_one("SELECT COUNT(*) FROM observation", &[])?.get(0);
        Ok(u64::try_from(rows)?)
    }
    fn value(&self, series: usize, millis: i64) -> anyhow::Result<Vec<f64>> {
        let at = Timestamp::from_micros(millis * 1_000);
        let sql = format!("SELECT result FROM observation WHERE datastream = {series} AND phenomenon_time = '{at}'");
        let rows = Client::connect(self.database.url(), NoTls)?.query(&sql, &[])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
    /// The table with its two indexes. The log, which it keeps for a while, is not counted.
    fn finish(self: Box<Self>) -> anyhow::Result<(u64, f64)> {
        let mut client = Client::connect(self.database.url(), NoTls)?;
        let bytes: i64 = client.query_one("SELECT pg_total_relation_size('observation')", &[])?.get(0);
        self.database.run("DROP TABLE observation");
        Ok((u64::try_from(bytes)?, 0.0))
    }
}
