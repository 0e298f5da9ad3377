//! One evaluation: every node at most once, no allocation, no loop but over a written list. `None` is CEL's error: what cannot be computed.

use std::cmp::Ordering;

use jiff::tz::TimeZone;
use kernel::Timestamp;

use super::{Comparison, Field, Figure, Function, Node, Operator, Sample, Variable};

/// What an expression looks at beside the value itself. A rule remembers it ([`super::Memory`]); what is derived reads it from the series.
pub trait Recall {
    fn previous(&self) -> Option<f64>;
    fn input(&self, at: u8) -> Option<Sample>;
    /// How many values a window holds; `None` when there is no such window.
    fn count(&self, window: u8) -> Option<i64>;
    /// Any other figure, as of `time`, where the newest value is `value`.
    fn figure(&self, window: u8, figure: Figure, time: Timestamp, value: f64) -> Option<f64>;
    fn table(&self, _at: u8, _x: f64) -> Option<f64> {
        None
    }
}

/// What an expression looks at.
pub struct Env<'a> {
    pub value: f64,
    pub time: Timestamp,
    pub good: bool,
    pub district: &'a str,
    pub system: &'a str,
    /// Hour, minute and weekday in the city, when they are asked for.
    pub local: Option<(i64, i64, i64)>,
    pub memory: &'a dyn Recall,
}

/// A value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Out<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
}

/// Hour, minute and weekday of a moment in the city.
pub fn local(at: Timestamp, zone: &TimeZone) -> (i64, i64, i64) {
    let civil = zone.to_datetime(at.to_jiff());
    (i64::from(civil.hour()), i64::from(civil.minute()), i64::from(civil.weekday().to_monday_one_offset()))
}

const fn quality(good: bool) -> Out<'static> {
    Out::Text(if good { "good" } else { "faulty" })
}

impl<'a> Env<'a> {
    pub fn truth(&self, node: &'a Node) -> Option<bool> {
        match self.eval(node)? {
            Out::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// As deep as the parser lets expressions nest.
    pub fn eval(&self, node: &'a Node) -> Option<Out<'a>> {
        Some(match node {
            Node::Bool(b) => Out::Bool(*b),
            Node::Int(i) => Out::Int(*i),
            Node::Double(d) => Out::Double(*d),
            Node::Text(t) => Out::Text(t),
            Node::Variable(variable) => self.variable(*variable)?,
            Node::Not(a) => Out::Bool(!self.truth(a)?),
            Node::Negate(a) => match self.eval(a)? {
                Out::Int(i) => Out::Int(i.checked_neg()?),
                Out::Double(d) => Out::Double(-d),
                _ => return None,
            },
            // An error on one side does not matter where the other decides (CEL, "Logical Operators").
            Node::And(both) => match (self.truth(&both[0]), || self.truth(&both[1])) {
                (Some(false), _) => Out::Bool(false),
                (Some(true), other) => Out::Bool(other()?),
                (None, other) => match other() {
                    Some(false) => Out::Bool(false),
                    _ => return None,
                },
            },
            Node::Or(both) => match (self.truth(&both[0]), || self.truth(&both[1])) {
                (Some(true), _) => Out::Bool(true),
                (Some(false), other) => Out::Bool(other()?),
                (None, other) => match other() {
                    Some(true) => Out::Bool(true),
                    _ => return None,
                },
            },
            Node::Choice(all) => self.eval(if self.truth(&all[0])? { &all[1] } else { &all[2] })?,
            Node::Compare(how, both) => Out::Bool(compare(*how, self.eval(&both[0])?, self.eval(&both[1])?)),
            Node::Arithmetic(how, both) => arithmetic(*how, self.eval(&both[0])?, self.eval(&both[1])?)?,
            Node::In(one, all) => {
                let (one, mut found) = (self.eval(one)?, false);
                // The list is made before it is looked into: what cannot be computed in it is an error, wherever it stands.
                for item in all {
                    found |= compare(Comparison::Equal, one, self.eval(item)?);
                }
                Out::Bool(found)
            }
            Node::Call(function, arguments) => self.call(*function, arguments)?,
        })
    }

    fn variable(&self, variable: Variable) -> Option<Out<'a>> {
        Some(match variable {
            Variable::Value => Out::Double(self.value),
            Variable::Previous => Out::Double(self.memory.previous()?),
            Variable::Time => Out::Int(self.time.as_micros().div_euclid(1_000_000)),
            Variable::Quality => quality(self.good),
            Variable::District => Out::Text(self.district),
            Variable::System => Out::Text(self.system),
            Variable::Hour => Out::Int(self.local?.0),
            Variable::Minute => Out::Int(self.local?.1),
            Variable::Weekday => Out::Int(self.local?.2),
            Variable::Window(at, Figure::Count) => Out::Int(self.memory.count(at)?),
            Variable::Window(at, figure) => Out::Double(self.memory.figure(at, figure, self.time, self.value)?),
            Variable::Has(at) => Out::Bool(self.memory.input(at).is_some()),
            Variable::Input(at, field) => {
                let sample = self.memory.input(at)?;
                match field {
                    Field::Value => Out::Double(sample.value),
                    Field::Time => Out::Int(sample.at.div_euclid(1_000_000)),
                    Field::Quality => quality(sample.good),
                }
            }
        })
    }

    fn call(&self, function: Function, arguments: &'a [Node]) -> Option<Out<'a>> {
        let first = self.eval(arguments.first()?)?;
        let second = || self.eval(arguments.get(1)?);
        Some(match (function, first) {
            (Function::Double, Out::Int(i)) => Out::Double(i as f64),
            (Function::Double, Out::Double(d)) => Out::Double(d),
            (Function::Int, Out::Int(i)) => Out::Int(i),
            // Towards zero, and an error beyond the range (CEL, "int").
            (Function::Int, Out::Double(d)) if d > -9.223_372_036_854_775e18 && d < 9.223_372_036_854_775e18 => {
                Out::Int(d as i64)
            }
            (Function::Abs, Out::Int(i)) => Out::Int(i.checked_abs()?),
            (Function::Abs, Out::Double(d)) => Out::Double(d.abs()),
            (Function::Least, a) => {
                let b = second()?;
                if compare(Comparison::Less, b, a) { b } else { a }
            }
            (Function::Greatest, a) => {
                let b = second()?;
                if compare(Comparison::Greater, b, a) { b } else { a }
            }
            (Function::Exp, Out::Double(d)) => Out::Double(d.exp()),
            (Function::Ln, Out::Double(d)) => Out::Double(d.ln()),
            (Function::Sqrt, Out::Double(d)) => Out::Double(d.sqrt()),
            (Function::Round, Out::Double(d)) => Out::Double(d.round()),
            (Function::Floor, Out::Double(d)) => Out::Double(d.floor()),
            (Function::Ceil, Out::Double(d)) => Out::Double(d.ceil()),
            (Function::Power, Out::Double(a)) => match second()? {
                Out::Double(b) => Out::Double(a.powf(b)),
                _ => return None,
            },
            (Function::Table(at), Out::Double(d)) => Out::Double(self.memory.table(at, d)?),
            (Function::StartsWith, Out::Text(a)) => Out::Bool(a.starts_with(text(second()?)?)),
            (Function::EndsWith, Out::Text(a)) => Out::Bool(a.ends_with(text(second()?)?)),
            (Function::Contains, Out::Text(a)) => Out::Bool(a.contains(text(second()?)?)),
            _ => return None,
        })
    }
}

fn text(out: Out<'_>) -> Option<&str> {
    match out {
        Out::Text(t) => Some(t),
        _ => None,
    }
}

fn order(a: Out<'_>, b: Out<'_>) -> Option<Ordering> {
    match (a, b) {
        (Out::Bool(a), Out::Bool(b)) => Some(a.cmp(&b)),
        (Out::Int(a), Out::Int(b)) => Some(a.cmp(&b)),
        (Out::Double(a), Out::Double(b)) => a.partial_cmp(&b),
        // Numbers compare across kinds (CEL, "Ordering operators").
        (Out::Int(a), Out::Double(b)) => (a as f64).partial_cmp(&b),
        (Out::Double(a), Out::Int(b)) => a.partial_cmp(&(b as f64)),
        (Out::Text(a), Out::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// What has no order, as NaN, is unequal and otherwise false.
fn compare(how: Comparison, a: Out<'_>, b: Out<'_>) -> bool {
    let order = order(a, b);
    match how {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::Unequal => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

fn arithmetic<'a>(how: Operator, a: Out<'a>, b: Out<'a>) -> Option<Out<'a>> {
    match (a, b) {
        (Out::Int(a), Out::Int(b)) => match how {
            Operator::Add => a.checked_add(b),
            Operator::Subtract => a.checked_sub(b),
            Operator::Multiply => a.checked_mul(b),
            Operator::Divide => a.checked_div(b),
            Operator::Remainder => a.checked_rem(b),
        }
        .map(Out::Int),
        (Out::Double(a), Out::Double(b)) => Some(Out::Double(match how {
            Operator::Add => a + b,
            Operator::Subtract => a - b,
            Operator::Multiply => a * b,
            Operator::Divide => a / b,
            Operator::Remainder => return None,
        })),
        _ => None,
    }
}
