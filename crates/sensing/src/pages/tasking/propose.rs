//! One TaskingCapability: what it moves, how it is now, who has it, and the form that proposes a Task.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use kernel::Problem;
use serde_json::{Value, json};
use ui::{Badge, Choice, ErrorSummary, Field, FieldKind, Html, LiveNumber, Markup, Notice, Page, Table};

use super::{Pages, badge, decimals, department, desk, form, now, sign_in_first, tasking};
use crate::{
    model::EntityId,
    pages::form::{Posted, Typed},
    route::action::{TASK_ALONE, TASK_PROPOSE, TASK_STOP},
    tasking::desk::Line,
};

/// Minutes that a Task may wait to be sent.
const MINUTES: [i64; 6] = [5, 15, 60, 240, 1_440, 10_080];
/// Tasks that are shown beside the form.
const RECENT: usize = 10;

#[derive(Template)]
#[template(path = "tasking-one.html")]
struct View {
    page: Page,
    notices: Vec<Notice>,
    description: String,
    simulated: bool,
    thing: String,
    thing_href: String,
    owner: String,
    /// What is so now, in words, and the live number where it is one.
    state: Option<String>,
    number: Option<LiveNumber>,
    holder: Badge,
    holder_href: Option<String>,
    consequences: Option<String>,
    /// Whether a second person will be asked.
    second: bool,
    questions: Markup,
    fields: Vec<Field>,
    /// The idempotency key of what this form sends, and the value that its reader has seen.
    key: String,
    seen: String,
    errors: ErrorSummary,
    may: bool,
    tasks: Table,
    stop_href: Option<String>,
    api: String,
}

fn live(pages: &Pages, page: &Page, line: &Line) -> Option<LiveNumber> {
    let terms = line.terms().verify?;
    let record = line.record();
    let parameter = record.parameter(&terms.parameter)?;
    let (datastream, head) = (line.watched?, pages.observe.head(line.watched?)?);
    let value = head.latest.result.number().filter(|_| terms.values.is_empty())?;
    let number =
        LiveNumber::new(page.text(&parameter.title()), Some(value), parameter.unit.as_deref().unwrap_or_default());
    let number = number.decimals(decimals(value)).simulated(line.simulated).at(head.latest.phenomenon.end);
    Some(number.href(page.href(&format!("/datastreams/{datastream}"))).datastream(datastream))
}

async fn render(pages: &Pages, page: Page, line: Line, typed: &Typed, wrong: &form::Wrong) -> Result<View, Problem> {
    let tasking = tasking(pages)?;
    let stops = tasking.stops(&page.caller).await?;
    let stop = desk::stopped(&stops, line.actuator, &line.tenant);
    let notices = desk::notices(pages, &page, &stop.into_iter().collect::<Vec<_>>());
    let owner = (&line.tenant, line.public);
    let may = tasking.permits(&page.caller, TASK_PROPOSE, owner);
    let terms = line.terms();
    let second = terms.four_eyes || !tasking.permits(&page.caller, TASK_ALONE, owner);
    let current = now(pages, &page, &line);
    let (mut parts, mut fields) = (Vec::new(), Vec::new());
    if may {
        parts = form::questions(&page, &line.record().parameters, typed, wrong);
        let error = |name: &str| wrong.iter().find(|(field, _)| field == name).map(|(_, text)| text.clone());
        let reason = Field::new("reason", page.t("tasking.reason"), FieldKind::Area { rows: 2 });
        fields.push(
            reason
                .hint(page.t("tasking.reason-hint"))
                .max_length(2_000)
                .required()
                .value(typed.get("reason"))
                .error(error("reason")),
        );
        let minutes = MINUTES.iter().map(|m| {
            let length = ui::format::duration(&page.site.catalogue, page.language, m.unsigned_abs() * 60);
            Choice::new(m.to_string(), length)
        });
        let expires = Field::new("minutes", page.t("tasking.expires"), FieldKind::Select(minutes.collect()))
            .hint(page.t("tasking.expires-hint"))
            .required()
            .error(error("minutes"));
        let usual = MINUTES.iter().find(|m| **m * 60 >= terms.expire_seconds).unwrap_or(&MINUTES[2]);
        let given = typed.get("minutes");
        fields.push(if given.is_empty() { expires.value(usual) } else { expires.value(given) });
        if let Some((words, ..)) = &current {
            let label = page.msg("tasking.expect").with("value", words).to_string();
            let expect = Field::new("expect", label, FieldKind::Checkbox).hint(page.t("tasking.expect-hint"));
            fields.push(expect.value(typed.get("expect")).error(error("expect")));
        }
    }
    let all: Vec<Field> = form::fields(&parts).into_iter().chain(fields.iter().cloned()).collect();
    let errors = ErrorSummary::new(&all);
    let runs = tasking.list(&page.caller, None, (Some(line.capability), None), None).await?;
    let tasks = desk::table(pages, &page, runs.get(..RECENT.min(runs.len())).unwrap_or_default(), true).await?;
    let (holder, holder_href) = match line.holder {
        Some((id, status)) => (badge(&page, status), Some(page.href(&format!("/tasking/tasks/{id}")))),
        None => (Badge::new(ui::State::Good).word(page.t("tasking.free")), None),
    };
    let may_stop = tasking.permits(&page.caller, TASK_STOP, (&line.tenant, false));
    // Sent twice by a trembling hand it is one Task.
    let key = match typed.get("key") {
        "" => format!("page {}", page.now().as_micros()),
        key => key.to_owned(),
    };
    let seen = match typed.get("seen") {
        "" => current.as_ref().map(|(_, value, _)| value.to_string()).unwrap_or_default(),
        seen => seen.to_owned(),
    };
    let number = live(pages, &page, &line);
    let heading = format!("{} – {}", page.text(&line.name), page.text(&line.thing_name));
    Ok(View {
        notices,
        description: page.text(&line.description).to_owned(),
        simulated: line.simulated,
        thing: page.text(&line.thing_name).to_owned(),
        thing_href: page.href(&format!("/things/{}", line.thing)),
        owner: department(pages, &page, &line.tenant).to_owned(),
        state: current.map(|(words, ..)| words),
        number,
        holder,
        holder_href,
        consequences: terms.consequences.as_ref().map(|text| page.text(text).to_owned()),
        second,
        questions: form::html(&page, &parts),
        fields,
        key,
        seen,
        errors,
        may,
        tasks,
        stop_href: may_stop.then(|| page.href(&format!("/tasking/stop?what=actuator:{}", line.actuator))),
        api: format!("/v1.1/TaskingCapabilities({})", line.capability),
        page: page.in_section("tasking").with_island("live").under_t("tasking.heading", "/tasking").titled(heading),
    })
}

async fn line(pages: &Pages, page: &Page, id: &str) -> Result<Line, Problem> {
    let id = super::id(id, "The TaskingCapability")?;
    Ok(tasking(pages)?.line(&page.caller, id).await?)
}

pub async fn show(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    page: Page,
) -> Result<Response, Problem> {
    if let Some(first) = sign_in_first(&page) {
        return Ok(first);
    }
    let line = line(&pages, &page, &id).await?;
    Ok(Html(render(&pages, page, line, &Typed::default(), &Vec::new()).await?).into_response())
}

/// The body of the Task that was asked for, or what is wrong beside which field.
fn body(page: &Page, line: &Line, typed: &Typed) -> Result<Value, form::Wrong> {
    let (parameters, mut wrong) = match form::read(page, &line.record().parameters, typed) {
        Ok(parameters) => (parameters, Vec::new()),
        Err(wrong) => (serde_json::Map::new(), wrong),
    };
    if typed.get("reason").is_empty() {
        wrong.push(("reason".to_owned(), page.t("tasking.wrong.reason").to_owned()));
    }
    let minutes = typed.get("minutes").parse::<i64>().ok().filter(|m| MINUTES.contains(m));
    if minutes.is_none() {
        wrong.push(("minutes".to_owned(), page.t("tasking.wrong.choose").to_owned()));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    // A minute less than the longest that is possible: what is a week now is less when it arrives.
    let expires = page.now().plus_secs(minutes.unwrap_or_default() * 60 - 1);
    let mut body = json!({
        "taskingParameters": parameters, "@lamppost.reason": typed.get("reason"), "@lamppost.expires": expires.to_string(),
    });
    if typed.get("expect") == "on"
        && let (Some(datastream), Ok(seen)) = (line.watched, serde_json::from_str::<Value>(typed.get("seen")))
    {
        let tolerance = line.terms().verify.map_or(0.0, |verify| verify.tolerance);
        body["@lamppost.expect"] =
            json!({"Datastream": {"@iot.id": datastream}, "value": seen, "tolerance": tolerance});
    }
    Ok(body)
}

pub async fn send(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let line = line(&pages, &page, &id).await?;
    let tasking = tasking(&pages)?;
    if !tasking.permits(&page.caller, TASK_PROPOSE, (&line.tenant, line.public)) {
        return Err(Problem::forbidden("You may look at this actuator but not move it."));
    }
    let wrong = match body(&page, &line, &typed) {
        Err(wrong) => wrong,
        Ok(body) => {
            let key = Some(typed.get("key")).filter(|key| !key.is_empty());
            match tasking.propose(&page.caller, &body, Some(line.capability), key).await.map_err(Problem::from) {
                Ok(task) => return Ok(made(&page, task)),
                Err(problem) if problem.errors.is_empty() => return Err(problem),
                // What the form lets pass and the facade does not: said as it is, above the form.
                Err(problem) => problem.errors.into_iter().map(|e| ("reason".to_owned(), e.detail)).collect(),
            }
        }
    };
    let view = render(&pages, page, line, &typed, &wrong).await?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(view)).into_response())
}

fn made(page: &Page, task: EntityId) -> Response {
    Redirect::to(&page.href(&format!("/tasking/tasks/{task}?did=proposed"))).into_response()
}
