//! Which room may use which. An arrow that is not in this list is a decision, and is made here and in ARCHITECTURE.md.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

const ROOMS: [(&str, &[&str]); 11] = [
    ("pins", &[]),
    ("kernel", &[]),
    ("records", &["kernel"]),
    ("stream", &["kernel"]),
    ("lake", &["kernel", "pins"]),
    ("ui", &["kernel"]),
    ("sensing", &["kernel", "records", "stream", "lake", "ui"]),
    ("lamppost", &["kernel", "records", "stream", "lake", "ui", "sensing"]),
    ("testkit", &["kernel"]),
    ("bench", &["kernel", "records", "stream", "lake", "sensing", "testkit"]),
    ("xtask", &[]),
];

/// What only one room may name: building it is most of a clean build, and its types must not leak.
const BEHIND_LAKE: [&str; 4] = ["datafusion", "deltalake", "parquet", "object_store"];

pub fn check(wrong: &mut Vec<String>) -> Result<()> {
    let metadata =
        sh::output("cargo", &["metadata", "--format-version", "1", "--no-deps"]).context("cargo metadata")?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let ours: Vec<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| *room == name) else {
            wrong.push(format!("room '{name}' is not in the arrow graph (xtask/src/check/arrows.rs)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let target = dependency["name"].as_str().unwrap_or_default();
            let test_only = dependency["kind"] == "dev";
            if ours.contains(&target) && !allowed.contains(&target) && !(test_only && target == "testkit") {
                wrong.push(format!("{name} must not use {target}: arrows point down only"));
            }
            if BEHIND_LAKE.contains(&target) && name != "lake" && !test_only {
                wrong.push(format!("{name} must not name {target}: it stands behind lake"));
            }
        }
    }
    Ok(())
}
