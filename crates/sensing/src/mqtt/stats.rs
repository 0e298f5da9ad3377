//! What the door counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only the door changes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters and gauges of the MQTT door, for `/metrics`.
        #[derive(Debug, Default)]
        pub struct Stats { $($(#[doc = $doc])+ pub $name: Counter,)+ }

        impl Stats {
            /// Name, help and value of each; the help of a gauge says that it is one.
            pub fn list(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((concat!("mqtt_", stringify!($name)), concat!($($doc),+).trim(), self.$name.get()),)+]
            }
        }
    };
}

stats! {
    /// Connections open (gauge).
    connections,
    /// Sessions kept, connected or not (gauge).
    sessions,
    /// Subscriptions held (gauge).
    subscriptions,
    /// Bytes queued for subscribers (gauge).
    queued_bytes,
    /// Connections accepted.
    accepted,
    /// Connections refused because the door was full.
    full,
    /// Sign-ins refused.
    refused,
    /// Sign-ins not even tried because of too many failures.
    throttled,
    /// Connections ended because of malformed or forbidden packets.
    violations,
    /// Connections ended because a subscriber took nothing for too long.
    stalled,
    /// PUBLISH packets received.
    received,
    /// Observations made durable.
    recorded,
    /// PUBLISH packets that were refused.
    rejected,
    /// PUBLISH packets not recorded because the stream was away.
    unavailable,
    /// PUBLISH packets sent.
    sent,
    /// QoS 0 messages dropped because a subscriber's queue was full.
    dropped,
    /// Times a subscriber fell behind and went back to the stream.
    deferred,
    /// Messages dropped because they had expired or exceed the client's packet size.
    unsendable,
    /// Entities that were created or changed and given to their subscribers.
    entities,
    /// Changes of entities of which subscribers could not be told.
    untold,
    /// Times a session came back after retention had removed what it was owed.
    overtaken,
    /// Records of the stream that were gone when a session came back for them.
    overtaken_records,
    /// Retained messages kept (gauge).
    retained,
}
