//! `cargo xtask fuzz`: coverage-guided runs of the targets in `fuzz/`, on the stable toolchain.
//!
//! Only our own crates are instrumented, so that a run is spent in our parsers and not in those of others, and the dependencies are built as
//! for the tests. Cargo has no stable way to give flags to some crates alone, so it calls the compiler through this program
//! (`RUSTC_WRAPPER`), which adds them.

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::sh;

/// Set for the compiler's calls: the crates to instrument, with commas between them.
const INSTRUMENT: &str = "LAMPPOST_INSTRUMENT";

/// Counters and a table of places for libFuzzer, and what values were compared with, which finds keywords.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

const HELP: &str = "\
cargo xtask fuzz [TARGET ...] [--seconds N]
    Each target for N seconds (60), from fuzz/seeds and from what earlier runs found interesting. Ends at the first input that fails.";

/// When cargo calls this program as its compiler: calls the real one, and gives its answer. `None` otherwise.
pub fn compiler(args: &[String]) -> Option<Result<i32>> {
    let ours = std::env::var(INSTRUMENT).ok()?;
    let (rustc, rest) = args.split_first()?;
    let name = rest.iter().skip_while(|a| *a != "--crate-name").nth(1);
    let instrument = name.is_some_and(|name| ours.split(',').any(|one| one == name));
    let status = Command::new(rustc).args(rest).args(instrument.then_some(FLAGS).iter().flatten()).status();
    Some(status.map(|s| s.code().unwrap_or(1)).context("the compiler could not be started"))
}

pub fn run(args: &[String]) -> Result<()> {
    let (mut seconds, mut chosen) = (60_u32, Vec::new());
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--seconds" => {
                let value = rest.next().context("--seconds needs a number")?;
                seconds = value.parse().with_context(|| format!("--seconds {value} is no number of seconds"))?;
            }
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            other if other.starts_with('-') => bail!("there is no '{other}'\n\n{HELP}"),
            target => chosen.push(target.to_owned()),
        }
    }
    let fuzz = sh::root().join("fuzz");
    let targets = names(&fuzz.join("fuzz_targets"), ".rs")?;
    if let Some(unknown) = chosen.iter().find(|t| !targets.contains(*t)) {
        bail!("there is no target '{unknown}'; there are: {}", Vec::from_iter(targets).join(", "));
    }
    let chosen = if chosen.is_empty() { Vec::from_iter(targets.clone()) } else { chosen };
    let built = build(&fuzz, &targets)?;
    for target in &chosen {
        let (corpus, artifacts) = (fuzz.join("corpus").join(target), fuzz.join("artifacts").join(target));
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&artifacts)?;
        let program = built.join(target).to_string_lossy().into_owned();
        let seeds = fuzz.join("seeds").join(target).to_string_lossy().into_owned();
        let time = format!("-max_total_time={seconds}");
        let found = format!("-artifact_prefix={}/", artifacts.display());
        // An input may take ten seconds and a gigabyte: our limits are far below either.
        let limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", "-print_final_stats=1"];
        let mut command = vec![time.as_str(), found.as_str()];
        command.extend(limits);
        let corpus = corpus.to_string_lossy().into_owned();
        command.extend([corpus.as_str(), seeds.as_str()]);
        sh::run_in(&fuzz, &program, &command)
            .with_context(|| format!("what '{target}' failed on lies in {}", artifacts.display()))?;
    }
    Ok(())
}

/// Builds all targets; where they are.
fn build(fuzz: &Path, targets: &BTreeSet<String>) -> Result<std::path::PathBuf> {
    let root = sh::root();
    let crates = names(&root.join("crates"), "")?;
    // The profile of the tests; what is ours is optimised, and asserts what it asserts in tests.
    let manifest: toml::Table = toml::from_str(&std::fs::read_to_string(root.join("Cargo.toml"))?)?;
    let mut dev = manifest["profile"]["dev"].as_table().cloned().context("[profile.dev] in Cargo.toml")?;
    let optimised = toml::Table::from_iter([
        ("opt-level".to_owned(), toml::Value::Integer(2)),
        ("debug".to_owned(), toml::Value::String("line-tables-only".to_owned())),
        ("debug-assertions".to_owned(), toml::Value::Boolean(true)),
        ("overflow-checks".to_owned(), toml::Value::Boolean(true)),
    ]);
    let packages = dev.get_mut("package").and_then(toml::Value::as_table_mut).context("[profile.dev.package]")?;
    packages.extend(crates.iter().map(|name| (name.clone(), toml::Value::Table(optimised.clone()))));
    let profile = toml::Table::from_iter([("dev".to_owned(), toml::Value::Table(dev))]);
    let config = toml::Table::from_iter([("profile".to_owned(), toml::Value::Table(profile))]);
    let folder = sh::target().join("fuzz");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("profile.toml");
    std::fs::write(&file, toml::to_string(&config)?)?;
    // The versions of everything else are those of the program.
    std::fs::copy(root.join("Cargo.lock"), fuzz.join("Cargo.lock"))?;
    let ours: Vec<&str> = crates.iter().chain(targets).map(String::as_str).chain(["lamppost_fuzz"]).collect();
    let this = std::env::current_exe()?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let (instrument, wrapper) =
        (format!("{INSTRUMENT}={}", ours.join(",")), format!("RUSTC_WRAPPER={}", this.display()));
    let (target, config) = (folder.to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    let manifest = fuzz.join("Cargo.toml").to_string_lossy().into_owned();
    sh::run(
        "env",
        &[
            &instrument,
            &wrapper,
            &cargo,
            "build",
            "--bins",
            "--config",
            &config,
            "--manifest-path",
            &manifest,
            "--target-dir",
            &target,
        ],
    )?;
    Ok(folder.join("debug"))
}

/// The names in a folder that end so, without the end.
fn names(folder: &Path, end: &str) -> Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let names =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(end)).map(str::to_owned).collect())
}
