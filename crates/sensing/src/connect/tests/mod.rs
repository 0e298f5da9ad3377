//! Real files, made-up files and real stores.

mod bombs;
mod documents;
mod real;
mod registers;
mod running;
mod store;

use std::{ops::ControlFlow, path::PathBuf};

use super::{
    ConnectorFile,
    declaration::Connector,
    map::{Mapper, Reading},
    report::Report,
    rows,
};

fn pack() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong")
}

fn parse(text: &str) -> Vec<Connector> {
    let file: ConnectorFile = toml::from_str(text).expect("a connector file");
    file.connector.into_iter().map(|d| Connector::new(d).expect("a valid connector")).collect()
}

/// A connector of the pack, as it stands there.
fn of_pack(key: &str) -> Connector {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(pack().join("connectors")).expect("folder") {
        all.extend(parse(&std::fs::read_to_string(entry.expect("entry").path()).expect("file")));
    }
    all.into_iter().find(|c| c.key == key).expect("the pack has it")
}

/// Reads and maps a document; every row and value must be accounted for.
fn map(connector: &Connector, bytes: &[u8]) -> Result<(Report, Vec<Reading>), String> {
    let (mut report, mut readings, mut seen) = (Report::default(), Vec::new(), 0);
    let mut mapper = Mapper::new(connector);
    rows::read(connector, bytes, &mut |item| {
        seen += u64::from(!matches!(item, rows::Item::Columns(_)));
        mapper.take(&item, &mut report, &mut readings);
        ControlFlow::Continue(())
    })?;
    assert_eq!(report.rows, seen);
    assert_eq!(report.values, readings.len() as u64 + report.rejected);
    assert!(report.rows_skipped + report.rows_rejected <= report.rows);
    Ok((report, readings))
}
