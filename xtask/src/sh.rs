//! Running other programs, from the root of the repository, with what is run said aloud.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

pub fn root() -> PathBuf {
    // xtask/ lies directly under the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Where cargo builds to: `target/`, unless the environment says otherwise.
pub fn target() -> PathBuf {
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    root().join(folder)
}

/// A folder under the home folder's cache that outlives a checkout: the Python environment, downloaded packages.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache")));
    base.unwrap_or_else(|| root().join("target")).join("lamppost")
}

pub fn run(program: &str, args: &[&str]) -> Result<()> {
    run_in(&root(), program, args)
}

pub fn run_in(folder: &Path, program: &str, args: &[&str]) -> Result<()> {
    eprintln!("$ {program} {}", args.join(" "));
    let mut command = Command::new(program);
    command.args(args).current_dir(folder);
    // What `cargo run` tells this program about itself is no business of what it starts: some build scripts ask to be run again when such a
    // variable is another one, and each change between `cargo test` and `cargo xtask test` would build the SQL engine anew.
    let ours = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| name.starts_with(p))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
    let status = command.status();
    let status = status.with_context(|| format!("'{program}' could not be started"))?;
    if !status.success() {
        bail!("'{program} {}' failed ({status})", args.join(" "));
    }
    Ok(())
}

pub fn cargo(args: &[&str]) -> Result<()> {
    run(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()), args)
}

/// Cargo with our own crates optimised; see .cargo/fast.toml. The program is then `target/debug/lamppost`.
pub fn fast_cargo(args: &[&str]) -> Result<()> {
    let mut all = vec!["--config", ".cargo/fast.toml"];
    all.extend(args);
    cargo(&all)
}

/// What a program prints, or `None` when it is not there or fails.
pub fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).current_dir(root()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}
