//! Many devices from a spreadsheet: a form that checks and then registers, and answers with their keys as a file.

use askama::Template;
use axum::{
    Extension,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use kernel::{Problem, Tenant};
use ui::{Cell, Choice, Column, Field, FieldKind, Html, Markup, Notice, Page, SessionKey, Table, Tone};

use super::{Pages, department_name, departments, sign_in_first, upload::Form};
use crate::{
    devices::{
        bulk::{Keys, Outcome, Wanted},
        desk::file,
    },
    door::fresh,
    pages::form::{Typed, genuine},
};

#[derive(Template)]
#[template(path = "device-sheet.html")]
struct Sheet {
    page: Page,
    action: String,
    tenant: Tenant,
    fixed: bool,
    fields: Vec<Field>,
    notice: Option<Notice>,
    mistakes: Option<Table>,
    back: String,
}

/// The department that the form is for, when the caller may register there; where it may not even look, there is nothing.
fn department(pages: &Pages, page: &Page, named: Option<&str>) -> Result<Tenant, Problem> {
    super::form::department(pages, page, named)
}

fn render(pages: &Pages, page: Page, tenant: Tenant, typed: &Typed, outcome: Option<&Outcome>) -> Sheet {
    let may = departments(pages, &page, true);
    let fixed = may.len() < 2;
    let mut fields = Vec::new();
    if !fixed {
        let choices = may.iter().map(|t| Choice::new(t.as_str(), department_name(pages, &page, t))).collect();
        let field = Field::new("tenant", page.t("device.department"), FieldKind::Select(choices));
        fields.push(field.required().value(&tenant));
    }
    let wrong = outcome
        .filter(|o| o.mistakes_in_all > 0)
        .map(|o| page.count("device.sheet.mistakes", o.mistakes_in_all as u64));
    fields.push(
        Field::input("sheet", page.t("device.sheet.file"), "file")
            .hint(page.t("device.sheet.file-hint"))
            .error(wrong.as_ref()),
    );
    fields.push(
        Field::new("rows", page.t("device.sheet.rows"), FieldKind::Area { rows: 6 })
            .hint(page.t("device.sheet.rows-hint"))
            .value(typed.get("rows")),
    );
    // lang-keys: device.sheet.keys-*
    let keys = ["new", "claim", "unused", "none"].map(|k| Choice::new(k, page.t(&format!("device.sheet.keys-{k}"))));
    let given = Some(typed.get("keys")).filter(|k| !k.is_empty()).unwrap_or("new");
    let keys = Field::new("keys", page.t("device.sheet.keys"), FieldKind::Radios(keys.to_vec()));
    fields.push(keys.required().value(given));
    for (name, label) in [("update", "device.sheet.update"), ("partial", "device.sheet.partial")] {
        fields.push(Field::new(name, page.t(label), FieldKind::Checkbox).value(typed.get(name)));
    }
    let notice = outcome.filter(|o| o.mistakes_in_all == 0 || o.applied).map(|o| {
        let key = if o.applied { "device.sheet.done" } else { "device.sheet.right" };
        let number = |n: usize| page.number(&(n as f64), 0);
        let said = page.msg(key).with("registered", number(o.registered)).with("changed", number(o.changed));
        Notice::new(Tone::Done, said.with("unchanged", number(o.unchanged)))
    });
    let mistakes = outcome.filter(|o| !o.mistakes.is_empty()).map(|o| {
        let rows = o.mistakes.iter().map(|m| {
            // The register's own words, as programs get them.
            let mut detail = Markup::default();
            detail.raw("<span lang=\"en\">").text(&m.detail).raw("</span>");
            vec![Cell::text(m.line), Cell::text(m.column), Cell::Html(detail)]
        });
        Table::new(page.t("device.sheet.wrong"))
            .headed()
            .column(Column::text("line", page.t("device.sheet.line")))
            .column(Column::text("column", page.t("device.sheet.column")))
            .column(Column::text("detail", page.t("device.sheet.detail")))
            .rows(rows)
    });
    let (action, back) = (page.href("/devices/sheet"), page.href(&format!("/devices?tenant={tenant}")));
    let page =
        page.in_section("devices").dense().under_t("device.heading", "/devices").titled_t("device.sheet.heading");
    Sheet { page, action, tenant, fixed, fields, notice, mistakes, back }
}

pub async fn form(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(response) = sign_in_first(&page) {
        return Ok(response);
    }
    let tenant = department(&pages, &page, page.query.get("tenant").as_deref())?;
    Ok(Html(render(&pages, page, tenant, &Typed::default(), None)).into_response())
}

pub async fn send(
    State(pages): State<Pages>,
    session: Option<Extension<SessionKey>>,
    page: Page,
    request: Request,
) -> Result<Response, Problem> {
    // Nothing is read from whoever is not signed in.
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let Form { typed, file: sheet } = Form::read(request).await?;
    genuine(&page, session, &typed)?;
    let tenant = department(&pages, &page, Some(typed.get("tenant")))?;
    let keys = Keys::of(Some(typed.get("keys")).filter(|k| !k.is_empty()).unwrap_or("new"))
        .ok_or_else(|| Problem::field("keys", "one of the offered words is expected"))?;
    let wanted = Wanted {
        tenant: tenant.clone(),
        check: typed.get("do") == "check",
        partial: typed.get("partial") == "on",
        update: typed.get("update") == "on",
        keys,
    };
    let bytes = if sheet.is_empty() { typed.get("rows").as_bytes() } else { &sheet[..] };
    let outcome = pages.devices.register_sheet(&page.caller, bytes, wanted).await?;
    if outcome.devices.iter().any(|done| done.secret.is_some()) {
        // The one answer that holds the keys is the file itself: a page would have to be copied by hand.
        return Ok(fresh(file(outcome.csv(keys), &format!("devices-{tenant}-keys.csv"))));
    }
    let status =
        if outcome.mistakes_in_all > 0 && !outcome.applied { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, Html(render(&pages, page, tenant, &typed, Some(&outcome)))).into_response())
}
