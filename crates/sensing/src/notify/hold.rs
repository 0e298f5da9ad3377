//! What keeps a letter back, and what becomes of it afterwards.
//!
//! Three things do: a silence, an alarm that speaks for others (`[[inhibit]]`), and the hours of whoever would be told. The alarm is raised all the same; the
//! letter is a delivery in the state `withheld` that says why and awaits its end. Then it is looked back on, in one transaction for each batch: what is
//! still open is told, through the same grouping as everything else; what is acknowledged or over by then needs no letter any more.
//! Whoever was never told that an alarm was raised is not told that it is over either.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use kernel::{Id, Tenant, Timestamp};
use records::{NewJob, Read, Tx, params};
use serde_json::json;

use super::{
    hours,
    inhibit::{Inhibition, Same},
    model::{Delivery, DeliveryState, Occasion, Recipient},
    store,
};
use crate::alarms::{
    self,
    model::{Alarm, AlarmState},
    silences::{model::Silence, store::Quiet},
};

/// The queue of `records` whose jobs look back on what was withheld.
pub const QUEUE: &str = "sensing-withheld";

/// Why a letter is kept back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hold {
    /// And when it ends, unless somebody ends it before.
    Silence(Id<Silence>, Timestamp),
    /// An alarm that stands and speaks for this one.
    Alarm(Id<Alarm>),
    /// Whoever would be told is off duty until then.
    Hours(Id<Delivery>, Timestamp),
}

impl Hold {
    /// As `withheld_by` shows it.
    fn why(&self) -> String {
        match self {
            Self::Silence(id, _) => format!("silence/{id}"),
            Self::Alarm(id) => format!("alarm/{id}"),
            Self::Hours(..) => "hours".to_owned(),
        }
    }
    /// Whose end is waited for.
    fn awaits(&self) -> String {
        match self {
            Self::Hours(delivery, _) => format!("hours/{delivery}"),
            other => other.why(),
        }
    }
}

/// Looks back on everything that awaits the end of `hold`, at `at`.
pub fn look_back(tx: &mut Tx<'_>, hold: &Hold, at: Timestamp) -> Result<(), records::Error> {
    let awaits = hold.awaits();
    let mut job = NewJob::new(QUEUE, json!({ "awaits": awaits }));
    job.run_at = at;
    // The end that was planned and the one that came are two jobs.
    job.unique_key = Some(format!("{awaits}@{}", at.as_micros()));
    // What was kept back must be looked at, whatever happens to the database meanwhile.
    job.max_attempts = 1_000;
    tx.enqueue(job)?;
    Ok(())
}

/// Seconds after a silence's end at which what it kept back is looked at once more.
const AFTERWARDS: i64 = 60;

/// Sees to it that what was just kept back is looked at again. The end of an alarm does that itself ([`alarm_over`]). That of a silence does too, but
/// a transaction that began while it stood may be done after that look: so there is a second one, one job for each silence.
fn remember(tx: &mut Tx<'_>, hold: &Hold) -> Result<(), records::Error> {
    match hold {
        Hold::Hours(_, opens) => look_back(tx, hold, *opens),
        Hold::Silence(_, ends_at) => look_back(tx, hold, ends_at.plus_secs(AFTERWARDS)),
        Hold::Alarm(_) => Ok(()),
    }
}

/// An alarm stands no more: what it spoke for is looked back on.
pub fn alarm_over(tx: &mut Tx<'_>, id: Id<Alarm>) -> Result<(), records::Error> {
    let hold = Hold::Alarm(id);
    let sql = "SELECT COUNT(*) FROM (SELECT id FROM sensing_delivery WHERE awaits = $1 LIMIT 1) waiting";
    let waiting: i64 = tx.query_one(sql, params![hold.awaits()], |row| row.get(0))?;
    let now = tx.now();
    if waiting > 0 { look_back(tx, &hold, now) } else { Ok(()) }
}

/// Makes the stored inhibitions those that are given; how many rows changed.
pub fn declare(tx: &mut Tx<'_>, declared: &[Inhibition]) -> Result<u64, records::Error> {
    let mut changed = 0;
    for (place, inhibition) in declared.iter().enumerate() {
        let body = serde_json::to_string(inhibition).map_err(|e| records::Error::Invalid(e.to_string()))?;
        changed += tx.execute(
            "INSERT INTO sensing_inhibition (place, tenant, body) VALUES ($1, $2, $3)
             ON CONFLICT (place) DO UPDATE SET tenant = excluded.tenant, body = excluded.body
             WHERE sensing_inhibition.body <> excluded.body",
            params![i64::try_from(place).unwrap_or(i64::MAX), inhibition.tenant, body],
        )?;
    }
    let kept = i64::try_from(declared.len()).unwrap_or(i64::MAX);
    changed += tx.execute("DELETE FROM sensing_inhibition WHERE place >= $1", params![kept])?;
    Ok(changed)
}

/// Who is told what, within one transaction: what it has read for one alarm it knows for the next, so that a storm costs a row for each letter and not a
/// question for each alarm.
pub struct Desk {
    zone: TimeZone,
    quiet: BTreeMap<Tenant, Quiet>,
    inhibitions: BTreeMap<Tenant, Vec<Inhibition>>,
    recipients: BTreeMap<String, Option<Recipient>>,
}

impl Desk {
    /// Hours are those of this zone.
    pub fn new(zone: TimeZone) -> Self {
        Self { zone, quiet: BTreeMap::new(), inhibitions: BTreeMap::new(), recipients: BTreeMap::new() }
    }

    fn recipient(&mut self, read: &mut Read<'_>, key: &str) -> Result<Option<Recipient>, records::Error> {
        if let Some(known) = self.recipients.get(key) {
            return Ok(known.clone());
        }
        let found = store::recipient(read, key)?;
        self.recipients.insert(key.to_owned(), found.clone());
        Ok(found)
    }

    /// The silence that keeps letters about this alarm back.
    fn silence(&mut self, read: &mut Read<'_>, alarm: &Alarm) -> Result<Option<Silence>, records::Error> {
        if !self.quiet.contains_key(&alarm.tenant) {
            let quiet = Quiet::of(read, &alarm.tenant)?;
            self.quiet.insert(alarm.tenant.clone(), quiet);
        }
        let now = read.now();
        Ok(self.quiet.get(&alarm.tenant).and_then(|quiet| quiet.over(alarm, now).next().cloned()))
    }

    /// An alarm that stands and speaks for this one.
    fn speaker(&mut self, read: &mut Read<'_>, alarm: &Alarm) -> Result<Option<Id<Alarm>>, records::Error> {
        if !self.inhibitions.contains_key(&alarm.tenant) {
            let sql = "SELECT body FROM sensing_inhibition WHERE tenant = $1 ORDER BY place";
            let bodies = read.query(sql, params![alarm.tenant], |row| row.get::<String>(0))?;
            let found = bodies.iter().filter_map(|b| serde_json::from_str(b).ok()).collect();
            self.inhibitions.insert(alarm.tenant.clone(), found);
        }
        let all = self.inhibitions.get(&alarm.tenant).into_iter().flatten();
        for inhibition in all.filter(|i| i.withhold.contains(&alarm.rule)) {
            for rule in &inhibition.standing {
                let found = match (inhibition.same, &alarm.district) {
                    (Same::Thing, _) => {
                        // One alarm stands for a rule and a Thing, and the index of those that stand begins so.
                        let key = format!("{rule}/{}", alarm.thing);
                        read.query_opt("SELECT id FROM sensing_alarm WHERE open_key = $1", params![key], |row| {
                            row.get(0)
                        })?
                    }
                    (Same::District, Some(district)) => read.query_opt(
                        "SELECT id FROM sensing_alarm
                         WHERE rule = $1 AND state IN ('open', 'acknowledged') AND district = $2 LIMIT 1",
                        params![rule, district],
                        |row| row.get(0),
                    )?,
                    // Things without a district are not together anywhere.
                    (Same::District, None) => None,
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// What keeps a letter back now. `several`: it is about further alarms of the same rule and district, of which not all need be silent.
    fn hold(
        &mut self,
        read: &mut Read<'_>,
        (alarm, occasion, id): (&Alarm, Occasion, Id<Delivery>),
        recipient: &Recipient,
        several: bool,
    ) -> Result<Option<Hold>, records::Error> {
        // Somebody has asked this team, knowing what is silent: there is no reason to wait.
        if occasion == Occasion::Assigned {
            return Ok(None);
        }
        if let Some(silence) = self.silence(read, alarm)?.filter(|s| !several || s.matchers.fits_all_alike()) {
            return Ok(Some(Hold::Silence(silence.id, silence.ends_at)));
        }
        // Whoever was told of the beginning is told of the end, whatever has begun meanwhile.
        if occasion != Occasion::Cleared
            && !several
            && let Some(speaker) = self.speaker(read, alarm)?
        {
            return Ok(Some(Hold::Alarm(speaker)));
        }
        if recipient.at_any_hour.is_some_and(|severity| alarm.severity >= severity) {
            return Ok(None);
        }
        let now = read.now();
        let opens = hours::opens(&recipient.hours, now, &self.zone).filter(|opens| *opens > now);
        Ok(opens.map(|opens| Hold::Hours(id, opens)))
    }

    /// Writes a delivery for each recipient who wants it, in the transaction of the alarm itself: with the job that carries it, or kept back.
    /// `round` tells what happens more than once about one alarm apart; empty for what cannot.
    pub fn tell(
        &mut self,
        tx: &mut Tx<'_>,
        alarm: &Alarm,
        occasion: Occasion,
        keys: &[String],
        round: &str,
    ) -> Result<(), records::Error> {
        for key in keys {
            let Some(recipient) = self.recipient(tx, key)?.filter(|r| r.wants(alarm, occasion)) else { continue };
            let id = store::delivery_id(alarm, occasion, key, round);
            if occasion == Occasion::Cleared
                && let Some(why) = never_told(tx, alarm, key)?
            {
                store::put(tx, id, alarm, occasion, &recipient, Some((&why, None)))?;
                continue;
            }
            match self.hold(tx, (alarm, occasion, id), &recipient, false)? {
                Some(hold) => {
                    let (why, awaits) = (hold.why(), hold.awaits());
                    let added = store::put(tx, id, alarm, occasion, &recipient, Some((&why, Some(&awaits))))?;
                    if added {
                        remember(tx, &hold)?;
                    }
                }
                None => {
                    let Some(run_at) = store::turn(tx, alarm, occasion, &recipient, (id, 1))? else { continue };
                    if store::put(tx, id, alarm, occasion, &recipient, None)? {
                        store::push(tx, id, run_at)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps a delivery back that was about to go out, if it must be by now; whether it was.
    pub fn withhold(&mut self, tx: &mut Tx<'_>, delivery: &Delivery, alarm: &Alarm) -> Result<bool, records::Error> {
        let Some(recipient) = self.recipient(tx, &delivery.recipient)? else { return Ok(false) };
        let about = (alarm, delivery.occasion, delivery.id);
        let Some(hold) = self.hold(tx, about, &recipient, delivery.gathered > 1)? else { return Ok(false) };
        store::withhold(tx, delivery.id, &hold.why(), &hold.awaits())?;
        remember(tx, &hold)?;
        Ok(true)
    }

    /// Whether [`Desk::withhold`] would, without a transaction that writes.
    pub fn would_withhold(
        &mut self,
        read: &mut Read<'_>,
        delivery: &Delivery,
        alarm: &Alarm,
    ) -> Result<bool, records::Error> {
        let Some(recipient) = self.recipient(read, &delivery.recipient)? else { return Ok(false) };
        let about = (alarm, delivery.occasion, delivery.id);
        Ok(self.hold(read, about, &recipient, delivery.gathered > 1)?.is_some())
    }

    /// Looks back on up to [`BATCH`] deliveries that await `awaits`, after `after`: the last of them, or `None` when there are no more.
    pub fn release(
        &mut self,
        tx: &mut Tx<'_>,
        awaits: &str,
        after: Option<Id<Delivery>>,
    ) -> Result<Option<Id<Delivery>>, records::Error> {
        let waiting = store::awaiting(tx, awaits, after, BATCH)?;
        for delivery in &waiting {
            let alarm = alarms::store::get(tx, delivery.alarm)?;
            let recipient = self.recipient(tx, &delivery.recipient)?;
            let (Some(alarm), Some(recipient)) = (alarm, recipient) else {
                store::settle(tx, delivery.id)?;
                continue;
            };
            let wanted = match delivery.occasion {
                Occasion::Raised | Occasion::Escalated => {
                    alarm.state == AlarmState::Open || (delivery.gathered > 1 && others_open(tx, delivery, &alarm)?)
                }
                Occasion::Cleared => never_told(tx, &alarm, &delivery.recipient)?.is_none(),
                Occasion::Assigned => true,
            };
            if !wanted {
                store::settle(tx, delivery.id)?;
                continue;
            }
            let about = (&alarm, delivery.occasion, delivery.id);
            if let Some(hold) = self.hold(tx, about, &recipient, delivery.gathered > 1)? {
                store::withhold(tx, delivery.id, &hold.why(), &hold.awaits())?;
                remember(tx, &hold)?;
                continue;
            }
            match store::turn(tx, &alarm, delivery.occasion, &recipient, (delivery.id, delivery.gathered))? {
                Some(run_at) => {
                    store::free(tx, delivery.id)?;
                    store::push_again(tx, delivery.id, run_at)?;
                }
                // Another letter counts it now.
                None => store::remove(tx, delivery.id)?,
            }
        }
        Ok(waiting.last().filter(|_| waiting.len() == BATCH).map(|d| d.id))
    }
}

/// Deliveries of one transaction.
pub const BATCH: usize = 200;

/// Whether any of those that were gathered into this letter may still be open: nobody has written down which they were, but they are of the same rule and
/// district, and came after it.
fn others_open(read: &mut Read<'_>, delivery: &Delivery, alarm: &Alarm) -> Result<bool, records::Error> {
    let sql = "SELECT COUNT(*) FROM (SELECT id FROM sensing_alarm WHERE state = 'open' AND rule = $1
                   AND COALESCE(district, '') = $2 AND recorded_at >= $3 LIMIT 1) others";
    let district = alarm.district.as_deref().unwrap_or_default();
    Ok(read.query_one(sql, params![alarm.rule, district, delivery.created_at], |row| row.get::<i64>(0))? > 0)
}

/// What kept the news of an alarm's beginning from this recipient, when it was never told of it.
fn never_told(read: &mut Read<'_>, alarm: &Alarm, recipient: &str) -> Result<Option<String>, records::Error> {
    let raised = store::get(read, store::delivery_id(alarm, Occasion::Raised, recipient, ""))?;
    Ok(raised.filter(|d| d.state == DeliveryState::Withheld).and_then(|d| d.withheld_by))
}
