//! Bytes to text.

use std::borrow::Cow;

use crate::connect::declaration::Encoding;

/// A byte-order mark decides; without one, `otherwise` does (Unicode 16.0 section 23.8).
///
/// # Errors
/// Where the bytes are not what they should be. Replacement characters would turn a wrong encoding into wrong names.
pub fn decode(bytes: &[u8], otherwise: Encoding) -> Result<Cow<'_, str>, String> {
    let (encoding, bytes) = match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => (Encoding::Utf8, rest),
        [0xff, 0xfe, rest @ ..] => (Encoding::Utf16Le, rest),
        [0xfe, 0xff, rest @ ..] => (Encoding::Utf16Be, rest),
        all => (otherwise, all),
    };
    let unit: fn([u8; 2]) -> u16 = match encoding {
        Encoding::Utf8 => {
            let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
            return Ok(Cow::Borrowed(text));
        }
        Encoding::Big5 => {
            let text = encoding_rs::BIG5.decode_without_bom_handling_and_without_replacement(bytes);
            return text.ok_or_else(|| "not Big5".to_owned());
        }
        Encoding::Utf16Le => u16::from_le_bytes,
        Encoding::Utf16Be => u16::from_be_bytes,
    };
    let pairs = bytes.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err("UTF-16 with half a character at the end".to_owned());
    }
    let units = pairs.map(|pair| unit([pair[0], pair[1]]));
    let text: Result<String, _> = char::decode_utf16(units).collect();
    text.map(Cow::Owned).map_err(|e| format!("not UTF-16: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_decide() {
        let check = |bytes: &[u8], expect: Option<&str>| {
            assert_eq!(decode(bytes, Encoding::Utf8).ok().as_deref(), expect, "{bytes:?}")
        };
        check("\u{feff}雨量".as_bytes(), Some("雨量"));
        check(&[0xff, 0xfe, 0xe8, 0x96], Some("雨"));
        check(&[0xfe, 0xff, 0x96, 0xe8], Some("雨"));
        check(&[0xff, 0xfe, 0xe8], None);
        check(&[0xff, 0xfe, 0x00, 0xd8], None);
        check(&[b'a', 0xc3], None);
        check(b"", Some(""));
        let big5 = |bytes: &[u8]| decode(bytes, Encoding::Big5).ok().map(Cow::into_owned);
        assert_eq!(big5(b"\xab\x42\xb6\x71,1").as_deref(), Some("雨量,1"));
        assert_eq!(big5(b"\xff\xff"), None);
    }
}
