//! Form fields: label, hint, the error between label and field, and everything typed kept.

use crate::{Markup, Page};

/// One choice of a list.
#[derive(Clone, Debug)]
pub struct Choice {
    pub value: String,
    pub label: String,
}

impl Choice {
    pub fn new(value: impl Into<String>, label: impl std::fmt::Display) -> Self {
        Self { value: value.into(), label: label.to_string() }
    }
}

#[derive(Clone, Debug)]
pub enum FieldKind {
    /// `type=` of HTML: `text`, `email`, `password`, `number`, `search`, `datetime-local`, `url`, `file`.
    Input(&'static str),
    /// Several lines.
    Area {
        rows: u8,
    },
    Select(Vec<Choice>),
    Radios(Vec<Choice>),
    /// One box: the label stands beside it.
    Checkbox,
}

/// One question.
#[derive(Clone, Debug)]
pub struct Field {
    name: String,
    label: String,
    kind: FieldKind,
    hint: String,
    error: Option<String>,
    value: String,
    required: bool,
    autocomplete: &'static str,
    input_mode: &'static str,
    max_length: Option<u32>,
}

impl Field {
    pub fn new(name: &str, label: impl std::fmt::Display, kind: FieldKind) -> Self {
        Self {
            name: name.to_owned(),
            label: label.to_string(),
            kind,
            hint: String::new(),
            error: None,
            value: String::new(),
            required: false,
            autocomplete: "",
            input_mode: "",
            max_length: None,
        }
    }
    pub fn input(name: &str, label: impl std::fmt::Display, kind: &'static str) -> Self {
        Self::new(name, label, FieldKind::Input(kind))
    }
    /// Why it is asked, and an example.
    #[must_use]
    pub fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        self.hint = hint.to_string();
        self
    }
    /// What is wrong and how to put it right.
    #[must_use]
    pub fn error(mut self, error: Option<impl std::fmt::Display>) -> Self {
        self.error = error.map(|e| e.to_string());
        self
    }
    /// What was typed, `"on"` for a checked box. A password is never written back.
    #[must_use]
    pub fn value(mut self, value: impl std::fmt::Display) -> Self {
        self.value = value.to_string();
        self
    }
    /// Without it the label says "(optional)".
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }
    /// WCAG 1.3.5: `name`, `email`, `current-password`, `one-time-code`, ...
    #[must_use]
    pub fn autocomplete(mut self, purpose: &'static str) -> Self {
        self.autocomplete = purpose;
        self
    }
    /// Which keyboard a phone shows: `numeric`, `decimal`, `tel`.
    #[must_use]
    pub fn input_mode(mut self, mode: &'static str) -> Self {
        self.input_mode = mode;
        self
    }
    #[must_use]
    pub fn max_length(mut self, characters: u32) -> Self {
        self.max_length = Some(characters);
        self
    }

    /// The field's own id: `field-<name>`. The error summary links to it.
    pub fn id(&self) -> String {
        field_id(&self.name)
    }

    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        out.raw("<div class=\"field").raw(if self.error.is_some() { " wrong\">" } else { "\">" });
        match &self.kind {
            FieldKind::Radios(choices) => self.radios(&mut out, choices, page),
            FieldKind::Checkbox => {
                self.notes(&mut out, page);
                out.raw("<label class=\"choice\"><input type=\"checkbox\" value=\"on\"");
                self.attributes(&mut out);
                out.raw(if self.value == "on" { " checked> " } else { "> " }).text(&self.label).raw("</label>");
            }
            kind => {
                out.raw("<label for=\"").text(self.id()).raw("\">");
                self.label(&mut out, page);
                out.raw("</label>");
                self.notes(&mut out, page);
                self.control(&mut out, kind);
            }
        }
        out.raw("</div>");
        out
    }

    fn label(&self, out: &mut Markup, page: &Page) {
        out.text(&self.label);
        if !self.required {
            out.raw(" <span class=\"optional\">").text(page.t("form.optional")).raw("</span>");
        }
    }

    fn notes(&self, out: &mut Markup, page: &Page) {
        if !self.hint.is_empty() {
            out.raw("<p class=\"hint\" id=\"").text(self.id()).raw("-hint\">").text(&self.hint).raw("</p>");
        }
        if let Some(error) = &self.error {
            out.raw("<p class=\"error\" id=\"").text(self.id()).raw("-error\"><span class=\"visually-hidden\">");
            out.text(page.t("form.error")).raw(" </span>").text(error).raw("</p>");
        }
    }

    fn described_by(&self, out: &mut Markup) {
        let (hint, error) = (!self.hint.is_empty(), self.error.is_some());
        if !hint && !error {
            return;
        }
        out.raw(" aria-describedby=\"");
        if hint {
            out.text(self.id()).raw("-hint");
        }
        if error {
            out.raw(if hint { " " } else { "" }).text(self.id()).raw("-error\" aria-invalid=\"true");
        }
        out.raw("\"");
    }

    fn attributes(&self, out: &mut Markup) {
        out.raw(" id=\"").text(self.id()).raw("\" name=\"").text(&self.name).raw("\"");
        if self.required {
            out.raw(" required");
        }
        if !self.autocomplete.is_empty() {
            out.raw(" autocomplete=\"").raw(self.autocomplete).raw("\"");
        }
        if !self.input_mode.is_empty() {
            out.raw(" inputmode=\"").raw(self.input_mode).raw("\"");
        }
        if let Some(length) = self.max_length {
            out.raw(" maxlength=\"").text(length).raw("\"");
        }
        self.described_by(out);
    }

    fn control(&self, out: &mut Markup, kind: &FieldKind) {
        match kind {
            FieldKind::Area { rows } => {
                out.raw("<textarea rows=\"").text(rows).raw("\"");
                self.attributes(out);
                // HTML drops one line break after the tag: this one, so that what was typed stays whole.
                out.raw(">\n").text(&self.value).raw("</textarea>");
            }
            FieldKind::Select(choices) => {
                out.raw("<select");
                self.attributes(out);
                out.raw(">");
                for choice in choices {
                    out.raw("<option value=\"").text(&choice.value).raw("\"");
                    out.raw(if choice.value == self.value { " selected>" } else { ">" });
                    out.text(&choice.label).raw("</option>");
                }
                out.raw("</select>");
            }
            FieldKind::Input(kind) => {
                out.raw("<input type=\"").raw(kind).raw("\"");
                self.attributes(out);
                if !self.value.is_empty() && !matches!(*kind, "password" | "file") {
                    out.raw(" value=\"").text(&self.value).raw("\"");
                }
                out.raw(">");
            }
            FieldKind::Radios(_) | FieldKind::Checkbox => {}
        }
    }

    fn radios(&self, out: &mut Markup, choices: &[Choice], page: &Page) {
        out.raw("<fieldset id=\"").text(self.id()).raw("\" tabindex=\"-1\"");
        self.described_by_group(out);
        out.raw("><legend>");
        self.label(out, page);
        out.raw("</legend>");
        self.notes(out, page);
        for choice in choices {
            out.raw("<label class=\"choice\"><input type=\"radio\" name=\"").text(&self.name).raw("\" value=\"");
            out.text(&choice.value).raw("\"").raw(if self.required { " required" } else { "" });
            out.raw(if choice.value == self.value { " checked> " } else { "> " });
            out.text(&choice.label).raw("</label>");
        }
        out.raw("</fieldset>");
    }

    /// A group may be described but `aria-invalid` is not allowed on it (ARIA 1.2).
    fn described_by_group(&self, out: &mut Markup) {
        let mut ids = Vec::new();
        if !self.hint.is_empty() {
            ids.push(format!("{}-hint", self.id()));
        }
        if self.error.is_some() {
            ids.push(format!("{}-error", self.id()));
        }
        if !ids.is_empty() {
            out.raw(" aria-describedby=\"").text(ids.join(" ")).raw("\"");
        }
    }
}

fn field_id(name: &str) -> String {
    format!("field-{name}")
}

/// All errors of a form, at its top, each leading to its field.
#[derive(Clone, Debug, Default)]
pub struct ErrorSummary {
    errors: Vec<(String, String)>,
}

impl ErrorSummary {
    pub fn new(fields: &[Field]) -> Self {
        Self { errors: fields.iter().filter_map(|f| Some((f.id(), f.error.clone()?))).collect() }
    }
    /// From a [`kernel::Problem`]: a field's JSON Pointer `/name` is the field `name`.
    pub fn of(problem: &kernel::Problem) -> Self {
        let errors = problem.errors.iter().map(|e| (field_id(e.field.trim_start_matches('/')), e.detail.clone()));
        Self { errors: errors.collect() }
    }
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }
    pub fn html(&self, page: &Page) -> Markup {
        let mut out = Markup::default();
        if self.errors.is_empty() {
            return out;
        }
        out.raw("<div class=\"error-summary\" role=\"alert\" tabindex=\"-1\"><h2>").text(page.t("form.summary"));
        out.raw("</h2><p>").text(page.t("form.kept")).raw("</p><ul>");
        for (id, error) in &self.errors {
            out.raw("<li><a href=\"#").text(id).raw("\">").text(error).raw("</a></li>");
        }
        out.raw("</ul></div>");
        out
    }
}
