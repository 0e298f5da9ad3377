//! Configuration: what may be set ([`setting::SETTINGS`]), where it is read from ([`layers::Values`]) and what the program works with
//! ([`Config`]).

pub mod layers;
pub mod setting;
pub mod value;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

pub use layers::{Mistake, Origin, Sources, Values};
use sensing::notify::webhook;
use value::Value;

/// A text that must not reach a log: it shows as `(secret)`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    pub data: PathBuf,
    pub pack: PathBuf,
    pub http: Http,
    pub backup_folder: Option<PathBuf>,
    pub shutdown_limit: Duration,
    /// `None` when the door is closed.
    pub mqtt: Option<Mqtt>,
    pub records: RecordsEngine,
    pub records_readers: usize,
    pub records_lease: Duration,
    pub stream: Stream,
    pub lake: LakeEngine,
    pub lake_seal: Duration,
    pub lake_unsealed: usize,
    pub operators: Operators,
    pub mail: Option<Mail>,
    /// What webhooks are signed with, by the name that recipients use.
    pub webhook_secrets: BTreeMap<String, webhook::Secret>,
    /// Internal `host:port` that connectors and webhooks may reach.
    pub outgoing: Vec<String>,
    pub log_json: bool,
    pub log_level: String,
    pub trace: Option<Trace>,
}

#[derive(Clone, Debug)]
pub struct Http {
    pub listen: SocketAddr,
    /// Without a trailing slash.
    pub public_url: Option<String>,
    pub body_limit: usize,
    pub timeout: Duration,
    pub head_timeout: Duration,
    pub concurrency: usize,
    pub trust_proxy: bool,
}

#[derive(Clone, Debug)]
pub struct Mqtt {
    pub listen: SocketAddr,
    pub tls: Option<MqttTls>,
}

#[derive(Clone, Debug)]
pub struct MqttTls {
    pub listen: SocketAddr,
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whose certificates devices may sign in with, and what those have revoked.
    pub client_authorities: Option<PathBuf>,
    pub client_revocations: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub enum RecordsEngine {
    Sqlite,
    Postgres { url: Secret },
}

#[derive(Clone, Debug)]
pub struct Stream {
    /// `None`: segment files under `data`.
    pub nats: Option<Secret>,
    pub segment: u64,
    pub retain: u64,
    pub retain_age: Duration,
}

#[derive(Clone, Debug)]
pub enum LakeEngine {
    Local,
    S3 {
        bucket: String,
        prefix: Option<String>,
        endpoint: Option<String>,
        region: String,
        access_key: String,
        secret_key: Secret,
    },
}

#[derive(Clone, Debug)]
pub struct Operators {
    pub session_idle: Duration,
    pub session_limit: Duration,
    pub invite_limit: Duration,
}

#[derive(Clone, Debug)]
pub struct Mail {
    pub smtp: Secret,
    pub from: String,
}

#[derive(Clone, Debug)]
pub struct Trace {
    pub endpoint: String,
    pub header: Option<Secret>,
    pub sample: f64,
}

impl Config {
    /// Reads every layer and checks what single values cannot tell: settings that need each other.
    pub fn read(sources: &Sources) -> Result<(Self, Values), Vec<Mistake>> {
        let values = Values::read(sources)?;
        let mut mistakes = Vec::new();
        let config = Reader { values: &values, mistakes: &mut mistakes }.config();
        if mistakes.is_empty() { Ok((config, values)) } else { Err(mistakes) }
    }

    /// All defaults and nothing from outside; tests change single fields.
    pub fn defaults() -> Self {
        // Sources without file, environment and flags hold the defaults alone, which a test proves valid.
        let sources = Sources { file: Some("/dev/null".into()), ..Sources::default() };
        match Self::read(&sources) {
            Ok((config, _)) => config,
            Err(mistakes) => unreachable!("the defaults are valid: {mistakes:?}"),
        }
    }
}

struct Reader<'a> {
    values: &'a Values,
    mistakes: &'a mut Vec<Mistake>,
}

/// Each getter is called with a key of its own kind only; a wrong pairing is a programming error that the test over the defaults finds.
impl Reader<'_> {
    fn text(&self, key: &str) -> Option<String> {
        match self.values.get(key)? {
            Value::Text(text) if !text.is_empty() => Some(text.clone()),
            Value::Text(_) => None,
            other => unreachable!("{key} is {other:?}"),
        }
    }
    fn secret(&self, key: &str) -> Option<Secret> {
        self.text(key).map(Secret)
    }
    fn path(&self, key: &str) -> Option<PathBuf> {
        match self.values.get(key)? {
            Value::Path(path) => Some(path.clone()),
            other => unreachable!("{key} is {other:?}"),
        }
    }
    fn listen(&self, key: &str) -> Option<SocketAddr> {
        match self.values.get(key)? {
            Value::Listen(address) => Some(*address),
            other => unreachable!("{key} is {other:?}"),
        }
    }
    fn duration(&self, key: &str) -> Duration {
        match self.values.get(key) {
            Some(Value::Duration(duration)) => *duration,
            other => unreachable!("{key} is {other:?}"),
        }
    }
    fn number(&self, key: &str) -> u64 {
        match self.values.get(key) {
            Some(Value::Integer(n) | Value::Size(n)) => *n,
            other => unreachable!("{key} is {other:?}"),
        }
    }
    fn truth(&self, key: &str) -> bool {
        self.values.get(key) == Some(&Value::Truth(true))
    }
    fn fail(&mut self, key: &str, message: &str) {
        let place = self.values.origin(key).map_or_else(|| key.to_owned(), |o| format!("{key} ({o})"));
        self.mistakes.push(Mistake::new(place, message));
    }
    /// The value of `key`, which `other` makes necessary.
    fn needed<T: Default>(&mut self, value: Option<T>, key: &str, other: &str) -> T {
        value.unwrap_or_else(|| {
            self.fail(other, &format!("{key} must be set too"));
            T::default()
        })
    }
    fn positive(&mut self, key: &str) -> usize {
        let n = self.number(key);
        if n == 0 {
            self.fail(key, "must be 1 or more");
        }
        usize::try_from(n).unwrap_or(usize::MAX)
    }

    fn config(mut self) -> Config {
        let unspecified = SocketAddr::from(([127, 0, 0, 1], 0));
        let public_url = self.text("http.public_url").map(|url| url.trim_end_matches('/').to_owned());
        if public_url.as_ref().is_some_and(|u| !u.starts_with("https://") && !u.starts_with("http://")) {
            self.fail("http.public_url", "begins with https:// or http://");
        }
        Config {
            data: self.path("data").unwrap_or_default(),
            pack: self.path("pack").unwrap_or_default(),
            http: Http {
                listen: self.listen("http.listen").unwrap_or(unspecified),
                public_url,
                body_limit: self.positive("http.body_limit"),
                timeout: self.duration("http.timeout"),
                head_timeout: self.duration("http.head_timeout"),
                concurrency: self.positive("http.concurrency"),
                trust_proxy: self.truth("http.trust_proxy"),
            },
            backup_folder: self.path("backup.folder"),
            shutdown_limit: self.duration("shutdown.limit"),
            mqtt: self.mqtt(unspecified),
            records: match self.text("records.engine").as_deref() {
                Some("postgres") => {
                    let url = self.secret("records.url");
                    RecordsEngine::Postgres { url: self.needed(url, "records.url", "records.engine") }
                }
                _ => RecordsEngine::Sqlite,
            },
            records_readers: self.positive("records.readers"),
            records_lease: self.lease(),
            stream: self.stream(),
            lake: self.lake(),
            lake_seal: self.duration("lake.seal"),
            lake_unsealed: self.positive("lake.unsealed"),
            operators: Operators {
                session_idle: self.duration("operators.session_idle"),
                session_limit: self.duration("operators.session_limit"),
                invite_limit: self.duration("operators.invite_limit"),
            },
            webhook_secrets: self.webhook_secrets(),
            outgoing: self
                .text("outgoing.allow")
                .map(|list| list.split(',').map(|a| a.trim().to_owned()).filter(|a| !a.is_empty()).collect())
                .unwrap_or_default(),
            mail: self.secret("mail.smtp_url").map(|smtp| {
                let from = self.text("mail.from");
                Mail { smtp, from: self.needed(from, "mail.from", "mail.smtp_url") }
            }),
            log_json: self.text("log.format").as_deref() == Some("json"),
            log_level: self.text("log.level").unwrap_or_default(),
            trace: self.text("trace.endpoint").map(|endpoint| Trace {
                endpoint: endpoint.trim_end_matches('/').to_owned(),
                header: self.secret("trace.header"),
                sample: match self.values.get("trace.sample") {
                    Some(Value::Fraction(f)) => *f,
                    other => unreachable!("trace.sample is {other:?}"),
                },
            }),
        }
    }

    fn mqtt(&mut self, unspecified: SocketAddr) -> Option<Mqtt> {
        if !self.truth("mqtt.enabled") {
            return None;
        }
        let tls = self.listen("mqtt.tls_listen").map(|listen| {
            let (certificate, key) = (self.path("mqtt.tls_certificate"), self.path("mqtt.tls_key"));
            MqttTls {
                listen,
                certificate: self.needed(certificate, "mqtt.tls_certificate", "mqtt.tls_listen"),
                key: self.needed(key, "mqtt.tls_key", "mqtt.tls_listen"),
                client_authorities: self.path("mqtt.tls_client_authorities"),
                client_revocations: self.path("mqtt.tls_client_revocations"),
            }
        });
        Some(Mqtt { listen: self.listen("mqtt.listen").unwrap_or(unspecified), tls })
    }

    /// A beat is a fifth of it: shorter ones would be lost in the noise of a network.
    fn lease(&mut self) -> Duration {
        let length = self.duration("records.lease");
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&length) {
            self.fail("records.lease", "must be 1s to 10m");
        }
        length
    }

    fn webhook_secrets(&mut self) -> BTreeMap<String, webhook::Secret> {
        const KEY: &str = "webhook.secrets";
        let text = self.text(KEY).unwrap_or_default();
        let mut secrets = BTreeMap::new();
        // The value is a secret: a mistake says which one by its number, never what stands there.
        let parts = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
        for (number, part) in parts.enumerate() {
            let Some((name, secret)) = part.split_once('=') else {
                self.fail(KEY, &format!("number {}: name=whsec_… is expected", number + 1));
                continue;
            };
            match webhook::Secret::parse(secret) {
                Ok(secret) => {
                    if secrets.insert(name.to_owned(), secret).is_some() {
                        self.fail(KEY, &format!("number {}: the name is used twice", number + 1));
                    }
                }
                Err(expected) => self.fail(KEY, &format!("number {}: {expected}", number + 1)),
            }
        }
        secrets
    }

    fn stream(&mut self) -> Stream {
        let nats = (self.text("stream.engine").as_deref() == Some("nats")).then(|| {
            let url = self.secret("stream.url");
            self.needed(url, "stream.url", "stream.engine")
        });
        Stream {
            nats,
            segment: self.number("stream.segment"),
            retain: self.number("stream.retain"),
            retain_age: self.duration("stream.retain_age"),
        }
    }

    fn lake(&mut self) -> LakeEngine {
        if self.text("lake.engine").as_deref() != Some("s3") {
            return LakeEngine::Local;
        }
        let (bucket, region, access_key) =
            (self.text("lake.bucket"), self.text("lake.region"), self.text("lake.access_key"));
        let secret_key = self.secret("lake.secret_key");
        LakeEngine::S3 {
            bucket: self.needed(bucket, "lake.bucket", "lake.engine"),
            prefix: self.text("lake.prefix"),
            endpoint: self.text("lake.endpoint"),
            region: self.needed(region, "lake.region", "lake.engine"),
            access_key: self.needed(access_key, "lake.access_key", "lake.engine"),
            secret_key: self.needed(secret_key, "lake.secret_key", "lake.engine"),
        }
    }
}

/// docs/configuration.md, from the list of settings.
pub fn document() -> String {
    let mut out = String::from(DOCUMENT_HEAD);
    let mut section = "";
    for setting in setting::SETTINGS {
        let head = setting.key.split_once('.').map_or("general", |(head, _)| head);
        if head != section {
            out.push_str(&format!("\n## {head}\n\n| Setting | Value | Default | Meaning |\n|---|---|---|---|\n"));
            section = head;
        }
        let default = setting.default.map_or("none".to_owned(), |d| format!("`{d}`"));
        let kind = if setting.secret { "secret".to_owned() } else { setting.kind.describe() };
        out.push_str(&format!("| `{}` | {kind} | {default} | {} |\n", setting.key, setting.about));
    }
    out
}

const DOCUMENT_HEAD: &str = "\
# Configuration

Written from the program's own list of settings (`lamppost check --document`); a test holds the two together.

A value is looked for in this order, and the last one found counts:

1. the default below;
2. the file: `--config FILE`, or `lamppost.toml` in the current folder when there is one;
3. the environment: `http.listen` is `LAMPPOST_HTTP_LISTEN`;
4. flags: `--set http.listen=0.0.0.0:8080`, and the short ones that `lamppost serve --help` lists.

In the file, `http.listen` is `listen` under `[http]`. A setting that does not exist is an error that names the nearest one that does. A secret may be given as
`<setting>_file` (`LAMPPOST_<SETTING>_FILE`), the path of a file that holds it. `lamppost check --config FILE` prints every value in effect and where it came from,
without secrets.
";

#[cfg(test)]
mod tests;
