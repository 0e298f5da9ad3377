//! Makes messages of alarms: the texts of the rule filled in, the district's outline, identifier, times and signature. No I/O.

use std::{collections::BTreeMap, sync::Arc};

use jiff::tz::TimeZone;
use kernel::{Language, Tenant, Text, Timestamp};
use ui::Catalogue;

use super::{
    model::{Area, Certainty, Info, Message, MsgType, Place, PublicAlert, Status, Urgency, fill},
    sign::Signer,
    xml,
};
use crate::{
    alarms::model::Alarm,
    rules::model::{Facts, Rule},
};

/// Rings of one district that a message carries, and points of one ring: receivers draw them on small screens, and each language has them.
const MAX_RINGS: usize = 8;
const MAX_POINTS: usize = 250;

/// A closed ring of longitude and latitude, as GeoJSON has them.
pub type Ring = Vec<[f64; 2]>;

/// The districts of the city, by their names in any usual spelling.
#[derive(Clone, Debug, Default)]
pub struct Districts(BTreeMap<String, (Text, Vec<String>)>);

impl Districts {
    /// Names and outer rings; `named` are better names for some, or for districts without an outline. Rings that are too small to be one are
    /// left out.
    pub fn new(
        districts: impl IntoIterator<Item = (Text, Vec<Ring>)>,
        named: impl IntoIterator<Item = (String, Text)>,
    ) -> Self {
        let one = |(name, rings): (Text, Vec<Ring>)| {
            let rings = rings.iter().filter_map(ring).take(MAX_RINGS).collect();
            (key(&name.en), (name, rings))
        };
        let mut all: BTreeMap<_, _> = districts.into_iter().map(one).collect();
        for (known, name) in named {
            all.entry(key(&known)).or_default().0 = name;
        }
        Self(all)
    }

    fn get(&self, name: &str) -> Option<&(Text, Vec<String>)> {
        self.0.get(&key(name))
    }
}

/// `Central & Western` and `Central and Western District` are the same place.
fn key(name: &str) -> String {
    let name = name.to_lowercase().replace('&', "and");
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty() && *w != "district");
    words.collect::<Vec<_>>().join(" ")
}

/// As CAP writes a polygon (section 3.2.4): latitude first, at least four pairs, the last the same as the first.
fn ring(points: &Ring) -> Option<String> {
    let step = points.len().div_ceil(MAX_POINTS).max(1);
    let mut kept: Vec<String> = points.iter().step_by(step).map(|[lon, lat]| format!("{lat:.5},{lon:.5}")).collect();
    kept.dedup();
    let first = kept.first()?.clone();
    if kept.last() != Some(&first) {
        kept.push(first);
    }
    (kept.len() >= 4).then(|| kept.join(" "))
}

/// What the city's warnings have in common.
pub struct Publisher {
    pub signer: Signer,
    pub districts: Districts,
    pub city: Text,
    /// Departments by their slug.
    pub tenants: BTreeMap<Tenant, Text>,
    /// The city's address without a slash at its end.
    pub address: String,
    pub zone: TimeZone,
    pub catalogue: Arc<Catalogue>,
}

/// A message as it is stored: once signed, it never changes.
#[derive(Clone, Debug)]
pub struct Issued {
    pub message: Message,
    pub xml: String,
    pub sent: Timestamp,
    pub expires: Timestamp,
}

impl Publisher {
    /// The first message about an alarm.
    ///
    /// # Errors
    /// Those of the signature.
    pub fn alert(&self, alarm: &Alarm, rule: &Rule, facts: &Facts, now: Timestamp) -> Result<Option<Issued>, String> {
        let Some(alert) = &rule.public_alert else { return Ok(None) };
        let status = if alert.exercise || facts.simulated { Status::Exercise } else { Status::Actual };
        let identifier = identifier(alarm, 1);
        let expires = now.plus_secs(i64::from(alert.expires));
        let info = Language::ALL.map(|language| {
            let texts = Words { publisher: self, alarm, facts, language };
            let headline = texts.filled(alert.headline.get(language));
            Info {
                language: language.tag().to_owned(),
                category: alert.category.clone(),
                event: rule.name.get(language).to_owned(),
                response_type: None,
                urgency: alert.urgency,
                severity: alert.severity.unwrap_or(rule.severity),
                certainty: alert.certainty,
                onset: self.time(alarm.raised_at),
                expires: self.time(expires),
                sender_name: self.sender_name(&alarm.tenant, language),
                headline: match status {
                    Status::Actual => headline,
                    Status::Exercise => self.said(language, "warning.cap.exercise", &headline),
                },
                description: texts.filled(alert.description.get(language)),
                instruction: alert.instruction.as_ref().map(|i| texts.filled(i.get(language))),
                web: self.web(language, &identifier),
                area: self.area(alert, facts, language),
            }
        });
        let note = (status == Status::Exercise).then(|| self.catalogue.t(Language::En, "warning.cap.note").to_owned());
        let message = Message {
            identifier,
            sender: format!("{}@{}", alarm.tenant, self.host()),
            sent: self.time(now),
            status,
            msg_type: MsgType::Alert,
            note,
            references: Vec::new(),
            info: info.into(),
        };
        self.issue(message, now, expires).map(Some)
    }

    /// The same warning once more, to hold from now on for as long as before.
    ///
    /// # Errors
    /// Those of the signature.
    pub fn renewal(&self, last: &Message, next: Next<'_>, lasts: i64) -> Result<Issued, String> {
        let expires = next.now.plus_secs(lasts);
        let mut message = self.following(last, &next, MsgType::Update);
        for info in &mut message.info {
            info.expires = self.time(expires);
        }
        self.issue(message, next.now, expires)
    }

    /// The warning is over.
    ///
    /// # Errors
    /// Those of the signature.
    pub fn cancel(&self, last: &Message, next: Next<'_>) -> Result<Issued, String> {
        let mut message = self.following(last, &next, MsgType::Cancel);
        // An hour in which receivers that were away still find it.
        let expires = next.now.plus_secs(3_600);
        for info in &mut message.info {
            let language = Language::ALL.into_iter().find(|l| l.tag() == info.language).unwrap_or_default();
            info.response_type = Some("AllClear".to_owned());
            (info.urgency, info.certainty) = (Urgency::Past, Certainty::Observed);
            info.expires = self.time(expires);
            info.headline = self.said(language, "warning.cap.over", &info.headline);
            info.instruction = None;
        }
        self.issue(message, next.now, expires)
    }

    fn following(&self, last: &Message, next: &Next<'_>, msg_type: MsgType) -> Message {
        let mut message = Message {
            identifier: format!("{}-{}", next.warning, next.number),
            sent: self.time(next.now),
            msg_type,
            references: next.references.to_vec(),
            ..last.clone()
        };
        for info in &mut message.info {
            let language = Language::ALL.into_iter().find(|l| l.tag() == info.language).unwrap_or_default();
            info.web = self.web(language, &message.identifier);
        }
        message
    }

    fn issue(&self, message: Message, sent: Timestamp, expires: Timestamp) -> Result<Issued, String> {
        let xml = self.signer.enveloped(&xml::body(&message), xml::END)?;
        Ok(Issued { message, xml, sent, expires })
    }

    /// lang-keys: warning.cap.*
    fn said(&self, language: Language, key: &str, headline: &str) -> String {
        self.catalogue.msg(language, key).with("headline", headline).to_string()
    }

    fn sender_name(&self, tenant: &Tenant, language: Language) -> String {
        self.tenants.get(tenant).unwrap_or(&self.city).get(language).to_owned()
    }

    /// Where people read it.
    fn web(&self, language: Language, identifier: &str) -> String {
        format!("{}/{}/alerts/{identifier}", self.address, language.segment())
    }

    /// CAP's `sender` is one word that is nobody else's: the department at the city's host.
    fn host(&self) -> &str {
        let host = self.address.split_once("://").map_or(self.address.as_str(), |(_, rest)| rest);
        host.split('/').next().unwrap_or(host)
    }

    /// `2026-11-24T18:51:42+08:00`: seconds, and the offset in hours and minutes, also for UTC (section 3.3.2).
    pub fn time(&self, at: Timestamp) -> String {
        let zoned = at.to_jiff().to_zoned(self.zone.clone());
        zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    }

    fn area(&self, alert: &PublicAlert, facts: &Facts, language: Language) -> Area {
        let district = facts.district.as_deref().and_then(|d| self.districts.get(d));
        let named = district.map(|(name, _)| name.get(language).to_owned()).or_else(|| facts.district.clone());
        let area_desc = named.unwrap_or_else(|| self.city.get(language).to_owned());
        match (alert.area, facts.position) {
            // Where a department's instrument stands is public only when the instrument is; else the district is named.
            (Place::Circle(radius), Some([lon, lat])) if facts.public => {
                let circle = Some(format!("{lat:.5},{lon:.5} {radius}"));
                let area_desc = format!("{} ({area_desc})", facts.thing_name.get(language));
                Area { area_desc, polygon: Vec::new(), circle }
            }
            _ => {
                Area { area_desc, polygon: district.map(|(_, rings)| rings.clone()).unwrap_or_default(), circle: None }
            }
        }
    }
}

/// What tells a message from the one before.
pub struct Next<'a> {
    pub warning: &'a str,
    pub number: u32,
    pub references: &'a [String],
    pub now: Timestamp,
}

/// Every message of a warning begins with the alarm that caused it, so writing one twice writes it once.
fn identifier(alarm: &Alarm, number: u32) -> String {
    format!("{}-{number}", alarm.id)
}

/// What the braces of a text stand for.
struct Words<'a> {
    publisher: &'a Publisher,
    alarm: &'a Alarm,
    facts: &'a Facts,
    language: Language,
}

impl Words<'_> {
    fn filled(&self, text: &str) -> String {
        // A stored rule was checked; one of an older program that does not fit is shown as it is written.
        fill(text, &|name| self.value(name)).unwrap_or_else(|_| text.to_owned())
    }

    fn value(&self, name: &str) -> Option<String> {
        let Self { publisher, alarm, facts, language } = self;
        let district = || {
            let known = facts.district.as_deref().and_then(|d| publisher.districts.get(d));
            let named = known.map(|(name, _)| name.get(*language).to_owned()).or_else(|| facts.district.clone());
            named.unwrap_or_else(|| publisher.city.get(*language).to_owned())
        };
        Some(match name {
            "city" => publisher.city.get(*language).to_owned(),
            "district" => district(),
            "thing" if facts.public => facts.thing_name.get(*language).to_owned(),
            "thing" => district(),
            "value" => alarm.value.map_or_else(String::new, |value| {
                let (unit, decimals) = (alarm.unit.as_deref().unwrap_or(""), ui::format::decimals_for(value));
                ui::format::quantity(&publisher.catalogue, *language, value, unit, decimals)
            }),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn districts_are_found_under_any_usual_name() {
        let square = vec![[114.0, 22.0], [114.1, 22.0], [114.1, 22.1], [114.0, 22.0]];
        let name = Text::new("Central and Western District", "中西區", "中西区");
        let districts = Districts::new([(name, vec![square, vec![[1.0, 2.0]]])], []);
        let (name, rings) = districts.get("Central & Western").expect("known");
        assert_eq!(name.zh_hant.as_deref(), Some("中西區"));
        assert_eq!(rings, &["22.00000,114.00000 22.00000,114.10000 22.10000,114.10000 22.00000,114.00000"]);
        assert!(districts.get("Western").is_none());
    }

    #[test]
    fn a_long_ring_is_thinned_and_stays_closed() {
        let long: Ring = (0..10_000).map(|n| [114.0 + f64::from(n) / 1e4, 22.0 + f64::from(n % 7) / 1e3]).collect();
        let text = ring(&long).expect("a ring");
        let pairs: Vec<&str> = text.split(' ').collect();
        assert!(pairs.len() <= MAX_POINTS + 1);
        assert_eq!(pairs.first(), pairs.last());
    }
}
