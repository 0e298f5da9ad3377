//! The query of an address, kept pair by pair as it came, so that links can change one parameter and leave the rest alone.

use std::fmt::Write;

/// Bounded: a link never grows past this, whatever the client sent.
const MAX_PAIRS: usize = 64;
const MAX_BYTES: usize = 4_096;

/// `sort=name&page=2`, in order. Names and values stay percent-encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn parse(raw: &str) -> Self {
        if raw.len() > MAX_BYTES {
            return Self::default();
        }
        let pairs = raw.split('&').filter(|p| !p.is_empty()).take(MAX_PAIRS);
        Self {
            pairs: pairs
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(n, v)| (reencode(n), reencode(v)))
                .collect(),
        }
    }

    /// The decoded value of the first parameter with this name.
    pub fn get(&self, name: &str) -> Option<String> {
        let name = encode(name);
        self.pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| decode(v))
    }
    /// All decoded values of a parameter that may repeat, such as the checked boxes of a filter.
    pub fn all(&self, name: &str) -> Vec<String> {
        let name = encode(name);
        self.pairs.iter().filter(|(n, _)| *n == name).map(|(_, v)| decode(v)).collect()
    }
    /// Decoded pairs, for the hidden fields of a GET form that must keep the rest of the query.
    pub fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        self.pairs.iter().map(|(n, v)| (decode(n), decode(v)))
    }
    /// Sets a parameter where it stands, or at the end; an empty value removes it.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            return self.without(name);
        }
        let (name, value) = (encode(name), encode(value));
        match self.pairs.iter().position(|(n, _)| *n == name) {
            Some(at) => {
                self.pairs[at].1 = value;
                let mut seen = 0;
                self.pairs.retain(|(n, _)| {
                    seen += usize::from(*n == name);
                    *n != name || seen == 1
                });
            }
            None => self.pairs.push((name, value)),
        }
        self
    }
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let name = encode(name);
        self.pairs.retain(|(n, _)| *n != name);
        self
    }
    /// `?a=1&b=2`, or nothing.
    pub fn suffix(&self) -> String {
        let mut out = String::new();
        for (i, (name, value)) in self.pairs.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}{name}={value}", if i == 0 { '?' } else { '&' });
        }
        out
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986 section 2.3.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Decodes `%41` and, as HTML forms send it, `+`; what is malformed stays as it is, what is not UTF-8 is replaced.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match bytes[i] {
            b'%' => match (bytes.get(i + 1).copied().and_then(hex), bytes.get(i + 2).copied().and_then(hex)) {
                (Some(high), Some(low)) => {
                    out.push(high * 16 + low);
                    i += 2;
                }
                _ => out.push(b'%'),
            },
            b'+' => out.push(b' '),
            other => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One spelling for each name and value, so that comparing is comparing text and nothing raw reaches an attribute.
fn reencode(text: &str) -> String {
    encode(&decode(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_one_parameter_only() {
        let query = Query::parse("sort=name&%24filter=a+b&page=2&kind=x&kind=y");
        assert_eq!(query.get("$filter").as_deref(), Some("a b"));
        assert_eq!(query.all("kind"), ["x", "y"]);
        let changed = query.clone().with("sort", "value").without("page");
        assert_eq!(changed.suffix(), "?sort=value&%24filter=a%20b&kind=x&kind=y");
        assert_eq!(query.with("kind", "z").without("sort").without("page").suffix(), "?%24filter=a%20b&kind=z");
        assert_eq!(Query::parse("").suffix(), "");
    }

    proptest::proptest! {
        #[test]
        fn values_survive(name in "[a-z$]{1,8}", value in ".{1,40}") {
            let query = Query::default().with(&name, &value);
            let again = Query::parse(query.suffix().trim_start_matches('?'));
            proptest::prop_assert_eq!(again.get(&name), Some(value));
        }

        #[test]
        fn nothing_raw_comes_out(raw in ".{0,80}") {
            let suffix = Query::parse(&raw).suffix();
            proptest::prop_assert!(suffix.bytes().all(|b| b.is_ascii_alphanumeric() || b"?&=%-._~".contains(&b)), "{}", suffix);
        }
    }
}
