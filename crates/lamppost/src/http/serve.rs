//! Accepting connections: HTTP/1.1 and HTTP/2 with prior knowledge on one port, bounded, with a stop that drains.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// Connections at once. Each idle one costs about 10 kB.
const CONNECTIONS: usize = 16_384;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 200;

/// Serves until `stop`, then takes no more connections, lets requests at work finish, and returns when all are done.
/// A client that has not sent the head of its first request within `head` is not going to.
pub async fn serve(listener: TcpListener, router: Router, head: Duration, stop: CancellationToken) {
    let tasks = accept(&listener, router, head, stop).await;
    drop(listener);
    tasks.wait().await;
}

/// The same for a time: the listener stays open for whoever serves next.
pub async fn serve_meanwhile(listener: &TcpListener, router: Router, head: Duration, stop: CancellationToken) {
    accept(listener, router, head, stop).await.wait().await;
}

async fn accept(listener: &TcpListener, router: Router, head: Duration, stop: CancellationToken) -> TaskTracker {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                // Beyond the limit the connection is closed at once: a client that retries elsewhere is better served.
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let (router, stop) = (router.clone(), stop.clone());
                tasks.spawn(async move {
                    connection(socket, peer, router, head, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of files, mostly: waiting lets others close theirs.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    tasks.close();
    tasks
}

async fn connection(socket: TcpStream, peer: SocketAddr, router: Router, head: Duration, stop: CancellationToken) {
    // Answers are written whole; waiting for more only delays them.
    drop(socket.set_nodelay(true));
    let spoken = Arc::new(AtomicBool::new(false));
    let heard = spoken.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        heard.store(true, Relaxed);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head).max_headers(100);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(60));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    // The timers above begin once the version is known and do not count a connection of HTTP/2 without streams: who says nothing, or
    // half a preface, would keep its place for ever.
    let silent = async {
        tokio::time::sleep(head).await;
        if spoken.load(Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => {
            tracing::debug!(%peer, "a connection asked for nothing and was closed");
            return;
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended");
    }
}
