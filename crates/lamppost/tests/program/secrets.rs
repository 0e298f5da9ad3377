//! What must not be told: headers on every answer, cookies, sessions, tries at passwords, and what stands in the log.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    browser::{Browser, PASSWORD, token},
    city::{PACK, TestCity},
    routes::address,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_how_it_may_be_used() {
    let city = TestCity::with(|config| {
        config.http.public_url = Some("https://city.example".to_owned());
        config.http.body_limit = 1_000;
    })
    .await;
    let header = |answer: &reqwest::Response, name: &str| {
        answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let mut kinds = BTreeSet::new();
    let mut nonces = BTreeSet::new();
    let mut asked: Vec<(String, String)> =
        city.running().routes.iter().map(|r| (r.method.to_owned(), address(r.path))).collect();
    for path in
        ["/", "/en", "/zh-hant/map", "/en/things", "/en/sign-in", "/en/nothing", "/nothing", "/assets/nothing.js"]
    {
        asked.push(("GET".to_owned(), path.to_owned()));
    }
    asked.push(("PROPFIND".to_owned(), "/en".to_owned()));
    for (method, path) in &asked {
        for (name, value) in [("accept", "text/html"), ("authorization", "Bearer bad"), ("content-encoding", "gzip")] {
            let answer = city.request(method, path).header(name, value).send().await.unwrap();
            let what = format!("{method} {path} with {name}: {}", answer.status());
            kinds.insert(answer.status().as_u16());
            assert_eq!(header(&answer, "x-content-type-options"), "nosniff", "{what}");
            assert_eq!(header(&answer, "x-frame-options"), "DENY", "{what}");
            assert_eq!(header(&answer, "referrer-policy"), "strict-origin-when-cross-origin", "{what}");
            assert_eq!(header(&answer, "strict-transport-security"), "max-age=31536000", "{what}");
            assert!(answer.headers().get("access-control-allow-credentials").is_none(), "{what}");
            assert!(answer.headers().get("server").is_none(), "{what} names its program");
            let policy = header(&answer, "content-security-policy");
            assert!(
                policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
                "{what}: {policy}"
            );
            assert!(!policy.contains("unsafe"), "{what}: {policy}");
            if let Some(nonce) = policy.split("'nonce-").nth(1) {
                assert!(
                    nonces.insert(nonce.split('\'').next().unwrap().to_owned()),
                    "{what}: the nonce was used before"
                );
            }
            for set in answer.headers().get_all("set-cookie") {
                let set = set.to_str().unwrap();
                let bound =
                    ["__Host-", "; Path=/", "; HttpOnly", "; Secure", "; SameSite=Lax"].iter().all(|p| set.contains(p));
                assert!(bound && !set.contains("Domain"), "{what}: {set}");
            }
        }
    }
    for kind in [200, 303, 401, 404, 405, 415] {
        assert!(kinds.contains(&kind), "no answer was {kind}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_made_at_the_door_and_ends_for_good() {
    let city = TestCity::start().await;
    let join = city.running().first_link.clone().unwrap().strip_prefix(&city.url("")).unwrap().to_owned();
    let mut chan = Browser::new(&city);
    chan.post(&join, &join, &[("name", "Chan"), ("account", "chan"), ("password", PASSWORD)]).await;

    // Fixation: a session's name that somebody has planted is not taken over, and does not become good.
    let planted = "A".repeat(43);
    let form = city.get("/en/sign-in").header("accept", "text/html").header("cookie", format!("lamppost={planted}"));
    let form = form.send().await.unwrap();
    let visitor = form.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let csrf = token(&form.text().await.unwrap());
    let body = format!("csrf={}&account=chan&password={}", ui::encode(&csrf), ui::encode(PASSWORD));
    let request = city.request("POST", "/en/sign-in").header("cookie", format!("lamppost={planted}; {visitor}"));
    let signed = request.header("content-type", "application/x-www-form-urlencoded").body(body).send().await.unwrap();
    assert_eq!(signed.status(), 303);
    let set = signed.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(set.starts_with("lamppost=") && !set.contains(&planted), "{set}");
    let account =
        async |cookie: &str| city.get("/en/account").header("cookie", cookie).send().await.unwrap().status().as_u16();
    assert_eq!(account(&format!("lamppost={planted}")).await, 303, "the planted one is nobody's");
    assert_eq!(account(&visitor).await, 303, "the visitor's cookie opens nothing");
    let good = set.split(';').next().unwrap().to_owned();
    assert_eq!(account(&good).await, 200);
    for wrong in [format!("{good}x"), good.to_lowercase(), format!("x{good}"), "lamppost=".to_owned()] {
        assert_eq!(account(&wrong).await, 303, "{wrong}");
    }

    // Signing out ends it on the server: the cookie that somebody has copied is worth nothing.
    let page = city.get("/en/account").header("cookie", &good).send().await.unwrap().text().await.unwrap();
    let out = city.request("POST", "/en/account/sign-out").header("cookie", &good);
    let out = out.header("content-type", "application/x-www-form-urlencoded");
    let out = out.body(format!("csrf={}", ui::encode(&token(&page)))).send().await.unwrap();
    assert_eq!(out.status(), 303);
    assert_eq!(account(&good).await, 303, "a copy of a cookie that was signed out");
    assert_eq!(chan.get("/en/account").await.0, 200, "another session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slow_whether_or_not_there_is_such_an_account() {
    let city = TestCity::start().await;
    let join = city.running().first_link.clone().unwrap().strip_prefix(&city.url("")).unwrap().to_owned();
    let mut chan = Browser::new(&city);
    chan.post(&join, &join, &[("name", "Chan"), ("account", "chan"), ("password", PASSWORD)]).await;
    let mut seen = Vec::new();
    for account in ["chan", "nobody"] {
        let mut guesser = Browser::new(&city);
        let mut answers = Vec::new();
        for _ in 0..8 {
            let answer = guesser
                .post("/en/sign-in", "/en/sign-in", &[("account", account), ("password", "wrong password")])
                .await;
            answers.push(answer.status().as_u16());
        }
        assert_eq!(&answers[6..], [429, 429], "{account}: {answers:?}");
        seen.push(answers);
    }
    assert_eq!(seen[0], seen[1], "how often one may try tells nothing about the account");
    // Also the right password has to wait: otherwise the wait would say nothing.
    let mut owner = Browser::new(&city);
    let answer = owner.post("/en/sign-in", "/en/sign-in", &[("account", "chan"), ("password", PASSWORD)]).await;
    assert_eq!(answer.status(), 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_name_nobody() {
    let city = TestCity::start().await;
    let key = city.key("dsd", "admin").await;
    let body = r#"{"tenant": "dsd", "key": "very-own-station", "kind": "flood-station"}"#;
    let made = city.request("POST", "/api/devices").bearer_auth(&key).body(body).send().await.unwrap();
    assert_eq!(made.status(), 201);
    city.get("/v1.1/Things?$filter=name%20eq%20'private-question'").send().await.unwrap();
    city.request("ATTACK17", "/en/things/attack-18").send().await.unwrap();
    let reader = city.key("city", "operator").await;
    let figures = city.get("/metrics").bearer_auth(&reader).send().await.unwrap().text().await.unwrap();
    assert!(figures.contains("lamppost_http_requests_total"));
    let mut words = vec!["very-own", "private-question", "ATTACK17", "attack-18", "lpk_", "127.0.0.1"];
    let tenants: Vec<String> = city.running().pack.city.tenant.iter().map(|t| t.slug.get_ref().clone()).collect();
    let quoted: Vec<String> = tenants.iter().map(|t| format!("\"{t}\"")).collect();
    words.extend(quoted.iter().map(String::as_str));
    for word in words {
        assert!(!figures.contains(word), "the figures tell of {word}");
    }
}

/// The program as people run it, with the most talkative log, and every secret that passes through it.
#[test]
fn the_log_holds_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_lamppost"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LAMPPOST_") || name.starts_with("RUST_LOG"))
    {
        program.env_remove(name);
    }
    program.args(["serve", "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--pack", PACK, "--data"]);
    program.arg(folder.path().join("data"));
    program.args(["--set", "log.level=trace", "--set", "mail.smtp_url=smtps://mailer:hunter-seven@mail.example"]);
    program.args(["--set", "mail.from=city@mail.example"]);
    let mut program = program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Read all the time, or the program would wait for somebody to read.
    let mut errors = program.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut text = Vec::new();
        errors.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut said = BufReader::new(program.stdout.take().unwrap());
    let mut next = |mark: &str| loop {
        let mut line = String::new();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "the program ended");
        if let Some(at) = line.find(mark) {
            return line[at..].trim().to_owned();
        }
    };
    let base = next("http://").trim_end_matches('/').to_owned();
    let mqtt = next("mqtt://").trim_start_matches("mqtt://").to_owned();
    let link = next("http://");
    let printed = std::thread::spawn(move || {
        let mut text = String::new();
        drop(said.read_to_string(&mut text));
        text
    });

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let secrets = runtime.block_on(passing_secrets(&base, &link));
    let device = secrets.iter().find(|(name, _)| *name == "a device's key").unwrap().1.clone();
    for password in [device.as_str(), "lpd_wrong-password"] {
        let mut socket = std::net::TcpStream::connect(&mqtt).unwrap();
        let mut connect =
            vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0xc2, 0, 30, 0, 1, b'c', 0, 1, b'u', 0, password.len() as u8];
        connect.extend(password.as_bytes());
        let mut packet = vec![0x10, connect.len() as u8];
        packet.extend(connect);
        socket.write_all(&packet).unwrap();
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer[3] == 0, password == device, "{answer:?}");
    }
    let done = Command::new("kill").arg(program.id().to_string()).status().unwrap();
    assert!(done.success());
    assert!(program.wait().unwrap().success());
    let log = log.join().unwrap() + &printed.join().unwrap();
    assert!(
        log.contains("TRACE") || log.contains("DEBUG"),
        "the log is not talkative: {}",
        &log[..log.len().min(2_000)]
    );
    for (name, secret) in secrets {
        assert!(secret.len() >= 8, "{name}");
        if let Some(at) = log.find(&secret) {
            let from = log[..at].rfind('\n').map_or(0, |n| n + 1);
            panic!("the log holds {name}: {}", log[from..].lines().next().unwrap_or_default());
        }
    }
}

/// Signs in, makes keys and uses them, rightly and wrongly: everything that must not be read anywhere.
async fn passing_secrets(base: &str, link: &str) -> Vec<(&'static str, String)> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let mut secrets = vec![
        ("the mail relay's password", "hunter-seven".to_owned()),
        ("a password", PASSWORD.to_owned()),
        ("a password, encoded", ui::encode(PASSWORD)),
        ("a wrong password", "not-the-password-9".to_owned()),
        ("a wrong key", "lpd_wrong-password".to_owned()),
        ("the one-time link", link.rsplit('/').next().unwrap().to_owned()),
    ];
    let page = client.get(link).header("accept", "text/html").send().await.unwrap();
    let visitor = page.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let csrf = token(&page.text().await.unwrap());
    let form = async |path: &str, cookie: &str, body: String| {
        let request =
            client.post(path).header("cookie", cookie).header("content-type", "application/x-www-form-urlencoded");
        request.body(body).send().await.unwrap()
    };
    let typed = format!("csrf={}&name=Chan&account=chan&password={}", ui::encode(&csrf), ui::encode(PASSWORD));
    let joined = form(link, &visitor, typed).await;
    assert_eq!(joined.status(), 303);
    let session = joined.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let wrong = format!("csrf={}&account=chan&password=not-the-password-9", ui::encode(&csrf));
    assert_eq!(form(&format!("{base}/en/sign-in"), &visitor, wrong).await.status(), 422);
    let page = client.get(format!("{base}/en/operators")).header("cookie", &session).send().await.unwrap();
    let own = token(&page.text().await.unwrap());
    let body = format!("csrf={}&tenant=dsd&key_role=admin&name=k", ui::encode(&own));
    let made = form(&format!("{base}/en/operators/keys"), &session, body).await.text().await.unwrap();
    let at = made.find("lpk_").unwrap();
    let key: String = made[at..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect();
    let ask = async |path: &str, body: &str| -> Value {
        let request = client.post(format!("{base}{path}")).bearer_auth(&key).body(body.to_owned());
        request.send().await.unwrap().json().await.unwrap()
    };
    let device = ask("/api/devices", r#"{"tenant": "dsd", "key": "s", "kind": "k"}"#).await;
    let issued = ask(&format!("/api/devices/{}/keys", device["id"].as_str().unwrap()), "{}").await;
    let device = issued["key"].as_str().unwrap().to_owned();
    for password in [device.as_str(), "lpd_wrong-password"] {
        client.get(format!("{base}/v1.1/Things")).basic_auth("s", Some(password)).send().await.unwrap();
    }
    secrets.push(("a session", session.split('=').nth(1).unwrap().to_owned()));
    secrets.push(("a form's token", csrf));
    secrets.push(("a program's key", key.splitn(3, '_').nth(2).unwrap().to_owned()));
    secrets.push(("a device's key", device));
    secrets
}
