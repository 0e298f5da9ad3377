//! A sheet of devices: CSV (RFC 4180) as spreadsheets write it, read row by row and judged before anything is changed.

use std::collections::HashMap;

use csv::StringRecord;

use super::super::claim;
use crate::model::EntityId;

/// Bytes and rows of one sheet.
pub const BYTES: usize = 8 << 20;
pub const ROWS: usize = 20_000;
/// Mistakes that are told; the rest are counted.
pub const TOLD: usize = 200;
/// Things of one row.
const THINGS: usize = 50;

/// The columns, with the other words that people have for them. `key` and `kind` must be there.
pub const COLUMNS: [(&str, &[&str]); 7] = [
    ("key", &["id", "device", "device_id", "serial"]),
    ("name", &[]),
    ("kind", &["model", "type"]),
    ("firmware", &["version"]),
    ("things", &["thing", "place", "places"]),
    ("gateway", &[]),
    ("claim_code", &["claim", "code"]),
];

/// A Thing by its id, or by the key that its department gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Named {
    Id(EntityId),
    Key(String),
}

impl Named {
    pub fn of(text: &str) -> Self {
        match text.parse() {
            Ok(id) => Self::Id(EntityId(id)),
            Err(_) => Self::Key(text.to_owned()),
        }
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Key(key) => f.write_str(key),
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Of the file, from 1, as editors count.
    pub line: u64,
    pub key: String,
    pub name: Option<String>,
    pub kind: String,
    pub firmware: Option<String>,
    pub things: Vec<Named>,
    /// Nothing said: a new device is none, and one that is there stays what it is.
    pub gateway: Option<bool>,
    /// [`claim::hash`] of the code that is printed on it.
    pub claim: Option<String>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Mistake {
    pub line: u64,
    pub column: &'static str,
    pub detail: String,
}

impl Mistake {
    pub fn new(line: u64, column: &'static str, detail: impl Into<String>) -> Self {
        Self { line, column, detail: detail.into() }
    }
}

/// Rows that can be read, and what is wrong with the others.
#[derive(Debug, Default)]
pub struct Sheet {
    pub lines: Vec<Line>,
    pub mistakes: Vec<Mistake>,
}

/// Spreadsheets of some languages write semicolons; what is copied out of one has tabs.
fn delimiter(header: &str) -> u8 {
    [b',', b';', b'\t'].into_iter().max_by_key(|d| header.bytes().filter(|b| b == d).count()).unwrap_or(b',')
}

/// Where each column stands. `Err` names the column and says what is wrong with the header.
fn columns(header: &StringRecord) -> Result<[Option<usize>; COLUMNS.len()], Mistake> {
    let mut at = [None; COLUMNS.len()];
    for (index, title) in header.iter().enumerate() {
        let title = title.trim().to_lowercase().replace([' ', '-'], "_");
        if title.is_empty() {
            continue;
        }
        let known = COLUMNS.iter().position(|(name, also)| *name == title || also.contains(&title.as_str()));
        let Some(known) = known else {
            let names = COLUMNS.map(|(name, _)| name).join(", ");
            let title: String = title.chars().take(40).collect();
            return Err(Mistake::new(1, "header", format!("there is no column '{title}'; there are {names}")));
        };
        if at[known].replace(index).is_some() {
            return Err(Mistake::new(1, COLUMNS[known].0, "the column is there twice"));
        }
    }
    for (index, (name, _)) in COLUMNS.iter().enumerate() {
        if at[index].is_none() && matches!(*name, "key" | "kind") {
            return Err(Mistake::new(1, name, "the column is missing; the first line names the columns"));
        }
    }
    Ok(at)
}

fn word(line: u64, column: &'static str, text: &str, most: usize, mistakes: &mut Vec<Mistake>) -> Option<String> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    if text.chars().count() > most || text.chars().any(char::is_control) {
        mistakes.push(Mistake::new(line, column, format!("at most {most} characters without control characters")));
        return None;
    }
    Some(text.to_owned())
}

/// Numbers lines as editors do; the reader's own count is behind where rows end in CR LF.
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

/// Reads a sheet. Rows with a mistake are not among the lines.
pub fn read(bytes: &[u8]) -> Sheet {
    let mut sheet = Sheet::default();
    if bytes.len() > BYTES {
        sheet.mistakes.push(Mistake::new(0, "file", format!("at most {BYTES} bytes are taken at once; cut it up")));
        return sheet;
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() as u64;
            sheet.mistakes.push(Mistake::new(line, "file", "the text is not UTF-8; save it as 'CSV UTF-8'"));
            return sheet;
        }
    };
    let first = text.lines().next().unwrap_or_default();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(true)
        .flexible(true)
        .delimiter(delimiter(first))
        .from_reader(text.as_bytes());
    let at = match reader.headers().map_err(|e| Mistake::new(1, "header", e.to_string())).and_then(columns) {
        Ok(at) => at,
        Err(mistake) => {
            sheet.mistakes.push(mistake);
            return sheet;
        }
    };
    let width = reader.headers().map_or(0, StringRecord::len);
    let (mut keys, mut codes) = (HashMap::new(), HashMap::new());
    let mut lines = Lines { text: text.as_bytes(), at: 0, line: 1 };
    let mut record = StringRecord::new();
    // The text is UTF-8 and rows may have any length, so nothing is left that could fail; a failure would end the sheet.
    while reader.read_record(&mut record).unwrap_or(false) {
        let line = lines.of(record.position().map_or(0, csv::Position::byte));
        if record.iter().all(|field| field.trim().is_empty()) {
            continue;
        }
        if sheet.lines.len() + sheet.mistakes.len() >= ROWS {
            let most = format!("at most {ROWS} rows are taken at once; cut it up");
            sheet.mistakes.push(Mistake::new(line, "file", most));
            break;
        }
        if record.len() != width {
            let detail = format!("{} fields where the first line has {width}", record.len());
            sheet.mistakes.push(Mistake::new(line, "row", detail));
            continue;
        }
        if let Some(good) = row(line, &record, &at, &mut sheet.mistakes, (&mut keys, &mut codes)) {
            sheet.lines.push(good);
        }
    }
    if sheet.lines.is_empty() && sheet.mistakes.is_empty() {
        sheet.mistakes.push(Mistake::new(1, "file", "there is no row below the header"));
    }
    sheet
}

type Seen<'a> = (&'a mut HashMap<String, u64>, &'a mut HashMap<String, u64>);

fn row(
    line: u64,
    record: &StringRecord,
    at: &[Option<usize>; COLUMNS.len()],
    mistakes: &mut Vec<Mistake>,
    (keys, codes): Seen<'_>,
) -> Option<Line> {
    let before = mistakes.len();
    let get = |column: usize| at[column].and_then(|index| record.get(index)).unwrap_or_default();
    let key = word(line, "key", get(0), 80, mistakes);
    let kind = word(line, "kind", get(2), 80, mistakes);
    let (name, firmware) = (word(line, "name", get(1), 200, mistakes), word(line, "firmware", get(3), 200, mistakes));
    for (column, value) in [("key", (&key, get(0))), ("kind", (&kind, get(2)))] {
        if value.1.trim().is_empty() {
            mistakes.push(Mistake::new(line, column, "it is empty"));
        }
    }
    if let Some(key) = &key
        && let Some(other) = keys.insert(key.clone(), line)
    {
        mistakes.push(Mistake::new(line, "key", format!("line {other} has the same key")));
    }
    let mut things: Vec<Named> = get(4).split(';').map(str::trim).filter(|t| !t.is_empty()).map(Named::of).collect();
    let mut once = std::collections::HashSet::new();
    things.retain(|named| once.insert(named.clone()));
    if things.len() > THINGS {
        let detail = format!("{} Things; at most {THINGS}, or make it a gateway", things.len());
        mistakes.push(Mistake::new(line, "things", detail));
    }
    let gateway = match get(5).trim().to_lowercase().as_str() {
        "" => None,
        "no" | "false" | "0" => Some(false),
        "yes" | "true" | "1" => Some(true),
        _ => {
            mistakes.push(Mistake::new(line, "gateway", "yes or no is expected"));
            None
        }
    };
    let code = get(6).trim();
    let claim = if code.is_empty() {
        None
    } else {
        match claim::hash(code) {
            Ok(hash) => {
                if let Some(other) = codes.insert(hash.clone(), line) {
                    mistakes.push(Mistake::new(line, "claim_code", format!("line {other} has the same code")));
                }
                Some(hash)
            }
            Err(why) => {
                mistakes.push(Mistake::new(line, "claim_code", why));
                None
            }
        }
    };
    if mistakes.len() > before {
        return None;
    }
    Some(Line { line, key: key?, name, kind: kind?, firmware, things, gateway, claim })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> Vec<(u64, &'static str)> {
        read(text.as_bytes()).mistakes.into_iter().map(|m| (m.line, m.column)).collect()
    }

    #[test]
    fn a_sheet_is_read_as_spreadsheets_write_it() {
        let text = "\u{feff}Key;Model;Place;Gateway;Claim code\r\nwl-1;station;12;yes;ABCD-EFGH-JKLM-NPQR\r\n\r\n\"wl;2\";station;\"san-tin;13\";;\r\n";
        let sheet = read(text.as_bytes());
        assert_eq!(sheet.mistakes, []);
        let line = &sheet.lines[0];
        assert_eq!(
            (line.line, line.key.as_str(), line.kind.as_str(), line.gateway),
            (2, "wl-1", "station", Some(true))
        );
        assert_eq!(line.things, [Named::Id(EntityId(12))]);
        assert_eq!(line.claim, claim::hash("abcdefghjklmnpqr").ok());
        let line = &sheet.lines[1];
        assert_eq!((line.key.as_str(), line.gateway, &line.claim), ("wl;2", None, &None));
        assert_eq!(line.things, [Named::Key("san-tin".into()), Named::Id(EntityId(13))]);
    }

    #[test]
    fn each_mistake_names_its_row_and_column() {
        let check = |text: &str, expect: &[(u64, &'static str)]| assert_eq!(wrong(text), expect, "{text}");
        check("", &[(1, "key")]);
        check("key,kind\n", &[(1, "file")]);
        check("key\nwl-1", &[(1, "kind")]);
        check("key,kind,colour\nwl-1,k,red", &[(1, "header")]);
        check("key,id,kind\n1,2,3", &[(1, "key")]);
        check("key,kind\nwl-1,k,extra\nwl-2,k", &[(2, "row")]);
        check("key,kind\n,k\nwl-2,\nwl-3,k\nwl-3,k", &[(2, "key"), (3, "kind"), (5, "key")]);
        check("key,kind,gateway\nwl-1,k,perhaps", &[(2, "gateway")]);
        let long = "x".repeat(81);
        check(&format!("key,kind,name\n{long},k,\"a\u{7}\""), &[(2, "key"), (2, "name")]);
        let code = "ABCD-EFGH-JKLM-NPQR";
        check(&format!("key,kind,code\na,k,123\nb,k,{code}\nc,k,{code}"), &[(2, "claim_code"), (4, "claim_code")]);
        assert_eq!(read(b"key,kind\na,\xff").mistakes[0].line, 2);
        let many = (0..ROWS + 5).fold("key,kind\n".to_owned(), |text, n| text + &format!("d{n},k\n"));
        assert_eq!(wrong(&many), [(ROWS as u64 + 2, "file")]);
        assert_eq!(wrong(&"x".repeat(BYTES + 1)), [(0, "file")]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let sheet = read(&bytes);
            proptest::prop_assert!(!sheet.lines.is_empty() || !sheet.mistakes.is_empty());
        }

        #[test]
        fn what_was_written_is_read(keys in proptest::collection::hash_set("[a-z0-9 ,;\"]{1,20}", 1..20)) {
            let keys: Vec<String> = keys.iter().map(|k| k.trim().to_owned()).filter(|k| !k.is_empty()).collect();
            let mut text = "key,kind\n".to_owned();
            for key in &keys {
                crate::spreadsheet::field(&mut text, key);
                text.push_str(",k\n");
            }
            let mut once = keys.clone();
            once.sort();
            once.dedup();
            let mut read: Vec<String> = read(text.as_bytes()).lines.into_iter().map(|l| l.key).collect();
            read.sort();
            proptest::prop_assert_eq!(read, once);
        }
    }
}
