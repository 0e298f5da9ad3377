//! Clients that other people wrote: mosquitto and paho, over TCP and TLS.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use super::world::{MemoryField, To, V5, World, options};
use crate::mqtt::{Options, Tls, wire::QoS};

/// A certificate authority, a server's and a client's certificate signed by it.
struct Papers {
    folder: tempfile::TempDir,
}

impl Papers {
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        let key = KeyPair::generate().expect("key");
        let mut authority = CertificateParams::new(Vec::new()).expect("params");
        // Names that differ: a certificate that is named like its issuer looks self-signed to OpenSSL.
        authority.distinguished_name.push(DnType::CommonName, "the city's authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", authority.self_signed(&key).expect("signed").pem());
        let issuer = Issuer::new(authority, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().expect("key");
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("params");
            params.distinguished_name.push(DnType::CommonName, name);
            write(&format!("{name}.pem"), params.signed_by(&key, &issuer).expect("signed").pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self { folder }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn run(program: impl AsRef<Path>, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program.as_ref())
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap_or_else(|e| {
            panic!("{} does not run ({e}); `cargo xtask test` installs it", program.as_ref().display())
        });
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn mosquitto_publishes_and_subscribes() {
    let world = World::new().await;
    let port = world.address.port().to_string();
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let common = ["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", qos, "-u", "dsd-d1", "-P", "secret"];
            let value = format!("{}{qos}", version.len());
            let publish = [&common[..], &["-i", "p", "-t", "devices/d1/rain", "-m", &value]].concat();
            let (ok, said) = run("mosquitto_pub", &publish).await;
            assert!(ok, "{said}");
            // QoS 0 is not acknowledged: wait for it by its effect.
            while world.field.values().last().is_none_or(|(_, v)| v.to_string() != value) {
                tokio::task::yield_now().await;
            }
            let topic = "v1.1/Datastreams(2)/Observations";
            let subscribe = [&common[..], &["-i", "s", "-t", topic, "-C", "1", "-W", "20"]].concat();
            let (ok, said) = run("mosquitto_sub", &subscribe).await;
            assert!(ok && said.contains(&format!("\"result\":{value}")), "{version} {qos}: {said}");
        }
    }
    let (ok, _) =
        run("mosquitto_pub", &["-p", &port, "-u", "dsd-d1", "-P", "wrong", "-t", "tenant/dsd/a", "-m", "1"]).await;
    assert!(!ok, "a wrong key");
}

#[tokio::test]
async fn tls_with_and_without_a_client_certificate() {
    let papers = Papers::new();
    let tls = Tls {
        certificates: papers.path("server.pem"),
        key: papers.path("server.key"),
        client_authorities: Some(papers.path("ca.pem")),
        client_revocations: None,
    };
    let other = Papers::new();
    let options = Options { tls: Some((([127, 0, 0, 1], 0).into(), tls)), ..options() };
    let world = World::with(options, MemoryField::new(), Default::default()).await;
    let port = world.door.addresses()[1].port().to_string();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let common =
        ["-h", "localhost", "-p", &port, "-u", "dsd-d1", "-P", "secret", "-q", "1", "-t", "devices/d1/rain", "-m", "5"];
    let (ca, wrong_ca) = (text(papers.path("ca.pem")), text(other.path("ca.pem")));
    let pair = (text(papers.path("client.pem")), text(papers.path("client.key")));
    let wrong_pair = (text(other.path("client.pem")), text(other.path("client.key")));
    let check = async |extra: &[&str], expect: bool| {
        let (ok, said) = run("mosquitto_pub", &[&common[..], extra].concat()).await;
        assert_eq!(ok, expect, "{extra:?}: {said}");
    };
    check(&["--cafile", &ca], true).await;
    check(&["--cafile", &ca, "--cert", &pair.0, "--key", &pair.1], true).await;
    check(&["--cafile", &ca, "--tls-version", "tlsv1.2"], true).await;
    check(&["--cafile", &wrong_ca], false).await;
    check(&["--cafile", &ca, "--cert", &wrong_pair.0, "--key", &wrong_pair.1], false).await;
    check(&[], false).await;
    assert_eq!(world.field.values(), [(2, 5.0); 3]);
}

/// The Python of the tests: named by `LAMPPOST_PYTHON`, or any that has paho-mqtt.
fn python() -> PathBuf {
    std::env::var_os("LAMPPOST_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

#[tokio::test]
async fn paho_in_both_versions() {
    let world = World::new().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/tests/paho_client.py");
    let (ok, said) = run(python(), &[script, &world.address.port().to_string()]).await;
    assert!(ok, "`cargo xtask test` installs paho-mqtt and sets LAMPPOST_PYTHON.\n{said}");
    // The script has published 3 QoS levels x 2 versions and 20 for an absent session in each version.
    assert_eq!(world.field.values().len(), 6 + 40);
    let mut reader = world.connect(To::new(V5, "dsd-r", "r")).await;
    reader.subscribe("v1.1/Datastreams(2)/Observations", QoS::AtMostOnce).await;
    assert!(reader.message().await.retain);
}
