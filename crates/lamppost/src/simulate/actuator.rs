//! The actuators of a simulated device: takes Tasks over MQTT as a real one would (docs/tasking.md, "The device"), moves, says what it has moved to,
//! and goes back to where it is safe by itself when a hold is not renewed, whether or not the platform is there.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use parking_lot::Mutex;
use rumqttc::{AsyncClient, QoS};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::pack::things::Thing;

/// How long a simulated motor runs.
const MOVES: Duration = Duration::from_secs(1);
/// Tasks that a device remembers to have done: a message may come twice.
const REMEMBERED: usize = 256;
/// Pages of TaskingCapabilities that are read for their ids.
const PAGES: usize = 100;

/// How a device misbehaves, for tests and rehearsals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Never answers.
    Silent,
    /// Answers that it cannot.
    Refuses,
    /// Says that it has done it, and observes something else.
    Wrong,
}

impl FromStr for Fault {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "silent" => Ok(Self::Silent),
            "refuses" => Ok(Self::Refuses),
            "wrong" => Ok(Self::Wrong),
            _ => Err(format!("'{text}' is none of silent, refuses, wrong")),
        }
    }
}

/// One thing that can be moved.
struct Motor {
    /// Of the TaskingCapability.
    id: i64,
    /// The Datastream by which it is read back, below the thing.
    shape: String,
    parameter: String,
    /// What the Datastream says for a value of the parameter.
    values: Map<String, Value>,
}

impl Motor {
    fn number(&self, parameters: &Map<String, Value>) -> Option<f64> {
        let value = parameters.get(&self.parameter)?;
        let name = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.values.get(&name).unwrap_or(value).as_f64()
    }
}

struct Held {
    task: i64,
    motor: usize,
    until: Timestamp,
    fallback: Map<String, Value>,
}

#[derive(Default)]
struct State {
    /// Where each was moved to.
    at: BTreeMap<String, f64>,
    done: VecDeque<i64>,
    held: Option<Held>,
}

/// Those of one thing.
pub struct Motors {
    thing: String,
    motors: Vec<Motor>,
    fault: Option<Fault>,
    state: Mutex<State>,
    /// A hold has begun, was renewed, or is over.
    changed: Notify,
}

/// Ids of TaskingCapabilities by the keys of the pack: asked of the platform once for each department, as whoever installs devices would.
pub async fn ids(http: SocketAddr, secret: &str) -> Result<BTreeMap<String, i64>> {
    let web = crate::client::new(Duration::from_secs(60))?;
    let mut next = Some(format!("http://{http}/v1.1/TaskingCapabilities?$select=id,properties&$orderby=id&$top=500"));
    let mut found = BTreeMap::new();
    for _ in 0..PAGES {
        let Some(url) = next.take() else { break };
        let answer = web.get(&url).bearer_auth(secret).send().await?.error_for_status()?;
        let page: Value = serde_json::from_slice(&answer.bytes().await?)?;
        for row in page["value"].as_array().context("a page of TaskingCapabilities")? {
            if let (Some(key), Some(id)) = (row["properties"]["key"].as_str(), row["@iot.id"].as_i64()) {
                found.insert(key.to_owned(), id);
            }
        }
        next = page["@iot.nextLink"].as_str().map(str::to_owned);
    }
    Ok(found)
}

impl Motors {
    pub fn new(thing: &Thing, ids: &BTreeMap<String, i64>, fault: Option<Fault>) -> Arc<Self> {
        let prefix = format!("{}.", thing.key);
        let motor = |capability: &crate::pack::things::TaskingCapability| {
            let verify = capability.terms.get("verify")?;
            let datastream = verify["Datastream"]["@iot.key"].as_str()?;
            Some(Motor {
                id: *ids.get(&capability.key)?,
                shape: datastream.strip_prefix(&prefix)?.to_owned(),
                parameter: verify["parameter"].as_str()?.to_owned(),
                values: verify["values"].as_object().cloned().unwrap_or_default(),
            })
        };
        let motors = thing.tasking.iter().filter_map(motor).collect();
        Arc::new(Self { thing: thing.key.clone(), motors, fault, state: Mutex::default(), changed: Notify::new() })
    }

    /// Of a thing that nobody moves this way.
    pub fn none(thing: &Thing) -> Arc<Self> {
        Self::new(thing, &BTreeMap::new(), None)
    }

    pub fn is_empty(&self) -> bool {
        self.motors.is_empty()
    }
    /// What it subscribes to.
    pub fn topics(&self) -> Vec<String> {
        self.motors.iter().map(|motor| format!("v1.1/TaskingCapabilities({})/Tasks", motor.id)).collect()
    }
    pub fn moves(&self, shape: &str) -> bool {
        self.motors.iter().any(|motor| motor.shape == shape)
    }
    /// Where it was moved to, once it was.
    pub fn at(&self, shape: &str) -> Option<f64> {
        self.state.lock().at.get(shape).copied()
    }

    /// Does what a message of the platform asks for.
    pub async fn heard(&self, client: &AsyncClient, topic: &str, payload: &[u8]) -> Result<()> {
        let message: Value = serde_json::from_slice(payload)?;
        if let Some(property) = topic.strip_prefix("v1.1/Tasks(") {
            let task: i64 = property.split(')').next().unwrap_or_default().parse()?;
            self.news(task, &message);
            return Ok(());
        }
        let motor = self.motors.iter().position(|m| topic == format!("v1.1/TaskingCapabilities({})/Tasks", m.id));
        let motor = motor.context("a Task of another device")?;
        self.task(client, motor, &message).await
    }

    /// What has become of a Task that it holds.
    fn news(&self, task: i64, message: &Value) {
        let mut state = self.state.lock();
        let Some(held) = state.held.as_mut().filter(|held| held.task == task) else { return };
        let until = message["@lamppost.heldUntil"].as_str().and_then(|text| text.parse().ok());
        if let Some(until) = until {
            held.until = until;
        }
        let status = message["@lamppost.status"].as_str();
        if status.is_some_and(|s| matches!(s, "completed" | "failed" | "expired" | "rolled_back")) {
            state.held = None;
        }
        self.changed.notify_waiters();
    }

    async fn task(&self, client: &AsyncClient, motor: usize, task: &Value) -> Result<()> {
        let id = task["@iot.id"].as_i64().context("a Task has an id")?;
        let time = |name: &str| task[name].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        // Nobody waits for it any more, or it was to be held and nobody holds it: told twice, it must not move again what it has let go of.
        let now = Timestamp::now();
        let over = ["@lamppost.due", "@lamppost.heldUntil"].into_iter().filter_map(&time).any(|at| at <= now);
        if over || self.fault == Some(Fault::Silent) {
            return Ok(());
        }
        let own = format!("v1.1/Tasks({id})");
        let answer = async |body: Value| client.publish(&own, QoS::AtLeastOnce, false, body.to_string()).await;
        if self.fault == Some(Fault::Refuses) {
            let reason = "The motor does not turn (simulated).";
            return Ok(answer(json!({"@lamppost.status": "failed", "@lamppost.reason": reason})).await?);
        }
        let parameters = task["taskingParameters"].as_object().cloned().unwrap_or_default();
        {
            let mut state = self.state.lock();
            if !state.done.contains(&id) {
                if state.done.len() >= REMEMBERED {
                    state.done.pop_front();
                }
                state.done.push_back(id);
                let fallback = task["@lamppost.fallback"].as_object().cloned();
                let hold = time("@lamppost.heldUntil").zip(fallback);
                let hold = hold.map(|(until, fallback)| Held { task: id, motor, until, fallback });
                // A Task of one motor leaves what another one holds alone.
                if hold.is_some() || state.held.as_ref().is_some_and(|held| held.motor == motor) {
                    state.held = hold;
                }
            }
        }
        self.changed.notify_waiters();
        if time("@lamppost.heldUntil").is_some() {
            for property in ["@lamppost.heldUntil", "@lamppost.status"] {
                client.subscribe(format!("{own}/{property}"), QoS::AtLeastOnce).await?;
            }
        }
        answer(json!({"@lamppost.status": "acknowledged"})).await?;
        tokio::time::sleep(MOVES).await;
        self.go(client, motor, &parameters).await
    }

    /// Moves, and says where to.
    async fn go(&self, client: &AsyncClient, motor: usize, parameters: &Map<String, Value>) -> Result<()> {
        let Some((motor, to)) = self.motors.get(motor).and_then(|m| Some((m, m.number(parameters)?))) else {
            return Ok(());
        };
        let to = match self.fault {
            // Far from what was wanted, whatever the unit.
            Some(Fault::Wrong) => to + 1.0 + to.abs(),
            _ => to,
        };
        self.state.lock().at.insert(motor.shape.clone(), to);
        let result = if to.fract() == 0.0 { json!(to as i64) } else { json!(to) };
        let body = json!({"result": result, "phenomenonTime": Timestamp::now().to_string()});
        let topic = format!("devices/{}/{}", self.thing, motor.shape);
        client.publish(topic, QoS::AtLeastOnce, false, body.to_string()).await?;
        Ok(())
    }

    /// Lets go of what is not renewed, until the device ends.
    pub async fn guard(&self, client: &AsyncClient) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            let until = self.state.lock().held.as_ref().map(|held| held.until);
            let Some(until) = until else {
                changed.await;
                continue;
            };
            let left = until.duration_since(Timestamp::now());
            let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
            if tokio::time::timeout(left, changed).await.is_ok() {
                continue;
            }
            let over = {
                let mut state = self.state.lock();
                // It may have been renewed in this very moment.
                let due = state.held.as_ref().is_some_and(|held| held.until <= Timestamp::now());
                if due { state.held.take() } else { None }
            };
            if let Some(held) = over {
                tracing::info!(
                    device = self.thing,
                    task = held.task,
                    "a hold was not renewed: back to where it is safe"
                );
                self.go(client, held.motor, &held.fallback).await?;
            }
        }
    }
}
