//! Screens on walls: the officer's list, and what the screen itself opens.

use askama::Template;
use axum::{
    Extension,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kernel::{Id, Principal, Problem, Tenant};
use ui::{
    Act, Badge, Cell, Choice, Column, ErrorSummary, Field, FieldKind, Html, Notice, Page, SessionKey, State as Shape,
    Table, Tone,
};

use super::{
    super::{
        Pages,
        form::{Posted, Sent, Typed, mistakes},
    },
    fragment, looked,
};
use crate::dashboards::walls::{Draft, EVERY, MAX_BOARDS, ROLE, Wall};

/// Days that a wall may be asked for with one choice.
const LASTS: [u32; 5] = [1, 7, 30, 90, 365];

#[derive(Template)]
#[template(path = "walls.html")]
struct View {
    page: Page,
    notice: Option<Notice>,
    /// The link and the code of a new wall, told this once.
    once: Option<Once>,
    table: Table,
    fields: Vec<Field>,
    boards: Vec<(String, String, bool)>,
    boards_error: Option<String>,
    errors: ErrorSummary,
}

struct Once {
    link: String,
    code: String,
    name: String,
}

fn own(page: &Page) -> Result<Tenant, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    page.caller.tenant.clone().ok_or_else(|| Problem::not_found("The list of walls"))
}

fn condition(page: &Page, wall: &Wall) -> Badge {
    let now = page.now();
    let (shape, key) = match wall {
        w if w.revoked_at.is_some() => (Shape::Notice, "wall.state.revoked"),
        w if w.expires_at <= now => (Shape::Notice, "wall.state.over"),
        w if w.paired_at.is_none() && w.code_until.is_some_and(|until| until > now) => {
            (Shape::Unknown, "wall.state.waiting")
        }
        w if w.paired_at.is_none() => (Shape::Warning, "wall.state.missed"),
        // A screen asks every few seconds; that is noted once a minute.
        w if w.seen_at.is_some_and(|seen| now.micros_since(seen) < 180_000_000) => (Shape::Good, "wall.state.shows"),
        _ => (Shape::Offline, "wall.state.silent"),
    };
    Badge::new(shape).word(page.t(key))
}

async fn view(
    pages: &Pages,
    page: Page,
    typed: &Typed,
    wrong: &[(String, String)],
    once: Option<Once>,
) -> Result<View, Problem> {
    let (walls, boards) = (pages.walls()?, pages.boards()?);
    let tenant = own(&page)?;
    let found = walls.list(&page.caller, &tenant).await?;
    let now = page.now();
    let rows = found.iter().map(|w| {
        let act =
            |deed: &str, key: &str| Act::new(page.href(&format!("/walls/{}/{deed}", w.id)), page.t(key)).about(&w.name);
        let mut deeds = ui::Markup::default();
        if !w.is_over(now) {
            deeds
                .push(&act("renew", "wall.renew").html(&page))
                .raw(" ")
                .push(&act("revoke", "wall.revoke").danger().html(&page));
        }
        vec![
            Cell::text(&w.name),
            Cell::State(condition(&page, w)),
            Cell::text(w.boards.join(", ")),
            w.seen_at.map_or(Cell::Empty, Cell::Ago),
            Cell::At(w.expires_at),
            Cell::Html(deeds),
        ]
    });
    let table = Table::new(page.t("wall.caption"))
        .column(Column::text("name", page.t("wall.name")))
        .column(Column::text("state", page.t("thing.state")))
        .column(Column::text("boards", page.t("board.heading")))
        .column(Column::text("seen", page.t("wall.seen")))
        .column(Column::text("until", page.t("silence.until")))
        .column(Column::text("do", page.t("silence.do")))
        .rows(rows)
        .empty(page.t("wall.none"));
    let error = |name: &str| {
        wrong.iter().find(|(field, _)| field.split('/').next() == Some(name)).map(|(_, text)| text.clone())
    };
    let lasts = LASTS.iter().map(|days| Choice::new(days.to_string(), page.count("time.days", u64::from(*days))));
    let fields = vec![
        Field::input("name", page.t("wall.name"), "text")
            .hint(page.t("wall.name-hint"))
            .max_length(100)
            .required()
            .value(typed.get("name"))
            .error(error("name")),
        Field::input("every", page.t("wall.every"), "number")
            .hint(page.msg("wall.every-hint").with("from", EVERY.start()).with("to", EVERY.end()))
            .required()
            .value(if typed.get("every").is_empty() { "20" } else { typed.get("every") })
            .error(error("every")),
        Field::new("days", page.t("wall.days"), FieldKind::Select(lasts.collect()))
            .required()
            .value(if typed.get("days").is_empty() { "90" } else { typed.get("days") })
            .error(error("days")),
    ];
    let chosen: Vec<&str> = typed.all("board").collect();
    let list = boards.list(&page.caller).await?;
    let offered = list.iter().map(|d| {
        let key = d.declaration.key.clone();
        let on = chosen.contains(&key.as_str());
        (key, page.text(&d.declaration.title).to_owned(), on)
    });
    let offered = offered.collect();
    let boards_error = error("boards");
    let errors = ErrorSummary::new(&fields);
    let notice = match page.query.get("did").as_deref() {
        Some("revoked") => Some(Notice::new(Tone::Done, page.t("wall.revoked"))),
        _ => None,
    };
    let page = page.in_section("dashboards").dense().under_t("board.heading", "/dashboards").titled_t("wall.heading");
    Ok(View { notice, once, table, fields, boards: offered, boards_error, errors, page })
}

pub async fn list(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    Ok(Html(view(&pages, page, &Typed::default(), &[], None).await?).into_response())
}

/// Where the screen goes with its code: a fragment is not sent, so no log and no proxy has it (RFC 3986 section 3.5).
fn once(page: &Page, headers: &HeaderMap, wall: &Wall, code: String) -> Once {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let path = page.href("/wall");
    // Shown to whoever asked by this very name; it is no redirect, and escaped.
    let link = if host.is_empty() { format!("{path}#{code}") } else { format!("{host}{path}#{code}") };
    Once { link, code, name: wall.name.clone() }
}

pub async fn make(
    State(pages): State<Pages>,
    headers: HeaderMap,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let walls = pages.walls()?;
    let number = |name: &str| typed.get(name).parse::<u32>().unwrap_or(0);
    let draft = Draft {
        tenant: own(&page)?,
        name: typed.get("name").to_owned(),
        boards: typed.all("board").map(str::to_owned).take(MAX_BOARDS + 1).collect(),
        every: number("every"),
        days: number("days"),
    };
    let (status, wrong, once) = match walls.make(&page.caller, draft).await.map_err(Problem::from) {
        Ok((wall, code)) => (StatusCode::OK, Vec::new(), Some(once(&page, &headers, &wall, code))),
        Err(problem) => (StatusCode::UNPROCESSABLE_ENTITY, mistakes(problem)?, None),
    };
    let kept = if once.is_some() { Typed::default() } else { typed };
    Ok((status, told(Html(view(&pages, page, &kept, &wrong, once).await?))).into_response())
}

/// A code is on the page: nothing on the way keeps it.
fn told(body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn wall_id(id: &str) -> Result<Id<Wall>, Problem> {
    id.parse().map_err(|_| Problem::not_found(format!("The wall {}", id.chars().take(60).collect::<String>())))
}

pub async fn renew(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    headers: HeaderMap,
    Posted { page, .. }: Posted,
) -> Result<Response, Problem> {
    let (wall, code) = pages.walls()?.renew(&page.caller, wall_id(&id)?).await?;
    let once = once(&page, &headers, &wall, code);
    Ok(told(Html(view(&pages, page, &Typed::default(), &[], Some(once)).await?)))
}

pub async fn revoke(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    Posted { page, .. }: Posted,
) -> Result<Response, Problem> {
    pages.walls()?.revoke(&page.caller, wall_id(&id)?).await?;
    Ok(Redirect::to(&page.href("/walls?did=revoked")).into_response())
}

// ---- the screen ------------------------------------------------------------------------------------------------------

#[derive(Template)]
#[template(path = "wall-code.html")]
struct CodePage {
    page: Page,
    field: Field,
    errors: ErrorSummary,
}

fn asks(page: Page, error: Option<&str>) -> CodePage {
    let field = Field::input("code", page.t("wall.code"), "text")
        .hint(page.t("wall.code-hint"))
        .required()
        .max_length(60)
        .error(error.map(|key| page.t(key)));
    let errors = ErrorSummary::new(std::slice::from_ref(&field));
    let page = page.with_island("board").titled_t("wall.connect");
    CodePage { page, field, errors }
}

fn is_wall(page: &Page) -> bool {
    matches!(page.caller.principal, Principal::ApiKey { .. }) && page.caller.has_role(ROLE)
}

/// The dashboards of a wall that are still there, in its order.
async fn turns(pages: &Pages, page: &Page, wall: &Wall) -> Result<Vec<crate::dashboards::store::Dashboard>, Problem> {
    let mut found = Vec::new();
    for key in &wall.boards {
        match pages.boards()?.get(&page.caller, key).await.map_err(Problem::from) {
            Ok(dashboard) => found.push(dashboard),
            // Removed since the wall was made: the others go on.
            Err(problem) if problem.status == StatusCode::NOT_FOUND => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(found)
}

/// Which turn: a number below the count.
fn nth(page: &Page, count: usize) -> usize {
    page.query.get("turn").and_then(|n| n.parse::<usize>().ok()).map_or(0, |n| n % count.max(1))
}

pub async fn screen(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    if !is_wall(&page) {
        return Ok(told(Html(asks(page, None))));
    }
    let wall = pages.walls()?.of(&page.caller).await?;
    let mut found = turns(&pages, &page, &wall).await?;
    if found.is_empty() {
        return Err(Problem::not_found("Every dashboard of this wall"));
    }
    let (count, nth) = (found.len(), nth(&page, found.len()));
    let addresses = (0..count).map(|n| page.href(&format!("/wall/tiles?turn={n}"))).collect();
    let next = page.href(&format!("/wall?turn={}", (nth + 1) % count));
    super::screen(&pages, page, found.swap_remove(nth), addresses, nth, wall.every, next).await
}

pub async fn tiles(State(pages): State<Pages>, headers: HeaderMap, page: Page) -> Result<Response, Problem> {
    let wall = pages.walls()?.of(&page.caller).await?;
    let mut found = turns(&pages, &page, &wall).await?;
    if found.is_empty() {
        return Err(Problem::not_found("Every dashboard of this wall"));
    }
    let nth = nth(&page, found.len());
    let looked = looked(&pages, &page, found.swap_remove(nth)).await?;
    Ok(fragment(&page, &headers, &looked))
}

pub async fn pair(
    State(pages): State<Pages>,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    page: Page,
    axum::Form(sent): Sent,
) -> Result<Response, Problem> {
    let typed = Typed(sent);
    let made_here = session.is_some_and(|Extension(key)| page.site.csrf.verify(&key.0, typed.get(ui::csrf::FIELD)));
    if !made_here || !ui::csrf::same_origin(&headers) {
        return Err(Problem::forbidden(
            "The form was not made for this browser. Open the page again and send it once more.",
        ));
    }
    let walls = pages.walls()?;
    let now = page.now();
    let Some((wall, token)) = walls.pair(typed.get("code")).await? else {
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, told(Html(asks(page, Some("wall.wrong-code"))))).into_response());
    };
    let mut response = Redirect::to(&page.href("/wall")).into_response();
    if let Ok(cookie) = HeaderValue::from_str(&walls.set(&token, &wall, now)) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}
