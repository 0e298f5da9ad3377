//! A full disk, made by the kernel: appends are refused with a clear word, nothing stored is harmed, and the topic goes
//! on by itself when there is space again.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command},
};

use bytes::Bytes;
use stream::{EngineOptions, Error, Offset, Options, Stream, TopicOptions};

use crate::{TOPIC, contents, crash, open, open_local};

fn large(n: u64) -> Bytes {
    let mut payload = vec![n as u8; 20_000];
    payload[..8].copy_from_slice(&n.to_le_bytes());
    payload.into()
}

/// Appends until it is refused; the number that was stored.
async fn fill(stream: &Stream, mut next: u64) -> (u64, Error) {
    let topic = stream.topic(TOPIC).unwrap();
    loop {
        match topic.append(large(next)).await {
            Ok(offset) => assert_eq!(offset, Offset(next)),
            Err(error) => return (next, error),
        }
        next += 1;
        assert!(next < 10_000, "the disk never becomes full");
    }
}

fn options(dir: &Path, segment_bytes: u64) -> Options {
    let mut options = Options::local(dir, [TopicOptions::new(TOPIC)]);
    if let EngineOptions::Local(local) = &mut options.engine {
        local.segment_bytes = segment_bytes;
    }
    options
}

/// Unmounts also when the test fails.
struct Mount(tempfile::TempDir);

impl Mount {
    fn tmpfs(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = |dir: &Path| {
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir).output()
        };
        mount(dir.path()).is_ok_and(|done| done.status.success()).then(|| Self(dir))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// On a real, small file system where this process may mount one (root); the limit on a file's size below stands in for
/// it everywhere else.
#[tokio::test]
async fn a_full_file_system_refuses_and_recovers() {
    let Some(mount) = Mount::tmpfs("3m") else {
        eprintln!("may not mount a tmpfs; `a_full_quota_refuses_and_recovers` holds the promise here");
        return;
    };
    let dir = mount.0.path().join("stream");
    let ballast = mount.0.path().join("ballast");
    fs::write(&ballast, vec![1; 400_000]).unwrap();
    // Once inside a segment, once where a new one is due.
    for (round, segment_bytes) in [(0, 64 << 20), (1, 100_000)] {
        let stream = open(options(&dir, segment_bytes)).await;
        let before = stream.topic(TOPIC).unwrap().end().0;
        let (stored, error) = fill(&stream, before).await;
        assert!(matches!(error, Error::Full { .. }), "{error}");
        assert!(error.to_string().contains("no space left"), "{error}");
        let topic = stream.topic(TOPIC).unwrap();
        assert_eq!(topic.end(), Offset(stored));
        assert!(topic.stats().refused >= 1);
        assert!(matches!(topic.append(large(stored)).await, Err(Error::Full { .. })), "still full");
        assert_eq!(contents(&topic).await, (0..stored).map(large).collect::<Vec<_>>(), "what is stored can be read");
        fs::write(&ballast, vec![1; 200_000 - 200_000 * round]).unwrap();
        assert_eq!(topic.append(large(stored)).await.unwrap(), Offset(stored), "recovers without a restart");
        stream.close().await;
        drop((topic, stream));
        let stream = open_local(&dir, TopicOptions::new(TOPIC)).await;
        let topic = stream.topic(TOPIC).unwrap();
        assert_eq!(contents(&topic).await, (0..=stored).map(large).collect::<Vec<_>>());
        stream.close().await;
    }
}

/// The child of the test below: fills, says so, waits to be told that there is space, goes on.
#[test]
fn fill_until_refused() {
    let Some(dir) = crash::child_dir() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stream = open(options(&dir, 64 << 20)).await;
        let (stored, error) = fill(&stream, 0).await;
        println!("\nrefused {stored} {}", matches!(error, Error::Full { .. }));
        std::io::stdout().flush().unwrap();
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let topic = stream.topic(TOPIC).unwrap();
        assert_eq!(topic.append(large(stored)).await.unwrap(), Offset(stored));
        stream.close().await;
        println!("\ndone");
    });
}

/// `ulimit -f` is a limit that everybody may set: a write beyond it fails, as on a full disk, after a part of it went in.
#[tokio::test]
async fn a_full_quota_refuses_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let inner = crash::child("disk_full::fill_until_refused", dir.path());
    let mut command = Command::new("sh");
    // The signal that comes with the limit is ignored, and that is inherited: the write then fails instead.
    command.args(["-c", "trap '' XFSZ; ulimit -S -f 2000; exec \"$0\" \"$@\""]).arg(inner.get_program());
    command.args(inner.get_args()).envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child: Child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let refused = lines.find(|line| line.starts_with("refused ")).expect("the child comes to its limit");
    let stored: u64 = refused.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(refused.ends_with(" true"), "the error was not 'full'");
    assert!((10..100).contains(&stored), "{stored}");
    let pid = child.id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().unwrap();
    assert!(raised.success());
    child.stdin.take().unwrap().write_all(b"there is space\n").unwrap();
    assert!(lines.any(|line| line == "done"), "it does not go on");
    assert!(child.wait().unwrap().success());
    let stream = open_local(dir.path(), TopicOptions::new(TOPIC)).await;
    assert_eq!(contents(&stream.topic(TOPIC).unwrap()).await, (0..=stored).map(large).collect::<Vec<_>>());
    stream.close().await;
}
