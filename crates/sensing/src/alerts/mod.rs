//! Public warnings in the Common Alerting Protocol (OASIS CAP 1.2), made of alarms whose rule declares `public_alert`.
//!
//! A warning is a chain of messages: Alert when the first alarm of a rule and a district is raised, Update before a message expires while
//! the condition stands, Cancel when the last alarm is over. Every message is written, signed, in the one transaction that changes the alarm; it
//! never changes afterwards, and everybody may read it: whoever declares a warning public has decided that.

pub mod api;
pub mod model;
pub mod publisher;
pub mod sign;
pub mod store;
mod xml;

use std::{sync::Arc, time::Duration};

use kernel::{Caller, Timestamp};
use records::{Event, Records, Tx};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    alarms::{self, Alarms, model::Alarm},
    rules::model::{Facts, Rule},
};
use model::{Message, MsgType, Place};
use publisher::{Issued, Next, Publisher};
pub use store::{Chain, Filter, Stored};

/// The most warnings of one answer.
pub const MAX_LISTED: usize = 200;
/// Days for which the feed keeps a warning that is over.
pub const KEPT_DAYS: i64 = 7;
/// How often messages that are about to expire are looked for.
const RENEWAL: Duration = Duration::from_secs(30);
/// Messages that one transaction renews.
const RENEWED_AT_ONCE: i64 = 50;

/// The facade over warnings. What it shows is public, so it asks the policy nothing.
#[derive(Clone)]
pub struct Alerts {
    records: Records,
    publisher: Arc<Publisher>,
}

impl Alerts {
    /// Makes `alarms` publish, and keeps the public half of the key.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn open(alarms: &Alarms, publisher: Publisher) -> Result<Self, Error> {
        let publisher = Arc::new(publisher);
        let (id, jwk) = (publisher.signer.id().to_owned(), publisher.signer.jwk().to_string());
        alarms.records().write(move |tx| store::put_key(tx, &id, &jwk)).await.map_err(alarms::stored)?;
        alarms.publish_with(Arc::clone(&publisher));
        Ok(Self { records: alarms.records().clone(), publisher })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.records.now()
    }
    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// The newest message of each warning, newest first; at most [`MAX_LISTED`].
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn list(&self, filter: Filter, limit: usize) -> Result<Vec<Stored>, Error> {
        let (now, limit) = (self.now(), limit.clamp(1, MAX_LISTED));
        self.records.read(move |read| store::list(read, &filter, now, limit)).await.map_err(alarms::stored)
    }

    /// # Errors
    /// 404 when there is no such message.
    pub async fn get(&self, identifier: &str) -> Result<(Stored, Vec<store::Line>), Error> {
        let wanted = shown(identifier);
        let found = self.records.read(move |read| {
            let Some(stored) = store::get(read, &wanted)? else { return Ok(None) };
            let history = store::history(read, &stored.chain.warning)?;
            Ok::<_, records::Error>(Some((stored, history)))
        });
        found.await.map_err(alarms::stored)?.ok_or_else(|| missing(identifier))
    }

    /// The signed document.
    ///
    /// # Errors
    /// 404 when there is no such message.
    pub async fn xml(&self, identifier: &str) -> Result<String, Error> {
        let wanted = shown(identifier);
        let found = self.records.read(move |read| store::xml(read, &wanted)).await.map_err(alarms::stored)?;
        found.ok_or_else(|| missing(identifier))
    }

    /// The public keys of all signatures, as a JSON Web Key Set (RFC 7517 section 5).
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn keys(&self) -> Result<serde_json::Value, Error> {
        let keys = self.records.read(store::keys).await.map_err(alarms::stored)?;
        let keys: Vec<serde_json::Value> = keys.iter().filter_map(|k| serde_json::from_str(k).ok()).collect();
        Ok(json!({ "keys": keys }))
    }

    /// Renews what is about to expire while its condition stands, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RENEWAL) => {}
            }
            if let Err(error) = self.renew().await {
                tracing::error!(%error, "public warnings could not be renewed; trying again");
            }
        }
    }

    /// Renews what is about to expire now; how many messages that were.
    ///
    /// # Errors
    /// Those of `records`.
    pub async fn renew(&self) -> Result<usize, Error> {
        let mut renewed = 0;
        loop {
            let publisher = Arc::clone(&self.publisher);
            let write = self.records.write(move |tx| {
                let now = tx.now();
                let due = store::due(tx, now, RENEWED_AT_ONCE)?;
                for last in &due {
                    let references = store::references(tx, &last.chain.warning, now)?;
                    let chain = Chain { number: last.chain.number.saturating_add(1), ..last.chain.clone() };
                    let next = Next { warning: &chain.warning, number: chain.number, references: &references, now };
                    let issued = publisher.renewal(&last.message, next, chain.lasts).map_err(unsigned)?;
                    put(tx, &Caller::system("alerts"), &chain, &issued)?;
                }
                Ok::<_, records::Error>(due.len())
            });
            let count = write.await.map_err(alarms::stored)?;
            renewed += count;
            if (count as i64) < RENEWED_AT_ONCE {
                return Ok(renewed);
            }
        }
    }
}

/// Issues what an alarm that was just raised asks for, in its transaction.
pub(crate) fn raised(
    tx: &mut Tx<'_>,
    publisher: &Publisher,
    caller: &Caller,
    alarm: &Alarm,
    rule: &Rule,
    facts: &Facts,
) -> Result<(), records::Error> {
    let Some(declared) = &rule.public_alert else { return Ok(()) };
    // An exercise must not hide what is real, nor hold it up when it is over.
    let exercise = if declared.exercise || facts.simulated { "/exercise" } else { "" };
    let open_key = match (declared.area, &alarm.district) {
        (Place::District, Some(district)) => format!("{}/{district}{exercise}", rule.key),
        _ => format!("{}/{}{exercise}", rule.key, alarm.thing),
    };
    // A hundred gauges of one district are one warning, not a hundred.
    if let Some(standing) = store::standing(tx, &open_key)? {
        return store::join(tx, alarm, &standing.chain.warning);
    }
    let Some(issued) = publisher.alert(alarm, rule, facts, tx.now()).map_err(unsigned)? else { return Ok(()) };
    let chain = Chain {
        warning: alarm.id.to_string(),
        number: 1,
        rule: rule.key.clone(),
        tenant: rule.tenant.clone(),
        district: alarm.district.clone(),
        severity: declared.severity.unwrap_or(rule.severity),
        open_key: Some(open_key),
        lasts: i64::from(declared.expires),
    };
    store::join(tx, alarm, &chain.warning)?;
    put(tx, caller, &chain, &issued)
}

/// Cancels what an alarm that is over leaves without a reason, in its transaction.
pub(crate) fn ended(
    tx: &mut Tx<'_>,
    publisher: &Publisher,
    caller: &Caller,
    alarm: &Alarm,
) -> Result<(), records::Error> {
    let Some(warning) = store::leave(tx, alarm)? else { return Ok(()) };
    let Some(last) = store::newest(tx, &warning)? else { return Ok(()) };
    let now = tx.now();
    let references = store::references(tx, &warning, now)?;
    let chain = Chain { number: last.chain.number.saturating_add(1), open_key: None, ..last.chain };
    let next = Next { warning: &warning, number: chain.number, references: &references, now };
    let issued = publisher.cancel(&last.message, next).map_err(unsigned)?;
    put(tx, caller, &chain, &issued)
}

/// Row, audit row and event of one message.
fn put(tx: &mut Tx<'_>, caller: &Caller, chain: &Chain, issued: &Issued) -> Result<(), records::Error> {
    if !store::insert(tx, chain, issued)? {
        return Ok(());
    }
    let Message { identifier, msg_type, status, .. } = &issued.message;
    let detail = json!({ "msgType": msg_type, "status": status, "rule": chain.rule, "district": chain.district });
    tx.audit(caller, "alert:issue", "Alert", identifier, Some(&chain.tenant), detail)?;
    let payload = json!({
        "type": kind(*msg_type), "identifier": identifier, "msgType": msg_type, "status": status, "tenant": chain.tenant,
        "rule": chain.rule, "district": chain.district, "severity": chain.severity, "at": issued.sent,
    });
    tx.emit(Event { topic: alarms::store::TOPIC.to_owned(), key: identifier.clone(), payload })?;
    Ok(())
}

/// How the topic `events` names a message. What it says is fetched: a district's outline is no event.
const fn kind(msg_type: MsgType) -> &'static str {
    match msg_type {
        MsgType::Alert => "alert.issued",
        MsgType::Update => "alert.updated",
        MsgType::Cancel => "alert.cancelled",
    }
}

/// The message cannot be signed: the alarm's transaction fails and is tried again, because an unsigned warning is none.
fn unsigned(error: String) -> records::Error {
    records::Error::Invalid(format!("a warning could not be signed: {error}"))
}

/// An identifier that is longer than any of ours is not looked for.
fn shown(identifier: &str) -> String {
    identifier.chars().filter(|c| *c != '\0').take(80).collect()
}

fn missing(identifier: &str) -> Error {
    Error::not_found(format!("The warning {}", shown(identifier)))
}
