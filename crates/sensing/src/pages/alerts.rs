//! Public warnings for everybody: those that stand, by district, and each message on a page of its own.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, State};
use kernel::Problem;
use ui::{Badge, Cell, Column, FilterChoice, Filters, Html, Notice, Page, Table, Tone};

use super::{Pages, alarms::severity};
use crate::{
    alerts::{
        Filter, KEPT_DAYS, MAX_LISTED, Stored,
        model::{Certainty, Info, MsgType, Status, Urgency},
    },
    rules::model::Severity,
};

#[derive(Template)]
#[template(path = "alerts.html")]
struct Warnings {
    page: Page,
    filters: Option<Filters>,
    districts: Vec<District>,
    ended: Table,
}

struct District {
    name: String,
    warnings: Vec<Card>,
}

struct Card {
    href: String,
    headline: String,
    description: String,
    instruction: Option<String>,
    state: Badge,
    sender: String,
    sent: kernel::Timestamp,
    expires: kernel::Timestamp,
    exercise: bool,
}

#[derive(Template)]
#[template(path = "alert.html")]
struct WarningPage {
    page: Page,
    state: Badge,
    info: Info,
    exercise: bool,
    /// Not over, and not taken the place of by a later message.
    heeded: bool,
    later: Option<Notice>,
    severity: String,
    urgency: String,
    certainty: String,
    sent: kernel::Timestamp,
    expires: kernel::Timestamp,
    identifier: String,
    history: Table,
}

fn badge(page: &Page, stored: &Stored) -> Badge {
    if !stored.stands(page.now()) {
        return Badge::new(ui::State::Notice).word(page.t("warning.over"));
    }
    let shape = if stored.chain.severity >= Severity::Severe { ui::State::Alarm } else { ui::State::Warning };
    Badge::new(shape).word(severity(page, stored.chain.severity))
}

// lang-keys: warning.type.* warning.urgency.* warning.certainty.*
fn msg_type(page: &Page, name: &str) -> String {
    page.t(match name {
        "Alert" => "warning.type.alert",
        "Update" => "warning.type.update",
        _ => "warning.type.cancel",
    })
    .to_owned()
}

fn card(page: &Page, stored: &Stored) -> Option<Card> {
    let info = stored.message.info(page.language)?;
    Some(Card {
        href: page.href(&format!("/alerts/{}", stored.message.identifier)),
        headline: info.headline.clone(),
        description: info.description.clone(),
        instruction: info.instruction.clone(),
        state: badge(page, stored),
        sender: info.sender_name.clone(),
        sent: stored.sent,
        expires: stored.expires,
        exercise: stored.message.status == Status::Exercise,
    })
}

/// For the home page: how many warnings stand, if any, and whether one of them is more than an exercise.
pub(super) async fn notice(pages: &Pages, page: &Page) -> Result<Option<Notice>, Problem> {
    let Some(alerts) = &pages.alerts else { return Ok(None) };
    let standing = alerts.list(Filter { standing: true, ..Filter::default() }, MAX_LISTED).await?;
    if standing.is_empty() {
        return Ok(None);
    }
    let real = standing.iter().filter(|s| s.message.status == Status::Actual).count();
    let (tone, text) = if real > 0 {
        (Tone::Warning, page.count("warning.standing", real as u64))
    } else {
        (Tone::Information, page.count("warning.standing-exercise", standing.len() as u64))
    };
    Ok(Some(Notice::new(tone, text).link(page.href("/alerts"), page.t("warning.see"))))
}

pub async fn list(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    let alerts = pages.alerts.as_ref().ok_or_else(|| Problem::not_found("this page"))?;
    let asked = page.query.all("district");
    let wanted = |s: &Stored| asked.is_empty() || s.chain.district.as_ref().is_some_and(|d| asked.contains(d));
    let standing = alerts.list(Filter { standing: true, ..Filter::default() }, MAX_LISTED).await?;
    let mut choices: BTreeMap<String, String> = BTreeMap::new();
    let mut districts: BTreeMap<String, District> = BTreeMap::new();
    for stored in &standing {
        let Some(card) = card(&page, stored) else { continue };
        let area = stored.message.info(page.language).map(|i| i.area.area_desc.clone()).unwrap_or_default();
        let key = stored.chain.district.clone().unwrap_or_default();
        if !key.is_empty() {
            choices.insert(key.clone(), area.clone());
        }
        if wanted(stored) {
            let district = districts.entry(key).or_insert_with(|| District { name: area, warnings: Vec::new() });
            district.warnings.push(card);
        }
    }
    let since = page.now().plus_secs(-KEPT_DAYS * 86_400);
    let recent = alerts.list(Filter { since: Some(since), ..Filter::default() }, MAX_LISTED).await?;
    let over = recent.iter().filter(|s| !s.stands(page.now()) && wanted(s)).take(50);
    let ended = Table::new(page.t("warning.ended"))
        .headed()
        .column(Column::text("headline", page.t("alarm.name")))
        .column(Column::text("district", page.t("thing.district")))
        .column(Column::text("ended", page.t("warning.ended-at")))
        .rows(over.map(|s| {
            let info = s.message.info(page.language);
            let href = page.href(&format!("/alerts/{}", s.message.identifier));
            let ended = if s.message.msg_type == MsgType::Cancel { s.sent } else { s.expires };
            vec![
                Cell::link(href, info.map_or("", |i| i.headline.as_str())),
                Cell::text(info.map_or("", |i| i.area.area_desc.as_str())),
                Cell::Ago(ended),
            ]
        }))
        .empty(page.t("warning.none-ended"));
    // One district needs no choice.
    let filters = (choices.len() > 1).then(|| {
        let choices = choices.iter().map(|(key, name)| FilterChoice::new(key, name)).collect();
        Filters::default().checks("district", page.t("thing.district"), choices)
    });
    let page = page.in_section("alerts").titled_t("warning.heading");
    Ok(Html(Warnings { filters, districts: districts.into_values().collect(), ended, page }))
}

pub async fn one(
    State(pages): State<Pages>,
    Path((_, identifier)): Path<(String, String)>,
    page: Page,
) -> Result<Html<impl Template>, Problem> {
    let alerts = pages.alerts.as_ref().ok_or_else(|| Problem::not_found("this page"))?;
    let (stored, lines) = alerts.get(&identifier).await?;
    let info = stored.message.info(page.language).cloned().ok_or_else(|| Problem::not_found("this page"))?;
    let newest = lines.first().filter(|l| l.identifier != stored.message.identifier);
    let later = newest.map(|line| {
        let href = page.href(&format!("/alerts/{}", line.identifier));
        Notice::new(Tone::Information, page.t("warning.superseded")).link(href, page.t("warning.newest"))
    });
    let history = Table::new(page.t("warning.history"))
        .headed()
        .column(Column::text("type", page.t("alarm.what")))
        .column(Column::text("sent", page.t("warning.sent")))
        .rows(lines.iter().map(|line| {
            let href = page.href(&format!("/alerts/{}", line.identifier));
            vec![Cell::link(href, msg_type(&page, &line.msg_type)), Cell::At(line.sent)]
        }));
    let urgency = page.t(match info.urgency {
        Urgency::Immediate => "warning.urgency.immediate",
        Urgency::Expected => "warning.urgency.expected",
        Urgency::Future => "warning.urgency.future",
        Urgency::Past => "warning.urgency.past",
    });
    let certainty = page.t(match info.certainty {
        Certainty::Observed => "warning.certainty.observed",
        Certainty::Likely => "warning.certainty.likely",
        Certainty::Possible => "warning.certainty.possible",
        Certainty::Unlikely => "warning.certainty.unlikely",
    });
    let view = WarningPage {
        state: badge(&page, &stored),
        exercise: stored.message.status == Status::Exercise,
        heeded: stored.stands(page.now()),
        later,
        severity: severity(&page, info.severity).to_owned(),
        urgency: urgency.to_owned(),
        certainty: certainty.to_owned(),
        sent: stored.sent,
        expires: stored.expires,
        identifier: stored.message.identifier.clone(),
        history,
        page: page.clone().in_section("alerts").under_t("warning.heading", "/alerts").titled(&info.headline),
        info,
    };
    Ok(Html(view))
}
