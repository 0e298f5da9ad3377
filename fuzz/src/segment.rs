//! Opens a folder whose segment, index and consumer files hold arbitrary bytes. Whatever they say, opening and reading
//! end with records or with an error: no panic, and no memory beyond what the files themselves take.

use std::{fs, path::Path, sync::Arc};

use stream::{Offset, Options, Stream, TopicOptions};

/// Magic, version, checksum, base 0, made at 0: most of the time the header should be right, or nothing deeper is met.
fn header() -> &'static [u8] {
    static HEADER: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    HEADER.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        runtime().block_on(async {
            let clock = Arc::new(kernel::FixedClock::at(kernel::Timestamp::default()));
            Stream::open(options(dir.path()), clock).await.expect("an empty folder opens").close().await;
        });
        fs::read(dir.path().join("t").join(name(0, "log"))).expect("the first segment")
    })
}

fn name(base: u64, extension: &str) -> String {
    format!("{base:020}.{extension}")
}

fn options(dir: &Path) -> Options {
    Options::local(dir, [TopicOptions::new("t")])
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

pub fn run(data: &[u8]) {
    let Some((&shape, data)) = data.split_first() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let topic = dir.path().join("t");
    fs::create_dir_all(topic.join("consumers")).expect("a folder");
    let (first, second) = data.split_at(data.len() * usize::from(shape >> 4) / 15);
    let mut segment = if shape & 1 == 0 { header().to_vec() } else { Vec::new() };
    segment.extend_from_slice(first);
    fs::write(topic.join(name(0, "log")), segment).expect("a file");
    if shape & 2 != 0 {
        fs::write(topic.join(name(0, "idx")), second).expect("a file");
    }
    if shape & 4 != 0 {
        fs::write(topic.join(name(u64::from(shape >> 4), "log")), second).expect("a file");
    }
    if shape & 8 != 0 {
        fs::write(topic.join("consumers").join("c.pos"), second).expect("a file");
    }
    runtime().block_on(async {
        let Ok(stream) = Stream::open(options(dir.path()), Arc::new(kernel::SystemClock)).await else { return };
        let topic = stream.topic("t").expect("it is declared");
        let mut reader = topic.subscribe(topic.start()).await.expect("the start exists");
        while reader.position() < topic.end() {
            if reader.next().await.is_err() {
                break;
            }
        }
        let end = topic.end();
        assert_eq!(topic.append("after".into()).await.expect("it can be written to"), end);
        assert_eq!(topic.end(), Offset(end.0 + 1));
        stream.close().await;
    });
}
