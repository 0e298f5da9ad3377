//! The list of actuators, and the list of Tasks.

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use kernel::{Problem, Tenant};
use ui::{Badge, Cell, Column, FilterChoice, Filters, Html, Markup, Notice, Page, Pager, Table, Tone};

use super::{Pages, badge, department, form, now, sign_in_first, status_key, tasking};
use crate::{
    model::EntityId,
    tasking::{
        Run, Stop,
        desk::{Asked, Line},
        model::Status,
    },
};

/// Districts that are offered to narrow by.
const MOST_CHOICES: usize = 100;

#[derive(Template)]
#[template(path = "tasking.html")]
struct Desk {
    page: Page,
    notices: Vec<Notice>,
    filters: Filters,
    table: Table,
    pager: Pager,
    /// Tasks that wait for a second person, and may be approved by the reader or by others.
    waiting: u64,
}

/// The switch that stops an actuator, the widest first.
pub(super) fn stopped<'s>(stops: &'s [Stop], actuator: EntityId, tenant: &Tenant) -> Option<&'s Stop> {
    let of = |s: &&Stop| match (&s.tenant, s.actuator) {
        (None, _) => true,
        (Some(owner), None) => owner == tenant,
        (Some(_), Some(id)) => id == actuator,
    };
    let width = |s: &&Stop| (s.tenant.is_some(), s.actuator.is_some());
    stops.iter().filter(of).min_by_key(width)
}

/// What a stop is of: the city, a department, one actuator.
pub(super) fn scope_of(pages: &Pages, page: &Page, stop: &Stop) -> String {
    match (&stop.tenant, stop.actuator) {
        (None, _) => page.t("tasking.stop.city").to_owned(),
        (Some(tenant), None) => department(pages, page, tenant).to_owned(),
        (Some(_), Some(id)) => page.msg("tasking.stop.actuator").with("id", id).to_string(),
    }
}

/// Says which switches are on that concern what is shown.
pub(super) fn notices(pages: &Pages, page: &Page, stops: &[&Stop]) -> Vec<Notice> {
    let notice = |stop: &&Stop| {
        let text = page
            .msg("tasking.stop.on")
            .with("what", scope_of(pages, page, stop))
            .with("reason", &stop.reason)
            .with("when", page.exact(&stop.at));
        Notice::new(Tone::Failure, text).link(page.href("/tasking/stop"), page.t("tasking.stop.heading"))
    };
    stops.iter().map(notice).collect()
}

pub async fn list(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(first) = sign_in_first(&page) {
        return Ok(first);
    }
    let tasking = tasking(&pages)?;
    let departments = tasking.departments(&page.caller);
    let one = |name: &str| page.query.get(name).unwrap_or_default();
    let tenant = match one("tenant") {
        slug if slug.is_empty() => None,
        slug => Some(Tenant::parse(&slug).map_err(|_| Problem::not_found("The department"))?),
    };
    let after = match one("after") {
        text if text.is_empty() => None,
        text => Some(super::id(&text, "The page")?),
    };
    let (system, district) = (one("system"), one("district"));
    let asked = Asked { tenant, system: system.clone(), district: district.clone(), after };
    let (lines, next) = tasking.desk(&page.caller, asked).await?;
    let stops = tasking.stops(&page.caller).await?;
    let waiting = tasking.list(&page.caller, Some(Status::Validated), (None, None), None).await?.len() as u64;
    let rows = lines.iter().map(|line| row(&pages, &page, line, &stops));
    let table = Table::new(page.count("tasking.caption", lines.len() as u64))
        .column(Column::text("name", page.t("tasking.what")))
        .column(Column::text("thing", page.t("alarm.thing")))
        .column(Column::text("now", page.t("tasking.now")))
        .column(Column::text("at", page.t("thing.as-of")))
        .column(Column::text("holder", page.t("tasking.holder")))
        .column(Column::text("owner", page.t("device.department")))
        .column(Column::text("district", page.t("thing.district")))
        .rows(rows)
        .empty(page.t("tasking.none"));
    let scope = pages.scope(&page.caller);
    let groups = pages.directory.groups(&scope).await?;
    let any = || std::iter::once(FilterChoice::new("", page.t("tasking.any")));
    let systems = pages.directory.systems().iter().map(|s| FilterChoice::new(&*s.key, page.text(&s.name)));
    let districts = groups.districts().into_iter().take(MOST_CHOICES).map(|d| FilterChoice::new(d, d));
    let mut filters = Filters::default();
    if departments.len() > 1 {
        let names = departments.iter().map(|t| FilterChoice::new(t.as_str(), department(&pages, &page, t)));
        filters = filters.one("tenant", page.t("device.department"), any().chain(names).collect(), one("tenant"));
    }
    let filters = filters.one("system", page.t("thing.system"), any().chain(systems).collect(), system).one(
        "district",
        page.t("thing.district"),
        any().chain(districts).collect(),
        district,
    );
    // The city's and departments' switches head the page; an actuator's stands in its row.
    let wide: Vec<&Stop> = stops.iter().filter(|s| s.actuator.is_none()).collect();
    let notices = notices(&pages, &page, &wide);
    let pager = Pager::after(&page, next.map(|id| id.to_string()).as_deref());
    let page = page.in_section("tasking").wide().dense().titled_t("tasking.heading");
    Ok(Html(Desk { notices, filters, table, pager, waiting, page }).into_response())
}

fn row(pages: &Pages, page: &Page, line: &Line, stops: &[Stop]) -> Vec<Cell> {
    let (value, at) = match now(pages, page, line) {
        Some((value, _, at)) => (Cell::text(value), Cell::Ago(at)),
        None => (Cell::Empty, Cell::Empty),
    };
    let mut thing = Markup::default();
    thing.raw("<a href=\"").text(page.href(&format!("/things/{}", line.thing))).raw("\">");
    thing.text(page.text(&line.thing_name)).raw("</a>");
    if line.simulated {
        thing.raw(" <span class=\"simulated\">").text(page.t("state.simulated")).raw("</span>");
    }
    let holder = match (stopped(stops, line.actuator, &line.tenant), line.holder) {
        (Some(_), _) => Cell::State(Badge::new(ui::State::Alarm).word(page.t("tasking.stopped"))),
        (None, Some((id, status))) => {
            let mut holder = Markup::default();
            holder.push(&badge(page, status).html(page)).raw(" <a href=\"");
            holder.text(page.href(&format!("/tasking/tasks/{id}"))).raw("\">");
            holder.text(page.msg("tasking.task-no").with("id", id)).raw("</a>");
            Cell::Html(holder)
        }
        (None, None) => Cell::State(Badge::new(ui::State::Good).word(page.t("tasking.free"))),
    };
    vec![
        Cell::link(page.href(&format!("/tasking/{}", line.capability)), page.text(&line.name)),
        Cell::Html(thing),
        value,
        at,
        holder,
        Cell::text(department(pages, page, &line.tenant)),
        Cell::text(&line.district),
    ]
}

#[derive(Template)]
#[template(path = "tasks.html")]
struct Tasks {
    page: Page,
    /// Address, word and whether it is the one that is shown.
    choices: Vec<(String, String, bool)>,
    table: Table,
    pager: Pager,
}

/// A table of Tasks with what they are about. `named` leaves that out, where the page says it already.
pub(super) async fn table(pages: &Pages, page: &Page, runs: &[Run], named: bool) -> Result<Table, Problem> {
    let capabilities: Vec<EntityId> = runs.iter().map(|run| run.capability).collect();
    let lines = tasking(pages)?.lines(&page.caller, &capabilities).await?;
    let mut table = Table::new(page.t("tasking.tasks"))
        .headed()
        .column(Column::text("id", page.t("tasking.task")))
        .column(Column::text("status", page.t("alarm.col-state")));
    if !named {
        table = table.column(Column::text("what", page.t("tasking.what")));
    }
    let rows = runs.iter().map(|run| {
        let mut cells = vec![
            Cell::link(
                page.href(&format!("/tasking/tasks/{}", run.id)),
                page.msg("tasking.task-no").with("id", run.id),
            ),
            Cell::State(badge(page, run.task.status)),
        ];
        let line = lines.get(&run.capability);
        if !named {
            let what = line.map(|line| format!("{} · {}", page.text(&line.name), page.text(&line.thing_name)));
            cells.push(Cell::text(what.unwrap_or_default()));
        }
        let wanted = line.map(|line| form::said(page, &line.record().parameters, &run.parameters));
        let wanted = wanted.unwrap_or_default().into_iter().map(|(_, value)| value).collect::<Vec<_>>().join(" · ");
        cells.extend([Cell::text(wanted), Cell::text(page.who(&run.task.proposer)), Cell::Ago(run.created)]);
        cells
    });
    Ok(table
        .column(Column::text("wanted", page.t("tasking.wanted")))
        .column(Column::text("by", page.t("tasking.proposer")))
        .column(Column::text("at", page.t("tasking.proposed-at")))
        .rows(rows)
        .empty(page.t("tasking.no-tasks")))
}

/// Those that somebody looks for.
const CHOICES: [Status; 8] = [
    Status::Validated,
    Status::Approved,
    Status::Sent,
    Status::Acknowledged,
    Status::Completed,
    Status::Failed,
    Status::Expired,
    Status::Rejected,
];

pub async fn tasks(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(first) = sign_in_first(&page) {
        return Ok(first);
    }
    let tasking = tasking(&pages)?;
    if tasking.departments(&page.caller).is_empty() {
        return Err(Problem::not_found("The list"));
    }
    let status = match page.query.get("status").filter(|s| !s.is_empty()) {
        Some(name) => Some(Status::from_name(&name).ok_or_else(|| Problem::field("status", "there is no such state"))?),
        None => None,
    };
    let before = match page.query.get("after").filter(|t| !t.is_empty()) {
        Some(text) => Some(super::id(&text, "The page")?),
        None => None,
    };
    let runs = tasking.list(&page.caller, status, (None, None), before).await?;
    let next = (runs.len() >= crate::tasking::PAGE).then(|| runs.last().map(|run| run.id.to_string())).flatten();
    let table = table(&pages, &page, &runs, false).await?;
    let all = (page.href("/tasking/tasks"), page.t("tasking.all").to_owned(), status.is_none());
    let choices = CHOICES.into_iter().map(|s| {
        let href = page.href(&format!("/tasking/tasks?status={}", s.name()));
        (href, page.t(status_key(s)).to_owned(), status == Some(s))
    });
    let choices = std::iter::once(all).chain(choices).collect();
    let pager = Pager::after(&page, next.as_deref());
    let page =
        page.in_section("tasking").wide().dense().under_t("tasking.heading", "/tasking").titled_t("tasking.tasks");
    Ok(Html(Tasks { choices, table, pager, page }).into_response())
}
