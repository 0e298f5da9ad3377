//! What a public warning says: the part of a rule that declares it, and the message of the Common Alerting Protocol (OASIS CAP 1.2) that is
//! made of it. Pure: no I/O, no clock.
//!
//! ```toml
//! [rule.public_alert]
//! category = "Met"                    # one of section 3.2.2, or a list
//! urgency = "Immediate"
//! certainty = "Observed"
//! headline = { en = "Flooding near {district}", zh-hant = "…", zh-hans = "…" }
//! description = { en = "…", zh-hant = "…", zh-hans = "…" }
//! instruction = { en = "…", zh-hant = "…", zh-hans = "…" }
//! area = "district"                   # or { circle = 1.5 }, kilometres around the Thing
//! expires = 21600
//! ```

use kernel::{FieldError, Kind, Language, Text};
use serde::{Deserialize, Serialize};

use crate::rules::model::Severity;

/// The namespace of CAP 1.2.
pub const NAMESPACE: &str = "urn:oasis:names:tc:emergency:cap:1.2";

/// Names of an enumeration of CAP's, as they stand in a pack, in JSON and in XML.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $($word:ident),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub enum $name { $($word),+ }
        impl $name {
            pub const fn name(self) -> &'static str {
                match self { $(Self::$word => stringify!($word)),+ }
            }
        }
    };
}

words!(/** `category`. */ Category: Geo, Met, Safety, Security, Rescue, Fire, Health, Env, Transport, Infra, CBRNE, Other);
words!(/** `urgency`. `Past` is for those that have ended; whoever writes a rule knows which. */ Urgency: Immediate, Expected, Future, Past);
words!(/** `certainty`, without `Unknown`: a rule sees, or infers. */ Certainty: Observed, Likely, Possible, Unlikely);
words!(/** `status`. A warning from simulated data is an exercise, whatever its rule says. */ Status: Actual, Exercise);
words!(/** `msgType`. `Ack` and `Error` are what receivers send. */ MsgType: Alert, Update, Cancel);

/// Where a warning holds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The Thing's district; one warning for all Things of the rule in it.
    #[default]
    District,
    /// A circle of so many kilometres around the Thing; one warning for each Thing.
    Circle(f64),
}

/// `public_alert` of a rule. [`check`] says whether it makes sense.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicAlert {
    #[serde(deserialize_with = "one_or_more")]
    pub category: Vec<Category>,
    pub urgency: Urgency,
    /// The rule's own when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    pub certainty: Certainty,
    pub headline: Text,
    pub description: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<Text>,
    #[serde(default)]
    pub area: Place,
    /// Seconds for which one message holds. While the condition stands, an Update follows before they are over.
    #[serde(default = "six_hours")]
    pub expires: u32,
    /// Says `Exercise` even where the data is real.
    #[serde(default)]
    pub exercise: bool,
}

const fn six_hours() -> u32 {
    21_600
}

fn one_or_more<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Category>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(Category),
        More(Vec<Category>),
    }
    Ok(match Form::deserialize(from)? {
        Form::One(one) => vec![one],
        Form::More(more) => more,
    })
}

/// CAP says that a headline of more than 160 characters is cut by many receivers (section 3.2.2).
const MAX_HEADLINE: usize = 160;
const MAX_TEXT: usize = 2_000;
/// The widest circle: further away than that is another city's business.
const MAX_KILOMETRES: f64 = 100.0;
const EXPIRES: std::ops::RangeInclusive<u32> = 300..=7 * 86_400;

/// What a text may name in braces.
const NAMES: [&str; 4] = ["city", "district", "thing", "value"];

/// Everything that is wrong, each with its JSON Pointer below the rule.
pub fn check(alert: &PublicAlert) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut wrong = |field: String, detail: String| {
        errors.push(FieldError { field: format!("/public_alert{field}"), detail });
    };
    if alert.category.is_empty() || alert.category.len() > 4 {
        wrong("/category".to_owned(), "1 to 4 categories are expected".to_owned());
    }
    if let Place::Circle(radius) = alert.area
        && !(radius > 0.0 && radius <= MAX_KILOMETRES)
    {
        wrong("/area/circle".to_owned(), format!("a radius of up to {MAX_KILOMETRES} km is expected"));
    }
    if !EXPIRES.contains(&alert.expires) {
        wrong("/expires".to_owned(), format!("{} to {} seconds are expected", EXPIRES.start(), EXPIRES.end()));
    }
    let texts = [
        ("headline", Some(&alert.headline), MAX_HEADLINE),
        ("description", Some(&alert.description), MAX_TEXT),
        ("instruction", alert.instruction.as_ref(), MAX_TEXT),
    ];
    for (name, text, most) in texts {
        let Some(text) = text else { continue };
        let forms = [("en", Some(&text.en)), ("zh-hant", text.zh_hant.as_ref()), ("zh-hans", text.zh_hans.as_ref())];
        for (language, form) in forms {
            let form = form.map_or("", |f| f.trim());
            let field = || format!("/{name}/{language}");
            if form.is_empty() {
                wrong(field(), "a text is expected".to_owned());
            } else if form.chars().count() > most {
                wrong(field(), format!("at most {most} characters are expected"));
            } else if form.chars().any(|c| c.is_control() && (c != '\n' || name == "headline")) {
                wrong(field(), "text without control characters is expected".to_owned());
            } else if let Err(detail) = fill(form, &|name| NAMES.contains(&name).then(String::new)) {
                wrong(field(), detail);
            }
        }
    }
    errors
}

/// Replaces `{name}` by what `value` says.
///
/// # Errors
/// A brace without its other half, or a name that `value` does not know.
pub fn fill(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let inside = rest[at..].strip_prefix('{').and_then(|r| r.split_once('}'));
        let (name, after) = inside.ok_or_else(|| "a '{' or '}' stands alone".to_owned())?;
        let known = || format!("'{{{name}}}' is none of {{{}}}", NAMES.join("}, {"));
        out.push_str(&value(name).ok_or_else(known)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// One message. Its JSON has the names of CAP's elements.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    pub identifier: String,
    pub sender: String,
    /// With the city's offset: CAP forbids `Z` (section 3.3.2).
    pub sent: String,
    pub status: Status,
    pub msg_type: MsgType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// `sender,identifier,sent` of the earlier messages of the same warning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    pub info: Vec<Info>,
}

impl Kind for Message {
    const NAME: &'static str = "warning";
}

impl Message {
    /// How a later message names this one.
    pub fn reference(&self) -> String {
        format!("{},{},{}", self.sender, self.identifier, self.sent)
    }
    /// The block in a language; English where there is none.
    pub fn info(&self, language: Language) -> Option<&Info> {
        self.info.iter().find(|i| i.language == language.tag()).or_else(|| self.info.first())
    }
}

/// What it says in one language.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    pub language: String,
    pub category: Vec<Category>,
    pub event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_type: Option<String>,
    pub urgency: Urgency,
    pub severity: Severity,
    pub certainty: Certainty,
    pub onset: String,
    pub expires: String,
    pub sender_name: String,
    pub headline: String,
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
    pub web: String,
    pub area: Area,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Area {
    pub area_desc: String,
    /// Rings of `latitude,longitude` pairs with blanks between; first and last are the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub polygon: Vec<String>,
    /// `latitude,longitude radius`, in kilometres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circle: Option<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alert(toml: &str) -> Result<PublicAlert, toml::de::Error> {
        let texts = r#"headline = { en = "High water in {district}", zh-hant = "水", zh-hans = "水" }
            description = { en = "{thing}: {value}", zh-hant = "水", zh-hans = "水" }
            urgency = "Immediate"
            certainty = "Observed"
            "#;
        toml::from_str(&format!("{texts}{toml}"))
    }

    #[test]
    fn a_rule_declares_a_warning() {
        let plain = alert("category = \"Met\"").expect("valid");
        assert_eq!((plain.area, plain.expires, plain.exercise), (Place::District, 21_600, false));
        assert!(check(&plain).is_empty());
        let round = alert("category = [\"Met\", \"Infra\"]\narea = { circle = 1.5 }").expect("valid");
        assert_eq!((round.area, round.category.len()), (Place::Circle(1.5), 2));
        let json = serde_json::to_string(&round).expect("serialises");
        assert_eq!(serde_json::from_str::<PublicAlert>(&json).expect("parses"), round);
        for wrong in ["category = \"Rain\"", "category = \"Met\"\nareas = \"district\""] {
            assert!(alert(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let named = |change: &dyn Fn(&mut PublicAlert), field: &str| {
            let mut one = alert("category = \"Met\"").expect("valid");
            change(&mut one);
            let fields: Vec<_> = check(&one).into_iter().map(|e| e.field).collect();
            assert_eq!(fields, [format!("/public_alert{field}")]);
        };
        named(&|a| a.category.clear(), "/category");
        named(&|a| a.area = Place::Circle(f64::NAN), "/area/circle");
        named(&|a| a.expires = 1, "/expires");
        named(&|a| a.headline.zh_hans = None, "/headline/zh-hans");
        named(&|a| a.headline.en = "a\nb".to_owned(), "/headline/en");
        named(&|a| a.headline.en = "a".repeat(161), "/headline/en");
        named(&|a| a.description.en = "{where}".to_owned(), "/description/en");
        named(&|a| a.description.en = "{".to_owned(), "/description/en");
    }

    proptest! {
        #[test]
        fn texts_without_braces_stay_as_they_are(text in "[^{}]{0,60}", any in "\\PC{0,60}") {
            prop_assert_eq!(fill(&text, &|_| None), Ok(text.clone()));
            let _ = fill(&any, &|_| Some(String::new()));
        }
    }
}
