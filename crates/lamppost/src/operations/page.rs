//! The operations page, one feed, and what is done there.

use std::sync::Arc;

use askama::Template;
use axum::{
    Extension, Form,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::HeaderMap;
use kernel::{Id, Problem};
use sensing::{
    connect::View,
    notify::{
        deliveries::{self, Wanted},
        model::{Delivery, DeliveryState, Occasion},
    },
    route::action,
};
use serde::Deserialize;
use ui::{Act, Badge, Cell, Column, Html, Markup, Notice, Page, SessionKey, Table, Tone};

use super::{
    Console,
    parts::{Kind, Part},
    words,
};

/// Notifications of each kind that are shown.
const DELIVERIES: usize = 50;

type Shared = State<Arc<Console>>;

#[derive(Template)]
#[template(path = "operations.html")]
struct Operations {
    page: Page,
    notice: Option<Notice>,
    /// What needs somebody, in one sentence each.
    attention: Option<Notice>,
    parts: Table,
    feeds: Table,
    deliveries: Table,
    more_deliveries: bool,
    stores: Option<Table>,
    program: Vec<(String, Markup)>,
}

/// Sends whoever is not signed in to do so, and shows nothing to whom it is of no use.
fn admit(console: &Console, page: &Page) -> Result<Option<Response>, Problem> {
    if page.caller.is_anonymous() {
        let href = page.sign_in_and_back().ok_or_else(Problem::unauthenticated)?;
        return Ok(Some(Redirect::to(&href).into_response()));
    }
    if console.admits(&page.caller) { Ok(None) } else { Err(Problem::not_found("The page")) }
}

fn may_run(console: &Console, page: &Page, view: &View) -> bool {
    let resource = kernel::Resource { kind: "Connector", id: &view.key, tenant: Some(&view.tenant), public: false };
    view.next_run.is_some() && console.policy.allows(&page.caller, action::CONNECTOR_MANAGE, &resource)
}

fn run_button(page: &Page, view: &View) -> Act {
    Act::new(page.href(&format!("/operations/feeds/{}/run", view.key)), page.t("operations.run-now"))
        .about(page.text(&view.name))
}

fn whole(n: u64) -> Cell {
    Cell::number(n as f64, 0)
}

/// A sentence in a table, wide enough to be read.
fn prose(text: &str) -> Markup {
    let mut out = Markup::default();
    out.raw("<span class=\"prose\">").text(text).raw("</span>");
    out
}

fn feeds(console: &Console, page: &Page, views: &[View]) -> Table {
    let rows = views.iter().map(|view| {
        let report = view.report.as_ref();
        let state = if view.running {
            Badge::new(ui::State::Notice).word(page.t("operations.running"))
        } else {
            words::health(page, view.health)
        };
        let wrong = match (&view.error, report.map(|r| r.rejected + r.rows_rejected)) {
            (Some(error), _) => Cell::Html(prose(words::cause(page, error))),
            (None, Some(n)) if n > 0 => Cell::text(page.msg("operations.refused-some").n(n)),
            _ => Cell::Empty,
        };
        vec![
            Cell::link(page.href(&format!("/operations/feeds/{}", view.key)), page.text(&view.name)),
            Cell::State(state),
            wrong,
            view.started_at.map_or(Cell::Empty, Cell::Ago),
            view.succeeded_at.map_or(Cell::Empty, Cell::Ago),
            report.map_or(Cell::Empty, |r| whole(r.written)),
            report.map_or(Cell::Empty, |r| whole(r.flagged)),
            report.map_or(Cell::Empty, |r| whole(r.rejected + r.rows_rejected)),
            view.next_run.map_or(Cell::Empty, Cell::Ago),
            Cell::text(console.tenant_name(page, &view.tenant)),
            if may_run(console, page, view) { Cell::Html(run_button(page, view).html(page)) } else { Cell::Empty },
        ]
    });
    Table::new(page.t("operations.feeds"))
        .headed()
        .column(Column::text("name", page.t("operations.feed")))
        .column(Column::text("state", page.t("operations.state")))
        .column(Column::text("wrong", page.t("operations.wrong")))
        .column(Column::text("started", page.t("operations.last-run")))
        .column(Column::text("succeeded", page.t("operations.last-success")))
        .column(Column::number("taken", page.t("operations.taken")))
        .column(Column::number("flagged", page.t("operations.flagged")))
        .column(Column::number("refused", page.t("operations.refused")))
        .column(Column::text("next", page.t("operations.next-run")))
        .column(Column::text("tenant", page.t("operations.department")))
        .column(Column::text("do", page.t("operations.col-do")))
        .rows(rows)
        .empty(page.t("operations.feeds-none"))
}

/// What a part is called, and where more of it is.
fn named(console: &Console, page: &Page, views: &[View], part: &Part) -> Cell {
    let (path, name) = match part.kind {
        Kind::Series => {
            let name = console.systems.get(&part.key).map_or(part.key.as_str(), |name| page.text(name));
            (Some(format!("/things?system={}", ui::encode(&part.key))), name.to_owned())
        }
        Kind::Connector => {
            let name = views.iter().find(|v| v.key == part.key).map_or(part.key.as_str(), |v| page.text(&v.name));
            (Some(format!("/operations/feeds/{}", part.key)), name.to_owned())
        }
        Kind::Devices => {
            let tenant = part.tenant.as_ref().map(|t| format!("/devices?tenant={t}"));
            (tenant, page.msg("operations.kind.devices").with("name", &part.key).to_string())
        }
        Kind::Derived => (None, page.msg("operations.kind.derived").with("name", &part.key).to_string()),
        Kind::Door => (None, page.msg("operations.kind.door").with("name", &part.key).to_string()),
        Kind::Jobs => (None, page.msg("operations.kind.jobs").with("name", &part.key).to_string()),
        Kind::Letters => (None, page.t("operations.kind.letters").to_owned()),
        Kind::Rules => (None, page.t("operations.kind.rules").to_owned()),
        Kind::Lake => (None, page.t("operations.kind.lake").to_owned()),
        Kind::Outbox => (None, page.t("operations.kind.outbox").to_owned()),
        Kind::Disk => (None, page.t("operations.kind.disk").to_owned()),
    };
    let mut out = Markup::default();
    match path {
        Some(path) => out.raw("<a href=\"").text(page.href(&path)).raw("\">").text(name).raw("</a>"),
        None => out.text(name),
    };
    if part.simulated {
        out.raw(" <span class=\"simulated\">").text(page.t("state.simulated")).raw("</span>");
    }
    Cell::Html(out)
}

/// All that can be well or not, the worst first: what is wrong, since when, what to do.
fn parts(console: &Console, page: &Page, views: &[View], all: &[Part]) -> Table {
    let rows = all.iter().map(|part| {
        let wrong = words::wrong(page, part).map_or(Cell::Empty, |(wrong, advice)| {
            let mut out = Markup::default();
            out.raw("<span class=\"prose\"><b>").text(wrong).raw("</b> ").text(advice).raw("</span>");
            Cell::Html(out)
        });
        let owner =
            part.tenant.as_ref().map_or_else(|| page.t("operations.platform"), |t| console.tenant_name(page, t));
        let behind = part.lag.filter(|lag| *lag > 0).map_or(Cell::Empty, |lag| Cell::text(words::span(page, lag)));
        vec![
            named(console, page, views, part),
            Cell::State(words::state(page, part.state)),
            wrong,
            part.since.filter(|_| part.state.needs_a_look()).map_or(Cell::Empty, Cell::Ago),
            part.last.map_or(Cell::Empty, Cell::Ago),
            part.interval.map_or(Cell::Empty, |every| Cell::text(words::span(page, every))),
            behind,
            if part.taken > 0 { whole(part.taken) } else { Cell::Empty },
            if part.failed > 0 { whole(part.failed) } else { Cell::Empty },
            Cell::text(owner),
        ]
    });
    Table::new(page.t("operations.parts"))
        .headed()
        .column(Column::text("name", page.t("operations.part")))
        .column(Column::text("state", page.t("operations.state")))
        .column(Column::text("wrong", page.t("operations.wrong-and-do")))
        .column(Column::text("since", page.t("operations.since")))
        .column(Column::text("last", page.t("operations.last")))
        .column(Column::text("every", page.t("operations.every")))
        .column(Column::text("lag", page.t("operations.lag")))
        .column(Column::number("taken", page.t("operations.count")))
        .column(Column::number("failed", page.t("operations.failed")))
        .column(Column::text("tenant", page.t("operations.department")))
        .rows(rows)
        .empty(page.t("operations.parts-none"))
}

fn letters(console: &Console, page: &Page, found: &[Delivery]) -> Table {
    let rows = found.iter().map(|d| {
        let dead = d.state == DeliveryState::Dead;
        let state = if dead {
            Badge::new(ui::State::Alarm).word(page.t("operations.given-up"))
        } else {
            Badge::new(ui::State::Warning).word(page.t("operations.trying"))
        };
        let occasion = match d.occasion {
            Occasion::Raised => "operations.about-raised",
            Occasion::Cleared => "operations.about-cleared",
            Occasion::Escalated => "operations.about-escalated",
            Occasion::Assigned => "operations.about-assigned",
        };
        let again = Act::new(page.href(&format!("/operations/deliveries/{}/retry", d.id)), page.t("operations.retry"))
            .about(&d.recipient);
        let mut why = Markup::default();
        if let Some(error) = &d.last_error {
            why.text(words::cause(page, error)).raw(" <span class=\"note\" lang=\"en\">").text(error).raw("</span>");
        }
        vec![
            Cell::text(&d.recipient),
            Cell::State(state),
            Cell::link(page.href(&format!("/alarms/{}", d.alarm)), page.t(occasion)),
            Cell::Html(why),
            whole(u64::from(d.attempts)),
            Cell::Ago(d.created_at),
            if dead && deliveries::may_retry(&console.alarms, &page.caller, &d.tenant) {
                Cell::Html(again.html(page))
            } else {
                Cell::Empty
            },
        ]
    });
    Table::new(page.t("operations.deliveries"))
        .headed()
        .column(Column::text("recipient", page.t("operations.recipient")))
        .column(Column::text("state", page.t("operations.state")))
        .column(Column::text("about", page.t("operations.about")))
        .column(Column::text("wrong", page.t("operations.wrong")))
        .column(Column::number("attempts", page.t("operations.attempts")))
        .column(Column::text("at", page.t("operations.at")))
        .column(Column::text("do", page.t("operations.col-do")))
        .rows(rows)
        .empty(page.t("operations.deliveries-none"))
}

async fn undelivered(console: &Console, page: &Page) -> Result<(Vec<Delivery>, bool), Problem> {
    let asked = |state| Wanted { state: Some(state), ..Wanted::default() };
    let (mut found, next) =
        deliveries::list(&console.alarms, &page.caller, asked(DeliveryState::Dead), DELIVERIES).await?;
    let (trying, _) =
        deliveries::list(&console.alarms, &page.caller, asked(DeliveryState::Pending), DELIVERIES).await?;
    // What waits for its first try has not failed.
    found.extend(trying.into_iter().filter(|d| d.last_error.is_some()));
    Ok((found, next.is_some()))
}

/// The stores: whether each answers, and how far behind what works on it is.
async fn stores(console: &Console, page: &Page) -> (Table, bool) {
    let (ready, parts) = console.health.ask().await;
    let records = console.stores.records.stats();
    let mut backlog = vec![("records", records.queued, records.failed_flushes)];
    let stream = console.stores.stream.stats();
    let queued = stream.iter().map(|topic| topic.queued as u64).sum();
    backlog.push(("stream", queued, stream.iter().map(|topic| topic.refused).sum()));
    let observed = console.observe.stats();
    backlog.push(("lake", observed.unsealed_rows, observed.seal_failures));
    let rows = backlog.into_iter().map(|(name, waiting, failures)| {
        let state = match parts.get(name) {
            Some(answer) => Cell::State(words::works(page, answer.as_str() == Some("ready"))),
            // Not asked on its own: it works when what is to be sealed is sealed.
            None => Cell::State(words::works(page, failures == 0 || waiting == 0)),
        };
        vec![Cell::text(words::store(page, name)), state, whole(waiting), whole(failures)]
    });
    let lag = stream.iter().flat_map(|topic| {
        let consumers = console.stores.stream.topic(&topic.topic).map(|t| t.consumers()).unwrap_or_default();
        let name = topic.topic.clone();
        consumers.into_iter().map(move |c| (format!("{name} → {}", c.name), c.lag))
    });
    let mut rows: Vec<Vec<Cell>> = rows.collect();
    for (name, lag) in lag {
        rows.push(vec![Cell::text(name), Cell::Empty, whole(lag), Cell::Empty]);
    }
    let table = Table::new(page.t("operations.stores"))
        .headed()
        .column(Column::text("store", page.t("operations.store-name")))
        .column(Column::text("state", page.t("operations.state")))
        .column(Column::number("waiting", page.t("operations.waiting")))
        .column(Column::number("failures", page.t("operations.failures")))
        .rows(rows);
    (table, ready)
}

pub async fn operations(State(console): Shared, page: Page) -> Result<Response, Problem> {
    if let Some(response) = admit(&console, &page)? {
        return Ok(response);
    }
    let mut views = console.connect.connectors(&page.caller).await?;
    // What needs somebody comes first.
    views.sort_by_key(|v| (!words::needs_a_look(v.health), v.key.clone()));
    let (found, more_deliveries) = undelivered(&console, &page).await?;
    let mut attention = Vec::new();
    let (_, all) = console.parts(&page.caller, &views).await?;
    let troubled = all.iter().filter(|p| p.kind != Kind::Letters && p.state.needs_a_look()).count() as u64;
    if troubled > 0 {
        attention.push(page.count("operations.attention-feeds", troubled));
    }
    let dead = found.iter().filter(|d| d.state == DeliveryState::Dead).count() as u64;
    if dead > 0 {
        attention.push(page.count("operations.attention-deliveries", dead));
    }
    let platform = console.sees_platform(&page.caller);
    let (mut stores_table, mut program) = (None, Vec::new());
    if platform {
        let (table, ready) = stores(&console, &page).await;
        if !ready {
            attention.push(page.t("operations.attention-stores").to_owned());
        }
        stores_table = Some(table);
        let text = |value: &str| {
            let mut out = Markup::default();
            out.text(value);
            out
        };
        program = vec![
            (page.t("operations.version").to_owned(), text(env!("CARGO_PKG_VERSION"))),
            (page.t("operations.running-since").to_owned(), page.ago(&console.started_at)),
            (page.t("operations.pack").to_owned(), text(&console.pack)),
        ];
    }
    let gap = if page.language == kernel::Language::En { " " } else { "" };
    let attention = (!attention.is_empty()).then(|| Notice::new(Tone::Warning, attention.join(gap)));
    let notice = match page.query.get("did").as_deref() {
        Some("run") => Some(Notice::new(Tone::Done, page.t("operations.did-run"))),
        Some("retry") => Some(Notice::new(Tone::Done, page.t("operations.did-retry"))),
        _ => None,
    };
    let parts = parts(&console, &page, &views, &all);
    let (feeds, deliveries) = (feeds(&console, &page, &views), letters(&console, &page, &found));
    let page = page.in_section("operations").wide().dense().titled_t("operations.heading");
    let shown = Operations {
        page,
        notice,
        attention,
        parts,
        feeds,
        deliveries,
        more_deliveries,
        stores: stores_table,
        program,
    };
    Ok(Html(shown).into_response())
}

#[derive(Template)]
#[template(path = "feed.html")]
struct Feed {
    page: Page,
    notice: Option<Notice>,
    state: Badge,
    cause: Option<(String, String)>,
    facts: Vec<(String, Markup)>,
    counts: Vec<(String, String)>,
    examples: Table,
    run: Option<Markup>,
    api: String,
}

pub async fn feed(
    State(console): Shared,
    Path((_, key)): Path<(String, String)>,
    page: Page,
) -> Result<Response, Problem> {
    if let Some(response) = admit(&console, &page)? {
        return Ok(response);
    }
    let view = console.connect.connector(&page.caller, &key).await?;
    let text = |value: &str| {
        let mut out = Markup::default();
        out.text(value);
        out
    };
    let ago = |at: Option<kernel::Timestamp>| at.map_or_else(|| text("–"), |at| page.ago(&at));
    let facts = [
        ("operations.last-run", ago(view.started_at)),
        ("operations.last-success", ago(view.succeeded_at)),
        ("operations.last-new", ago(view.changed_at)),
        ("operations.last-failure", ago(view.failed_at)),
        ("operations.failures-since", text(&view.failures.to_string())),
        ("operations.next-run", ago(view.next_run)),
        ("operations.source", text(&view.source)),
        ("operations.department", text(console.tenant_name(&page, &view.tenant))),
        ("operations.every", text(&words::every(&page, &view.every))),
    ];
    let facts = facts.into_iter().map(|(key, value)| (page.t(key).to_owned(), value)).collect();
    let report = view.report.clone().unwrap_or_default();
    let counts = [
        ("operations.rows", report.rows),
        ("operations.rows-skipped", report.rows_skipped),
        ("operations.taken", report.written),
        ("operations.unchanged", report.unchanged + report.repeated),
        ("operations.flagged", report.flagged),
        ("operations.gaps", report.gaps),
        ("operations.refused", report.rejected + report.rows_rejected),
    ];
    let counts = counts.into_iter().map(|(key, n)| (page.t(key).to_owned(), page.number(&(n as f64), 0))).collect();
    let rows = report
        .examples
        .iter()
        .map(|r| vec![whole(r.line), Cell::text(&r.field), Cell::text(&r.text), Cell::text(&r.reason)]);
    let examples = Table::new(page.t("operations.examples"))
        .column(Column::number("line", page.t("operations.line")))
        .column(Column::text("field", page.t("operations.field")))
        .column(Column::text("text", page.t("operations.text")))
        .column(Column::text("reason", page.t("operations.reason")))
        .rows(rows)
        .empty(page.t("operations.examples-none"));
    let run = may_run(&console, &page, &view).then(|| run_button(&page, &view).main().html(&page));
    let notice = (page.query.get("did").as_deref() == Some("run"))
        .then(|| Notice::new(Tone::Done, page.t("operations.did-run")));
    let state = if view.running {
        Badge::new(ui::State::Notice).word(page.t("operations.running"))
    } else {
        words::health(&page, view.health)
    };
    let cause = view.error.as_ref().map(|error| (words::cause(&page, error).to_owned(), error.clone()));
    let name = page.text(&view.name).to_owned();
    let api = format!("/api/connectors/{}", view.key);
    let page = page.in_section("operations").dense().under_t("operations.heading", "/operations").titled(name);
    let shown = Feed { page, notice, state, cause, facts, counts, examples, run, api };
    Ok(Html(shown).into_response())
}

#[derive(Deserialize)]
pub struct Token {
    #[serde(default)]
    csrf: String,
}

/// Whether the form stood on a page of ours, made for this session.
fn demand(page: &Page, session: Option<Extension<SessionKey>>, csrf: &str, headers: &HeaderMap) -> Result<(), Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let Extension(session) = session.ok_or_else(Problem::unauthenticated)?;
    if page.site.csrf.verify(&session.0, csrf) && ui::csrf::same_origin(headers) {
        return Ok(());
    }
    Err(Problem::forbidden("The form was not made for this session. Open the page again and send it once more."))
}

pub async fn run(
    State(console): Shared,
    Path((_, key)): Path<(String, String)>,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    page: Page,
    Form(form): Form<Token>,
) -> Result<Response, Problem> {
    demand(&page, session, &form.csrf, &headers)?;
    let view = console.connect.run_now(&page.caller, &key).await?;
    Ok(Redirect::to(&page.href(&format!("/operations/feeds/{}?did=run", view.key))).into_response())
}

pub async fn retry(
    State(console): Shared,
    Path((_, id)): Path<(String, String)>,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    page: Page,
    Form(form): Form<Token>,
) -> Result<Response, Problem> {
    demand(&page, session, &form.csrf, &headers)?;
    let id: Id<Delivery> = id.parse().map_err(|_| Problem::not_found("The notification"))?;
    deliveries::retry(&console.alarms, &page.caller, id).await?;
    Ok(Redirect::to(&page.href("/operations?did=retry")).into_response())
}
