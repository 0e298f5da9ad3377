//! Dashboards on real stores: what each caller sees of the same one, versions, values over time, and screens on walls.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, StatusCode, header};
use jiff::tz::TimeZone;
use kernel::{
    Action, Caller, Clock, Decision, FixedClock, Interval, Language, Policy, Principal, Problem, Resource, SystemClock,
    Tenant, Text, Timestamp,
};
use lake::{Lake, Root};
use records::params;
use serde_json::{Value, json, value::RawValue};
use stream::{Stream, TopicOptions};
use tower::ServiceExt as _;

use super::{
    Dashboards, Walls, api,
    data::{Shape, Shown},
    model::{Combine, DashboardFile, Declaration, Kind, Standing, Tile, parse_levels},
    walls::Draft,
};
use crate::{
    Catalog, Scopes,
    alarms::Alarms,
    model::{EntityId, EntityType, Observation, ResultValue},
    observe::{self, Batch, Observe},
    rules::model::Selection,
};

/// Everybody reads what is public and what is of their own tenant; a `manager` also manages it. `csd` is sealed.
struct Rules;
impl Policy for Rules {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        let sealed = resource.tenant.is_some_and(|t| self.seals(t)) && !own;
        let allowed = match action.0 {
            "sensing:read" => resource.public || own,
            "alarm:read" => own,
            _ => own && caller.has_role("manager"),
        };
        if allowed && !sealed { Decision::Allow } else { Decision::Deny }
    }
    fn seals(&self, tenant: &Tenant) -> bool {
        tenant.as_str() == "csd"
    }
}

fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}
fn person(slug: &str, role: &'static str) -> Caller {
    let principal = Principal::Person { id: role.into(), name: "P".into() };
    Caller { principal, tenant: Some(tenant(slug)), roles: [role.into()].into() }
}
fn text(en: &str) -> Text {
    Text::new(en, "甲", "甲")
}

/// Sunday noon in Hong Kong.
const NOW: &str = "2026-11-22T04:00:00Z";

struct City {
    clock: Arc<FixedClock>,
    catalog: Catalog,
    observe: Observe,
    boards: Dashboards,
    zone: TimeZone,
    _stream: Stream,
    _folder: tempfile::TempDir,
}

impl City {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clock = Arc::new(FixedClock::at(NOW.parse().expect("a time")));
        let shared: Arc<dyn Clock> = clock.clone();
        let records = crate::test_records::open(folder.path(), shared.clone());
        let catalog = Catalog::open(records.clone(), Arc::new(Rules), shared).expect("catalogue");
        let topic = TopicOptions::new("observations").guarded();
        let options = stream::Options::local(folder.path().join("stream"), [topic]);
        let stream = Stream::open(options, Arc::new(SystemClock)).await.expect("stream");
        let lake = Lake::open(lake::Options::new(Root::Local(folder.path().join("lake")))).expect("lake");
        let tuned = observe::Options {
            seal_every: Duration::from_secs(3_600),
            ..observe::Options::new(folder.path().join("heads"))
        };
        let observe = Observe::open(tuned, stream.topic("observations").expect("topic"), &lake).await.expect("observe");
        let scopes = Arc::new(Scopes::new(Arc::new(Rules)));
        for slug in ["fehd", "ha", "csd", "td"] {
            scopes.know(&tenant(slug));
        }
        let alarms = Alarms::open(records, scopes).expect("alarms");
        let boards = Dashboards::open(catalog.clone(), observe.clone(), alarms).expect("dashboards");
        let zone = TimeZone::fixed(jiff::tz::offset(8));
        Self { clock, catalog, observe, boards, zone, _stream: stream, _folder: folder }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A Thing of the system `toilet` with a Datastream of a property.
    async fn thing(&self, owner: &str, key: &str, property: &str, public: bool, more: Value) -> EntityId {
        let caller = Caller::system("test");
        let put = |entity, key: String, body: Value| {
            let (catalog, caller, tenant) = (self.catalog.clone(), caller.clone(), tenant(owner));
            async move { catalog.upsert(&caller, entity, &tenant, &key, body).await.expect("an entity") }
        };
        let mut properties = json!({"system": "toilet", "district": "Sha Tin", "cubicles": 8});
        properties.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        put(
            EntityType::Thing,
            key.to_owned(),
            json!({
                "name": key, "description": "d", "properties": properties, "@lamppost.public": public,
                "Locations": [{"name": key, "description": "d", "encodingType": "application/geo+json",
                    "location": {"type": "Point", "coordinates": [114.18, 22.38]}}],
            }),
        )
        .await;
        put(
            EntityType::ObservedProperty,
            property.to_owned(),
            json!({"name": property, "description": "d", "definition": "d", "@lamppost.public": owner != "csd"}),
        )
        .await;
        put(
            EntityType::Sensor,
            "s".to_owned(),
            json!({"name": "s", "description": "d", "encodingType": "text/html", "metadata": "m"}),
        )
        .await;
        let word = more["word"].as_bool() == Some(true);
        let kind = if word { "OM_CategoryObservation" } else { "OM_Measurement" };
        put(
            EntityType::Datastream,
            format!("{key}.{property}"),
            json!({
                "name": property, "description": "d", "@lamppost.public": public,
                "observationType": format!("http://www.opengis.net/def/observationType/OGC-OM/2.0/{kind}"),
                "unitOfMeasurement": {"name": "n", "symbol": "ppm", "definition": "d"}, "properties": {"interval": 60},
                "Thing": {"@iot.key": key}, "Sensor": {"@iot.key": "s"}, "ObservedProperty": {"@iot.key": property},
            }),
        )
        .await
    }

    async fn record(&self, stream: EntityId, values: impl IntoIterator<Item = (Timestamp, ResultValue)>) {
        let mut batch = Batch::new();
        for (at, result) in values {
            batch.push(Observation {
                datastream: stream,
                phenomenon: Interval::instant(at),
                result_time: None,
                result,
                feature: EntityId(1),
                quality: None,
                valid: None,
                parameters: None,
            });
        }
        self.observe.record(batch).await.expect("recorded");
    }
    async fn say(&self, stream: EntityId, value: f64) {
        self.record(stream, [(self.now(), ResultValue::Number(value))]).await;
    }

    async fn show(&self, caller: &Caller, tiles: Vec<Tile>) -> Shown {
        let file = DashboardFile { dashboard: vec![board("toilets", "fehd", tiles)], scale: Vec::new() };
        self.boards.apply(&Caller::system("pack"), file).await.expect("applied");
        let found = self.boards.get(caller, "toilets").await.expect("public");
        self.boards.show(caller, found, &self.zone).await.expect("shown")
    }

    async fn ask(
        &self,
        caller: Option<&Caller>,
        request: http::request::Builder,
        body: &str,
    ) -> (StatusCode, http::HeaderMap, Value) {
        let mut request = request.body(Body::from(body.to_owned())).expect("a request");
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller.clone());
        }
        let router: Router = api::router(self.boards.clone(), self.zone.clone());
        let (head, body) = router.oneshot(request).await.expect("an answer").into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
        (head.status, head.headers, serde_json::from_slice(&bytes).unwrap_or_default())
    }
}

fn board(key: &str, owner: &str, tiles: Vec<Tile>) -> Declaration {
    Declaration {
        key: key.to_owned(),
        tenant: tenant(owner),
        title: text("Toilets"),
        about: None,
        audience: super::model::Audience::Public,
        roles: std::collections::BTreeSet::new(),
        refresh: 15,
        tiles,
    }
}

fn tile(kind: Kind, property: Option<&str>) -> Tile {
    let select = Selection {
        system: Some("toilet".to_owned()),
        observed_property: property.map(str::to_owned),
        ..Selection::default()
    };
    Tile { select, ..Tile::new(kind, text("T")) }
}

fn list(columns: &str) -> Tile {
    let columns = columns.split(' ').map(|property| super::model::Column {
        observed_property: property.to_owned(),
        title: None,
        levels: Vec::new(),
        of: None,
        left: false,
    });
    Tile { columns: columns.collect(), ..tile(Kind::Status, None) }
}

fn names(shown: &Shown) -> Vec<String> {
    match &shown.tiles[0] {
        Shape::List(list) => list.rows.iter().map(|r| r.name.en.clone()).collect(),
        other => panic!("{other:?}"),
    }
}

fn status(error: crate::Error) -> u16 {
    Problem::from(error).status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_dashboard_shows_each_what_they_may_read() {
    let city = City::open().await;
    for (owner, key, public) in
        [("fehd", "open", true), ("fehd", "staff", false), ("ha", "ward", false), ("csd", "cell", false)]
    {
        let stream = city.thing(owner, key, "ammonia", public, json!({})).await;
        city.say(stream, if key == "cell" { 99.0 } else { 1.0 }).await;
    }
    let tiles = || {
        let mut most = tile(Kind::Value, Some("ammonia"));
        most.combine = Some(Combine::Max);
        vec![list("ammonia"), most, tile(Kind::Map, Some("ammonia")), tile(Kind::Chart, Some("ammonia"))]
    };
    for (caller, expect) in [
        (Caller::anonymous(), vec!["open"]),
        (person("fehd", "viewer"), vec!["open", "staff"]),
        (person("ha", "viewer"), vec!["open", "ward"]),
        (person("csd", "viewer"), vec!["cell", "open"]),
        (person("td", "manager"), vec!["open"]),
    ] {
        let shown = city.show(&caller, tiles()).await;
        let mut found = names(&shown);
        found.sort();
        assert_eq!(found, expect, "{caller:?}");
        let told = shown.json(Language::En).to_string();
        for hidden in ["open", "staff", "ward", "cell"].iter().filter(|n| !expect.contains(n)) {
            assert!(!told.contains(&format!("\"{hidden}\"")), "{hidden}: {told}");
        }
        let Shape::Value(figure) = &shown.tiles[1] else { panic!("a value") };
        assert_eq!(figure.streams, expect.len(), "not even their number");
        assert_eq!(figure.value, Some(if expect.contains(&"cell") { 99.0 } else { 1.0 }));
        let Shape::Map(map) = &shown.tiles[2] else { panic!("a map") };
        assert_eq!(map.places.len(), expect.len());
        let Shape::Chart(chart) = &shown.tiles[3] else { panic!("a chart") };
        assert_eq!(chart.streams, expect.len());
    }
    // A sealed department's dashboard is nobody else's, and never public.
    let mut sealed = board("cells", "csd", vec![list("ammonia")]);
    let refused = city
        .boards
        .apply(&Caller::system("pack"), DashboardFile { dashboard: vec![sealed.clone()], scale: vec![] })
        .await;
    assert_eq!(status(refused.expect_err("public")), 400);
    sealed.audience = super::model::Audience::Tenant;
    let file = DashboardFile { dashboard: vec![sealed], scale: vec![] };
    city.boards.apply(&Caller::system("pack"), file).await.expect("applied");
    assert!(city.boards.get(&person("csd", "viewer"), "cells").await.is_ok());
    for stranger in [Caller::anonymous(), person("fehd", "manager"), person("td", "viewer")] {
        assert_eq!(status(city.boards.get(&stranger, "cells").await.expect_err("sealed")), 404);
        assert!(city.boards.list(&stranger).await.expect("list").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worst_comes_first_in_words_and_what_is_silent_is_not_good() {
    let city = City::open().await;
    let mut streams = Vec::new();
    for key in ["a", "b", "c", "d"] {
        streams.push(city.thing("fehd", key, "ammonia", true, json!({})).await);
    }
    city.say(streams[0], 1.0).await;
    city.say(streams[1], 4.0).await;
    city.record(streams[2], [(city.now().plus_secs(-181), ResultValue::Number(1.0))]).await;
    let mut tile = list("ammonia");
    tile.columns[0].levels = parse_levels("2 warning, 3.5 alarm").expect("levels");
    let nobody = Caller::anonymous();
    let shown = city.show(&nobody, vec![tile.clone()]).await;
    let Shape::List(found) = &shown.tiles[0] else { panic!("a list") };
    let told: Vec<(&str, Standing)> = found.rows.iter().map(|r| (r.name.en.as_str(), r.state)).collect();
    use Standing::{Alarm, Good, Offline, Unknown};
    assert_eq!(told, [("b", Alarm), ("c", Offline), ("a", Good), ("d", Unknown)]);
    assert_eq!(found.states, [(Alarm, 1), (Offline, 1), (Good, 1), (Unknown, 1)].into());
    // It was fresh a second earlier: three of its own intervals.
    city.clock.advance_micros(-1_000_000);
    let shown = city.show(&nobody, vec![tile.clone()]).await;
    let Shape::List(found) = &shown.tiles[0] else { panic!("a list") };
    assert!(found.rows.iter().any(|r| r.name.en == "c" && r.state == Good));
    city.clock.advance_micros(1_000_000);
    // One that is installed now is there, without anybody changing the dashboard.
    let fifth = city.thing("fehd", "e", "ammonia", true, json!({})).await;
    city.say(fifth, 9.0).await;
    let shown = city.show(&nobody, vec![tile.clone()]).await;
    assert_eq!(names(&shown)[..2], ["b", "e"]);
    // Rows that are left out are counted.
    tile.most = Some(2);
    let shown = city.show(&nobody, vec![tile]).await;
    let Shape::List(found) = &shown.tiles[0] else { panic!("a list") };
    assert_eq!((found.rows.len(), found.things), (2, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_combined_out_of_what_is_fresh_alone() {
    let city = City::open().await;
    let (one, two) = (
        city.thing("fehd", "a", "occupied", true, json!({})).await,
        city.thing("fehd", "b", "occupied", true, json!({})).await,
    );
    city.say(one, 3.0).await;
    city.record(two, [(city.now().plus_secs(-1_000), ResultValue::Number(7.0))]).await;
    let mut sum = tile(Kind::Value, Some("occupied"));
    sum.combine = Some(Combine::Sum);
    let mut left = list("occupied");
    (left.columns[0].of, left.columns[0].left) = (Some("cubicles".to_owned()), true);
    let mut of_a = tile(Kind::Value, Some("occupied"));
    of_a.select.thing = Some("b".to_owned());
    let shown = city.show(&Caller::anonymous(), vec![sum.clone(), left, of_a]).await;
    let Shape::Value(figure) = &shown.tiles[0] else { panic!("a value") };
    assert_eq!((figure.value, figure.streams, figure.fresh), (Some(3.0), 2, 1), "what is old is not added up");
    let Shape::List(rows) = &shown.tiles[1] else { panic!("a list") };
    let entry = rows.rows.iter().find(|r| r.name.en == "a").and_then(|r| r.entries[0].clone()).expect("an entry");
    assert_eq!((entry.number, entry.of), (Some(5.0), Some(8.0)), "five of eight are free");
    let Shape::Value(figure) = &shown.tiles[2] else { panic!("a value") };
    assert_eq!(
        (figure.value, figure.state),
        (Some(7.0), Some(Standing::Offline)),
        "a single one is shown, and said to be old"
    );
    city.clock.advance_micros(3_600_000_000);
    let shown = city.show(&Caller::anonymous(), vec![sum]).await;
    let Shape::Value(figure) = &shown.tiles[0] else { panic!("a value") };
    assert_eq!((figure.value, figure.state), (None, Some(Standing::Offline)), "nothing is fresh: there is no sum");
    // A word is judged by its words, and a faulty number is none.
    let door = city.thing("fehd", "c", "door", true, json!({"word": true})).await;
    let word = ResultValue::Json(RawValue::from_string("\"fault\"".to_owned()).expect("json").into());
    city.record(door, [(city.now(), word)]).await;
    let mut state = tile(Kind::Value, Some("door"));
    state.levels = parse_levels("fault alarm, open good").expect("levels");
    let shown = city.show(&Caller::anonymous(), vec![state]).await;
    let Shape::Value(figure) = &shown.tiles[0] else { panic!("a value") };
    assert_eq!((figure.word.as_deref(), figure.state), (Some("fault"), Some(Standing::Alarm)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_lies_beside_the_one_before_and_hours_in_their_week() {
    let city = City::open().await;
    let streams = [
        city.thing("fehd", "a", "visitors", true, json!({})).await,
        city.thing("fehd", "b", "visitors", true, json!({})).await,
    ];
    let hours = |from: i64, to: i64, value: f64| {
        let now = city.now();
        (from..to).map(move |h| (now.plus_secs(-h * 3_600 - 60), ResultValue::Number(value)))
    };
    for stream in streams {
        city.record(stream, hours(0, 24, 10.0).chain(hours(25, 48, 5.0))).await;
    }
    let mut chart = tile(Kind::Chart, Some("visitors"));
    chart.combine = Some(Combine::Total);
    let mut heat = tile(Kind::Heat, Some("visitors"));
    heat.weeks = Some(1);
    let mut total = tile(Kind::Value, Some("visitors"));
    total.combine = Some(Combine::Total);
    let shown = city.show(&Caller::anonymous(), vec![chart, heat, total]).await;
    let Shape::Chart(line) = &shown.tiles[0] else { panic!("a chart") };
    assert_eq!(line.points.len(), 24);
    assert!(line.points.iter().all(|(_, v)| *v == Some(20.0)), "both added up: {:?}", line.points);
    assert_eq!(line.before.len(), 23, "an hour of the day before is not known, and not made up");
    assert!(
        line.before.iter().all(|(at, v)| *v == Some(10.0) && *at >= line.from && *at <= line.to),
        "{:?}",
        line.before
    );
    assert_eq!((line.now_mean, line.before_mean), (Some(20.0), Some(10.0)));
    let Shape::Heat(strip) = &shown.tiles[1] else { panic!("a strip") };
    // Saturday 13:00 of local time was within the last 24 hours, Friday 13:00 in those before, Tuesday in neither.
    assert_eq!([strip.cells[5][13], strip.cells[4][13], strip.cells[1][13]], [Some(10.0), Some(5.0), None]);
    assert_eq!(strip.peak().map(|(_, _, v)| v), Some(10.0));
    let Shape::Value(figure) = &shown.tiles[2] else { panic!("a value") };
    assert_eq!(figure.value, Some(24.0 * 20.0 - 20.0), "23 whole hours and the one that runs");
    assert_eq!(figure.spark.len(), 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_counted_for_who_may_see_them() {
    let city = City::open().await;
    let stream = city.thing("fehd", "a", "ammonia", true, json!({})).await;
    city.say(stream, 1.0).await;
    let thing: i64 = city
        .catalog
        .records()
        .read(|read| read.query_one("SELECT id FROM sensing_thing WHERE key = 'a'", params![], |row| row.get(0)))
        .await
        .unwrap_or_else(|e: records::Error| panic!("{e}"));
    let add = city.catalog.records().write(move |tx| {
        for (n, (owner, severity, state, system)) in
            [("fehd", 2, "open", "toilet"), ("fehd", 2, "acknowledged", "toilet"), ("fehd", 3, "closed", "toilet"), ("fehd", 0, "open", "air"), ("ha", 3, "open", "toilet")]
                .into_iter()
                .enumerate()
        {
            tx.execute(
                "INSERT INTO sensing_alarm (id, rule, tenant, public, severity, state, name, thing, thing_name, datastream, system,
                     raised_at, recorded_at, version)
                 VALUES ($1, 'r', $2, 0, $3, $4, '{\"en\":\"A\"}', $5, '{\"en\":\"T\"}', 1, $6, $7, $7, 1)",
                params![format!("01900000-0000-7000-8000-00000000000{n}"), owner, severity, state, thing, system, tx.now()],
            )?;
        }
        Ok::<_, records::Error>(())
    });
    add.await.expect("alarms");
    let tiles = || {
        vec![
            Tile {
                select: Selection { system: Some("toilet".into()), ..Selection::default() },
                ..Tile::new(Kind::Alarms, text("T"))
            },
            list("ammonia"),
        ]
    };
    let counts = |shown: &Shown| match &shown.tiles[0] {
        Shape::Alarms(a) => {
            (a.hidden, a.counts.iter().map(|(_, n)| (n.open, n.acknowledged)).collect::<Vec<_>>(), a.newest.len())
        }
        other => panic!("{other:?}"),
    };
    let shown = city.show(&person("fehd", "viewer"), tiles()).await;
    assert_eq!(counts(&shown), (false, vec![(0, 0), (1, 1), (0, 0), (0, 0)], 2));
    let Shape::List(found) = &shown.tiles[1] else { panic!("a list") };
    assert_eq!(
        (found.rows[0].state, found.rows[0].alarm),
        (Standing::Alarm, true),
        "a standing alarm is worse than a good value"
    );
    let shown = city.show(&Caller::anonymous(), tiles()).await;
    assert!(counts(&shown).0, "the public is not told that there are none");
    let Shape::List(found) = &shown.tiles[1] else { panic!("a list") };
    assert_eq!((found.rows[0].state, found.rows[0].alarm), (Standing::Good, false));
    assert!(!shown.json(Language::En).to_string().contains("severity"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_datastreams_are_one_question() {
    let city = City::open().await;
    for n in 0..60 {
        let stream = city.thing("ha", &format!("unit-{n:03}"), "pressure", true, json!({})).await;
        city.say(stream, f64::from(n)).await;
    }
    let tiles = vec![list("pressure"), tile(Kind::Value, Some("pressure")), tile(Kind::Map, Some("pressure"))];
    city.show(&Caller::anonymous(), tiles.clone()).await;
    let found = city.boards.get(&Caller::anonymous(), "toilets").await.expect("public");
    let before = city.catalog.records().stats().reads;
    let shown = city.boards.show(&Caller::anonymous(), found, &city.zone).await.expect("shown");
    // One for all tiles, one for the alarms that stand.
    assert_eq!(city.catalog.records().stats().reads - before, 2);
    let Shape::List(rows) = &shown.tiles[0] else { panic!("a list") };
    assert_eq!((rows.things, rows.rows.len()), (60, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn officers_make_change_and_remove_theirs_and_leave_a_trace() {
    let city = City::open().await;
    city.show(&Caller::anonymous(), vec![list("ammonia")]).await;
    let (manager, viewer, stranger) = (person("fehd", "manager"), person("fehd", "viewer"), person("ha", "manager"));
    let mut own = board("fehd.night", "fehd", vec![list("ammonia")]);
    own.audience = super::model::Audience::Tenant;
    let body = serde_json::to_string(&own).expect("JSON");
    let post = || Request::post("/api/dashboards");
    let put = |version: &str| Request::put("/api/dashboards/fehd.night").header(header::IF_MATCH, version);
    assert_eq!(city.ask(None, post(), &body).await.0, 401);
    assert_eq!(city.ask(Some(&viewer), post(), &body).await.0, 403);
    assert_eq!(city.ask(Some(&stranger), post(), &body).await.0, 404);
    let (made, headers, told) = city.ask(Some(&manager), post(), &body).await;
    assert_eq!((made.as_u16(), &told["version"]), (201, &json!(1)), "{told}");
    assert_eq!(headers["location"], "/api/dashboards/fehd.night");
    assert_eq!(headers["etag"], "\"1\"");
    assert_eq!(city.ask(Some(&manager), post(), &body).await.0, 409, "taken");
    // Bad input is named and changes nothing.
    let wrong = body.replace("\"width\":1", "").replace("\"kind\":\"status\"", "\"kind\":\"status\",\"width\":9");
    let (status, _, told) = city.ask(Some(&manager), put("\"1\""), &wrong).await;
    assert_eq!((status.as_u16(), &told["errors"][0]["field"]), (400, &json!("/tile/0/width")), "{told}");
    let (status, _, told) = city.ask(Some(&manager), Request::put("/api/dashboards/fehd.night"), &body).await;
    assert_eq!((status.as_u16(), &told["errors"][0]["field"]), (400, &json!("If-Match")));
    assert_eq!(city.ask(Some(&manager), put("\"1\""), &body.replace("fehd.night", "fehd.day")).await.0, 400);
    assert_eq!(city.ask(Some(&manager), put("\"1\""), &body.replace("\"refresh\"", "\"refesh\"")).await.0, 400);
    let other = body.replace("\"refresh\":15", "\"refresh\":30");
    assert_eq!(city.ask(Some(&viewer), put("\"1\""), &other).await.0, 403);
    assert_eq!(city.ask(Some(&stranger), put("\"1\""), &other).await.0, 404);
    let (status, headers, told) = city.ask(Some(&manager), put("\"1\""), &other).await;
    assert_eq!((status.as_u16(), &told["refresh"]), (200, &json!(30)));
    assert_eq!(headers["etag"], "\"2\"");
    let (status, _, told) = city.ask(Some(&manager), put("\"1\""), &body).await;
    assert_eq!(
        (status.as_u16(), told["type"].as_str()),
        (412, Some("/problems/dashboard-changed")),
        "somebody was faster"
    );
    assert_eq!(city.boards.get(&manager, "fehd.night").await.expect("kept").version, 2);
    // The pack's is the pack's.
    let pack = city
        .ask(
            Some(&manager),
            Request::put("/api/dashboards/toilets").header(header::IF_MATCH, "\"1\""),
            &body.replace("fehd.night", "toilets"),
        )
        .await;
    assert_eq!(pack.0, 409);
    let delete = |version: &str| Request::delete("/api/dashboards/fehd.night").header(header::IF_MATCH, version);
    assert_eq!(city.ask(Some(&manager), delete("\"1\""), "").await.0, 412);
    // Applying the pack again leaves officers' alone, and writes nothing the second time.
    let file = DashboardFile { dashboard: vec![board("toilets", "fehd", vec![list("ammonia")])], scale: vec![] };
    assert_eq!(city.boards.apply(&Caller::system("pack"), file).await.expect("applied"), super::Applied::default());
    assert_eq!(city.ask(Some(&manager), delete("\"2\""), "").await.0, 204);
    let rows = city
        .catalog
        .records()
        .audit(records::AuditQuery { limit: 50, ..Default::default() })
        .await
        .expect("audit")
        .rows;
    let mut done: Vec<String> = rows.into_iter().map(|r| r.action).filter(|a| a.starts_with("dashboard:")).collect();
    done.reverse();
    assert_eq!(done, ["dashboard:apply", "dashboard:create", "dashboard:change", "dashboard:remove"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_narrow_who_sees_a_dashboard() {
    let city = City::open().await;
    let mut narrow = board("fehd.chiefs", "fehd", Vec::new());
    (narrow.audience, narrow.roles) = (super::model::Audience::Tenant, ["chief".to_owned()].into());
    city.boards.create(&person("fehd", "manager"), narrow).await.expect("made");
    for (caller, sees) in [
        (person("fehd", "chief"), true),
        (person("fehd", "manager"), true),
        (person("fehd", "viewer"), false),
        (person("ha", "chief"), false),
        (Caller::anonymous(), false),
    ] {
        assert_eq!(city.boards.get(&caller, "fehd.chiefs").await.is_ok(), sees, "{caller:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_it_already_is_not_sent_it_again() {
    let city = City::open().await;
    let stream = city.thing("fehd", "a", "ammonia", true, json!({})).await;
    city.say(stream, 1.0).await;
    city.show(&Caller::anonymous(), vec![list("ammonia")]).await;
    let data = || Request::get("/api/dashboards/toilets/data?lang=zh-hant");
    let (status, headers, told) = city.ask(None, data(), "").await;
    assert_eq!((status.as_u16(), told["title"].as_str()), (200, Some("甲")));
    let tag = headers["etag"].to_str().expect("a tag").to_owned();
    city.clock.advance_micros(20_000_000);
    let (status, _, body) = city.ask(None, data().header(header::IF_NONE_MATCH, &tag), "").await;
    assert_eq!((status.as_u16(), body), (304, Value::Null), "time alone changes nothing");
    city.say(stream, 2.0).await;
    let (status, headers, _) = city.ask(None, data().header(header::IF_NONE_MATCH, &tag), "").await;
    assert_eq!(status, 200);
    let newer = headers["etag"].to_str().expect("a tag").to_owned();
    city.clock.advance_micros(600_000_000);
    let (status, _, told) = city.ask(None, data().header(header::IF_NONE_MATCH, &newer), "").await;
    assert_eq!(
        (status.as_u16(), &told["tiles"][0]["rows"][0]["state"]),
        (200, &json!("offline")),
        "growing old is a change"
    );
    assert_eq!(city.ask(None, Request::get("/api/dashboards/toilets/data?lang=fr"), "").await.0, 400);
    assert_eq!(city.ask(None, Request::get("/api/dashboards/toilets/data?x=1"), "").await.0, 400);
    assert_eq!(city.ask(None, Request::get("/api/dashboards/none/data"), "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_is_one_screens_until_it_is_over() {
    let city = City::open().await;
    city.show(&Caller::anonymous(), vec![list("ammonia")]).await;
    let walls = Walls::new(city.boards.clone(), true);
    let manager = person("fehd", "manager");
    let draft = |boards: &[&str], days| Draft {
        tenant: tenant("fehd"),
        name: "Lobby".to_owned(),
        boards: boards.iter().map(|b| (*b).to_owned()).collect(),
        every: 20,
        days,
    };
    assert_eq!(
        status(walls.make(&person("fehd", "viewer"), draft(&["toilets"], 30)).await.expect_err("a viewer")),
        403
    );
    assert_eq!(
        status(walls.make(&person("ha", "manager"), draft(&["toilets"], 30)).await.expect_err("another's")),
        404
    );
    let wrong = walls
        .make(&manager, Draft { every: 1, name: " ".into(), ..draft(&["toilets", "none"], 0) })
        .await
        .expect_err("wrong");
    let fields: Vec<String> = Problem::from(wrong).errors.into_iter().map(|e| e.field).collect();
    assert_eq!(fields, ["/name", "/boards/1", "/every", "/days"]);

    let (wall, code) = walls.make(&manager, draft(&["toilets"], 30)).await.expect("made");
    assert_eq!(walls.pair("ABCD-EFGH-JKMN-PQRS-TVWX").await.expect("asked"), None);
    let (paired, token) = walls.pair(&code.to_lowercase()).await.expect("asked").expect("a screen");
    assert_eq!(paired.id, wall.id);
    assert_eq!(walls.pair(&code).await.expect("asked"), None, "a code is used up");
    let kept: Vec<String> = city
        .catalog
        .records()
        .read(|read| read.query("SELECT screen FROM sensing_wall", params![], |row| row.get(0)))
        .await
        .unwrap_or_else(|e: records::Error| panic!("{e}"));
    assert!(!kept.concat().contains(&token), "only its hash is kept");
    assert!(walls.set(&token, &wall, city.now()).starts_with("__Host-lamppost-wall="));

    // What a screen is: its department's, with one role, and nobody who may change anything.
    let known = walls.authenticate(&token).await.expect("asked").expect("known");
    let screen = known.caller();
    assert_eq!(walls.of(&screen).await.expect("a wall").boards, ["toilets"]);
    assert!(!city.boards.may_manage(&screen, &tenant("fehd")) && !walls.may(&screen, &tenant("fehd")));
    assert_eq!(status(walls.of(&manager).await.expect_err("a person")), 401);
    assert_eq!(walls.authenticate("x").await.expect("asked"), None);

    // Another screen takes its place; the one before shows nothing any more.
    let (_, second) = walls.renew(&manager, wall.id).await.expect("renewed");
    assert!(walls.authenticate(&token).await.expect("asked").is_some(), "until the new code is used");
    let (_, other) = walls.pair(&second).await.expect("asked").expect("a screen");
    assert_eq!(walls.authenticate(&token).await.expect("asked"), None);
    assert!(walls.authenticate(&other).await.expect("asked").is_some());

    // A code that nobody used in a day is none; a wall ends by itself.
    let (_, late) = walls.renew(&manager, wall.id).await.expect("renewed");
    city.clock.advance_micros(86_400_000_001);
    assert_eq!(walls.pair(&late).await.expect("asked"), None);
    assert!(walls.authenticate(&other).await.expect("asked").is_some());
    city.clock.advance_micros(29 * 86_400_000_000);
    assert_eq!(walls.authenticate(&other).await.expect("asked"), None);
    assert_eq!(status(walls.of(&screen).await.expect_err("over")), 401);

    // Revoked is revoked at once, and only by who may.
    let (wall, code) = walls.make(&manager, draft(&["toilets"], 30)).await.expect("made");
    let (_, token) = walls.pair(&code).await.expect("asked").expect("a screen");
    assert_eq!(status(walls.revoke(&person("fehd", "viewer"), wall.id).await.expect_err("a viewer")), 403);
    assert_eq!(status(walls.revoke(&person("ha", "manager"), wall.id).await.expect_err("another's")), 404);
    let before = walls.generation();
    walls.revoke(&manager, wall.id).await.expect("revoked");
    assert!(walls.generation() > before, "who remembers screens forgets them");
    assert_eq!(walls.authenticate(&token).await.expect("asked"), None);
    assert_eq!(status(walls.revoke(&manager, wall.id).await.expect_err("again")), 409);
    let rows = city
        .catalog
        .records()
        .audit(records::AuditQuery { limit: 50, ..Default::default() })
        .await
        .expect("audit")
        .rows;
    let count = |action: &str| rows.iter().filter(|r| r.action == action).count();
    assert_eq!(["wall:create", "wall:pair", "wall:renew", "wall:revoke"].map(count), [2, 3, 2, 1]);
    assert!(!format!("{rows:?}").contains(&code), "no code in the audit");
}
