//! The one order: defaults, then the file, then the environment, then flags. Each later layer replaces single values.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{
    setting::{Kind, SETTINGS, Setting, nearest},
    value::Value,
};

/// Where a value came from, as `lamppost check` prints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A mistake in the configuration: where, and what would be right.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Mistake {
    pub place: String,
    pub message: String,
    /// Line in the file, 0 elsewhere.
    at: usize,
}

impl Mistake {
    pub fn new(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { place: place.to_string(), message: message.into(), at: 0 }
    }
    fn of(origin: Origin, message: impl Into<String>) -> Self {
        let at = if let Origin::File { line, .. } = origin { line } else { 0 };
        Self { at, ..Self::new(origin, message) }
    }
}

/// The effective values by key, each with its origin.
#[derive(Clone, Debug)]
pub struct Values(BTreeMap<&'static str, (Value, Origin)>);

/// What the program was started with, before anything is read.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`; when `None`, `lamppost.toml` in the current folder is read if it exists.
    pub file: Option<PathBuf>,
    /// The whole environment; only `LAMPPOST_…` is looked at.
    pub environment: Vec<(String, String)>,
    /// `(key, value, flag as typed)`, in order.
    pub flags: Vec<(String, String, String)>,
}

impl Values {
    /// Reads every layer. All mistakes are returned, not only the first.
    pub fn read(sources: &Sources) -> Result<Self, Vec<Mistake>> {
        let mut values = Self(BTreeMap::new());
        let mut mistakes = Vec::new();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                values.put(setting, default, Origin::Default, &mut mistakes);
            }
        }
        values.read_file(sources.file.as_deref(), &mut mistakes);
        values.read_environment(&sources.environment, &mut mistakes);
        for (key, text, flag) in &sources.flags {
            values.put_named(key, text, Origin::Flag(flag.clone()), &mut mistakes);
        }
        if mistakes.is_empty() { Ok(values) } else { Err(mistakes) }
    }

    fn read_file(&mut self, path: Option<&Path>, mistakes: &mut Vec<Mistake>) {
        let (path, required) = path.map_or((Path::new("lamppost.toml"), false), |p| (p, true));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => return,
            Err(e) => return mistakes.push(Mistake::new(path.display(), format!("cannot be read: {e}"))),
        };
        let origin = |at: usize| Origin::File { path: path.to_owned(), line: line_of(&text, at) };
        match toml::de::DeTable::parse(&text) {
            Ok(table) => {
                let mut found = Vec::new();
                self.read_table("", table.get_ref(), &origin, &mut found);
                // Tables come sorted by key; a person reads from the top.
                found.sort_by_key(|m| m.at);
                mistakes.append(&mut found);
            }
            Err(e) => mistakes.push(Mistake::new(origin(e.span().map_or(0, |s| s.start)), e.message())),
        }
    }

    fn read_table(
        &mut self,
        prefix: &str,
        table: &toml::de::DeTable<'_>,
        origin: &dyn Fn(usize) -> Origin,
        mistakes: &mut Vec<Mistake>,
    ) {
        use toml::de::DeValue;
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let origin_here = origin(value.span().start);
            match value.get_ref() {
                DeValue::Table(inner) if prefix.is_empty() => {
                    self.read_table(&format!("{key}."), inner, origin, mistakes);
                }
                DeValue::String(text) => self.put_named(&key, text, origin_here, mistakes),
                DeValue::Integer(n) => self.put_named(&key, n.as_str(), origin_here, mistakes),
                DeValue::Float(n) => self.put_named(&key, n.as_str(), origin_here, mistakes),
                DeValue::Boolean(b) => self.put_named(&key, &b.to_string(), origin_here, mistakes),
                _ => mistakes.push(Mistake::of(origin_here, format!("{key}: a single value is expected"))),
            }
        }
    }

    fn read_environment(&mut self, environment: &[(String, String)], mistakes: &mut Vec<Mistake>) {
        for (name, text) in environment.iter().filter(|(name, _)| name.starts_with("LAMPPOST_")) {
            let plain = name.strip_suffix("_FILE");
            let found = SETTINGS.iter().find_map(|s| {
                let own = s.environment_name();
                let by_file = s.secret && plain == Some(own.as_str());
                (own == *name || by_file).then(|| if by_file { format!("{}_file", s.key) } else { s.key.to_owned() })
            });
            match found {
                Some(key) => self.put_named(&key, text, Origin::Environment(name.clone()), mistakes),
                None => {
                    let names: Vec<String> = SETTINGS.iter().map(Setting::environment_name).collect();
                    mistakes.push(unknown(Origin::Environment(name.clone()), name, names.iter().map(String::as_str)));
                }
            }
        }
    }

    fn put_named(&mut self, key: &str, text: &str, origin: Origin, mistakes: &mut Vec<Mistake>) {
        if let Some(setting) = Setting::find(key) {
            return self.put(setting, text, origin, mistakes);
        }
        let secret = key.strip_suffix("_file").and_then(Setting::find).filter(|s| s.secret);
        let Some(setting) = secret else {
            return mistakes.push(unknown(origin, key, SETTINGS.iter().map(|s| s.key)));
        };
        match fs::read_to_string(text.trim()) {
            Ok(held) => self.put(setting, held.trim_end_matches(['\r', '\n']), origin, mistakes),
            Err(e) => mistakes.push(Mistake::of(origin, format!("{key}: {text} cannot be read: {e}"))),
        }
    }

    fn put(&mut self, setting: &'static Setting, text: &str, origin: Origin, mistakes: &mut Vec<Mistake>) {
        match Value::parse(setting.kind, text) {
            Ok(value) => {
                self.0.insert(setting.key, (value, origin));
            }
            // The value itself may be a secret in the wrong place, so only its kind is named.
            Err(_) if setting.secret => mistakes.push(Mistake::of(origin, format!("{}: not valid", setting.key))),
            Err(e) => mistakes.push(Mistake::of(origin, format!("{}: {e}", setting.key))),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).map(|(value, _)| value)
    }
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.0.get(key).map(|(_, origin)| origin)
    }

    /// One line per setting, `key = value  # origin`, secrets as `(set)`; valid TOML where no secret is set.
    pub fn show(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for setting in SETTINGS {
            let (head, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
            if head != section {
                out.push_str(&format!("\n[{head}]\n"));
                section = head;
            }
            out.push_str(&match self.0.get(setting.key) {
                None => format!("# {name} is not set\n"),
                Some((_, origin)) if setting.secret => format!("# {name} is set and not shown  # {origin}\n"),
                Some((value, origin)) => format!("{name} = {}  # {origin}\n", shown(setting.kind, value)),
            });
        }
        out
    }
}

fn shown(kind: Kind, value: &Value) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    match value {
        Value::Text(text) => quoted(text),
        Value::Path(path) => quoted(&path.to_string_lossy()),
        Value::Integer(n) => n.to_string(),
        Value::Fraction(n) => n.to_string(),
        Value::Truth(b) => b.to_string(),
        Value::Listen(address) => quoted(&address.to_string()),
        Value::Duration(d) => quoted(&match d.as_millis() {
            ms if ms % 1_000 != 0 || ms == 0 => format!("{ms}ms"),
            ms if ms % 86_400_000 == 0 => format!("{}d", ms / 86_400_000),
            ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
            ms => format!("{}s", ms / 1_000),
        }),
        Value::Size(bytes) => {
            debug_assert_eq!(kind, Kind::Size);
            let unit =
                [(30, "GiB"), (20, "MiB"), (10, "KiB")].into_iter().find(|(s, _)| *bytes > 0 && bytes % (1 << s) == 0);
            quoted(&unit.map_or(bytes.to_string(), |(s, name)| format!("{}{name}", bytes >> s)))
        }
    }
}

fn unknown<'a>(origin: Origin, given: &str, known: impl Iterator<Item = &'a str>) -> Mistake {
    let hint = nearest(given, known).map_or("see docs/configuration.md".to_owned(), |k| format!("did you mean {k}?"));
    Mistake::of(origin, format!("there is no setting {given}; {hint}"))
}

/// 1-based line of a byte offset.
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count()
}
