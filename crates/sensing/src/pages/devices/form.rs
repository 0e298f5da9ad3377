//! One form registers a device and changes it. Things are found by a word and ticked; what was typed and ticked stays whatever happens.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use kernel::{Problem, Tenant};
use ui::{Choice, ErrorSummary, Field, FieldKind, Html, Page};

use super::{Pages, department_name, departments, done, id, sign_in_first};
use crate::{
    Error,
    devices::{Change, Device, NewDevice, Place},
    model::EntityId,
    pages::form::{Posted, Typed},
};

/// Things offered by one search.
const OFFERED: usize = 12;
/// Things ticked on one form.
const TICKED: usize = 1_000;

#[derive(Template)]
#[template(path = "device-form.html")]
struct Form {
    page: Page,
    action: String,
    tenant: Tenant,
    /// There is no choice of departments.
    fixed: bool,
    fields: Vec<Field>,
    errors: ErrorSummary,
    chosen: Vec<Place>,
    offered: Vec<Place>,
    sought: String,
    things_error: Option<String>,
    submit: String,
    back: String,
}

/// What the form is about.
enum About<'a> {
    New(Tenant),
    Device(&'a Device),
}

impl About<'_> {
    fn tenant(&self) -> &Tenant {
        match self {
            Self::New(tenant) => tenant,
            Self::Device(device) => &device.tenant,
        }
    }
}

/// What is wrong, by field.
#[derive(Default)]
struct Wrong(Vec<(&'static str, String)>);

impl Wrong {
    fn of(&self, field: &str) -> Option<&String> {
        self.0.iter().find(|(f, _)| *f == field).map(|(_, text)| text)
    }
}

fn ticked(typed: &Typed) -> Vec<EntityId> {
    let mut things: Vec<EntityId> =
        typed.all("thing").filter_map(|t| t.parse().ok().map(EntityId)).take(TICKED).collect();
    things.sort_unstable();
    things.dedup();
    things
}

/// Enter in any field sends the first button of a form: a new word to look for is then looked for, and nothing is written.
pub fn looks(typed: &Typed) -> bool {
    typed.get("do") == "find" || (typed.get("do") == "enter" && typed.get("q") != typed.get("sought"))
}

async fn render(pages: &Pages, page: Page, about: &About<'_>, typed: &Typed, wrong: &Wrong) -> Result<Form, Problem> {
    let tenant = about.tenant().clone();
    let sought = typed.get("q").to_owned();
    let chosen = pages.devices.places(&tenant, &ticked(typed)).await?;
    let found = pages.devices.find_places(&tenant, &sought, OFFERED + chosen.len()).await?;
    let mut offered: Vec<Place> = found.into_iter().filter(|p| chosen.iter().all(|c| c.id != p.id)).collect();
    offered.truncate(OFFERED);
    let text = |name: &'static str, label: &str, hint: &str, most: u32| {
        Field::input(name, page.t(label), "text")
            .hint(page.t(hint))
            .max_length(most)
            .value(typed.get(name))
            .error(wrong.of(name))
    };
    let mut fields = Vec::new();
    let mut fixed = true;
    if let About::New(own) = about {
        let may = departments(pages, &page, true);
        fixed = may.len() < 2;
        if !fixed {
            let choices = may.iter().map(|t| Choice::new(t.as_str(), department_name(pages, &page, t))).collect();
            let department = Field::new("tenant", page.t("device.department"), FieldKind::Select(choices));
            fields.push(department.required().value(own));
        }
        fields.push(text("key", "device.key", "device.key-hint", 80).required());
    }
    fields.push(text("name", "device.name", "device.name-hint", 200));
    fields.push(text("kind", "device.kind", "device.kind-hint", 80).required());
    fields.push(text("firmware", "device.firmware", "device.firmware-hint", 200));
    fields.push(
        Field::new("gateway", page.t("device.gateway"), FieldKind::Checkbox)
            .hint(page.t("device.gateway-hint"))
            .value(typed.get("gateway")),
    );
    let things_error = wrong.of("things").cloned();
    let places = Field::input("q", page.t("device.find"), "search").error(things_error.as_ref());
    let mut summary = fields.clone();
    summary.push(places);
    let errors = ErrorSummary::new(&summary);
    let page = page.in_section("devices").dense().under_t("device.heading", "/devices");
    let (page, action, submit, back) = match about {
        About::New(_) => {
            let (action, back) = (page.href("/devices/new"), page.href("/devices"));
            let submit = page.t("device.register").to_owned();
            (page.titled_t("device.register-heading"), action, submit, back)
        }
        About::Device(device) => {
            let own = format!("/devices/{}", device.id);
            let (action, back) = (page.href(&format!("{own}/change")), page.href(&own));
            let submit = page.t("device.save").to_owned();
            (page.under(&device.name, &own).titled_t("device.change-heading"), action, submit, back)
        }
    };
    Ok(Form { page, action, tenant, fixed, fields, errors, chosen, offered, sought, things_error, submit, back })
}

/// What can be told before anything is asked of the register, in the reader's language.
fn check(page: &Page, typed: &Typed, new: bool) -> Wrong {
    let mut wrong = Wrong::default();
    let mut expect = |field: &'static str, empty: Option<&str>, most: usize| {
        let text = typed.get(field);
        if let (true, Some(key)) = (text.is_empty(), empty) {
            wrong.0.push((field, page.t(key).to_owned()));
        } else if text.chars().count() > most || text.chars().any(char::is_control) {
            wrong.0.push((field, page.msg("device.wrong.long").n(most as u64).to_string()));
        }
    };
    if new {
        expect("key", Some("device.wrong.key"), 80);
    }
    expect("name", None, 200);
    expect("kind", Some("device.wrong.kind"), 80);
    expect("firmware", None, 200);
    wrong
}

/// What the register refused, as a sentence beside a field; what is no field's fault stays a problem.
fn refused(page: &Page, error: Error) -> Result<Wrong, Problem> {
    if let Error::Records(records::Error::Unique(_)) = &error {
        return Ok(Wrong(vec![("key", page.t("device.wrong.taken").to_owned())]));
    }
    let problem = Problem::from(error);
    let known = ["key", "name", "kind", "firmware", "things"];
    let fields: Vec<_> = problem
        .errors
        .iter()
        .filter_map(|e| Some((*known.iter().find(|k| **k == e.field.trim_start_matches('/'))?, e.detail.clone())))
        .collect();
    if fields.is_empty() { Err(problem) } else { Ok(Wrong(fields)) }
}

fn answer(form: Form) -> Response {
    let status = if form.errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    (status, Html(form)).into_response()
}

/// The department of a form, when the caller may register there; where it may not even look, there is nothing.
pub fn department(pages: &Pages, page: &Page, named: Option<&str>) -> Result<Tenant, Problem> {
    let missing = || Problem::not_found("The form");
    let tenant = match named.filter(|n| !n.is_empty()) {
        Some(slug) => Tenant::parse(slug).map_err(|_| missing())?,
        None => departments(pages, page, true).first().or(page.caller.tenant.as_ref()).cloned().ok_or_else(missing)?,
    };
    if pages.devices.allows(&page.caller, true, &tenant) {
        return Ok(tenant);
    }
    if pages.devices.allows(&page.caller, false, &tenant) {
        return Err(Problem::forbidden("You may look at this department's devices but not register any."));
    }
    Err(missing())
}

pub async fn new(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(response) = sign_in_first(&page) {
        return Ok(response);
    }
    let tenant = department(&pages, &page, page.query.get("tenant").as_deref())?;
    let asked = page.query.get("thing").map(|thing| ("thing".to_owned(), thing));
    let typed = Typed(asked.into_iter().collect());
    Ok(answer(render(&pages, page, &About::New(tenant), &typed, &Wrong::default()).await?))
}

pub async fn register(State(pages): State<Pages>, Posted { page, typed }: Posted) -> Result<Response, Problem> {
    let tenant = department(&pages, &page, Some(typed.get("tenant")))?;
    let about = About::New(tenant.clone());
    if looks(&typed) {
        return Ok(answer(render(&pages, page, &about, &typed, &Wrong::default()).await?));
    }
    let mut wrong = check(&page, &typed, true);
    if wrong.0.is_empty() {
        let some = |name: &str| Some(typed.get(name).to_owned()).filter(|text| !text.is_empty());
        let new = NewDevice {
            tenant: tenant.clone(),
            key: typed.get("key").to_owned(),
            name: some("name"),
            kind: typed.get("kind").to_owned(),
            firmware: some("firmware"),
            things: own(&pages, &tenant, &typed).await?,
            gateway: typed.get("gateway") == "on",
        };
        match pages.devices.register(&page.caller, new).await {
            Ok(device) => return Ok(done(&page, device.id, "registered")),
            Err(error) => wrong = refused(&page, error)?,
        }
    }
    Ok(answer(render(&pages, page, &about, &typed, &wrong).await?))
}

/// What was ticked and belongs to the department.
async fn own(pages: &Pages, tenant: &Tenant, typed: &Typed) -> Result<Vec<EntityId>, Problem> {
    let places = pages.devices.places(tenant, &ticked(typed)).await?;
    Ok(places.into_iter().map(|p| p.id).collect())
}

/// A device that the caller may change.
async fn changeable(pages: &Pages, page: &Page, text: &str) -> Result<Device, Problem> {
    let device = pages.devices.get(&page.caller, id(text)?).await?;
    if pages.devices.allows(&page.caller, true, &device.tenant) {
        return Ok(device);
    }
    Err(Problem::forbidden("You may look at this device but not change it."))
}

pub async fn edit(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    page: Page,
) -> Result<Response, Problem> {
    if let Some(response) = sign_in_first(&page) {
        return Ok(response);
    }
    let device = changeable(&pages, &page, &text).await?;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut typed = Typed(vec![
        pair("name", &device.name),
        pair("kind", &device.kind),
        pair("firmware", device.firmware.as_deref().unwrap_or_default()),
        pair("gateway", if device.gateway { "on" } else { "" }),
    ]);
    typed.0.extend(device.things.iter().map(|thing| pair("thing", &thing.to_string())));
    Ok(answer(render(&pages, page, &About::Device(&device), &typed, &Wrong::default()).await?))
}

pub async fn change(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let device = changeable(&pages, &page, &text).await?;
    let about = About::Device(&device);
    if looks(&typed) {
        return Ok(answer(render(&pages, page, &about, &typed, &Wrong::default()).await?));
    }
    let mut wrong = check(&page, &typed, false);
    if wrong.0.is_empty() {
        let name = typed.get("name");
        let change = Change {
            name: Some(if name.is_empty() { device.key.clone() } else { name.to_owned() }),
            kind: Some(typed.get("kind").to_owned()),
            firmware: Some(typed.get("firmware").to_owned()),
            things: Some(own(&pages, &device.tenant, &typed).await?),
            gateway: Some(typed.get("gateway") == "on"),
            enabled: None,
        };
        match pages.devices.update(&page.caller, device.id, change).await {
            Ok(_) => return Ok(done(&page, device.id, "changed")),
            Err(error) => wrong = refused(&page, error)?,
        }
    }
    Ok(answer(render(&pages, page, &about, &typed, &wrong).await?))
}
