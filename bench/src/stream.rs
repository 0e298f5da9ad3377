//! `bench stream`: how many observations a second the log makes durable, in batches as the doors make them.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use kernel::Timestamp;
use sensing::{
    model::EntityId,
    observe::{Batch, Frame, Run, encode_frame},
};
use stream::{Options, Stream, TopicOptions};

use crate::usage;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Observations in a batch.
    #[arg(long, default_value_t = 1_000)]
    batch: usize,
    /// Appends under way at once.
    #[arg(long, default_value_t = 64)]
    appenders: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// `nats://host:4222` instead of segment files.
    #[arg(long)]
    nats: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(args))
}

/// One frame: ten Datastreams, an observation each ten seconds.
fn frame(rows: usize) -> Bytes {
    let mut batch = Batch::new();
    let streams = 10.min(rows);
    for stream in 0..streams {
        let mut run = Run::new(EntityId(1 + stream as i64), EntityId(1));
        for row in (stream..rows).step_by(streams) {
            run.push_number(Timestamp::from_secs(1_700_000_000 + row as i64), (row * 7 % 4_000) as f64 / 100.0);
        }
        batch.push_run(run);
    }
    encode_frame(&Frame::Observed(batch)).into()
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("bench-stream-").tempdir_in(&args.folder)?;
    let topics = [TopicOptions::new("bench").retain_bytes(8 << 30)];
    let options = match &args.nats {
        Some(url) => Options::nats(url, topics),
        None => Options::local(folder.path(), topics),
    };
    let stream = Stream::open(options, Arc::new(kernel::SystemClock)).await?;
    let topic = stream.topic("bench")?;
    let (payload, first) = (frame(args.batch), topic.end().0);
    let (began, cpu) = (Instant::now(), usage::own_cpu()?);
    let until = began + Duration::from_secs(args.seconds);
    let appenders: Vec<_> = (0..args.appenders)
        .map(|_| {
            let (topic, payload) = (topic.clone(), payload.clone());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                while Instant::now() < until {
                    let asked = Instant::now();
                    topic.append(payload.clone()).await?;
                    waits.push(asked.elapsed());
                }
                Ok::<_, stream::Error>(waits)
            })
        })
        .collect();
    let mut waits = Vec::new();
    for appender in appenders {
        waits.extend(appender.await??);
    }
    let (took, cpu) = (began.elapsed().as_secs_f64(), usage::own_cpu()? - cpu);
    let records = topic.end().0 - first;
    ensure!(records == waits.len() as u64, "{records} records for {} acknowledgements", waits.len());
    let flushes = topic.stats().flushes;
    stream.close().await;
    waits.sort_unstable();
    let rows = (waits.len() * args.batch) as f64;
    println!(
        "{:.0} observations/s durable   {:.0} per CPU-second   {} bytes a batch of {}   {:.1} batches a flush   ack p50 {:.2} ms p99 {:.2} ms",
        rows / took,
        rows / cpu.max(0.01),
        payload.len(),
        args.batch,
        waits.len() as f64 / flushes.max(1) as f64,
        usage::quantile(&waits, 0.5).as_secs_f64() * 1e3,
        usage::quantile(&waits, 0.99).as_secs_f64() * 1e3,
    );
    Ok(())
}
