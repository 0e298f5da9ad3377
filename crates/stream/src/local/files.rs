//! The few ways in which this engine touches a file system.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::Error;

/// Makes the names in a folder durable: a new file that is not named on disk does not exist after a power cut.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io(dir, e))
}

pub(crate) fn create_dir(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => Ok(()),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// The file appears whole and durable, or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let tmp = temporary(path);
    let written = (|| {
        let mut file = File::create(&tmp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&tmp, path)
    })();
    if let Err(e) = written {
        let _ = fs::remove_file(&tmp);
        return Err(Error::io(path, e));
    }
    path.parent().map_or(Ok(()), sync_dir)
}

/// What a crash left half made.
pub(crate) fn remove_temporaries(dir: &Path) -> Result<(), Error> {
    for name in names(dir)? {
        if name.ends_with(".tmp") {
            let path = dir.join(&name);
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

/// The names in a folder that are text; nothing of ours is called otherwise.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A window that slides over a file from front to back, so that a scan needs neither the file in memory nor a system
/// call per record. What it allocates is bounded by the file, never by a number read from it.
pub(crate) struct Window<'a> {
    file: &'a File,
    len: u64,
    start: u64,
    buffer: Vec<u8>,
}

const WINDOW: u64 = 1 << 20;

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a File, len: u64) -> Self {
        Self { file, len, start: 0, buffer: Vec::new() }
    }

    /// `n` bytes at `at`; the caller has made sure that `at + n <= len`.
    pub(crate) fn get(&mut self, at: u64, n: usize) -> io::Result<&[u8]> {
        let held = self.start..self.start + self.buffer.len() as u64;
        if !(held.start <= at && at + n as u64 <= held.end) {
            let take = (n as u64).max(WINDOW).min(self.len - at);
            self.buffer.resize(take as usize, 0);
            self.start = at;
            if let Err(e) = self.file.read_exact_at(&mut self.buffer, at) {
                self.buffer.clear();
                return Err(e);
            }
        }
        let from = (at - self.start) as usize;
        Ok(&self.buffer[from..from + n])
    }
}
