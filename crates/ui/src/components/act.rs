//! A button that changes something: a form of its own, with the page's CSRF token.

use crate::{Markup, Page};

#[derive(Clone, Debug)]
pub struct Act {
    href: String,
    label: String,
    about: String,
    class: &'static str,
    fields: Vec<(&'static str, String)>,
}

impl Act {
    /// Posts to `href`.
    pub fn new(href: impl Into<String>, label: impl std::fmt::Display) -> Self {
        Self {
            href: href.into(),
            label: label.to_string(),
            about: String::new(),
            class: "button quiet",
            fields: Vec::new(),
        }
    }
    /// What the button is about, for those who hear it without its row (WCAG 2.4.6).
    #[must_use]
    pub fn about(mut self, what: impl std::fmt::Display) -> Self {
        self.about = what.to_string();
        self
    }
    #[must_use]
    pub fn field(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }
    /// The main thing to do here.
    #[must_use]
    pub fn main(mut self) -> Self {
        self.class = "button";
        self
    }
    /// Takes something away.
    #[must_use]
    pub fn danger(mut self) -> Self {
        self.class = "button danger";
        self
    }

    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        out.raw("<form class=\"act\" method=\"post\" action=\"").text(&self.href).raw("\">").push(&page.csrf_field());
        for (name, value) in &self.fields {
            out.raw("<input type=\"hidden\" name=\"").raw(name).raw("\" value=\"").text(value).raw("\">");
        }
        out.raw("<button class=\"").raw(self.class).raw("\">").text(&self.label);
        if !self.about.is_empty() {
            out.raw("<span class=\"visually-hidden\"> ").text(&self.about).raw("</span>");
        }
        out.raw("</button></form>");
        out
    }
}
