//! Who looked, and who was let in: the auditor's page.

use std::{collections::BTreeSet, sync::Arc};

use askama::Template;
use axum::{
    Extension, Form,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kernel::{Problem, Role, Tenant};
use serde::Deserialize;
use ui::{Cell, Choice, Column, ErrorSummary, Field, FieldKind, Html, Page, Pager, SessionKey, Table};

use super::{Found, Record, Wanted, failed};
use crate::operators::{LONGEST_VISIT, Visited};

/// Looks on a page.
const ROWS: usize = 100;

type Shared = State<Arc<Record>>;

#[derive(Template)]
#[template(path = "looks.html")]
struct Looks {
    page: Page,
    errors: ErrorSummary,
    /// A link that was just made, shown once.
    made: Option<String>,
    looks: Table,
    pager: Pager,
    visits: Table,
    /// What lets somebody in, for those who may.
    fields: Vec<Field>,
}

/// What the form said, and what was wrong with it.
#[derive(Debug, Default, Deserialize)]
pub struct VisitForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    hours: String,
}

fn who(page: &Page, name: Option<&str>, caller: &str) -> String {
    match (name, caller.split_once(':')) {
        (Some(name), _) => name.to_owned(),
        (None, Some(("device", id))) => page.msg("looks.device").with("id", id).to_string(),
        (None, Some(("key", id))) => page.msg("looks.key").with("id", id).to_string(),
        (None, Some(("system", _))) => page.t("looks.machine").to_owned(),
        _ => caller.to_owned(),
    }
}

fn looks_table(page: &Page, found: &[Found]) -> Table {
    let rows = found.iter().map(|look| {
        let href = page.href(&format!("/looks?caller={}", ui::encode(&look.caller)));
        vec![
            Cell::At(look.first_at),
            Cell::link(href, who(page, look.name.as_deref(), &look.caller)),
            Cell::text(&look.what),
            Cell::number(look.times as f64, 0),
            if look.answer > 0 { Cell::text(look.answer) } else { Cell::Empty },
        ]
    });
    Table::new(page.t("looks.caption"))
        .headed()
        .column(Column::text("at", page.t("looks.at")))
        .column(Column::text("who", page.t("looks.who")))
        .column(Column::text("what", page.t("looks.what")))
        .column(Column::number("times", page.t("looks.times")))
        .column(Column::number("answer", page.t("looks.answer")))
        .rows(rows)
        .empty(page.t("looks.none"))
}

fn visits_table(record: &Record, page: &Page, visits: &[Visited]) -> Table {
    let role = |key: &Role| {
        record.roles.iter().find(|(r, _)| r == key).map_or(key.as_ref(), |(_, text)| page.text(text)).to_owned()
    };
    let rows = visits.iter().map(|visited| {
        let state = match (&visited.caller, visited.visit.ends_at > page.now()) {
            (None, _) => page.t("looks.link-unused"),
            (Some(_), true) => page.t("looks.inside"),
            (Some(_), false) => page.t("looks.over"),
        };
        let name = match &visited.caller {
            Some(caller) => {
                Cell::link(page.href(&format!("/looks?caller={}", ui::encode(caller))), &visited.visit.name)
            }
            None => Cell::text(&visited.visit.name),
        };
        vec![
            name,
            Cell::text(&visited.visit.reason),
            Cell::text(visited.roles.iter().map(role).collect::<Vec<_>>().join(", ")),
            Cell::text(who(page, visited.by_name.as_deref(), &visited.by)),
            Cell::At(visited.since),
            Cell::At(visited.visit.ends_at),
            Cell::text(state),
        ]
    });
    Table::new(page.t("looks.visits"))
        .headed()
        .column(Column::text("name", page.t("looks.visitor")))
        .column(Column::text("reason", page.t("looks.reason")))
        .column(Column::text("role", page.t("operators.role")))
        .column(Column::text("by", page.t("looks.let-in-by")))
        .column(Column::text("since", page.t("operators.since")))
        .column(Column::text("until", page.t("operators.until")))
        .column(Column::text("state", page.t("looks.state")))
        .rows(rows)
        .empty(page.t("looks.visits-none"))
}

fn fields(record: &Record, page: &Page, tenant: &Tenant, typed: &VisitForm, wrong: Option<&Problem>) -> Vec<Field> {
    if !record.manages(&page.caller, tenant) {
        return Vec::new();
    }
    let error = |field: &str, key: &str| {
        let at = if field == "role" { "roles" } else { field };
        wrong.filter(|p| p.errors.iter().any(|e| e.field == at)).map(|_| page.t(key).to_owned())
    };
    let choices = record.roles.iter().map(|(role, text)| Choice::new(role.as_ref(), page.text(text))).collect();
    let hours = if typed.hours.is_empty() { "4" } else { &typed.hours };
    vec![
        Field::input("name", page.t("looks.visitor"), "text")
            .required()
            .max_length(100)
            .value(&typed.name)
            .error(error("name", "looks.name-form")),
        Field::input("reason", page.t("looks.reason"), "text")
            .hint(page.t("looks.reason-hint"))
            .required()
            .max_length(500)
            .value(&typed.reason)
            .error(error("reason", "looks.reason-form")),
        Field::new("role", page.t("operators.role"), FieldKind::Select(choices))
            .required()
            .value(&typed.role)
            .error(error("role", "looks.role-form")),
        Field::input("hours", page.msg("looks.hours").n(u64::from(LONGEST_VISIT)), "number")
            .input_mode("numeric")
            .required()
            .value(hours)
            .error(error("hours", "looks.hours-form")),
    ]
}

async fn shown(
    record: &Record,
    mut page: Page,
    tenant: &Tenant,
    made: Option<String>,
    (typed, wrong): (VisitForm, Option<Problem>),
) -> Result<Response, Problem> {
    // What answers the form is this page: its links must not lead to where the form was sent.
    "/looks".clone_into(&mut page.path);
    let after = page
        .query
        .get("after")
        .map(|text| text.parse().map_err(|_| Problem::field("after", "the link of a page is expected")));
    let caller = page.query.get("caller").filter(|caller| !caller.is_empty() && caller.len() <= 200);
    let wanted = Wanted { caller, before: after.transpose()?, limit: ROWS as u32 + 1, ..Wanted::default() };
    let mut found = record.sealed.list(tenant, wanted).await.map_err(|e| failed(&e))?;
    let more = found.len() > ROWS;
    found.truncate(ROWS);
    let next = found.last().filter(|_| more).map(|look| look.id.to_string());
    let visits = record.operators.visits(tenant).await?;
    let (looks, visits) = (looks_table(&page, &found), visits_table(record, &page, &visits));
    let pager = Pager::after(&page, next.as_deref());
    let fields = fields(record, &page, tenant, &typed, wrong.as_ref());
    let status = if wrong.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let name = record.tenants.get(tenant).map_or_else(|| tenant.to_string(), |name| page.text(name).to_owned());
    let heading = page.msg("looks.heading").with("tenant", name).to_string();
    let page = page.in_section("looks").wide().dense().titled(heading);
    let mut response =
        (status, Html(Looks { errors: ErrorSummary::new(&fields), page, made, looks, pager, visits, fields }))
            .into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

pub async fn looks(State(record): Shared, page: Page) -> Result<Response, Problem> {
    if page.caller.is_anonymous() {
        let href = page.sign_in_and_back().ok_or_else(Problem::unauthenticated)?;
        return Ok(Redirect::to(&href).into_response());
    }
    let tenant = record.readable(&page.caller)?;
    shown(&record, page, &tenant, None, (VisitForm::default(), None)).await
}

pub async fn visit(
    State(record): Shared,
    page: Page,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    Form(form): Form<VisitForm>,
) -> Result<Response, Problem> {
    let genuine = session.is_some_and(|s| page.site.csrf.verify(&s.0.0, &form.csrf)) && ui::csrf::same_origin(&headers);
    if !genuine {
        return Err(Problem::forbidden(
            "The form was not made for this session. Open the page again and send it once more.",
        ));
    }
    let tenant = record.readable(&page.caller)?;
    let hours = form.hours.trim().parse().unwrap_or(0);
    let roles = BTreeSet::from([Role::Owned(form.role.clone())]);
    match record.operators.visit(&page.caller, &tenant, roles, (&form.name, &form.reason), hours).await {
        Ok(token) => {
            let link = format!("{}{}", record.public_url, page.href(&format!("/join/{token}")));
            shown(&record, page, &tenant, Some(link), (VisitForm::default(), None)).await
        }
        Err(problem) if !problem.errors.is_empty() => shown(&record, page, &tenant, None, (form, Some(problem))).await,
        Err(problem) => Err(problem),
    }
}
