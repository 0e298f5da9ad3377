//! One connection: packets in, acknowledgements and messages out. Here is its turn of work; what comes in is in [`incoming`], what
//! goes out in [`outgoing`], subscriptions in [`subscribe`], and what follows from its end in [`end`].
//!
//! Everything that one read of the socket brings is decoded first and recorded together; the next read does not wait for it. So many
//! messages of a connection, and those of all connections, are made durable by the same flush, and acknowledgements still leave in
//! the order in which the messages came (section 4.6).

mod end;
mod incoming;
mod outgoing;
mod subscribe;

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use bytestring::ByteString;
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesOrdered},
};
use kernel::Caller;
use rmqtt_codec::v5::LastWill;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    city::{Applied, RecordError},
    handshake::Welcome,
    hub::{Attached, Hub},
    inbound::Known,
    session::{Delivery, Link, Session},
    wire::{Disconnect, Packet, Reason, Version, Wire, WireError},
};
use incoming::{Ack, Batch};
use outgoing::Scan;

/// Bytes of output that wait for the socket before no more is encoded.
const OUT_BYTES: usize = 64 << 10;
/// Bytes asked of the socket at once, at rest and at full speed.
const READ: std::ops::RangeInclusive<usize> = 2_048..=65_536;
/// Messages of one connection that wait to become durable; then it is read no further.
const PENDING: usize = 4_096;

/// How long, and for how many bytes, a client that was sent away is listened to.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 << 10);

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// DISCONNECT from the client: the will is discarded.
    Bye { expiry: Option<u32>, will: bool },
    /// The socket is gone.
    Lost,
    /// The server ends it, and says why when the version has words for it.
    Told(Reason),
    /// Another connection has the session; whether the session began anew.
    Taken { ended: bool },
}

type Pending = BoxFuture<'static, (Vec<Ack>, Result<(), RecordError>)>;

pub struct Connection {
    hub: Arc<Hub>,
    session: Arc<Session>,
    link: Arc<Link>,
    generation: u64,
    caller: Arc<Caller>,
    wire: Wire,
    version: Version,
    input: BytesMut,
    out: BytesMut,
    window: usize,
    pending: FuturesOrdered<Pending>,
    waiting: usize,
    /// Of those, the ones whose acknowledgement the client awaits: its use of Receive Maximum.
    unacknowledged: usize,
    batch: Batch,
    known: Known,
    aliases_in: Vec<Option<ByteString>>,
    aliases_out: HashMap<ByteString, NonZeroU16>,
    alias_max: u16,
    will: Option<LastWill>,
    silence: Option<Duration>,
    scans: VecDeque<Scan>,
    replay: Option<BoxStream<'static, Applied>>,
    frame: Option<(Applied, usize)>,
    outgoing: Vec<(Option<NonZeroU16>, Delivery)>,
}

impl Connection {
    pub fn new(hub: Arc<Hub>, welcome: Welcome) -> Self {
        let Welcome { wire, input, out, caller, attached, will, keep_alive, receive_max, alias_max } = welcome;
        let Attached { session, generation, link, .. } = attached;
        let version = wire.version().unwrap_or(Version::V3);
        let window = usize::from(receive_max).min(hub.options.window);
        Self {
            session,
            link,
            generation,
            caller: Arc::new(caller),
            wire,
            version,
            input,
            out,
            window,
            pending: FuturesOrdered::new(),
            waiting: 0,
            unacknowledged: 0,
            batch: Batch::default(),
            known: Known::default(),
            aliases_in: vec![None; usize::from(hub.options.topic_aliases)],
            aliases_out: HashMap::new(),
            alias_max,
            will,
            // Section 3.1.2.10: one and a half times the keep alive.
            silence: (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1_500)),
            scans: VecDeque::new(),
            replay: None,
            frame: None,
            outgoing: Vec::new(),
            hub,
        }
    }

    /// Serves the connection to its end, including what follows from it: the will, the session's expiry.
    pub async fn run<R, W>(mut self, mut reader: R, mut writer: W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        self.hub.rights.connected(&self.caller, true);
        let end = self.turn(&mut reader, &mut writer).await;
        self.settle().await;
        if let End::Told(reason) = end {
            if !matches!(reason, Reason::ServerShuttingDown | Reason::SessionTakenOver | Reason::KeepAliveTimeout) {
                self.hub.stats.violations.add(1);
            }
            self.wire.encode(Disconnect::new(reason).into(), &mut self.out);
        }
        if let End::Taken { .. } = end {
            self.wire.encode(Disconnect::new(Reason::SessionTakenOver).into(), &mut self.out);
        }
        if end != End::Lost {
            let _ = tokio::time::timeout(Duration::from_secs(2), async {
                writer.write_all_buf(&mut self.out).await?;
                writer.shutdown().await
            })
            .await;
        }
        self.hub.rights.connected(&self.caller, false);
        let told = match end {
            End::Told(reason) => reason != Reason::ServerShuttingDown,
            End::Taken { .. } => true,
            End::Bye { .. } | End::Lost => false,
        };
        self.finish(end).await;
        if told {
            linger(&mut reader).await;
        }
    }

    async fn turn<R, W>(&mut self, reader: &mut R, writer: &mut W) -> End
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // Waited for in every turn, so they are made once and not queued for anew each time.
        let (hub, link) = (Arc::clone(&self.hub), Arc::clone(&self.link));
        let mut stop = std::pin::pin!(hub.stop.cancelled());
        let mut woken = std::pin::pin!(link.wake.notified());
        let stall = self.hub.options.stall;
        let tick = self.silence.unwrap_or(stall).min(stall) / 4;
        let mut timer = tokio::time::interval(tick.max(Duration::from_millis(50)));
        let (mut heard, mut progress) = (Instant::now(), Instant::now());
        let mut chunk = *READ.start();
        self.resume();
        self.recall().await;
        // CONNECT may have brought more packets with it.
        if let Err(end) = self.decode().await {
            return end;
        }
        loop {
            if let Some((reason, ended)) = link.ending() {
                return if reason == Reason::SessionTakenOver { End::Taken { ended } } else { End::Told(reason) };
            }
            if let Err(end) = self.fill().await {
                return end;
            }
            if self.out.is_empty() {
                progress = Instant::now();
            }
            // A burst must not be paid for by an idle connection for ever.
            if self.input.is_empty() && self.input.capacity() > 2 * chunk {
                self.input = BytesMut::new();
            }
            let wants_frame = self.frame.is_none() && self.replay.is_some() && self.out.len() < OUT_BYTES;
            let may_read = self.waiting < PENDING && self.out.len() < 4 * OUT_BYTES;
            if may_read {
                self.input.reserve(chunk);
            }
            tokio::select! {
                biased;
                () = &mut stop => return End::Told(Reason::ServerShuttingDown),
                written = writer.write_buf(&mut self.out), if !self.out.is_empty() => match written {
                    Ok(n) if n > 0 => progress = Instant::now(),
                    _ => return End::Lost,
                },
                Some((acks, result)) = self.pending.next(), if !self.pending.is_empty() => {
                    if let Err(end) = self.acknowledge(acks, result) {
                        return end;
                    }
                    while let Some(Some((acks, result))) = self.pending.next().now_or_never() {
                        if let Err(end) = self.acknowledge(acks, result) {
                            return end;
                        }
                    }
                }
                read = reader.read_buf(&mut self.input), if may_read => match read {
                    Ok(n) if n > 0 => {
                        heard = Instant::now();
                        chunk = if n >= chunk { (chunk * 2).min(*READ.end()) } else if n < chunk / 4 { (chunk / 2).max(*READ.start()) } else { chunk };
                        if let Err(end) = self.decode().await {
                            return end;
                        }
                    }
                    _ => return End::Lost,
                },
                () = &mut woken => woken.set(link.wake.notified()),
                frame = next_frame(&mut self.replay), if wants_frame => match frame {
                    Some(applied) => self.frame = Some((applied, 0)),
                    // The stream could not be read: the session stays behind, and the client comes back.
                    None => return End::Told(Reason::ServerBusy),
                },
                _ = timer.tick() => {
                    if self.silence.is_some_and(|silence| heard.elapsed() > silence) && may_read {
                        return End::Told(Reason::KeepAliveTimeout);
                    }
                    if !self.out.is_empty() && progress.elapsed() > stall {
                        self.hub.stats.stalled.add(1);
                        return End::Lost;
                    }
                }
            }
        }
    }

    async fn decode(&mut self) -> Result<(), End> {
        let result = loop {
            match self.wire.decode(&mut self.input) {
                Ok(None) => break Ok(()),
                Ok(Some(packet)) => {
                    if let Err(end) = self.handle(packet).await {
                        break Err(end);
                    }
                }
                Err(error) => break Err(End::Told(WireError::reason(error))),
            }
        };
        // What came before a bad packet stands.
        self.flush();
        result
    }

    async fn handle(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.received(*publish).await,
            Packet::PublishAck(ack) => {
                self.session.own(self.generation, |state| state.done(ack.packet_id, false));
                Ok(())
            }
            Packet::PublishReceived(ack) => {
                self.pubrec(&ack);
                Ok(())
            }
            Packet::PublishComplete(ack) => {
                self.session.own(self.generation, |state| state.done(ack.packet_id, true));
                Ok(())
            }
            Packet::PublishRelease(ack) => self.pubrel(ack.packet_id),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe).await,
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe).await,
            Packet::PingRequest => {
                self.wire.encode(Packet::PingResponse, &mut self.out);
                Ok(())
            }
            Packet::Disconnect(bye) => {
                // Section 3.14.2.2.2: an expiry of 0 cannot be raised afterwards.
                if bye.session_expiry_interval_secs.is_some_and(|s| s > 0) && self.session.lock().expiry == 0 {
                    return Err(End::Told(Reason::ProtocolError));
                }
                let will = bye.reason_code != Reason::NormalDisconnection;
                Err(End::Bye { expiry: bye.session_expiry_interval_secs, will })
            }
            _ => Err(End::Told(Reason::ProtocolError)),
        }
    }
}

/// Takes what still comes: a socket that is closed with unread input is reset (RFC 1122 section 4.2.2.13), and the client then may
/// never see why it was sent away, nor its last acknowledgements.
async fn linger<R: AsyncRead + Unpin>(reader: &mut R) {
    let (mut waste, mut left) = (vec![0; 4_096], LINGER.1);
    let take = async {
        while let Ok(n) = reader.read(&mut waste).await
            && n > 0
            && n < left
        {
            left -= n;
        }
    };
    // Whoever goes on sending after that does not listen.
    let _ = tokio::time::timeout(LINGER.0, take).await;
}

async fn next_frame(replay: &mut Option<BoxStream<'static, Applied>>) -> Option<Applied> {
    match replay {
        Some(replay) => replay.next().await,
        None => std::future::pending().await,
    }
}
