//! A city of two tenants in memory, and a client that does exactly what it is told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use kernel::{Caller, Principal, SystemClock, Tenant};
use parking_lot::Mutex;
use rmqtt_codec::{v3, v5};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{broadcast, watch},
};
use tokio_util::codec::{Decoder, Encoder};

use crate::{
    catalog::Entity,
    model::{DatastreamInfo, EntityId, EntityType, Observation, ObservationType},
    mqtt::{
        Anchored, Applied, Authenticate, Catalogue, Door, Entities, Field, Handle, Keep, Live, Login, Options, Owner,
        Parent, Parts, RecordError, Refusal, Rights, SavedMessage, SavedSession,
        wire::{Connect, Packet, PublishProperties, QoS, Subscribe, SubscriptionOptions, Version},
    },
    query::Row,
    scope::Scope,
    sta::Path,
};

pub fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

/// Datastreams 1 to 9 are dsd's (1 is public), 11 to 19 are epd's (11 is public). Device `d1` calls 1 `level` and 2 `rain`.
pub struct MemoryField {
    log: Mutex<Vec<Arc<Applied>>>,
    live: broadcast::Sender<Arc<Applied>>,
    heads: Mutex<HashMap<EntityId, Observation>>,
    /// Closed gate: nothing becomes durable.
    pub open: watch::Sender<bool>,
    pub fail: Mutex<Option<RecordError>>,
    pub recorded_calls: Mutex<u64>,
    turn: tokio::sync::Mutex<()>,
}

impl MemoryField {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::default(),
            live: broadcast::channel(64).0,
            heads: Mutex::default(),
            open: watch::channel(true).0,
            fail: Mutex::default(),
            recorded_calls: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }
    pub fn values(&self) -> Vec<(i64, f64)> {
        let log = self.log.lock();
        log.iter()
            .flat_map(|a| &a.observations)
            .map(|o| (o.datastream.0, o.result.number().unwrap_or(f64::NAN)))
            .collect()
    }
    pub fn info(id: i64) -> Option<Arc<DatastreamInfo>> {
        let owner = match id {
            1..=9 => "dsd",
            11..=19 => "epd",
            _ => return None,
        };
        Some(Arc::new(DatastreamInfo {
            id: EntityId(id),
            tenant: tenant(owner),
            public: id % 10 == 1,
            thing: EntityId(id),
            name: "x".into(),
            observation_type: ObservationType::Measurement,
            unit: None,
            feature: EntityId(100 + id),
            interval: None,
            simulated: false,
        }))
    }
}

/// The log and the receiver under one lock, so that a follower misses nothing between them.
struct Shared(Arc<MemoryField>);

impl Field for Shared {
    fn record(&self, observations: Vec<Observation>) -> BoxFuture<'static, Result<(), RecordError>> {
        let field = Arc::clone(&self.0);
        async move {
            *field.recorded_calls.lock() += 1;
            // In the order of the calls, as the stream is.
            let _turn = field.turn.lock().await;
            let mut open = field.open.subscribe();
            let _ = open.wait_for(|open| *open).await;
            if let Some(error) = field.fail.lock().clone() {
                return Err(error);
            }
            let mut log = field.log.lock();
            for o in &observations {
                field.heads.lock().insert(o.datastream, o.clone());
            }
            let applied = Arc::new(Applied { offset: log.len() as u64, observations });
            log.push(Arc::clone(&applied));
            let _ = field.live.send(applied);
            Ok(())
        }
        .boxed()
    }
    fn live(&self) -> BoxStream<'static, Live> {
        tokio_stream::wrappers::BroadcastStream::new(self.0.live.subscribe())
            .map(|event| event.map_or(Live::Lagged, Live::Applied))
            .boxed()
    }
    fn replay(&self, offset: u64) -> BoxStream<'static, Applied> {
        let (history, live) = {
            let log = self.0.log.lock();
            (log[(offset as usize).min(log.len())..].to_vec(), self.0.live.subscribe())
        };
        let live = tokio_stream::wrappers::BroadcastStream::new(live)
            .take_while(|event| std::future::ready(event.is_ok()))
            .filter_map(|event| std::future::ready(event.ok()));
        futures::stream::iter(history).chain(live).map(|a| Applied::clone(&a)).boxed()
    }
    fn start(&self) -> u64 {
        0
    }
    fn end(&self) -> u64 {
        self.0.log.lock().len() as u64
    }
    fn latest(&self, datastream: EntityId) -> Option<Observation> {
        self.0.heads.lock().get(&datastream).cloned()
    }
    fn cached(&self, datastream: EntityId) -> Option<Arc<DatastreamInfo>> {
        // Odd ids are always looked up, so that both ways are walked.
        if datastream.0 % 2 == 0 { MemoryField::info(datastream.0) } else { None }
    }
    fn datastream(&self, id: EntityId) -> BoxFuture<'static, Result<Option<Arc<DatastreamInfo>>, RecordError>> {
        async move { Ok(MemoryField::info(id.0)) }.boxed()
    }
    fn of_device(
        &self,
        tenant: &Tenant,
        device: &str,
        key: &str,
    ) -> BoxFuture<'static, Result<Option<EntityId>, RecordError>> {
        // epd's device has the same name as dsd's.
        let found = match (tenant.as_str(), device, key) {
            ("dsd", "d1", "level") => Some(EntityId(1)),
            ("dsd", "d1", "rain") => Some(EntityId(2)),
            ("epd", "d1", "level") => Some(EntityId(11)),
            _ => None,
        };
        async move { Ok(found) }.boxed()
    }
    fn admits_feature(
        &self,
        _: &Caller,
        datastream: EntityId,
        feature: EntityId,
    ) -> BoxFuture<'static, Result<bool, RecordError>> {
        let known = feature.0 == 200 + datastream.0;
        async move { Ok(known) }.boxed()
    }
    fn complete(
        &self,
        _: &Caller,
        _: serde_json::Value,
        _: Option<EntityId>,
        _: Option<EntityId>,
    ) -> BoxFuture<'static, Result<Option<Observation>, RecordError>> {
        async { Err(RecordError::Refused("there is no catalogue here".to_owned())) }.boxed()
    }
    fn page(&self, after: EntityId, limit: usize) -> BoxFuture<'static, Vec<Arc<DatastreamInfo>>> {
        async move { (after.0 + 1..20).filter_map(MemoryField::info).take(limit).collect() }.boxed()
    }
}

/// A catalogue in which nothing ever changes; `updates.rs` has a real one.
struct Still;

impl Entities for Still {
    fn changes(&self) -> BoxStream<'static, Catalogue> {
        futures::stream::pending().boxed()
    }
    fn row(&self, _: EntityType, _: EntityId) -> BoxFuture<'static, Option<Row>> {
        async { None }.boxed()
    }
    fn owner(&self, _: EntityType, id: EntityId) -> BoxFuture<'static, Option<Owner>> {
        // Features 101 to 109 and 201 to 209 are dsd's, and so on; those of public Datastreams are public.
        let found = MemoryField::info(id.0 % 100).map(|info| (info.tenant.clone(), info.public));
        async move { found }.boxed()
    }
    fn parents(&self, _: Arc<Entity>) -> BoxFuture<'static, Vec<Parent>> {
        async { Vec::new() }.boxed()
    }
    fn anchor(&self, _: Path) -> BoxFuture<'static, Option<Anchored>> {
        async { None }.boxed()
    }
    fn leads(&self, _: Arc<Scope>, _: Path, _: EntityId) -> BoxFuture<'static, bool> {
        async { false }.boxed()
    }
}

pub struct Law;

impl Rights for Law {
    fn may_publish(&self, caller: &Caller, datastream: &DatastreamInfo) -> bool {
        caller.tenant.as_ref() == Some(&datastream.tenant)
    }
    fn scope(&self, caller: &Caller) -> Arc<Scope> {
        Arc::new(Scope::Tenants(caller.tenant.iter().cloned().collect()))
    }
    fn anonymous(&self) -> bool {
        true
    }
}

/// `<tenant>-<name>` with the key `secret`.
pub struct Register;

impl Authenticate for Register {
    fn authenticate<'a>(&'a self, login: Login<'a>) -> BoxFuture<'a, Result<Caller, Refusal>> {
        async move {
            let (slug, _) = login.user.split_once('-').ok_or(Refusal::Credentials)?;
            if login.password != b"secret" {
                return Err(Refusal::Credentials);
            }
            Ok(Caller {
                principal: Principal::Device { id: login.user.into() },
                tenant: Some(Tenant::parse(slug).map_err(|_| Refusal::Forbidden)?),
                roles: BTreeSet::new(),
            })
        }
        .boxed()
    }
}

#[derive(Default)]
pub struct MemoryKeep {
    pub sessions: Mutex<BTreeMap<String, SavedSession>>,
    pub messages: Mutex<BTreeMap<String, SavedMessage>>,
}

struct Kept(Arc<MemoryKeep>);

impl Keep for Kept {
    fn load(&self) -> BoxFuture<'static, Result<(Vec<SavedSession>, Vec<SavedMessage>), RecordError>> {
        let all =
            (self.0.sessions.lock().values().cloned().collect(), self.0.messages.lock().values().cloned().collect());
        async move { Ok(all) }.boxed()
    }
    fn save(&self, sessions: Vec<SavedSession>, ended: Vec<String>) -> BoxFuture<'static, Result<(), RecordError>> {
        let mut all = self.0.sessions.lock();
        all.extend(sessions.into_iter().map(|s| (s.key.clone(), s)));
        ended.iter().for_each(|key| drop(all.remove(key)));
        async { Ok(()) }.boxed()
    }
    fn retain(&self, message: SavedMessage) -> BoxFuture<'static, Result<(), RecordError>> {
        let mut all = self.0.messages.lock();
        if message.payload.is_empty() {
            all.remove(&message.topic);
        } else {
            all.insert(message.topic.clone(), message);
        }
        async { Ok(()) }.boxed()
    }
}

pub struct World {
    pub field: Arc<MemoryField>,
    pub keep: Arc<MemoryKeep>,
    pub door: Door,
    pub handle: Handle,
    pub address: SocketAddr,
}

pub fn options() -> Options {
    Options { plain: Some(([127, 0, 0, 1], 0).into()), base: "http://c/v1.1".to_owned(), ..Options::default() }
}

impl World {
    pub async fn new() -> Self {
        Self::with(options(), MemoryField::new(), Arc::default()).await
    }
    pub async fn with(options: Options, field: Arc<MemoryField>, keep: Arc<MemoryKeep>) -> Self {
        let parts = Parts {
            field: Arc::new(Shared(Arc::clone(&field))),
            entities: Arc::new(Still),
            rights: Arc::new(Law),
            authenticate: Arc::new(Register),
            keep: Arc::new(Kept(Arc::clone(&keep))),
            clock: Arc::new(SystemClock),
        };
        let door = Door::open(options, parts).await.expect("the door opens");
        let (handle, address) = (door.handle(), door.addresses()[0]);
        Self { field, keep, door, handle, address }
    }
    /// The server ends and another begins with what was kept.
    pub async fn restart(self, options: Options) -> Self {
        let Self { field, keep, door, .. } = self;
        door.close().await;
        Self::with(options, field, keep).await
    }
    /// Waits until everything that is recorded has been routed, so that silence means something.
    pub async fn routed(&self) {
        let end = self.field.log.lock().len() as u64;
        while self.handle.0.next() < end {
            tokio::task::yield_now().await;
        }
    }
    pub async fn connect(&self, login: To<'_>) -> Client {
        let (client, ack) = self.try_connect(login).await;
        assert_eq!(ack.reason, 0, "{:?}", login.user);
        client
    }
    pub async fn try_connect(&self, login: To<'_>) -> (Client, Ack) {
        let mut client = Client::dial(self.address, login.version).await;
        let ack = client.hello(login).await;
        (client, ack)
    }
}

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

    pub async fn subscribe_with(&mut self, filter: &str, options: SubscriptionOptions, id: Option<u32>) -> u8 {
        let packet = Subscribe {
            packet_id: NonZeroU16::MIN,
            id: id.and_then(std::num::NonZeroU32::new),
            user_properties: Vec::new(),
            topic_filters: vec![(filter.into(), options)],
        };
        self.send(packet.into()).await;
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
