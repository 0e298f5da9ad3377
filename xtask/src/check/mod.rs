//! `cargo xtask check`: what can be held by a machine is held by one.

mod arrows;
mod endpoints;
mod licences;
mod words;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::sh;

pub fn run() -> Result<()> {
    rules()?;
    sh::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    // The languages against each other and against what pages and letters use. Of all rooms, though it builds only the lightest.
    sh::cargo(&["test", "--package", "ui", "--test", "words", "--quiet"])?;
    println!(
        "check: the arrow graph, endpoints, languages, licences, words, formatting and lints are as they should be"
    );
    Ok(())
}

/// What needs nothing built.
pub fn rules() -> Result<()> {
    let mut wrong = Vec::new();
    arrows::check(&mut wrong)?;
    licences::check(&mut wrong)?;
    words::check(&mut wrong)?;
    endpoints::check(&mut wrong)?;
    if !wrong.is_empty() {
        bail!("{} things to mend:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    sh::cargo(&["fmt", "--all", "--check"])
}

/// Variables with which cargo compiles our crates by Clippy's driver, a warning being an error, and everything else as always. `cargo clippy` would
/// check all dependencies once more, beside the build that the tests need: seven minutes of two cores.
pub fn lints_while_building() -> Result<Vec<String>> {
    let toolchain = sh::output("rustc", &["--print", "sysroot"]).context("rustc cannot be run")?;
    let driver = Path::new(toolchain.trim()).join("bin/clippy-driver");
    ensure!(driver.is_file(), "Clippy is needed: rustup component add clippy");
    // Clippy splits its arguments at this word.
    let split = "__CLIPPY_HACKERY__";
    Ok(vec![format!("RUSTC_WORKSPACE_WRAPPER={}", driver.display()), format!("CLIPPY_ARGS=-D{split}warnings{split}")])
}
