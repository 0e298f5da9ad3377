//! What became of notifications, for those whose alarms they are about, and another try for those that were given up.

use kernel::{Caller, Id, Problem, Resource, Tenant};

use super::{
    model::{Delivery, DeliveryState},
    store,
};
use crate::{
    Error,
    alarms::{self, Alarms, model::Alarm},
    route::action::RULE_MANAGE,
};

/// Which deliveries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub state: Option<DeliveryState>,
    pub alarm: Option<Id<Alarm>>,
    pub after: Option<Id<Delivery>>,
}

/// Newest first, at most `limit`, and where the next page begins.
///
/// # Errors
/// Those of `records`.
pub async fn list(
    alarms: &Alarms,
    caller: &Caller,
    wanted: Wanted,
    limit: usize,
) -> Result<(Vec<Delivery>, Option<Id<Delivery>>), Error> {
    let visible = alarms.visible(caller);
    let Wanted { state, alarm, after } = wanted;
    let found = alarms.records().read(move |read| store::list(read, &visible, state, alarm, after, limit + 1));
    let mut deliveries = found.await.map_err(alarms::stored)?;
    let more = deliveries.len() > limit;
    deliveries.truncate(limit);
    let next = deliveries.last().filter(|_| more).map(|d| d.id);
    Ok((deliveries, next))
}

/// Whether a caller may have the notifications of a department tried again.
pub fn may_retry(alarms: &Alarms, caller: &Caller, tenant: &Tenant) -> bool {
    let resource = Resource { kind: "Rule", id: "", tenant: Some(tenant), public: false };
    alarms.policy().allows(caller, RULE_MANAGE, &resource)
}

/// Tries a notification that was given up once more.
///
/// # Errors
/// 404 where its alarm may not be read; 403 without the right to manage rules; 409 when it was not given up.
pub async fn retry(alarms: &Alarms, caller: &Caller, id: Id<Delivery>) -> Result<(), Error> {
    let found = alarms.records().read(move |read| store::get(read, id)).await.map_err(alarms::stored)?;
    let visible = alarms.visible(caller);
    let missing = || Error::not_found(format!("The delivery {id}"));
    let delivery = found.filter(|d| visible.admits(&d.tenant, false)).ok_or_else(missing)?;
    if !may_retry(alarms, caller, &delivery.tenant) {
        return Err(Problem::forbidden("Ask the department's rule manager to send it again.").into());
    }
    let caller = caller.clone();
    let revived = alarms.records().write(move |tx| {
        let revived = store::revive(tx, id)?;
        if revived {
            let detail = serde_json::json!({ "alarm": delivery.alarm, "recipient": delivery.recipient });
            tx.audit(&caller, "delivery:retry", "Delivery", &id.to_string(), Some(&delivery.tenant), detail)?;
        }
        Ok::<_, records::Error>(revived)
    });
    if !revived.await.map_err(alarms::stored)? {
        return Err(Error::conflict("Only a notification that was given up can be tried again."));
    }
    Ok(())
}
