//! kill -9 at random moments: whatever was acknowledged is there afterwards, in its place.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use rand::{Rng, SeedableRng, rngs::StdRng};
use stream::{EngineOptions, Offset, Options, Stream, Topic, TopicOptions};

use crate::{TOPIC, contents, open};

const DIR: &str = "LAMPPOST_STREAM_TEST_CHILD";

/// Runs one test of this binary in a process of its own.
pub fn child(test: &str, dir: &std::path::Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(DIR, dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// The folder, when this process is such a child.
pub fn child_dir() -> Option<std::path::PathBuf> {
    env::var_os(DIR).map(Into::into)
}

fn options(dir: &std::path::Path) -> Options {
    let mut options = Options::local(dir, [TopicOptions::new(TOPIC)]);
    if let EngineOptions::Local(local) = &mut options.engine {
        // Small, so that many kills meet the moment in which a segment is sealed and the next one begins.
        local.segment_bytes = 16 << 10;
    }
    options
}

fn content(run: u64, writer: u64, n: u64) -> bytes::Bytes {
    let mut text = format!("{run} {writer} {n} ");
    text.extend(std::iter::repeat_n('x', (n % 700) as usize));
    text.into()
}

/// The child: eight writers that append for ever and print each acknowledgement.
#[test]
fn append_until_killed() {
    let Some(dir) = child_dir() else { return };
    let run: u64 = env::var("RUN").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let stream: Stream = open(options(&dir)).await;
        let topic: Topic = stream.topic(TOPIC).unwrap();
        let mut writers: FuturesUnordered<_> = (0..8).map(|writer| append(topic.clone(), run, writer, 0)).collect();
        while let Some((writer, n, offset)) = writers.next().await {
            // One write per line: the pipe holds it even when this process dies right after.
            let line = format!("ack {writer} {n} {offset}\n");
            std::io::stdout().write_all(line.as_bytes()).unwrap();
            writers.push(append(topic.clone(), run, writer, n + 1));
        }
    });
}

async fn append(topic: Topic, run: u64, writer: u64, n: u64) -> (u64, u64, Offset) {
    let offset = topic.append(content(run, writer, n)).await.unwrap();
    (writer, n, offset)
}

fn kill_after(mut child: Child, acks: usize, pause: Duration) -> Vec<(u64, u64, u64)> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    let mut parse = |line: String| {
        let Some(numbers) = line.strip_prefix("ack ") else { return };
        let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        seen.push((numbers[0], numbers[1], numbers[2]));
    };
    let mut counted = 0;
    for line in lines.by_ref() {
        let line = line.unwrap();
        counted += usize::from(line.starts_with("ack "));
        parse(line);
        if counted >= acks {
            break;
        }
    }
    assert_eq!(counted, acks, "the child ended by itself");
    std::thread::sleep(pause);
    child.kill().unwrap();
    // What it had printed before it died counts too, except a line that was cut.
    lines.map_while(Result::ok).filter(|line| line.split(' ').count() == 4).for_each(parse);
    child.wait().unwrap();
    seen
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(42);
    let mut acknowledged: Vec<(u64, bytes::Bytes)> = Vec::new();
    for run in 0..20 {
        let mut command = child("crash::append_until_killed", dir.path());
        let child = command.env("RUN", run.to_string()).spawn().unwrap();
        let (acks, pause) = (1 + random.random_range(0..400), Duration::from_micros(random.random_range(0..3_000)));
        let seen = kill_after(child, acks, pause);
        acknowledged.extend(seen.into_iter().map(|(writer, n, offset)| (offset, content(run, writer, n))));

        let stream = open(options(dir.path())).await;
        let topic = stream.topic(TOPIC).unwrap();
        let kept = contents(&topic).await;
        for (offset, payload) in &acknowledged {
            assert_eq!(kept.get(*offset as usize), Some(payload), "run {run}, record {offset}");
        }
        // Nothing came from nowhere and nothing came twice.
        let mut once: Vec<_> = kept.iter().collect();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), kept.len());
        stream.close().await;
    }
    assert!(acknowledged.len() > 1_000);
    stream::verify(dir.path()).unwrap();
}
