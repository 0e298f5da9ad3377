//! The three stores, opened from the configuration and closed in order.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use kernel::Clock;
use lake::Lake;
use records::Records;
use stream::{Stream, TopicOptions};

use crate::config::{Config, LakeEngine, RecordsEngine};

/// Topic of Observations.
pub const OBSERVATIONS: &str = "observations";
/// Topic of everything else that happens: what `records` emits.
pub const EVENTS: &str = "events";

/// What of the data folder belongs to whom.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
    /// Creates the folder for its owner alone.
    pub fn create(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let fresh = !self.root.exists();
        std::fs::create_dir_all(&self.root)
            .with_context(|| format!("the folder {} cannot be created", self.root.display()))?;
        if fresh {
            std::fs::set_permissions(&self.root, std::fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }
    /// One program per data folder: held as long as the file is open.
    pub fn take(&self) -> anyhow::Result<File> {
        let path = self.lock();
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => bail!("another lamppost is using the folder {}", self.root.display()),
            Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("{} cannot be locked", path.display())),
        }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn records(&self) -> PathBuf {
        self.root.join("records.sqlite")
    }
    pub fn stream(&self) -> PathBuf {
        self.root.join("stream")
    }
    pub fn lake(&self) -> PathBuf {
        self.root.join("lake")
    }
    fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
    /// What is known of Datastreams between starts, so that none needs to be read.
    pub fn heads(&self) -> PathBuf {
        self.root.join("heads")
    }
    /// What can be made again.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
    /// The key that public warnings are signed with.
    pub fn warning_key(&self) -> PathBuf {
        self.root.join("warning-key.p8")
    }
    pub fn secret(&self) -> PathBuf {
        self.root.join("secret")
    }
}

/// The three stores. Cheap to clone.
#[derive(Clone)]
pub struct Stores {
    pub records: Records,
    pub stream: Stream,
    pub lake: Lake,
}

impl Stores {
    pub async fn open(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let layout = Layout::new(&config.data);
        let (lake_options, records_config, records_clock) =
            (lake_options(config, &layout), config.clone(), clock.clone());
        // SQLite, migrations and PostgreSQL's first connection block.
        let opened = tokio::task::spawn_blocking(move || {
            let records = open_records(&records_config, records_clock)?;
            let lake = Lake::open(lake_options).context("lake")?;
            anyhow::Ok((records, lake))
        });
        let stream = async { Stream::open(stream_options(config, &layout), clock).await.context("stream") };
        let (opened, stream) = tokio::join!(opened, stream);
        let (records, lake) = opened??;
        Ok(Self { records, stream: stream?, lake })
    }

    /// Writes what is queued, then closes. The lake has nothing queued.
    pub async fn close(&self) {
        self.records.close().await;
        self.stream.close().await;
    }
}

/// How the records are opened.
pub fn records_options(config: &Config) -> records::Options {
    let mut options = match &config.records {
        RecordsEngine::Sqlite => records::Options::sqlite(Layout::new(&config.data).records()),
        RecordsEngine::Postgres { url } => records::Options::postgres(url.expose()),
    };
    options.readers = config.records_readers;
    options
}

/// The records alone. Blocks.
pub fn open_records(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Records> {
    Records::open(&records_options(config), clock).context("records")
}

/// How the stream is opened.
pub fn stream_options(config: &Config, layout: &Layout) -> stream::Options {
    let topic = |name| {
        TopicOptions::new(name)
            .retain_bytes(config.stream.retain)
            .retain_age(config.stream.retain_age.max(Duration::from_secs(1)))
    };
    // Observations leave the stream only when they are sealed in the lake.
    let topics = [topic(OBSERVATIONS).guarded(), topic(EVENTS)];
    match &config.stream.nats {
        Some(url) => stream::Options::nats(url.expose(), topics),
        None => {
            let mut options = stream::Options::local(layout.stream(), topics);
            if let stream::EngineOptions::Local(local) = &mut options.engine {
                local.segment_bytes = config.stream.segment;
            }
            options
        }
    }
}

fn lake_options(config: &Config, layout: &Layout) -> lake::Options {
    lake::Options::new(lake_root(config, layout))
}

/// Where the lake lies.
pub fn lake_root(config: &Config, layout: &Layout) -> lake::Root {
    match &config.lake {
        LakeEngine::Local => lake::Root::Local(layout.lake()),
        LakeEngine::S3 { bucket, prefix, endpoint, region, access_key, secret_key } => lake::Root::S3(lake::S3 {
            bucket: bucket.clone(),
            prefix: prefix.clone().unwrap_or_default(),
            endpoint: endpoint.clone(),
            region: region.clone(),
            access_key: access_key.clone(),
            secret_key: secret_key.expose().to_owned(),
        }),
    }
}
