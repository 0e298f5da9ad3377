//! The islands: `web/` is an npm project with a lock file; it is built into `web/dist`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::sh;

fn folder() -> PathBuf {
    sh::root().join("web")
}

pub fn build() -> Result<()> {
    if !sh::exists("npm") {
        bail!("npm is not installed; on Debian: apt-get install nodejs npm");
    }
    install(&folder())?;
    sh::run_in(&folder(), "npm", &["run", "build"])
}

/// Installs exactly what the lock file says, unless that is what is there.
pub fn install(folder: &std::path::Path) -> Result<()> {
    let lock = std::fs::read(folder.join("package-lock.json"))?;
    let stamp = folder.join("node_modules/.installed");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    sh::run_in(folder, "npm", &["ci", "--no-audit", "--no-fund"])?;
    std::fs::write(stamp, lock)?;
    Ok(())
}

/// Builds the islands when Node is there. Without it pages still work, with drawings and tables.
pub fn build_if_possible() -> Result<()> {
    if sh::exists("npm") {
        return build();
    }
    eprintln!("Node.js is not installed: pages will show drawings and tables instead of the live map and charts.");
    eprintln!("To have them: apt-get install nodejs npm, then run this again.");
    Ok(())
}
