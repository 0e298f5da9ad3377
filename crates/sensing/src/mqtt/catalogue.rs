//! [`Entities`] on the room's own catalogue and on the events of the stream.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use records::params;
use serde::Deserialize;
use stream::{Offset, Record, Subscription, Topic};

use super::city::{Anchored, Catalogue, Changed, Entities, Owner, Parent};
use crate::{
    catalog::{
        Entity, Schema,
        schema::{Link, Navigation},
    },
    model::{EntityId, EntityType},
    query::{Engine, Item, Plan, Row, TokenId},
    scope::Scope,
    sta::{Path, Place, SensorThings, Settings, Step, Tail},
};

/// Entities on the far side of a tie of many to many, under whose names an entity is sent too.
const PARENTS: i64 = 256;
/// After a failure to read the events.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads entities through [`Engine`], and their changes from the topic of events.
#[derive(Clone)]
pub struct Catalogued {
    things: SensorThings,
    events: Topic,
}

impl Catalogued {
    pub fn new(engine: Engine, events: Topic) -> Self {
        Self { things: SensorThings::new(engine, Settings::default()), events }
    }
    fn engine(&self) -> &Engine {
        self.things.engine()
    }
}

#[derive(Deserialize)]
struct Event {
    payload: Payload,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    changes: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    operation: String,
    entity: EntityType,
    id: i64,
    #[serde(default)]
    properties: Vec<String>,
}

/// The entities that a record of the topic says were created or changed; nothing when it is about something else.
fn changed(record: &Record) -> Vec<Changed> {
    let payload = match serde_json::from_slice::<Event>(&record.payload) {
        Ok(Event { payload }) if payload.kind == "sensing.catalogue" => payload,
        _ => return Vec::new(),
    };
    let lines = payload.changes.into_iter().filter(|line| matches!(line.operation.as_str(), "created" | "updated"));
    lines
        .map(|line| Changed {
            created: line.operation == "created",
            entity: line.entity,
            id: EntityId(line.id),
            properties: line.properties,
        })
        .collect()
}

/// A reader of the events that takes itself up again.
struct Feed {
    events: Topic,
    next: Offset,
    subscription: Option<Subscription>,
}

impl Feed {
    async fn next(&mut self) -> Catalogue {
        loop {
            let subscription = match self.subscription.take() {
                Some(subscription) => Ok(subscription),
                None => self.events.subscribe(self.next).await,
            };
            let error = match subscription {
                Ok(mut subscription) => match subscription.next().await {
                    Ok(records) => {
                        self.next = subscription.position();
                        self.subscription = Some(subscription);
                        return Catalogue::Changed(records.iter().flat_map(changed).collect());
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match error {
                stream::Error::Gone { start, .. } => {
                    let missed = start.0.saturating_sub(self.next.0);
                    self.next = start;
                    return Catalogue::Missed(missed);
                }
                // After a restore the topic may be shorter than it was.
                stream::Error::Ahead { end, .. } => self.next = end,
                error => {
                    tracing::warn!(%error, "the events cannot be read for followers of entities; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Entities for Catalogued {
    fn changes(&self) -> BoxStream<'static, Catalogue> {
        let feed = Feed { events: self.events.clone(), next: self.events.end(), subscription: None };
        Box::pin(futures::stream::unfold(feed, |mut feed| async move { Some((feed.next().await, feed)) }))
    }

    fn row(&self, entity: EntityType, id: EntityId) -> BoxFuture<'static, Option<Row>> {
        let engine = self.engine().clone();
        async move {
            let plan = Plan::all(entity, engine.limits());
            engine.one(&Scope::Everything, &plan, TokenId::Entity(id)).await.unwrap_or_else(|error| {
                tracing::warn!(%error, entity = entity.set(), id = id.0, "an entity could not be read for its followers");
                None
            })
        }
        .boxed()
    }

    fn owner(&self, entity: EntityType, id: EntityId) -> BoxFuture<'static, Option<Owner>> {
        let catalog = self.engine().catalog().clone();
        async move {
            let found = catalog.get(&Scope::Everything, entity, id).await.unwrap_or_else(|error| {
                tracing::warn!(%error, entity = entity.set(), id = id.0, "an owner could not be read");
                None
            });
            found.map(|entity| (entity.tenant, entity.public))
        }
        .boxed()
    }

    fn parents(&self, entity: Arc<Entity>) -> BoxFuture<'static, Vec<Parent>> {
        let this = self.clone();
        async move {
            let mut parents = Vec::new();
            for navigation in entity.schema().navigation {
                match navigation.link {
                    Link::One { .. } => {
                        let Some(id) = entity.one(navigation.name) else { continue };
                        if let Some(owner) = this.owner(navigation.target, id).await {
                            parents.push(parent(navigation, id, owner));
                        }
                    }
                    Link::Through { .. } => parents.extend(this.through(navigation, entity.id).await),
                    Link::Many { .. } | Link::Series => {}
                }
            }
            parents
        }
        .boxed()
    }

    fn anchor(&self, path: Path) -> BoxFuture<'static, Option<Anchored>> {
        let this = self.clone();
        async move {
            let mut owners = Vec::new();
            let mut anchored = None;
            // Every place on the way, the last one being that of the series.
            for steps in 2..path.steps.len() {
                if !matches!(path.steps[steps - 1], Step::Key(_) | Step::Navigation(_)) {
                    continue;
                }
                let part = Path { steps: path.steps[..steps].to_vec(), tail: Tail::Entities, ..path.clone() };
                match this.things.resolve(&Scope::Everything, &part).await {
                    Ok(Some(Place::One(Item::Entity(entity, _)))) => {
                        owners.push((entity.tenant.clone(), entity.public));
                        anchored = Some((entity.entity, entity.id));
                    }
                    Ok(Some(Place::One(Item::Observation(o, of)))) => {
                        owners.push(this.owner(of, o.datastream).await?);
                        anchored = None;
                    }
                    Ok(Some(Place::Collection(_))) => anchored = None,
                    Ok(None) => return None,
                    Err(error) => {
                        tracing::warn!(%error, "a followed path could not be walked");
                        return None;
                    }
                }
            }
            let (entity, id) = anchored?;
            Some(Anchored { entity, id, owners })
        }
        .boxed()
    }

    fn leads(&self, scope: Arc<Scope>, path: Path, id: EntityId) -> BoxFuture<'static, bool> {
        let things = self.things.clone();
        async move {
            let mut path = Path { tail: Tail::Entities, ..path };
            if path.many {
                path.steps.push(Step::Key(TokenId::Entity(id)));
                path.many = false;
            }
            match things.resolve(&scope, &path).await {
                Ok(Some(Place::One(Item::Entity(entity, _)))) => entity.id == id,
                Ok(_) => false,
                Err(error) => {
                    tracing::warn!(%error, "a followed path could not be walked");
                    false
                }
            }
        }
        .boxed()
    }
}

fn parent(navigation: &Navigation, id: EntityId, owner: Owner) -> Parent {
    Parent { collection: format!("{}({id})/{}", navigation.target.set(), navigation.inverse), owner }
}

impl Catalogued {
    /// The entities that a tie of many to many leads to.
    async fn through(&self, navigation: &'static Navigation, id: EntityId) -> Vec<Parent> {
        let Link::Through { table, own, other, .. } = navigation.link else { return Vec::new() };
        let target = Schema::of(navigation.target).table;
        let sql = format!(
            "SELECT DISTINCT p.id, p.tenant, p.public FROM {table} t JOIN {target} p ON p.id = t.{other}
             WHERE t.{own} = $1 ORDER BY p.id LIMIT $2"
        );
        let read = self.engine().catalog().records().read(move |read| {
            read.query(&sql, params![id.0, PARENTS], |row| {
                Ok((EntityId(row.get(0)?), (row.get::<kernel::Tenant>(1)?, row.get::<bool>(2)?)))
            })
        });
        let found = read.await.unwrap_or_else(|error: records::Error| {
            tracing::warn!(%error, "the ties of an entity could not be read for its followers");
            Vec::new()
        });
        found.into_iter().map(|(id, owner)| parent(navigation, id, owner)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::Timestamp;

    #[test]
    fn other_events_are_passed_over() {
        let record =
            |payload: &'static str| Record { offset: Offset(0), at: Timestamp::from_secs(0), payload: payload.into() };
        assert_eq!(changed(&record("not json")), []);
        assert_eq!(changed(&record(r#"{"payload":{"type":"alarm.raised","changes":3}}"#)), []);
        assert_eq!(changed(&record(r#"{"payload":{"type":"alarm.raised"}}"#)), []);
        let both = r#"{"id":"x","payload":{"type":"sensing.catalogue","changes":[
            {"operation":"updated","entity":"Thing","id":3,"tenant":"dsd","public":true,"properties":["name"]},
            {"operation":"deleted","entity":"Thing","id":4,"tenant":"dsd","public":true}]}}"#;
        let expect =
            Changed { created: false, entity: EntityType::Thing, id: EntityId(3), properties: vec!["name".to_owned()] };
        assert_eq!(changed(&record(both)), [expect]);
    }
}
