//! Bringing a backup's tables back, wherever the lake lies.

use std::path::Path as FsPath;

use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart, local::LocalFileSystem, path::Path};

use crate::{Error, Root, store::list_all};

const LOG: &str = "_delta_log";
/// Larger files go up in parts of this size, so that memory does not grow with the file.
const PART: usize = 8 << 20;

/// Copies every table below `from` (see [`crate::Table::backup`]) into an empty lake. Refuses one that holds anything.
///
/// A table is there when its log is, so its files come first; a copy that was cut short is no table.
pub async fn restore(from: &FsPath, root: &Root) -> Result<(), Error> {
    let source = LocalFileSystem::new_with_prefix(from)?;
    must_be_empty(root).await?;
    let target = root.whole()?;
    let mut files: Vec<Path> = list_all(&source).await?.into_iter().map(|meta| meta.location).collect();
    files.sort_by_key(|path| (step(path), path.clone()));
    for file in files {
        copy(&source, target.as_ref(), &file).await?;
    }
    Ok(())
}

/// Refuses a lake that holds anything: what [`restore`] does first.
pub async fn must_be_empty(root: &Root) -> Result<(), Error> {
    match root.whole()?.list(None).next().await {
        Some(found) => Err(Error::invalid(format!("the lake is not empty: it holds {}", found?.location))),
        None => Ok(()),
    }
}

/// Files, then the log in the order of its versions, then the pointer to its checkpoint.
fn step(path: &Path) -> u8 {
    if !path.parts().any(|part| part.as_ref() == LOG) {
        0
    } else if path.filename() != Some("_last_checkpoint") {
        1
    } else {
        2
    }
}

async fn copy(from: &LocalFileSystem, to: &dyn ObjectStore, file: &Path) -> Result<(), Error> {
    let found = from.get(file).await?;
    if found.meta.size <= PART as u64 {
        to.put(file, PutPayload::from(found.bytes().await?)).await?;
        return Ok(());
    }
    let mut upload = WriteMultipart::new_with_chunk_size(to.put_multipart(file).await?, PART);
    let mut bytes = found.into_stream();
    while let Some(part) = bytes.next().await {
        match part {
            Ok(part) => {
                upload.wait_for_capacity(2).await?;
                upload.write(&part);
            }
            Err(error) => {
                upload.abort().await?;
                return Err(error.into());
            }
        }
    }
    upload.finish().await?;
    Ok(())
}
