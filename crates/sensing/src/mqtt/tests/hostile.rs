//! Any bytes at all, as they are and mixed into real packets. The fuzz target `mqtt` does the same for longer.

use std::num::NonZeroU16;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::codec::Encoder;

use super::world::{World, publish};
use crate::mqtt::wire::{Connect, Packet, QoS, Subscribe, SubscriptionOptions};

fn packets(qos: QoS) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    let all: [Packet; 4] = [
        Connect {
            clean_start: true,
            client_id: "c".into(),
            username: Some("dsd-d1".into()),
            password: Some("secret".into()),
            ..Connect::default()
        }
        .into(),
        Subscribe {
            packet_id: NonZeroU16::MIN,
            id: None,
            user_properties: Vec::new(),
            topic_filters: vec![("v1.1/#".into(), SubscriptionOptions { qos, ..SubscriptionOptions::default() })],
        }
        .into(),
        publish("v1.1/Datastreams(2)/Observations", r#"{"result":1}"#, qos, 7).into(),
        publish("tenant/dsd/x", "hello", qos, 8).into(),
    ];
    for packet in all {
        Encoder::encode(&mut rmqtt_codec::v5::Codec::default(), packet, &mut out).expect("encodes");
    }
    out.to_vec()
}

/// Sends the bytes, ends the sending side, reads to the end of what the server says.
async fn talk(world: &World, bytes: Vec<u8>) {
    let (client, server) = tokio::io::duplex(1 << 20);
    let (mut from, mut to) = tokio::io::split(client);
    let served = world.handle.serve(server, ([127, 0, 0, 1], 1).into());
    let client = async move {
        to.write_all(&bytes).await.expect("fits");
        to.shutdown().await.expect("shut");
        let mut answer = Vec::new();
        let _ = from.read_to_end(&mut answer).await;
    };
    tokio::join!(served, client);
    assert_eq!(world.handle.stats().connections.get(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_bytes_bring_the_door_down(
        qos in 0u8..3,
        noise in proptest::collection::vec(any::<u8>(), 0..60),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        at in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let world = World::new().await;
            talk(&world, noise.clone()).await;
            let mut mixed = packets(qos.try_into().expect("qos"));
            for (at, byte) in &edits {
                let at = at.index(mixed.len());
                mixed[at] = *byte;
            }
            let at = at.index(mixed.len());
            mixed.splice(at..at, noise);
            talk(&world, mixed).await;
            // The door still works, and nobody's numbers have crept in.
            talk(&world, packets(QoS::AtLeastOnce)).await;
            assert!(world.field.values().last().is_some_and(|value| *value == (2, 1.0)));
            assert_eq!(world.handle.stats().queued_bytes.get(), 0);
        });
    }
}
