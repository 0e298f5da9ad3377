//! Whom to tell when nobody answers.
//!
//! ```toml
//! escalate = [
//!     { after = 900, notify = ["dsd-duty-officer"] },      # not acknowledged within 15 minutes
//!     { after = 3600, notify = ["dsd-chief-engineer"] },
//! ]
//! ```
//!
//! Each step is a job of `records`, written in the transaction that raises the alarm: it survives whatever happens to the program, and looks at the alarm
//! when its time has come. If that is acknowledged, over or closed by then, nothing happens. An acknowledgement that is undone begins the count
//! anew. What a step tells goes the way of every letter: silences, hours and groups hold for it too.

use jiff::tz::TimeZone;
use kernel::{Caller, Id};
use records::{Job, JobFailure, NewJob, Records, Tx, params};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Desk, Occasion};
use crate::{
    alarms::{
        self,
        model::{Alarm, AlarmState},
    },
    rules::model::{RuleDeclaration, is_key},
};

/// The queue of `records` whose jobs look whether somebody has answered.
pub const QUEUE: &str = "sensing-escalate";

/// Whom to tell after so many seconds without an acknowledgement.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Seconds since the alarm was recorded.
    pub after: u32,
    /// Keys of recipients of the same tenant.
    pub notify: Vec<String>,
}

const MAX_STEPS: usize = 8;
const MAX_RECIPIENTS: usize = 32;
const MAX_AFTER: u32 = 7 * 86_400;

/// What is wrong with a rule's steps.
pub fn check(steps: &[Step], wrong: &mut impl FnMut(&str, String)) {
    if steps.len() > MAX_STEPS {
        wrong("/escalate", format!("at most {MAX_STEPS} steps are possible"));
    }
    for (at, step) in steps.iter().enumerate() {
        if !(1..=MAX_AFTER).contains(&step.after) {
            wrong(&format!("/escalate/{at}/after"), format!("1 to {MAX_AFTER} seconds are expected"));
        }
        if at.checked_sub(1).and_then(|before| steps.get(before)).is_some_and(|before| before.after >= step.after) {
            wrong(&format!("/escalate/{at}/after"), "more than in the step before is expected".to_owned());
        }
        if step.notify.is_empty() || step.notify.len() > MAX_RECIPIENTS {
            wrong(
                &format!("/escalate/{at}/notify"),
                format!("the keys of 1 to {MAX_RECIPIENTS} recipients are expected"),
            );
        }
        for (nth, key) in step.notify.iter().enumerate().filter(|(_, key)| !is_key(key)) {
            let shown: String = key.chars().take(60).collect();
            wrong(&format!("/escalate/{at}/notify/{nth}"), format!("'{shown}' is not the key of a recipient"));
        }
    }
}

/// Writes the jobs of an alarm that nobody has acknowledged.
pub fn arm(tx: &mut Tx<'_>, alarm: &Alarm, steps: &[Step]) -> Result<(), records::Error> {
    let now = tx.now();
    for (at, step) in steps.iter().enumerate() {
        let payload = json!({ "alarm": alarm.id, "step": at, "since": alarm.version });
        let mut job = NewJob::new(QUEUE, payload);
        job.run_at = now.plus_secs(i64::from(step.after));
        job.unique_key = Some(format!("{}/{at}/{}", alarm.id, alarm.version));
        job.max_attempts = 1_000;
        tx.enqueue(job)?;
    }
    Ok(())
}

/// The same for one whose acknowledgement was undone, by what its rule says now.
pub fn rearm(tx: &mut Tx<'_>, alarm: &Alarm) -> Result<(), records::Error> {
    let steps = steps(tx, &alarm.rule)?;
    arm(tx, alarm, &steps)
}

fn steps(read: &mut records::Read<'_>, rule: &str) -> Result<Vec<Step>, records::Error> {
    let body =
        read.query_opt("SELECT body FROM sensing_rule WHERE key = $1", params![rule], |row| row.get::<String>(0))?;
    Ok(body.and_then(|b| serde_json::from_str::<RuleDeclaration>(&b).ok()).map(|d| d.escalate).unwrap_or_default())
}

#[derive(Deserialize)]
struct Payload {
    alarm: Id<Alarm>,
    step: usize,
    since: u32,
}

/// One step's time has come. The letters, the audit row and the end of the job are one transaction, so a crash repeats all of it or nothing.
///
/// # Errors
/// As a job's: [`JobFailure::Retry`] while the records are away.
pub async fn step(records: &Records, zone: TimeZone, job: Job) -> Result<(), JobFailure> {
    let payload: Payload = serde_json::from_value(job.payload.clone())
        .map_err(|e| JobFailure::GiveUp(format!("the job names no step: {e}")))?;
    let done = records.write(move |tx| {
        // Last, as it must be the transaction's: nothing of it counts when the job was somebody else's meanwhile.
        if let Some(alarm) = alarms::store::get(tx, payload.alarm)?
            && alarm.state == AlarmState::Open
            && !answered(tx, &payload)?
            && let Some(step) = steps(tx, &alarm.rule)?.into_iter().nth(payload.step)
        {
            let round = format!("{}/{}", payload.step, payload.since);
            Desk::new(zone.clone()).tell(tx, &alarm, Occasion::Escalated, &step.notify, &round)?;
            let detail = json!({ "step": payload.step, "after": step.after, "notify": step.notify });
            let caller = Caller::system("escalation");
            tx.audit(&caller, "alarm:escalate", "Alarm", &alarm.id.to_string(), Some(&alarm.tenant), detail)?;
        }
        tx.complete(&job)
    });
    Ok(done.await?)
}

/// Whether somebody has acknowledged it since this count began; that it was undone began another.
fn answered(read: &mut records::Read<'_>, payload: &Payload) -> Result<bool, records::Error> {
    let sql = "SELECT COUNT(*) FROM sensing_alarm_entry WHERE alarm = $1 AND version > $2 AND kind = 'acknowledged'";
    Ok(read.query_one(sql, params![payload.alarm, payload.since], |row| row.get::<i64>(0))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_checked() {
        let check = |text: &str, fields: &[&str]| {
            #[derive(Deserialize)]
            struct File {
                escalate: Vec<Step>,
            }
            let file: File = toml::from_str(text).expect(text);
            let mut found = Vec::new();
            super::check(&file.escalate, &mut |field: &str, _| found.push(field.to_owned()));
            assert_eq!(found, fields, "{text}");
        };
        check("escalate = [{ after = 900, notify = [\"a\"] }, { after = 901, notify = [\"b\", \"c\"] }]", &[]);
        check("escalate = [{ after = 0, notify = [\"a\"] }]", &["/escalate/0/after"]);
        check("escalate = [{ after = 604801, notify = [\"a\"] }]", &["/escalate/0/after"]);
        check("escalate = [{ after = 9, notify = [\"a\"] }, { after = 9, notify = [\"b\"] }]", &["/escalate/1/after"]);
        check("escalate = [{ after = 9, notify = [] }]", &["/escalate/0/notify"]);
        check("escalate = [{ after = 9, notify = [\"a\", \"B B\"] }]", &["/escalate/0/notify/1"]);
    }
}
