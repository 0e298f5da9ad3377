//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5 sections 3.8 and 3.10).

use std::sync::Arc;

use bytestring::ByteString;

use super::{Connection, End, outgoing::Scan};
use crate::{
    model::EntityId,
    mqtt::{
        hub::{self, Hub},
        interest::{Interest, Selection, split_query},
        session::{Audience, Subscription},
        topic,
        wire::{
            QoS, Reason, RetainHandling, Subscribe, SubscribeAck, SubscribeAckReason, Unsubscribe, UnsubscribeAck,
            UnsubscribeAckReason,
        },
    },
};

impl Connection {
    pub(super) async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let mut status = Vec::with_capacity(subscribe.topic_filters.len());
        let mut retained = Vec::new();
        for (filter, options) in &subscribe.topic_filters {
            let filter = ByteString::from(filter.to_string());
            if options.no_local && filter.starts_with("$share/") {
                return Err(End::Told(Reason::ProtocolError));
            }
            let select = match self.may_subscribe(&filter) {
                Ok(select) => select,
                Err(reason) => {
                    status.push(reason);
                    continue;
                }
            };
            if !self.hub.rights.looks(&self.caller, format!("SUBSCRIBE {filter}")).await {
                return Err(End::Told(Reason::ServerBusy));
            }
            let subscription = Subscription {
                qos: options.qos,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                id: subscribe.id,
                since: self.hub.next(),
                select,
            };
            let new = self.hub.subscribe(&self.session, &filter, subscription.clone());
            let wants = match options.retain_handling {
                RetainHandling::AtSubscribe => true,
                RetainHandling::AtSubscribeNew => new,
                RetainHandling::NoAtSubscribe => false,
            };
            let (group, _, bare) = hub::split(&filter);
            if new && matches!(Interest::of(bare), Ok(Interest::Series(_))) {
                self.hub.anchor_all().await;
            }
            // What was sent before this could not be given to it, and nothing retains a Task.
            if new && bare.ends_with("/Tasks") {
                self.hub.rights.follows_tasks(&self.caller);
            }
            if wants && group.is_none() {
                retained.push((ByteString::from(bare), subscription));
            }
            status.push(match options.qos {
                QoS::AtMostOnce => SubscribeAckReason::GrantedQos0,
                QoS::AtLeastOnce => SubscribeAckReason::GrantedQos1,
                QoS::ExactlyOnce => SubscribeAckReason::GrantedQos2,
            });
        }
        self.keep_subscriptions().await?;
        let ack = SubscribeAck { packet_id: subscribe.packet_id, properties: Vec::new(), reason_string: None, status };
        self.wire.encode(ack.into(), &mut self.out);
        for (filter, subscription) in retained {
            self.retained_for(filter, subscription).await;
        }
        Ok(())
    }

    async fn keep_subscriptions(&mut self) -> Result<(), End> {
        self.hub.save(&self.session).await.map_err(|_| End::Told(Reason::ServerBusy))
    }

    fn may_subscribe(&self, filter: &str) -> Result<Option<Arc<Selection>>, SubscribeAckReason> {
        let Ok(shared) = topic::shared(filter) else { return Err(SubscribeAckReason::TopicFilterInvalid) };
        let whole = shared.map_or(filter, |(_, rest)| rest);
        let select = Selection::of(whole).map_err(|()| SubscribeAckReason::TopicFilterInvalid)?;
        let bare = split_query(whole).0;
        if !topic::is_filter(bare) || filter.len() > topic::MAX_BYTES || Interest::of(bare).is_err() {
            return Err(SubscribeAckReason::TopicFilterInvalid);
        }
        if bare.starts_with('$') {
            return Err(SubscribeAckReason::NotAuthorized);
        }
        if let Some(rest) = bare.strip_prefix("tenant/") {
            let slug = rest.split('/').next().unwrap_or_default();
            let own = self.caller.tenant.as_ref().is_some_and(|t| t.as_str() == slug);
            if self.caller.is_anonymous() || !(own || slug == "+" || slug == "#") {
                return Err(SubscribeAckReason::NotAuthorized);
            }
        }
        let state = self.session.lock();
        if state.subscriptions.len() >= self.hub.options.subscriptions && !state.subscriptions.contains_key(filter) {
            return Err(SubscribeAckReason::QuotaExceeded);
        }
        if !self.hub.interests.admits(bare) {
            return Err(SubscribeAckReason::QuotaExceeded);
        }
        Ok(select)
    }

    /// The latest value of each Datastream is what its topic retains; it is read from the head, not stored again.
    async fn retained_for(&mut self, filter: ByteString, subscription: Subscription) {
        for (message, qos, tenant) in self.hub.retained(&filter) {
            if self.session.lock().sees(&Audience::Tenant(tenant)) {
                self.give_retained(message, qos.less_value(subscription.qos), &subscription);
            }
        }
        if filter == topic::COMMAND {
            if let Some(command) = self.hub.rights.command(&self.caller).await {
                let message = Arc::new(Hub::command(command.into(), true));
                self.give_retained(message, QoS::AtLeastOnce.less_value(subscription.qos), &subscription);
            }
            return;
        }
        if let Some((of, id)) = topic::datastream_of(&filter) {
            if let Some(info) = self.hub.info(id).await.filter(|info| info.entity() == of) {
                self.retained_value(&info, &subscription);
            }
        } else if filter.contains(['+', '#']) {
            self.scans.push_back(Scan { filter, subscription, after: EntityId(0) });
        }
    }

    /// A device whose session goes on does not subscribe again: it is told as if it did.
    pub(super) async fn recall(&mut self) {
        let kept = self.session.lock().subscriptions.get(topic::COMMAND).cloned();
        if let Some(subscription) = kept {
            self.retained_for(topic::COMMAND.into(), subscription).await;
        }
    }

    /// UNSUBSCRIBE is answered when it will survive.
    pub(super) async fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) -> Result<(), End> {
        let status = unsubscribe
            .topic_filters
            .iter()
            .map(|filter| match self.hub.unsubscribe(&self.session, filter) {
                true => UnsubscribeAckReason::Success,
                false => UnsubscribeAckReason::NoSubscriptionExisted,
            })
            .collect();
        self.keep_subscriptions().await?;
        let ack =
            UnsubscribeAck { packet_id: unsubscribe.packet_id, properties: Vec::new(), reason_string: None, status };
        self.wire.encode(ack.into(), &mut self.out);
        Ok(())
    }
}
