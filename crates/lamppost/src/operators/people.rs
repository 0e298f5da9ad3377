//! The people and the programs' keys of a department, for its administrators.

use std::{collections::BTreeSet, sync::Arc};

use askama::Template;
use axum::{
    Extension, Form, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kernel::{Problem, Role, Tenant};
use serde::Deserialize;
use ui::{
    Act, Badge, Cell, Choice, Column, ErrorSummary, Field, FieldKind, FilterChoice, Filters, Html, Markup, Notice,
    Page, SessionKey, Table, Tone,
};

use super::{
    ApiKey, Person, READ,
    pages::{Desk, Shared, Token, demand, genuine, see_other},
};

pub(super) fn router() -> Router<Arc<Desk>> {
    Router::new()
        .route("/{language}/operators", get(operators))
        .route("/{language}/operators/people/{id}", get(person))
        .route("/{language}/operators/people/{id}/roles", post(roles))
        .route("/{language}/operators/people/{id}/access", post(access))
        .route("/{language}/operators/people/{id}/reset", post(reset))
        .route("/{language}/operators/invite", post(invite))
        .route("/{language}/operators/keys", post(make_key))
        .route("/{language}/operators/keys/revoke", post(revoke_key))
}

#[derive(Template)]
#[template(path = "operators.html")]
struct People {
    page: Page,
    tenant: Tenant,
    notice: Option<Notice>,
    made: Option<Made>,
    errors: ErrorSummary,
    departments: Option<Filters>,
    people: Table,
    keys: Table,
    role: Field,
    key_name: Field,
    key_role: Field,
}

/// What was just made, shown once.
struct Made {
    say: String,
    secret: String,
}

/// What a key's form said, and what was wrong with it.
#[derive(Default)]
struct Typed {
    name: String,
    role: String,
    wrong: Option<String>,
}

fn access_badge(page: &Page, enabled: bool) -> Badge {
    if enabled {
        Badge::new(ui::State::Good).word(page.t("operators.may-sign-in"))
    } else {
        Badge::new(ui::State::Offline).word(page.t("operators.shut-out"))
    }
}

/// What is shown once must be kept by nothing on the way.
fn unkept(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn people_page(
    desk: &Desk,
    mut page: Page,
    tenant: Tenant,
    made: Option<Made>,
    typed: Typed,
) -> Result<Response, Problem> {
    let found = desk.operators.people(&page.caller, &tenant).await?;
    let keys = desk.operators.keys(&page.caller, &tenant).await?;
    // What answers a form is this page: its links must not lead to where the form was sent.
    "/operators".clone_into(&mut page.path);
    page.query = page.query.with("tenant", tenant.as_str());
    let rows = found.iter().map(|(p, seen)| {
        vec![
            Cell::link(page.href(&format!("/operators/people/{}", p.id)), &p.name),
            Cell::text(&p.account),
            Cell::text(desk.role_names(&page, &p.roles)),
            Cell::State(access_badge(&page, p.enabled)),
            seen.map_or(Cell::Empty, Cell::Ago),
            Cell::At(p.created_at),
        ]
    });
    let people = Table::new(page.t("operators.people-caption"))
        .headed()
        .column(Column::text("name", page.t("operators.name-column")))
        .column(Column::text("account", page.t("operators.account")))
        .column(Column::text("role", page.t("operators.role")))
        .column(Column::text("access", page.t("operators.access")))
        .column(Column::text("seen", page.t("operators.last-here")))
        .column(Column::text("since", page.t("operators.since")))
        .rows(rows)
        .empty(page.t("operators.people-none"));
    let keys = keys_table(desk, &page, &tenant, &keys);
    let choices = || desk.in_order().map(|(role, text)| Choice::new(role.as_ref(), page.text(text))).collect();
    let role = |id: &str| Field::new(id, page.t("operators.role"), FieldKind::Select(choices())).required();
    let key_name = Field::input("name", page.t("operators.key-name"), "text")
        .hint(page.t("operators.key-name-hint"))
        .required()
        .max_length(100)
        .value(&typed.name)
        .error(typed.wrong.as_ref());
    let key_role = role("key_role").value(&typed.role);
    let notice = match page.query.get("did").as_deref() {
        Some("revoked") => Some(Notice::new(Tone::Done, page.t("operators.key-revoked"))),
        _ => None,
    };
    let all: Vec<_> = desk.tenants.keys().filter(|t| desk.operators.allows(&page.caller, READ, t)).collect();
    let departments = (all.len() > 1).then(|| {
        let names = all.iter().map(|t| FilterChoice::new(t.as_str(), desk.tenant_name(&page, t))).collect();
        Filters::default().one("tenant", page.t("operators.department"), names, tenant.as_str())
    });
    let status = if typed.wrong.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let errors = ErrorSummary::new(std::slice::from_ref(&key_name));
    let heading = page.msg("operators.people-of").with("tenant", desk.tenant_name(&page, &tenant)).to_string();
    let account = page.t("operators.my-account").to_owned();
    let role = role("role");
    let page = page.under(account, "/account").titled(heading).dense();
    let people = People { page, tenant, notice, made, errors, departments, people, keys, role, key_name, key_role };
    Ok(unkept((status, Html(people))))
}

fn keys_table(desk: &Desk, page: &Page, tenant: &Tenant, keys: &[ApiKey]) -> Table {
    let rows = keys.iter().map(|k| {
        let revoke = Act::new(page.href("/operators/keys/revoke"), page.t("operators.revoke-key"))
            .field("tenant", tenant)
            .field("prefix", &k.prefix)
            .about(&k.name)
            .danger();
        vec![
            Cell::text(&k.name),
            Cell::text(&k.prefix),
            Cell::text(desk.role_names(page, &k.roles)),
            k.used_at.map_or_else(|| Cell::text(page.t("operators.never")), Cell::Ago),
            Cell::At(k.created_at),
            k.expires_at.map_or_else(|| Cell::text(page.t("operators.no-end")), Cell::At),
            Cell::Html(revoke.html(page)),
        ]
    });
    Table::new(page.t("operators.keys-caption"))
        .headed()
        .column(Column::text("name", page.t("operators.key-name")))
        .column(Column::text("key", page.t("operators.key-prefix")))
        .column(Column::text("role", page.t("operators.role")))
        .column(Column::text("used", page.t("operators.last-used")))
        .column(Column::text("since", page.t("operators.since")))
        .column(Column::text("until", page.t("operators.until")))
        .column(Column::text("do", page.t("operators.col-do")))
        .rows(rows)
        .empty(page.t("operators.keys-none"))
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
    people_page(&desk, page, tenant, None, Typed::default()).await
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
    people_page(&desk, page, tenant, Some(made), Typed::default()).await
}

#[derive(Deserialize)]
struct KeyForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    name: String,
    key_role: String,
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
    let roles = BTreeSet::from([Role::Owned(form.key_role.clone())]);
    let name = form.name.trim().to_owned();
    match desk.operators.make_key(&page.caller, &tenant, &name, roles, None).await {
        Ok(secret) => {
            let made = Made { say: page.t("operators.key-made").to_owned(), secret };
            people_page(&desk, page, tenant, Some(made), Typed::default()).await
        }
        Err(problem) if problem.errors.iter().any(|e| e.field == "name") => {
            let wrong = Some(page.t("operators.name-form").to_owned());
            people_page(&desk, page, tenant, None, Typed { name, role: form.key_role, wrong }).await
        }
        Err(problem) => Err(problem),
    }
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
    Ok(see_other(&page.href(&format!("/operators?tenant={tenant}&did=revoked"))))
}

// --- one person -------------------------------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "person.html")]
struct PersonPage {
    page: Page,
    notice: Option<Notice>,
    made: Option<Made>,
    errors: ErrorSummary,
    facts: Vec<(String, String)>,
    access: Badge,
    /// One's own account is changed by somebody else.
    own: bool,
    roles: Vec<(String, String, bool)>,
    wrong: Option<String>,
    base: String,
    shut: Markup,
    open: Markup,
    reset: Markup,
    enabled: bool,
}

async fn person_page(
    desk: &Desk,
    mut page: Page,
    person: Person,
    made: Option<Made>,
    wrong: Option<String>,
) -> Result<Response, Problem> {
    let path = format!("/operators/people/{}", person.id);
    page.path.clone_from(&path);
    let own = matches!(&page.caller.principal, kernel::Principal::Person { id, .. } if **id == *person.id.to_string());
    let act = |to: &str, key: &str| Act::new(page.href(&format!("{path}/{to}")), page.t(key)).about(&person.name);
    let shut = act("access", "operators.shut").field("enabled", "no").danger().html(&page);
    let open = act("access", "operators.open").field("enabled", "yes").main().html(&page);
    let reset = act("reset", "operators.make-reset").html(&page);
    let facts = vec![
        (page.t("operators.account").to_owned(), person.account.clone()),
        (page.t("operators.department").to_owned(), desk.tenant_name(&page, &person.tenant)),
        (page.t("operators.role").to_owned(), desk.role_names(&page, &person.roles)),
        (page.t("operators.since").to_owned(), page.exact(&person.created_at)),
    ];
    let roles = desk
        .in_order()
        .map(|(role, text)| (role.to_string(), page.text(text).to_owned(), person.roles.contains(role)))
        .collect();
    let said = |key: &str| Some(Notice::new(Tone::Done, page.t(key)));
    let notice = match page.query.get("did").as_deref() {
        Some("roles") => said("operators.roles-changed"),
        Some("shut") if !person.enabled => said("operators.was-shut"),
        Some("open") if person.enabled => said("operators.was-opened"),
        _ => None,
    };
    let status = if wrong.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let field = Field::new("roles", page.t("operators.role"), FieldKind::Checkbox).error(wrong.as_ref());
    let errors = ErrorSummary::new(&[field]);
    let people = page.msg("operators.people-of").with("tenant", desk.tenant_name(&page, &person.tenant)).to_string();
    let account = page.t("operators.my-account").to_owned();
    let access = access_badge(&page, person.enabled);
    let page = page
        .under(account, "/account")
        .under(people, &format!("/operators?tenant={}", person.tenant))
        .titled(&person.name)
        .dense();
    let base = page.href(&path);
    let enabled = person.enabled;
    let shown =
        PersonPage { page, notice, made, errors, facts, access, own, roles, wrong, base, shut, open, reset, enabled };
    Ok(unkept((status, Html(shown))))
}

async fn person(State(desk): Shared, page: Page, Path((_, id)): Path<(String, String)>) -> Result<Response, Problem> {
    if page.caller.is_anonymous() {
        return Ok(see_other(&format!("{}?next={}", page.href("/sign-in"), ui::encode(&page.here()))));
    }
    let person = desk.operators.one(&page.caller, &id).await?;
    person_page(&desk, page, person, None, None).await
}

async fn roles(
    State(desk): Shared,
    page: Page,
    Path((_, id)): Path<(String, String)>,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    Form(form): Form<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let csrf = form.iter().find(|(name, _)| name == ui::csrf::FIELD).map_or("", |(_, value)| value);
    demand(genuine(&page, session.as_ref(), csrf, &headers))?;
    let chosen = form.iter().filter(|(name, _)| name == "role").map(|(_, role)| Role::Owned(role.clone()));
    let chosen: BTreeSet<Role> = chosen.collect();
    let none = chosen.is_empty();
    match desk.operators.set_roles(&page.caller, &id, chosen).await {
        Ok(()) => Ok(see_other(&page.href(&format!("/operators/people/{}?did=roles", ui::encode(&id))))),
        Err(problem) if none && problem.errors.iter().any(|e| e.field == "roles") => {
            let person = desk.operators.one(&page.caller, &id).await?;
            let wrong = page.t("operators.role-needed").to_owned();
            person_page(&desk, page, person, None, Some(wrong)).await
        }
        Err(problem) => Err(problem),
    }
}

#[derive(Deserialize)]
struct AccessForm {
    #[serde(default)]
    csrf: String,
    enabled: String,
}

async fn access(
    State(desk): Shared,
    page: Page,
    Path((_, id)): Path<(String, String)>,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    Form(form): Form<AccessForm>,
) -> Result<Response, Problem> {
    demand(genuine(&page, session.as_ref(), &form.csrf, &headers))?;
    let (enabled, did) = match form.enabled.as_str() {
        "yes" => (true, "open"),
        "no" => (false, "shut"),
        _ => return Err(Problem::field("enabled", "'yes' or 'no' is expected")),
    };
    desk.operators.set_enabled(&page.caller, &id, enabled).await?;
    Ok(see_other(&page.href(&format!("/operators/people/{}?did={did}", ui::encode(&id)))))
}

async fn reset(
    State(desk): Shared,
    page: Page,
    Path((_, id)): Path<(String, String)>,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    Form(form): Form<Token>,
) -> Result<Response, Problem> {
    demand(genuine(&page, session.as_ref(), &form.csrf, &headers))?;
    let token = desk.operators.reset_link(&page.caller, &id).await?;
    let person = desk.operators.one(&page.caller, &id).await?;
    let made = Made {
        say: page.msg("operators.reset-made").with("name", &person.name).to_string(),
        secret: format!("{}{}", desk.public_url, page.href(&format!("/reset/{token}"))),
    };
    person_page(&desk, page, person, Some(made), None).await
}
