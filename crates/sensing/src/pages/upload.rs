//! A table of Observations, brought by an officer: pasted or as a file, tried first, then recorded.
//!
//! What was tried is in the form that records it, so that what is recorded is what was shown, and nothing is kept between the two.

use askama::Template;
use axum::{
    Extension, Form,
    body::Body,
    extract::{FromRequest, State},
    http::{HeaderMap, Request, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::StatusCode;
use kernel::{Problem, Resource};
use memchr::memmem;
use ui::{Cell, Column, ErrorSummary, Field, FieldKind, Html, Page, SessionKey, Table};

use super::{
    Pages,
    form::{Typed, genuine},
    name_of,
};
use crate::{
    Error,
    catalog::Entity,
    connect::{declaration::Encoding, rows::text},
    ingest::csv::{Outcome, Target, Upload, Wishes, guess},
    model::{EntityId, EntityType},
    route::action,
};

/// Bytes of a table that is brought by hand; the API takes larger ones.
pub const BYTES: usize = 4 << 20;

#[derive(Template)]
#[template(path = "upload.html")]
struct UploadPage {
    page: Page,
    errors: ErrorSummary,
    action: String,
    back: String,
    /// `thing` or `datastream`, and its number.
    target: (&'static str, EntityId),
    outcome: Option<Shown>,
    fields: Vec<Field>,
    committed: bool,
    /// There is something that a second press would record.
    ready: bool,
}

/// What was found, as the page says it.
struct Shown {
    note: String,
    facts: Vec<(String, String)>,
    ambiguous: bool,
    columns: Table,
    rejected: Option<Table>,
}

/// The Thing or Datastream that the address or the form names; one that the caller may add to.
async fn target(pages: &Pages, page: &Page, thing: &str, datastream: &str) -> Result<(Target, Entity), Problem> {
    let missing = || Problem::not_found("The form");
    let (entity, text) =
        if datastream.is_empty() { (EntityType::Thing, thing) } else { (EntityType::Datastream, datastream) };
    let id = text.parse().map(EntityId).map_err(|_| missing())?;
    let found = pages.catalog.get(&pages.scope(&page.caller), entity, id).await?.ok_or_else(missing)?;
    let resource = Resource { kind: "Datastream", id: "", tenant: Some(&found.tenant), public: found.public };
    if !pages.catalog.scopes().policy().allows(&page.caller, action::OBSERVE, &resource) {
        return Err(Problem::forbidden("You may look at this but not add Observations to it."));
    }
    let target = if entity == EntityType::Thing { Target::Thing(id) } else { Target::Datastream(id) };
    Ok((target, found))
}

/// Whether a page about something of this owner offers the form.
pub(super) fn offered(pages: &Pages, page: &Page, entity: &Entity) -> bool {
    let resource = Resource { kind: "Datastream", id: "", tenant: Some(&entity.tenant), public: entity.public };
    pages.ingest.is_some()
        && !page.caller.is_anonymous()
        && pages.catalog.scopes().policy().allows(&page.caller, action::OBSERVE, &resource)
}

pub async fn form(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if let Some(response) = super::devices::sign_in_first(&page) {
        return Ok(response);
    }
    let asked = |name: &str| page.query.get(name).unwrap_or_default();
    let (thing, datastream) = (asked("thing").to_string(), asked("datastream").to_string());
    let (target, entity) = target(&pages, &page, &thing, &datastream).await?;
    let typed = Typed::default();
    Ok(Html(render(page, target, &entity, &typed, ErrorSummary::new(&[]), None)).into_response())
}

pub async fn send(
    State(pages): State<Pages>,
    session: Option<Extension<SessionKey>>,
    page: Page,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let (mut typed, file) = typed(&headers, body).await?;
    genuine(&page, session, &typed)?;
    let (target, entity) = target(&pages, &page, typed.get("thing"), typed.get("datastream")).await?;
    let ingest = pages.ingest.clone().ok_or_else(|| Problem::not_found("The form"))?;
    let text = match &file {
        Some(bytes) => text::decode(bytes, guess::encoding(bytes)).map(std::borrow::Cow::into_owned),
        None => Ok(typed.0.iter().find(|(n, _)| n == "text").map(|(_, v)| v.clone()).unwrap_or_default()),
    };
    let text = match text {
        Ok(text) => text,
        Err(why) => {
            let problem = Problem::field("file", format!("the file is {why}"));
            return Ok(unprocessable(render(page, target, &entity, &typed, ErrorSummary::of(&problem), None)));
        }
    };
    typed.0.retain(|(name, _)| name != "text");
    typed.0.push(("text".to_owned(), text.clone()));
    let some = |name: &str| Some(typed.get(name).to_owned()).filter(|text| !text.is_empty());
    let wishes =
        Wishes { encoding: Some(Encoding::Utf8), format: some("format"), zone: some("zone"), ..Wishes::default() };
    // A file that was chosen now has not been looked at yet.
    let commit = typed.get("do") == "save" && file.is_none();
    match ingest.upload(&page.caller, Upload { target, bytes: text.into_bytes(), wishes, commit }).await {
        Ok(outcome) => {
            Ok(Html(render(page, target, &entity, &typed, ErrorSummary::new(&[]), Some(&outcome))).into_response())
        }
        Err(Error::Refused(problem)) if problem.status == StatusCode::BAD_REQUEST => {
            Ok(unprocessable(render(page, target, &entity, &typed, ErrorSummary::of(&problem), None)))
        }
        Err(error) => Err(error.into()),
    }
}

fn unprocessable(page: UploadPage) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, Html(page)).into_response()
}

fn render(
    page: Page,
    target: Target,
    entity: &Entity,
    typed: &Typed,
    errors: ErrorSummary,
    outcome: Option<&Outcome>,
) -> UploadPage {
    let (kind, path, id) = match target {
        Target::Thing(id) => ("thing", format!("/things/{id}"), id),
        Target::Datastream(id) => ("datastream", format!("/datastreams/{id}"), id),
    };
    let committed = outcome.is_some_and(|o| o.committed);
    let text = if committed { "" } else { typed.0.iter().find(|(n, _)| n == "text").map_or("", |(_, v)| v.as_str()) };
    let zone = Some(typed.get("zone"))
        .filter(|z| !z.is_empty())
        .map_or_else(|| outcome.map(|o| o.guess.zone.clone()).unwrap_or_default(), str::to_owned);
    let fields = vec![
        Field::input("file", page.t("upload.file"), "file").hint(page.t("upload.file-hint")),
        Field::new("text", page.t("upload.text"), FieldKind::Area { rows: 8 })
            .hint(page.t("upload.text-hint"))
            .value(text),
        Field::input("format", page.t("upload.format"), "text")
            .hint(page.t("upload.format-hint"))
            .max_length(60)
            .value(typed.get("format")),
        Field::input("zone", page.t("upload.zone"), "text").hint(page.t("upload.zone-hint")).max_length(60).value(zone),
    ];
    let shown = outcome.map(|outcome| shown(&page, outcome));
    let ready = outcome.is_some_and(|o| !o.committed && o.report.written > 0);
    let name = name_of(entity.name(), &entity.properties());
    let label = page.text(&name).to_owned();
    let (action, back) = (page.href("/upload"), page.href(&path));
    let page = page
        .in_section("live")
        .dense()
        .under_t("things.heading", "/things")
        .under(label, &path)
        .titled_t("upload.heading");
    UploadPage { errors, action, back, target: (kind, id), outcome: shown, fields, committed, ready, page }
}

fn shown(page: &Page, outcome: &Outcome) -> Shown {
    let (report, guess) = (&outcome.report, &outcome.guess);
    let count = |n: u64| page.number(&(n as f64), 0);
    let delimiter = match guess.delimiter {
        '\t' => page.t("upload.tab").to_owned(),
        other => other.to_string(),
    };
    let form = guess.format.clone().unwrap_or_else(|| "ISO 8601".to_owned());
    let facts = [
        ("upload.delimiter", delimiter),
        ("upload.decimal", guess.decimal.to_string()),
        ("upload.header", guess.header.to_string()),
        ("upload.times", format!("{}: {form} ({})", guess.time, guess.zone)),
        ("upload.rows", count(report.rows)),
        (if outcome.committed { "upload.written" } else { "upload.would" }, count(report.written)),
        ("upload.unchanged", count(report.unchanged)),
        ("upload.flagged", count(report.flagged)),
        ("upload.rejected", count(report.rejected + report.rows_rejected)),
    ];
    let columns = Table::new(page.t("upload.columns"))
        .column(Column::text("column", page.t("upload.column")))
        .column(Column::text("datastream", page.t("upload.datastream")))
        .rows(outcome.columns.iter().map(|c| {
            vec![Cell::text(&c.column), Cell::link(page.href(&format!("/datastreams/{}", c.datastream)), &c.name)]
        }));
    let rejected = (!report.examples.is_empty()).then(|| {
        Table::new(page.t("upload.rejections"))
            .column(Column::number("line", page.t("upload.line")))
            .column(Column::text("field", page.t("upload.column")))
            .column(Column::text("text", page.t("upload.there")))
            .column(Column::text("reason", page.t("upload.reason")))
            .rows(report.examples.iter().map(|r| {
                vec![Cell::number(r.line as f64, 0), Cell::text(&r.field), Cell::text(&r.text), Cell::text(&r.reason)]
            }))
    });
    let note = if outcome.committed { "upload.done" } else { "upload.tried" };
    Shown {
        note: page.count(note, report.written),
        facts: facts.into_iter().map(|(key, value)| (page.t(key).to_owned(), value)).collect(),
        ambiguous: guess.ambiguous,
        columns,
        rejected,
    }
}

/// The fields of the form, and the file when one was chosen.
async fn typed(headers: &HeaderMap, body: Bytes) -> Result<(Typed, Option<Bytes>), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if let Some(boundary) = kind.strip_prefix("multipart/form-data").and_then(boundary) {
        return parts(&body, &boundary).ok_or_else(|| Problem::bad_request("The form is not whole. Send it again."));
    }
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = http::Method::POST;
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        request.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    let Form(fields) = Form::<Vec<(String, String)>>::from_request(request, &())
        .await
        .map_err(|e| Problem::bad_request(format!("The form cannot be read: {e}.")))?;
    Ok((Typed(fields), None))
}

fn boundary(parameters: &str) -> Option<String> {
    let value = parameters.split(';').find_map(|p| p.trim().strip_prefix("boundary="))?;
    let value = value.trim_matches('"');
    ((1..=70).contains(&value.len())).then(|| value.to_owned())
}

/// `multipart/form-data` (RFC 7578) as browsers send it: each part's name, and what it holds. `None` when it is cut off.
fn parts(body: &Bytes, boundary: &str) -> Option<(Typed, Option<Bytes>)> {
    const PARTS: usize = 50;
    let (first, next) = (format!("--{boundary}"), format!("\r\n--{boundary}"));
    let mut at = first.len();
    if !body.starts_with(first.as_bytes()) {
        return None;
    }
    let (mut typed, mut file) = (Typed::default(), None);
    for _ in 0..PARTS {
        if body.get(at..at + 2)? == b"--" {
            return Some((typed, file));
        }
        let head = at + 2;
        let content = head + memmem::find(body.get(head..)?, b"\r\n\r\n")? + 4;
        let end = content + memmem::find(body.get(content..)?, next.as_bytes())?;
        let header = String::from_utf8_lossy(&body[head..content]);
        let disposition = header.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
        let parameter = |name: &str| {
            let found = disposition.split(';').find_map(|p| p.trim().strip_prefix(name)?.strip_prefix("=\""))?;
            Some(found.trim_end_matches('"').to_owned())
        };
        let value = body.slice(content..end);
        match (parameter("name")?.as_str(), parameter("filename")) {
            ("file", Some(_)) => file = Some(value).filter(|value| !value.is_empty()),
            (_, Some(_)) => {}
            (name, None) => typed.0.push((name.to_owned(), String::from_utf8_lossy(&value).into_owned())),
        }
        at = end + next.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent(parts: &[(&str, Option<&str>, &[u8])]) -> Bytes {
        let mut body = Vec::new();
        for (name, file, value) in parts {
            let file = file.map(|f| format!("; filename=\"{f}\"\r\nContent-Type: text/csv")).unwrap_or_default();
            body.extend(format!("--x1\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").into_bytes());
            body.extend(*value);
            body.extend(b"\r\n");
        }
        body.extend(b"--x1--\r\n");
        body.into()
    }

    #[test]
    fn forms_as_browsers_send_them() {
        assert_eq!(boundary("; boundary=x1").as_deref(), Some("x1"));
        assert_eq!(boundary("; charset=utf-8; boundary=\"x 1\"").as_deref(), Some("x 1"));
        assert_eq!(boundary("; boundary="), None);
        let body = sent(&[
            ("csrf", None, b"t"),
            ("file", Some("a.csv"), b"time,v\r\n1,2\r\n"),
            ("text", None, "雨\r\n\r\n".as_bytes()),
        ]);
        let (typed, file) = parts(&body, "x1").expect("a form");
        assert_eq!(file.as_deref(), Some(&b"time,v\r\n1,2\r\n"[..]));
        assert_eq!(typed.0, [("csrf".to_owned(), "t".to_owned()), ("text".to_owned(), "雨\r\n\r\n".to_owned())]);
        let (_, none) = parts(&sent(&[("file", Some(""), b"")]), "x1").expect("a form");
        assert_eq!(none, None, "no file was chosen");
        assert!(parts(&body.slice(..body.len() - 4), "x1").is_none() && parts(&body, "x2").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(cut in 0usize..200, junk in proptest::collection::vec(any::<u8>(), 0..60)) {
            let body = sent(&[("csrf", None, b"t"), ("file", Some("a.csv"), &junk)]);
            let _ = parts(&body.slice(..cut.min(body.len())), "x1");
            let _ = parts(&Bytes::from(junk), "x1");
        }
    }
}
