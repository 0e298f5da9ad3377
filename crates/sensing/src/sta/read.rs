//! GET: from the address to the answer.

use axum::extract::State;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

use super::{
    MaybeCaller, Response, SensorThings, caller, empty,
    formats::geojson,
    json::{Writer, next_query},
    json_response, nothing_there,
    path::{Path, Step, Tail},
    tail,
};
use crate::{
    Error, Scope,
    catalog::schema::{Link, Navigation},
    model::EntityType,
    query::{Answer, Expr, Format, Item, Leaf, Operator, Options, Plan, Source, TokenId},
};

/// Where a path leads.
pub enum Place {
    Collection(Source),
    One(Item),
}

impl SensorThings {
    /// Walks a path. `None` when something on the way does not exist or may not be seen.
    pub async fn resolve(&self, scope: &Scope, path: &Path) -> Result<Option<Place>, Error> {
        let mut place = Place::Collection(Source::All);
        let mut entity = path.entity;
        for step in &path.steps {
            let next = match (step, &place) {
                (Step::Set(set), _) => {
                    entity = *set;
                    Some(Place::Collection(Source::All))
                }
                (Step::Key(id), Place::Collection(Source::Related { entity: from, id: parent, navigation })) => {
                    self.member(scope, *from, *parent, navigation, *id).await?.map(Place::One)
                }
                (Step::Key(id), Place::Collection(_)) => self.engine.item(scope, entity, *id).await?.map(Place::One),
                (Step::Navigation(navigation), Place::One(item)) => {
                    let from = entity;
                    entity = navigation.target;
                    match (navigation.to_many(), item) {
                        (true, Item::Entity(e, _)) => {
                            Some(Place::Collection(Source::Related { entity: from, id: e.id, navigation }))
                        }
                        (true, Item::Observation(..)) => None,
                        (false, item) => self.engine.follow(scope, item, navigation).await?.map(Place::One),
                    }
                }
                _ => None,
            };
            match next {
                Some(next) => place = next,
                None => return Ok(None),
            }
        }
        Ok(Some(place))
    }

    /// One entity of a related collection: `Things(1)/Datastreams(2)` is there only when Datastream 2 belongs to Thing 1.
    async fn member(
        &self,
        scope: &Scope,
        from: EntityType,
        parent: crate::model::EntityId,
        navigation: &'static Navigation,
        id: TokenId,
    ) -> Result<Option<Item>, Error> {
        let Some(item) = self.engine.item(scope, navigation.target, id).await? else { return Ok(None) };
        let belongs = match (&item, navigation.link) {
            (Item::Observation(o, of), _) => match from {
                EntityType::FeatureOfInterest => o.feature == parent,
                from => *of == from && o.datastream == parent,
            },
            (Item::Entity(e, _), Link::Many { .. }) => e.one(navigation.inverse) == Some(parent),
            (Item::Entity(e, _), _) => {
                let filter = Expr::Binary(
                    Operator::Eq,
                    Box::new(Expr::Path(vec!["id".to_owned()], 1)),
                    Box::new(Expr::Literal(crate::query::Literal::Number(e.id.0 as f64), 1)),
                    1,
                );
                let options = Options { filter: Some(filter), top: Some(1), ..Options::default() };
                let plan = Plan::new(navigation.target, &options, self.engine.limits(), self.engine.catalog().now())?;
                let source = Source::Related { entity: from, id: parent, navigation };
                !self.engine.answer(scope, &plan, &source).await?.rows.is_empty()
            }
        };
        Ok(belongs.then_some(item))
    }
}

fn item_id(item: &Item) -> TokenId {
    match item {
        Item::Entity(entity, _) => TokenId::Entity(entity.id),
        Item::Observation(o, _) => TokenId::Observation(o.id()),
    }
}

pub async fn read(
    State(state): State<SensorThings>,
    extension: MaybeCaller,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let caller = caller(extension);
    let text = tail(&uri)?;
    let Some(path) = Path::parse(&text) else { return Err(nothing_there(&text)) };
    let options = Options::parse(uri.query().unwrap_or_default())?;
    let engine = &state.engine;
    let mut plan = Plan::new(path.entity, &options, engine.limits(), engine.catalog().now())?;
    let scope = engine.catalog().scope(&caller);
    let Some(place) = state.resolve(&scope, &path).await? else { return Err(nothing_there(&text)) };
    let base = state.base(&headers);
    let mut out = Writer::new(&base);
    let references = path.tail == Tail::References;
    if path.tail != Tail::Entities && plan.format != Format::Json {
        return Err(Error::field(
            "$resultFormat",
            "the address leads to links or to a property; this option is for entities",
        ));
    }
    match (place, &path.tail) {
        (Place::Collection(source), _) => {
            if references {
                plan.expand.clear();
            }
            if plan.format == Format::Csv && !references {
                return state.csv(scope, plan, &options, source, base).await;
            }
            let answer = engine.answer(&scope, &plan, &source).await?;
            // Things('é') cannot occur: a path that has been understood has only ASCII in it, and the query is encoded again.
            let next = answer.next.as_ref().filter(|_| plan.top > 0).map(|next| {
                format!("{base}/{}?{}", uri.path().trim_start_matches("/v1.1/"), next_query(&options, next))
            });
            if plan.format == Format::GeoJson {
                return geojson(&plan, &options, &answer, next.as_deref(), &base);
            }
            out.collection(&plan, &answer, next.as_deref(), references);
        }
        (Place::One(item), Tail::References) => {
            out.raw("{\"@iot.selfLink\":\"");
            out.address(&item);
            out.raw("\"}");
        }
        (Place::One(item), Tail::Entities) => {
            one_only(&options)?;
            let found = engine.one(&scope, &plan, item_id(&item)).await?;
            let Some(row) = found else { return Err(nothing_there(&text)) };
            match plan.format {
                Format::Csv => return state.csv_of(&plan, &options, &row, &base),
                Format::GeoJson => {
                    let answer = Answer { rows: vec![row], ..Answer::default() };
                    return geojson(&plan, &options, &answer, None, &base);
                }
                Format::Json | Format::DataArray => out.row(&plan, &row),
            }
        }
        (Place::One(item), Tail::Property(index, inner) | Tail::Raw(index, inner)) => {
            let leaf = Leaf::Property(*index, inner.clone());
            let value = item.value(&leaf).to_json();
            if value.is_null() {
                return Ok(empty(StatusCode::NO_CONTENT));
            }
            if matches!(path.tail, Tail::Raw(..)) {
                return Ok(raw_value(value));
            }
            out.raw("{");
            out.string(&path.shown);
            out.raw(":");
            out.value(&value);
            out.raw("}");
        }
    }
    Ok(json_response(StatusCode::OK, out.out))
}

/// `$filter` and its like choose among many; on one entity they mean nothing.
fn one_only(options: &Options) -> Result<(), Error> {
    let wrong = [
        ("$filter", options.filter.is_some()),
        ("$orderby", !options.order.is_empty()),
        ("$top", options.top.is_some()),
        ("$skip", options.skip.is_some()),
        ("$count", options.count.is_some()),
    ];
    match wrong.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::field(*name, "the address leads to one entity; this option is for collections")),
        None => Ok(()),
    }
}

/// `$value`: text as it is, everything else as JSON (18-088 section 9.2.5).
fn raw_value(value: serde_json::Value) -> Response {
    let (kind, text) = match value {
        serde_json::Value::String(text) => ("text/plain; charset=utf-8", text),
        other if other.is_object() || other.is_array() => ("application/json", other.to_string()),
        other => ("text/plain; charset=utf-8", other.to_string()),
    };
    let mut response = Response::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // The text is the department's: a browser must not take it for a page.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
