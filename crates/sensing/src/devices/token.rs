//! Keys of devices and programs: 256 random bits with a public prefix to look them up by.
//!
//! `lpd_k3v9x2m7qa_<43 characters>`. Only the SHA-256 of the whole text is stored: there is nothing to guess in 256 random bits, so a slow
//! hash would protect nothing and cost every request.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::RngCore;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Whose key it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Device,
    Program,
}

impl Kind {
    const fn mark(self) -> &'static str {
        match self {
            Self::Device => "lpd",
            Self::Program => "lpk",
        }
    }
}

/// Characters of the public part: 50 bits, so that two keys meet once in 30 million.
const PREFIX: usize = 10;
/// Without those that look alike.
pub(super) const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A new key: shown once, never again.
pub struct Issued {
    /// The whole key.
    pub text: String,
    pub prefix: String,
    pub hash: String,
}

/// Without the key itself.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issued({}…)", self.prefix)
    }
}

/// Makes a key from the system's randomness.
pub fn issue(kind: Kind) -> Issued {
    let mut bytes = [0u8; 32 + PREFIX];
    rand::rng().fill_bytes(&mut bytes);
    let (secret, chosen) = bytes.split_at(32);
    let prefix: String = chosen.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect();
    let text = format!("{}_{prefix}_{}", kind.mark(), URL_SAFE_NO_PAD.encode(secret));
    let hash = hash(&text);
    Issued { text, prefix, hash }
}

/// Kind and prefix of what looks like a key; `None` for anything else, without a look into any store.
pub fn parse(text: &str) -> Option<(Kind, &str)> {
    let (mark, rest) = text.split_once('_')?;
    let kind = [Kind::Device, Kind::Program].into_iter().find(|k| k.mark() == mark)?;
    let (prefix, secret) = rest.split_once('_')?;
    let plain = prefix.len() == PREFIX && prefix.bytes().all(|b| ALPHABET.contains(&b));
    (plain && secret.len() == 43 && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
        .then_some((kind, prefix))
}

pub fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// Whether `text` is the key with this hash, in the same time for every wrong one.
pub fn matches(text: &str, stored: &str) -> bool {
    hash(text).as_bytes().ct_eq(stored.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_prefix_and_proved_by_its_hash() {
        let key = issue(Kind::Device);
        assert_eq!(parse(&key.text), Some((Kind::Device, key.prefix.as_str())));
        assert!(matches(&key.text, &key.hash));
        assert!(!matches(&issue(Kind::Device).text, &key.hash));
        assert!(!format!("{key:?}").contains(&key.text[15..]));
        for wrong in ["", "lpd", "lpx_aaaaaaaaaa_x", &key.text[..20], &format!("{}x", key.text), "lpd_1111111111_"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_answer_not_a_panic(text in ".{0,80}") {
            let _ = parse(&text);
        }
    }
}
