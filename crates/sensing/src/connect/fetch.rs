//! Getting a document: over HTTP, conditionally and within limits, or from files that the operator has opened to connectors.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Response, Url, redirect};
use sha2::{Digest, Sha256};

use super::{
    Options,
    guard::{self, Allowed, PublicOnly},
};

/// Why a run failed, in words for an operator: they name no address with its query, which may hold a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    pub text: String,
    /// Seconds that the publisher asks us to wait (RFC 9110 section 10.2.3).
    pub retry_after: Option<u32>,
    /// What failed was a store of ours, and not what was read.
    pub store: Option<Box<kernel::Problem>>,
}

impl Failure {
    pub fn new(text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self {
            text: text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect(),
            retry_after: None,
            store: None,
        }
    }
}

/// What makes the next request conditional (RFC 9110 section 13.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    pub etag: Option<String>,
    pub modified: Option<String>,
}

#[derive(Debug)]
pub enum Answer {
    /// 304: as it was.
    Same,
    Document {
        bytes: Vec<u8>,
        tags: Tags,
    },
}

pub struct Fetcher {
    /// Connects to the public internet only.
    public: Client,
    /// For what the operator has listed.
    inside: Client,
    allowed: Allowed,
    base: PathBuf,
    folders: Vec<PathBuf>,
    max_bytes: usize,
}

const MAX_REDIRECTS: usize = 5;
/// Files of one folder.
const MAX_FILES: usize = 10_000;
/// Characters of an entity tag that is worth keeping.
const MAX_TAG: usize = 1_000;

pub fn content_hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl Fetcher {
    /// # Errors
    /// When the platform offers no TLS roots.
    pub fn new(options: &Options) -> Result<Self, reqwest::Error> {
        let client = || {
            Client::builder()
                .redirect(redirect::Policy::none())
                // A proxy from the environment would resolve names where the guard does not look.
                .no_proxy()
                .timeout(options.time_limit)
                .connect_timeout(options.time_limit.min(Duration::from_secs(10)))
                .pool_max_idle_per_host(1)
                .user_agent("Lamppost")
        };
        Ok(Self {
            public: client().dns_resolver(std::sync::Arc::new(PublicOnly)).build()?,
            inside: client().build()?,
            allowed: options.allowed.clone(),
            base: options.base.clone(),
            folders: options.folders.clone(),
            max_bytes: options.max_bytes,
        })
    }

    /// Asks for `url`, following a few redirects. Somebody else's redirect never leads inside: only an address that is itself listed may.
    ///
    /// # Errors
    /// What the operator should know.
    pub async fn url(&self, url: &str, known: &Tags) -> Result<Answer, Failure> {
        let mut url = guard::parse(url).map_err(Failure::new)?;
        let listed = self.allowed.has(&url);
        for _ in 0..=MAX_REDIRECTS {
            let client = if listed && self.allowed.has(&url) {
                &self.inside
            } else {
                guard::public(&url).map_err(Failure::new)?;
                &self.public
            };
            let mut request = client.get(url.clone());
            if let Some(etag) = &known.etag {
                request = request.header(header::IF_NONE_MATCH, etag);
            }
            if let Some(modified) = &known.modified {
                request = request.header(header::IF_MODIFIED_SINCE, modified);
            }
            let response = request.send().await.map_err(|e| Failure::new(reason(&e.without_url())))?;
            match response.status() {
                StatusCode::NOT_MODIFIED => return Ok(Answer::Same),
                StatusCode::OK => return self.body(response).await,
                status if status.is_redirection() => url = target(&url, response.headers())?,
                status => {
                    let retry_after =
                        response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
                    return Err(Failure {
                        retry_after,
                        ..Failure::new(format!("the publisher answered {}", status.as_u16()))
                    });
                }
            }
        }
        Err(Failure::new(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Reads at most the limit, counted after decompression, so that a small answer cannot become a large one.
    async fn body(&self, mut response: Response) -> Result<Answer, Failure> {
        let too_large = || Failure::new(format!("the document is larger than {} bytes", self.max_bytes));
        let tag = |name| {
            response.headers().get(name).and_then(|v| v.to_str().ok()).filter(|t| t.len() <= MAX_TAG).map(str::to_owned)
        };
        let tags = Tags { etag: tag(header::ETAG), modified: tag(header::LAST_MODIFIED) };
        let announced = response.content_length();
        if announced.is_some_and(|n| usize::try_from(n).map_or(true, |n| n > self.max_bytes)) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| Failure::new(reason(&e.without_url())))? {
            if bytes.len() + chunk.len() > self.max_bytes {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer::Document { bytes, tags })
    }

    /// The place of a declared path: below the pack when it is relative, below a listed folder otherwise; also after links are followed.
    fn place(&self, path: &str) -> Result<PathBuf, Failure> {
        let path = Path::new(path);
        let relative = path.is_relative();
        let full = if relative { self.base.join(path) } else { path.to_owned() };
        let real = full.canonicalize().map_err(|e| Failure::new(format!("'{}': {e}", path.display())))?;
        let roots = if relative { std::slice::from_ref(&self.base) } else { &self.folders };
        if roots.iter().filter_map(|r| r.canonicalize().ok()).any(|root| real.starts_with(root)) {
            Ok(real)
        } else {
            Err(Failure::new(format!(
                "'{}' lies outside of what the operator has opened to connectors",
                path.display()
            )))
        }
    }

    /// # Errors
    /// What the operator should know. Blocks.
    pub fn file(&self, path: &str) -> Result<Vec<u8>, Failure> {
        self.read(&self.place(path)?)
    }

    /// # Errors
    /// What the operator should know. Blocks.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        let wrong = |e: std::io::Error| Failure::new(format!("'{}': {e}", path.display()));
        let file = std::fs::File::open(path).map_err(wrong)?;
        if !file.metadata().map_err(wrong)?.is_file() {
            return Err(Failure::new(format!("'{}' is not a file", path.display())));
        }
        let mut bytes = Vec::new();
        file.take(self.max_bytes as u64 + 1).read_to_end(&mut bytes).map_err(wrong)?;
        if bytes.len() > self.max_bytes {
            return Err(Failure::new(format!("'{}' is larger than {} bytes", path.display(), self.max_bytes)));
        }
        Ok(bytes)
    }

    /// The files of a folder that fit, by name. What begins with a dot or ends in `.part` or `.tmp` is still being written: writers move a
    /// file to its name when it is complete.
    ///
    /// # Errors
    /// What the operator should know. Blocks.
    pub fn folder(&self, path: &str, pattern: Option<&str>) -> Result<Vec<(String, PathBuf)>, Failure> {
        let folder = self.place(path)?;
        let wrong = |e: std::io::Error| Failure::new(format!("'{}': {e}", folder.display()));
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let unfinished = name.starts_with('.') || name.ends_with(".part") || name.ends_with(".tmp");
            if unfinished || !fits(&name, pattern) || !entry.file_type().map_err(wrong)?.is_file() {
                continue;
            }
            found.push((name, entry.path()));
            if found.len() > MAX_FILES {
                return Err(Failure::new(format!("more than {MAX_FILES} files in '{}'", folder.display())));
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Whether a file's name fits a pattern with at most one `*`.
fn fits(name: &str, pattern: Option<&str>) -> bool {
    let Some(pattern) = pattern else { return true };
    match pattern.split_once('*') {
        None => name == pattern,
        Some((before, after)) => {
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        }
    }
}

fn target(from: &Url, headers: &HeaderMap) -> Result<Url, Failure> {
    let location = headers.get(header::LOCATION).and_then(|v| v.to_str().ok());
    let location = location.ok_or_else(|| Failure::new("a redirect without an address"))?;
    let to = from.join(location).map_err(|_| Failure::new("a redirect to something that is not an address"))?;
    let to = guard::parse(to.as_str()).map_err(Failure::new)?;
    if from.scheme() == "https" && to.scheme() != "https" {
        return Err(Failure::new("a redirect from https to http"));
    }
    Ok(to)
}

fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source.filter(|_| text.len() < 400) {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_patterns() {
        assert!(fits("rain-2024.csv", Some("rain-*.csv")) && fits("x", None) && fits("x", Some("*")));
        assert!(!fits("rain-.cs", Some("rain-*.csv")) && !fits("a", Some("aa*a")) && !fits("x", Some("y")));
    }
}
