//! Doors for the fuzz targets in `fuzz/`: each takes what a stranger may send and must come back.

use kernel::{Limits, Tenant, Timestamp};

use crate::{
    model::{DatastreamInfo, EntityId, EntityType, ObservationType},
    query::{Options, Plan, parse_filter},
    sta::{Known, Path, Reader, Rows, Stop},
};

/// The query part of an address, for every entity type. What parses must print and parse to the same.
pub fn filter(text: &str) {
    if let Ok(expr) = parse_filter(text) {
        let printed = expr.to_string();
        let again = parse_filter(&printed).map(|e| e.to_string());
        assert_eq!(again.as_deref(), Ok(printed.as_str()));
    }
    if let Ok(options) = Options::parse(text) {
        for entity in EntityType::ALL {
            let _ = Plan::new(entity, &options, &Limits::DEFAULT, Timestamp::from_secs(0));
        }
    }
    let _ = Path::parse(text);
}

/// A `CreateObservations` body. Every row is in a batch or refused.
pub fn data_array(bytes: &[u8]) {
    let Ok(tenant) = Tenant::parse("t") else { return };
    let info = DatastreamInfo {
        id: EntityId(1),
        tenant,
        public: true,
        thing: EntityId(1),
        name: "n".into(),
        observation_type: ObservationType::Any,
        unit: None,
        feature: EntityId(1),
        interval: None,
        simulated: false,
    };
    let mut reader = Reader::new(bytes);
    let mut rows = Rows::default();
    while let Ok(Some(group)) = reader.group() {
        loop {
            match reader.rows(&group, Some(&info), &|_| Known::Yes, &mut rows) {
                Ok(Stop::End) => break,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
    let good = rows.total - rows.refused.len();
    let taken: usize = rows.take_batches().iter().map(crate::observe::Batch::len).sum();
    assert_eq!(good, taken);
}
