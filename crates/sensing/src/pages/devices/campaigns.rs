//! Campaigns: what is on its way to which devices, how far it is, and the buttons that hold it.

use std::collections::HashMap;

use askama::Template;
use axum::{
    Extension,
    extract::{Path, Request, State},
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use kernel::{Id, Problem, Tenant};
use ui::{
    Badge, Cell, Choice, Column, ErrorSummary, Field, FieldKind, Html, Markup, Notice, Page, SessionKey, Table, Tone,
};

use super::{Pages, department_name, departments, sign_in_first, upload::Form};
use crate::{
    devices::campaign::{
        Proposal, Target,
        model::{Campaign, Deed, Load, Stage, Status, Wave},
    },
    pages::form::{Posted, Typed, genuine},
    route::action::{DEVICE_MANAGE, TASK_ALONE, TASK_APPROVE},
};

fn badge(page: &Page, status: Status) -> Badge {
    let (shape, key) = match status {
        Status::Proposed => (ui::State::Notice, "campaign.status.proposed"),
        Status::Running => (ui::State::Good, "campaign.status.running"),
        Status::Paused => (ui::State::Warning, "campaign.status.paused"),
        Status::Halted => (ui::State::Alarm, "campaign.status.halted"),
        Status::Done => (ui::State::Good, "campaign.status.done"),
        Status::Aborted => (ui::State::Offline, "campaign.status.aborted"),
        Status::Rejected => (ui::State::Offline, "campaign.status.rejected"),
    };
    Badge::new(shape).word(page.t(key))
}

fn kind<'a>(page: &'a Page, load: &Load) -> &'a str {
    page.t(match load {
        Load::Firmware { .. } => "campaign.firmware",
        Load::Configuration { .. } => "campaign.configuration",
    })
}

/// `12 of 40`, and what failed.
fn progress(page: &Page, wave: &Wave) -> String {
    let number = |n: u32| page.number(&f64::from(n), 0);
    let text = page
        .msg("campaign.progress")
        .with("done", number(wave.installed))
        .with("total", number(wave.total))
        .to_string();
    if wave.failed == 0 {
        return text;
    }
    format!("{text}, {}", page.count("campaign.failures", u64::from(wave.failed)))
}

fn tenant_of(pages: &Pages, page: &Page) -> Result<Tenant, Problem> {
    match page.query.get("tenant").filter(|t| !t.is_empty()) {
        Some(slug) => Tenant::parse(&slug).map_err(|_| Problem::not_found("The department")),
        None => departments(pages, page, false).first().cloned().ok_or_else(|| Problem::not_found("The list")),
    }
}

#[derive(Template)]
#[template(path = "campaigns.html")]
struct List {
    page: Page,
    department: String,
    tenant: Tenant,
    table: Table,
    images: Table,
    notice: Option<Notice>,
    propose: Option<String>,
    upload: String,
    fields: Vec<Field>,
    errors: ErrorSummary,
}

async fn listed(
    pages: &Pages,
    page: Page,
    tenant: Tenant,
    typed: &Typed,
    wrong: Option<(&str, String)>,
) -> Result<Response, Problem> {
    let found = pages.devices.campaigns(&page.caller, &tenant, None).await?;
    let totals: HashMap<Id<Campaign>, Wave> =
        pages.devices.totals(&found.iter().map(|c| c.id).collect::<Vec<_>>()).await?;
    let rows = found.iter().map(|campaign| {
        let total = totals.get(&campaign.id).cloned().unwrap_or_default();
        vec![
            Cell::link(page.href(&format!("/devices/campaigns/{}", campaign.id)), &campaign.name),
            Cell::State(badge(&page, campaign.status)),
            Cell::text(format!("{} {}", kind(&page, &campaign.load), campaign.version)),
            Cell::text(progress(&page, &total)),
            Cell::Ago(campaign.created_at),
        ]
    });
    let table = Table::new(page.t("campaign.heading"))
        .headed()
        .column(Column::text("name", page.t("device.name")))
        .column(Column::text("status", page.t("device.col-state")))
        .column(Column::text("what", page.t("campaign.what")))
        .column(Column::text("progress", page.t("campaign.how-far")))
        .column(Column::text("at", page.t("campaign.proposed")))
        .rows(rows)
        .empty(page.t("campaign.none"));
    let images = pages.devices.images(&page.caller, &tenant).await?;
    let rows = images.iter().map(|image| {
        let mut hash = Markup::default();
        hash.raw("<code>").text(&image.sha256[..16.min(image.sha256.len())]).raw("…</code>");
        vec![
            Cell::text(&image.name),
            Cell::text(&image.version),
            Cell::text(ui::format::bytes(image.size.unsigned_abs())),
            Cell::Html(hash),
            Cell::Ago(image.created_at),
        ]
    });
    let images = Table::new(page.t("campaign.images"))
        .headed()
        .column(Column::text("name", page.t("device.name")))
        .column(Column::text("version", page.t("campaign.version")))
        .column(Column::text("size", page.t("campaign.size")))
        .column(Column::text("hash", "SHA-256"))
        .column(Column::text("at", page.t("campaign.kept")))
        .rows(rows)
        .empty(page.t("campaign.images-none"));
    let error = |name: &str| wrong.as_ref().filter(|(field, _)| *field == name).map(|(_, text)| text.clone());
    let fields = vec![
        Field::input("image", page.t("campaign.image"), "file")
            .hint(page.t("campaign.image-hint"))
            .required()
            .error(error("image")),
        Field::input("name", page.t("device.name"), "text")
            .required()
            .max_length(200)
            .value(typed.get("name"))
            .error(error("name")),
        Field::input("version", page.t("campaign.version"), "text")
            .hint(page.t("campaign.version-hint"))
            .required()
            .max_length(200)
            .value(typed.get("version"))
            .error(error("version")),
    ];
    let errors = ErrorSummary::new(&fields);
    let notice = match page.query.get("did").as_deref() {
        Some("kept") => Some(Notice::new(Tone::Done, page.t("campaign.did-kept"))),
        _ => None,
    };
    let manages = pages.devices.may_campaign(&page.caller, DEVICE_MANAGE, &tenant);
    let propose = manages.then(|| page.href(&format!("/devices/campaigns/new?tenant={tenant}")));
    let (upload, department) = (page.href("/devices/campaigns"), department_name(pages, &page, &tenant).to_owned());
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let page = page.in_section("devices").dense().under_t("device.heading", "/devices").titled_t("campaign.heading");
    let list = List { page, department, tenant, table, images, notice, propose, upload, fields, errors };
    Ok((status, Html(list)).into_response())
}

pub async fn list(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(response) = sign_in_first(&page) {
        return Ok(response);
    }
    let tenant = tenant_of(&pages, &page)?;
    listed(&pages, page, tenant, &Typed::default(), None).await
}

/// Keeps an image.
pub async fn keep(
    State(pages): State<Pages>,
    session: Option<Extension<SessionKey>>,
    page: Page,
    request: Request,
) -> Result<Response, Problem> {
    // Nothing is read from whoever is not signed in.
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let Form { typed, file } = Form::read(request).await?;
    genuine(&page, session, &typed)?;
    let tenant = super::form::department(&pages, &page, Some(typed.get("tenant")))?;
    let empty =
        |name: &'static str| typed.get(name).is_empty().then(|| (name, page.t("campaign.wrong-empty").to_owned()));
    let mut wrong = file.is_empty().then(|| ("image", page.t("campaign.wrong-image").to_owned()));
    wrong = wrong.or_else(|| empty("name")).or_else(|| empty("version"));
    if wrong.is_none() {
        let named = (typed.get("name"), typed.get("version"));
        match pages.devices.upload(&page.caller, &tenant, named, file, None).await {
            Ok(_) => {
                return Ok(
                    Redirect::to(&page.href(&format!("/devices/campaigns?tenant={tenant}&did=kept"))).into_response()
                );
            }
            Err(error) => {
                let problem = Problem::from(error);
                let field = problem.errors.first().map(|e| e.field.clone()).ok_or_else(|| problem.clone())?;
                let at = ["name", "version"].into_iter().find(|f| *f == field).unwrap_or("image");
                wrong = Some((at, problem.detail));
            }
        }
    }
    listed(&pages, page, tenant, &typed, wrong).await
}

#[derive(Template)]
#[template(path = "campaign-new.html")]
struct New {
    page: Page,
    action: String,
    tenant: Tenant,
    fields: Vec<Field>,
    errors: ErrorSummary,
    back: String,
}

async fn proposing(
    pages: &Pages,
    page: Page,
    tenant: Tenant,
    typed: &Typed,
    wrong: &[(&'static str, String)],
) -> Result<Response, Problem> {
    let error = |name: &str| wrong.iter().find(|(field, _)| *field == name).map(|(_, text)| text);
    let usual = |name: &str, usual: &str| Some(typed.get(name)).filter(|v| !v.is_empty()).unwrap_or(usual).to_owned();
    let images = pages.devices.images(&page.caller, &tenant).await?;
    let mut choices = vec![Choice::new("", page.t("campaign.no-firmware"))];
    choices.extend(images.iter().map(|i| Choice::new(&i.sha256, format!("{} {}", i.name, i.version))));
    let text = |name: &'static str, label: &str, hint: &str, value: String| {
        Field::input(name, page.t(label), "text").hint(page.t(hint)).max_length(200).value(value).error(error(name))
    };
    let fields = vec![
        text("name", "device.name", "campaign.name-hint", usual("name", "")).required(),
        Field::new("firmware", page.t("campaign.firmware"), FieldKind::Select(choices))
            .value(typed.get("firmware"))
            .error(error("firmware")),
        Field::new("configuration", page.t("campaign.configuration"), FieldKind::Area { rows: 4 })
            .hint(page.t("campaign.configuration-hint"))
            .value(typed.get("configuration"))
            .error(error("configuration")),
        text("version", "campaign.version", "campaign.configuration-version", usual("version", "")),
        text("kind", "device.kind", "campaign.kind-hint", usual("kind", "")),
        Field::new("devices", page.t("campaign.devices"), FieldKind::Area { rows: 3 })
            .hint(page.t("campaign.devices-hint"))
            .value(typed.get("devices"))
            .error(error("devices")),
        text("waves", "campaign.waves", "campaign.waves-hint", usual("waves", "1%, 10%, rest")).required(),
        text("failures", "campaign.failures-most", "campaign.failures-hint", usual("failures", "5"))
            .input_mode("decimal")
            .required(),
        text("hours", "campaign.hours", "campaign.hours-hint", usual("hours", "24")).input_mode("numeric").required(),
    ];
    let errors = ErrorSummary::new(&fields);
    let (action, back) =
        (page.href("/devices/campaigns/new"), page.href(&format!("/devices/campaigns?tenant={tenant}")));
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let page =
        page.in_section("devices").dense().under_t("campaign.heading", "/devices/campaigns").titled_t("campaign.new");
    Ok((status, Html(New { page, action, tenant, fields, errors, back })).into_response())
}

pub async fn new(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(response) = sign_in_first(&page) {
        return Ok(response);
    }
    let tenant = super::form::department(&pages, &page, page.query.get("tenant").as_deref())?;
    proposing(&pages, page, tenant, &Typed::default(), &[]).await
}

pub async fn propose(State(pages): State<Pages>, Posted { page, typed }: Posted) -> Result<Response, Problem> {
    let tenant = super::form::department(&pages, &page, Some(typed.get("tenant")))?;
    let some = |name: &str| Some(typed.get(name).to_owned()).filter(|text| !text.is_empty());
    let mut wrong = Vec::new();
    let configuration = match some("configuration").map(|text| serde_json::from_str(&text)) {
        Some(Ok(document)) => Some(document),
        Some(Err(_)) => {
            wrong.push(("configuration", page.t("campaign.wrong-json").to_owned()));
            None
        }
        None => None,
    };
    let number = |name: &'static str, wrong: &mut Vec<(&'static str, String)>| -> Option<f64> {
        let parsed = some(name)?.parse::<f64>().ok().filter(|n| n.is_finite());
        if parsed.is_none() {
            wrong.push((name, page.t("campaign.wrong-number").to_owned()));
        }
        parsed
    };
    let (failures, hours) = (number("failures", &mut wrong), number("hours", &mut wrong));
    let devices = typed.get("devices").split([',', ';', '\n']).map(str::trim).filter(|k| !k.is_empty());
    let proposal = Proposal {
        tenant: tenant.clone(),
        name: typed.get("name").to_owned(),
        firmware: some("firmware"),
        configuration,
        version: some("version"),
        target: Target { kind: some("kind"), devices: devices.map(str::to_owned).collect() },
        waves: some("waves"),
        max_failures: failures,
        timeout_hours: hours.map(|hours| hours as i64),
    };
    if wrong.is_empty() {
        match pages.devices.propose(&page.caller, proposal).await {
            Ok((campaign, _)) => {
                let to = format!("/devices/campaigns/{}?did=propose", campaign.id);
                return Ok(Redirect::to(&page.href(&to)).into_response());
            }
            Err(error) => {
                let problem = Problem::from(error);
                const FIELDS: [(&str, &str); 9] = [
                    ("/name", "name"),
                    ("/firmware", "firmware"),
                    ("/configuration", "configuration"),
                    ("/version", "version"),
                    ("/target/devices", "devices"),
                    ("/target", "kind"),
                    ("/waves", "waves"),
                    ("/max_failures", "failures"),
                    ("/timeout_hours", "hours"),
                ];
                for error in &problem.errors {
                    if let Some((_, field)) = FIELDS.iter().find(|(at, _)| *at == error.field) {
                        wrong.push((field, error.detail.clone()));
                    }
                }
                if wrong.is_empty() {
                    return Err(problem);
                }
            }
        }
    }
    proposing(&pages, page, tenant, &typed, &wrong).await
}

#[derive(Template)]
#[template(path = "campaign.html")]
struct One {
    page: Page,
    state: Badge,
    reason: String,
    notice: Option<Notice>,
    facts: Vec<(String, Markup)>,
    waves: Table,
    stages: Vec<(String, String, bool)>,
    members: Table,
    more: Option<String>,
    /// Its button's name, its word, and whether it takes something away.
    deeds: Vec<(&'static str, String, bool)>,
    /// Somebody else must approve it.
    waits: bool,
    campaign: Campaign,
    action: String,
}

async fn show_one(pages: &Pages, page: Page, id: Id<Campaign>) -> Result<Response, Problem> {
    let (campaign, waves) = pages.devices.campaign(&page.caller, id).await?;
    let may = |action| pages.devices.may_campaign(&page.caller, action, &campaign.tenant);
    let own = campaign.created_by == page.caller.label() && !may(TASK_ALONE);
    let waits = campaign.status == Status::Proposed && own && may(TASK_APPROVE);
    let deeds = Deed::ALL.into_iter().filter(|deed| deed.after(campaign.status).is_some());
    let deeds = deeds.filter(|deed| match deed {
        Deed::Approve => may(TASK_APPROVE) && !own,
        Deed::Reject => may(TASK_APPROVE),
        Deed::Pause | Deed::Resume | Deed::Abort => may(DEVICE_MANAGE),
    });
    let deeds = deeds
        .map(|deed| {
            let key = match deed {
                Deed::Approve => "campaign.do.approve",
                Deed::Reject => "campaign.do.reject",
                Deed::Pause => "campaign.do.pause",
                Deed::Resume => "campaign.do.resume",
                Deed::Abort => "campaign.do.abort",
            };
            (deed.name(), page.t(key).to_owned(), matches!(deed, Deed::Abort | Deed::Reject))
        })
        .collect();
    let text = |value: &str| {
        let mut out = Markup::default();
        out.text(value);
        out
    };
    let mut facts = vec![("campaign.what", text(&format!("{} {}", kind(&page, &campaign.load), campaign.version)))];
    match &campaign.load {
        Load::Firmware { sha256, size } => {
            let mut out = Markup::default();
            out.text(ui::format::bytes(size.unsigned_abs())).raw("<br><code>");
            // Breaks on a phone.
            for (at, digit) in sha256.char_indices() {
                out.raw(if at > 0 && at % 8 == 0 { "<wbr>" } else { "" }).text(digit);
            }
            out.raw("</code>");
            facts.push(("campaign.image", out));
        }
        Load::Configuration { document } => {
            let mut out = Markup::default();
            out.raw("<code>").text(document.to_string()).raw("</code>");
            facts.push(("campaign.configuration", out));
        }
    }
    facts.push(("campaign.waves", text(&campaign.waves)));
    let share =
        page.number(&(f64::from(campaign.failures_per_mille) / 10.0), u8::from(campaign.failures_per_mille % 10 > 0));
    facts.push(("campaign.failures-most", text(&format!("{share} %"))));
    facts.push(("campaign.hours", text(&page.number(&((campaign.timeout / 3_600) as f64), 0))));
    facts.push(("campaign.proposed", page.at(&campaign.created_at)));
    if let Some(at) = &campaign.ended_at {
        facts.push(("campaign.ended", page.at(at)));
    }
    let facts = facts.into_iter().map(|(key, value)| (page.t(key).to_owned(), value)).collect();
    let number = |n: u32| Cell::number(f64::from(n), 0);
    let rows = waves.iter().enumerate().map(|(at, wave)| {
        let begun = match wave.due_at {
            Some(_) => Cell::text(progress(&page, wave)),
            None => Cell::text(page.t("campaign.not-begun")),
        };
        vec![
            Cell::text(at + 1),
            begun,
            number(wave.waiting + wave.sent),
            number(wave.downloading),
            number(wave.installed),
            number(wave.failed),
            number(wave.skipped),
        ]
    });
    let waves = Table::new(page.t("campaign.waves"))
        .headed()
        .column(Column::text("wave", page.t("campaign.wave")))
        .column(Column::text("progress", page.t("campaign.how-far")))
        .column(Column::number("waiting", page.t("campaign.stage.waiting")))
        .column(Column::number("downloading", page.t("campaign.stage.downloading")))
        .column(Column::number("installed", page.t("campaign.stage.installed")))
        .column(Column::number("failed", page.t("campaign.stage.failed")))
        .column(Column::number("skipped", page.t("campaign.stage.skipped")))
        .rows(rows);
    let stage = page.query.get("stage").and_then(|s| Stage::from_name(&s)).unwrap_or(Stage::Failed);
    let word = |stage: Stage| {
        page.t(match stage {
            Stage::Waiting => "campaign.stage.waiting",
            Stage::Sent => "campaign.stage.sent",
            Stage::Downloading => "campaign.stage.downloading",
            Stage::Installed => "campaign.stage.installed",
            Stage::Failed => "campaign.stage.failed",
            Stage::Skipped => "campaign.stage.skipped",
        })
        .to_owned()
    };
    let own_path = format!("/devices/campaigns/{id}");
    let stages =
        Stage::ALL.map(|s| (page.href(&format!("{own_path}?stage={}", s.name())), word(s), s == stage)).to_vec();
    let after = page.query.get("after").and_then(|a| a.parse().ok());
    let members = pages.devices.members(&page.caller, id, stage, after).await?;
    let last = if members.len() >= 100 { members.last().map(|m| m.device) } else { None };
    let more = last.map(|last| page.href(&format!("{own_path}?stage={}&after={last}", stage.name())));
    let rows = members.iter().map(|m| {
        vec![
            Cell::link(page.href(&format!("/devices/{}", m.device)), if m.name.is_empty() { &m.key } else { &m.name }),
            Cell::number(f64::from(m.wave), 0),
            Cell::text(&m.detail),
            Cell::Ago(m.changed_at),
        ]
    });
    let members = Table::new(page.t("campaign.members"))
        .headed()
        .column(Column::text("device", page.t("device.name")))
        .column(Column::number("wave", page.t("campaign.wave")))
        .column(Column::text("detail", page.t("campaign.said")))
        .column(Column::text("at", page.t("campaign.since")))
        .rows(rows)
        .empty(page.t("campaign.members-none"));
    let notice = page.query.get("did").and_then(|did| {
        let key = if did == "propose" {
            Some("campaign.did-proposed")
        } else {
            Deed::from_name(&did).map(|_| "campaign.did-done")
        };
        key.map(|key| Notice::new(Tone::Done, page.t(key)))
    });
    let (state, reason) = (badge(&page, campaign.status), campaign.reason.clone());
    let action = page.href(&own_path);
    let page = page.in_section("devices").dense().under_t("device.heading", "/devices");
    let list = format!("/devices/campaigns?tenant={}", campaign.tenant);
    let page = page.under_t("campaign.heading", &list).titled(&campaign.name);
    let one = One { page, state, reason, notice, facts, waves, stages, members, more, deeds, waits, campaign, action };
    Ok(Html(one).into_response())
}

fn id(text: &str) -> Result<Id<Campaign>, Problem> {
    text.parse().map_err(|_| Problem::not_found("The campaign"))
}

pub async fn one(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    page: Page,
) -> Result<Response, Problem> {
    if let Some(response) = sign_in_first(&page) {
        return Ok(response);
    }
    show_one(&pages, page, id(&text)?).await
}

pub async fn act(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let id = id(&text)?;
    pages.devices.campaign(&page.caller, id).await?;
    let deed =
        Deed::from_name(typed.get("do")).ok_or_else(|| Problem::field("do", "one of the buttons is expected"))?;
    let revision = typed.get("revision").parse().ok();
    pages.devices.decide(&page.caller, id, deed, revision, typed.get("comment")).await?;
    Ok(Redirect::to(&page.href(&format!("/devices/campaigns/{id}?did={}", deed.name()))).into_response())
}
