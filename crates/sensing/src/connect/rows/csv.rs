//! Comma-separated values as publishers write them (RFC 4180 and what people make of it): titles above the header, notes below the rows.

use std::{borrow::Cow, collections::HashMap};

use csv::StringRecord;

use super::{Fields, Item, Visit};
use crate::connect::{
    declaration::{Header, Source},
    report::shorten,
};

/// Lines that are searched for the header.
const SEARCHED: usize = 1_000;
/// Columns of a header: each is kept by name.
const MAX_COLUMNS: usize = 10_000;

struct Record<'a> {
    columns: &'a HashMap<String, usize>,
    record: &'a StringRecord,
}

impl Fields for Record<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.record.get(*self.columns.get(name)?).map(Cow::Borrowed)
    }
}

fn reader<'t>(source: &Source, text: &'t str) -> csv::Reader<&'t [u8]> {
    let delimiter = u8::try_from(source.delimiter).unwrap_or(b',');
    csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(text.as_bytes())
}

/// The header, the number of its line (from 1) and the text below it. Lines are taken as they are: what stands above a header is prose, in which
/// a quotation mark quotes no field.
fn header<'t>(source: &Source, text: &'t str) -> Result<(StringRecord, u64, &'t str), String> {
    let mut rest = text;
    for number in 1..=SEARCHED {
        if rest.is_empty() {
            break;
        }
        let (line, below) = rest.split_once('\n').unwrap_or((rest, ""));
        rest = below;
        let wanted = match &source.header {
            Some(Header::Line(wanted)) => usize::try_from(*wanted) == Ok(number),
            Some(Header::Column(_)) | None => true,
        };
        if !wanted {
            continue;
        }
        let delimiters = line.matches(source.delimiter).take(MAX_COLUMNS).count();
        if delimiters == MAX_COLUMNS {
            return Err(format!("line {number} has more than {MAX_COLUMNS} columns"));
        }
        let mut record = StringRecord::new();
        if !reader(source, line).read_record(&mut record).map_err(|e| e.to_string())? {
            continue;
        }
        let fits = match &source.header {
            Some(Header::Column(name)) => record.iter().any(|field| field.trim() == name.trim()),
            Some(Header::Line(_)) | None => true,
        };
        if fits {
            return Ok((record, number as u64, below));
        }
    }
    Err(match &source.header {
        Some(Header::Column(name)) => format!("no line has a column '{}'", shorten(name)),
        Some(Header::Line(line)) => format!("there is no header in line {line}"),
        None => "there is no header".to_owned(),
    })
}

/// Numbers lines as editors do. The reader's own count is behind by a line where rows end in CR LF or empty lines were passed over.
struct Lines<'t> {
    text: &'t [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line of the record that begins at or after this byte, which lies behind the last one asked for.
    fn of(&mut self, byte: u64) -> u64 {
        let byte = usize::try_from(byte).unwrap_or(usize::MAX);
        while self.text.get(self.at).is_some_and(|c| self.at < byte || matches!(c, b'\r' | b'\n')) {
            self.line += u64::from(self.text[self.at] == b'\n');
            self.at += 1;
        }
        self.line
    }
}

pub fn read(source: &Source, needed: &[&str], text: &str, visit: &mut Visit<'_>) -> Result<(), String> {
    let (header, line, below) = header(source, text)?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    let mut columns = HashMap::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        if columns.insert(name.clone(), at).is_some() && needed.contains(&name.as_str()) {
            return Err(format!("the header has the column '{}' twice", shorten(name)));
        }
    }
    if let Some(missing) = needed.iter().find(|n| !columns.contains_key(**n)) {
        let have = names.iter().map(|n| shorten(n)).take(40).collect::<Vec<_>>().join(", ");
        return Err(format!("the header has no column '{missing}'; it has {have}"));
    }
    if visit(Item::Columns(&names)).is_break() {
        return Ok(());
    }
    let mut lines = Lines { text: below.as_bytes(), at: 0, line: line + 1 };
    let mut reader = reader(source, below);
    let mut record = StringRecord::new();
    // The text is UTF-8 and rows may have any length, so nothing is left that could fail here.
    while reader.read_record(&mut record).map_err(|e| e.to_string())? {
        let line = lines.of(record.position().map_or(0, csv::Position::byte));
        let first = record.get(0).unwrap_or_default();
        let empty = record.iter().all(|field| field.trim().is_empty());
        let item = if empty || source.skip.iter().any(|note| first.starts_with(note.as_str())) {
            Item::Skipped
        } else if record.len() == names.len() {
            Item::Row { line, row: &Record { columns: &columns, record: &record } }
        } else {
            let reason = format!("{} fields where the header has {}", record.len(), names.len());
            if visit(Item::Broken { line, text: first, reason: &reason }).is_break() {
                return Ok(());
            }
            continue;
        };
        if visit(item).is_break() {
            return Ok(());
        }
    }
    Ok(())
}
