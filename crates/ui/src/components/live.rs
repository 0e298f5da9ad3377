//! A number that is measured somewhere in the city right now.

use kernel::Timestamp;

use super::badge::simulated;
use crate::{Markup, Page, format};

/// Which way a value moves. lang-keys: trend.*
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trend {
    Rising,
    Falling,
    Steady,
}

/// How far a value can be trusted. lang-keys: quality.*
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Quality {
    #[default]
    Good,
    /// Passed its checks only in part.
    Doubtful,
    /// Failed its checks; shown so that nobody wonders where it went.
    Bad,
    /// Calculated in place of a measurement that is missing.
    Estimated,
}

/// Value, unit, trend, as-of time and quality. Stale after its own interval, and says so.
#[derive(Clone, Debug)]
pub struct LiveNumber {
    label: String,
    what: String,
    value: Option<f64>,
    unit: String,
    decimals: Option<u8>,
    trend: Option<Trend>,
    at: Option<Timestamp>,
    quality: Quality,
    stale_after: Option<i64>,
    simulated: bool,
    href: Option<String>,
    datastream: Option<String>,
}

impl LiveNumber {
    /// `unit` is the symbol as SensorThings carries it (UCUM); `None` shows that there is no value.
    pub fn new(label: impl std::fmt::Display, value: Option<f64>, unit: &str) -> Self {
        Self {
            label: label.to_string(),
            what: String::new(),
            value,
            unit: unit.to_owned(),
            decimals: None,
            trend: None,
            at: None,
            quality: Quality::Good,
            stale_after: None,
            simulated: false,
            href: None,
            datastream: None,
        }
    }
    /// What is measured, where the label says only where.
    #[must_use]
    pub fn what(mut self, what: impl std::fmt::Display) -> Self {
        self.what = what.to_string();
        self
    }
    /// Places after the point; without it as many as the value needs, at most three.
    #[must_use]
    pub fn decimals(mut self, decimals: u8) -> Self {
        self.decimals = Some(decimals);
        self
    }
    #[must_use]
    pub fn trend(mut self, trend: Trend) -> Self {
        self.trend = Some(trend);
        self
    }
    /// When it was measured (phenomenonTime), not when it arrived.
    #[must_use]
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = Some(at);
        self
    }
    #[must_use]
    pub fn quality(mut self, quality: Quality) -> Self {
        self.quality = quality;
        self
    }
    /// Seconds after which a value counts as old: usually three of the sensor's own intervals.
    #[must_use]
    pub fn stale_after(mut self, seconds: i64) -> Self {
        self.stale_after = Some(seconds);
        self
    }
    #[must_use]
    pub fn simulated(mut self, simulated: bool) -> Self {
        self.simulated = simulated;
        self
    }
    /// Where the label leads, as a finished address (`page.href("/things/12")`).
    #[must_use]
    pub fn href(mut self, href: impl Into<String>) -> Self {
        self.href = Some(href.into());
        self
    }
    /// The Datastream's id: the `live` island then keeps value and time current.
    #[must_use]
    pub fn datastream(mut self, id: impl std::fmt::Display) -> Self {
        self.datastream = Some(id.to_string());
        self
    }

    pub fn is_stale(&self, now: Timestamp) -> bool {
        match (self.at, self.stale_after) {
            (Some(at), Some(seconds)) => now.micros_since(at) > seconds.saturating_mul(1_000_000),
            _ => false,
        }
    }

    pub fn html(&self, page: &Page) -> Markup {
        let stale = self.is_stale(page.now());
        let mut out = Markup::default();
        out.raw(if stale {
            "<div class=\"live stale\""
        } else if self.value.is_none() {
            "<div class=\"live absent\""
        } else {
            "<div class=\"live\""
        });
        let decimals = self.decimals.unwrap_or_else(|| self.value.map_or(0, format::decimals_for));
        if let Some(id) = &self.datastream {
            out.raw(" data-datastream=\"").text(id).raw("\" data-decimals=\"").text(decimals).raw("\"");
            if let Some(seconds) = self.stale_after {
                out.raw(" data-stale-after=\"").text(seconds).raw("\"");
            }
        }
        out.raw("><p class=\"label\">");
        match &self.href {
            Some(href) => out.raw("<a href=\"").text(href).raw("\">").text(&self.label).raw("</a>"),
            None => out.text(&self.label),
        };
        out.raw("</p>");
        if !self.what.is_empty() {
            out.raw("<p class=\"what\">").text(&self.what).raw("</p>");
        }
        out.raw("<p class=\"value\">");
        match self.value.filter(|v| v.is_finite()) {
            Some(value) => {
                out.raw("<data value=\"").text(value).raw("\">").text(format::number(value, decimals)).raw("</data>");
                let unit = format::unit(&page.site.catalogue, page.language, &self.unit);
                if !unit.is_empty() {
                    out.raw(" <span class=\"unit\">").text(unit).raw("</span>");
                }
                self.trend_html(&mut out, page);
            }
            None => {
                out.raw("<span class=\"none\">").text(page.t("live.none")).raw("</span>");
            }
        }
        out.raw("</p><p class=\"as-of\">");
        if let Some(at) = &self.at {
            out.push(&page.ago(at));
        }
        // Present but hidden while fresh: the `live` island shows it when the value grows old in front of the reader.
        if stale || self.datastream.is_some() {
            out.raw(" <span class=\"stale-mark\"").raw(if stale { ">" } else { " hidden>" });
            out.text(page.t("live.stale")).raw("</span>");
        }
        let quality = match self.quality {
            Quality::Good => None,
            Quality::Doubtful => Some("quality.doubtful"),
            Quality::Bad => Some("quality.bad"),
            Quality::Estimated => Some("quality.estimated"),
        };
        if let Some(key) = quality {
            out.raw(" <span class=\"quality\">").text(page.t(key)).raw("</span>");
        }
        if self.simulated {
            out.raw(" ");
            simulated(&mut out, page);
        }
        out.raw("</p></div>");
        out
    }

    fn trend_html(&self, out: &mut Markup, page: &Page) {
        let (path, key) = match self.trend {
            None => return,
            Some(Trend::Rising) => ("<path d=\"M2 13 13 2M5 2h8v8\"/>", "trend.rising"),
            Some(Trend::Falling) => ("<path d=\"m2 3 11 11M13 6v8H5\"/>", "trend.falling"),
            Some(Trend::Steady) => ("<path d=\"M1 8h13M10 4l4 4-4 4\"/>", "trend.steady"),
        };
        out.raw(" <svg class=\"trend\" viewBox=\"0 0 16 16\" role=\"img\" aria-label=\"").text(page.t(key));
        out.raw("\">").raw(path).raw("</svg>");
    }
}
