//! `$resultFormat=CSV` and `$resultFormat=GeoJSON`, as FROST has added them to the standard: expansions flattened, names joined by `/`.
//!
//! A CSV has no place for a link to the next page, so it is all of the collection, written page by page as the client reads; one that
//! cannot be finished breaks off instead of looking whole. GeoJSON is a page with its link, as JSON is.

use std::{fmt::Write as _, sync::Arc};

use axum::body::Body;
use http::{HeaderValue, header};
use serde_json::{Map, Value};

use super::{Response, SensorThings, json::Writer, json_response};
use crate::{
    Error, Scope,
    catalog::{Field, Schema, geometry},
    model::{EntityType, ObservationId, ResultValue},
    query::{Answer, Inline, Item, Next, Options, Plan, Row, Source, Token},
    spreadsheet::field,
};

/// Lines of one CSV.
const LINES: u64 = 1_000_000;
/// Entities read for a CSV at once.
const PAGE: usize = 1_000;
/// Pages of one CSV, also those in which a filter finds nothing.
const PAGES: usize = 20_000;
/// Columns of one CSV.
const COLUMNS: usize = 500;
/// Names in the properties of one Feature.
const NAMES: usize = 10_000;
/// And their bytes.
const NAME_BYTES: usize = 4 << 20;

// --- CSV ----------------------------------------------------------------------------------------------------------

enum Cell {
    Id,
    SelfLink,
    Property(usize),
    /// A part of unitOfMeasurement, whose parts the standard names.
    Unit(usize, &'static str),
}

struct Column {
    /// Positions of expansions, from the row downwards.
    way: Vec<usize>,
    cell: Cell,
    title: String,
}

/// The columns of a plan. Expansions to many are one line only when they are cut to one.
fn columns(plan: &Plan, options: &Options, prefix: &str, way: &[usize], all: &mut Vec<Column>) -> Result<(), Error> {
    let schema = Schema::of(plan.entity);
    let mut add = |cell, name: &str| {
        all.push(Column { way: way.to_vec(), cell, title: format!("{prefix}{name}") });
    };
    if plan.select.id {
        add(Cell::Id, "id");
    }
    if plan.select.self_link && options.select.is_some() {
        add(Cell::SelfLink, "selfLink");
    }
    for (index, property) in schema.properties.iter().enumerate() {
        if !plan.select.properties.get(index).copied().unwrap_or(false) {
            continue;
        }
        if property.name == "unitOfMeasurement" {
            for part in ["name", "symbol", "definition"] {
                add(Cell::Unit(index, part), &format!("unitOfMeasurement/{part}"));
            }
        } else {
            add(Cell::Property(index), property.name);
        }
    }
    if all.len() > COLUMNS {
        return Err(Error::field("$expand", format!("a CSV has at most {COLUMNS} columns")));
    }
    for (at, expansion) in plan.expand.iter().enumerate() {
        let name = expansion.navigation.name;
        if expansion.navigation.to_many() && expansion.options.top != Some(1) {
            let detail = format!(
                "a line of a CSV holds one of them: {name}($top=1); for all, ask for {} and expand the other way",
                expansion.navigation.target.set()
            );
            return Err(Error::field("$expand", detail));
        }
        let below = [way, &[at]].concat();
        columns(&expansion.plan, &expansion.options, &format!("{prefix}{name}/"), &below, all)?;
    }
    Ok(())
}

/// The row at the end of a way.
fn walk<'r>(row: &'r Row, way: &[usize]) -> Option<&'r Row> {
    way.iter().try_fold(row, |row, at| match row.expanded.get(*at)? {
        Inline::One(row) => row.as_deref(),
        Inline::Many(answer) => answer.rows.first(),
    })
}

fn json_field(out: &mut String, text: &str) {
    match serde_json::from_str(text) {
        Ok(Value::String(text)) => field(out, &text),
        Ok(Value::Null) => {}
        Ok(Value::Bool(_) | Value::Number(_)) => out.push_str(text),
        _ => field(out, text),
    }
}

fn show(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

fn cell(out: &mut String, base: &str, item: &Item, cell: &Cell) {
    match (cell, item) {
        (Cell::Id, Item::Entity(entity, _)) => show(out, entity.id),
        (Cell::Id, Item::Observation(o, _)) => field(out, &o.id().to_string()),
        (Cell::SelfLink, item) => {
            let mut link = Writer::new(base);
            link.address(item);
            field(out, &String::from_utf8(link.out).unwrap_or_default());
        }
        (Cell::Unit(index, part), Item::Entity(entity, _)) => {
            let unit = entity.fields.get(*index).map(Field::to_value);
            if let Some(text) = unit.as_ref().and_then(|unit| unit.get(*part)).and_then(Value::as_str) {
                field(out, text);
            }
        }
        (Cell::Unit(..), Item::Observation(..)) => {}
        (Cell::Property(index), Item::Entity(entity, extent)) => match entity.fields.get(*index) {
            Some(Field::Text(text)) => field(out, text),
            Some(Field::Json(json)) => json_field(out, json),
            Some(Field::Time(at)) => show(out, at),
            Some(Field::Null) | None => {
                let name = entity.schema().properties.get(*index).map_or("", |p| p.name);
                if let Some(interval) = extent.of(name) {
                    show(out, interval);
                }
            }
        },
        (Cell::Property(index), Item::Observation(o, _)) => match index {
            0 => show(out, o.phenomenon),
            1 => o.result_time.into_iter().for_each(|at| show(out, at)),
            2 => match &o.result {
                ResultValue::Number(number) => show(out, number),
                ResultValue::Json(raw) => json_field(out, raw.get()),
            },
            3 => o.quality.iter().for_each(|raw| json_field(out, raw.get())),
            4 => o.valid.into_iter().for_each(|valid| show(out, valid)),
            _ => o.parameters.iter().for_each(|raw| json_field(out, raw.get())),
        },
    }
}

fn line(out: &mut String, base: &str, columns: &[Column], row: &Row) {
    for (index, column) in columns.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        if let Some(row) = walk(row, &column.way) {
            cell(out, base, &row.item, &column.cell);
        }
    }
    out.push_str("\r\n");
}

/// A CSV on its way out.
struct Table {
    state: SensorThings,
    scope: Arc<Scope>,
    plan: Plan,
    source: Source,
    base: String,
    columns: Vec<Column>,
    /// Lines that may still follow, and whether that is all that was asked for.
    left: u64,
    asked: bool,
    pages: usize,
}

impl Table {
    fn text(&mut self, answer: &Answer, out: &mut String) {
        answer.rows.iter().for_each(|row| line(out, &self.base, &self.columns, row));
        self.left = self.left.saturating_sub(answer.rows.len() as u64);
    }
    /// Makes the plan that of the next page; `false` at the end.
    fn onward(&mut self, next: Option<Next>) -> Result<bool, Error> {
        let Some(next) = next else { return Ok(false) };
        self.pages += 1;
        if self.left == 0 && self.asked {
            return Ok(false);
        }
        if self.left == 0 || self.pages >= PAGES {
            return Err(Error::bad_request(format!("A CSV has at most {LINES} lines; narrow it with $filter.")));
        }
        self.plan.top = self.page();
        match next {
            Next::Token(token) => {
                self.plan.skip = 0;
                self.plan.token = Some(Token::parse(&token, &self.plan)?);
            }
            Next::Skip(skip) => (self.plan.skip, self.plan.token) = (skip, None),
        }
        Ok(true)
    }
    fn page(&self) -> usize {
        let most = self.state.engine.limits().page_max as usize;
        usize::try_from(self.left).unwrap_or(PAGE).min(PAGE).min(most)
    }
    async fn answer(&self) -> Result<Answer, Error> {
        self.state.engine.answer(&self.scope, &self.plan, &self.source).await
    }
}

fn titles(columns: &[Column]) -> String {
    let mut out = columns.iter().map(|column| column.title.as_str()).collect::<Vec<_>>().join(",");
    out.push_str("\r\n");
    out
}

fn named(mut response: Response, kind: &'static str, disposition: &str) -> Response {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(value) = HeaderValue::from_str(disposition) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Authorization, Cookie"));
    response
}

fn as_csv(entity: EntityType, body: Body) -> Response {
    let disposition = format!("attachment; filename=\"{}.csv\"", entity.set());
    named(Response::new(body), "text/csv; charset=utf-8; header=present", &disposition)
}

impl SensorThings {
    /// A collection as CSV. What is wrong with the question, and with its first page, is said before the first line.
    pub(super) async fn csv(
        &self,
        scope: Arc<Scope>,
        mut plan: Plan,
        options: &Options,
        source: Source,
        base: String,
    ) -> Result<Response, Error> {
        let mut columns = Vec::new();
        self::columns(&plan, options, "", &[], &mut columns)?;
        // A CSV has no place for a count.
        plan.count = false;
        let entity = plan.entity;
        let asked = options.top.is_some_and(|top| top <= LINES);
        let left = options.top.unwrap_or(LINES).min(LINES);
        let mut table = Table { state: self.clone(), scope, plan, source, base, columns, left, asked, pages: 0 };
        let mut first = titles(&table.columns);
        if left == 0 {
            return Ok(as_csv(entity, first.into()));
        }
        table.plan.top = table.page();
        let answer = table.answer().await?;
        table.text(&answer, &mut first);
        let more = table.onward(answer.next)?;
        let rest = futures::stream::try_unfold(more.then_some(table), |table| async move {
            let Some(mut table) = table else { return Ok(None) };
            let answer = table.answer().await?;
            let mut out = String::new();
            table.text(&answer, &mut out);
            let more = table.onward(answer.next)?;
            Ok::<_, Error>(Some((out, more.then_some(table))))
        });
        let rest = futures::TryStreamExt::map_err(rest, std::io::Error::other);
        let first = futures::stream::once(std::future::ready(Ok(first)));
        Ok(as_csv(entity, Body::from_stream(futures::StreamExt::chain(first, rest))))
    }

    /// One entity as CSV.
    pub(super) fn csv_of(&self, plan: &Plan, options: &Options, row: &Row, base: &str) -> Result<Response, Error> {
        let mut columns = Vec::new();
        self::columns(plan, options, "", &[], &mut columns)?;
        let mut out = titles(&columns);
        line(&mut out, base, &columns, row);
        Ok(as_csv(plan.entity, out.into()))
    }
}

// --- GeoJSON ------------------------------------------------------------------------------------------------------

/// A Feature in the making.
struct Feature<'a> {
    base: &'a str,
    properties: Map<String, Value>,
    /// Of the names so far: each repeats the way to it, so few long ones could be gigabytes.
    bytes: usize,
    /// The first geometry that is found, from the entity downwards.
    geometry: Option<Value>,
}

impl Feature<'_> {
    fn put(&mut self, name: String, value: Value) -> Result<(), Error> {
        self.bytes += name.len();
        if self.properties.len() >= NAMES || self.bytes > NAME_BYTES {
            let detail = format!(
                "a Feature has at most {NAMES} properties, whose names take at most {NAME_BYTES} bytes; expand less"
            );
            return Err(Error::field("$expand", detail));
        }
        self.properties.insert(name, value);
        Ok(())
    }

    /// What has parts becomes its parts; what is empty stays, so that it is seen.
    fn flat(&mut self, name: String, value: Value) -> Result<(), Error> {
        match value {
            Value::Object(map) if !map.is_empty() => {
                map.into_iter().try_for_each(|(key, value)| self.flat(format!("{name}/{key}"), value))
            }
            Value::Array(items) if !items.is_empty() => {
                let mut items = items.into_iter().enumerate();
                items.try_for_each(|(at, value)| self.flat(format!("{name}/{at}"), value))
            }
            value => self.put(name, value),
        }
    }

    /// Whether the value is a place: it then is the Feature's, when it has none yet.
    fn place(&mut self, value: &Value) -> bool {
        let Some(shape) = shape(value) else { return false };
        self.geometry.get_or_insert(shape);
        true
    }

    fn row(&mut self, plan: &Plan, options: &Options, row: &Row, prefix: &str) -> Result<(), Error> {
        let schema = Schema::of(plan.entity);
        if plan.select.id {
            let id = match &row.item {
                Item::Entity(entity, _) => Value::from(entity.id.0),
                Item::Observation(o, _) => Value::from(ObservationId::to_string(&o.id())),
            };
            self.put(format!("{prefix}id"), id)?;
        }
        if plan.select.self_link && options.select.is_some() {
            let mut link = Writer::new(self.base);
            link.address(&row.item);
            self.put(format!("{prefix}selfLink"), String::from_utf8(link.out).unwrap_or_default().into())?;
        }
        for (index, property) in schema.properties.iter().enumerate() {
            if !plan.select.properties.get(index).copied().unwrap_or(false) {
                continue;
            }
            let value = row.item.value(&crate::query::Leaf::Property(index, Vec::new())).to_json();
            let area = property.name == "observedArea";
            if value.is_null() || ((schema.geometry == Some(property.name) || area) && self.place(&value)) {
                continue;
            }
            self.flat(format!("{prefix}{}", property.name), value)?;
        }
        for (expansion, inline) in plan.expand.iter().zip(&row.expanded) {
            let name = expansion.navigation.name;
            match inline {
                Inline::One(None) => {}
                Inline::One(Some(row)) => {
                    self.row(&expansion.plan, &expansion.options, row, &format!("{prefix}{name}/"))?;
                }
                Inline::Many(answer) => {
                    for (at, row) in answer.rows.iter().enumerate() {
                        self.row(&expansion.plan, &expansion.options, row, &format!("{prefix}{name}/{at}/"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The geometry in a geometry or Feature; a FeatureCollection becomes a GeometryCollection of what is in it.
fn shape(value: &Value) -> Option<Value> {
    geometry::from_geojson(value)?;
    match value.get("type")?.as_str()? {
        "Feature" => value.get("geometry").and_then(shape),
        "FeatureCollection" => {
            let all: Option<Vec<Value>> = value.get("features")?.as_array()?.iter().map(shape).collect();
            Some(serde_json::json!({"type": "GeometryCollection", "geometries": all?}))
        }
        _ => Some(value.clone()),
    }
}

/// A FeatureCollection (RFC 7946); count and link to the next page are members of its own, as in JSON.
pub(super) fn geojson(
    plan: &Plan,
    options: &Options,
    answer: &Answer,
    next: Option<&str>,
    base: &str,
) -> Result<Response, Error> {
    let mut out = Writer::new(base);
    out.raw("{\"type\":\"FeatureCollection\",");
    if let Some(count) = answer.count {
        out.raw("\"@iot.count\":");
        out.integer(i64::try_from(count).unwrap_or(i64::MAX));
        out.raw(",");
    }
    if let Some(next) = next {
        out.raw("\"@iot.nextLink\":");
        out.string(next);
        out.raw(",");
    }
    out.raw("\"features\":[");
    for (index, row) in answer.rows.iter().enumerate() {
        let mut feature = Feature { base, properties: Map::new(), bytes: 0, geometry: None };
        feature.row(plan, options, row, "")?;
        out.raw(if index > 0 { ",{\"type\":\"Feature\",\"geometry\":" } else { "{\"type\":\"Feature\",\"geometry\":" });
        out.value(&feature.geometry.unwrap_or(Value::Null));
        out.raw(",\"properties\":");
        out.value(&Value::Object(feature.properties));
        out.raw("}");
    }
    out.raw("]}");
    let disposition = format!("inline; filename=\"{}.geojson\"", plan.entity.set());
    let response = json_response(http::StatusCode::OK, out.out);
    Ok(named(response, "application/geo+json", &disposition))
}
