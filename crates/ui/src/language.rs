//! What the pages say, in three languages: keys in TOML files, one file a language and room, merged into one [`Catalogue`].
//!
//! A key is a dotted path (`alarm.open`). A text may hold placeholders (`{name}`) and, where a number decides its form, be a
//! table of plural categories (Unicode CLDR): `{ one = "{n} alarm", other = "{n} alarms" }`. Chinese has only `other`, so
//! it may be a plain string.
//!
//! `cargo xtask check` calls [`Catalogue::check`] and [`used_keys`], so that a missing, unused or mismatched text fails
//! the build and not the reader.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use kernel::Language;

use crate::format;

/// The texts of one room, embedded: `ui::Texts { room: "sensing", en: include_str!("../lang/en.toml"), … }`.
#[derive(Clone, Copy, Debug)]
pub struct Texts {
    pub room: &'static str,
    pub en: &'static str,
    pub zh_hant: &'static str,
    pub zh_hans: &'static str,
}

impl Texts {
    fn source(&self, language: Language) -> &'static str {
        match language {
            Language::En => self.en,
            Language::ZhHant => self.zh_hant,
            Language::ZhHans => self.zh_hans,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{room}/lang/{language}.toml is not valid TOML: {reason}")]
    Syntax { room: &'static str, language: &'static str, reason: String },
    #[error("{room}/lang/{language}.toml: '{key}' must be a text or a table of plural forms (one, other)")]
    NotAText { room: &'static str, language: &'static str, key: String },
    #[error("the key '{key}' is defined by both '{first}' and '{second}'")]
    Twice { key: String, first: &'static str, second: &'static str },
}

/// A text: how it reads for one and for any other number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    room: &'static str,
    one: Option<String>,
    other: String,
}

/// Every text of the program. Built once at start and shared behind an `Arc`.
#[derive(Debug, Default)]
pub struct Catalogue {
    texts: [BTreeMap<String, Entry>; 3],
}

const fn index(language: Language) -> usize {
    match language {
        Language::En => 0,
        Language::ZhHant => 1,
        Language::ZhHans => 2,
    }
}

impl Catalogue {
    /// Merges the rooms' files. Two rooms may share a prefix but never a key.
    pub fn new(sources: &[Texts]) -> Result<Self, Error> {
        let mut catalogue = Self::default();
        for source in sources {
            for language in Language::ALL {
                catalogue.add(source, language)?;
            }
        }
        Ok(catalogue)
    }

    fn add(&mut self, source: &Texts, language: Language) -> Result<(), Error> {
        let (room, name) = (source.room, language.segment());
        let table: toml::Table = source.source(language).parse().map_err(|e: toml::de::Error| Error::Syntax {
            room,
            language: name,
            reason: e.to_string(),
        })?;
        let mut found = Vec::new();
        flatten(String::new(), &table, &mut found).map_err(|key| Error::NotAText { room, language: name, key })?;
        for (key, one, other) in found {
            let texts = &mut self.texts[index(language)];
            if let Some(earlier) = texts.get(&key) {
                return Err(Error::Twice { key, first: earlier.room, second: room });
            }
            texts.insert(key, Entry { room, one, other });
        }
        Ok(())
    }

    fn entry(&self, language: Language, key: &str) -> Option<&Entry> {
        self.texts[index(language)].get(key).or_else(|| self.texts[0].get(key))
    }

    /// The text for `key`; English where the language lacks it, and the key itself where English does too, so that a page never fails over a word.
    pub fn t<'a>(&'a self, language: Language, key: &'a str) -> &'a str {
        self.entry(language, key).map_or(key, |e| e.other.as_str())
    }

    pub fn has(&self, key: &str) -> bool {
        self.texts[0].contains_key(key)
    }

    /// A text with placeholders, filled by [`Message::n`] and [`Message::with`].
    pub fn msg<'a>(&'a self, language: Language, key: &'a str) -> Message<'a> {
        Message { catalogue: self, language, key, count: None, values: Vec::new() }
    }

    /// What is wrong between the languages: keys that one lacks, and placeholders that differ.
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let all: BTreeSet<&String> = self.texts.iter().flat_map(BTreeMap::keys).collect();
        for key in all {
            let present: Vec<_> =
                Language::ALL.into_iter().filter_map(|l| Some((l, self.texts[index(l)].get(key)?))).collect();
            for language in Language::ALL {
                match self.texts[index(language)].get(key) {
                    None => findings.push(Finding::Missing { key: key.clone(), language }),
                    Some(entry) if entry.other.trim().is_empty() => {
                        findings.push(Finding::Missing { key: key.clone(), language });
                    }
                    Some(_) => {}
                }
            }
            let Some((_, first)) = present.first() else { continue };
            let expected = placeholders(&first.other);
            for (language, entry) in &present {
                // "1 alarm" may leave out {n}: only `other` must agree.
                let found = placeholders(&entry.other);
                if found != expected {
                    findings.push(Finding::Placeholders {
                        key: key.clone(),
                        language: *language,
                        expected: expected.iter().cloned().collect(),
                        found: found.into_iter().collect(),
                    });
                }
            }
        }
        findings
    }

    /// Keys that the sources name and nobody defined, and keys that are defined and nobody names. `sources` are the texts
    /// of all `.rs` and `.html` files of the rooms.
    pub fn check_use<'s>(&self, sources: impl IntoIterator<Item = &'s str>) -> Vec<Finding> {
        let mut used = BTreeSet::new();
        let mut families = BTreeSet::new();
        for source in sources {
            for key in used_keys(source) {
                match key.strip_suffix('*') {
                    Some(prefix) => families.insert(prefix.to_owned()),
                    None => used.insert(key),
                };
            }
        }
        let mut findings: Vec<_> =
            used.iter().filter(|k| !self.has(k)).map(|k| Finding::Undefined { key: k.clone() }).collect();
        let unused = self.texts[0].keys().filter(|k| !used.contains(*k) && !families.iter().any(|f| k.starts_with(f)));
        findings.extend(unused.map(|k| Finding::Unused { key: k.clone() }));
        findings
    }
}

/// One thing that `cargo xtask check` reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Missing { key: String, language: Language },
    Placeholders { key: String, language: Language, expected: Vec<String>, found: Vec<String> },
    Undefined { key: String },
    Unused { key: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { key, language } => write!(f, "'{key}' has no text in {}", language.segment()),
            Self::Placeholders { key, language, expected, found } => write!(
                f,
                "'{key}' in {} has the placeholders {found:?} where English has {expected:?}",
                language.segment()
            ),
            Self::Undefined { key } => write!(f, "'{key}' is used but defined in no language file"),
            Self::Unused { key } => write!(f, "'{key}' is defined but no page uses it"),
        }
    }
}

/// The keys that a Rust source or a template names: the first literal in `t(…)`, `msg(…)`, `count(…)`, `titled_t(…)` and `under_t(…)`. Keys that are
/// put together at run time are declared where that happens, in a comment: `lang-keys: problem.* time.unit.*`.
pub fn used_keys(source: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    // Tests make up keys of their own, and comments show how it is done.
    let source = source.split("#[cfg(test)]").next().unwrap_or(source);
    let spoken: String = source.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| [l, "\n"]).collect();
    for call in ["t(", "msg(", "count(", "titled_t(", "under_t("] {
        for (at, _) in spoken.match_indices(call) {
            let before = spoken[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            // `t(language, "key")` and `t("key")` both occur; the key is the first literal before the call closes.
            let rest = &spoken[at + call.len()..];
            let Some(open) = rest.find('"') else { continue };
            if rest[..open].contains([')', ';', '}']) {
                continue;
            }
            let literal = &rest[open + 1..];
            let Some(close) = literal.find('"') else { continue };
            let key = &literal[..close];
            if is_key(key) {
                keys.insert(key.to_owned());
            }
        }
    }
    for (at, marker) in source.match_indices("lang-keys:") {
        let line = source[at + marker.len()..].lines().next().unwrap_or("");
        let words = line.split([' ', ',', '`']).map(|w| w.trim_end_matches(['.', ';', ')'])).filter(|w| !w.is_empty());
        keys.extend(words.filter(|w| is_key(w.trim_end_matches('*').trim_end_matches('.'))).map(str::to_owned));
    }
    keys
}

fn is_key(word: &str) -> bool {
    !word.is_empty()
        && word.contains(|c: char| c.is_ascii_lowercase())
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

fn flatten(prefix: String, table: &toml::Table, out: &mut Vec<(String, Option<String>, String)>) -> Result<(), String> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::String(text) => out.push((key, None, text.clone())),
            toml::Value::Table(forms) if forms.get("other").is_some_and(toml::Value::is_str) => {
                let form = |name: &str| forms.get(name).and_then(toml::Value::as_str).map(str::to_owned);
                if forms.keys().any(|k| k != "one" && k != "other") {
                    return Err(key);
                }
                out.push((key, form("one"), form("other").unwrap_or_default()));
            }
            toml::Value::Table(nested) => flatten(key, nested, out)?,
            _ => return Err(key),
        }
    }
    Ok(())
}

fn placeholders(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}') else { break };
        found.insert(rest[open + 1..open + close].to_owned());
        rest = &rest[open + close + 1..];
    }
    found
}

/// A text being filled. Displays as plain text: templates escape it like any other value.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    catalogue: &'a Catalogue,
    language: Language,
    key: &'a str,
    count: Option<i64>,
    values: Vec<(&'a str, String)>,
}

impl<'a> Message<'a> {
    /// The number that decides the plural form, and the placeholder `{n}`.
    #[must_use]
    pub fn n(mut self, count: impl Count) -> Self {
        self.count = Some(count.count());
        self
    }
    /// The value of the placeholder `{name}`.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: impl fmt::Display) -> Self {
        self.values.push((name, value.to_string()));
        self
    }
}

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(entry) = self.catalogue.entry(self.language, self.key) else { return f.write_str(self.key) };
        let text = match (self.count, &entry.one) {
            (Some(1 | -1), Some(one)) => one,
            _ => &entry.other,
        };
        let mut rest = text.as_str();
        while let Some(open) = rest.find('{') {
            let Some(close) = rest[open..].find('}') else { break };
            f.write_str(&rest[..open])?;
            let name = &rest[open + 1..open + close];
            let value = self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| Cow::Borrowed(v.as_str()));
            match value.or_else(|| (name == "n").then(|| self.count.map(format::integer).map(Cow::Owned)).flatten()) {
                Some(value) => f.write_str(&value)?,
                // A forgotten value shows as its name: visible in review, harmless to the reader.
                None => write!(f, "{{{name}}}")?,
            }
            rest = &rest[open + close + 1..];
        }
        f.write_str(rest)
    }
}

/// Whole numbers that may decide a plural form; by value or by reference, because templates pass fields by reference.
pub trait Count {
    fn count(&self) -> i64;
}
macro_rules! counts {
    ($($int:ty)*) => {$(
        impl Count for $int {
            fn count(&self) -> i64 {
                i64::try_from(*self).unwrap_or(i64::MAX)
            }
        }
    )*};
}
counts!(i32 i64 u8 u16 u32 u64 usize);
impl<T: Count + ?Sized> Count for &T {
    fn count(&self) -> i64 {
        (**self).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Texts = Texts {
        room: "sample",
        en: "[alarm]\nopen = { one = \"{n} open alarm at {where}\", other = \"{n} open alarms at {where}\" }\nnone = \"None\"",
        zh_hant: "[alarm]\nopen = \"{where}有 {n} 個未處理警報\"\nnone = \"沒有\"",
        zh_hans: "[alarm]\nopen = \"{place}有 {n} 个未处理警报\"",
    };

    #[test]
    fn fills_and_counts() {
        let c = Catalogue::new(&[SAMPLE]).unwrap();
        let open = |l, n: i64| c.msg(l, "alarm.open").n(n).with("where", "Kai Tak").to_string();
        assert_eq!(open(Language::En, 1), "1 open alarm at Kai Tak");
        assert_eq!(open(Language::En, 12_000), "12,000 open alarms at Kai Tak");
        assert_eq!(open(Language::ZhHant, 1), "Kai Tak有 1 個未處理警報");
        assert_eq!(c.t(Language::ZhHans, "alarm.none"), "None", "falls back to English");
        assert_eq!(c.t(Language::ZhHans, "alarm.absent"), "alarm.absent");
    }

    #[test]
    fn a_value_is_not_filled_again() {
        let c = Catalogue::new(&[SAMPLE]).unwrap();
        let text = c.msg(Language::En, "alarm.open").n(2).with("where", "{n}{where}").to_string();
        assert_eq!(text, "2 open alarms at {n}{where}");
    }

    #[test]
    fn finds_what_is_wrong() {
        let c = Catalogue::new(&[SAMPLE]).unwrap();
        let findings = c.check();
        assert!(findings.contains(&Finding::Missing { key: "alarm.none".into(), language: Language::ZhHans }));
        assert!(findings.iter().any(|f| matches!(f, Finding::Placeholders { language: Language::ZhHans, .. })));
        assert_eq!(findings.len(), 2, "{findings:?}");
        let used = c.check_use([r#"page.t("alarm.open") page.msg("alarm.gone")"#]);
        assert_eq!(
            used,
            [Finding::Undefined { key: "alarm.gone".into() }, Finding::Unused { key: "alarm.none".into() }]
        );
    }

    #[test]
    fn refuses_two_definitions_and_wrong_shapes() {
        assert!(matches!(Catalogue::new(&[SAMPLE, SAMPLE]), Err(Error::Twice { .. })));
        let wrong = Texts { en: "a = 3", ..SAMPLE };
        assert!(matches!(Catalogue::new(&[wrong]), Err(Error::NotAText { .. })));
    }

    #[test]
    fn reads_keys_from_sources() {
        let source = r#"// page.t("not.me")
            {{ page.t("a.b") }} {{ page.msg("c-d").n(1) }} catalogue.t(language, "e_f.g") print("nothing")
            // lang-keys: problem.* quality.good"#;
        let keys: Vec<_> = used_keys(source).into_iter().collect();
        assert_eq!(keys, ["a.b", "c-d", "e_f.g", "problem.*", "quality.good"]);
    }
}
