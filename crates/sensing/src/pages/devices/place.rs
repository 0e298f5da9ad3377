//! In the field, on a phone: the code on a device's plate, and where the device stands.

use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use kernel::{Problem, Tenant};
use ui::{Choice, ErrorSummary, Field, FieldKind, Html, Notice, Page, Tone};

use super::{Pages, department_name, departments, sign_in_first};
use crate::{
    devices::{Place, bulk::sheet::Named},
    pages::form::{Posted, Typed},
};

/// Places offered by one search.
const OFFERED: usize = 12;

#[derive(Template)]
#[template(path = "device-place.html")]
struct Placing {
    page: Page,
    action: String,
    tenant: Tenant,
    fixed: bool,
    fields: Vec<Field>,
    errors: ErrorSummary,
    offered: Vec<Place>,
    chosen: String,
    sought: String,
    things_error: Option<String>,
    notice: Option<Notice>,
}

async fn render(
    pages: &Pages,
    page: Page,
    tenant: Tenant,
    typed: &Typed,
    wrong: &[(&str, String)],
) -> Result<Response, Problem> {
    let may = departments(pages, &page, true);
    let fixed = may.len() < 2;
    let of = |name: &str| wrong.iter().find(|(field, _)| *field == name).map(|(_, text)| text);
    let mut fields = Vec::new();
    if !fixed {
        let choices = may.iter().map(|t| Choice::new(t.as_str(), department_name(pages, &page, t))).collect();
        let field = Field::new("tenant", page.t("device.department"), FieldKind::Select(choices));
        fields.push(field.required().value(&tenant));
    }
    fields.push(
        Field::input("code", page.t("device.claim.code"), "text")
            .hint(page.t("device.claim.code-hint"))
            .required()
            .max_length(160)
            .autocomplete("off")
            .value(typed.get("code"))
            .error(of("code")),
    );
    let (sought, chosen) = (typed.get("q").to_owned(), typed.get("thing").to_owned());
    let mut offered = match chosen.parse() {
        Ok(id) => pages.devices.places(&tenant, &[crate::model::EntityId(id)]).await?,
        Err(_) => Vec::new(),
    };
    let found = pages.devices.find_places(&tenant, &sought, OFFERED).await?;
    for place in found {
        if offered.iter().all(|o| o.id != place.id) {
            offered.push(place);
        }
    }
    let things_error = of("thing").cloned();
    let mut summary = fields.clone();
    summary.push(Field::input("q", page.t("device.find"), "search").error(things_error.as_ref()));
    let errors = ErrorSummary::new(&summary);
    let notice = page.query.get("did").filter(|did| !did.is_empty()).map(|key| {
        let said = page.msg("device.claim.done").with("key", key.chars().take(80).collect::<String>());
        Notice::new(Tone::Done, said)
    });
    let action = page.href("/devices/place");
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let page = page.in_section("devices").under_t("device.heading", "/devices").titled_t("device.claim.heading");
    let form = Placing { page, action, tenant, fixed, fields, errors, offered, chosen, sought, things_error, notice };
    Ok((status, Html(form)).into_response())
}

pub async fn form(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(response) = sign_in_first(&page) {
        return Ok(response);
    }
    let tenant = super::form::department(&pages, &page, page.query.get("tenant").as_deref())?;
    let asked = page.query.get("thing").map(|thing| ("thing".to_owned(), thing));
    render(&pages, page, tenant, &Typed(asked.into_iter().collect()), &[]).await
}

pub async fn place(State(pages): State<Pages>, Posted { page, typed }: Posted) -> Result<Response, Problem> {
    let tenant = super::form::department(&pages, &page, Some(typed.get("tenant")))?;
    if super::form::looks(&typed) {
        return render(&pages, page, tenant, &typed, &[]).await;
    }
    let mut wrong = Vec::new();
    if typed.get("code").is_empty() {
        wrong.push(("code", page.t("device.claim.wrong-empty").to_owned()));
    }
    if typed.get("thing").is_empty() {
        wrong.push(("thing", page.t("device.claim.wrong-thing").to_owned()));
    }
    if wrong.is_empty() {
        match pages.devices.place(&page.caller, typed.get("code"), &Named::of(typed.get("thing"))).await {
            Ok(device) => {
                let did = ui::encode(&device.key);
                let to = format!("/devices/place?tenant={}&did={did}", device.tenant);
                return Ok(Redirect::to(&page.href(&to)).into_response());
            }
            Err(error) => {
                let problem = Problem::from(error);
                let (field, key) = match problem.status.as_u16() {
                    400 => ("thing", "device.claim.wrong-thing"),
                    404 => ("code", "device.claim.wrong-code"),
                    409 => ("code", "device.claim.wrong-used"),
                    429 => ("code", "device.claim.wrong-often"),
                    _ => return Err(problem),
                };
                wrong.push((field, page.t(key).to_owned()));
            }
        }
    }
    render(&pages, page, tenant, &typed, &wrong).await
}
