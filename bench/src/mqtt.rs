//! `bench mqtt`: QoS 1 messages a second and for each CPU-second of the server, and how long a message takes from PUBLISH to a subscriber.
//!
//! The load is made here, by a client of a few lines on the same codec crate, so that the server is what is measured. Mosquitto (Debian) runs
//! beside it on the same disk with `persistence true` and `autosave_on_changes`, the closest that it has to durable; its PUBACK
//! does not wait for the disk, ours does. The city's server is started by whoever calls this and named by its process id and address.

use std::{
    net::SocketAddr,
    num::NonZeroU16,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;
use rmqtt_codec::{
    types::{Publish, QoS},
    v3,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::codec::{Decoder, Encoder};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Args {
    /// Connections that publish.
    pub publishers: usize,
    /// Messages under way on each.
    pub window: u16,
    pub seconds: u64,
    /// Where mosquitto keeps its file; decides the disk.
    pub folder: std::path::PathBuf,
    /// The city's server; `None` measures mosquitto alone.
    pub city: Option<City>,
}

/// A running server of ours, and a device that may publish and read.
#[derive(Clone, Debug)]
pub struct City {
    pub address: SocketAddr,
    pub pid: u32,
    pub user: String,
    pub password: String,
    /// Topics to publish to; connections take turns. Their Observations are subscribed to as `v1.1/+/Observations`.
    pub topics: Vec<String>,
}

impl Default for Args {
    fn default() -> Self {
        Self { publishers: 50, window: 100, seconds: 10, folder: ".".into(), city: None }
    }
}

/// What one server did.
#[derive(Clone, Debug)]
pub struct Figure {
    pub name: &'static str,
    /// QoS 1 messages acknowledged.
    pub messages: u64,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub ack_p99: Duration,
    /// PUBLISH to subscriber, at a tenth of the full rate.
    pub delivery_p50: Duration,
    pub delivery_p99: Duration,
}

impl Figure {
    pub fn per_cpu_second(&self) -> f64 {
        self.messages as f64 / self.cpu_seconds.max(0.01)
    }
}

/// Runs both and prints a table.
pub fn run(args: &Args) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut figures = Vec::new();
    if let Some(city) = &args.city {
        figures.push(runtime.block_on(measure(
            "Lamppost, PUBACK after the flush",
            city,
            "v1.1/+/Observations",
            args,
        ))?);
    }
    let mosquitto = Mosquitto::start(&args.folder)?;
    let peer = City {
        address: mosquitto.address,
        pid: mosquitto.child.id(),
        user: String::new(),
        password: String::new(),
        topics: (0..args.publishers).map(|n| format!("bench/{n}/value")).collect(),
    };
    figures.push(runtime.block_on(measure("mosquitto, persistence, PUBACK before", &peer, "bench/+/value", args))?);
    for f in &figures {
        println!(
            "{:38} {:>9.0}/s {:>9.0} per CPU-second   ack p99 {:>7.2} ms   delivery p50 {:>7.2} ms p99 {:>7.2} ms",
            f.name,
            f.messages as f64 / f.seconds,
            f.per_cpu_second(),
            f.ack_p99.as_secs_f64() * 1e3,
            f.delivery_p50.as_secs_f64() * 1e3,
            f.delivery_p99.as_secs_f64() * 1e3,
        );
    }
    Ok(figures)
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

/// User and system time of a process, from `/proc/<pid>/stat`.
fn cpu(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the server's process")?;
    // The name may hold spaces; what follows its parenthesis does not. utime and stime are fields 14 and 15.
    let rest = stat.rsplit_once(')').context("stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 =
        fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?;
    // Linux has told user space 100 ticks a second on every architecture since 2.6.
    Ok(ticks as f64 / 100.0)
}

struct Client {
    stream: TcpStream,
    codec: v3::Codec,
    input: BytesMut,
    out: BytesMut,
}

impl Client {
    async fn connect(city: &City, name: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(city.address).await?;
        stream.set_nodelay(true)?;
        let mut client =
            Self { stream, codec: v3::Codec::default(), input: BytesMut::with_capacity(1 << 16), out: BytesMut::new() };
        let secret =
            (!city.user.is_empty()).then(|| (city.user.as_str().into(), city.password.clone().into_bytes().into()));
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
    async fn flush(&mut self) -> anyhow::Result<()> {
        self.stream.write_all_buf(&mut self.out).await?;
        Ok(())
    }
    fn ready(&mut self) -> anyhow::Result<Option<v3::Packet>> {
        Ok(self.codec.decode(&mut self.input)?.map(|(packet, _)| packet))
    }
    async fn next(&mut self) -> anyhow::Result<v3::Packet> {
        loop {
            if let Some(packet) = self.ready()? {
                return Ok(packet);
            }
            self.input.reserve(1 << 14);
            ensure!(self.stream.read_buf(&mut self.input).await? > 0, "the server hung up");
        }
    }
    fn publish(&mut self, topic: &str, payload: String, id: u16) -> anyhow::Result<()> {
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

async fn measure(name: &'static str, city: &City, filter: &str, args: &Args) -> anyhow::Result<Figure> {
    ensure!(!city.topics.is_empty() && args.window > 0 && args.publishers > 0, "nothing to publish");
    // First as fast as it goes, with nobody listening: what the door and the disk take.
    let before = cpu(city.pid)?;
    let start = Instant::now();
    let until = start + Duration::from_secs(args.seconds);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..args.publishers {
        let (city, window) = (city.clone(), args.window);
        tasks.spawn(async move { flood(&city, n, window, until).await });
    }
    let (mut messages, mut acks) = (0, Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (count, mut times) = done??;
        messages += count;
        acks.append(&mut times);
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu_seconds = cpu(city.pid)? - before;
    // Then at a tenth of that rate, with a subscriber that looks at the clock.
    let rate = (messages as f64 / seconds / 10.0).clamp(100.0, 5_000.0);
    let mut delivery = deliveries(city, filter, rate, args.seconds).await?;
    Ok(Figure {
        name,
        messages,
        seconds,
        cpu_seconds,
        ack_p99: percentile(&mut acks, 0.99),
        delivery_p50: percentile(&mut delivery, 0.50),
        delivery_p99: percentile(&mut delivery, 0.99),
    })
}

fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Keeps `window` messages under way until the time is over; how many were acknowledged, and how long a sample of them took.
async fn flood(city: &City, n: usize, window: u16, until: Instant) -> anyhow::Result<(u64, Vec<Duration>)> {
    let mut client = Client::connect(city, &format!("bench-{n}")).await?;
    let topic = &city.topics[n % city.topics.len()];
    let mut sent = vec![Instant::now(); usize::from(window) + 1];
    let (mut free, mut count, mut times): (Vec<u16>, u64, Vec<Duration>) = ((1..=window).collect(), 0, Vec::new());
    let mut value = 0u64;
    loop {
        let now = Instant::now();
        if now < until {
            for id in free.drain(..) {
                value += 1;
                client.publish(topic, format!(r#"{{"result":{value}}}"#), id)?;
                sent[usize::from(id)] = now;
            }
        } else if free.len() == usize::from(window) {
            return Ok((count, times));
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

/// Publishes at `rate` and measures until the subscriber has each. The number of the message is its result.
async fn deliveries(city: &City, filter: &str, rate: f64, seconds: u64) -> anyhow::Result<Vec<Duration>> {
    let mut reader = Client::connect(city, "bench-reader").await?;
    let id = NonZeroU16::MIN;
    reader.put(v3::Packet::Subscribe { packet_id: id, topic_filters: vec![(filter.into(), QoS::AtLeastOnce)] })?;
    reader.flush().await?;
    let total = (rate * seconds as f64) as usize;
    let sent = Arc::new(Mutex::new(vec![None::<Instant>; total]));
    // Numbers that the flood did not use, so that retained values are not mistaken for ours.
    const BASE: usize = 1 << 40;
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
            let number = result(&publish.payload).and_then(|n| n.checked_sub(BASE));
            if let Some(at) = number.and_then(|n| noted.lock().ok()?.get(n).copied().flatten()) {
                times.push(now.duration_since(at));
            }
        }
        anyhow::Ok(times)
    });
    let mut writer = Client::connect(city, "bench-writer").await?;
    let start = Instant::now();
    for n in 0..total {
        tokio::time::sleep_until((start + Duration::from_secs_f64(n as f64 / rate)).into()).await;
        if let Ok(mut sent) = sent.lock() {
            sent[n] = Some(Instant::now());
        }
        let id = (n % 60_000) as u16 + 1;
        writer.publish(&city.topics[n % city.topics.len()], format!(r#"{{"result":{}}}"#, BASE + n), id)?;
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
fn result(payload: &[u8]) -> Option<usize> {
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
    fn mosquitto_is_measured() {
        let args = Args { publishers: 4, window: 10, seconds: 1, folder: std::env::temp_dir(), city: None };
        let figures = run(&args).expect("measures");
        assert!(figures[0].messages > 0 && figures[0].delivery_p99 > Duration::ZERO);
    }
}
