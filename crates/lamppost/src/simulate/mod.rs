//! The simulated field: plays every thing of a pack that is marked `simulated`, one MQTT client a thing, and serves the published
//! files as feeds. It is a program of its own that happens to live in this one: it knows the platform only through MQTT and HTTP.

pub mod actuator;
mod feeds;
mod field;
pub mod hooks;
mod lorawan;
mod movement;
mod record;
mod software;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio_util::sync::CancellationToken;

use crate::pack::{Pack, things::Thing};
use actuator::Motors;
pub use feeds::serve as feeds;
use field::Moment;
use record::{Pollutant, Record};
use software::{COMMAND, Software};

/// What the field needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    pub pack: PathBuf,
    /// Where the platform's MQTT door is.
    pub mqtt: SocketAddr,
    /// Where its HTTP door is, for what fetches firmware or speaks through a network server; `None` leaves that silent.
    pub http: Option<SocketAddr>,
    /// Device id to key, as `lamppost demo` issued them.
    pub keys: BTreeMap<String, String>,
    /// Where the published files are served; `None` for no feeds.
    pub feeds: Option<SocketAddr>,
    /// The local day on which the record's first day is replayed.
    pub since: Date,
    /// History to fill in at the start.
    pub backfill: Duration,
    /// Things whose actuators misbehave.
    pub faults: BTreeMap<String, actuator::Fault>,
}

/// The first day of the record that is replayed: the eve of the black rainstorm of September 2023.
const FIRST_DAY: &str = "2023-09-07";
const DAYS: usize = 365;
/// Seconds between a device's words about itself.
const REPORT: i64 = 300;
/// Minutes between the readings of the history.
const BACKFILL_STEP: i64 = 10;

struct Field {
    record: Record,
    since: Date,
    zone: TimeZone,
    /// Places of hospitals, in the order of their names: a unit is lent to the next.
    hospitals: Vec<(String, [f64; 2])>,
    published: AtomicU64,
}

/// Plays the field until told to stop.
pub async fn run(options: Options, stop: CancellationToken) -> Result<()> {
    let (pack, inventory) = Pack::check(&options.pack)
        .map_err(|m| anyhow::anyhow!("the pack has {} mistakes; see 'lamppost pack check'", m.len()))?;
    let data = options.pack.join("data");
    let field = Arc::new(Field {
        record: Record::read(&data, FIRST_DAY, DAYS)?,
        since: options.since,
        zone: TimeZone::get(pack.city.time_zone.get_ref()).context("the pack's time zone")?,
        hospitals: hospitals(&inventory.things),
        published: AtomicU64::new(0),
    });
    let stations = air_stations(&inventory.things);
    let euis = lorawan::devices(&crate::declared::declared_ingest(&pack)?);
    let ids = actuators(&inventory.things, &options).await;
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(listen) = options.feeds {
        let stop = stop.clone();
        tasks.spawn(async move { feeds::serve(listen, data, axum::Router::new(), stop).await });
    }
    let mut devices = 0;
    for thing in inventory.things.into_iter().filter(|t| t.simulated) {
        // A thing without a key is somebody else's to play.
        let Some(key) = options.keys.get(&thing.key) else { continue };
        let station = nearest(&stations, &thing);
        // What stands by the road is fed by it; the rest has a battery.
        let battery = matches!(thing.system.as_str(), "toilet" | "parking");
        let software = Arc::new(Software::new(&thing.key, battery, options.http));
        let motors = Motors::new(&thing, &ids, options.faults.get(&thing.key).copied());
        let mut device = Device { field: field.clone(), station, thing, software, motors, wired: false };
        devices += 1;
        if let Some((eui, profile)) = euis.get(&device.thing.key) {
            let Some(http) = options.http else { continue };
            if !device.motors.is_empty() {
                // Its radio hears nothing: what moves there hangs on a wire.
                let wired = Device { wired: true, ..device.twin() };
                let (mqtt, key, stop) = (options.mqtt, key.clone(), stop.clone());
                tasks.spawn(async move { wired.play(mqtt, key, Duration::ZERO, devices, stop).await });
                device.motors = Motors::none(&device.thing);
            }
            let (key, stop, backfill) = (key.clone(), stop.clone(), options.backfill);
            let radio = lorawan::Radio { http, key, eui: eui.clone(), profile: profile.clone() };
            tasks.spawn(async move { device.radio(radio, backfill, stop).await });
            continue;
        }
        let (mqtt, key, backfill, stop) = (options.mqtt, key.clone(), options.backfill, stop.clone());
        tasks.spawn(async move { device.play(mqtt, key, backfill, devices, stop).await });
    }
    tracing::info!(devices, "the simulated field is up");
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    tracing::info!(published = field.published.load(Relaxed), "the simulated field has stopped");
    Ok(())
}

/// Real air stations: their column in the published file, and where they are.
fn air_stations(things: &[Thing]) -> Vec<(String, [f64; 2])> {
    let column = |t: &Thing| Some(t.properties.get("published_column")?.as_str()?.to_owned());
    things.iter().filter_map(|t| Some((column(t)?, position(t)?))).collect()
}

fn hospitals(things: &[Thing]) -> Vec<(String, [f64; 2])> {
    let hospital = |t: &Thing| Some((t.properties.get("hospital")?.as_str()?.to_owned(), position(t)?));
    let all: BTreeMap<String, [f64; 2]> = things.iter().rev().filter_map(hospital).collect();
    all.into_iter().collect()
}

fn position(thing: &Thing) -> Option<[f64; 2]> {
    let coordinates = thing.location.as_ref()?.get("coordinates")?.as_array()?;
    Some([coordinates.first()?.as_f64()?, coordinates.get(1)?.as_f64()?])
}

fn nearest(stations: &[(String, [f64; 2])], thing: &Thing) -> Option<String> {
    let at = position(thing)?;
    // Within one city a degree is a degree; only the order matters.
    let distance = |p: &[f64; 2]| (p[0] - at[0]).powi(2) + (p[1] - at[1]).powi(2);
    stations.iter().min_by(|a, b| distance(&a.1).total_cmp(&distance(&b.1))).map(|s| s.0.clone())
}

struct Device {
    field: Arc<Field>,
    /// The real air station whose record it follows.
    station: Option<String>,
    thing: Thing,
    software: Arc<Software>,
    motors: Arc<Motors>,
    /// Says only where its actuators are; the rest of the thing speaks another way.
    wired: bool,
}

/// The ids of what things can be asked to do. A platform that does not answer is no reason not to play the rest.
async fn actuators(things: &[Thing], options: &Options) -> BTreeMap<String, i64> {
    let mut keys: BTreeMap<&kernel::Tenant, &String> = BTreeMap::new();
    for thing in things.iter().filter(|t| t.simulated && !t.tasking.is_empty()) {
        if let Some(key) = options.keys.get(&thing.key) {
            keys.entry(&thing.tenant).or_insert(key);
        }
    }
    let mut found = BTreeMap::new();
    let Some(http) = options.http else { return found };
    for key in keys.into_values() {
        match actuator::ids(http, key).await {
            Ok(ids) => found.extend(ids),
            Err(error) => {
                tracing::warn!(%error, "the field does not know what it can be asked to do; its actuators stand still")
            }
        }
    }
    found
}

impl Device {
    fn twin(&self) -> Self {
        Self {
            field: self.field.clone(),
            station: self.station.clone(),
            thing: self.thing.clone(),
            software: self.software.clone(),
            motors: self.motors.clone(),
            wired: self.wired,
        }
    }

    async fn play(
        self,
        mqtt: SocketAddr,
        key: String,
        backfill: Duration,
        number: u64,
        stop: CancellationToken,
    ) -> Result<()> {
        let name = if self.wired { format!("{}-actuators", self.thing.key) } else { self.thing.key.clone() };
        let mut options = MqttOptions::new(name, mqtt.ip().to_string(), mqtt.port());
        let key_of_device = key.clone();
        options
            .set_credentials(&self.thing.key, key)
            .set_keep_alive(Duration::from_secs(60))
            .set_clean_session(self.motors.is_empty());
        let (client, mut events) = AsyncClient::new(options, 64);
        let (software, told, secret) = (self.software.clone(), client.clone(), key_of_device);
        let connected = Arc::new(tokio::sync::Notify::new());
        let motors = self.motors.clone();
        let guard = {
            let (motors, client) = (motors.clone(), client.clone());
            async move { motors.guard(&client).await }
        };
        let pump = {
            let (stop, connected) = (stop.clone(), connected.clone());
            async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        event = events.poll() => match event {
                            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                                // A full queue is told at the next connection.
                                drop(told.try_subscribe(COMMAND, QoS::AtLeastOnce));
                                for topic in motors.topics() {
                                    drop(told.try_subscribe(topic, QoS::AtLeastOnce));
                                }
                                connected.notify_one();
                            }
                            Ok(Event::Incoming(Packet::Publish(message))) if message.topic == COMMAND => {
                                let (software, told, secret) = (software.clone(), told.clone(), secret.clone());
                                tokio::spawn(async move {
                                    if let Err(error) = software.obey(&told, &secret, &message.payload).await {
                                        tracing::debug!(%error, "the device could not do what it was told");
                                    }
                                });
                            }
                            Ok(Event::Incoming(Packet::Publish(message))) => {
                                let (motors, told) = (motors.clone(), told.clone());
                                tokio::spawn(async move {
                                    if let Err(error) = motors.heard(&told, &message.topic, &message.payload).await {
                                        tracing::debug!(%error, "the device could not do its Task");
                                    }
                                });
                            }
                            Ok(_) => {}
                            // The platform may be restarting: a device tries again, a little apart from the others.
                            Err(error) => {
                                tracing::debug!(%error, "the device lost its connection");
                                tokio::time::sleep(Duration::from_millis(1_000 + 10 * (number % 200))).await;
                            }
                        }
                    }
                }
            }
        };
        let work = async {
            connected.notified().await;
            self.publish(&client, backfill, number).await
        };
        tokio::select! {
            () = pump => Ok(()),
            done = work => done,
            done = guard => done,
        }
    }

    async fn publish(&self, client: &AsyncClient, backfill: Duration, number: u64) -> Result<()> {
        let now = Timestamp::now().as_second();
        // A way is made of many places, and a cast of many samples.
        let step = if movement::voyage(&self.thing.key, 0).is_some() { movement::SAMPLE } else { BACKFILL_STEP * 60 };
        let mut at = (now - backfill.as_secs() as i64).div_euclid(step) * step;
        while at < now {
            for (topic, _, value) in self.readings(at) {
                self.send(client, topic, value, at).await?;
            }
            at += step;
        }
        let mut next: Vec<i64> = Vec::new();
        let mut report = now + number as i64 % 60;
        loop {
            let now = Timestamp::now().as_second();
            if report <= now {
                self.software.report(client).await?;
                report = now + REPORT;
            }
            let readings = self.readings(now);
            next.resize(readings.len(), now);
            for ((topic, interval, value), due) in readings.into_iter().zip(&mut next) {
                if *due <= now {
                    self.send(client, topic, value, now).await?;
                    *due = now + interval;
                }
            }
            let soonest = next.iter().min().copied().unwrap_or(now + 60);
            // Devices do not all speak in the same millisecond.
            let pause = Duration::from_secs((soonest - now).max(1) as u64) + Duration::from_millis(number * 37 % 1_000);
            tokio::time::sleep(pause).await;
        }
    }

    async fn send(&self, client: &AsyncClient, topic: String, value: Reading, at: i64) -> Result<()> {
        let time = Timestamp::from_second(at)?;
        let result = match value {
            Reading::Number(n) => serde_json::json!(n),
            Reading::Whole(n) => serde_json::json!(n),
            Reading::Word(word) => serde_json::json!(word),
            Reading::Place { at, .. } => serde_json::json!({ "type": "Point", "coordinates": at }),
            Reading::Deep { value, .. } => serde_json::json!(value),
            Reading::Nothing => return Ok(()),
        };
        let mut body = serde_json::json!({ "result": result, "phenomenonTime": time.to_string() });
        match value {
            Reading::Place { accuracy, .. } => body["parameters"] = serde_json::json!({ "accuracy": accuracy }),
            Reading::Deep { depth, .. } => body["parameters"] = serde_json::json!({ "depth": depth }),
            _ => {}
        }
        client.publish(topic, QoS::AtLeastOnce, false, body.to_string()).await?;
        self.field.published.fetch_add(1, Relaxed);
        Ok(())
    }

    /// What the instruments of the thing say at a time (seconds since the epoch): topic, seconds between readings, value.
    fn readings(&self, at: i64) -> Vec<(String, i64, Reading)> {
        let Ok(time) = Timestamp::from_second(at) else { return Vec::new() };
        let local = time.to_zoned(self.field.zone.clone());
        let day = self.field.since.until(local.date()).map_or(0, |span| span.get_days());
        // The record's second day is the day the demonstration began, so that yesterday has a day too.
        let number = (day + 1).rem_euclid(DAYS as i32) as usize;
        let clock = local.time();
        let moment = Moment {
            day: self.field.record.day(number),
            before: self.field.record.day(number + DAYS - 1),
            hour: f64::from(clock.hour()) + f64::from(clock.minute()) / 60.0 + f64::from(clock.second()) / 3_600.0,
            minute: at.div_euclid(60),
        };
        let prefix = format!("{}.", self.thing.key);
        let read = |datastream: &crate::pack::things::Datastream| {
            let shape = datastream.key.strip_prefix(&prefix)?;
            if self.wired && !self.motors.moves(shape) {
                return None;
            }
            let topic = format!("devices/{}/{shape}", self.thing.key);
            Some((topic, i64::from(datastream.interval.unwrap_or(300)), self.reading(shape, &moment)?))
        };
        match movement::voyage(&self.thing.key, at) {
            Some(voyage) => self.thing.datastreams.iter().filter_map(|d| self.aboard(d, &voyage, &moment)).collect(),
            None => self.thing.datastreams.iter().filter_map(read).collect(),
        }
    }

    /// What a vessel says. What is due and not there is nothing, so that each instrument keeps its place in the list.
    fn aboard(
        &self,
        datastream: &crate::pack::things::Datastream,
        voyage: &movement::Voyage,
        m: &Moment<'_>,
    ) -> Option<(String, i64, Reading)> {
        let key = &self.thing.key;
        let shape = datastream.key.strip_prefix(key.as_str())?.strip_prefix('.')?;
        let sampled = |value: fn(&str, &movement::Voyage, &Moment<'_>) -> f64| match voyage.depth {
            Some(depth) => Reading::Deep { value: value(key, voyage, m), depth },
            None => Reading::Nothing,
        };
        let reading = match shape {
            "track" => Reading::Place { at: voyage.place, accuracy: 5 },
            "sea-temperature" => sampled(movement::water_temperature),
            "salinity" => sampled(movement::salinity),
            "dissolved-oxygen" => sampled(movement::dissolved_oxygen),
            "turbidity" => sampled(movement::turbidity),
            "battery" => Reading::Number(field::battery(key, m)),
            _ => return None,
        };
        Some((format!("devices/{key}/{shape}"), i64::from(datastream.interval.unwrap_or(300)), reading))
    }

    /// Where a mobile unit is.
    fn unit(&self, m: &Moment<'_>) -> Option<Reading> {
        let home = position(&self.thing)?;
        let hospital = self.thing.properties.get("hospital")?.as_str()?;
        let all = &self.field.hospitals;
        let next = all.iter().position(|(name, _)| name == hospital).map(|at| all[(at + 1) % all.len()].1);
        let at = movement::unit(&self.thing.key, home, next, m.hour, m.minute);
        Some(Reading::Place { at, accuracy: 25 })
    }

    /// `None` for an instrument that the field cannot play, or that has nothing to say.
    fn reading(&self, shape: &str, m: &Moment<'_>) -> Option<Reading> {
        use Reading::{Number, Whole, Word};
        let key = &self.thing.key;
        let station = self.station.as_deref().unwrap_or_default();
        // What somebody has moved stays where it is; a fan does not turn quite evenly.
        if let Some(at) = self.motors.at(shape) {
            return Some(match shape {
                "fan" if at > 0.0 => Number((at + field::unevenness(key, m)).round()),
                "fan" | "lamp-level" => Number(at),
                _ => Whole(at as i64),
            });
        }
        Some(match shape {
            "lamp-level" => Number(field::lamp_level(m)),
            "gate" => Whole(1),
            "pump" | "lock" => Whole(0),
            "lamp-no2" => Number(field::air(key, station, Pollutant::No2, m)?),
            "lamp-pm25" => Number(field::air(key, station, Pollutant::Pm25, m)?),
            "now-no2" => Number(field::air(key, station, Pollutant::No2, m)?),
            "now-so2" => Number(field::air(key, station, Pollutant::So2, m)?),
            "now-o3" => Number(field::ozone(key, station, m)?),
            "now-pm10" => Number(field::air(key, station, Pollutant::Pm10, m)?),
            "now-pm25" => Number(field::air(key, station, Pollutant::Pm25, m)?),
            "lamp-temperature" | "temperature" => Number(field::temperature(key, m)),
            "lamp-traffic" => Whole(field::traffic(key, m) as i64),
            "rainfall-10min" => Number(field::rain(key, m)),
            "relative-humidity" => Number(field::humidity(key, m)),
            "level" => Number(field::water_level(key, m)),
            "battery" => Number(field::battery(key, m)),
            "ammonia" => Number(field::ammonia(key, m)),
            "occupied" => Whole(field::occupied(key, m) as i64),
            "visitors" => Whole(field::visitors(key, m) as i64),
            "paper" => Number(field::paper(key, m)),
            "particles" => Number(field::particles(key, m)),
            "vacancy" => Whole(field::vacancy(key, self.spaces(), m) as i64),
            "state" => Word(if field::vacancy(key, self.spaces(), m) < 10.0 { "busy" } else { "open" }),
            "pressure" => Number(field::pressure(key, m)),
            "filter" => Number(field::filter(key, m)),
            "fan" => Number(field::fan(key, m)),
            "whereabouts" => self.unit(m)?,
            "door" => Whole(field::door(key, m) as i64),
            "round" => Number(field::round_age(key, m)),
            "pulse" => Number(field::pulse(key, m)),
            "call" => Whole(field::call(key, m) as i64),
            _ => return None,
        })
    }

    fn spaces(&self) -> f64 {
        let spaces = self.thing.properties.get("spaces");
        spaces.and_then(|s| s.as_f64().or_else(|| s.as_str()?.parse().ok())).unwrap_or(100.0)
    }
}

#[derive(Clone, Copy)]
enum Reading {
    Number(f64),
    Whole(i64),
    Word(&'static str),
    Place {
        at: [f64; 2],
        /// Metres.
        accuracy: u16,
    },
    Deep {
        value: f64,
        depth: f64,
    },
    Nothing,
}
