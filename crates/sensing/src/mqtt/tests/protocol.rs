//! What the standard says of packets: acknowledgements, QoS, aliases, limits, and what is not a packet at all.

use std::num::NonZeroU16;

use rmqtt_codec::v5;

use super::world::{Client, MemoryField, To, V3, V5, World, ack2, options, publish};
use crate::mqtt::{
    Options, RecordError,
    wire::{Disconnect, Packet, PublishProperties, QoS, Reason, Version},
};

const TOPIC: &str = "v1.1/Datastreams(1)/Observations";
const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn reason(packet: Option<Packet>) -> Option<Reason> {
    match packet {
        Some(Packet::Disconnect(bye)) => Some(bye.reason_code),
        None => None,
        other => panic!("{other:?}"),
    }
}

/// Publishes as `qos` asks and follows the exchange to its end; the reason of the acknowledgement.
async fn exchange(client: &mut Client, topic: &str, payload: &str, qos: QoS, id: u16) -> u8 {
    client.publish(topic, payload, qos, id).await;
    match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => match client.next().await {
            Packet::PublishAck(ack) => ack.reason_code.into(),
            other => panic!("{other:?}"),
        },
        QoS::ExactlyOnce => {
            let reason = match client.next().await {
                Packet::PublishReceived(ack) => u8::from(ack.reason_code),
                other => panic!("{other:?}"),
            };
            if reason < 0x80 {
                client.send(Packet::PublishRelease(ack2(NonZeroU16::new(id).expect("id")))).await;
                assert!(matches!(client.next().await, Packet::PublishComplete(_)));
            }
            reason
        }
    }
}

#[tokio::test]
async fn every_qos_in_both_directions_and_both_versions() {
    let world = World::new().await;
    for (n, (from, to)) in [(V3, V3), (V3, V5), (V5, V3), (V5, V5)].into_iter().enumerate() {
        for sent in ALL_QOS {
            for wanted in ALL_QOS {
                let mut subscriber = world.connect(To::new(to, "dsd-s", "s")).await;
                assert_eq!(subscriber.subscribe("v1.1/+/Observations", wanted).await, wanted.value());
                // What is retained comes first, if there is any yet.
                subscriber.drain().await;
                let mut device = world.connect(To::new(from, "dsd-d", "d")).await;
                let value = f64::from(n as u32 * 100 + u32::from(sent.value()) * 10 + u32::from(wanted.value()));
                exchange(&mut device, TOPIC, &value.to_string(), sent, 7).await;
                let got = subscriber.message().await;
                assert_eq!((got.topic.as_str(), got.number(), got.qos, got.retain), (TOPIC, value, wanted, false));
                assert!(subscriber.silent().await);
            }
        }
    }
    assert_eq!(world.field.values().len(), 36);
}

#[tokio::test]
async fn an_acknowledgement_means_durable_and_keeps_the_order() {
    let world = World::new().await;
    let mut device = world.connect(To::new(V5, "dsd-d1", "d")).await;
    world.field.open.send_replace(false);
    for id in 1..=50 {
        device.publish("devices/d1/level", &id.to_string(), QoS::AtLeastOnce, id).await;
    }
    // A refusal is known at once, and still waits for its turn.
    device.publish("devices/d1/none", "1", QoS::AtLeastOnce, 51).await;
    assert!(device.silent().await, "acknowledged before it was durable");
    assert!(world.field.values().is_empty());
    world.field.open.send_replace(true);
    for id in 1..=51 {
        match device.next().await {
            Packet::PublishAck(ack) => {
                assert_eq!(ack.packet_id.get(), id);
                assert_eq!(u8::from(ack.reason_code), if id == 51 { 0x87 } else { 0 });
            }
            other => panic!("{other:?}"),
        }
    }
    let values: Vec<f64> = world.field.values().into_iter().map(|(_, v)| v).collect();
    assert_eq!(values, (1..=50).map(f64::from).collect::<Vec<_>>());
    assert!(*world.field.recorded_calls.lock() < 50, "messages in flight together are recorded together");
}

#[tokio::test]
async fn what_cannot_be_made_durable_is_not_acknowledged() {
    let world = World::new().await;
    for version in [V3, V5] {
        *world.field.fail.lock() = Some(RecordError::Unavailable);
        let mut device = world.connect(To::new(version, "dsd-d1", "d").lasting()).await;
        device.publish("devices/d1/level", "1", QoS::ExactlyOnce, 9).await;
        let end = reason(device.maybe().await);
        assert_eq!(end, (version == V5).then_some(Reason::ServerBusy));
        *world.field.fail.lock() = None;
        // The client comes back and sends it again; now it is taken, once.
        let (mut device, ack) = world.try_connect(To::new(version, "dsd-d1", "d").lasting()).await;
        assert!(ack.present);
        assert_eq!(exchange(&mut device, "devices/d1/level", "1", QoS::ExactlyOnce, 9).await, 0);
    }
    assert_eq!(world.field.values().len(), 2);
}

#[tokio::test]
async fn qos_2_is_recorded_once_however_often_it_is_sent() {
    let world = World::new().await;
    let to = To::new(V5, "dsd-d1", "d").lasting();
    let mut device = world.connect(to).await;
    world.field.open.send_replace(false);
    device.publish("devices/d1/level", "1", QoS::ExactlyOnce, 3).await;
    assert!(device.silent().await);
    drop(device);
    // The connection died before the outcome was known; the message is repeated on the next.
    let mut device = world.connect(to).await;
    let mut again = publish("devices/d1/level", "1", QoS::ExactlyOnce, 3);
    again.dup = true;
    device.send(again.clone().into()).await;
    assert!(device.silent().await);
    world.field.open.send_replace(true);
    assert!(matches!(device.next().await, Packet::PublishReceived(_)));
    device.send(again.into()).await;
    assert!(matches!(device.next().await, Packet::PublishReceived(_)));
    device.send(Packet::PublishRelease(ack2(NonZeroU16::new(3).expect("id")))).await;
    match device.next().await {
        Packet::PublishComplete(ack) => assert_eq!(u8::from(ack.reason_code), 0),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.field.values(), [(1, 1.0)]);
    // Released: the id is free for another message.
    assert_eq!(exchange(&mut device, "devices/d1/level", "2", QoS::ExactlyOnce, 3).await, 0);
    assert_eq!(world.field.values().len(), 2);
    device.send(Packet::PublishRelease(ack2(NonZeroU16::new(77).expect("id")))).await;
    match device.next().await {
        Packet::PublishComplete(ack) => assert_eq!(u8::from(ack.reason_code), 146),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn refusals_say_why_in_5_and_hang_up_in_3() {
    let world = World::new().await;
    let check = async |topic: &str, payload: &str, expect: u8| {
        let mut device = world.connect(To::new(V5, "dsd-d1", "d")).await;
        assert_eq!(exchange(&mut device, topic, payload, QoS::AtLeastOnce, 1).await, expect, "{topic} {payload}");
        assert_eq!(exchange(&mut device, topic, payload, QoS::ExactlyOnce, 2).await, expect, "{topic} {payload}");
        let mut old = world.connect(To::new(V3, "dsd-d1", "d")).await;
        old.publish(topic, payload, QoS::AtLeastOnce, 1).await;
        assert_eq!(reason(old.maybe().await), None, "{topic} {payload}");
    };
    check("devices/d1/level", "high", 0x99).await;
    check("devices/d1/level", r#"{"result":"high"}"#, 0x99).await;
    check("devices/d1/level", r#"{"result":1,"Datastream":{"@iot.id":2}}"#, 0x99).await;
    check("v1.1/Observations", r#"{"result":1}"#, 0x99).await;
    check("v1.1/CreateObservations", "[]", 0x99).await;
    let half = r#"[{"Datastream":{"@iot.id":2},"components":["phenomenonTime","result"],
        "dataArray":[["2026-01-01T00:00:00Z",1],["2026-01-01T00:01:00Z","high"]]}]"#;
    check("v1.1/CreateObservations", half, 0x99).await;
    check("v1.1/FeaturesOfInterest(999)/Observations", r#"{"result":1,"Datastream":{"@iot.id":2}}"#, 0x99).await;
    check("v1.1/FeaturesOfInterest(211)/Observations", r#"{"result":1,"Datastream":{"@iot.id":11}}"#, 0x87).await;
    check("v1.1/Datastreams(11)/Observations", "1", 0x87).await;
    check("v1.1/Datastreams(999)/Observations", "1", 0x87).await;
    check("v1.1/Datastreams(01)/Observations", "1", 0x90).await;
    check("v1.1/Things(1)", "1", 0x90).await;
    check("tenant/epd/x", "1", 0x87).await;
    check("elsewhere", "1", 0x90).await;
    assert!(world.field.values().is_empty());
}

#[tokio::test]
async fn every_way_to_publish_an_observation() {
    let world = World::new().await;
    let mut device = world.connect(To::new(V5, "dsd-d1", "d")).await;
    let sent = [
        ("devices/d1/level", "1"),
        ("devices/d1/rain", r#"{"result":2,"phenomenonTime":"2026-01-01T00:00:00Z"}"#),
        (
            "v1.1/Datastreams(3)/Observations",
            r#"{"result":3,"phenomenonTime":"2026-01-01T00:00:00Z/2026-01-01T01:00:00Z"}"#,
        ),
        ("v1.1/Observations", r#"{"result":4,"Datastream":{"@iot.id":4}}"#),
        (
            "v1.1/CreateObservations",
            r#"[{"Datastream":{"@iot.id":5},"components":["phenomenonTime","result"],
                "dataArray":[["2026-01-01T00:00:00Z",5],["2026-01-01T00:01:00Z",6]]},
               {"Datastream":{"@iot.id":6},"components":["result","phenomenonTime"],"dataArray":[[7,"2026-01-01T00:00:00Z"]]}]"#,
        ),
        ("v1.1/FeaturesOfInterest(207)/Observations", r#"{"result":8,"Datastream":{"@iot.id":7}}"#),
        ("v1.1/Datastreams(8)/Observations", r#"{"result":9,"FeatureOfInterest":{"@iot.id":208}}"#),
    ];
    for (n, (topic, payload)) in sent.into_iter().enumerate() {
        assert_eq!(exchange(&mut device, topic, payload, QoS::AtLeastOnce, n as u16 + 1).await, 0, "{topic}");
    }
    let expect = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.0), (5, 6.0), (6, 7.0), (7, 8.0), (8, 9.0)];
    assert_eq!(world.field.values(), expect);
}

#[tokio::test]
async fn bytes_that_are_no_packets_end_the_connection_and_nothing_else() {
    let world = World::with(Options { max_packet: 4_096, ..options() }, MemoryField::new(), Default::default()).await;
    let check = async |version: Version, bytes: &[u8], expect: Reason| {
        let mut client = world.connect(To::new(version, "dsd-d1", "d")).await;
        client.raw(bytes).await;
        assert_eq!(reason(client.maybe().await), (version == V5).then_some(expect), "{bytes:02x?}");
        assert!(client.maybe().await.is_none());
    };
    let long_topic = {
        let mut bytes = vec![0x30, 0x83, 0x08, 0x03, 0xe8];
        bytes.extend([b'a'; 1_000]);
        bytes.resize(1_030, 0);
        bytes[1] = 0x80 | (1_027 % 128) as u8;
        bytes[2] = (1_027 / 128) as u8;
        bytes
    };
    for version in [V3, V5] {
        check(version, &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01], Reason::MalformedPacket).await;
        check(version, &[0x30, 0xff, 0xff, 0xff, 0x7f], Reason::PacketTooLarge).await;
        check(version, &[0x36, 0x05, 0, 1, b'a', 0, 1], Reason::MalformedPacket).await; // QoS 3
        check(version, &[0x38, 0x03, 0, 1, b'a'], Reason::MalformedPacket).await; // DUP with QoS 0
        check(version, &[0xc0, 0x01, 0], Reason::MalformedPacket).await; // PINGREQ with a body
        check(version, &[0x00, 0x00], Reason::ProtocolError).await;
        check(version, &[0x10, 0x0d, 0, 4, b'M', b'Q', b'T', b'T', 9, 2, 0, 0, 0, 1, b'a'], Reason::ProtocolError)
            .await;
        check(version, &[0x32, 0x05, 0, 1, b'a', 0, 0], Reason::MalformedPacket).await; // packet id 0
        check(version, &[0x80, 0x02, 0, 1], Reason::ProtocolError).await; // wrong flags
        check(version, &long_topic, Reason::TopicNameInvalid).await;
    }
    check(V5, &[0x30, 0x04, 0, 1, b'+', 0], Reason::TopicNameInvalid).await;
    check(V5, &[0x30, 0x04, 0, 1, 0xff, 0], Reason::MalformedPacket).await; // not UTF-8
    check(V3, &[0x82, 0x06, 0, 1, 0, 1, b'a', 0x10], Reason::MalformedPacket).await; // reserved bits
    assert!(world.field.values().is_empty());
    assert_eq!(world.handle.stats().sessions.get(), 0);
    assert_eq!(world.handle.stats().subscriptions.get(), 0);
}

#[tokio::test]
async fn what_came_before_a_bad_packet_stands() {
    let world = World::new().await;
    let mut device = world.connect(To::new(V5, "dsd-d1", "d")).await;
    let mut bytes = bytes::BytesMut::new();
    let good = publish("devices/d1/level", "1", QoS::AtLeastOnce, 5);
    tokio_util::codec::Encoder::encode(&mut v5::Codec::default(), good.into(), &mut bytes).expect("encodes");
    bytes.extend_from_slice(&[0, 0]);
    device.raw(&bytes).await;
    assert!(matches!(device.next().await, Packet::PublishAck(_)));
    assert_eq!(reason(device.maybe().await), Some(Reason::ProtocolError));
    assert_eq!(world.field.values(), [(1, 1.0)]);
}

#[tokio::test]
async fn nothing_but_connect_comes_first() {
    let world = World::new().await;
    for bytes in [&[0xc0u8, 0][..], &[0x30, 3, 0, 1, b'a'], b"GET / HTTP/1.1\r\n\r\n", &[0x10, 0xff, 0xff, 0xff, 0x7f]]
    {
        let mut client = Client::dial(world.address, V5).await;
        client.raw(bytes).await;
        assert!(client.maybe().await.is_none(), "{bytes:02x?}");
    }
    // Another version is told so, in the words that every version understands.
    let mut client = Client::dial(world.address, V3).await;
    client.raw(&[0x10, 0x0d, 0, 4, b'M', b'Q', b'T', b'T', 6, 2, 0, 0, 0, 1, b'a']).await;
    let mut answer = [0; 4];
    client.read_raw(&mut answer).await;
    assert_eq!(answer, [0x20, 2, 0, 1]);
}

#[tokio::test]
async fn aliases_in_both_directions() {
    let world = World::new().await;
    let mut subscriber = world.connect(To { aliases: 4, ..To::new(V5, "dsd-s", "s") }).await;
    subscriber.subscribe(TOPIC, QoS::AtMostOnce).await;
    let mut device = world.connect(To::new(V5, "dsd-d", "d")).await;
    for (n, topic) in [TOPIC, "", ""].into_iter().enumerate() {
        let mut message = publish(topic, &n.to_string(), QoS::AtLeastOnce, 1);
        message.properties = Some(PublishProperties { topic_alias: NonZeroU16::new(2), ..Default::default() });
        device.send(message.into()).await;
        assert!(matches!(device.next().await, Packet::PublishAck(_)));
        let got = subscriber.take().await;
        assert_eq!(got.number(), n as f64);
        assert_eq!(got.topic, if n == 0 { TOPIC } else { "" });
        assert_eq!(got.properties.expect("v5").topic_alias.map(NonZeroU16::get), Some(1));
    }
    for alias in [3, 1_000] {
        let mut device = world.connect(To::new(V5, "dsd-d", "d")).await;
        let mut message = publish("", "1", QoS::AtLeastOnce, 1);
        message.properties = Some(PublishProperties { topic_alias: NonZeroU16::new(alias), ..Default::default() });
        device.send(message.into()).await;
        let expect = if alias == 3 { Reason::ProtocolError } else { Reason::TopicAliasInvalid };
        assert_eq!(reason(device.maybe().await), Some(expect));
    }
}

#[tokio::test]
async fn receive_maximum_holds_for_both_sides() {
    let world = World::with(
        Options { receive_max: NonZeroU16::new(5).expect("5"), ..options() },
        MemoryField::new(),
        Default::default(),
    )
    .await;
    // Ours: a client that has more under way than we allow breaks the protocol.
    let mut device = world.connect(To::new(V5, "dsd-d1", "d")).await;
    world.field.open.send_replace(false);
    for id in 1..=6 {
        device.publish("devices/d1/level", "1", QoS::AtLeastOnce, id).await;
    }
    while world.handle.stats().received.get() < 6 {
        tokio::task::yield_now().await;
    }
    world.field.open.send_replace(true);
    let last = loop {
        match device.next().await {
            Packet::PublishAck(_) => {}
            other => break other,
        }
    };
    assert_eq!(reason(Some(last)), Some(Reason::ReceiveMaximumExceeded));
    // Theirs: no more than they allow is under way to them.
    let mut subscriber = world.connect(To { receive_max: 2, ..To::new(V5, "dsd-s", "s") }).await;
    subscriber.subscribe("v1.1/Datastreams(2)/Observations", QoS::AtLeastOnce).await;
    let mut device = world.connect(To::new(V5, "dsd-d1", "d")).await;
    for id in 1..=5 {
        exchange(&mut device, "devices/d1/rain", &id.to_string(), QoS::AtLeastOnce, id).await;
    }
    let (one, two) = (subscriber.take().await, subscriber.take().await);
    assert!(subscriber.silent().await);
    for (got, expect) in [(one, 3.0), (two, 4.0)] {
        subscriber.finish(&got, got.id.expect("id")).await;
        let next = subscriber.take().await;
        assert_eq!(next.number(), expect);
        assert!(subscriber.silent().await);
    }
}

#[tokio::test]
async fn keep_alive_ends_the_silent() {
    let world = World::new().await;
    let mut client = world.connect(To { keep_alive: 1, ..To::new(V5, "dsd-d", "d") }).await;
    let start = std::time::Instant::now();
    assert_eq!(reason(client.maybe().await), Some(Reason::KeepAliveTimeout));
    assert!(
        start.elapsed() >= std::time::Duration::from_millis(1_400),
        "not before one and a half times the keep alive"
    );
}

#[tokio::test]
async fn a_goodbye_cannot_give_life_to_a_session() {
    let world = World::new().await;
    let mut client = world.connect(To::new(V5, "dsd-d", "d")).await;
    let mut bye = Disconnect::new(Reason::NormalDisconnection);
    bye.session_expiry_interval_secs = Some(60);
    client.send(bye.into()).await;
    assert_eq!(reason(client.maybe().await), Some(Reason::ProtocolError));
}
