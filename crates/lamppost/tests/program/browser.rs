//! A browser with one jar, and people who sit before it.

use reqwest::Response;

use crate::city::TestCity;

pub struct Browser<'a> {
    pub city: &'a TestCity,
    cookies: Vec<(String, String)>,
}

pub const PASSWORD: &str = "seven kind lamps at dusk";

impl<'a> Browser<'a> {
    pub fn new(city: &'a TestCity) -> Self {
        Self { city, cookies: Vec::new() }
    }

    /// Somebody of a department with a role, signed in.
    pub async fn of(city: &'a TestCity, tenant: &str, role: &str, account: &str) -> Self {
        let tenant = kernel::Tenant::parse(tenant).unwrap();
        let roles = std::collections::BTreeSet::from([kernel::Role::Owned(role.to_owned())]);
        let operators = &city.running().operators;
        let token = operators.invite(&kernel::Caller::system("test"), &tenant, roles).await.unwrap();
        let mut browser = Self::new(city);
        let link = format!("/en/join/{token}");
        let joined =
            browser.post(&link, &link, &[("name", account), ("account", account), ("password", PASSWORD)]).await;
        assert_eq!(joined.status(), 303);
        browser
    }

    fn keep(&mut self, answer: &Response) {
        for set in answer.headers().get_all("set-cookie") {
            let set = set.to_str().unwrap();
            assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax") && set.contains("Path=/"), "{set}");
            let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(n, _)| n != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    pub fn cookie(&self) -> String {
        self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ")
    }
    pub async fn get(&mut self, path: &str) -> (u16, String) {
        let answer =
            self.city.get(path).header("accept", "text/html").header("cookie", self.cookie()).send().await.unwrap();
        self.keep(&answer);
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
    /// Posts a form with the token of the page it stands on.
    pub async fn post(&mut self, page: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        let (_, html) = self.get(page).await;
        self.post_with(&token(&html), path, fields).await
    }
    pub async fn post_with(&mut self, csrf: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        let body: Vec<String> = [("csrf", csrf)]
            .iter()
            .chain(fields)
            .map(|(n, v)| format!("{}={}", ui::encode(n), ui::encode(v)))
            .collect();
        let request = self.city.request("POST", path).header("accept", "text/html").header("cookie", self.cookie());
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(body.join("&"));
        let answer = request.send().await.unwrap();
        self.keep(&answer);
        answer
    }
    /// A token of this browser that any form of it may carry.
    pub async fn token(&mut self) -> String {
        token(&self.get("/en/account").await.1)
    }
}

pub fn token(html: &str) -> String {
    let at = html.find("name=\"csrf\" value=\"").expect("a form with a token") + 19;
    html[at..].split('"').next().unwrap().to_owned()
}

/// Where an answer sends one.
pub fn location(answer: &Response) -> String {
    assert_eq!(answer.status(), 303);
    answer.headers()["location"].to_str().unwrap().to_owned()
}

/// The text between two marks of a page.
pub fn between<'h>(html: &'h str, from: &str, to: &str) -> &'h str {
    let at = html.find(from).unwrap_or_else(|| panic!("no {from} in {html}")) + from.len();
    html[at..].split(to).next().unwrap()
}

/// What the audit says was done, newest first.
pub async fn audit(city: &TestCity) -> Vec<String> {
    let query = records::AuditQuery { limit: 1_000, ..Default::default() };
    city.running().stores.records.audit(query).await.unwrap().rows.into_iter().map(|r| r.action).collect()
}
