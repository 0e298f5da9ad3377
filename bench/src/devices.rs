//! `bench devices`: many devices that are connected and rarely speak, as a city's are. Each has a key of its own, a keep alive of a minute, and publishes every
//! ten seconds with QoS 1; MQTT 3.1.1 and 5 take turns. Some of them come by TLS, as processes of mosquitto_pub: a client of somebody else's, which
//! shows that the door is spoken to and not a copy of itself. What a connection costs is the server's memory before and after.

use std::{
    io::Write as _,
    num::NonZeroU16,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;
use kernel::Timestamp;
use rmqtt_codec::{types::Publish, types::QoS, v3, v5};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_util::codec::{Decoder, Encoder};

use crate::{Place, city::City, http::free_address, usage};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Devices that are connected at once.
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// Of these, by TLS.
    #[arg(long, default_value_t = 1_000)]
    tls: usize,
    /// Between two messages of one device.
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// How long they publish.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// New connections a second.
    #[arg(long, default_value_t = 1_000)]
    arrivals: u64,
}

/// Files that both programs need beside their connections.
const FILES: usize = 300;
/// The phenomenonTime of the first message.
const FIRST: Timestamp = Timestamp::from_secs(1_700_000_000);
/// Rows of one sheet of devices.
const SHEET: usize = 20_000;

pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.devices > 0 && args.tls < args.devices, "--tls: fewer than --devices");
    let (plain, open) = (args.devices - args.tls, usage::open_files()?);
    ensure!(
        open >= args.devices + FILES,
        "this shell lets a process open {open} files and {} are needed: ulimit -n {}",
        args.devices + FILES,
        args.devices + FILES
    );
    let folder = tempfile::Builder::new().prefix("bench-devices-").tempdir_in(&args.place.folder)?;
    let tls = free_address()?;
    let (certificate, key) = certificate(folder.path())?;
    let mut set = Vec::new();
    if args.tls > 0 {
        set.push(format!("mqtt.tls_listen={tls}"));
        set.push(format!("mqtt.tls_certificate={}", certificate.display()));
        set.push(format!("mqtt.tls_key={}", key.display()));
    }
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let city = City::start_with(&args.place.program()?, &args.place.pack, folder.path(), &set)?;
    let streams = city.datastreams(args.devices.min(10_000))?;
    let began = Instant::now();
    let keys = register(&city, args.devices)?;
    println!("{} devices registered in {:.1} s", keys.len(), began.elapsed().as_secs_f64());
    let topics: Vec<String> =
        (0..args.devices).map(|n| format!("v1.1/Datastreams({})/Observations", streams[n % streams.len()])).collect();
    // What the registering has used for a moment is given back, or it would be counted for the connections.
    std::thread::sleep(Duration::from_secs(5));

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (empty, before) = (usage::memory(city.pid())?, usage::cpu(city.pid())?);
    let clients = runtime.block_on(connect(&city, &keys[..plain], args.arrivals))?;
    std::thread::sleep(Duration::from_secs(3));
    let idle = usage::memory(city.pid())?;
    report("connected, plain TCP", plain, empty, idle);
    println!("  {:<44} {:.2} ms of CPU each", "to come in", (usage::cpu(city.pid())? - before) * 1e3 / plain as f64);
    let mut secure = Vec::with_capacity(args.tls);
    for n in plain..args.devices {
        secure.push(Secure::start(tls.port(), &certificate, &keys[n], &topics[n])?);
    }
    let patience = Instant::now();
    while (city.figure("lamppost_mqtt_connections")? as usize) < args.devices {
        ensure!(patience.elapsed() < Duration::from_secs(120), "not every TLS connection came in within two minutes");
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(Duration::from_secs(3));
    let all = usage::memory(city.pid())?;
    report("connected, TLS", args.tls, idle, all);

    let before = usage::cpu(city.pid())?;
    let began = Instant::now();
    let spoken = std::thread::scope(|scope| {
        let speaking = scope.spawn(|| speak(&mut secure, args, began));
        let spoken = runtime.block_on(publish(clients, &topics[..plain], args));
        let told = speaking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        anyhow::Ok((spoken?, told))
    })?;
    let ((mut acks, _open), told) = spoken;
    let (wall, cpu) = (began.elapsed().as_secs_f64(), usage::cpu(city.pid())? - before);
    let full = usage::memory(city.pid())?;
    acks.sort_unstable();
    println!(
        "  {:<44} {:>6} messages acknowledged, PUBACK p50 {:.2} ms p99 {:.2} ms",
        format!("a message each in {} s, for {} s", args.every, args.seconds),
        acks.len(),
        usage::quantile(&acks, 0.5).as_secs_f64() * 1e3,
        usage::quantile(&acks, 0.99).as_secs_f64() * 1e3
    );
    println!(
        "  {:<44} {:.1} % of one, {:.0} us a message",
        "CPU",
        cpu / wall * 100.0,
        cpu * 1e6 / (acks.len() + told) as f64
    );
    println!(
        "  {:<44} {} MiB (peak {} MiB)",
        "RSS while they publish",
        full >> 20,
        usage::peak_memory(city.pid()).unwrap_or(0) >> 20
    );
    ensure!(city.figure("lamppost_mqtt_connections")? as usize >= plain, "connections were lost");
    for one in secure {
        one.end()?;
    }
    let (stored, sent) = (city.observations(&streams)?, (acks.len() + told) as u64);
    println!("  {sent} sent, {stored} found by HTTP");
    ensure!(stored == sent, "what was acknowledged and what is there are not the same");
    city.stop()
}

fn report(what: &str, connections: usize, before: u64, after: u64) {
    let each = after.saturating_sub(before) as f64 / connections.max(1) as f64 / 1024.0;
    println!(
        "  {:<44} RSS {} -> {} MiB, {each:.1} KiB each",
        format!("{connections} {what}"),
        before >> 20,
        after >> 20
    );
}

/// A certificate for this machine, by openssl.
fn certificate(folder: &Path) -> anyhow::Result<(std::path::PathBuf, std::path::PathBuf)> {
    let folder = folder.canonicalize()?;
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .context("openssl does not run; apt install openssl")?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    Ok((certificate, key))
}

/// Registers devices by sheets; a key of each.
fn register(city: &City, devices: usize) -> anyhow::Result<Vec<String>> {
    let mut connection = crate::http::Connection::open(city.http)?;
    let authorization = city.authorization();
    let headers =
        [("Authorization", authorization.as_str()), ("Content-Type", "text/csv"), ("Accept", "application/json")];
    let mut keys = Vec::with_capacity(devices);
    while keys.len() < devices {
        let sheet = keys.len()..devices.min(keys.len() + SHEET);
        let mut body = "key,kind,gateway\r\n".to_owned();
        sheet.for_each(|n| body.push_str(&format!("bench-{n},bench,yes\r\n")));
        let path = format!("/api/devices/bulk?tenant={}", crate::city::TENANT);
        let answer: Value = serde_json::from_slice(&connection.ask("POST", &path, &headers, body.as_bytes())?.body)?;
        let made = answer["devices"].as_array().context("no devices")?;
        ensure!(!made.is_empty(), "{answer}");
        for device in made {
            keys.push(device["secret"].as_str().context("a device without a key")?.to_owned());
        }
    }
    Ok(keys)
}

enum Codec {
    V3(v3::Codec),
    V5(Box<v5::Codec>),
}

/// One device of ours.
struct Client {
    stream: TcpStream,
    codec: Codec,
    input: BytesMut,
    out: BytesMut,
}

impl Client {
    async fn open(city: &City, n: usize, key: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(city.mqtt).await?;
        stream.set_nodelay(true)?;
        let (id, user, password) = (format!("bench-{n}"), format!("bench-{n}"), key.to_owned().into_bytes());
        let (mut input, mut out) = (BytesMut::with_capacity(256), BytesMut::with_capacity(256));
        let mut codec = if n.is_multiple_of(2) {
            let connect = v3::Connect {
                clean_session: true,
                keep_alive: 60,
                client_id: id.into(),
                username: Some(user.into()),
                password: Some(password.into()),
                ..v3::Connect::default()
            };
            let mut codec = v3::Codec::default();
            codec.encode(connect.into(), &mut out)?;
            Codec::V3(codec)
        } else {
            let connect = v5::Connect {
                clean_start: true,
                keep_alive: 60,
                client_id: id.into(),
                username: Some(user.into()),
                password: Some(password.into()),
                ..v5::Connect::default()
            };
            let mut codec = v5::Codec::new(1 << 16, 1 << 16);
            codec.encode(v5::Packet::Connect(Box::new(connect)), &mut out)?;
            Codec::V5(Box::new(codec))
        };
        let mut stream = stream;
        stream.write_all_buf(&mut out).await?;
        loop {
            let accepted = match &mut codec {
                Codec::V3(codec) => match codec.decode(&mut input)? {
                    Some((v3::Packet::ConnectAck(ack), _)) => {
                        Some(ack.return_code == v3::ConnectAckReason::ConnectionAccepted)
                    }
                    Some((other, _)) => bail!("{other:?}"),
                    None => None,
                },
                Codec::V5(codec) => match codec.decode(&mut input)? {
                    Some((v5::Packet::ConnectAck(ack), _)) => Some(ack.reason_code == v5::ConnectAckReason::Success),
                    Some((other, _)) => bail!("{other:?}"),
                    None => None,
                },
            };
            match accepted {
                Some(accepted) => {
                    ensure!(accepted, "device {n} was not let in");
                    return Ok(Self { stream, codec, input, out });
                }
                None => ensure!(stream.read_buf(&mut input).await? > 0, "the server hung up on device {n}"),
            }
        }
    }

    /// Publishes and waits for the PUBACK.
    async fn publish(&mut self, topic: &str, payload: String, id: u16) -> anyhow::Result<Duration> {
        let publish = Publish {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: topic.into(),
            packet_id: NonZeroU16::new(id),
            payload: payload.into(),
            properties: None,
        };
        match &mut self.codec {
            Codec::V3(codec) => codec.encode(publish.into(), &mut self.out)?,
            Codec::V5(codec) => codec.encode(v5::Packet::Publish(Box::new(publish)), &mut self.out)?,
        }
        let began = Instant::now();
        self.stream.write_all_buf(&mut self.out).await?;
        loop {
            let acknowledged = match &mut self.codec {
                Codec::V3(codec) => match codec.decode(&mut self.input)? {
                    Some((v3::Packet::PublishAck { .. }, _)) => true,
                    Some((other, _)) => bail!("{other:?}"),
                    None => false,
                },
                Codec::V5(codec) => match codec.decode(&mut self.input)? {
                    Some((v5::Packet::PublishAck(ack), _)) => {
                        ensure!(ack.reason_code == v5::PublishAckReason::Success, "{ack:?}");
                        true
                    }
                    Some((other, _)) => bail!("{other:?}"),
                    None => false,
                },
            };
            if acknowledged {
                return Ok(began.elapsed());
            }
            ensure!(self.stream.read_buf(&mut self.input).await? > 0, "the server hung up");
        }
    }
}

async fn connect(city: &City, keys: &[String], arrivals: u64) -> anyhow::Result<Vec<Client>> {
    let mut pace = tokio::time::interval(Duration::from_micros(1_000_000 / arrivals.max(1)));
    let mut clients = Vec::with_capacity(keys.len());
    for (n, key) in keys.iter().enumerate() {
        pace.tick().await;
        clients.push(Client::open(city, n, key).await?);
    }
    Ok(clients)
}

/// When a device speaks first: they do not all speak at once.
fn offset(n: usize, of: usize, every: u64) -> Duration {
    Duration::from_secs(every).mul_f64(n as f64 / of.max(1) as f64)
}

fn body(device: usize, number: u64) -> String {
    format!(
        r#"{{"phenomenonTime":"{}","result":{number}}}"#,
        FIRST.plus_micros(number as i64 * 1_000_000 + device as i64)
    )
}

/// How long each acknowledgement took, and the devices, which are still connected.
async fn publish(clients: Vec<Client>, topics: &[String], args: &Args) -> anyhow::Result<(Vec<Duration>, Vec<Client>)> {
    let (every, rounds, count) = (args.every, args.seconds / args.every.max(1), clients.len());
    let start = tokio::time::Instant::now();
    let mut tasks = JoinSet::new();
    for (n, mut client) in clients.into_iter().enumerate() {
        let topic = topics[n].clone();
        tasks.spawn(async move {
            let mut took = Vec::with_capacity(rounds as usize);
            for round in 0..rounds {
                tokio::time::sleep_until(start + offset(n, count, every) + Duration::from_secs(every * round)).await;
                took.push(client.publish(&topic, body(n, round), (round % 60_000) as u16 + 1).await?);
            }
            anyhow::Ok((took, client))
        });
    }
    let (mut all, mut open) = (Vec::new(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (took, client) = done??;
        all.extend(took);
        open.push(client);
    }
    Ok((all, open))
}

/// A device by TLS: each line that it is given is a message.
struct Secure {
    child: Child,
}

impl Secure {
    fn start(port: u16, authority: &Path, key: &str, topic: &str) -> anyhow::Result<Self> {
        let child = Command::new("mosquitto_pub")
            .args(["-h", "localhost", "-p", &port.to_string(), "--cafile"])
            .arg(authority)
            .args(["-u", "bench", "-P", key, "-k", "60", "-q", "1", "-t", topic, "-l"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("mosquitto_pub does not run; apt install mosquitto-clients")?;
        Ok(Self { child })
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("no way to it")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// It ends when everything is acknowledged.
    fn end(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "mosquitto_pub ended with {status}");
        Ok(())
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        // It has ended by itself when all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the devices by TLS say; how many messages that were.
fn speak(devices: &mut [Secure], args: &Args, began: Instant) -> anyhow::Result<usize> {
    let count = devices.len();
    let mut said = 0;
    for round in 0..args.seconds / args.every.max(1) {
        for (n, device) in devices.iter_mut().enumerate() {
            let at = offset(n, count, args.every) + Duration::from_secs(args.every * round);
            std::thread::sleep(at.saturating_sub(began.elapsed()));
            device.say(&body(args.devices - count + n, round))?;
            said += 1;
        }
    }
    Ok(said)
}
