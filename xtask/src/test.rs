//! `cargo xtask test`: sets up what the tests need, then runs all of them. Nothing is skipped: what cannot be set up is an error that
//! says the exact line to run.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{check, sh, web};

/// A program a test drives, and the Debian package that brings it.
const TOOLS: [(&str, &str); 9] = [
    ("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
    ("nats-server", "nats-server"),
    ("chromium", "chromium"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("python3", "python3-venv"),
    ("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc", "fonts-noto-cjk"),
    ("cc", "build-essential"),
];

pub fn run(args: &[String]) -> Result<()> {
    tools()?;
    let python = format!("LAMPPOST_PYTHON={}", python()?);
    check::rules()?;
    web::build()?;
    web::install(&sh::root().join("e2e"))?;
    sh::run_in(&sh::root().join("web"), "npm", &["test"])?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let lints = check::lints_while_building()?;
    let run = |words: &[&[&str]]| {
        let lints: Vec<&str> = lints.iter().map(String::as_str).collect();
        sh::run("env", &[lints, words.concat()].concat())
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // Everything is built before anything runs, so that what a lint refuses is known at once.
    run(&[&[&cargo, "build", "--workspace", "--all-targets"]])?;
    // Every failure is shown, not only the first room's.
    run(&[&[&python, &cargo, "test", "--workspace", "--no-fail-fast"], &args])?;
    // Once more on PostgreSQL, NATS and S3, where rooms stand on either.
    let outside = ["LAMPPOST_TEST_STORES=outside", &python, &cargo, "test", "--no-fail-fast"];
    run(&[&outside, &["--package", "sensing", "--package", "lamppost", "--lib", "--tests"], &args])?;
    // The program itself, driven by the clients of others.
    if args.is_empty() {
        let program = sh::target().join("debug/lamppost");
        sh::run("node", &["e2e/run.mjs", &program.to_string_lossy()])?;
    }
    Ok(())
}

fn tools() -> Result<()> {
    let missing = || -> Vec<&str> {
        let there = |tool: &str| if tool.starts_with('/') { PathBuf::from(tool).exists() } else { sh::exists(tool) };
        TOOLS.iter().filter(|(tool, _)| !there(tool)).map(|(_, package)| *package).collect()
    };
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install --yes --no-install-recommends {}", packages.join(" "));
    let root = sh::output("id", &["-u"]).is_some_and(|id| id.trim() == "0");
    if !root || !sh::exists("apt-get") {
        bail!("the tests need programs that are not installed. Run as root:\n    {line}");
    }
    sh::run("apt-get", &["update", "--quiet"])?;
    // A package that starts a server must not start one here.
    sh::run("env", &["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "sh", "-c", &line])?;
    let still = missing();
    if !still.is_empty() {
        bail!("these packages did not bring what the tests need: {}", still.join(", "));
    }
    Ok(())
}

/// A virtual environment with the clients of e2e/requirements.txt, and its Python; tests find it by `LAMPPOST_PYTHON` or at its fixed place.
pub fn python() -> Result<String> {
    let wanted = std::fs::read(sh::root().join("e2e/requirements.txt")).context("e2e/requirements.txt")?;
    let venv = sh::cache().join("venv");
    let stamp = venv.join("installed.txt");
    let program = format!("{}/bin/python3", venv.display());
    if std::fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(program);
    }
    let place = venv.to_string_lossy().into_owned();
    sh::run("python3", &["-m", "venv", &place])?;
    sh::run(&format!("{place}/bin/pip"), &["install", "--quiet", "--requirement", "e2e/requirements.txt"])?;
    std::fs::write(stamp, wanted)?;
    Ok(program)
}
