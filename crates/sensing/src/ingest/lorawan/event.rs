//! Messages of network servers, as one shape. Pure.
//!
//! ChirpStack v4 sends `?event=up` with `integration.UplinkEvent` in protobuf's JSON mapping, which leaves out what is zero or empty. The Things Stack
//! sends `ApplicationUp`, in which the member that is there says what happened.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kernel::Timestamp;
use serde_json::{Map, Value};

use super::super::declaration::Message;

/// What a device has said.
#[derive(Clone, Debug)]
pub struct Heard {
    pub device: Named,
    pub message: Message,
    pub at: Timestamp,
    pub port: Option<u8>,
    /// What the network server's codec made of the bytes.
    pub object: Option<Map<String, Value>>,
    /// FRMPayload.
    pub bytes: Vec<u8>,
    /// dBm at the gateway that heard it best.
    pub rssi: Option<f64>,
    /// dB there.
    pub snr: Option<f64>,
    pub gateways: usize,
    /// Percent.
    pub battery: Option<f64>,
    /// dB.
    pub margin: Option<f64>,
    /// The message as it came.
    pub whole: Value,
}

/// Who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// 16 hexadecimal digits in lower case.
    pub eui: String,
    pub name: String,
    pub profile: String,
    /// The application's name and id, whichever are there.
    pub applications: Vec<String>,
    pub tags: Vec<(String, String)>,
}

/// What came.
#[derive(Clone, Debug)]
pub enum Event {
    Heard(Box<Heard>),
    /// Joins, acknowledgements, places: nothing to be recorded.
    Noted(Named),
    /// The network server complains about the device.
    Complaint(Named, String),
}

/// What is wrong: the JSON Pointer and a sentence.
pub type Wrong = (&'static str, String);

/// The events of ChirpStack's HTTP integration.
pub const EVENTS: [&str; 8] = ["up", "status", "join", "ack", "txack", "log", "location", "integration"];

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn eui(value: &Value, name: &str, at: &'static str) -> Result<String, Wrong> {
    let eui = text(value, name).to_ascii_lowercase();
    match super::super::declaration::is_eui(&eui) {
        true => Ok(eui),
        false => Err((at, "a DevEUI of 16 hexadecimal digits is expected".to_owned())),
    }
}

/// The time of the message: without one, sending it again would be another Observation.
fn moment<'a>(candidates: impl IntoIterator<Item = Option<&'a Value>>, at: &'static str) -> Result<Timestamp, Wrong> {
    let found = candidates.into_iter().flatten().filter_map(Value::as_str).find_map(|t| t.parse::<Timestamp>().ok());
    found.ok_or_else(|| (at, "the time of the message is expected, as RFC 3339 has it".to_owned()))
}

fn port(value: Option<&Value>) -> Option<u8> {
    value.and_then(Value::as_u64).and_then(|p| u8::try_from(p).ok())
}

fn bytes(value: &Value, name: &str, at: &'static str) -> Result<Vec<u8>, Wrong> {
    let text = text(value, name);
    if text.len() > 1_024 {
        return Err((at, format!("a payload has at most {} bytes", super::payload::MAX_BYTES)));
    }
    STANDARD.decode(text).map_err(|_| (at, "base64 is expected".to_owned()))
}

/// The gateway that heard it best, of those that say how. Protobuf leaves out a zero.
fn best(gateways: &[Value]) -> Option<(f64, f64)> {
    let heard = gateways.iter().filter_map(|g| {
        let rssi = g.get("rssi").and_then(Value::as_f64)?;
        Some((rssi, g.get("snr").and_then(Value::as_f64).unwrap_or(0.0)))
    });
    heard.max_by(|a, b| a.0.total_cmp(&b.0))
}

/// A message of ChirpStack v4.
///
/// # Errors
/// The member that is missing or wrong.
pub fn chirpstack(event: &str, whole: Value) -> Result<Event, Wrong> {
    let info = whole.get("deviceInfo").ok_or(("/deviceInfo", "the device is expected here".to_owned()))?;
    let mut applications = Vec::new();
    for name in ["applicationName", "applicationId"] {
        let name = text(info, name);
        if !name.is_empty() {
            applications.push(name.to_owned());
        }
    }
    let tags = info.get("tags").and_then(Value::as_object);
    let tags = tags.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())));
    let device = Named {
        eui: eui(info, "devEui", "/deviceInfo/devEui")?,
        name: text(info, "deviceName").to_owned(),
        profile: text(info, "deviceProfileName").to_owned(),
        applications,
        tags: tags.collect(),
    };
    let message = match event {
        "up" => Message::Up,
        "status" => Message::Status,
        "log" => {
            let told = ["level", "code", "description"].map(|name| text(&whole, name)).join(" ");
            return Ok(Event::Complaint(device, crate::connect::report::shorten(told.trim())));
        }
        _ => return Ok(Event::Noted(device)),
    };
    let empty = Vec::new();
    let gateways = whole.get("rxInfo").and_then(Value::as_array).unwrap_or(&empty);
    let times = ["gwTime", "nsTime", "time"];
    let received = gateways.iter().flat_map(|g| times.iter().map(|name| g.get(*name)));
    let at = moment(std::iter::once(whole.get("time")).chain(received), "/time")?;
    let heard = best(gateways);
    let flag = |name: &str| whole.get(name).and_then(Value::as_bool).unwrap_or(false);
    let status = message == Message::Status;
    let number = |name: &str| status.then(|| whole.get(name).and_then(Value::as_f64).unwrap_or(0.0));
    let powered = flag("externalPowerSource") || flag("batteryLevelUnavailable");
    Ok(Event::Heard(Box::new(Heard {
        message,
        at,
        port: port(whole.get("fPort")),
        object: whole.get("object").and_then(Value::as_object).filter(|o| !o.is_empty()).cloned(),
        bytes: bytes(&whole, "data", "/data")?,
        rssi: heard.map(|h| h.0),
        snr: heard.map(|h| h.1),
        gateways: gateways.len(),
        battery: number("batteryLevel").filter(|_| !powered),
        margin: number("margin"),
        device,
        whole,
    })))
}

/// A message of The Things Stack v3.
///
/// # Errors
/// The member that is missing or wrong.
pub fn things_stack(whole: Value) -> Result<Event, Wrong> {
    let ids = whole.get("end_device_ids").ok_or(("/end_device_ids", "the device is expected here".to_owned()))?;
    let application = ids.get("application_ids").map(|a| text(a, "application_id")).unwrap_or_default();
    let uplink = whole.get("uplink_message");
    let model = uplink.and_then(|u| u.get("version_ids")).map(|v| text(v, "model_id")).unwrap_or_default();
    let device = Named {
        eui: eui(ids, "dev_eui", "/end_device_ids/dev_eui")?,
        name: text(ids, "device_id").to_owned(),
        profile: model.to_owned(),
        applications: Some(application.to_owned()).filter(|a| !a.is_empty()).into_iter().collect(),
        tags: Vec::new(),
    };
    let Some(uplink) = uplink else {
        return Ok(Event::Noted(device));
    };
    let empty = Vec::new();
    let gateways = uplink.get("rx_metadata").and_then(Value::as_array).unwrap_or(&empty);
    let at = moment([uplink.get("received_at"), whole.get("received_at")], "/uplink_message/received_at")?;
    let heard = best(gateways);
    let battery = uplink.get("last_battery_percentage").and_then(|b| b.get("value")).and_then(Value::as_f64);
    Ok(Event::Heard(Box::new(Heard {
        message: Message::Up,
        at,
        port: port(uplink.get("f_port")),
        object: uplink.get("decoded_payload").and_then(Value::as_object).filter(|o| !o.is_empty()).cloned(),
        bytes: bytes(uplink, "frm_payload", "/uplink_message/frm_payload")?,
        rssi: heard.map(|h| h.0),
        snr: heard.map(|h| h.1),
        gateways: gateways.len(),
        battery,
        margin: None,
        device,
        whole,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn device() -> Value {
        json!({"devEui": "24E124136B502217", "deviceName": "bin 1", "deviceProfileName": "EM400-TLD", "applicationName": "bins",
               "applicationId": "17", "tags": {"site": "north"}})
    }

    #[test]
    fn an_uplink_of_chirpstack() {
        let whole = json!({
            "deduplicationId": "d", "time": "2026-11-22T01:00:00.123456789+00:00", "deviceInfo": device(), "fCnt": 7, "fPort": 85,
            "data": "AWcBEA==", "object": {"fill": 40},
            "rxInfo": [{"gatewayId": "a", "rssi": -110, "snr": -3.5}, {"gatewayId": "b", "rssi": -80}, {"gatewayId": "c"}],
        });
        let Ok(Event::Heard(heard)) = chirpstack("up", whole) else { panic!("heard") };
        assert_eq!(heard.at, "2026-11-22T01:00:00.123456Z".parse().expect("time"));
        assert_eq!(heard.device.eui, "24e124136b502217");
        assert_eq!(heard.device.applications, ["bins", "17"]);
        assert_eq!((heard.rssi, heard.snr, heard.gateways), (Some(-80.0), Some(0.0), 3));
        assert_eq!((heard.port, heard.bytes.len(), heard.battery), (Some(85), 4, None));
    }

    #[test]
    fn the_time_is_the_gateways_when_the_server_names_none() {
        let whole = json!({"deviceInfo": device(), "rxInfo": [{"gatewayId": "a"}, {"nsTime": "2026-11-22T01:00:00Z"}]});
        assert!(
            matches!(chirpstack("up", whole), Ok(Event::Heard(h)) if h.at == "2026-11-22T01:00:00Z".parse().expect("time"))
        );
        assert_eq!(chirpstack("up", json!({"deviceInfo": device()})).err().map(|e| e.0), Some("/time"));
    }

    /// Zero is left out on the wire; "not known" is said by a flag.
    #[test]
    fn a_status_says_how_full_the_battery_is() {
        let status = |more: Value| {
            let mut whole = json!({"time": "2026-11-22T01:00:00Z", "deviceInfo": device(), "margin": 10});
            whole.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
            match chirpstack("status", whole) {
                Ok(Event::Heard(h)) => (h.battery, h.margin),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(status(json!({"batteryLevel": 75.5})), (Some(75.5), Some(10.0)));
        assert_eq!(status(json!({})), (Some(0.0), Some(10.0)));
        assert_eq!(status(json!({"externalPowerSource": true})), (None, Some(10.0)));
        assert_eq!(status(json!({"batteryLevelUnavailable": true})), (None, Some(10.0)));
    }

    #[test]
    fn the_other_messages() {
        let whole = || json!({"time": "2026-11-22T01:00:00Z", "deviceInfo": device()});
        assert!(matches!(chirpstack("join", whole()), Ok(Event::Noted(_))));
        let mut log = whole();
        log["level"] = json!("ERROR");
        log["code"] = json!("UPLINK_MIC");
        assert!(matches!(chirpstack("log", log), Ok(Event::Complaint(_, why)) if why == "ERROR UPLINK_MIC"));
        let mut bad = whole();
        bad["deviceInfo"]["devEui"] = json!("24e1");
        assert_eq!(chirpstack("up", bad).err().map(|e| e.0), Some("/deviceInfo/devEui"));
        let mut bad = whole();
        bad["data"] = json!("***");
        assert_eq!(chirpstack("up", bad).err().map(|e| e.0), Some("/data"));
        assert_eq!(chirpstack("up", json!([])).err().map(|e| e.0), Some("/deviceInfo"));
    }

    #[test]
    fn an_uplink_of_the_things_stack() {
        let ids =
            json!({"device_id": "dev1", "application_ids": {"application_id": "app1"}, "dev_eui": "0004A30B001C0530"});
        let whole = json!({
            "end_device_ids": ids, "received_at": "2020-02-12T15:15:46.000Z",
            "uplink_message": {
                "f_port": 1, "f_cnt": 5, "frm_payload": "gkHe", "decoded_payload": {"temperature": 1.0},
                "rx_metadata": [{"rssi": -35, "snr": 5}], "received_at": "2020-02-12T15:15:45.787Z",
                "last_battery_percentage": {"f_cnt": 5, "value": 98.0},
            },
        });
        let Ok(Event::Heard(heard)) = things_stack(whole) else { panic!("heard") };
        assert_eq!(heard.at, "2020-02-12T15:15:45.787Z".parse().expect("time"));
        assert_eq!(
            (heard.device.eui.as_str(), heard.battery, heard.rssi),
            ("0004a30b001c0530", Some(98.0), Some(-35.0))
        );
        assert!(matches!(things_stack(json!({"end_device_ids": ids, "join_accept": {}})), Ok(Event::Noted(_))));
        assert!(things_stack(json!({})).is_err());
    }
}
