//! The simulated field: plays every thing of a pack that is marked `simulated`, one MQTT client a thing, and serves the published
//! files as feeds. It is a program of its own that happens to live in this one: it knows the platform only through MQTT and HTTP.

mod feeds;
mod field;
pub mod hooks;
mod record;

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
pub use feeds::serve as feeds;
use field::Moment;
use record::{Pollutant, Record};

/// What the field needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    pub pack: PathBuf,
    /// Where the platform's MQTT door is.
    pub mqtt: SocketAddr,
    /// Device id to key, as `lamppost demo` issued them.
    pub keys: BTreeMap<String, String>,
    /// Where the published files are served; `None` for no feeds.
    pub feeds: Option<SocketAddr>,
    /// The local day on which the record's first day is replayed.
    pub since: Date,
    /// History to fill in at the start.
    pub backfill: Duration,
}

/// The first day of the record that is replayed: the eve of the black rainstorm of September 2023.
const FIRST_DAY: &str = "2023-09-07";
const DAYS: usize = 365;
/// Minutes between the readings of the history.
const BACKFILL_STEP: i64 = 10;

struct Field {
    record: Record,
    since: Date,
    zone: TimeZone,
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
        published: AtomicU64::new(0),
    });
    let stations = air_stations(&inventory.things);
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
        let device = Device { field: field.clone(), station, thing };
        devices += 1;
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
}

impl Device {
    async fn play(
        self,
        mqtt: SocketAddr,
        key: String,
        backfill: Duration,
        number: u64,
        stop: CancellationToken,
    ) -> Result<()> {
        let mut options = MqttOptions::new(&self.thing.key, mqtt.ip().to_string(), mqtt.port());
        options.set_credentials(&self.thing.key, key).set_keep_alive(Duration::from_secs(60)).set_clean_session(true);
        let (client, mut events) = AsyncClient::new(options, 64);
        let connected = Arc::new(tokio::sync::Notify::new());
        let pump = {
            let (stop, connected) = (stop.clone(), connected.clone());
            async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        event = events.poll() => match event {
                            Ok(Event::Incoming(Packet::ConnAck(_))) => connected.notify_one(),
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
        }
    }

    async fn publish(&self, client: &AsyncClient, backfill: Duration, number: u64) -> Result<()> {
        let now = Timestamp::now().as_second();
        let step = BACKFILL_STEP * 60;
        let mut at = (now - backfill.as_secs() as i64).div_euclid(step) * step;
        while at < now {
            for (topic, _, value) in self.readings(at) {
                self.send(client, topic, value, at).await?;
            }
            at += step;
        }
        let mut next: Vec<i64> = Vec::new();
        loop {
            let now = Timestamp::now().as_second();
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
        };
        let body = serde_json::json!({ "result": result, "phenomenonTime": time.to_string() });
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
            let topic = format!("devices/{}/{shape}", self.thing.key);
            Some((topic, i64::from(datastream.interval.unwrap_or(300)), self.reading(shape, &moment)?))
        };
        self.thing.datastreams.iter().filter_map(read).collect()
    }

    /// `None` for an instrument that the field cannot play, or that has nothing to say.
    fn reading(&self, shape: &str, m: &Moment<'_>) -> Option<Reading> {
        use Reading::{Number, Whole, Word};
        let key = &self.thing.key;
        let station = self.station.as_deref().unwrap_or_default();
        Some(match shape {
            "lamp-no2" => Number(field::air(key, station, Pollutant::No2, m)?),
            "lamp-pm25" => Number(field::air(key, station, Pollutant::Pm25, m)?),
            "lamp-temperature" | "temperature" => Number(field::temperature(key, m)),
            "lamp-traffic" => Whole(field::traffic(key, m) as i64),
            "rainfall-10min" => Number(field::rain(key, m)),
            "relative-humidity" => Number(field::humidity(key, m)),
            "level" => Number(field::water_level(key, m)),
            "battery" => Number(field::battery(key, m)),
            "ammonia" => Number(field::ammonia(key, m)),
            "occupied" => Whole(field::occupied(key, m) as i64),
            "visitors" => Whole(field::visitors(key, m) as i64),
            "vacancy" => Whole(field::vacancy(key, self.spaces(), m) as i64),
            "state" => Word(if field::vacancy(key, self.spaces(), m) < 10.0 { "busy" } else { "open" }),
            "pressure" => Number(field::pressure(key, m)),
            "filter" => Number(field::filter(key, m)),
            "fan" => Number(field::fan(key, m)),
            _ => return None,
        })
    }

    fn spaces(&self) -> f64 {
        let spaces = self.thing.properties.get("spaces");
        spaces.and_then(|s| s.as_f64().or_else(|| s.as_str()?.parse().ok())).unwrap_or(100.0)
    }
}

enum Reading {
    Number(f64),
    Whole(i64),
    Word(&'static str),
}
