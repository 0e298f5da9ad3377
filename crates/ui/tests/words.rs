//! The words of every room: each key in three languages, none missing, none that nobody uses, and no words in templates. `cargo xtask check` runs this.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use ui::{Catalogue, Texts};

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files below the rooms' folders that are part of the program.
fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "tests" | "target" | "examples" | "proptest-regressions" | "assets") {
                files(&path, out);
            }
        } else {
            out.push(path);
        }
    }
}

fn all() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&crates(), &mut found);
    found
}

/// Every `lang` folder. The texts live as long as the test.
fn catalogue() -> Catalogue {
    let files = all();
    let folders = files.iter().filter(|f| f.ends_with("lang/en.toml")).map(|f| f.parent().unwrap());
    let read = |path: PathBuf| -> &'static str {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Box::leak(text.into_boxed_str())
    };
    let texts: Vec<Texts> = folders
        .map(|folder| Texts {
            room: Box::leak(folder.display().to_string().into_boxed_str()),
            en: read(folder.join("en.toml")),
            zh_hant: read(folder.join("zh-hant.toml")),
            zh_hans: read(folder.join("zh-hans.toml")),
        })
        .collect();
    assert!(texts.len() >= 4, "only {} rooms have words", texts.len());
    Catalogue::new(&texts).unwrap()
}

#[test]
fn every_room_says_the_same_in_three_languages() {
    let findings = catalogue().check();
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

/// Every literal of a source that could be a key.
fn literals(source: &str) -> impl Iterator<Item = &str> {
    let key = |w: &&str| {
        w.contains('.')
            && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
    };
    source.split('"').filter(key)
}

#[test]
fn every_word_is_used_and_every_used_word_exists() {
    let sources = all().into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs" || e == "html" || e == "txt"));
    let sources: Vec<String> = sources.map(|f| std::fs::read_to_string(f).unwrap()).collect();
    let catalogue = catalogue();
    let named: BTreeSet<&str> = sources.iter().flat_map(|s| literals(s)).collect();
    // A key may be chosen among several before it is looked up: then it stands somewhere as a literal.
    let findings = catalogue.check_use(sources.iter().map(String::as_str)).into_iter().map(|f| f.to_string());
    let chosen = |line: &String| {
        let key = line.strip_suffix("' is defined but no page uses it").and_then(|l| l.strip_prefix('\''));
        // A key has a section: what has none is the name of something else.
        key.is_some_and(|key| named.contains(key)) || !line.contains('.')
    };
    let mut lines: Vec<String> = findings.filter(|line| !chosen(line)).collect();
    // One that is misspelt there is found by its family: `alarm.severity.grave` beside `alarm.severity.minor`.
    let family = |key: &str| key.rsplit_once('.').map(|(head, _)| head.to_owned()).filter(|head| head.contains('.'));
    let families: BTreeSet<String> = named.iter().filter(|k| catalogue.has(k)).filter_map(|k| family(k)).collect();
    for key in named.iter().filter(|k| !catalogue.has(k) && family(k).is_some_and(|f| families.contains(&f))) {
        lines.push(format!("'{key}' is used but defined in no language file"));
    }
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

/// What a template says by itself: its text without tags, expressions, scripts and what is code for programs, and what its attributes tell people.
fn own_words(template: &str) -> Vec<String> {
    let without = |text: &str, open: &str, close: &str| {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(open) {
            out.push_str(&rest[..at]);
            out.push(' ');
            rest = rest[at..].find(close).map_or("", |end| &rest[at + end + close.len()..]);
        }
        out + rest
    };
    let mut text = template.to_owned();
    for (open, close) in [("{#", "#}"), ("{%", "%}"), ("{{", "}}"), ("<!--", "-->"), ("<!", ">")] {
        text = without(&text, open, close);
    }
    let mut found = Vec::new();
    for attribute in ["alt=\"", "title=\"", "aria-label=\"", "placeholder=\""] {
        for (at, _) in text.match_indices(attribute) {
            let value = text[at + attribute.len()..].split('"').next().unwrap_or_default().trim();
            if value.contains(char::is_alphabetic) {
                found.push(format!("{attribute}{value}\""));
            }
        }
    }
    for (open, close) in [
        ("<script", "</script>"),
        ("<style", "</style>"),
        ("<code", "</code>"),
        ("<svg", "</svg>"),
        ("<", ">"),
        ("&", ";"),
    ] {
        text = without(&text, open, close);
    }
    // An address of the API is the same in every language.
    let said = |word: &&str| word.contains(char::is_alphabetic) && !word.starts_with('/');
    found.extend(text.split_whitespace().filter(said).map(str::to_owned));
    found
}

#[test]
fn templates_say_nothing_by_themselves() {
    let mut wrong = Vec::new();
    let mut looked = 0;
    for file in all().into_iter().filter(|f| f.components().any(|c| c.as_os_str() == "templates")) {
        looked += 1;
        for word in own_words(&std::fs::read_to_string(&file).unwrap()) {
            wrong.push(format!("{}: '{word}' belongs into the lang files", file.display()));
        }
    }
    assert!(looked >= 8, "only {looked} templates");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn own_words_are_found() {
    let check = |template: &str, expect: &[&str]| assert_eq!(own_words(template), expect, "{template}");
    check("<p>{{ page.t(\"a\") }} {% if x > 1 %}·{% endif %}</p>", &[]);
    check("<p>Hello &amp; {{ x }}</p>", &["Hello"]);
    check("<p>地圖</p>", &["地圖"]);
    check("<img alt=\"A map\"><input placeholder=\"{{ x }}\">", &["alt=\"A map\""]);
    check("<code>/api</code><script nonce=\"x\">let a = 1;</script>", &[]);
}
