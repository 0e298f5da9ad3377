//! How many observations a second become durable: records of 1,000 observations (about 16 kB), 64 appends at a time,
//! one flush for whatever is waiting.
//!
//! ```text
//! cargo run --release -p stream --example throughput [seconds] [folder | nats://host:4222]
//! ```

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use stream::{Error, Offset, Options, Stream, TopicOptions};

const OBSERVATIONS: u64 = 1_000;
const PAYLOAD: usize = 16 << 10;
const APPENDERS: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = env::args().skip(1);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let place = arguments.next().unwrap_or_else(|| "throughput-data".to_owned());
    let topics = [TopicOptions::new("throughput").retain_bytes(4 << 30)];
    let options = if place.contains("://") { Options::nats(&place, topics) } else { Options::local(&place, topics) };
    let stream = Stream::open(options, Arc::new(kernel::SystemClock)).await?;
    let topic = stream.topic("throughput")?;
    let mut live = topic.subscribe(topic.end()).await?;

    let (began, until) = (Instant::now(), Instant::now() + Duration::from_secs(seconds));
    let first = topic.end();
    let mut appenders = Vec::new();
    for appender in 0..APPENDERS {
        let topic = topic.clone();
        appenders.push(tokio::spawn(async move {
            let mut waits = Vec::new();
            let payload = Bytes::from((0..PAYLOAD).map(|n| (n * 7 + appender) as u8).collect::<Vec<_>>());
            while Instant::now() < until {
                let asked = Instant::now();
                topic.append(payload.clone()).await?;
                waits.push(asked.elapsed());
            }
            Ok::<_, Error>(waits)
        }));
    }
    let reader = tokio::spawn(async move {
        let mut read = 0u64;
        while let Ok(records) = live.next().await {
            read += records.len() as u64;
        }
        read
    });
    let mut waits = Vec::new();
    for appender in appenders {
        waits.extend(appender.await.map_err(|_| Error::Closed)??);
    }
    let took = began.elapsed().as_secs_f64();
    let Offset(records) = Offset(topic.end().0 - first.0);
    let stats = topic.stats();
    stream.close().await;
    let read = reader.await.map_err(|_| Error::Closed)?;
    waits.sort_unstable();
    let at = |part: f64| waits.get((waits.len() as f64 * part) as usize).copied().unwrap_or_default();
    println!(
        "{:.0} records/s, {:.0} observations/s durable",
        records as f64 / took,
        (records * OBSERVATIONS) as f64 / took
    );
    println!("{:.0} MB/s", records as f64 * PAYLOAD as f64 / took / 1e6);
    println!(
        "{} flushes, {:.1} records each, {} µs each",
        stats.flushes,
        records as f64 / stats.flushes as f64,
        stats.flush_micros / stats.flushes.max(1)
    );
    println!(
        "append until acknowledged: p50 {:?}, p99 {:?}, worst {:?}",
        at(0.5),
        at(0.99),
        waits.last().copied().unwrap_or_default()
    );
    println!("live subscriber read {read} of {records}");
    Ok(())
}
