//! The desk itself: the worst first is one click away, because every list is narrowed by state.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use kernel::{Problem, Tenant};
use ui::{Badge, Cell, Column, FilterChoice, Filters, Html, Page, Pager, Table};

use super::{Pages, badge, department_name, departments, signed_in};
use crate::devices::{Device, DeviceState, Health, patience};

const PER_PAGE: usize = 50;

#[derive(Template)]
#[template(path = "devices.html")]
struct Desk {
    page: Page,
    department: String,
    /// How many are in each state, when all were looked at.
    counts: Vec<(Badge, String, String)>,
    filters: Filters,
    table: Table,
    pager: Pager,
    /// Not all could be looked at in one go.
    partly: Option<String>,
    register: Option<String>,
    notice: Option<ui::Notice>,
}

fn word(page: &Page, state: DeviceState) -> &str {
    page.t(match state {
        DeviceState::Healthy => "device.state.healthy",
        DeviceState::Refused => "device.state.refused",
        DeviceState::Silent => "device.state.silent",
        DeviceState::NeverSeen => "device.state.never-seen",
        DeviceState::Disabled => "device.state.disabled",
    })
}

pub async fn list(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Err(response) = signed_in(&page) {
        return Ok(response);
    }
    let departments = departments(&pages, &page, false);
    let tenant = match page.query.get("tenant").filter(|t| !t.is_empty()) {
        Some(slug) => Tenant::parse(&slug).map_err(|_| Problem::not_found("The department"))?,
        None => departments.first().cloned().ok_or_else(|| Problem::not_found("The list"))?,
    };
    let after = page.query.get("after").unwrap_or_default();
    // A register that fits is looked at whole, which also tells how many are in each state.
    let (all, more) = pages.devices.survey(&page.caller, &tenant, "").await?;
    let whole = !more;
    let (all, more) = if whole || after.is_empty() {
        (all, more)
    } else {
        pages.devices.survey(&page.caller, &tenant, &after).await?
    };
    let last_looked_at = all.last().map(|(device, _)| device.key.clone());
    let intervals = pages.devices.intervals(&tenant).await?;
    let now = page.now();
    let sought = page.query.get("q").unwrap_or_default().trim().to_lowercase();
    let fits = |d: &Device| {
        sought.is_empty() || [&d.key, &d.name, &d.kind].iter().any(|text| text.to_lowercase().contains(&sought))
    };
    let mut counted: BTreeMap<DeviceState, u64> = BTreeMap::new();
    let asked = page.query.all("state");
    let mut shown: Vec<(Device, Health, DeviceState)> = Vec::new();
    for (device, health) in all.into_iter().filter(|(d, _)| fits(d)) {
        let state = DeviceState::of(&device, &health, patience(intervals.get(&device.id).copied()), now);
        *counted.entry(state).or_default() += 1;
        let chosen =
            if asked.is_empty() { state != DeviceState::Disabled } else { asked.iter().any(|a| a == state.name()) };
        if chosen && device.key.as_str() > after.as_str() {
            shown.push((device, health, state));
        }
    }
    let further = shown.len() > PER_PAGE;
    shown.truncate(PER_PAGE);
    let next = if further { shown.last().map(|(d, ..)| d.key.clone()) } else { last_looked_at.filter(|_| more) };
    let table = table(&pages, &page, &tenant, &shown).await?;
    let mut choices = Vec::new();
    for state in DeviceState::ALL {
        let choice = FilterChoice::new(state.name(), word(&page, state));
        let count = counted.get(&state).copied().unwrap_or_default();
        choices.push(if whole { choice.count(count) } else { choice });
    }
    let mut filters =
        Filters::default().search("q", page.t("device.search")).checks("state", page.t("device.col-state"), choices);
    if departments.len() > 1 {
        let names = departments.iter().map(|t| FilterChoice::new(t.as_str(), department_name(&pages, &page, t)));
        filters = filters.one("tenant", page.t("device.department"), names.collect(), tenant.as_str());
    }
    let counts = if whole { counted.clone() } else { BTreeMap::new() };
    let counts = counts.into_iter().map(|(state, n)| {
        (
            badge(&page, state),
            ui::format::integer(i64::try_from(n).unwrap_or(i64::MAX)),
            page.here_with("state", state.name()),
        )
    });
    let counts = counts.collect();
    let pager = Pager::after(&page, next.as_deref());
    let register =
        pages.devices.allows(&page.caller, true, &tenant).then(|| page.href(&format!("/devices/new?tenant={tenant}")));
    let notice = (page.query.get("did").as_deref() == Some("removed"))
        .then(|| ui::Notice::new(ui::Tone::Done, page.t("device.did.removed")));
    let partly = (!whole).then(|| page.t("device.partly").to_owned());
    let department = department_name(&pages, &page, &tenant).to_owned();
    let page = page.in_section("devices").wide().dense().titled_t("device.heading");
    Ok(Html(Desk { department, counts, filters, table, pager, partly, register, notice, page }).into_response())
}

async fn table(
    pages: &Pages,
    page: &Page,
    tenant: &Tenant,
    shown: &[(Device, Health, DeviceState)],
) -> Result<Table, Problem> {
    let firsts: Vec<_> = shown.iter().filter_map(|(d, ..)| d.things.first().copied()).collect();
    let places = pages.devices.places(tenant, &firsts).await?;
    let whole = |n: u64| Cell::number(n as f64, 0);
    let rows = shown.iter().map(|(device, health, state)| {
        let place = device.things.first().and_then(|id| places.iter().find(|p| p.id == *id));
        let place = match place {
            Some(place) if device.things.len() > 1 => {
                let others = device.things.len() as u64 - 1;
                Cell::text(page.msg("device.and-others").n(others).with("name", page.text(&place.name)))
            }
            Some(place) => Cell::link(page.href(&format!("/things/{}", place.id)), page.text(&place.name)),
            None if device.gateway => Cell::text(page.t("device.everywhere")),
            None => Cell::Empty,
        };
        vec![
            Cell::link(page.href(&format!("/devices/{}", device.id)), &device.name),
            Cell::State(badge(page, *state)),
            Cell::text(&device.key),
            Cell::text(&device.kind),
            place,
            health.seen_at.map_or(Cell::Empty, Cell::Ago),
            health.observed_at.map_or(Cell::Empty, Cell::Ago),
            whole(health.per_minute),
            whole(health.errors),
            Cell::text(page.t(if health.connected { "device.yes" } else { "device.no" })),
        ]
    });
    Ok(Table::new(page.t("device.caption"))
        .column(Column::text("name", page.t("device.name")))
        .column(Column::text("state", page.t("device.col-state")))
        .column(Column::text("key", page.t("device.key")))
        .column(Column::text("kind", page.t("device.kind")))
        .column(Column::text("place", page.t("device.place")))
        .column(Column::text("seen", page.t("device.seen")))
        .column(Column::text("observed", page.t("device.observed")))
        .column(Column::number("rate", page.t("device.per-minute")))
        .column(Column::number("errors", page.t("device.errors")))
        .column(Column::text("connected", page.t("device.connected")))
        .rows(rows)
        .empty(page.t("device.none")))
}
