//! The reference: a predicate decided in Rust, row by row.

use std::{borrow::Cow, sync::Arc};

use geo::{Distance, Euclidean, Geometry, Intersects, Length, Relate};
use kernel::Timestamp;
use serde_json::Value as Json;

use super::{
    ast::Operator,
    functions::Function,
    load::{Item, Loaded},
    plan::{Leaf, Node, Variable},
    value::{Value, compare, day, time_of_day},
};
use crate::{
    Error,
    catalog::{Field, geometry},
    model::ResultValue,
};

/// Whether the filter holds for `root` and some combination of the rows that are tied to it.
pub fn holds(filter: &Node, variables: &[Variable], root: &Item, loaded: &Loaded) -> Result<bool, Error> {
    let question = Question::new(variables, loaded);
    let found = question.of(root, &mut |rows| question.node(filter, rows).as_bool() == Some(true));
    question.finished().map(|()| found)
}

/// Whether the filter can hold where none of the rows that it looks at is there.
pub fn holds_for_nothing(filter: &Node) -> bool {
    Question::new(&[], &Loaded::default()).node(filter, &[]).as_bool() == Some(true)
}

/// The values to order by; of several related rows the first counts.
pub fn order_keys(
    order: &[(Node, bool)],
    variables: &[Variable],
    root: &Item,
    loaded: &Loaded,
) -> Result<Vec<Value<'static>>, Error> {
    let question = Question::new(variables, loaded);
    let mut keys = Vec::new();
    question.of(root, &mut |rows| {
        keys = order.iter().map(|(key, _)| question.node(key, rows).into_owned()).collect();
        true
    });
    question.finished().map(|()| keys)
}

type Rows<'a, 'r> = &'r [Option<&'a Item>];

/// A predicate about one entity, with the rows that it may look at.
struct Question<'a> {
    variables: &'a [Variable],
    loaded: &'a Loaded,
}

impl<'a> Question<'a> {
    fn new(variables: &'a [Variable], loaded: &'a Loaded) -> Self {
        Self { variables, loaded }
    }

    fn finished(&self) -> Result<(), Error> {
        if self.loaded.is_spent() {
            return Err(Error::bad_request(
                "The filter combines too many related entities; narrow it, or ask for the related set itself.",
            ));
        }
        Ok(())
    }

    fn of(&self, root: &'a Item, test: &mut dyn FnMut(Rows<'a, '_>) -> bool) -> bool {
        let mut rows: Vec<Option<&Item>> = vec![None; self.variables.len()];
        rows[0] = Some(root);
        self.assign(0, 1, &mut rows, test)
    }

    /// Whether the test holds for some combination of the rows behind the variables of one scope.
    fn assign(
        &self,
        scope: usize,
        next: usize,
        rows: &mut Vec<Option<&'a Item>>,
        test: &mut dyn FnMut(Rows<'a, '_>) -> bool,
    ) -> bool {
        let Some(variable) = self.variables.get(next) else {
            // With nothing left the answer no longer matters, and the search ends.
            return !self.loaded.spend() || test(rows);
        };
        if variable.scope != scope || variable.ranges {
            return self.assign(scope, next + 1, rows, test);
        }
        let related = self.related(next, variable, rows);
        if related.is_empty() {
            // As in an outer join: what is not there is null.
            rows[next] = None;
            return self.assign(scope, next + 1, rows, test);
        }
        for item in related {
            rows[next] = Some(item);
            if self.assign(scope, next + 1, rows, test) {
                return true;
            }
        }
        false
    }

    fn related(&self, index: usize, variable: &Variable, rows: Rows<'a, '_>) -> &'a [Item] {
        let parent = rows.get(variable.parent).copied().flatten();
        parent.map_or(&[][..], |parent| self.loaded.of(index, parent, variable.navigation))
    }

    /// `any` of no rows is false, `all` of none is true (OData 4.0 Part 2 section 5.1.1.5).
    fn lambda(&self, all: bool, index: usize, predicate: Option<&'a Node>, rows: Rows<'a, '_>) -> bool {
        let Some(variable) = self.variables.get(index) else { return false };
        let related = self.related(index, variable, rows);
        let Some(predicate) = predicate else { return !related.is_empty() };
        let mut inner = rows.to_vec();
        for item in related {
            inner[index] = Some(item);
            let holds = self
                .assign(index, index + 1, &mut inner, &mut |rows| self.node(predicate, rows).as_bool() == Some(true));
            if holds != all {
                return holds;
            }
        }
        all
    }

    fn node(&self, expr: &'a Node, rows: Rows<'a, '_>) -> Value<'a> {
        match expr {
            Node::Literal(value) => value.clone(),
            Node::Leaf(variable, leaf) => {
                rows.get(*variable).copied().flatten().map_or(Value::Null, |item| item.value(leaf))
            }
            Node::Not(inner) => self.node(inner, rows).as_bool().map_or(Value::Null, |b| Value::Bool(!b)),
            Node::Negate(inner) => match self.node(inner, rows) {
                Value::Number(n) => Value::Number(-n),
                Value::Duration(d) => Value::Duration(d.saturating_neg()),
                _ => Value::Null,
            },
            Node::Binary(operator @ (Operator::And | Operator::Or), left, right) => {
                // What decides alone; with null on one side the other may still decide.
                let decides = *operator == Operator::Or;
                let a = self.node(left, rows).as_bool();
                if a == Some(decides) {
                    return Value::Bool(decides);
                }
                match (a, self.node(right, rows).as_bool()) {
                    (_, Some(b)) if b == decides => Value::Bool(decides),
                    (Some(_), Some(b)) => Value::Bool(b),
                    _ => Value::Null,
                }
            }
            Node::Binary(operator, left, right) => {
                let (left, right) = (self.node(left, rows), self.node(right, rows));
                if operator.is_comparison() {
                    return compare(*operator, &left, &right).map_or(Value::Null, Value::Bool);
                }
                arithmetic(*operator, &left, &right)
            }
            Node::Call(function, arguments) => {
                let values: Vec<Value<'a>> = arguments.iter().map(|a| self.node(a, rows)).collect();
                if values.iter().any(Value::is_null) {
                    Value::Null
                } else {
                    call(*function, &values).unwrap_or(Value::Null)
                }
            }
            Node::Lambda { all, variable, predicate } => {
                Value::Bool(self.lambda(*all, *variable, predicate.as_deref(), rows))
            }
        }
    }
}

pub(super) fn arithmetic(operator: Operator, left: &Value<'_>, right: &Value<'_>) -> Value<'static> {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => {
            let result = match operator {
                Operator::Add => a + b,
                Operator::Sub => a - b,
                Operator::Mul => a * b,
                Operator::Div => a / b,
                Operator::Mod => a % b,
                _ => return Value::Null,
            };
            // Division by zero has no result.
            if result.is_finite() { Value::Number(result) } else { Value::Null }
        }
        (Value::Duration(a), Value::Duration(b)) => match operator {
            Operator::Add => Value::Duration(a.saturating_add(*b)),
            Operator::Sub => Value::Duration(a.saturating_sub(*b)),
            Operator::Div if *b != 0 => Value::Number(*a as f64 / *b as f64),
            _ => Value::Null,
        },
        (Value::Number(_), Value::Duration(_)) if operator == Operator::Mul => arithmetic(operator, right, left),
        (Value::Duration(a), Value::Number(b)) => match operator {
            Operator::Mul => Value::Duration((*a as f64 * b) as i64),
            Operator::Div if *b != 0.0 => Value::Duration((*a as f64 / b) as i64),
            _ => Value::Null,
        },
        (Value::Duration(by), Value::Time(_)) if operator == Operator::Add => {
            arithmetic(operator, right, &Value::Duration(*by))
        }
        (Value::Time(_) | Value::Text(_), Value::Duration(by)) => {
            let by = match operator {
                Operator::Add => *by,
                Operator::Sub => by.saturating_neg(),
                _ => return Value::Null,
            };
            let Some(time) = left.as_time() else { return Value::Null };
            let (start, end) = (time.start.plus_micros(by), time.end.plus_micros(by));
            Value::Time(kernel::Interval { start, end })
        }
        (Value::Time(a), Value::Time(b)) if operator == Operator::Sub => Value::Duration(a.start.micros_since(b.start)),
        _ => Value::Null,
    }
}

fn call<'a>(function: Function, values: &[Value<'a>]) -> Option<Value<'a>> {
    use Function as F;
    let text = |i: usize| values.get(i).and_then(Value::as_text);
    let number = |i: usize| values.get(i).and_then(Value::as_number);
    let time = |i: usize| values.get(i).and_then(Value::as_time).map(|t| t.start);
    let shape = |i: usize| values.get(i).and_then(shape);
    let owned = |text: String| Value::Text(Cow::Owned(text));
    Some(match function {
        F::SubstringOf => Value::Bool(text(1)?.contains(text(0)?)),
        F::Contains => Value::Bool(text(0)?.contains(text(1)?)),
        F::EndsWith => Value::Bool(text(0)?.ends_with(text(1)?)),
        F::StartsWith => Value::Bool(text(0)?.starts_with(text(1)?)),
        F::Length => Value::Number(text(0)?.chars().count() as f64),
        F::IndexOf => {
            let (all, part) = (text(0)?, text(1)?);
            Value::Number(all.find(part).map_or(-1.0, |bytes| all[..bytes].chars().count() as f64))
        }
        F::Substring => {
            let start = number(1)?.max(0.0) as usize;
            let length = values.get(2).map_or(Some(f64::MAX), Value::as_number)?.max(0.0) as usize;
            owned(text(0)?.chars().skip(start).take(length).collect())
        }
        F::ToLower => owned(text(0)?.to_lowercase()),
        F::ToUpper => owned(text(0)?.to_uppercase()),
        F::Trim => owned(text(0)?.trim().to_owned()),
        F::Concat => {
            // Doubling in nested calls is bounded by the size of the expression, and here once more.
            const MOST: usize = 1 << 20;
            let (a, b) = (text(0)?, text(1)?);
            if a.len() + b.len() > MOST {
                return None;
            }
            owned(format!("{a}{b}"))
        }
        F::Year | F::Month | F::Day | F::Hour | F::Minute | F::Second | F::FractionalSeconds => {
            let at = match values.first()? {
                Value::TimeOfDay(micros) => Timestamp::from_micros(*micros),
                _ => time(0)?,
            };
            let civil = at.to_jiff().to_zoned(jiff::tz::TimeZone::UTC);
            Value::Number(match function {
                F::Year => f64::from(civil.year()),
                F::Month => f64::from(civil.month()),
                F::Day => f64::from(civil.day()),
                F::Hour => f64::from(civil.hour()),
                F::Minute => f64::from(civil.minute()),
                F::Second => f64::from(civil.second()),
                _ => at.as_micros().rem_euclid(1_000_000) as f64 / 1e6,
            })
        }
        F::Date => Value::Date(day(time(0)?)),
        F::Time => time_of_day(time(0)?),
        // Times are kept in UTC.
        F::TotalOffsetMinutes => time(0).map(|_| Value::Number(0.0))?,
        F::Now | F::MinDateTime | F::MaxDateTime => return None,
        // OData rounds half away from zero.
        F::Round => Value::Number(number(0)?.round()),
        F::Floor => Value::Number(number(0)?.floor()),
        F::Ceiling => Value::Number(number(0)?.ceil()),
        // In the unit of the reference system (OData 4.0 Part 1 section 11.2.5.1.2): degrees of WGS 84.
        F::GeoDistance => Value::Number(distance(&*shape(0)?, &*shape(1)?)),
        F::GeoLength => Value::Number(length(&*shape(0)?)),
        F::GeoIntersects | F::StIntersects => Value::Bool(shape(0)?.intersects(&*shape(1)?)),
        F::StRelate => Value::Bool(shape(0)?.relate(&*shape(1)?).matches(text(2)?).ok()?),
        F::StEquals | F::StDisjoint | F::StTouches | F::StWithin | F::StOverlaps | F::StCrosses | F::StContains => {
            let (a, b) = (shape(0)?, shape(1)?);
            let matrix = a.relate(&*b);
            Value::Bool(match function {
                F::StEquals => matrix.is_equal_topo(),
                F::StDisjoint => matrix.is_disjoint(),
                F::StTouches => matrix.is_touches(),
                F::StWithin => matrix.is_within(),
                F::StOverlaps => matrix.is_overlaps(),
                F::StCrosses => matrix.is_crosses(),
                _ => matrix.is_contains(),
            })
        }
    })
}

/// A geometry, also one that is kept as GeoJSON.
fn shape(value: &Value<'_>) -> Option<Arc<Geometry<f64>>> {
    match value {
        Value::Geometry(geometry) => Some(Arc::clone(geometry)),
        Value::Json(json) => geometry::from_geojson(json).map(Arc::new),
        _ => None,
    }
}

fn distance(a: &Geometry<f64>, b: &Geometry<f64>) -> f64 {
    Euclidean.distance(a, b)
}

fn length(geometry: &Geometry<f64>) -> f64 {
    match geometry {
        Geometry::Line(line) => Euclidean.length(line),
        Geometry::LineString(line) => Euclidean.length(line),
        Geometry::MultiLineString(lines) => Euclidean.length(lines),
        Geometry::GeometryCollection(all) => all.iter().map(length).sum(),
        _ => 0.0,
    }
}

impl Item {
    /// The value behind a leaf.
    pub fn value<'a>(&'a self, leaf: &'a Leaf) -> Value<'a> {
        match (self, leaf) {
            (Self::Entity(entity, _), Leaf::Id) => Value::Number(entity.id.0 as f64),
            (Self::Observation(observation, _), Leaf::Id) => Value::Text(Cow::Owned(observation.id().to_string())),
            (Self::Entity(entity, extent), Leaf::Property(index, path)) => match entity.fields.get(*index) {
                Some(Field::Text(text)) => Value::Text(Cow::Borrowed(text)),
                Some(Field::Time(at)) => Value::instant(*at),
                Some(Field::Json(json)) => part_of(json, path),
                Some(Field::Null) | None => {
                    let name = entity.schema().properties.get(*index).map_or("", |p| p.name);
                    extent.of(name).map_or(Value::Null, Value::Time)
                }
            },
            (Self::Observation(o, _), Leaf::Property(index, path)) => match index {
                0 => Value::Time(o.phenomenon),
                1 => o.result_time.map_or(Value::Null, Value::instant),
                2 => match &o.result {
                    ResultValue::Number(number) if path.is_empty() => Value::Number(*number),
                    ResultValue::Number(_) => Value::Null,
                    ResultValue::Json(raw) => part_of(raw.get(), path),
                },
                3 => o.quality.as_ref().map_or(Value::Null, |raw| part_of(raw.get(), path)),
                4 => o.valid.map_or(Value::Null, Value::Time),
                _ => o.parameters.as_ref().map_or(Value::Null, |raw| part_of(raw.get(), path)),
            },
        }
    }
}

fn part_of(json: &str, path: &[String]) -> Value<'static> {
    let Ok(mut value) = serde_json::from_str::<Json>(json) else { return Value::Null };
    for name in path {
        let part = match &mut value {
            Json::Object(map) => map.get_mut(name),
            Json::Array(items) => name.parse::<usize>().ok().and_then(|i| items.get_mut(i)),
            _ => None,
        };
        match part.map(Json::take) {
            Some(part) => value = part,
            None => return Value::Null,
        }
    }
    Value::from_owned_json(value)
}
