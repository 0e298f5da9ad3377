//! Rules as people read them, and what each would have raised: with other levels, before anybody declares them.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use kernel::Problem;
use ui::{Cell, Choice, Column, ErrorSummary, Field, FieldKind, Html, Notice, Page, Table, Tone};

use super::{Pages, decimals, silences::length};
use crate::rules::{
    model::{Condition, Rule, RuleDeclaration, Side},
    trial::{Outcome, Trials, api::checked},
};

#[derive(Template)]
#[template(path = "rules.html")]
struct List {
    page: Page,
    table: Table,
}

#[derive(Template)]
#[template(path = "rule.html")]
struct View {
    page: Page,
    key: String,
    facts: Vec<(String, String)>,
    instruction: Option<String>,
    fields: Vec<Field>,
    errors: ErrorSummary,
    result: Option<Shown>,
}

/// A run as it is shown.
struct Shown {
    sentence: Notice,
    partly: Option<String>,
    places: Table,
    episodes: Table,
}

/// When it raises, in a sentence.
fn condition(page: &Page, when: &Condition) -> String {
    let number = |value: f64| page.number(&value, ui::format::decimals_for(value));
    match when {
        Condition::Above(level) | Condition::Below(level) => {
            let key = if matches!(when, Condition::Above(_)) { "rule.above" } else { "rule.below" };
            page.msg(key).with("raise", number(level.raise)).with("clear", number(level.clear)).to_string()
        }
        Condition::Absence { after } => {
            page.msg("rule.absence").with("time", length(page, i64::from(*after))).to_string()
        }
        Condition::Expression(e) => e.expression.clone(),
        Condition::Geofence(g) => {
            let kind = g.kind.as_ref().map(|k| page.msg("move.rule-kind").with("kind", k).to_string());
            let fences: Vec<String> = g.fences.iter().cloned().chain(kind).collect();
            let key = if g.raise == Side::Inside { "move.rule-inside" } else { "move.rule-outside" };
            page.msg(key).with("fences", fences.join(" · ")).to_string()
        }
    }
}

fn watches(pages: &Pages, page: &Page, rule: &Rule) -> String {
    let s = &rule.select;
    let systems = pages.directory.systems();
    let system = s.system.as_ref().map(|key| {
        systems.iter().find(|known| known.key == *key).map_or(key.as_str(), |known| page.text(&known.name)).to_owned()
    });
    let within = s.within.clone();
    let parts =
        [system, s.observed_property.clone(), s.district.clone(), s.thing.clone(), s.datastream.clone(), within];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

pub async fn list(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let rules = pages.rules.as_ref().ok_or_else(|| Problem::not_found("The list of rules"))?;
    let found = rules.list(&page.caller).await?;
    let owner = |rule: &Rule| {
        let slug = rule.tenant.as_str();
        pages.owners.get(slug).map_or(slug, |name| page.text(name)).to_owned()
    };
    let rows = found.iter().map(|rule| {
        vec![
            Cell::link(page.href(&format!("/rules/{}", rule.key)), page.text(&rule.name)),
            Cell::text(super::alarms::severity(&page, rule.severity)),
            Cell::text(condition(&page, &rule.when)),
            Cell::text(watches(&pages, &page, rule)),
            Cell::text(owner(rule)),
        ]
    });
    let table = Table::new(page.t("rule.caption"))
        .column(Column::text("name", page.t("rule.name")))
        .column(Column::text("severity", page.t("alarm.col-severity")))
        .column(Column::text("when", page.t("rule.when")))
        .column(Column::text("watches", page.t("rule.watches")))
        .column(Column::text("tenant", page.t("device.department")))
        .rows(rows)
        .empty(page.t("rule.none"));
    let page = page.in_section("alarms").wide().dense().under_t("alarm.heading", "/alarms").titled_t("rule.heading");
    Ok(Html(List { table, page }))
}

/// Days that a run may look back with one choice.
const DAYS: [i64; 4] = [7, 30, 90, 365];

/// The numbers of a rule's condition, by the name of their field.
fn numbers(when: &Condition) -> Vec<(&'static str, String)> {
    match when {
        Condition::Above(l) | Condition::Below(l) => vec![
            ("raise", l.raise.to_string()),
            ("clear", l.clear.to_string()),
            ("hold", l.hold.to_string()),
            ("clear_hold", l.clear_hold.to_string()),
        ],
        Condition::Absence { after } => vec![("after", after.to_string())],
        Condition::Expression(e) => vec![
            ("expression", e.expression.clone()),
            ("clear", e.clear.clone().unwrap_or_default()),
            ("hold", e.hold.to_string()),
            ("clear_hold", e.clear_hold.to_string()),
        ],
        Condition::Geofence(g) => vec![
            ("margin", g.margin.to_string()),
            ("hold", g.hold.to_string()),
            ("clear_hold", g.clear_hold.to_string()),
        ],
    }
}

/// The condition with what was typed in its place, or which fields hold no number.
fn changed(page: &Page, when: &Condition) -> Result<Condition, Vec<(String, String)>> {
    let mut wrong = Vec::new();
    let typed = |name: &str| page.query.get(name).map(|text| text.trim().to_owned());
    let mut bad = |name: &str, key: &str| wrong.push((name.to_owned(), page.t(key).to_owned()));
    let mut float = |name: &str, now: f64| match typed(name).map(|text| text.parse::<f64>()) {
        None => now,
        Some(Ok(value)) => value,
        Some(Err(_)) => {
            bad(name, "rule.wrong-number");
            now
        }
    };
    let condition = match when {
        Condition::Above(l) | Condition::Below(l) => {
            let mut level = *l;
            level.raise = float("raise", l.raise);
            level.clear = float("clear", l.clear);
            let mut whole = |name: &str, now: u32| {
                seconds(typed(name), now).unwrap_or_else(|| {
                    bad(name, "rule.wrong-seconds");
                    now
                })
            };
            level.hold = whole("hold", l.hold);
            level.clear_hold = whole("clear_hold", l.clear_hold);
            if matches!(when, Condition::Above(_)) { Condition::Above(level) } else { Condition::Below(level) }
        }
        Condition::Absence { after } => {
            let after = seconds(typed("after"), *after).unwrap_or_else(|| {
                bad("after", "rule.wrong-seconds");
                *after
            });
            Condition::Absence { after }
        }
        Condition::Expression(e) => {
            let mut e = e.clone();
            e.expression = typed("expression").filter(|t| !t.is_empty()).unwrap_or(e.expression);
            e.clear = typed("clear").map_or(e.clear, |t| Some(t).filter(|t| !t.is_empty()));
            let mut whole = |name: &str, now: u32| {
                seconds(typed(name), now).unwrap_or_else(|| {
                    bad(name, "rule.wrong-seconds");
                    now
                })
            };
            e.hold = whole("hold", e.hold);
            e.clear_hold = whole("clear_hold", e.clear_hold);
            Condition::Expression(e)
        }
        Condition::Geofence(g) => {
            let mut g = g.clone();
            g.margin = float("margin", g.margin);
            let mut whole = |name: &str, now: u32| {
                seconds(typed(name), now).unwrap_or_else(|| {
                    bad(name, "rule.wrong-seconds");
                    now
                })
            };
            g.hold = whole("hold", g.hold);
            g.clear_hold = whole("clear_hold", g.clear_hold);
            Condition::Geofence(g)
        }
    };
    if wrong.is_empty() { Ok(condition) } else { Err(wrong) }
}

/// `None` for what is no number of seconds.
fn seconds(typed: Option<String>, now: u32) -> Option<u32> {
    typed.map_or(Some(now), |text| text.parse().ok())
}

/// Runs the rule as it was typed; or what is wrong with it, by field.
async fn attempt(trials: &Trials, page: &Page, rule: &Rule) -> Result<Result<Outcome, Vec<(String, String)>>, Problem> {
    let when = match changed(page, &rule.when) {
        Ok(when) => when,
        Err(wrong) => return Ok(Err(wrong)),
    };
    let days = page.query.get("days").and_then(|d| d.parse::<i64>().ok()).filter(|d| DAYS.contains(d)).unwrap_or(365);
    let from = trials.now().plus_secs(-days * 86_400);
    let declared = RuleDeclaration { when, ..rule.declaration().clone() };
    let outcome = match checked(declared, "") {
        Ok(rule) => trials.run(&page.caller, &rule, Some(from), None).await,
        Err(error) => Err(error),
    };
    match outcome.map_err(Problem::from) {
        Ok(outcome) => Ok(Ok(outcome)),
        Err(problem) if problem.errors.is_empty() => Err(problem),
        // `/when/above/raise` is beside the field `raise`.
        Err(problem) => Ok(Err(problem
            .errors
            .into_iter()
            .map(|e| (e.field.rsplit('/').next().unwrap_or_default().to_owned(), e.detail))
            .collect())),
    }
}

fn shown(page: &Page, outcome: &Outcome) -> Shown {
    let many = |key: &str| {
        page.msg(key)
            .n(outcome.alarms as u64)
            .with("from", page.exact(&outcome.from))
            .with("time", length(page, outcome.seconds))
            .to_string()
    };
    let sentence = match outcome.alarms {
        0 => Notice::new(Tone::Information, many("rule.would-not")),
        _ => Notice::new(Tone::Information, many("rule.would-have")),
    };
    let read = page
        .msg("rule.read")
        .n(outcome.observations as u64)
        .with("datastreams", page.number(&(outcome.datastreams as f64), 0))
        .to_string();
    let mut partly = vec![read];
    if outcome.simulated > 0 {
        partly.push(page.msg("rule.simulated").n(outcome.simulated as u64).to_string());
    }
    if outcome.from > outcome.asked_from {
        partly.push(page.msg("rule.not-before").with("from", page.exact(&outcome.from)).to_string());
    }
    if outcome.left_out > 0 {
        partly.push(page.msg("rule.left-out").n(outcome.left_out as u64).to_string());
    }
    let place = |thing: crate::model::EntityId, name: &kernel::Text| {
        Cell::link(page.href(&format!("/things/{thing}")), page.text(name))
    };
    let places = Table::new(page.t("rule.where"))
        .column(Column::text("thing", page.t("alarm.thing")))
        .column(Column::text("datastream", page.t("rule.datastream")))
        .column(Column::number("alarms", page.t("rule.alarms")))
        .column(Column::text("time", page.t("rule.how-long")))
        .rows(outcome.places.iter().take(50).map(|p| {
            vec![
                place(p.thing, &p.thing_name),
                Cell::link(page.href(&format!("/datastreams/{}", p.datastream)), p.datastream),
                Cell::number(p.alarms as f64, 0),
                Cell::text(length(page, p.seconds)),
            ]
        }))
        .empty(page.t("rule.nowhere"));
    let episodes = Table::new(page.t("rule.each"))
        .column(Column::text("raised", page.t("alarm.raised")))
        .column(Column::text("cleared", page.t("alarm.did.cleared")))
        .column(Column::text("time", page.t("rule.how-long")))
        .column(Column::text("thing", page.t("alarm.thing")))
        .column(Column::number("value", page.t("alarm.value")))
        .rows(outcome.episodes.iter().rev().take(100).map(|e| {
            vec![
                Cell::At(e.raised_at),
                e.cleared_at.map_or_else(|| Cell::text(page.t("rule.stands")), Cell::At),
                Cell::text(length(page, e.seconds)),
                place(e.thing, &e.thing_name),
                e.value.map_or(Cell::Empty, |v| Cell::quantity(v, decimals(v), e.unit.as_deref().unwrap_or_default())),
            ]
        }))
        .empty(page.t("rule.nowhere"));
    Shown { sentence, partly: Some(partly.join(" ")), places, episodes }
}

pub async fn show(
    State(pages): State<Pages>,
    Path((_, key)): Path<(String, String)>,
    page: Page,
) -> Result<Response, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let missing = || Problem::not_found("The rule");
    let rules = pages.rules.as_ref().ok_or_else(missing)?;
    let trials = pages.trials.as_ref().ok_or_else(missing)?;
    let rule = rules.get(&page.caller, &key).await?;
    let asked = page.query.get("run").is_some();
    let (result, wrong) = if asked {
        match attempt(trials, &page, &rule).await? {
            Ok(outcome) => (Some(shown(&page, &outcome)), Vec::new()),
            Err(wrong) => (None, wrong),
        }
    } else {
        (None, Vec::new())
    };
    let error = |name: &str| wrong.iter().find(|(field, _)| field == name).map(|(_, text)| text.clone());
    let mut fields = Vec::new();
    for (name, value) in numbers(&rule.when) {
        let label = match name {
            "raise" => "rule.field.raise",
            "clear" => "rule.field.clear",
            "hold" => "rule.field.hold",
            "clear_hold" => "rule.field.clear-hold",
            "after" => "rule.field.after",
            "margin" => "move.rule-margin",
            _ => "rule.field.expression",
        };
        let shown = page.query.get(name).filter(|_| asked).unwrap_or(value);
        let field = Field::input(name, page.t(label), "text").max_length(2_000).value(shown).error(error(name));
        let may_be_empty = name == "clear" && matches!(rule.when, Condition::Expression(_));
        fields.push(if may_be_empty { field } else { field.required() });
    }
    let days = DAYS.iter().map(|d| Choice::new(d.to_string(), length(&page, d * 86_400))).collect();
    let chosen = page.query.get("days").unwrap_or_else(|| "365".to_owned());
    fields.push(Field::new("days", page.t("rule.field.days"), FieldKind::Select(days)).required().value(chosen));
    let errors = ErrorSummary::new(&fields);
    let pair = |label: &str, value: String| (page.t(label).to_owned(), value);
    let mut facts = vec![
        pair("alarm.col-severity", super::alarms::severity(&page, rule.severity).to_owned()),
        pair("rule.when", condition(&page, &rule.when)),
        pair("rule.watches", watches(&pages, &page, &rule)),
    ];
    if !rule.notify.is_empty() {
        facts.push(pair("rule.told", rule.notify.join(" · ")));
    }
    for step in &rule.escalate {
        let label = page.msg("rule.then").with("time", length(&page, i64::from(step.after))).to_string();
        facts.push((label, step.notify.join(" · ")));
    }
    if !rule.enabled {
        facts.push(pair("alarm.col-state", page.t("rule.off").to_owned()));
    }
    let heading = page.text(&rule.name).to_owned();
    let status = if wrong.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let view = View {
        key: rule.key.clone(),
        facts,
        instruction: rule.instruction.as_ref().map(|text| page.text(text).to_owned()),
        fields,
        errors,
        result,
        page: page
            .in_section("alarms")
            .dense()
            .under_t("alarm.heading", "/alarms")
            .under_t("rule.heading", "/rules")
            .titled(heading),
    };
    Ok((status, Html(view)).into_response())
}
