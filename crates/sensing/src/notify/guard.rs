//! Where the program may be sent by somebody's declaration: not into its own network.
//!
//! A webhook's address is checked twice, because the second check is the one that cannot be deceived: when it is declared (scheme,
//! addresses written as numbers), and in the resolver that the HTTP client connects with, where every address a name resolves to is judged.
//! There is no gap between check and connection for a name to change its mind in.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// `host:port`, as they stand in addresses, that may resolve to anything and may be spoken to without TLS: the city's own, listed by the operator. A
/// host without a port stands for all of its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(BTreeSet<String>);

impl Allowed {
    pub fn new(hosts: impl IntoIterator<Item = String>) -> Self {
        Self(hosts.into_iter().map(|h| h.to_ascii_lowercase()).collect())
    }
    fn has(&self, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return false };
        let host = host.to_ascii_lowercase();
        self.0.contains(&format!("{host}:{port}")) || self.0.contains(&host)
    }
    /// Whether one of its ports is listed: a resolver is not told which is meant. That was judged with the address.
    fn names(&self, host: &str) -> bool {
        self.0
            .iter()
            .any(|listed| listed.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')))
    }
}

/// The address, if it may be declared.
///
/// # Errors
/// A sentence that says what would be right.
pub fn check_url(url: &str, allowed: &Allowed) -> Result<Url, String> {
    if url.len() > 2_000 {
        return Err("at most 2000 characters are expected".to_owned());
    }
    let url = Url::parse(url).map_err(|e| format!("not an address: {e}"))?;
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address without user and password is expected; requests are signed instead".to_owned());
    }
    if allowed.has(&url) {
        return if matches!(url.scheme(), "http" | "https") {
            Ok(url)
        } else {
            Err("http or https is expected".to_owned())
        };
    }
    if url.scheme() != "https" {
        return Err("https is expected".to_owned());
    }
    // The URL standard has normalised every spelling of a number (octal, hexadecimal, one integer) by now.
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if literal.is_ok_and(is_internal) || host == "localhost" || host.ends_with(".localhost") {
        return Err(
            "an address on the public internet is expected; the operator can allow internal hosts by name".to_owned()
        );
    }
    Ok(url)
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
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
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
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) carry an IPv4 address that somebody else will unwrap.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4_in(high, low),
        [0x64, 0xff9b, ..] => true,
        [0x2002, high, low, ..] => v4_in(high, low),
        // Only 2000::/3 is global unicast; inside it Teredo, benchmarking, ORCHID and documentation are not.
        [0x2001, second, ..] => second < 0x0200 || second == 0x0db8,
        [0x3fff, second, ..] => second < 0x1000,
        [first, ..] => first & 0xe000 != 0x2000,
    }
}

/// A resolver that gives the client only addresses it may connect to.
pub struct Resolver {
    allowed: Allowed,
}

impl Resolver {
    pub fn new(allowed: Allowed) -> Arc<Self> {
        Arc::new(Self { allowed })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the name leads only into an internal network")]
struct Internal;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_ascii_lowercase();
        let allowed = self.allowed.names(&host);
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let addresses: Vec<SocketAddr> = found.filter(|a| allowed || !is_internal(a.ip())).collect();
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
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "::7f00:1",
        ] {
            assert!(is_internal(internal.parse().expect("address")), "{internal}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "64:ff9b::808:808",
            "2002:808:808::",
        ] {
            assert!(!is_internal(public.parse().expect("address")), "{public}");
        }
    }

    #[test]
    fn addresses_are_judged_as_written() {
        let allowed = Allowed::new(["hooks.internal".to_owned(), "127.0.0.1".to_owned()]);
        for bad in [
            "http://example.com/",
            "ftp://example.com/",
            "https://localhost/",
            "https://a.localhost/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f.0.0.1:8443/",
            "https://[::1]/",
            "https://[::ffff:169.254.169.254]/",
            "https://user:secret@example.com/",
            "x",
            "file:///etc/passwd",
        ] {
            assert!(check_url(bad, &Allowed::default()).is_err(), "{bad}");
        }
        assert!(check_url("https://example.com/hook?x=1", &Allowed::default()).is_ok());
        assert!(check_url("http://hooks.internal:8080/", &allowed).is_ok());
        assert!(check_url("http://127.0.0.1:9/", &allowed).is_ok());
        assert!(check_url("http://127.0.0.2:9/", &allowed).is_err());
        let pairs =
            Allowed::new(["127.0.0.1:8090".to_owned(), "[::1]:443".to_owned(), "Hooks.internal:443".to_owned()]);
        for good in ["http://127.0.0.1:8090/x", "https://[::1]/", "https://hooks.internal/"] {
            assert!(check_url(good, &pairs).is_ok(), "{good}");
        }
        // Another port of the same machine is another service.
        for bad in ["http://127.0.0.1:22/", "https://127.0.0.1/", "https://[::1]:8443/", "http://hooks.internal/"] {
            assert!(check_url(bad, &pairs).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_resolved() {
        let name = || "localhost".parse::<Name>().expect("name");
        assert!(Resolver::new(Allowed::default()).resolve(name()).await.is_err());
        for listed in ["localhost", "localhost:8090"] {
            assert!(Resolver::new(Allowed::new([listed.to_owned()])).resolve(name()).await.is_ok());
        }
        assert!(Resolver::new(Allowed::new(["localhosts:80".to_owned()])).resolve(name()).await.is_err());
    }
}
