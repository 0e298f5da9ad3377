//! Every address of the program, tried by everybody who may not, and then by the one who may.
//!
//! Who is refused follows from the list of routes (`Route::audience`, `Route::audit`); the recipes say only what stands in the request. Another
//! department's caller asks about something that exists and about something that does not: the two answers may not differ.

mod recipes;
mod sealed;
mod world;

use std::collections::BTreeSet;

use recipes::{RECIPES, Recipe, Right};
use sensing::{Audience, Route};
use world::{MARK, Who, World};

use crate::browser::{Browser, PASSWORD, token};

fn route<'a>(routes: &'a [Route], recipe: &Recipe) -> &'a Route {
    let found = routes.iter().find(|r| r.method == recipe.method && r.path == recipe.route);
    found.unwrap_or_else(|| panic!("{} {} has a recipe and is not listed", recipe.method, recipe.route))
}

/// What an answer tells: everything but what differs from request to request.
struct Told {
    status: u16,
    headers: BTreeSet<String>,
    body: String,
}

struct Try<'w> {
    world: &'w World,
    recipe: &'w Recipe,
    version: String,
}

impl Try<'_> {
    fn text(&self, text: &str, real: bool) -> String {
        let text = text.replace("{version}", &self.version).replace("{password}", &ui::encode(PASSWORD));
        self.world.fill(&text.replace("{another}", "nine%20quiet%20lamps%20at%20dawn"), real)
    }

    async fn ask(&self, who: &Who, real: bool, headers: &[(&str, &str)]) -> Told {
        let path = self.text(self.recipe.path, real);
        let kind = if self.recipe.is_form() { "application/x-www-form-urlencoded" } else { "application/json" };
        let body = self.text(self.recipe.body, real);
        let body = (self.recipe.method != "GET").then_some((kind, body.as_str()));
        let answer = self.world.send(self.recipe.method, &path, who, body, headers).await;
        let status = answer.status().as_u16();
        let skip = ["x-request-id", "date", "content-length", "content-security-policy", "transfer-encoding"];
        let headers = answer.headers().iter().filter(|(name, _)| !skip.contains(&name.as_str()));
        let headers = headers.map(|(name, value)| format!("{name}: {value:?}")).collect();
        // A live stream has no end; its head is what is asked about here.
        let body = if self.recipe.route == "/api/live" { String::new() } else { answer.text().await.unwrap() };
        Told { status, headers, body }
    }

    async fn refused(&self, what: &str, who: &Who, headers: &[(&str, &str)], expected: &[u16]) -> Told {
        let told = self.ask(who, true, headers).await;
        let name = self.name(what);
        assert!(expected.contains(&told.status), "{name}: {} instead of {expected:?}: {}", told.status, told.body);
        assert!(!told.body.contains(MARK), "{name}: it tells what is hidden: {}", told.body);
        if told.status >= 400 {
            let problem = told.headers.iter().any(|h| h == "content-type: \"application/problem+json\"");
            assert!(problem || self.recipe.is_form(), "{name}: {} is not a problem document", told.status);
        }
        told
    }

    /// What is there looks like what is not.
    async fn hidden(&self, what: &str, who: &Who) {
        let told = self.refused(what, who, &[], &[self.recipe.hidden]).await;
        let other = self.ask(who, false, &[]).await;
        assert_eq!(told.status, other.status, "{}", self.name(what));
        assert_eq!(told.headers, other.headers, "{}", self.name(what));
        let mut body = told.body;
        let asked = format!("{}{}", self.recipe.path, self.recipe.body);
        for (name, (real, missing)) in &self.world.names {
            if !asked.contains(&format!("{{{name}}}")) {
                continue;
            }
            // A small number may stand anywhere; as part of an address or a sentence it stands in brackets, quotes or behind a blank.
            for (before, after) in [("(", ")"), ("'", "'"), (" ", " "), ("/", "/"), ("/", " ")] {
                body = body.replace(&format!("{before}{real}{after}"), &format!("{before}{missing}{after}"));
            }
        }
        assert_eq!(body, other.body, "{}: what is there looks different from what is not", self.name(what));
    }

    fn name(&self, what: &str) -> String {
        format!("{} {} by {what}", self.recipe.method, self.text(self.recipe.path, true))
    }
}

fn bad_keys() -> Vec<Who> {
    [
        "Bearer nonsense",
        "Basic eDp5",
        "Bearer lpk_aaaaaaaaaa_0123456789012345678901234567890123456789012",
        "Digest x",
        "Bearer",
    ]
    .map(|value| Who::Authorization(value.to_owned()))
    .into()
}

/// Everybody who may not, one after another.
async fn strangers(attempt: &Try<'_>, route: &Route) -> usize {
    let (world, recipe) = (attempt.world, attempt.recipe);
    let mut tried = 0;
    for bad in bad_keys() {
        attempt.refused(&format!("{bad:?}"), &bad, &[], &[401]).await;
        tried += 1;
    }
    let public = route.audience == Audience::Public;
    let signed_in = recipe.right != Right::Anybody && recipe.right != Right::Visitor;
    let reading = recipe.method == "GET";
    if !signed_in && reading {
        return tried;
    }
    if !public {
        let to_sign_in: &[u16] = if recipe.is_form() {
            &[401, 403]
        } else if reading && recipe.route.starts_with("/{language}") {
            &[401, 303, 404]
        } else {
            &[401]
        };
        attempt.refused("nobody", &Who::Anonymous, &[], to_sign_in).await;
        tried += 1;
    } else if reading && recipe.names_something() {
        attempt.hidden("nobody", &Who::Anonymous).await;
        tried += 1;
    } else {
        attempt.refused("nobody", &Who::Anonymous, &[], &[200, 403]).await;
        tried += 1;
    }
    if recipe.is_form() {
        let Who::Session { cookie, .. } = &world.manager_browser else { panic!("a browser") };
        let Who::Session { csrf: others, .. } = &world.stranger_browser else { panic!("a browser") };
        for csrf in ["", "x", others] {
            let forged = Who::Session { cookie: cookie.clone(), csrf: csrf.to_owned() };
            attempt.refused("a forged form", &forged, &[], &[403]).await;
            tried += 1;
        }
        attempt.refused("another site", &world.manager_browser, &[("sec-fetch-site", "cross-site")], &[403]).await;
        attempt.refused("a key that fills in forms", &world.manager, &[], &[401, 403]).await;
        tried += 2;
    } else if !reading {
        let foreign = [("origin", "http://evil.example")];
        for headers in [&[("sec-fetch-site", "same-site")], &foreign] {
            attempt.refused("another site", &world.manager_browser, headers, &[403]).await;
            tried += 1;
        }
    }
    if !signed_in {
        return tried;
    }
    let by_form = recipe.is_form() || recipe.right == Right::ManagerBrowser;
    let (viewer, stranger) =
        if by_form { (&world.viewer_browser, &world.stranger_browser) } else { (&world.viewer, &world.stranger) };
    if recipe.viewer != 0 && recipe.viewer >= 400 {
        attempt.refused("a viewer", viewer, &[], &[recipe.viewer]).await;
        tried += 1;
    }
    if !recipe.own && recipe.names_something() {
        attempt.hidden("another department", stranger).await;
        tried += 1;
        if !recipe.is_form() {
            attempt.hidden("another department's device", &world.strange_device).await;
            tried += 1;
        }
    } else if reading && !recipe.own {
        for (what, who) in [("another department", stranger), ("another department's device", &world.strange_device)] {
            attempt.refused(what, who, &[], &[200, 401, 404]).await;
            tried += 1;
        }
    }
    if !reading && !recipe.device && !recipe.is_form() {
        attempt.refused("the department's own device", &world.own_device, &[], &[403, 404]).await;
        tried += 1;
    }
    tried
}

async fn the_right_one(world: &World, right: Right, recipe: &Recipe) -> Who {
    match right {
        Right::Anybody => Who::Anonymous,
        Right::Manager => world.manager.clone(),
        Right::ManagerBrowser => world.manager_browser.clone(),
        Right::ViewerBrowser => world.viewer_browser.clone(),
        Right::CityAdmin => world.city_admin.clone(),
        Right::Device => world.own_device.clone(),
        Right::Warden => world.warden_browser.clone(),
        Right::Visitor => {
            let mut browser = Browser::new(&world.city);
            let (_, html) = browser.get(&world.fill(recipe.path, true)).await;
            Who::Session { cookie: browser.cookie(), csrf: token(&html) }
        }
    }
}

async fn version(world: &World) -> String {
    let answer = world.send("GET", &world.fill("/api/alarms/{alarm}", true), &world.manager, None, &[]).await;
    let alarm: serde_json::Value = answer.json().await.unwrap();
    alarm["alarm"]["version"].to_string()
}

/// The newest row of the audit that somebody outside has caused; rules and their like go on meanwhile.
async fn last_audit(world: &World) -> Option<records::AuditRow> {
    let query = records::AuditQuery { limit: 100, ..Default::default() };
    let rows = world.city.running().stores.records.audit(query).await.unwrap().rows;
    rows.into_iter().find(|row| !row.caller.starts_with("system:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_through_a_wall_and_the_right_one_leaves_a_trace() {
    let world = World::build().await;
    let routes = &world.city.running().routes;
    for listed in routes {
        let there = RECIPES.iter().any(|r| r.method == listed.method && r.route == listed.path);
        assert!(there, "{} {} has no recipe: write how it is asked for", listed.method, listed.path);
    }
    let mut tried = 0;
    let before = world.state().await;
    for recipe in RECIPES {
        let attempt = Try { world: &world, recipe, version: version(&world).await };
        tried += strangers(&attempt, route(routes, recipe)).await;
        if recipe.method != "GET" {
            assert_eq!(world.state().await, before, "a refused {} {} changed something", recipe.method, recipe.path);
        }
    }
    assert_eq!(world.state().await, before, "reading changed something");
    assert!(tried > 800, "only {tried} were tried");

    for recipe in RECIPES {
        let listed = route(routes, recipe);
        let attempt = Try { world: &world, recipe, version: version(&world).await };
        let who = the_right_one(&world, recipe.right, recipe).await;
        let before = last_audit(&world).await.map(|row| row.id);
        let told = attempt.ask(&who, true, &[]).await;
        let name = attempt.name("the right one");
        assert_eq!(told.status, recipe.status, "{name}: {}", told.body);
        if recipe.shows {
            assert!(told.body.contains(MARK), "{name} does not show what it should: {}", told.body);
        }
        let after = last_audit(&world).await;
        if listed.audit && !recipe.silent {
            let row = after.filter(|row| Some(row.id) != before).unwrap_or_else(|| panic!("{name} left no audit row"));
            let known = ["key:", "person:", "device:"].iter().any(|kind| row.caller.starts_with(kind));
            assert!(known, "{name}: the audit row says '{}'", row.caller);
            assert!(!format!("{row:?}").contains(PASSWORD), "{name}: a password in the audit");
        } else {
            assert_eq!(after.map(|row| row.id), before, "{name} left an audit row");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_listed_is_not_served() {
    let city = crate::city::TestCity::start().await;
    let routes = &city.running().routes;
    let paths: BTreeSet<&str> = routes.iter().map(|r| r.path).collect();
    for path in paths {
        let example = crate::routes::address(path);
        let allowed: BTreeSet<&str> = routes.iter().filter(|r| r.path == path).map(|r| r.method).collect();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND"] {
            if method == "CONNECT" || allowed.contains(method) {
                continue;
            }
            let answer = city.request(method, &example).body("{}").send().await.unwrap();
            // Methods that the router does not know at all are the fallback's.
            assert!(matches!(answer.status().as_u16(), 404 | 405), "{method} {path} is served: {}", answer.status());
        }
    }
}
