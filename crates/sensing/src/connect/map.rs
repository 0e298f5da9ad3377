//! Rows to readings, by declaration. Pure.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use kernel::Interval;
use serde_json::{json, value::RawValue};

use super::{
    declaration::{Columns, Connector},
    report::{EXAMPLES, Rejection, Report},
    rows::{Fields, Item},
    template,
};
use crate::model::raw;

/// One published value and where it shall go; what its text means depends on the Datastream (see [`super::fit`]).
#[derive(Clone, Debug)]
pub struct Reading {
    pub line: u64,
    pub field: Arc<str>,
    /// The Datastream's key.
    pub datastream: Arc<str>,
    /// The place of its plan in the declaration, which holds scale and offset.
    pub plan: usize,
    pub at: Interval,
    pub content: Content,
    pub quality: Option<Arc<RawValue>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// As published.
    Text(Box<str>),
    /// What a placeholder stands for, in the Datastream's unit.
    Number(f64),
    Missing,
}

/// Texts that are kept once: Datastreams' keys and fields' names. What goes beyond is refused, because a city has no such feed.
const MAX_NAMES: usize = 200_000;

/// Digits with one comma among them.
pub(crate) fn is_comma_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let comma = digits.split_once(',');
    comma.is_some_and(|(whole, rest)| {
        let (rest, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !rest.is_empty() && [whole, rest, exponent].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit()))
    })
}

pub struct Mapper<'a> {
    connector: &'a Connector,
    names: HashSet<Arc<str>>,
    qualities: HashMap<(String, Option<String>), Arc<RawValue>>,
    key: String,
}

/// `resultQuality` as connectors write it: `{"code":"missing"}`, and the publisher's own flag beside a code that says too little.
pub fn quality(code: &str, flag: Option<&str>) -> Arc<RawValue> {
    raw(&match flag {
        None => json!({ "code": code }),
        Some(flag) => json!({ "code": code, "flag": flag }),
    })
}

pub const MISSING: &str = "missing";

impl<'a> Mapper<'a> {
    pub fn new(connector: &'a Connector) -> Self {
        Self { connector, names: HashSet::new(), qualities: HashMap::new(), key: String::new() }
    }

    /// Takes what the reader met into the account, and the readings of a row into `out`.
    pub fn take(&mut self, item: &Item<'_>, report: &mut Report, out: &mut Vec<Reading>) {
        match item {
            Item::Columns(names) => self.columns(names, report),
            Item::Skipped => {
                report.rows += 1;
                report.rows_skipped += 1;
            }
            Item::Broken { line, text, reason } => {
                report.rows += 1;
                report.reject_row(Rejection::new(*line, "", text, reason));
            }
            Item::Row { line, row } => {
                report.rows += 1;
                self.row(*line, *row, report, out);
            }
        }
    }

    /// A new column must not go unnoticed.
    fn columns(&self, names: &[String], report: &mut Report) {
        let mut used: HashSet<&str> = self.connector.needed().into_iter().collect();
        for plan in &self.connector.plans {
            match &plan.columns {
                Columns::One(name) => {
                    used.insert(name);
                }
                Columns::Many(names) => used.extend(names.iter().map(String::as_str)),
            }
        }
        let unread = names.iter().filter(|n| !used.contains(n.as_str()));
        report.unread_columns = unread.map(|n| super::report::shorten(n)).take(EXAMPLES).collect();
    }

    fn row(&mut self, line: u64, row: &dyn Fields, report: &mut Report, out: &mut Vec<Reading>) {
        let connector = self.connector;
        for (field, wanted) in &connector.only {
            let text = row.get(field).unwrap_or_default();
            if !wanted.iter().any(|w| w == text.trim()) {
                report.rows_skipped += 1;
                return;
            }
        }
        let at = match connector.when.of(row) {
            Ok(at) => at,
            Err((field, text, reason)) => return report.reject_row(Rejection::new(line, &field, &text, &reason)),
        };
        let flagged = self.flag(row);
        for (nth, plan) in connector.plans.iter().enumerate() {
            let columns = match &plan.columns {
                Columns::One(name) => std::slice::from_ref(name),
                Columns::Many(names) => names,
            };
            for column in columns {
                let Some(text) = row.get(column) else {
                    if !plan.optional {
                        report.values += 1;
                        let why = row.why_not(column).unwrap_or("the row has no such field");
                        report.reject(Rejection::new(line, column, "", why));
                    }
                    continue;
                };
                report.values += 1;
                let found = plan.datastream.render(&connector.tables, &mut self.key, |name| {
                    if name == template::COLUMN { Some(Cow::Borrowed(column.as_str())) } else { row.get(name) }
                });
                if let Err((field, text, reason)) = found {
                    report.reject(Rejection::new(line, &field, &text, &reason));
                    continue;
                }
                let (content, quality) = self.content(text.trim(), flagged.clone());
                let key = std::mem::take(&mut self.key);
                match (self.name(&key), self.name(column)) {
                    (Some(datastream), Some(field)) => {
                        out.push(Reading { line, field, datastream, plan: nth, at, content, quality });
                    }
                    _ => report.reject(Rejection::new(line, column, &key, "the file names too many Datastreams")),
                }
                self.key = key;
            }
        }
    }

    fn name(&mut self, text: &str) -> Option<Arc<str>> {
        if let Some(known) = self.names.get(text) {
            return Some(known.clone());
        }
        if self.names.len() >= MAX_NAMES {
            return None;
        }
        let name: Arc<str> = text.into();
        self.names.insert(name.clone());
        Some(name)
    }

    fn quality(&mut self, code: &str, flag: Option<&str>) -> Arc<RawValue> {
        let key = (code.to_owned(), flag.map(str::to_owned));
        if let Some(known) = self.qualities.get(&key) {
            return known.clone();
        }
        let made = quality(code, flag);
        if self.qualities.len() < 1_000 {
            self.qualities.insert(key, made.clone());
        }
        made
    }

    /// What the row's own field says about its quality.
    fn flag(&mut self, row: &dyn Fields) -> Option<Arc<RawValue>> {
        let declared = self.connector.quality.as_ref()?;
        let text = row.get(&declared.field).unwrap_or_default();
        let text = text.trim();
        if declared.good.iter().any(|good| good == text) {
            return None;
        }
        Some(match declared.flags.get(text) {
            Some(code) => self.quality(code, None),
            // A flag that the publisher has invented since is told with the value, which would otherwise be lost.
            None => self.quality("unknown", Some(&super::report::shorten(text))),
        })
    }

    /// A placeholder says more than the row's flag.
    fn content(&mut self, text: &str, flagged: Option<Arc<RawValue>>) -> (Content, Option<Arc<RawValue>>) {
        match self.connector.placeholders.get(text) {
            None if self.connector.decimal == ',' && is_comma_number(text) => {
                (Content::Text(text.replace(',', ".").into()), flagged)
            }
            None => (Content::Text(text.into()), flagged),
            Some(placeholder) => {
                let content = placeholder.value.map_or(Content::Missing, Content::Number);
                (content, Some(self.quality(&placeholder.quality, None)))
            }
        }
    }
}
