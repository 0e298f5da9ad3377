//! `bench mqtt`: QoS 1 messages a second and for each CPU-second of the server, and how long a message takes from PUBLISH to a subscriber.
//!
//! The load is made here, by a client of a few lines on the same codec crate, so that the server is what is measured; what the client
//! itself costs is printed beside it. Mosquitto (Debian) runs after it on the same disk with `persistence true` and
//! `autosave_on_changes`, the closest that it has to durable; its PUBACK does not wait for the disk, ours does. Every message carries
//! its own phenomenonTime, so each is an Observation of its own, and afterwards the city is asked how many it has: a message that was
//! acknowledged and is not there ends the run.

use std::{
    net::SocketAddr,
    num::NonZeroU16,
    process::{Child, Command, Stdio},
    str::FromStr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;
use kernel::Timestamp;
use rmqtt_codec::{
    types::{Publish, QoS},
    v3,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::codec::{Decoder, Encoder};

use crate::usage::{cpu, memory, own_cpu};

/// Messages a second while the way to a subscriber is timed: far from what either server can do.
const DELIVERY_RATE: f64 = 1_000.0;
/// The phenomenonTime of the first message.
const FIRST: Timestamp = Timestamp::from_secs(1_700_000_000);

/// So many connections, each with so many messages under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub publishers: usize,
    pub window: u16,
}

impl FromStr for Shape {
    type Err = anyhow::Error;
    /// `50x100`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (publishers, window) = text.split_once('x').context("a shape is written as 50x100")?;
        let shape = Self { publishers: publishers.parse()?, window: window.parse()? };
        ensure!(shape.publishers > 0 && shape.window > 0, "a shape has at least one publisher and one message");
        Ok(shape)
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Args {
    pub shapes: Vec<Shape>,
    pub seconds: u64,
    /// Where mosquitto keeps its file; decides the disk.
    pub folder: std::path::PathBuf,
}

/// A running server, and somebody who may publish and read.
#[derive(Clone, Debug)]
pub struct Broker {
    pub name: &'static str,
    pub address: SocketAddr,
    pub pid: u32,
    pub user: String,
    pub password: String,
    /// Topics to publish to; connections take turns.
    pub topics: Vec<String>,
    /// Matches all of them.
    pub filter: &'static str,
}

/// What one server did with one shape of load.
#[derive(Clone, Debug)]
pub struct Figure {
    pub shape: Shape,
    /// QoS 1 messages acknowledged.
    pub messages: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub client_cpu_seconds: f64,
    pub ack_p50: Duration,
    pub ack_p99: Duration,
    /// Resident memory at the end, with all connections open.
    pub memory: u64,
}

impl Figure {
    pub fn per_cpu_second(&self) -> f64 {
        self.messages as f64 / self.cpu_seconds.max(0.01)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Measures a server and prints a line for each shape and one for the way to a subscriber; how many messages it has acknowledged.
pub fn measure(broker: &Broker, args: &Args) -> anyhow::Result<u64> {
    ensure!(!broker.topics.is_empty(), "nothing to publish to");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Numbers the messages of this server, whichever connection sends them.
    let number = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut acknowledged = 0;
    println!("{}", broker.name);
    for shape in &args.shapes {
        let f = runtime.block_on(flooded(broker, *shape, args.seconds, &number))?;
        acknowledged += f.messages;
        println!(
            "  {:>5} x {:<4} {:>9.0}/s {:>9.0} per CPU-second   server {:>6.2} CPU-s, client {:>6.2}   ack p50 {:>7.2} ms p99 {:>7.2} ms   {:>4} MiB",
            f.shape.publishers,
            f.shape.window,
            f.messages as f64 / f.seconds,
            f.per_cpu_second(),
            f.cpu_seconds,
            f.client_cpu_seconds,
            millis(f.ack_p50),
            millis(f.ack_p99),
            f.memory >> 20,
        );
    }
    let before = cpu(broker.pid)?;
    let mut times = runtime.block_on(deliveries(broker, args.seconds, &number))?;
    acknowledged += times.len() as u64;
    println!(
        "  to a subscriber at {DELIVERY_RATE:.0}/s   p50 {:>7.2} ms p99 {:>7.2} ms   server {:>6.2} CPU-s",
        millis(percentile(&mut times, 0.50)),
        millis(percentile(&mut times, 0.99)),
        cpu(broker.pid)? - before,
    );
    Ok(acknowledged)
}

/// The same for mosquitto.
pub fn mosquitto(args: &Args) -> anyhow::Result<()> {
    let mosquitto = Mosquitto::start(&args.folder)?;
    let most = args.shapes.iter().map(|shape| shape.publishers).max().unwrap_or(1);
    let peer = Broker {
        name: "mosquitto, persistence, PUBACK before the disk",
        address: mosquitto.address,
        pid: mosquitto.child.id(),
        user: String::new(),
        password: String::new(),
        topics: (0..most).map(|n| format!("bench/{n}/value")).collect(),
        filter: "bench/+/value",
    };
    measure(&peer, args).map(drop)
}

struct Mosquitto {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    fn start(folder: &std::path::Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-mqtt-").tempdir_in(folder)?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let configuration = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nautosave_on_changes true\nautosave_interval 1000\nmax_inflight_messages 0\nmax_queued_messages 0\n",
            address.port(),
            folder.path().canonicalize()?.display()
        );
        let file = folder.path().join("mosquitto.conf");
        std::fs::write(&file, configuration)?;
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("mosquitto does not run; apt install mosquitto")?;
        for _ in 0..200 {
            if std::net::TcpStream::connect(address).is_ok() {
                return Ok(Self { child, address, _folder: folder });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("mosquitto does not answer")
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Client {
    stream: TcpStream,
    codec: v3::Codec,
    input: BytesMut,
    out: BytesMut,
}

impl Client {
    pub async fn connect(broker: &Broker, name: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(broker.address).await?;
        stream.set_nodelay(true)?;
        let mut client =
            Self { stream, codec: v3::Codec::default(), input: BytesMut::with_capacity(1 << 16), out: BytesMut::new() };
        let secret = (!broker.user.is_empty())
            .then(|| (broker.user.as_str().into(), broker.password.clone().into_bytes().into()));
        let (username, password) = secret.unzip();
        let connect =
            v3::Connect { clean_session: true, client_id: name.into(), username, password, ..v3::Connect::default() };
        client.put(connect.into())?;
        client.flush().await?;
        match client.next().await? {
            v3::Packet::ConnectAck(ack) => {
                ensure!(ack.return_code == v3::ConnectAckReason::ConnectionAccepted, "{}", ack.return_code.reason())
            }
            other => bail!("{other:?}"),
        }
        Ok(client)
    }

    fn put(&mut self, packet: v3::Packet) -> anyhow::Result<()> {
        Ok(self.codec.encode(packet, &mut self.out)?)
    }
    pub async fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.write_all_buf(&mut self.out).await?;
        Ok(())
    }
    fn ready(&mut self) -> anyhow::Result<Option<v3::Packet>> {
        Ok(self.codec.decode(&mut self.input)?.map(|(packet, _)| packet))
    }
    pub async fn next(&mut self) -> anyhow::Result<v3::Packet> {
        loop {
            if let Some(packet) = self.ready()? {
                return Ok(packet);
            }
            self.input.reserve(1 << 14);
            ensure!(self.stream.read_buf(&mut self.input).await? > 0, "the server hung up");
        }
    }
    pub fn publish(&mut self, topic: &str, payload: String, id: u16) -> anyhow::Result<()> {
        let publish = Publish {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: topic.into(),
            packet_id: NonZeroU16::new(id),
            payload: payload.into(),
            properties: None,
        };
        self.put(publish.into())
    }
}

/// Message `number`: an Observation that no other one is.
fn body(number: u64) -> String {
    format!(r#"{{"phenomenonTime":"{}","result":{number}}}"#, FIRST.plus_micros(number as i64))
}

type Numbers = Arc<std::sync::atomic::AtomicU64>;

fn next(numbers: &Numbers) -> u64 {
    numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// As fast as it goes, with nobody listening: what the door and the disk take.
async fn flooded(broker: &Broker, shape: Shape, seconds: u64, numbers: &Numbers) -> anyhow::Result<Figure> {
    let mut clients = Vec::with_capacity(shape.publishers);
    for n in 0..shape.publishers {
        clients.push(Client::connect(broker, &format!("bench-{n}")).await?);
    }
    let (before, own) = (cpu(broker.pid)?, own_cpu()?);
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds);
    let mut tasks = tokio::task::JoinSet::new();
    for (n, client) in clients.into_iter().enumerate() {
        let (topic, numbers) = (broker.topics[n % broker.topics.len()].clone(), Arc::clone(numbers));
        tasks.spawn(flood(client, topic, shape.window, until, numbers));
    }
    let (mut messages, mut acks, mut open) = (0, Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (count, mut times, client) = done??;
        messages += count;
        acks.append(&mut times);
        open.push(client);
    }
    Ok(Figure {
        shape,
        messages,
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: cpu(broker.pid)? - before,
        client_cpu_seconds: own_cpu()? - own,
        ack_p50: percentile(&mut acks, 0.50),
        ack_p99: percentile(&mut acks, 0.99),
        memory: memory(broker.pid)?,
    })
}

fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Keeps `window` messages under way until the time is over; how many were acknowledged, and how long a sample of them took.
async fn flood(
    mut client: Client,
    topic: String,
    window: u16,
    until: Instant,
    numbers: Numbers,
) -> anyhow::Result<(u64, Vec<Duration>, Client)> {
    let mut sent = vec![Instant::now(); usize::from(window) + 1];
    let (mut free, mut count, mut times): (Vec<u16>, u64, Vec<Duration>) = ((1..=window).collect(), 0, Vec::new());
    loop {
        let now = Instant::now();
        if now < until {
            for id in free.drain(..) {
                client.publish(&topic, body(next(&numbers)), id)?;
                sent[usize::from(id)] = now;
            }
        } else if free.len() == usize::from(window) {
            return Ok((count, times, client));
        }
        client.flush().await?;
        let mut packet = Some(client.next().await?);
        let now = Instant::now();
        while let Some(v3::Packet::PublishAck { packet_id }) = packet {
            count += 1;
            if count % 16 == 0 {
                times.push(now.duration_since(sent[usize::from(packet_id.get())]));
            }
            free.push(packet_id.get());
            packet = client.ready()?;
        }
    }
}

/// Publishes at a steady rate and measures until the subscriber has each. The number of the message is its result.
async fn deliveries(broker: &Broker, seconds: u64, numbers: &Numbers) -> anyhow::Result<Vec<Duration>> {
    let mut reader = Client::connect(broker, "bench-reader").await?;
    let id = NonZeroU16::MIN;
    reader
        .put(v3::Packet::Subscribe { packet_id: id, topic_filters: vec![(broker.filter.into(), QoS::AtLeastOnce)] })?;
    reader.flush().await?;
    let total = (DELIVERY_RATE * seconds as f64) as usize;
    // Later numbers than those of the flood, so that retained values are not mistaken for these.
    let base = numbers.fetch_add(total as u64, std::sync::atomic::Ordering::Relaxed);
    let sent = Arc::new(Mutex::new(vec![None::<Instant>; total]));
    let noted = Arc::clone(&sent);
    let reading = tokio::spawn(async move {
        let mut times = Vec::with_capacity(total);
        while times.len() < total {
            let packet = tokio::time::timeout(Duration::from_secs(30), reader.next())
                .await
                .context("a message is missing")??;
            let v3::Packet::Publish(publish) = packet else { continue };
            let now = Instant::now();
            if let Some(packet_id) = publish.packet_id {
                reader.put(v3::Packet::PublishAck { packet_id })?;
                reader.flush().await?;
            }
            let number = result(&publish.payload).and_then(|n| n.checked_sub(base));
            if let Some(at) = number.and_then(|n| noted.lock().ok()?.get(usize::try_from(n).ok()?).copied().flatten()) {
                times.push(now.duration_since(at));
            }
        }
        anyhow::Ok(times)
    });
    let mut writer = Client::connect(broker, "bench-writer").await?;
    let start = Instant::now();
    for n in 0..total {
        tokio::time::sleep_until((start + Duration::from_secs_f64(n as f64 / DELIVERY_RATE)).into()).await;
        if let Ok(mut sent) = sent.lock() {
            sent[n] = Some(Instant::now());
        }
        let id = (n % 60_000) as u16 + 1;
        writer.publish(&broker.topics[n % broker.topics.len()], body(base + n as u64), id)?;
        writer.flush().await?;
        // Take what has been acknowledged, so that the server never waits for this client.
        let mut buffer = std::mem::take(&mut writer.input);
        while writer.stream.try_read_buf(&mut buffer).is_ok_and(|n| n > 0) {}
        buffer.clear();
        writer.input = buffer;
    }
    reading.await?
}

/// The whole number after `"result":`.
fn result(payload: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?;
    let rest = text.split_once("\"result\":")?.1;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_results() {
        assert_eq!(result(br#"{"@iot.id":"1","result":42,"x":1}"#), Some(42));
        assert_eq!(result(br#"{"result":"a"}"#), None);
    }

    #[test]
    fn shapes_are_read() {
        assert_eq!("50x100".parse::<Shape>().expect("a shape"), Shape { publishers: 50, window: 100 });
        assert!("50".parse::<Shape>().is_err() && "0x1".parse::<Shape>().is_err());
    }

    #[test]
    fn mosquitto_is_measured() {
        let shapes = vec![Shape { publishers: 4, window: 10 }];
        mosquitto(&Args { shapes, seconds: 1, folder: std::env::temp_dir() }).expect("measures");
    }
}
