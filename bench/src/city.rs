//! Lamppost as a process of its own, with Things to write to.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::http::{Connection, free_address};

/// The department whose Things these are; any of the pack's would do.
pub const TENANT: &str = "dsd";
/// Datastreams of one Thing.
const PER_THING: usize = 100;

pub struct City {
    child: Child,
    pub http: SocketAddr,
    pub mqtt: SocketAddr,
    pub data: PathBuf,
    pub key: String,
    /// The key of somebody who may read the platform's figures.
    reader: String,
}

impl City {
    pub fn start(program: &Path, pack: &Path, folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(program, pack, folder, &[])
    }

    /// With settings, each as `name=value`.
    pub fn start_with(program: &Path, pack: &Path, folder: &Path, set: &[&str]) -> anyhow::Result<Self> {
        let (http, mqtt) = (free_address()?, free_address()?);
        let data = folder.canonicalize()?.join("lamppost");
        let log = folder.join("lamppost.log");
        let settings: Vec<String> = [
            ("--data", data.display().to_string()),
            ("--pack", pack.display().to_string()),
            ("--listen", http.to_string()),
            ("--mqtt", mqtt.to_string()),
            ("--set", "log.level=warn".to_owned()),
        ]
        .into_iter()
        .chain(set.iter().map(|set| ("--set", (*set).to_owned())))
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        let output = File::create(&log)?;
        let child = Command::new(program)
            .arg("serve")
            .args(&settings)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut city = Self { child, http, mqtt, data, key: String::new(), reader: String::new() };
        let began = Instant::now();
        loop {
            if let Some(status) = city.child.try_wait()? {
                bail!("lamppost ended with {status}:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            let ready = Connection::open(http).and_then(|mut c| c.ask("GET", "/health/ready", &[], b""));
            if ready.is_ok() {
                break;
            }
            ensure!(began.elapsed() < Duration::from_secs(120), "lamppost is not ready after two minutes");
            std::thread::sleep(Duration::from_millis(50));
        }
        let key = |tenant: &str, role: &str| -> anyhow::Result<String> {
            let admin = Command::new(program)
                .args(["admin", "key", "--tenant", tenant, "--role", role, "--name", "bench"])
                .args(&settings)
                .output()?;
            ensure!(admin.status.success(), "lamppost admin key: {}", String::from_utf8_lossy(&admin.stderr));
            Ok(String::from_utf8(admin.stdout)?.split_whitespace().last().context("no key")?.to_owned())
        };
        (city.key, city.reader) = (key(TENANT, "admin")?, key("city", "operator")?);
        Ok(city)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.key)
    }

    fn post(&self, connection: &mut Connection, path: &str, body: &Value) -> anyhow::Result<crate::http::Answer> {
        let authorization = self.authorization();
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        connection.ask("POST", path, &headers, body.to_string().as_bytes())
    }

    /// Creates an entity; its id.
    fn create(&self, connection: &mut Connection, set: &str, body: &Value) -> anyhow::Result<i64> {
        let answer = self.post(connection, &format!("/v1.1/{set}"), body)?;
        let location = answer.header("location").context("no Location")?;
        let id = location
            .rsplit_once('(')
            .and_then(|(_, rest)| rest.strip_suffix(')'))
            .context("a Location without an id")?;
        Ok(id.parse()?)
    }

    /// Creates what Datastreams need; the ids of a Sensor and an ObservedProperty.
    pub fn sensor_and_property(&self, connection: &mut Connection) -> anyhow::Result<(i64, i64)> {
        let sensor = json!({"name": "bench", "description": "bench", "encodingType": "text/html", "metadata": "https://example.org/"});
        let property = json!({"name": "bench", "definition": "https://example.org/bench", "description": "bench"});
        Ok((self.create(connection, "Sensors", &sensor)?, self.create(connection, "ObservedProperties", &property)?))
    }

    /// Creates so many Datastreams; their ids.
    pub fn datastreams(&self, count: usize) -> anyhow::Result<Vec<i64>> {
        let mut connection = Connection::open(self.http)?;
        let (sensor, property) = self.sensor_and_property(&mut connection)?;
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            let streams: Vec<Value> = (ids.len()..count.min(ids.len() + PER_THING))
                .map(|n| {
                    json!({
                        "name": format!("series {n}"), "description": "bench",
                        "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
                        "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
                        "Sensor": {"@iot.id": sensor}, "ObservedProperty": {"@iot.id": property},
                    })
                })
                .collect();
            let wanted = streams.len();
            let thing = json!({"name": format!("bench {}", ids.len()), "description": "bench", "Datastreams": streams});
            let thing = self.create(&mut connection, "Things", &thing)?;
            let path = format!("/v1.1/Things({thing})/Datastreams?$select=id&$orderby=id%20asc&$top={PER_THING}");
            let page: Value = serde_json::from_slice(&self.get(&mut connection, &path)?)?;
            let found = page["value"].as_array().into_iter().flatten().filter_map(|row| row["@iot.id"].as_i64());
            let before = ids.len();
            ids.extend(found);
            ensure!(ids.len() == before + wanted, "{} Datastreams of {wanted} were made", ids.len() - before);
        }
        Ok(ids)
    }

    pub fn get(&self, connection: &mut Connection, path: &str) -> anyhow::Result<Vec<u8>> {
        let authorization = self.authorization();
        Ok(connection.ask("GET", path, &[("Authorization", authorization.as_str())], b"")?.body)
    }

    /// How many Observations these Datastreams have.
    pub fn observations(&self, streams: &[i64]) -> anyhow::Result<u64> {
        let mut connection = Connection::open(self.http)?;
        let mut total = 0;
        for id in streams {
            let path = format!("/v1.1/Datastreams({id})/Observations?$count=true&$top=0");
            let page: Value = serde_json::from_slice(&self.get(&mut connection, &path)?)?;
            total += page["@iot.count"].as_u64().context("no count")?;
        }
        Ok(total)
    }

    /// Registers a device that may write to every Datastream of the department; its key.
    pub fn device(&self) -> anyhow::Result<String> {
        let mut connection = Connection::open(self.http)?;
        let body = json!({"tenant": TENANT, "key": "bench", "kind": "bench", "gateway": true});
        let device: Value = serde_json::from_slice(&self.post(&mut connection, "/api/devices", &body)?.body)?;
        let id = device["id"].as_str().context("a device without an id")?;
        let key: Value =
            serde_json::from_slice(&self.post(&mut connection, &format!("/api/devices/{id}/keys"), &json!({}))?.body)?;
        Ok(key["key"].as_str().context("no key")?.to_owned())
    }

    /// One figure of `/metrics`, without its labels.
    pub fn figure(&self, name: &str) -> anyhow::Result<f64> {
        // Where a department is sealed, only those who run the platform read its figures.
        let authorization = format!("Bearer {}", self.reader);
        let headers = [("Authorization", authorization.as_str())];
        let text = Connection::open(self.http)?.ask("GET", "/metrics", &headers, b"")?.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("/metrics has no {name}"))?.trim().parse()?)
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(told.success(), "lamppost could not be told to stop");
        let status = self.child.wait()?;
        ensure!(status.success(), "lamppost ended with {status}");
        Ok(())
    }
}

impl Drop for City {
    fn drop(&mut self) {
        // It has ended by itself when it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
