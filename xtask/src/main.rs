//! `cargo xtask`: everything a person does with this repository, one command each.

mod check;
mod conform;
mod demo;
mod fuzz;
mod release;
mod sh;
mod test;
mod web;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask demo            build everything, load the Hong Kong pack, start, print the address
cargo xtask test [FILTER]   set up what the tests need, run all of them
cargo xtask conform URL     annex A of SensorThings (18-088) against a service: --token TOKEN (or --help)
cargo xtask check           formatting, lints, the arrow graph, endpoints, languages, licences
cargo xtask bench NAME ...  run ours and its peers side by side (ingest, read, records, mqtt, devices, alarms, sta, stream, start)
cargo xtask fuzz [TARGET]   coverage-guided fuzzing of what reads bytes from outside: --seconds N (60 a target)
cargo xtask web             build the map and chart islands (needs Node.js)
cargo xtask release         a tar.gz with the program, the pack and the islands, and its SHA-256";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(status) = fuzz::compiler(&args) {
        std::process::exit(status?);
    }
    let rest = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        Some("demo") => demo::run(rest),
        Some("test") => test::run(rest),
        Some("conform") => conform::run(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("check") => check::run(),
        Some("bench") => {
            sh::fast_cargo(&["build", "--package", "lamppost"])?;
            let mut command = vec!["run", "--package", "bench", "--"];
            command.extend(rest.iter().map(String::as_str));
            sh::fast_cargo(&command)
        }
        Some("web") => web::build(),
        Some("release") => release::run(),
        None | Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            Ok(())
        }
        Some(other) => bail!("there is no '{other}'\n\n{HELP}"),
    }
}
