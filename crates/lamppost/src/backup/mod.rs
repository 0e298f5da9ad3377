//! Backup while the city is served, and restore into empty stores. The form is the same for all engines, so it also moves a city between them.
//!
//! A backup is one folder: `records` (one file), `lake`, `stream`, `secret`, and at last `manifest.json` with the length and SHA-256 of
//! every file; without it there is no backup. The order is what makes three stores that are copied one after the other fit together:
//!
//! 1. `records` first: the offsets that it remembers (rules, MQTT sessions, relay) then lie on the stream that is copied later.
//! 2. `lake` before `stream`: what is sealed up to offset T needs the stream from T + 1 on, and the stream's copy reaches at least that
//!    far. Were it the other way round, the lake could be ahead and new observations would be taken for sealed ones.
//! 3. Retention must not have removed anything in between; then the stream's copy begins where it began before. Else both are copied again.
//!
//! What came while the copy was made is in it or not, but whole. Ids that were given meanwhile are skipped after a restore.

pub mod api;
mod lake_copy;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use kernel::{Clock, Timestamp};
use records::Records;
use sensing::{catalog, observe};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    config::{Config, LakeEngine, RecordsEngine},
    stores::{Layout, OBSERVATIONS, Stores},
};

const RECORDS: &str = "records";
const STREAM: &str = "stream";
const LAKE: &str = "lake";
const SECRET: &str = "secret";
const WARNING_KEY: &str = "warning-key.p8";
const MANIFEST: &str = "manifest.json";
/// Copies of lake and stream before giving up on a retention that keeps overtaking.
const TRIES: usize = 3;

/// What a backup holds, and the proof that it is whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this form.
    pub version: u32,
    pub at: Timestamp,
    pub program: String,
    /// The pack that was applied.
    pub pack: String,
    /// The last ids given, by kind.
    pub ids: Vec<(String, i64)>,
    pub files: BTreeMap<String, FileProof>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProof {
    pub bytes: u64,
    pub sha256: String,
}

/// Writes a backup into the new folder `to`. Everything goes on meanwhile.
pub async fn write(
    stores: &Stores,
    config: &Config,
    pack: &str,
    clock: &dyn Clock,
    to: &Path,
) -> anyhow::Result<Manifest> {
    let layout = Layout::new(&config.data);
    let (at, pack) = (clock.now(), pack.to_owned());
    if let Some(parent) = to.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(|| format!("{} cannot be created", parent.display()))?;
    }
    private_folder(to).with_context(|| format!("{} must be a new folder", to.display()))?;
    stores.records.backup(&to.join(RECORDS)).await.context("records")?;
    copy_history(stores, config, &layout, to).await?;
    let ids = catalog::last_ids(&stores.records).await.context("records")?;
    let (kept, folder) = (kept(&layout), to.to_owned());
    tokio::task::spawn_blocking(move || {
        for (name, path) in kept {
            if path.exists() {
                fs::copy(&path, folder.join(name))?;
            }
        }
        let files = prove(&folder)?;
        let manifest = Manifest { version: 1, at, program: env!("CARGO_PKG_VERSION").to_owned(), pack, ids, files };
        seal(&folder, &manifest)?;
        Ok(manifest)
    })
    .await?
}

/// What the program keeps beside the stores and cannot make again: copied with its permissions.
fn kept(layout: &Layout) -> [(&'static str, PathBuf); 2] {
    [(SECRET, layout.secret()), (WARNING_KEY, layout.warning_key())]
}

/// Lake, then stream.
async fn copy_history(stores: &Stores, config: &Config, layout: &Layout, to: &Path) -> anyhow::Result<()> {
    let topic = stores.stream.topic(OBSERVATIONS)?;
    for _ in 0..TRIES {
        let start = topic.start();
        copy_lake(stores, config, layout, &to.join(LAKE)).await?;
        let copied = stores.stream.backup(&to.join(STREAM)).await.context("stream")?;
        if copied.iter().any(|report| report.topic == OBSERVATIONS && report.start == start) {
            return Ok(());
        }
        tracing::info!("retention has moved while the backup was made; lake and stream are copied again");
        fs::remove_dir_all(to.join(LAKE))?;
        fs::remove_dir_all(to.join(STREAM))?;
    }
    bail!("retention removed observations from the stream during each of {TRIES} copies; raise stream.retain")
}

async fn copy_lake(stores: &Stores, config: &Config, layout: &Layout, to: &Path) -> anyhow::Result<()> {
    let (from, to) = (layout.lake(), to.to_owned());
    match config.lake {
        LakeEngine::Local => tokio::task::spawn_blocking(move || lake_copy::copy(&from, &to)).await?.context("lake"),
        LakeEngine::S3 { .. } => {
            let copied = observe::table(&stores.lake).await.context("lake")?.backup(&to).await.context("lake")?;
            tracing::debug!(files = copied.files, bytes = copied.bytes, "the lake is copied");
            Ok(())
        }
    }
}

fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn seal(folder: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let draft = folder.join("manifest.draft");
    let mut file = File::create(&draft)?;
    serde_json::to_writer_pretty(&mut file, manifest)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&draft, folder.join(MANIFEST))?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Every file below, by its path with `/`.
fn prove(folder: &Path) -> anyhow::Result<BTreeMap<String, FileProof>> {
    let mut files = BTreeMap::new();
    let mut waiting: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                waiting.push(path);
                continue;
            }
            // A link in a backup of somebody else's leads out of it.
            ensure!(kind.is_file(), "{} is neither a file nor a folder", path.display());
            let name = path.strip_prefix(folder)?.to_str().context("a file's name is not UTF-8")?.to_owned();
            if name != MANIFEST {
                files.insert(name, digest(&path)?);
            }
        }
    }
    Ok(files)
}

fn digest(path: &Path) -> anyhow::Result<FileProof> {
    let mut file = File::open(path)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(FileProof { bytes, sha256: hex::encode(hash.finalize()) });
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Reads a backup's manifest and checks that every file is there, whole, and that there is no other.
pub fn verify(from: &Path) -> anyhow::Result<Manifest> {
    let text = fs::read_to_string(from.join(MANIFEST)).with_context(|| {
        format!("{} holds no manifest.json: it is no backup, or one that was not finished", from.display())
    })?;
    let manifest: Manifest = serde_json::from_str(&text).context("manifest.json")?;
    ensure!(manifest.version == 1, "the backup has the form {}; this program knows 1", manifest.version);
    let found = prove(from)?;
    for (name, proof) in &manifest.files {
        match found.get(name) {
            None => bail!("{name} is missing in the backup"),
            Some(other) if other != proof => bail!(
                "{name} is damaged: {} bytes were written, {} are there, or their sum differs",
                proof.bytes,
                other.bytes
            ),
            Some(_) => {}
        }
    }
    if let Some(extra) = found.keys().find(|name| !manifest.files.contains_key(*name)) {
        bail!("{extra} does not belong to the backup");
    }
    Ok(manifest)
}

/// Brings a backup back into an empty data folder and, where they are configured, an empty database, server and bucket: the engines need not
/// be those it was made of. Blocking.
pub fn restore(from: &Path, config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Manifest> {
    let layout = Layout::new(&config.data);
    let empty = !config.data.exists() || fs::read_dir(&config.data)?.next().is_none();
    ensure!(
        empty,
        "the folder {} is not empty; a backup is only brought back into an empty one",
        config.data.display()
    );
    let manifest = verify(from)?;
    let options = crate::stores::records_options(config);
    let root = crate::stores::lake_root(config, &layout);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // What lies outside the folder is looked at before anything is written anywhere.
    if matches!(config.records, RecordsEngine::Postgres { .. }) {
        records::must_be_empty(&options, clock.as_ref()).context("records")?;
    }
    if matches!(root, lake::Root::S3(_)) {
        runtime.block_on(lake::must_be_empty(&root)).context("lake")?;
    }
    layout.create()?;
    // The stream first, because it looks for itself; the records last, because without them nothing is served.
    runtime.block_on(async {
        let stream = crate::stores::stream_options(config, &layout);
        stream::restore_into(&from.join(STREAM), stream, clock.clone()).await.context("stream")?;
        match root {
            lake::Root::Local(folder) => lake_copy::copy_whole(&from.join(LAKE), &folder).context("lake"),
            remote => lake::restore(&from.join(LAKE), &remote).await.context("lake"),
        }
    })?;
    records::restore(&options, &from.join(RECORDS), clock.as_ref()).context("records")?;
    for (name, path) in kept(&layout) {
        if from.join(name).exists() {
            fs::copy(from.join(name), path)?;
        }
    }
    let records = Records::open(&options, clock)?;
    let ids = manifest.ids.clone();
    runtime.block_on(async {
        catalog::skip_ids(&records, ids).await?;
        records.close().await;
        anyhow::Ok(())
    })?;
    if let RecordsEngine::Sqlite = config.records {
        File::open(layout.root())?.sync_all()?;
    }
    Ok(manifest)
}
