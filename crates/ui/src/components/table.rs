//! Tables that sort by links, keep their head in sight, and offer exactly what they show as a file.

use kernel::Timestamp;

use super::Badge;
use crate::{Markup, Page, format};

/// A column. Its name is what `?sort=` carries.
#[derive(Clone, Debug)]
pub struct Column {
    name: &'static str,
    label: String,
    numeric: bool,
    sortable: bool,
}

impl Column {
    pub fn text(name: &'static str, label: impl std::fmt::Display) -> Self {
        Self { name, label: label.to_string(), numeric: false, sortable: false }
    }
    /// Right-aligned, tabular figures.
    pub fn number(name: &'static str, label: impl std::fmt::Display) -> Self {
        Self { numeric: true, ..Self::text(name, label) }
    }
    /// The head becomes a link to `?sort=name`, then `?sort=-name`.
    #[must_use]
    pub fn sortable(mut self) -> Self {
        self.sortable = true;
        self
    }
}

#[derive(Clone, Debug)]
pub enum Cell {
    Empty,
    Text(String),
    Number {
        value: f64,
        decimals: u8,
        unit: String,
    },
    Link {
        href: String,
        text: String,
    },
    Ago(Timestamp),
    At(Timestamp),
    State(Badge),
    /// Anything else that is already safe, such as a row's actions.
    Html(Markup),
}

impl Cell {
    pub fn text(value: impl std::fmt::Display) -> Self {
        Self::Text(value.to_string())
    }
    pub fn number(value: f64, decimals: u8) -> Self {
        Self::Number { value, decimals, unit: String::new() }
    }
    pub fn quantity(value: f64, decimals: u8, unit: &str) -> Self {
        Self::Number { value, decimals, unit: unit.to_owned() }
    }
    pub fn link(href: impl Into<String>, text: impl std::fmt::Display) -> Self {
        Self::Link { href: href.into(), text: text.to_string() }
    }

    fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        match self {
            Self::Empty => out.raw("<span class=\"none\">–</span>"),
            Self::Text(text) => out.text(text),
            Self::Number { value, decimals, unit } => {
                out.text(format::quantity(&page.site.catalogue, page.language, *value, unit, *decimals))
            }
            Self::Link { href, text } => out.raw("<a href=\"").text(href).raw("\">").text(text).raw("</a>"),
            Self::Ago(at) => out.push(&page.ago(at)),
            Self::At(at) => out.push(&page.at(at)),
            Self::State(badge) => out.push(&badge.html(page)),
            Self::Html(markup) => out.push(markup),
        };
        out
    }
}

/// A row. Its first cell names it for screen readers.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub cells: Vec<Cell>,
    /// Becomes `id=` so that an address can point to it.
    pub id: Option<String>,
}

impl From<Vec<Cell>> for Row {
    fn from(cells: Vec<Cell>) -> Self {
        Self { cells, id: None }
    }
}

/// A file with the same rows and columns as the table.
#[derive(Clone, Debug)]
pub struct Download {
    /// "CSV", "GeoJSON".
    pub format: &'static str,
    pub href: String,
}

#[derive(Clone, Debug)]
pub struct Table {
    caption: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
    empty: String,
    downloads: Vec<Download>,
    headed: bool,
}

impl Table {
    /// The caption says what the rows are.
    pub fn new(caption: impl std::fmt::Display) -> Self {
        Self {
            caption: caption.to_string(),
            columns: Vec::new(),
            rows: Vec::new(),
            empty: String::new(),
            downloads: Vec::new(),
            headed: false,
        }
    }
    /// The heading above says what the rows are: the caption is for those who hear it.
    #[must_use]
    pub fn headed(mut self) -> Self {
        self.headed = true;
        self
    }
    #[must_use]
    pub fn column(mut self, column: Column) -> Self {
        self.columns.push(column);
        self
    }
    #[must_use]
    pub fn rows<R: Into<Row>>(mut self, rows: impl IntoIterator<Item = R>) -> Self {
        self.rows.extend(rows.into_iter().map(Into::into));
        self
    }
    /// What to do when there is nothing: "Remove a filter", "Register the first device".
    #[must_use]
    pub fn empty(mut self, advice: impl std::fmt::Display) -> Self {
        self.empty = advice.to_string();
        self
    }
    #[must_use]
    pub fn download(mut self, format: &'static str, href: impl Into<String>) -> Self {
        self.downloads.push(Download { format, href: href.into() });
        self
    }

    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        // Focusable, so that the keyboard can scroll it when it is wider than the window (WCAG 2.1.1).
        out.raw("<div class=\"table\" role=\"region\" tabindex=\"0\" aria-label=\"").text(&self.caption);
        let caption = if self.headed { "\"><table><caption class=\"visually-hidden\">" } else { "\"><table><caption>" };
        out.raw(caption).text(&self.caption).raw("</caption><thead><tr>");
        let sort = page.query.get("sort").unwrap_or_default();
        for column in &self.columns {
            Self::head(&mut out, column, &sort, page);
        }
        out.raw("</tr></thead><tbody>");
        for row in &self.rows {
            out.raw("<tr");
            if let Some(id) = &row.id {
                out.raw(" id=\"").text(id).raw("\"");
            }
            out.raw(">");
            for (i, (cell, column)) in row.cells.iter().zip(&self.columns).enumerate() {
                let class = if column.numeric { " class=\"number\">" } else { ">" };
                let (open, close) = if i == 0 { ("<th scope=\"row\"", "</th>") } else { ("<td", "</td>") };
                out.raw(open).raw(class).push(&cell.html(page)).raw(close);
            }
            out.raw("</tr>");
        }
        if self.rows.is_empty() {
            out.raw("<tr><td class=\"empty\" colspan=\"").text(self.columns.len().max(1)).raw("\"><span>");
            out.text(if self.empty.is_empty() { page.t("table.empty") } else { &self.empty }).raw("</span></td></tr>");
        }
        out.raw("</tbody></table></div>");
        downloads(&mut out, &self.downloads, page);
        out
    }

    fn head(out: &mut Markup, column: &Column, sort: &str, page: &Page) {
        let ascending = sort == column.name;
        let descending = sort.strip_prefix('-') == Some(column.name);
        out.raw("<th scope=\"col\"").raw(if column.numeric { " class=\"number\"" } else { "" });
        if ascending || descending {
            out.raw(if ascending { " aria-sort=\"ascending\"" } else { " aria-sort=\"descending\"" });
        }
        out.raw(">");
        if column.sortable {
            let next = if ascending { format!("-{}", column.name) } else { column.name.to_owned() };
            out.raw("<a href=\"").text(page.here_with("sort", &next)).raw("\">").text(&column.label);
            out.raw("<span class=\"arrow\" aria-hidden=\"true\">");
            out.raw(if ascending {
                "▲"
            } else if descending {
                "▼"
            } else {
                "↕"
            })
            .raw("</span></a>");
        } else {
            out.text(&column.label);
        }
        out.raw("</th>");
    }
}

pub(super) fn downloads(out: &mut Markup, downloads: &[Download], page: &Page) {
    if downloads.is_empty() {
        return;
    }
    out.raw("<p class=\"downloads\">").text(page.t("table.download"));
    for download in downloads {
        out.raw(" <a href=\"").text(&download.href).raw("\" download>").raw(download.format).raw("</a>");
    }
    out.raw("</p>");
}

/// lang-keys: pager.*
///
/// Previous, next, and where one is. By page number where the count is known, by cursor where it is not.
#[derive(Clone, Debug, Default)]
pub struct Pager {
    pub previous: Option<String>,
    pub next: Option<String>,
    /// First and last row shown, and how many there are when that is known.
    pub shown: Option<(u64, u64, Option<u64>)>,
}

impl Pager {
    /// For lists with a known count, by `?page=` counted from 1.
    pub fn numbered(page: &Page, per_page: u64, total: u64) -> Self {
        let per_page = per_page.max(1);
        let current = page.query.get("page").and_then(|p| p.parse::<u64>().ok()).unwrap_or(1).max(1);
        let last = total.div_ceil(per_page).max(1);
        let current = current.min(last);
        let to = |n: u64| page.address(page.language, &page.query.clone().with("page", &n.to_string()));
        Self {
            previous: (current > 1).then(|| to(current - 1)),
            next: (current < last).then(|| to(current + 1)),
            shown: (total > 0).then(|| ((current - 1) * per_page + 1, (current * per_page).min(total), Some(total))),
        }
    }
    /// For lists that continue after a row: `?after=<cursor>`. Back is the browser's own.
    pub fn after(page: &Page, next: Option<&str>) -> Self {
        let to = |query: crate::Query| page.address(page.language, &query);
        let started = page.query.get("after").is_some();
        Self {
            previous: started.then(|| to(page.query.clone().without("after"))),
            next: next.map(|cursor| to(page.query.clone().with("after", cursor))),
            shown: None,
        }
    }

    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        if self.previous.is_none() && self.next.is_none() && self.shown.is_none() {
            return out;
        }
        out.raw("<nav class=\"pager\" aria-label=\"").text(page.t("pager.title")).raw("\">");
        if let Some(href) = &self.previous {
            let key = if self.shown.is_some() { "pager.previous" } else { "pager.start" };
            out.raw("<a class=\"button quiet\" rel=\"prev\" href=\"")
                .text(href)
                .raw("\">")
                .text(page.t(key))
                .raw("</a>");
        }
        if let Some((from, to, total)) = self.shown {
            let key = if total.is_some() { "pager.of" } else { "pager.range" };
            let number = |n: u64| format::integer(i64::try_from(n).unwrap_or(i64::MAX));
            let mut shown = page.msg(key).with("from", number(from)).with("to", number(to));
            if let Some(total) = total {
                shown = shown.with("total", number(total));
            }
            out.raw("<span>").text(shown).raw("</span>");
        }
        if let Some(href) = &self.next {
            out.raw("<a class=\"button quiet\" rel=\"next\" href=\"").text(href).raw("\">");
            out.text(page.t("pager.next")).raw("</a>");
        }
        out.raw("</nav>");
        out
    }
}
