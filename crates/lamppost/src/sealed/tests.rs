use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use axum::{Extension, body::Body, extract::Request, middleware};
use futures::StreamExt;
use kernel::{Clock, FixedClock, Principal};
use records::Options;
use tower::ServiceExt;

use super::*;

struct House {
    sealed: Arc<Sealed>,
    records: Records,
    clock: Arc<FixedClock>,
    _folder: tempfile::TempDir,
}

fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).unwrap()
}

fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_secs(1_000_000)));
    let options = if testkit::outside() {
        Options::postgres(testkit::postgres::database().url())
    } else {
        Options::sqlite(folder.path().join("r.sqlite"))
    };
    let records = Records::open(&options, clock.clone()).unwrap();
    // The names of people stand in the operators' table.
    records.migrate("operators", crate::operators::migrations()).unwrap();
    let sealed = Arc::new(Sealed::open(records.clone(), BTreeSet::from([tenant("csd")])).unwrap());
    House { sealed, records, clock, _folder: folder }
}

fn caller(of: &str, device: bool) -> Caller {
    let id: Arc<str> = "x".into();
    let principal = if device { Principal::Device { id } } else { Principal::Person { id: id.clone(), name: id } };
    Caller { principal, tenant: Some(tenant(of)), roles: BTreeSet::new() }
}

fn look(what: &str) -> Look {
    Look { door: "http", what: what.to_owned(), answer: 200 }
}

async fn all(house: &House) -> Vec<Found> {
    house.sealed.list(&tenant("csd"), Wanted { limit: 100, ..Wanted::default() }).await.unwrap()
}

#[tokio::test]
async fn looks_of_a_minute_are_one_row() {
    let house = house();
    let insider = caller("csd", false);
    for _ in 0..3 {
        house.sealed.record(&insider, vec![look("GET /v1.1/Things"), look("GET /en")]).await.unwrap();
    }
    house.clock.advance_micros(60_000_000);
    house.sealed.record(&insider, vec![look("GET /v1.1/Things")]).await.unwrap();
    house.sealed.record(&caller("dsd", false), vec![look("GET /secret")]).await.unwrap();
    let long = format!("GET /{}", "x".repeat(5_000));
    house.sealed.record(&insider, vec![look(&long), look(&format!("{long}y")), look("GET /\u{7}bell")]).await.unwrap();
    let found = all(&house).await;
    let told: Vec<(&str, i64)> = found.iter().rev().map(|l| (l.what.get(..12).unwrap_or(&l.what), l.times)).collect();
    assert_eq!(
        told,
        [
            ("GET /v1.1/Th", 3),
            ("GET /en", 3),
            ("GET /v1.1/Th", 1),
            ("GET /xxxxxxx", 1),
            ("GET /xxxxxxx", 1),
            ("GET /bell…", 1)
        ]
    );
    assert!(
        found.iter().all(|l| l.what.chars().count() <= WHAT + 1 && l.caller == "person:x" && l.last_at >= l.first_at)
    );
}

#[tokio::test]
async fn looks_end_after_two_years() {
    let house = house();
    let insider = caller("csd", false);
    house.sealed.record(&insider, vec![look("GET /old")]).await.unwrap();
    house.clock.advance_micros(KEPT);
    house.sealed.record(&insider, vec![look("GET /new")]).await.unwrap();
    assert_eq!(house.sealed.sweep().await.unwrap(), 0, "two years to the microsecond are kept");
    house.clock.advance_micros(1);
    assert_eq!(house.sealed.sweep().await.unwrap(), 1);
    assert_eq!(all(&house).await.iter().map(|l| l.what.as_str()).collect::<Vec<_>>(), ["GET /new"]);
}

/// What cannot be written down is not shown; a device that measures, and everybody else, do not wait for the record.
#[tokio::test]
async fn nothing_is_shown_without_a_row() {
    let house = house();
    let asked = Arc::new(AtomicUsize::new(0));
    let ask = async |who: Caller, method: &str, path: &str| {
        let asked = asked.clone();
        let answer = move || {
            asked.fetch_add(1, SeqCst);
            std::future::ready("a secret")
        };
        let router = Router::new()
            .route("/v1.1/Things", get(answer.clone()).post(answer.clone()))
            .route("/api/ingest/csv", axum::routing::post(answer.clone()))
            .route("/assets/x.css", get(answer))
            .layer(middleware::from_fn_with_state(house.sealed.clone(), looks))
            .layer(Extension(who));
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        (status, String::from_utf8_lossy(&body).contains("a secret"))
    };
    let (insider, device) = (caller("csd", false), caller("csd", true));
    assert_eq!(ask(insider.clone(), "GET", "/v1.1/Things?$top=1").await, (200, true));
    assert_eq!(ask(device.clone(), "GET", "/v1.1/Things").await, (200, true));
    assert_eq!(ask(device.clone(), "POST", "/v1.1/Things").await, (200, true));
    assert_eq!(ask(device.clone(), "POST", "/api/ingest/csv").await, (200, true), "it shows what is there");
    assert_eq!(ask(insider.clone(), "GET", "/assets/x.css").await, (200, true));
    assert_eq!(ask(caller("dsd", false), "GET", "/v1.1/Things").await, (200, true));
    assert_eq!(ask(Caller::anonymous(), "GET", "/v1.1/Things").await, (200, true));
    let told: Vec<String> = all(&house).await.into_iter().map(|l| format!("{} {}", l.caller, l.what)).collect();
    let shown = ["device:x POST /api/ingest/csv", "device:x GET /v1.1/Things", "person:x GET /v1.1/Things?$top=1"];
    assert_eq!(told, shown);

    house.records.close().await;
    assert_eq!(ask(insider.clone(), "GET", "/v1.1/Things").await, (503, false));
    assert_eq!(ask(device.clone(), "GET", "/v1.1/Things").await, (503, false));
    assert_eq!(ask(device.clone(), "POST", "/api/ingest/csv").await, (503, false));
    assert_eq!(ask(device, "POST", "/v1.1/Things").await, (200, true));
    assert_eq!(ask(insider, "GET", "/assets/x.css").await, (200, true));
    assert_eq!(ask(caller("dsd", false), "GET", "/v1.1/Things").await, (200, true));
}

/// A file that takes longer than a visit is not whole, and whoever fetches it is told so.
#[tokio::test(start_paused = true)]
async fn a_file_ends_with_the_visit() {
    let house = house();
    let pieces = || {
        let slow = futures::stream::iter(0..10).then(|n| async move {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            Ok::<_, std::io::Error>(format!("{n}"))
        });
        std::future::ready(Body::from_stream(slow))
    };
    let fetch = async |seconds: i64| {
        let ends = crate::operators::layer::VisitEnds(house.clock.now().plus_secs(seconds));
        let router = Router::new()
            .route("/api/things/1/export", get(pieces))
            .layer(middleware::from_fn_with_state(house.sealed.clone(), looks))
            .layer(Extension(ends))
            .layer(Extension(caller("csd", false)));
        let request = Request::builder().uri("/api/things/1/export").body(Body::empty()).unwrap();
        axum::body::to_bytes(router.oneshot(request).await.unwrap().into_body(), 100).await
    };
    assert_eq!(fetch(60).await.unwrap(), "0123456789");
    assert!(fetch(5).await.is_err());
}
