//! A form made from `taskingParameters`: a question for each component of the DataRecord, and what was typed as the parameters of a Task.

use kernel::Timestamp;
use serde_json::{Map, Value};
use ui::{Choice, Field, FieldKind, Markup, Page};

use super::shown;
use crate::{
    pages::form::{Typed, moment},
    tasking::swe::{Kind, Parameter},
};

/// Tokens that are shown as radios; more are a list to choose from.
const RADIOS: usize = 6;
/// Values that a hint names.
const NAMED: usize = 8;

/// One part of the form, in order.
#[derive(Clone, Debug)]
pub enum Part {
    Field(Field),
    /// A group begins, and what it is called.
    Open(String),
    Close,
}

/// What is wrong, by the name of the field.
pub type Wrong = Vec<(String, String)>;

/// The name of the field of the parameter at these indices. Not its own name: that may be anything.
fn name_of(path: &str, index: usize) -> String {
    if path.is_empty() { format!("p{index}") } else { format!("{path}-{index}") }
}

/// What may be given, in words: `0 to 100 %`.
pub fn allowed(page: &Page, parameter: &Parameter) -> Option<String> {
    let (c, unit) = (&parameter.constraint, parameter.unit.as_deref().unwrap_or_default());
    let number = |n: f64| page.number(&n, ui::format::decimals_for(n));
    let mut parts: Vec<String> = Vec::new();
    for (low, high) in c.intervals.iter().take(NAMED) {
        let range = page.msg("tasking.from-to").with("low", number(*low)).with("high", number(*high)).to_string();
        parts.push(range);
    }
    parts.extend(c.values.iter().take(NAMED).map(|v| number(*v)));
    let time = |at: &Timestamp| page.exact(at);
    parts.extend(
        c.periods
            .iter()
            .take(NAMED)
            .map(|(from, to)| page.msg("tasking.from-to").with("low", time(from)).with("high", time(to)).to_string()),
    );
    parts.extend(c.times.iter().take(NAMED).map(time));
    let text = parts.join(" · ");
    match (text.is_empty(), unit.is_empty()) {
        (true, true) => None,
        (true, false) => Some(unit.to_owned()),
        (false, true) => Some(text),
        (false, false) => Some(format!("{text} {unit}")),
    }
}

/// The questions of these parameters.
pub fn questions(page: &Page, parameters: &[Parameter], typed: &Typed, wrong: &Wrong) -> Vec<Part> {
    let mut parts = Vec::new();
    ask(page, parameters, "", (typed, wrong), &mut parts);
    parts
}

fn ask(page: &Page, parameters: &[Parameter], path: &str, told: (&Typed, &Wrong), out: &mut Vec<Part>) {
    for (index, parameter) in parameters.iter().enumerate() {
        let name = name_of(path, index);
        one(page, parameter, &name, told, out);
    }
}

fn one(page: &Page, parameter: &Parameter, name: &str, (typed, wrong): (&Typed, &Wrong), out: &mut Vec<Part>) {
    let title = parameter.title();
    let label = page.text(&title);
    let kind = match parameter.kind {
        Kind::Record => {
            out.push(Part::Open(label.to_owned()));
            ask(page, &parameter.inside, name, (typed, wrong), out);
            return out.push(Part::Close);
        }
        Kind::Choice => {
            out.push(Part::Open(label.to_owned()));
            let items = parameter.inside.iter().enumerate();
            let mut choices: Vec<Choice> =
                items.map(|(i, item)| Choice::new(i.to_string(), page.text(&item.title()))).collect();
            if parameter.optional {
                choices.insert(0, Choice::new("", page.t("tasking.leave")));
            }
            out.push(Part::Field(finish(
                parameter,
                Field::new(name, page.t("tasking.choose"), FieldKind::Radios(choices)),
                name,
                (typed, wrong),
            )));
            for (index, item) in parameter.inside.iter().enumerate() {
                let within = page.msg("tasking.if-chosen").with("item", page.text(&item.title())).to_string();
                out.push(Part::Open(within));
                // Of what is not chosen nothing is needed.
                one(page, &item.as_optional(true), &name_of(name, index), (typed, wrong), out);
                out.push(Part::Close);
            }
            return out.push(Part::Close);
        }
        Kind::Boolean => {
            let both = [Choice::new("true", page.t("tasking.yes")), Choice::new("false", page.t("tasking.no"))];
            let left = parameter.optional.then(|| Choice::new("", page.t("tasking.leave")));
            FieldKind::Radios(both.into_iter().chain(left).collect())
        }
        Kind::Text | Kind::Category if !parameter.constraint.tokens.is_empty() => {
            let tokens = parameter.constraint.tokens.iter();
            let mut choices: Vec<Choice> =
                tokens.map(|token| Choice::new(token, page.text(&parameter.token_title(token)))).collect();
            if parameter.optional {
                choices.push(Choice::new("", page.t("tasking.leave")));
            }
            if choices.len() <= RADIOS {
                FieldKind::Radios(choices)
            } else {
                if !parameter.optional {
                    choices.insert(0, Choice::new("", ""));
                }
                FieldKind::Select(choices)
            }
        }
        Kind::Time => FieldKind::Input("datetime-local"),
        Kind::Quantity | Kind::Count | Kind::Text | Kind::Category => FieldKind::Input("text"),
    };
    let mut field = Field::new(name, label, kind);
    if matches!(parameter.kind, Kind::Quantity | Kind::Count) {
        field = field.input_mode(if parameter.kind == Kind::Count { "numeric" } else { "decimal" }).autocomplete("off");
    }
    let hints = [parameter.description.clone(), allowed(page, parameter)];
    let hints: Vec<String> = hints.into_iter().flatten().collect();
    if !hints.is_empty() {
        field = field.hint(hints.join(" – "));
    }
    out.push(Part::Field(finish(parameter, field, name, (typed, wrong))));
}

fn finish(parameter: &Parameter, field: Field, name: &str, (typed, wrong): (&Typed, &Wrong)) -> Field {
    let error = wrong.iter().find(|(field, _)| field == name).map(|(_, text)| text.clone());
    let field = field.value(typed.get(name)).error(error);
    if parameter.optional { field } else { field.required() }
}

/// What was typed, as the parameters of a Task.
///
/// # Errors
/// Everything that is wrong, in the reader's words.
pub fn read(page: &Page, parameters: &[Parameter], typed: &Typed) -> Result<Map<String, Value>, Wrong> {
    let mut wrong = Vec::new();
    let values = read_all(page, parameters, "", typed, &mut wrong);
    if wrong.is_empty() { Ok(values) } else { Err(wrong) }
}

fn read_all(page: &Page, parameters: &[Parameter], path: &str, typed: &Typed, wrong: &mut Wrong) -> Map<String, Value> {
    let mut values = Map::new();
    for (index, parameter) in parameters.iter().enumerate() {
        if let Some(value) = read_one(page, parameter, &name_of(path, index), typed, wrong) {
            values.insert(parameter.name.clone(), value);
        }
    }
    values
}

/// Whether anything was typed for a parameter, or for what is inside it.
fn is_blank(parameter: &Parameter, name: &str, typed: &Typed) -> bool {
    typed.get(name).is_empty()
        && parameter.inside.iter().enumerate().all(|(i, item)| is_blank(item, &name_of(name, i), typed))
}

fn read_one(page: &Page, parameter: &Parameter, name: &str, typed: &Typed, wrong: &mut Wrong) -> Option<Value> {
    let text = typed.get(name);
    if parameter.optional
        && (if parameter.kind == Kind::Choice { text.is_empty() } else { is_blank(parameter, name, typed) })
    {
        return None;
    }
    let mut say = |what: String| {
        wrong.push((name.to_owned(), what));
        None
    };
    let value = match parameter.kind {
        Kind::Record => return Some(Value::Object(read_all(page, &parameter.inside, name, typed, wrong))),
        Kind::Choice => {
            let chosen = text.parse::<usize>().ok().and_then(|i| Some((i, parameter.inside.get(i)?)));
            let Some((index, item)) = chosen else { return say(page.t("tasking.wrong.choose").to_owned()) };
            let item = item.as_optional(false);
            let value = read_one(page, &item, &name_of(name, index), typed, wrong)?;
            return Some(Value::Object([(item.name, value)].into_iter().collect()));
        }
        _ if text.is_empty() => {
            return say(page
                .t(match parameter.kind {
                    Kind::Boolean => "tasking.wrong.choose",
                    Kind::Text | Kind::Category if !parameter.constraint.tokens.is_empty() => "tasking.wrong.choose",
                    _ => "tasking.wrong.empty",
                })
                .to_owned());
        }
        Kind::Boolean => match text {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => return say(page.t("tasking.wrong.choose").to_owned()),
        },
        Kind::Quantity | Kind::Count => {
            // A number as people write it here: 1,200.
            let plain = text.replace([',', ' '], "");
            let whole = plain.parse::<i64>().ok().map(Value::from);
            let number =
                whole.or_else(|| plain.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number));
            match number {
                Some(number) => number,
                None => return say(page.t("tasking.wrong.number").to_owned()),
            }
        }
        Kind::Time => match moment(text, &page.site.zone) {
            Some(moment) => Value::String(moment.to_string()),
            None => return say(page.t("tasking.wrong.time").to_owned()),
        },
        Kind::Text | Kind::Category => Value::String(text.to_owned()),
    };
    if parameter.check("", &value).is_ok() {
        return Some(value);
    }
    say(match (parameter.kind, allowed(page, parameter)) {
        (Kind::Count, None) => page.t("tasking.wrong.whole").to_owned(),
        (Kind::Quantity | Kind::Count | Kind::Time, Some(allowed)) => {
            page.msg("tasking.wrong.range").with("allowed", allowed).to_string()
        }
        (_, _) if !parameter.constraint.tokens.is_empty() => page.t("tasking.wrong.choose").to_owned(),
        _ => page.t("tasking.wrong.form").to_owned(),
    })
}

/// The parameters of a Task in words: what each is called, and its value.
pub fn said(page: &Page, parameters: &[Parameter], values: &Value) -> Vec<(String, String)> {
    let mut said = Vec::new();
    say_all(page, parameters, "", values, &mut said);
    said
}

fn say_all(page: &Page, parameters: &[Parameter], before: &str, values: &Value, out: &mut Vec<(String, String)>) {
    for parameter in parameters {
        let Some(value) = values.get(&parameter.name) else { continue };
        let title = parameter.title();
        let label = format!("{before}{}", page.text(&title));
        match (parameter.kind, value) {
            (Kind::Record | Kind::Choice, value) => say_all(page, &parameter.inside, &format!("{label}, "), value, out),
            (Kind::Text | Kind::Category, Value::String(text)) => {
                out.push((label, page.text(&parameter.token_title(text)).to_owned()));
            }
            (Kind::Time, Value::String(text)) => {
                let at = text.parse::<Timestamp>().ok().map(|at| page.exact(&at));
                out.push((label, at.unwrap_or_else(|| text.clone())));
            }
            (_, value) => out.push((label, shown(page, value, parameter.unit.as_deref().unwrap_or_default()))),
        }
    }
}

/// The parts of a form as HTML. Groups are fieldsets, so that whoever hears them knows what a question belongs to.
pub fn html(page: &Page, parts: &[Part]) -> Markup {
    let mut out = Markup::default();
    for part in parts {
        match part {
            Part::Field(field) => out.push(&field.html(page)),
            Part::Open(legend) => out.raw("<fieldset class=\"panel\"><legend>").text(legend).raw("</legend>"),
            Part::Close => out.raw("</fieldset>"),
        };
    }
    out
}

/// The fields among the parts, for the summary of errors.
pub fn fields(parts: &[Part]) -> Vec<Field> {
    let fields = parts.iter().filter_map(|part| if let Part::Field(field) = part { Some(field.clone()) } else { None });
    fields.collect()
}
