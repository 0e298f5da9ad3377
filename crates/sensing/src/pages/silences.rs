//! Silences on the alarm board: which stand, a form that makes one, a button that ends one.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use kernel::{Id, Problem, Tenant};
use ui::{Act, Badge, Cell, Choice, Column, ErrorSummary, Field, FieldKind, Html, Notice, Page, Pager, Table, Tone};

use super::{
    Pages,
    form::{Posted, Typed, mistakes, moment},
};
use crate::{
    alarms::silences::{
        Silences, Wanted,
        model::{Draft, Matchers, Silence, SilenceState},
    },
    model::EntityId,
    rules::model::Severity,
};

const PER_PAGE: u32 = 50;
/// Hours that a silence may be asked for with one choice; the pack may allow fewer.
const HOURS: [u32; 8] = [1, 2, 4, 8, 24, 72, 168, 720];

#[derive(Template)]
#[template(path = "silences.html")]
struct View {
    page: Page,
    notice: Option<Notice>,
    table: Table,
    pager: Pager,
    /// Nothing where the reader may make none.
    fields: Vec<Field>,
    errors: ErrorSummary,
    /// What the pack says about it.
    limits: Option<String>,
}

fn badge(page: &Page, state: SilenceState) -> Badge {
    let (shape, key) = match state {
        SilenceState::Active => (ui::State::Warning, "silence.state.active"),
        SilenceState::Pending => (ui::State::Notice, "silence.state.pending"),
        SilenceState::Expired => (ui::State::Unknown, "silence.state.expired"),
    };
    Badge::new(shape).word(page.t(key))
}

/// What it covers, in the reader's words.
fn covers(pages: &Pages, page: &Page, matchers: &Matchers) -> String {
    let mut parts: Vec<String> = matchers.rule.iter().cloned().collect();
    parts.extend(matchers.severity.iter().map(|s| super::alarms::severity(page, *s).to_owned()));
    parts.extend(matchers.district.iter().cloned());
    let systems = pages.directory.systems();
    let system =
        |key: &String| systems.iter().find(|s| s.key == *key).map_or(key.as_str(), |s| page.text(&s.name)).to_owned();
    parts.extend(matchers.system.iter().map(system));
    parts.extend(matchers.thing.iter().map(|thing| page.msg("silence.thing-no").with("id", thing).to_string()));
    parts.join(" · ")
}

async fn table(pages: &Pages, silences: &Silences, page: &Page) -> Result<(Table, Pager), Problem> {
    let after = page.query.get("after").map(|a| a.parse::<Id<Silence>>());
    let after = after.transpose().map_err(|e| Problem::field("after", e))?;
    let states = match page.query.get("state").as_deref() {
        Some("expired") => vec![SilenceState::Expired],
        _ => vec![SilenceState::Active, SilenceState::Pending],
    };
    let over = states == [SilenceState::Expired];
    let (found, next) = silences.list(&page.caller, Wanted { states, after, tenant: None }, Some(PER_PAGE)).await?;
    let now = page.now();
    let rows = found.iter().map(|s| {
        let what = covers(pages, page, &s.matchers);
        let end = Act::new(page.href(&format!("/alarms/silences/{}", s.id)), page.t("silence.end")).about(&what);
        let may = !over && silences.may(&page.caller, &s.tenant);
        vec![
            Cell::State(badge(page, s.state(now))),
            Cell::text(&what),
            Cell::text(&s.reason),
            Cell::At(s.starts_at),
            Cell::At(s.ends_at),
            Cell::text(page.who(s.ended.as_ref().map_or(&s.by, |ended| &ended.by))),
            if may { Cell::Html(end.html(page)) } else { Cell::Empty },
        ]
    });
    let empty = page.t(if over { "silence.none-over" } else { "silence.none" });
    let table = Table::new(page.t(if over { "silence.caption-over" } else { "silence.caption" }))
        .column(Column::text("state", page.t("alarm.col-state")))
        .column(Column::text("covers", page.t("silence.covers")))
        .column(Column::text("reason", page.t("silence.reason")))
        .column(Column::text("from", page.t("silence.from")))
        .column(Column::text("until", page.t("silence.until")))
        .column(Column::text("by", page.t("alarm.by")))
        .column(Column::text("do", page.t("silence.do")))
        .rows(rows)
        .empty(empty);
    Ok((table, Pager::after(page, next.map(|id| id.to_string()).as_deref())))
}

/// Departments whose alarms the reader may silence, the own one first.
fn departments(pages: &Pages, silences: &Silences, page: &Page) -> Vec<Tenant> {
    let own = page.caller.tenant.clone();
    let mut all: Vec<Tenant> = pages.owners.keys().filter_map(|slug| Tenant::parse(slug).ok()).collect();
    all.retain(|tenant| silences.may(&page.caller, tenant));
    all.sort_by_key(|tenant| Some(tenant) != own.as_ref());
    all
}

/// Rules that one form offers.
const OFFERED: usize = 500;

async fn render(pages: &Pages, page: Page, typed: &Typed, wrong: &[(String, String)]) -> Result<View, Problem> {
    let silences = Silences::new(pages.alarms.clone());
    let (table, pager) = table(pages, &silences, &page).await?;
    let may = departments(pages, &silences, &page);
    let (mut fields, mut limits) = (Vec::new(), None);
    if let Some(first) = may.first() {
        let error = |name: &str| wrong.iter().find(|(field, _)| field == name).map(|(_, text)| text.clone());
        let select = |name: &str, label: &str, choices: Vec<Choice>| {
            Field::new(name, page.t(label), FieldKind::Select(choices)).value(typed.get(name)).error(error(name))
        };
        let text = |name: &str, label: &str, hint: &str| {
            let field =
                Field::input(name, page.t(label), "text").max_length(200).value(typed.get(name)).error(error(name));
            if hint.is_empty() { field } else { field.hint(page.t(hint)) }
        };
        let any = || Choice::new("", page.t("silence.any"));
        if may.len() > 1 {
            let names = may.iter().map(|t| {
                Choice::new(t.as_str(), pages.owners.get(t.as_str()).map_or(t.as_str(), |name| page.text(name)))
            });
            fields.push(select("tenant", "device.department", names.collect()).required());
        }
        let mut rules = vec![any()];
        if let Some(known) = &pages.rules {
            let known = known.list(&page.caller).await?;
            let own = known.iter().filter(|r| may.contains(&r.tenant)).take(OFFERED);
            rules.extend(own.map(|r| Choice::new(&*r.key, format!("{} ({})", page.text(&r.name), r.key))));
        }
        fields.push(select("rule", "silence.rule", rules));
        let severities = Severity::ALL.iter().map(|s| Choice::new(s.name(), super::alarms::severity(&page, *s)));
        fields.push(select("severity", "alarm.col-severity", std::iter::once(any()).chain(severities).collect()));
        fields.push(text("district", "silence.district", "silence.district-hint"));
        let systems = pages.directory.systems().iter().map(|s| Choice::new(&*s.key, page.text(&s.name)));
        fields.push(select("system", "thing.system", std::iter::once(any()).chain(systems).collect()));
        fields.push(text("thing", "silence.thing", "silence.thing-hint").input_mode("numeric"));
        let starts =
            Field::input("starts", page.t("silence.starts"), "datetime-local").hint(page.t("silence.starts-hint"));
        fields.push(starts.value(typed.get("starts")).error(error("starts_at")));
        let hours = HOURS.iter().map(|h| Choice::new(h.to_string(), length(&page, i64::from(*h) * 3_600)));
        let lasts = select("hours", "silence.lasts", hours.collect()).error(error("ends_at")).required();
        fields.push(if typed.get("hours").is_empty() { lasts.value("4") } else { lasts });
        fields.push(
            Field::new("reason", page.t("silence.reason"), FieldKind::Area { rows: 2 })
                .hint(page.t("silence.reason-hint"))
                .max_length(2_000)
                .required()
                .value(typed.get("reason"))
                .error(error("reason")),
        );
        let says = silences.limits(first.clone()).await?;
        let longest = page.msg("silence.longest").with("time", length(&page, i64::from(says.longest))).to_string();
        let never: Vec<&str> = says.never.iter().map(|s| super::alarms::severity(&page, *s)).collect();
        limits = Some(match never.is_empty() {
            true => longest,
            false => format!("{} {longest}", page.msg("silence.never").with("severities", never.join(" · "))),
        });
    }
    let errors = ErrorSummary::new(&fields);
    let notice = match page.query.get("did").as_deref() {
        Some("made") => Some(Notice::new(Tone::Done, page.t("silence.made"))),
        Some("ended") => Some(Notice::new(Tone::Done, page.t("silence.ended"))),
        _ => None,
    };
    let page = page.in_section("alarms").wide().dense().under_t("alarm.heading", "/alarms").titled_t("silence.heading");
    Ok(View { notice, table, pager, fields, errors, limits, page })
}

/// A length of time in the reader's language.
pub(super) fn length(page: &Page, seconds: i64) -> String {
    ui::format::duration(&page.site.catalogue, page.language, seconds.unsigned_abs())
}

pub async fn show(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    // An alarm's page leads here with what it is about.
    let asked = ["rule", "severity", "district", "system", "thing", "tenant"];
    let typed = asked.iter().filter_map(|name| Some(((*name).to_owned(), page.query.get(name)?)));
    let typed = Typed(typed.collect());
    Ok(Html(render(&pages, page, &typed, &[]).await?).into_response())
}

/// What was typed, or what is wrong with it beside which field.
fn draft(page: &Page, typed: &Typed, tenant: Tenant) -> Result<Draft, Vec<(String, String)>> {
    let mut wrong = Vec::new();
    let one = |name: &str| Some(typed.get(name).to_owned()).filter(|text| !text.is_empty()).into_iter().collect();
    let mut things = std::collections::BTreeSet::new();
    for number in typed.get("thing").split([',', ' ']).filter(|t| !t.is_empty()) {
        match number.parse::<i64>() {
            Ok(id) => {
                things.insert(EntityId(id));
            }
            Err(_) => wrong.push(("thing".to_owned(), page.t("silence.wrong-thing").to_owned())),
        }
    }
    let starts_at = match typed.get("starts") {
        "" => None,
        text => {
            let at = moment(text, &page.site.zone);
            if at.is_none() {
                wrong.push(("starts_at".to_owned(), page.t("silence.wrong-time").to_owned()));
            }
            at
        }
    };
    let hours = typed.get("hours").parse::<u32>().ok().filter(|h| HOURS.contains(h));
    if hours.is_none() {
        wrong.push(("ends_at".to_owned(), page.t("silence.wrong-time").to_owned()));
    }
    if typed.get("reason").is_empty() {
        wrong.push(("reason".to_owned(), page.t("silence.wrong-reason").to_owned()));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let severity = Severity::from_name(typed.get("severity")).into_iter().collect();
    let (rule, district, system) = (one("rule"), one("district"), one("system"));
    let matchers = Matchers { rule, severity, district, system, thing: things };
    if matchers.is_empty() {
        return Err(vec![("rule".to_owned(), page.t("silence.wrong-empty").to_owned())]);
    }
    let begins = starts_at.unwrap_or_else(|| page.now()).max(page.now());
    let ends_at = begins.plus_secs(i64::from(hours.unwrap_or_default()) * 3_600);
    Ok(Draft { tenant, matchers, starts_at, ends_at, reason: typed.get("reason").to_owned() })
}

pub async fn make(State(pages): State<Pages>, Posted { page, typed }: Posted) -> Result<Response, Problem> {
    let silences = Silences::new(pages.alarms.clone());
    let tenant = match typed.get("tenant") {
        "" => departments(&pages, &silences, &page).into_iter().next(),
        slug => Tenant::parse(slug).ok(),
    };
    let tenant =
        tenant.ok_or_else(|| Problem::forbidden("Ask your department for the right to silence its alarms."))?;
    let wrong = match draft(&page, &typed, tenant) {
        Err(wrong) => wrong,
        Ok(draft) => match silences.create(&page.caller, draft).await.map_err(Problem::from) {
            Ok(_) => return Ok(Redirect::to(&page.href("/alarms/silences?did=made")).into_response()),
            Err(problem) => mistakes(problem)?,
        },
    };
    let view = render(&pages, page, &typed, &wrong).await?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(view)).into_response())
}

pub async fn end(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    Posted { page, .. }: Posted,
) -> Result<Response, Problem> {
    let id: Id<Silence> = id.parse().map_err(|_| Problem::not_found("The silence"))?;
    Silences::new(pages.alarms.clone()).end(&page.caller, id).await?;
    Ok(Redirect::to(&page.href("/alarms/silences?did=ended")).into_response())
}
