//! What a filter says of the places where its rows lie: spans of phenomenonTime, and the part that is about something else than the root.

use std::collections::HashMap;

use kernel::Timestamp;

use super::{
    ast::Operator,
    plan::{Leaf, Node},
    value::Value,
};

/// The first and the last phenomenonTime, both inclusive.
pub type Ends = (Option<Timestamp>, Option<Timestamp>);

/// The span in which both hold.
pub fn both(a: Ends, b: Ends) -> Ends {
    let to = match (a.1, b.1) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    (a.0.max(b.0), to)
}

/// Where phenomenonTime must begin for a comparison with `value` to hold, as `value::compare` decides it.
pub fn necessary(operator: Operator, value: &Value<'_>) -> Ends {
    let Value::Time(time) = value else { return (None, None) };
    match operator {
        Operator::Eq => (Some(time.start), Some(time.start)),
        Operator::Ge => (Some(time.start), None),
        Operator::Gt => (Some(time.end), None),
        Operator::Le | Operator::Lt => (None, Some(time.start)),
        _ => (None, None),
    }
}

/// Where the phenomenonTime of the Observation behind `variable` must begin for the predicate to hold.
pub fn ends(predicate: &Node, variable: usize) -> Ends {
    let Node::Binary(operator, left, right) = predicate else { return (None, None) };
    if *operator == Operator::And {
        return both(ends(left, variable), ends(right, variable));
    }
    let is_time =
        |node: &Node| matches!(node, Node::Leaf(v, Leaf::Property(0, path)) if *v == variable && path.is_empty());
    match (&**left, &**right) {
        (leaf, Node::Literal(value)) if is_time(leaf) => necessary(*operator, value),
        (Node::Literal(value), leaf) if is_time(leaf) => necessary(operator.flipped(), value),
        _ => (None, None),
    }
}

/// The span of time, both ends inclusive, in which an instant must lie for the filter to hold, when the filter says nothing else: comparisons
/// of phenomenonTime with instants, joined by `and`.
pub fn instants(filter: &Node) -> Option<Ends> {
    let Node::Binary(operator, left, right) = filter else { return None };
    if *operator == Operator::And {
        return Some(both(instants(left)?, instants(right)?));
    }
    let is_time = |node: &Node| matches!(node, Node::Leaf(0, Leaf::Property(0, path)) if path.is_empty());
    let (value, operator) = match (&**left, &**right) {
        (leaf, Node::Literal(value)) if is_time(leaf) => (value, *operator),
        (Node::Literal(value), leaf) if is_time(leaf) => (value, operator.flipped()),
        _ => return None,
    };
    let Value::Time(time) = value else { return None };
    if !time.is_instant() {
        return None;
    }
    Some(match operator {
        Operator::Eq => (Some(time.start), Some(time.start)),
        Operator::Ge => (Some(time.start), None),
        Operator::Gt => (Some(time.start.plus_micros(1)), None),
        Operator::Le => (None, Some(time.start)),
        Operator::Lt => (None, Some(time.start.plus_micros(-1))),
        _ => return None,
    })
}

/// A filter with its variables renumbered; `None` when it looks at others too.
pub fn renumbered(node: &Node, map: &HashMap<usize, usize>) -> Option<Node> {
    Some(match node {
        Node::Literal(value) => Node::Literal(value.clone()),
        Node::Leaf(variable, leaf) => Node::Leaf(*map.get(variable)?, leaf.clone()),
        Node::Not(inner) => Node::Not(Box::new(renumbered(inner, map)?)),
        Node::Negate(inner) => Node::Negate(Box::new(renumbered(inner, map)?)),
        Node::Binary(operator, left, right) => {
            Node::Binary(*operator, Box::new(renumbered(left, map)?), Box::new(renumbered(right, map)?))
        }
        Node::Call(function, arguments) => {
            Node::Call(*function, arguments.iter().map(|a| renumbered(a, map)).collect::<Option<_>>()?)
        }
        Node::Lambda { .. } => return None,
    })
}
