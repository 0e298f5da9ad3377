//! The parts that pages are made of. Each is plain data with a method `html(&page)` that a template writes as `{{ part.html(page) }}`.

mod act;
mod badge;
mod chart;
mod filters;
mod form;
mod live;
mod notice;
mod table;
mod tiles;

pub use act::Act;
pub use badge::{Badge, Legend, State};
pub use chart::{LineChart, Series};
pub use filters::{Filter, FilterChoice, Filters};
pub use form::{Choice, ErrorSummary, Field, FieldKind};
pub use live::{LiveNumber, Quality, Trend};
pub use notice::{Notice, Tone};
pub use table::{Cell, Column, Download, Pager, Row, Table};
pub use tiles::{HeatStrip, MiniMap, Sparkline, project};

use crate::{Markup, Page};

/// An element that an island takes over: `inside` is what a reader sees without scripts. `props` becomes JSON in an attribute.
pub fn island(name: &'static str, props: &serde_json::Value, inside: &Markup) -> Markup {
    let mut out = Markup::default();
    out.raw("<div class=\"island\" data-island=\"").raw(name).raw("\" data-props=\"").text(props).raw("\">");
    out.push(inside).raw("</div>");
    out
}

/// The words of the map island, for its `labels`.
pub fn map_labels(page: &Page) -> serde_json::Value {
    let states: serde_json::Map<_, _> =
        State::ALL.iter().map(|s| (s.name().to_owned(), page.t(s.key()).into())).collect();
    serde_json::json!({
        "layers": page.t("island.layers"), "legend": page.t("legend.title"), "states": states,
        "simulated": page.t("state.simulated"), "stale": page.t("live.stale"), "none": page.t("live.none"),
        "open": page.t("island.open"), "close": page.t("island.close"), "time": page.t("island.time"),
        "now": page.t("island.now"), "play": page.t("island.play"), "pause": page.t("island.pause"),
        "failed": page.t("island.failed"), "map": page.t("island.map"), "cluster": page.t("island.cluster"), "gathered": page.t("island.gathered"),
        "zoomIn": page.t("island.zoom-in"), "zoomOut": page.t("island.zoom-out"),
        "attribution": page.t("island.attribution"), "north": page.t("island.north"),
    })
}
