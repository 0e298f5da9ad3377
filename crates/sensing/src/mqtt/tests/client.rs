//! A client that does exactly what it is told, and nothing by itself.

use std::{collections::VecDeque, net::SocketAddr, num::NonZeroU16, time::Duration};

use bytes::BytesMut;
use rmqtt_codec::{v3, v5};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::codec::{Decoder, Encoder};

use crate::mqtt::wire::{Connect, Packet, PublishProperties, QoS, Subscribe, SubscriptionOptions, Version};

#[derive(Clone, Copy)]
pub struct To<'a> {
    pub version: Version,
    pub user: &'a str,
    pub password: &'a str,
    pub id: &'a str,
    pub clean: bool,
    pub expiry: u32,
    pub receive_max: u16,
    pub aliases: u16,
    pub keep_alive: u16,
    pub will: Option<(&'a str, &'a str, u32)>,
}

pub const V3: Version = Version::V3;
pub const V5: Version = Version::V5;

impl<'a> To<'a> {
    pub fn new(version: Version, user: &'a str, id: &'a str) -> Self {
        Self {
            version,
            user,
            password: "secret",
            id,
            clean: true,
            expiry: 0,
            receive_max: 0,
            aliases: 0,
            keep_alive: 60,
            will: None,
        }
    }
    pub fn lasting(self) -> Self {
        Self { clean: false, expiry: 3_600, ..self }
    }
}

#[derive(Debug)]
pub struct Ack {
    pub present: bool,
    pub reason: u8,
}

enum Codec {
    V3(v3::Codec),
    V5(v5::Codec),
}

/// A client without any behaviour of its own. Speaks MQTT 5 packets, sends 3.1.1 where it must.
pub struct Client {
    stream: TcpStream,
    codec: Codec,
    input: BytesMut,
    /// Messages that came while something else was awaited.
    early: VecDeque<Packet>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Got {
    pub topic: String,
    pub payload: String,
    pub qos: QoS,
    pub id: Option<NonZeroU16>,
    pub retain: bool,
    pub dup: bool,
    pub properties: Option<PublishProperties>,
}

impl Got {
    /// The `result` of an Observation.
    pub fn number(&self) -> f64 {
        serde_json::from_str::<serde_json::Value>(&self.payload).expect("json")["result"].as_f64().expect("number")
    }
}

impl Client {
    pub async fn dial(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).await.expect("connects");
        let codec = match version {
            Version::V3 => Codec::V3(v3::Codec::default()),
            Version::V5 => Codec::V5(v5::Codec::default()),
        };
        Self { stream, codec, input: BytesMut::new(), early: VecDeque::new() }
    }

    pub async fn hello(&mut self, to: To<'_>) -> Ack {
        let credentials =
            (!to.user.is_empty()).then(|| (to.user.into(), bytes::Bytes::copy_from_slice(to.password.as_bytes())));
        let (username, password) = credentials.unzip();
        let client_id = bytestring::ByteString::from(to.id);
        match &mut self.codec {
            Codec::V3(_) => {
                let last_will = to.will.map(|(topic, message, _)| v3::LastWill {
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    topic: topic.into(),
                    message: bytes::Bytes::copy_from_slice(message.as_bytes()),
                });
                let connect = v3::Connect {
                    clean_session: to.clean,
                    keep_alive: to.keep_alive,
                    client_id,
                    username,
                    password,
                    last_will,
                    ..v3::Connect::default()
                };
                self.send3(connect.into()).await;
                match self.next3().await {
                    v3::Packet::ConnectAck(ack) => Ack { present: ack.session_present, reason: ack.return_code.into() },
                    other => panic!("{other:?}"),
                }
            }
            Codec::V5(_) => {
                let last_will = to.will.map(|(topic, message, delay)| v5::LastWill {
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    topic: topic.into(),
                    message: bytes::Bytes::copy_from_slice(message.as_bytes()),
                    will_delay_interval_sec: (delay > 0).then_some(delay),
                    correlation_data: None,
                    message_expiry_interval: None,
                    content_type: None,
                    user_properties: Vec::new(),
                    is_utf8_payload: None,
                    response_topic: None,
                });
                let connect = Connect {
                    clean_start: to.clean,
                    keep_alive: to.keep_alive,
                    session_expiry_interval_secs: to.expiry,
                    receive_max: NonZeroU16::new(to.receive_max),
                    topic_alias_max: to.aliases,
                    client_id,
                    username,
                    password,
                    last_will,
                    ..Connect::default()
                };
                self.send(connect.into()).await;
                match self.next().await {
                    Packet::ConnectAck(ack) => Ack { present: ack.session_present, reason: ack.reason_code.into() },
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("written");
    }

    async fn send3(&mut self, packet: v3::Packet) {
        let mut out = BytesMut::new();
        v3::Codec::default().encode(packet, &mut out).expect("encodes");
        self.raw(&out).await;
    }

    /// Sends a packet of MQTT 5, or its like in 3.1.1.
    pub async fn send(&mut self, packet: Packet) {
        if let Codec::V3(_) = self.codec {
            let packet = match packet {
                Packet::Publish(publish) => v3::Packet::Publish(publish),
                Packet::Subscribe(s) => v3::Packet::Subscribe {
                    packet_id: s.packet_id,
                    topic_filters: s.topic_filters.into_iter().map(|(f, o)| (f, o.qos)).collect(),
                },
                Packet::Unsubscribe(u) => {
                    v3::Packet::Unsubscribe { packet_id: u.packet_id, topic_filters: u.topic_filters }
                }
                Packet::PublishAck(a) => v3::Packet::PublishAck { packet_id: a.packet_id },
                Packet::PublishReceived(a) => v3::Packet::PublishReceived { packet_id: a.packet_id },
                Packet::PublishRelease(a) => v3::Packet::PublishRelease { packet_id: a.packet_id },
                Packet::PublishComplete(a) => v3::Packet::PublishComplete { packet_id: a.packet_id },
                Packet::PingRequest => v3::Packet::PingRequest,
                Packet::Disconnect(_) => v3::Packet::Disconnect,
                other => panic!("{other:?}"),
            };
            return self.send3(packet).await;
        }
        let mut out = BytesMut::new();
        v5::Codec::default().encode(packet, &mut out).expect("encodes");
        self.raw(&out).await;
    }

    async fn next3(&mut self) -> v3::Packet {
        loop {
            if let Codec::V3(codec) = &mut self.codec
                && let Some((packet, _)) = codec.decode(&mut self.input).expect("decodes")
            {
                return packet;
            }
            let read = tokio::time::timeout(Duration::from_secs(20), self.stream.read_buf(&mut self.input)).await;
            assert!(read.expect("an answer in time").expect("reads") > 0, "the server hung up");
        }
    }

    /// The next packet; `None` when the server has hung up.
    pub async fn maybe(&mut self) -> Option<Packet> {
        loop {
            let packet = match &mut self.codec {
                Codec::V5(codec) => codec.decode(&mut self.input).expect("decodes").map(|(p, _)| p),
                Codec::V3(codec) => codec.decode(&mut self.input).expect("decodes").map(|(p, _)| lift(p)),
            };
            if packet.is_some() {
                return packet;
            }
            let read = tokio::time::timeout(Duration::from_secs(20), self.stream.read_buf(&mut self.input)).await;
            if read.expect("an answer in time").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub async fn next(&mut self) -> Packet {
        self.maybe().await.expect("the server hung up")
    }

    pub async fn publish(&mut self, topic: &str, payload: &str, qos: QoS, id: u16) {
        self.send(publish(topic, payload, qos, id).into()).await;
    }

    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> u8 {
        self.subscribe_with(filter, SubscriptionOptions { qos, ..SubscriptionOptions::default() }, None).await
    }

    /// SUBSCRIBE alone, for whoever is sent away instead of being answered.
    pub async fn ask_for(&mut self, filter: &str, options: SubscriptionOptions, id: Option<u32>) {
        let packet = Subscribe {
            packet_id: NonZeroU16::MIN,
            id: id.and_then(std::num::NonZeroU32::new),
            user_properties: Vec::new(),
            topic_filters: vec![(filter.into(), options)],
        };
        self.send(packet.into()).await;
    }

    pub async fn subscribe_with(&mut self, filter: &str, options: SubscriptionOptions, id: Option<u32>) -> u8 {
        self.ask_for(filter, options, id).await;
        match self.next().await {
            Packet::SubscribeAck(ack) => ack.status[0].into(),
            other => panic!("{other:?}"),
        }
    }

    /// The next message, acknowledged as its QoS asks.
    pub async fn message(&mut self) -> Got {
        let got = self.take().await;
        if let Some(id) = got.id {
            self.finish(&got, id).await;
        }
        got
    }

    /// The next message, not acknowledged.
    pub async fn take(&mut self) -> Got {
        let packet = match self.early.pop_front() {
            Some(packet) => packet,
            None => self.next().await,
        };
        match packet {
            Packet::Publish(p) => Got {
                topic: p.topic.to_string(),
                payload: String::from_utf8(p.payload.to_vec()).expect("text"),
                qos: p.qos,
                id: p.packet_id,
                retain: p.retain,
                dup: p.dup,
                properties: p.properties,
            },
            other => panic!("{other:?}"),
        }
    }

    pub async fn finish(&mut self, got: &Got, id: NonZeroU16) {
        match got.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.send(Packet::PublishAck(ack(id))).await,
            QoS::ExactlyOnce => {
                self.send(Packet::PublishReceived(ack(id))).await;
                loop {
                    match self.next().await {
                        Packet::PublishRelease(rel) if rel.packet_id == id => break,
                        message @ Packet::Publish(_) => self.early.push_back(message),
                        other => panic!("{other:?}"),
                    }
                }
                self.send(Packet::PublishComplete(ack2(id))).await;
            }
        }
    }

    pub async fn read_raw(&mut self, into: &mut [u8]) {
        self.stream.read_exact(into).await.expect("read");
    }

    /// Takes and acknowledges what is waiting, until nothing is under way any more.
    pub async fn drain(&mut self) {
        let mut quiet = 0;
        while quiet < 2 {
            self.send(Packet::PingRequest).await;
            quiet += 1;
            loop {
                match self.next().await {
                    Packet::PingResponse => break,
                    Packet::PublishRelease(rel) => self.send(Packet::PublishComplete(ack2(rel.packet_id))).await,
                    Packet::Publish(p) => match (p.packet_id, p.qos) {
                        (Some(id), QoS::ExactlyOnce) => self.send(Packet::PublishReceived(ack(id))).await,
                        (Some(id), _) => self.send(Packet::PublishAck(ack(id))).await,
                        _ => {}
                    },
                    other => panic!("{other:?}"),
                }
                quiet = 0;
            }
        }
    }

    /// Whether nothing comes before the answers to two pings: no clock is asked. (Before it reads the second, the server has sent all
    /// that was queued when it read the first.)
    pub async fn silent(&mut self) -> bool {
        if !self.early.is_empty() {
            return false;
        }
        for _ in 0..2 {
            self.send(Packet::PingRequest).await;
            if !matches!(self.next().await, Packet::PingResponse) {
                return false;
            }
        }
        true
    }
}

pub fn publish(topic: &str, payload: &str, qos: QoS, id: u16) -> crate::mqtt::wire::Publish {
    crate::mqtt::wire::Publish {
        dup: false,
        retain: false,
        qos,
        topic: topic.into(),
        packet_id: if qos == QoS::AtMostOnce { None } else { NonZeroU16::new(id) },
        payload: bytes::Bytes::copy_from_slice(payload.as_bytes()),
        properties: Some(PublishProperties::default()),
    }
}

pub fn ack(packet_id: NonZeroU16) -> v5::PublishAck {
    v5::PublishAck { packet_id, ..Default::default() }
}
pub fn ack2(packet_id: NonZeroU16) -> v5::PublishAck2 {
    v5::PublishAck2 { packet_id, ..Default::default() }
}

fn lift(packet: v3::Packet) -> Packet {
    match packet {
        v3::Packet::Publish(p) => Packet::Publish(p),
        v3::Packet::PublishAck { packet_id } => Packet::PublishAck(ack(packet_id)),
        v3::Packet::PublishReceived { packet_id } => Packet::PublishReceived(ack(packet_id)),
        v3::Packet::PublishRelease { packet_id } => Packet::PublishRelease(ack2(packet_id)),
        v3::Packet::PublishComplete { packet_id } => Packet::PublishComplete(ack2(packet_id)),
        v3::Packet::PingResponse => Packet::PingResponse,
        v3::Packet::SubscribeAck { packet_id, status } => Packet::SubscribeAck(v5::SubscribeAck {
            packet_id,
            properties: Vec::new(),
            reason_string: None,
            status: status
                .into_iter()
                .map(|s| match s {
                    v3::SubscribeReturnCode::Success(qos) => qos.value().try_into().expect("code"),
                    v3::SubscribeReturnCode::Failure => v5::SubscribeAckReason::UnspecifiedError,
                })
                .collect(),
        }),
        other => panic!("{other:?}"),
    }
}
