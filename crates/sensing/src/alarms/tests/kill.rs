//! kill -9: a program of its own that feeds and evaluates, killed at random moments, again and again.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use kernel::SystemClock;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::rules::{self, core::Happening, model::Expression};

const FOLDER: &str = "LAMPPOST_TEST_KILL_FOLDER";
const THINGS: i64 = 5;

/// What record number `n` says, whichever life of the program sends it.
fn record(n: u64, base: i64) -> Vec<(i64, i64, f64)> {
    let mut random = StdRng::seed_from_u64(n);
    (1..=THINGS)
        .map(|id| (id, base + i64::try_from(n).expect("small"), [7.0, 9.0, 11.0][random.random_range(0..3)]))
        .collect()
}

/// An expression that needs what it remembers: a mean over ten seconds and the value before.
pub fn rising() -> RuleDeclaration {
    RuleDeclaration {
        key: "rising".to_owned(),
        when: Condition::Expression(Box::new(Expression {
            expression: "mean > 9.0 && value - previous > 1.0".to_owned(),
            clear: Some("mean < 9.0 && thing[\"level-1\"].value < 10.0".to_owned()),
            hold: 0,
            clear_hold: 2,
            window: Some(10),
            windows: std::collections::BTreeMap::new(),
        })),
        ..high(0)
    }
}

async fn open(folder: &Path) -> (Alarms, Rules, Topic, Stream) {
    let options = records::Options::sqlite(folder.join("city.db"));
    let opened = tokio::task::spawn_blocking(move || {
        let records = Records::open(&options, Arc::new(SystemClock)).expect("records");
        records.migrate("sensing_catalogue_test", CATALOGUE).expect("catalogue");
        Alarms::open(records, Arc::new(Scopes::new(Arc::new(Roles)))).expect("tables")
    });
    let alarms = opened.await.expect("opens");
    let stream = open_stream(folder, Arc::new(SystemClock)).await;
    let topic = stream.topic("observations").expect("topic");
    (alarms.clone(), Rules::new(alarms, Allowed::default()), topic, stream)
}

/// How many bytes the stream has on the disk: it grows as soon as a life sends.
fn durable(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder.join("stream").join("observations")).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum()
}

/// Six hours ago: old enough not to lie ahead, young enough to raise.
fn base(folder: &Path) -> i64 {
    std::fs::read_to_string(folder.join("base")).expect("base").parse().expect("seconds")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the program that `killed_at_random_moments` starts and kills"]
async fn victim() {
    let folder = PathBuf::from(std::env::var(FOLDER).expect("started by the test"));
    let (alarms, _rules, topic, _stream) = open(&folder).await;
    let options =
        Options { checkpoint: Duration::from_millis(20), tick: Duration::from_millis(5), ..Options::default() };
    let _engine =
        engine::start(TopicFeed(topic.clone()), alarms, Arc::new(SystemClock), options).await.expect("engine");
    let base = base(&folder);
    // A record for each second of the six hours: beyond them lies what is still to come, which no rule takes.
    while topic.end().0 < 21_500 {
        send(&topic, &record(topic.end().0, base)).await;
    }
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments() {
    let folder = tempfile::tempdir().expect("folder");
    let base_at = SystemClock.now().as_micros() / 1_000_000 - 21_600;
    std::fs::write(folder.path().join("base"), base_at.to_string()).expect("base");
    {
        let (alarms, rules, topic, stream) = open(folder.path()).await;
        for id in 1..=THINGS {
            gauge(alarms.records(), id, id, "dsd", true).await;
        }
        rules.apply(&Caller::system("test"), vec![high(0), rising()], vec![]).await.expect("applied");
        let first = engine::start(TopicFeed(topic), alarms.clone(), Arc::new(SystemClock), Options::default())
            .await
            .expect("engine");
        first.stop().await;
        stream.close().await;
        alarms.records().close().await;
    }
    let mut random = StdRng::from_os_rng();
    let program = std::env::current_exe().expect("this test");
    for life in 0..12 {
        let before = durable(folder.path());
        let mut child = Command::new(&program)
            .args(["--exact", "alarms::tests::kill::victim", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        // Half of the lives end wherever they are, perhaps before they have begun; the others when they have sent something, so that a
        // slow machine tests the same.
        if life % 2 == 0 {
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            while durable(folder.path()) == before && std::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..400))).await;
        assert!(child.try_wait().expect("asked").is_none(), "the victim died by itself");
        // SIGKILL on Unix.
        child.kill().expect("killed");
        child.wait().expect("gone");
    }
    let (alarms, _rules, topic, _stream) = open(folder.path()).await;
    let engine = engine::start(TopicFeed(topic.clone()), alarms.clone(), Arc::new(SystemClock), Options::default())
        .await
        .expect("engine");
    engine.evaluated(topic.end().0).await;
    let sent = topic.end().0;
    assert!(sent > 50, "only {sent} records were made durable: the test has tested little");
    // What one undisturbed reading of the same records gives, by the plain definition.
    let mut expected: Vec<(i64, i64, Option<i64>)> = Vec::new();
    let mut open_at: [Option<usize>; THINGS as usize + 1] = [None; THINGS as usize + 1];
    for n in 0..topic.end().0 {
        for (id, at, value) in record(n, base_at) {
            match open_at[id as usize] {
                None if value >= 10.0 => {
                    open_at[id as usize] = Some(expected.len());
                    expected.push((id, at, None));
                }
                Some(index) if value <= 8.0 => {
                    expected[index].2 = Some(at);
                    open_at[id as usize] = None;
                }
                _ => {}
            }
        }
    }
    expected.sort_unstable();
    let read = alarms.records().read(|r| {
        r.query("SELECT thing, raised_at, cleared_at FROM sensing_alarm WHERE rule = 'high'", params![], |row| {
            let second = |micros: i64| micros / 1_000_000;
            Ok((row.get::<i64>(0)?, second(row.get(1)?), row.get::<Option<i64>>(2)?.map(second)))
        })
    });
    let mut found = read.await.expect("alarms");
    found.sort_unstable();
    assert_eq!(found, expected);
    // Holds that the last records began are over by now, hours later.
    let now = SystemClock.now();
    engine.ticked(now).await;
    engine.stop().await;

    // What the expression gives when the same records are read in one go, from nothing.
    let (loaded, facts) = alarms
        .records()
        .read(|read| {
            let loaded = rules::store::rules(read)?;
            let (facts, _) = rules::facts::load(read, &loaded)?;
            Ok::<_, records::Error>((loaded, facts))
        })
        .await
        .expect("rules");
    let mut core = rules::core::Core::new(Timestamp::MIN);
    core.install(loaded, &facts, &[], &[], Timestamp::MIN);
    let mut reader = TopicFeed(topic.clone()).read(0).await.expect("reads");
    for _ in 0..topic.end().0 {
        let arrived = reader.next().await.expect("a record");
        let Frame::Observed(batch) = &arrived.frame else { panic!("only observations were sent") };
        core.apply(arrived.offset, arrived.at, batch);
    }
    core.tick(now);
    let mut expected: Vec<(String, Timestamp, Option<Timestamp>)> = Vec::new();
    for happening in core.take(true).happenings {
        match happening {
            Happening::Raised { id, rule, at, .. } if rule.key == "rising" => expected.push((id.to_string(), at, None)),
            Happening::Cleared { id, rule, at, .. } if rule == "rising" => {
                let one = expected.iter_mut().find(|e| e.0 == id.to_string()).expect("raised before");
                one.2 = Some(at);
            }
            _ => {}
        }
    }
    expected.sort_unstable();
    let read = alarms.records().read(|r| {
        r.query("SELECT id, raised_at, cleared_at FROM sensing_alarm WHERE rule = 'rising'", params![], |row| {
            Ok((row.get::<String>(0)?, row.get::<Timestamp>(1)?, row.get::<Option<Timestamp>>(2)?))
        })
    });
    let mut found = read.await.expect("alarms");
    found.sort_unstable();
    assert_eq!(found, expected);
    assert!(!found.is_empty(), "the expression was never true: the test has tested little");
}
