//! Every setting there is: its key, kind, default and sentence. The file reader, the environment, the flags, `lamppost check` and
//! docs/configuration.md all work from this one list; [`super::Config`] is filled from it.

/// What a value must look like, in a file (TOML), in the environment and on the command line alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path; relative to the folder the program was started in.
    Path,
    /// A whole number.
    Integer,
    /// A number from 0 to 1.
    Fraction,
    /// `true` or `false`.
    Truth,
    /// `500ms`, `30s`, `5m`, `12h`, `7d`.
    Duration,
    /// Bytes: `1024`, `64KiB`, `32MiB`, `1GiB`.
    Size,
    /// `address:port`, such as `127.0.0.1:8080` or `[::]:8080`; port 0 takes a free one.
    Listen,
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl Kind {
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Integer => "whole number".to_owned(),
            Self::Fraction => "0 to 1".to_owned(),
            Self::Truth => "true or false".to_owned(),
            Self::Duration => "duration (`500ms`, `30s`, `5m`, `12h`, `7d`)".to_owned(),
            Self::Size => "size (`64KiB`, `32MiB`, `1GiB`)".to_owned(),
            Self::Listen => "address:port".to_owned(),
            Self::Choice(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(" or "),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `section.name`, as in the file.
    pub key: &'static str,
    pub kind: Kind,
    /// In text form; `None` when the setting is absent unless given.
    pub default: Option<&'static str>,
    /// Never shown. May also be given as `<key>_file`, the path of a file that holds it.
    pub secret: bool,
    pub about: &'static str,
}

const fn setting(key: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Setting {
    Setting { key, kind, default: Some(default), secret: false, about }
}
const fn optional(key: &'static str, kind: Kind, about: &'static str) -> Setting {
    Setting { key, kind, default: None, secret: false, about }
}
const fn secret(key: &'static str, about: &'static str) -> Setting {
    Setting { key, kind: Kind::Text, default: None, secret: true, about }
}

use Kind::{Choice, Duration, Fraction, Integer, Listen, Path, Size, Text, Truth};

pub const SETTINGS: &[Setting] = &[
    setting(
        "data",
        Path,
        "data",
        "Folder of everything the program keeps on this machine. Created when absent, readable by its owner only.",
    ),
    setting("pack", Path, "packs/hong-kong", "The city: a folder as described in packs.md."),
    setting(
        "http.listen",
        Listen,
        "127.0.0.1:8080",
        "Where pages and APIs are served (HTTP/1.1 and HTTP/2 without TLS; put a TLS proxy in front).",
    ),
    optional(
        "http.public_url",
        Text,
        "The address people and devices use, such as `https://city.example`. With `https`, cookies are `Secure`. Default: `http://` and the listening address.",
    ),
    setting("http.body_limit", Size, "32MiB", "The largest request body."),
    setting(
        "http.timeout",
        Duration,
        "30s",
        "The longest a request may take until its answer begins; how long a live stream (server-sent events) then lasts is its own.",
    ),
    setting(
        "http.head_timeout",
        Duration,
        "15s",
        "How long a connection may be silent before its first request, and how long the head of a request may take.",
    ),
    setting("http.concurrency", Integer, "1024", "Requests at work at once; more are answered 503 with Retry-After."),
    setting(
        "http.trust_proxy",
        Truth,
        "false",
        "Take the client's address from the last `X-Forwarded-For` entry. Only behind a proxy of your own.",
    ),
    optional("backup.folder", Path, "Where backups that are begun over HTTP are written. None can be begun without."),
    setting(
        "shutdown.limit",
        Duration,
        "20s",
        "How long an ordered stop may take before the program ends anyway. Everything acknowledged is already durable.",
    ),
    setting("mqtt.enabled", Truth, "true", "Whether the MQTT door is open."),
    setting("mqtt.listen", Listen, "127.0.0.1:1883", "Where MQTT 3.1.1 and 5 devices connect."),
    optional("mqtt.tls_listen", Listen, "Where MQTT devices connect with TLS, usually port 8883."),
    optional("mqtt.tls_certificate", Path, "PEM file with the certificate chain for `mqtt.tls_listen`."),
    optional("mqtt.tls_key", Path, "PEM file with its private key."),
    optional(
        "mqtt.tls_client_authorities",
        Path,
        "PEM file with the authorities whose certificates devices may sign in with (devices.md). Whoever holds such an authority can name any device.",
    ),
    optional(
        "mqtt.tls_client_revocations",
        Path,
        "PEM file with the revocation lists of those authorities, read at the start.",
    ),
    setting("records.engine", Choice(&["sqlite", "postgres"]), "sqlite", "What holds everything that is decided."),
    secret("records.url", "`postgres://user:password@host/database`, for the engine `postgres`."),
    setting("records.readers", Integer, "4", "Reading connections."),
    setting(
        "records.lease",
        Duration,
        "15s",
        "With `postgres`: how long the program that serves the city may be silent before one that waits takes over.",
    ),
    setting(
        "stream.engine",
        Choice(&["local", "nats"]),
        "local",
        "What holds everything that happens: segment files, or NATS JetStream.",
    ),
    secret("stream.url", "`nats://user:password@host:4222`, for the engine `nats`."),
    setting("stream.segment", Size, "64MiB", "Size at which a local segment file is closed and the next begun."),
    setting(
        "stream.retain",
        Size,
        "4GiB",
        "Most bytes that a topic keeps on the stream; what is sealed into the lake stays there.",
    ),
    setting("stream.retain_age", Duration, "7d", "Longest that a topic keeps a record on the stream."),
    setting(
        "lake.engine",
        Choice(&["local", "s3"]),
        "local",
        "What holds everything that happened: a folder, or S3-compatible objects.",
    ),
    optional("lake.bucket", Text, "Bucket, for the engine `s3`."),
    optional("lake.prefix", Text, "Prefix of every object's name."),
    optional("lake.endpoint", Text, "Address of the S3-compatible service; absent for AWS."),
    optional("lake.region", Text, "Region, for the engine `s3`."),
    optional("lake.access_key", Text, "Access key id, for the engine `s3`."),
    secret("lake.secret_key", "Secret access key, for the engine `s3`."),
    setting("lake.seal", Duration, "60s", "How often observations on the stream are sealed into the lake."),
    setting(
        "lake.unsealed",
        Integer,
        "10000000",
        "Most observations held in memory until the lake has them, about 50 bytes each at the worst; more wait at the door and are then refused with 503.",
    ),
    setting("operators.session_idle", Duration, "12h", "A session ends after so long without a request."),
    setting("operators.session_limit", Duration, "7d", "A session ends after so long in any case."),
    setting("operators.invite_limit", Duration, "24h", "How long a one-time link is good for."),
    optional(
        "outgoing.allow",
        Text,
        "Addresses inside the city's own network that connectors may poll and webhooks may reach, as `host:port` with commas between; every other internal address is refused.",
    ),
    secret("mail.smtp_url", "`smtp://host:25`, `smtps://user:password@host:465`; no mail is sent without."),
    optional("mail.from", Text, "Sender of mail, such as `Lamppost <alerts@city.example>`."),
    secret(
        "webhook.secrets",
        "What webhooks are signed with (standard-webhooks): `name=whsec_…` for each name that a pack's recipients use, separated by commas, spaces or lines.",
    ),
    setting("log.format", Choice(&["human", "json"]), "human", "How log lines are written to standard error."),
    setting(
        "log.level",
        Text,
        "info",
        "What is logged: `error`, `warn`, `info`, `debug`, or per room: `info,sensing=debug`.",
    ),
    optional(
        "trace.endpoint",
        Text,
        "OpenTelemetry collector (OTLP over HTTP), such as `http://127.0.0.1:4318`. No traces without.",
    ),
    secret("trace.header", "One header for the collector, as `name: value`."),
    setting("trace.sample", Fraction, "0.05", "Share of requests that are traced when the caller did not decide."),
];

impl Setting {
    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|s| s.key == key)
    }
    /// `http.listen` is `LAMPPOST_HTTP_LISTEN`.
    pub fn environment_name(&self) -> String {
        format!("LAMPPOST_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }
}

/// The key of `known` that needs the fewest edits to become `given` (Levenshtein), when it is near enough to be meant.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + given.len() / 3;
    known.into_iter().map(|k| (distance(given, k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(80).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(80).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_environment_names_are_unique() {
        let mut names: Vec<String> = SETTINGS.iter().map(Setting::environment_name).collect();
        names.sort();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }

    #[test]
    fn suggests_what_was_meant() {
        let known = || SETTINGS.iter().map(|s| s.key);
        assert_eq!(nearest("http.lisen", known()), Some("http.listen"));
        assert_eq!(nearest("mqtt.tls_cert", known()), Some("mqtt.tls_key"));
        assert_eq!(nearest("completely.else.here", known()), None);
    }
}
