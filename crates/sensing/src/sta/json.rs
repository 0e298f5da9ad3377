//! Answers as text, written straight into one buffer: no tree of values for each row.

use kernel::{Interval, Timestamp};
use serde_json::Value;

use crate::{
    catalog::{Field, Schema},
    model::{EntityId, EntityType, Observation, ObservationId, ResultValue},
    query::{Answer, Format, Inline, Item, Next, Options, Plan, Row, encode},
};

/// A buffer that knows the service's root, such as `https://city.example/v1.1`.
pub struct Writer<'a> {
    pub out: Vec<u8>,
    pub base: &'a str,
}

impl<'a> Writer<'a> {
    pub fn new(base: &'a str) -> Self {
        Self { out: Vec::with_capacity(4_096), base }
    }
    pub fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }
    /// A JSON string.
    pub fn string(&mut self, text: &str) {
        self.out.push(b'"');
        let bytes = text.as_bytes();
        let mut start = 0;
        for (i, &b) in bytes.iter().enumerate() {
            let escape: &[u8] = match b {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                0..=0x1f => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    self.out.extend_from_slice(&bytes[start..i]);
                    self.raw("\\u00");
                    self.out.push(HEX[usize::from(b >> 4)]);
                    self.out.push(HEX[usize::from(b & 15)]);
                    start = i + 1;
                    continue;
                }
                _ => continue,
            };
            self.out.extend_from_slice(&bytes[start..i]);
            self.out.extend_from_slice(escape);
            start = i + 1;
        }
        self.out.extend_from_slice(&bytes[start..]);
        self.out.push(b'"');
    }
    pub fn integer(&mut self, value: i64) {
        self.raw(itoa::Buffer::new().format(value));
    }
    /// The shortest number that reads back the same; whole ones without a fraction.
    pub fn number(&mut self, value: f64) {
        if value.fract() == 0.0 && value.abs() < 9e15 && !(value == 0.0 && value.is_sign_negative()) {
            self.integer(value as i64);
        } else if value.is_finite() {
            self.raw(ryu::Buffer::new().format_finite(value));
        } else {
            self.raw("null");
        }
    }
    pub fn time(&mut self, at: Timestamp) {
        use std::io::Write as _;
        // Writing into a Vec cannot fail.
        let _ = write!(self.out, "\"{at}\"");
    }
    pub fn interval(&mut self, interval: Interval) {
        use std::io::Write as _;
        let _ = write!(self.out, "\"{interval}\"");
    }
    fn separate(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(b',');
        }
    }
    fn name(&mut self, first: &mut bool, name: &str) {
        self.separate(first);
        self.out.push(b'"');
        self.raw(name);
        self.raw("\":");
    }

    fn observation_id(&mut self, id: &ObservationId) {
        use std::io::Write as _;
        let _ = write!(self.out, "{id}");
    }
    /// The address of an entity, without quotes around it.
    pub fn address(&mut self, item: &Item) {
        self.raw(self.base);
        self.out.push(b'/');
        match item {
            Item::Entity(entity, _) => {
                self.raw(entity.entity.set());
                self.out.push(b'(');
                self.integer(entity.id.0);
                self.out.push(b')');
            }
            Item::Observation(o, _) => self.observation_address(&o.id()),
        }
    }
    fn observation_address(&mut self, id: &ObservationId) {
        self.raw("Observations('");
        self.observation_id(id);
        self.raw("')");
    }
    /// The selfLink of an Observation as a JSON string.
    pub fn observation_link(&mut self, id: &ObservationId) {
        self.out.push(b'"');
        self.raw(self.base);
        self.out.push(b'/');
        self.observation_address(id);
        self.out.push(b'"');
    }

    fn field(&mut self, field: &Field) {
        match field {
            Field::Null => self.raw("null"),
            Field::Text(text) => self.string(text),
            Field::Json(json) => self.raw(json),
            Field::Time(at) => self.time(*at),
        }
    }
    pub fn result(&mut self, result: &ResultValue) {
        match result {
            ResultValue::Number(number) => self.number(*number),
            ResultValue::Json(raw) => self.raw(raw.get()),
        }
    }
    /// A property of an Observation; `false` when it has none.
    fn observed(&mut self, o: &Observation, index: usize) {
        match index {
            0 => self.interval(o.phenomenon),
            1 => match o.result_time {
                Some(at) => self.time(at),
                None => self.raw("null"),
            },
            2 => self.result(&o.result),
            3 => self.raw(o.quality.as_ref().map_or("null", |r| r.get())),
            4 => match o.valid {
                Some(valid) => self.interval(valid),
                None => self.raw("null"),
            },
            _ => self.raw(o.parameters.as_ref().map_or("null", |r| r.get())),
        }
    }

    pub fn row(&mut self, plan: &Plan, row: &Row) {
        let schema = Schema::of(plan.entity);
        let mut first = true;
        self.out.push(b'{');
        if plan.select.id {
            self.name(&mut first, "@iot.id");
            match &row.item {
                Item::Entity(entity, _) => self.integer(entity.id.0),
                Item::Observation(o, _) => {
                    self.out.push(b'"');
                    self.observation_id(&o.id());
                    self.out.push(b'"');
                }
            }
        }
        if plan.select.self_link {
            self.name(&mut first, "@iot.selfLink");
            self.out.push(b'"');
            self.address(&row.item);
            self.out.push(b'"');
        }
        for (index, property) in schema.properties.iter().enumerate() {
            if !plan.select.properties.get(index).copied().unwrap_or(false) {
                continue;
            }
            match &row.item {
                Item::Entity(entity, extent) => match entity.fields.get(index) {
                    Some(Field::Null) | None => {
                        if let Some(interval) = extent.of(property.name) {
                            self.name(&mut first, property.name);
                            self.interval(interval);
                        }
                    }
                    Some(field) => {
                        self.name(&mut first, property.name);
                        self.field(field);
                    }
                },
                Item::Observation(o, _) => {
                    // resultTime is mandatory and null when unknown (18-088 table 12); what is optional is left out.
                    let absent = match index {
                        3 => o.quality.is_none(),
                        4 => o.valid.is_none(),
                        5 => o.parameters.is_none(),
                        _ => false,
                    };
                    if !absent {
                        self.name(&mut first, property.name);
                        self.observed(o, index);
                    }
                }
            }
        }
        for (index, navigation) in schema.navigation.iter().enumerate() {
            if let Some(at) = plan.expand.iter().position(|e| e.index == index) {
                if let (Some(expansion), Some(inline)) = (plan.expand.get(at), row.expanded.get(at)) {
                    self.inline(&mut first, navigation.name, expansion, inline, &row.item);
                }
            } else if plan.select.navigation.get(index).copied().unwrap_or(false)
                && row.item.link_key(navigation).is_some()
            {
                self.separate(&mut first);
                self.out.push(b'"');
                self.raw(navigation.name);
                self.raw("@iot.navigationLink\":\"");
                self.address(&row.item);
                self.out.push(b'/');
                self.raw(navigation.name);
                self.out.push(b'"');
            }
        }
        self.out.push(b'}');
    }

    fn inline(
        &mut self,
        first: &mut bool,
        name: &str,
        expansion: &crate::query::Expansion,
        inline: &Inline,
        parent: &Item,
    ) {
        match inline {
            Inline::One(None) => {
                self.name(first, name);
                self.raw("null");
            }
            Inline::One(Some(row)) => {
                self.name(first, name);
                self.row(&expansion.plan, row);
            }
            Inline::Many(answer) => {
                if let Some(count) = answer.count {
                    self.name(first, &format!("{name}@iot.count"));
                    self.integer(i64::try_from(count).unwrap_or(i64::MAX));
                }
                self.name(first, name);
                self.rows(&expansion.plan, answer);
                if let Some(next) = &answer.next
                    && expansion.plan.top > 0
                {
                    self.name(first, &format!("{name}@iot.nextLink"));
                    self.out.push(b'"');
                    self.address(parent);
                    self.out.push(b'/');
                    self.raw(name);
                    let query = next_query(&expansion.options, next);
                    self.raw("?");
                    self.raw(&query);
                    self.out.push(b'"');
                }
            }
        }
    }

    fn rows(&mut self, plan: &Plan, answer: &Answer) {
        self.out.push(b'[');
        for (i, row) in answer.rows.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.row(plan, row);
        }
        self.out.push(b']');
    }

    /// A collection: count, entities, link to the next page.
    pub fn collection(&mut self, plan: &Plan, answer: &Answer, next: Option<&str>, references: bool) {
        self.out.push(b'{');
        if let Some(count) = answer.count {
            self.raw("\"@iot.count\":");
            self.integer(i64::try_from(count).unwrap_or(i64::MAX));
            self.out.push(b',');
        }
        if let Some(next) = next {
            self.raw("\"@iot.nextLink\":");
            self.string(next);
            self.out.push(b',');
        }
        self.raw("\"value\":");
        if references {
            self.out.push(b'[');
            for (i, row) in answer.rows.iter().enumerate() {
                self.raw(if i > 0 { ",{\"@iot.selfLink\":\"" } else { "{\"@iot.selfLink\":\"" });
                self.address(&row.item);
                self.raw("\"}");
            }
            self.out.push(b']');
        } else if plan.format == Format::DataArray {
            self.data_array(plan, answer);
        } else {
            self.rows(plan, answer);
        }
        self.out.push(b'}');
    }

    /// Observations grouped by Datastream or MultiDatastream (18-088 section 13.1).
    fn data_array(&mut self, plan: &Plan, answer: &Answer) {
        let schema = Schema::of(EntityType::Observation);
        let mut groups: Vec<(EntityId, EntityType, Vec<&Observation>)> = Vec::new();
        for row in &answer.rows {
            let Item::Observation(o, of) = &row.item else { continue };
            match groups.iter_mut().find(|(id, ..)| *id == o.datastream) {
                Some((.., group)) => group.push(o),
                None => groups.push((o.datastream, *of, vec![o])),
            }
        }
        // What nobody asked for by name and no row has is not a column.
        let everything = plan.select.properties.iter().all(|shown| *shown);
        let present = |index: usize| match index {
            3 => groups.iter().any(|(.., g)| g.iter().any(|o| o.quality.is_some())),
            4 => groups.iter().any(|(.., g)| g.iter().any(|o| o.valid.is_some())),
            5 => groups.iter().any(|(.., g)| g.iter().any(|o| o.parameters.is_some())),
            _ => true,
        };
        let columns: Vec<usize> = (0..schema.properties.len())
            .filter(|&i| plan.select.properties.get(i).copied().unwrap_or(false) && (!everything || present(i)))
            .collect();
        self.out.push(b'[');
        for (i, (datastream, of, group)) in groups.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            self.raw("{\"");
            self.raw(of.singular());
            self.raw("@iot.navigationLink\":\"");
            self.raw(self.base);
            self.raw("/");
            self.raw(of.set());
            self.raw("(");
            self.integer(datastream.0);
            self.raw(")\",\"components\":[");
            let mut first = true;
            if plan.select.id {
                self.separate(&mut first);
                self.raw("\"id\"");
            }
            for &index in &columns {
                self.separate(&mut first);
                self.string(schema.properties[index].name);
            }
            self.raw("],\"dataArray@iot.count\":");
            self.integer(group.len() as i64);
            self.raw(",\"dataArray\":[");
            for (i, o) in group.iter().enumerate() {
                self.raw(if i > 0 { ",[" } else { "[" });
                let mut first = true;
                if plan.select.id {
                    self.separate(&mut first);
                    self.out.push(b'"');
                    self.observation_id(&o.id());
                    self.out.push(b'"');
                }
                for &index in &columns {
                    self.separate(&mut first);
                    self.observed(o, index);
                }
                self.out.push(b']');
            }
            self.raw("]}");
        }
        self.out.push(b']');
    }

    pub fn value(&mut self, value: &Value) {
        self.raw(&value.to_string());
    }
}

/// The options of a question as a query part, to go on behind `next`.
pub fn next_query(options: &Options, next: &Next) -> String {
    let mut query = String::new();
    let mut add = |name: &str, value: &str| {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(name);
        query.push('=');
        encode(value, &mut query);
    };
    if let Some(filter) = &options.filter {
        add("$filter", &filter.to_string());
    }
    if !options.order.is_empty() {
        add("$orderby", &options.order_text());
    }
    if !options.expand.is_empty() {
        add("$expand", &options.expand_text());
    }
    if let Some(select) = options.select_text() {
        add("$select", &select);
    }
    if let Some(top) = options.top {
        add("$top", &top.to_string());
    }
    if options.count == Some(true) {
        add("$count", "true");
    }
    if options.format != Format::Json {
        add("$resultFormat", options.format.as_str());
    }
    match next {
        Next::Token(token) => add("$skiptoken", token),
        Next::Skip(skip) => add("$skip", &skip.to_string()),
    }
    query
}
