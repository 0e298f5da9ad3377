//! `docs/endpoints.md` names every address that a router serves, and no other. That the list is also the program's own (`compose::routes`, of which
//! the tests and the API's description are made) is a test of `lamppost`: so router, list and document are one.
//!
//! The sources are read as text, so that this costs nothing and does not believe what the list says of itself.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::sh;

const DOCUMENT: &str = "docs/endpoints.md";
const METHODS: [(&str, &str); 5] =
    [("get(", "GET"), ("post(", "POST"), ("put(", "PUT"), ("patch(", "PATCH"), ("delete(", "DELETE")];

type Endpoints = BTreeSet<(String, String)>;

pub fn check(wrong: &mut Vec<String>) -> Result<()> {
    let mut served = Endpoints::new();
    sources(&sh::root().join("crates"), &mut |text| served_by(text, &mut served))?;
    let document = std::fs::read_to_string(sh::root().join(DOCUMENT)).context(DOCUMENT)?;
    let described = described_in(&document);
    for (method, path) in served.difference(&described) {
        wrong.push(format!("{DOCUMENT} does not have {method} {path}, which a router serves"));
    }
    for (method, path) in described.difference(&served) {
        wrong.push(format!("{DOCUMENT} has {method} {path}, which no router serves"));
    }
    Ok(())
}

/// The sources of the program, without its tests and examples.
fn sources(folder: &Path, take: &mut impl FnMut(&str)) -> Result<()> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "tests" | "examples" | "target" | "testkit" | "simulate") {
                sources(&path, take)?;
            }
        } else if name.ends_with(".rs") && !name.contains("test") {
            take(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// The addresses in `.route("…", get(…).post(…))`.
fn served_by(source: &str, out: &mut Endpoints) {
    let source = without_tests(source);
    for (at, _) in source.match_indices(".route(") {
        let call = within(&source[at + ".route".len()..]);
        let Some(path) = call.split('"').nth(1).filter(|_| call.trim_start_matches(['(', ' ', '\n']).starts_with('"'))
        else {
            continue;
        };
        // A slash at the end is the same address for those who write it so.
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        let handlers = &call[call.find(path).unwrap_or(0) + path.len()..];
        for (word, method) in METHODS {
            let named = handlers.match_indices(word).any(|(at, _)| {
                !handlers[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') && depth(&handlers[..at]) == 0
            });
            if named {
                out.insert((method.to_owned(), path.to_owned()));
            }
        }
    }
}

/// Up to a module of tests that is written out in the file; `mod tests;` and single items for tests hide nothing.
fn without_tests(source: &str) -> &str {
    let opens = |at: &usize| {
        let rest = source[*at..].trim_start_matches("#[cfg(test)]").trim_start();
        rest.starts_with("mod ") && rest.lines().next().is_some_and(|line| line.ends_with('{') || line.contains("{ "))
    };
    let end = source.match_indices("#[cfg(test)]").map(|(at, _)| at).find(opens);
    &source[..end.unwrap_or(source.len())]
}

/// The text of the first pair of brackets.
fn within(text: &str) -> &str {
    let mut open = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return &text[..at];
        }
    }
    text
}

fn depth(text: &str) -> usize {
    text.matches('(').count().saturating_sub(text.matches(')').count())
}

/// The first two columns of its tables: method and address.
fn described_in(document: &str) -> Endpoints {
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (method, path) = (cells.next()?, cells.next()?);
        let path = path.strip_prefix('`')?.strip_suffix('`')?;
        Some((method.to_owned(), path.to_owned()))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(source: &str) -> Vec<String> {
        let mut out = Endpoints::new();
        served_by(source, &mut out);
        out.into_iter().map(|(method, path)| format!("{method} {path}")).collect()
    }

    #[test]
    fn routes_are_found_as_they_are_written() {
        let source = r#"Router::new()
            .route("/a/{id}", get(show).patch(api::change).delete(remove))
            .route("/a/", get(move || std::future::ready(target(1))))
            .route(
                "/b",
                axum::routing::post(forget(get_it)),
            )
            .route(path, get(x))"#;
        assert_eq!(served(source), ["DELETE /a/{id}", "GET /a", "GET /a/{id}", "PATCH /a/{id}", "POST /b"]);
        assert!(served("#[cfg(test)] mod tests { r.route(\"/x\", get(y)) }").is_empty());
        assert_eq!(served("#[cfg(test)]\nmod tests;\nr.route(\"/x\", get(y))"), ["GET /x"]);
    }

    #[test]
    fn tables_are_read() {
        let document = "| Method | Address |\n|---|---|\n| GET | `/a/{id}` | Who | What |\n";
        assert_eq!(described_in(document).into_iter().next(), Some(("GET".to_owned(), "/a/{id}".to_owned())));
        assert_eq!(described_in(document).len(), 1);
    }
}
