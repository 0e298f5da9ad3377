//! MultiDatastreams on the page of their Thing: a table for each, with a line for each element of its latest result.

use std::collections::HashMap;

use kernel::{Tenant, Text};
use records::{Param, Read, params};
use serde_json::{Value, value::RawValue};
use ui::{Cell, Column, Page, Table};

use super::{
    Pages, decimals,
    directory::{list, object},
    name_of,
};
use crate::{
    Scope,
    catalog::schema::{ELEMENTS, PLACE},
    model::{EntityId, Observation, ResultValue},
};

/// MultiDatastreams on the page of a Thing; it says when there are more.
pub const MOST: usize = 50;

#[derive(Clone, Debug, PartialEq)]
pub struct MultiEntry {
    pub id: EntityId,
    pub name: Text,
    pub simulated: bool,
    pub elements: Vec<Element>,
}

/// What one element of a result is.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// Of the ObservedProperty; `None` when the reader may not see that.
    pub name: Option<Text>,
    pub unit: String,
}

/// The MultiDatastreams of a Thing, as far as `scope` may see them; up to [`MOST`] of them, and whether there are more.
pub fn of_thing(
    read: &mut Read<'_>,
    scope: &Scope,
    thing: EntityId,
) -> Result<(Vec<MultiEntry>, bool), records::Error> {
    let sql = "SELECT id, name, units, properties, tenant, public FROM sensing_multi_datastream
               WHERE thing_id = $1 ORDER BY id LIMIT $2";
    let mut all = read.query(sql, params![thing.0, MOST as i64 + 1], |row| {
        let seen = scope.admits(&row.get::<Tenant>(4)?, row.get(5)?);
        let name: String = row.get(1)?;
        let units: Vec<Value> = serde_json::from_str(&row.get::<String>(2)?).unwrap_or_default();
        let properties = object(row.get(3)?);
        let unit = |unit: &Value| unit["symbol"].as_str().unwrap_or_default().to_owned();
        let entry = MultiEntry {
            id: EntityId(row.get(0)?),
            name: name_of(&name, &properties),
            simulated: properties.get("simulated") == Some(&Value::Bool(true)),
            elements: units.iter().map(|u| Element { name: None, unit: unit(u) }).collect(),
        };
        Ok(if seen { Some(entry) } else { None })
    })?;
    let more = all.len() > MOST;
    all.truncate(MOST);
    let mut all: Vec<MultiEntry> = all.into_iter().flatten().collect();
    if all.is_empty() {
        return Ok((all, more));
    }
    let at: HashMap<i64, usize> = all.iter().enumerate().map(|(at, entry)| (entry.id.0, at)).collect();
    let (marks, values): (String, Vec<Param<'static>>) = list(&all.iter().map(|entry| entry.id.0).collect::<Vec<_>>());
    let sql = format!(
        "SELECT l.multi_datastream_id, l.{PLACE}, p.name, p.properties, p.tenant, p.public FROM {ELEMENTS} l
         JOIN sensing_observed_property p ON p.id = l.observed_property_id WHERE l.multi_datastream_id IN ({marks})"
    );
    read.query(&sql, &values, |row| {
        let place = usize::try_from(row.get::<i64>(1)?).unwrap_or(usize::MAX);
        let entry = at.get(&row.get::<i64>(0)?).and_then(|at| all.get_mut(*at));
        if let Some(element) = entry.and_then(|entry| entry.elements.get_mut(place))
            && scope.admits(&row.get::<Tenant>(4)?, row.get(5)?)
        {
            element.name = Some(name_of(&row.get::<String>(2)?, &object(row.get(3)?)));
        }
        Ok(())
    })?;
    Ok((all, more))
}

/// The cells of a result's elements, by their places; a result that is not there, or is no array, has none.
fn cells(latest: Option<&Observation>, elements: &[Element]) -> Vec<Cell> {
    let raw: Vec<&RawValue> = match latest.map(|o| &o.result) {
        Some(ResultValue::Json(raw)) => serde_json::from_str(raw.get()).unwrap_or_default(),
        _ => Vec::new(),
    };
    let cell = |(place, element): (usize, &Element)| match raw.get(place).map(|raw| serde_json::from_str(raw.get())) {
        Some(Ok(Value::Number(n))) => {
            let n = n.as_f64().unwrap_or_default();
            Cell::quantity(n, decimals(n), &element.unit)
        }
        Some(Ok(Value::String(text))) => Cell::text(text),
        Some(Ok(Value::Null) | Err(_)) | None => Cell::Empty,
        Some(Ok(other)) => Cell::text(other),
    };
    elements.iter().enumerate().map(cell).collect()
}

/// The latest value of each element.
pub fn table(pages: &Pages, page: &Page, entry: &MultiEntry) -> Table {
    let latest = pages.observe.head(entry.id).map(|head| head.latest);
    let at = latest.as_ref().map(|o| o.phenomenon.end);
    let simulated = if entry.simulated { Cell::text(page.t("state.simulated")) } else { Cell::Empty };
    let rows = entry.elements.iter().zip(cells(latest.as_ref(), &entry.elements)).enumerate();
    let rows = rows.map(|(place, (element, value))| {
        let name = match &element.name {
            Some(name) => page.text(name).to_owned(),
            None => page.msg("thing.element").n(place as u64 + 1).to_string(),
        };
        vec![Cell::text(name), value, at.map_or(Cell::Empty, Cell::Ago), simulated.clone()]
    });
    Table::new(page.text(&entry.name))
        .column(Column::text("property", page.t("thing.property")))
        .column(Column::number("value", page.t("thing.value")))
        .column(Column::text("at", page.t("thing.as-of")))
        .column(Column::text("origin", page.t("thing.origin")))
        .rows(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::{Interval, Timestamp};

    #[test]
    fn a_cell_is_what_stands_at_its_place() {
        let elements = ["m", "", "", "", ""].map(|unit| Element { name: None, unit: unit.to_owned() });
        let shown = |result: ResultValue| {
            let observation = Observation {
                datastream: EntityId(1),
                phenomenon: Interval::instant(Timestamp::from_secs(0)),
                result_time: None,
                result,
                feature: EntityId(1),
                quality: None,
                valid: None,
                parameters: None,
            };
            let text = |cell: &Cell| match cell {
                Cell::Number { value, unit, .. } => format!("{value} {unit}"),
                Cell::Text(text) => text.clone(),
                Cell::Empty => "-".to_owned(),
                other => panic!("{other:?}"),
            };
            cells(Some(&observation), &elements).iter().map(text).collect::<Vec<_>>()
        };
        let json = |text: &str| ResultValue::Json(RawValue::from_string(text.to_owned()).expect("json").into());
        assert_eq!(shown(json(r#"[1.5,"open",true,null,{"a":1}]"#)), ["1.5 m", "open", "true", "-", r#"{"a":1}"#]);
        // Fewer than there are elements, more, and none at all: nothing is made up.
        assert_eq!(shown(json("[1]")), ["1 m", "-", "-", "-", "-"]);
        assert_eq!(shown(json("[1,2,3,4,5,6]")).len(), 5);
        assert_eq!(shown(ResultValue::Number(3.0)), ["-"; 5]);
        assert_eq!(cells(None, &elements).len(), 5);
    }
}
