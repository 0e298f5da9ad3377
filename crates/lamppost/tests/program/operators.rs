//! Signing in as a browser does.

use reqwest::Response;

use crate::city::TestCity;

/// A browser with one jar.
struct Browser<'a> {
    city: &'a TestCity,
    cookies: Vec<(String, String)>,
}

impl<'a> Browser<'a> {
    fn new(city: &'a TestCity) -> Self {
        Self { city, cookies: Vec::new() }
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
    fn cookie(&self) -> String {
        self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ")
    }
    async fn get(&mut self, path: &str) -> (u16, String) {
        let answer =
            self.city.get(path).header("accept", "text/html").header("cookie", self.cookie()).send().await.unwrap();
        self.keep(&answer);
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
    /// Posts a form with the token of the page it stands on.
    async fn post(&mut self, page: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        let (_, html) = self.get(page).await;
        self.post_with(&token(&html), path, fields).await
    }
    async fn post_with(&mut self, csrf: &str, path: &str, fields: &[(&str, &str)]) -> Response {
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
}

fn token(html: &str) -> String {
    let at = html.find("name=\"csrf\" value=\"").expect("a form with a token") + 19;
    html[at..].split('"').next().unwrap().to_owned()
}

const PASSWORD: &str = "seven kind lamps at dusk";

fn first_path(city: &TestCity) -> String {
    let link = city.running().first_link.clone().expect("a city without operators");
    link.strip_prefix(&city.url("")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_first_link_to_a_colleague() {
    let city = TestCity::start().await;
    let mut chan = Browser::new(&city);
    let join = first_path(&city);
    let weak = chan.post(&join, &join, &[("name", "Chan Tai Man"), ("account", "chan"), ("password", "short")]).await;
    assert_eq!(weak.status(), 422);
    let html = weak.text().await.unwrap();
    assert!(
        html.contains("value=\"Chan Tai Man\"") && !html.contains("short\""),
        "what was typed is kept, the password is not"
    );
    let joined =
        chan.post(&join, &join, &[("name", "Chan Tai Man"), ("account", "chan"), ("password", PASSWORD)]).await;
    assert_eq!((joined.status().as_u16(), joined.headers()["location"].to_str().unwrap()), (303, "/en/account"));
    let (_, account) = chan.get("/en/account").await;
    assert!(
        account.contains("You act for Digital Policy Office, as Administrator.") && account.contains("Chan Tai Man"),
        "{account}"
    );
    assert_eq!(chan.get(&join).await.0, 404, "the link is used up");

    let made = chan.post("/en/operators", "/en/operators/invite", &[("tenant", "dsd"), ("role", "operator")]).await;
    assert_eq!(made.status(), 200);
    let html = made.text().await.unwrap();
    let at = html.find("/en/join/").unwrap();
    let link: String = html[at..].chars().take_while(|c| *c != '<').collect();
    let mut lee = Browser::new(&city);
    let (_, zh) = lee.get(&link.replace("/en/", "/zh-hant/")).await;
    assert!(zh.contains("渠務署") && zh.contains("操作員"), "{zh}");
    let joined = lee.post(&link, &link, &[("name", "Lee"), ("account", "lee"), ("password", PASSWORD)]).await;
    assert_eq!(joined.status(), 303);
    let (status, _) = lee.get("/en/operators").await;
    assert_eq!(status, 404, "an operator manages no people");
    let refused = lee.post("/en/account", "/en/operators/invite", &[("tenant", "dsd"), ("role", "admin")]).await;
    assert_eq!(refused.status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_and_out() {
    let city = TestCity::start().await;
    let join = first_path(&city);
    let mut browser = Browser::new(&city);
    browser.post(&join, &join, &[("name", "Chan"), ("account", "chan"), ("password", PASSWORD)]).await;
    let out = browser.post("/en/account", "/en/account/sign-out", &[]).await;
    assert_eq!(out.status(), 303);
    let (status, _) = browser.get("/en/account").await;
    assert_eq!(status, 303, "to the form");

    let mut answers = Vec::new();
    for (account, password) in [("chan", "not the password"), ("nobody", PASSWORD)] {
        let answer = browser.post("/en/sign-in", "/en/sign-in", &[("account", account), ("password", password)]).await;
        assert_eq!(answer.status(), 422);
        let html = answer.text().await.unwrap();
        assert!(html.contains("The account or the password is not right."));
        answers.push(
            html.replace(&token(&html), "")
                .replace(account, "")
                .lines()
                .filter(|l| !l.contains("nonce"))
                .collect::<String>(),
        );
    }
    assert_eq!(answers[0], answers[1], "an unknown account looks like a wrong password");

    let away = [("account", "chan"), ("password", PASSWORD), ("next", "//evil.example/")];
    let answer = browser.post("/en/sign-in", "/en/sign-in", &away).await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()),
        (303, "/en/account"),
        "never to another host"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_of_others_are_refused() {
    let city = TestCity::start().await;
    let join = first_path(&city);
    let mut chan = Browser::new(&city);
    chan.post(&join, &join, &[("name", "Chan"), ("account", "chan"), ("password", PASSWORD)]).await;
    let fields = [("tenant", "city"), ("role", "admin")];
    assert_eq!(chan.post_with("", "/en/operators/invite", &fields).await.status(), 403);
    let mut other = Browser::new(&city);
    let (_, html) = other.get("/en/sign-in").await;
    assert_eq!(
        chan.post_with(&token(&html), "/en/operators/invite", &fields).await.status(),
        403,
        "another browser's token"
    );
    let (_, html) = chan.get("/en/operators").await;
    let from_elsewhere = city
        .request("POST", "/en/operators/invite")
        .header("cookie", chan.cookie())
        .header("sec-fetch-site", "cross-site")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("csrf={}&tenant=city&role=admin", token(&html)))
        .send()
        .await
        .unwrap();
    assert_eq!(from_elsewhere.status(), 403);
    let json = city
        .request("POST", "/api/devices")
        .header("cookie", chan.cookie())
        .header("origin", "http://evil.example")
        .body("{}");
    assert_eq!(json.send().await.unwrap().status(), 403, "also the JSON API, when the caller is a cookie");
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_bound_to_the_host_where_there_is_tls() {
    let city = TestCity::with(|config| config.http.public_url = Some("https://city.example".to_owned())).await;
    let answer = city.get("/en/sign-in").header("accept", "text/html").send().await.unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("__Host-lamppost-visitor=") && cookie.contains("; Secure"), "{cookie}");
    assert!(city.running().first_link.as_ref().unwrap().starts_with("https://city.example/en/join/"));
}
