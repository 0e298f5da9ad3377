//! Failures that no kernel gives on demand.

use std::{
    fs::File,
    sync::{Arc, atomic::Ordering::SeqCst},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use kernel::{Clock, SystemClock};

use super::{Shared, faults::Faults, open_topic};
use crate::{Error, LocalOptions, Offset, TopicOptions};

struct Running {
    topic: Arc<Shared>,
    faults: Arc<Faults>,
    thread: JoinHandle<()>,
}

fn start(dir: &std::path::Path) -> Running {
    let lock = Arc::new(File::create(dir.join("LOCK")).unwrap());
    let clock: Arc<dyn kernel::Clock> = Arc::new(SystemClock);
    let limits = LocalOptions { segment_bytes: 1 << 20, ..LocalOptions::new(dir) };
    let (topic, writer) = open_topic(dir, &TopicOptions::new("t"), &limits, 1 << 20, &clock, &lock).unwrap();
    let faults = writer.faults.clone();
    Running { topic, faults, thread: thread::spawn(move || writer.run()) }
}

impl Running {
    async fn append(&self, payload: &'static str) -> Result<Offset, Error> {
        self.topic.queue.push(Bytes::from_static(payload.as_bytes())).await?.durable().await
    }

    async fn contents(&self) -> Vec<Bytes> {
        let mut reader = self.topic.subscribe(Offset(0)).unwrap();
        let mut all = Vec::new();
        while reader.position() < self.topic.end() {
            all.extend(reader.next().await.unwrap().into_iter().map(|record| record.payload));
        }
        all
    }

    fn stop(self) {
        self.topic.queue.close();
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_failed_flush_is_never_trusted_again() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    assert_eq!(running.append("a").await.unwrap(), Offset(0));
    let mut reader = running.topic.subscribe(Offset(1)).unwrap();
    // The batch's own flush fails, then the flush that would prove the file sound.
    running.faults.syncs.store(2, SeqCst);
    assert!(matches!(running.append("lost").await, Err(Error::Io { .. })));
    assert!(matches!(running.append("lost too").await, Err(Error::Io { .. })));
    assert_eq!(running.topic.end(), Offset(1), "nothing that is not durable is shown");
    assert_eq!(running.append("b").await.unwrap(), Offset(1));
    assert_eq!(reader.next().await.unwrap()[0].payload, "b");
    let stats = running.topic.stats();
    assert_eq!((stats.segments, stats.refused, stats.appended), (2, 2, 2), "writing went on in a new file");
    assert_eq!(running.contents().await, ["a", "b"]);
    running.stop();
    let running = start(dir.path());
    assert_eq!(running.contents().await, ["a", "b"]);
    running.stop();
}

#[tokio::test]
async fn a_flush_that_fails_on_an_empty_segment_makes_it_anew() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    for _ in 0..3 {
        running.faults.syncs.store(1, SeqCst);
        assert!(matches!(running.append("lost").await, Err(Error::Io { .. })));
    }
    assert_eq!(running.append("a").await.unwrap(), Offset(0));
    assert_eq!(running.topic.stats().segments, 1);
    running.stop();
    let running = start(dir.path());
    assert_eq!(running.contents().await, ["a"]);
    running.stop();
}

#[tokio::test]
async fn a_write_that_stops_half_way_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    assert_eq!(running.append("a").await.unwrap(), Offset(0));
    let before = std::fs::metadata(dir.path().join("t").join(format!("{:020}.log", 0))).unwrap().len();
    for space in [0, 1, 27, 28, 30] {
        running.faults.space.store(space, SeqCst);
        assert!(matches!(running.append("lost").await, Err(Error::Full { .. })));
        let len = std::fs::metadata(dir.path().join("t").join(format!("{:020}.log", 0))).unwrap().len();
        assert_eq!(len, before);
    }
    running.faults.space.store(-1, SeqCst);
    assert_eq!(running.append("b").await.unwrap(), Offset(1));
    running.stop();
    let running = start(dir.path());
    assert_eq!(running.contents().await, ["a", "b"]);
    running.stop();
}

#[tokio::test]
async fn what_a_busy_disk_holds_up_is_not_settled() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    let settled = || {
        let now = SystemClock.now();
        (now, running.topic.writing.settled(now, || running.topic.end()))
    };
    running.append("a").await.unwrap();
    let (now, quiet) = settled();
    assert_eq!((quiet.at, quiet.end), (now, Offset(1)), "between batches everything until now is there");
    running.faults.busy.store(true, SeqCst);
    let pending = running.topic.queue.push("b".into()).await.unwrap();
    let (now, held) = loop {
        let (now, settled) = settled();
        if settled.at < now {
            break (now, settled);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(held.end, Offset(1));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(settled().1, held, "time stands still for as long as the disk does");
    running.faults.busy.store(false, SeqCst);
    assert_eq!(pending.durable().await.unwrap(), Offset(1));
    let mut reader = running.topic.subscribe(Offset(1)).unwrap();
    let at = reader.next().await.unwrap()[0].at;
    assert!(held.at <= at && at <= now, "the record has the time at which it came, not that at which it was durable");
    // A refused batch holds nothing up.
    running.faults.syncs.store(1, SeqCst);
    assert!(running.append("lost").await.is_err());
    let (now, after) = settled();
    assert_eq!((after.at, after.end), (now, Offset(2)));
    running.stop();
}
