//! Bytes to packets and back: framing and its limits are ours, the packets' fields are the codec crate's.
//!
//! Inside the door every packet has its MQTT 5 shape; this file alone knows that 3.1.1 exists. A frame is handed to the codec only
//! when it is complete: a peer that announces a megabyte and sends a byte costs a byte.

use bytes::{Buf, BytesMut};
use rmqtt_codec::{error::DecodeError, v3, v5};
use tokio_util::codec::{Decoder, Encoder};

pub use rmqtt_codec::{
    types::Publish,
    v5::{
        Connect, ConnectAck, ConnectAckReason, Disconnect, DisconnectReasonCode as Reason, Packet, PublishAck,
        PublishAck2, PublishAck2Reason, PublishAckReason, PublishProperties, QoS, RetainHandling, Subscribe,
        SubscribeAck, SubscribeAckReason, SubscriptionOptions, Unsubscribe, UnsubscribeAck, UnsubscribeAckReason,
    },
};

/// Which edition of the standard a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// 3.1.1 (ISO/IEC 20922) and its predecessor 3.1.
    V3,
    /// 5.0 (OASIS, 2019).
    V5,
}

/// Why bytes are not a packet; each has its place in MQTT 5 section 4.13.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    #[error("the packet is malformed")]
    Malformed,
    #[error("the packet breaks the protocol")]
    Protocol,
    #[error("the packet is larger than this server accepts")]
    TooLarge,
    #[error("this protocol version is not spoken here")]
    Version,
    #[error("the client identifier is not valid")]
    ClientId,
}

impl WireError {
    pub fn reason(self) -> Reason {
        match self {
            Self::Malformed => Reason::MalformedPacket,
            Self::TooLarge => Reason::PacketTooLarge,
            Self::Protocol | Self::Version | Self::ClientId => Reason::ProtocolError,
        }
    }
}

impl From<DecodeError> for WireError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::MaxSizeExceeded { .. } => Self::TooLarge,
            DecodeError::UnsupportedProtocolLevel => Self::Version,
            DecodeError::InvalidClientId => Self::ClientId,
            DecodeError::UnsupportedPacketType => Self::Protocol,
            _ => Self::Malformed,
        }
    }
}

enum Codec {
    /// Before CONNECT.
    Unknown,
    V3(v3::Codec),
    V5(v5::Codec),
}

/// One connection's codec.
pub struct Wire {
    codec: Codec,
    max_packet: usize,
}

/// The fixed header (section 2.1): its own length and that of what follows; `None` when bytes are missing.
fn frame(bytes: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let (mut length, mut shift) = (0usize, 0);
    for (at, byte) in bytes.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(Some((at + 1, length)));
        }
        shift += 7;
    }
    if bytes.len() >= 5 { Err(WireError::Malformed) } else { Ok(None) }
}

/// The protocol level of a CONNECT's body, after its protocol name.
fn level(body: &[u8]) -> Result<u8, WireError> {
    match body {
        [0, 4, b'M', b'Q', b'T', b'T', level, ..] => Ok(*level),
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, ..] => Ok(3),
        _ => Err(WireError::Malformed),
    }
}

impl Wire {
    pub fn new(max_packet: usize) -> Self {
        Self { codec: Codec::Unknown, max_packet }
    }

    /// `None` until a CONNECT has told.
    pub fn version(&self) -> Option<Version> {
        match self.codec {
            Codec::Unknown => None,
            Codec::V3(_) => Some(Version::V3),
            Codec::V5(_) => Some(Version::V5),
        }
    }

    /// Honours the client's Maximum Packet Size (section 3.1.2.11.4): encoding anything larger then fails.
    pub fn limit_out(&mut self, bytes: u32) {
        if let Codec::V5(codec) = &mut self.codec {
            codec.set_max_outbound_size(bytes);
        }
    }

    /// A larger limit for a client that has signed in.
    pub fn limit_in(&mut self, bytes: usize) {
        self.max_packet = bytes;
    }

    /// The next packet of `buffer`; `None` until it is complete.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, WireError> {
        // Whoever speaks something else is not waited for.
        if matches!(self.codec, Codec::Unknown) && buffer.first().is_some_and(|first| *first != 0x10) {
            return Err(WireError::Protocol);
        }
        let Some((header, length)) = frame(buffer)? else { return Ok(None) };
        if header + length > self.max_packet {
            return Err(WireError::TooLarge);
        }
        if buffer.len() < header + length {
            return Ok(None);
        }
        let first = buffer[0];
        if let Codec::Unknown = self.codec {
            self.codec = match level(&buffer[header..header + length])? {
                3 | 4 => Codec::V3(v3::Codec::default()),
                5 => Codec::V5(v5::Codec::default()),
                _ => return Err(WireError::Version),
            };
        }
        let v3 = matches!(self.codec, Codec::V3(_));
        // What the codec lets pass: a body where none may be, and flags that must be zero (sections 2.1.3, 3.3.1.1).
        let empty = matches!(first, 0xc0 | 0xd0) || (v3 && first == 0xe0);
        if (empty && length != 0) || (first & 0xf8 == 0x38 && first & 0x06 == 0) {
            return Err(WireError::Malformed);
        }
        if v3 && first == 0x82 {
            check_v3_subscribe(&buffer[header..header + length])?;
        }
        match &mut self.codec {
            Codec::V3(codec) => Ok(codec.decode(buffer)?.map(|(packet, _)| from_v3(packet)).transpose()?),
            Codec::V5(codec) => Ok(codec.decode(buffer)?.map(|(packet, _)| packet)),
            Codec::Unknown => Err(WireError::Protocol),
        }
    }

    /// Appends `packet` to `out`. `false` when the client's Maximum Packet Size forbids it; nothing is then written.
    pub fn encode(&mut self, packet: Packet, out: &mut BytesMut) -> bool {
        let before = out.len();
        let done = match &mut self.codec {
            Codec::V3(codec) => match to_v3(packet) {
                Some(packet) => codec.encode(packet, out).is_ok(),
                None => true,
            },
            Codec::V5(codec) => codec.encode(packet, out).is_ok(),
            Codec::Unknown => true,
        };
        if !done {
            out.truncate(before);
        }
        done
    }
}

/// Reserved bits beside the requested QoS must be zero (3.1.1 section 3.8.3); the codec masks them away.
fn check_v3_subscribe(mut body: &[u8]) -> Result<(), WireError> {
    if body.len() < 2 {
        return Err(WireError::Malformed);
    }
    body.advance(2);
    while body.len() >= 2 {
        let length = usize::from(body.get_u16());
        if body.len() <= length || body[length] > 2 {
            return Err(WireError::Malformed);
        }
        body.advance(length + 1);
    }
    if body.is_empty() { Ok(()) } else { Err(WireError::Malformed) }
}

fn ack(packet_id: std::num::NonZeroU16) -> PublishAck {
    PublishAck { packet_id, ..PublishAck::default() }
}
fn ack2(packet_id: std::num::NonZeroU16) -> PublishAck2 {
    PublishAck2 { packet_id, ..PublishAck2::default() }
}

fn from_v3(packet: v3::Packet) -> Result<Packet, WireError> {
    Ok(match packet {
        v3::Packet::Connect(c) => Packet::Connect(Box::new(Connect {
            clean_start: c.clean_session,
            keep_alive: c.keep_alive,
            // Clean Session 0 means a session without an end (section 3.1.2.4); the door has its own maximum.
            session_expiry_interval_secs: if c.clean_session { 0 } else { u32::MAX },
            auth_method: None,
            auth_data: None,
            request_problem_info: false,
            request_response_info: false,
            receive_max: None,
            topic_alias_max: 0,
            user_properties: Vec::new(),
            max_packet_size: None,
            last_will: c.last_will.map(|will| v5::LastWill {
                qos: will.qos,
                retain: will.retain,
                topic: will.topic,
                message: will.message,
                will_delay_interval_sec: None,
                correlation_data: None,
                message_expiry_interval: None,
                content_type: None,
                user_properties: Vec::new(),
                is_utf8_payload: None,
                response_topic: None,
            }),
            client_id: c.client_id,
            username: c.username,
            password: c.password,
            cert: None,
        })),
        v3::Packet::Publish(publish) => Packet::Publish(publish),
        v3::Packet::PublishAck { packet_id } => Packet::PublishAck(ack(packet_id)),
        v3::Packet::PublishReceived { packet_id } => Packet::PublishReceived(ack(packet_id)),
        v3::Packet::PublishRelease { packet_id } => Packet::PublishRelease(ack2(packet_id)),
        v3::Packet::PublishComplete { packet_id } => Packet::PublishComplete(ack2(packet_id)),
        v3::Packet::Subscribe { packet_id, topic_filters } => Packet::Subscribe(Subscribe {
            packet_id,
            id: None,
            user_properties: Vec::new(),
            topic_filters: topic_filters
                .into_iter()
                .map(|(filter, qos)| (filter, SubscriptionOptions { qos, ..SubscriptionOptions::default() }))
                .collect(),
        }),
        v3::Packet::Unsubscribe { packet_id, topic_filters } => {
            Packet::Unsubscribe(Unsubscribe { packet_id, user_properties: Vec::new(), topic_filters })
        }
        v3::Packet::PingRequest => Packet::PingRequest,
        v3::Packet::Disconnect => Packet::Disconnect(Disconnect::new(Reason::NormalDisconnection)),
        _ => return Err(WireError::Protocol),
    })
}

/// `None` for what 3.1.1 has no packet for: a server's DISCONNECT, AUTH.
fn to_v3(packet: Packet) -> Option<v3::Packet> {
    Some(match packet {
        Packet::ConnectAck(ack) => v3::Packet::ConnectAck(v3::ConnectAck {
            session_present: ack.session_present,
            return_code: match ack.reason_code {
                ConnectAckReason::Success => v3::ConnectAckReason::ConnectionAccepted,
                ConnectAckReason::UnsupportedProtocolVersion => v3::ConnectAckReason::UnacceptableProtocolVersion,
                ConnectAckReason::ClientIdentifierNotValid => v3::ConnectAckReason::IdentifierRejected,
                ConnectAckReason::BadUserNameOrPassword => v3::ConnectAckReason::BadUserNameOrPassword,
                ConnectAckReason::NotAuthorized | ConnectAckReason::Banned => v3::ConnectAckReason::NotAuthorized,
                _ => v3::ConnectAckReason::ServiceUnavailable,
            },
        }),
        Packet::Publish(publish) => v3::Packet::Publish(publish),
        Packet::PublishAck(ack) => v3::Packet::PublishAck { packet_id: ack.packet_id },
        Packet::PublishReceived(ack) => v3::Packet::PublishReceived { packet_id: ack.packet_id },
        Packet::PublishRelease(ack) => v3::Packet::PublishRelease { packet_id: ack.packet_id },
        Packet::PublishComplete(ack) => v3::Packet::PublishComplete { packet_id: ack.packet_id },
        Packet::SubscribeAck(ack) => v3::Packet::SubscribeAck {
            packet_id: ack.packet_id,
            status: ack
                .status
                .into_iter()
                .map(|status| match status {
                    SubscribeAckReason::GrantedQos0 => v3::SubscribeReturnCode::Success(QoS::AtMostOnce),
                    SubscribeAckReason::GrantedQos1 => v3::SubscribeReturnCode::Success(QoS::AtLeastOnce),
                    SubscribeAckReason::GrantedQos2 => v3::SubscribeReturnCode::Success(QoS::ExactlyOnce),
                    _ => v3::SubscribeReturnCode::Failure,
                })
                .collect(),
        },
        Packet::UnsubscribeAck(ack) => v3::Packet::UnsubscribeAck { packet_id: ack.packet_id },
        Packet::PingResponse => v3::Packet::PingResponse,
        _ => return None,
    })
}
