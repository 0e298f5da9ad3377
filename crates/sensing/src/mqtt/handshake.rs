//! The first packet of a connection: who is it, may it come in, and with which session.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::BytesMut;
use bytestring::ByteString;
use kernel::Caller;
use rmqtt_codec::v5::LastWill;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    city::{Login, Refusal},
    hub::{Attached, Hub},
    topic,
    wire::{Connect, ConnectAck, ConnectAckReason, Packet, Version, Wire, WireError},
};

/// What a CONNECT may be long; a will and a token fit.
const MAX_CONNECT: usize = 64 << 10;
/// Bytes of a client identifier.
const MAX_CLIENT_ID: usize = 256;

/// A client that has come in.
pub struct Welcome {
    pub wire: Wire,
    pub input: BytesMut,
    pub out: BytesMut,
    pub caller: Caller,
    pub attached: Attached,
    pub will: Option<LastWill>,
    /// Seconds; 0 for none.
    pub keep_alive: u16,
    pub receive_max: u16,
    pub alias_max: u16,
}

/// Reads CONNECT, asks who it is, answers CONNACK. `None` when the connection is not to go on.
pub async fn welcome<S>(hub: &Arc<Hub>, stream: &mut S, peer: SocketAddr, certificate: Option<&[u8]>) -> Option<Welcome>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire::new(MAX_CONNECT.min(hub.options.max_packet));
    let mut input = BytesMut::with_capacity(512);
    let first = async {
        loop {
            match wire.decode(&mut input) {
                Ok(Some(packet)) => return Some(Ok(packet)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
            if stream.read_buf(&mut input).await.ok()? == 0 {
                return None;
            }
        }
    };
    let first = tokio::time::timeout(hub.options.handshake, first).await.ok()??;
    let mut out = BytesMut::with_capacity(64);
    let connect = match first {
        Ok(Packet::Connect(connect)) => connect,
        other => {
            hub.stats.violations.add(1);
            if wire.version().is_none() {
                // Nothing told which version it speaks; a 3.1.1 CONNACK "unacceptable protocol version" is what section 3.1.2.2 asks for.
                if let Err(WireError::Version) = other {
                    out.extend_from_slice(&[0x20, 2, 0, 1]);
                }
            } else if let Err(error) = other {
                let reason = match error {
                    WireError::ClientId => ConnectAckReason::ClientIdentifierNotValid,
                    WireError::TooLarge => ConnectAckReason::PacketTooLarge,
                    _ => ConnectAckReason::MalformedPacket,
                };
                wire.encode(ConnectAck { reason_code: reason, ..ConnectAck::default() }.into(), &mut out);
            }
            send(hub, stream, &mut out).await;
            return None;
        }
    };
    match admit(hub, &connect, peer, certificate).await {
        Ok((caller, client_id)) => Some(accept(hub, *connect, caller, client_id, wire, input, out)),
        Err(reason_code) => {
            hub.stats.refused.add(1);
            wire.encode(ConnectAck { reason_code, ..ConnectAck::default() }.into(), &mut out);
            send(hub, stream, &mut out).await;
            None
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(hub: &Hub, stream: &mut S, out: &mut BytesMut) {
    // The connection ends whether or not the peer hears why.
    let _ = tokio::time::timeout(hub.options.handshake, async {
        stream.write_all_buf(out).await?;
        stream.shutdown().await
    })
    .await;
}

async fn admit(
    hub: &Hub,
    connect: &Connect,
    peer: SocketAddr,
    certificate: Option<&[u8]>,
) -> Result<(Caller, ByteString), ConnectAckReason> {
    if connect.auth_method.is_some() {
        return Err(ConnectAckReason::BadAuthenticationMethod);
    }
    if connect.client_id.len() > MAX_CLIENT_ID || connect.client_id.chars().any(char::is_control) {
        return Err(ConnectAckReason::ClientIdentifierNotValid);
    }
    if let Some(will) = &connect.last_will
        && !topic::is_name(&will.topic)
    {
        return Err(ConnectAckReason::TopicNameInvalid);
    }
    let client_id = if connect.client_id.is_empty() {
        format!("auto-{}", uuid::Uuid::new_v4().simple()).into()
    } else {
        connect.client_id.clone()
    };
    let user = match (&connect.username, certificate) {
        (Some(user), _) => user.clone(),
        // Somebody who shows a certificate wants to be known by it: one that is not wanted is not the public.
        (None, Some(_)) => ByteString::from_static(""),
        (None, None) if hub.rights.anonymous() => return Ok((Caller::anonymous(), client_id)),
        (None, None) => return Err(ConnectAckReason::NotAuthorized),
    };
    let user = &user;
    let now = Instant::now();
    if !hub.throttle.admits(peer.ip(), user, now) {
        hub.stats.throttled.add(1);
        return Err(ConnectAckReason::ConnectionRateExceeded);
    }
    let password = connect.password.as_deref().unwrap_or_default();
    let login = Login { user, password, client_id: &client_id, peer, certificate };
    match hub.authenticate.authenticate(login).await {
        Ok(caller) => {
            hub.throttle.succeeded(peer.ip(), user);
            // A session that goes on is sent what it had subscribed to.
            if !hub.rights.looks(&caller, format!("CONNECT {client_id}")).await {
                return Err(ConnectAckReason::ServerUnavailable);
            }
            Ok((caller, client_id))
        }
        Err(Refusal::Unavailable) => Err(ConnectAckReason::ServerUnavailable),
        Err(refusal) => {
            tokio::time::sleep(hub.throttle.failed(peer.ip(), user, now)).await;
            Err(match refusal {
                Refusal::Forbidden => ConnectAckReason::NotAuthorized,
                _ => ConnectAckReason::BadUserNameOrPassword,
            })
        }
    }
}

fn accept(
    hub: &Arc<Hub>,
    connect: Connect,
    caller: Caller,
    client_id: ByteString,
    mut wire: Wire,
    input: BytesMut,
    mut out: BytesMut,
) -> Welcome {
    let options = &hub.options;
    let asked = connect.session_expiry_interval_secs;
    let attached = hub.attach(&caller, &client_id, connect.clean_start, asked);
    let granted = attached.session.lock().expiry;
    wire.limit_in(options.max_packet);
    if let Some(max) = connect.max_packet_size {
        wire.limit_out(max.get());
    }
    let v5 = wire.version() == Some(Version::V5);
    // An MQTT 5 client is told when its keep alive is too long; a 3.1.1 client cannot be.
    let longest = options.keep_alive;
    let shorten = v5 && (connect.keep_alive == 0 || connect.keep_alive > longest);
    let keep_alive = if shorten { longest } else { connect.keep_alive };
    let ack = ConnectAck {
        session_present: attached.present,
        session_expiry_interval_secs: (granted != asked).then_some(granted),
        receive_max: options.receive_max,
        max_packet_size: Some(options.max_packet as u32),
        assigned_client_id: connect.client_id.is_empty().then(|| client_id.clone()),
        topic_alias_max: options.topic_aliases,
        server_keepalive_sec: shorten.then_some(longest),
        ..ConnectAck::default()
    };
    wire.encode(ack.into(), &mut out);
    Welcome {
        wire,
        input,
        out,
        caller,
        attached,
        will: connect.last_will,
        keep_alive,
        receive_max: connect.receive_max.map_or(u16::MAX, std::num::NonZeroU16::get),
        alias_max: connect.topic_alias_max.min(options.topic_aliases),
    }
}
