//! Every dependency's licence is one we accept: no copyleft beyond weak, no source-available.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::sh;

const ACCEPTED: [&str; 17] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "MPL-2.0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "OpenSSL",
    "bzip2-1.0.6",
];

pub fn check(wrong: &mut Vec<String>) -> Result<()> {
    let metadata = sh::output("cargo", &["metadata", "--format-version", "1", "--locked"])
        .context("cargo metadata; is Cargo.lock up to date?")?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(licence) if accepted(licence) => {}
            Some(licence) => {
                wrong.push(format!("{name} is under '{licence}', which is not on the list of accepted licences"))
            }
            None if package["license_file"].is_string() => {}
            None => wrong.push(format!("{name} names no licence")),
        }
    }
    Ok(())
}

/// An SPDX expression is accepted when one side of each OR is; AND needs both. (BSL-1.0 is Boost's, not the Business Source Licence,
/// which is BUSL-1.1.)
fn accepted(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    expression.split(" OR ").any(|choice| {
        choice.split(" AND ").all(|term| {
            let term = term.trim().trim_matches(['(', ')']).trim();
            ACCEPTED.contains(&term)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::accepted;

    #[test]
    fn expressions() {
        assert!(accepted("MIT OR AGPL-3.0"));
        assert!(accepted("MIT/Apache-2.0"));
        assert!(accepted("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!accepted("AGPL-3.0"));
        assert!(!accepted("BUSL-1.1"));
        assert!(!accepted("MIT AND GPL-3.0"));
    }
}
