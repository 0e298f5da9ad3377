//! Who is told, as the pack declares it. Pure.
//!
//! ```toml
//! [[recipient]]
//! key = "dsd-duty"
//! tenant = "dsd"
//! language = "zh-hant"
//! min_severity = "Moderate"
//! email = { to = ["duty@dsd.example"] }
//!
//! [[recipient]]
//! key = "dsd-control"
//! tenant = "dsd"
//! webhook = { url = "https://control.dsd.example/alarms", secret = "dsd-control" }
//! ```

use std::collections::BTreeSet;

use kernel::{FieldError, Id, Kind, Language, Tenant, Timestamp};
use serde::{Deserialize, Serialize};

use super::{guard, hours::Window};
use crate::{
    alarms::model::Alarm,
    rules::model::{Severity, is_key},
};

/// What about an alarm is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Occasion {
    Raised,
    Cleared,
    /// Nobody has acknowledged it in time.
    Escalated,
    /// It was given to a team.
    Assigned,
}

impl Occasion {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Cleared => "cleared",
            Self::Escalated => "escalated",
            Self::Assigned => "assigned",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Raised, Self::Cleared, Self::Escalated, Self::Assigned].into_iter().find(|o| o.name() == name)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// Unique in the city: what rules name in `notify`.
    pub key: String,
    pub tenant: Tenant,
    #[serde(default)]
    pub language: Language,
    /// Alarms that are less grave are not told.
    #[serde(default = "minor")]
    pub min_severity: Severity,
    #[serde(default = "both")]
    pub occasions: BTreeSet<Occasion>,
    /// Names of districts; alarms of others are not told. All of them where none is given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub districts: BTreeSet<String>,
    /// Seconds for which further alarms of the same rule and district are gathered after one was told at once; 0 tells each alone.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub group: u32,
    /// Weekdays and hours of the city in which it is told; always where none is given. What is raised outside them is told when they begin, if it is
    /// still open then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<Window>,
    /// Alarms of this severity and graver are told at any hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_any_hour: Option<Severity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Email {
    pub to: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    pub url: String,
    /// The name of a secret in the configuration; the secret itself never stands in a pack.
    pub secret: String,
}

const fn minor() -> Severity {
    Severity::Minor
}
fn both() -> BTreeSet<Occasion> {
    [Occasion::Raised, Occasion::Cleared].into()
}

const MAX_ADDRESSES: usize = 50;
const MAX_DISTRICTS: usize = 100;
const MAX_WINDOWS: usize = 20;
/// Whoever is told an hour late about the second alarm is told of a first at once.
const MAX_GROUP: u32 = 3_600;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(seconds: &u32) -> bool {
    *seconds == 0
}

impl Recipient {
    /// Everything that is wrong, each with its JSON Pointer. `allowed` are the hosts that may be inside the city's own network.
    pub fn check(&self, allowed: &guard::Allowed) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, detail: String| errors.push(FieldError { field: field.to_owned(), detail });
        if !is_key(&self.key) {
            wrong("/key", "use 1 to 80 of a-z, 0-9, '-' and '.', starting with a letter or digit".to_owned());
        }
        if let Err(detail) = Tenant::parse(self.tenant.as_str()) {
            wrong("/tenant", detail);
        }
        if self.group > MAX_GROUP {
            wrong("/group", format!("at most {MAX_GROUP} seconds are expected"));
        }
        if self.districts.len() > MAX_DISTRICTS || self.districts.iter().any(|d| d.is_empty() || d.len() > 200) {
            wrong("/districts", format!("at most {MAX_DISTRICTS} names of 1 to 200 characters are expected"));
        }
        if self.occasions.iter().any(|o| !matches!(o, Occasion::Raised | Occasion::Cleared)) {
            let detail = "'raised' and 'cleared' are expected; whom an escalation or an assignment names is told of it";
            wrong("/occasions", detail.to_owned());
        }
        if self.hours.len() > MAX_WINDOWS {
            wrong("/hours", format!("at most {MAX_WINDOWS} windows are possible"));
        }
        for (at, window) in self.hours.iter().enumerate() {
            if let Err(detail) = window.check() {
                wrong(&format!("/hours/{at}"), detail);
            }
        }
        if self.at_any_hour.is_some() && self.hours.is_empty() {
            wrong("/at_any_hour", "give 'hours' with it: without them everything is told at any hour".to_owned());
        }
        if self.email.is_some() == self.webhook.is_some() {
            wrong("", "give either 'email' or 'webhook'".to_owned());
        }
        if let Some(email) = &self.email {
            if email.to.is_empty() || email.to.len() > MAX_ADDRESSES {
                wrong("/email/to", format!("1 to {MAX_ADDRESSES} addresses are expected"));
            }
            for (at, address) in email.to.iter().enumerate() {
                if address.parse::<lettre::message::Mailbox>().is_err() {
                    wrong(&format!("/email/to/{at}"), "an e-mail address is expected".to_owned());
                }
            }
        }
        if let Some(webhook) = &self.webhook {
            if let Err(detail) = guard::check_url(&webhook.url, allowed) {
                wrong("/webhook/url", detail);
            }
            if !is_key(&webhook.secret) {
                wrong("/webhook/secret", "the name of a secret in the configuration is expected".to_owned());
            }
        }
        errors
    }

    pub fn wants(&self, alarm: &Alarm, occasion: Occasion) -> bool {
        // A rule may name another department's recipient only where the pack puts both under one tenant: alarms do not leave it.
        if self.tenant != alarm.tenant {
            return false;
        }
        // Who is named for it wants it, whatever else it wants.
        if matches!(occasion, Occasion::Escalated | Occasion::Assigned) {
            return true;
        }
        let here = self.districts.is_empty() || alarm.district.as_ref().is_some_and(|d| self.districts.contains(d));
        alarm.severity >= self.min_severity && self.occasions.contains(&occasion) && here
    }
}

/// What became of telling one recipient about one alarm: kept apart from the alarm, which is no less raised when nobody could be told.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Delivery {
    pub id: Id<Delivery>,
    pub alarm: Id<Alarm>,
    pub recipient: String,
    pub tenant: Tenant,
    pub occasion: Occasion,
    pub state: DeliveryState,
    pub attempts: u32,
    /// Alarms that it is about: this one, and further ones of the same rule and district.
    pub gathered: u32,
    /// What keeps or kept it back: `silence/{id}`, `alarm/{id}` (of an alarm that speaks for this one), `hours`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    pub created_at: Timestamp,
    pub delivered_at: Option<Timestamp>,
}

impl Kind for Delivery {
    const NAME: &'static str = "delivery";
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Being tried.
    Pending,
    Delivered,
    /// Given up: a dead letter until somebody sends it again.
    Dead,
    /// Kept back: it goes out when what keeps it back is over and the alarm is still open, else never.
    Withheld,
}

impl DeliveryState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Withheld => "withheld",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Dead, Self::Withheld].into_iter().find(|s| s.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_checked() {
        let check = |toml: &str, fields: &[&str]| {
            let recipient: Recipient = toml::from_str(&format!("key = \"a\"\ntenant = \"dsd\"\n{toml}")).expect(toml);
            let errors = recipient.check(&guard::Allowed::default());
            assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), fields, "{toml}");
        };
        check("email = { to = [\"a@b.example\"] }", &[]);
        check("email = { to = [] }", &["/email/to"]);
        check("email = { to = [\"a@b.example\", \"x y\"] }", &["/email/to/1"]);
        check("", &[""]);
        check("webhook = { url = \"https://h.example/x\", secret = \"s\" }", &[]);
        check("webhook = { url = \"http://h.example/x\", secret = \"S S\" }", &["/webhook/url", "/webhook/secret"]);
        check("email = { to = [\"a@b.example\"] }\nhours = [{ from = \"08:00\", to = \"08:00\" }]", &["/hours/0"]);
        check("email = { to = [\"a@b.example\"] }\nat_any_hour = \"Severe\"", &["/at_any_hour"]);
        check("email = { to = [\"a@b.example\"] }\noccasions = [\"escalated\"]", &["/occasions"]);
        check("webhook = { url = \"https://10.0.0.1/\", secret = \"s\" }", &["/webhook/url"]);
    }
}
