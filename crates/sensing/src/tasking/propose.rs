//! How a Task comes to be: rights, parameters, terms, its row, and the first steps of its life. Everything here runs inside one transaction.

use kernel::{Caller, Principal, Problem, Tenant};
use serde_json::Value;

use super::{
    model::{Event, Purpose, Reading, Status, Task, Verify},
    store,
    swe::Record,
    terms::{self, Expectation, Reference, Request, Terms},
};
use crate::{
    Error,
    catalog::{Entity, Field, Owner, Writer},
    model::{EntityId, EntityType},
    route::action,
};

/// The Datastream that an expectation names; the caller must see it.
fn datastream(
    writer: &mut Writer<'_, '_>,
    reference: &Reference,
    tenant: &Tenant,
    at: &str,
) -> Result<EntityId, Error> {
    match reference {
        Reference::Id(id) => writer.visible(EntityType::Datastream, *id, at).map(|e| e.id),
        Reference::Key(key) => writer
            .by_key(EntityType::Datastream, tenant, key)?
            .ok_or_else(|| Error::field(at, format!("there is no Datastream with the key '{key}'"))),
    }
}

fn reading(
    writer: &mut Writer<'_, '_>,
    expectation: &Expectation,
    tenant: &Tenant,
    at: &str,
) -> Result<Reading, Error> {
    let place = format!("{at}/Datastream");
    let datastream = datastream(writer, &expectation.datastream, tenant, &place)?;
    Ok(Reading { datastream, value: expectation.value.clone(), tolerance: expectation.tolerance })
}

/// The command behind [`Tasking::propose`]: rights, parameters, the entity, its first line, and as far as it comes by itself.
pub(super) fn propose(
    writer: &mut Writer<'_, '_>,
    caller: &Caller,
    request: &Request,
    place: Option<EntityId>,
    asked: &Value,
    (eyes, owns): (store::Eyes<'_>, &super::Owns),
) -> Result<EntityId, Error> {
    let at = "/TaskingCapability";
    let capability = match (&request.capability, place) {
        (Some(Reference::Id(id)), Some(place)) if *id != place => {
            return Err(Error::field(at, "the address and the body name different entities"));
        }
        (Some(Reference::Key(_)), Some(_)) => {
            return Err(Error::field(at, "the address names the TaskingCapability already"));
        }
        (_, Some(id)) => id,
        (Some(Reference::Id(id)), None) => *id,
        (Some(Reference::Key(key)), None) => {
            let tenant = caller.tenant.clone().ok_or_else(|| Error::field(at, "say which one by its @iot.id"))?;
            let found = writer.by_key(EntityType::TaskingCapability, &tenant, key)?;
            found.ok_or_else(|| Error::field(at, format!("there is no TaskingCapability with the key '{key}'")))?
        }
        (None, None) => {
            return Err(Error::field(
                at,
                "a Task must link to its TaskingCapability: {\"@iot.id\": 42} (17-079 section 8)",
            ));
        }
    };
    let capability = writer.visible(EntityType::TaskingCapability, capability, at)?;
    let what = format!("TaskingCapabilities({})", capability.id);
    let owner = Owner { tenant: capability.tenant.clone(), public: capability.public };
    writer.require(action::TASK_PROPOSE, EntityType::Task, &owner, &what)?;
    let proposer = caller.label();
    if let Some(key) = &request.key
        && let Some((id, before)) = store::by_key(writer.tx, &proposer, key)?
    {
        // By what it says: the members of an object have no order.
        if serde_json::from_str::<Value>(&before).is_ok_and(|before| before == *asked) {
            return Ok(id);
        }
        return Err(Error::conflict(format!(
            "This idempotency key was used for Tasks({id}), which asks for something else."
        )));
    }
    // A device speaks for its own Thing and no other, whatever the policy lets devices propose.
    if matches!(caller.principal, Principal::Device { .. })
        && !capability.one("Thing").is_some_and(|thing| owns(caller, &capability.tenant, thing))
    {
        return Err(Problem::forbidden(format!("{what} is of another device's Thing.")).into());
    }
    if store::waiting(writer.tx, capability.id)? >= store::WAITING {
        let detail = format!("{what} has {} Tasks that are not over; wait, or cancel some.", store::WAITING);
        return Err(Error::conflict(detail));
    }
    let record = Record::parse("/TaskingCapability", &capability.field("taskingParameters").to_value())?;
    request.check(&record, writer.now())?;
    let terms = Terms::parse("/TaskingCapability", &capability.properties(), &record)?;
    let alone = writer.allows(action::TASK_ALONE, EntityType::Task, &owner);
    let task = drafted(writer, &capability, request, &terms, &record, (proposer.clone(), terms.four_eyes || !alone))?;
    let id = writer.next_id(EntityType::Task)?;
    let entity = Entity {
        entity: EntityType::Task,
        id,
        tenant: owner.tenant,
        public: owner.public,
        key: None,
        fields: vec![
            Field::Json(request.parameters.to_string()),
            Field::Time(writer.now()),
            Field::Text(task.status.name().to_owned()),
            // What its device is told when it is sent.
            Field::Null,
            Field::Null,
            Field::Null,
        ],
        ones: vec![capability.id],
    };
    writer.insert_row(&entity, "", None)?;
    let actuator = capability.one("Actuator").unwrap_or(EntityId(0));
    store::insert(writer.tx, id, actuator, &task, (request.key.as_deref(), &asked.to_string()))?;
    store::begin(writer.tx, id, &proposer, &request.reason)?;
    store::wake(writer.tx, id, task.deadline())?;
    let how = (action::TASK_PROPOSE, None, "");
    store::step(writer.tx, caller, id, how, &Event::Validate, eyes).map_err(|failure| failure.of(id))?;
    Ok(id)
}

/// The Task as it is proposed: what the body says, else what the capability says.
fn drafted(
    writer: &mut Writer<'_, '_>,
    capability: &Entity,
    request: &Request,
    terms: &Terms,
    record: &Record,
    (proposer, four_eyes): (String, bool),
) -> Result<Task, Error> {
    let tenant = &capability.tenant;
    let expect = request.expect.as_ref().map(|e| reading(writer, e, tenant, "/@lamppost.expect")).transpose()?;
    let verify = match (&request.verify, &terms.verify) {
        (Some(own), _) => {
            let reading = reading(writer, own, tenant, "/@lamppost.verify")?;
            Some(Verify { reading, seconds: own.seconds.unwrap_or(60) })
        }
        (None, Some(declared)) => match terms::expected(declared, record, &request.parameters) {
            Some(value) => {
                let at = "/TaskingCapability/properties/tasking/verify/Datastream";
                let datastream = datastream(writer, &declared.datastream, tenant, at)?;
                let reading = Reading { datastream, value, tolerance: declared.tolerance };
                Some(Verify { reading, seconds: declared.seconds })
            }
            None => None,
        },
        (None, None) => None,
    };
    Ok(Task {
        status: Status::Proposed,
        version: 1,
        proposer,
        approver: None,
        four_eyes,
        busy: request.busy.unwrap_or(terms.busy),
        expires: request.expires.unwrap_or_else(|| writer.now().plus_secs(terms.expire_seconds)),
        acknowledge_seconds: terms.acknowledge_seconds,
        expect,
        verify,
        hold: request.hold.clone().or_else(|| terms.hold.clone()),
        undo: request.undo.clone().or_else(|| terms.undo.clone()),
        reason: request.reason.clone(),
        taken_back: false,
        purpose: Purpose::Ask,
        sent_at: None,
        due: None,
        held_until: None,
    })
}
