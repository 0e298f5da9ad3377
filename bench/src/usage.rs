//! What a server costs: CPU time and bytes on disk, as Linux tells them.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use anyhow::Context as _;

/// Linux has told user space 100 ticks a second on every architecture since 2.6.
const TICKS: f64 = 100.0;

struct Stat {
    parent: u32,
    own: u64,
    /// Of children that have ended and been waited for.
    ended: u64,
}

/// proc(5): the name may hold spaces, what follows its bracket does not. Fields 4 (ppid), 14 to 17 (utime, stime, cutime, cstime).
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, own: ticks(11)? + ticks(12)?, ended: ticks(13)? + ticks(14)? })
}

/// CPU-seconds of a process and everything below it, living or ended.
pub fn cpu(pid: u32) -> anyhow::Result<f64> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut stats = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
            stats.insert(pid, stat);
        }
    }
    anyhow::ensure!(stats.contains_key(&pid), "the server's process {pid} has ended");
    let (mut ticks, mut left, mut seen) = (0, vec![pid], BTreeSet::new());
    while let Some(pid) = left.pop() {
        if let Some(stat) = stats.get(&pid).filter(|_| seen.insert(pid)) {
            ticks += stat.own + stat.ended;
            left.extend(children.get(&pid).into_iter().flatten());
        }
    }
    Ok(ticks as f64 / TICKS)
}

/// CPU-seconds of this process, without those that it started.
pub fn own_cpu() -> anyhow::Result<f64> {
    let stat = stat(std::process::id()).ok_or_else(|| anyhow::anyhow!("/proc/<pid>/stat cannot be read"))?;
    Ok(stat.own as f64 / TICKS)
}

/// The most memory that a process has held, in bytes (`VmHWM` of proc(5)); `None` when it has children, with which it shares most of it.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok().filter(|_| children.trim().is_empty())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kb| kb << 10)
}

/// Resident memory of a process in bytes.
pub fn memory(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the server's process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? << 10)
}

/// How many files a process that is started here may open.
pub fn open_files() -> anyhow::Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("Max open files")?;
    let soft = line.split_whitespace().next().context("Max open files")?;
    Ok(if soft == "unlimited" { usize::MAX } else { soft.parse()? })
}

/// Bytes that a folder takes on the disk. Files that go meanwhile count nothing.
pub fn disk(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk(&entry.path()),
            // st_blocks counts in units of 512 bytes, whatever the file system's own.
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// The value below which `share` of sorted values lie.
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}
