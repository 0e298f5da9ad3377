//! Questions: text → tree → typed plan → answer.
//!
//! SQL narrows, Rust decides. What of a filter can be an index look-up becomes SQL ([`narrow`]); every row that comes back is still put to the
//! same typed predicate ([`eval`]), which is the reference. Leaving the narrowing out changes how long an answer takes and
//! nothing else, and a property test holds that.

mod among;
mod ast;
mod bounds;
mod eval;
mod functions;
mod lexer;
mod load;
mod narrow;
mod observations;
mod options;
mod page;
mod parser;
mod plan;
mod run;
mod series;
mod token;
mod total;
mod value;

use kernel::Problem;

pub use ast::{Expand, Expr, Format, Literal, Operator, Options};
pub use functions::Function;
pub use load::Extent;
pub use load::Item;
pub(crate) use narrow::Sql;
pub use options::{decode, encode};
pub use parser::filter as parse_filter;
pub use plan::Leaf;
pub use plan::{Expansion, Plan, Select};
pub use run::{Answer, Engine, Inline, Next, Row, Source};
pub use series::{Series, Span};
pub use token::{Token, TokenId};

/// What is wrong with a question, where, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: at character {at}: {detail}")]
pub struct Fault {
    /// The query option, such as `$filter`; empty until it is known.
    pub option: String,
    /// Characters from 1 within the decoded option.
    pub at: usize,
    pub detail: String,
    unsupported: bool,
}

impl Fault {
    pub fn at(at: usize, detail: impl Into<String>) -> Self {
        Self { option: String::new(), at, detail: detail.into(), unsupported: false }
    }
    pub fn in_option(option: &str, at: usize, detail: impl Into<String>) -> Self {
        Self { option: option.to_owned(), at, detail: detail.into(), unsupported: false }
    }
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self { option: String::new(), at: 1, detail: what.into(), unsupported: true }
    }
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        if self.option.is_empty() {
            option.clone_into(&mut self.option);
        }
        self
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        if fault.unsupported {
            return Self::not_implemented(format!("This server does not support {}.", fault.detail));
        }
        let detail = format!("at character {}: {}", fault.at, fault.detail);
        Self::field(if fault.option.is_empty() { "query".to_owned() } else { fault.option }, detail)
    }
}

impl From<Fault> for crate::Error {
    fn from(fault: Fault) -> Self {
        Problem::from(fault).into()
    }
}
