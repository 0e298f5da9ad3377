//! `bench records`: small durable transactions per second from many callers at once.
//!
//! Every transaction is one INSERT and one UPDATE of a random row, and is answered after it is on the disk. The same work on
//! - SQLite with group commit, as the program runs it;
//! - SQLite with one flush for each transaction (`max_batch` 1), what a server without group commit would do;
//! - PostgreSQL 15, a throw-away cluster in the temporary folder, with fsync.

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use records::{Error, Migration, Options, Records, Stats, params};

const TABLES: &[Migration] = &[Migration {
    version: 1,
    name: "accounts and entries",
    sql: "CREATE TABLE bench_account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL);
          CREATE TABLE bench_entry (id IDENTITY, account BIGINT NOT NULL, amount BIGINT NOT NULL, note TEXT NOT NULL)",
}];

const ACCOUNTS: u64 = 10_000;

/// What to measure. `folder` decides the disk; the default is the working directory, because /tmp may be memory.
#[derive(Clone, Debug)]
pub struct Args {
    pub callers: usize,
    pub seconds: u64,
    pub folder: std::path::PathBuf,
    /// Writing connections to PostgreSQL.
    pub writers: usize,
    /// Transactions that share a COMMIT on one PostgreSQL connection.
    pub postgres_batch: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self { callers: 256, seconds: 5, folder: ".".into(), writers: 16, postgres_batch: 1 }
    }
}

struct Figure {
    name: String,
    per_second: f64,
    p50: Duration,
    p99: Duration,
    /// Of this process; the server's own is not in it.
    cpu: Duration,
    stats: Stats,
}

/// Runs all and prints a table.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let folder = tempfile::Builder::new().prefix("bench-records-").tempdir_in(&args.folder)?;
    let callers = args.callers;
    println!("{callers} callers, {} s each, small durable transactions", args.seconds);
    println!("the disk alone: {}", disk(folder.path())?);
    let grouped = Options::sqlite(folder.path().join("grouped.db"));
    let alone = Options { max_batch: 1, ..Options::sqlite(folder.path().join("alone.db")) };
    let database = testkit::postgres::database();
    let server = Options { writers: args.writers, max_batch: args.postgres_batch, ..Options::postgres(database.url()) };
    let mut figures = Vec::new();
    for (name, options) in [
        ("SQLite, group commit".to_owned(), grouped),
        ("SQLite, one flush each".to_owned(), alone),
        (format!("PostgreSQL 15, {} connections, batch {}", args.writers, args.postgres_batch), server),
    ] {
        let figure = runtime.block_on(measure(&name, &options, args)).with_context(|| name.clone())?;
        println!(
            "{:44} {:>9.0}/s   p50 {:>7.2} ms   p99 {:>7.2} ms   {:>6.1} a commit   {:>7.0} per CPU-second   {} retries",
            figure.name,
            figure.per_second,
            figure.p50.as_secs_f64() * 1e3,
            figure.p99.as_secs_f64() * 1e3,
            figure.stats.commands as f64 / figure.stats.flushes.max(1) as f64,
            figure.stats.commands as f64 / figure.cpu.as_secs_f64().max(0.01),
            figure.stats.retries,
        );
        figures.push(figure);
    }
    if let [grouped, alone, ..] = &figures[..] {
        println!("group commit: {:.0} times one flush each", grouped.per_second / alone.per_second);
    }
    Ok(())
}

/// What one fdatasync after a write costs here, before anything else is said about durability: appended pages of 4 KiB, as a small
/// transaction writes them, and 256 KiB, as a group of them does.
fn disk(folder: &std::path::Path) -> anyhow::Result<String> {
    let mut said = Vec::new();
    for size in [4 << 10, 256 << 10] {
        let path = folder.join("flushes");
        let mut file = std::fs::File::create(&path)?;
        let (page, began) = (vec![0x5au8; size], Instant::now());
        let mut took = Vec::new();
        while began.elapsed() < Duration::from_secs(1) {
            let asked = Instant::now();
            file.write_all(&page)?;
            file.sync_data()?;
            took.push(asked.elapsed());
        }
        let rate = took.len() as f64 / began.elapsed().as_secs_f64();
        took.sort_unstable();
        let ms = |share| crate::usage::quantile(&took, share).as_secs_f64() * 1e3;
        said.push(format!(
            "{rate:.0} fdatasync/s of {} KiB, p50 {:.2} ms, p99 {:.2} ms",
            size >> 10,
            ms(0.5),
            ms(0.99)
        ));
        std::fs::remove_file(&path)?;
    }
    Ok(said.join("; "))
}

async fn measure(name: &str, options: &Options, args: &Args) -> anyhow::Result<Figure> {
    let records = Records::open(options, Arc::new(kernel::SystemClock))?;
    records.migrate("bench", TABLES)?;
    records
        .write(|tx| {
            for id in 0..ACCOUNTS {
                tx.execute("INSERT INTO bench_account (id, balance) VALUES ($1, 0)", params![id as i64])?;
            }
            Ok::<_, Error>(())
        })
        .await?;
    let before = records.stats();
    let turn = Arc::new(AtomicU64::new(0));
    let cpu = cpu_time();
    let started = Instant::now();
    let end = started + Duration::from_secs(args.seconds);
    let callers: Vec<_> = (0..args.callers)
        .map(|_| {
            let (records, turn) = (records.clone(), Arc::clone(&turn));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < end {
                    let asked = Instant::now();
                    // A stride that is prime to the number of accounts: spread, and the same in every run.
                    let account = (turn.fetch_add(1, Ordering::Relaxed) * 7_919 % ACCOUNTS) as i64;
                    transact(&records, account).await?;
                    took.push(asked.elapsed());
                }
                Ok::<_, Error>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await??);
    }
    let elapsed = started.elapsed();
    let cpu = cpu_time().saturating_sub(cpu);
    let after = records.stats();
    // What was answered is there: as many entries as answers, and the balances agree.
    let (entries, sum): (i64, i64) = records
        .read(|read| {
            let sql = "SELECT (SELECT COUNT(*) FROM bench_entry), CAST(SUM(balance) AS BIGINT) FROM bench_account";
            read.query_one(sql, params![], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .await
        .map_err(|error: Error| error)?;
    ensure!(
        entries == took.len() as i64 && sum == entries,
        "{entries} entries, balances {sum}, {} answers",
        took.len()
    );
    records.close().await;
    took.sort_unstable();
    let at = |share: f64| took.get(((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1)));
    Ok(Figure {
        name: name.to_owned(),
        per_second: took.len() as f64 / elapsed.as_secs_f64(),
        p50: at(0.5).copied().unwrap_or_default(),
        p99: at(0.99).copied().unwrap_or_default(),
        cpu,
        stats: Stats {
            commands: after.commands - before.commands,
            flushes: after.flushes - before.flushes,
            retries: after.retries - before.retries,
            ..after
        },
    })
}

/// User and system time of this process so far: fields 14 and 15 of /proc/self/stat (proc(5)), in hundredths of a second.
/// Zero where there is no such file.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in brackets, which may hold spaces.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

async fn transact(records: &Records, account: i64) -> Result<(), Error> {
    records
        .write(move |tx| {
            tx.execute(
                "INSERT INTO bench_entry (account, amount, note) VALUES ($1, $2, $3)",
                params![account, 1, "a transfer like any other"],
            )?;
            tx.execute("UPDATE bench_account SET balance = balance + $2 WHERE id = $1", params![account, 1])?;
            Ok(())
        })
        .await
}
