//! Who may come in, what they may publish, and that nobody sees what is not theirs.

use std::collections::BTreeSet;

use super::world::{To, V3, V5, World};
use crate::mqtt::wire::{Packet, PublishProperties, QoS, Reason, RetainHandling, SubscriptionOptions};

#[tokio::test]
async fn keys_are_checked() {
    let world = World::new().await;
    for (version, user, password, expect) in [
        (V3, "dsd-d", "secret", 0),
        (V5, "dsd-d", "secret", 0),
        (V3, "dsd-d", "wrong", 4),
        (V5, "dsd-d", "wrong", 134),
        (V5, "nobody", "secret", 134),
        (V5, "", "", 0),
    ] {
        let (_, ack) = world.try_connect(To { password, ..To::new(version, user, "c") }).await;
        assert_eq!(ack.reason, expect, "{user} {password}");
    }
}

#[tokio::test]
async fn guessing_is_cut_off() {
    let world = World::new().await;
    let mut last = 0;
    // The waits before the answers grow; the throttle's own test has their lengths, so here the count is prepared.
    for _ in 0..10 {
        world.handle.0.throttle.failed([127, 0, 0, 1].into(), "dsd-d", std::time::Instant::now());
    }
    for (user, expect) in [("dsd-d", 159), ("dsd-e", 0)] {
        let (_, ack) = world.try_connect(To::new(V5, user, "c")).await;
        assert_eq!(ack.reason, expect);
        last = expect;
    }
    assert_eq!((last, world.handle.stats().throttled.get()), (0, 1));
}

/// Every way of asking, by everybody; two tenants publish one public and one private Observation each.
#[tokio::test]
async fn wildcards_show_nothing_of_other_tenants() {
    let world = World::new().await;
    let filters = [
        "#",
        "v1.1/#",
        "v1.1/+/Observations",
        "v1.1/Observations",
        "+/+/+",
        "v1.1/Datastreams(12)/Observations",
        "v1.1/Datastreams(2)/Observations",
    ];
    let mut readers = Vec::new();
    for (user, own) in [("dsd-r", vec![1, 2, 11]), ("epd-r", vec![1, 11, 12]), ("", vec![1, 11])] {
        for filter in filters {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                let id = format!("{user}{filter}{}", qos.value());
                let mut client = world.connect(To::new(V5, user, &id)).await;
                client.subscribe(filter, qos).await;
                let expect: BTreeSet<i64> = match filter {
                    "v1.1/Datastreams(12)/Observations" => own.iter().copied().filter(|id| *id == 12).collect(),
                    "v1.1/Datastreams(2)/Observations" => own.iter().copied().filter(|id| *id == 2).collect(),
                    _ => own.iter().copied().collect(),
                };
                readers.push((client, expect, id));
            }
        }
    }
    let mut dsd = world.connect(To::new(V5, "dsd-d", "d")).await;
    let mut epd = world.connect(To::new(V5, "epd-d", "d")).await;
    for id in [1, 2, 11, 12] {
        let client = if id < 10 { &mut dsd } else { &mut epd };
        client.publish(&format!("v1.1/Datastreams({id})/Observations"), &id.to_string(), QoS::AtLeastOnce, 1).await;
        assert!(matches!(client.next().await, Packet::PublishAck(_)));
    }
    world.routed().await;
    for (client, expect, name) in &mut readers {
        let mut seen = BTreeSet::new();
        for _ in 0..expect.len() {
            assert!(seen.insert(client.message().await.number() as i64), "{name}: twice");
        }
        assert_eq!(&seen, expect, "{name}");
        assert!(client.silent().await, "{name}");
    }
    // And what is retained, to those who come later.
    for (user, expect) in [("dsd-x", 3), ("epd-x", 3), ("", 2)] {
        let mut client = world.connect(To::new(V5, user, "x")).await;
        client.subscribe("#", QoS::AtMostOnce).await;
        for _ in 0..expect {
            assert!(client.message().await.retain);
        }
        assert!(client.silent().await, "{user}");
    }
}

#[tokio::test]
async fn the_public_reads_and_does_not_write() {
    let world = World::new().await;
    let mut client = world.connect(To::new(V5, "", "c")).await;
    client.publish("v1.1/Datastreams(1)/Observations", "1", QoS::AtLeastOnce, 1).await;
    match client.next().await {
        Packet::PublishAck(ack) => assert_eq!(u8::from(ack.reason_code), 0x87),
        other => panic!("{other:?}"),
    }
    for filter in ["tenant/dsd/#", "tenant/+/x", "$SYS/#", "$share//x", "a/#/b"] {
        assert!(client.subscribe(filter, QoS::AtMostOnce).await >= 0x80, "{filter}");
    }
    // An anonymous client has no session to be taken over, whatever it calls itself.
    let mut other = world.connect(To::new(V5, "", "c")).await;
    assert!(client.silent().await && other.silent().await);
}

#[tokio::test]
async fn tenants_talk_among_themselves() {
    let world = World::new().await;
    let mut reader = world.connect(To::new(V5, "dsd-r", "r")).await;
    let options = SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() };
    assert_eq!(reader.subscribe_with("tenant/dsd/#", options, Some(7)).await, 2);
    assert_eq!(reader.subscribe_with("tenant/+/a", options, Some(8)).await, 2);
    assert_eq!(reader.subscribe("tenant/epd/#", QoS::AtMostOnce).await, 0x87);
    let mut spy = world.connect(To::new(V5, "epd-r", "r")).await;
    spy.subscribe("#", QoS::AtMostOnce).await;
    spy.subscribe("tenant/#", QoS::AtMostOnce).await;
    let mut writer = world.connect(To::new(V5, "dsd-w", "w")).await;
    let mut message = super::world::publish("tenant/dsd/a", "hello", QoS::AtLeastOnce, 1);
    let properties = PublishProperties {
        user_properties: vec![("colour".into(), "blue".into())],
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    };
    message.properties = Some(properties);
    writer.send(message.into()).await;
    assert!(matches!(writer.next().await, Packet::PublishAck(_)));
    let got = reader.message().await;
    assert_eq!((got.payload.as_str(), got.qos), ("hello", QoS::AtLeastOnce));
    let properties = got.properties.expect("v5");
    assert_eq!(properties.user_properties, vec![("colour".into(), "blue".into())]);
    assert_eq!(properties.subscription_ids.iter().map(|id| id.get()).collect::<BTreeSet<_>>(), BTreeSet::from([7, 8]));
    assert!(reader.silent().await, "overlapping subscriptions are one delivery");
    assert!(spy.silent().await);
}

#[tokio::test]
async fn retained_messages_and_the_options_about_them() {
    let world = World::new().await;
    let mut writer = world.connect(To::new(V5, "dsd-w", "w")).await;
    let retain = |payload: &str| {
        let mut message = super::world::publish("tenant/dsd/state", payload, QoS::AtLeastOnce, 1);
        message.retain = true;
        message
    };
    writer.send(retain("on").into()).await;
    writer.next().await;
    let world = world.restart(super::world::options()).await;
    let mut reader = world.connect(To::new(V5, "dsd-r", "r")).await;
    let with = |handling, rap| SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: rap,
        retain_handling: handling,
    };
    let filter = "tenant/dsd/+";
    reader.subscribe_with(filter, with(RetainHandling::NoAtSubscribe, true), None).await;
    assert!(reader.silent().await);
    reader.subscribe_with(filter, with(RetainHandling::AtSubscribeNew, true), None).await;
    assert!(reader.silent().await, "the subscription is not new");
    reader.subscribe_with(filter, with(RetainHandling::AtSubscribe, true), None).await;
    let got = reader.message().await;
    assert_eq!((got.payload.as_str(), got.retain), ("on", true));
    let mut writer = world.connect(To::new(V5, "dsd-w", "w")).await;
    writer.send(retain("off").into()).await;
    writer.next().await;
    let got = reader.message().await;
    assert!(got.retain, "retain as published");
    // No Local: what the reader itself publishes does not come back.
    reader.publish("tenant/dsd/state", "mine", QoS::AtLeastOnce, 9).await;
    assert!(matches!(reader.next().await, Packet::PublishAck(_)));
    assert!(reader.silent().await);
    writer.send(retain("").into()).await;
    writer.next().await;
    assert!(world.keep.messages.lock().is_empty());
    let mut late = world.connect(To::new(V5, "dsd-l", "l")).await;
    late.subscribe(filter, QoS::AtLeastOnce).await;
    assert!(late.silent().await);
}

#[tokio::test]
async fn a_revoked_key_ends_its_connections() {
    let world = World::new().await;
    let mut client = world.connect(To::new(V5, "dsd-d", "d")).await;
    let mut other = world.connect(To::new(V5, "dsd-e", "d")).await;
    assert_eq!(world.handle.disconnect("device:dsd-d"), 1);
    match client.maybe().await {
        Some(Packet::Disconnect(bye)) => assert_eq!(bye.reason_code, Reason::AdministrativeAction),
        end => panic!("{end:?}"),
    }
    assert!(other.silent().await);
}

/// What somebody is to be shown is on record before they are shown it; what cannot be recorded is not shown.
#[tokio::test]
async fn looks_are_on_record_first() {
    let world = World::new().await;
    let mut client = world.connect(To::new(V5, "csd-r", "watch")).await;
    assert_eq!(client.subscribe("v1.1/#", QoS::AtLeastOnce).await, 1);
    // A filter that is refused shows nothing.
    assert_eq!(client.subscribe("tenant/dsd/x", QoS::AtLeastOnce).await, 135);
    assert_eq!(*world.looks.lock(), ["device:csd-r CONNECT watch", "device:csd-r SUBSCRIBE v1.1/#"]);
    let mut other = world.connect(To::new(V5, "csd-r", "other")).await;
    other.ask_for("devices/unwritten/level", SubscriptionOptions::default(), None).await;
    match other.maybe().await {
        Some(Packet::Disconnect(told)) => assert_eq!(told.reason_code, Reason::ServerBusy),
        answer => panic!("{answer:?}"),
    }
    let (_, ack) = world.try_connect(To::new(V5, "csd-r", "unwritten")).await;
    assert_eq!(ack.reason, 136);
    // Whom nobody watches waits for no record.
    let mut dsd = world.connect(To::new(V5, "dsd-r", "unwritten")).await;
    assert_eq!(dsd.subscribe("v1.1/#", QoS::AtLeastOnce).await, 1);
    assert_eq!(world.looks.lock().len(), 3);
}

/// A command is of now: who is away finds none of before, and needs not subscribe again to be told.
#[tokio::test]
async fn a_device_that_comes_back_is_told_what_it_is_to_do_now() {
    let world = World::new().await;
    let to = To { expiry: 3_600, clean: false, ..To::new(V5, "dsd-d", "d") };
    let mut device = world.connect(to).await;
    assert_eq!(device.subscribe("devices/self/command", QoS::AtLeastOnce).await, 1);
    assert_eq!(device.message().await.payload, "now");
    let labels = std::collections::HashSet::from(["device:dsd-d".to_owned()]);
    assert_eq!(world.handle.tell(&labels, b"listen".to_vec()), 1);
    assert_eq!(device.message().await.payload, "listen");
    drop(device);
    while world.handle.tell(&labels, b"withdrawn since".to_vec()) > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let other = To { clean: true, ..to };
    let world = world.restart(super::world::options()).await;
    let (mut device, ack) = world.try_connect(to).await;
    assert_eq!((ack.reason, ack.present), (0, true));
    assert_eq!(device.message().await.payload, "now");
    assert!(device.silent().await);
    drop(device);
    let mut anew = world.connect(other).await;
    assert!(anew.silent().await, "who forgets its session has not asked");
}
