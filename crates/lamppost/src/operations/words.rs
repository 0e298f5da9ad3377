//! A machine's reasons in an officer's words. The reason itself stays beside them, for whoever must mend it.

use sensing::connect::Health;
use ui::{Badge, Page, State};

use super::parts::{self, Part, Wrong};

/// What a feed's or notification's failure means.
pub fn cause<'a>(page: &'a Page, error: &str) -> &'a str {
    let lower = error.to_lowercase();
    let says = |any: &[&str]| any.iter().any(|word| lower.contains(word));
    page.t(match () {
        () if says(&["internal network", "may be read", "is outside"]) => "operations.cause.not-allowed",
        () if says(&["answered 401", "answered 403", "authentication", "535"]) => "operations.cause.refused",
        () if says(&["answered 404", "answered 410", "not a file", "no such file"]) => "operations.cause.gone",
        () if says(&["answered 429"]) => "operations.cause.too-often",
        () if says(&["answered 5"]) => "operations.cause.their-side",
        () if says(&["timed out", "timeout", "took too long", "deadline"]) => "operations.cause.slow",
        () if says(&["dns", "lookup", "resolve"]) => "operations.cause.name",
        () if says(&["connect", "connection", "refused", "unreachable", "reset"]) => "operations.cause.unreachable",
        () if says(&["certificate", "tls", "ssl"]) => "operations.cause.certificate",
        () if says(&["redirect"]) => "operations.cause.moved",
        () if says(&["larger than", "more than"]) => "operations.cause.too-large",
        () if says(&["not configured", "not declared", "does not exist any more"]) => "operations.cause.not-set-up",
        () => "operations.cause.unreadable",
    })
}

pub fn health(page: &Page, health: Health) -> Badge {
    let (state, key) = match health {
        Health::New => (State::Unknown, "operations.health.new"),
        Health::Ok => (State::Good, "operations.health.ok"),
        Health::Rejecting => (State::Warning, "operations.health.rejecting"),
        Health::Failing => (State::Alarm, "operations.health.failing"),
        Health::Late => (State::Offline, "operations.health.late"),
        Health::Disabled => (State::Notice, "operations.health.disabled"),
    };
    Badge::new(state).word(page.t(key))
}

/// How a part is.
pub fn state(page: &Page, state: parts::State) -> Badge {
    let (shape, key) = match state {
        parts::State::Good => (State::Good, "operations.is.good"),
        parts::State::New => (State::Unknown, "operations.is.new"),
        parts::State::Some => (State::Warning, "operations.is.some"),
        parts::State::Late => (State::Offline, "operations.is.late"),
        parts::State::Failing => (State::Alarm, "operations.is.failing"),
    };
    Badge::new(shape).word(page.t(key))
}

/// What is wrong with a part, and what to do. Nothing where nothing is.
pub fn wrong(page: &Page, part: &Part) -> Option<(String, String)> {
    let (says, advice) = match part.wrong? {
        Wrong::SeriesLate => ("operations.says.series-late", "operations.do.series-late"),
        Wrong::SeriesSome => ("operations.says.series-some", "operations.do.series-some"),
        Wrong::ConnectorFails => {
            let cause = part.cause.as_deref().map_or("", |error| cause(page, error));
            let says = page.msg("operations.says.connector-fails").with("n", part.n).with("all", part.all);
            return Some((says.to_string(), cause.to_owned()));
        }
        Wrong::ConnectorLate => ("operations.says.connector-late", "operations.do.connector-late"),
        Wrong::ConnectorRefuses => ("operations.says.connector-refuses", "operations.do.connector-refuses"),
        Wrong::DevicesSilent => ("operations.says.devices-silent", "operations.do.devices-silent"),
        Wrong::DevicesRefused => ("operations.says.devices-refused", "operations.do.devices-refused"),
        Wrong::DoorRefuses => ("operations.says.door-refuses", "operations.do.door-refuses"),
        Wrong::DerivedStuck => ("operations.says.derived-stuck", "operations.do.derived-stuck"),
        Wrong::DerivedPaused => ("operations.says.derived-paused", "operations.do.derived-paused"),
        Wrong::LettersDead => ("operations.says.letters-dead", "operations.do.letters-dead"),
        Wrong::LettersTrying => ("operations.says.letters-trying", "operations.do.letters-trying"),
        Wrong::RulesBehind => ("operations.says.rules-behind", "operations.do.rules-behind"),
        Wrong::LakeFails => ("operations.says.lake-fails", "operations.do.lake-fails"),
        Wrong::LakeBehind => ("operations.says.lake-behind", "operations.do.lake-behind"),
        Wrong::OutboxBehind => ("operations.says.outbox-behind", "operations.do.outbox-behind"),
        Wrong::JobsDead => ("operations.says.jobs-dead", "operations.do.jobs-dead"),
        Wrong::JobsOverdue => ("operations.says.jobs-overdue", "operations.do.jobs-overdue"),
        Wrong::DiskLow => ("operations.says.disk-low", "operations.do.disk-low"),
        Wrong::DiskUnknown => ("operations.says.disk-unknown", "operations.do.disk-unknown"),
    };
    let number = |n: u64| page.number(&(n as f64), 0);
    let says = page.msg(says).with("n", number(part.n)).with("all", number(part.all)).to_string();
    Some((says, page.t(advice).to_owned()))
}

/// A length of time in the reader's language.
pub fn span(page: &Page, seconds: i64) -> String {
    ui::format::duration(&page.site.catalogue, page.language, seconds.unsigned_abs())
}

/// Whether somebody should look at a feed.
pub fn needs_a_look(health: Health) -> bool {
    matches!(health, Health::Failing | Health::Late | Health::Rejecting)
}

/// An ISO 8601 duration as people say it; as it is where it is none.
pub fn every(page: &Page, duration: &str) -> String {
    let seconds = duration.parse::<jiff::SignedDuration>().map_or(0, |d| d.as_secs());
    let (key, n) = match seconds {
        s if s <= 0 => return duration.to_owned(),
        s if s % 86_400 == 0 => ("time.days", s / 86_400),
        s if s % 3_600 == 0 => ("time.hours", s / 3_600),
        s if s % 60 == 0 => ("time.minutes", s / 60),
        s => ("time.seconds", s),
    };
    page.count(key, n.unsigned_abs())
}

/// A store answers, or does not.
pub fn works(page: &Page, works: bool) -> Badge {
    if works {
        Badge::new(State::Good).word(page.t("operations.works"))
    } else {
        Badge::new(State::Alarm).word(page.t("operations.no-answer"))
    }
}

/// What a store is for, by the name that its probe has.
pub fn store<'a>(page: &'a Page, name: &'a str) -> &'a str {
    match name {
        "records" => page.t("operations.store.records"),
        "stream" => page.t("operations.store.stream"),
        "lake" => page.t("operations.store.lake"),
        other => other,
    }
}
