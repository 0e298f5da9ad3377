//! What a file of unknown making is. Pure.

use std::collections::BTreeMap;

use csv::StringRecord;
use jiff::{civil::DateTime, fmt::strtime::BrokenDownTime};
use serde::Serialize;

use crate::connect::{declaration::Encoding, map::is_comma_number, rows::text};

/// What the sender knows better.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    pub encoding: Option<Encoding>,
    pub delimiter: Option<char>,
    pub decimal: Option<char>,
    /// The line of the header, from 1.
    pub header: Option<u32>,
    /// The column of the times.
    pub time: Option<String>,
    /// As `strptime` has it; empty for RFC 3339 and ISO 8601.
    pub format: Option<String>,
    /// IANA time zone of times that carry no offset.
    pub zone: Option<String>,
    /// The column that says how good a row is.
    pub quality: Option<String>,
}

/// How the file is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guess {
    pub encoding: Encoding,
    pub delimiter: char,
    pub decimal: char,
    pub header: u32,
    pub time: String,
    pub format: Option<String>,
    /// Day and month could be the other way round: nothing in the file says.
    pub ambiguous: bool,
    pub zone: String,
    pub quality: Option<String>,
    /// All columns of the header.
    pub columns: Vec<String>,
    /// The first rows, as they stand.
    pub sample: Vec<Vec<String>>,
}

/// Lines that are looked at for the delimiter and the header, rows for the form of times and numbers, and rows that are shown.
const LINES: usize = 60;
const ROWS: usize = 400;
const SHOWN: usize = 5;
/// Columns of a table that a person makes.
pub const MAX_COLUMNS: usize = 500;

const DELIMITERS: [char; 4] = [',', ';', '\t', '|'];
/// Names of the column of times, in small letters.
const TIMES: [&str; 17] = [
    "time",
    "phenomenontime",
    "timestamp",
    "datetime",
    "date_time",
    "date time",
    "date",
    "measured",
    "measured at",
    "observed at",
    "時間",
    "时间",
    "日期",
    "日期時間",
    "日期时间",
    "時間戳",
    "时间戳",
];
/// Names of the column of quality.
const QUALITIES: [&str; 9] = ["quality", "resultquality", "flag", "qc", "status", "質素", "質量", "质量", "備註"];

/// Day before month where both could be meant, as Hong Kong writes it.
const FORMATS: [&str; 22] = [
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
    "%d-%m-%Y %H:%M:%S",
    "%d-%m-%Y %H:%M",
    "%d-%m-%Y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y-%m-%d %H:%M",
    "%Y%m%d%H%M%S",
    "%Y%m%d%H%M",
    "%Y%m%d",
    "%Y年%m月%d日 %H:%M",
    "%Y年%m月%d日",
    "%s",
];

/// The encoding that the bytes are in, as far as they tell.
pub fn encoding(bytes: &[u8]) -> Encoding {
    match bytes {
        [0xff, 0xfe, ..] => return Encoding::Utf16Le,
        [0xfe, 0xff, ..] => return Encoding::Utf16Be,
        _ => {}
    }
    let head = &bytes[..bytes.len().min(4_096)];
    // Digits and delimiters are most of a table, and their other half is zero.
    let zeros = |odd: usize| head.iter().skip(odd).step_by(2).filter(|b| **b == 0).count();
    if zeros(0) + zeros(1) > head.len() / 4 {
        return if zeros(1) > zeros(0) { Encoding::Utf16Le } else { Encoding::Utf16Be };
    }
    match std::str::from_utf8(bytes) {
        Ok(_) => Encoding::Utf8,
        Err(_) => Encoding::Big5,
    }
}

/// How often a delimiter stands outside of quotes.
fn count(line: &str, delimiter: char) -> usize {
    let mut quoted = false;
    line.chars()
        .filter(|c| {
            quoted ^= *c == '"';
            *c == delimiter && !quoted
        })
        .count()
}

/// The number that most of the lines have, where it is not none, and how many have it.
fn usual(lines: &[&str], delimiter: char) -> (usize, usize) {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for line in lines {
        *counts.entry(count(line, delimiter)).or_default() += 1;
    }
    counts.into_iter().filter(|(n, _)| *n > 0).max_by_key(|(n, lines)| (*lines, *n)).unwrap_or_default()
}

fn records(text: &str, delimiter: char, from: usize, most: usize) -> Vec<StringRecord> {
    let below = text.split_inclusive('\n').take(from).map(str::len).sum::<usize>();
    let delimiter = u8::try_from(delimiter).unwrap_or(b',');
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .from_reader(text.get(below..).unwrap_or_default().as_bytes());
    reader.records().take(most).filter_map(Result::ok).collect()
}

fn iso(text: &str) -> bool {
    text.parse::<kernel::Timestamp>().is_ok() || text.parse::<DateTime>().is_ok()
}

fn fits(format: &str, text: &str) -> bool {
    // Seconds since 1970 of this century: otherwise every year would be some.
    if format == "%s" && !(text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    let Ok(read) = BrokenDownTime::parse(format, text) else { return false };
    read.timestamp().is_some() || read.to_datetime().is_ok() || read.to_date().is_ok()
}

/// The form of the times, and whether day and month might be exchanged.
fn format_of(times: &[&str]) -> Option<(Option<&'static str>, bool)> {
    if times.iter().all(|t| iso(t)) {
        return Some((None, false));
    }
    let all = |format: &&&str| times.iter().all(|t| fits(format, t));
    let found = FORMATS.iter().find(all)?;
    let other = found.replace("%d/%m", "%m/%d");
    Some((Some(found), other != **found && times.iter().all(|t| fits(&other, t))))
}

/// What the file is; what the sender says counts.
///
/// # Errors
/// The wish that would help, and why.
pub fn guess(bytes: &[u8], wishes: &Wishes, zone: &str) -> Result<Guess, (&'static str, String)> {
    let encoding = wishes.encoding.unwrap_or_else(|| encoding(bytes));
    let text = text::decode(bytes, encoding).map_err(|why| ("encoding", format!("the file is {why}")))?;
    let lines: Vec<&str> = text.lines().take(LINES).collect();
    let of = |delimiter: char| (usual(&lines, delimiter), delimiter);
    let ((per_line, _), delimiter) = match wishes.delimiter {
        Some(delimiter) => of(delimiter),
        None => DELIMITERS.into_iter().map(of).max_by_key(|((n, lines), _)| (*lines, *n)).unwrap_or(((0, 0), ',')),
    };
    if per_line == 0 {
        return Err((
            "delimiter",
            "a table with a header and at least two columns is expected: a time and a value".to_owned(),
        ));
    }
    if per_line >= MAX_COLUMNS {
        return Err(("delimiter", format!("at most {MAX_COLUMNS} columns are read")));
    }
    let header = match wishes.header {
        Some(line) => line,
        None => 1 + lines.iter().position(|line| count(line, delimiter) == per_line).unwrap_or(0) as u32,
    };
    let columns: Vec<String> = records(&text, delimiter, header.saturating_sub(1) as usize, 1)
        .first()
        .map(|r| r.iter().map(|name| name.trim().to_owned()).collect())
        .unwrap_or_default();
    let named = |names: &[&str]| {
        let is = |column: &&String| names.contains(&column.to_lowercase().as_str());
        columns.iter().find(is).cloned()
    };
    let known = |wish: &Option<String>, field| match wish {
        Some(name) if !columns.contains(name) => {
            Err((field, format!("the header has no column '{name}'; it has {}", columns.join(", "))))
        }
        wish => Ok(wish.clone()),
    };
    let time =
        known(&wishes.time, "time")?.or_else(|| named(&TIMES)).or_else(|| columns.first().cloned()).unwrap_or_default();
    let quality = known(&wishes.quality, "quality")?.or_else(|| named(&QUALITIES));
    let rows = records(&text, delimiter, header as usize, ROWS);
    let place = columns.iter().position(|c| *c == time).unwrap_or(0);
    let times: Vec<&str> = rows
        .iter()
        .filter(|r| r.len() == columns.len())
        .filter_map(|r| r.get(place))
        .map(str::trim)
        .filter(|t| !t.is_empty())
        .collect();
    let (format, ambiguous) = match &wishes.format {
        Some(format) => (Some(format.clone()).filter(|f| !f.is_empty()), false),
        None => {
            let first = times.first().copied().unwrap_or_default();
            let shown = crate::connect::report::shorten(first);
            let found = format_of(&times).or_else(|| format_of(&times[..times.len().min(1)]));
            let (format, ambiguous) = found.ok_or((
                "format",
                format!("'{shown}' in the column '{time}' is no time that is known here; say its form"),
            ))?;
            (format.map(str::to_owned), ambiguous)
        }
    };
    let values =
        || rows.iter().flat_map(|r| r.iter().enumerate()).filter(|(at, _)| *at != place).map(|(_, text)| text.trim());
    let comma = delimiter != ','
        && values().any(is_comma_number)
        && !values().any(|t| t.contains('.') && t.parse::<f64>().is_ok());
    Ok(Guess {
        encoding,
        delimiter,
        decimal: wishes.decimal.unwrap_or(if comma { ',' } else { '.' }),
        header,
        time,
        format,
        ambiguous,
        zone: wishes.zone.clone().unwrap_or_else(|| zone.to_owned()),
        quality,
        sample: rows.iter().take(SHOWN).map(|r| r.iter().map(crate::connect::report::shorten).collect()).collect(),
        columns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Guess {
        guess(text.as_bytes(), &Wishes::default(), "Asia/Hong_Kong").unwrap_or_else(|e| panic!("{text}: {e:?}"))
    }

    #[test]
    fn tables_as_people_make_them() {
        let plain = of("time,value\n2026-11-22T00:00:00Z,1.5\n");
        assert_eq!((plain.delimiter, plain.decimal, plain.header, plain.format.as_deref()), (',', '.', 1, None));
        let german = of("Messwerte der Station\n\nDate;Level\n22.11.2026 08:00;1,5\n23.11.2026 09:30;N.A.\n");
        assert_eq!((german.delimiter, german.decimal, german.header), (';', ',', 3));
        assert_eq!(german.format.as_deref(), Some("%d.%m.%Y %H:%M"));
        let excel = of("日期\t水位\t質素\r\n13/1/2026\t1\tC\r\n");
        assert_eq!((excel.delimiter, excel.time.as_str(), excel.quality.as_deref()), ('\t', "日期", Some("質素")));
        assert_eq!((excel.format.as_deref(), excel.ambiguous), (Some("%d/%m/%Y"), false));
        let either = of("date,v\n1/2/2026,1\n3/4/2026,2\n");
        assert_eq!((either.format.as_deref(), either.ambiguous), (Some("%d/%m/%Y"), true));
        let american = of("date,v\n1/2/2026,1\n3/14/2026,2\n");
        assert_eq!((american.format.as_deref(), american.ambiguous), (Some("%m/%d/%Y"), false));
        let seconds = of("t,v\n1795348800,1\n");
        assert_eq!(seconds.format.as_deref(), Some("%s"));
        let quoted = of("\"place, and more\";time\nx;2026-01-01\ny;2026-01-02\n");
        assert_eq!((quoted.delimiter, quoted.time.as_str()), (';', "time"));
    }

    #[test]
    fn bytes_of_every_making() {
        let text = "日期,雨量\n2026-01-01,1\n";
        let wide = |unit: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        assert_eq!(encoding(text.as_bytes()), Encoding::Utf8);
        assert_eq!(encoding(&wide(u16::to_le_bytes)), Encoding::Utf16Le);
        assert_eq!(encoding(&wide(u16::to_be_bytes)), Encoding::Utf16Be);
        assert_eq!(encoding(b"\xa4\xe9\xb4\xc1,\xab\x42\xb6\x71\n2026-01-01,1\n"), Encoding::Big5);
        let read =
            guess(b"\xa4\xe9\xb4\xc1,\xab\x42\xb6\x71\n2026-01-01,1\n", &Wishes::default(), "UTC").expect("a guess");
        assert_eq!(read.columns, ["日期", "雨量"]);
    }

    #[test]
    fn what_cannot_be_guessed_is_asked_for() {
        let wrong = |text: &str, wishes: Wishes| guess(text.as_bytes(), &wishes, "UTC").err().map(|e| e.0);
        let none = Wishes::default;
        assert_eq!(wrong("only one column\n1\n", none()), Some("delimiter"));
        assert_eq!(wrong("", none()), Some("delimiter"));
        assert_eq!(wrong("time,v\nyesterday,1\n", none()), Some("format"));
        assert_eq!(wrong("time,v\nyesterday,1\n", Wishes { format: Some("%Y".to_owned()), ..none() }), None);
        assert_eq!(wrong("time,v\n2026,1\n", Wishes { time: Some("when".to_owned()), ..none() }), Some("time"));
        assert_eq!(wrong("a,b\n\u{fffd}", Wishes { encoding: Some(Encoding::Utf16Le), ..none() }), Some("encoding"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[0-9a-z,;\t\n\"/: .雨]{0,120}") {
            let _ = guess(&bytes, &Wishes::default(), "UTC");
            let _ = guess(text.as_bytes(), &Wishes::default(), "UTC");
        }
    }
}
