//! Retention for officers: what is kept how long, what would go, who has said so, and holds.

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use kernel::{Id, Problem, Tenant};
use ui::{Act, Badge, Cell, Choice, Column, ErrorSummary, Field, FieldKind, Html, Notice, Page, Table, Tone};

use super::{
    Pages,
    form::{Posted, Typed, mistakes},
};
use crate::{
    model::EntityId,
    observe::thin::{Form, Outcome},
    retention::{
        Hold, Report, Retention, Run, RunKind, RunState, View as Declared,
        model::{Declaration, Stage},
    },
};

/// Datastreams that a page names for one run.
const NAMED: usize = 10;

#[derive(Template)]
#[template(path = "retention.html")]
struct View {
    page: Page,
    notice: Option<Notice>,
    declarations: Vec<Section>,
    holds: Table,
    hold: Vec<Field>,
    lift: Vec<Field>,
    errors: ErrorSummary,
}

/// One declaration.
struct Section {
    id: String,
    name: String,
    department: String,
    state: Badge,
    stages: Vec<String>,
    /// What is applied meanwhile, where that is another.
    confirmed: Option<Vec<String>>,
    facts: Vec<String>,
    runs: Table,
    /// What the newest run says, by month and by Datastream.
    newest: Option<(String, Table, Table)>,
    preview: Option<Act>,
    confirm: Option<Act>,
}

fn form(page: &Page, form: Form) -> String {
    match form {
        Form::Raw => page.t("retention.raw").to_owned(),
        Form::Every(3_600) => page.t("retention.hourly").to_owned(),
        Form::Every(seconds) => page.count("retention.means", u64::from(seconds / 60)),
        Form::Gone => page.t("retention.gone").to_owned(),
    }
}

fn stages(page: &Page, keep: &[Stage]) -> Vec<String> {
    let stage = |stage: &Stage| {
        let length = match stage.lasts.map(|lasts| lasts.words()) {
            Some((n, "days")) => page.count("retention.days", u64::from(n)),
            Some((n, "months")) => page.count("retention.months", u64::from(n)),
            Some((n, _)) => page.count("retention.years", u64::from(n)),
            None => page.t("retention.for-ever").to_owned(),
        };
        page.msg("retention.stage").with("form", form(page, stage.form.0)).with("length", length).to_string()
    };
    let mut all: Vec<String> = keep.iter().map(stage).collect();
    if keep.last().is_some_and(|last| last.lasts.is_some()) {
        all.push(form(page, Form::Gone));
    }
    all
}

fn rows(outcome: &Outcome) -> [Cell; 3] {
    let number = |n: u64| Cell::number(n as f64, 0);
    [number(outcome.gone), number(outcome.summed), number(outcome.sums)]
}

fn state_of(page: &Page, run: &Run) -> Badge {
    let (shape, key) = match (run.state, run.kind) {
        (RunState::Waiting, _) => (ui::State::Notice, "retention.run.waiting"),
        (RunState::Running, _) => (ui::State::Notice, "retention.run.running"),
        (RunState::Done, RunKind::Preview) => (ui::State::Good, "retention.run.seen"),
        (RunState::Done, RunKind::Applied) => (ui::State::Good, "retention.run.done"),
        (RunState::Failed, _) => (ui::State::Alarm, "retention.run.failed"),
    };
    Badge::new(shape).word(page.t(key))
}

/// Columns of what goes and what comes.
fn counted(table: Table, page: &Page) -> Table {
    table
        .column(Column::number("gone", page.t("retention.col-gone")))
        .column(Column::number("summed", page.t("retention.col-summed")))
        .column(Column::number("sums", page.t("retention.col-sums")))
}

fn runs(page: &Page, runs: &[Run]) -> Table {
    let rows_of = runs.iter().map(|run| {
        let what = if run.kind == RunKind::Preview { "retention.preview" } else { "retention.applied" };
        let mut cells = vec![Cell::text(page.t(what)), Cell::State(state_of(page, run)), Cell::At(run.asked_at)];
        match &run.report {
            Some(report) => {
                cells.extend(rows(&report.outcome));
                cells.push(Cell::text(ui::format::bytes(report.bytes)));
            }
            None => cells.extend([Cell::Empty, Cell::Empty, Cell::Empty, Cell::Empty]),
        }
        cells.push(Cell::text(page.who(&run.asked_by)));
        cells
    });
    let table = Table::new(page.t("retention.runs"))
        .column(Column::text("what", page.t("retention.col-what")))
        .column(Column::text("state", page.t("alarm.col-state")))
        .column(Column::text("at", page.t("retention.col-at")));
    counted(table, page)
        .column(Column::number("bytes", page.t("retention.col-bytes")))
        .column(Column::text("by", page.t("alarm.by")))
        .rows(rows_of)
        .empty(page.t("retention.no-runs"))
}

async fn newest(pages: &Pages, page: &Page, run: &Run, report: &Report) -> Result<(String, Table, Table), Problem> {
    let key = if run.kind == RunKind::Preview { "retention.would-go" } else { "retention.went" };
    let number = |n: u64| page.number(&(n as f64), 0);
    let mut said = page
        .msg(key)
        .with("gone", number(report.outcome.gone))
        .with("summed", number(report.outcome.summed))
        .with("sums", number(report.outcome.sums))
        .with("bytes", ui::format::bytes(report.bytes))
        .with("datastreams", number(report.datastreams))
        .to_string();
    if report.held > 0 {
        said = format!("{said} {}", page.count("retention.held", report.held));
    }
    let by_month = report.months.iter().rev().map(|month| {
        let [gone, summed, sums] = rows(&month.outcome);
        vec![Cell::text(&month.month), gone, summed, sums, Cell::text(ui::format::bytes(month.bytes))]
    });
    let months = Table::new(page.t("retention.by-month")).column(Column::text("month", page.t("retention.col-month")));
    let months = counted(months, page)
        .column(Column::number("bytes", page.t("retention.col-bytes")))
        .rows(by_month)
        .empty(page.t("retention.nothing"));
    let scope = pages.scope(&page.caller);
    let mut found = Vec::new();
    for stream in report.streams.iter().take(NAMED) {
        // Names of at most ten; one that has been deleted since keeps its number.
        let name = match pages.catalog.datastream(stream.datastream).await? {
            Some(info) => pages.catalog.get(&scope, info.entity(), stream.datastream).await?,
            None => None,
        };
        let [gone, summed, sums] = rows(&stream.outcome);
        let id = stream.datastream;
        let label = name.map_or_else(
            || format!("Datastreams({id})"),
            |entity| page.text(&super::name_of(entity.name(), &entity.properties())).to_owned(),
        );
        found.push(vec![Cell::link(page.href(&format!("/datastreams/{id}")), label), gone, summed, sums]);
    }
    let streams =
        Table::new(page.t("retention.by-datastream")).column(Column::text("name", page.t("retention.col-datastream")));
    let streams = counted(streams, page).rows(found).empty(page.t("retention.nothing"));
    Ok((said, months, streams))
}

async fn section(pages: &Pages, retention: &Retention, page: &Page, view: &Declared) -> Result<Section, Problem> {
    let may = retention.may(&page.caller, &view.tenant);
    let (shape, key) = match (view.declared, view.waits, view.confirmed.is_some()) {
        (false, ..) => (ui::State::Offline, "retention.state.withdrawn"),
        (_, true, false) => (ui::State::Notice, "retention.state.off"),
        (_, true, true) => (ui::State::Warning, "retention.state.waits"),
        (_, false, _) => (ui::State::Good, "retention.state.on"),
    };
    let name = page.text(&view.name).to_owned();
    let mut facts = vec![page.count("retention.datastreams", view.datastreams)];
    if view.waiting_datastreams > 0 {
        facts.push(page.count("retention.waiting", view.waiting_datastreams));
    }
    if let (Some(by), Some(at)) = (&view.confirmed_by, &view.confirmed_at) {
        facts.push(page.msg("retention.confirmed-by").with("by", page.who(by)).with("at", page.exact(at)).to_string());
    }
    let same = |confirmed: &Declaration| confirmed.keep == view.declaration.keep;
    let reported = view.runs.iter().find_map(|run| Some((run, run.report.as_ref()?)));
    let newest = match reported {
        Some((run, report)) => Some(newest(pages, page, run, report).await?),
        None => None,
    };
    let act = |what: &'static str, label: &str| {
        Act::new(page.href("/retention"), page.t(label)).field("do", what).field("key", &view.key).about(&name)
    };
    // What can be confirmed is what was seen last.
    let seen = view.runs.first().filter(|r| r.kind == RunKind::Preview && r.state == RunState::Done && view.waits);
    Ok(Section {
        id: format!("keep-{}", view.key),
        department: pages.owners.get(view.tenant.as_str()).map_or(view.tenant.as_str(), |n| page.text(n)).to_owned(),
        state: Badge::new(shape).word(page.t(key)),
        stages: stages(page, &view.declaration.keep),
        confirmed: view.confirmed.as_ref().filter(|c| !same(c)).map(|c| stages(page, &c.keep)),
        facts,
        runs: runs(page, &view.runs),
        newest,
        preview: (may && view.declared).then(|| act("preview", "retention.see")),
        confirm: seen.filter(|_| may).map(|run| act("confirm", "retention.confirm").field("run", run.id).danger()),
        name,
    })
}

fn covers(pages: &Pages, page: &Page, hold: &Hold) -> String {
    let department = pages.owners.get(hold.tenant.as_str()).map_or(hold.tenant.as_str(), |name| page.text(name));
    match (hold.thing, hold.datastream) {
        (_, Some(id)) => page.msg("retention.hold-datastream").with("id", id).to_string(),
        (Some(id), None) => page.msg("silence.thing-no").with("id", id).to_string(),
        (None, None) => page.msg("retention.hold-all").with("department", department).to_string(),
    }
}

async fn render(pages: &Pages, page: Page, typed: &Typed, wrong: &[(String, String)]) -> Result<View, Problem> {
    let retention = pages.retention.clone().ok_or_else(|| Problem::not_found("The page"))?;
    let mut declarations = Vec::new();
    for view in retention.list(&page.caller).await? {
        declarations.push(section(pages, &retention, &page, &view).await?);
    }
    let all = retention.holds(&page.caller).await?;
    let rows = all.iter().map(|hold| {
        let (shape, key) = match hold.lifted_at {
            None => (ui::State::Warning, "retention.hold-stands"),
            Some(_) => (ui::State::Unknown, "retention.hold-lifted"),
        };
        vec![
            Cell::State(Badge::new(shape).word(page.t(key))),
            Cell::text(covers(pages, &page, hold)),
            Cell::text(hold.lifted_reason.as_ref().unwrap_or(&hold.reason)),
            Cell::At(hold.lifted_at.unwrap_or(hold.made_at)),
            Cell::text(page.who(hold.lifted_by.as_ref().unwrap_or(&hold.made_by))),
        ]
    });
    let holds = Table::new(page.t("retention.holds"))
        .column(Column::text("state", page.t("alarm.col-state")))
        .column(Column::text("covers", page.t("silence.covers")))
        .column(Column::text("reason", page.t("silence.reason")))
        .column(Column::text("at", page.t("retention.col-at")))
        .column(Column::text("by", page.t("alarm.by")))
        .rows(rows)
        .empty(page.t("retention.no-holds"));
    let may = retention.tenants(&page.caller);
    let error = |name: &str| wrong.iter().find(|(field, _)| field == name).map(|(_, text)| text.clone());
    let (mut hold, mut lift) = (Vec::new(), Vec::new());
    if !may.is_empty() {
        if may.len() > 1 {
            let names = may.iter().map(|t| {
                Choice::new(t.as_str(), pages.owners.get(t.as_str()).map_or(t.as_str(), |name| page.text(name)))
            });
            let field = Field::new("tenant", page.t("device.department"), FieldKind::Select(names.collect()));
            hold.push(field.value(typed.get("tenant")).error(error("tenant")).required());
        }
        let text = |name: &str, label: &str, hint: &str| {
            Field::input(name, page.t(label), "text")
                .hint(page.t(hint))
                .max_length(200)
                .value(typed.get(name))
                .error(error(name))
        };
        hold.push(text("thing", "silence.thing", "retention.thing-hint").input_mode("numeric"));
        hold.push(text("datastream", "retention.col-datastream", "retention.datastream-hint").input_mode("numeric"));
        let reason = |name: &str| {
            Field::new(name, page.t("silence.reason"), FieldKind::Area { rows: 2 })
                .hint(page.t("retention.reason-hint"))
                .max_length(1_000)
                .required()
                .value(typed.get(name))
                .error(error(name))
        };
        hold.push(reason("reason"));
        let standing = all.iter().filter(|h| h.lifted_at.is_none() && may.contains(&h.tenant));
        let choices: Vec<Choice> = standing
            .map(|h| Choice::new(h.id.to_string(), format!("{}: {}", covers(pages, &page, h), h.reason)))
            .collect();
        if !choices.is_empty() {
            let which = Field::new("hold", page.t("retention.which-hold"), FieldKind::Select(choices));
            lift.push(which.value(typed.get("hold")).error(error("hold")).required());
            lift.push(reason("lift-reason"));
        }
    }
    let both: Vec<Field> = hold.iter().chain(&lift).cloned().collect();
    let errors = ErrorSummary::new(&both);
    let notice = match page.query.get("did").as_deref() {
        Some("preview") => Some(Notice::new(Tone::Done, page.t("retention.did-preview"))),
        Some("confirm") => Some(Notice::new(Tone::Done, page.t("retention.did-confirm"))),
        Some("hold") => Some(Notice::new(Tone::Done, page.t("retention.did-hold"))),
        Some("lift") => Some(Notice::new(Tone::Done, page.t("retention.did-lift"))),
        _ => None,
    };
    let page = page.in_section("live").wide().dense().titled_t("retention.heading");
    Ok(View { page, notice, declarations, holds, hold, lift, errors })
}

pub async fn show(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    Ok(Html(render(&pages, page, &Typed::default(), &[]).await?).into_response())
}

/// A number that may be left out.
fn number(page: &Page, typed: &Typed, name: &str) -> Result<Option<EntityId>, Vec<(String, String)>> {
    match typed.get(name) {
        "" => Ok(None),
        text => match text.parse() {
            Ok(id) => Ok(Some(EntityId(id))),
            Err(_) => Err(vec![(name.to_owned(), page.t("retention.wrong-number").to_owned())]),
        },
    }
}

enum Did {
    Yes(&'static str),
    Wrong(Vec<(String, String)>),
}

async fn act(pages: &Pages, page: &Page, typed: &Typed) -> Result<Did, Problem> {
    let retention = pages.retention.clone().ok_or_else(|| Problem::not_found("The page"))?;
    let caller = &page.caller;
    Ok(match typed.get("do") {
        "preview" => {
            retention.preview(caller, typed.get("key")).await?;
            Did::Yes("preview")
        }
        "confirm" => {
            // Who may not know of it learns nothing from what is wrong with the number.
            retention.get(caller, typed.get("key")).await?;
            let run: Id<Run> = typed.get("run").parse().map_err(|_| Problem::field("run", "a preview is expected"))?;
            retention.confirm(caller, typed.get("key"), run).await?;
            Did::Yes("confirm")
        }
        "hold" => {
            let may = retention.tenants(caller);
            let tenant = match typed.get("tenant") {
                "" => caller.tenant.clone().filter(|own| may.contains(own)).or_else(|| may.first().cloned()),
                slug => Tenant::parse(slug).ok(),
            };
            let none = || Problem::forbidden("Ask your department for the right to delete Observations.");
            let tenant = tenant.ok_or_else(none)?;
            let (thing, datastream) = match (number(page, typed, "thing"), number(page, typed, "datastream")) {
                (Ok(thing), Ok(datastream)) => (thing, datastream),
                (Err(wrong), _) | (_, Err(wrong)) => return Ok(Did::Wrong(wrong)),
            };
            if typed.get("reason").is_empty() {
                return Ok(Did::Wrong(vec![("reason".to_owned(), page.t("silence.wrong-reason").to_owned())]));
            }
            match retention.hold(caller, &tenant, thing, datastream, typed.get("reason")).await.map_err(Problem::from) {
                Ok(_) => Did::Yes("hold"),
                Err(problem) => Did::Wrong(mistakes(problem)?),
            }
        }
        "lift" => {
            let id: Id<Hold> = typed.get("hold").parse().map_err(|_| Problem::not_found("The hold"))?;
            if typed.get("lift-reason").is_empty() {
                return Ok(Did::Wrong(vec![("lift-reason".to_owned(), page.t("silence.wrong-reason").to_owned())]));
            }
            retention.lift(caller, id, typed.get("lift-reason")).await?;
            Did::Yes("lift")
        }
        _ => return Err(Problem::field("do", "preview, confirm, hold or lift is expected")),
    })
}

pub async fn decide(State(pages): State<Pages>, Posted { page, typed }: Posted) -> Result<Response, Problem> {
    match act(&pages, &page, &typed).await? {
        Did::Yes(what) => Ok(Redirect::to(&page.href(&format!("/retention?did={what}"))).into_response()),
        Did::Wrong(wrong) => {
            let view = render(&pages, page, &typed, &wrong).await?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(view)).into_response())
        }
    }
}
