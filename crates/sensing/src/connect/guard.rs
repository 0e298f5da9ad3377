//! Where a declaration may send the program: not into its own network.
//!
//! An address is judged twice. As it is written: scheme, user, addresses written as numbers. And in the resolver that the HTTP client
//! connects with, so that between check and connection a name cannot change its mind.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::notify::guard::is_internal;

/// `host:port` pairs inside the city's own network that connectors may poll, listed by the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(BTreeSet<String>);

impl Allowed {
    pub fn new(pairs: impl IntoIterator<Item = String>) -> Self {
        Self(pairs.into_iter().map(|p| p.to_ascii_lowercase()).collect())
    }
    /// `host:port` as it is written.
    pub fn has_pair(&self, pair: &str) -> bool {
        self.0.contains(&pair.to_ascii_lowercase())
    }
    pub fn has(&self, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return false };
        self.0.contains(&format!("{}:{port}", host.to_ascii_lowercase()))
    }
}

/// The address, if it has the form of one that can be polled.
///
/// # Errors
/// What would be right.
pub fn parse(text: &str) -> Result<Url, String> {
    if text.len() > 2_000 {
        return Err("at most 2000 characters are expected".to_owned());
    }
    let url = Url::parse(text).map_err(|e| format!("not an address: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("an http or https address is expected".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address without user and password is expected".to_owned());
    }
    Ok(url)
}

/// Whether an address that is not in [`Allowed`] may be connected to, as far as its text tells.
///
/// # Errors
/// What would be right.
pub fn public(url: &Url) -> Result<(), String> {
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    // The URL standard has normalised every spelling of a number (octal, hexadecimal, one integer) by now.
    if literal.is_ok_and(is_internal) || host == "localhost" || host.ends_with(".localhost") {
        return Err("the address leads into an internal network; the operator can allow it as host:port".to_owned());
    }
    Ok(())
}

/// A resolver that gives the client only addresses on the public internet.
pub struct PublicOnly;

#[derive(Debug, thiserror::Error)]
#[error("the name leads only into an internal network")]
struct Internal;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Vec<SocketAddr> = found.filter(|a| !is_internal(a.ip())).collect();
            if addresses.is_empty() {
                return Err(Box::new(Internal) as Box<dyn std::error::Error + Send + Sync>);
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_judged_as_written() {
        for bad in
            ["ftp://example.com/", "file:///etc/passwd", "x", "http://u:p@example.com/", "http://user@example.com/"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for inside in [
            "http://localhost/",
            "http://a.localhost/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1:80/",
            "http://[::1]/",
        ] {
            assert!(public(&parse(inside).expect("address")).is_err(), "{inside}");
        }
        let allowed = Allowed::new(["127.0.0.1:8090".to_owned(), "feeds.internal:443".to_owned()]);
        let has = |url: &str| allowed.has(&parse(url).expect("address"));
        assert!(has("http://127.0.0.1:8090/x") && has("https://FEEDS.internal/x"));
        assert!(!has("http://127.0.0.1:8091/x") && !has("http://feeds.internal/x") && !has("http://127.0.0.1/x"));
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_resolved() {
        assert!(PublicOnly.resolve("localhost".parse().expect("name")).await.is_err());
    }
}
