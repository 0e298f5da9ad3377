//! A sealed department: with one of everything in it, all its alarms ringing, every answer outside is byte for byte what it was while it was
//! empty; and whoever inside looks is on record.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Right, Try,
    recipes::{RECIPES, Recipe},
    world::{SEALED, Who, World, sign_up, thing_of},
};
use crate::{
    browser::{Browser, PASSWORD, location},
    city::TestCity,
};

/// What is asked beyond the recipes: every list and count that might count what is sealed, and every way around by what is not.
const QUESTIONS: &[&str] = &[
    "/v1.1/Things?$count=true&$top=3&$orderby=id%20desc",
    "/v1.1/Things?$count=true&$filter=properties/system%20eq%20'prison'",
    "/v1.1/Things?$filter=startswith(name,'sealed')&$count=true",
    "/v1.1/Things?$filter=Datastreams/Observations/result%20gt%201400&$count=true",
    "/v1.1/Datastreams?$count=true&$top=3&$orderby=id%20desc",
    "/v1.1/Datastreams?$filter=Observations/result%20gt%201900&$count=true",
    "/v1.1/MultiDatastreams?$count=true",
    "/v1.1/Locations?$count=true&$top=3&$orderby=id%20desc&$expand=Things",
    "/v1.1/HistoricalLocations?$count=true&$top=3&$orderby=id%20desc&$expand=Thing,Locations",
    "/v1.1/Sensors?$count=true&$expand=Datastreams($count=true)",
    "/v1.1/ObservedProperties?$count=true&$expand=Datastreams($count=true;$top=1)",
    "/v1.1/FeaturesOfInterest?$count=true&$expand=Observations($count=true)",
    "/v1.1/Observations?$count=true&$top=5&$orderby=phenomenonTime%20desc",
    "/v1.1/Observations?$filter=result%20gt%201900&$count=true",
    "/v1.1/Observations?$filter=Datastream/Thing/properties/system%20eq%20'prison'&$count=true",
    "/v1.1/TaskingCapabilities?$count=true&$expand=Thing",
    "/v1.1/Actuators?$count=true&$expand=TaskingCapabilities",
    "/v1.1/Tasks?$count=true",
    "/en/things?system=prison",
    "/en/things?q=sealed",
    "/en/map?layers=prison",
    "/api/map/layers/prison",
    "/api/map/layers/none",
    "/api/alarms?system=prison",
    "/api/alarms?tenant=csd",
    "/api/alarms?rule=sealed-high",
    "/api/deliveries?state=dead",
    "/api/devices?tenant=csd",
    "/api/rules/sealed-high",
    "/api/connectors/sealed-feed",
    "/api/alerts?rule=sealed-high",
    "/api/derived/sealed-derived",
    "/api/fences",
    "/api/fences/csd.yard",
    "/api/map/tracks?system=prison",
    "/en/map/playback?system=prison&from=2024-01-01T00:00:00Z&to=2024-01-01T06:00:00Z",
    "/en/fences",
    "/api/silences?tenant=csd",
    "/api/campaigns?tenant=csd",
    "/api/firmware?tenant=csd",
    "/api/devices.csv?tenant=csd",
    "/api/ingest/unknown?tenant=csd",
    "/en/devices?tenant=csd",
    "/en/operators?tenant=csd",
    "/zh-hant",
    "/zh-hant/status",
    "/zh-hans/alarms?system=prison",
];

struct Outsider {
    name: &'static str,
    who: Who,
    /// Sees the platform as a whole: how much there is of everything together. Who runs the machine knows that.
    platform: bool,
}

async fn outsiders(world: &World) -> Vec<Outsider> {
    let (city_browser, _) = sign_up(&world.city, "mayor", "city", "viewer").await;
    let (chief, _) = sign_up(&world.city, "chief", "city", "admin").await;
    let outsider = |name, who: &Who| Outsider { name, who: who.clone(), platform: false };
    vec![
        outsider("nobody", &Who::Anonymous),
        outsider("another department's key", &world.manager),
        outsider("another department's device", &world.strange_device),
        outsider("another department's browser", &world.viewer_browser),
        outsider("a city viewer", &city_browser),
        Outsider { platform: true, ..outsider("the city's key", &world.city_admin) },
        Outsider { platform: true, ..outsider("the city's administrator", &chief) },
    ]
}

/// Cuts out what stands between two marks, wherever they are.
fn without(text: &str, from: &str, to: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(from) {
        out.push_str(before);
        rest = after.split_once(to).map_or("", |(_, after)| after);
    }
    out + rest
}

/// What an answer tells, without what differs from request to request: tokens, and how long ago something was.
async fn told(world: &World, who: &Who, path: &str) -> String {
    let answer = world.send("GET", path, who, None, &[("accept", "text/html, application/json")]).await;
    let skip = ["x-request-id", "date", "content-length", "content-security-policy", "set-cookie", "transfer-encoding"];
    let mut out = format!("{}\n", answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| !skip.contains(&name.as_str())) {
        out.push_str(&format!("{name}: {value:?}\n"));
    }
    // A live view has no end; what it shows is looked at by `sensing`'s own tests.
    if path != "/api/live" {
        out.push_str(&answer.text().await.unwrap());
    }
    let out = without(&out, "<time", "</time>");
    // When the device that asks was heard of: by this.
    let out = without(&out, "\"seen_at\":", ",");
    let out = without(&out, "\"used_at\":", "}");
    // When it was asked: the foot of the status page, and where the map's slider begins and ends.
    let out = without(&out, "<p class=\"provenance\">", "</p>");
    let out = without(&out, "&quot;slider&quot;:{", "}");
    // Tracks and profiles are of a span that ends now, unless another is asked for.
    let ends_now = ["/track", "/playback", "/profiles", "/visits"].iter().any(|part| path.contains(part));
    let out = if ends_now { undated(&out) } else { out };
    // What tells one form from the next.
    let out = without(&out, "name=\"key\" value=\"", "\"");
    // When the program last looked at its parts.
    let out = without(&out, "\"as_of\":\"", "\"");
    // When a dashboard was drawn.
    let out = without(&out, "<p class=\"updated", "</p>");
    // A device's own entry says when it was last heard of, which is now.
    let out = without(&out, "\"seen_at\":\"", "\"");
    let out = without(&out, "\"used_at\":\"", "\"");
    // The device that asks, once more: what its kind was last heard of.
    let out = without(&out, "\"last\":\"", "\"");
    let out = without(&out, "\"since\":\"", "\"");
    // Feeds that may not be read here are tried again meanwhile, and fail once more.
    let out = without(&out, "\"started_at\":\"", "\"");
    let out = without(&out, "\"failed_at\":\"", "\"");
    let out = without(&out, "\"failures\":", ",");
    let out = without(&out, "\"next_run\":\"", "\"");
    let out = without(&out, "\"wrong\":\"connector-fails\"", "\"cause\"");
    let out = without(&out, "<b>It has failed ", "</b>");
    let out = without(&out, "name=\"csrf\" value=\"", "\"");
    without(&out, "nonce=\"", "\"")
}

/// Without moments as `2026-11-30T18:24` begins them, also in addresses.
fn undated(text: &str) -> String {
    let shape = |at: &[u8]| {
        at.len() > 10
            && at[..11].iter().zip(b"0000-00-00T").all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b == s })
    };
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        if shape(&bytes[at..]) {
            at += 11;
            at += bytes[at..].iter().take_while(|b| b.is_ascii_digit() || b":.Z%A+".contains(b)).count();
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap()
}

/// Waits until the program has looked at its parts once more: what it saw is shown for a few seconds.
async fn looked_again(world: &World) {
    let since = world.city.running().stores.records.now();
    loop {
        let answer = world.send("GET", "/api/operations/status", &world.city_admin, None, &[]).await;
        let answer: Value = answer.json().await.unwrap();
        if answer["as_of"].as_str().unwrap().parse::<kernel::Timestamp>().unwrap() > since {
            return;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Everything that everybody outside is told.
async fn all(world: &World, outsiders: &[Outsider]) -> Vec<(String, String)> {
    let recipes = RECIPES.iter().filter(|r| r.method == "GET").map(|r| world.fill(r.path, true));
    let questions: Vec<String> = recipes.chain(QUESTIONS.iter().map(|q| (*q).to_owned())).collect();
    let mut all = Vec::new();
    for Outsider { name, who, platform } in outsiders {
        for path in &questions {
            let totals = matches!(path.as_str(), "/metrics" | "/en/operations" | "/api/operations/status");
            if !(*platform && totals) {
                all.push((format!("{path} by {name}"), told(world, who, path).await));
            }
        }
    }
    all
}

struct Cell {
    key: String,
    names: Vec<(&'static str, String)>,
}

impl Cell {
    async fn ask(&self, city: &TestCity, method: &str, path: &str, body: Value) -> (Option<String>, Value) {
        let mut request = city.request(method, path).bearer_auth(&self.key);
        if method != "GET" {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let location = answer.headers().get("location").map(|l| l.to_str().unwrap().to_owned());
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        (location, serde_json::from_str(&text).unwrap_or_default())
    }

    /// One of everything, an alarm that rings and a letter that did not arrive.
    async fn fill(world: &World) -> Self {
        let city = &world.city;
        let mut cell = Self { key: city.key("csd", "admin").await, names: Vec::new() };
        let inside = |location: Option<String>| {
            let location = location.unwrap();
            location[location.rfind('(').unwrap() + 1..].trim_end_matches(')').to_owned()
        };
        let mut body = thing_of(SEALED, "prison");
        body["@lamppost.public"] = true.into();
        let refused =
            city.request("POST", "/v1.1/Things").bearer_auth(&cell.key).body(body.to_string()).send().await.unwrap();
        assert_eq!(refused.status(), 400, "nothing of a sealed department is published");
        let (made, _) = cell.ask(city, "POST", "/v1.1/Things", thing_of(SEALED, "prison")).await;
        let thing = inside(made);
        let expand = "Locations,Datastreams($expand=Sensor,ObservedProperty),HistoricalLocations,TaskingCapabilities($expand=Actuator)";
        let (_, found) = cell.ask(city, "GET", &format!("/v1.1/Things({thing})?$expand={expand}"), Value::Null).await;
        let id = |value: &Value| value["@iot.id"].to_string();
        let datastream = id(&found["Datastreams"][0]);
        let capability = id(&found["TaskingCapabilities"][0]);
        for value in [1500, 2000] {
            let body = json!({"result": value});
            cell.ask(city, "POST", &format!("/v1.1/Datastreams({datastream})/Observations"), body).await;
        }
        let path = format!("/v1.1/Datastreams({datastream})/Observations?$expand=FeatureOfInterest");
        let (_, observed) = cell.ask(city, "GET", &path, Value::Null).await;
        let body = json!({"taskingParameters": {"level": 1}});
        let (made, _) = cell.ask(city, "POST", &format!("/v1.1/TaskingCapabilities({capability})/Tasks"), body).await;
        let task = inside(made);
        let body = json!({"tenant": "csd", "key": SEALED, "kind": "door", "things": [thing.parse::<i64>().unwrap()]});
        let (_, device) = cell.ask(city, "POST", "/api/devices", body).await;
        // What is computed, calibrated, kept quiet, rolled out, and what spoke without being declared.
        let named = |value: &Value| json!({"@iot.id": value["@iot.id"]});
        let computed = json!({
            "name": format!("{SEALED} twice"), "description": "Made by a test",
            "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "http://example.org/m"},
            "Sensor": named(&found["Datastreams"][0]["Sensor"]),
            "ObservedProperty": named(&found["Datastreams"][0]["ObservedProperty"]),
        });
        let (made, _) = cell.ask(city, "POST", &format!("/v1.1/Things({thing})/Datastreams"), computed).await;
        let computed = inside(made);
        let number = |text: &str| text.parse::<i64>().unwrap();
        let twice = json!({
            "tenant": "csd", "name": {"en": SEALED, "zh-hant": SEALED, "zh-hans": SEALED}, "output": number(&computed),
            "input": [{"name": "level", "datastream": number(&datastream)}],
            "formula": [{"expression": "level.value * 2.0"}],
        });
        cell.ask(city, "PUT", "/api/derived/sealed-derived", twice).await;
        let calibration =
            json!({"method": {"linear": {"offset": 1.0}}, "from": "2024-01-01T00:00:00Z", "reason": SEALED});
        cell.ask(city, "POST", &format!("/api/datastreams/{datastream}/calibrations"), calibration).await;
        let soon = city.running().stores.records.now().plus_secs(3_600).to_string();
        let body = json!({"tenant": "csd", "district": ["Nowhere"], "ends_at": soon, "reason": SEALED});
        let (_, silence) = cell.ask(city, "POST", "/api/silences", body).await;
        let keep = format!("/api/firmware?tenant=csd&name={SEALED}&version=1");
        let (_, image) = cell.ask(city, "POST", &keep, json!("an image")).await;
        let body = json!({"tenant": "csd", "name": SEALED, "configuration": {"interval": 60}, "version": "2",
            "target": {"devices": [SEALED]}, "waves": "rest"});
        let (campaign, _) = cell.ask(city, "POST", "/api/campaigns", body).await;
        let body = json!({"time": "2024-05-01T00:00:00Z", "object": {"volts": 12},
            "deviceInfo": {"devEui": "24e124ffffffff02", "deviceName": SEALED}});
        let uplink = city.request("POST", "/api/ingest/chirpstack?event=up").bearer_auth(&cell.key);
        assert_eq!(uplink.body(body.to_string()).send().await.unwrap().status(), 404, "nobody has declared it");
        let (alarm, delivery) = loop {
            let (_, alarms) = cell.ask(city, "GET", "/api/alarms?rule=sealed-high", Value::Null).await;
            let (_, dead) = cell.ask(city, "GET", "/api/deliveries?state=dead", Value::Null).await;
            match (alarms["alarms"][0]["id"].as_str(), dead["deliveries"][0]["id"].as_str()) {
                (Some(alarm), Some(delivery)) => break (alarm.to_owned(), delivery.to_owned()),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        cell.names = vec![
            ("thing", thing),
            ("datastream", datastream),
            ("location", id(&found["Locations"][0])),
            ("history", id(&found["HistoricalLocations"][0])),
            ("sensor", id(&found["Datastreams"][0]["Sensor"])),
            ("property", id(&found["Datastreams"][0]["ObservedProperty"])),
            ("capability", capability),
            ("actuator", id(&found["TaskingCapabilities"][0]["Actuator"])),
            ("errand", task.clone()),
            ("task", task),
            ("observation", text(&observed["value"][0]["@iot.id"])),
            ("feature", id(&observed["value"][0]["FeatureOfInterest"])),
            ("alarm", alarm),
            ("delivery", delivery.clone()),
            ("letter", delivery),
            ("device", text(&device["id"])),
            ("rule", "sealed-high".to_owned()),
            ("connector", "sealed-feed".to_owned()),
            ("computed", computed),
            ("derived", "sealed-derived".to_owned()),
            ("silence", text(&silence["id"])),
            ("hush", text(&silence["id"])),
            ("soon", soon),
            ("image", text(&image["sha256"])),
            ("campaign", campaign.unwrap().trim_start_matches("/api/campaigns/").to_owned()),
            ("tenant", "csd".to_owned()),
        ];
        cell
    }
}

/// Whether the recipe names only what the sealed department has too.
fn applies(recipe: &Recipe, names: &[(&'static str, String)]) -> bool {
    let asked = format!("{}{}", recipe.path, recipe.body);
    let known = |name: &str| names.iter().any(|(n, _)| *n == name) || matches!(name, "version" | "csrf");
    let named = asked.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name));
    let mut named = named.filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase())).peekable();
    named.peek().is_some() && named.all(known)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_department_changes_no_answer_outside() {
    let mut world = World::build().await;
    let outsiders = outsiders(&world).await;
    // The first time caches and heads are still being made; the second is what the third has to equal.
    all(&world, &outsiders).await;
    looked_again(&world).await;
    let empty = all(&world, &outsiders).await;
    let cell = Cell::fill(&world).await;
    looked_again(&world).await;
    let filled = all(&world, &outsiders).await;
    assert!(empty.len() > 600, "only {} answers were compared", empty.len());
    for ((question, before), (_, after)) in empty.iter().zip(&filled) {
        assert!(!after.contains(SEALED), "{question}: it tells what is sealed: {after}");
        if before != after {
            let at = before.bytes().zip(after.bytes()).take_while(|(a, b)| a == b).count();
            let shown =
                |text: &str| text.get(at.saturating_sub(100)..).unwrap_or(text).chars().take(300).collect::<String>();
            panic!("{question}: another answer while there is something:\n{}\n\n{}", shown(before), shown(after));
        }
    }

    // And whoever knows an id, a key or a slug learns nothing from it, by any route and method.
    for &(name, ref real) in &cell.names {
        let missing = world.names[name].1.clone();
        let missing = if name == "observation" { real.replacen(&cell.names[1].1, "999999999", 1) } else { missing };
        world.names.insert(name, (real.clone(), missing));
    }
    let (city_browser, _) = sign_up(&world.city, "second-chief", "city", "admin").await;
    let mut tried = 0;
    for recipe in RECIPES.iter().filter(|r| applies(r, &cell.names) && !r.own && r.right != Right::CityAdmin) {
        let attempt = Try { world: &world, recipe, version: "1".to_owned() };
        let by_form = recipe.is_form() || recipe.right == Right::ManagerBrowser;
        let (city, other) =
            if by_form { (&city_browser, &world.stranger_browser) } else { (&world.city_admin, &world.manager) };
        // Which departments are sealed stands in the pack, and the city sees that of those that it may look into.
        let by_slug = format!("{}{}", recipe.path, recipe.body).contains("{tenant}");
        for (what, who) in [("the city", city), ("another department", other)].into_iter().skip(usize::from(by_slug)) {
            attempt.hidden(what, who).await;
            tried += 1;
        }
    }
    assert!(tried > 100, "only {tried} were tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_inside_is_on_record() {
    let city = TestCity::start().await;
    let key = city.key("csd", "viewer").await;
    let auditor = city.key("csd", "auditor").await;
    let ask = async |key: &str, path: &str| {
        let answer = city.get(path).bearer_auth(key).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default())
    };
    let (status, things) = ask(&key, "/v1.1/Things?$filter=properties/system%20eq%20'prison'&$count=true").await;
    assert_eq!((status, &things["@iot.count"]), (200, &json!(9)));
    for _ in 0..2 {
        assert_eq!(ask(&key, "/v1.1/Things(999999999)").await.0, 404);
    }
    let batch = json!({"requests": [{"id": "1", "method": "get", "url": "Datastreams?$top=1"}]});
    let answer = city.request("POST", "/v1.1/$batch").bearer_auth(&key).header("content-type", "application/json");
    assert_eq!(answer.body(batch.to_string()).send().await.unwrap().status(), 200);
    let live = city.get("/api/live").bearer_auth(&key).send().await.unwrap();
    assert_eq!(live.status(), 200);
    assert_eq!(ask(&key, "/api/looks").await.0, 404, "who looks does not read the record");

    assert_eq!(ask(&auditor, "/v1.1/Things?$filter=properties/system%20eq%20'prison'").await.1["value"], json!([]));
    let (status, record) = ask(&auditor, "/api/looks").await;
    assert_eq!(status, 200);
    let caller = format!("key:{}", key.split('_').nth(1).unwrap());
    let seen: Vec<(&str, &str, i64, i64)> = record["looks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|look| look["caller"] == *caller)
        .map(|l| {
            let text = |name: &str| l[name].as_str().unwrap();
            (text("door"), text("what"), l["answer"].as_i64().unwrap(), l["times"].as_i64().unwrap())
        })
        .collect();
    let mut things: Vec<_> = seen.iter().filter(|look| !look.1.contains("999999999")).copied().collect();
    things.reverse();
    assert_eq!(
        things,
        [
            ("http", "GET /v1.1/Things?$filter=properties/system%20eq%20%27prison%27&$count=true", 200, 1),
            ("http", "POST /v1.1/$batch", 200, 1),
            ("batch", "GET Datastreams?$top=1", 200, 1),
            ("http", "GET /api/live", 200, 1),
            ("http", "GET /api/looks", 404, 1),
        ]
    );
    // The same look within a minute is one row; a minute may have ended between the two.
    let missing: i64 = seen.iter().filter(|look| look.1.contains("999999999")).map(|look| look.3).sum();
    assert_eq!(missing, 2);

    // Pages of the record, and that reading it is on it.
    let (_, page) = ask(&auditor, &format!("/api/looks?limit=2&caller={caller}")).await;
    assert_eq!(page["looks"].as_array().unwrap().len(), 2);
    let path = format!("/api/looks?limit=1000&caller={caller}&before={}", page["next"].as_str().unwrap());
    assert_eq!(ask(&auditor, &path).await.1["looks"].as_array().unwrap().len(), seen.len() - 2);
    let (_, record) = ask(&auditor, "/api/looks?limit=1").await;
    assert!(record["looks"][0]["what"].as_str().unwrap().starts_with("GET /api/looks?limit=1000"), "{record}");
    for bad in ["limit=0", "limit=x", "from=yesterday", "before=x", "colour=red"] {
        assert_eq!(ask(&auditor, &format!("/api/looks?{bad}")).await.0, 400, "{bad}");
    }
}

/// Nobody outside opens it; whoever is let in has a name, a reason and an end, and manages nobody.
#[tokio::test(flavor = "multi_thread")]
async fn visitors_come_by_name_for_a_reason() {
    let city = TestCity::start().await;
    let mut warden = Browser::of(&city, "csd", "admin", "warden").await;
    let (status, html) = warden.get("/en/looks").await;
    assert_eq!(status, 200);
    assert!(html.contains("Nobody was let in."), "{html}");
    let form = |role: &'static str, reason: &'static str, hours: &'static str| {
        [("name", "Justice Wong"), ("reason", reason), ("role", role), ("hours", hours)]
    };
    for (role, reason, hours) in
        [("admin", "The yearly inspection", "4"), ("viewer", "why not", "4"), ("viewer", "The yearly inspection", "73")]
    {
        let answer = warden.post("/en/looks", "/en/looks/visits", &form(role, reason, hours)).await;
        assert_eq!(answer.status(), 422, "{role} {reason} {hours}");
    }
    let made = warden.post("/en/looks", "/en/looks/visits", &form("viewer", "The yearly inspection", "4")).await;
    assert_eq!(made.status(), 200);
    let html = made.text().await.unwrap();
    let link = html.split("/en/join/").nth(1).unwrap().split('<').next().unwrap().to_owned();
    assert!(
        html.contains("Justice Wong") && html.contains("The yearly inspection") && html.contains("Link not used yet")
    );

    let mut visitor = Browser::new(&city);
    let join = format!("/en/join/{link}");
    let fields = [("name", "Somebody Else"), ("account", "wong"), ("password", PASSWORD)];
    let joined = visitor.post(&join, &join, &fields).await;
    assert_eq!(joined.status(), 303, "{}", location(&joined));
    let (status, html) = visitor.get("/en/things?system=prison").await;
    assert!(status == 200 && html.contains("Hall A gate"), "{html}");
    assert_eq!(visitor.get("/en/looks").await.0, 404);
    let (_, html) = warden.get("/en/looks").await;
    assert!(html.contains("Has access") && !html.contains("Somebody Else"), "{html}");
    assert!(html.contains("GET /en/things?system=prison"), "{html}");
}
