//! Telling people: one plain-text message in the recipient's language, over SMTP (RFC 5321).

use std::time::Duration;

use jiff::tz::TimeZone;
use kernel::Language;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use records::JobFailure;
use ui::Catalogue;

use super::{
    Occasion,
    model::{Delivery, Recipient},
};
use crate::{alarms::model::Alarm, rules::model::Severity};

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Begins in the clear and must change to TLS before anything is said (RFC 3207).
    StartTls,
    /// TLS from the first byte (RFC 8314).
    Tls,
    /// For a relay on the same machine.
    None,
}

/// The operator's mail relay.
#[derive(Clone)]
pub struct Smtp {
    pub host: String,
    pub port: u16,
    pub security: Security,
    pub from: String,
    pub login: Option<(String, String)>,
}

#[derive(Clone)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(smtp: &Smtp, timeout: Duration) -> Result<Self, String> {
        let from = smtp.from.parse().map_err(|_| format!("'{}' is not an e-mail address", smtp.from))?;
        let tls = || TlsParameters::new(smtp.host.clone()).map_err(|e| format!("TLS to the mail relay: {e}"));
        let security = match smtp.security {
            Security::StartTls => Tls::Required(tls()?),
            Security::Tls => Tls::Wrapper(tls()?),
            Security::None => Tls::None,
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(smtp.host.clone());
        let mut builder = builder.port(smtp.port).tls(security).timeout(Some(timeout));
        if let Some((user, password)) = &smtp.login {
            builder = builder.credentials(Credentials::new(user.clone(), password.clone()));
        }
        Ok(Self { transport: builder.build(), from })
    }

    /// # Errors
    /// [`JobFailure::GiveUp`] when the relay will never take it (5xx), else [`JobFailure::Retry`].
    pub async fn send(&self, to: &[String], letter: Letter, id: &str) -> Result<(), JobFailure> {
        let give_up = |e: &dyn std::fmt::Display| JobFailure::GiveUp(format!("the message cannot be written: {e}"));
        // The same for every attempt: mail programs show a message that comes twice once.
        let message_id = format!("<{id}@{}>", self.from.email.domain());
        let mut message =
            Message::builder().from(self.from.clone()).subject(letter.subject).message_id(Some(message_id));
        message = message.header(header::ContentType::TEXT_PLAIN);
        for address in to {
            message = message.to(address.parse().map_err(|e: lettre::address::AddressError| give_up(&e))?);
        }
        let message = message.body(letter.body).map_err(|e| give_up(&e))?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(JobFailure::GiveUp(format!("the mail relay refused: {error}"))),
            Err(error) => Err(JobFailure::Retry(format!("the mail relay: {error}"))),
        }
    }
}

/// What is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    pub subject: String,
    pub body: String,
}

/// What letters need beside the alarm.
#[derive(Clone)]
pub struct Stationery {
    pub catalogue: std::sync::Arc<Catalogue>,
    pub zone: TimeZone,
    /// The city's address without a slash at its end, for links.
    pub address: String,
}

impl Stationery {
    pub fn write(&self, alarm: &Alarm, delivery: &Delivery, recipient: &Recipient) -> Letter {
        let language = recipient.language;
        let text = |key| self.catalogue.msg(language, key);
        let (name, thing) = (line(alarm.name.get(language)), line(alarm.thing_name.get(language)));
        let time = |at| format!("{} {}", ui::format::date(language, at, &self.zone), ui::format::clock(at, &self.zone));
        let (subject, first) = match delivery.occasion {
            Occasion::Raised => {
                (text("notify.mail.subject-raised"), text("notify.mail.raised").with("at", time(alarm.raised_at)))
            }
            Occasion::Cleared => {
                let ended = alarm.cleared_at.unwrap_or(alarm.recorded_at);
                let first = text("notify.mail.cleared").with("raised", time(alarm.raised_at)).with("at", time(ended));
                (text("notify.mail.subject-cleared"), first)
            }
            Occasion::Escalated => {
                let first = text("notify.mail.escalated").with("at", time(alarm.raised_at));
                (text("notify.mail.subject-escalated"), first)
            }
            Occasion::Assigned => {
                let first = text("notify.mail.assigned").with("at", time(alarm.raised_at));
                (text("notify.mail.subject-assigned"), first)
            }
        };
        let subject =
            subject.with("severity", self.severity(language, alarm.severity)).with("name", &name).with("thing", &thing);
        let mut paragraphs = vec![first.with("name", &name).with("thing", &thing).to_string()];
        if let Some(value) = alarm.value.filter(|_| delivery.occasion != Occasion::Cleared) {
            let unit = alarm.unit.as_deref().unwrap_or("");
            let decimals = ui::format::decimals_for(value);
            let quantity = ui::format::quantity(&self.catalogue, language, value, unit, decimals);
            paragraphs.push(text("notify.mail.value").with("value", line(&quantity)).to_string());
        }
        if let Some(instruction) = alarm.instruction.as_ref().filter(|_| delivery.occasion != Occasion::Cleared) {
            let instruction = line(instruction.get(language));
            paragraphs.push(text("notify.mail.instruction").with("instruction", instruction).to_string());
        }
        if let Some(further) = delivery.gathered.checked_sub(1).filter(|n| *n > 0) {
            let place = line(alarm.district.as_deref().unwrap_or(&thing));
            paragraphs.push(text("notify.mail.further").n(u64::from(further)).with("place", place).to_string());
        }
        let link = format!("{}/{}/alarms/{}", self.address, language.segment(), alarm.id);
        paragraphs.push(text("notify.mail.link").with("link", link).to_string());
        Letter { subject: subject.to_string(), body: paragraphs.join("\r\n\r\n") + "\r\n" }
    }

    fn severity(&self, language: Language, severity: Severity) -> &str {
        match severity {
            Severity::Extreme => self.catalogue.t(language, "notify.severity.extreme"),
            Severity::Severe => self.catalogue.t(language, "notify.severity.severe"),
            Severity::Moderate => self.catalogue.t(language, "notify.severity.moderate"),
            Severity::Minor => self.catalogue.t(language, "notify.severity.minor"),
        }
    }
}

/// One line: a Thing's name is anybody's text, and a line break in a subject would be a header.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
