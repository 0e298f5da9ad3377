//! What follows from the end of a connection: the session waits or ends, and the will is sent.

use std::{sync::Arc, time::Duration};

use rmqtt_codec::v5::LastWill;

use super::{Connection, End, incoming::message};
use crate::mqtt::{inbound::Routed, wire::PublishProperties};

impl Connection {
    pub(super) async fn finish(mut self, end: End) {
        let expiry = match end {
            End::Bye { expiry, .. } => expiry,
            _ => None,
        };
        let kept = self.session.lock().expiry > 0;
        let ended = self.hub.detach(&self.session, self.generation, expiry);
        if ended && kept {
            self.hub.forget(self.session.key.clone()).await;
        } else if !ended && !matches!(end, End::Taken { .. }) && self.hub.save(&self.session).await.is_err() {
            tracing::warn!("a session could not be saved at its client's departure; it is tried again");
            self.session.lock().dirty = true;
        }
        let wanted = !matches!(end, End::Bye { will: false, .. });
        let Some(will) = self.will.take().filter(|_| wanted) else { return };
        let over = ended || matches!(end, End::Taken { ended: true });
        let delay = Duration::from_secs(will.will_delay_interval_sec.unwrap_or(0).into());
        if over || delay.is_zero() {
            self.send_will(will).await;
        } else if !matches!(end, End::Taken { .. }) {
            // Section 3.1.3.2.2: sent when the delay has passed or the session ends, and not if the client returns before.
            let expiry = Duration::from_secs(self.session.lock().expiry.into());
            let hub = Arc::clone(&self.hub);
            tokio::spawn(async move {
                let stopped = tokio::time::timeout(delay.min(expiry), hub.stop.cancelled()).await.is_ok();
                let returned = {
                    let state = self.session.lock();
                    state.generation != self.generation
                };
                if !stopped && !returned {
                    self.send_will(will).await;
                }
            });
        }
    }

    async fn send_will(&mut self, will: LastWill) {
        let properties = PublishProperties {
            correlation_data: will.correlation_data,
            message_expiry_interval: will.message_expiry_interval,
            content_type: will.content_type,
            user_properties: will.user_properties,
            is_utf8_payload: will.is_utf8_payload.unwrap_or(false),
            response_topic: will.response_topic,
            ..PublishProperties::default()
        };
        match self.known.route(&self.hub, &self.caller, &will.topic, &will.message).await {
            Routed::Observations(observations) => {
                let count = observations.len() as u64;
                if self.hub.field.record(observations).await.is_ok() {
                    self.hub.stats.recorded.add(count);
                }
            }
            Routed::Tenant(tenant) => {
                let message = message(&will.topic, &will.message, Some(properties), 0, will.retain);
                let _ = self.hub.publish_tenant(tenant, message, will.qos).await;
            }
            // Nobody's last will is that something was done.
            Routed::Task(_) | Routed::Tasks(_) | Routed::Own(_) | Routed::Refused(..) | Routed::Unavailable => {
                self.hub.stats.rejected.add(1)
            }
        }
    }
}
