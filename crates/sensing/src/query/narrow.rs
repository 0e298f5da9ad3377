//! The part of a filter that SQL can look up. Every condition here is necessary: a row it leaves out could not satisfy the filter. One
//! that is also sufficient is called exact.

use records::Param;

use super::{
    ast::Operator,
    functions::Function,
    plan::{Leaf, Node, Variable},
    value::Value,
};
use crate::{
    Scope,
    catalog::{
        cells::{Bounds, Cover},
        geometry,
        schema::{Kind, Link, Schema, Source},
    },
};

/// A statement in the making: text and its parameters.
#[derive(Default, Debug)]
pub struct Sql {
    pub params: Vec<Param<'static>>,
    /// Numbers the aliases of subqueries.
    aliases: usize,
}

impl Sql {
    /// Goes on with a statement whose parameters are known.
    pub fn with(params: Vec<Param<'static>>) -> Self {
        Self { params, aliases: 0 }
    }
    /// Adds a parameter and gives its placeholder.
    pub fn param(&mut self, value: Param<'static>) -> String {
        self.params.push(value);
        format!("${}", self.params.len())
    }
    pub fn id(&mut self, id: i64) -> String {
        self.param(Param::Integer(id))
    }
    /// A list of ids. Its length is rounded up by repeating the last, so that few different statements have to be prepared.
    pub fn ids(&mut self, ids: &[i64]) -> String {
        let Some(last) = ids.last() else { return "NULL".to_owned() };
        let length = ids.len().next_power_of_two();
        let all = ids.iter().chain(std::iter::repeat(last)).take(length);
        let places: Vec<String> = all.map(|id| self.id(*id)).collect();
        places.join(", ")
    }
    /// What the scope lets through; empty when it lets everything through.
    pub fn scope(&mut self, scope: &Scope, alias: &str) -> Option<String> {
        match scope {
            Scope::Everything => None,
            Scope::Tenants(tenants) if tenants.is_empty() => Some(format!("{alias}.public = 1")),
            Scope::Tenants(tenants) => {
                let text = |t: &kernel::Tenant| Param::Text(t.as_str().to_owned().into());
                let places: Vec<String> = tenants.iter().map(|t| self.param(text(t))).collect();
                Some(format!("({alias}.public = 1 OR {alias}.tenant IN ({}))", places.join(", ")))
            }
        }
    }
    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("x{}", self.aliases)
    }
}

/// A condition and whether it is exact.
pub struct Condition {
    pub text: String,
    pub exact: bool,
}

/// Narrows `filter` on the table with alias `e`. `None` when nothing of it can be looked up.
pub fn narrow(filter: &Node, variables: &[Variable], sql: &mut Sql) -> Option<Condition> {
    let before = sql.params.len();
    let found = part(filter, variables, sql);
    if found.is_none() {
        // A parameter that no text mentions is an error to both engines.
        sql.params.truncate(before);
    }
    found
}

fn part(filter: &Node, variables: &[Variable], sql: &mut Sql) -> Option<Condition> {
    // A statement has a limit of parameters; what does not fit is left to Rust.
    const PARAMS: usize = 2_000;
    if sql.params.len() > PARAMS {
        return None;
    }
    match filter {
        Node::Binary(Operator::And, left, right) => match (narrow(left, variables, sql), narrow(right, variables, sql))
        {
            (Some(a), Some(b)) => {
                Some(Condition { text: format!("{} AND {}", a.text, b.text), exact: a.exact && b.exact })
            }
            (one, other) => one.or(other).map(|c| Condition { exact: false, ..c }),
        },
        Node::Binary(Operator::Or, left, right) => {
            let a = narrow(left, variables, sql)?;
            let b = narrow(right, variables, sql)?;
            Some(Condition { text: format!("(({}) OR ({}))", a.text, b.text), exact: a.exact && b.exact })
        }
        Node::Binary(operator, left, right) if operator.is_comparison() => match (&**left, &**right) {
            (Node::Leaf(variable, leaf), Node::Literal(value)) => {
                compared(*operator, *variable, leaf, value, variables, sql)
            }
            (Node::Literal(value), Node::Leaf(variable, leaf)) => {
                compared(operator.flipped(), *variable, leaf, value, variables, sql)
            }
            (Node::Call(Function::GeoDistance, arguments), Node::Literal(Value::Number(limit)))
                if matches!(operator, Operator::Lt | Operator::Le) =>
            {
                near(arguments, *limit, variables, sql)
            }
            (Node::Literal(Value::Number(limit)), Node::Call(Function::GeoDistance, arguments))
                if matches!(operator, Operator::Gt | Operator::Ge) =>
            {
                near(arguments, *limit, variables, sql)
            }
            _ => None,
        },
        Node::Call(function, arguments) if function.needs_contact() => near(arguments, 0.0, variables, sql),
        Node::Call(function, arguments) => text_function(*function, arguments, variables, sql),
        // Each condition on its own must hold for some row; that it is the same row is left to Rust.
        Node::Lambda { all: false, predicate: Some(predicate), .. } => {
            narrow(predicate, variables, sql).map(|c| Condition { exact: false, ..c })
        }
        _ => None,
    }
}

/// The column behind a leaf, when SQL compares it as Rust does.
pub fn column(schema: &Schema, leaf: &Leaf) -> Option<(&'static str, Kind)> {
    match leaf {
        Leaf::Id => Some(("id", Kind::Time)),
        Leaf::Property(index, path) if path.is_empty() => {
            let property = schema.properties.get(*index)?;
            match (property.source, property.kind) {
                (Source::Column(column) | Source::Service(column), kind @ (Kind::Text | Kind::Time))
                    if property.required =>
                {
                    Some((column, kind))
                }
                _ => None,
            }
        }
        Leaf::Property(..) => None,
    }
}

fn compared(
    operator: Operator,
    variable: usize,
    leaf: &Leaf,
    value: &Value<'static>,
    variables: &[Variable],
    sql: &mut Sql,
) -> Option<Condition> {
    let schema = Schema::of(variables.get(variable)?.entity);
    let (column, kind) = column(schema, leaf)?;
    // Where nothing is tied, `ne` is true and a look-up would miss it.
    if variable != 0 && operator == Operator::Ne {
        return None;
    }
    let param = match (kind, value) {
        (Kind::Text, Value::Text(text)) if !text.contains('\0') => Param::Text(text.to_string().into()),
        (Kind::Time, Value::Number(number)) if *leaf == Leaf::Id => {
            // Ids are whole numbers below 2^53; others are left to Rust.
            (number.fract() == 0.0 && number.abs() < 9e15).then_some(Param::Integer(*number as i64))?
        }
        (Kind::Time, Value::Time(time)) if *leaf != Leaf::Id && time.is_instant() => {
            Param::Integer(time.start.as_micros())
        }
        _ => return None,
    };
    let sign = match operator {
        Operator::Eq => "=",
        Operator::Ne => "<>",
        Operator::Lt => "<",
        Operator::Le => "<=",
        Operator::Gt => ">",
        Operator::Ge => ">=",
        _ => return None,
    };
    let place = sql.param(param);
    along(variable, variables, sql, &|alias, _| format!("{alias}.{column} {sign} {place}"))
}

fn text_function(function: Function, arguments: &[Node], variables: &[Variable], sql: &mut Sql) -> Option<Condition> {
    let (leaf, literal) = match (function, arguments) {
        (Function::SubstringOf, [literal, leaf]) => (leaf, literal),
        (Function::Contains | Function::StartsWith | Function::EndsWith, [leaf, literal]) => (leaf, literal),
        _ => return None,
    };
    let (Node::Leaf(variable, leaf), Node::Literal(Value::Text(text))) = (leaf, literal) else { return None };
    let (column, Kind::Text) = column(Schema::of(variables.get(*variable)?.entity), leaf)? else { return None };
    if text.contains('\0') || text.len() > 1_000 {
        return None;
    }
    let mut text_param = |text: String| sql.param(Param::Text(text.into()));
    let condition: String = if function == Function::StartsWith {
        // A range, so that the index on the name serves; both engines compare by code point.
        let low = text_param(text.to_string());
        match successor(text) {
            Some(next) => format!("{{}}.{column} >= {low} AND {{}}.{column} < {}", text_param(next)),
            None => format!("{{}}.{column} >= {low}"),
        }
    } else {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let pattern = if function == Function::EndsWith { format!("%{escaped}") } else { format!("%{escaped}%") };
        format!("{{}}.{column} LIKE {} ESCAPE '\\'", text_param(pattern))
    };
    along(*variable, variables, sql, &|alias, _| condition.replace("{}", alias))
}

/// The smallest text above everything that starts with `text`.
fn successor(text: &str) -> Option<String> {
    let mut chars: Vec<char> = text.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            c => char::from_u32(u32::from(c) + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Geometries whose boxes come within `by` degrees of each other.
fn near(arguments: &[Node], by: f64, variables: &[Variable], sql: &mut Sql) -> Option<Condition> {
    let (variable, leaf, shape) = match arguments {
        [Node::Leaf(variable, leaf), Node::Literal(Value::Geometry(shape))]
        | [Node::Literal(Value::Geometry(shape)), Node::Leaf(variable, leaf)] => (*variable, leaf, shape),
        _ => return None,
    };
    let schema = Schema::of(variables.get(variable)?.entity);
    match leaf {
        Leaf::Property(index, path)
            if path.is_empty() && schema.properties.get(*index).map(|p| p.name) == schema.geometry => {}
        _ => return None,
    }
    let Some(bounds) = geometry::bounds(shape) else {
        return Some(Condition { text: "1 = 0".to_owned(), exact: false });
    };
    // Rounding must never lose a row.
    let bounds = bounds.widened(by.max(0.0) + 1e-9);
    let boxed = in_box(&bounds, sql);
    along(variable, variables, sql, &|alias, _| boxed.replace("{}", alias)).map(|c| Condition { exact: false, ..c })
}

fn in_box(bounds: &Bounds, sql: &mut Sql) -> String {
    let cover = Cover::of(bounds);
    let mut cells: Vec<String> =
        cover.ranges.iter().map(|(a, b)| format!("{{}}.cell BETWEEN {} AND {}", sql.id(*a), sql.id(*b))).collect();
    if !cover.cells.is_empty() {
        cells.push(format!("{{}}.cell IN ({})", sql.ids(&cover.cells)));
    }
    let mut real = |v: f64| sql.param(Param::Real(v));
    let (west, south, east, north) = (real(bounds.min_x), real(bounds.min_y), real(bounds.max_x), real(bounds.max_y));
    format!(
        "({}) AND {{}}.min_x <= {east} AND {{}}.max_x >= {west} AND {{}}.min_y <= {north} AND {{}}.max_y >= {south}",
        cells.join(" OR ")
    )
}

/// Carries a condition on a variable's row back to the root `e`, through the ties between them.
fn along(
    variable: usize,
    variables: &[Variable],
    sql: &mut Sql,
    condition: &dyn Fn(&str, &mut Sql) -> String,
) -> Option<Condition> {
    if variable == 0 {
        return Some(Condition { text: condition("e", sql), exact: true });
    }
    let Variable { parent, navigation, entity, .. } = variables.get(variable)?;
    let (navigation, table) = ((*navigation)?, Schema::of(*entity).table);
    if table.is_empty() || navigation.link == Link::Series {
        return None;
    }
    let alias = sql.alias();
    let inner = condition(&alias, sql);
    let found = match navigation.link {
        Link::One { column } => (column, format!("SELECT {alias}.id FROM {table} {alias} WHERE {inner}")),
        Link::Many { column } => ("id", format!("SELECT {alias}.{column} FROM {table} {alias} WHERE {inner}")),
        Link::Through { table: between, own, other, .. } => (
            "id",
            format!(
                "SELECT l{alias}.{own} FROM {between} l{alias} JOIN {table} {alias} ON {alias}.id = l{alias}.{other} WHERE {inner}"
            ),
        ),
        Link::Series => return None,
    };
    // Not exact: the tied row may be one that the caller may not see, and then counts as absent.
    let (column, subquery) = found;
    along(*parent, variables, sql, &|outer, _| format!("{outer}.{column} IN ({subquery})"))
        .map(|c| Condition { exact: false, ..c })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_successor_bounds_a_prefix(prefix in "\\PC{1,6}", rest in "\\PC{0,6}") {
            if let Some(next) = successor(&prefix) {
                let text = format!("{prefix}{rest}");
                prop_assert!(text.as_str() >= prefix.as_str() && text < next);
                prop_assert!(next > prefix);
            }
        }
    }
}
