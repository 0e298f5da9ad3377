//! Forms with a file: `multipart/form-data` (RFC 7578), read whole and bounded; forms without one come as ever.

use axum::{
    extract::{FromRequest, Request},
    http::header,
};
use bytes::Bytes;
use kernel::Problem;

use crate::pages::form::Typed;

/// Fields of one form.
const FIELDS: usize = 50;
/// Bytes of a field that is no file; a sheet may be pasted.
const TEXT: usize = 8 << 20;
/// Bytes of the lines above a part.
const HEAD: usize = 4 << 10;

/// A form that was sent, with its one file.
#[derive(Default)]
pub struct Form {
    pub typed: Typed,
    /// Empty when none was chosen.
    pub file: Bytes,
}

impl Form {
    /// Reads a form in either of its two encodings.
    pub async fn read(request: Request) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|k| k.to_str().ok()).unwrap_or_default();
        if !kind.to_ascii_lowercase().starts_with("multipart/form-data") {
            let axum::Form(sent) = axum::Form::<Vec<(String, String)>>::from_request(request, &())
                .await
                .map_err(|e| Problem::bad_request(e.to_string()))?;
            return Ok(Self { typed: Typed(sent), file: Bytes::new() });
        }
        let boundary = boundary(kind).ok_or_else(|| Problem::bad_request("The form has no boundary."))?;
        let body = Bytes::from_request(request, &())
            .await
            .map_err(|_| Problem::too_large("The file has more bytes than are accepted here."))?;
        parts(&body, &boundary).ok_or_else(|| Problem::bad_request("The form is not complete."))
    }
}

fn boundary(kind: &str) -> Option<String> {
    let (_, rest) = kind.split_once("boundary=")?;
    let text = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?.0,
        None => rest.split(';').next()?.trim(),
    };
    (1..=70).contains(&text.len()).then(|| text.to_owned())
}

/// The parts of a body; `None` for what is no form, or more than one may be.
fn parts(body: &Bytes, boundary: &str) -> Option<Form> {
    let delimiter = format!("\r\n--{boundary}");
    let opening = &delimiter[2..];
    let mut rest = body.strip_prefix(opening.as_bytes()).map(|rest| body.len() - rest.len())?;
    let find = memchr::memmem::Finder::new(delimiter.as_bytes());
    let mut form = Form::default();
    loop {
        let here = &body[rest..];
        if here.starts_with(b"--") {
            return Some(form);
        }
        let here = here.strip_prefix(b"\r\n")?;
        let start = body.len() - here.len();
        let head = memchr::memmem::find(&here[..here.len().min(HEAD)], b"\r\n\r\n")?;
        let content = start + head + 4;
        let end = content + find.find(&body[content..])?;
        let (name, file) = named(std::str::from_utf8(&here[..head]).ok()?)?;
        if file {
            form.file = body.slice(content..end);
        } else {
            if form.typed.0.len() >= FIELDS || end - content > TEXT {
                return None;
            }
            form.typed.0.push((name, std::str::from_utf8(&body[content..end]).ok()?.to_owned()));
        }
        rest = end + delimiter.len();
    }
}

/// The name of a part, and whether it is a file (RFC 7578 section 4.2).
fn named(head: &str) -> Option<(String, bool)> {
    let line = head.split("\r\n").find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let parameter = |key: &str| {
        let (_, rest) = line.split_once(&format!("; {key}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    Some((parameter("name")?, parameter("filename").is_some()))
}

/// Any bytes are an answer: for the fuzz target.
pub fn probe(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    if let Some(form) = parts(&body, "x") {
        assert!(form.typed.0.len() <= FIELDS && form.file.len() <= bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_with_a_file_is_read() {
        let text = "--x\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\ntoken\r\n--x\r\nContent-Disposition: form-data; name=\"sheet\"; filename=\"a.csv\"\r\nContent-Type: text/csv\r\n\r\nkey,kind\r\na,b\r\n\r\n--x--\r\n";
        let form = parts(&Bytes::from(text), "x").unwrap();
        assert_eq!((form.typed.get("csrf"), &form.file[..]), ("token", &b"key,kind\r\na,b\r\n"[..]));
        for end in 0..text.len() - 4 {
            assert!(parts(&Bytes::copy_from_slice(&text.as_bytes()[..end]), "x").is_none(), "{end}");
        }
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\""), Some("a b".to_owned()));
        assert_eq!(boundary("multipart/form-data; boundary=----WebKit7; charset=x"), Some("----WebKit7".to_owned()));
        assert_eq!(boundary("multipart/form-data"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer(text in "(--x(\r\n)?|Content-Disposition: form-data; name=\"a\"|; filename=\"b\"|\r\n|[a-z]){0,40}") {
            probe(text.as_bytes());
        }
    }
}
