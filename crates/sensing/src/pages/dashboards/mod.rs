//! Dashboards: the list, one of them, what an open one asks for again, and the same on the whole screen.

mod draw;
mod form;
mod walls;

use askama::Template;
use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderName, header};
use kernel::{Action, Caller, Problem, Tenant};
use serde_json::json;
use ui::{Act, Html, Markup, Notice, Page, Tone};

use super::Pages;
use crate::{
    Audience, Route,
    dashboards::{Dashboards, Walls, api, data::Shown, store::Dashboard, walls::EVERY},
    route::action,
};

/// Dashboards that the whole screen goes through.
const MAX_TURNS: usize = 12;
/// Seconds that each stands where nobody has said it.
const TURN: u32 = 20;

pub const ROUTES: &[Route] = &[
    page("/{language}/dashboards", action::READ, Audience::Public, "The dashboards that one may see"),
    page(
        "/{language}/dashboards/{key}",
        action::READ,
        Audience::Public,
        "One dashboard; ?wall fills the screen with it",
    ),
    page(
        "/{language}/dashboards/{key}/tiles",
        action::READ,
        Audience::Public,
        "The tiles alone, for an open page that asks again",
    ),
    page("/{language}/dashboards/new", action::DASHBOARD_MANAGE, Audience::SignedIn, "The form for a new dashboard"),
    form("/{language}/dashboards/new", "Make a dashboard"),
    page(
        "/{language}/dashboards/{key}/edit",
        action::DASHBOARD_MANAGE,
        Audience::SignedIn,
        "The form that changes a dashboard",
    ),
    form("/{language}/dashboards/{key}/edit", "Change a dashboard"),
    form("/{language}/dashboards/{key}/remove", "Remove a dashboard"),
    page(
        "/{language}/walls",
        action::DASHBOARD_MANAGE,
        Audience::SignedIn,
        "Screens on walls, and the form that makes one",
    ),
    form("/{language}/walls", "Make a wall, and the code for its screen"),
    form("/{language}/walls/{id}/renew", "Make a new code for the screen of a wall"),
    form("/{language}/walls/{id}/revoke", "Take a wall away from its screen"),
    page("/{language}/wall", action::READ, Audience::Public, "What a screen on a wall shows, or the form for its code"),
    Route {
        method: "POST",
        path: "/{language}/wall",
        action: action::READ,
        audience: Audience::Public,
        audit: true,
        summary: "Give the code of a wall for the cookie of its screen, once",
    },
    page("/{language}/wall/tiles", action::READ, Audience::Public, "The tiles of a wall alone, for its screen"),
];

const fn page(path: &'static str, action: Action, audience: Audience, summary: &'static str) -> Route {
    Route { method: "GET", path, action, audience, audit: false, summary }
}
const fn form(path: &'static str, summary: &'static str) -> Route {
    Route { method: "POST", path, action: action::DASHBOARD_MANAGE, audience: Audience::SignedIn, audit: true, summary }
}

pub fn router() -> Router<Pages> {
    Router::new()
        .route("/{language}/dashboards", get(list))
        .route("/{language}/dashboards/{key}", get(show))
        .route("/{language}/dashboards/{key}/tiles", get(tiles))
        .route("/{language}/dashboards/new", get(form::blank).post(form::make))
        .route("/{language}/dashboards/{key}/edit", get(form::open).post(form::save))
        .route("/{language}/dashboards/{key}/remove", post(form::remove))
        .route("/{language}/walls", get(walls::list).post(walls::make))
        .route("/{language}/walls/{id}/renew", post(walls::renew))
        .route("/{language}/walls/{id}/revoke", post(walls::revoke))
        .route("/{language}/wall", get(walls::screen).post(walls::pair))
        .route("/{language}/wall/tiles", get(walls::tiles))
        .layer(axum::extract::DefaultBodyLimit::max(256 << 10))
}

impl Pages {
    fn boards(&self) -> Result<&Dashboards, Problem> {
        self.walls.as_ref().map(Walls::dashboards).ok_or_else(|| Problem::not_found("The list of dashboards"))
    }
    fn walls(&self) -> Result<&Walls, Problem> {
        self.walls.as_ref().ok_or_else(|| Problem::not_found("The list of walls"))
    }
    pub(super) fn owner<'a>(&'a self, page: &'a Page, tenant: &'a Tenant) -> &'a str {
        self.owners.get(tenant.as_str()).map_or(tenant.as_str(), |name| page.text(name))
    }
}

/// Departments whose dashboards somebody may make, the own one first.
fn departments(pages: &Pages, boards: &Dashboards, caller: &Caller) -> Vec<Tenant> {
    let mut all: Vec<Tenant> = pages.owners.keys().filter_map(|slug| Tenant::parse(slug).ok()).collect();
    all.retain(|tenant| boards.may_manage(caller, tenant));
    all.sort_by_key(|tenant| Some(tenant) != caller.tenant.as_ref());
    all
}

#[derive(Template)]
#[template(path = "dashboards.html")]
struct ListPage {
    page: Page,
    notice: Option<Notice>,
    cards: Vec<Card>,
    make: bool,
    walls: bool,
}

struct Card {
    href: String,
    title: String,
    about: String,
    owner: String,
    word: &'static str,
}

async fn list(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    let boards = pages.boards()?;
    let found = boards.list(&page.caller).await?;
    let card = |d: &Dashboard| {
        let b = &d.declaration;
        Card {
            href: page.href(&format!("/dashboards/{}", b.key)),
            title: page.text(&b.title).to_owned(),
            about: b.about.as_ref().map_or_else(String::new, |a| page.text(a).to_owned()),
            owner: pages.owner(&page, &b.tenant).to_owned(),
            word: match b.audience {
                crate::dashboards::model::Audience::Public => "board.audience.public",
                crate::dashboards::model::Audience::Tenant => "board.audience.tenant",
            },
        }
    };
    let cards = found.iter().map(card).collect();
    let make = !page.caller.is_anonymous() && !departments(&pages, boards, &page.caller).is_empty();
    let walls =
        page.caller.tenant.as_ref().is_some_and(|own| pages.walls.as_ref().is_some_and(|w| w.may(&page.caller, own)));
    let notice =
        (page.query.get("did").as_deref() == Some("removed")).then(|| Notice::new(Tone::Done, page.t("board.removed")));
    let page = page.in_section("dashboards").titled_t("board.heading");
    Ok(Html(ListPage { notice, cards, make, walls, page }))
}

/// What the island of an open dashboard needs; `Settings` in `web/src/board/index.ts` has the same shape. lang-keys: board.island.*
fn settings(page: &Page, turns: &[String], nth: usize, every: Option<u32>, refresh: u32, tag: &str) -> String {
    let label = |key| page.t(key);
    json!({
        "turns": turns, "nth": nth, "every": every, "refresh": refresh, "tag": tag,
        "build": page.asset("lamppost.css"), "zone": page.zone(), "language": page.language.tag(),
        "labels": {
            "lost": label("board.island.lost"), "over": label("board.island.over"), "updated": label("board.island.updated"),
            "pause": label("board.island.pause"), "resume": label("board.island.resume"), "stale": label("live.stale"),
        },
    })
    .to_string()
}

/// One look at the tiles, with what tells whether they are another's. The tag is over the data, not over what says how long ago it was.
struct Looked {
    shown: Shown,
    tiles: Markup,
    tag: String,
}

async fn looked(pages: &Pages, page: &Page, dashboard: Dashboard) -> Result<Looked, Problem> {
    let boards = pages.boards()?;
    let shown = boards.show(&page.caller, dashboard, &page.site.zone).await?;
    let seen = format!("{}{}{}", shown.json(page.language), page.language.tag(), page.asset("lamppost.css"));
    let tag = api::tag(seen.as_bytes());
    let tiles = draw::tiles(pages, page, &shown);
    Ok(Looked { shown, tiles, tag })
}

/// The tiles without a page around them. `X-Board` names the build that has drawn them and the title, so that a page that stands for months notices a
/// new one.
fn fragment(page: &Page, headers: &HeaderMap, looked: &Looked) -> Response {
    let title = page.text(&looked.shown.dashboard.declaration.title);
    let board = json!({ "build": page.asset("lamppost.css"), "title": ui::encode(title) }).to_string();
    let fields =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (HeaderName::from_static("x-board"), board)];
    let mut response = api::tagged(headers, &looked.tag, looked.tiles.as_str().to_owned());
    for (name, value) in fields {
        if let Ok(value) = http::HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[derive(Template)]
#[template(path = "dashboard.html")]
struct BoardPage {
    page: Page,
    notice: Option<Notice>,
    about: Option<String>,
    tiles: Markup,
    settings: String,
    as_of: String,
    key: String,
    /// The form that changes it, or the one that copies it.
    edit: Option<String>,
    copy: Option<String>,
    remove: Option<Markup>,
}

#[derive(Template)]
#[template(path = "wall.html")]
struct WallPage {
    page: Page,
    title: String,
    tiles: Markup,
    settings: String,
    as_of: String,
    clock: String,
    /// For a browser without scripts: seconds, and where it goes then.
    next: (u32, String),
    turns: usize,
    nth: usize,
}

async fn show(
    State(pages): State<Pages>,
    Path((_, key)): Path<(String, String)>,
    page: Page,
) -> Result<Response, Problem> {
    let boards = pages.boards()?;
    let dashboard = boards.get(&page.caller, &key).await?;
    if let Some(asked) = page.query.get("wall") {
        return whole_screen(&pages, page, &asked, dashboard).await;
    }
    let found = looked(&pages, &page, dashboard).await?;
    let (d, version) = (&found.shown.dashboard.declaration, found.shown.dashboard.version);
    let declared = found.shown.dashboard.declared;
    let may = boards.may_manage(&page.caller, &d.tenant) && !declared;
    let turn = page.href(&format!("/dashboards/{key}/tiles"));
    let settings = settings(&page, &[turn], 0, None, d.refresh, &found.tag);
    let remove = may.then(|| {
        Act::new(page.href(&format!("/dashboards/{key}/remove")), page.t("board.remove"))
            .field("version", version)
            .about(page.text(&d.title))
            .danger()
            .html(&page)
    });
    let notice = match page.query.get("did").as_deref() {
        Some("saved") => Some(Notice::new(Tone::Done, page.t("board.saved"))),
        _ => None,
    };
    let copies = !page.caller.is_anonymous() && !departments(&pages, boards, &page.caller).is_empty();
    let shown = BoardPage {
        notice,
        about: d.about.as_ref().map(|a| page.text(a).to_owned()),
        tiles: found.tiles,
        settings,
        as_of: page.exact(&found.shown.at),
        edit: may.then(|| page.href(&format!("/dashboards/{key}/edit"))),
        copy: copies.then(|| page.href(&format!("/dashboards/new?from={key}"))),
        remove,
        page: page
            .in_section("dashboards")
            .wide()
            .with_island("board")
            .under_t("board.heading", "/dashboards")
            .titled(found.shown.dashboard.declaration.title.get(kernel::Language::default())),
        key,
    };
    let title = shown.page.text(&found.shown.dashboard.declaration.title).to_owned();
    Ok(Html(BoardPage { page: shown.page.clone().titled(title), ..shown }).into_response())
}

async fn tiles(
    State(pages): State<Pages>,
    Path((_, key)): Path<(String, String)>,
    headers: HeaderMap,
    page: Page,
) -> Result<Response, Problem> {
    let dashboard = pages.boards()?.get(&page.caller, &key).await?;
    let found = looked(&pages, &page, dashboard).await?;
    Ok(fragment(&page, &headers, &found))
}

/// `?wall=a,b&every=20`: this dashboard and those, one after another, on the whole screen of somebody who may see them.
async fn whole_screen(pages: &Pages, page: Page, asked: &str, first: Dashboard) -> Result<Response, Problem> {
    let boards = pages.boards()?;
    let own = first.declaration.key.clone();
    let mut keys = vec![own];
    for key in asked.split(',').map(str::trim).filter(|k| !k.is_empty()).take(MAX_TURNS) {
        if keys.iter().any(|k| k == key) {
            continue;
        }
        // One that is not there is told now, not when its turn comes.
        boards.get(&page.caller, key).await?;
        keys.push(key.to_owned());
    }
    let every = match page.query.get("every").filter(|e| !e.is_empty()) {
        None => TURN,
        Some(text) => text.parse().ok().filter(|n| EVERY.contains(n)).ok_or_else(|| {
            Problem::field("every", format!("{} to {} seconds are expected", EVERY.start(), EVERY.end()))
        })?,
    };
    let turns: Vec<String> = keys.iter().map(|k| page.href(&format!("/dashboards/{k}/tiles"))).collect();
    let next = keys.get(1).unwrap_or(&keys[0]);
    let mut round: Vec<&str> = keys.iter().skip(1).map(String::as_str).collect();
    round.push(&keys[0]);
    let next = page.href(&format!("/dashboards/{next}?wall={}&every={every}", ui::encode(&round.join(","))));
    screen(pages, page, first, turns, 0, every, next).await
}

/// The page of a wall, whoever it is for.
async fn screen(
    pages: &Pages,
    page: Page,
    dashboard: Dashboard,
    turns: Vec<String>,
    nth: usize,
    every: u32,
    next: String,
) -> Result<Response, Problem> {
    let found = looked(pages, &page, dashboard).await?;
    let d = &found.shown.dashboard.declaration;
    let rotating = (turns.len() > 1).then_some(every);
    let settings = settings(&page, &turns, nth, rotating, d.refresh, &found.tag);
    let wait = rotating.unwrap_or(d.refresh);
    let title = page.text(&d.title).to_owned();
    let shown = WallPage {
        tiles: found.tiles,
        settings,
        as_of: page.exact(&found.shown.at),
        clock: ui::format::clock(found.shown.at, &page.site.zone),
        next: (wait, next),
        turns: turns.len(),
        nth: nth + 1,
        page: page.with_island("board").titled(&title),
        title,
    };
    Ok(Html(shown).into_response())
}
