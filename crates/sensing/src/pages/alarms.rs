//! The alarm board, and one alarm with its history and what can be done to it.

use askama::Template;
use axum::{
    Extension, Form,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use kernel::{Id, Problem};
use serde::Deserialize;
use ui::{Badge, Cell, Column, FilterChoice, Filters, Html, Page, Pager, SessionKey, Table};

use super::{Pages, decimals};
use crate::{
    alarms::{
        Deed, Filter,
        model::{Alarm, AlarmState, Entry, EntryKind},
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

fn rows(page: &Page, alarms: Vec<Alarm>, empty: &str) -> Table {
    Table::new(page.t("alarm.caption"))
        .column(Column::text("state", page.t("alarm.col-state")))
        .column(Column::text("name", page.t("alarm.name")))
        .column(Column::text("thing", page.t("alarm.thing")))
        .column(Column::text("severity", page.t("alarm.col-severity")))
        .column(Column::number("value", page.t("alarm.value")))
        .column(Column::text("raised", page.t("alarm.raised")))
        .rows(alarms.into_iter().map(|a| {
            vec![
                Cell::State(badge(page, a.state)),
                Cell::link(page.href(&format!("/alarms/{}", a.id)), page.text(&a.name)),
                Cell::link(page.href(&format!("/things/{}", a.thing)), page.text(&a.thing_name)),
                Cell::text(severity(page, a.severity)),
                a.value.map_or(Cell::Empty, |v| Cell::quantity(v, decimals(v), a.unit.as_deref().unwrap_or_default())),
                Cell::Ago(a.raised_at),
            ]
        }))
        .empty(empty)
}

/// The newest standing alarms, for the home page.
pub(super) async fn table(pages: &Pages, page: &Page, most: u32) -> Result<Table, Problem> {
    let filter = Filter { states: [AlarmState::Open, AlarmState::Acknowledged].into(), ..Filter::default() };
    let listing = pages.alarms.list(&page.caller, filter, None, Some(most)).await?;
    Ok(rows(page, listing.alarms, page.t("alarm.none-standing")))
}

pub(super) async fn of_thing(pages: &Pages, page: &Page, thing: EntityId) -> Result<Table, Problem> {
    let filter = Filter { thing: Some(thing), ..Filter::default() };
    let listing = pages.alarms.list(&page.caller, filter, None, Some(10)).await?;
    Ok(rows(page, listing.alarms, page.t("alarm.none-here")))
}

pub async fn board(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let asked = page.query.all("state");
    let states =
        AlarmState::ALL.into_iter().filter(|s| asked.is_empty() && s.stands() || asked.iter().any(|a| *a == s.name()));
    let filter = Filter {
        states: states.collect(),
        system: page.query.get("system").filter(|s| !s.is_empty()),
        ..Filter::default()
    };
    let after =
        page.query.get("after").map(|a| a.parse::<Id<Alarm>>()).transpose().map_err(|e| Problem::field("after", e))?;
    let listing = pages.alarms.list(&page.caller, filter, after, Some(PER_PAGE)).await?;
    let next = listing.next.map(|id| id.to_string());
    let table = rows(&page, listing.alarms, page.t("alarm.none-standing"));
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
            };
            let by = if page.caller.is_anonymous() { String::new() } else { e.by.clone() };
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
    if may_close && alarm.state != AlarmState::Closed {
        deeds.push(offer("close", "alarm.do.close"));
    }
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
        alarm,
        page: page.in_section("alarms").under_t("alarm.heading", "/alarms").titled(heading),
    };
    Ok(Html(view))
}

/// What the form on an alarm's page sends.
#[derive(Deserialize)]
pub struct Act {
    deed: String,
    version: u32,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    csrf: String,
}

pub async fn act(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    session: Option<Extension<SessionKey>>,
    page: Page,
    Form(form): Form<Act>,
) -> Result<Response, Problem> {
    let session = session.map(|Extension(s)| s).ok_or_else(Problem::unauthenticated)?;
    if !page.site.csrf.verify(&session.0, &form.csrf) {
        return Err(Problem::forbidden("The form is out of date. Open the alarm again and repeat what you did."));
    }
    let id: Id<Alarm> = id.parse().map_err(Problem::not_found)?;
    let deed = match form.deed.as_str() {
        "acknowledge" => Deed::Acknowledge,
        "unacknowledge" => Deed::Unacknowledge,
        "close" => Deed::Close,
        "remark" => Deed::Remark,
        other => {
            return Err(Problem::field(
                "deed",
                format!(
                    "'{}' is none of acknowledge, unacknowledge, close, remark",
                    other.chars().take(20).collect::<String>()
                ),
            ));
        }
    };
    pages.alarms.act(&page.caller, id, deed, Some(form.version), form.comment.trim()).await?;
    Ok(Redirect::to(&page.href(&format!("/alarms/{id}"))).into_response())
}
