//! The alarm board, and one alarm with its history and what can be done to it.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use kernel::{Id, Problem};
use ui::{
    Badge, Cell, Choice, Column, Field, FieldKind, FilterChoice, Filters, Html, Notice, Page, Pager, Table, Tone,
};

use super::{Pages, decimals, form::Posted};
use crate::{
    alarms::{
        Deed, Filter,
        model::{Alarm, AlarmState, Entry, EntryKind},
        silences::{Silences, model::Silence},
    },
    model::EntityId,
    route::action,
    rules::model::Severity,
};

const PER_PAGE: u32 = 50;

#[derive(Template)]
#[template(path = "alarms.html")]
struct Board {
    page: Page,
    filters: Filters,
    table: Table,
    pager: Pager,
}

#[derive(Template)]
#[template(path = "alarm.html")]
struct AlarmPage {
    page: Page,
    alarm: Alarm,
    state: Badge,
    severity: String,
    instruction: Option<String>,
    thing: String,
    thing_href: String,
    datastream_href: String,
    value: Option<String>,
    history: Table,
    deeds: Vec<Offer>,
    acts: bool,
    /// Who can be asked to see to it; empty where the reader may ask nobody.
    to: Option<Field>,
    /// What is said of a silence that keeps letters about it back.
    silent: Option<Notice>,
    /// Where a silence for such alarms is made.
    silence_href: Option<String>,
    rule_href: String,
}

/// Something the reader may do.
struct Offer {
    value: &'static str,
    label: String,
}

fn badge(page: &Page, state: AlarmState) -> Badge {
    let (shape, key) = match state {
        AlarmState::Open => (ui::State::Alarm, "alarm.state.open"),
        AlarmState::Acknowledged => (ui::State::Warning, "alarm.state.acknowledged"),
        AlarmState::Cleared => (ui::State::Good, "alarm.state.cleared"),
        AlarmState::Closed => (ui::State::Notice, "alarm.state.closed"),
    };
    Badge::new(shape).word(page.t(key))
}

/// The word for it.
pub(super) fn severity(page: &Page, severity: Severity) -> &str {
    page.t(match severity {
        Severity::Minor => "alarm.severity.minor",
        Severity::Moderate => "alarm.severity.moderate",
        Severity::Severe => "alarm.severity.severe",
        Severity::Extreme => "alarm.severity.extreme",
    })
}

/// What is said beside an alarm: who sees to it, and until when letters about it are kept back.
fn beside(page: &Page, alarm: &Alarm, over: &Over) -> String {
    let silent = over.get(&alarm.id).and_then(|all| all.first());
    let silent = silent.map(|s| page.msg("silence.until-then").with("until", page.exact(&s.ends_at)).to_string());
    let parts = [alarm.assignee.as_ref().map(|a| page.who(a.as_str())), silent];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn desk(page: &Page, alarms: &[Alarm], over: &Over, empty: &str) -> Table {
    let mut table = Table::new(page.t("alarm.caption"));
    for column in columns(page) {
        table = table.column(column);
    }
    let rows = alarms.iter().map(|a| {
        let mut cells = cells(page, a);
        cells.push(Cell::text(beside(page, a, over)));
        cells
    });
    table.column(Column::text("beside", page.t("alarm.beside"))).rows(rows).empty(empty)
}

type Over = std::collections::BTreeMap<Id<Alarm>, Vec<Silence>>;

fn columns(page: &Page) -> Vec<Column> {
    vec![
        Column::text("state", page.t("alarm.col-state")),
        Column::text("name", page.t("alarm.name")),
        Column::text("thing", page.t("alarm.thing")),
        Column::text("severity", page.t("alarm.col-severity")),
        Column::number("value", page.t("alarm.value")),
        Column::text("raised", page.t("alarm.raised")),
    ]
}

fn cells(page: &Page, a: &Alarm) -> Vec<Cell> {
    vec![
        Cell::State(badge(page, a.state)),
        Cell::link(page.href(&format!("/alarms/{}", a.id)), page.text(&a.name)),
        Cell::link(page.href(&format!("/things/{}", a.thing)), page.text(&a.thing_name)),
        Cell::text(severity(page, a.severity)),
        a.value.map_or(Cell::Empty, |v| Cell::quantity(v, decimals(v), a.unit.as_deref().unwrap_or_default())),
        Cell::Ago(a.raised_at),
    ]
}

fn rows(page: &Page, alarms: &[Alarm], empty: &str) -> Table {
    let mut table = Table::new(page.t("alarm.caption"));
    for column in columns(page) {
        table = table.column(column);
    }
    table.rows(alarms.iter().map(|a| cells(page, a))).empty(empty)
}

/// The newest standing alarms, for the home page.
pub(super) async fn table(pages: &Pages, page: &Page, most: u32) -> Result<Table, Problem> {
    let filter = Filter { states: [AlarmState::Open, AlarmState::Acknowledged].into(), ..Filter::default() };
    let listing = pages.alarms.list(&page.caller, filter, None, Some(most)).await?;
    Ok(rows(page, &listing.alarms, page.t("alarm.none-standing")))
}

pub(super) async fn of_thing(pages: &Pages, page: &Page, thing: EntityId) -> Result<Table, Problem> {
    let filter = Filter { thing: Some(thing), ..Filter::default() };
    let listing = pages.alarms.list(&page.caller, filter, None, Some(10)).await?;
    Ok(rows(page, &listing.alarms, page.t("alarm.none-here")))
}

pub async fn board(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let asked = page.query.all("state");
    let states =
        AlarmState::ALL.into_iter().filter(|s| asked.is_empty() && s.stands() || asked.iter().any(|a| *a == s.name()));
    let mine = page.query.all("mine").iter().any(|m| m == "yes");
    let filter = Filter {
        states: states.collect(),
        system: page.query.get("system").filter(|s| !s.is_empty()),
        assignee: mine.then(|| page.caller.label()),
        ..Filter::default()
    };
    let after =
        page.query.get("after").map(|a| a.parse::<Id<Alarm>>()).transpose().map_err(|e| Problem::field("after", e))?;
    let listing = pages.alarms.list(&page.caller, filter, after, Some(PER_PAGE)).await?;
    let next = listing.next.map(|id| id.to_string());
    let silences = Silences::new(pages.alarms.clone());
    let over = silences.over(&page.caller, &listing.alarms).await?;
    let table = desk(&page, &listing.alarms, &over, page.t("alarm.none-standing"));
    let states = AlarmState::ALL.into_iter().map(|s| {
        let key = match s {
            AlarmState::Open => "alarm.state.open",
            AlarmState::Acknowledged => "alarm.state.acknowledged",
            AlarmState::Cleared => "alarm.state.cleared",
            AlarmState::Closed => "alarm.state.closed",
        };
        FilterChoice::new(s.name(), page.t(key))
    });
    let systems = pages.directory.systems().iter().map(|s| FilterChoice::new(&s.key, page.text(&s.name)));
    let filters = Filters::default().checks("state", page.t("alarm.col-state"), states.collect()).checks(
        "system",
        page.t("thing.system"),
        systems.collect(),
    );
    let own = FilterChoice::new("yes", page.t("alarm.mine"));
    let filters = filters.checks("mine", page.t("alarm.assignee"), vec![own]);
    let pager = Pager::after(&page, next.as_deref());
    let page = page.in_section("alarms").wide().dense().titled_t("alarm.heading");
    Ok(Html(Board { filters, table, pager, page }))
}

pub async fn alarm(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    page: Page,
) -> Result<Html<impl Template>, Problem> {
    let id: Id<Alarm> = id.parse().map_err(Problem::not_found)?;
    let alarm = pages.alarms.get(&page.caller, id).await?;
    let entries = pages.alarms.history(&page.caller, id).await?;
    let history = Table::new(page.t("alarm.history"))
        .column(Column::text("at", page.t("alarm.when")))
        .column(Column::text("what", page.t("alarm.what")))
        .column(Column::text("by", page.t("alarm.by")))
        .column(Column::text("comment", page.t("alarm.comment")))
        .rows(entries.iter().map(|e: &Entry| {
            let word = match e.kind {
                EntryKind::Raised => "alarm.did.raised",
                EntryKind::Acknowledged => "alarm.did.acknowledged",
                EntryKind::Unacknowledged => "alarm.did.unacknowledged",
                EntryKind::Cleared => "alarm.did.cleared",
                EntryKind::Closed => "alarm.did.closed",
                EntryKind::Remark => "alarm.did.remarked",
                EntryKind::Assigned => "alarm.did.assigned",
            };
            let by = if page.caller.is_anonymous() { String::new() } else { page.who(&e.by) };
            vec![
                Cell::At(e.at),
                Cell::text(page.t(word)),
                Cell::text(by),
                Cell::text(e.comment.as_deref().unwrap_or_default()),
            ]
        }));
    let may = |action| {
        let text = alarm.id.to_string();
        let resource = kernel::Resource { kind: "Alarm", id: &text, tenant: Some(&alarm.tenant), public: alarm.public };
        pages.catalog.scopes().policy().allows(&page.caller, action, &resource)
    };
    let (may_acknowledge, may_close) = (may(action::ALARM_ACKNOWLEDGE), may(action::ALARM_CLOSE));
    let offer = |value, key: &str| Offer { value, label: page.t(key).to_owned() };
    let mut deeds = Vec::new();
    if may_acknowledge {
        match alarm.state {
            AlarmState::Open => deeds.push(offer("acknowledge", "alarm.do.acknowledge")),
            AlarmState::Acknowledged => deeds.push(offer("unacknowledge", "alarm.do.unacknowledge")),
            AlarmState::Cleared | AlarmState::Closed => {}
        }
        if alarm.state != AlarmState::Closed {
            deeds.push(offer("remark", "alarm.do.remark"));
        }
    }
    let mut to = None;
    if may_acknowledge && alarm.state != AlarmState::Closed {
        let teams = pages.alarms.teams(&page.caller, &alarm.tenant).await?;
        let teams = teams.iter().map(|key| Choice::new(format!("team:{key}"), key));
        let first = [Choice::new("", page.t("alarm.nobody")), Choice::new("me", page.t("alarm.me"))];
        let mut choices: Vec<Choice> = first.into_iter().chain(teams).collect();
        let now = alarm.assignee.as_ref().map_or("", |a| a.as_str());
        let own = if now == page.caller.label() { "me" } else { now };
        if choices.iter().all(|c| c.value != own) {
            choices.push(Choice::new(own, page.who(own)));
        }
        to = Some(Field::new("to", page.t("alarm.assignee"), FieldKind::Select(choices)).value(own));
        deeds.push(offer("assign", "alarm.do.assign"));
    }
    if may_close && alarm.state != AlarmState::Closed {
        deeds.push(offer("close", "alarm.do.close"));
    }
    let silences = Silences::new(pages.alarms.clone());
    let over = silences.over(&page.caller, std::slice::from_ref(&alarm)).await?;
    let silent = over.get(&alarm.id).and_then(|all| all.first()).map(|s| {
        let text = page.msg("silence.on-alarm").with("until", page.exact(&s.ends_at)).with("reason", &s.reason);
        Notice::new(Tone::Warning, text).link(page.href("/alarms/silences"), page.t("silence.heading"))
    });
    let may_silence = alarm.state.stands() && silences.may(&page.caller, &alarm.tenant);
    let silence_href = may_silence.then(|| {
        let query = format!("tenant={}&rule={}&thing={}", alarm.tenant, alarm.rule, alarm.thing);
        page.href(&format!("/alarms/silences?{query}"))
    });
    let rule_href = page.href(&format!("/rules/{}", alarm.rule));
    let value = alarm.value.map(|v| page.quantity(v, alarm.unit.as_deref().unwrap_or_default(), decimals(v)));
    let heading = page.text(&alarm.name).to_owned();
    let view = AlarmPage {
        state: badge(&page, alarm.state),
        severity: severity(&page, alarm.severity).to_owned(),
        instruction: alarm.instruction.as_ref().map(|i| page.text(i).to_owned()),
        thing: page.text(&alarm.thing_name).to_owned(),
        thing_href: page.href(&format!("/things/{}", alarm.thing)),
        datastream_href: page.href(&format!("/datastreams/{}", alarm.datastream)),
        value,
        history,
        acts: !deeds.is_empty(),
        deeds,
        to,
        silent,
        silence_href,
        rule_href,
        alarm,
        page: page.in_section("alarms").under_t("alarm.heading", "/alarms").titled(heading),
    };
    Ok(Html(view))
}

/// What an officer does about an alarm: `deed`, the `version` that was seen, a `comment`, and with the deed `assign` who is to see to it (`to`).
pub async fn act(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let id: Id<Alarm> = id.parse().map_err(Problem::not_found)?;
    let version = typed.get("version").parse().ok();
    let version = Some(version.ok_or_else(|| Problem::field("version", "the number in the form is expected"))?);
    let comment = typed.get("comment");
    let deed = match typed.get("deed") {
        "assign" => None,
        "acknowledge" => Some(Deed::Acknowledge),
        "unacknowledge" => Some(Deed::Unacknowledge),
        "close" => Some(Deed::Close),
        "remark" => Some(Deed::Remark),
        other => {
            let other: String = other.chars().take(20).collect();
            let detail = format!("'{other}' is none of acknowledge, unacknowledge, close, remark, assign");
            return Err(Problem::field("deed", detail));
        }
    };
    match deed {
        Some(deed) => drop(pages.alarms.act(&page.caller, id, deed, version, comment).await?),
        None => drop(pages.alarms.assign(&page.caller, id, Some(typed.get("to")), version, comment).await?),
    }
    Ok(Redirect::to(&page.href(&format!("/alarms/{id}"))).into_response())
}
