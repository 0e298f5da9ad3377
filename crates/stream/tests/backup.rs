//! A backup taken while everything goes on is a prefix of what there is, and comes back.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use stream::{EngineOptions, Error, Offset, Options, TopicOptions};

use crate::{append_all, contents, open, payload};

fn options(dir: &std::path::Path) -> Options {
    let mut options = Options::local(dir, [TopicOptions::new("one"), TopicOptions::new("two")]);
    if let EngineOptions::Local(local) = &mut options.engine {
        local.segment_bytes = 8 << 10;
    }
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_comes_back_as_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let stream = open(options(&dir.path().join("live"))).await;
    let (one, two) = (stream.topic("one").unwrap(), stream.topic("two").unwrap());
    append_all(&one, 0..1_000).await;
    append_all(&two, 0..10).await;
    let consumer = one.consumer("lake").await.unwrap();
    consumer.commit(Offset(499)).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = [(one.clone(), 1_000), (two.clone(), 10)]
        .into_iter()
        .map(|(topic, mut n)| {
            let stop = stop.clone();
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    append_all(&topic, n..n + 1).await;
                    n += 1;
                }
            })
        })
        .collect();
    for round in 0..3 {
        let copy = dir.path().join(format!("copy{round}"));
        let (before, report) = (one.end(), stream.backup(&copy).await.unwrap());
        assert!(report[0].end >= before && report[0].end <= one.end());
        assert!(report[0].linked_bytes > 0, "sealed segments are linked");
    }
    stop.store(true, SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let whole = contents(&one).await;
    stream.close().await;

    for round in 0..3 {
        let copy = dir.path().join(format!("copy{round}"));
        let back = dir.path().join(format!("back{round}"));
        let verified = stream::verify(&copy).unwrap();
        stream::restore(&copy, &back).unwrap();
        let restored = open(options(&back)).await;
        let topic = restored.topic("one").unwrap();
        assert_eq!(verified[0].end, topic.end());
        let kept = contents(&topic).await;
        assert_eq!(kept[..], whole[..kept.len()]);
        assert_eq!(contents(&restored.topic("two").unwrap()).await[9], payload(9));
        assert_eq!(topic.consumer("lake").await.unwrap().committed(), Offset(500));
        // What is restored lives on without touching the backup.
        append_all(&topic, kept.len() as u64..kept.len() as u64 + 50).await;
        restored.close().await;
        assert_eq!(stream::verify(&copy).unwrap(), verified);
    }
}

#[tokio::test]
async fn neither_way_writes_into_a_folder_that_holds_something() {
    let dir = tempfile::tempdir().unwrap();
    let stream = open(options(&dir.path().join("live"))).await;
    append_all(&stream.topic("one").unwrap(), 0..10).await;
    let occupied = dir.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("precious"), "x").unwrap();
    assert!(matches!(stream.backup(&occupied).await, Err(Error::Io { .. })));
    let copy = dir.path().join("copy");
    stream.backup(&copy).await.unwrap();
    assert!(matches!(stream::restore(&copy, &occupied), Err(Error::Io { .. })));
    assert_eq!(fs::read_dir(&occupied).unwrap().count(), 1);
    stream.close().await;
}
