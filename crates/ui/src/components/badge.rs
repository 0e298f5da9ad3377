//! States as shape, colour and word: no state is told by colour alone.

use crate::{Markup, Page};

/// How something is. Each has a shape of its own, the same on badges, in legends and on the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    /// Works, within limits. Disc.
    Good,
    /// Worth knowing. Square.
    Notice,
    /// Outside of its usual range. Triangle.
    Warning,
    /// Somebody must act. Octagon.
    Alarm,
    /// Sends nothing. Ring with a bar.
    Offline,
    /// Not known. Ring.
    Unknown,
}

impl State {
    pub const ALL: [Self; 6] = [Self::Good, Self::Notice, Self::Warning, Self::Alarm, Self::Offline, Self::Unknown];

    /// The word in map layers (`state`), CSS classes and language keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Alarm => "alarm",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
        }
    }
    /// The outline in a 16 by 16 box. `web/src/shapes.ts` draws the same.
    pub(crate) const fn shape(self) -> &'static str {
        match self {
            Self::Good => "<circle cx=\"8\" cy=\"8\" r=\"6\"/>",
            Self::Notice => "<path d=\"M2.5 2.5h11v11h-11z\"/>",
            Self::Warning => "<path d=\"M8 1 15.5 15H.5z\"/>",
            Self::Alarm => "<path d=\"M5 .5h6L15.5 5v6L11 15.5H5L.5 11V5z\"/>",
            Self::Offline => "<path class=\"open\" d=\"M8 2a6 6 0 1 0 0 12A6 6 0 1 0 8 2zM3.8 12.2l8.4-8.4\"/>",
            Self::Unknown => "<circle class=\"open\" cx=\"8\" cy=\"8\" r=\"6\"/>",
        }
    }
    /// Key of the usual word for the state. lang-keys: state.*
    pub const fn key(self) -> &'static str {
        match self {
            Self::Good => "state.good",
            Self::Notice => "state.notice",
            Self::Warning => "state.warning",
            Self::Alarm => "state.alarm",
            Self::Offline => "state.offline",
            Self::Unknown => "state.unknown",
        }
    }
}

/// A state with its word.
#[derive(Clone, Debug)]
pub struct Badge {
    pub state: State,
    word: Option<String>,
}

impl Badge {
    /// With the usual word for the state.
    pub fn new(state: State) -> Self {
        Self { state, word: None }
    }
    /// With a word of the room's own, in the page's language.
    #[must_use]
    pub fn word(mut self, word: impl std::fmt::Display) -> Self {
        self.word = Some(word.to_string());
        self
    }
    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        out.raw("<span class=\"badge ").raw(self.state.name()).raw("\">");
        shape(&mut out, self.state);
        out.text(self.word.as_deref().unwrap_or_else(|| page.t(self.state.key()))).raw("</span>");
        out
    }
}

pub(crate) fn shape(out: &mut Markup, state: State) {
    out.raw("<svg class=\"shape ").raw(state.name()).raw("\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">");
    out.raw(state.shape()).raw("</svg>");
}

/// The hatched badge that simulated data wears everywhere.
pub(crate) fn simulated(out: &mut Markup, page: &Page) {
    out.raw("<span class=\"simulated\">").text(page.t("state.simulated")).raw("</span>");
}

/// What the shapes on a map or the lines of a chart mean.
#[derive(Clone, Debug, Default)]
pub struct Legend {
    items: Vec<(State, String)>,
    simulated: bool,
}

impl Legend {
    #[must_use]
    pub fn item(mut self, state: State, meaning: impl std::fmt::Display) -> Self {
        self.items.push((state, meaning.to_string()));
        self
    }
    /// Adds what the hatching means.
    #[must_use]
    pub fn with_simulated(mut self) -> Self {
        self.simulated = true;
        self
    }
    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        out.raw("<ul class=\"legend\" aria-label=\"").text(page.t("legend.title")).raw("\">");
        for (state, meaning) in &self.items {
            out.raw("<li>");
            shape(&mut out, *state);
            out.text(meaning).raw("</li>");
        }
        if self.simulated {
            out.raw("<li>");
            simulated(&mut out, page);
            out.text(page.t("legend.simulated")).raw("</li>");
        }
        out.raw("</ul>");
        out
    }
}
