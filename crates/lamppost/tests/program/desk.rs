//! The device desk, as an officer's browser and a device meet it.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    browser::{Browser, audit, between, location},
    city::TestCity,
};

async fn with_mqtt() -> TestCity {
    TestCity::with(|config| {
        config.mqtt = Some(lamppost::config::Mqtt { listen: ([127, 0, 0, 1], 0).into(), tls: None });
    })
    .await
}

/// Registers a device on the form: its page.
async fn register(browser: &mut Browser<'_>, key: &str, things: &[&str]) -> String {
    let mut fields = vec![("key", key), ("kind", "flood-station")];
    fields.extend(things.iter().map(|thing| ("thing", *thing)));
    let answer = browser.post("/en/devices/new", "/en/devices/new", &fields).await;
    let location = location(&answer);
    location.strip_suffix("?did=registered").expect("to the device's page").to_owned()
}

/// Issues a key by the form: the whole key, and the line that tries it.
async fn issue(browser: &mut Browser<'_>, device: &str) -> (String, String) {
    let answer = browser.post(device, &format!("{device}/keys"), &[]).await;
    assert_eq!((answer.status().as_u16(), answer.headers()["cache-control"].to_str().unwrap()), (200, "no-store"));
    let html = answer.text().await.unwrap();
    let line = between(&html, "<code id=\"line\">", "<").replace("&#39;", "'").replace("&#34;", "\"");
    (between(&html, "<code id=\"secret\">", "<").to_owned(), line)
}

/// An MQTT 3.1.1 connection that was let in.
async fn connect(city: &TestCity, client: &str, key: &str) -> Option<TcpStream> {
    let mut socket = TcpStream::connect(city.running().mqtt.unwrap()).await.unwrap();
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0b1100_0010, 0, 0];
    for text in [client, client, key] {
        body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        body.extend(text.as_bytes());
    }
    let mut packet = vec![0x10];
    let length = body.len();
    packet.extend(if length < 128 {
        vec![length as u8]
    } else {
        vec![(length % 128) as u8 | 0x80, (length / 128) as u8]
    });
    packet.extend(body);
    socket.write_all(&packet).await.unwrap();
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).await.ok()?;
    assert_eq!(answer[..2], [0x20, 2]);
    (answer[3] == 0).then_some(socket)
}

/// Publishes with QoS 1 and waits for the PUBACK.
async fn publish(socket: &mut TcpStream, stream: &str, payload: &str) {
    let topic = format!("v1.1/Datastreams({stream})/Observations");
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend([0, 7]);
    body.extend(payload.as_bytes());
    let mut packet = vec![0x32, u8::try_from(body.len()).unwrap()];
    packet.extend(body);
    socket.write_all(&packet).await.unwrap();
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x40, 2, 0, 7]);
}

async fn ended(mut socket: TcpStream) {
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut rest)).await;
    closed.expect("the connection is still open").ok();
}

/// A Thing of the DSD and its first Datastream.
async fn thing(city: &TestCity) -> (String, String) {
    let path =
        "/v1.1/Things?$filter=properties/system%20eq%20'flood'&$orderby=id&$top=1&$expand=Datastreams($orderby=id)";
    let found: Value = city.get(path).send().await.unwrap().json().await.unwrap();
    let thing = &found["value"][0];
    (thing["@iot.id"].to_string(), thing["Datastreams"][0]["@iot.id"].to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_form_to_a_reading_and_out_of_service() {
    let city = with_mqtt().await;
    let mut officer = Browser::of(&city, "dsd", "device-manager", "chan").await;
    let (thing, stream) = thing(&city).await;
    let (_, html) = officer.get("/en/devices").await;
    assert!(html.contains("href=\"/en/devices\" aria-current=\"true\""), "in the header for whom it is of use");
    assert!(html.contains("register the first device"), "{html}");

    let device = register(&mut officer, "wl-dsd-021", &[&thing]).await;
    let (_, html) = officer.get(&device).await;
    assert!(html.contains("Never seen") && html.contains("It has no key yet"), "{html}");
    let (key, line) = issue(&mut officer, &device).await;
    let port = city.running().mqtt.unwrap().port();
    assert_eq!(
        line,
        format!(
            "mosquitto_pub -h 127.0.0.1 -p {port} -u 'wl-dsd-021' -P '{key}' -q 1 -t 'v1.1/Datastreams({stream})/Observations' \
             -m '{{\"result\": 21.5}}'"
        )
    );
    let (_, html) = officer.get(&device).await;
    assert!(!html.contains(&key), "shown once");

    let mut first = connect(&city, "wl-dsd-021", &key).await.expect("let in");
    publish(&mut first, &stream, "1.37").await;
    let (_, html) = officer.get(&device).await;
    assert!(html.contains("Yes, by MQTT") && html.contains("Healthy") && html.contains("1.37"), "{html}");
    let (_, html) = officer.get("/en/devices?state=healthy&q=WL-").await;
    assert!(html.contains("wl-dsd-021"), "{html}");
    let (_, html) = officer.get("/en/devices?state=silent").await;
    assert!(!html.contains("wl-dsd-021"), "{html}");

    // A second key, the first of them revoked: what is connected with the device ends, and comes back with the good key only.
    let (second, _) = issue(&mut officer, &device).await;
    let prefix = key.split('_').nth(1).unwrap();
    let revoked = officer.post(&device, &format!("{device}/keys/revoke"), &[("prefix", prefix)]).await;
    assert_eq!(location(&revoked), format!("{device}?did=revoked"));
    ended(first).await;
    assert!(connect(&city, "wl-dsd-021", &key).await.is_none());
    let again = connect(&city, "wl-dsd-021", &second).await.expect("the other key is good");

    // Another instead of it, at once.
    let rotated = officer.post(&device, &format!("{device}/keys/rotate"), &[("grace", "0")]).await;
    let html = rotated.text().await.unwrap();
    let third = between(&html, "<code id=\"secret\">", "<").to_owned();
    ended(again).await;
    assert!(connect(&city, "wl-dsd-021", &second).await.is_none());
    let last = connect(&city, "wl-dsd-021", &third).await.expect("the new one is good");

    let service = format!("{device}/service");
    assert_eq!(location(&officer.post(&device, &service, &[("enabled", "no")]).await), format!("{device}?did=out"));
    ended(last).await;
    assert!(connect(&city, "wl-dsd-021", &third).await.is_none());
    assert_eq!(location(&officer.post(&device, &service, &[("enabled", "yes")]).await), format!("{device}?did=back"));
    assert!(connect(&city, "wl-dsd-021", &third).await.is_some(), "nothing was lost by it");

    let remove = format!("{device}/remove");
    assert_eq!(officer.post(&device, &remove, &[("sure", "on")]).await.status(), 409, "in service");
    officer.post(&device, &service, &[("enabled", "no")]).await;
    let unsure = officer.post(&device, &remove, &[]).await;
    assert_eq!(unsure.status(), 422);
    assert!(unsure.text().await.unwrap().contains("Tick the box if you are sure."));
    let gone = officer.post(&device, &remove, &[("sure", "on")]).await;
    assert_eq!(location(&gone), "/en/devices?tenant=dsd&did=removed");
    assert_eq!(officer.get(&device).await.0, 404);
    let done = audit(&city).await;
    for action in ["device:register", "device:key-issue", "device:key-revoke", "device:change", "device:delete"] {
        assert!(done.contains(&action.to_owned()), "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_typed_stays_until_it_is_right() {
    let city = TestCity::start().await;
    let mut officer = Browser::of(&city, "dsd", "device-manager", "chan").await;
    let (thing, _) = thing(&city).await;
    let new = "/en/devices/new";
    let wrong = officer.post(new, new, &[("name", "By the <bridge>"), ("firmware", "2.1"), ("thing", &thing)]).await;
    assert_eq!(wrong.status(), 422);
    let html = wrong.text().await.unwrap();
    assert!(html.contains("error-summary") && html.contains("href=\"#field-key\""), "{html}");
    assert!(html.contains("By the &lt;bridge&gt;") && html.contains("value=\"2.1\""), "{html}");
    assert!(html.contains(&format!("name=\"thing\" value=\"{thing}\" checked")), "also what was ticked");

    // Looking for a place writes nothing, by its button and by Enter in its field.
    for (by, sought) in [("find", ""), ("enter", "")] {
        let fields =
            [("do", by), ("q", "Lam Tsuen"), ("sought", sought), ("key", "k"), ("kind", "k"), ("thing", &thing)];
        let looked = officer.post(new, new, &fields).await;
        assert_eq!(looked.status(), 200, "{by}");
        let html = looked.text().await.unwrap();
        assert!(html.contains("Lam Tsuen flood station") && !html.contains("Mui Wo"), "{html}");
        assert!(html.contains(&format!("value=\"{thing}\" checked")), "{html}");
    }
    let (_, html) = officer.get("/en/devices").await;
    assert!(html.contains("register the first device"), "nothing was registered: {html}");

    register(&mut officer, "wl-1", &[]).await;
    let twice = officer.post(new, new, &[("key", "wl-1"), ("kind", "flood-station")]).await;
    assert_eq!(twice.status(), 422);
    assert!(twice.text().await.unwrap().contains("Another device of the department has this key."));
    let long = "x".repeat(81);
    let fields = [("key", long.as_str()), ("kind", "a\nb")];
    let html = officer.post(new, new, &fields).await.text().await.unwrap();
    assert_eq!(
        html.matches("Use at most 80 characters, without line breaks.").count(),
        4,
        "summary and fields: {html}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_moves_and_its_rights_with_it() {
    let city = TestCity::start().await;
    let mut officer = Browser::of(&city, "dsd", "device-manager", "chan").await;
    let (thing, stream) = thing(&city).await;
    let device = register(&mut officer, "wl-1", &[]).await;
    let (key, _) = {
        let answer = officer.post(&device, &format!("{device}/keys"), &[]).await;
        let html = answer.text().await.unwrap();
        assert!(html.contains("There is nothing to try it with yet"), "{html}");
        (between(&html, "<code id=\"secret\">", "<").to_owned(), ())
    };
    let post = async |body: &'static str| {
        let path = format!("/v1.1/Datastreams({stream})/Observations");
        let request = city.request("POST", &path).bearer_auth(&key).header("content-type", "application/json");
        request.body(body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(post("{\"result\": 1}").await, 403, "it has no place");
    let (_, html) = officer.get(&device).await;
    assert!(html.contains("You may not add Observations"), "the page says why it was refused: {html}");
    let change = format!("{device}/change");
    let (_, form) = officer.get(&change).await;
    assert!(form.contains("value=\"wl-1\"") && form.contains("value=\"flood-station\""), "{form}");
    let fields = [("name", "At the weir"), ("kind", "flood-station"), ("firmware", "3"), ("thing", thing.as_str())];
    assert_eq!(location(&officer.post(&change, &change, &fields).await), format!("{device}?did=changed"));
    assert_eq!(post("{\"result\": 1.25}").await, 201);
    assert_eq!(post("{\"result\": \"high\"}").await, 400);
    let (_, html) = officer.get(&device).await;
    assert!(html.contains("At the weir") && html.contains("1.25") && html.contains("Refused"), "{html}");
    assert!(html.contains("so a number is expected"), "{html}");
    // Things of another department are not given, even to who sends their numbers.
    let path = "/v1.1/Things?$filter=properties/system%20eq%20'air'&$top=1&$select=id";
    let air: Value = city.get(path).send().await.unwrap().json().await.unwrap();
    let air = air["value"][0]["@iot.id"].to_string();
    officer.post(&change, &change, &[("name", ""), ("kind", "flood-station"), ("firmware", ""), ("thing", &air)]).await;
    let manager = city.key("dsd", "device-manager").await;
    let id = device.rsplit('/').next().unwrap();
    let now: Value =
        city.get(&format!("/api/devices/{id}")).bearer_auth(&manager).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&now["things"], &now["name"], &now["firmware"]),
        (&"[]".parse().unwrap(), &"wl-1".into(), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_learns_nothing_and_does_nothing() {
    let city = TestCity::start().await;
    let mut officer = Browser::of(&city, "dsd", "device-manager", "chan").await;
    let device = register(&mut officer, "wl-1", &[]).await;
    let (key, _) = {
        let html = officer.post(&device, &format!("{device}/keys"), &[]).await.text().await.unwrap();
        (between(&html, "<code id=\"secret\">", "<").to_owned(), ())
    };
    let prefix = key.split('_').nth(1).unwrap().to_owned();
    let mut viewer = Browser::of(&city, "dsd", "viewer", "lee").await;
    let mut other = Browser::of(&city, "epd", "admin", "wong").await;
    let mut nobody = Browser::new(&city);
    let operations = Browser::of(&city, "city", "operator", "hoho").await;

    for path in ["/en/devices", "/en/devices/new", &device, &format!("{device}/change")] {
        let (status, _) = nobody.get(path).await;
        assert_eq!(status, 303, "{path}: to the form to sign in");
    }
    let (status, html) = viewer.get(&device).await;
    assert_eq!(status, 200);
    assert!(!html.contains("Revoke") && !html.contains("Take out of service"), "only what one may do is offered");
    assert_eq!(viewer.get(&format!("{device}/change")).await.0, 403);
    assert_eq!(viewer.get("/en/devices/new").await.0, 403);
    for path in [&*device, &format!("{device}/change"), "/en/devices?tenant=dsd", "/en/devices/new?tenant=dsd"] {
        let (status, html) = other.get(path).await;
        assert_eq!(status, 404, "{path}");
        assert!(!html.contains("wl-1"), "{path}");
    }
    let mut operations = operations;
    let (status, html) = operations.get("/en/devices?tenant=dsd").await;
    assert_eq!(status, 200);
    assert!(html.contains("wl-1") && html.contains("Environmental Protection Department"), "every department: {html}");

    let forms: [(String, Vec<(&str, &str)>); 7] = [
        ("/en/devices/new".to_owned(), vec![("tenant", "dsd"), ("key", "wl-2"), ("kind", "k")]),
        (format!("{device}/change"), vec![("name", "x"), ("kind", "k"), ("firmware", "")]),
        (format!("{device}/keys"), vec![]),
        (format!("{device}/keys/rotate"), vec![("grace", "0")]),
        (format!("{device}/keys/revoke"), vec![("prefix", &prefix)]),
        (format!("{device}/service"), vec![("enabled", "no")]),
        (format!("{device}/remove"), vec![("sure", "on")]),
    ];
    let manager = city.key("dsd", "device-manager").await;
    let api = device.replace("/en/", "/api/");
    let state = async || city.get(&api).bearer_auth(&manager).send().await.unwrap().json::<Value>().await.unwrap();
    let (before, rows) = (state().await, audit(&city).await.len());
    let (of_viewer, of_other) = (viewer.token().await, other.token().await);
    for (path, fields) in &forms {
        assert_eq!(viewer.post_with(&of_viewer, path, fields).await.status(), 403, "{path}");
        assert_eq!(other.post_with(&of_other, path, fields).await.status(), 404, "{path}");
        assert_eq!(officer.post_with("", path, fields).await.status(), 403, "{path}: no token");
        assert_eq!(officer.post_with(&of_viewer, path, fields).await.status(), 403, "{path}: another's token");
        assert_eq!(nobody.post_with("", path, fields).await.status(), 401, "{path}");
        let by_key = city.request("POST", path).bearer_auth(&manager);
        let by_key = by_key.header("content-type", "application/x-www-form-urlencoded").body("csrf=x");
        assert_eq!(by_key.send().await.unwrap().status(), 401, "{path}: forms are for browsers");
    }
    let own = officer.token().await;
    for (path, fields) in
        [("keys/rotate", ("grace", "12")), ("keys", ("ends", "-1")), ("service", ("enabled", "maybe"))]
    {
        assert_eq!(officer.post_with(&own, &format!("{device}/{path}"), &[fields]).await.status(), 400, "{path}");
    }
    let revoke = format!("{device}/keys/revoke");
    assert_eq!(officer.post_with(&own, &revoke, &[("prefix", "nonsense")]).await.status(), 404);
    assert_eq!(officer.get("/en/devices/not-an-id").await.0, 404);
    assert_eq!((state().await, audit(&city).await.len()), (before, rows), "nothing of that changed anything");
}
