//! Signing in as a browser does.

use crate::{
    browser::{Browser, PASSWORD, audit, between, location, token},
    city::TestCity,
};

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
    assert!(audit(&city).await.contains(&"operator:invite".to_owned()));
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
async fn a_program_with_a_key_is_not_sent_in_a_circle() {
    let city = TestCity::start().await;
    let key = city.key("dsd", "admin").await;
    let account = city.get("/en/account").bearer_auth(&key).send().await.unwrap();
    assert_eq!(account.status(), 303);
    let form = account.headers()["location"].to_str().unwrap().to_owned();
    let form = city.get(&form).bearer_auth(&key).send().await.unwrap();
    assert_eq!(form.status(), 200, "the form to sign in, not the way back");
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

/// Two people of the DSD: an administrator and an operator, and the operator's page for administrators.
async fn office(city: &TestCity) -> (Browser<'_>, Browser<'_>, String) {
    let mut admin = Browser::of(city, "dsd", "admin", "chan").await;
    let operator = Browser::of(city, "dsd", "operator", "lee").await;
    let (status, html) = admin.get("/en/operators").await;
    assert_eq!(status, 200);
    let row = html.split("<tr>").find(|row| row.contains(">lee</td>")).expect("the operator's row");
    let person = between(row, "href=\"", "\"").to_owned();
    assert!(person.starts_with("/en/operators/people/"), "{person}");
    (admin, operator, person)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_by_who_knows_it() {
    let city = TestCity::start().await;
    let mut chan = Browser::of(&city, "dsd", "operator", "chan").await;
    let mut elsewhere = Browser::new(&city);
    let sign_in = [("account", "chan"), ("password", PASSWORD)];
    assert_eq!(elsewhere.post("/en/sign-in", "/en/sign-in", &sign_in).await.status(), 303);
    assert_eq!(elsewhere.get("/en/account").await.0, 200);

    let form = "/en/account/password";
    let new = "eight kind lamps at dawn";
    for (present, password, says) in [
        ("not the present one", new, "This is not your present password."),
        (PASSWORD, "short", "Use at least 12 characters."),
        (PASSWORD, PASSWORD, "This is the password you have."),
    ] {
        let answer = chan.post(form, form, &[("present", present), ("password", password)]).await;
        assert_eq!(answer.status(), 422, "{says}");
        let html = answer.text().await.unwrap();
        assert!(html.contains(says) && html.contains("error-summary"), "{html}");
        assert!(!html.contains(new) && !html.contains(PASSWORD), "no password is written back");
    }
    assert_eq!(elsewhere.get("/en/account").await.0, 200, "nothing of that ended a session");
    assert_eq!(chan.post_with("", form, &[("present", PASSWORD), ("password", new)]).await.status(), 403);

    let changed = chan.post(form, form, &[("present", PASSWORD), ("password", new)]).await;
    assert_eq!(location(&changed), "/en/account?did=password");
    assert_eq!(chan.get("/en/account").await.0, 200, "who changed it stays");
    assert_eq!(elsewhere.get("/en/account").await.0, 303, "everybody else is out");
    assert_eq!(audit(&city).await[0], "operator:password");
    assert_eq!(elsewhere.post("/en/sign-in", "/en/sign-in", &sign_in).await.status(), 422, "the old one is over");
    let sign_in = [("account", "chan"), ("password", new)];
    assert_eq!(elsewhere.post("/en/sign-in", "/en/sign-in", &sign_in).await.status(), 303);

    // A thief with a session guesses as slowly as one without.
    let mut answers = Vec::new();
    for _ in 0..8 {
        let answer = chan.post(form, form, &[("present", "a guess"), ("password", new)]).await;
        answers.push(answer.status().as_u16());
    }
    assert_eq!(answers.last(), Some(&429), "{answers:?}");
    let anonymous = Browser::new(&city).get(form).await.0;
    assert_eq!(anonymous, 303, "to the form to sign in");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_ends_ones_own_sessions_only() {
    let city = TestCity::start().await;
    let mut chan = Browser::of(&city, "dsd", "operator", "chan").await;
    let mut lee = Browser::of(&city, "dsd", "operator", "lee").await;
    let mut elsewhere = Browser::new(&city);
    let sign_in = [("account", "chan"), ("password", PASSWORD)];
    elsewhere.post("/en/sign-in", "/en/sign-in", &sign_in).await;
    let (_, html) = chan.get("/en/account").await;
    let session = between(&html, "name=\"session\" value=\"", "\"").to_owned();
    let end = "/en/account/sessions/end";
    assert_eq!(lee.post("/en/account", end, &[("session", &session)]).await.status(), 404, "somebody else's");
    assert_eq!(elsewhere.get("/en/account").await.0, 200);
    assert_eq!(location(&chan.post("/en/account", end, &[("session", &session)]).await), "/en/account?did=ended");
    assert_eq!(elsewhere.get("/en/account").await.0, 303);
    assert_eq!(chan.get("/en/account").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_set_by_a_link_once() {
    let city = TestCity::start().await;
    let (mut admin, mut lee, person) = office(&city).await;
    let made = admin.post(&person, &format!("{person}/reset"), &[]).await;
    assert_eq!((made.status().as_u16(), made.headers()["cache-control"].to_str().unwrap()), (200, "no-store"));
    let html = made.text().await.unwrap();
    let first = format!("/en/reset/{}", between(&html, "/en/reset/", "<"));
    let html = admin.post(&person, &format!("{person}/reset"), &[]).await.text().await.unwrap();
    let link = format!("/en/reset/{}", between(&html, "/en/reset/", "<"));
    let mut anybody = Browser::new(&city);
    assert_eq!(anybody.get(&first).await.0, 404, "a later link ends the one before");
    assert_eq!(lee.get("/en/account").await.0, 200, "the link alone changes nothing");
    let (_, html) = anybody.get(&link).await;
    assert!(html.contains("lee"), "{html}");
    let weak = anybody.post(&link, &link, &[("password", "short")]).await;
    assert_eq!(weak.status(), 422);
    assert_eq!(anybody.post_with("", &link, &[("password", "nine kind lamps at noon")]).await.status(), 403);
    let set = anybody.post(&link, &link, &[("password", "nine kind lamps at noon")]).await;
    assert_eq!(location(&set), "/en/account?did=password");
    assert_eq!(anybody.get("/en/account").await.0, 200, "and is signed in");
    assert_eq!(lee.get("/en/account").await.0, 303, "all other sessions have ended");
    assert_eq!(anybody.get(&link).await.0, 404, "used up");
    assert!(audit(&city).await.contains(&"operator:password-reset".to_owned()));
    // An invitation is no such link, and the other way round.
    assert_eq!(anybody.get(&link.replace("/reset/", "/join/")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_change_roles_and_shut_accounts() {
    let city = TestCity::start().await;
    let (mut admin, mut lee, person) = office(&city).await;
    let roles = format!("{person}/roles");
    let changed = admin.post(&person, &roles, &[("role", "viewer"), ("role", "device-manager")]).await;
    assert_eq!(location(&changed), format!("{person}?did=roles"));
    let (_, html) = lee.get("/en/account").await;
    assert!(html.contains("Device manager, Viewer"), "at once: {html}");
    let none = admin.post(&person, &roles, &[]).await;
    assert_eq!(none.status(), 422);
    assert!(none.text().await.unwrap().contains("Choose at least one role"));
    assert_eq!(admin.post(&person, &roles, &[("role", "king")]).await.status(), 400);

    let access = format!("{person}/access");
    assert_eq!(location(&admin.post(&person, &access, &[("enabled", "no")]).await), format!("{person}?did=shut"));
    assert_eq!(lee.get("/en/account").await.0, 303, "signed out at once");
    let sign_in = [("account", "lee"), ("password", PASSWORD)];
    assert_eq!(lee.post("/en/sign-in", "/en/sign-in", &sign_in).await.status(), 422);
    assert_eq!(admin.post(&person, &format!("{person}/reset"), &[]).await.status(), 409);
    assert_eq!(location(&admin.post(&person, &access, &[("enabled", "yes")]).await), format!("{person}?did=open"));
    assert_eq!(lee.post("/en/sign-in", "/en/sign-in", &sign_in).await.status(), 303);
    let done = audit(&city).await;
    for action in ["operator:roles", "operator:disable", "operator:enable"] {
        assert!(done.contains(&action.to_owned()), "{action}");
    }

    // Oneself, other departments, other roles, nobody, and forms of others.
    let (_, html) = admin.get("/en/operators").await;
    let row = html.split("<tr>").find(|row| row.contains(">chan</td>")).unwrap();
    let own = between(row, "href=\"", "\"").to_owned();
    let csrf = admin.token().await;
    assert_eq!(admin.post_with(&csrf, &format!("{own}/access"), &[("enabled", "no")]).await.status(), 409);
    let mut other = Browser::of(&city, "epd", "admin", "wong").await;
    let (theirs, lees) = (other.token().await, lee.token().await);
    assert_eq!((other.get(&person).await.0, lee.get(&person).await.0), (404, 404));
    let before = audit(&city).await.len();
    for (path, fields) in [("roles", [("role", "admin")]), ("access", [("enabled", "no")]), ("reset", [("x", "")])] {
        let path = format!("{person}/{path}");
        assert_eq!(other.post_with(&theirs, &path, &fields).await.status(), 404, "{path}");
        assert_eq!(lee.post_with(&lees, &path, &fields).await.status(), 404, "{path}");
        assert_eq!(admin.post_with("", &path, &fields).await.status(), 403, "{path}");
        assert!(Browser::new(&city).post_with("", &path, &fields).await.status().is_client_error(), "{path}");
    }
    assert_eq!(audit(&city).await.len(), before, "nothing of that was done");
    let mut city_admin = Browser::of(&city, "city", "admin", "hoho").await;
    assert_eq!(city_admin.get(&person).await.0, 200, "the operations tenant helps every department");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_programs_are_made_seen_and_revoked() {
    let city = TestCity::start().await;
    let (mut admin, _, _) = office(&city).await;
    let (page, keys) = ("/en/operators", "/en/operators/keys");
    let nameless = admin.post(page, keys, &[("tenant", "dsd"), ("name", ""), ("key_role", "operator")]).await;
    assert_eq!(nameless.status(), 422);
    let html = nameless.text().await.unwrap();
    assert!(html.contains("error-summary") && html.contains("value=\"operator\" selected"), "what was chosen stays");
    let made = admin.post(page, keys, &[("tenant", "dsd"), ("name", "wall display"), ("key_role", "viewer")]).await;
    let html = made.text().await.unwrap();
    let key = format!("lpk_{}", between(&html, "<code>lpk_", "<"));
    let (_, listed) = admin.get(page).await;
    assert!(listed.contains("wall display") && !listed.contains(&key), "shown once");
    assert_eq!(city.get("/api/devices").bearer_auth(&key).send().await.unwrap().status(), 200);
    let (_, listed) = admin.get(page).await;
    let row = listed.split("<tr>").find(|row| row.contains("wall display")).unwrap();
    assert!(row.contains("just now"), "last used: {row}");
    let prefix = between(row, "name=\"prefix\" value=\"", "\"").to_owned();
    let revoke = [("tenant", "dsd"), ("prefix", prefix.as_str())];
    let mut other = Browser::of(&city, "epd", "admin", "wong").await;
    let theirs = other.token().await;
    assert_eq!(other.post_with(&theirs, "/en/operators/keys/revoke", &revoke).await.status(), 404);
    let revoked = admin.post(page, "/en/operators/keys/revoke", &revoke).await;
    assert_eq!(location(&revoked), "/en/operators?tenant=dsd&did=revoked");
    assert_eq!(city.get("/api/devices").bearer_auth(&key).send().await.unwrap().status(), 401);
}
