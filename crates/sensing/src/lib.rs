//! Room `sensing`: things, observations, MQTT, rules, alarms. See ARCHITECTURE.md, "An observation's way".

// The fuzz targets, which are built here as tests too, name the room as strangers do.
#[cfg(test)]
extern crate self as sensing;

pub mod alarms;
pub mod alerts;
pub mod catalog;
pub mod connect;
pub mod dashboards;
pub mod derived;
pub mod devices;
mod door;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod ingest;
pub mod model;
pub mod moving;
pub mod mqtt;
pub mod notify;
pub mod observe;
pub mod pages;
pub mod query;
pub mod retention;
pub mod route;
pub mod rules;
pub mod scope;
mod spreadsheet;
pub mod sta;
pub mod tasking;

pub use catalog::Catalog;
pub use error::Error;

pub use route::{Audience, Route};
pub use scope::{Scope, Scopes};

#[cfg(test)]
mod test_records {
    use std::{path::Path, sync::Arc};

    use kernel::Clock;
    use records::{Options, Records};

    /// Where tests keep their records: a file in their folder, or a database of its own when the run is the one outside. The folder must
    /// outlive it; the database does.
    pub fn options(folder: &Path) -> Options {
        if testkit::outside() {
            Options::postgres(testkit::postgres::database().url())
        } else {
            Options::sqlite(folder.join("city.db"))
        }
    }

    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Records {
        Records::open(&options(folder), clock).expect("records")
    }
}
