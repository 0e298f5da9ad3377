//! JSON (RFC 8259) and GeoJSON (RFC 7946).

use std::borrow::Cow;

use serde_json::Value;

use super::{Fields, Item, Visit};

/// Fields are dotted paths into the row; those that begin with `$.` into the document, where feeds keep the time of all rows.
struct Node<'a> {
    root: &'a Value,
    row: &'a Value,
}

impl Fields for Node<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        match name.strip_prefix("$.") {
            // A part of the document as text, once more for every row, would let a small file keep a processor for hours.
            Some(path) => text(find(self.root, path).filter(|v| !v.is_object() && !v.is_array())?),
            None => text(find(self.row, name)?),
        }
    }
}

/// A field of a row that is not of a document: the dotted path in `row`, or behind `$.` in `root`.
pub(crate) fn field<'a>(root: &'a Value, row: &'a Value, name: &str) -> Option<&'a Value> {
    match name.strip_prefix("$.") {
        Some(path) => find(root, path),
        None => find(row, name),
    }
}

/// A Feature: the names of its properties, or a dotted path into the Feature itself.
struct Feature<'a>(Node<'a>);

impl Fields for Feature<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        let property = self.0.row.get("properties").and_then(|p| find(p, name)).and_then(text);
        property.or_else(|| self.0.get(name))
    }
}

/// The name as a whole wins over the path that it could be: publishers put dots into names.
fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if let Some(found) = value.get(path) {
        return Some(found);
    }
    path.split('.').try_fold(value, |value, step| match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => value.get(step),
    })
}

/// What has parts stays JSON.
#[expect(clippy::unnecessary_wraps, reason = "it ends chains of Option")]
fn text(value: &Value) -> Option<Cow<'_, str>> {
    Some(match value {
        Value::Null => Cow::Borrowed(""),
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    })
}

pub fn read(at: Option<&str>, text: &str, visit: &mut Visit<'_>) -> Result<(), String> {
    let root: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let rows = match at.filter(|at| !at.is_empty()) {
        None => Some(&root),
        Some(path) => find(&root, path),
    };
    let place = at.unwrap_or("the document");
    let rows = rows.and_then(Value::as_array).ok_or_else(|| format!("there is no array at '{place}'"))?;
    for (at, row) in rows.iter().enumerate() {
        let line = at as u64 + 1;
        let node = Node { root: &root, row };
        let item = match row {
            Value::Object(_) | Value::Array(_) => Item::Row { line, row: &node },
            _ => Item::Broken { line, text: "", reason: "an object or array is expected" },
        };
        if visit(item).is_break() {
            break;
        }
    }
    Ok(())
}

pub fn read_features(text: &str, visit: &mut Visit<'_>) -> Result<(), String> {
    let root: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let features = root.get("features").and_then(Value::as_array);
    let features = features.filter(|_| root.get("type").and_then(Value::as_str) == Some("FeatureCollection"));
    let features = features.ok_or_else(|| "a FeatureCollection is expected".to_owned())?;
    for (at, row) in features.iter().enumerate() {
        let line = at as u64 + 1;
        let feature = Feature(Node { root: &root, row });
        let item = if row.get("type").and_then(Value::as_str) == Some("Feature") {
            Item::Row { line, row: &feature }
        } else {
            Item::Broken { line, text: "", reason: "a Feature is expected" }
        };
        if visit(item).is_break() {
            break;
        }
    }
    Ok(())
}
