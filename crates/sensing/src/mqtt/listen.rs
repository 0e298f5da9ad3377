//! The doors themselves: TCP and TLS, how many may come in, and going away in order.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use kernel::Clock;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{Error, connection::Connection, handshake, hub::Hub};

/// Certificate and key for MQTT over TLS, as PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    pub certificates: PathBuf,
    pub key: PathBuf,
    /// Authorities of client certificates. When given, a client may show one, and it must then be valid; without a user name it signs in
    /// with it, else who it is its key says.
    pub client_authorities: Option<PathBuf>,
    /// Revocation lists of those authorities (PEM, RFC 5280 section 5).
    pub client_revocations: Option<PathBuf>,
}

/// The program's clock, for the dates of certificates.
struct Time(Arc<dyn Clock>);

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

impl rustls::time_provider::TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = u64::try_from(self.0.now().as_micros()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_micros(since)))
    }
}

/// TLS 1.2 and 1.3 with ring; the process-wide default provider is not relied on.
pub fn acceptor(tls: &Tls, clock: &Arc<dyn Clock>) -> Result<TlsAcceptor, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let read = |path: &PathBuf| -> Result<Vec<CertificateDer<'static>>, Error> {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|e| Error::Tls(format!("{}: {e}", path.display())))
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| Error::Tls(format!("{}: {e}", tls.key.display())))?;
    let wrong = |e: rustls::Error| Error::Tls(e.to_string());
    let time = Arc::new(Time(Arc::clone(clock)));
    let builder = rustls::ServerConfig::builder_with_details(Arc::clone(&provider), time)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    let builder = match &tls.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for authority in read(path)? {
                roots.add(authority).map_err(wrong)?;
            }
            let revocations: Vec<CertificateRevocationListDer<'static>> = match &tls.client_revocations {
                Some(path) => CertificateRevocationListDer::pem_file_iter(path)
                    .and_then(Iterator::collect)
                    .map_err(|e| Error::Tls(format!("{}: {e}", path.display())))?,
                None => Vec::new(),
            };
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .with_crls(revocations)
                // An authority above the one that issued needs no list of its own here.
                .only_check_end_entity_revocation()
                .allow_unknown_revocation_status()
                .allow_unauthenticated()
                .build()
                .map_err(|e| Error::Tls(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(read(&tls.certificates)?, key).map_err(wrong)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves a stream that speaks MQTT, wherever it comes from. `split` makes the halves: a socket has its own, which need no lock.
pub async fn serve<S, R, W>(
    hub: Arc<Hub>,
    mut stream: S,
    split: impl FnOnce(S) -> (R, W),
    peer: SocketAddr,
    certificate: Option<Vec<u8>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    hub.stats.accepted.add(1);
    hub.stats.connections.add(1);
    // Boxed: the handshake's state is not carried by ten thousand idle connections.
    let welcome = Box::pin(handshake::welcome(&hub, &mut stream, peer, certificate.as_deref())).await;
    drop(certificate);
    if let Some(welcome) = welcome {
        let (reader, writer) = split(stream);
        Connection::new(Arc::clone(&hub), welcome).run(reader, writer).await;
    }
    hub.stats.connections.sub(1);
}

/// Accepts until the door stops, then waits for the connections to end.
pub async fn accept(hub: Arc<Hub>, listener: TcpListener, tls: Option<TlsAcceptor>, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = hub.stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely no file descriptors are left: accepting again at once would only spin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            hub.stats.full.add(1);
            continue;
        };
        let (hub, tls) = (Arc::clone(&hub), tls.clone());
        connections.spawn(async move {
            let _place = place;
            // Acknowledgements are small and awaited.
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve(hub, stream, TcpStream::into_split, peer, None).await,
                Some(tls) => secure(hub, tls, stream, peer).await,
            }
        });
    }
    let _ =
        tokio::time::timeout(Duration::from_secs(10), async { while connections.join_next().await.is_some() {} }).await;
}

async fn secure(hub: Arc<Hub>, tls: TlsAcceptor, stream: TcpStream, peer: SocketAddr) {
    let Ok(Ok(stream)) = tokio::time::timeout(hub.options.handshake, tls.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
    serve(hub, stream, tokio::io::split, peer, certificate).await;
}
