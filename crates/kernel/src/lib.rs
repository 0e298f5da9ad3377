//! The words every room shares: ids, time, text in three languages, money, who is calling, what went wrong.
//!
//! No I/O and no policy lives here. A type belongs in `kernel` when at least two rooms must agree on it, and nowhere
//! else. Everything is plain data: cheap to clone, serialisable, the same in a test as in production.

mod caller;
mod id;
mod money;
mod page;
mod problem;
mod text;
mod time;

pub use caller::{Action, Caller, Decision, Policy, Principal, Resource, Role, Tenant};
pub use id::{Id, Kind};
pub use money::{Currency, Money, MoneyError};
pub use page::{Limits, PageSize};
pub use problem::{FieldError, Problem};
pub use text::{Language, Text};
pub use time::{Clock, FixedClock, Interval, SystemClock, TimeError, Timestamp};
