//! E-mail and webhooks against real servers that refuse first and accept then.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Bytes as Body,
    http::{HeaderMap, StatusCode},
    routing::any,
};
use kernel::{Language, SystemClock};
use parking_lot::Mutex;
use records::RetryPolicy;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::notify::{
    self, Notifier,
    mail::{Security, Smtp, Stationery},
    model::{Delivery, DeliveryState, Email, Webhook},
    webhook::{Secret, sign},
};

const NOW: i64 = 1_000_000;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

pub(super) fn options(smtp: Option<u16>, allowed: &[&str]) -> notify::Options {
    let moment = Duration::from_millis(10);
    notify::Options {
        smtp: smtp.map(|port| Smtp {
            host: "127.0.0.1".to_owned(),
            port,
            security: Security::None,
            from: "Lamppost <alarms@city.example>".to_owned(),
            login: None,
        }),
        secrets: BTreeMap::from([("hook".to_owned(), Secret::parse(SECRET).expect("valid"))]),
        allowed: Allowed::new(allowed.iter().map(|h| (*h).to_owned())),
        timeout: Duration::from_secs(10),
        concurrency: 4,
        retry: RetryPolicy { lease: Duration::from_secs(30), first_pause: moment, longest_pause: moment },
        stationery: Stationery {
            catalogue: Arc::new(ui::Catalogue::new(&[notify::TEXTS]).expect("texts")),
            zone: jiff::tz::TimeZone::fixed(jiff::tz::offset(8)),
            address: "https://city.example".to_owned(),
        },
    }
}

pub(super) fn recipient(key: &str) -> Recipient {
    Recipient {
        key: key.to_owned(),
        tenant: tenant("dsd"),
        language: Language::ZhHant,
        min_severity: Severity::Minor,
        occasions: [notify::Occasion::Raised, notify::Occasion::Cleared].into(),
        districts: BTreeSet::new(),
        group: 0,
        hours: Vec::new(),
        at_any_hour: None,
        email: None,
        webhook: None,
    }
}

pub(super) fn hook(url: String) -> Recipient {
    Recipient { webhook: Some(Webhook { url, secret: "hook".to_owned() }), ..recipient("hook") }
}

/// A city whose rule tells `recipient`, with one alarm raised and, with `clear`, cleared.
async fn city(recipient: Recipient, clear: bool) -> City {
    // Jobs wait by the records' clock, so that one must move.
    let city = City::with(Store::Sqlite, Arc::new(FixedClock::at(secs(NOW))), Arc::new(SystemClock)).await;
    city.gauge(1, "dsd", true).await;
    let rule = RuleDeclaration { notify: vec![recipient.key.clone()], ..high(0) };
    let records = city.records.clone();
    // Declared past the check, so that the second line of defence is tested too.
    let stored = records.write(move |tx| {
        notify::store::put_recipient(tx, &recipient).and_then(|_| {
            crate::rules::store::put_rule(tx, &crate::rules::model::Rule::new(rule.clone()).expect("valid"))
        })
    });
    stored.await.expect("stored");
    let engine = city.engine().await;
    let mut next = city.send(&[(1, NOW, 11.0)]).await;
    if clear {
        next = city.send(&[(1, NOW + 60, 7.0)]).await;
    }
    engine.evaluated(next).await;
    engine.stop().await;
    city
}

pub(super) async fn deliveries(city: &City) -> Vec<Delivery> {
    let visible = city.alarms.visible(&Caller::system("test"));
    let read = city.records.read(move |r| notify::store::list(r, &visible, None, None, None, 100));
    read.await.expect("deliveries")
}

/// Runs the notifier until no delivery is pending.
async fn work(city: &City, options: notify::Options) -> Vec<Delivery> {
    let notifier = Notifier::new(city.records.clone(), options).expect("options");
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let running = tokio::spawn(async move { notifier.run(stopping.cancelled()).await });
    let done = loop {
        let all = deliveries(city).await;
        if all.iter().all(|d| d.state != DeliveryState::Pending) {
            break all;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    stop.cancel();
    running.await.expect("ran").expect("worked");
    done
}

/// Lets the notifier do everything that is due by the records' clock.
pub(super) async fn settle(city: &City) {
    let due = || async {
        let sql = "SELECT COUNT(*) FROM records_job WHERE due_at <= $1";
        let count = city.records.read(move |r| r.query_one(sql, params![r.now()], |row| row.get::<i64>(0)));
        count.await.expect("count")
    };
    while due().await > 0 {
        let notifier = Notifier::new(city.records.clone(), options(None, &["127.0.0.1"])).expect("options");
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let running = tokio::spawn(async move { notifier.run(stopping.cancelled_owned()).await });
        while due().await > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Whoever has taken a job finishes it, and may have left another.
        stop.cancel();
        running.await.expect("ran").expect("worked");
    }
}

/// A mail server that speaks just enough of RFC 5321. `answers` are what it says to RCPT, one a session; after them it accepts.
async fn mail_server(answers: Vec<&'static str>) -> (u16, watch::Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    let (sent, letters) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        while let Ok((socket, _)) = listener.accept().await {
            let answer = answers.next();
            let (read, mut write) = socket.into_split();
            let mut lines = BufReader::new(read).lines();
            let _ = write.write_all(b"220 test\r\n").await;
            let mut letter: Option<String> = None;
            while let Ok(Some(line)) = lines.next_line().await {
                let reply = match &mut letter {
                    Some(_) if line == "." => {
                        sent.send_modify(|all| all.push(letter.take().unwrap_or_default()));
                        "250 taken"
                    }
                    Some(text) => {
                        text.push_str(&line);
                        text.push('\n');
                        continue;
                    }
                    None if line.starts_with("RCPT") => answer.unwrap_or("250 ok"),
                    None if line == "DATA" => {
                        letter = Some(String::new());
                        "354 go on"
                    }
                    None if line == "QUIT" => "221 bye",
                    None => "250 ok",
                };
                let _ = write.write_all(format!("{reply}\r\n").as_bytes()).await;
            }
        }
    });
    (port, letters)
}

fn decoded(letter: &str) -> String {
    let (_, body) = letter.split_once("\n\n").expect("a body");
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let joined: String = body.split_whitespace().collect();
    String::from_utf8(STANDARD.decode(joined).expect("base64")).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_arrives_in_the_readers_language_after_the_relay_recovers() {
    let (port, letters) = mail_server(vec!["451 busy", "421 going down"]).await;
    let to = Recipient { email: Some(Email { to: vec!["duty@dsd.example".to_owned()] }), ..recipient("duty") };
    let city = city(to, false).await;
    let done = work(&city, options(Some(port), &[])).await;
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].state, done[0].attempts, done[0].last_error.as_deref()), (DeliveryState::Delivered, 3, None));
    let letters = letters.borrow().clone();
    assert_eq!(letters.len(), 1, "accepted once, so sent once");
    assert!(letters[0].contains(&format!("<{}@city.example>", done[0].id)), "{}", letters[0]);
    let text = decoded(&letters[0]);
    assert!(text.contains("新田出現「水位過高」，自 1970年1月12日 21:46 起。"), "{text}");
    assert!(text.contains("前往查看") && text.contains("https://city.example/zh-hant/alarms/"), "{text}");
    assert!(!text.contains('{'), "every placeholder is filled: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_refuses_for_good_is_a_dead_letter() {
    let (port, letters) = mail_server(vec!["550 no such person"]).await;
    let to = Recipient { email: Some(Email { to: vec!["gone@dsd.example".to_owned()] }), ..recipient("duty") };
    let city = city(to, false).await;
    let done = work(&city, options(Some(port), &[])).await;
    assert_eq!((done[0].state, done[0].attempts), (DeliveryState::Dead, 1));
    assert!(done[0].last_error.as_deref().is_some_and(|e| e.contains("550")), "{done:?}");
    assert!(letters.borrow().is_empty());
    assert_eq!(city.all().await.len(), 1, "the alarm is no less raised");
    // Sent again by a person, with the relay in order now.
    let id = done[0].id;
    assert!(city.records.write(move |tx| notify::store::revive(tx, id)).await.expect("revived"));
    let done = work(&city, options(Some(port), &[])).await;
    assert_eq!(done[0].state, DeliveryState::Delivered);
}

pub(super) type Calls = Arc<Mutex<Vec<(HeaderMap, Vec<u8>)>>>;

/// A receiver that answers with `answers` first and 204 then.
pub(super) async fn receiver(answers: Vec<u16>) -> (u16, Calls) {
    let calls: Calls = Arc::default();
    let (seen, count) = (Arc::clone(&calls), Arc::new(AtomicUsize::new(0)));
    let take = move |headers: HeaderMap, body: Body| async move {
        seen.lock().push((headers, body.to_vec()));
        let status = answers.get(count.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(204);
        let status = StatusCode::from_u16(status).expect("status");
        // Where a redirect would lead, if anybody followed it.
        (status, [("location", "/elsewhere")], "x".repeat(100_000))
    };
    let routes = Router::new().route("/hook", any(take.clone())).route("/elsewhere", any(take));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (port, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_signed_and_tried_until_it_is_taken() {
    let (port, calls) = receiver(vec![500, 302, 429]).await;
    let city = city(hook(format!("http://127.0.0.1:{port}/hook")), false).await;
    let done = work(&city, options(None, &["127.0.0.1"])).await;
    assert_eq!((done[0].state, done[0].attempts), (DeliveryState::Delivered, 4));
    let calls = calls.lock().clone();
    assert_eq!(calls.len(), 4);
    let secret = Secret::parse(SECRET).expect("valid");
    for (headers, body) in &calls {
        let header = |name: &str| headers[name].to_str().expect("text").to_owned();
        assert_eq!(header("webhook-id"), done[0].id.to_string(), "the same for every attempt");
        let timestamp = header("webhook-timestamp").parse().expect("seconds");
        assert_eq!(header("webhook-signature"), sign(&secret, &header("webhook-id"), timestamp, body));
        let json: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        assert_eq!(
            (&json["type"], &json["data"]["rule"], &json["data"]["state"]),
            (&"alarm.raised".into(), &"high".into(), &"open".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_of_an_alarm_are_told() {
    let (port, calls) = receiver(vec![]).await;
    let city = city(hook(format!("http://127.0.0.1:{port}/hook")), true).await;
    let done = work(&city, options(None, &["127.0.0.1"])).await;
    assert_eq!(done.len(), 2);
    let mut types: Vec<_> = calls
        .lock()
        .iter()
        .map(|(_, b)| serde_json::from_slice::<serde_json::Value>(b).expect("JSON")["type"].clone())
        .collect();
    types.sort_by_key(ToString::to_string);
    assert_eq!(types, ["alarm.cleared", "alarm.raised"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_into_the_citys_own_network() {
    let (port, calls) = receiver(vec![]).await;
    for (url, allowed) in [
        (format!("http://127.0.0.1:{port}/hook"), &[][..]),
        (format!("https://127.0.0.1:{port}/hook"), &[]),
        (format!("https://[::ffff:7f00:1]:{port}/hook"), &[]),
        (format!("http://localhost:{port}/hook"), &["127.0.0.1"]),
    ] {
        let city = city(hook(url.clone()), false).await;
        let done = work(&city, options(None, allowed)).await;
        assert_eq!((done[0].state, done[0].attempts), (DeliveryState::Dead, 1), "{url} {done:?}");
    }
    let gone = receiver(vec![410]).await;
    let city = city(hook(format!("http://127.0.0.1:{}/hook", gone.0)), false).await;
    let done = work(&city, options(None, &["127.0.0.1"])).await;
    assert_eq!((done[0].state, done[0].attempts), (DeliveryState::Dead, 1));
    assert!(calls.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_told() {
    let less = Recipient { min_severity: Severity::Extreme, ..hook("https://h.example/".to_owned()) };
    assert!(deliveries(&city(less, true).await).await.is_empty(), "not grave enough");
    let other = Recipient { tenant: tenant("epd"), ..hook("https://h.example/".to_owned()) };
    assert!(deliveries(&city(other, true).await).await.is_empty(), "another tenant's");
    let ends = Recipient { occasions: [notify::Occasion::Cleared].into(), ..hook("https://h.example/".to_owned()) };
    assert_eq!(deliveries(&city(ends, true).await).await.len(), 1);
}

#[test]
fn the_letters_are_whole_in_every_language() {
    let catalogue = ui::Catalogue::new(&[notify::TEXTS]).expect("texts");
    assert_eq!(catalogue.check(), []);
}

/// Ten thousand gauges of two districts go over their level within three seconds of the program's clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_alarms_is_a_bounded_number_of_letters() {
    const GAUGES: i64 = 10_000;
    let city = City::new(Store::Sqlite).await;
    let grouped = Recipient { group: 300, ..hook("https://control.example/alarms".to_owned()) };
    let elsewhere =
        Recipient { key: "elsewhere".to_owned(), districts: ["South".to_owned()].into(), ..grouped.clone() };
    let alarm = |n: i64| Alarm {
        id: kernel::Id::new(secs(NOW), n as u128 + 1),
        rule: "high".to_owned(),
        tenant: tenant("dsd"),
        public: false,
        severity: Severity::Severe,
        state: crate::alarms::model::AlarmState::Open,
        name: Text::plain("High water"),
        instruction: None,
        thing: EntityId(n),
        thing_name: Text::plain("Gauge"),
        datastream: EntityId(n),
        system: None,
        district: Some(if n % 2 == 0 { "North" } else { "Yuen Long" }.to_owned()),
        value: Some(11.0),
        unit: None,
        raised_at: secs(NOW),
        recorded_at: secs(NOW),
        acknowledged: None,
        cleared_at: None,
        closed: None,
        assignee: None,
        version: 1,
    };
    let keys = [grouped.key.clone(), elsewhere.key.clone()];
    let (first, second) = (grouped, elsewhere);
    let recipients = city.records.write(move |tx| {
        notify::store::put_recipient(tx, &first)?;
        notify::store::put_recipient(tx, &second)
    });
    recipients.await.expect("stored");
    for from in (0..GAUGES).step_by(1_000) {
        let (alarms, keys) = ((from..from + 1_000).map(alarm).collect::<Vec<_>>(), keys.clone());
        let told = city.records.write(move |tx| {
            let mut desk = notify::Desk::new(jiff::tz::TimeZone::UTC);
            for alarm in &alarms {
                desk.tell(tx, alarm, notify::Occasion::Raised, &keys, "")?;
            }
            Ok::<_, records::Error>(())
        });
        told.await.expect("told");
        city.clock.advance_micros(300_000);
    }
    let all = deliveries(&city).await;
    assert_eq!(all.len(), 4, "for each district one at once and one at the end of the span: {all:?}");
    assert_eq!(all.iter().map(|d| i64::from(d.gathered)).sum::<i64>(), GAUGES, "nobody is forgotten");
    assert!(all.iter().all(|d| d.recipient == "hook"), "nothing has happened in the south");
    assert_eq!(city.count("SELECT COUNT(*) FROM records_job").await, 4);
    // After the span the next is told at once again.
    city.clock.advance_micros(300 * 1_000_000);
    let (late, keys) = (alarm(GAUGES), keys.clone());
    let told = city.records.write(move |tx| {
        notify::Desk::new(jiff::tz::TimeZone::UTC).tell(tx, &late, notify::Occasion::Raised, &keys, "")
    });
    told.await.expect("told");
    assert_eq!(deliveries(&city).await.len(), 5);
}
