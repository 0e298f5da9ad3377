//! Lamppost as one of the servers that are measured.

use std::{
    fmt::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use kernel::Timestamp;
use serde_json::Value;

use crate::{
    Place,
    city::City,
    http::{Connection, request},
    ingest::{Peer, Posting, Sink},
    series::{Stretch, decimal, decimals},
    usage,
};

pub const NAME: &str = "Lamppost";

pub struct Lamppost {
    pub city: City,
    pub ids: Vec<i64>,
    authorization: String,
}

impl Lamppost {
    pub fn start(place: &Place, folder: &Path, series: usize, settings: &[&str]) -> anyhow::Result<Self> {
        let city = City::start_with(&place.program()?, &place.pack, folder, settings)?;
        let ids = city.datastreams(series)?;
        let authorization = city.authorization();
        Ok(Self { city, ids, authorization })
    }

    /// The same, started again after its files have been merged.
    pub fn merged(self, place: &Place, folder: &Path, settings: &[&str]) -> anyhow::Result<Self> {
        let Self { city, ids, .. } = self;
        let data = city.data.clone();
        city.stop()?;
        merge(&data)?;
        let city = City::start_with(&place.program()?, &place.pack, folder, settings)?;
        let authorization = city.authorization();
        Ok(Self { city, ids, authorization })
    }
}

/// The server merges files after every sixteenth seal, which a short run never reaches. So the same is done here on the folder that it has left,
/// until there is nothing more to merge. What the table takes on the disk then.
fn merge(data: &Path) -> anyhow::Result<u64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let topics = [stream::TopicOptions::new("observations").guarded(), stream::TopicOptions::new("events")];
        let log = stream::Options::local(data.join("stream"), topics);
        let log = stream::Stream::open(log, Arc::new(kernel::SystemClock)).await?;
        let lake = lake::Lake::open(lake::Options::new(lake::Root::Local(data.join("lake"))))?;
        let options = sensing::observe::Options::new(data.join("heads"));
        let observe = sensing::observe::Observe::open(options, log.topic("observations")?, &lake).await?;
        observe
            .table()
            .compact(lake::Compaction { min_files: 2, quiet: Duration::ZERO, ..lake::Compaction::default() })
            .await?;
        let bytes = observe.table().stats().bytes;
        observe.close(Duration::from_secs(10)).await;
        log.close().await;
        anyhow::Ok(bytes)
    })
}

impl Peer for Lamppost {
    fn name(&self) -> &'static str {
        NAME
    }
    fn promise(&self) -> &'static str {
        "after fdatasync"
    }
    fn pid(&self) -> u32 {
        self.city.pid()
    }

    fn encode(&self, rows: &[Stretch]) -> Vec<u8> {
        let mut body = String::from("[");
        for (n, stretch) in rows.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            let id = self.ids[stretch.series];
            let _ = write!(
                body,
                r#"{comma}{{"Datastream":{{"@iot.id":{id}}},"components":["phenomenonTime","result"],"dataArray":["#
            );
            for (n, (at, value)) in stretch.each().enumerate() {
                let comma = if n > 0 { "," } else { "" };
                let _ = write!(body, r#"{comma}["{}","#, Timestamp::from_micros(at * 1_000));
                decimal(&mut body, value, decimals(stretch.series));
                body.push(']');
            }
            body.push_str("]}");
        }
        body.push(']');
        let headers = [
            ("Authorization", &*self.authorization),
            ("Content-Type", "application/json"),
            ("Prefer", "return=minimal"),
        ];
        request(self.city.http, "POST", "/v1.1/CreateObservations", &headers, body.as_bytes())
    }

    fn connect(&self) -> anyhow::Result<Box<dyn Sink>> {
        Ok(Box::new(Posting(Connection::open(self.city.http)?)))
    }

    /// Until everything is in the lake.
    fn settle(&self, patience: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.city.figure("lamppost_sensing_unsealed_rows")? > 0.0 {
            ensure!(began.elapsed() < patience, "not everything is sealed after {} s", patience.as_secs());
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn rows(&self) -> anyhow::Result<u64> {
        let mut connection = Connection::open(self.city.http)?;
        let mut rows = 0;
        for id in &self.ids {
            let path = format!("/v1.1/Datastreams({id})/Observations?$count=true&$top=0");
            let page: Value = serde_json::from_slice(&self.city.get(&mut connection, &path)?)?;
            rows += page["@iot.count"].as_u64().context("no @iot.count")?;
        }
        Ok(rows)
    }

    fn value(&self, series: usize, millis: i64) -> anyhow::Result<Vec<f64>> {
        let at = Timestamp::from_micros(millis * 1_000);
        let path = format!(
            "/v1.1/Datastreams({})/Observations?$filter=phenomenonTime%20eq%20{at}&$select=result",
            self.ids[series]
        );
        let page = self.city.get(&mut Connection::open(self.city.http)?, &path)?;
        let page: Value = serde_json::from_slice(&page)?;
        Ok(page["value"].as_array().into_iter().flatten().filter_map(|row| row["result"].as_f64()).collect())
    }

    /// With the CPU for what it would still have merged.
    fn finish(self: Box<Self>) -> anyhow::Result<(u64, f64)> {
        let Self { city, .. } = *self;
        let data = city.data.clone();
        city.stop()?;
        let before = usage::own_cpu()?;
        let bytes = merge(&data)?;
        Ok((bytes, usage::own_cpu()? - before))
    }
}
