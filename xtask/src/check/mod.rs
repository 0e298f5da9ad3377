//! `cargo xtask check`: what can be held by a machine is held by one.

mod arrows;
mod endpoints;
mod licences;
mod words;

use anyhow::{Result, bail};

use crate::sh;

pub fn run() -> Result<()> {
    let mut wrong = Vec::new();
    arrows::check(&mut wrong)?;
    licences::check(&mut wrong)?;
    words::check(&mut wrong)?;
    endpoints::check(&mut wrong)?;
    if !wrong.is_empty() {
        bail!("{} things to mend:\n  {}", wrong.len(), wrong.join("\n  "));
    }
    sh::cargo(&["fmt", "--all", "--check"])?;
    sh::cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    // The languages against each other and against what pages and letters use. Of all rooms, though it builds only the lightest.
    sh::cargo(&["test", "--package", "ui", "--test", "words", "--quiet"])?;
    println!(
        "check: the arrow graph, endpoints, languages, licences, words, formatting and lints are as they should be"
    );
    Ok(())
}
