//! What must not stand in a tracked file, and what must: the project speaks of itself alone, and nothing is left half done.

use anyhow::{Context, Result};

use crate::sh;

/// Written in two halves so that this list does not find itself.
const FORBIDDEN: [(&str, &str, &str); 6] = [
    ("todo", "!(", "finish it or leave it out"),
    ("unimple", "mented!(", "finish it or leave it out"),
    ("FIX", "ME", "mend it or write down why it is as it is"),
    ("#[ign", "ore]", "say why it is not run with the others, and what runs it"),
    ("/work", "/", "no machine's paths"),
    ("#[allo", "w(", "use #[expect(…, reason = …)]"),
];

pub fn check(wrong: &mut Vec<String>) -> Result<()> {
    let files = sh::output("git", &["ls-files"]).context("git ls-files")?;
    for file in files.lines() {
        if file.contains("/data/") || file.ends_with(".lock") || file.ends_with("package-lock.json") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(sh::root().join(file)) else { continue };
        for (head, tail, why) in FORBIDDEN {
            let word = format!("{head}{tail}");
            if let Some(line) = text.lines().position(|l| l.contains(&word)) {
                wrong.push(format!("{file}:{}: '{word}': {why}", line + 1));
            }
        }
    }
    for file in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs/benchmarks.md"] {
        if !sh::root().join(file).exists() {
            wrong.push(format!("{file} is missing"));
        }
    }
    Ok(())
}
