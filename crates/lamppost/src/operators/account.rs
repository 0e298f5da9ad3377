//! One's own account: where one is signed in, a new password, and the link that sets one for who has forgotten it.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Form, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, StatusCode, header};
use kernel::{Caller, Id, Problem, Tenant};
use serde::Deserialize;
use ui::{Act, Badge, Cell, Column, ErrorSummary, Field, Html, Notice, Page, SessionKey, Table, Tone};

use super::{
    READ, Refusal, Session,
    layer::CurrentSession,
    pages::{Desk, Shared, demand, genuine, said, see_other},
};
use crate::http::edge::Peer;

pub(super) fn router() -> Router<Arc<Desk>> {
    Router::new()
        .route("/{language}/account", get(account))
        .route("/{language}/account/password", get(password_form).post(password))
        .route("/{language}/account/sessions/end", post(end_session))
        .route("/{language}/reset/{token}", get(reset_form).post(reset))
}

#[derive(Template)]
#[template(path = "account.html")]
struct Account {
    page: Page,
    notice: Option<Notice>,
    account: String,
    tenant: String,
    roles: String,
    manages: bool,
    sessions: Table,
}

/// What a browser calls itself, as a person would: the whole of it says nothing to anybody.
fn browser(agent: &str) -> String {
    // The order matters: every browser also calls itself what it wants to be taken for.
    let name =
        [("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari")];
    let system = [
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ];
    let find = |among: &[(&str, &'static str)]| among.iter().find(|(mark, _)| agent.contains(mark)).map(|(_, n)| *n);
    match (find(&name), find(&system)) {
        (Some(name), Some(system)) => format!("{name}, {system}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => agent.chars().take(60).collect(),
    }
}

/// Where one must be signed in; the way there and back otherwise.
pub(super) fn person_tenant(caller: &Caller) -> Option<Tenant> {
    matches!(caller.principal, kernel::Principal::Person { .. }).then(|| caller.tenant.clone()).flatten()
}
fn sign_in_first(page: &Page) -> Response {
    see_other(&format!("{}?next={}", page.href("/sign-in"), ui::encode(&page.here())))
}

async fn account(
    State(desk): Shared,
    page: Page,
    current: Option<Extension<CurrentSession>>,
) -> Result<Response, Problem> {
    let Some(tenant) = person_tenant(&page.caller) else { return Ok(sign_in_first(&page)) };
    let own = desk.operators.own(&page.caller).await?;
    let sessions = desk.operators.sessions(&page.caller).await?;
    let manages = desk.operators.allows(&page.caller, READ, &tenant);
    let (name, roles) = (desk.tenant_name(&page, &tenant), desk.role_names(&page, &page.caller.roles));
    let current = current.map(|Extension(CurrentSession(id))| id);
    let sessions = sessions_table(&page, &sessions, current);
    let notice = match page.query.get("did").as_deref() {
        Some("password") => Some(Notice::new(Tone::Done, page.t("operators.password-changed"))),
        Some("ended") => Some(Notice::new(Tone::Done, page.t("operators.session-ended"))),
        _ => None,
    };
    let heading = page.t("operators.my-account").to_owned();
    let page = page.titled(heading);
    Ok(Html(Account { page, notice, account: own.account, tenant: name, roles, manages, sessions }).into_response())
}

fn sessions_table(page: &Page, sessions: &[Session], current: Option<Id<Session>>) -> Table {
    let rows = sessions.iter().map(|session| {
        let here = current == Some(session.id);
        let end = Act::new(page.href("/account/sessions/end"), page.t("operators.end-session"))
            .field("session", session.id)
            .about(browser(&session.agent));
        vec![
            Cell::text(browser(&session.agent)),
            Cell::text(&session.address),
            Cell::At(session.created_at),
            Cell::Ago(session.seen_at),
            if here {
                Cell::State(Badge::new(ui::State::Good).word(page.t("operators.this-session")))
            } else {
                Cell::Html(end.html(page))
            },
        ]
    });
    Table::new(page.t("operators.sessions"))
        .headed()
        .column(Column::text("browser", page.t("operators.browser")))
        .column(Column::text("address", page.t("operators.address")))
        .column(Column::text("since", page.t("operators.since")))
        .column(Column::text("seen", page.t("operators.last-here")))
        .column(Column::text("do", page.t("operators.col-do")))
        .rows(rows)
}

#[derive(Deserialize)]
struct EndForm {
    #[serde(default)]
    csrf: String,
    session: String,
}

async fn end_session(
    State(desk): Shared,
    page: Page,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    Form(form): Form<EndForm>,
) -> Result<Response, Problem> {
    demand(genuine(&page, session.as_ref(), &form.csrf, &headers))?;
    desk.operators.end_session(&page.caller, &form.session).await?;
    Ok(see_other(&page.href("/account?did=ended")))
}

// --- a new password --------------------------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "password.html")]
struct PasswordPage {
    page: Page,
    say: String,
    fields: Vec<Field>,
    errors: ErrorSummary,
    submit: String,
}

fn new_password(page: &Page, wrong: Option<String>) -> Field {
    Field::input("password", page.t("operators.password-new"), "password")
        .hint(page.t("operators.password-hint"))
        .required()
        .autocomplete("new-password")
        .max_length(200)
        .error(wrong)
}

fn password_page(page: Page, error: Option<&(&'static str, String)>) -> PasswordPage {
    let wrong = |field: &str| error.filter(|(f, _)| *f == field).map(|(_, text)| text.clone());
    let present = Field::input("present", page.t("operators.password-present"), "password")
        .required()
        .autocomplete("current-password")
        .max_length(1_000)
        // What is wrong with the account as a whole (too many tries) is said here too.
        .error(wrong("present").or_else(|| wrong("account")));
    let fields = vec![present, new_password(&page, wrong("password"))];
    let (say, submit) = (page.t("operators.password-say").to_owned(), page.t("operators.password-change").to_owned());
    let heading = page.t("operators.password-change").to_owned();
    let account = page.t("operators.my-account").to_owned();
    let page = page.under(account, "/account").titled(heading);
    PasswordPage { errors: ErrorSummary::new(&fields), page, say, fields, submit }
}

async fn password_form(page: Page) -> Response {
    if person_tenant(&page.caller).is_none() {
        return sign_in_first(&page);
    }
    Html(password_page(page, None)).into_response()
}

#[derive(Deserialize)]
struct PasswordForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    present: String,
    #[serde(default)]
    password: String,
}

async fn password(
    State(desk): Shared,
    page: Page,
    session: Option<Extension<SessionKey>>,
    current: Option<Extension<CurrentSession>>,
    Extension(Peer(address)): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<PasswordForm>,
) -> Result<Response, Problem> {
    demand(genuine(&page, session.as_ref(), &form.csrf, &headers))?;
    let keep = current.map(|Extension(CurrentSession(id))| id);
    match desk.operators.change_password(&page.caller, keep, form.present, form.password, address).await {
        Ok(()) => Ok(see_other(&page.href("/account?did=password"))),
        Err(refusal) => {
            let status = refused_as(&refusal);
            let error = said(&page, refusal)?;
            Ok((status, Html(password_page(page, Some(&error)))).into_response())
        }
    }
}

fn refused_as(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Slow(_) => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn reset_page(page: Page, account: &str, error: Option<&(&'static str, String)>) -> PasswordPage {
    let wrong = error.map(|(_, text)| text.clone());
    let fields = vec![new_password(&page, wrong)];
    let say = page.msg("operators.reset-say").with("account", account).to_string();
    let submit = page.t("operators.reset").to_owned();
    let heading = page.t("operators.reset-heading").to_owned();
    PasswordPage { errors: ErrorSummary::new(&fields), page: page.titled(heading), say, fields, submit }
}

async fn reset_form(
    State(desk): Shared,
    page: Page,
    Path((_, token)): Path<(String, String)>,
) -> Result<Html<PasswordPage>, Problem> {
    let person = desk.operators.resetting(&token).await?.ok_or_else(|| Problem::not_found("The link"))?;
    Ok(Html(reset_page(page, &person.account, None)))
}

#[derive(Deserialize)]
struct ResetForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    password: String,
}

async fn reset(
    State(desk): Shared,
    page: Page,
    Path((_, token)): Path<(String, String)>,
    session: Option<Extension<SessionKey>>,
    Extension(Peer(address)): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<ResetForm>,
) -> Result<Response, Problem> {
    let person = desk.operators.resetting(&token).await?.ok_or_else(|| Problem::not_found("The link"))?;
    if !genuine(&page, session.as_ref(), &form.csrf, &headers) {
        let error = ("password", page.t("operators.form-old").to_owned());
        return Ok((StatusCode::FORBIDDEN, Html(reset_page(page, &person.account, Some(&error)))).into_response());
    }
    match desk.operators.reset(&token, form.password.clone()).await {
        Ok(person) => {
            let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
            let mut response = see_other(&page.href("/account?did=password"));
            // The password stands; whoever cannot be signed in at once signs in by hand.
            if let Ok(token) = desk.operators.sign_in(&person.account, form.password, address, agent).await {
                response.headers_mut().append(header::SET_COOKIE, desk.callers.set_session(&token));
            }
            Ok(response)
        }
        Err(refusal) => {
            let error = said(&page, refusal)?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(reset_page(page, &person.account, Some(&error))))
                .into_response())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::browser;

    #[test]
    fn browsers_have_names() {
        let check = |agent, name| assert_eq!(browser(agent), name);
        check(
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36",
            "Chrome, Linux",
        );
        check(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605 Version/17.0 Safari/604.1",
            "Safari, iPhone",
        );
        check("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537 Chrome/120 Safari/537 Edg/120", "Edge, Windows");
        check("curl/8.0", "curl/8.0");
        check("", "");
    }
}
