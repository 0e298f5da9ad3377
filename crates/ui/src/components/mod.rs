//! The parts that pages are made of. Each is plain data with a method `html(&page)` that a template writes as `{{ part.html(page) }}`.

mod badge;
mod chart;
mod filters;
mod form;
mod live;
mod notice;
mod table;

pub use badge::{Badge, Legend, State};
pub use chart::{LineChart, Series};
pub use filters::{Filter, FilterChoice, Filters};
pub use form::{Choice, ErrorSummary, Field, FieldKind};
pub use live::{LiveNumber, Quality, Trend};
pub use notice::{Notice, Tone};
pub use table::{Cell, Column, Download, Pager, Row, Table};

use crate::Markup;

/// An element that an island takes over: `inside` is what a reader sees without scripts. `props` becomes JSON in an attribute.
pub fn island(name: &'static str, props: &serde_json::Value, inside: &Markup) -> Markup {
    let mut out = Markup::default();
    out.raw("<div class=\"island\" data-island=\"").raw(name).raw("\" data-props=\"").text(props).raw("\">");
    out.push(inside).raw("</div>");
    out
}
