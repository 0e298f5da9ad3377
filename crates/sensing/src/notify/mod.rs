//! Notifications: e-mail, webhooks and the browser's live events.
//!
//! A delivery is written in the transaction that raises or clears the alarm, and carried by a job of `records`: it is tried until it
//! succeeds or is given up, also across a crash. At least once; every attempt carries the same id.

pub mod api;
pub mod deliveries;
mod directory;
pub mod escalate;
pub mod guard;
pub mod hold;
pub mod hours;
pub mod inhibit;
pub mod live;
pub mod mail;
pub mod model;
pub mod store;
pub mod webhook;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use futures::FutureExt as _;
use kernel::Id;
use records::{Job, JobFailure, Records, RetryPolicy};
use serde_json::json;

pub use hold::Desk;
pub use model::{Occasion, Recipient};
pub use store::told_by;

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
        let back = |job| {
            let this = self.clone();
            async move { this.look_back(&job).await }
        };
        let stop = shutdown.shared();
        let deliveries = jobs.run(store::QUEUE, self.0.options.concurrency, work, stop.clone());
        let withheld = jobs.run(hold::QUEUE, 1, back, stop.clone());
        let step = |job| {
            let this = self.clone();
            async move { escalate::step(&this.0.records, this.0.options.stationery.zone.clone(), job).await }
        };
        let unanswered = jobs.run(escalate::QUEUE, 2, step, stop.clone());
        futures::try_join!(deliveries, withheld, unanswered).map(|_| ()).map_err(alarms::stored)
    }

    fn desk(&self) -> Desk {
        Desk::new(self.0.options.stationery.zone.clone())
    }

    /// What kept some deliveries back is over: they go out, or are kept back by something else, or nobody needs them any more.
    async fn look_back(&self, job: &Job) -> Result<(), JobFailure> {
        let awaits = job.payload["awaits"].as_str().map(str::to_owned);
        let awaits = awaits.ok_or_else(|| JobFailure::GiveUp("the job names nothing that was awaited".to_owned()))?;
        let mut after = None;
        loop {
            let (awaits, this) = (awaits.clone(), self.clone());
            // Each batch is one transaction; after a crash the job begins anew and finds those that are left.
            let released = self.0.records.write(move |tx| this.desk().release(tx, &awaits, after));
            after = released.await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn deliver(&self, job: Job) -> Result<(), JobFailure> {
        let id: Id<Delivery> = serde_json::from_value(job.payload["delivery"].clone())
            .map_err(|_| JobFailure::GiveUp("the job names no delivery".to_owned()))?;
        let mut desk = self.desk();
        let load = self.0.records.read(move |read| {
            let Some(delivery) = store::get(read, id)? else { return Ok(None) };
            let alarm = alarms::store::get(read, delivery.alarm)?;
            let recipient = store::recipient(read, &delivery.recipient)?;
            let held = match &alarm {
                Some(alarm) => desk.would_withhold(read, &delivery, alarm)?,
                None => false,
            };
            Ok::<_, records::Error>(Some((delivery, alarm, recipient, held)))
        });
        let Some((delivery, alarm, recipient, held)) = load.await? else {
            return Err(JobFailure::GiveUp("the delivery does not exist any more".to_owned()));
        };
        if matches!(delivery.state, DeliveryState::Delivered | DeliveryState::Withheld) {
            return Ok(());
        }
        if let (true, Some(alarm)) = (held, &alarm) {
            // A silence has begun while it waited for its turn, or for its relay.
            let (this, delivery, alarm) = (self.clone(), delivery.clone(), alarm.clone());
            if self.0.records.write(move |tx| this.desk().withhold(tx, &delivery, &alarm)).await? {
                return Ok(());
            }
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
                Occasion::Escalated | Occasion::Assigned => delivery.created_at,
            },
            "data": alarm,
            "gathered": delivery.gathered,
        });
        self.0.sender.send(&webhook.url, secret, &id, self.0.records.now(), body.to_string().into_bytes()).await
    }
}
