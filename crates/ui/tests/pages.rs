//! Every component against hostile text, the languages against each other, the frame against its promises.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use std::sync::Arc;

use axum::{Router, body::Body, routing::get};
use http::{Request, StatusCode, header};
use kernel::{Caller, FixedClock, Language, Principal, Problem, Text, Timestamp};
use tower::ServiceExt;
use ui::*;

const NOW: &str = "2026-11-22T09:05:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn site() -> Arc<Site> {
    site_with(Assets::new(None).unwrap())
}

fn site_with(assets: Assets) -> Arc<Site> {
    let item = |section, key, path: &str| NavItem { section, key, path: path.to_owned(), needs: None };
    Arc::new(Site {
        city: Text::new("Hong Kong", "香港", "香港"),
        zone: jiff::tz::TimeZone::fixed(jiff::tz::offset(8)),
        zone_name: Text::new("Hong Kong time", "香港時間", "香港时间"),
        nav: vec![item("live", "nav.live", "/"), item("map", "nav.map", "/map")],
        alerts_path: Some("/alarms".into()),
        sign_in_path: Some("/sign-in".into()),
        account_path: Some("/account".into()),
        footer: vec![item("", "footer.status", "/status")],
        catalogue: Catalogue::new(&[TEXTS]).unwrap(),
        assets,
        clock: Arc::new(FixedClock::at(now())),
        csrf: csrf::Key::new([1; 32]),
        policy: None,
        names: Some(Arc::new(|caller, label| {
            (!caller.is_anonymous() && label == "person:p2").then(|| "Lee".to_owned())
        })),
    })
}

fn page(language: Language, query: &str) -> Page {
    Page::new(site(), language, "/things", query, Caller::anonymous())
}

#[test]
fn every_text_exists_in_three_languages_with_the_same_placeholders() {
    let findings = Catalogue::new(&[TEXTS]).unwrap().check();
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn every_text_is_used_and_every_used_text_exists() {
    fn sources(folder: &std::path::Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, out);
            } else {
                out.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    sources(&root.join("src"), &mut all);
    sources(&root.join("templates"), &mut all);
    let findings = Catalogue::new(&[TEXTS]).unwrap().check_use(all.iter().map(String::as_str));
    assert!(findings.is_empty(), "{findings:#?}");
}

/// Whoever did something has a name for those who may know it, and is never a number for anybody.
#[test]
fn who_did_it_is_said_in_words() {
    let officer = Principal::Person { id: "p1".into(), name: "Chan Tai Man".into() };
    let signed_in = Page::new(site(), Language::En, "/", "", Caller { principal: officer, ..Caller::anonymous() });
    assert_eq!(signed_in.who("person:p1"), "Chan Tai Man");
    assert_eq!(signed_in.who("person:p2"), "Lee");
    assert_eq!(signed_in.who("person:p3"), "An officer");
    assert_eq!(signed_in.who("key:abc"), "A program (abc)");
    assert_eq!(signed_in.who("system:rules"), "By itself");
    assert_eq!(signed_in.who("team:night"), "night");
    assert_eq!(page(Language::ZhHant, "").who("person:p2"), "職員");
}

const HOSTILE: &str = "\"><img src=x onerror=alert(1)>'&<script>";

/// Text from outside must appear only escaped, in whichever place a component puts it.
fn assert_safe(what: &str, html: &str) {
    assert!(!html.contains("<img"), "{what}: {html}");
    assert!(!html.contains("<script"), "{what}: {html}");
    assert!(!html.contains("\"><"), "{what} lets an attribute be closed: {html}")
}

#[test]
fn hostile_text_stays_text_in_every_component() {
    // Raw `">` followed by `<` also ends ordinary tags, so hostile output is searched for its own marks only.
    let check = |what: &str, html: Markup| {
        let html = html.into_string();
        assert!(html.contains("&lt;img") || html.contains("%3Cimg"), "{what} does not show the text at all: {html}");
        assert!(
            !html.contains("<img") && !html.contains("<script") && !html.contains("onerror=alert(1)>"),
            "{what}: {html}"
        );
    };
    let page = page(Language::En, "q=%22%3E%3Cimg%20src%3Dx%3E&sort=%22%3E%3Cimg&state=%3Cimg");
    let points = vec![(now(), Some(1.0)), (now().plus_secs(60), Some(2.0))];
    check("badge", Badge::new(State::Alarm).word(HOSTILE).html(&page));
    check("legend", Legend::default().item(State::Good, HOSTILE).html(&page));
    check(
        "live number",
        LiveNumber::new(HOSTILE, Some(1.0), HOSTILE).href(HOSTILE).datastream(HOSTILE).at(now()).html(&page),
    );
    check("notice", Notice::new(Tone::Failure, HOSTILE).link(HOSTILE, HOSTILE).undo(HOSTILE, HOSTILE).html(&page));
    let cells = vec![
        Cell::text(HOSTILE),
        Cell::link(HOSTILE, HOSTILE),
        Cell::quantity(1.0, 0, HOSTILE),
        Cell::State(Badge::new(State::Good).word(HOSTILE)),
    ];
    let table = (0..4).fold(Table::new(HOSTILE), |t, _| t.column(Column::text("a", HOSTILE).sortable()));
    let row = Row { cells, id: Some(HOSTILE.into()) };
    check("table", table.clone().rows([row]).download("CSV", HOSTILE).html(&page));
    check("empty table", table.empty(HOSTILE).html(&page));
    check(
        "chart",
        LineChart::new(HOSTILE, HOSTILE)
            .series(Series::new(HOSTILE, points.clone()).datastream(HOSTILE))
            .series(Series::new(HOSTILE, points))
            .threshold(HOSTILE, 1.5)
            .source(HOSTILE)
            .download("CSV", HOSTILE)
            .html(&page),
    );
    let kinds = [
        FieldKind::Input("text"),
        FieldKind::Area { rows: 2 },
        FieldKind::Select(vec![Choice::new(HOSTILE, HOSTILE)]),
        FieldKind::Radios(vec![Choice::new(HOSTILE, HOSTILE)]),
        FieldKind::Checkbox,
    ];
    for kind in kinds {
        let field = Field::new(HOSTILE, HOSTILE, kind).hint(HOSTILE).error(Some(HOSTILE)).value(HOSTILE);
        check("field", field.html(&page));
        check("error summary", ErrorSummary::new(&[field]).html(&page));
    }
    check(
        "filters",
        Filters::default()
            .search("q", HOSTILE)
            .checks("state", HOSTILE, vec![FilterChoice::new(HOSTILE, HOSTILE)])
            .html(&page),
    );
    check("pager", Pager::after(&page, Some(HOSTILE)).html(&page));
    check("island", island("map", &serde_json::json!({ "name": HOSTILE }), &Markup::default()));
    check("time", {
        let mut m = page.ago(&now());
        m.text(HOSTILE);
        m
    });
    let message = page.msg("problem.code").with("status", HOSTILE).to_string();
    let mut out = Markup::default();
    check("message", out.text(message).clone());
    assert_safe("csrf", page.csrf_field().as_str());
}

#[test]
fn a_chart_leaves_its_gaps_open() {
    let at = |minutes: i64| now().plus_secs(minutes * 60);
    let rising =
        vec![(at(0), Some(20.0)), (at(10), Some(21.0)), (at(20), None), (at(30), Some(24.0)), (at(120), Some(22.0))];
    let level = vec![(at(0), Some(25.0)), (at(60), Some(25.5)), (at(120), Some(25.0))];
    let chart = LineChart::new("Rises until noon", "Cel")
        .series(Series::new("Kai Tak", rising))
        .series(Series::new("鯉魚門市政大廈測量站", level))
        .gap_after(4_000)
        .threshold("Very hot", 26.0)
        .download("CSV", "/data.csv");
    // The island's copy of the numbers is JSON in an attribute; the drawing is what this snapshot is about.
    let html = chart.html(&page(Language::ZhHant, "")).into_string();
    let (before, rest) = html.split_once(" data-props=\"").unwrap();
    let (_, after) = rest.split_once("\">").unwrap();
    insta::assert_snapshot!(format!("{before}>{after}").replace("><", ">\n<"));
}

#[test]
fn a_stale_value_says_so_and_a_fresh_one_does_not() {
    let page = page(Language::En, "");
    let reading = LiveNumber::new("Level", Some(1.5), "m").at(now().plus_secs(-600)).stale_after(600);
    assert!(!reading.html(&page).as_str().contains("Out of date"));
    let old = reading.at(now().plus_secs(-601));
    let html = old.html(&page).into_string();
    assert!(html.contains("class=\"live stale\"") && html.contains("Out of date") && html.contains("10 minutes ago"));
}

#[test]
fn the_language_switch_keeps_the_place() {
    let page = page(Language::En, "sort=-name&q=%E6%B0%B4&layers=a,b");
    let links: Vec<_> = page.languages().into_iter().map(|l| l.href).collect();
    let query = "sort=-name&q=%E6%B0%B4&layers=a%2Cb";
    assert_eq!(
        links,
        [format!("/en/things?{query}"), format!("/zh-hant/things?{query}"), format!("/zh-hans/things?{query}")]
    );
}

#[test]
fn sorting_turns_around_and_starts_the_pages_anew() {
    let table = || Table::new("t").column(Column::text("name", "Name").sortable());
    let html = table().html(&page(Language::En, "page=3&sort=name")).into_string();
    assert!(html.contains("aria-sort=\"ascending\"") && html.contains("href=\"/en/things?sort=-name\""), "{html}");
    let html = table().html(&page(Language::En, "sort=-name")).into_string();
    assert!(html.contains("aria-sort=\"descending\"") && html.contains("href=\"/en/things?sort=name\""), "{html}");
}

#[test]
fn what_was_typed_is_kept_and_secrets_are_not() {
    let page = page(Language::En, "");
    let html = |kind| Field::input("x", "X", kind).value("typed").error(Some("wrong")).html(&page).into_string();
    let text = html("text");
    assert!(text.contains("value=\"typed\"") && text.contains("aria-invalid=\"true\""));
    let order = [text.find("<label"), text.find("class=\"error\""), text.find("<input")];
    assert!(order.is_sorted() && order.iter().all(Option::is_some), "the error stands between label and field: {text}");
    assert!(!html("password").contains("typed"));
}

// ---- the shell ------------------------------------------------------------------------------------

#[derive(askama::Template)]
#[template(ext = "html", source = "{% extends \"base.html\" %}{% block main %}<p>{{ page.path }}</p>{% endblock %}")]
struct Simple {
    page: Page,
}

fn city(site: &Arc<Site>) -> Router {
    let router = Router::new()
        .route(
            "/{lang}/things",
            get(|page: Page| async move { Html(Simple { page: page.titled("Things").with_island("map") }) }),
        )
        .route("/{lang}/private", get(async || Err::<(), _>(Problem::not_found("this thing"))))
        .route("/{lang}/wrong", get(async || Err::<(), _>(Problem::field("/name", HOSTILE))))
        .fallback(to_language);
    let person = Principal::Person { id: "1".into(), name: HOSTILE.into() };
    install(router, site)
        .layer(axum::Extension(Caller { principal: person, ..Caller::anonymous() }))
        .layer(axum::Extension(AlertCount(2)))
        .layer(axum::Extension(SessionKey("s".into())))
}

async fn ask(site: &Arc<Site>, uri: &str, headers: &[(&str, &str)]) -> (StatusCode, http::HeaderMap, Vec<u8>) {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = city(site).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec())
}

#[tokio::test]
async fn a_page_carries_its_frame_and_its_protection() {
    let site = site();
    let (status, headers, body) = ask(&site, "/zh-hant/things?sort=name", &[("accept", "text/html")]).await;
    let html = String::from_utf8(body).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(html.contains("<html lang=\"zh-Hant-HK\"") && html.contains("<h1>Things</h1>"));
    assert!(html.contains("href=\"/en/things?sort=name\"") && html.contains("hreflang=\"zh-Hans-HK\""));
    assert!(html.contains("2 個警報"), "{html}");
    assert!(html.contains(site.catalogue.t(Language::ZhHant, "page.no-islands")), "says that the map is not there");
    assert!(!html.contains("<img") && html.contains("&#60;img"), "the caller's name is escaped");
    assert!(!html.contains("style="), "the policy would refuse it");
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("script-src 'self' 'nonce-"));
    assert!(!policy.contains("unsafe"));
    assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    let (_, again, _) = ask(&site, "/en/things", &[]).await;
    assert_ne!(
        again[header::CONTENT_SECURITY_POLICY],
        headers[header::CONTENT_SECURITY_POLICY],
        "a nonce is used once"
    );
}

#[tokio::test]
async fn an_error_is_a_page_for_people_and_json_for_programs() {
    let site = site();
    let browser = "text/html,application/xhtml+xml,application/json;q=0.9";
    let (status, headers, body) = ask(&site, "/zh-hans/private", &[("accept", browser)]).await;
    let html = String::from_utf8(body).unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert!(html.contains("<h1>找不到这个页面</h1>"), "{html}");
    for accept in ["application/json", "*/*", ""] {
        let (status, headers, _) = ask(&site, "/zh-hans/private", &[("accept", accept)]).await;
        assert_eq!(
            (status, &headers[header::CONTENT_TYPE]),
            (StatusCode::NOT_FOUND, &"application/problem+json".parse().unwrap())
        );
        assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY));
    }
    let (status, _, body) = ask(&site, "/en/wrong", &[("accept", browser)]).await;
    let html = String::from_utf8(body).unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(!html.contains("<img") && html.contains("&#60;img"), "{html}");
}

#[tokio::test]
async fn an_address_without_a_language_finds_the_readers_own() {
    let site = site();
    let (status, headers, _) = ask(&site, "/things?q=1", &[("accept-language", "zh-HK")]).await;
    assert_eq!(
        (status, &headers[header::LOCATION]),
        (StatusCode::TEMPORARY_REDIRECT, &"/zh-hant/things?q=1".parse().unwrap())
    );
    for closed in ["//evil.example/x", "/en/nothing-here"] {
        let (status, headers, _) = ask(&site, closed, &[]).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{closed}");
        assert!(!headers.contains_key(header::LOCATION));
    }
}

#[tokio::test]
async fn assets_are_cached_for_ever_and_compressed() {
    let site = site();
    let url = site.assets.url("lamppost.css").to_owned();
    let (status, headers, packed) = ask(&site, &url, &[("accept-encoding", "gzip, br")]).await;
    assert_eq!((status, &headers[header::CONTENT_ENCODING]), (StatusCode::OK, &"br".parse().unwrap()));
    assert!(headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    let (_, plain_headers, plain) = ask(&site, &url, &[("accept-encoding", "br;q=0")]).await;
    assert!(!plain_headers.contains_key(header::CONTENT_ENCODING));
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut brotli::Decompressor::new(packed.as_slice(), 4_096), &mut unpacked).unwrap();
    assert!(unpacked == plain && packed.len() < plain.len() / 2);
    let (_, headers, gz) = ask(&site, &url, &[("accept-encoding", "gzip")]).await;
    assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(gz.as_slice()), &mut unpacked).unwrap();
    assert!(unpacked == plain);
    let tag = headers[header::ETAG].to_str().unwrap();
    let (status, _, body) = ask(&site, &url, &[("if-none-match", tag)]).await;
    assert!(status == StatusCode::NOT_MODIFIED && body.is_empty());
    let (status, ..) = ask(&site, "/assets/..%2f..%2fCargo.toml", &[]).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn islands_are_loaded_when_they_were_built() {
    let dist = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dist.path().join(name), text).unwrap();
    write("map-1.js", "export {}");
    write("map-1.css", ".x {}");
    write(
        "manifest.json",
        r#"{"islands":{"map":{"js":"map-1.js","css":"map-1.css"}},"files":["map-1.js","map-1.css"]}"#,
    );
    let site = site_with(Assets::new(Some(dist.path())).unwrap());
    let (_, _, body) = ask(&site, "/en/things", &[]).await;
    let html = String::from_utf8(body).unwrap();
    assert!(html.contains("src=\"/assets/map-1.js\"") && html.contains("href=\"/assets/map-1.css\""), "{html}");
    assert!(!html.contains(site.catalogue.t(Language::En, "page.no-islands")));
    let (status, headers, body) = ask(&site, "/assets/map-1.js", &[]).await;
    assert_eq!((status, body.as_slice()), (StatusCode::OK, b"export {}".as_slice()));
    assert!(headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/javascript"));
    write("manifest.json", r#"{"islands":{},"files":["../secret"]}"#);
    assert!(matches!(Assets::new(Some(dist.path())), Err(AssetsError::Name { .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(Assets::new(Some(empty.path())).is_ok(), "no islands is not an error");
}

#[tokio::test]
async fn a_first_page_is_light() {
    let site = site();
    let (_, _, body) = ask(&site, "/en/things", &[]).await;
    let style = site.assets.wire_bytes(site.assets.url("lamppost.css")).unwrap();
    assert!(style <= 12_000, "the stylesheet takes {style} bytes");
    assert!(body.len() + style <= 20_000, "frame {} and stylesheet {style} leave too little of 60 kB", body.len());
}
