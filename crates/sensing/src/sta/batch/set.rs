//! Change sets: from requests to one transaction and back to an answer for each.
//!
//! Addresses without names are walked before the transaction, as those of a request of its own are; whoever is asked for is looked up again
//! inside it. Observations are recorded once it has been committed: see [`SensorThings::change_set`].

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};
use kernel::{Caller, Principal, Problem};
use serde_json::Value;

use super::{Part, Reply, inside};
use crate::{
    Error,
    catalog::{
        Schema, Update,
        change_set::{Above, Deed, Done, Guard, Outcome, Step, Whose, no_such, refer},
        schema::Navigation,
    },
    model::{EntityId, EntityType, ObservationId},
    query::{Item, Source, TokenId},
    route::action,
    sta::{
        Path, Place, Response, SensorThings, Sent, Tail, empty, nothing_there, tail,
        write::{amended, how, parse},
    },
};

/// What requests have created, by their names.
#[derive(Clone, Debug, Default)]
pub struct Names(HashMap<String, (EntityType, EntityId)>);

impl Names {
    pub fn extend(&mut self, made: Vec<(String, (EntityType, EntityId))>) {
        self.0.extend(made);
    }
    /// Remembers what a request of its own has created: its Location says what that is.
    pub(super) fn learn(&mut self, name: &str, reply: &Reply) {
        let location = reply.headers.get(header::LOCATION).and_then(|v| v.to_str().ok());
        let path = location.and_then(|text| text.rsplit('/').next()).and_then(Path::parse);
        if let Some(Path { steps, entity, .. }) = path
            && let Some(crate::sta::Step::Key(TokenId::Entity(id))) = steps.last()
        {
            self.0.insert(name.to_owned(), (entity, *id));
        }
    }
    fn get(&self, name: &str) -> Option<(EntityType, EntityId)> {
        self.0.get(name).copied()
    }
}

/// `$thing1/Datastreams` or `Things($thing1)/Datastreams`: the set, where it is said; the name; what follows.
fn named(path: &str) -> Option<(Option<EntityType>, &str, &str)> {
    let (set, rest) = match path.strip_prefix('$') {
        Some(rest) => (None, rest),
        None => {
            let (set, rest) = path.split_once("($")?;
            (Some(EntityType::from_set(set)?), rest)
        }
    };
    let (name, rest) = match set {
        Some(_) => rest.split_once(')')?,
        None => rest.split_at(rest.find('/').unwrap_or(rest.len())),
    };
    (rest.is_empty() || rest.starts_with('/')).then_some((set, name, rest))
}

type Known<'a> = &'a dyn Fn(&str) -> Option<(EntityType, EntityId)>;

/// The address of a part, with the id of what an earlier request has created.
fn address(base: &str, part: &Part, known: Known<'_>) -> Result<Uri, Error> {
    let inside = |url: &str| inside(base, url).map_err(|detail| Error::field(&part.at, detail));
    let uri = inside(&part.url)?;
    let path = tail(&uri)?;
    let Some((set, name, rest)) = named(&path) else { return Ok(uri) };
    let Some((entity, id)) = known(name).filter(|(entity, _)| set.is_none_or(|set| set == *entity)) else {
        return Ok(uri);
    };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    inside(&format!("{}({id}){rest}{query}", entity.set()))
}

/// A body with the ids of what earlier requests have created. What is no JSON is left to the handler, which says so.
fn body(part: &Part, known: &dyn Fn(&str) -> Result<Option<EntityId>, Error>) -> Result<Bytes, Error> {
    if memchr::memmem::find(&part.body, b"\"$").is_none() {
        return Ok(part.body.clone());
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(&part.body) else { return Ok(part.body.clone()) };
    refer(&mut value, known)?;
    Ok(value.to_string().into())
}

/// The address and the body of a request of its own.
pub(super) fn known(base: &str, part: &Part, names: &Names) -> Result<(Uri, Bytes), Error> {
    let id = |name: &str| names.get(name).map(|(_, id)| Some(id)).ok_or_else(|| no_such(name));
    Ok((address(base, part, &|name| names.get(name))?, body(part, &id)?))
}

/// What a request of a change set is about.
enum Aim {
    /// A collection, perhaps below a parent.
    Many(EntityType, Option<(EntityType, Whose, &'static Navigation)>),
    One(EntityType, Whose),
    Observation(Item),
    /// A property of an entity.
    Property(EntityType, Whose, &'static str),
}

type Made = Vec<(String, (EntityType, EntityId))>;
/// An answer for each request, and what was created by name.
type Answers = (Vec<Result<Response, Error>>, Made);

impl SensorThings {
    /// Does all that the requests ask for, or nothing.
    ///
    /// Entities change in one transaction. Observations are no rows: they are checked in it, and recorded together, as one append, when it
    /// has been committed. Should that fail, what the set has created is taken back when it has done nothing else; when it has also changed or
    /// deleted something, that stays, and the requests whose Observations are missing are answered with the reason. Observations that
    /// are changed or deleted go last.
    pub(super) async fn change_set(
        &self,
        caller: &Caller,
        outer: &HeaderMap,
        parts: &[Part],
        names: &Names,
    ) -> Result<Answers, (Option<usize>, Error)> {
        if caller.is_anonymous() {
            return Err((None, Problem::unauthenticated().into()));
        }
        let mut steps: Vec<Step> = Vec::with_capacity(parts.len());
        let mut here: HashMap<&str, EntityType> = HashMap::new();
        for (index, part) in parts.iter().enumerate() {
            let deed = self.deed(caller, outer, part, names, &here).await.map_err(|error| (Some(index), error))?;
            if let (Some(name), Deed::Create { entity, .. }) = (&part.name, &deed) {
                here.insert(name, *entity);
            }
            steps.push(Step { name: part.name.clone(), deed });
        }
        let removed: Vec<Option<ObservationId>> = steps
            .iter()
            .map(|step| match &step.deed {
                Deed::Observed(new, Some((old, _))) => Some(*old).filter(|old| *old != new.id()),
                Deed::Unobserve(old, _) => Some(*old),
                _ => None,
            })
            .collect();
        let replaced: Vec<bool> =
            steps.iter().map(|step| matches!(step.deed, Deed::Observed(_, Some(_)) | Deed::Update { .. })).collect();
        let guard = self.rights.clone().map(|rights| -> Guard { rights });
        let done = self.engine.catalog().change_set(caller, steps, guard).await;
        let (done, changes) = done.map_err(|refused| (refused.step, refused.error))?;
        let missing = match self.recorded(&changes).await {
            Ok(()) => None,
            Err(error) if changes.only_created() => return Err((None, error)),
            Err(error) => Some(error),
        };
        if missing.is_none() {
            self.observed(caller, &changes.observations);
        }
        // What goes, goes when what takes its place is durable.
        let mut left = None;
        if missing.is_none() {
            let gone: Vec<ObservationId> = removed.iter().flatten().copied().collect();
            if !gone.is_empty() {
                left = self.engine.series().remove(gone).await.err();
            }
        }
        let settled = self.settle(&changes).await.err();
        let mut answers = Vec::with_capacity(parts.len());
        let mut made = Made::new();
        for (index, (part, Done { outcome, observations })) in parts.iter().zip(&done).enumerate() {
            if let (Some(name), Outcome::Entity(entity, id)) = (&part.name, outcome) {
                made.push((name.clone(), (*entity, *id)));
            }
            let trouble = [
                missing.as_ref().filter(|_| *observations > 0 || removed.get(index).is_some_and(Option::is_some)),
                left.as_ref().filter(|_| removed.get(index).is_some_and(Option::is_some)),
                settled.as_ref().filter(|_| *outcome == Outcome::Gone),
            ];
            answers.push(match trouble.into_iter().flatten().next() {
                Some(error) => Err(partly(error)),
                None => self.told_of(caller, outer, part, *outcome, replaced.get(index) == Some(&true)).await,
            });
        }
        Ok((answers, made))
    }

    /// Tells the health of devices of what a change set has recorded.
    fn observed(&self, caller: &Caller, observations: &[crate::model::Observation]) {
        if matches!(caller.principal, Principal::Device { .. })
            && let Some(newest) = observations.iter().map(|o| o.phenomenon.end).max()
        {
            self.sent(caller, Sent::Recorded(observations.len() as u64, Some(newest)));
        }
    }

    /// The answer that the request would have had alone.
    async fn told_of(
        &self,
        caller: &Caller,
        outer: &HeaderMap,
        part: &Part,
        outcome: Outcome,
        replaced: bool,
    ) -> Result<Response, Error> {
        let mut headers = part.headers.clone();
        if let Some(host) = outer.get(header::HOST) {
            headers.insert(header::HOST, host.clone());
        }
        let (entity, id) = match outcome {
            Outcome::Entity(entity, id) => (entity, TokenId::Entity(id)),
            Outcome::Observation(id) => (EntityType::Observation, TokenId::Observation(id)),
            Outcome::Gone => return Ok(empty(http::StatusCode::NO_CONTENT)),
        };
        match part.method {
            Method::DELETE => Ok(empty(http::StatusCode::NO_CONTENT)),
            _ if replaced => self.changed(caller, &headers, entity, id).await,
            _ => self.created(caller, &headers, entity, id).await,
        }
    }

    /// Where a request of a change set leads. `here` says of what type the things are that requests before it create.
    async fn aim(&self, caller: &Caller, uri: &Uri, here: &HashMap<&str, EntityType>) -> Result<Aim, Error> {
        let text = tail(uri)?;
        if let Some((set, name, rest)) = named(&text) {
            let entity = here.get(name).copied().filter(|entity| set.is_none_or(|set| set == *entity));
            let Some(entity) = entity else { return Err(nothing_there(&text)) };
            let whose = Whose::Named(name.to_owned());
            let Some(rest) = rest.strip_prefix('/').filter(|rest| !rest.is_empty()) else {
                return Ok(Aim::One(entity, whose));
            };
            let schema = Schema::of(entity);
            if let Some((_, navigation)) = schema.navigation(rest).filter(|(_, n)| n.to_many()) {
                return Ok(Aim::Many(navigation.target, Some((entity, whose, navigation))));
            }
            let property = schema.property(rest).map(|(_, property)| property.name);
            return property.map(|name| Aim::Property(entity, whose, name)).ok_or_else(|| nothing_there(&text));
        }
        let Some(path) = Path::parse(&text) else { return Err(nothing_there(&text)) };
        let scope = self.engine.catalog().scope(caller);
        let Some(place) = self.resolve(&scope, &path).await? else { return Err(nothing_there(&text)) };
        match (place, &path.tail) {
            (Place::Collection(Source::Related { entity, id, navigation }), Tail::Entities) => {
                Ok(Aim::Many(path.entity, Some((entity, Whose::Id(id), navigation))))
            }
            (Place::Collection(_), Tail::Entities) => Ok(Aim::Many(path.entity, None)),
            (Place::One(Item::Entity(entity, _)), Tail::Entities) => Ok(Aim::One(entity.entity, Whose::Id(entity.id))),
            (Place::One(item @ Item::Observation(..)), Tail::Entities) => Ok(Aim::Observation(item)),
            (Place::One(Item::Entity(entity, _)), Tail::Property(index, inner)) if inner.is_empty() => {
                let property = entity.schema().properties.get(*index).map(|property| property.name);
                let property = property.ok_or_else(|| nothing_there(&text))?;
                Ok(Aim::Property(entity.entity, Whose::Id(entity.id), property))
            }
            _ => Err(refused(&text)),
        }
    }

    async fn deed(
        &self,
        caller: &Caller,
        outer: &HeaderMap,
        part: &Part,
        names: &Names,
        here: &HashMap<&str, EntityType>,
    ) -> Result<Deed, Error> {
        if part.method == Method::GET {
            return Err(Error::field(&part.at, "a change set changes; read before it or behind it"));
        }
        // What the set itself creates has an id only inside the transaction, and hides what had the name before.
        let before = |name: &str| names.get(name).filter(|_| !here.contains_key(name));
        let uri = address(&self.base(outer), part, &before)?;
        let body = body(part, &|name| Ok(before(name).map(|(_, id)| id)))?;
        if uri.path().ends_with("/CreateObservations") {
            let detail = "CreateObservations records what fits of its rows, so it is no part of a change set; send it beside one";
            return Err(Error::field(&part.at, detail));
        }
        let aim = self.aim(caller, &uri, here).await?;
        let method = &part.method;
        Ok(match aim {
            Aim::Many(EntityType::Observation, parent) if *method == Method::POST => {
                let body = parse(&body)?;
                let tie = |entity| parent.as_ref().filter(|(e, ..)| *e == entity).map(|(_, whose, _)| whose.clone());
                let datastream = EntityType::SERIES.into_iter().find_map(|of| Some((of, tie(of)?)));
                self.observation_of(caller, body, datastream, tie(EntityType::FeatureOfInterest)).await?
            }
            Aim::Many(entity, parent) if *method == Method::POST => {
                let above =
                    parent.map(|(entity, whose, navigation)| Above { entity, whose, navigation: navigation.name });
                Deed::Create { entity, body: parse(&body)?, above }
            }
            Aim::One(entity, whose) if *method == Method::DELETE => Deed::Delete { entity, whose },
            Aim::One(entity, whose) if *method != Method::POST => {
                Deed::Update { entity, whose, body: parse(&body)?, how: changing(part) }
            }
            Aim::Property(entity, whose, name) if *method == Method::DELETE => {
                let body = Value::Object([(name.to_owned(), Value::Null)].into_iter().collect());
                Deed::Update { entity, whose, body, how: Update::Merge }
            }
            Aim::Observation(Item::Observation(old, _)) if *method == Method::DELETE => {
                let tenant = self.permit(caller, &old.id(), action::DELETE).await?.tenant.clone();
                Deed::Unobserve(old.id(), tenant)
            }
            Aim::Observation(Item::Observation(old, _)) if *method != Method::POST => {
                let info = self.permit(caller, &old.id(), action::WRITE).await?;
                let whole = amended(&old, info.entity(), &parse(&body)?, changing(part))?;
                let new = self.observation(caller, &whole, None, None).await?;
                Deed::Observed(Box::new(new), Some((old.id(), info.tenant.clone())))
            }
            _ => return Err(refused(uri.path())),
        })
    }

    /// An Observation whose ties are known is completed as a request of its own would be; one that is tied to what the set creates, or
    /// brings entities along, inside the transaction.
    async fn observation_of(
        &self,
        caller: &Caller,
        body: Value,
        datastream: Option<(EntityType, Whose)>,
        feature: Option<Whose>,
    ) -> Result<Deed, Error> {
        let id = |whose: Option<&Whose>| match whose {
            None => Some(None),
            Some(Whose::Id(id)) => Some(Some(*id)),
            Some(Whose::Named(_)) => None,
        };
        let apart = |name: &str| match body.get(name) {
            None => true,
            Some(Value::Object(link)) => link.len() == 1 && link.get("@iot.id").is_some_and(is_id),
            Some(_) => false,
        };
        let links = ["Datastream", "MultiDatastream", "FeatureOfInterest"].into_iter().all(apart);
        if let (Some(home), Some(feature), true) =
            (id(datastream.as_ref().map(|(_, whose)| whose)), id(feature.as_ref()), links)
        {
            let datastream = datastream.zip(home).map(|((of, _), id)| (of, id));
            let observed = self.observation(caller, &body, datastream, feature).await;
            if let Err(error) = &observed {
                self.told(caller, error);
            }
            return Ok(Deed::Observed(Box::new(observed?), None));
        }
        Ok(Deed::Observe { body, datastream, feature })
    }
}

/// Whether a link leads to what is there already.
fn is_id(value: &Value) -> bool {
    !value.as_str().is_some_and(|text| text.starts_with('$'))
}

fn changing(part: &Part) -> Update {
    if part.method == Method::PUT { Update::Replace } else { how(&part.headers) }
}

fn refused(path: &str) -> Error {
    let shown: String = path.chars().take(100).collect();
    Error::bad_request(format!("'{shown}' does not take this method in a change set."))
}

/// The entities are there, something about the Observations is not.
fn partly(error: &Error) -> Error {
    let problem = Problem::from(error.clone());
    let detail = format!(
        "The entities of the change set were saved, and this was not: {} Send it again by itself.",
        problem.detail
    );
    Problem { detail, ..problem }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_addresses() {
        let check =
            |path: &str, expect: Option<(Option<EntityType>, &str, &str)>| assert_eq!(named(path), expect, "{path}");
        check("$a", Some((None, "a", "")));
        check("$a/Datastreams", Some((None, "a", "/Datastreams")));
        check("Things($a)/Datastreams", Some((Some(EntityType::Thing), "a", "/Datastreams")));
        check("Things($a)", Some((Some(EntityType::Thing), "a", "")));
        check("Lamps($a)", None);
        check("Things(1)/Datastreams", None);
        check("Things($a", None);
        check("Things($a)x", None);
    }
}
