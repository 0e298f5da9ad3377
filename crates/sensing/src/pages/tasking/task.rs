//! One Task: who wants what and why, how it is now beside how it shall be, each step, and what the reader may do.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use kernel::Problem;
use serde_json::Value;
use ui::{Badge, Cell, Column, Field, FieldKind, Html, Notice, Page, Table, Tone};

use super::{Pages, badge, department, desk, form, in_words, now, sign_in_first, status_key, tasking};
use crate::{
    model::EntityId,
    pages::form::Posted,
    tasking::{
        Deed, Entry, Run,
        desk::Line,
        model::{Purpose, Status},
    },
};

#[derive(Template)]
#[template(path = "task.html")]
struct View {
    page: Page,
    notices: Vec<Notice>,
    state: Badge,
    simulated: bool,
    facts: Vec<(String, String)>,
    links: Vec<(String, String, String)>,
    /// Wanted beside observed.
    compared: Option<Table>,
    consequences: Option<String>,
    version: u32,
    comment: Field,
    /// Name, word, and whether it is the weightier one.
    deeds: Vec<(&'static str, String, bool)>,
    /// Why the reader may not approve what waits to be approved.
    barred: Option<String>,
    history: Table,
    api: String,
}

/// Who did it, in the reader's words where it was nobody.
fn who(page: &Page, label: &str) -> String {
    match label {
        "system:tasking" => page.t("tasking.by-itself").to_owned(),
        "policy" => page.t("tasking.by-policy").to_owned(),
        label => page.who(label),
    }
}

/// The word for what has happened. lang-keys: tasking.event.*
fn event(page: &Page, entry: &Entry) -> String {
    let key = format!("tasking.event.{}", entry.event);
    page.t(&key).to_owned()
}

fn history(page: &Page, entries: &[Entry]) -> Table {
    let rows = entries.iter().map(|entry| {
        let status = Status::from_name(&entry.status);
        vec![
            Cell::At(entry.at),
            Cell::text(event(page, entry)),
            status.map_or(Cell::Empty, |status| Cell::State(badge(page, status))),
            Cell::text(who(page, &entry.by)),
            Cell::text(entry.remark.as_deref().unwrap_or_default()),
        ]
    });
    Table::new(page.t("alarm.history"))
        .column(Column::text("at", page.t("alarm.when")))
        .column(Column::text("what", page.t("alarm.what")))
        .column(Column::text("state", page.t("alarm.col-state")))
        .column(Column::text("by", page.t("alarm.by")))
        .column(Column::text("remark", page.t("alarm.comment")))
        .rows(rows)
}

/// What is wanted beside what is observed: before it is approved, that is the value it would change.
fn compared(pages: &Pages, page: &Page, line: &Line, run: &Run) -> Option<Table> {
    let verify = run.task.verify.as_ref()?;
    let watched = Line { watched: Some(verify.reading.datastream), ..line.clone() };
    let (words, value, at) = now(pages, page, &watched)?;
    let verdict = match (verify.reading.is(&value), run.task.sent_at) {
        (true, Some(sent)) if at >= sent => (ui::State::Good, "tasking.compare.so"),
        (true, _) => (ui::State::Notice, "tasking.compare.already"),
        (false, None) => (ui::State::Notice, "tasking.compare.would-change"),
        (false, Some(_)) => (ui::State::Warning, "tasking.compare.not"),
    };
    let row = vec![
        Cell::text(in_words(page, line, &verify.reading.value)),
        Cell::text(words),
        Cell::Ago(at),
        Cell::State(Badge::new(verdict.0).word(page.t(verdict.1))),
    ];
    Some(
        Table::new(page.t("tasking.compare.caption"))
            .column(Column::text("wanted", page.t("tasking.wanted")))
            .column(Column::text("now", page.t("tasking.now")))
            .column(Column::text("at", page.t("thing.as-of")))
            .column(Column::text("verdict", page.t("tasking.compare.verdict")))
            .rows([row]),
    )
}

fn facts(page: &Page, line: &Line, run: &Run) -> Vec<(String, String)> {
    let task = &run.task;
    let parameters = line.record().parameters;
    let mut facts = form::said(page, &parameters, &run.parameters);
    let mut fact = |key: &str, value: String| facts.push((page.t(key).to_owned(), value));
    let joined = |values: &serde_json::Map<String, Value>| {
        let said = form::said(page, &parameters, &Value::Object(values.clone()));
        said.into_iter().map(|(label, value)| format!("{label}: {value}")).collect::<Vec<_>>().join(" · ")
    };
    fact("tasking.proposer", who(page, &task.proposer));
    if !task.reason.is_empty() {
        fact("tasking.reason", task.reason.clone());
    }
    fact("tasking.proposed-at", page.exact(&run.created));
    if let Some(approver) = &task.approver {
        fact("tasking.approver", who(page, approver));
    }
    let over = task.status.is_over();
    if !over && task.sent_at.is_none() {
        fact("tasking.expires-at", page.exact(&task.expires));
    }
    if let Some(sent) = task.sent_at {
        fact("tasking.sent-at", page.exact(&sent));
    }
    if let Some(due) = task.due {
        fact("tasking.due", page.exact(&due));
    }
    if let Some(until) = task.held_until {
        fact("tasking.held-until", page.exact(&until));
    }
    if let Some(expect) = &task.expect {
        fact("tasking.expected", in_words(page, line, &expect.value));
    }
    if let Some(hold) = &task.hold {
        fact("tasking.fallback", joined(&hold.fallback));
    }
    if let Some(undo) = &task.undo {
        fact("tasking.undo", joined(undo));
    }
    facts
}

/// What the reader may do in this state, and why not approve.
fn deeds(page: &Page, may: &dyn Fn(Deed) -> bool, run: &Run) -> (Vec<(&'static str, String, bool)>, Option<String>) {
    let task = &run.task;
    let (mut deeds, mut barred) = (Vec::new(), None);
    let mut offer = |deed: Deed, key: &str, danger: bool| {
        if may(deed) {
            deeds.push((deed.name(), page.t(key).to_owned(), danger));
        }
    };
    let waits = matches!(task.status, Status::Proposed | Status::Validated | Status::Approved);
    if task.status == Status::Validated {
        if task.proposer == page.caller.label() {
            barred = Some(page.t("tasking.own").to_owned());
        } else if may(Deed::Approve) {
            offer(Deed::Approve, "tasking.do.approve", false);
        } else {
            barred = Some(page.t("tasking.waits").to_owned());
        }
    }
    if waits {
        if task.proposer != page.caller.label() {
            offer(Deed::Reject, "tasking.do.reject", true);
        }
        offer(Deed::Cancel, "tasking.do.withdraw", true);
    }
    if task.status.is_out() {
        if task.held_until.is_some() {
            offer(Deed::Renew, "tasking.do.renew", false);
            if task.status == Status::Verified || (task.status == Status::Acknowledged && task.verify.is_none()) {
                offer(Deed::Release, "tasking.do.release", false);
            }
        }
        offer(Deed::Cancel, "tasking.do.cancel", true);
    }
    if task.status == Status::Completed && task.undo.is_some() && !task.taken_back && task.purpose == Purpose::Ask {
        offer(Deed::RollBack, "tasking.do.roll-back", true);
    }
    (deeds, barred)
}

pub async fn show(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    page: Page,
) -> Result<Response, Problem> {
    if let Some(first) = sign_in_first(&page) {
        return Ok(first);
    }
    let id = super::id(&id, "The Task")?;
    let tasking = tasking(&pages)?;
    let (run, entries) = tasking.get(&page.caller, id).await?;
    let line = tasking.line(&page.caller, run.capability).await?;
    let stops = tasking.stops(&page.caller).await?;
    let stop = desk::stopped(&stops, run.actuator, &run.tenant).filter(|_| !run.task.status.is_over());
    let mut notices = desk::notices(&pages, &page, &stop.into_iter().collect::<Vec<_>>());
    if page.query.get("did").as_deref() == Some("proposed") {
        let key = match run.task.status {
            Status::Validated => "tasking.did.waits",
            Status::Approved => "tasking.did.queued",
            Status::Rejected => "tasking.did.rejected",
            _ => "tasking.did.sent",
        };
        let tone = if run.task.status == Status::Rejected { Tone::Warning } else { Tone::Done };
        notices.insert(0, Notice::new(tone, page.t(key)));
    }
    let owner = (&run.tenant, run.public);
    let may = |deed: Deed| tasking.permits(&page.caller, deed.action(), owner);
    let (deeds, barred) = deeds(&page, &may, &run);
    let mut links = vec![
        (
            page.t("tasking.what").to_owned(),
            page.href(&format!("/tasking/{}", line.capability)),
            page.text(&line.name).to_owned(),
        ),
        (
            page.t("alarm.thing").to_owned(),
            page.href(&format!("/things/{}", line.thing)),
            page.text(&line.thing_name).to_owned(),
        ),
    ];
    if let Purpose::Undo(of) | Purpose::Fallback(of) = run.task.purpose {
        let key = if matches!(run.task.purpose, Purpose::Undo(_)) { "tasking.undoes" } else { "tasking.falls-back" };
        let text = page.msg("tasking.task-no").with("id", of).to_string();
        links.push((page.t(key).to_owned(), page.href(&format!("/tasking/tasks/{of}")), text));
    }
    let mut facts = facts(&page, &line, &run);
    facts.push((page.t("device.department").to_owned(), department(&pages, &page, &run.tenant).to_owned()));
    let comment = Field::new("comment", page.t("alarm.comment"), FieldKind::Area { rows: 2 });
    let waits = matches!(run.task.status, Status::Validated | Status::Approved);
    let view = View {
        notices,
        state: badge(&page, run.task.status),
        simulated: line.simulated,
        facts,
        links,
        compared: compared(&pages, &page, &line, &run),
        consequences: line.terms().consequences.filter(|_| waits).map(|text| page.text(&text).to_owned()),
        version: run.task.version,
        comment: comment.hint(page.t("tasking.comment-hint")).max_length(2_000),
        deeds,
        barred,
        history: history(&page, &entries),
        api: format!("/api/tasks/{id}"),
        page: page
            .clone()
            .in_section("tasking")
            .under_t("tasking.heading", "/tasking")
            .under_t("tasking.tasks", "/tasking/tasks")
            .titled(page.msg("tasking.task-no").with("id", id)),
    };
    // Where it is, in the window's title too: a second window is watched from the corner of an eye.
    let description = page.t(status_key(run.task.status)).to_owned();
    let view = View { page: view.page.clone().described(description), ..view };
    Ok(Html(view).into_response())
}

pub async fn act(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let id: EntityId = super::id(&id, "The Task")?;
    let names: Vec<&str> = Deed::ALL.iter().map(|deed| deed.name()).collect();
    let deed = Deed::from_name(typed.get("deed"))
        .ok_or_else(|| Problem::field("deed", format!("one of {} is expected", names.join(", "))))?;
    let version = typed.get("version").parse::<u32>();
    let version = version.map_err(|_| Problem::field("version", "the version that you have seen is expected"))?;
    // A hold is renewed in a hurry, and renewing it twice is no harm; everything else is decided by what was seen.
    let seen = (deed != Deed::Renew).then_some(version);
    tasking(&pages)?.act(&page.caller, id, deed, seen, typed.get("comment")).await?;
    Ok(Redirect::to(&page.href(&format!("/tasking/tasks/{id}"))).into_response())
}
