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
    open("/metrics"),
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
        .answers(201, 404, 403),
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
    open("/en/alerts").at("/{language}/alerts"),
    Recipe::new("GET", "/{language}/alerts/{identifier}", "/en/alerts/{warning}").right(Right::Anybody),
    open("/cap"),
    open("/cap/jwks.json"),
    Recipe::new("GET", "/cap/{identifier}", "/cap/{warning}").right(Right::Anybody),
    open("/api/alerts"),
    Recipe::new("GET", "/api/alerts/{identifier}", "/api/alerts/{warning}").right(Right::Anybody),
    Recipe::new("GET", "/api/map/layers/{layer}", "/api/map/layers/flood").shows(),
    Recipe::new("GET", "/api/datastreams/{id}/series", "/api/datastreams/{datastream}/series"),
    Recipe::new("GET", "/api/datastreams/{id}/observations.csv", "/api/datastreams/{datastream}/observations.csv"),
    // Alarms, rules, notifications, feeds.
    Recipe::new("GET", "/api/alarms", "/api/alarms").shows(),
    Recipe::new("GET", "/api/alarms/counts", "/api/alarms/counts"),
    Recipe::new("GET", "/api/alarms/{id}", "/api/alarms/{alarm}").shows(),
    ask("POST", "/api/alarms/{id}/acknowledge", "/api/alarms/{alarm}/acknowledge", r#"{"version": {version}}"#),
    ask("POST", "/api/alarms/{id}/unacknowledge", "/api/alarms/{alarm}/unacknowledge", r#"{"version": {version}}"#),
    ask("POST", "/api/alarms/{id}/comment", "/api/alarms/{alarm}/comment", r#"{"comment": "seen"}"#),
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
    Recipe::new("GET", "/api/deliveries", "/api/deliveries"),
    // Rules are managed by people, not by keys.
    ask("POST", "/api/deliveries/{id}/retry", "/api/deliveries/{delivery}/retry", "").right(Right::ManagerBrowser),
    // Tasks.
    Recipe::new("GET", "/api/tasks", "/api/tasks"),
    Recipe::new("GET", "/api/tasks/{id}", "/api/tasks/{task}"),
    ask("POST", "/api/tasks/{id}/{deed}", "/api/tasks/{task}/cancel", r#"{"comment": "a test"}"#),
    Recipe::new("GET", "/api/tasking/stop", "/api/tasking/stop"),
    // The kill switch is thrown by people, not by keys.
    ask(
        "PUT",
        "/api/tasking/stop",
        "/api/tasking/stop",
        r#"{"tenant": "{tenant}", "stopped": true, "reason": "a test"}"#,
    )
    .right(Right::ManagerBrowser),
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
    // Devices.
    Recipe::new("GET", "/api/devices", "/api/devices?tenant={tenant}").shows(),
    ask("POST", "/api/devices", "/api/devices", r#"{"tenant": "{tenant}", "key": "second", "kind": "station"}"#)
        .answers(201, 403, 403),
    Recipe::new("GET", "/api/devices/{id}", "/api/devices/{device}").shows(),
    ask("PATCH", "/api/devices/{id}", "/api/devices/{device}", r#"{"firmware": "2"}"#),
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
    ask("DELETE", "/api/devices/{id}", "/api/devices/{device}", "").answers(204, 404, 403),
    form("/{language}/account/sign-out", "/en/account/sign-out", "csrf={csrf}")
        .right(Right::ViewerBrowser)
        .answers(303, 0, 303)
        .own(),
];
