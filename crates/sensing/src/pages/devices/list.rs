//! The desk itself: the worst first is one click away, because every list is narrowed by state.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use kernel::{Problem, Tenant};
use ui::{Badge, Cell, Column, FilterChoice, Filters, Html, Markup, Page, Pager, Table};

use super::{Pages, badge, department_name, departments, sign_in_first};
use crate::devices::{Condition, Device, DeviceState, Health, patience};

const PER_PAGE: usize = 50;

#[derive(Template)]
#[template(path = "devices.html")]
struct Desk {
    page: Page,
    department: String,
    /// A link to each state, with how many are in it when all were looked at.
    states: Vec<Tally>,
    everything: (String, bool),
    filters: Filters,
    table: Table,
    pager: Pager,
    /// Not all could be looked at in one go.
    partly: Option<String>,
    register: Option<String>,
    /// What else is done with many devices.
    others: Vec<(String, String)>,
    notice: Option<ui::Notice>,
}

/// One state to narrow by.
struct Tally {
    badge: Badge,
    count: Option<String>,
    href: String,
    chosen: bool,
}

pub async fn list(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(response) = sign_in_first(&page) {
        return Ok(response);
    }
    let departments = departments(&pages, &page, false);
    let tenant = match page.query.get("tenant").filter(|t| !t.is_empty()) {
        Some(slug) => Tenant::parse(&slug).map_err(|_| Problem::not_found("The department"))?,
        None => departments.first().cloned().ok_or_else(|| Problem::not_found("The list"))?,
    };
    let after = page.query.get("after").unwrap_or_default();
    let condition = page.query.get("condition").filter(|name| !name.is_empty());
    if let Some(name) = condition {
        let condition = Condition::of(&name, None, page.now())
            .ok_or_else(|| Problem::field("condition", "one of the offered is expected"))?;
        return in_condition(&pages, page, tenant, &departments, (&name, condition), &after).await;
    }
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
    let states = DeviceState::ALL.into_iter().map(|state| Tally {
        badge: badge(&page, state),
        count: whole.then(|| page.number(&(counted.get(&state).copied().unwrap_or_default() as f64), 0)),
        href: page.here_with("state", state.name()),
        chosen: asked.iter().any(|a| a == state.name()),
    });
    let states: Vec<Tally> = states.collect();
    let everything = (page.here_with("state", ""), states.iter().all(|s| !s.chosen));
    let filters = filters(&pages, &page, &tenant, &departments, "");
    let others = others(&pages, &page, &tenant);
    let pager = Pager::after(&page, next.as_deref());
    let register =
        pages.devices.allows(&page.caller, true, &tenant).then(|| page.href(&format!("/devices/new?tenant={tenant}")));
    let notice = (page.query.get("did").as_deref() == Some("removed"))
        .then(|| ui::Notice::new(ui::Tone::Done, page.t("device.did.removed")));
    let partly = (!whole).then(|| page.t("device.partly").to_owned());
    let department = department_name(&pages, &page, &tenant).to_owned();
    let page = page.in_section("devices").wide().dense().titled_t("device.heading");
    Ok(Html(Desk { department, states, everything, filters, table, pager, partly, register, others, notice, page })
        .into_response())
}

fn filters(pages: &Pages, page: &Page, tenant: &Tenant, departments: &[Tenant], condition: &str) -> Filters {
    let conditions = [("", "device.condition.any")].into_iter().chain(Condition::NAMES.into_iter().zip([
        "device.condition.low-battery",
        "device.condition.unseen",
        "device.condition.wrong-clock",
    ]));
    let conditions = conditions.map(|(name, key)| FilterChoice::new(name, page.t(key))).collect();
    let mut filters = Filters::default();
    // A list by condition is one of the whole department.
    if condition.is_empty() {
        filters = filters.search("q", page.t("device.search"));
    }
    filters = filters.one("condition", page.t("device.condition.label"), conditions, condition);
    if departments.len() > 1 {
        let names = departments.iter().map(|t| FilterChoice::new(t.as_str(), department_name(pages, page, t)));
        filters = filters.one("tenant", page.t("device.department"), names.collect(), tenant.as_str());
    }
    filters
}

fn others(pages: &Pages, page: &Page, tenant: &Tenant) -> Vec<(String, String)> {
    let to = |path: &str, key: &str| (page.href(&format!("{path}?tenant={tenant}")), page.t(key).to_owned());
    let mut others = vec![to("/devices/campaigns", "campaign.heading")];
    if pages.devices.allows(&page.caller, true, tenant) {
        others.insert(0, to("/devices/sheet", "device.sheet.short"));
        others.insert(1, to("/devices/place", "device.claim.short"));
    }
    others
}

/// The desk narrowed by a condition: a page of that condition's index, the worst first, however many devices there are.
async fn in_condition(
    pages: &Pages,
    page: Page,
    tenant: Tenant,
    departments: &[Tenant],
    (name, condition): (&str, Condition),
    after: &str,
) -> Result<Response, Problem> {
    let place = after.split_once(':').and_then(|(n, key)| Some((n.parse().ok()?, key.to_owned())));
    let mut found = pages.devices.in_condition(&page.caller, &tenant, condition, place).await?;
    let further = found.len() > PER_PAGE;
    found.truncate(PER_PAGE);
    let intervals = pages.devices.intervals_of(&found.iter().map(|d| d.id).collect::<Vec<_>>()).await?;
    let next = found.last().filter(|_| further).map(|device| {
        let (number, key) = condition.place(device);
        format!("{number}:{key}")
    });
    let shown: Vec<(Device, Health, DeviceState)> = found
        .into_iter()
        .map(|device| {
            let health = pages.devices.health(&device);
            let patience = patience(intervals.get(&device.id).copied());
            let state = DeviceState::of(&device, &health, patience, page.now());
            (device, health, state)
        })
        .collect();
    let table = conditions(&page, &shown, &format!("/api/devices.csv?tenant={tenant}&condition={name}"));
    let everything = (page.href(&format!("/devices?tenant={tenant}")), false);
    let filters = filters(pages, &page, &tenant, departments, name);
    let (pager, others) = (Pager::after(&page, next.as_deref()), others(pages, &page, &tenant));
    let register =
        pages.devices.allows(&page.caller, true, &tenant).then(|| page.href(&format!("/devices/new?tenant={tenant}")));
    let department = department_name(pages, &page, &tenant).to_owned();
    let page = page.in_section("devices").wide().dense().titled_t("device.heading");
    let (states, partly, notice) = (Vec::new(), None, None);
    Ok(Html(Desk { department, states, everything, filters, table, pager, partly, register, others, notice, page })
        .into_response())
}

/// How devices are, rather than what they send.
fn conditions(page: &Page, shown: &[(Device, Health, DeviceState)], csv: &str) -> Table {
    let rows = shown.iter().map(|(device, health, state)| {
        let quantity = |n: Option<i64>, unit: &str| n.map_or(Cell::Empty, |n| Cell::quantity(n as f64, 0, unit));
        // As people say it: positive when the clock is ahead.
        let clock = health.skew_micros.map(|skew| -skew / 1_000_000);
        vec![
            Cell::Html(name(page, device)),
            Cell::State(badge(page, *state)),
            Cell::Html(kept(&device.kind)),
            device.firmware.as_ref().map_or(Cell::Empty, Cell::text),
            health.seen_at.map_or(Cell::Empty, Cell::Ago),
            quantity(health.battery, "%"),
            quantity(health.signal, "dBm"),
            quantity(clock, "s"),
        ]
    });
    Table::new(page.t("device.caption"))
        .headed()
        .column(Column::text("name", page.t("device.name")))
        .column(Column::text("state", page.t("device.col-state")))
        .column(Column::text("kind", page.t("device.kind")))
        .column(Column::text("firmware", page.t("device.firmware")))
        .column(Column::text("seen", page.t("device.col-seen")))
        .column(Column::number("battery", page.t("device.battery")))
        .column(Column::number("signal", page.t("device.signal")))
        .column(Column::number("clock", page.t("device.col-clock")))
        .rows(rows)
        .empty(page.t("device.condition.none"))
        .download("CSV", csv)
}

/// A word that does not break.
fn kept(text: &str) -> Markup {
    let mut out = Markup::default();
    out.raw("<span class=\"keep\">").text(text).raw("</span>");
    out
}

/// The name with the key below it, when they differ.
fn name(page: &Page, device: &Device) -> Markup {
    let mut out = Markup::default();
    out.raw("<a href=\"").text(page.href(&format!("/devices/{}", device.id))).raw("\">").text(&device.name).raw("</a>");
    if device.name != device.key {
        out.raw("<br><span class=\"note keep\">").text(&device.key).raw("</span>");
    }
    out
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
            Cell::Html(name(page, device)),
            Cell::State(badge(page, *state)),
            Cell::Html(kept(&device.kind)),
            place,
            health.seen_at.map_or(Cell::Empty, Cell::Ago),
            health.observed_at.map_or(Cell::Empty, Cell::Ago),
            whole(health.per_minute),
            whole(health.errors),
        ]
    });
    Ok(Table::new(page.t("device.caption"))
        .headed()
        .column(Column::text("name", page.t("device.name")))
        .column(Column::text("state", page.t("device.col-state")))
        .column(Column::text("kind", page.t("device.kind")))
        .column(Column::text("place", page.t("device.place")))
        .column(Column::text("seen", page.t("device.col-seen")))
        .column(Column::text("observed", page.t("device.col-observed")))
        .column(Column::number("rate", page.t("device.col-per-minute")))
        .column(Column::number("errors", page.t("device.col-errors")))
        .rows(rows)
        .empty(page.t("device.none")))
}
