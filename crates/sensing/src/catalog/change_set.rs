//! Several commands in one transaction: a change set of a batch request (18-088 section 11, OData 4.0 Part 1 section 11.7).
//!
//! Each step is the same function as the command of a request of its own, with its own audit row and events; what they share is the
//! savepoint. A step may name what an earlier one has created, so its body is read inside the transaction, where the id is known.

use std::{collections::HashMap, sync::Arc};

use kernel::{Caller, Problem, Tenant};
use serde_json::{Value, json};

use super::{
    Catalog, Changes, Operation, Parent, Update,
    body::{Draft, ObservationDraft, Purpose},
    change, create_in, read_info,
    write::{Context, Writer},
};
use crate::{
    Error,
    model::{DatastreamInfo, EntityId, EntityType, Observation, ObservationId},
    observe::Batch,
    route::action,
};

/// Entities that one change set may touch, with what hangs from them: every other write of a city on SQLite waits for it.
const CHANGES: usize = 20_000;

/// Which entity is meant: one that is known, or what a step of this name has created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    Id(EntityId),
    Named(String),
}

/// Where a new entity is posted.
#[derive(Clone, Debug)]
pub(crate) struct Above {
    pub entity: EntityType,
    pub whose: Whose,
    pub navigation: &'static str,
}

#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Create {
        entity: EntityType,
        body: Value,
        above: Option<Above>,
    },
    Update {
        entity: EntityType,
        whose: Whose,
        body: Value,
        how: Update,
    },
    Delete {
        entity: EntityType,
        whose: Whose,
    },
    /// An Observation that is tied to what the change set itself creates.
    Observe {
        body: Value,
        /// A Datastream or a MultiDatastream.
        datastream: Option<(EntityType, Whose)>,
        feature: Option<Whose>,
    },
    /// An Observation that is complete; with the one whose place it takes, and who owns that.
    Observed(Box<Observation>, Option<(ObservationId, Tenant)>),
    /// An Observation goes.
    Unobserve(ObservationId, Tenant),
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// What later steps call the new entity.
    pub name: Option<String>,
    pub deed: Deed,
}

/// What became of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Entity(EntityType, EntityId),
    Observation(ObservationId),
    Gone,
}

#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub outcome: Outcome,
    /// Observations that it leaves to be recorded.
    pub observations: usize,
}

/// Why nothing was done, and which step is to blame where one is.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub step: Option<usize>,
    pub error: Error,
}

impl From<records::Error> for Refused {
    fn from(error: records::Error) -> Self {
        Self { step: None, error: error.into() }
    }
}

/// Whether this caller may add Observations to this Datastream, beyond what the policy says. Answers from memory: it is asked inside the
/// transaction.
pub(crate) type Guard = Arc<dyn Fn(&Caller, &DatastreamInfo) -> bool + Send + Sync>;

/// What earlier steps have created.
type Names = HashMap<String, (EntityType, EntityId)>;

impl Catalog {
    /// Runs all steps or none. The Observations are checked but not recorded: see [`Changes::observations`].
    pub(crate) async fn change_set(
        &self,
        caller: &Caller,
        steps: Vec<Step>,
        guard: Option<Guard>,
    ) -> Result<(Vec<Done>, Changes), Refused> {
        let (this, context) = (self.clone(), self.context(caller));
        // To its end, whether or not the client waits for it: see `Catalog::command`.
        let whole = tokio::spawn(async move {
            let written = this.inner.records.write(move |tx| {
                let mut names = Names::new();
                let mut all = Changes::default();
                let mut done = Vec::with_capacity(steps.len());
                for (index, step) in steps.iter().enumerate() {
                    let refused = |error| Refused { step: Some(index), error };
                    let mut writer = Writer::new(&mut *tx, &context);
                    // A department that the set itself brings in is known to its later steps.
                    writer.changes.tenants.clone_from(&all.tenants);
                    let outcome = run(&mut writer, step, &names, guard.as_ref()).map_err(refused)?;
                    let action = match step.deed {
                        Deed::Create { .. } | Deed::Update { .. } => action::WRITE,
                        Deed::Delete { .. } | Deed::Unobserve(..) => action::DELETE,
                        Deed::Observe { .. } | Deed::Observed(..) => action::OBSERVE,
                    };
                    let changes = writer.finish(action).map_err(refused)?;
                    if let (Some(name), Outcome::Entity(entity, id)) = (&step.name, outcome) {
                        names.insert(name.clone(), (entity, id));
                    }
                    done.push(Done { outcome, observations: changes.observations.len() });
                    all.append(changes);
                    bounded(&all).map_err(refused)?;
                }
                Ok::<_, Refused>((done, all))
            });
            let (done, changes) = this.written(written.await, |refused| &refused.error)?;
            this.follow(&changes);
            Ok::<_, Refused>((done, changes))
        });
        whole.await.unwrap_or_else(|_| Err(records::Error::Closed.into()))
    }
}

fn bounded(changes: &Changes) -> Result<(), Error> {
    if changes.list.len() > CHANGES {
        return Err(
            Problem::too_large(format!("A change set may touch at most {CHANGES} entities; send several.")).into()
        );
    }
    if changes.observations.len() > Batch::MAX_ROWS {
        let detail = format!("A change set may add at most {} Observations; send several.", Batch::MAX_ROWS);
        return Err(Problem::too_large(detail).into());
    }
    Ok(())
}

impl Changes {
    fn append(&mut self, other: Self) {
        let Self { list, observations, dropped, unobserved, stale, tenants } = other;
        self.list.extend(list);
        self.observations.extend(observations);
        self.dropped.extend(dropped);
        self.unobserved.extend(unobserved);
        self.stale.extend(stale);
        self.tenants.extend(tenants);
    }
    /// Whether taking back what was created takes back everything.
    pub(crate) fn only_created(&self) -> bool {
        self.list.iter().all(|change| change.operation == Operation::Created)
    }
}

fn run(writer: &mut Writer<'_, '_>, step: &Step, names: &Names, guard: Option<&Guard>) -> Result<Outcome, Error> {
    let id = |entity: EntityType, whose: &Whose| match whose {
        Whose::Id(id) => Ok(*id),
        Whose::Named(name) => match names.get(name) {
            Some((found, id)) if *found == entity => Ok(*id),
            _ => Err(no_such(name)),
        },
    };
    let named = |body: &Value| {
        let mut body = body.clone();
        refer(&mut body, &|name| names.get(name).map(|(_, id)| Some(*id)).ok_or_else(|| no_such(name)))?;
        Ok::<_, Error>(body)
    };
    Ok(match &step.deed {
        Deed::Create { entity, body, above } => {
            let draft = Draft::parse(*entity, &named(body)?, Purpose::Create)?;
            let parent = match above {
                Some(Above { entity, whose, navigation }) => {
                    Some(Parent { entity: *entity, id: id(*entity, whose)?, navigation })
                }
                None => None,
            };
            Outcome::Entity(*entity, create_in(writer, &draft, parent)?)
        }
        Deed::Update { entity, whose, body, how } => {
            let id = id(*entity, whose)?;
            let body = named(body)?;
            let draft = change::draft_of(*entity, &body, *how)?;
            change::update_in(writer, *entity, id, draft.as_ref(), &body)?;
            Outcome::Entity(*entity, id)
        }
        Deed::Delete { entity, whose } => {
            writer.delete(*entity, id(*entity, whose)?)?;
            Outcome::Gone
        }
        Deed::Observe { body, datastream, feature } => {
            let draft = ObservationDraft::parse(&named(body)?)?;
            let datastream =
                datastream.as_ref().map(|(of, whose)| Ok::<_, Error>((*of, id(*of, whose)?))).transpose()?;
            let feature = feature.as_ref().map(|whose| id(EntityType::FeatureOfInterest, whose)).transpose()?;
            let observation = writer.complete(&draft, datastream, feature)?;
            if let Some(guard) = guard {
                let info = read_info(writer.tx, observation.datastream)?;
                if !info.as_ref().is_some_and(|info| guard(&writer.context.caller, info)) {
                    let set = info.map_or(EntityType::Datastream, |info| info.entity()).set();
                    let detail = format!("You may not add Observations to {set}({}).", observation.datastream);
                    return Err(Problem::forbidden(detail).into());
                }
            }
            observed(writer, observation)
        }
        Deed::Observed(observation, instead_of) => {
            // An earlier step may have deleted it; what is recorded must have a Datastream.
            if read_info(writer.tx, observation.datastream)?.is_none() {
                let detail = format!("there is no Datastreams({})", observation.datastream);
                return Err(Error::field("/Datastream", detail));
            }
            if let Some((old, tenant)) = instead_of {
                audit(writer, action::WRITE, old, tenant)?;
            }
            observed(writer, (**observation).clone())
        }
        Deed::Unobserve(id, tenant) => {
            audit(writer, action::DELETE, id, tenant)?;
            Outcome::Gone
        }
    })
}

fn observed(writer: &mut Writer<'_, '_>, observation: Observation) -> Outcome {
    let id = observation.id();
    writer.changes.observations.push(observation);
    Outcome::Observation(id)
}

fn audit(
    writer: &mut Writer<'_, '_>,
    action: kernel::Action,
    id: &ObservationId,
    tenant: &Tenant,
) -> Result<(), Error> {
    let Context { caller, .. } = writer.context;
    Ok(writer.tx.audit(caller, action.0, "Observation", &id.to_string(), Some(tenant), json!({}))?)
}

pub(crate) fn no_such(name: &str) -> Error {
    let shown: String = name.chars().take(100).collect();
    Error::bad_request(format!(
        "'${shown}' names nothing: no request before this one has that Content-ID (in JSON: that id) and created an entity of the type that belongs here."
    ))
}

/// Puts ids where a body names what an earlier request has created: `{"@iot.id": "$sensor1"}` (18-088 section 11.2.2). A `$` anywhere else
/// is text, and so is a name for which `known` has nothing.
pub(crate) fn refer(body: &mut Value, known: &dyn Fn(&str) -> Result<Option<EntityId>, Error>) -> Result<(), Error> {
    match body {
        Value::Array(items) => items.iter_mut().try_for_each(|item| refer(item, known)),
        Value::Object(map) => {
            let alone = map.len() == 1;
            for (key, value) in map.iter_mut() {
                match value {
                    Value::String(text) if key == "@iot.id" || (alone && key == "id") => {
                        if let Some(name) = text.strip_prefix('$')
                            && let Some(id) = known(name)?
                        {
                            *value = Value::from(id.0);
                        }
                    }
                    other => refer(other, known)?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_refer() {
        let known = |name: &str| match name {
            "a" => Ok(Some(EntityId(7))),
            "later" => Ok(None),
            _ => Err(no_such(name)),
        };
        let check = |mut body: Value, expect: Value| {
            refer(&mut body, &known).expect("refers");
            assert_eq!(body, expect);
        };
        check(json!({"Sensor": {"@iot.id": "$a"}}), json!({"Sensor": {"@iot.id": 7}}));
        check(json!({"L": [{"id": "$a"}]}), json!({"L": [{"id": 7}]}));
        check(json!({"Sensor": {"@iot.id": "$later"}}), json!({"Sensor": {"@iot.id": "$later"}}));
        check(
            json!({"name": "$a", "properties": {"price": "$5"}}),
            json!({"name": "$a", "properties": {"price": "$5"}}),
        );
        check(json!({"properties": {"id": "$b", "x": 1}}), json!({"properties": {"id": "$b", "x": 1}}));
        assert!(refer(&mut json!({"Sensor": {"@iot.id": "$b"}}), &known).is_err());
    }
}
