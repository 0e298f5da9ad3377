//! The rows that a declaration is repeated over, from CSV, JSON, GeoJSON or the declaration itself.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::source::Folder;

/// The most rows one declaration may be repeated over.
const ROWS: usize = 100_000;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    pub rows: Rows,
    /// Dotted path to the array inside a JSON file.
    pub at: Option<String>,
    /// Field to the values that are kept.
    #[serde(default)]
    pub only: BTreeMap<String, Vec<Value>>,
    pub limit: Option<usize>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a file name or an array of inline tables is expected")]
pub enum Rows {
    File(String),
    Inline(Vec<Map<String, Value>>),
}

pub type Row = Map<String, Value>;

impl From {
    /// The rows in file order.
    pub fn load(&self, folder: &Folder) -> Result<Vec<Row>, String> {
        let mut rows = match &self.rows {
            Rows::Inline(rows) => rows.clone(),
            Rows::File(name) => self.read(folder, name)?,
        };
        rows.retain(|row| self.only.iter().all(|(field, kept)| lookup(row, field).is_some_and(|v| kept.contains(v))));
        if let Some(limit) = self.limit {
            rows.truncate(limit);
        }
        match rows.len() {
            0 => Err("no row is left: look at 'rows', 'at' and 'only'".to_owned()),
            n if n > ROWS => Err(format!("{n} rows; at most {ROWS} are allowed")),
            _ => Ok(rows),
        }
    }

    fn read(&self, folder: &Folder, name: &str) -> Result<Vec<Row>, String> {
        let text = folder.read(name).map_err(|m| m.to_string())?.text;
        let json = || serde_json::from_str::<Value>(&text).map_err(|e| format!("{name}:{}: {e}", e.line()));
        if name.ends_with(".csv") {
            return csv_rows(&text).map_err(|e| format!("{name}: {e}"));
        }
        if name.ends_with(".geojson") {
            return features(&json()?).map_err(|e| format!("{name}: {e}"));
        }
        if !name.ends_with(".json") {
            return Err(format!("{name}: .csv, .json or .geojson is expected"));
        }
        let mut value = &json()?;
        for step in self.at.iter().flat_map(|at| at.split('.')) {
            value = value.get(step).ok_or_else(|| format!("{name}: there is no '{step}' (at)"))?;
        }
        let array =
            value.as_array().ok_or_else(|| format!("{name}: an array of objects is expected; 'at' says where"))?;
        let object =
            |(i, v): (usize, &Value)| v.as_object().cloned().ok_or_else(|| format!("{name}: row {i} is not an object"));
        array.iter().enumerate().map(object).collect()
    }
}

fn csv_rows(text: &str) -> Result<Vec<Row>, csv::Error> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    reader
        .records()
        .map(|record| {
            let record = record?;
            Ok(header.iter().zip(record.iter()).map(|(k, v)| (k.to_owned(), Value::from(v))).collect())
        })
        .collect()
}

fn features(collection: &Value) -> Result<Vec<Row>, String> {
    let features = collection["features"].as_array().ok_or("a FeatureCollection is expected")?;
    features
        .iter()
        .map(|feature| {
            let mut row = feature["properties"].as_object().cloned().unwrap_or_default();
            let geometry = &feature["geometry"];
            if geometry["type"] == "Point" {
                row.insert("lon".to_owned(), geometry["coordinates"][0].clone());
                row.insert("lat".to_owned(), geometry["coordinates"][1].clone());
            }
            row.insert("geometry".to_owned(), Value::from(geometry.to_string()));
            Ok(row)
        })
        .collect()
}

/// The value at a dotted path; an array stands for its first element.
pub fn lookup<'a>(row: &'a Row, path: &str) -> Option<&'a Value> {
    // A field whose own name has dots is found first: CSV headers do.
    let mut value = match row.get(path) {
        Some(value) => value,
        None => {
            let (head, rest) = path.split_once('.')?;
            rest.split('.').try_fold(row.get(head)?, |v, step| v.get(step))?
        }
    };
    while let Value::Array(items) = value {
        value = items.first()?;
    }
    Some(value)
}

/// `text` with every `{field}` replaced from `row`. See docs/packs.md for the forms.
pub fn fill(text: &str, row: &Row) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = rest.as_bytes()[at];
        rest = &rest[at + 1..];
        if rest.as_bytes().first() == Some(&brace) {
            out.push(char::from(brace));
            rest = &rest[1..];
            continue;
        }
        let end = rest
            .find('}')
            .filter(|_| brace == b'{')
            .ok_or_else(|| format!("'{text}': a brace is not closed (write two for a brace itself)"))?;
        let hole = Hole::parse(&rest[..end]);
        rest = &rest[end + 1..];
        if let Some(value) = hole.value(row)? {
            let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            out.push_str(&if hole.slug { slug(&plain) } else { plain });
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// A JSON value with its texts filled in; `None` where a text was one optional field that the row lacks.
pub fn fill_value(value: &Value, row: &Row) -> Result<Option<Value>, String> {
    Ok(Some(match value {
        Value::String(text) => match only_hole(text) {
            Some(hole) if !hole.slug => return Ok(hole.value(row)?.cloned()),
            _ => Value::String(fill(text, row)?),
        },
        Value::Array(items) => {
            let filled: Result<Vec<_>, _> = items.iter().map(|v| fill_value(v, row)).collect();
            Value::Array(filled?.into_iter().flatten().collect())
        }
        Value::Object(fields) => {
            let mut out = Map::new();
            for (name, value) in fields {
                if let Some(value) = fill_value(value, row)? {
                    out.insert(name.clone(), value);
                }
            }
            Value::Object(out)
        }
        other => other.clone(),
    }))
}

struct Hole<'a> {
    path: &'a str,
    slug: bool,
    optional: bool,
}

impl<'a> Hole<'a> {
    fn parse(inside: &'a str) -> Self {
        let (inside, slug) = inside.strip_suffix("|slug").map_or((inside, false), |i| (i, true));
        let (path, optional) = inside.strip_suffix('?').map_or((inside, false), |i| (i, true));
        Self { path: path.trim(), slug, optional }
    }
    fn value<'r>(&self, row: &'r Row) -> Result<Option<&'r Value>, String> {
        let missing = |v: &&Value| !(v.is_null() || v.as_str() == Some(""));
        match lookup(row, self.path).filter(missing) {
            Some(value) => Ok(Some(value)),
            None if self.optional => Ok(None),
            None => Err(format!("the row has no '{}' (write {{{}?}} where that may be)", self.path, self.path)),
        }
    }
}

fn only_hole(text: &str) -> Option<Hole<'_>> {
    let inside = text.strip_prefix('{')?.strip_suffix('}')?;
    (!inside.contains(['{', '}'])).then(|| Hole::parse(inside))
}

/// Lower-case letters and digits, everything else a single `-`.
pub fn slug(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.ends_with('-') && !out.is_empty() {
            out.push('-');
        }
    }
    out.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn row() -> Row {
        json!({"LP_NUM": "AA6337", "LAT": 22.3, "name": {"en": ["Star Ferry", "Pier"]}, "none": null})
            .as_object()
            .cloned()
            .unwrap()
    }

    #[test]
    fn texts_are_filled() {
        let check = |text: &str, expect: &str| assert_eq!(fill(text, &row()).as_deref(), Ok(expect), "{text}");
        check("Lamppost {LP_NUM} at {LAT}", "Lamppost AA6337 at 22.3");
        check("lamppost-{LP_NUM|slug}", "lamppost-aa6337");
        check("{name.en}", "Star Ferry");
        check("{name.en|slug}", "star-ferry");
        check("{{x}}", "{x}");
        check("[{none?}]", "[]");
        for bad in ["{missing}", "{none}", "{LP_NUM", "a } b"] {
            assert!(fill(bad, &row()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_single_field_keeps_its_type() {
        let filled = fill_value(&json!({"lat": "{LAT}", "text": "{LAT} N", "gone": "{none?}"}), &row()).unwrap();
        assert_eq!(filled, Some(json!({"lat": 22.3, "text": "22.3 N"})));
    }

    proptest! {
        #[test]
        fn any_template_is_an_answer_not_a_panic(text in "[{}a|?.é]{0,20}") {
            let _ = fill(&text, &row());
            let _ = fill_value(&Value::String(text), &row());
        }

        #[test]
        fn a_text_without_braces_is_itself(text in "[^{}]{0,40}") {
            prop_assert_eq!(fill(&text, &row()), Ok(text));
        }
    }
}
