//! What a stranger may send: each is answered with a problem that says what to do, nothing is changed, and the door stays open.

use std::{io::Write as _, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::city::TestCity;

/// Longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends bytes as they are and reads to the end: the status and the whole answer.
async fn raw(city: &TestCity, bytes: &[u8]) -> (u16, String) {
    let mut socket = TcpStream::connect(city.running().http).await.unwrap();
    // The server may hang up before it has taken all of it.
    drop(socket.write_all(bytes).await);
    let mut answer = Vec::new();
    drop(tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an answer, or the end"));
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, text)
}

/// A problem document with something to go by.
async fn problem(name: &str, answer: reqwest::Response, status: u16) -> Value {
    assert_eq!(answer.status().as_u16(), status, "{name}");
    let kind = answer.headers().get("content-type").map(|k| k.to_str().unwrap().to_owned());
    let text = answer.text().await.unwrap();
    assert_eq!(kind.as_deref(), Some("application/problem+json"), "{name}: {text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], status, "{name}");
    assert!(problem["detail"].as_str().is_some_and(|d| d.len() > 10), "{name}: {problem}");
    for inside in ["panicked", "sqlite", "SELECT ", "/src/", "RUST_BACKTRACE"] {
        assert!(!text.contains(inside), "{name} tells of '{inside}': {text}");
    }
    problem
}

/// What a refused request must not have moved: the audit, which every decision writes, and the stream of observations.
async fn count(city: &TestCity) -> (Option<i64>, u64) {
    let query = records::AuditQuery { limit: 1, ..Default::default() };
    let audit = city.running().stores.records.audit(query).await.unwrap();
    (audit.rows.first().map(|row| row.id), city.running().stores.stream.topic("observations").unwrap().end().0)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_ask_for_too_much() {
    let city = TestCity::start().await;
    let before = count(&city).await;
    let deep = |open: &str, close: &str, n: usize| format!("{}1 eq 1{}", open.repeat(n), close.repeat(n));
    let expand = |n: usize| {
        let inner = (0..n).map(|i| if i % 2 == 0 { "Datastreams($expand=" } else { "Thing($expand=" });
        format!("{}Datastreams{}", inner.collect::<String>(), ")".repeat(n))
    };
    for (option, value) in [
        ("$filter", deep("(", ")", 5_000)),
        ("$filter", deep("not (", ")", 2_000)),
        ("$filter", format!("1 eq {}1", "-".repeat(5_000))),
        ("$filter", format!("name eq {}", "concat('a',".repeat(1_000))),
        ("$filter", format!("{}id eq 1", "id eq 1 or ".repeat(2_000))),
        ("$filter", "name eq 'x".to_owned()),
        ("$filter", "id eq 99999999999999999999999999".to_owned() + &"9".repeat(400) + " and"),
        ("$filter", "substringof(name)".to_owned()),
        ("$filter", "geo.distance(location, geography'POINT(1e999 0)') lt 1".to_owned()),
        ("$filter", "st_within(location, geography'POLYGON((0 0))')".to_owned()),
        ("$filter", "name eq '\u{0}".to_owned()),
        ("$expand", expand(60)),
        ("$expand", "Nothing".to_owned()),
        ("$orderby", "name desc desc".to_owned()),
        ("$select", "nothing".to_owned()),
        ("$top", "-1".to_owned()),
        ("$top", "99999999999999999999".to_owned()),
        ("$top", "NaN".to_owned()),
        ("$skip", "1e99".to_owned()),
        ("$skip", "-9223372036854775809".to_owned()),
        ("$count", "perhaps".to_owned()),
        ("$skiptoken", "x".repeat(10_000)),
        ("$nothing", "1".to_owned()),
    ] {
        let path = format!("/v1.1/Things?{}={}", ui::encode(option), ui::encode(&value));
        let name = format!("{option}={}", value.chars().take(60).collect::<String>());
        let answer = city.get(&path).send().await.unwrap();
        if answer.status() == 414 || answer.status() == 431 {
            continue;
        }
        let problem = problem(&name, answer, if option == "$nothing" { 501 } else { 400 }).await;
        let named = problem.to_string().contains(option.trim_start_matches('$'));
        assert!(named, "{name}: the problem does not name the option: {problem}");
    }
    // Large numbers that are numbers are an empty page, not an error.
    for path in ["/v1.1/Things?$skip=9223372036854775807", "/v1.1/Things?$top=2147483647"] {
        let answer = city.get(path).send().await.unwrap();
        assert!(matches!(answer.status().as_u16(), 200 | 400), "{path}: {}", answer.status());
    }
    assert_eq!(count(&city).await, before, "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_what_they_should_be() {
    let city = TestCity::with(|config| config.http.body_limit = 2 << 20).await;
    let key = city.key("dsd", "admin").await;
    let before = count(&city).await;
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let properties = format!(
        r#"{{"name": "a", "description": "d", "properties": {}}}"#,
        r#"{"a":"#.repeat(500) + "1" + &"}".repeat(500)
    );
    for (method, path, body) in [
        ("POST", "/v1.1/Things", nested(100_000)),
        ("POST", "/v1.1/Things", properties),
        ("POST", "/v1.1/Things", r#"{"name": NaN}"#.to_owned()),
        ("POST", "/v1.1/Things", r#"{"name": "\ud800", "description": "d"}"#.to_owned()),
        ("POST", "/v1.1/Things", r#"{"name": "a"}"#.to_owned()),
        ("POST", "/v1.1/Things", r#"{"name": 7, "description": "d"}"#.to_owned()),
        ("POST", "/v1.1/Things", r#"{"name": "a", "description": "d", "surprise": 1}"#.to_owned()),
        ("POST", "/v1.1/Things", "null".to_owned()),
        ("POST", "/v1.1/Things", String::new()),
        ("POST", "/v1.1/Observations", r#"{"result": 1e999, "Datastream": {"@iot.id": 1}}"#.to_owned()),
        ("POST", "/v1.1/Observations", r#"{"result": 1, "Datastream": {"@iot.id": 1e30}}"#.to_owned()),
        (
            "POST",
            "/v1.1/Observations",
            r#"{"result": 1, "phenomenonTime": "yesterday", "Datastream": {"@iot.id": 1}}"#.to_owned(),
        ),
        ("POST", "/v1.1/CreateObservations", nested(100_000)),
        (
            "POST",
            "/v1.1/CreateObservations",
            r#"[{"Datastream": {"@iot.id": 1}, "components": [], "dataArray": [[]]}]"#.to_owned(),
        ),
        ("POST", "/v1.1/CreateObservations", r#"[{"components": ["result"], "dataArray": [[1]]}]"#.to_owned()),
        ("POST", "/v1.1/CreateObservations", r#"{"#.to_owned()),
        ("POST", "/api/devices", nested(100_000)),
        ("POST", "/api/devices", r#"{"tenant": "dsd"}"#.to_owned()),
        ("POST", "/api/devices", r#"{"tenant": "DSD", "key": "a", "kind": "b"}"#.to_owned()),
        ("POST", "/api/devices", "{\"tenant\": \"dsd\", \"key\": \"a\\u0000b\", \"kind\": \"b\"}".to_owned()),
        ("POST", "/api/rules/check", r#"{"rule": [{"key": "Ü"}]}"#.to_owned()),
        ("POST", "/api/rules/check", nested(100_000)),
    ] {
        let name = format!("{method} {path} {}", body.chars().take(60).collect::<String>());
        let answer = city.request(method, path).bearer_auth(&key).body(body).send().await.unwrap();
        problem(&name, answer, 400).await;
    }
    for (path, bytes) in [("/v1.1/Things", b"{\"name\": \"\xff\"}".as_slice()), ("/api/devices", b"\xfe\xff\x00{")] {
        let answer = city.request("POST", path).bearer_auth(&key).body(bytes.to_vec()).send().await.unwrap();
        problem(path, answer, 400).await;
    }

    // A body that says it is compressed is not unpacked, neither for good nor for a bomb.
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 100_000);
    for encoding in ["gzip", "deflate, gzip", "br", "zstd"] {
        let request = city.request("POST", "/v1.1/Things").bearer_auth(&key).header("content-encoding", encoding);
        let answer = request.body(bomb.clone()).send().await.unwrap();
        problem(encoding, answer, 415).await;
    }

    // Too large, whether it says so or not.
    let large = "x".repeat(3 << 20);
    let answer = city.request("POST", "/v1.1/Things").bearer_auth(&key).body(large.clone()).send().await;
    problem("a body that says its length", answer.unwrap(), 413).await;
    let head = format!(
        "POST /v1.1/Things HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let mut chunked = head.into_bytes();
    for _ in 0..3 {
        chunked.extend(b"100000\r\n");
        chunked.resize(chunked.len() + 0x10_0000, b'x');
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let (status, text) = raw(&city, &chunked).await;
    assert!(status == 413 && text.contains("application/problem+json"), "{status} {text}");
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client.post(city.url("/v1.1/Things")).bearer_auth(&key).body(large).send().await.unwrap();
    problem("HTTP/2", answer, 413).await;

    assert_eq!(count(&city).await, before, "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_lead_elsewhere() {
    let city = TestCity::start().await;
    let admin = city.key("city", "admin").await;
    for path in [
        "/assets/../secret",
        "/assets/..%2f..%2fetc%2fpasswd",
        "/assets/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%5c..%5cetc",
        "/assets/x%00.css",
        "/en/../../etc/passwd",
        "/api/map/layers/..%2f..%2fpack.toml",
        "/api/map/layers/%00",
        "/api/datastreams/..%2f1/series",
        "/v1.1/Things(1)%00",
        "/v1.1/..%2fapi%2fdevices",
        "/v1.1/Things(99999999999999999999)",
        "/v1.1/Things(-1)",
        "/v1.1/Things('1')",
        "/v1.1/Observations('1-2-3-4-5-6')",
        "/en/things/%ff",
        "/en/datastreams/1e9",
        "/api/alarms/%f0%28%8c%28",
        "/v1.1/%ff",
        "/v1.1/Things(1)/%c0%af",
    ] {
        let (status, text) =
            raw(&city, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await;
        assert!(matches!(status, 307 | 400 | 404), "{path}: {status}");
        let plain = status == 307 && text.contains("\r\nlocation: /en/");
        assert!(plain || text.contains("application/problem+json"), "{path}: {text}");
        assert!(!text.contains("root:"), "{path}: {text}");
    }
    for name in ["..%2fx", ".hidden", "a%2fb", "%00", "-rf"] {
        let answer = city.request("PUT", &format!("/api/ops/backups/{name}")).bearer_auth(&admin).send().await.unwrap();
        problem(name, answer, 400).await;
    }
    // Nobody is sent to another host.
    for path in ["//evil.example/", "//evil.example/%2f..", "/\\evil.example", "/%0d%0aset-cookie:%20a=b"] {
        let (_, text) =
            raw(&city, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await;
        let head = text.split("\r\n\r\n").next().unwrap().to_lowercase();
        let location = head.lines().find_map(|l| l.strip_prefix("location: "));
        assert!(location.is_none_or(|l| l.starts_with("/en/") && !l.starts_with("/en//")), "{path}: {head}");
        assert!(!head.contains("\nset-cookie"), "{path}: {head}");
    }
    // A host that is none does not get into the links.
    let evil = "GET /v1.1/Things?$top=1 HTTP/1.1\r\nhost: evil.example/\"><script>\r\nconnection: close\r\n\r\n";
    let (_, text) = raw(&city, evil.as_bytes()).await;
    assert!(!text.contains("<script>"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_much() {
    let city = TestCity::start().await;
    let many: String = (0..150).map(|i| format!("x-{i}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(1 << 20));
    for (name, head) in [("many headers", many), ("a long header", long)] {
        let (status, _) = raw(&city, format!("GET /health/live HTTP/1.1\r\nhost: x\r\n{head}\r\n").as_bytes()).await;
        assert!(matches!(status, 0 | 400 | 431), "{name}: {status}");
    }
    let address =
        format!("GET /v1.1/Things?$filter={} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "a".repeat(100_000));
    let (status, _) = raw(&city, address.as_bytes()).await;
    assert!(matches!(status, 0 | 400 | 414 | 431), "{status}");
    for nonsense in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"GET /health/live HTTP/1.1\r\nhost : x\r\n\r\n",
        b"POST /v1.1/Things HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\xff\xff\x00\x00\x00\x00\x00\x01",
    ] {
        let mut socket = TcpStream::connect(city.running().http).await.unwrap();
        socket.write_all(nonsense).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        drop(tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it ends"));
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("/smuggled"), "{text}");
    }
    assert_eq!(city.get("/health/live").send().await.unwrap().status(), 200, "and the door is open");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_holds_nothing_for_long() {
    let city = TestCity::with(|config| {
        config.http.timeout = Duration::from_millis(300);
        config.http.head_timeout = Duration::from_millis(300);
        config.http.concurrency = 4;
    })
    .await;
    // A body that never comes, also from one who says that it reads events: both give the place back.
    for accept in ["*/*", "text/event-stream"] {
        let head = format!("POST /v1.1/Things HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\ncontent-length: 10\r\n\r\n{{");
        let key = city.key("dsd", "admin").await;
        let head = head.replacen("\r\n", &format!("\r\nauthorization: Bearer {key}\r\n"), 1);
        let mut all = Vec::new();
        for _ in 0..4 {
            let mut socket = TcpStream::connect(city.running().http).await.unwrap();
            socket.write_all(head.as_bytes()).await.unwrap();
            all.push(socket);
        }
        for mut socket in all {
            let mut answer = [0; 12];
            let read = tokio::time::timeout(PATIENCE, socket.read_exact(&mut answer)).await;
            read.unwrap_or_else(|_| panic!("{accept}: a request without its body is never given up")).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 503", "{accept}");
        }
        assert_eq!(city.get("/health/live").send().await.unwrap().status(), 200, "{accept}");
    }
    // Who connects and says nothing, half a preface or half a head, is let go.
    for words in
        ["", "P", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /health/live HTTP/1.1\r\nhost"]
    {
        let mut socket = TcpStream::connect(city.running().http).await.unwrap();
        socket.write_all(words.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{words:?} keeps a connection for ever");
    }
    // Events still come for as long as one listens.
    let live = city.get("/api/live").header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(live.status(), 200);
}
