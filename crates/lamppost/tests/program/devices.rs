//! Devices from the factory to their end, as the whole program meets them: certificates, claims, commands by MQTT.

use std::{net::SocketAddr, path::PathBuf, process::Stdio};

use lamppost::config::{Mqtt, MqttTls};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::city::TestCity;

/// An authority with a server's certificate, devices' certificates and a list of those that it has revoked.
struct Papers {
    folder: tempfile::TempDir,
}

impl Papers {
    fn new(revoked: &str, devices: &[(&str, &str, (i32, i32))]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.distinguished_name.push(DnType::CommonName, "the city's authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        write("ca.pem", authority.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(authority, key);
        let all = [("server", "localhost", (2024, 2090))].into_iter().chain(devices.iter().copied());
        for (serial, (file, name, (from, until))) in (1u64..).zip(all) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.serial_number = Some(serial.into());
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(until, 1, 1));
            write(&format!("{file}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
            write(&format!("{file}.key"), key.serialize_pem());
            if file == revoked {
                let list = rcgen::CertificateRevocationListParams {
                    this_update: rcgen::date_time_ymd(2024, 1, 1),
                    next_update: rcgen::date_time_ymd(2090, 1, 1),
                    crl_number: 1.into(),
                    issuing_distribution_point: None,
                    revoked_certs: vec![rcgen::RevokedCertParams {
                        serial_number: serial.into(),
                        revocation_time: rcgen::date_time_ymd(2024, 1, 1),
                        reason_code: None,
                        invalidity_date: None,
                    }],
                    key_identifier_method: rcgen::KeyIdMethod::Sha256,
                };
                write("revoked.pem", list.signed_by(&issuer).unwrap().pem().unwrap());
            }
        }
        Self { folder }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }
}

/// A port that was free a moment ago.
fn port() -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap()
}

async fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.unwrap_or_else(|e| panic!("{program} does not run ({e}); `cargo xtask test` installs it"));
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

async fn json_of(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

/// A Thing of the DSD and its first Datastream.
async fn thing(city: &TestCity) -> (i64, i64) {
    let path =
        "/v1.1/Things?$filter=properties/system%20eq%20'flood'&$orderby=id&$top=1&$expand=Datastreams($orderby=id)";
    let (_, found) = json_of(city.get(path)).await;
    let thing = &found["value"][0];
    (thing["@iot.id"].as_i64().unwrap(), thing["Datastreams"][0]["@iot.id"].as_i64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_signs_in_with_a_certificate() {
    let lasts = (2024, 2090);
    let papers = Papers::new(
        "revoked",
        &[
            ("good", "dsd/wl-1", lasts),
            ("pinned", "dsd/wl-1", lasts),
            ("stranger", "dsd/nobody", lasts),
            ("revoked", "dsd/wl-1", lasts),
            ("over", "dsd/wl-1", (2020, 2021)),
        ],
    );
    let others = Papers::new("", &[("good", "dsd/wl-1", lasts)]);
    let tls = port();
    let city = TestCity::with(|config| {
        let tls = MqttTls {
            listen: tls,
            certificate: papers.path("server.pem"),
            key: papers.path("server.key"),
            client_authorities: Some(papers.path("ca.pem")),
            client_revocations: Some(papers.path("revoked.pem")),
        };
        config.mqtt = Some(Mqtt { listen: ([127, 0, 0, 1], 0).into(), tls: Some(tls) });
    })
    .await;
    let manager = city.key("dsd", "device-manager").await;
    let (thing, stream) = thing(&city).await;
    let body = json!({"tenant": "dsd", "key": "wl-1", "kind": "flood-station", "things": [thing]}).to_string();
    let (code, device) = json_of(city.request("POST", "/api/devices").bearer_auth(&manager).body(body)).await;
    assert_eq!(code, 201);
    let device = format!("/api/devices/{}", device["id"].as_str().unwrap());
    let (port, ca) = (tls.port().to_string(), papers.text("ca.pem"));
    let topic = format!("v1.1/Datastreams({stream})/Observations");
    let publish = async |papers: &Papers, name: &str| {
        let (cert, key) = (papers.text(&format!("{name}.pem")), papers.text(&format!("{name}.key")));
        let common = ["-V", "mqttv5", "-h", "localhost", "-p", &port, "--cafile", &ca, "-q", "1", "-t", &topic];
        run("mosquitto_pub", &[&common[..], &["-i", name, "--cert", &cert, "--key", &key, "-m", "1.25"]].concat()).await
    };
    let check = async |name: &str, expect: bool| {
        let (ok, said) = publish(&papers, name).await;
        assert_eq!(ok && !said.contains("refused") && !said.contains("ot authori"), expect, "{name}: {said}");
    };
    check("good", true).await;
    let (_, found) =
        json_of(city.get(&format!("/v1.1/Datastreams({stream})/Observations?$top=1")).bearer_auth(&manager)).await;
    assert_eq!(found["value"][0]["result"], 1.25);
    for name in ["stranger", "revoked", "over"] {
        check(name, false).await;
    }
    let (ok, said) = publish(&others, "good").await;
    assert!(!ok, "another authority: {said}");
    // Once one is registered, that one alone.
    let body = json!({"certificate": std::fs::read_to_string(papers.path("pinned.pem")).unwrap()}).to_string();
    let path = format!("{device}/certificates");
    let (code, registered) = json_of(city.request("POST", &path).bearer_auth(&manager).body(body)).await;
    assert_eq!(code, 201, "{registered}");
    check("pinned", true).await;
    check("good", false).await;
    let fingerprint = registered["fingerprint"].as_str().unwrap();
    let gone = city.request("DELETE", &format!("{path}/{fingerprint}")).bearer_auth(&manager).send().await.unwrap();
    assert_eq!(gone.status(), 204);
    check("pinned", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_claimed_told_and_ended() {
    let city = TestCity::with(|config| {
        config.mqtt = Some(Mqtt { listen: ([127, 0, 0, 1], 0).into(), tls: None });
    })
    .await;
    let (manager, other) = (city.key("dsd", "device-manager").await, city.key("dsd", "operator").await);
    let (thing, stream) = thing(&city).await;
    let sheet = "key,kind,claim_code\nwl-1,flood-station,7KQD-M3XP-9TWB-H4RF\n";
    let bulk = city.request("POST", "/api/devices/bulk?tenant=dsd").bearer_auth(&manager).body(sheet);
    let (code, made) = json_of(bulk).await;
    assert_eq!((code, &made["registered"]), (200, &json!(1)), "{made}");
    let claim = json!({"claim_code": "7kqd m3xp 9twb h4rf"}).to_string();
    let (code, told) = json_of(city.request("POST", "/api/devices/claim").body(claim.clone())).await;
    assert_eq!(code, 201, "{told}");
    let key = told["key"].as_str().unwrap().to_owned();
    assert_eq!(city.request("POST", "/api/devices/claim").body(claim).send().await.unwrap().status(), 403, "once");
    let observe = async || {
        let path = format!("/v1.1/Datastreams({stream})/Observations");
        city.request("POST", &path).bearer_auth(&key).body(r#"{"result": 1}"#).send().await.unwrap().status().as_u16()
    };
    assert_ne!(observe().await, 201, "it stands nowhere yet");
    let place = json!({"claim_code": "7KQD-M3XP-9TWB-H4RF", "thing": thing}).to_string();
    assert_eq!(json_of(city.request("POST", "/api/devices/place").bearer_auth(&manager).body(place)).await.0, 200);
    assert_eq!(observe().await, 201);

    // How it is, by MQTT; what it is to do, by MQTT; and what has become of it.
    let port = city.running().mqtt.unwrap().port().to_string();
    let common = ["-V", "mqttv5", "-h", "127.0.0.1", "-p", &port, "-u", "wl-1", "-P", &key, "-q", "1"];
    let say =
        async |topic: &str, body: &str| run("mosquitto_pub", &[&common[..], &["-t", topic, "-m", body]].concat()).await;
    let (ok, said) = say("devices/self/health", r#"{"battery": 17, "signal": -90, "firmware": "1.0"}"#).await;
    assert!(ok, "{said}");
    let (_, own) = json_of(city.get("/api/devices/self").bearer_auth(&key)).await;
    assert_eq!((&own["health"]["battery"], &own["health"]["signal"]), (&json!(17), &json!(-90)));
    let body = json!({"tenant": "dsd", "name": "Every minute", "configuration": {"interval": 60}, "version": "c1",
        "target": {"devices": ["wl-1"]}, "waves": "rest"});
    let (code, made) =
        json_of(city.request("POST", "/api/campaigns").bearer_auth(&manager).body(body.to_string())).await;
    assert_eq!(code, 201, "{made}");
    let campaign = made["campaign"]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/campaigns/{campaign}");
    // A program does not approve, as it does not with Tasks: a person does.
    assert_eq!(json_of(city.request("POST", &format!("{path}/approve")).bearer_auth(&other).body("{}")).await.0, 403);
    let mut person = crate::browser::Browser::of(&city, "dsd", "admin", "chan").await;
    let page = format!("/en/devices/campaigns/{campaign}");
    let approved = person.post(&page, &page, &[("do", "approve"), ("revision", "1")]).await;
    assert_eq!(approved.status(), 303);
    let listen = [&common[..], &["-i", "listener", "-t", "devices/self/command", "-C", "1", "-W", "30"]].concat();
    let (ok, said) = run("mosquitto_sub", &listen).await;
    assert!(ok, "{said}");
    let command: Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!((&command["campaign"], &command["document"]), (&json!(campaign), &json!({"interval": 60})));
    let word = json!({"campaign": campaign, "state": "installed"}).to_string();
    let (ok, said) = say("devices/self/command", &word).await;
    assert!(ok, "{said}");
    let (_, done) = json_of(city.get(&path).bearer_auth(&manager)).await;
    assert_eq!((&done["campaign"]["status"], &done["waves"][0]["installed"]), (&json!("done"), &json!(1)));
    let (_, html) = person.get(&page).await;
    assert!(html.contains("1 of 1 done"), "{html}");

    let id = told["id"].as_str().unwrap();
    let end = city.request("POST", &format!("/api/devices/{id}/decommission")).bearer_auth(&manager);
    assert_eq!(json_of(end.body(r#"{"reason": "Washed away"}"#)).await.0, 200);
    assert_eq!(observe().await, 401);
    let (ok, _) = say("devices/self/health", "{}").await;
    assert!(!ok, "its key is good for nothing");
    let (_, kept) = json_of(city.get(&format!("/api/devices/{id}")).bearer_auth(&manager)).await;
    assert_eq!(kept["decommissioned"]["reason"], "Washed away");
}
