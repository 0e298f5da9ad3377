//! `cargo xtask release`: what a city downloads.

use anyhow::{Context, Result};

use crate::{sh, web};

pub fn run() -> Result<()> {
    web::build()?;
    sh::cargo(&["build", "--release", "--locked", "--package", "lamppost"])?;
    let version = env!("CARGO_PKG_VERSION");
    let host = sh::output("rustc", &["-vV"]).unwrap_or_default();
    let host = host.lines().find_map(|l| l.strip_prefix("host: ")).unwrap_or("unknown").to_owned();
    let name = format!("lamppost-{version}-{host}");
    let out = sh::target().join("dist");
    let folder = out.join(&name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let target = folder.to_string_lossy().into_owned();
    let program = sh::target().join("release/lamppost").to_string_lossy().into_owned();
    for file in [program.as_str(), "LICENSE", "README.md", "CHANGELOG.md", "packs", "docs"] {
        sh::run("cp", &["-r", file, &target])?;
    }
    sh::run("cp", &["-r", "web/dist", &format!("{target}/islands")])?;
    // Sorted names and fixed times: the same source gives the same archive.
    let archive = format!("{name}.tar.gz");
    sh::run_in(
        &out,
        "tar",
        &["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-czf", &archive, &name],
    )?;
    let sum = std::process::Command::new("sha256sum").arg(&archive).current_dir(&out).output().context("sha256sum")?;
    std::fs::write(out.join(format!("{archive}.sha256")), &sum.stdout)?;
    println!("{}", out.join(archive).display());
    Ok(())
}
