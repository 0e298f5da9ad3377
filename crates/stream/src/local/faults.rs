//! What a disk can do to the writer, on command.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst},
};

#[derive(Debug)]
pub(crate) struct Faults {
    /// Bytes that still fit; negative: no limit.
    pub space: AtomicI64,
    /// So many flushes fail.
    pub syncs: AtomicUsize,
    /// The disk is busy for as long as this is set.
    pub busy: AtomicBool,
}

impl Default for Faults {
    fn default() -> Self {
        Self { space: AtomicI64::new(-1), syncs: AtomicUsize::new(0), busy: AtomicBool::new(false) }
    }
}

impl Faults {
    /// Writes what fits and fails like a full disk.
    pub(crate) fn on_write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let space = self.space.load(SeqCst);
        if space >= 0 && (space as usize) < bytes.len() {
            file.write_all_at(&bytes[..space as usize], at)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(crate) fn on_sync(&self) -> io::Result<()> {
        while self.busy.load(SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        match self.syncs.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(io::Error::other("injected flush failure")),
            Err(_) => Ok(()),
        }
    }
}
