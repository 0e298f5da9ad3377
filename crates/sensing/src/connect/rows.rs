//! Bytes to rows, whatever the format. Pure, and nothing that comes from outside makes it panic.

mod csv;
pub(crate) mod json;
pub(crate) mod text;
mod xml;

use std::{borrow::Cow, ops::ControlFlow};

use super::declaration::{Connector, Format};

/// A row's fields by name.
pub trait Fields {
    /// The text of a field; `None` when the row has none of that name, empty when it holds nothing.
    fn get(&self, name: &str) -> Option<Cow<'_, str>>;
    /// Why there is none, where more is known than that.
    fn why_not(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// What the reader meets, in the order of the file.
pub enum Item<'a> {
    /// The columns of a file that names them once.
    Columns(&'a [String]),
    Row {
        line: u64,
        row: &'a dyn Fields,
    },
    /// A line that is no row, as declared.
    Skipped,
    /// A row that cannot be read.
    Broken {
        line: u64,
        text: &'a str,
        reason: &'a str,
    },
}

/// Bytes that a document of trees may have, which take many times as much in memory.
const MAX_TREE: usize = 16 << 20;
/// Levels of nesting in XML.
const MAX_DEPTH: usize = 64;
/// Rows of one document.
pub const MAX_ROWS: u64 = 10_000_000;

type Visit<'v> = dyn FnMut(Item<'_>) -> ControlFlow<()> + 'v;

/// Reads a document and shows every row to `visit` until it breaks off.
///
/// # Errors
/// Why the document as a whole cannot be read. Rows before the fault may have been shown.
pub fn read(connector: &Connector, bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), String> {
    let source = &connector.source;
    if source.format != Format::Csv && bytes.len() > MAX_TREE {
        return Err(format!(
            "a document of {} bytes is too large for its format; at most {MAX_TREE} are read",
            bytes.len()
        ));
    }
    let text = text::decode(bytes, source.encoding)?;
    let mut rows = 0u64;
    let mut over = false;
    let mut counted = |item: Item<'_>| {
        rows += u64::from(!matches!(item, Item::Columns(_)));
        over = rows > MAX_ROWS;
        if over { ControlFlow::Break(()) } else { visit(item) }
    };
    match source.format {
        Format::Csv => csv::read(source, &connector.needed(), &text, &mut counted)?,
        Format::Json => json::read(source.at.as_deref(), &text, &mut counted)?,
        Format::Geojson => json::read_features(&text, &mut counted)?,
        Format::Modbus => return Err("registers are asked for and not read from a document".to_owned()),
        Format::Xml => xml::read(source.at.as_deref().unwrap_or_default(), &text, &mut counted)?,
    }
    if over { Err(format!("more than {MAX_ROWS} rows")) } else { Ok(()) }
}
