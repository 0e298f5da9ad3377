//! POST, PATCH, PUT and DELETE.

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use kernel::{Caller, Problem, Resource};
use serde_json::{Value, json};

use super::{
    MaybeCaller, Response, SensorThings, Sent, caller, empty,
    json::Writer,
    json_response, name_of, nothing_there,
    path::{Path, Tail},
    prefers,
    read::Place,
    tail,
};
use crate::{
    Error,
    catalog::{Changes, Parent, Update},
    model::{DatastreamInfo, EntityId, EntityType, Observation, ObservationId},
    observe::Batch,
    query::{Item, Plan, Source, Span, TokenId},
    route::action,
};

/// The body as JSON; the error says where it is broken.
pub(super) fn parse(body: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(body).map_err(|e| Error::field("body", format!("it is not JSON: {e}")))
}

fn located(mut response: Response, link: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(link) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

impl SensorThings {
    async fn place(&self, caller: &Caller, uri: &Uri) -> Result<(Path, Place), Error> {
        if caller.is_anonymous() {
            return Err(Problem::unauthenticated().into());
        }
        let text = tail(uri)?;
        let Some(path) = Path::parse(&text) else { return Err(nothing_there(&text)) };
        let scope = self.engine.catalog().scope(caller);
        let Some(place) = self.resolve(&scope, &path).await? else { return Err(nothing_there(&text)) };
        Ok((path, place))
    }

    /// Who takes Tasks, in a program that does.
    fn tasks(&self) -> Result<&crate::tasking::Tasking, Error> {
        self.tasking.as_ref().ok_or_else(|| Problem::not_implemented("This server takes no Tasks.").into())
    }

    /// 201 with the new entity's address, and the entity itself when the client asks for it.
    pub(super) async fn created(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        entity: EntityType,
        id: TokenId,
    ) -> Result<Response, Error> {
        let base = self.base(headers);
        let link = match id {
            TokenId::Entity(id) => format!("{base}/{}({id})", entity.set()),
            TokenId::Observation(id) => format!("{base}/Observations('{id}')"),
        };
        let mut response = empty(StatusCode::CREATED);
        if prefers(headers, "return=representation") {
            let plan = Plan::all(entity, self.engine.limits());
            let scope = self.engine.catalog().scope(caller);
            if let Some(row) = self.engine.one(&scope, &plan, id).await? {
                let mut out = Writer::new(&base);
                out.row(&plan, &row);
                response = json_response(StatusCode::CREATED, out.out);
            }
        }
        Ok(located(response, &link))
    }

    /// 200 with the entity as it is after a change.
    pub(super) async fn changed(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        entity: EntityType,
        id: TokenId,
    ) -> Result<Response, Error> {
        let base = self.base(headers);
        let plan = Plan::all(entity, self.engine.limits());
        let scope = self.engine.catalog().scope(caller);
        let Some(row) = self.engine.one(&scope, &plan, id).await? else { return Ok(empty(StatusCode::NO_CONTENT)) };
        let mut link = Writer::new(&base);
        link.address(&row.item);
        let link = String::from_utf8(link.out).unwrap_or_default();
        let mut out = Writer::new(&base);
        out.row(&plan, &row);
        Ok(located(json_response(StatusCode::OK, out.out), &link))
    }

    /// Creates an entity with everything inside it; all or nothing, also for the Observations inside it.
    pub async fn create(
        &self,
        caller: &Caller,
        entity: EntityType,
        body: &Value,
        parent: Option<Parent>,
    ) -> Result<EntityId, Error> {
        let catalog = self.engine.catalog();
        let (id, changes) = catalog.create(caller, entity, body, parent).await?;
        self.recorded(&changes).await?;
        Ok(id)
    }

    /// Records the Observations that a command leaves to be recorded. When that fails and the command has done nothing but create, what it has
    /// created is taken back, newest first, so that nothing is there; links that were moved and values that were changed stay as they are.
    pub(super) async fn recorded(&self, changes: &Changes) -> Result<(), Error> {
        if changes.observations.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        changes.observations.iter().cloned().for_each(|o| batch.push(o));
        let Err(error) = self.engine.series().record(batch).await else { return Ok(()) };
        if changes.only_created() {
            for change in changes.list.iter().rev() {
                let gone = self.engine.catalog().delete(&Caller::system("deep-insert"), change.entity, change.id).await;
                if let Err(error) = gone {
                    tracing::debug!(%error, entity = change.entity.set(), id = change.id.0, "already gone with its parent");
                }
            }
        }
        Err(error)
    }

    /// Deletes the Observations of what a command has deleted.
    pub async fn settle(&self, changes: &Changes) -> Result<(), Error> {
        let series = self.engine.series();
        for datastream in &changes.dropped {
            series.drop_datastream(*datastream).await?;
        }
        const CHUNK: usize = 5_000;
        for (datastream, feature) in &changes.unobserved {
            let mut after: Option<ObservationId> = None;
            loop {
                let span =
                    Span { datastream: *datastream, from: None, to: None, descending: false, after, limit: CHUNK };
                let chunk = series.read(span).await?;
                after = chunk.last().map(Observation::id);
                let ids: Vec<ObservationId> =
                    chunk.iter().filter(|o| o.feature == *feature).map(Observation::id).collect();
                let more = chunk.len() == CHUNK;
                if !ids.is_empty() {
                    series.remove(ids).await?;
                }
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Asks the policy about what one Observation belongs to.
    pub(super) async fn permit(
        &self,
        caller: &Caller,
        id: &ObservationId,
        action: kernel::Action,
    ) -> Result<Arc<DatastreamInfo>, Error> {
        let catalog = self.engine.catalog();
        let Some(info) = catalog.datastream(id.datastream).await? else {
            return Err(Error::not_found(format!("Observations('{id}')")));
        };
        let text = id.datastream.to_string();
        let resource = Resource { kind: "Observation", id: &text, tenant: Some(&info.tenant), public: info.public };
        if !caller.is_system() && !catalog.scopes().policy().allows(caller, action, &resource) {
            return Err(Problem::forbidden(format!(
                "You may not change Observations of {}({}).",
                info.entity().set(),
                id.datastream
            ))
            .into());
        }
        // A hole that is made by hand would stay until somebody computes the span again.
        if self.computed.as_ref().is_some_and(|computed| computed(id.datastream)) {
            let detail = format!(
                "The Observations of {}({}) are computed: change what they are computed from.",
                info.entity().set(),
                id.datastream
            );
            return Err(Error::conflict(detail));
        }
        catalog.unheld(&info).await?;
        Ok(info)
    }

    /// The audit row of a change that is about to be made: everything that can be wrong with it has been looked at.
    async fn note(
        &self,
        caller: &Caller,
        id: &ObservationId,
        action: kernel::Action,
        info: &DatastreamInfo,
    ) -> Result<(), Error> {
        let (caller, tenant, id) = (caller.clone(), info.tenant.clone(), id.to_string());
        let records = self.engine.catalog().records();
        let written =
            records.write(move |tx| tx.audit(&caller, action.0, "Observation", &id, Some(&tenant), json!({})));
        written.await.map_err(|e: records::Error| e.into())
    }

    /// Changes an Observation. What identifies it (Datastream, phenomenonTime, FeatureOfInterest, resultTime) may change too; it is then
    /// another Observation, and the old one goes once the new one is durable.
    async fn amend(&self, caller: &Caller, old: &Observation, body: &Value, how: Update) -> Result<Observation, Error> {
        let id = old.id();
        let info = self.permit(caller, &id, action::WRITE).await?;
        let whole = amended(old, info.entity(), body, how)?;
        let new = self.observation(caller, &whole, None, None).await?;
        self.note(caller, &id, action::WRITE, &info).await?;
        self.engine.series().record(Batch::one(new.clone())).await?;
        if new.id() != id {
            self.engine.series().remove(vec![id]).await?;
        }
        Ok(new)
    }
}

/// What an Observation of a Datastream or MultiDatastream is after a change, as it would be posted.
pub(super) fn amended(old: &Observation, of: EntityType, body: &Value, how: Update) -> Result<Value, Error> {
    if old.is_summed() {
        let detail = "This Observation sums up others that are no longer kept, so there is nothing left to be amended. It can be deleted.";
        return Err(Error::conflict(detail));
    }
    let mut whole = serde_json::Map::new();
    whole.insert(of.singular().to_owned(), json!({"@iot.id": old.datastream.0}));
    whole.insert("FeatureOfInterest".to_owned(), json!({"@iot.id": old.feature.0}));
    if how != Update::Replace {
        let text = |raw: &serde_json::value::RawValue| serde_json::from_str(raw.get()).unwrap_or(Value::Null);
        let result = match &old.result {
            crate::model::ResultValue::Number(number) => json!(number),
            crate::model::ResultValue::Json(raw) => text(raw),
        };
        whole.insert("phenomenonTime".to_owned(), json!(old.phenomenon));
        whole.insert("result".to_owned(), result);
        // As a GET shows it: resultTime is there even when it is unknown, what is optional only when there is some.
        whole.insert("resultTime".to_owned(), json!(old.result_time));
        let optional = [
            ("validTime", old.valid.map(|valid| json!(valid))),
            ("resultQuality", old.quality.as_deref().map(text)),
            ("parameters", old.parameters.as_deref().map(text)),
        ];
        whole.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    if how != Update::JsonPatch {
        let Value::Object(given) = body else { return Err(Error::bad_request("The body must be an object.")) };
        whole.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
        return Ok(Value::Object(whole));
    }
    whole.insert("@iot.id".to_owned(), json!(old.id().to_string()));
    let whole = crate::catalog::patched(Value::Object(whole), body)?;
    // What a POST would supply for itself must not appear here because a patch has taken it away.
    for needed in [of.singular(), "FeatureOfInterest", "phenomenonTime"] {
        if whole.get(needed).is_none_or(Value::is_null) {
            return Err(Error::field(format!("/{needed}"), "an Observation needs it; the patch removes it"));
        }
    }
    Ok(whole)
}

pub async fn create(
    State(state): State<SensorThings>,
    extension: MaybeCaller,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let caller = caller(extension);
    if let Some(observation) = state.plain(&caller, &uri, &body) {
        return state.single(&caller, &headers, observation).await;
    }
    let (path, place) = state.place(&caller, &uri).await?;
    let (Place::Collection(source), Tail::Entities) = (place, &path.tail) else {
        return Ok(not_allowed("GET, PATCH, PUT, DELETE"));
    };
    let body = parse(&body)?;
    if path.entity == EntityType::Observation {
        let (datastream, feature) = match source {
            Source::Related { entity, id, .. } if entity.has_series() => (Some((entity, id)), None),
            Source::Related { entity: EntityType::FeatureOfInterest, id, .. } => (None, Some(id)),
            _ => (None, None),
        };
        let observed = state.observe(&caller, &body, datastream, feature).await;
        match &observed {
            Ok(observation) => state.sent(&caller, Sent::Recorded(1, Some(observation.phenomenon.end))),
            Err(error) => state.told(&caller, error),
        }
        let observation = observed?;
        return state.created(&caller, &headers, path.entity, TokenId::Observation(observation.id())).await;
    }
    if path.entity == EntityType::Task {
        let capability = match source {
            Source::Related { id, .. } => Some(id),
            _ => None,
        };
        let key = headers.get("idempotency-key").and_then(|v| v.to_str().ok()).map(|v| v.trim().trim_matches('"'));
        let id = state.tasks()?.propose(&caller, &body, capability, key).await?;
        return state.created(&caller, &headers, path.entity, TokenId::Entity(id)).await;
    }
    let parent = match source {
        Source::Related { entity, id, navigation } => Some(Parent { entity, id, navigation: navigation.name }),
        _ => None,
    };
    let id = state.create(&caller, path.entity, &body, parent).await?;
    state.created(&caller, &headers, path.entity, TokenId::Entity(id)).await
}

fn not_allowed(allow: &'static str) -> Response {
    let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

pub async fn update(
    state: State<SensorThings>,
    extension: MaybeCaller,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let how = how(&headers);
    change(state, extension, uri, headers, body, how).await
}

/// How a PATCH means its body.
pub(super) fn how(headers: &HeaderMap) -> Update {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/json-patch+json") { Update::JsonPatch } else { Update::Merge }
}

pub async fn replace(
    state: State<SensorThings>,
    extension: MaybeCaller,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    change(state, extension, uri, headers, body, Update::Replace).await
}

async fn change(
    State(state): State<SensorThings>,
    extension: MaybeCaller,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    how: Update,
) -> Result<Response, Error> {
    let caller = caller(extension);
    let (path, place) = state.place(&caller, &uri).await?;
    let (Place::One(item), Tail::Entities) = (place, &path.tail) else { return Ok(not_allowed("GET, POST")) };
    let body = parse(&body)?;
    let id = match &item {
        Item::Entity(entity, _) if entity.entity == EntityType::Task => {
            state.tasks()?.update(&caller, entity, &body, how).await?;
            TokenId::Entity(entity.id)
        }
        Item::Entity(entity, extent) => {
            let catalog = state.engine.catalog();
            match extent.phenomenon {
                Some(_) => catalog.update(&caller, entity.entity, entity.id, &body, how).await?,
                None => catalog.update_unobserved(&caller, entity.entity, entity.id, &body, how).await?,
            };
            TokenId::Entity(entity.id)
        }
        Item::Observation(old, _) => TokenId::Observation(state.amend(&caller, old, &body, how).await?.id()),
    };
    state.changed(&caller, &headers, path.entity, id).await
}

pub async fn delete(State(state): State<SensorThings>, extension: MaybeCaller, uri: Uri) -> Result<Response, Error> {
    let caller = caller(extension);
    let (path, place) = state.place(&caller, &uri).await?;
    let Place::One(item) = place else { return Ok(not_allowed("GET, POST")) };
    if let Tail::Property(index, inner) = &path.tail {
        return clear(&state, &caller, &item, *index, inner).await;
    }
    if path.tail != Tail::Entities {
        return Ok(not_allowed("GET"));
    }
    match &item {
        Item::Entity(entity, _) => {
            let changes = state.engine.catalog().delete(&caller, entity.entity, entity.id).await?;
            state.settle(&changes).await?;
        }
        Item::Observation(observation, _) => {
            let id = observation.id();
            let info = state.permit(&caller, &id, action::DELETE).await?;
            state.note(&caller, &id, action::DELETE, &info).await?;
            state.engine.series().remove(vec![id]).await?;
        }
    }
    tracing::debug!(what = name_of(&item), "deleted");
    Ok(empty(StatusCode::NO_CONTENT))
}

/// DELETE on a property sets it to null (OData 4.0 Part 1 section 11.4.9.2).
async fn clear(
    state: &SensorThings,
    caller: &Caller,
    item: &Item,
    index: usize,
    inner: &[String],
) -> Result<Response, Error> {
    let Item::Entity(entity, _) = item else { return Ok(not_allowed("GET")) };
    let Some(property) = entity.schema().properties.get(index).filter(|_| inner.is_empty()) else {
        return Ok(not_allowed("GET"));
    };
    let mut body = serde_json::Map::new();
    body.insert(property.name.to_owned(), Value::Null);
    state.engine.catalog().update(caller, entity.entity, entity.id, &Value::Object(body), Update::Merge).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}
