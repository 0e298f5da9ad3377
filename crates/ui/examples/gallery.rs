//! All components on one page, in three languages: `cargo run -p ui --example gallery [dist folder]`, then open http://127.0.0.1:8090/.

use std::{path::PathBuf, sync::Arc};

use axum::{Router, extract::State, routing::get};
use kernel::{Caller, FixedClock, Principal, Problem, Text, Timestamp};
use serde_json::json;
use ui::{
    AlertCount, Assets, Badge, Catalogue, Cell, Choice, Column, ErrorSummary, Field, FieldKind, FilterChoice, Filters,
    Html, Legend, LineChart, LiveNumber, Markup, NavItem, Notice, Page, Pager, Quality, Series, SessionKey, Site,
    Table, Tone, Trend, island,
};

#[derive(askama::Template)]
#[template(
    ext = "html",
    source = r#"{% extends "base.html" %}{% block main %}
<p class="lead">{{ lead }}</p>
{% for notice in notices %}{{ notice.html(page) }}{% endfor %}
<div class="grid">{% for number in numbers %}{{ number.html(page) }}{% endfor %}</div>
{{ map }}
{{ legend.html(page) }}
{{ chart.html(page) }}
{{ many.html(page) }}
{{ nothing.html(page) }}
<div class="with-side"><aside>{{ filters.html(page) }}</aside><div>
{{ table.html(page) }}{{ pager.html(page) }}{{ empty.html(page) }}</div></div>
{{ summary.html(page) }}
<form method="post">{{ page.csrf_field() }}{% for field in fields %}{{ field.html(page) }}{% endfor %}
<div class="actions"><button class="button">{{ page.t("filters.apply") }}</button> <button class="button quiet">{{ page.t("filters.clear") }}</button></div></form>
<p class="provenance">{{ source }}</p>
{% endblock %}"#
)]
struct Gallery {
    page: Page,
    lead: String,
    notices: Vec<Notice>,
    numbers: Vec<LiveNumber>,
    map: Markup,
    legend: Legend,
    chart: LineChart,
    many: LineChart,
    nothing: LineChart,
    filters: Filters,
    table: Table,
    pager: Pager,
    empty: Table,
    summary: ErrorSummary,
    fields: Vec<Field>,
    source: String,
}

/// A day of values that a formula makes, with an hour missing: enough to look at.
fn day(now: Timestamp, phase: f64, gap: bool) -> Vec<(Timestamp, Option<f64>)> {
    (0..288)
        .map(|i| {
            let at = now.plus_secs((i - 288) * 300);
            let x = i as f64 / 288.0 * std::f64::consts::TAU + phase;
            let value = 24.0 + 5.0 * x.sin() + 1.5 * (x * 7.0).cos() + phase * 4.0;
            (at, (!(gap && (120..132).contains(&i))).then_some((value * 10.0).round() / 10.0))
        })
        .collect()
}

async fn gallery(page: Page) -> Html<Gallery> {
    let language = page.language;
    let words = |en: &str, hant: &str, hans: &str| Text::new(en, hant, hans).get(language).to_owned();
    let now = page.now();
    let name = words("Lamppost 12, Kwun Tong Road", "觀塘道 12 號燈柱", "观塘道 12 号灯柱");
    let numbers = vec![
        LiveNumber::new(words("Air temperature", "氣溫", "气温"), Some(27.4), "Cel")
            .trend(Trend::Rising)
            .at(now.plus_secs(-300))
            .stale_after(900)
            .href(page.href("/things/12"))
            .datastream(1),
        LiveNumber::new("PM2.5", Some(38.0), "ug/m3").trend(Trend::Steady).at(now.plus_secs(-20)).simulated(true),
        LiveNumber::new(words("Water level", "水位", "水位"), Some(1.235), "m")
            .decimals(2)
            .trend(Trend::Falling)
            .at(now.plus_secs(-7_300))
            .stale_after(900)
            .quality(Quality::Doubtful),
        LiveNumber::new(words("Free spaces", "空置車位", "空余车位"), None, "{spaces}"),
        LiveNumber::new(words("Rain in the past hour", "過去一小時雨量", "过去一小时雨量"), Some(1_204.0), "mm")
            .at(now),
    ];
    let chart = LineChart::new(words("Warmest at three in the afternoon", "下午三時最熱", "下午三时最热"), "Cel")
        .series(
            Series::new(words("Air temperature", "氣溫", "气温"), day(now, 0.0, true)).datastream(1).simulated(true),
        )
        .gap_after(900)
        .threshold(words("Very hot", "酷熱", "酷热"), 29.5)
        .download("CSV", "/download.csv");
    let places = ["Kai Tak", "Sha Tin", "Lau Fau Shan", "Cheung Chau", "Tai Mo Shan Peak Station", "Wong Chuk Hang"];
    let many = places.iter().enumerate().fold(
        LineChart::new(words("Temperature in six places", "六個地點的氣溫", "六个地点的气温"), "Cel").gap_after(900),
        |chart, (i, place)| chart.series(Series::new(place, day(now, i as f64 * 0.4, i == 2))),
    );
    let nothing = LineChart::new(words("Water level", "水位", "水位"), "m").range(now.plus_secs(-3_600), now);
    let filters = Filters::default().search("q", words("Name", "名稱", "名称")).checks(
        "state",
        words("State", "狀態", "状态"),
        ui::State::ALL.iter().map(|s| FilterChoice::new(s.name(), page.t(s.key())).count(1_234)).collect(),
    );
    let rows = ui::State::ALL.iter().enumerate().map(|(i, state)| {
        vec![
            Cell::link(page.href(&format!("/things/{i}")), format!("{name} · {i}")),
            Cell::State(Badge::new(*state)),
            Cell::quantity(1_234.5 * i as f64 - 2_000.0, 1, "ug/m3"),
            if i == 4 { Cell::Empty } else { Cell::Ago(now.plus_secs(-4_000 * i as i64)) },
            Cell::At(now.plus_secs(-86_400 * i as i64)),
        ]
    });
    let columns = |table: Table| {
        table
            .column(Column::text("name", words("Name", "名稱", "名称")).sortable())
            .column(Column::text("state", words("State", "狀態", "状态")).sortable())
            .column(Column::number("value", words("Value", "數值", "数值")).sortable())
            .column(Column::text("seen", words("Last seen", "最近回報", "最近上报")))
            .column(Column::text("since", words("Since", "起始時間", "起始时间")))
    };
    let table = columns(Table::new(words("Devices", "裝置", "设备")).rows(rows).download("CSV", "/devices.csv"));
    let empty = columns(Table::new(words("Devices in Sai Kung", "西貢區裝置", "西贡区设备"))).empty(words(
        "No device fits. Remove a filter.",
        "沒有符合條件的裝置，請移除部分篩選。",
        "没有符合条件的设备，请移除部分筛选。",
    ));
    let fields = vec![
        Field::input("name", words("Name of the device", "裝置名稱", "设备名称"), "text")
            .hint(words(
                "As written on its case. Example: HEPA-07",
                "見機身標籤，例如 HEPA-07",
                "见机身标签，例如 HEPA-07",
            ))
            .value("<script>alert(1)</script>")
            .error(Some(words(
                "Use letters, digits and hyphens only",
                "只可使用英文字母、數字及連字號",
                "只能使用英文字母、数字和连字符",
            )))
            .required(),
        Field::new(
            "kind",
            words("Kind", "類別", "类别"),
            FieldKind::Select(vec![Choice::new("a", "HEPA"), Choice::new("b", "LoRa")]),
        )
        .value("b"),
        Field::new(
            "where",
            words("Where does it stand?", "裝置設於何處？", "设备装在哪里？"),
            FieldKind::Radios(vec![
                Choice::new("in", words("Indoors", "室內", "室内")),
                Choice::new("out", words("Outdoors", "室外", "室外")),
            ]),
        )
        .error(Some(words("Choose one", "請選擇其中一項", "请选择一项")))
        .required(),
        Field::new("note", words("Note", "備註", "备注"), FieldKind::Area { rows: 3 }).value("\nfirst line empty"),
        Field::new("agree", words("Send me an e-mail", "以電郵通知我", "用电子邮件通知我"), FieldKind::Checkbox)
            .value("on"),
    ];
    let lead = words(
        "Every part that a page can be made of, with the states it can be in.",
        "頁面可用的所有元件，以及它們的各種狀態。",
        "页面可用的所有组件，以及它们的各种状态。",
    );
    let source = words("Source: the gallery itself.", "資料來源：本頁。", "数据来源：本页。");
    let notices = vec![
        Notice::new(Tone::Done, words("The alarm is acknowledged.", "已確認警報。", "告警已确认。"))
            .undo("/undo", words("Undo", "復原", "撤销")),
        Notice::new(Tone::Warning, words("Three devices are silent.", "有三部裝置沒有回應。", "有三台设备没有响应。"))
            .link(page.href("/devices"), words("See which", "查看", "查看")),
    ];
    let map = island(
        "map",
        &json!({
            "language": page.language.tag(), "base": page.asset("land.geojson"), "bounds": [113.82, 22.13, 114.45, 22.58],
            "layers": [
                { "id": "lampposts", "name": name, "url": "/api/map/layers/lampposts.geojson", "on": true },
                { "id": "floods", "name": words("Flood facilities", "防洪設施", "防洪设施"), "url": "/api/map/layers/floods.geojson", "on": true }
            ],
            "live": "/api/live",
            "slider": { "from": now.plus_secs(-86_400), "to": now, "step": 3_600 },
            "zone": "Asia/Hong_Kong",
            "labels": ui::map_labels(&page),
        }),
        &Markup::default(),
    );
    let heading = words("Components", "元件一覽", "组件一览");
    let pager = Pager::numbered(&page, 6, 4_321);
    let page = page
        .in_section("live")
        .under_t("nav.live", "/live")
        .with_island("map")
        .with_island("chart")
        .with_island("live")
        .titled(heading);
    Html(Gallery {
        lead,
        notices,
        numbers,
        map,
        legend: ui::State::ALL.iter().fold(Legend::default(), |l, s| l.item(*s, page.t(s.key()))).with_simulated(),
        chart,
        many,
        nothing,
        filters,
        table,
        pager,
        empty,
        summary: ErrorSummary::new(&fields),
        fields,
        source,
        page,
    })
}

/// Sixty points whose state and value depend on their number, so that every shape occurs.
async fn layer(axum::extract::Path(id): axum::extract::Path<String>) -> axum::Json<serde_json::Value> {
    let count = if id.starts_with("floods") { 23 } else { 60 };
    let features: Vec<_> = (0..count)
        .map(|i| {
            let (x, y) = (f64::from(i % 10), f64::from(i / 10));
            let state = ui::State::ALL[i as usize % 6].name();
            json!({ "type": "Feature",
                "geometry": { "type": "Point", "coordinates": [113.95 + x * 0.035, 22.26 + y * 0.035 + x * 0.004] },
                "properties": { "id": format!("{id}-{i}"), "datastream": i, "name": format!("Thing {i}"), "value": 20 + i, "unit": "°C",
                    "state": state, "asOf": "2026-11-22T09:00:00Z", "simulated": i % 3 == 0, "stale": i % 7 == 0, "href": format!("/en/things/{i}") } })
        })
        .collect();
    axum::Json(json!({ "type": "FeatureCollection", "features": features }))
}

async fn live(State(now): State<Timestamp>) -> ([(&'static str, &'static str); 1], String) {
    let event = json!({ "datastream": "1", "thing": "12", "value": 28.1, "at": now });
    ([("content-type", "text/event-stream")], format!("retry: 60000\nevent: observation\ndata: {event}\n\n"))
}

async fn missing(page: Page) -> Result<Html<Gallery>, Problem> {
    Err(Problem::not_found(page.path))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dist = std::env::args().nth(1).map(PathBuf::from);
    let mut assets = Assets::new(dist.as_deref())?;
    let land = std::env::var("GALLERY_LAND").ok().and_then(|path| std::fs::read(path).ok());
    assets.add(
        "land.geojson",
        land.unwrap_or_else(|| br#"{"type":"FeatureCollection","features":[]}"#.to_vec()),
        "application/json",
    );
    let nav = |section, key, path: &str| NavItem { section, key, path: path.to_owned(), needs: None };
    let now: Timestamp = "2026-11-22T09:05:00Z".parse()?;
    let site = Arc::new(Site {
        city: Text::new("Hong Kong", "香港", "香港"),
        zone: jiff::tz::TimeZone::get("Asia/Hong_Kong")?,
        zone_name: Text::new("Hong Kong time", "香港時間", "香港时间"),
        nav: vec![
            nav("live", "nav.live", "/"),
            nav("map", "nav.map", "/map"),
            nav("devices", "nav.devices", "/devices"),
        ],
        alerts_path: Some("/alarms".to_owned()),
        sign_in_path: Some("/sign-in".to_owned()),
        account_path: Some("/account".to_owned()),
        footer: vec![nav("", "footer.status", "/status"), nav("", "footer.accessibility", "/accessibility")],
        catalogue: Catalogue::new(&[ui::TEXTS])?,
        assets,
        clock: Arc::new(FixedClock::at(now)),
        csrf: ui::csrf::Key::random(),
        policy: None,
        names: None,
    });
    let router = Router::new()
        .route("/{lang}", get(gallery))
        .route("/{lang}/dense", get(|page: Page| gallery(page.dense())))
        .route("/{lang}/missing", get(missing))
        .route("/api/map/layers/{id}", get(layer))
        .route("/api/live", get(live))
        .with_state(now)
        .fallback(ui::to_language);
    let signed_in =
        Caller { principal: Principal::Person { id: "1".into(), name: "Chan Tai Man".into() }, ..Caller::anonymous() };
    let router = ui::install(router, &site)
        .layer(axum::Extension(signed_in))
        .layer(axum::Extension(AlertCount(3)))
        .layer(axum::Extension(SessionKey("gallery".into())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8090").await?;
    println!("http://127.0.0.1:8090/");
    Ok(axum::serve(listener, router).await?)
}
