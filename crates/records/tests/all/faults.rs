//! Processes that die, disks that fill, servers that go away.

use std::{
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use kernel::SystemClock;
use records::{Error, Options, Records, params};

use crate::support::{COUNTERS, Engine, Place, counter, demo};

/// Where a child process finds its database.
const FOLDER: &str = "RECORDS_TEST_FOLDER";

fn child(name: &str, folder: &Path) -> (std::ffi::OsString, Vec<String>, (&'static str, std::path::PathBuf)) {
    let arguments = ["--exact", name, "--ignored", "--nocapture", "--test-threads=1"].map(str::to_owned);
    (std::env::current_exe().unwrap().into(), arguments.into(), (FOLDER, folder.to_owned()))
}

fn open(folder: &Path) -> Records {
    let records = Records::open(&Options::sqlite(folder.join("city.db")), Arc::new(SystemClock)).unwrap();
    records.migrate("demo", COUNTERS).unwrap();
    records
}

fn notes(records: &Records) -> Vec<String> {
    let sql = "SELECT note FROM demo_note ORDER BY id";
    records
        .read_blocking(|read| read.query(sql, &[], |row| row.get(0)))
        .unwrap_or_else(|error: Error| panic!("{error}"))
}

/// Everything that was acknowledged is there after a kill -9, at any moment, again and again on the same file.
#[test]
fn what_was_acknowledged_survives_a_kill() {
    let place = Place::new(Engine::Sqlite);
    let mut acknowledged = std::collections::BTreeSet::new();
    for round in 0..8 {
        let (program, arguments, (key, folder)) = child("faults::child_that_is_killed", place.folder());
        let mut running =
            Command::new(program).args(arguments).env(key, folder).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(running.stdout.take().unwrap());
        let mut line = String::new();
        let target = acknowledged.len() + 40 + round * 37;
        loop {
            line.clear();
            if lines.read_line(&mut line).unwrap() == 0 {
                break;
            }
            // A line without its end was cut by the kill; the harness's own lines do not start so.
            if let Some(note) = line.strip_prefix("ack ").and_then(|note| note.strip_suffix('\n')) {
                acknowledged.insert(note.to_owned());
            }
            if acknowledged.len() == target {
                // SIGKILL. What the child had printed before is still in the pipe, so the loop goes on to its end.
                running.kill().unwrap();
            }
        }
        assert!(!running.wait().unwrap().success());
        assert!(acknowledged.len() >= target, "the child ended by itself");
        let records = open(place.folder());
        let kept: std::collections::BTreeSet<String> = notes(&records).into_iter().collect();
        let lost: Vec<_> = acknowledged.difference(&kept).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        let whole =
            records.read_blocking(|read| read.query_one("PRAGMA integrity_check", &[], |row| row.get::<String>(0)));
        assert_eq!(whole, Ok::<_, Error>("ok".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of what_was_acknowledged_survives_a_kill"]
async fn child_that_is_killed() {
    let folder = std::env::var_os(FOLDER).expect("started by its parent");
    let records = open(Path::new(&folder));
    let writers = (0..32).map(|writer| {
        let records = records.clone();
        tokio::spawn(async move {
            for n in 0_u64.. {
                let note = format!("{}-{writer}-{n}", std::process::id());
                let row = note.clone();
                let result =
                    records.write(move |tx| tx.execute("INSERT INTO demo_note (note) VALUES ($1)", params![row]));
                assert_eq!(result.await, Ok::<_, Error>(1));
                // One write call each, so that lines of different threads do not mix.
                std::io::stdout().lock().write_all(format!("ack {note}\n").as_bytes()).unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

/// On a disk of 3 MB of its own, in a mount namespace that ends with the child.
#[test]
fn a_full_disk_refuses_and_recovers() {
    let place = Place::new(Engine::Sqlite);
    let (program, arguments, (key, folder)) = child("faults::child_on_a_small_disk", place.folder());
    let mount = r#"mount -t tmpfs -o size=3m none "$RECORDS_TEST_FOLDER" && exec "$@""#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"])
        .arg(program)
        .args(arguments)
        .env(key, folder)
        .output()
        .expect("unshare (package util-linux) can be run");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of a_full_disk_refuses_and_recovers"]
async fn child_on_a_small_disk() {
    let folder = std::env::var_os(FOLDER).expect("started by its parent");
    let folder = Path::new(&folder);
    let filler = folder.join("filler");
    std::fs::write(&filler, vec![1; 1 << 20]).unwrap();
    let records = open(folder);
    let write = |name: String| {
        let records = records.clone();
        let raw = vec![7_u8; 8 << 10];
        tokio::spawn(async move {
            let row = name.clone();
            let sql = "INSERT INTO demo_note (note, raw) VALUES ($1, $2)";
            (name, records.write(move |tx| tx.execute(sql, params![row, raw])).await)
        })
    };
    let mut kept = std::collections::BTreeSet::new();
    let mut refused = 0;
    for round in 0..200 {
        for written in (0..8).map(|n| write(format!("{round}-{n}"))).collect::<Vec<_>>() {
            match written.await.unwrap() {
                (name, Ok(1)) => drop(kept.insert(name)),
                (_, Err(Error::Unavailable(text))) => {
                    assert!(text.contains("full"), "{text}");
                    refused += 1;
                }
                (name, other) => panic!("{name}: {other:?}"),
            }
        }
        if refused > 20 {
            break;
        }
    }
    assert!(kept.len() > 20 && refused > 20, "{} kept, {refused} refused", kept.len());
    let stored = |records: &Records| notes(records).into_iter().collect::<std::collections::BTreeSet<_>>();
    // Reading goes on, and shows what was acknowledged and nothing else.
    let shown = tokio::task::block_in_place(|| stored(&records));
    assert_eq!(shown, kept);
    std::fs::remove_file(&filler).unwrap();
    let (name, result) = write("after".to_owned()).await.unwrap();
    assert_eq!(result, Ok(1));
    kept.insert(name);
    records.close().await;
    drop(records);
    assert_eq!(tokio::task::block_in_place(|| stored(&open(folder))), kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_away_is_found_again() {
    let place = Place::new(Engine::Postgres);
    let records = demo(&place);
    let add = || records.write(|tx| tx.execute("UPDATE demo_counter SET n = n + 1 WHERE id = 'a'", &[]));
    assert_eq!(add().await, Ok::<_, Error>(1));
    // Connections that broke while they were idle are nobody's business.
    for n in 2..6 {
        tokio::task::block_in_place(|| place.database().cut());
        assert_eq!(counter(&records, "a").await, Some(n - 1));
        assert_eq!(add().await, Ok::<_, Error>(1));
        assert_eq!(counter(&records, "a").await, Some(n));
    }
    tokio::task::block_in_place(|| place.database().goes_away());
    // Many at once: each waits its own few seconds, not one after the other.
    let started = std::time::Instant::now();
    for result in futures::future::join_all((0..50).map(|_| add())).await {
        assert!(matches!(&result, Err(error) if error.is_transient()), "{result:?}");
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(40), "{:?}", started.elapsed());
    let read = records.read(|read| read.query("SELECT n FROM demo_counter", &[], |row| row.get::<i64>(0)));
    assert!(matches!(read.await, Err(Error::Unavailable(_))));
    tokio::task::block_in_place(|| place.database().comes_back());
    assert_eq!(add().await, Ok(1));
    assert_eq!(counter(&records, "a").await, Some(6));
}

/// The connection breaks inside the transaction, before COMMIT: nothing was saved, so it runs again.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_inside_a_command_is_no_harm() {
    let place = Place::new(Engine::Postgres);
    let records = demo(&place);
    let database = place.database().clone();
    let mut runs = 0;
    let result = records.write(move |tx| {
        runs += 1;
        tx.execute("UPDATE demo_counter SET n = n + 1 WHERE id = 'a'", &[])?;
        if runs == 1 {
            database.cut();
        }
        tx.execute("UPDATE demo_counter SET n = n + 1 WHERE id = 'a'", &[])?;
        Ok::<_, Error>(runs)
    });
    assert_eq!(result.await, Ok(2));
    assert_eq!(counter(&records, "a").await, Some(2));
}
