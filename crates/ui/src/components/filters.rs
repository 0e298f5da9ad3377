//! The side column: what narrows the list beside it. A GET form, so that every choice is in the address.

use crate::{Markup, Page};

#[derive(Clone, Debug)]
pub struct FilterChoice {
    pub value: String,
    pub label: String,
    /// How many rows it would leave, when that is cheap to know.
    pub count: Option<u64>,
}

impl FilterChoice {
    pub fn new(value: impl Into<String>, label: impl std::fmt::Display) -> Self {
        Self { value: value.into(), label: label.to_string(), count: None }
    }
    #[must_use]
    pub fn count(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }
}

#[derive(Clone, Debug)]
pub enum Filter {
    /// A box to search in.
    Search { name: &'static str, label: String },
    /// Boxes of which several may be checked; the parameter repeats.
    Checks { name: &'static str, label: String, choices: Vec<FilterChoice> },
    /// One of several; the first stands when the address names none.
    One { name: &'static str, label: String, choices: Vec<FilterChoice>, chosen: String },
}

/// All filters of a page. Their values come from the page's query.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    filters: Vec<Filter>,
}

impl Filters {
    #[must_use]
    pub fn search(mut self, name: &'static str, label: impl std::fmt::Display) -> Self {
        self.filters.push(Filter::Search { name, label: label.to_string() });
        self
    }
    #[must_use]
    pub fn checks(mut self, name: &'static str, label: impl std::fmt::Display, choices: Vec<FilterChoice>) -> Self {
        self.filters.push(Filter::Checks { name, label: label.to_string(), choices });
        self
    }
    /// A list of which one stands, such as a department; `chosen` is what the page shows now.
    #[must_use]
    pub fn one(
        mut self,
        name: &'static str,
        label: impl std::fmt::Display,
        choices: Vec<FilterChoice>,
        chosen: impl Into<String>,
    ) -> Self {
        self.filters.push(Filter::One { name, label: label.to_string(), choices, chosen: chosen.into() });
        self
    }

    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        out.raw("<form class=\"filters\" method=\"get\" action=\"").text(page.href(&page.path)).raw("\" aria-label=\"");
        out.text(page.t("filters.title")).raw("\">");
        let own: Vec<_> = self
            .filters
            .iter()
            .map(|f| match f {
                Filter::Search { name, .. } | Filter::Checks { name, .. } | Filter::One { name, .. } => *name,
            })
            .collect();
        // What the filters do not own (sorting, the view) stays as it is; paging starts anew.
        for (name, value) in
            page.query.pairs().filter(|(n, _)| !own.contains(&n.as_str()) && n != "page" && n != "after")
        {
            out.raw("<input type=\"hidden\" name=\"").text(name).raw("\" value=\"").text(value).raw("\">");
        }
        for filter in &self.filters {
            match filter {
                Filter::Search { name, label } => {
                    out.raw("<div class=\"field\"><label for=\"filter-").raw(name).raw("\">").text(label);
                    out.raw("</label><input type=\"search\" id=\"filter-").raw(name).raw("\" name=\"").raw(name);
                    out.raw("\" value=\"").text(page.query.get(name).unwrap_or_default()).raw("\"></div>");
                }
                Filter::Checks { name, label, choices } => {
                    let checked = page.query.all(name);
                    out.raw("<fieldset class=\"field\"><legend>").text(label).raw("</legend>");
                    for choice in choices {
                        out.raw("<label class=\"choice\"><input type=\"checkbox\" name=\"")
                            .raw(name)
                            .raw("\" value=\"");
                        out.text(&choice.value).raw("\"");
                        out.raw(if checked.contains(&choice.value) { " checked> " } else { "> " }).text(&choice.label);
                        if let Some(count) = choice.count {
                            out.raw(" <span class=\"count\">")
                                .text(crate::format::integer(count as i64))
                                .raw("</span>");
                        }
                        out.raw("</label>");
                    }
                    out.raw("</fieldset>");
                }
                Filter::One { name, label, choices, chosen } => {
                    out.raw("<div class=\"field\"><label for=\"filter-").raw(name).raw("\">").text(label);
                    out.raw("</label><select id=\"filter-").raw(name).raw("\" name=\"").raw(name).raw("\">");
                    for choice in choices {
                        out.raw("<option value=\"").text(&choice.value).raw("\"");
                        out.raw(if choice.value == *chosen { " selected>" } else { ">" }).text(&choice.label);
                        out.raw("</option>");
                    }
                    out.raw("</select></div>");
                }
            }
        }
        out.raw("<div class=\"actions\"><button class=\"button\">").text(page.t("filters.apply")).raw("</button>");
        // One of several always stands: there is nothing to clear about it.
        let stands = |name: &str| self.filters.iter().any(|f| matches!(f, Filter::One { name: n, .. } if *n == name));
        if own.iter().any(|name| !stands(name) && page.query.get(name).is_some()) {
            let cleared = own
                .iter()
                .filter(|n| !stands(n))
                .fold(page.query.clone(), |q, name| q.without(name))
                .without("page")
                .without("after");
            out.raw(" <a href=\"").text(page.address(page.language, &cleared)).raw("\">").text(page.t("filters.clear"));
            out.raw("</a>");
        }
        out.raw("</div></form>");
        out
    }
}
