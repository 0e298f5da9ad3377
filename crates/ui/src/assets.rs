//! Files that pages load: embedded, named by their content, cached for ever, compressed once.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    path::Path,
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    extract::{Path as UrlPath, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kernel::Problem;
use serde::Deserialize;
use sha2::{Digest, Sha256};

const STYLESHEET: &[u8] = include_bytes!("../assets/lamppost.css");
const ICON: &[u8] = include_bytes!("../assets/lamp.svg");

/// No single asset is larger; a dist folder with more is refused at start, because all of it is held in memory.
const MAX_BYTES: u64 = 16 << 20;
/// Above this the slower levels of Brotli would be felt by the first reader.
const SMALL: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is not a manifest of islands: {source}")]
    Manifest { path: String, source: serde_json::Error },
    #[error("the manifest of islands names '{name}', which is not a plain file name")]
    Name { name: String },
    #[error("{path} is larger than an asset may be (16 MiB)")]
    TooLarge { path: String },
}

struct Asset {
    bytes: Vec<u8>,
    content_type: &'static str,
    etag: HeaderValue,
    brotli: OnceLock<Option<Vec<u8>>>,
    gzip: OnceLock<Option<Vec<u8>>>,
}

/// A script that enhances elements with `data-island="<name>"`.
#[derive(Clone, Debug)]
pub struct Island {
    /// Addresses, ready for the page.
    pub script: String,
    pub style: Option<String>,
}

/// All assets of the program, by address. Cheap to clone.
#[derive(Clone, Default)]
pub struct Assets {
    files: BTreeMap<String, Arc<Asset>>,
    urls: HashMap<String, String>,
    islands: HashMap<String, Island>,
}

#[derive(Deserialize)]
struct Manifest {
    islands: BTreeMap<String, ManifestIsland>,
    files: Vec<String>,
}

#[derive(Deserialize)]
struct ManifestIsland {
    js: String,
    css: Option<String>,
}

impl Assets {
    /// The stylesheet and icon, and the islands of `dist` (the folder that `cargo xtask web` builds) when it is there. A folder without
    /// a manifest means that the islands were not built: every page then shows its plain form.
    pub fn new(dist: Option<&Path>) -> Result<Self, Error> {
        let mut assets = Self::default();
        assets.add("lamppost.css", STYLESHEET.to_vec(), "text/css; charset=utf-8");
        assets.add("lamp.svg", ICON.to_vec(), "image/svg+xml");
        if let Some(dist) = dist {
            assets.add_islands(dist)?;
        }
        Ok(assets)
    }

    /// Adds a file of the program or the pack, such as the outline of the land, and returns its address.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>, content_type: &'static str) -> String {
        let hash = hex::encode(&Sha256::digest(&bytes)[..8]);
        let file = match name.rsplit_once('.') {
            Some((stem, extension)) => format!("{stem}-{hash}.{extension}"),
            None => format!("{name}-{hash}"),
        };
        let url = format!("/assets/{file}");
        self.insert(file, bytes, content_type, &hash);
        self.urls.insert(name.to_owned(), url.clone());
        url
    }

    fn insert(&mut self, file: String, bytes: Vec<u8>, content_type: &'static str, hash: &str) -> Arc<Asset> {
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"0\""));
        let asset = Arc::new(Asset { bytes, content_type, etag, brotli: OnceLock::new(), gzip: OnceLock::new() });
        self.files.insert(file, asset.clone());
        asset
    }

    fn add_islands(&mut self, dist: &Path) -> Result<(), Error> {
        let path = dist.join("manifest.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(Error::Read { path: path.display().to_string(), source }),
        };
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|source| Error::Manifest { path: path.display().to_string(), source })?;
        for name in &manifest.files {
            if name.contains(['/', '\\']) || name.starts_with('.') || name.is_empty() {
                return Err(Error::Name { name: name.clone() });
            }
            let bytes = read(&dist.join(name))?;
            let hash = hex::encode(&Sha256::digest(&bytes)[..8]);
            let asset = self.insert(name.clone(), bytes, content_type(name), &hash);
            // The build has compressed them at the highest level; a missing copy is made on first use.
            for (extension, slot) in [("br", &asset.brotli), ("gz", &asset.gzip)] {
                let packed = dist.join(format!("{name}.{extension}"));
                if packed.exists() {
                    let _ = slot.set(Some(read(&packed)?));
                }
            }
        }
        for (name, island) in manifest.islands {
            let url = |file: String| format!("/assets/{file}");
            self.islands.insert(name, Island { script: url(island.js), style: island.css.map(url) });
        }
        Ok(())
    }

    /// The address of an asset added under `name`; the plain name where there is none, which a test would show as 404.
    pub fn url<'a>(&'a self, name: &'a str) -> &'a str {
        self.urls.get(name).map_or(name, String::as_str)
    }
    pub fn island(&self, name: &str) -> Option<&Island> {
        self.islands.get(name)
    }
    /// Bytes over the wire for a client that takes Brotli: for the weight test.
    pub fn wire_bytes(&self, url: &str) -> Option<usize> {
        let asset = self.files.get(url.strip_prefix("/assets/")?)?;
        Some(asset.brotli().map_or(asset.bytes.len(), <[u8]>::len))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let at = || path.display().to_string();
    let size = std::fs::metadata(path).map_err(|source| Error::Read { path: at(), source })?.len();
    if size > MAX_BYTES {
        return Err(Error::TooLarge { path: at() });
    }
    std::fs::read(path).map_err(|source| Error::Read { path: at(), source })
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json" | "geojson") => "application/json",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

impl Asset {
    fn compressible(&self) -> bool {
        self.bytes.len() > 512 && !self.content_type.starts_with("font/")
    }
    fn brotli(&self) -> Option<&[u8]> {
        let packed = self.brotli.get_or_init(|| {
            self.compressible().then(|| {
                let quality = if self.bytes.len() <= SMALL { 9 } else { 5 };
                let mut out = brotli::CompressorWriter::new(Vec::new(), 32 << 10, quality, 22);
                // Writing into a Vec cannot fail.
                let _ = out.write_all(&self.bytes);
                out.into_inner()
            })
        });
        packed.as_deref()
    }
    fn gzip(&self) -> Option<&[u8]> {
        let packed = self.gzip.get_or_init(|| {
            self.compressible().then(|| {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                let _ = out.write_all(&self.bytes);
                out.finish().unwrap_or_default()
            })
        });
        packed.as_deref()
    }
}

/// Whether `Accept-Encoding` (RFC 9110 section 12.5.3) takes this coding.
fn accepts(headers: &HeaderMap, coding: &str) -> bool {
    let Some(value) = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()) else { return false };
    value.split(',').any(|part| {
        let mut fields = part.split(';').map(str::trim);
        let named = fields.next().is_some_and(|name| name.eq_ignore_ascii_case(coding));
        let refused = fields.any(|f| f.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()) == Some(0.0));
        named && !refused
    })
}

/// Serves `/assets/{file}`. Names carry their content's hash, so a client never asks twice (RFC 8246).
pub fn assets_router(assets: Assets) -> Router {
    Router::new().route("/assets/{file}", get(serve)).with_state(Arc::new(assets))
}

async fn serve(State(assets): State<Arc<Assets>>, UrlPath(file): UrlPath<String>, headers: HeaderMap) -> Response {
    let Some(asset) = assets.files.get(&file).cloned() else { return Problem::not_found("this file").into_response() };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let fresh = known.is_some_and(|tags| {
        tags.split(',').any(|t| t.trim().trim_start_matches("W/").as_bytes() == asset.etag.as_bytes())
    });
    let mut out = HeaderMap::new();
    out.insert(header::ETAG, asset.etag.clone());
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    out.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if fresh {
        return (StatusCode::NOT_MODIFIED, out).into_response();
    }
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    let (brotli, gzip) = (accepts(&headers, "br"), accepts(&headers, "gzip"));
    // The first reader of a file pays for its compression, on a thread that may block.
    let packed = tokio::task::spawn_blocking(move || {
        if brotli && let Some(body) = asset.brotli() {
            return (Some("br"), body.to_vec());
        }
        if gzip && let Some(body) = asset.gzip() {
            return (Some("gzip"), body.to_vec());
        }
        (None, asset.bytes.clone())
    });
    let Ok((coding, body)) = packed.await else { return Problem::internal().into_response() };
    if let Some(coding) = coding {
        out.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    (out, body).into_response()
}
