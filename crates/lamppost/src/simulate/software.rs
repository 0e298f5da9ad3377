//! The software of a simulated device: says how the device is, and does what a campaign asks of it, as a real one would.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use rumqttc::{AsyncClient, QoS};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::field::seed;

/// Where a device is told what it is to do, and where it answers.
pub const COMMAND: &str = "devices/self/command";
const HEALTH: &str = "devices/self/health";
/// One device in so many does not start with a new firmware, and says so.
const UNLUCKY: u64 = 60;

/// One device's.
pub struct Software {
    key: String,
    /// Runs on a battery of its own.
    battery: bool,
    /// Where images are fetched; `None` where the platform's HTTP is not known.
    http: Option<SocketAddr>,
    version: Mutex<String>,
}

impl Software {
    pub fn new(key: &str, battery: bool, http: Option<SocketAddr>) -> Self {
        Self { key: key.to_owned(), battery, http, version: Mutex::new("simulated 1.0".to_owned()) }
    }

    /// Says how the device is.
    pub async fn report(&self, client: &AsyncClient) -> Result<()> {
        let (number, firmware) = (seed(&self.key), self.version.lock().clone());
        let mut body = json!({
            "signal": -55 - (number % 50) as i64, "firmware": firmware, "time": jiff::Timestamp::now().to_string(),
        });
        if self.battery {
            body["battery"] = json!(100 - (number / 64) % 96);
        }
        client.publish(HEALTH, QoS::AtLeastOnce, false, body.to_string()).await?;
        Ok(())
    }

    /// Does a command and says what has become of it.
    pub async fn obey(&self, client: &AsyncClient, secret: &str, payload: &[u8]) -> Result<()> {
        let command: Value = serde_json::from_slice(payload)?;
        let say = async |state: &str, detail: &str| {
            let body = json!({"campaign": command["campaign"], "state": state, "detail": detail});
            client.publish(COMMAND, QoS::AtLeastOnce, false, body.to_string()).await
        };
        let version = command["version"].as_str().context("a version")?;
        if command["kind"] == "firmware" {
            say("downloading", "").await?;
            if let Err(error) = self.fetch(secret, &command).await {
                return Ok(say("failed", &error.to_string()).await?);
            }
            // The same devices for one version, others for the next.
            if seed(&format!("{} {version}", self.key)).is_multiple_of(UNLUCKY) {
                let detail = "It did not start with the new firmware and went back to the old one (simulated).";
                return Ok(say("failed", detail).await?);
            }
            version.clone_into(&mut self.version.lock());
        }
        say("installed", "").await?;
        self.report(client).await
    }

    /// Fetches the image in two parts, as a device on a bad line does, and compares it with what it was told.
    async fn fetch(&self, secret: &str, command: &Value) -> Result<()> {
        let http = self.http.context("the platform's address is not known")?;
        let size = command["size"].as_u64().context("a size")?;
        let url = format!("http://{http}{}", command["url"].as_str().context("an address")?);
        let web = crate::client::new(Duration::from_secs(60))?;
        let (half, mut hash) = (size / 2, Sha256::new());
        for range in [format!("bytes=0-{half}"), format!("bytes={}-", half + 1)] {
            if half + 1 >= size && range.ends_with('-') {
                continue;
            }
            let answer = web.get(&url).bearer_auth(secret).header("range", range).send().await?.error_for_status()?;
            hash.update(answer.bytes().await?);
        }
        let found = hex::encode(hash.finalize());
        ensure!(command["sha256"].as_str() == Some(&*found), "what arrived is another image");
        Ok(())
    }
}
