//! How each listed address is asked for: one recipe or more for every route, so that a new route without one fails.

/// The one who may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    Anybody,
    Manager,
    ManagerBrowser,
    ViewerBrowser,
    /// A browser that has opened the page of the form and is not signed in.
    Visitor,
    CityAdmin,
    /// The department's own device, with its key.
    Device,
    /// The administrator of the sealed department, in a browser.
    Warden,
}

#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The route as it is listed.
    pub method: &'static str,
    pub route: &'static str,
    /// What is asked, with `{names}` of the world.
    pub path: &'static str,
    pub body: &'static str,
    pub right: Right,
    /// What the right one is answered.
    pub status: u16,
    /// What somebody of another department is answered about what is there, and about what is not.
    pub hidden: u16,
    /// What somebody of the department who may only look is answered.
    pub viewer: u16,
    /// Everybody who is signed in does this for themselves: there is no other department's object in it.
    pub own: bool,
    /// The department's own device may do it.
    pub device: bool,
    /// The right answer shows what is hidden from others.
    pub shows: bool,
    /// Differs from the route's: adding Observations leaves no audit row, the stream is its own record.
    pub silent: bool,
}

impl Recipe {
    const fn new(method: &'static str, route: &'static str, path: &'static str) -> Self {
        let right = Right::Manager;
        let (status, hidden, viewer) = (200, 404, if matches!(method.as_bytes(), b"GET") { 200 } else { 403 });
        let (own, device, shows, silent) = (false, false, false, false);
        Self { method, route, path, body: "", right, status, hidden, viewer, own, device, shows, silent }
    }
    const fn body(mut self, body: &'static str) -> Self {
        self.body = body;
        self
    }
    const fn right(mut self, right: Right) -> Self {
        self.right = right;
        self
    }
    const fn answers(mut self, status: u16, hidden: u16, viewer: u16) -> Self {
        (self.status, self.hidden, self.viewer) = (status, hidden, viewer);
        self
    }
    /// The route, where it is not written as it is asked for.
    const fn at(mut self, route: &'static str) -> Self {
        self.route = route;
        self
    }
    const fn own(mut self) -> Self {
        self.own = true;
        self
    }
    const fn device(mut self) -> Self {
        self.device = true;
        self
    }
    const fn shows(mut self) -> Self {
        self.shows = true;
        self
    }
    const fn silent(mut self) -> Self {
        self.silent = true;
        self
    }
    pub fn is_form(&self) -> bool {
        self.method == "POST" && self.route.starts_with("/{language}")
    }
    /// There is the name of something in the path or the body.
    pub fn names_something(&self) -> bool {
        self.path.contains('{') || (self.body.contains('{') && !self.own)
    }
}

const STA: &str = "/v1.1/{*path}";
/// Between the levels of the rule: no alarm is raised or cleared by it.
const OBSERVED: &str = r#"{"phenomenonTime": "2024-02-01T00:00:00Z", "result": 1500}"#;
const STREAM: &str = r#"{
  "name": "walled-garden-7731 second", "description": "d",
  "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
  "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
  "Sensor": {"@iot.id": {sensor}}, "ObservedProperty": {"@iot.id": {property}}
}"#;

const OBSERVED_BOTH: &str = r#"{"phenomenonTime": "2024-02-01T00:00:00Z", "result": [1, 2]}"#;
const BOTH: &str = r#"{
  "name": "walled-garden-7731 once more", "description": "d",
  "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_ComplexObservation",
  "multiObservationDataTypes": ["http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement"],
  "unitOfMeasurements": [{"name": "metre", "symbol": "m", "definition": "ucum:m"}],
  "Sensor": {"@iot.id": {sensor}}, "ObservedProperties": [{"@iot.id": {property}}]
}"#;

const LOCATION: &str = r#"{
  "name": "elsewhere", "description": "d", "encodingType": "application/geo+json",
  "location": {"type": "Point", "coordinates": [114.1, 22.3]}
}"#;

const TRIED: &str = r#"{"rule": {
  "key": "tried", "name": {"en": "a", "zh-hant": "a", "zh-hans": "a"}, "tenant": "{tenant}", "severity": "Minor",
  "select": {"system": "flood"}, "when": {"absence": {"after": 60}}
}}"#;

const SILENCE: &str = r#"{"tenant": "{tenant}", "district": ["Nowhere"], "ends_at": "{soon}", "reason": "a test"}"#;
const UPLINK: &str =
    r#"{"time": "2024-05-01T00:00:00Z", "deviceInfo": {"devEui": "24e124ffffffff01"}, "object": {"volts": 12}}"#;
const JOINED: &str = r#"{"end_device_ids": {"device_id": "d", "dev_eui": "24E124FFFFFFFF01"}, "join_accept": {}}"#;
const LINE: &str = "walls volts=12 1714521600";
/// What the world has declared, with another factor.
const DERIVED: &str = r#"{
  "tenant": "{tenant}", "name": {"en": "walled-garden-7731 twice", "zh-hant": "兩倍", "zh-hans": "两倍"}, "output": {computed},
  "input": [{"name": "level", "datastream": {datastream}}], "formula": [{"expression": "level.value * 3.0"}]
}"#;
const FENCE: &str = r#"{
  "tenant": "{tenant}", "name": {"en": "walled-garden-7731 yard", "zh-hant": "場", "zh-hans": "场"},
  "circle": {"lon": 114.17, "lat": 22.32, "radius": 200}
}"#;
const CALIBRATION: &str = r#"{"method": {"linear": {"offset": 1.0}}, "from": "2024-01-01T00:00:00Z", "to": "2024-01-02T00:00:00Z", "reason": "a test"}"#;

const BOARD: &str = r#"{
  "key": "{tenant}.second", "tenant": "{tenant}", "title": {"en": "second", "zh-hant": "二", "zh-hans": "二"},
  "tile": [{"kind": "value", "title": {"en": "a", "zh-hant": "a", "zh-hans": "a"}, "select": {"system": "flood"}}]
}"#;
const BOARD_CHANGED: &str = r#"{
  "key": "{dashboard}", "tenant": "dsd", "title": {"en": "walled-garden-7731 board", "zh-hant": "一", "zh-hans": "一"}, "refresh": 30, "tile": []
}"#;
const BOARD_FORM: &str = "csrf={csrf}&tenant={tenant}&key=third&title.en=third&title.zh-hant=a&title.zh-hans=a&audience=tenant&refresh=15&tiles=0&do=save";
const BOARD_EDIT: &str =
    "csrf={csrf}&version=1&title.en=third&title.zh-hant=a&title.zh-hans=a&audience=tenant&refresh=15&tiles=0&do=save";

const fn read(path: &'static str) -> Recipe {
    Recipe::new("GET", STA, path)
}
const fn page(route: &'static str, path: &'static str) -> Recipe {
    Recipe::new("GET", route, path).right(Right::ManagerBrowser)
}
const fn form(route: &'static str, path: &'static str, body: &'static str) -> Recipe {
    Recipe::new("POST", route, path).right(Right::ManagerBrowser).body(body)
}
const fn open(route: &'static str) -> Recipe {
    Recipe::new("GET", route, route).right(Right::Anybody)
}
const fn ask(method: &'static str, route: &'static str, path: &'static str, body: &'static str) -> Recipe {
    Recipe::new(method, route, path).body(body)
}

/// In the order in which the right one does them; what takes something away comes last.
pub const RECIPES: &[Recipe] = &[
    open("/health/live"),
    open("/health/ready"),
    Recipe::new("GET", "/metrics", "/metrics").right(Right::CityAdmin).answers(200, 404, 404),
    open("/api/openapi.json"),
    Recipe::new("GET", "/assets/{file}", "/assets/{asset}").right(Right::Anybody),
    open("/v1.1"),
    open("/api/live"),
    // SensorThings: reading.
    read("/v1.1/Things({thing})").shows(),
    read("/v1.1/Things({thing})?$expand=Datastreams($expand=Observations),Locations").shows(),
    read("/v1.1/Things({thing})/name"),
    read("/v1.1/Things({thing})/name/$value").shows(),
    read("/v1.1/Things({thing})/Datastreams").shows(),
    read("/v1.1/Things({thing})/Datastreams/$ref"),
    read("/v1.1/Things({thing})/Datastreams({datastream})/Observations"),
    read("/v1.1/Things({thing})/HistoricalLocations"),
    read("/v1.1/HistoricalLocations({history})/Thing").shows(),
    read("/v1.1/Locations({location})").shows(),
    read("/v1.1/Locations({location})/Things").shows(),
    read("/v1.1/Datastreams({datastream})").shows(),
    read("/v1.1/Datastreams({datastream})/Thing").shows(),
    read("/v1.1/Datastreams({datastream})/Sensor").shows(),
    read("/v1.1/Datastreams({datastream})/Observations"),
    read("/v1.1/MultiDatastreams({multi})").shows(),
    read("/v1.1/MultiDatastreams({multi})/ObservedProperties").shows(),
    read("/v1.1/MultiDatastreams({multi})/Observations"),
    read("/v1.1/Things({thing})/MultiDatastreams?$count=true").shows(),
    read("/v1.1/ObservedProperties({property})/MultiDatastreams").shows(),
    read("/v1.1/Observations('{observation}')"),
    read("/v1.1/Observations('{observation}')/Datastream").shows(),
    read("/v1.1/Observations('{observation}')/FeatureOfInterest"),
    read("/v1.1/Sensors({sensor})").shows(),
    read("/v1.1/Sensors({sensor})/Datastreams").shows(),
    read("/v1.1/ObservedProperties({property})").shows(),
    read("/v1.1/FeaturesOfInterest({feature})"),
    read("/v1.1/FeaturesOfInterest({feature})/Observations"),
    read("/v1.1/Things?$filter=startswith(name,'walled')").shows(),
    read("/v1.1/Things?$filter=Datastreams/name%20eq%20'walled-garden-7731%20level'").shows(),
    read("/v1.1/Things?$filter=startswith(name,'walled')&$expand=Datastreams&$count=true").shows(),
    read("/v1.1/Datastreams?$filter=Thing/name%20eq%20'walled-garden-7731'&$count=true").shows(),
    read("/v1.1/Locations?$filter=startswith(name,'Where%20walled')").shows(),
    read("/v1.1/Sensors?$filter=startswith(name,'walled')").shows(),
    read("/v1.1/ObservedProperties?$filter=startswith(name,'walled')").shows(),
    read("/v1.1/Observations?$filter=Datastream/name%20eq%20'walled-garden-7731%20level'&$expand=Datastream").shows(),
    read("/v1.1/MultiDatastreams?$filter=Thing/name%20eq%20'walled-garden-7731'&$count=true").shows(),
    read("/v1.1/Observations?$filter=MultiDatastream/name%20eq%20'walled-garden-7731%20both'&$expand=MultiDatastream")
        .shows(),
    read("/v1.1/TaskingCapabilities({capability})").shows(),
    read("/v1.1/TaskingCapabilities({capability})/Tasks"),
    read("/v1.1/Things({thing})/TaskingCapabilities").shows(),
    read("/v1.1/Actuators({actuator})").shows(),
    read("/v1.1/Actuators({actuator})/TaskingCapabilities").shows(),
    read("/v1.1/Tasks({task})"),
    read("/v1.1/Tasks({task})/TaskingCapability").shows(),
    // SensorThings: writing.
    ask("POST", STA, "/v1.1/Things", r#"{"name": "a", "description": "d"}"#).answers(201, 0, 403).own(),
    ask("POST", STA, "/v1.1/Things({thing})/Datastreams", STREAM).answers(201, 404, 403),
    ask("POST", STA, "/v1.1/Things({thing})/Locations", LOCATION).answers(201, 404, 403),
    ask("POST", STA, "/v1.1/Datastreams({datastream})/Observations", OBSERVED).answers(201, 404, 403).device().silent(),
    ask("POST", STA, "/v1.1/Observations", r#"{"result": 1500, "Datastream": {"@iot.id": {datastream}}}"#)
        .answers(201, 400, 403)
        .device()
        .silent(),
    ask("POST", STA, "/v1.1/Things({thing})/MultiDatastreams", BOTH).answers(201, 404, 403),
    ask("POST", STA, "/v1.1/MultiDatastreams({multi})/Observations", OBSERVED_BOTH)
        .answers(201, 404, 403)
        .device()
        .silent(),
    ask("POST", STA, "/v1.1/Observations", r#"{"result": [1, 2], "MultiDatastream": {"@iot.id": {multi}}}"#)
        .answers(201, 400, 403)
        .device()
        .silent(),
    ask("PATCH", STA, "/v1.1/MultiDatastreams({multi})", r#"{"description": "changed"}"#),
    ask("POST", STA, "/v1.1/TaskingCapabilities({capability})/Tasks", r#"{"taskingParameters": {"level": 2}}"#)
        .answers(201, 404, 403)
        .device(),
    ask("PATCH", STA, "/v1.1/TaskingCapabilities({capability})", r#"{"description": "changed"}"#),
    ask("PATCH", STA, "/v1.1/Actuators({actuator})", r#"{"description": "changed"}"#),
    ask("PATCH", STA, "/v1.1/Tasks({task})", r#"{"taskingParameters": {"level": 3}}"#),
    ask("PATCH", STA, "/v1.1/Things({thing})", r#"{"description": "changed"}"#),
    ask("PATCH", STA, "/v1.1/Datastreams({datastream})", r#"{"description": "changed"}"#),
    ask("PATCH", STA, "/v1.1/Locations({location})", r#"{"description": "changed"}"#),
    ask("PATCH", STA, "/v1.1/Sensors({sensor})", r#"{"description": "changed"}"#),
    ask("PATCH", STA, "/v1.1/ObservedProperties({property})", r#"{"description": "changed"}"#),
    ask("PATCH", STA, "/v1.1/FeaturesOfInterest({feature})", r#"{"description": "changed"}"#),
    ask("PATCH", STA, "/v1.1/Observations('{observation}')", r#"{"result": 1990}"#),
    ask(
        "PUT",
        STA,
        "/v1.1/Things({thing})",
        r#"{"name": "walled-garden-7731", "description": "replaced", "properties": {"system": "flood"}}"#,
    ),
    ask(
        "PUT",
        STA,
        "/v1.1/Observations('{observation}')",
        r#"{"phenomenonTime": "2024-01-01T00:00:00Z", "result": 1980}"#,
    ),
    ask(
        "POST",
        "/v1.1/CreateObservations",
        "/v1.1/CreateObservations",
        r#"[{"Datastream": {"@iot.id": {datastream}}, "components": ["phenomenonTime", "result"],
            "dataArray": [["2024-03-01T00:00:00Z", 1500]]}]"#,
    )
    .answers(201, 201, 403)
    .device(),
    // A batch is answered to everybody; its parts are asked who may, one by one.
    ask(
        "POST",
        "/v1.1/$batch",
        "/v1.1/$batch",
        r#"{"requests": [
            {"id": "1", "atomicityGroup": "g", "method": "patch", "url": "Things({thing})", "body": {"description": "changed in a batch"}},
            {"id": "2", "atomicityGroup": "g", "method": "post", "url": "Datastreams({datastream})/Observations",
             "body": {"phenomenonTime": "2024-04-01T00:00:00Z", "result": 1500}}]}"#,
    )
    .answers(200, 200, 0)
    .device(),
    // Pages and what stands behind them.
    page("/{language}", "/en"),
    page("/{language}/map", "/en/map"),
    page("/{language}/things", "/en/things"),
    page("/{language}/things/{id}", "/en/things/{thing}").shows(),
    page("/{language}/datastreams/{id}", "/en/datastreams/{datastream}").shows(),
    page("/{language}/alarms", "/en/alarms").shows(),
    page("/{language}/alarms/{id}", "/en/alarms/{alarm}").shows(),
    page("/{language}/alarms/silences", "/en/alarms/silences").shows(),
    page("/{language}/retention", "/en/retention").shows(),
    page("/{language}/rules", "/en/rules").shows(),
    page("/{language}/rules/{key}", "/en/rules/{rule}").shows(),
    open("/en/alerts").at("/{language}/alerts"),
    Recipe::new("GET", "/{language}/alerts/{identifier}", "/en/alerts/{warning}").right(Right::Anybody),
    open("/cap"),
    open("/cap/jwks.json"),
    Recipe::new("GET", "/cap/{identifier}", "/cap/{warning}").right(Right::Anybody),
    open("/api/alerts"),
    Recipe::new("GET", "/api/alerts/{identifier}", "/api/alerts/{warning}").right(Right::Anybody),
    Recipe::new("GET", "/api/map/layers/{layer}", "/api/map/layers/flood").shows(),
    Recipe::new("GET", "/api/datastreams/{id}/series", "/api/datastreams/{datastream}/series"),
    Recipe::new("GET", "/api/datastreams/{id}/export", "/api/datastreams/{datastream}/export?format=csv"),
    Recipe::new("GET", "/api/things/{id}/export", "/api/things/{thing}/export?format=ndjson"),
    Recipe::new("GET", "/api/datastreams/{id}/observations.csv", "/api/datastreams/{datastream}/observations.csv"),
    // Alarms, rules, notifications, feeds.
    Recipe::new("GET", "/api/alarms", "/api/alarms").shows(),
    Recipe::new("GET", "/api/alarms/counts", "/api/alarms/counts"),
    Recipe::new("GET", "/api/alarms/{id}", "/api/alarms/{alarm}").shows(),
    ask("POST", "/api/alarms/{id}/acknowledge", "/api/alarms/{alarm}/acknowledge", r#"{"version": {version}}"#),
    ask("POST", "/api/alarms/{id}/unacknowledge", "/api/alarms/{alarm}/unacknowledge", r#"{"version": {version}}"#),
    ask("POST", "/api/alarms/{id}/comment", "/api/alarms/{alarm}/comment", r#"{"comment": "seen"}"#),
    ask(
        "POST",
        "/api/alarms/{id}/assign",
        "/api/alarms/{alarm}/assign",
        r#"{"version": {version}, "to": "role:operator"}"#,
    ),
    form("/{language}/alarms/{id}", "/en/alarms/{alarm}", "csrf={csrf}&deed=remark&version={version}&comment=seen")
        .answers(303, 404, 403),
    ask(
        "POST",
        "/api/alarms/{id}/close",
        "/api/alarms/{alarm}/close",
        r#"{"version": {version}, "comment": "a test"}"#,
    ),
    Recipe::new("GET", "/api/rules", "/api/rules").shows(),
    Recipe::new("GET", "/api/rules/{key}", "/api/rules/{rule}").shows(),
    ask("POST", "/api/rules/check", "/api/rules/check", "{}").answers(200, 0, 200).own().device(),
    ask("POST", "/api/rules/dry-run", "/api/rules/dry-run", TRIED).answers(200, 404, 200),
    ask("POST", "/api/rules/{key}/dry-run", "/api/rules/{rule}/dry-run", "{}").answers(200, 404, 200),
    Recipe::new("GET", "/api/silences", "/api/silences").shows(),
    Recipe::new("GET", "/api/silences/{id}", "/api/silences/{silence}").shows(),
    ask("POST", "/api/silences", "/api/silences", SILENCE).answers(201, 404, 403),
    // Whoever may silence does it for the own department.
    form(
        "/{language}/alarms/silences",
        "/en/alarms/silences",
        "csrf={csrf}&district=Nowhere&hours=1&reason=a%20test",
    )
    .answers(303, 0, 403)
    .own(),
    form("/{language}/alarms/silences/{id}", "/en/alarms/silences/{hush}", "csrf={csrf}").answers(303, 404, 403),
    ask("POST", "/api/silences/{id}/expire", "/api/silences/{silence}/expire", ""),
    // What is kept, and who says that something goes.
    Recipe::new("GET", "/api/retention", "/api/retention").shows(),
    Recipe::new("GET", "/api/retention/{key}", "/api/retention/{keep}"),
    Recipe::new("GET", "/api/retention/runs/{id}", "/api/retention/runs/{look}"),
    ask("POST", "/api/retention/{key}/preview", "/api/retention/{keep}/preview", "").answers(202, 404, 403),
    ask("POST", "/api/retention/{key}/confirm", "/api/retention/{keep}/confirm", r#"{"preview": "{look}"}"#),
    ask("POST", "/api/retention/holds", "/api/retention/holds", r#"{"tenant": "{tenant}", "thing": {evidence}, "reason": "a test"}"#)
        .answers(201, 404, 403),
    ask("POST", "/api/retention/holds/{id}/lift", "/api/retention/holds/{held}/lift", r#"{"reason": "a test"}"#),
    form("/{language}/retention", "/en/retention", "csrf={csrf}&do=hold&thing={evidence}&reason=a%20test").answers(303, 0, 403).own(),
    Recipe::new("GET", "/api/deliveries", "/api/deliveries"),
    // Rules are managed by people, not by keys.
    ask("POST", "/api/deliveries/{id}/retry", "/api/deliveries/{delivery}/retry", "").right(Right::ManagerBrowser),
    // Tasks.
    Recipe::new("GET", "/api/tasks", "/api/tasks"),
    Recipe::new("GET", "/api/tasks/{id}", "/api/tasks/{task}"),
    ask("POST", "/api/tasks/{id}/{deed}", "/api/tasks/{task}/cancel", r#"{"comment": "a test"}"#),
    Recipe::new("GET", "/api/tasking/stop", "/api/tasking/stop"),
    page("/{language}/tasking", "/en/tasking").shows(),
    page("/{language}/tasking/tasks", "/en/tasking/tasks").shows(),
    page("/{language}/tasking/tasks/{id}", "/en/tasking/tasks/{task}").shows(),
    form("/{language}/tasking/tasks/{id}", "/en/tasking/tasks/{errand}", "csrf={csrf}&deed=cancel&version=2")
        .answers(303, 404, 403),
    page("/{language}/tasking/stop", "/en/tasking/stop"),
    form(
        "/{language}/tasking/stop",
        "/en/tasking/stop",
        "csrf={csrf}&what=tenant:{tenant}&on=yes&reason=a+test&word=STOP",
    )
    .answers(303, 404, 403),
    page("/{language}/tasking/{id}", "/en/tasking/{capability}").shows(),
    form(
        "/{language}/tasking/{id}",
        "/en/tasking/{capability}",
        "csrf={csrf}&p0=2&reason=a+test&minutes=15",
    )
    .answers(303, 404, 403),
    // The kill switch is thrown by people, not by keys.
    ask(
        "PUT",
        "/api/tasking/stop",
        "/api/tasking/stop",
        r#"{"tenant": "{tenant}", "stopped": true, "reason": "a test"}"#,
    )
    .right(Right::ManagerBrowser),
    // What is computed, and what is found out about what was measured.
    Recipe::new("GET", "/api/derived", "/api/derived").shows(),
    Recipe::new("GET", "/api/derived/{key}", "/api/derived/{derived}").shows(),
    ask("PUT", "/api/derived/{key}", "/api/derived/{derived}", DERIVED).answers(200, 403, 403),
    ask("POST", "/api/derived/{key}/{deed}", "/api/derived/{derived}/pause", ""),
    Recipe::new("GET", "/api/datastreams/{id}/provenance", "/api/datastreams/{computed}/provenance").shows(),
    Recipe::new("GET", "/api/datastreams/{id}/calibrations", "/api/datastreams/{datastream}/calibrations"),
    ask("POST", "/api/datastreams/{id}/calibrations", "/api/datastreams/{datastream}/calibrations", CALIBRATION)
        .answers(201, 404, 403),
    ask(
        "POST",
        "/api/datastreams/{id}/calibrations/{calibration}/withdraw",
        "/api/datastreams/{datastream}/calibrations/1/withdraw",
        r#"{"reason": "a test"}"#,
    )
    .answers(204, 404, 403),
    Recipe::new("GET", "/api/observations/{id}/history", "/api/observations/{observation}/history"),
    ask(
        "POST",
        "/api/observations/{id}/correction",
        "/api/observations/{observation}/correction",
        r#"{"value": 1500, "reason": "a test"}"#,
    )
    .answers(201, 404, 403),
    form(
        "/{language}/datastreams/{id}",
        "/en/datastreams/{datastream}",
        "csrf={csrf}&deed=calibrate&gain=1&offset=1&from=2024-01-01T08:00&to=2024-01-02T08:00&reason=test",
    )
    .answers(303, 404, 403),
    // What is computed takes nothing from anybody.
    ask("POST", STA, "/v1.1/Datastreams({computed})/Observations", OBSERVED).answers(403, 404, 403).device().silent(),
    ask("DELETE", "/api/derived/{key}", "/api/derived/{derived}", "").answers(204, 404, 403),
    // What moves, and the fences that it is measured against.
    Recipe::new("GET", "/api/things/{id}/track", "/api/things/{mover}/track?from=2024-01-01T00:00:00Z&to=2024-01-02T00:00:00Z").shows(),
    Recipe::new("GET", "/api/things/{id}/visits", "/api/things/{mover}/visits?from=2024-01-01T00:00:00Z&to=2024-01-02T00:00:00Z"),
    Recipe::new("GET", "/api/map/tracks", "/api/map/tracks?system=vessel").shows(),
    Recipe::new("GET", "/api/datastreams/{id}/profiles", "/api/datastreams/{datastream}/profiles"),
    page("/{language}/things/{id}/track", "/en/things/{mover}/track").shows(),
    page("/{language}/datastreams/{id}/profiles", "/en/datastreams/{datastream}/profiles").shows(),
    page("/{language}/map/playback", "/en/map/playback?system=vessel&from=2024-01-01T00:00:00Z&to=2024-01-01T06:00:00Z").shows(),
    page("/{language}/fences", "/en/fences").shows(),
    page("/{language}/fences/{key}", "/en/fences/{fence}").shows(),
    Recipe::new("GET", "/api/fences", "/api/fences").shows(),
    Recipe::new("GET", "/api/fences/{key}", "/api/fences/{fence}").shows(),
    // Fences, like rules, are drawn by people, not by keys.
    // Whoever may draw does it for the own department.
    form(
        "/{language}/fences",
        "/en/fences",
        "csrf={csrf}&key=walls-new&name-en=a&name-zh-hant=b&name-zh-hans=c&shape=circle&circle-lat=22.3&circle-lon=114.1&circle-radius=90",
    )
    .answers(303, 0, 403)
    .own(),
    form(
        "/{language}/fences/{key}",
        "/en/fences/{fence}",
        "csrf={csrf}&revision=1&name-en=a&name-zh-hant=b&name-zh-hans=c&shape=circle&circle-lat=22.3&circle-lon=114.1&circle-radius=90",
    )
    .answers(303, 404, 403),
    form("/{language}/fences/{key}/remove", "/en/fences/{fence}/remove", "csrf={csrf}").answers(303, 404, 403),
    ask("PUT", "/api/fences/{key}", "/api/fences/{fence}", FENCE).right(Right::ManagerBrowser).answers(200, 403, 403),
    ask("DELETE", "/api/fences/{key}", "/api/fences/{fence}", "").right(Right::ManagerBrowser).answers(204, 404, 403),
    Recipe::new("GET", "/api/connectors", "/api/connectors").shows(),
    Recipe::new("GET", "/api/connectors/{key}", "/api/connectors/{connector}").shows(),
    ask("POST", "/api/connectors/{key}/run", "/api/connectors/{connector}/run", "").answers(202, 404, 403),
    page("/{language}/operations", "/en/operations").shows(),
    page("/{language}/operations/feeds/{key}", "/en/operations/feeds/{connector}").shows(),
    form("/{language}/operations/feeds/{key}/run", "/en/operations/feeds/{connector}/run", "csrf={csrf}")
        .answers(303, 404, 403),
    form("/{language}/operations/deliveries/{id}/retry", "/en/operations/deliveries/{letter}/retry", "csrf={csrf}")
        .answers(303, 404, 403),
    open("/en/status").at("/{language}/status"),
    open("/api/status"),
    Recipe::new("GET", "/api/operations/status", "/api/operations/status"),
    // Dashboards and walls.
    Recipe::new("GET", "/api/dashboards", "/api/dashboards").shows(),
    ask("POST", "/api/dashboards", "/api/dashboards", BOARD).answers(201, 404, 403),
    Recipe::new("GET", "/api/dashboards/{key}", "/api/dashboards/{dashboard}").shows(),
    Recipe::new("GET", "/api/dashboards/{key}/data", "/api/dashboards/{dashboard}/data").shows(),
    page("/{language}/dashboards", "/en/dashboards").shows(),
    page("/{language}/dashboards/{key}", "/en/dashboards/{board}").shows(),
    page("/{language}/dashboards/{key}/tiles", "/en/dashboards/{board}/tiles").shows(),
    // Whoever may make any is offered the form for the own department.
    page("/{language}/dashboards/new", "/en/dashboards/new").answers(200, 0, 403).own(),
    form("/{language}/dashboards/new", "/en/dashboards/new", BOARD_FORM).answers(303, 404, 403),
    page("/{language}/dashboards/{key}/edit", "/en/dashboards/{board}/edit").answers(200, 404, 403).shows(),
    form("/{language}/dashboards/{key}/edit", "/en/dashboards/{board}/edit", BOARD_EDIT).answers(303, 404, 403),
    ask("PUT", "/api/dashboards/{key}", "/api/dashboards/{dashboard}?version=1", BOARD_CHANGED).answers(200, 404, 403),
    page("/{language}/walls", "/en/walls").answers(200, 0, 403).own().shows(),
    form("/{language}/walls", "/en/walls", "csrf={csrf}&name=second&board={board}&every=20&days=1")
        .answers(200, 0, 403)
        .own(),
    form("/{language}/walls/{id}/renew", "/en/walls/{wall}/renew", "csrf={csrf}").answers(200, 404, 403),
    form("/{language}/walls/{id}/revoke", "/en/walls/{wall}/revoke", "csrf={csrf}").answers(303, 404, 403),
    open("/en/wall").at("/{language}/wall"),
    form("/{language}/wall", "/en/wall", "csrf={csrf}&code={wall_code}")
        .right(Right::Visitor)
        .answers(303, 0, 0)
        .own(),
    // Only a screen with its cookie is shown anything.
    open("/en/wall/tiles").at("/{language}/wall/tiles").answers(401, 0, 401),
    form("/{language}/dashboards/{key}/remove", "/en/dashboards/{board}/remove", "csrf={csrf}&version=2")
        .answers(303, 404, 403),
    ask("DELETE", "/api/dashboards/{key}", "/api/dashboards/{dashboard}?version=2", "").answers(204, 404, 403),
    // Further doors: each leads into the caller's own department.
    ask("POST", "/api/ingest/chirpstack", "/api/ingest/chirpstack?event=up", UPLINK).answers(200, 0, 403).own().device(),
    ask("POST", "/api/ingest/things-stack", "/api/ingest/things-stack", JOINED).answers(200, 0, 403).own().device(),
    ask("POST", "/api/v2/write", "/api/v2/write?bucket=b&precision=s", LINE).answers(204, 0, 403).own().device(),
    ask("POST", "/write", "/write?db=b&precision=s", LINE).answers(204, 0, 403).own().device(),
    ask("POST", "/api/ingest/csv", "/api/ingest/csv?commit=true&datastream={datastream}", "time,value\n2024-06-01T00:00:00Z,1500\n").device(),
    page("/{language}/upload", "/en/upload?datastream={datastream}").answers(200, 404, 403).shows(),
    form("/{language}/upload", "/en/upload", "csrf={csrf}&datastream={datastream}&do=save&text=time%2Cvalue%0A2024-07-01T00%3A00%3A00Z%2C1500")
        .answers(200, 404, 403),
    Recipe::new("GET", "/api/ingest/unknown", "/api/ingest/unknown?tenant={tenant}"),
    // Devices.
    Recipe::new("GET", "/api/devices", "/api/devices?tenant={tenant}").shows(),
    ask("POST", "/api/devices", "/api/devices", r#"{"tenant": "{tenant}", "key": "second", "kind": "station"}"#)
        .answers(201, 403, 403),
    Recipe::new("GET", "/api/devices/{id}", "/api/devices/{device}").shows(),
    ask("PATCH", "/api/devices/{id}", "/api/devices/{device}", r#"{"firmware": "2"}"#),
    Recipe::new("GET", "/api/devices.csv", "/api/devices.csv?tenant={tenant}").shows(),
    ask("POST", "/api/devices/bulk", "/api/devices/bulk?tenant={tenant}&keys=none", "key,kind\nfrom-a-sheet,station\n")
        .answers(200, 403, 403),
    ask("POST", "/api/devices/place", "/api/devices/place", r#"{"claim_code": "{code}", "thing": "{thing}"}"#)
        .answers(200, 404, 404),
    Recipe::new("GET", "/api/devices/{id}/claim", "/api/devices/{device}/claim"),
    ask("POST", "/api/devices/{id}/claim", "/api/devices/{device}/claim", "{}").answers(201, 404, 403),
    ask(
        "POST",
        "/api/devices/{id}/certificates",
        "/api/devices/{spare}/certificates",
        r#"{"certificate": "{fingerprint}"}"#,
    )
    .answers(201, 404, 403),
    Recipe::new("GET", "/api/devices/{id}/certificates", "/api/devices/{device}/certificates"),
    ask(
        "DELETE",
        "/api/devices/{id}/certificates/{fingerprint}",
        "/api/devices/{spare}/certificates/{fingerprint}",
        "",
    )
    .answers(204, 404, 403),
    // A code that is not good is refused for every reason alike; one that is is for the device's own tests.
    ask("POST", "/api/devices/claim", "/api/devices/claim", r#"{"claim_code": "ABCD-EFGH-JKMN-PQRS"}"#)
        .right(Right::Anybody)
        .answers(403, 0, 403)
        .own()
        .device()
        .silent(),
    Recipe::new("GET", "/api/devices/self", "/api/devices/self").right(Right::Device).answers(200, 0, 403).own().shows(),
    ask("POST", "/api/devices/self/health", "/api/devices/self/health", r#"{"battery": 80}"#)
        .right(Right::Device)
        .answers(204, 0, 403)
        .own()
        .device(),
    Recipe::new("GET", "/api/devices/self/command", "/api/devices/self/command")
        .right(Right::Device)
        .answers(204, 0, 403)
        .own(),
    ask(
        "POST",
        "/api/devices/self/command",
        "/api/devices/self/command",
        r#"{"campaign": "01900000-0000-7000-8000-000000000000", "state": "installed"}"#,
    )
    .right(Right::Device)
    .answers(404, 0, 403)
    .own()
    .device(),
    Recipe::new("GET", "/api/devices/self/firmware/{sha256}", "/api/devices/self/firmware/00")
        .right(Right::Device)
        .answers(404, 0, 403)
        .own(),
    ask("POST", "/api/devices/self/rotate", "/api/devices/self/rotate", "{}")
        .right(Right::Device)
        .answers(201, 0, 403)
        .own()
        .device(),
    Recipe::new("GET", "/api/campaigns", "/api/campaigns?tenant={tenant}").shows(),
    ask(
        "POST",
        "/api/campaigns",
        "/api/campaigns",
        r#"{"tenant": "{tenant}", "name": "walled-garden-7731 second", "configuration": {}, "version": "3", "target": {}}"#,
    )
    .answers(201, 403, 403),
    Recipe::new("GET", "/api/campaigns/{id}", "/api/campaigns/{campaign}").shows(),
    Recipe::new("GET", "/api/campaigns/{id}/devices", "/api/campaigns/{campaign}/devices?stage=waiting").shows(),
    page("/{language}/devices/campaigns", "/en/devices/campaigns?tenant={tenant}").shows(),
    page("/{language}/devices/campaigns/{id}", "/en/devices/campaigns/{campaign}").shows(),
    form("/{language}/devices/campaigns/{id}", "/en/devices/campaigns/{campaign}", "csrf={csrf}&do=approve")
        .answers(303, 404, 403),
    ask("POST", "/api/campaigns/{id}/{deed}", "/api/campaigns/{campaign}/pause", "{}").answers(200, 404, 403),
    page("/{language}/devices/campaigns/new", "/en/devices/campaigns/new?tenant={tenant}").answers(200, 404, 403),
    form(
        "/{language}/devices/campaigns/new",
        "/en/devices/campaigns/new",
        "csrf={csrf}&tenant={tenant}&name=third&configuration=%7B%7D&version=4",
    )
    .answers(303, 404, 403),
    // A form without its file: the department is looked at before it.
    form("/{language}/devices/campaigns", "/en/devices/campaigns", "csrf={csrf}&tenant={tenant}")
        .answers(422, 404, 403)
        .silent(),
    Recipe::new("GET", "/api/firmware", "/api/firmware?tenant={tenant}").shows(),
    ask("POST", "/api/firmware", "/api/firmware?tenant={tenant}&name=second&version=2", "another image")
        .answers(201, 403, 403),
    ask("DELETE", "/api/firmware/{sha256}", "/api/firmware/{image}?tenant={tenant}", "").answers(204, 404, 403),
    page("/{language}/devices/sheet", "/en/devices/sheet?tenant={tenant}").answers(200, 404, 403),
    form(
        "/{language}/devices/sheet",
        "/en/devices/sheet",
        "csrf={csrf}&tenant={tenant}&keys=none&rows=key%2Ckind%0Afrom-a-form%2Cstation%0A",
    )
    .answers(200, 404, 403),
    page("/{language}/devices/place", "/en/devices/place?tenant={tenant}").answers(200, 404, 403),
    form("/{language}/devices/place", "/en/devices/place", "csrf={csrf}&tenant={tenant}&code={second}&thing={thing}")
        .answers(303, 404, 403),
    form("/{language}/devices/{id}/claim", "/en/devices/{spare}/claim", "csrf={csrf}").answers(200, 404, 403),
    form(
        "/{language}/devices/{id}/certificates",
        "/en/devices/{spare}/certificates",
        "csrf={csrf}&certificate={another_print}",
    )
    .answers(303, 404, 403),
    ask("POST", "/api/devices/{id}/keys", "/api/devices/{device}/keys", "{}").answers(201, 404, 403),
    ask("POST", "/api/devices/{id}/rotate", "/api/devices/{device}/rotate", "{}").answers(201, 404, 403),
    page("/{language}/devices", "/en/devices?tenant={tenant}").shows(),
    page("/{language}/devices/new", "/en/devices/new?tenant={tenant}").answers(200, 404, 403),
    form("/{language}/devices/new", "/en/devices/new", "csrf={csrf}&tenant={tenant}&key=third&kind=station")
        .answers(303, 404, 403),
    page("/{language}/devices/{id}", "/en/devices/{device}").shows(),
    page("/{language}/devices/{id}/change", "/en/devices/{device}/change").answers(200, 404, 403).shows(),
    form("/{language}/devices/{id}/change", "/en/devices/{device}/change", "csrf={csrf}&kind=station&firmware=3")
        .answers(303, 404, 403),
    form("/{language}/devices/{id}/keys", "/en/devices/{spare}/keys", "csrf={csrf}").answers(200, 404, 403),
    form("/{language}/devices/{id}/keys/rotate", "/en/devices/{spare}/keys/rotate", "csrf={csrf}")
        .answers(200, 404, 403),
    form("/{language}/devices/{id}/keys/revoke", "/en/devices/{spare}/keys/revoke", "csrf={csrf}&prefix={taken}")
        .answers(303, 404, 403),
    form("/{language}/devices/{id}/service", "/en/devices/{spare}/service", "csrf={csrf}&enabled=no")
        .answers(303, 404, 403),
    form("/{language}/devices/{id}/remove", "/en/devices/{spare}/remove", "csrf={csrf}&sure=on").answers(303, 404, 403),
    // The city's own.
    ask("PUT", "/api/ops/backups/{name}", "/api/ops/backups/{backup}", "")
        .right(Right::CityAdmin)
        .answers(202, 404, 404),
    Recipe::new("GET", "/api/ops/backups/{name}", "/api/ops/backups/{backup}")
        .right(Right::CityAdmin)
        .answers(200, 404, 404),
    // A sealed department's own.
    Recipe::new("GET", "/api/looks", "/api/looks").right(Right::Warden).answers(200, 404, 404),
    page("/{language}/looks", "/en/looks").right(Right::Warden).answers(200, 404, 404),
    form(
        "/{language}/looks/visits",
        "/en/looks/visits",
        "csrf={csrf}&name=Inspector&reason=The%20yearly%20inspection&role=viewer&hours=4",
    )
    .right(Right::Warden)
    .answers(200, 404, 404),
    // People.
    page("/{language}/sign-in", "/en/sign-in").right(Right::Anybody),
    form("/{language}/sign-in", "/en/sign-in", "csrf={csrf}&account=viewer&password={password}")
        .right(Right::Visitor)
        .answers(303, 0, 0),
    page("/{language}/join/{token}", "/en/join/{invitation}").right(Right::Anybody),
    form(
        "/{language}/join/{token}",
        "/en/join/{invitation}",
        "csrf={csrf}&name=New&account=newcomer&password={password}",
    )
    .right(Right::Visitor)
    .answers(303, 0, 0),
    page("/{language}/reset/{token}", "/en/reset/{resetting}").right(Right::Anybody),
    form("/{language}/reset/{token}", "/en/reset/{resetting}", "csrf={csrf}&password={another}")
        .right(Right::Visitor)
        .answers(303, 0, 0),
    page("/{language}/account", "/en/account").answers(200, 0, 200).own(),
    page("/{language}/account/password", "/en/account/password").answers(200, 0, 200).own(),
    page("/{language}/operators", "/en/operators?tenant={tenant}").answers(200, 404, 404),
    page("/{language}/operators/people/{id}", "/en/operators/people/{person}").answers(200, 404, 404),
    form("/{language}/operators/people/{id}/roles", "/en/operators/people/{person}/roles", "csrf={csrf}&role=viewer")
        .answers(303, 404, 404),
    form("/{language}/operators/people/{id}/reset", "/en/operators/people/{person}/reset", "csrf={csrf}")
        .answers(200, 404, 404),
    form("/{language}/operators/people/{id}/access", "/en/operators/people/{person}/access", "csrf={csrf}&enabled=no")
        .answers(303, 404, 404),
    form("/{language}/operators/invite", "/en/operators/invite", "csrf={csrf}&tenant={tenant}&role=viewer")
        .answers(200, 403, 403),
    form("/{language}/operators/keys", "/en/operators/keys", "csrf={csrf}&tenant={tenant}&key_role=viewer&name=more")
        .answers(200, 403, 403),
    form("/{language}/operators/keys/revoke", "/en/operators/keys/revoke", "csrf={csrf}&prefix={key}")
        .answers(303, 404, 404),
    form("/{language}/account/sessions/end", "/en/account/sessions/end", "csrf={csrf}&session={session}")
        .answers(303, 404, 404),
    // Ends the other sessions.
    form("/{language}/account/password", "/en/account/password", "csrf={csrf}&present={password}&password={another}")
        .answers(303, 0, 303)
        .own(),
    // What takes away.
    ask("DELETE", STA, "/v1.1/Observations('{observation}')", "").answers(204, 404, 403),
    ask("DELETE", STA, "/v1.1/Things({thing})/properties", "").answers(204, 404, 403),
    ask("DELETE", STA, "/v1.1/FeaturesOfInterest({feature})", "").answers(204, 404, 403),
    ask("DELETE", STA, "/v1.1/MultiDatastreams({multi})", "").answers(204, 404, 403),
    ask("DELETE", STA, "/v1.1/Datastreams({datastream})", "").answers(204, 404, 403),
    ask("DELETE", STA, "/v1.1/HistoricalLocations({history})", "").answers(204, 404, 403),
    ask("DELETE", STA, "/v1.1/Locations({location})", "").answers(204, 404, 403),
    ask("DELETE", STA, "/v1.1/Sensors({sensor})", "").answers(204, 404, 403),
    ask("DELETE", STA, "/v1.1/ObservedProperties({property})", "").answers(204, 404, 403),
    ask("DELETE", STA, "/v1.1/Things({thing})", "").answers(204, 404, 403),
    ask("DELETE", "/api/devices/{id}/keys/{prefix}", "/api/devices/{device}/keys/{prefix}", "").answers(204, 404, 403),
    form("/{language}/devices/{id}/decommission", "/en/devices/{placed}/decommission", "csrf={csrf}&reason=over")
        .answers(303, 404, 403),
    ask("POST", "/api/devices/{id}/decommission", "/api/devices/{ending}/decommission", r#"{"reason": "over"}"#)
        .answers(200, 404, 403),
    ask("DELETE", "/api/devices/{id}", "/api/devices/{device}", "").answers(204, 404, 403),
    form("/{language}/account/sign-out", "/en/account/sign-out", "csrf={csrf}")
        .right(Right::ViewerBrowser)
        .answers(303, 0, 303)
        .own(),
];
