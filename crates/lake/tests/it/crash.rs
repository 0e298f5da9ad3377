//! A process killed at any moment, and a disk that is full: nothing twice, nothing lost.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use lake::{Commit, Compaction, Error};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::common::*;

const FOLDER: &str = "LAKE_TEST_FOLDER";
const TASK: &str = "LAKE_TEST_TASK";

/// What offset `n` does, the same whenever it is asked: new rows, corrections of old ones, a deletion.
fn offset(n: u64) -> Commit {
    let mut rng = StdRng::seed_from_u64(n);
    let mut puts: BTreeMap<Key, Row> = BTreeMap::new();
    for _ in 0..200 {
        let (series, at) = (rng.random_range(0..20), rng.random_range(0..5_000));
        let row = row(series, START + at * DAY / 500, n as f64);
        puts.insert(row.key, row);
    }
    let gone = (0..3).map(|_| (rng.random_range(0..20), START + rng.random_range(0..5_000) * DAY / 500, None, None));
    let gone: std::collections::BTreeSet<Key> = gone.filter(|k| !puts.contains_key(k)).collect();
    Commit {
        through: n,
        puts: vec![batch(&puts.into_values().collect::<Vec<_>>())],
        deletes: Some(keys(gone.into_iter().collect())),
        dropped_series: Vec::new(),
    }
}

fn model(through: u64) -> Vec<Row> {
    let mut all: BTreeMap<Key, Row> = BTreeMap::new();
    for n in 0..=through {
        let commit = offset(n);
        for put in commit.puts.iter().flat_map(rows) {
            all.insert(put.key, put);
        }
        let deletes = commit.deletes.expect("deletes");
        use lake::arrow::{array::AsArray, datatypes as t};
        for i in 0..deletes.num_rows() {
            let series = deletes.column(0).as_primitive::<t::Int64Type>().value(i);
            let at = deletes.column(1).as_primitive::<t::TimestampMicrosecondType>().value(i);
            all.remove(&(series, at, None, None));
        }
    }
    all.into_values().collect()
}

/// Not a test of its own: the other process of the tests below, which start this binary again.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let lake = open(Path::new(&folder));
    let table = table(&lake).await;
    if std::env::var(TASK).as_deref() == Ok("full") {
        // More than the limit on a file's size lets through, as when the disk has no room for it.
        let mut rng = StdRng::seed_from_u64(1);
        let large = (0..200_000).map(|i| row(1, START + i, rng.random())).collect();
        let before = table.stats();
        let refused = table.commit(puts(1, large)).await;
        assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
        assert_eq!(table.stats(), before);
        table.commit(puts(1, vec![row(2, START, 2.0)])).await.expect("there is room for this");
        assert_eq!(everything(&table.view()).await, vec![row(1, START, 1.0), row(2, START, 2.0)]);
        println!("\ndone");
        return;
    }
    let first = table.sealed_through().map_or(0, |t| t + 1);
    let compacting = table.clone();
    tokio::spawn(async move {
        loop {
            compacting.compact(Compaction { min_files: 2, ..Compaction::default() }).await.expect("compact");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    for n in first.. {
        table.commit(offset(n)).await.expect("commit");
        println!("\nsealed {n}");
    }
}

fn start(folder: &Path, task: &str, shell: &str) -> std::process::Child {
    let program = std::env::current_exe().expect("this binary");
    Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\""), &program.to_string_lossy()])
        .args(["crash::child", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .env(TASK, task)
        .stdout(Stdio::piped())
        .spawn()
        .expect("another process")
}

#[test]
fn killed_at_any_moment_every_row_is_there_once() {
    let folder = tempfile::tempdir().expect("folder");
    let mut rng = StdRng::seed_from_u64(7);
    let mut acknowledged = None;
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    for _ in 0..8 {
        let mut child = start(folder.path(), "commit", "");
        let mut lines = BufReader::new(child.stdout.take().expect("output")).lines();
        let wait = rng.random_range(1..6);
        for _ in 0..wait {
            let sealed =
                lines.by_ref().map(|l| l.expect("line")).find_map(|l| l.strip_prefix("sealed ")?.parse::<u64>().ok());
            acknowledged = Some(sealed.expect("the child commits until it is killed"));
        }
        // Somewhere inside the next commits or a compaction.
        std::thread::sleep(Duration::from_micros(rng.random_range(0..60_000)));
        child.kill().expect("kill -9");
        child.wait().expect("gone");
        for line in lines.map_while(Result::ok) {
            acknowledged = line.strip_prefix("sealed ").and_then(|n| n.parse().ok()).or(acknowledged);
        }
        runtime.block_on(async {
            let table = table(&open(folder.path())).await;
            let sealed = table.sealed_through();
            assert!(sealed >= acknowledged, "sealed {sealed:?}, acknowledged {acknowledged:?}");
            assert_eq!(everything(&table.view()).await, model(sealed.expect("sealed")));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_clearly_and_recovers() {
    let folder = tempfile::tempdir().expect("folder");
    table(&open(folder.path())).await.commit(puts(0, vec![row(1, START, 1.0)])).await.expect("commit");
    // The size of any file is limited to 100 blocks; the signal that would end the process is ignored, so writing fails instead.
    let child = start(folder.path(), "full", "trap '' XFSZ; ulimit -f 100;");
    let output = child.wait_with_output().expect("output");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\ndone"), "{output:?}");
    let table = table(&open(folder.path())).await;
    assert_eq!(table.sealed_through(), Some(1));
    let mut rng = StdRng::seed_from_u64(1);
    table.commit(puts(2, (0..200_000).map(|i| row(1, START + i, rng.random())).collect())).await.expect("room again");
    assert_eq!(table.stats().rows, 200_001);
}
