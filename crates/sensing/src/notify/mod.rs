//! Notifications: e-mail, webhooks and the browser's live events.
//!
//! A delivery is written in the transaction that raises or clears the alarm, and carried by a job of `records`: it is tried until it
//! succeeds or is given up, also across a crash. At least once; every attempt carries the same id.

pub mod api;
pub mod deliveries;
mod directory;
pub mod guard;
pub mod live;
pub mod mail;
pub mod model;
pub mod store;
pub mod webhook;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use kernel::Id;
use records::{Job, JobFailure, Records, RetryPolicy};
use serde_json::json;

pub use model::{Occasion, Recipient};
pub use store::{enqueue, told_by};

use crate::{Error, alarms};
use guard::Allowed;
use mail::{Mailer, Smtp, Stationery};
use model::{Delivery, DeliveryState};
use webhook::{Secret, Sender};

/// The texts of letters; the program merges them into its catalogue.
pub const TEXTS: ui::Texts = ui::Texts {
    room: "sensing_notify",
    en: include_str!("lang/en.toml"),
    zh_hant: include_str!("lang/zh-hant.toml"),
    zh_hans: include_str!("lang/zh-hans.toml"),
};

#[derive(Clone)]
pub struct Options {
    /// `None`: e-mail is not configured, and its deliveries are given up with that reason.
    pub smtp: Option<Smtp>,
    /// Secrets of webhooks by name.
    pub secrets: BTreeMap<String, Secret>,
    /// Internal hosts that webhooks may reach.
    pub allowed: Allowed,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Deliveries at once.
    pub concurrency: usize,
    pub retry: RetryPolicy,
    pub stationery: Stationery,
}

/// The working end: takes deliveries from the queue and makes them.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    records: Records,
    options: Options,
    mailer: Option<Mailer>,
    sender: Sender,
}

impl Notifier {
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(records: Records, options: Options) -> Result<Self, Error> {
        let mailer = options.smtp.as_ref().map(|smtp| Mailer::new(smtp, options.timeout)).transpose();
        let mailer = mailer.map_err(|e| Error::internal(format!("smtp: {e}")))?;
        let sender = Sender::new(options.allowed.clone(), options.timeout).map_err(Error::internal)?;
        Ok(Self(Arc::new(Inner { records, options, mailer, sender })))
    }

    /// Works until `shutdown` is ready.
    ///
    /// # Errors
    /// Those of the queue.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let jobs = self.0.records.jobs().with_policy(self.0.options.retry);
        let work = |job| {
            let this = self.clone();
            async move { this.deliver(job).await }
        };
        jobs.run(store::QUEUE, self.0.options.concurrency, work, shutdown).await.map_err(alarms::stored)
    }

    async fn deliver(&self, job: Job) -> Result<(), JobFailure> {
        let id: Id<Delivery> = serde_json::from_value(job.payload["delivery"].clone())
            .map_err(|_| JobFailure::GiveUp("the job names no delivery".to_owned()))?;
        let load = self.0.records.read(move |read| {
            let Some(delivery) = store::get(read, id)? else { return Ok(None) };
            let alarm = alarms::store::get(read, delivery.alarm)?;
            let recipient = store::recipient(read, &delivery.recipient)?;
            Ok::<_, records::Error>(Some((delivery, alarm, recipient)))
        });
        let Some((delivery, alarm, recipient)) = load.await? else {
            return Err(JobFailure::GiveUp("the delivery does not exist any more".to_owned()));
        };
        if delivery.state == DeliveryState::Delivered {
            return Ok(());
        }
        let outcome = match (alarm, recipient) {
            (Some(alarm), Some(recipient)) => self.attempt(&alarm, &delivery, &recipient).await,
            _ => Err(JobFailure::GiveUp("the recipient is not declared any more".to_owned())),
        };
        let (state, error) = match &outcome {
            Ok(()) => (DeliveryState::Delivered, None),
            Err(JobFailure::GiveUp(why)) => (DeliveryState::Dead, Some(why.clone())),
            Err(JobFailure::Retry(why)) if job.attempt >= job.max_attempts => (DeliveryState::Dead, Some(why.clone())),
            Err(JobFailure::Retry(why)) => (DeliveryState::Pending, Some(why.clone())),
        };
        let attempt = job.attempt;
        let note = self.0.records.write(move |tx| store::attempted(tx, id, state, attempt, error.as_deref())).await;
        if let Err(error) = note {
            // The message may have gone out; sending it again with the same id is the lesser evil.
            tracing::warn!(delivery = %id, %error, "a delivery's outcome could not be noted");
            return Err(JobFailure::Retry(error.to_string()));
        }
        outcome
    }

    async fn attempt(
        &self,
        alarm: &alarms::model::Alarm,
        delivery: &Delivery,
        recipient: &Recipient,
    ) -> Result<(), JobFailure> {
        let id = delivery.id.to_string();
        if let Some(email) = &recipient.email {
            let Some(mailer) = &self.0.mailer else {
                return Err(JobFailure::GiveUp("e-mail is not configured".to_owned()));
            };
            return mailer.send(&email.to, self.0.options.stationery.write(alarm, delivery, recipient), &id).await;
        }
        let Some(webhook) = &recipient.webhook else {
            return Err(JobFailure::GiveUp("the recipient has neither e-mail nor webhook".to_owned()));
        };
        let Some(secret) = self.0.options.secrets.get(&webhook.secret) else {
            return Err(JobFailure::GiveUp(format!("the secret '{}' is not configured", webhook.secret)));
        };
        let body = json!({
            "type": format!("alarm.{}", delivery.occasion.name()),
            "timestamp": match delivery.occasion {
                Occasion::Raised => alarm.raised_at,
                Occasion::Cleared => alarm.cleared_at.unwrap_or(alarm.recorded_at),
            },
            "data": alarm,
            "gathered": delivery.gathered,
        });
        self.0.sender.send(&webhook.url, secret, &id, self.0.records.now(), body.to_string().into_bytes()).await
    }
}
