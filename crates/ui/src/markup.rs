//! HTML that is already safe. The only type that templates write without escaping.

use std::fmt::{self, Display, Write};

/// Finished HTML. [`Markup::raw`] takes only text known at compile time, so nothing that came from outside can enter unescaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Markup(String);

impl Markup {
    /// Appends markup written in this program.
    pub fn raw(&mut self, html: &'static str) -> &mut Self {
        self.0.push_str(html);
        self
    }
    /// Appends any value, escaped for text and for quoted attributes.
    pub fn text(&mut self, value: impl Display) -> &mut Self {
        // Neither writer can fail: both only push to a String.
        let _ = write!(Escaping(&mut self.0), "{value}");
        self
    }
    /// Appends another finished piece.
    pub fn push(&mut self, other: &Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }
    /// Renders a template whose escaping askama has done.
    pub fn of(template: &impl askama::Template) -> Self {
        match template.render() {
            Ok(html) => Self(html),
            Err(error) => {
                tracing::error!(%error, "a component's template failed");
                Self::default()
            }
        }
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Display for Markup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl askama::filters::HtmlSafe for Markup {}

struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn nothing_breaks_out(value in "\\PC{0,60}") {
            let mut out = Markup::default();
            out.text(&value);
            proptest::prop_assert!(!out.as_str().contains(['<', '>', '"', '\'']));
            let back = out.as_str().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
            proptest::prop_assert_eq!(back.replace("&amp;", "&"), value);
        }
    }
}
