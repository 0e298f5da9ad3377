//! The kill switch: of the city, of a department, of one actuator; what it says when it is thrown, and the record of all that were.

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use kernel::{Problem, Tenant};
use ui::{Badge, Cell, Choice, Column, ErrorSummary, Field, FieldKind, Html, Markup, Notice, Page, Table, Tone};

use super::{Pages, department, desk, sign_in_first, tasking};
use crate::{
    pages::form::{Posted, Typed},
    route::action::TASK_STOP,
    tasking::{Stop, Stopped, Tasking},
};

#[derive(Template)]
#[template(path = "tasking-stop.html")]
struct View {
    page: Page,
    notice: Option<Notice>,
    errors: ErrorSummary,
    /// Those that are on, each with the form that lifts it where the reader may.
    on: Table,
    /// The form that throws one; empty where the reader may throw none.
    fields: Vec<Field>,
    record: Table,
}

/// How a form names a switch.
fn name_of(stop: &Stop) -> String {
    match (&stop.tenant, stop.actuator) {
        (None, _) => "city".to_owned(),
        (Some(tenant), None) => format!("tenant:{tenant}"),
        (Some(_), Some(id)) => format!("actuator:{id}"),
    }
}

fn parse(text: &str) -> Option<Stopped> {
    match text.split_once(':') {
        None if text == "city" => Some(Stopped::City),
        Some(("tenant", slug)) => Tenant::parse(slug).ok().map(Stopped::Tenant),
        Some(("actuator", id)) => super::id(id, "").ok().map(Stopped::Actuator),
        _ => None,
    }
}

fn may(tasking: &Tasking, page: &Page, tenant: Option<&Tenant>) -> bool {
    match tenant {
        Some(tenant) => tasking.allows(&page.caller, TASK_STOP, tenant),
        None => tasking.may_stop_city(&page.caller),
    }
}

/// The form in the row of a switch that is on: the word has to be typed, because what has waited leaves at once.
fn lift(page: &Page, stop: &Stop, number: usize) -> Markup {
    let (name, id) = (name_of(stop), format!("lift-{number}"));
    let mut out = Markup::default();
    out.raw("<form method=\"post\" class=\"finder\" action=\"").text(page.href("/tasking/stop")).raw("\">");
    out.push(&page.csrf_field());
    out.raw("<input type=\"hidden\" name=\"what\" value=\"")
        .text(name)
        .raw("\"><input type=\"hidden\" name=\"on\" value=\"no\">");
    out.raw("<label for=\"").text(&id).raw("\">");
    out.text(page.msg("tasking.stop.type").with("word", page.t("tasking.stop.lift-word"))).raw("</label>");
    out.raw("<input type=\"text\" name=\"word\" autocomplete=\"off\" required id=\"").text(&id).raw("\">");
    out.raw("<button class=\"button quiet\">").text(page.t("tasking.stop.lift")).raw("</button></form>");
    out
}

async fn render(pages: &Pages, page: Page, typed: &Typed, wrong: &[(String, String)]) -> Result<View, Problem> {
    let tasking = tasking(pages)?;
    let stops = tasking.stops(&page.caller).await?;
    let rows = stops.iter().enumerate().map(|(number, stop)| {
        vec![
            Cell::State(Badge::new(ui::State::Alarm).word(desk::scope_of(pages, &page, stop))),
            Cell::text(&stop.reason),
            Cell::At(stop.at),
            Cell::text(page.who(&stop.by)),
            if may(tasking, &page, stop.tenant.as_ref()) { Cell::Html(lift(&page, stop, number)) } else { Cell::Empty },
        ]
    });
    let on = Table::new(page.t("tasking.stop.caption"))
        .headed()
        .column(Column::text("what", page.t("tasking.stop.what")))
        .column(Column::text("why", page.t("tasking.reason")))
        .column(Column::text("at", page.t("tasking.stop.since")))
        .column(Column::text("by", page.t("alarm.by")))
        .column(Column::text("do", page.t("tasking.stop.lift")))
        .rows(rows)
        .empty(page.t("tasking.stop.none"));
    let record = tasking.switched(&page.caller).await?;
    let record = Table::new(page.t("tasking.stop.record"))
        .headed()
        .column(Column::text("at", page.t("alarm.when")))
        .column(Column::text("did", page.t("alarm.what")))
        .column(Column::text("what", page.t("tasking.stop.what")))
        .column(Column::text("why", page.t("tasking.reason")))
        .column(Column::text("by", page.t("alarm.by")))
        .rows(record.iter().map(|line| {
            let (shape, key) = match line.stopped {
                true => (ui::State::Alarm, "tasking.stop.thrown"),
                false => (ui::State::Good, "tasking.stop.lifted"),
            };
            vec![
                Cell::At(line.stop.at),
                Cell::State(Badge::new(shape).word(page.t(key))),
                Cell::text(desk::scope_of(pages, &page, &line.stop)),
                Cell::text(&line.stop.reason),
                Cell::text(page.who(&line.stop.by)),
            ]
        }))
        .empty(page.t("tasking.stop.record-none"));
    let fields = questions(pages, &page, typed, wrong).await?;
    let mut errors = ErrorSummary::new(&fields);
    if errors.is_empty() && !wrong.is_empty() {
        // It was the form in a row, which says itself what to type.
        errors = ErrorSummary::of(&Problem::field("/on", page.t("tasking.stop.wrong-word").to_owned()));
    }
    let notice = match page.query.get("did").as_deref() {
        Some("thrown") => Some(Notice::new(Tone::Warning, page.t("tasking.stop.did-throw"))),
        Some("lifted") => Some(Notice::new(Tone::Done, page.t("tasking.stop.did-lift"))),
        _ => None,
    };
    let page = page.in_section("tasking").under_t("tasking.heading", "/tasking").titled_t("tasking.stop.heading");
    Ok(View { notice, errors, on, fields, record, page })
}

async fn questions(
    pages: &Pages,
    page: &Page,
    typed: &Typed,
    wrong: &[(String, String)],
) -> Result<Vec<Field>, Problem> {
    let tasking = tasking(pages)?;
    let mut choices = Vec::new();
    // An actuator's page leads here with what it is about.
    let asked = Some(typed.get("what")).filter(|what| !what.is_empty()).map(str::to_owned);
    let asked = asked.or_else(|| page.query.get("what")).unwrap_or_default();
    if let Some(Stopped::Actuator(id)) = parse(&asked) {
        let (tenant, name) = tasking.actuator(&page.caller, id).await?;
        if may(tasking, page, Some(&tenant)) {
            let label = page.msg("tasking.stop.alone").with("name", name).with("id", id).to_string();
            choices.push(Choice::new(asked.clone(), label));
        }
    }
    for tenant in tasking.departments(&page.caller) {
        if may(tasking, page, Some(&tenant)) {
            let label = page.msg("tasking.stop.all-of").with("name", department(pages, page, &tenant)).to_string();
            choices.push(Choice::new(format!("tenant:{tenant}"), label));
        }
    }
    if may(tasking, page, None) {
        choices.push(Choice::new("city", page.t("tasking.stop.whole-city")));
    }
    if choices.is_empty() {
        return Ok(Vec::new());
    }
    let error = |name: &str| wrong.iter().find(|(field, _)| field == name).map(|(_, text)| text.clone());
    let chosen = if asked.is_empty() { choices[0].value.clone() } else { asked };
    let word = page.t("tasking.stop.word");
    Ok(vec![
        Field::new("what", page.t("tasking.stop.what"), FieldKind::Radios(choices))
            .required()
            .value(chosen)
            .error(error("what")),
        Field::new("reason", page.t("tasking.reason"), FieldKind::Area { rows: 2 })
            .hint(page.t("tasking.stop.reason-hint"))
            .max_length(2_000)
            .required()
            .value(typed.get("reason"))
            .error(error("reason")),
        Field::input("word", page.msg("tasking.stop.type").with("word", word).to_string(), "text")
            .hint(page.t("tasking.stop.word-hint"))
            .autocomplete("off")
            .required()
            .value(typed.get("word"))
            .error(error("word")),
    ])
}

pub async fn show(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(first) = sign_in_first(&page) {
        return Ok(first);
    }
    Ok(Html(render(&pages, page, &Typed::default(), &[]).await?).into_response())
}

pub async fn throw(State(pages): State<Pages>, Posted { page, typed }: Posted) -> Result<Response, Problem> {
    let tasking = tasking(&pages)?;
    let on = typed.get("on") != "no";
    let what =
        parse(typed.get("what")).ok_or_else(|| Problem::field("what", "city, tenant:<slug> or actuator:<id>"))?;
    let mut wrong = Vec::new();
    if on && typed.get("reason").is_empty() {
        wrong.push(("reason".to_owned(), page.t("tasking.wrong.reason").to_owned()));
    }
    let word = page.t(if on { "tasking.stop.word" } else { "tasking.stop.lift-word" });
    if !typed.get("word").eq_ignore_ascii_case(word) {
        let text = page.msg("tasking.stop.type").with("word", word).to_string();
        wrong.push((if on { "word" } else { "lift" }.to_owned(), text));
    }
    if wrong.is_empty() {
        tasking.throw(&page.caller, what, on, typed.get("reason")).await?;
        let did = if on { "thrown" } else { "lifted" };
        return Ok(Redirect::to(&page.href(&format!("/tasking/stop?did={did}"))).into_response());
    }
    // The form in a row has nothing that would have to be typed again.
    let typed = if on { typed } else { Typed::default() };
    let view = render(&pages, page, &typed, &wrong).await?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(view)).into_response())
}
