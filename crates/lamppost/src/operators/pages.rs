//! Signing in, joining by link, one's account, the people and keys of a department.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use askama::Template;
use axum::{
    Extension, Form, Router,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use http::{HeaderMap, StatusCode, header};
use kernel::{Problem, Role, Tenant, Text};
use sensing::{Audience, Route};
use serde::Deserialize;
use ui::{ErrorSummary, Field, Html, Page, SessionKey};

use super::{
    MANAGE, Operators, READ, Refusal, account,
    layer::{Callers, CurrentSession},
    people,
};
use crate::http::edge::Peer;

/// The texts of these pages.
pub const TEXTS: ui::Texts = ui::Texts {
    room: "operators",
    en: include_str!("../../lang/en.toml"),
    zh_hant: include_str!("../../lang/zh-hant.toml"),
    zh_hans: include_str!("../../lang/zh-hans.toml"),
};

pub const ROUTES: &[Route] = &[
    page("GET", "/{language}/sign-in", Audience::Public, "The form to sign in"),
    page("POST", "/{language}/sign-in", Audience::Public, "Sign in"),
    page("GET", "/{language}/join/{token}", Audience::Public, "The form that a one-time link opens"),
    page("POST", "/{language}/join/{token}", Audience::Public, "Make the account that a link promises"),
    page("GET", "/{language}/reset/{token}", Audience::Public, "The form that a link for a new password opens"),
    page("POST", "/{language}/reset/{token}", Audience::Public, "Set the password that a link is for"),
    page("GET", "/{language}/account", Audience::SignedIn, "One's account and sessions"),
    page("GET", "/{language}/account/password", Audience::SignedIn, "The form that changes one's password"),
    page("POST", "/{language}/account/password", Audience::SignedIn, "Change one's password and end other sessions"),
    page("POST", "/{language}/account/sign-out", Audience::SignedIn, "Sign out"),
    page("POST", "/{language}/account/sessions/end", Audience::SignedIn, "End one of one's sessions"),
    page("GET", "/{language}/operators", Audience::Role("admin"), "People and keys of a department"),
    page(
        "GET",
        "/{language}/operators/people/{id}",
        Audience::Role("admin"),
        "One person: roles, access, new password",
    ),
    page("POST", "/{language}/operators/people/{id}/roles", Audience::Role("admin"), "Change somebody's roles"),
    page(
        "POST",
        "/{language}/operators/people/{id}/access",
        Audience::Role("admin"),
        "Shut somebody out, or let them in",
    ),
    page("POST", "/{language}/operators/people/{id}/reset", Audience::Role("admin"), "Make a link for a new password"),
    page("POST", "/{language}/operators/invite", Audience::Role("admin"), "Make a one-time link"),
    page("POST", "/{language}/operators/keys", Audience::Role("admin"), "Make an API key"),
    page("POST", "/{language}/operators/keys/revoke", Audience::Role("admin"), "Revoke an API key"),
];

const fn page(method: &'static str, path: &'static str, audience: Audience, summary: &'static str) -> Route {
    let writes = matches!(method.as_bytes(), b"POST");
    Route { method, path, action: if writes { MANAGE } else { READ }, audience, audit: writes, summary }
}

/// What the pages need.
pub struct Desk {
    pub operators: Operators,
    pub callers: Arc<Callers>,
    /// Names of departments and roles, from the pack.
    pub tenants: BTreeMap<Tenant, Text>,
    pub roles: BTreeMap<Role, Text>,
    /// The roles as the pack lists them, the least first: what a form offers first should give the least.
    pub order: Vec<Role>,
    /// Where links begin: `https://city.example`.
    pub public_url: String,
}

pub(super) type Shared = State<Arc<Desk>>;

pub fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/{language}/sign-in", get(sign_in_form).post(sign_in))
        .route("/{language}/join/{token}", get(join_form).post(join))
        .route("/{language}/account/sign-out", post(sign_out))
        .merge(account::router())
        .merge(people::router())
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
        .with_state(desk)
}

impl Desk {
    pub(super) fn in_order(&self) -> impl Iterator<Item = (&Role, &Text)> {
        self.order.iter().filter_map(|role| self.roles.get_key_value(role))
    }
    pub(super) fn tenant_name(&self, page: &Page, tenant: &Tenant) -> String {
        self.tenants.get(tenant).map_or_else(|| tenant.to_string(), |t| page.text(t).to_owned())
    }
    pub(super) fn role_names(&self, page: &Page, roles: &BTreeSet<Role>) -> String {
        let names = roles.iter().map(|r| self.roles.get(r).map_or(r.as_ref(), |t| page.text(t)));
        names.collect::<Vec<_>>().join(if page.language == kernel::Language::En { ", " } else { "、" })
    }
}

/// Whether a form was made for this browser by us, not long ago and not elsewhere.
pub(super) fn genuine(page: &Page, session: Option<&Extension<SessionKey>>, token: &str, headers: &HeaderMap) -> bool {
    session.is_some_and(|s| page.site.csrf.verify(&s.0.0, token)) && ui::csrf::same_origin(headers)
}

pub(super) fn demand(genuine: bool) -> Result<(), Problem> {
    if genuine {
        Ok(())
    } else {
        Err(Problem::forbidden("The form was not made for this session. Open the page again and send it once more."))
    }
}

pub(super) fn see_other(location: &str) -> Response {
    Redirect::to(location).into_response()
}

/// What a refusal says on a form: the field, and the sentence.
pub(super) fn said(page: &Page, refusal: Refusal) -> Result<(&'static str, String), Problem> {
    Ok(match refusal {
        Refusal::Form { field, text } => (field, page.t(text).to_owned()),
        Refusal::Wrong => ("account", page.t("operators.wrong").to_owned()),
        Refusal::Slow(seconds) => ("account", page.msg("operators.slow").n(u64::from(seconds)).to_string()),
        Refusal::Link => return Err(Problem::not_found("The link")),
        Refusal::Failed(problem) => return Err(problem),
    })
}

// --- signing in -----------------------------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "sign-in.html")]
struct SignIn {
    page: Page,
    next: String,
    fields: Vec<Field>,
    errors: ErrorSummary,
}

fn sign_in_page(page: Page, next: &str, account: &str, error: Option<(&'static str, String)>) -> Html<SignIn> {
    let wrong = |field: &str| error.as_ref().filter(|(f, _)| *f == field).map(|(_, text)| text.clone());
    let fields = vec![
        Field::input("account", page.t("operators.account"), "text")
            .required()
            .autocomplete("username")
            .max_length(100)
            .value(account)
            .error(wrong("account")),
        Field::input("password", page.t("operators.password"), "password")
            .required()
            .autocomplete("current-password")
            .max_length(200),
    ];
    let heading = page.t("operators.sign-in").to_owned();
    let about = page.t("operators.sign-in-about").to_owned();
    Html(SignIn {
        errors: ErrorSummary::new(&fields),
        page: page.titled(heading).described(about),
        next: next.to_owned(),
        fields,
    })
}

/// Only a path on this site: `//host` and `/\host` would lead away.
fn own_path(next: &str) -> Option<&str> {
    let plain = next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    (next.starts_with('/') && !next.starts_with("//") && plain && next.len() <= 1_000).then_some(next)
}

async fn sign_in_form(page: Page) -> Response {
    // A program that shows a key has no account: sent there, it would be sent back here.
    if account::person_tenant(&page.caller).is_some() {
        return see_other(&page.href("/account"));
    }
    let next = page.query.get("next").unwrap_or_default();
    sign_in_page(page, &next, "", None).into_response()
}

#[derive(Deserialize)]
struct SignInForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    next: String,
    account: String,
    password: String,
}

async fn sign_in(
    State(desk): Shared,
    page: Page,
    session: Option<Extension<SessionKey>>,
    Extension(Peer(address)): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<SignInForm>,
) -> Result<Response, Problem> {
    if !genuine(&page, session.as_ref(), &form.csrf, &headers) {
        let text = page.t("operators.form-old").to_owned();
        return Ok((StatusCode::FORBIDDEN, sign_in_page(page, &form.next, &form.account, Some(("account", text))))
            .into_response());
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    match desk.operators.sign_in(&form.account, form.password, address, agent).await {
        Ok(token) => {
            let mut response = see_other(own_path(&form.next).unwrap_or(&page.href("/account")));
            response.headers_mut().append(header::SET_COOKIE, desk.callers.set_session(&token));
            Ok(response)
        }
        Err(refusal) => {
            let slow = matches!(refusal, Refusal::Slow(_));
            let error = said(&page, refusal)?;
            let status = if slow { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::UNPROCESSABLE_ENTITY };
            Ok((status, sign_in_page(page, &form.next, &form.account, Some(error))).into_response())
        }
    }
}

async fn sign_out(
    State(desk): Shared,
    page: Page,
    session: Option<Extension<SessionKey>>,
    current: Option<Extension<CurrentSession>>,
    headers: HeaderMap,
    Form(form): Form<Token>,
) -> Result<Response, Problem> {
    demand(genuine(&page, session.as_ref(), &form.csrf, &headers))?;
    if let Some(Extension(CurrentSession(id))) = current {
        desk.operators.end_session(&page.caller, &id.to_string()).await?;
    }
    let mut response = see_other(&page.href("/sign-in"));
    response.headers_mut().append(header::SET_COOKIE, desk.callers.set_session(""));
    Ok(response)
}

/// A form that says nothing but that it is ours.
#[derive(Deserialize)]
pub(super) struct Token {
    #[serde(default)]
    pub csrf: String,
}

// --- joining ---------------------------------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "join.html")]
struct Join {
    page: Page,
    tenant: String,
    roles: String,
    fields: Vec<Field>,
    errors: ErrorSummary,
}

async fn join_page(
    desk: &Desk,
    page: Page,
    token: &str,
    (account, name): (&str, &str),
    error: Option<(&'static str, String)>,
) -> Result<Html<Join>, Problem> {
    let invite = desk.operators.invitation(token).await?.ok_or_else(|| Problem::not_found("The link"))?;
    let wrong = |field: &str| error.as_ref().filter(|(f, _)| *f == field).map(|(_, text)| text.clone());
    let fields = vec![
        Field::input("name", page.t("operators.name"), "text")
            .hint(page.t("operators.name-hint"))
            .required()
            .autocomplete("name")
            .max_length(100)
            .value(name)
            .error(wrong("name")),
        Field::input("account", page.t("operators.account"), "text")
            .hint(page.t("operators.account-hint"))
            .required()
            .autocomplete("username")
            .max_length(100)
            .value(account)
            .error(wrong("account")),
        Field::input("password", page.t("operators.password"), "password")
            .hint(page.t("operators.password-hint"))
            .required()
            .autocomplete("new-password")
            .max_length(200)
            .error(wrong("password")),
    ];
    let (tenant, roles) = (desk.tenant_name(&page, &invite.tenant), desk.role_names(&page, &invite.roles));
    let heading = page.t("operators.join-heading").to_owned();
    Ok(Html(Join { errors: ErrorSummary::new(&fields), page: page.titled(heading), tenant, roles, fields }))
}

async fn join_form(
    State(desk): Shared,
    page: Page,
    Path((_, token)): Path<(String, String)>,
) -> Result<Html<Join>, Problem> {
    join_page(&desk, page, &token, ("", ""), None).await
}

#[derive(Deserialize)]
struct JoinForm {
    #[serde(default)]
    csrf: String,
    name: String,
    account: String,
    password: String,
}

async fn join(
    State(desk): Shared,
    page: Page,
    Path((_, token)): Path<(String, String)>,
    session: Option<Extension<SessionKey>>,
    Extension(Peer(address)): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<JoinForm>,
) -> Result<Response, Problem> {
    let typed = (form.account.as_str(), form.name.as_str());
    if !genuine(&page, session.as_ref(), &form.csrf, &headers) {
        let text = page.t("operators.form-old").to_owned();
        return Ok(
            (StatusCode::FORBIDDEN, join_page(&desk, page, &token, typed, Some(("name", text))).await?).into_response()
        );
    }
    match desk.operators.join(&token, &form.account, &form.name, form.password.clone()).await {
        Ok(person) => {
            let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
            let mut response = see_other(&page.href("/account"));
            // The account stands; whoever cannot be signed in at once signs in by hand.
            if let Ok(token) = desk.operators.sign_in(&person.account, form.password, address, agent).await {
                response.headers_mut().append(header::SET_COOKIE, desk.callers.set_session(&token));
            }
            Ok(response)
        }
        Err(refusal) => {
            let error = said(&page, refusal)?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, join_page(&desk, page, &token, typed, Some(error)).await?)
                .into_response())
        }
    }
}
