//! A question resolved against the schema: every path leads to a known property of a known entity, every comparison makes sense.

use std::sync::Arc;

use kernel::{Interval, Limits, Timestamp};

use super::{
    Fault,
    ast::{At, Expr, Format, Lambda, Literal, Operator, Options},
    functions::Function,
    token::Token,
    value::Value,
};
use crate::{
    catalog::{
        geometry,
        schema::{Kind, Navigation, Schema},
    },
    model::EntityType,
};

/// One row that the predicate looks at: the entity itself, or one that is tied to it.
#[derive(Clone, Debug)]
pub struct Variable {
    /// The variable it hangs from; itself for the root.
    pub parent: usize,
    pub navigation: Option<&'static Navigation>,
    pub entity: EntityType,
    /// The variable of the lambda whose predicate looks at it; the root when no lambda does.
    pub scope: usize,
    /// Whether a lambda goes through its rows.
    pub ranges: bool,
    /// Whether it only matters that there is a row.
    pub exists: bool,
    /// Of Observations, the first and the last phenomenonTime that can satisfy the lambda.
    pub ends: (Option<Timestamp>, Option<Timestamp>),
}

impl Variable {
    pub fn root(entity: EntityType) -> Self {
        Self { parent: 0, navigation: None, entity, scope: 0, ranges: false, exists: false, ends: (None, None) }
    }
}

/// What of a row is meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    Id,
    /// The index in the schema, and the way into its JSON.
    Property(usize, Vec<String>),
}

#[derive(Clone, Debug)]
pub enum Node {
    Literal(Value<'static>),
    Leaf(usize, Leaf),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
    /// Whether the predicate holds for any, or all, of the rows behind a variable; without one, whether there is a row.
    Lambda {
        all: bool,
        variable: usize,
        predicate: Option<Box<Node>>,
    },
}

/// What a node gives, as far as it is known before a row is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Type {
    /// JSON: decided row by row.
    Any,
    Null,
    Bool,
    Number,
    Text,
    Time,
    Date,
    TimeOfDay,
    Duration,
    Geometry,
}

impl Type {
    const fn name(self) -> &'static str {
        match self {
            Self::Any => "JSON",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Time => "a time",
            Self::Date => "a date",
            Self::TimeOfDay => "a time of day",
            Self::Duration => "a duration",
            Self::Geometry => "a geometry",
        }
    }
}

/// The properties to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    pub id: bool,
    pub self_link: bool,
    /// By the schema's index.
    pub properties: Vec<bool>,
    pub navigation: Vec<bool>,
}

impl Select {
    fn everything(schema: &Schema) -> Self {
        Self {
            id: true,
            self_link: true,
            properties: vec![true; schema.properties.len()],
            navigation: vec![true; schema.navigation.len()],
        }
    }
}

#[derive(Clone, Debug)]
pub struct Expansion {
    pub navigation: &'static Navigation,
    pub index: usize,
    pub plan: Plan,
    /// The options as text, for the link to the next page.
    pub options: Options,
}

/// A question about one entity set, ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub entity: EntityType,
    /// Everything that filter and order look at; the first is the entity itself.
    pub variables: Vec<Variable>,
    pub filter: Option<Node>,
    /// With `true` for descending.
    pub order: Vec<(Node, bool)>,
    pub top: usize,
    pub skip: u64,
    pub count: bool,
    pub select: Select,
    pub expand: Vec<Expansion>,
    pub format: Format,
    pub token: Option<Token>,
}

impl Plan {
    /// All of a type, in pages of the default size.
    pub fn all(entity: EntityType, limits: &Limits) -> Self {
        let schema = Schema::of(entity);
        Self {
            entity,
            variables: vec![Variable::root(entity)],
            filter: None,
            order: Vec::new(),
            top: limits.page_default as usize,
            skip: 0,
            count: false,
            select: Select::everything(schema),
            expand: Vec::new(),
            format: Format::Json,
            token: None,
        }
    }

    pub fn new(entity: EntityType, options: &Options, limits: &Limits, now: Timestamp) -> Result<Self, Fault> {
        let mut plan = Self::all(entity, limits);
        let mut resolver = Resolver { variables: std::mem::take(&mut plan.variables), now, names: Vec::new() };
        if let Some(filter) = &options.filter {
            let (node, kind) = resolver.node(filter).map_err(|f| f.option("$filter"))?;
            if !matches!(kind, Type::Bool | Type::Any) {
                let detail = format!("a filter is true or false; this is {}", kind.name());
                return Err(Fault::in_option("$filter", filter.at(), detail));
            }
            plan.filter = Some(node);
        }
        for (expr, descending) in &options.order {
            let (node, kind) = resolver.node(expr).map_err(|f| f.option("$orderby"))?;
            if kind == Type::Geometry {
                return Err(Fault::in_option("$orderby", expr.at(), "a geometry has no order"));
            }
            plan.order.push((node, *descending));
        }
        plan.variables = resolver.variables;
        plan.top = match options.top {
            Some(top) => top.min(u64::from(limits.page_max)) as usize,
            None => limits.page_default as usize,
        };
        plan.skip = options.skip.unwrap_or(0);
        plan.count = options.count.unwrap_or(false);
        plan.format = options.format;
        if let Some(select) = &options.select {
            plan.select = resolve_select(entity, select)?;
        }
        for expand in &options.expand {
            let schema = Schema::of(entity);
            let Some((index, navigation)) = schema.navigation(&expand.name) else {
                let names: Vec<_> = schema.navigation.iter().map(|n| n.name).collect();
                let detail =
                    format!("a {} has no '{}' to expand; it has {}", entity.singular(), expand.name, names.join(", "));
                return Err(Fault::in_option("$expand", expand.at, detail));
            };
            let inner = Self::new(navigation.target, &expand.options, limits, now).map_err(|mut f| {
                f.option = "$expand".to_owned();
                f
            })?;
            plan.expand.push(Expansion { navigation, index, plan: inner, options: expand.options.clone() });
        }
        if plan.format == Format::DataArray && entity != EntityType::Observation {
            return Err(Fault::in_option("$resultFormat", 1, "only Observations can be shown as a dataArray"));
        }
        if plan.format == Format::DataArray && !plan.expand.is_empty() {
            return Err(Fault::in_option(
                "$resultFormat",
                1,
                "$expand is not allowed with dataArray (18-088 section 13.1)",
            ));
        }
        if let Some(text) = &options.skip_token {
            plan.token = Some(Token::parse(text, &plan)?);
        }
        Ok(plan)
    }
}

fn resolve_select(entity: EntityType, names: &[(Vec<String>, At)]) -> Result<Select, Fault> {
    let schema = Schema::of(entity);
    let mut select = Select {
        properties: vec![false; schema.properties.len()],
        navigation: vec![false; schema.navigation.len()],
        ..Select::default()
    };
    for (segments, at) in names {
        // `properties/lamp` shows the whole of `properties`: OData lets a server return more than asked.
        let name = segments.first().map_or("", String::as_str);
        match name {
            "*" => select = Select::everything(schema),
            "id" | "@iot.id" => select.id = true,
            "selfLink" | "@iot.selfLink" => select.self_link = true,
            _ => {
                if let Some((index, _)) = schema.property(name) {
                    select.properties[index] = true;
                } else if let Some((index, _)) = schema.navigation(name) {
                    select.navigation[index] = true;
                } else {
                    let detail = format!("a {} has no '{name}'; it has {}", entity.singular(), schema.names());
                    return Err(Fault::in_option("$select", *at, detail));
                }
            }
        }
    }
    Ok(select)
}

struct Resolver {
    variables: Vec<Variable>,
    now: Timestamp,
    /// What the lambdas around the present place call their entities, and the variables behind that.
    names: Vec<(String, usize)>,
}

/// Lambdas inside each other.
const LAMBDAS: usize = 5;

/// Navigations in the paths of one filter.
const VARIABLES: usize = 12;

impl Resolver {
    fn node(&mut self, expr: &Expr) -> Result<(Node, Type), Fault> {
        match expr {
            Expr::Literal(literal, at) => literal_node(literal, *at),
            Expr::Path(segments, at) => self.path(segments, *at),
            Expr::Not(inner, _) => {
                let node = self.need(inner, &[Type::Bool])?;
                Ok((Node::Not(Box::new(node)), Type::Bool))
            }
            Expr::Negate(inner, _) => {
                let (node, kind) = self.typed(inner, &[Type::Number, Type::Duration])?;
                Ok((Node::Negate(Box::new(node)), kind))
            }
            Expr::Binary(operator @ (Operator::And | Operator::Or), left, right, _) => {
                let left = self.need(left, &[Type::Bool])?;
                let right = self.need(right, &[Type::Bool])?;
                Ok((Node::Binary(*operator, Box::new(left), Box::new(right)), Type::Bool))
            }
            Expr::Binary(operator, left, right, at) if operator.is_comparison() => {
                self.comparison(*operator, left, right, *at)
            }
            Expr::Binary(operator, left, right, at) => self.arithmetic(*operator, left, right, *at),
            Expr::Call(function, arguments, at) => self.call(*function, arguments, *at),
            Expr::Lambda(lambda, at) => self.lambda(lambda, *at),
        }
    }

    fn need(&mut self, expr: &Expr, wanted: &[Type]) -> Result<Node, Fault> {
        self.typed(expr, wanted).map(|(node, _)| node)
    }

    fn typed(&mut self, expr: &Expr, wanted: &[Type]) -> Result<(Node, Type), Fault> {
        let (node, kind) = self.node(expr)?;
        if kind == Type::Any || kind == Type::Null || wanted.contains(&kind) {
            return Ok((node, kind));
        }
        // Clients often quote times and send WKT without its prefix.
        if let Node::Literal(Value::Text(text)) = &node {
            if wanted.contains(&Type::Time)
                && let Ok(interval) = text.parse::<Interval>()
            {
                return Ok((Node::Literal(Value::Time(interval)), Type::Time));
            }
            if wanted.contains(&Type::Geometry)
                && let Ok(geometry) = geometry::from_wkt(text)
            {
                return Ok((Node::Literal(Value::Geometry(Arc::new(geometry))), Type::Geometry));
            }
        }
        let names: Vec<_> = wanted.iter().map(|t| t.name()).collect();
        Err(Fault::at(expr.at(), format!("{} is expected here, not {}", names.join(" or "), kind.name())))
    }

    fn comparison(&mut self, operator: Operator, left: &Expr, right: &Expr, at: At) -> Result<(Node, Type), Fault> {
        let (mut a, mut a_type) = self.node(left)?;
        let (mut b, mut b_type) = self.node(right)?;
        timely(&a_type, &mut b, &mut b_type);
        timely(&b_type, &mut a, &mut a_type);
        unquoted(&a, &mut b, &mut b_type);
        unquoted(&b, &mut a, &mut a_type);
        let open = |t: Type| matches!(t, Type::Any | Type::Null);
        let alike = a_type == b_type
            || open(a_type)
            || open(b_type)
            || matches!(
                (a_type, b_type),
                (Type::Time, Type::Date | Type::TimeOfDay) | (Type::Date | Type::TimeOfDay, Type::Time)
            );
        if !alike {
            let detail = format!(
                "'{}' compares {} with {}, which can never be true",
                operator.as_str(),
                a_type.name(),
                b_type.name()
            );
            return Err(Fault::at(at, detail));
        }
        if a_type == Type::Geometry || b_type == Type::Geometry {
            return Err(Fault::at(at, "geometries are compared with st_equals(…), st_within(…) and their like"));
        }
        Ok((Node::Binary(operator, Box::new(a), Box::new(b)), Type::Bool))
    }

    fn arithmetic(&mut self, operator: Operator, left: &Expr, right: &Expr, at: At) -> Result<(Node, Type), Fault> {
        let (mut a, mut a_type) = self.node(left)?;
        let (mut b, mut b_type) = self.node(right)?;
        if b_type == Type::Duration {
            timely(&Type::Time, &mut a, &mut a_type);
        }
        if a_type == Type::Time && operator == Operator::Sub {
            timely(&Type::Time, &mut b, &mut b_type);
        }
        let result = match (a_type, b_type, operator) {
            (Type::Number | Type::Any, Type::Number | Type::Any, _) => {
                if a_type == Type::Number || b_type == Type::Number { Type::Number } else { Type::Any }
            }
            (Type::Time | Type::Any, Type::Duration, Operator::Add | Operator::Sub) => Type::Time,
            (Type::Duration, Type::Time, Operator::Add) => Type::Time,
            (Type::Duration, Type::Duration, Operator::Add | Operator::Sub) => Type::Duration,
            (Type::Duration, Type::Number | Type::Any, Operator::Mul | Operator::Div) => Type::Duration,
            (Type::Number | Type::Any, Type::Duration, Operator::Mul) => Type::Duration,
            (Type::Duration, Type::Duration, Operator::Div) => Type::Number,
            (Type::Time, Type::Time, Operator::Sub) => Type::Duration,
            (Type::Null, _, _) | (_, Type::Null, _) => Type::Null,
            _ => {
                let detail =
                    format!("'{}' does not work on {} and {}", operator.as_str(), a_type.name(), b_type.name());
                return Err(Fault::at(at, detail));
            }
        };
        // `now() sub duration'PT10M'` is known before a row is seen, and may then be looked up.
        if let (Node::Literal(a), Node::Literal(b)) = (&a, &b) {
            return Ok((Node::Literal(super::eval::arithmetic(operator, a, b)), result));
        }
        Ok((Node::Binary(operator, Box::new(a), Box::new(b)), result))
    }

    fn call(&mut self, function: Function, arguments: &[Expr], at: At) -> Result<(Node, Type), Fault> {
        use Function as F;
        use Type as T;
        let (wanted, result): (&[&[T]], T) = match function {
            F::SubstringOf | F::Contains | F::EndsWith | F::StartsWith => (&[&[T::Text], &[T::Text]], T::Bool),
            F::Length => (&[&[T::Text]], T::Number),
            F::IndexOf => (&[&[T::Text], &[T::Text]], T::Number),
            F::Substring => (&[&[T::Text], &[T::Number], &[T::Number]], T::Text),
            F::ToLower | F::ToUpper | F::Trim => (&[&[T::Text]], T::Text),
            F::Concat => (&[&[T::Text], &[T::Text]], T::Text),
            F::Year | F::Month | F::Day => (&[&[T::Time, T::Date]], T::Number),
            F::Hour | F::Minute | F::Second | F::FractionalSeconds => (&[&[T::Time, T::TimeOfDay]], T::Number),
            F::TotalOffsetMinutes => (&[&[T::Time]], T::Number),
            F::Date => (&[&[T::Time]], T::Date),
            F::Time => (&[&[T::Time]], T::TimeOfDay),
            F::Now | F::MinDateTime | F::MaxDateTime => {
                let at = match function {
                    F::Now => self.now,
                    F::MinDateTime => Timestamp::MIN,
                    _ => Timestamp::MAX,
                };
                return Ok((Node::Literal(Value::instant(at)), T::Time));
            }
            F::Round | F::Floor | F::Ceiling => (&[&[T::Number]], T::Number),
            F::GeoDistance => (&[&[T::Geometry], &[T::Geometry]], T::Number),
            F::GeoLength => (&[&[T::Geometry]], T::Number),
            F::StRelate => (&[&[T::Geometry], &[T::Geometry], &[T::Text]], T::Bool),
            _ => (&[&[T::Geometry], &[T::Geometry]], T::Bool),
        };
        let mut nodes = Vec::with_capacity(arguments.len());
        for (argument, wanted) in arguments.iter().zip(wanted) {
            nodes.push(self.need(argument, wanted)?);
        }
        if function == F::StRelate
            && let Some(Node::Literal(Value::Text(pattern))) = nodes.get(2)
        {
            let good = pattern.len() == 9 && pattern.bytes().all(|b| matches!(b, b'T' | b'F' | b'*' | b'0'..=b'2'));
            if !good {
                return Err(Fault::at(at, "st_relate takes a DE-9IM pattern of nine of T, F, *, 0, 1, 2"));
            }
        }
        Ok((Node::Call(function, nodes), result))
    }

    fn path(&mut self, segments: &[String], at: At) -> Result<(Node, Type), Fault> {
        let (mut variable, mut rest) = self.start(segments);
        loop {
            let entity = self.entity(variable);
            let schema = Schema::of(entity);
            let Some((name, tail)) = rest.split_first() else {
                let detail = format!(
                    "'{}' leads to entities; name one of their properties: {}",
                    segments.join("/"),
                    schema.names()
                );
                return Err(Fault::at(at, detail));
            };
            if matches!(name.as_str(), "id" | "@iot.id") && tail.is_empty() {
                // The id of an Observation is a text, of everything else a number.
                let kind = if entity == EntityType::Observation { Type::Text } else { Type::Number };
                return Ok((Node::Leaf(variable, Leaf::Id), kind));
            }
            if let Some((index, property)) = schema.property(name) {
                let kind = match property.kind {
                    Kind::Text => Type::Text,
                    Kind::Time | Kind::Interval => Type::Time,
                    Kind::Json | Kind::Object => Type::Any,
                };
                if !tail.is_empty() && kind != Type::Any {
                    return Err(Fault::at(at, format!("'{name}' is {} and has no parts", kind.name())));
                }
                return Ok((Node::Leaf(variable, Leaf::Property(index, tail.to_vec())), kind));
            }
            variable = self.variable(variable, navigation(schema, name, at)?, at)?;
            rest = tail;
        }
    }

    /// Where a path begins: at an entity that a lambda has named, or at the root, which is also called `$it`.
    fn start<'s>(&self, segments: &'s [String]) -> (usize, &'s [String]) {
        let Some((first, rest)) = segments.split_first() else { return (0, segments) };
        let named = self.names.iter().rev().find(|(name, _)| name == first).map(|(_, variable)| *variable);
        match named.or((first == "$it").then_some(0)) {
            Some(variable) => (variable, rest),
            None => (0, segments),
        }
    }

    fn lambda(&mut self, lambda: &Lambda, at: At) -> Result<(Node, Type), Fault> {
        let Lambda { all, path, name, predicate } = lambda;
        if self.names.len() >= LAMBDAS {
            return Err(Fault::at(at, format!("any and all stand at most {LAMBDAS} deep")));
        }
        let (mut parent, rest) = self.start(path);
        let Some((last, before)) = rest.split_last() else {
            return Err(Fault::at(
                at,
                "'any' and 'all' look into entities that are tied to this one, as in Datastreams/any(…)",
            ));
        };
        for name in before {
            let schema = Schema::of(self.entity(parent));
            parent = self.variable(parent, navigation(schema, name, at)?, at)?;
        }
        let schema = Schema::of(self.entity(parent));
        if schema.property(last).is_some() {
            return Err(Fault::at(at, format!("'{last}' is a property; 'any' and 'all' look into entities")));
        }
        let navigation = navigation(schema, last, at)?;
        if !navigation.to_many() {
            let detail =
                format!("'{last}' is one entity, so name its property: {last}/id; 'any' and 'all' are for many");
            return Err(Fault::at(at, detail));
        }
        let index = self.push(parent, navigation, at)?;
        if let Some(variable) = self.variables.get_mut(index) {
            (variable.scope, variable.ranges, variable.exists) = (index, true, predicate.is_none());
        }
        let Some(predicate) = predicate else {
            return Ok((Node::Lambda { all: *all, variable: index, predicate: None }, Type::Bool));
        };
        self.names.push((name.clone(), index));
        let node = self.need(predicate, &[Type::Bool]);
        self.names.pop();
        let node = node?;
        // What lies outside these times cannot satisfy `any`; `all` must see everything.
        if !all
            && navigation.target == EntityType::Observation
            && let Some(variable) = self.variables.get_mut(index)
        {
            variable.ends = super::bounds::ends(&node, index);
        }
        Ok((Node::Lambda { all: *all, variable: index, predicate: Some(Box::new(node)) }, Type::Bool))
    }

    fn entity(&self, variable: usize) -> EntityType {
        self.variables.get(variable).map_or(EntityType::Thing, |v| v.entity)
    }

    /// The same path always means the same row (18-088 section 9.3.3.6, example 4).
    fn variable(&mut self, parent: usize, navigation: &'static Navigation, at: At) -> Result<usize, Fault> {
        let same =
            |v: &Variable| v.parent == parent && !v.ranges && v.navigation.is_some_and(|n| std::ptr::eq(n, navigation));
        match self.variables.iter().position(same) {
            Some(found) => Ok(found),
            None => self.push(parent, navigation, at),
        }
    }

    fn push(&mut self, parent: usize, navigation: &'static Navigation, at: At) -> Result<usize, Fault> {
        if self.variables.len() > VARIABLES {
            return Err(Fault::at(at, format!("a filter may follow at most {VARIABLES} navigation properties")));
        }
        // What hangs from an entity of a lambda is looked at once for each of them.
        let scope = self.variables.get(parent).map_or(0, |v| v.scope);
        let (navigation, root) = (Some(navigation), Variable::root(navigation.target));
        self.variables.push(Variable { parent, navigation, scope, ..root });
        Ok(self.variables.len() - 1)
    }
}

/// The standard's own example writes `Datastreams/id` from an Observation, so both numbers of the name are taken.
fn navigation(schema: &'static Schema, name: &str, at: At) -> Result<&'static Navigation, Fault> {
    let found =
        schema.navigation.iter().find(|n| n.name == name || n.target.set() == name || n.target.singular() == name);
    found.ok_or_else(|| {
        Fault::at(at, format!("a {} has no '{name}'; it has {}", schema.entity.singular(), schema.names()))
    })
}

/// Reads a quoted time, date or time of day as such when the other side is one.
fn timely(other: &Type, node: &mut Node, kind: &mut Type) {
    let (Type::Text, Node::Literal(Value::Text(text))) = (*kind, &*node) else { return };
    let instant = |text: String| text.parse::<Timestamp>().ok();
    let value = match other {
        Type::Time => text.parse::<Interval>().ok().map(Value::Time),
        Type::Date => instant(format!("{text}T00:00:00Z")).map(|at| Value::Date(super::value::day(at))),
        Type::TimeOfDay => instant(format!("1970-01-01T{text}Z")).map(|at| Value::TimeOfDay(at.as_micros())),
        _ => None,
    };
    if let Some(value) = value {
        *node = Node::Literal(value);
        *kind = *other;
    }
}

/// The standard's examples quote ids; those of this service are numbers, but for Observations.
fn unquoted(other: &Node, node: &mut Node, kind: &mut Type) {
    if let (Node::Leaf(_, Leaf::Id), Type::Text, Node::Literal(Value::Text(text))) = (other, *kind, &*node)
        && let Ok(id) = text.parse::<i64>()
    {
        *node = Node::Literal(Value::Number(id as f64));
        *kind = Type::Number;
    }
}

fn literal_node(literal: &Literal, at: At) -> Result<(Node, Type), Fault> {
    let (value, kind) = match literal {
        Literal::Null => (Value::Null, Type::Null),
        Literal::Bool(value) => (Value::Bool(*value), Type::Bool),
        Literal::Number(number) => (Value::Number(*number), Type::Number),
        Literal::Text(text) => (Value::Text(text.clone().into()), Type::Text),
        Literal::Time(time) => (Value::instant(*time), Type::Time),
        Literal::Interval(interval) => (Value::Time(*interval), Type::Time),
        Literal::Date(days) => (Value::Date(*days), Type::Date),
        Literal::TimeOfDay(micros) => (Value::TimeOfDay(*micros), Type::TimeOfDay),
        Literal::Duration(micros) => (Value::Duration(*micros), Type::Duration),
        Literal::Geometry(wkt) => {
            let geometry = geometry::from_wkt(wkt).map_err(|e| Fault::at(at, e))?;
            (Value::Geometry(Arc::new(geometry)), Type::Geometry)
        }
    };
    Ok((Node::Literal(value), kind))
}
