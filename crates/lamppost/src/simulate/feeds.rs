//! The published files, served as their publishers serve them, for connectors to poll: with `ETag`, and 304 when nothing has changed.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Address below the server, and the file of the pack's `data/`.
const FEEDS: [(&str, &str); 3] = [
    ("hko/daily-rainfall.csv", "hko-daily-rainfall.csv"),
    ("hko/waglan-daily-windspeed.csv", "waglan-daily-windspeed.csv"),
    ("epd/air-quality-daily.csv", "epd-air-quality-daily-2017-2024.csv"),
];

struct Feed {
    body: Bytes,
    etag: String,
}

/// Serves the feeds, and `more` beside them, until told to stop.
pub async fn serve(listen: SocketAddr, data: PathBuf, more: Router, stop: CancellationToken) -> Result<()> {
    let mut feeds = BTreeMap::new();
    for (address, file) in FEEDS {
        let body = std::fs::read(data.join(file)).with_context(|| format!("the feed {file}"))?;
        let etag = format!("\"{}\"", hex::encode(&Sha256::digest(&body)[..8]));
        feeds.insert(address, Feed { body: body.into(), etag });
    }
    let router = Router::new().route("/{*feed}", get(feed)).with_state(Arc::new(feeds)).merge(more);
    let listener =
        tokio::net::TcpListener::bind(listen).await.with_context(|| format!("the feeds cannot listen on {listen}"))?;
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}

async fn feed(
    State(feeds): State<Arc<BTreeMap<&'static str, Feed>>>,
    UrlPath(name): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    let Some(feed) = feeds.get(name.as_str()) else { return StatusCode::NOT_FOUND.into_response() };
    let etag = [(header::ETAG, feed.etag.clone())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == feed.etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, etag).into_response();
    }
    (etag, [(header::CONTENT_TYPE, "text/csv; charset=utf-8")], feed.body.clone()).into_response()
}
