//! Copying Delta tables while they are written: the log first, then the files that it names.
//!
//! Files of a log and of a table never change once written, only `_last_checkpoint` does; so they are linked where the file system allows it.
//! Read in this order, every version that the copy's log knows has all of its files: a file is written before the log names it and is
//! removed, by vacuum, a week or more after. Files that no version of the copied log names do no harm.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const LOG: &str = "_delta_log";
const CHECKPOINT: &str = "_last_checkpoint";

/// Copies a lake's folder by the order above; hard links where possible.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    if !from.exists() {
        return Ok(());
    }
    let (mut logs, mut files) = (Vec::new(), Vec::new());
    list(from, &mut logs, &mut files)?;
    // A checkpoint is written before `_last_checkpoint` names it, so its name is taken first and the log is listed after it.
    for log in &logs {
        let target = to.join(log.strip_prefix(from).unwrap_or(log));
        fs::create_dir_all(&target)?;
        match fs::copy(log.join(CHECKPOINT), target.join(CHECKPOINT)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => drop(other?),
        }
        let mut entries: Vec<PathBuf> = fs::read_dir(log)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        // In the order of versions: what is cleaned up meanwhile is the oldest.
        entries.sort();
        for entry in entries.into_iter().filter(|e| e.is_file() && !e.ends_with(CHECKPOINT) && !temporary(e)) {
            link(&entry, &target)?;
        }
    }
    // Listed anew: files that the log has named since the first look.
    files.clear();
    list(from, &mut Vec::new(), &mut files)?;
    for file in files.iter().filter(|f| !temporary(f)) {
        let folder =
            file.parent().and_then(|p| p.strip_prefix(from).ok()).map_or_else(|| to.to_owned(), |p| to.join(p));
        fs::create_dir_all(&folder)?;
        link(file, &folder)?;
    }
    Ok(())
}

/// Copies everything, byte by byte: what is restored must share nothing with the backup.
pub fn copy_whole(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_whole(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            fs::File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}

fn temporary(path: &Path) -> bool {
    // What the object store is writing, before it renames it: `name#1`.
    path.file_name()
        .and_then(|n| n.to_str())
        .is_none_or(|n| n.contains('#') || n.starts_with('.') || n.ends_with(".tmp"))
}

fn list(folder: &Path, logs: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_type()?.is_dir() {
            files.push(path);
        } else if path.ends_with(LOG) {
            logs.push(path);
        } else {
            list(&path, logs, files)?;
        }
    }
    Ok(())
}

fn link(file: &Path, folder: &Path) -> io::Result<()> {
    let Some(name) = file.file_name() else { return Ok(()) };
    let target = folder.join(name);
    if fs::hard_link(file, &target).is_ok() {
        return Ok(());
    }
    match fs::copy(file, &target) {
        // Cleaned up meanwhile: nothing that the copied log needs.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => {
            other?;
            fs::File::open(&target)?.sync_all()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_logs_and_files_and_no_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        for name in [
            "t/_delta_log/00.json",
            "t/_delta_log/_last_checkpoint",
            "t/month=1/x.parquet",
            "t/y.parquet#1",
            "t/_delta_log/.tmp",
        ] {
            let path = from.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        copy(&from, &to).unwrap();
        let (mut logs, mut files) = (Vec::new(), Vec::new());
        list(&to, &mut logs, &mut files).unwrap();
        assert_eq!(logs, [to.join("t/_delta_log")]);
        assert_eq!(files, [to.join("t/month=1/x.parquet")]);
        let mut log: Vec<_> =
            fs::read_dir(&logs[0]).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        log.sort();
        assert_eq!(log, ["00.json", "_last_checkpoint"]);
        // The one file that changes is a copy, not a link.
        fs::write(from.join("t/_delta_log/_last_checkpoint"), "later").unwrap();
        assert_eq!(
            fs::read_to_string(to.join("t/_delta_log/_last_checkpoint")).unwrap(),
            "t/_delta_log/_last_checkpoint"
        );
    }
}
