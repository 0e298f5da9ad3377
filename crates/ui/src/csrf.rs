//! Forms that change something carry a token that only our own pages can know (OWASP: HMAC-based token pattern).
//!
//! The token is an HMAC over the session, masked with fresh randomness each time it is written into a page, so that
//! compressing the page tells nothing about it (BREACH).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, header};
use rand::RngCore;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// The name of the hidden field.
pub const FIELD: &str = "csrf";

/// The secret of this installation, kept in its data folder by the program.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("csrf::Key(…)")
    }
}

impl Key {
    pub const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }
    pub fn random() -> Self {
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        Self(secret)
    }

    fn mac(&self, session: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(b"lamppost csrf 1\0");
        mac.update(session.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// A token for a form on a page of this session; a different text each time, all of them valid.
    pub fn token(&self, session: &str) -> String {
        let mac = self.mac(session);
        let mut bytes = [0u8; 64];
        let (mask, masked) = bytes.split_at_mut(32);
        rand::rng().fill_bytes(mask);
        for ((out, m), pad) in masked.iter_mut().zip(mac).zip(mask.iter()) {
            *out = m ^ pad;
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whether `token` was made by [`Key::token`] for this session. Takes the same time for every wrong token.
    pub fn verify(&self, session: &str, token: &str) -> bool {
        let mut bytes = [0u8; 64];
        if URL_SAFE_NO_PAD.decode_slice(token, &mut bytes) != Ok(64) {
            return false;
        }
        let (mask, masked) = bytes.split_at(32);
        let mut mac = [0u8; 32];
        for ((out, m), pad) in mac.iter_mut().zip(masked).zip(mask) {
            *out = m ^ pad;
        }
        mac.ct_eq(&self.mac(session)).into()
    }
}

/// Whether a browser says that the request comes from one of our own pages (Fetch Metadata; `Origin` for older browsers). Programs send neither and pass:
/// they carry a key, not a cookie.
pub fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = text("host").unwrap_or("");
    origin
        .to_str()
        .ok()
        .and_then(|o| o.strip_prefix("https://").or_else(|| o.strip_prefix("http://")))
        .is_some_and(|o| !o.is_empty() && o == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_for_its_session_and_key_only() {
        let (key, other) = (Key::new([7; 32]), Key::new([8; 32]));
        let token = key.token("session-1");
        assert!(key.verify("session-1", &token));
        assert!(!key.verify("session-2", &token));
        assert!(!other.verify("session-1", &token));
        assert_ne!(token, key.token("session-1"), "masked anew each time");
        let mut broken = token.clone().into_bytes();
        broken[70] = if broken[70] == b'A' { b'B' } else { b'A' };
        assert!(!key.verify("session-1", std::str::from_utf8(&broken).unwrap()));
        for wrong in ["", "x", &token[..40], &format!("{token}AA"), "é"] {
            assert!(!key.verify("session-1", wrong), "{wrong}");
        }
    }

    #[test]
    fn other_sites_are_told_apart() {
        let check = |pairs: &[(&'static str, &'static str)], expect| {
            let headers: HeaderMap = pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
            assert_eq!(same_origin(&headers), expect, "{pairs:?}");
        };
        check(&[], true);
        check(&[("sec-fetch-site", "same-origin")], true);
        check(&[("sec-fetch-site", "cross-site")], false);
        check(&[("sec-fetch-site", "same-site")], false);
        check(&[("host", "city.example"), ("origin", "https://city.example")], true);
        check(&[("host", "city.example"), ("origin", "https://evil.example")], false);
        check(&[("host", "city.example"), ("origin", "null")], false);
    }
}
