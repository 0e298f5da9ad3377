//! Conditions written in the Common Expression Language (CEL, cel.dev): parsed by the crate `cel`, then typed, bounded and evaluated here.
//!
//! Why not by that crate's interpreter: it has no type checker, so a rule that compares a number with a name would be found wrong when the water
//! rises. Here every name and type is known when the pack is checked; each node is evaluated at most once, nothing is allocated and nothing loops,
//! so what an evaluation costs is known from the text. The tests compare both evaluators over random expressions.
//!
//! What is left out of CEL is refused by name: macros that walk lists, maps, messages, bytes, unsigned numbers, durations, and joining of texts.

mod compile;
mod eval;
pub mod memory;

use std::sync::Arc;

pub use compile::{Mistake, Names, Scope};
pub use eval::{Env, Out, Recall, local};
pub use memory::{Memory, Sample};

use super::condition::Expression;

/// Bytes of one expression.
pub const MAX_TEXT: usize = 2_000;
/// Nodes of one expression: what one evaluation costs at most.
pub const MAX_NODES: usize = 250;
/// Windows of one rule; each is kept for every Datastream that the rule watches.
pub const MAX_WINDOWS: usize = 8;
/// Neighbours that one rule may look at.
pub const MAX_INPUTS: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    Bool,
    Int,
    Double,
    Text,
}

impl Type {
    /// As CEL names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Double => "double",
            Self::Text => "string",
        }
    }
}

/// An expression whose types are known.
#[derive(Clone, PartialEq, Debug)]
pub enum Node {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Arc<str>),
    Variable(Variable),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Choice(Box<[Node; 3]>),
    Compare(Comparison, Box<[Node; 2]>),
    Arithmetic(Operator, Box<[Node; 2]>),
    In(Box<Node>, Vec<Node>),
    Call(Function, Vec<Node>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    Double,
    Int,
    Abs,
    Least,
    Greatest,
    Exp,
    /// The natural logarithm.
    Ln,
    Sqrt,
    Power,
    /// To the nearest whole number, halves away from zero.
    Round,
    Floor,
    Ceil,
    /// A table of what is computed, by its number: `curve(level.value)`.
    Table(u8),
    StartsWith,
    EndsWith,
    Contains,
}

/// What an expression may name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variable {
    /// The number of the Observation that is looked at.
    Value,
    /// The one before.
    Previous,
    /// The end of its phenomenonTime, in seconds since 1970.
    Time,
    /// `good` or `faulty`.
    Quality,
    District,
    System,
    /// Of the phenomenonTime, in the city: 0 to 23.
    Hour,
    Minute,
    /// 1 is Monday, 7 is Sunday (ISO 8601).
    Weekday,
    Window(u8, Figure),
    /// Another Datastream of the same Thing.
    Input(u8, Field),
    /// Whether it has ever said anything.
    Has(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Figure {
    Mean,
    Min,
    Max,
    Count,
    /// Change per second from the oldest to the newest value of the window.
    Rate,
}

impl Figure {
    pub const ALL: [(&'static str, Self); 5] =
        [("mean", Self::Mean), ("min", Self::Min), ("max", Self::Max), ("count", Self::Count), ("rate", Self::Rate)];
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    Value,
    Time,
    Quality,
}

/// Whether a name means something in expressions already: those of [`Variable`], and the words that CEL keeps for itself.
pub fn is_reserved(name: &str) -> bool {
    const WORDS: [&str; 22] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
        "math",
    ];
    compile::RESERVED.contains(&name) || WORDS.contains(&name)
}

/// An expression of a rule, ready to be evaluated.
#[derive(Clone, PartialEq, Debug)]
pub struct Compiled {
    raise: Node,
    clear: Option<Node>,
    /// Names and seconds; the nameless one comes first.
    pub windows: Vec<(String, u32)>,
    /// Keys of neighbours, below the Thing's own key.
    pub inputs: Vec<String>,
    /// Whether hour, minute or weekday is asked for.
    pub local: bool,
}

/// What an expression says of one Observation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    pub raise: bool,
    pub clear: bool,
}

impl Compiled {
    /// # Errors
    /// The first mistake of each expression, with the field that it stands in.
    pub fn new(form: &Expression) -> Result<Self, Vec<(&'static str, Mistake)>> {
        let mut windows: Vec<(String, u32)> = form.window.map(|seconds| (String::new(), seconds)).into_iter().collect();
        windows.extend(form.windows.iter().map(|(name, seconds)| (name.clone(), *seconds)));
        let mut scope = compile::Scope::new(&windows);
        let mut mistakes = Vec::new();
        let mut compiled =
            |field, text: &str| scope.compile(text).map_err(|mistake| mistakes.push((field, mistake))).ok();
        let raise = compiled("expression", &form.expression);
        let clear = form.clear.as_ref().map(|text| compiled("clear", text));
        let (inputs, local) = (scope.inputs, scope.local);
        match (raise, clear) {
            (Some(raise), None) => Ok(Self { raise, clear: None, windows, inputs, local }),
            (Some(raise), Some(Some(clear))) => Ok(Self { raise, clear: Some(clear), windows, inputs, local }),
            _ => Err(mistakes),
        }
    }

    /// What cannot be computed (a neighbour that has never spoken, a division by zero) fulfils neither condition.
    pub fn verdict(&self, env: &Env<'_>) -> Verdict {
        let raise = env.truth(&self.raise);
        let clear = match &self.clear {
            Some(clear) => env.truth(clear) == Some(true),
            None => raise == Some(false),
        };
        Verdict { raise: raise == Some(true), clear }
    }
}

impl Node {
    /// Shows every part, this one first.
    pub fn visit(&self, look: &mut impl FnMut(&Self)) {
        look(self);
        match self {
            Self::Bool(_) | Self::Int(_) | Self::Double(_) | Self::Text(_) | Self::Variable(_) => {}
            Self::Not(a) | Self::Negate(a) => a.visit(look),
            Self::And(two) | Self::Or(two) | Self::Compare(_, two) | Self::Arithmetic(_, two) => {
                two.iter().for_each(|n| n.visit(look));
            }
            Self::Choice(three) => three.iter().for_each(|n| n.visit(look)),
            Self::In(one, all) => {
                one.visit(look);
                all.iter().for_each(|n| n.visit(look));
            }
            Self::Call(_, all) => all.iter().for_each(|n| n.visit(look)),
        }
    }
}

#[cfg(test)]
mod tests;
