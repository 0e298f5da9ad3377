//! `cargo xtask conform URL`: the abstract tests of OGC SensorThings API 1.1 (18-088 annex A) and of Tasking Core (17-079 annex A) against any service, ours or another's. They are
//! Python (`e2e/conform`), because a client needs nothing of this program, and this tool stays quick to build.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{sh, test};

pub fn run(args: &[String]) -> Result<()> {
    let python = test::python()?;
    // Not by way of `sh::run`, which says aloud what it runs: a password may stand in it.
    let mut command = Command::new(&python);
    command.args(["-m", "conform"]).args(args).current_dir(sh::root().join("e2e"));
    let status = command.status().with_context(|| format!("'{python}' could not be started"))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("the service does not conform"),
        _ => bail!("the tests could not be run ({status})"),
    }
}
