//! Where a declaration may send the program: not into its own network.
//!
//! An address is judged twice. As it is written: scheme, user, addresses written as numbers. And in the resolver that the HTTP client
//! connects with, so that between check and connection a name cannot change its mind.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// `host:port` pairs inside the city's own network that connectors may poll, listed by the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(BTreeSet<String>);

impl Allowed {
    pub fn new(pairs: impl IntoIterator<Item = String>) -> Self {
        Self(pairs.into_iter().map(|p| p.to_ascii_lowercase()).collect())
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

/// Whether an address leads anywhere but the public internet (IANA special-purpose registries, RFC 6890).
pub fn is_internal(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => internal_v4(v4),
        IpAddr::V6(v6) => internal_v6(v6),
    }
}

fn internal_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = match (a, b) {
        (0 | 10 | 127 | 224.., _) | (169, 254) | (192, 168) | (198, 18 | 19) => true,
        (100, b) => (64..128).contains(&b),
        (172, b) => (16..32).contains(&b),
        (192, 0) => c == 0,
        _ => false,
    };
    special || ip.is_documentation()
}

fn internal_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let v4_in = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        internal_v4(Ipv4Addr::new(a, b, c, d))
    };
    if let Some(v4) = ip.to_ipv4_mapped() {
        return internal_v4(v4);
    }
    match s {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) carry an IPv4 address that somebody else unwraps.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => v4_in(high, low),
        // Only 2000::/3 is global unicast; Teredo, benchmarking, ORCHID and documentation inside it are not.
        [0x2001, second, ..] => second < 0x0200 || second == 0x0db8,
        [0x3fff, second, ..] => second < 0x1000,
        [first, ..] => first & 0xe000 != 0x2000,
    }
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
    fn internal_addresses_in_every_disguise() {
        for internal in [
            "127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255",
            "224.0.0.1", "198.18.0.1", "192.0.0.8", "203.0.113.9", "::1", "::", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1",
            "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "2001:db8::1", "::7f00:1",
        ] {
            assert!(is_internal(internal.parse().expect("address")), "{internal}");
        }
        for public in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.1.0.1", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::"] {
            assert!(!is_internal(public.parse().expect("address")), "{public}");
        }
    }

    #[test]
    fn addresses_are_judged_as_written() {
        for bad in ["ftp://example.com/", "file:///etc/passwd", "x", "http://u:p@example.com/", "http://user@example.com/"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for inside in ["http://localhost/", "http://a.localhost/", "http://127.1/", "http://2130706433/", "http://0x7f.0.0.1:80/", "http://[::1]/"] {
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
