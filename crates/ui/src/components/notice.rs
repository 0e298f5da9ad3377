//! A sentence that the reader must not miss: what was done, what to know, what failed.

use super::{State, badge::shape};
use crate::{Markup, Page};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    Done,
    Information,
    Warning,
    Failure,
}

#[derive(Clone, Debug)]
pub struct Notice {
    tone: Tone,
    text: String,
    action: Option<(String, String)>,
    undo: Option<(String, String)>,
}

impl Notice {
    pub fn new(tone: Tone, text: impl std::fmt::Display) -> Self {
        Self { tone, text: text.to_string(), action: None, undo: None }
    }
    /// Where to go from here.
    #[must_use]
    pub fn link(mut self, href: impl Into<String>, label: impl std::fmt::Display) -> Self {
        self.action = Some((href.into(), label.to_string()));
        self
    }
    /// A button that takes the step back: posts to `href`, with the page's CSRF token.
    #[must_use]
    pub fn undo(mut self, href: impl Into<String>, label: impl std::fmt::Display) -> Self {
        self.undo = Some((href.into(), label.to_string()));
        self
    }
    pub fn html(&self, page: &Page) -> Markup {
        let (class, role, state) = match self.tone {
            Tone::Done => ("done", "status", State::Good),
            Tone::Information => ("information", "status", State::Notice),
            Tone::Warning => ("warning", "status", State::Warning),
            Tone::Failure => ("failure", "alert", State::Alarm),
        };
        let mut out = Markup::default();
        out.raw("<div class=\"message ").raw(class).raw("\" role=\"").raw(role).raw("\">");
        shape(&mut out, state);
        out.raw("<p>").text(&self.text);
        if let Some((href, label)) = &self.action {
            out.raw(" <a href=\"").text(href).raw("\">").text(label).raw("</a>");
        }
        out.raw("</p>");
        if let Some((href, label)) = &self.undo {
            out.raw("<form method=\"post\" action=\"").text(href).raw("\">").push(&page.csrf_field());
            out.raw("<button class=\"button quiet\">").text(label).raw("</button></form>");
        }
        out.raw("</div>");
        out
    }
}
