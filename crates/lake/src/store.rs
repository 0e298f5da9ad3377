//! Where tables lie: a folder, made durable, or a bucket that speaks S3.

use std::{
    fmt,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result as StoreResult, UploadPart,
    aws::{AmazonS3Builder, S3ConditionalPut},
    local::LocalFileSystem,
    path::Path,
    prefix::PrefixStore,
};
use url::Url;

use crate::Error;

/// Where a lake keeps its tables.
#[derive(Clone)]
pub enum Root {
    /// A folder on this machine; created when absent. Every file is flushed to the disk before it counts as written.
    Local(PathBuf),
    /// A bucket of an S3-compatible store that honours `If-None-Match: *` on PUT, which is what makes two writers unable to
    /// commit the same version (AWS since 2024, MinIO, Ceph, Garage, R2).
    S3(S3),
}

/// How to reach an S3-compatible store.
#[derive(Clone, Default)]
pub struct S3 {
    pub bucket: String,
    /// Folder inside the bucket, without slashes at the ends; empty for the bucket's root.
    pub prefix: String,
    /// `None` for AWS itself; else `https://host:port`. `http://` is allowed and means an unencrypted network.
    pub endpoint: Option<String>,
    pub region: String,
    pub access_key: String,
    pub secret_key: String,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => f.debug_tuple("Local").field(path).finish(),
            Self::S3(s3) => f.debug_tuple("S3").field(&s3.endpoint).field(&s3.bucket).field(&s3.prefix).finish(),
        }
    }
}

/// One table's place: `tables` is rooted at the table's own folder, `whole` at the root of the file system or bucket, as delta-rs wants it.
pub(crate) struct Place {
    pub table: Arc<dyn ObjectStore>,
    pub whole: Arc<dyn ObjectStore>,
    pub url: Url,
    /// The table's folder, when it lies on this machine.
    pub folder: Option<PathBuf>,
}

impl Root {
    pub(crate) fn place(&self, table: &str) -> Result<Place, Error> {
        match self {
            Self::Local(root) => {
                let folder = root.join(table);
                let io = |e| Error::writing(table, "the table's folder could not be created", e);
                std::fs::create_dir_all(&folder).map_err(io)?;
                let folder = folder.canonicalize().map_err(io)?;
                let url = Url::from_directory_path(&folder)
                    .map_err(|()| Error::invalid("the lake's folder is not an absolute path"))?;
                Ok(Place {
                    table: Arc::new(Durable::new(LocalFileSystem::new_with_prefix(&folder)?)),
                    whole: Arc::new(Durable::new(LocalFileSystem::new())),
                    url,
                    folder: Some(folder),
                })
            }
            Self::S3(s3) => {
                let whole = s3.bucket()?;
                let path = Path::from_iter(s3.parts().chain([table]));
                let url = Url::parse(&format!("s3://{}/{path}/", s3.bucket))
                    .map_err(|e| Error::invalid(format!("the bucket or prefix cannot be an address: {e}")))?;
                Ok(Place { table: Arc::new(PrefixStore::new(whole.clone(), path)), whole, url, folder: None })
            }
        }
    }
}

impl Root {
    /// Everything below the lake's own folder.
    pub(crate) fn whole(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        match self {
            Self::Local(root) => {
                let io = |e| Error::store("the lake's folder could not be created", e);
                std::fs::create_dir_all(root).map_err(io)?;
                Ok(Arc::new(Durable::new(LocalFileSystem::new_with_prefix(root)?)))
            }
            Self::S3(s3) => Ok(Arc::new(PrefixStore::new(s3.bucket()?, Path::from_iter(s3.parts())))),
        }
    }
}

impl S3 {
    fn parts(&self) -> impl Iterator<Item = &str> {
        self.prefix.split('/').filter(|part| !part.is_empty())
    }

    fn bucket(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(if self.region.is_empty() { "us-east-1" } else { &self.region })
            .with_access_key_id(&self.access_key)
            .with_secret_access_key(&self.secret_key)
            .with_conditional_put(S3ConditionalPut::ETagMatch);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        Ok(Arc::new(builder.build()?))
    }
}

/// [`LocalFileSystem`] that flushes: the plain one leaves both the bytes and the new name in the page cache, so that a power
/// cut after a commit could leave an empty log entry, which no engine can read past.
#[derive(Debug, Clone)]
struct Durable(Arc<LocalFileSystem>);

impl Durable {
    fn new(inner: LocalFileSystem) -> Self {
        Self(Arc::new(inner))
    }
}
impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Durable({})", self.0)
    }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> object_store::Error {
    object_store::Error::Generic { store: "local", source: source.into() }
}

/// Runs `work` where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, object_store::Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(failed),
        Err(stopped) => Err(failed(stopped)),
    }
}

/// Flushes the folder that names `path`, and the one above it, because a partition's first file also made its folder.
fn sync_folder_of(path: &FsPath) -> std::io::Result<()> {
    for folder in path.ancestors().skip(1).take(2) {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[async_trait]
impl ObjectStore for Durable {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        let target = self.0.path_to_filesystem(location)?;
        if !matches!(opts.mode, PutMode::Create) {
            let result = self.0.put_opts(location, payload, opts).await?;
            blocking(move || {
                std::fs::File::open(&target)?.sync_all()?;
                sync_folder_of(&target)
            })
            .await?;
            return Ok(result);
        }
        // A commit: the bytes must be on the disk before the name exists, because the name is the commit. Linking fails when
        // the name is taken, which is the put-if-absent that Delta needs.
        let named = location.to_string();
        blocking(move || {
            let folder = target.parent().unwrap_or(FsPath::new("/")).to_path_buf();
            std::fs::create_dir_all(&folder)?;
            // LocalFileSystem never lists names that end in '#' and digits.
            let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let staged = folder.join(format!("{name}#{}", uuid::Uuid::new_v4().as_u128()));
            let written = (|| {
                let mut file = std::fs::File::create_new(&staged)?;
                for part in &payload {
                    std::io::Write::write_all(&mut file, part)?;
                }
                file.sync_all()?;
                std::fs::hard_link(&staged, &target)
            })();
            // The staged name is only a second link; if removing it fails, vacuum does it later.
            let _ = std::fs::remove_file(&staged);
            written?;
            sync_folder_of(&target)
        })
        .await
        .map_err(|error| match error {
            object_store::Error::Generic { source, .. }
                if source
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|e| e.kind() == std::io::ErrorKind::AlreadyExists) =>
            {
                object_store::Error::AlreadyExists { path: named, source }
            }
            other => other,
        })?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let target = self.0.path_to_filesystem(location)?;
        let inner = self.0.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { inner, target }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.0.get_opts(location, options).await
    }
    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> StoreResult<Vec<bytes::Bytes>> {
        self.0.get_ranges(location, ranges).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.0.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.0.list(prefix)
    }
    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.0.copy_opts(from, to, options).await
    }
    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> StoreResult<()> {
        self.0.rename_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    target: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }
    async fn complete(&mut self) -> StoreResult<PutResult> {
        let result = self.inner.complete().await?;
        let target = self.target.clone();
        blocking(move || {
            std::fs::File::open(&target)?.sync_all()?;
            sync_folder_of(&target)
        })
        .await?;
        Ok(result)
    }
    async fn abort(&mut self) -> StoreResult<()> {
        self.inner.abort().await
    }
}

/// Removes half-written files that a crash left behind: names ending in `#` and digits, untouched since `before`.
/// They are invisible to every reader, so this only gives the room back.
pub(crate) fn sweep_staged(folder: &FsPath, before: std::time::SystemTime) -> std::io::Result<u64> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            removed += sweep_staged(&entry.path(), before)?;
        } else if entry.file_name().to_string_lossy().rsplit_once('#').is_some_and(|(name, digits)| {
            !name.is_empty() && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        }) && entry.metadata()?.modified()? < before
        {
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// All objects under `store`, with no order promised.
pub(crate) async fn list_all(store: &dyn ObjectStore) -> Result<Vec<ObjectMeta>, Error> {
    let mut listing = store.list(None);
    let mut found = Vec::new();
    while let Some(meta) = listing.next().await {
        found.push(meta?);
    }
    Ok(found)
}
