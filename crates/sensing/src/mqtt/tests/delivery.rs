//! What subscribers are owed: sessions, takeover, wills, slow and absent clients, restarts.

use std::time::Duration;

use super::world::{Client, MemoryField, To, V3, V5, World, options};
use crate::mqtt::{
    Options, QueueLimits,
    wire::{Disconnect, Packet, QoS, Reason, RetainHandling, SubscriptionOptions},
};

const TOPIC: &str = "v1.1/Datastreams(2)/Observations";

async fn send(world: &World, values: std::ops::Range<u32>) {
    let mut device = world.connect(To::new(V5, "dsd-d1", "sender")).await;
    for value in values {
        device.publish("devices/d1/rain", &value.to_string(), QoS::AtLeastOnce, 1).await;
        assert!(matches!(device.next().await, Packet::PublishAck(_)));
    }
    world.routed().await;
}

async fn expect(client: &mut Client, values: std::ops::Range<u32>) {
    for value in values {
        assert_eq!(client.message().await.number(), f64::from(value));
    }
    assert!(client.silent().await);
}

#[tokio::test]
async fn the_latest_value_is_retained() {
    let world = World::new().await;
    send(&world, 1..4).await;
    for filter in [TOPIC, "v1.1/+/Observations", "#"] {
        let mut client = world.connect(To::new(V3, "dsd-r", "r")).await;
        client.subscribe(filter, QoS::AtLeastOnce).await;
        let got = client.message().await;
        assert_eq!((got.number(), got.retain, got.topic.as_str()), (3.0, true, TOPIC), "{filter}");
        assert!(client.silent().await);
    }
}

#[tokio::test]
async fn an_absent_session_misses_nothing() {
    let world = World::new().await;
    for version in [V3, V5] {
        let to = To::new(version, "dsd-r", if version == V3 { "three" } else { "five" }).lasting();
        let (mut client, ack) = world.try_connect(to).await;
        assert!(!ack.present);
        client.subscribe("v1.1/+/Observations", QoS::AtLeastOnce).await;
        client.drain().await;
        drop(client);
        send(&world, 10..30).await;
        let (mut client, ack) = world.try_connect(to).await;
        assert!(ack.present);
        expect(&mut client, 10..30).await;
        send(&world, 30..32).await;
        expect(&mut client, 30..32).await;
    }
}

/// Most clients subscribe whenever they connect, also when their session is there: what waits for them must not be lost by it.
#[tokio::test]
async fn subscribing_again_loses_nothing_that_waits() {
    let queue = QueueLimits { messages: 10, bytes: 1 << 20, total_bytes: 1 << 30 };
    let world = World::with(Options { queue, window: 4, ..options() }, MemoryField::new(), Default::default()).await;
    let to = To::new(V5, "dsd-r", "r").lasting();
    let mut client = world.connect(to).await;
    client.subscribe(TOPIC, QoS::AtLeastOnce).await;
    drop(client);
    send(&world, 0..40).await;
    let mut client = world.connect(to).await;
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(client.take().await);
    }
    // Four are under way, ten are queued, the rest is on the stream when the subscription is made again.
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        retain_handling: RetainHandling::NoAtSubscribe,
        ..SubscriptionOptions::default()
    };
    assert_eq!(client.subscribe_with(TOPIC, options, None).await, 1);
    for (value, got) in first.iter().enumerate() {
        assert_eq!(got.number(), value as f64);
        client.finish(got, got.id.expect("id")).await;
    }
    expect(&mut client, 4..40).await;
}

#[tokio::test]
async fn a_session_survives_the_server() {
    let world = World::new().await;
    let to = To::new(V5, "dsd-r", "r").lasting();
    let mut client = world.connect(to).await;
    client.subscribe(TOPIC, QoS::ExactlyOnce).await;
    send(&world, 1..4).await;
    expect(&mut client, 1..4).await;
    drop(client);
    send(&world, 4..6).await;
    let world = world.restart(options()).await;
    send(&world, 6..8).await;
    let (mut client, ack) = world.try_connect(to).await;
    assert!(ack.present);
    expect(&mut client, 4..8).await;
    // Another principal's client of the same name is somebody else.
    let (_, ack) = world.try_connect(To::new(V5, "epd-r", "r").lasting()).await;
    assert!(!ack.present);
    // And a clean start forgets it all.
    let (mut client, ack) = world.try_connect(To { clean: true, ..to }).await;
    assert!(!ack.present);
    send(&world, 8..9).await;
    assert!(client.silent().await);
}

#[tokio::test]
async fn what_was_under_way_is_repeated() {
    let world = World::new().await;
    let to = To::new(V5, "dsd-r", "r").lasting();
    let mut client = world.connect(to).await;
    client.subscribe(TOPIC, QoS::ExactlyOnce).await;
    send(&world, 1..4).await;
    let (one, two, three) = (client.take().await, client.take().await, client.take().await);
    client.finish(&one, one.id.expect("id")).await;
    client.send(Packet::PublishReceived(super::world::ack(two.id.expect("id")))).await;
    assert!(matches!(client.next().await, Packet::PublishRelease(_)));
    drop(client);
    let mut client = world.connect(to).await;
    match client.next().await {
        Packet::PublishRelease(rel) => assert_eq!(Some(rel.packet_id), two.id),
        other => panic!("{other:?}"),
    }
    client.send(Packet::PublishComplete(super::world::ack2(two.id.expect("id")))).await;
    let again = client.message().await;
    assert_eq!((again.id, again.dup, again.number()), (three.id, true, 3.0));
    assert!(client.silent().await);
}

#[tokio::test]
async fn a_slow_subscriber_harms_nobody_and_loses_nothing_at_qos_1() {
    let queue = QueueLimits { messages: 10, bytes: 1 << 20, total_bytes: 1 << 30 };
    let world = World::with(Options { queue, window: 4, ..options() }, MemoryField::new(), Default::default()).await;
    let mut slow = world.connect(To::new(V5, "dsd-r", "slow")).await;
    slow.subscribe(TOPIC, QoS::AtLeastOnce).await;
    let mut quick = world.connect(To::new(V5, "dsd-r", "quick")).await;
    quick.subscribe("v1.1/#", QoS::AtLeastOnce).await;
    for start in (0..200).step_by(10) {
        send(&world, start..start + 10).await;
        expect(&mut quick, start..start + 10).await;
    }
    // Nothing was acknowledged so far: four are under way, ten wait, the rest is on the stream.
    expect(&mut slow, 0..200).await;
    assert!(world.handle.stats().deferred.get() > 0);
    send(&world, 200..203).await;
    expect(&mut slow, 200..203).await;
    assert_eq!(world.handle.stats().queued_bytes.get(), 0);
}

#[tokio::test]
async fn a_subscriber_that_lags_through_one_large_frame() {
    let queue = QueueLimits { messages: 8, bytes: 1 << 20, total_bytes: 1 << 30 };
    let world = World::with(Options { queue, window: 3, ..options() }, MemoryField::new(), Default::default()).await;
    let mut client = world.connect(To::new(V5, "dsd-r", "r")).await;
    client.subscribe(TOPIC, QoS::AtLeastOnce).await;
    client.subscribe("v1.1/Observations", QoS::AtLeastOnce).await;
    let rows =
        (0..100).map(|n| format!("[\"2026-01-01T00:{:02}:{:02}Z\",{n}]", n / 60, n % 60)).collect::<Vec<_>>().join(",");
    let body =
        format!(r#"[{{"Datastream":{{"@iot.id":2}},"components":["phenomenonTime","result"],"dataArray":[{rows}]}}]"#);
    let mut device = world.connect(To::new(V5, "dsd-d1", "d")).await;
    device.publish("v1.1/CreateObservations", &body, QoS::AtLeastOnce, 1).await;
    assert!(matches!(device.next().await, Packet::PublishAck(_)));
    for n in 0..100 {
        for topic in [TOPIC, "v1.1/Observations"] {
            let got = client.message().await;
            assert_eq!((got.number(), got.topic.as_str()), (f64::from(n), topic));
        }
    }
    assert!(client.silent().await);
}

#[tokio::test]
async fn qos_0_is_dropped_and_counted_for_a_client_that_takes_nothing() {
    let queue = QueueLimits { messages: 5, bytes: 1 << 20, total_bytes: 1 << 30 };
    let world = World::with(Options { queue, window: 1, ..options() }, MemoryField::new(), Default::default()).await;
    let mut client = world.connect(To::new(V5, "dsd-r", "r")).await;
    client.subscribe(TOPIC, QoS::AtLeastOnce).await;
    client.subscribe("tenant/dsd/x", QoS::AtMostOnce).await;
    let mut sender = world.connect(To::new(V5, "dsd-w", "w")).await;
    // One observation is under way and a second waits at the head of the queue, so nothing behind it moves.
    send(&world, 0..2).await;
    let held = client.take().await;
    for n in 0..20 {
        sender.publish("tenant/dsd/x", &n.to_string(), QoS::AtLeastOnce, 1).await;
        assert!(matches!(sender.next().await, Packet::PublishAck(_)));
    }
    assert_eq!(world.handle.stats().dropped.get(), 16);
    client.finish(&held, held.id.expect("id")).await;
    assert_eq!(client.message().await.number(), 1.0);
    for n in 0..4 {
        assert_eq!(client.message().await.payload, n.to_string());
    }
    assert!(client.silent().await);
}

#[tokio::test]
async fn a_second_connection_takes_the_session_over() {
    let world = World::new().await;
    let to = To::new(V5, "dsd-r", "r").lasting();
    let mut first = world.connect(to).await;
    first.subscribe(TOPIC, QoS::AtLeastOnce).await;
    let (mut second, ack) = world.try_connect(to).await;
    assert!(ack.present);
    match first.maybe().await {
        Some(Packet::Disconnect(bye)) => assert_eq!(bye.reason_code, Reason::SessionTakenOver),
        other => panic!("{other:?}"),
    }
    assert!(first.maybe().await.is_none());
    send(&world, 1..3).await;
    expect(&mut second, 1..3).await;
}

#[tokio::test]
async fn wills() {
    let world = World::new().await;
    let mut watcher = world.connect(To::new(V5, "dsd-w", "w")).await;
    watcher.subscribe("tenant/dsd/gone", QoS::AtLeastOnce).await;
    let will = |delay| Some(("tenant/dsd/gone", "lost", delay));
    for version in [V3, V5] {
        // Lost: the will is sent.
        drop(world.connect(To { will: will(0), ..To::new(version, "dsd-d", "a") }).await);
        assert_eq!(watcher.message().await.payload, "lost");
        // Goodbye: it is not.
        let mut client = world.connect(To { will: will(0), ..To::new(version, "dsd-d", "b") }).await;
        client.send(Disconnect::new(Reason::NormalDisconnection).into()).await;
        assert!(client.maybe().await.is_none());
        assert!(watcher.silent().await);
    }
    // Goodbye with the will.
    let mut client = world.connect(To { will: will(0), ..To::new(V5, "dsd-d", "c") }).await;
    client.send(Disconnect::new(Reason::DisconnectWithWillMessage).into()).await;
    assert_eq!(watcher.message().await.payload, "lost");
    // Delayed, and back in time: it is not sent.
    let to = To { will: will(3_600), ..To::new(V5, "dsd-d", "d").lasting() };
    drop(world.connect(to).await);
    let mut client = world.connect(to).await;
    client.send(Disconnect::new(Reason::NormalDisconnection).into()).await;
    assert!(client.maybe().await.is_none());
    assert!(watcher.silent().await);
    // Delayed, and the session ends with the connection: it is sent at once.
    drop(world.connect(To { will: will(3_600), ..To::new(V5, "dsd-d", "e") }).await);
    assert_eq!(watcher.message().await.payload, "lost");
    // Delayed, and away for longer.
    drop(world.connect(To { will: will(1), ..To::new(V5, "dsd-d", "f").lasting() }).await);
    assert_eq!(watcher.message().await.payload, "lost");
    // A will is a message like any other: what its owner may not publish is not published.
    drop(world.connect(To { will: Some(("tenant/dsd/gone", "forged", 0)), ..To::new(V5, "epd-d", "g") }).await);
    assert!(watcher.silent().await);
}

#[tokio::test]
async fn sessions_end_when_their_time_is_over() {
    let world =
        World::with(Options { sweep: Duration::from_millis(50), ..options() }, MemoryField::new(), Default::default())
            .await;
    let to = To { expiry: 1, clean: false, ..To::new(V5, "dsd-r", "r") };
    let mut client = world.connect(to).await;
    client.subscribe(TOPIC, QoS::AtLeastOnce).await;
    assert_eq!(world.keep.sessions.lock().len(), 1);
    drop(client);
    while world.handle.stats().sessions.get() > 0 || !world.keep.sessions.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.handle.stats().subscriptions.get(), 0);
    let (_, ack) = world.try_connect(to).await;
    assert!(!ack.present);
}

#[tokio::test]
async fn a_shared_subscription_takes_turns() {
    let world = World::new().await;
    let mut members = Vec::new();
    for id in ["a", "b"] {
        let mut member = world.connect(To::new(V5, "dsd-r", id)).await;
        assert_eq!(member.subscribe("$share/g/v1.1/+/Observations", QoS::AtLeastOnce).await, 1);
        members.push(member);
    }
    send(&world, 0..10).await;
    let mut seen = Vec::new();
    for member in &mut members {
        for _ in 0..5 {
            seen.push(member.message().await.number() as i64);
        }
        assert!(member.silent().await);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_session_whose_time_is_over_is_not_resumed() {
    let world = World::new().await;
    let to = To::new(V5, "dsd-r", "r").lasting();
    let (mut client, _) = world.try_connect(to).await;
    client.subscribe(TOPIC, QoS::AtLeastOnce).await;
    drop(client);
    let ended = || world.handle.0.sessions.lock().values().any(|session| session.lock().link.is_none());
    while !ended() {
        tokio::task::yield_now().await;
    }
    send(&world, 1..3).await;
    // As if its time had passed a moment ago, before the next sweep.
    for session in world.handle.0.sessions.lock().values() {
        session.lock().expires = Some(std::time::Instant::now());
    }
    let (mut client, ack) = world.try_connect(to).await;
    assert!(!ack.present);
    send(&world, 3..4).await;
    assert!(client.silent().await, "its subscriptions are gone too");
}

/// The client goes on sending and does not read: it still learns why it was sent away.
#[tokio::test]
async fn who_is_sent_away_learns_why() {
    let world = World::new().await;
    let mut client = world.connect(To::new(V5, "dsd-d1", "d")).await;
    let most = usize::from(options().receive_max.get());
    // QoS 2 messages that are never released, one more than may be under way, and much more behind them.
    for id in 1..=u16::try_from(most).expect("id") + 50 {
        client.publish("devices/d1/rain", "1", QoS::ExactlyOnce, id).await;
    }
    let mut received = 0;
    loop {
        match client.next().await {
            Packet::PublishReceived(_) => received += 1,
            Packet::Disconnect(bye) => {
                assert_eq!(bye.reason_code, Reason::ReceiveMaximumExceeded);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(received <= most, "{received}");
}

#[tokio::test]
async fn the_server_says_goodbye() {
    let world = World::new().await;
    let mut client = world.connect(To::new(V5, "dsd-r", "r")).await;
    world.door.close().await;
    match client.maybe().await {
        Some(Packet::Disconnect(bye)) => assert_eq!(bye.reason_code, Reason::ServerShuttingDown),
        other => panic!("{other:?}"),
    }
}
