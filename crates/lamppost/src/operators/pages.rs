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
use kernel::{Caller, Id, Problem, Role, Tenant, Text};
use sensing::{Audience, Route};
use serde::Deserialize;
use ui::{Cell, Choice, Column, ErrorSummary, Field, FieldKind, Html, Page, SessionKey, Table};

use super::{
    MANAGE, Operators, READ, Refusal, Session,
    layer::{Callers, CurrentSession},
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
    page("GET", "/{language}/account", Audience::SignedIn, "One's account and sessions"),
    page("POST", "/{language}/account/sign-out", Audience::SignedIn, "Sign out"),
    page("POST", "/{language}/account/sessions/end", Audience::SignedIn, "End one of one's sessions"),
    page("GET", "/{language}/operators", Audience::Role("admin"), "People and keys of a department"),
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
    /// Where links begin: `https://city.example`.
    pub public_url: String,
}

type Shared = State<Arc<Desk>>;

pub fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/{language}/sign-in", get(sign_in_form).post(sign_in))
        .route("/{language}/join/{token}", get(join_form).post(join))
        .route("/{language}/account", get(account))
        .route("/{language}/account/sign-out", post(sign_out))
        .route("/{language}/account/sessions/end", post(end_session))
        .route("/{language}/operators", get(operators))
        .route("/{language}/operators/invite", post(invite))
        .route("/{language}/operators/keys", post(make_key))
        .route("/{language}/operators/keys/revoke", post(revoke_key))
        .layer(axum::extract::DefaultBodyLimit::max(64 << 10))
        .with_state(desk)
}

impl Desk {
    fn tenant_name(&self, page: &Page, tenant: &Tenant) -> String {
        self.tenants.get(tenant).map_or_else(|| tenant.to_string(), |t| page.text(t).to_owned())
    }
    fn role_names(&self, page: &Page, roles: &BTreeSet<Role>) -> String {
        let names = roles.iter().map(|r| self.roles.get(r).map_or(r.as_ref(), |t| page.text(t)));
        names.collect::<Vec<_>>().join(if page.language == kernel::Language::En { ", " } else { "、" })
    }
}

/// Whether a form was made for this browser by us, not long ago and not elsewhere.
fn genuine(page: &Page, session: Option<&Extension<SessionKey>>, token: &str, headers: &HeaderMap) -> bool {
    session.is_some_and(|s| page.site.csrf.verify(&s.0.0, token)) && ui::csrf::same_origin(headers)
}

fn demand(genuine: bool) -> Result<(), Problem> {
    if genuine {
        Ok(())
    } else {
        Err(Problem::forbidden("The form was not made for this session. Open the page again and send it once more."))
    }
}

fn see_other(location: &str) -> Response {
    Redirect::to(location).into_response()
}

/// What a refusal says on a form: the field, and the sentence.
fn said(page: &Page, refusal: Refusal) -> Result<(&'static str, String), Problem> {
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
    if !page.caller.is_anonymous() {
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

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    csrf: String,
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

// --- one's account ---------------------------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "account.html")]
struct Account {
    page: Page,
    tenant: String,
    roles: String,
    manages: bool,
    sessions: Vec<Session>,
    current: Option<Id<Session>>,
}

impl Account {
    fn here(&self, session: &Session) -> bool {
        self.current == Some(session.id)
    }
}

async fn account(
    State(desk): Shared,
    page: Page,
    current: Option<Extension<CurrentSession>>,
) -> Result<Response, Problem> {
    let Some(tenant) = person_tenant(&page.caller) else {
        return Ok(see_other(&format!("{}?next={}", page.href("/sign-in"), ui::encode(&page.here()))));
    };
    let sessions = desk.operators.sessions(&page.caller).await?;
    let manages = desk.operators.allows(&page.caller, READ, &tenant);
    let (name, roles) = (desk.tenant_name(&page, &tenant), desk.role_names(&page, &page.caller.roles));
    let heading = page.t("operators.my-account").to_owned();
    let current = current.map(|Extension(CurrentSession(id))| id);
    Ok(Html(Account { page: page.titled(heading), tenant: name, roles, manages, sessions, current }).into_response())
}

fn person_tenant(caller: &Caller) -> Option<Tenant> {
    matches!(caller.principal, kernel::Principal::Person { .. }).then(|| caller.tenant.clone()).flatten()
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
    Ok(see_other(&page.href("/account")))
}

// --- people and keys ---------------------------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "operators.html")]
struct People {
    page: Page,
    tenant: Tenant,
    made: Option<Made>,
    people: Table,
    keys: Table,
    role: Field,
    key_name: Field,
    key_prefix: Field,
}

/// What was just made, shown once.
struct Made {
    say: String,
    secret: String,
}

async fn people_page(desk: &Desk, page: Page, tenant: Tenant, made: Option<Made>) -> Result<Response, Problem> {
    let people = desk.operators.people(&page.caller, &tenant).await?;
    let keys = desk.operators.keys(&page.caller, &tenant).await?;
    let name = desk.tenant_name(&page, &tenant);
    let rows = people.iter().map(|p| {
        vec![
            Cell::text(&p.name),
            Cell::text(&p.account),
            Cell::text(desk.role_names(&page, &p.roles)),
            Cell::At(p.created_at),
        ]
    });
    let people = Table::new(page.t("operators.people-caption"))
        .column(Column::text("name", page.t("operators.name")))
        .column(Column::text("account", page.t("operators.account")))
        .column(Column::text("role", page.t("operators.role")))
        .column(Column::text("since", page.t("operators.since")))
        .rows(rows)
        .empty(page.t("operators.people-none"));
    let rows = keys.iter().map(|k| {
        let until = k.expires_at.map_or(Cell::Empty, Cell::At);
        vec![
            Cell::text(&k.prefix),
            Cell::text(&k.name),
            Cell::text(desk.role_names(&page, &k.roles)),
            Cell::At(k.created_at),
            until,
        ]
    });
    let keys = Table::new(page.t("operators.keys-caption"))
        .column(Column::text("key", page.t("operators.keys-caption")))
        .column(Column::text("name", page.t("operators.key-name")))
        .column(Column::text("role", page.t("operators.role")))
        .column(Column::text("since", page.t("operators.since")))
        .column(Column::text("until", page.t("operators.until")))
        .rows(rows)
        .empty(page.t("operators.keys-none"));
    let choices = desk.roles.iter().map(|(role, text)| Choice::new(role.as_ref(), page.text(text))).collect();
    let role = Field::new("role", page.t("operators.role"), FieldKind::Select(choices)).required();
    let key_name = Field::input("name", page.t("operators.key-name"), "text")
        .hint(page.t("operators.key-name-hint"))
        .required()
        .max_length(100);
    let key_prefix = Field::input("prefix", page.t("operators.key-prefix"), "text")
        .hint(page.t("operators.key-prefix-hint"))
        .required()
        .max_length(10);
    let heading = page.msg("operators.people-of").with("tenant", name).to_string();
    let account = page.t("operators.my-account").to_owned();
    let page = page.under(account, "/account").titled(heading).dense();
    let mut response = Html(People { page, tenant, made, people, keys, role, key_name, key_prefix }).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The department that the page is about: the caller's own unless it names another.
fn about(page: &Page, named: Option<String>) -> Result<Tenant, Problem> {
    let own = || page.caller.tenant.clone().ok_or_else(Problem::unauthenticated);
    match named.filter(|n| !n.is_empty()) {
        Some(slug) => Tenant::parse(&slug).map_err(|e| Problem::field("tenant", e)),
        None => own(),
    }
}

async fn operators(State(desk): Shared, page: Page) -> Result<Response, Problem> {
    if page.caller.is_anonymous() {
        return Ok(see_other(&format!("{}?next={}", page.href("/sign-in"), ui::encode(&page.here()))));
    }
    let tenant = about(&page, page.query.get("tenant"))?;
    people_page(&desk, page, tenant, None).await
}

#[derive(Deserialize)]
struct InviteForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    tenant: String,
    role: String,
}

async fn invite(
    State(desk): Shared,
    page: Page,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    Form(form): Form<InviteForm>,
) -> Result<Response, Problem> {
    demand(genuine(&page, session.as_ref(), &form.csrf, &headers))?;
    let tenant = about(&page, Some(form.tenant))?;
    let token = desk.operators.invite(&page.caller, &tenant, BTreeSet::from([Role::Owned(form.role)])).await?;
    let made = Made {
        say: page.t("operators.link-made").to_owned(),
        secret: format!("{}{}", desk.public_url, page.href(&format!("/join/{token}"))),
    };
    people_page(&desk, page, tenant, Some(made)).await
}

#[derive(Deserialize)]
struct KeyForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    tenant: String,
    name: String,
    role: String,
}

async fn make_key(
    State(desk): Shared,
    page: Page,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    Form(form): Form<KeyForm>,
) -> Result<Response, Problem> {
    demand(genuine(&page, session.as_ref(), &form.csrf, &headers))?;
    let tenant = about(&page, Some(form.tenant))?;
    let roles = BTreeSet::from([Role::Owned(form.role)]);
    let secret = desk.operators.make_key(&page.caller, &tenant, &form.name, roles, None).await?;
    let made = Made { say: page.t("operators.key-made").to_owned(), secret };
    people_page(&desk, page, tenant, Some(made)).await
}

#[derive(Deserialize)]
struct RevokeForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    tenant: String,
    prefix: String,
}

async fn revoke_key(
    State(desk): Shared,
    page: Page,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    Form(form): Form<RevokeForm>,
) -> Result<Response, Problem> {
    demand(genuine(&page, session.as_ref(), &form.csrf, &headers))?;
    let tenant = about(&page, Some(form.tenant))?;
    desk.operators.revoke_key(&page.caller, form.prefix.trim()).await?;
    people_page(&desk, page, tenant, None).await
}
