//! Devices that speak through a network server of LoRaWAN: what ChirpStack's HTTP integration would send for them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use sensing::ingest::declaration::IngestFile;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Device, Reading, Relaxed};

/// How one of them is heard.
pub struct Radio {
    pub http: SocketAddr,
    pub key: String,
    pub eui: String,
    pub profile: String,
}

/// Things that a pack declares to be such devices: DevEUI and device profile.
pub fn devices(declared: &IngestFile) -> BTreeMap<String, (String, String)> {
    let of = |form: &sensing::ingest::declaration::Lorawan| {
        let profile = form.profiles.first().cloned().unwrap_or_default();
        form.devices.iter().map(move |(eui, thing)| (thing.clone(), (eui.clone(), profile.clone()))).collect::<Vec<_>>()
    };
    declared.lorawan.iter().flat_map(of).collect()
}

/// Seconds between two messages: what the duty cycle of a class A device allows easily.
const EVERY: u64 = 60;

/// Cayenne LPP: ammonia as an analogue input, the two counts as digital ones.
fn payload(readings: &[(String, Reading)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (shape, value) in readings {
        match (shape.as_str(), value) {
            ("ammonia", Reading::Number(n)) => {
                let [high, low] = ((n * 100.0).round().clamp(-32_768.0, 32_767.0) as i16).to_be_bytes();
                out.extend([1, 2, high, low]);
            }
            ("occupied", Reading::Whole(n)) => out.extend([2, 0, (*n).clamp(0, 255) as u8]),
            ("visitors", Reading::Whole(n)) => out.extend([3, 0, (*n).clamp(0, 255) as u8]),
            _ => {}
        }
    }
    out
}

impl Device {
    /// Plays the thing as a LoRaWAN device until told to stop.
    pub(super) async fn radio(self, radio: Radio, backfill: Duration, stop: CancellationToken) -> Result<()> {
        let client = reqwest::Client::new();
        let address = format!("http://{}/api/ingest/chirpstack?event=up", radio.http);
        let step = super::BACKFILL_STEP * 60;
        // First what a network server would have kept: late, and each in its own place.
        let mut late = (Timestamp::now().as_second() - backfill.as_secs() as i64).div_euclid(step) * step;
        for count in 0u64.. {
            let now = Timestamp::now();
            let (now, pause) = match Timestamp::from_second(late) {
                Ok(past) if past < now && !backfill.is_zero() => (past, Duration::ZERO),
                _ => (now, Duration::from_secs(EVERY)),
            };
            late += step;
            let readings = self.readings(now.as_second());
            let named = readings
                .into_iter()
                .filter_map(|(topic, _, value)| Some((topic.rsplit('/').next()?.to_owned(), value)));
            let body = json!({
                "deduplicationId": uuid::Uuid::new_v4(), "time": now.to_string(), "fCnt": count, "fPort": 1, "dr": 5,
                "deviceInfo": {
                    "devEui": radio.eui, "deviceName": self.thing.key, "deviceProfileName": radio.profile, "applicationName": "simulated",
                },
                "data": STANDARD.encode(payload(&named.collect::<Vec<_>>())),
                "rxInfo": [{"gatewayId": "0016c001ff10a235", "rssi": -97, "snr": 6.5}],
            });
            let sent =
                client.post(&address).bearer_auth(&radio.key).json(&body).timeout(Duration::from_secs(20)).send().await;
            match sent {
                Ok(answer) if answer.status().is_success() => drop(self.field.published.fetch_add(1, Relaxed)),
                // The platform may be restarting; the next message comes anyway.
                Ok(answer) => {
                    tracing::debug!(status = %answer.status(), device = radio.eui, "the message was not taken")
                }
                Err(error) => tracing::debug!(%error, device = radio.eui, "the message was not heard"),
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_what_the_declaration_reads() {
        let readings =
            [("ammonia", Reading::Number(1.25)), ("occupied", Reading::Whole(3)), ("visitors", Reading::Whole(300))];
        let bytes = payload(&readings.map(|(shape, value)| (shape.to_owned(), value)));
        let read = sensing::ingest::lorawan::payload::read(
            &sensing::ingest::lorawan::payload::Payload::CayenneLpp,
            &bytes,
            None,
        );
        let wanted = json!({"analogInput": {"1": 1.25}, "digitalInput": {"2": 3.0, "3": 255.0}});
        assert_eq!(read.map(serde_json::Value::Object), Ok(wanted));
    }
}
