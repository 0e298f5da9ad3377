//! Whether the program works, for everybody: no names, no reasons, no figures that help an attacker.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use kernel::Caller;
use sensing::connect::Health;
use ui::{Badge, Html, Page, State as Shape};

use super::{Console, words};

#[derive(Template)]
#[template(path = "status.html")]
struct Status {
    page: Page,
    overall: Badge,
    say: String,
    as_of: String,
    parts: Vec<(String, Badge, String)>,
    staff: bool,
}

pub async fn status(State(console): State<Arc<Console>>, page: Page) -> Html<impl Template> {
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
    // Counted for everybody; which feed it is and why is for who may read it.
    let feeds = console.connect.connectors(&Caller::system("status")).await.ok();
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
    let (overall, say) = match (ready, late) {
        (true, 0) => (Badge::new(Shape::Good).word(page.t("status.good")), page.t("status.good-say")),
        (true, _) => (Badge::new(Shape::Warning).word(page.t("status.some")), page.t("status.some-say")),
        (false, _) => (Badge::new(Shape::Alarm).word(page.t("status.bad")), page.t("status.bad-say")),
    };
    let say = say.to_owned();
    let staff = console.admits(&page.caller);
    let as_of = page.msg("status.as-of").with("time", page.exact(&page.now())).to_string();
    let page = page.titled_t("status.heading");
    Html(Status { page, overall, say, as_of, parts, staff })
}
