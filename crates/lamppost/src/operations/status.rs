//! Whether the program works, for everybody: no names, no reasons, no figures that help an attacker.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use kernel::{Caller, Problem};
use sensing::connect::Health;
use ui::{Badge, Cell, Column, Html, Page, State as Shape, Table};

use super::{Console, watch::Watch, words};

#[derive(Template)]
#[template(path = "status.html")]
struct Status {
    page: Page,
    overall: Badge,
    say: String,
    as_of: String,
    parts: Vec<(String, Badge, String)>,
    /// The published feeds, the worst first.
    feeds: Table,
    staff: bool,
}

pub async fn status(State(console): State<Arc<Console>>, page: Page) -> Result<Html<impl Template>, Problem> {
    let (ready, answers) = console.health.ask().await;
    let mut parts: Vec<(String, Badge, String)> = answers
        .iter()
        .map(|(name, answer)| {
            let badge = words::works(&page, answer.as_str() == Some("ready"));
            let about = match name.as_str() {
                "records" => page.t("status.records"),
                "stream" => page.t("status.stream"),
                "lake" => page.t("status.lake"),
                _ => "",
            };
            (words::store(&page, name).to_owned(), badge, about.to_owned())
        })
        .collect();
    // Counted for everybody; which feed it is and why is for who may read it. A sealed department's are not even counted.
    let mut feeds = console.connect.connectors(&Caller::system("status")).await.ok();
    if let Some(feeds) = &mut feeds {
        feeds.retain(|f| !console.policy.seals(&f.tenant));
    }
    let mut late = 0;
    if let Some(feeds) = feeds.filter(|feeds| !feeds.is_empty()) {
        let counted: Vec<Health> = feeds.iter().map(|f| f.health).filter(|h| *h != Health::Disabled).collect();
        late = counted.iter().filter(|h| matches!(h, Health::Failing | Health::Late)).count();
        let shape = if late == 0 { Shape::Good } else { Shape::Warning };
        let word = page.t(if late == 0 { "status.feeds-good" } else { "status.feeds-some" }).to_owned();
        let say =
            page.msg("status.feeds-say").with("good", counted.len() - late).with("all", counted.len()).to_string();
        parts.push((page.t("status.feeds").to_owned(), Badge::new(shape).word(word), say));
    }
    let door = if console.mqtt {
        Badge::new(Shape::Good).word(page.t("status.open"))
    } else {
        Badge::new(Shape::Notice).word(page.t("status.closed"))
    };
    parts.push((page.t("status.door").to_owned(), door, page.t("status.door-say").to_owned()));
    let seen = console.watch.look().await?;
    let public = Watch::public(&seen);
    late += public.iter().filter(|p| p.state == super::parts::State::Late).count();
    let rows = public.iter().map(|part| {
        let name = console.systems.get(&part.key).map_or(part.key.as_str(), |name| page.text(name));
        let mut title = ui::Markup::default();
        title
            .raw("<a href=\"")
            .text(page.href(&format!("/things?system={}", ui::encode(&part.key))))
            .raw("\">")
            .text(name)
            .raw("</a>");
        if part.simulated {
            title.raw(" <span class=\"simulated\">").text(page.t("state.simulated")).raw("</span>");
        }
        let about = words::wrong(&page, part).map_or_else(String::new, |(says, _)| says);
        vec![
            Cell::Html(title),
            Cell::State(words::state(&page, part.state)),
            Cell::text(about),
            part.since.filter(|_| part.state.needs_a_look()).map_or(Cell::Empty, Cell::Ago),
            part.interval.map_or(Cell::Empty, |every| Cell::text(words::span(&page, every))),
        ]
    });
    let feeds = Table::new(page.t("status.public"))
        .headed()
        .column(Column::text("name", page.t("operations.feed")))
        .column(Column::text("state", page.t("operations.state")))
        .column(Column::text("wrong", page.t("operations.wrong")))
        .column(Column::text("since", page.t("operations.since")))
        .column(Column::text("every", page.t("operations.every")))
        .rows(rows)
        .empty(page.t("status.public-none"));
    let (overall, say) = match (ready, late) {
        (true, 0) => (Badge::new(Shape::Good).word(page.t("status.good")), page.t("status.good-say")),
        (true, _) => (Badge::new(Shape::Warning).word(page.t("status.some")), page.t("status.some-say")),
        (false, _) => (Badge::new(Shape::Alarm).word(page.t("status.bad")), page.t("status.bad-say")),
    };
    let say = say.to_owned();
    let staff = console.admits(&page.caller);
    let as_of = page.msg("status.as-of").with("time", page.exact(&page.now())).to_string();
    let page = page.titled_t("status.heading");
    Ok(Html(Status { page, overall, say, as_of, parts, feeds, staff }))
}
