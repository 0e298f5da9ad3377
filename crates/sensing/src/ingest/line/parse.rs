//! The text of InfluxDB line protocol to rows. Pure, and nothing is allocated for a row: names and values stay where they stand until somebody asks
//! for them.
//!
//! `measurement[,tag=value…] field=value[,field=value…] [timestamp]`, one a line; `#` begins a comment. Everything below is as the protocol's own
//! description has it; where InfluxDB's parsers differ among themselves, what is ambiguous is refused.

use std::borrow::Cow;

/// Tags of one line, and fields of one line: more is a mistake of whoever writes.
pub const MAX_PARTS: usize = 1_000;

/// A line that is understood so far as its parts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// From 1.
    pub line: usize,
    /// Measurement and tags as they are written: the name of a series within one request.
    pub series: &'a str,
    fields: &'a str,
    /// In the request's own unit.
    pub time: Option<i64>,
}

/// A line that is no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub line: usize,
    pub detail: String,
}

/// A field's value with its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Float(f64),
    Integer(i64),
    Unsigned(u64),
    Boolean(bool),
    Text(Cow<'a, str>),
}

/// Measurement and tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series<'a> {
    pub measurement: Cow<'a, str>,
    pub tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl Series<'_> {
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }
}

pub struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

/// The first byte of `stop` that no backslash stands before. A backslash guards whatever follows it here; what that means is decided when the
/// part is read.
fn until(bytes: &[u8], from: usize, stop: &[u8]) -> usize {
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'\\' && bytes.get(at + 1).is_some_and(|next| *next != b'\n') {
            at += 2;
        } else if stop.contains(byte) {
            return at;
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// Behind the fields: the space or line end that is in no quotes.
fn behind_fields(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    // Quotes mean something only where a value begins.
    let mut value = false;
    loop {
        match bytes.get(at) {
            None | Some(b'\n' | b' ') => return Some(at.min(bytes.len())),
            Some(b'\\') if bytes.get(at + 1).is_some_and(|next| *next != b'\n') => {
                value = false;
                at += 2;
                continue;
            }
            Some(b'=') => value = true,
            Some(b'"') if value => {
                value = false;
                at += 1;
                loop {
                    let found = memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
                    at += found;
                    if bytes[at] == b'"' {
                        break;
                    }
                    at += 2;
                }
            }
            Some(_) => value = false,
        }
        at += 1;
    }
}

impl<'a> Lines<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, line: 1 }
    }

    /// Passes over the rest of the line, line end included.
    fn end_line(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        match memchr::memchr(b'\n', rest) {
            Some(end) => {
                self.at += end + 1;
                self.line += 1;
            }
            None => self.at = self.text.len(),
        }
    }

    fn broken(&mut self, line: usize, detail: &str) -> Broken {
        self.end_line();
        Broken { line, detail: detail.to_owned() }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Row<'a>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        loop {
            while let Some(b' ' | b'\t' | b'\r') = bytes.get(self.at) {
                self.at += 1;
            }
            match bytes.get(self.at)? {
                b'\n' | b'#' => self.end_line(),
                _ => break,
            }
        }
        let (start, line) = (self.at, self.line);
        let end = until(bytes, start, b" \n");
        let series = &self.text[start..end];
        if bytes.get(end) != Some(&b' ') {
            return Some(Err(self.broken(line, "fields are expected behind measurement and tags")));
        }
        let mut from = end;
        while bytes.get(from) == Some(&b' ') {
            from += 1;
        }
        let Some(end) = behind_fields(bytes, from) else {
            return Some(Err(self.broken(line, "a text has no closing quote")));
        };
        let fields = self.text[from..end].trim_end_matches('\r');
        // A text may hold line ends.
        self.line += memchr::memchr_iter(b'\n', fields.as_bytes()).count();
        self.at = end;
        let stop = memchr::memchr(b'\n', &bytes[end..]).map_or(bytes.len(), |found| end + found);
        let rest = self.text[end..stop].trim_matches([' ', '\r', '\t']);
        self.end_line();
        if fields.is_empty() {
            return Some(Err(Broken { line, detail: "fields are expected behind measurement and tags".to_owned() }));
        }
        let time = match rest {
            "" => None,
            text => match integer(text) {
                Some(time) => Some(time),
                None => {
                    let detail = "a whole number is expected as the timestamp, at the end of the line";
                    return Some(Err(Broken { line, detail: detail.to_owned() }));
                }
            },
        };
        Some(Ok(Row { line, series, fields, time }))
    }
}

/// `i64` and nothing else: no plus sign.
fn integer(text: &str) -> Option<i64> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// Takes the backslash from before `special`; another backslash stands for itself.
fn unescaped<'a>(text: &'a str, special: &[u8]) -> Cow<'a, str> {
    let bytes = text.as_bytes();
    let guards = |at: usize| bytes[at] == b'\\' && bytes.get(at + 1).is_some_and(|next| special.contains(next));
    if !memchr::memchr_iter(b'\\', bytes).any(guards) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek().copied() {
            Some(next) if c == '\\' && next.is_ascii() && special.contains(&(next as u8)) => {
                out.push(next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Measurement and tags of a row.
///
/// # Errors
/// What is wrong.
pub fn series(text: &str) -> Result<Series<'_>, String> {
    let bytes = text.as_bytes();
    let end = until(bytes, 0, b",");
    let measurement = unescaped(&text[..end], b", ");
    if measurement.is_empty() {
        return Err("a measurement is expected at the beginning of the line".to_owned());
    }
    let mut tags: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
    let mut at = end;
    while at < bytes.len() {
        let equals = until(bytes, at + 1, b"=,");
        if bytes.get(equals) != Some(&b'=') {
            return Err("a tag is expected as name=value".to_owned());
        }
        let end = until(bytes, equals + 1, b",=");
        if bytes.get(end) == Some(&b'=') {
            return Err("'=' in a tag is written with a backslash before it".to_owned());
        }
        let (key, value) = (unescaped(&text[at + 1..equals], b",= "), unescaped(&text[equals + 1..end], b",= "));
        if key.is_empty() || value.is_empty() {
            return Err("a tag has a name and a value".to_owned());
        }
        if tags.iter().any(|(known, _)| *known == key) {
            return Err(format!("the tag '{}' is given twice", crate::connect::report::shorten(&key)));
        }
        if tags.len() == MAX_PARTS {
            return Err(format!("at most {MAX_PARTS} tags are read"));
        }
        tags.push((key, value));
        at = end;
    }
    Ok(Series { measurement, tags })
}

/// A field's name as it is written.
pub fn field_name(text: &str) -> Cow<'_, str> {
    unescaped(text, b",= ")
}

/// The fields of a row: their names as they are written, and their values. After a mistake there are no more.
pub struct Fields<'a> {
    text: &'a str,
    at: usize,
    count: usize,
}

impl<'a> Row<'a> {
    pub fn fields(&self) -> Fields<'a> {
        Fields { text: self.fields, at: 0, count: 0 }
    }
}

impl<'a> Fields<'a> {
    fn fail<T>(&mut self, detail: impl Into<String>) -> Option<Result<T, String>> {
        self.at = self.text.len() + 1;
        Some(Err(detail.into()))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(&'a str, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at > self.text.len() {
            return None;
        }
        let bytes = self.text.as_bytes();
        self.count += 1;
        if self.count > MAX_PARTS {
            return self.fail(format!("at most {MAX_PARTS} fields are read of a line"));
        }
        let equals = until(bytes, self.at, b"=,");
        let name = &self.text[self.at..equals];
        if name.is_empty() || bytes.get(equals) != Some(&b'=') {
            return self.fail("a field is expected as name=value");
        }
        let from = equals + 1;
        let (value, end) = if bytes.get(from) == Some(&b'"') {
            let mut at = from + 1;
            loop {
                match bytes.get(at) {
                    Some(b'"') => break,
                    Some(b'\\') => at += 2,
                    Some(_) => at += 1,
                    None => return self.fail("a text has no closing quote"),
                }
            }
            (Ok(Value::Text(unescaped(&self.text[from + 1..at], b"\"\\"))), at + 1)
        } else {
            let end = memchr::memchr(b',', &bytes[from..]).map_or(bytes.len(), |found| from + found);
            (plain(&self.text[from..end]), end)
        };
        match value {
            Err(detail) => self.fail(format!("{}: {detail}", crate::connect::report::shorten(&field_name(name)))),
            Ok(value) => {
                self.at = match bytes.get(end) {
                    None => self.text.len() + 1,
                    Some(b',') => end + 1,
                    Some(_) => return self.fail("a comma is expected between two fields"),
                };
                Some(Ok((name, value)))
            }
        }
    }
}

/// A value without quotes.
fn plain(text: &str) -> Result<Value<'_>, String> {
    let wrong = || format!("'{}' is no number, true, false or text in quotes", crate::connect::report::shorten(text));
    let bytes = text.as_bytes();
    let Some((first, last)) = bytes.first().zip(bytes.last()) else { return Err("a value is missing".to_owned()) };
    match (first, last) {
        (b't' | b'T' | b'f' | b'F', _) => match text {
            "t" | "T" | "true" | "True" | "TRUE" => Ok(Value::Boolean(true)),
            "f" | "F" | "false" | "False" | "FALSE" => Ok(Value::Boolean(false)),
            _ => Err(wrong()),
        },
        (_, b'i') => match integer(&text[..text.len() - 1]) {
            Some(n) => Ok(Value::Integer(n)),
            None => Err(format!("'{}' is no integer of 64 bits", crate::connect::report::shorten(text))),
        },
        (_, b'u') => match text[..text.len() - 1].parse() {
            Ok(n) if first.is_ascii_digit() => Ok(Value::Unsigned(n)),
            _ => Err(format!("'{}' is no unsigned integer of 64 bits", crate::connect::report::shorten(text))),
        },
        // The parser of numbers also knows words such as inf and nan, which line protocol does not.
        (b'0'..=b'9' | b'-' | b'+' | b'.', b'0'..=b'9' | b'.') => match fast_float2::parse::<f64, _>(text) {
            Ok(n) if n.is_finite() => Ok(Value::Float(n)),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(text: &str) -> Result<Row<'_>, Broken> {
        let mut lines = Lines::new(text);
        let first = lines.next().expect("a line");
        assert!(lines.next().is_none(), "{text}");
        first
    }
    fn fields(text: &str) -> Result<Vec<(String, Value<'_>)>, String> {
        let row = row(text).map_err(|b| b.detail)?;
        row.fields().map(|f| f.map(|(name, value)| (field_name(name).into_owned(), value))).collect()
    }
    fn of(text: &str) -> (String, Vec<(String, String)>) {
        let series = series(row(text).expect(text).series).expect(text);
        let tags = series.tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        (series.measurement.into_owned(), tags)
    }
    fn pair(a: &str, b: &str) -> (String, String) {
        (a.to_owned(), b.to_owned())
    }

    /// The examples of the protocol's description.
    #[test]
    fn lines_as_they_are_described() {
        let text = r#"myMeasurement,tag1=value1,tag2=value2 fieldKey="fieldValue" 1556813561098000000"#;
        assert_eq!(of(text), ("myMeasurement".to_owned(), vec![pair("tag1", "value1"), pair("tag2", "value2")]));
        assert_eq!(row(text).expect("row").time, Some(1_556_813_561_098_000_000));
        assert_eq!(fields(text), Ok(vec![("fieldKey".to_owned(), Value::Text("fieldValue".into()))]));
        assert_eq!(
            fields("m f=1.0,g=1,h=-1.234456e+78,i=1i,j=1u"),
            Ok(vec![
                ("f".to_owned(), Value::Float(1.0)),
                ("g".to_owned(), Value::Float(1.0)),
                ("h".to_owned(), Value::Float(-1.234456e+78)),
                ("i".to_owned(), Value::Integer(1)),
                ("j".to_owned(), Value::Unsigned(1)),
            ])
        );
        assert_eq!(fields("m f=12485903u"), Ok(vec![("f".to_owned(), Value::Unsigned(12_485_903))]));
        for (text, truth) in [("t", true), ("TRUE", true), ("True", true), ("f", false), ("F", false), ("false", false)]
        {
            assert_eq!(fields(&format!("m v={text}")).map(|f| f[0].1.clone()), Ok(Value::Boolean(truth)));
        }
        assert_eq!(of(r"my\ Measurement v=1").0, "my Measurement");
        assert_eq!(
            of(r"m,tag\ Key1=tag\ Value1,tag\ Key2=tag\ Value2 v=100").1,
            [pair("tag Key1", "tag Value1"), pair("tag Key2", "tag Value2")]
        );
        assert_eq!(of("myMeasurement,tagKey=🍭 fieldKey=\"Launch 🚀\" 1").1, [pair("tagKey", "🍭")]);
        assert_eq!(
            fields(r#"m k="string value: \"quoted\" \\ \n, x=1 y""#).map(|f| f[0].1.clone()),
            Ok(Value::Text(r#"string value: "quoted" \ \n, x=1 y"#.into()))
        );
        assert_eq!(of(r"a\,b,c\=d=e\,f v=1"), ("a,b".to_owned(), vec![pair("c=d", "e,f")]));
    }

    #[test]
    fn what_stands_around_lines() {
        let text = "# a comment\n\n  m v=1 1\r\n\t# another\nm v=\"two\nlines\" 2\nm v=3";
        let rows: Vec<_> = Lines::new(text).map(|r| r.expect("row")).collect();
        assert_eq!(rows.iter().map(|r| (r.line, r.time)).collect::<Vec<_>>(), [(3, Some(1)), (5, Some(2)), (7, None)]);
        assert_eq!(rows[0].fields().next(), Some(Ok(("v", Value::Float(1.0)))));
        assert!(Lines::new("").next().is_none() && Lines::new("\n \n#").next().is_none());
    }

    #[test]
    fn mistakes_are_told_and_the_next_line_is_read() {
        for bad in [
            "m",
            "m,a=b",
            "m ",
            "m v=1 x",
            "m v=1 1.5",
            "m v=\"a",
            "m v=1 +1",
            "m v=1 1 1",
            "m v=1 99999999999999999999",
        ] {
            let text = format!("{bad}\nm v=2 2");
            let all: Vec<_> = Lines::new(&text).collect();
            assert!(matches!(&all[0], Err(b) if b.line == 1), "{bad}: {all:?}");
            if !bad.contains('"') {
                assert!(matches!(all.last(), Some(Ok(Row { line: 2, .. }))), "{bad}: {all:?}");
            }
        }
        for bad in [
            "m v",
            "m =1",
            "m v=",
            "m v=1,",
            "m v=inf",
            "m v=NaN",
            "m v=-infinity",
            "m v=1x",
            "m v=1.5i",
            "m v=-1u",
            "m v=+1i",
            "m v=9223372036854775808i",
            "m v=18446744073709551616u",
            "m v=tru",
            "m v=\"a\"b",
            "m v=1e999",
            "m v=0x10",
        ] {
            assert!(fields(bad).is_err(), "{bad}");
        }
        for bad in [",a=b v=1", "m,a v=1", "m,a= v=1", "m,=b v=1", "m,a=b=c v=1", "m,a=1,a=2 v=1", "m, v=1"] {
            let row = row(bad).expect(bad);
            assert!(series(row.series).is_err(), "{bad}");
        }
    }

    fn escape(text: &str, special: &str) -> String {
        text.chars().flat_map(|c| special.contains(c).then_some('\\').into_iter().chain([c])).collect()
    }

    proptest! {
        /// What is written by the rules is read as it was.
        #[test]
        fn what_is_written_is_read(
            measurement in "[a-zA-Z,= é雨#_.\"]{1,12}",
            tags in proptest::collection::btree_map("[a-z,= 雨\"]{1,6}", "[a-z0-9,= 雨\"]{1,6}", 0..4),
            texts in proptest::collection::btree_map("[a-z,= é]{1,6}", "[a-z\"\\\\,= \n雨]{0,12}", 0..4),
            number in any::<f64>().prop_filter("finite", |n| n.is_finite()),
            integer in any::<i64>(),
            time in any::<i64>(),
        ) {
            prop_assume!(!measurement.starts_with(['#', ' ']));
            let mut line = escape(&measurement, ", ");
            for (k, v) in &tags {
                line += &format!(",{}={}", escape(k, ",= "), escape(v, ",= "));
            }
            line += &format!(" A={number:e},B={integer}i");
            for (k, v) in &texts {
                line += &format!(",{}=\"{}\"", escape(k, ",= "), escape(v, "\"\\"));
            }
            line += &format!(" {time}\n");
            let mut lines = Lines::new(&line);
            let row = lines.next().expect("a line").map_err(|b| TestCaseError::fail(format!("{b:?} {line}")))?;
            prop_assert!(lines.next().is_none());
            prop_assert_eq!(row.time, Some(time));
            let series = series(row.series).map_err(TestCaseError::fail)?;
            prop_assert_eq!(&*series.measurement, &measurement);
            let read: Vec<_> = series.tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            prop_assert_eq!(read, tags.into_iter().collect::<Vec<_>>());
            let read: Result<Vec<_>, _> = row.fields().map(|f| f.map(|(k, v)| (field_name(k).into_owned(), v))).collect();
            let read = read.map_err(TestCaseError::fail)?;
            prop_assert_eq!(&read[0].1, &Value::Float(number));
            prop_assert_eq!(&read[1].1, &Value::Integer(integer));
            let rest: Vec<_> = read[2..].iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            let wanted: Vec<_> = texts.iter().map(|(k, v)| (k.clone(), Value::Text(v.clone().into()))).collect();
            prop_assert_eq!(rest, wanted);
        }

        #[test]
        fn any_text_is_an_answer(text in "[a-z,= \\\\\"#\n\r0-9.ié雨]{0,60}") {
            let mut before = 0;
            for line in Lines::new(&text) {
                let at = match &line { Ok(row) => row.line, Err(broken) => broken.line };
                prop_assert!(at > before, "lines are numbered upwards");
                before = at;
                if let Ok(row) = line {
                    let _ = (series(row.series), row.fields().count());
                }
            }
        }
    }
}
