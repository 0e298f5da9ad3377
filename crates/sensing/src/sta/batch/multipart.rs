//! `multipart/mixed` (RFC 2046) with parts of `application/http`, in and out.
//!
//! A body is cut by lines that consist of two hyphens, the boundary and at most blanks, and is taken only when the closing one is there: half a
//! batch is none. Lines may end as HTTP has it or as editors have it.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use kernel::Problem;

use super::{COUNTED, Group, PARTS, Part, Replies, Reply, essence, method, named};
use crate::{Error, sta::Response};

/// Characters of a boundary (RFC 2046 section 5.1.1).
const BOUNDARY: usize = 70;
/// Lines of one header.
const LINES: usize = 100;
/// Bytes of one line of a header; a request line holds a query.
const LINE: usize = 72 << 10;

/// The boundary that a media type announces.
fn boundary(kind: &str) -> Option<String> {
    let mut rest = kind.split_once(';')?.1;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        let (name, value) = rest.split_once('=')?;
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_at(value.find(';').unwrap_or(value.len())),
        };
        if name.trim().eq_ignore_ascii_case("boundary") {
            let value = value.trim_end();
            let good = |c: char| c.is_ascii_alphanumeric() || "'()+_,-./:=? ".contains(c);
            return ((1..=BOUNDARY).contains(&value.len()) && value.chars().all(good)).then(|| value.to_owned());
        }
        rest = after;
    }
}

/// The first line and what follows it.
fn line(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'\n', text) {
        Some(at) => (text[..at].strip_suffix(b"\r").unwrap_or(&text[..at]), &text[at + 1..]),
        None => (text, &[]),
    }
}

/// What lies between the delimiters.
fn sections<'a>(body: &'a [u8], boundary: &str, at: &str) -> Result<Vec<&'a [u8]>, Error> {
    let mut all = Vec::new();
    let (mut rest, mut start) = (body, None);
    while !rest.is_empty() {
        let before = body.len() - rest.len();
        let (text, after) = line(rest);
        rest = after;
        let Some(tail) = text.strip_prefix(b"--").and_then(|text| text.strip_prefix(boundary.as_bytes())) else {
            continue;
        };
        let (closing, tail) = tail.strip_prefix(b"--").map_or((false, tail), |tail| (true, tail));
        if !tail.iter().all(|b| matches!(b, b' ' | b'\t')) {
            continue;
        }
        if let Some(start) = start {
            // The line break before a delimiter is the delimiter's.
            let section: &[u8] = &body[start..before];
            let section = section.strip_suffix(b"\n").map_or(section, |s| s.strip_suffix(b"\r").unwrap_or(s));
            all.push(section);
        }
        if closing {
            return Ok(all);
        }
        if all.len() >= PARTS {
            return Err(Problem::too_large(format!("A batch has at most {PARTS} requests.")).into());
        }
        start = Some(body.len() - rest.len());
    }
    Err(Error::field(at, format!("the line --{boundary}-- that ends it is missing")))
}

/// The lines of a header: names in small letters, and values.
type Fields = Vec<(String, String)>;

/// The lines of a header up to the empty one, and what follows.
fn fields<'a>(mut text: &'a [u8], at: &str) -> Result<(Fields, &'a [u8]), Error> {
    let mut fields = Vec::new();
    loop {
        let (one, after) = line(text);
        text = after;
        if one.is_empty() {
            return Ok((fields, text));
        }
        let field = std::str::from_utf8(one).ok().filter(|one| one.len() <= LINE).and_then(|one| one.split_once(':'));
        let Some((name, value)) = field else {
            return Err(Error::field(at, "a line of the header is not 'Name: value'; an empty line ends the header"));
        };
        if fields.len() >= LINES {
            return Err(Error::field(at, format!("the header has more than {LINES} lines")));
        }
        fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
}

/// Blank lines before something are nobody's.
fn skip_blank(mut text: &[u8]) -> &[u8] {
    loop {
        let (one, after) = line(text);
        if !one.is_empty() || text.is_empty() {
            return text;
        }
        text = after;
    }
}

/// Reads a batch. `kind` is its media type.
pub fn parse(kind: &str, body: &Bytes) -> Result<Vec<Group>, Error> {
    let wanted = "multipart/mixed needs a boundary of 1 to 70 characters: multipart/mixed;boundary=batch_1";
    let outer = boundary(kind).ok_or_else(|| Error::field("content-type", wanted))?;
    let mut groups = Vec::new();
    let mut total = 0usize;
    for (index, section) in sections(body, &outer, "body")?.into_iter().enumerate() {
        let at = format!("part {}", index + 1);
        let (head, rest) = fields(skip_blank(section), &at)?;
        let kind = field(&head, "content-type");
        total += 1;
        if essence(kind) != "multipart/mixed" {
            groups.push(Group::One(request(body, &head, rest, at)?));
        } else {
            let inner = boundary(kind).ok_or_else(|| Error::field(&at, wanted))?;
            let mut parts: Vec<Part> = Vec::new();
            for (index, section) in sections(rest, &inner, &at)?.into_iter().enumerate() {
                let at = format!("{at}.{}", index + 1);
                let (head, rest) = fields(skip_blank(section), &at)?;
                let part = request(body, &head, rest, at)?;
                if part.name.is_some() && parts.iter().any(|other| other.name == part.name) {
                    return Err(Error::field(&part.at, "another request of the change set has this Content-ID"));
                }
                parts.push(part);
                total += 1;
                if total > PARTS {
                    break;
                }
            }
            groups.push(Group::Set(None, parts));
        }
        if total > PARTS {
            return Err(Problem::too_large(format!("A batch has at most {PARTS} requests.")).into());
        }
    }
    Ok(groups)
}

/// One request in `application/http`.
fn request(whole: &Bytes, head: &[(String, String)], text: &[u8], at: String) -> Result<Part, Error> {
    let kind = field(head, "content-type");
    if essence(kind) != "application/http" {
        return Err(Error::field(at, "a part is application/http, or one level of multipart/mixed: a change set"));
    }
    let encoding = field(head, "content-transfer-encoding");
    if !(encoding.is_empty() || ["binary", "8bit", "7bit"].iter().any(|known| encoding.eq_ignore_ascii_case(known))) {
        return Err(Error::field(at, "a part is sent as it is: Content-Transfer-Encoding is binary"));
    }
    let (first, rest) = line(skip_blank(text));
    let wanted = "a request begins with its method and address: GET /v1.1/Things(1) HTTP/1.1";
    let wrong = || Error::field(&at, wanted);
    let first = std::str::from_utf8(first).ok().filter(|first| first.len() <= LINE).ok_or_else(wrong)?.trim();
    let (verb, url) = first.split_once(' ').ok_or_else(wrong)?;
    let method = method(verb).ok_or_else(|| Error::field(&at, "the method is GET, POST, PATCH, PUT or DELETE"))?;
    // The version is left out in an example of the standard; an address with blanks is mended later.
    let url = url.rsplit_once(" HTTP/").map_or(url, |(url, _)| url).trim();
    if url.is_empty() {
        return Err(wrong());
    }
    let (lines, body) = fields(rest, &at)?;
    let mut headers = HeaderMap::new();
    for (name, value) in &lines {
        let counts = HeaderName::try_from(name.as_str()).ok().filter(|name| COUNTED.contains(name));
        if let (Some(name), Ok(value)) = (counts, HeaderValue::try_from(value.as_str())) {
            headers.append(name, value);
        }
    }
    // The Content-ID stands in the part's header (OData 4.0 Part 1 section 11.7.2); some clients write it into the request's.
    let id = [field(head, "content-id"), field(&lines, "content-id")].into_iter().find(|id| !id.is_empty());
    let id = id.map(|id| id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or(id));
    let name = id.map(|id| named(&at, id)).transpose()?;
    Ok(Part { name, method, url: url.to_owned(), headers, body: whole.slice_ref(body), at, after: Vec::new() })
}

fn write_reply(out: &mut Vec<u8>, boundary: &str, reply: &Reply) {
    use std::io::Write as _;
    // Writing into a Vec cannot fail.
    let _ = write!(out, "--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n");
    if let Some(name) = &reply.name {
        let _ = write!(out, "Content-ID: {name}\r\n");
    }
    let reason = reply.status.canonical_reason().unwrap_or("Status");
    let _ = write!(out, "\r\nHTTP/1.1 {} {reason}\r\n", reply.status.as_u16());
    for (name, value) in &reply.headers {
        let _ = write!(out, "{name}: ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if reply.status != StatusCode::NO_CONTENT {
        let _ = write!(out, "content-length: {}\r\n", reply.body.len());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&reply.body);
    out.extend_from_slice(b"\r\n");
}

/// A boundary that occurs in none of the bodies: its number is above all that stand behind the same prefix there.
fn unused(prefix: &str, replies: &[&Reply]) -> String {
    // Eighteen digits fit; of longer numbers the first eighteen stand for all.
    const DIGITS: usize = 18;
    let prefix = format!("{prefix}_");
    let finder = memchr::memmem::Finder::new(prefix.as_bytes());
    let mut above = 0u64;
    for body in replies.iter().map(|reply| &reply.body) {
        for at in finder.find_iter(body) {
            let digits = body.iter().skip(at + prefix.len()).take(DIGITS).take_while(|b| b.is_ascii_digit());
            let number = digits.fold(0u64, |number, b| number * 10 + u64::from(b - b'0'));
            above = above.max(number + 1);
        }
    }
    format!("{prefix}{above}")
}

/// The answers in the order of the groups.
pub(super) fn response(all: &[Replies]) -> Response {
    use std::io::Write as _;
    let mut flat: Vec<&Reply> = Vec::new();
    for replies in all {
        match replies {
            Replies::One(reply) | Replies::Refused(reply, _) => flat.push(reply),
            Replies::Set(replies) => flat.extend(replies),
        }
    }
    let (outer, inner) = (unused("batch", &flat), unused("changeset", &flat));
    let mut out = Vec::new();
    for replies in all {
        match replies {
            // One answer stands for all requests of a change set that failed (OData 4.0 Part 1 section 11.7.4).
            Replies::One(reply) | Replies::Refused(reply, _) => write_reply(&mut out, &outer, reply),
            Replies::Set(replies) => {
                let _ = write!(out, "--{outer}\r\nContent-Type: multipart/mixed; boundary={inner}\r\n\r\n");
                for reply in replies {
                    write_reply(&mut out, &inner, reply);
                }
                let _ = write!(out, "--{inner}--\r\n");
            }
        }
    }
    let _ = write!(out, "--{outer}--\r\n");
    let mut response = Response::new(Body::from(out));
    if let Ok(kind) = HeaderValue::try_from(format!("multipart/mixed; boundary={outer}")) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Authorization, Cookie"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn boundaries() {
        let check = |kind: &str, expect: Option<&str>| assert_eq!(boundary(kind).as_deref(), expect, "{kind}");
        check("multipart/mixed;boundary=b1", Some("b1"));
        check("multipart/mixed; charset=utf-8; Boundary=\"b 1;x\"; a=b", None);
        check("multipart/mixed; charset=utf-8; Boundary=\"b 1,x\"; a=b", Some("b 1,x"));
        check("multipart/mixed", None);
        check("multipart/mixed; boundary=", None);
        check(&format!("multipart/mixed; boundary={}", "b".repeat(71)), None);
    }

    #[test]
    fn the_example_of_the_standard() {
        let text = "preamble\r\n--b\r\nContent-Type: application/http\r\n\r\nGET /v1.1/Things(1)\r\nHost: host\r\n\r\n\r\n--b\r\n\
            Content-Type: multipart/mixed;boundary=c\r\n\r\n--c\r\n\r\nContent-Type: application/http\r\nContent-ID: 1\r\n\r\n\
            POST /v1.1/Things HTTP/1.1\r\nHost: host\r\nAuthorization: Bearer x\r\nContent-Type: application/json\r\n\
            Content-Length: ###\r\n\r\n{\"a\":\r\n1}\r\n--c--\r\n\r\n--b--\r\nepilogue";
        for text in [text.to_owned(), text.replace("\r\n", "\n")] {
            let groups = parse("multipart/mixed;boundary=b", &text.into()).expect("a batch");
            let [Group::One(get), Group::Set(None, set)] = groups.as_slice() else { panic!("{groups:?}") };
            assert_eq!((get.method.as_str(), get.url.as_str(), get.body.len()), ("GET", "/v1.1/Things(1)", 0));
            let [post] = set.as_slice() else { panic!("{set:?}") };
            assert_eq!(
                (post.url.as_str(), post.name.as_deref(), post.at.as_str()),
                ("/v1.1/Things", Some("1"), "part 2.1")
            );
            assert_eq!(
                serde_json::from_slice::<serde_json::Value>(&post.body).expect("json"),
                serde_json::json!({"a": 1})
            );
            assert_eq!(post.headers.len(), 1, "only what describes the body counts: {:?}", post.headers);
        }
    }

    #[test]
    fn half_a_batch_is_none() {
        let check = |text: &str, expect: &str| {
            let error = parse("multipart/mixed;boundary=b", &text.to_owned().into()).expect_err(text).to_string();
            assert!(error.contains(expect), "{text}: {error}");
        };
        let head = "--b\nContent-Type: application/http\n\n";
        check("", "--b-- that ends it is missing");
        check(&format!("{head}GET /v1.1/Things HTTP/1.1\n\n"), "--b-- that ends it is missing");
        check(&format!("{head}GET /v1.1/Things HTTP/1.1\n\n--b--x\n"), "--b-- that ends it is missing");
        check("--b\nContent-Type: text/plain\n\nGET /v1.1/Things\n\n--b--", "a part is application/http");
        check(&format!("{head}FETCH /v1.1/Things\n\n--b--"), "the method is GET");
        check(&format!("{head}GET\n\n--b--"), "begins with its method");
        check(&format!("{head}GET /v1.1/Things HTTP/1.1\nHost\n\n--b--"), "not 'Name: value'");
        check("--b\nContent-Type: application/http\nContent-ID: a/b\n\nGET x\n\n--b--", "without / ( ) ? #");
        check(
            "--b\nContent-Type: multipart/mixed;boundary=c\n\n--c\nContent-Type: multipart/mixed;boundary=d\n\n--c--\n--b--",
            "one level",
        );
        let many = format!("{}--b--", format!("{head}GET x\n\n").repeat(PARTS + 1));
        check(&many, "at most 1000 requests");
        let twice = "--c\nContent-Type: application/http\nContent-ID: 1\n\nPOST x\n\n".repeat(2);
        check(&format!("--b\nContent-Type: multipart/mixed;boundary=c\n\n{twice}--c--\n--b--"), "has this Content-ID");
    }

    #[test]
    fn a_boundary_is_in_no_body() {
        let check = |bodies: &[&str], expect: &str| {
            let reply = |body: &&str| Reply {
                name: None,
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: Bytes::copy_from_slice(body.as_bytes()),
            };
            let replies: Vec<Reply> = bodies.iter().map(reply).collect();
            assert_eq!(unused("batch", &replies.iter().collect::<Vec<_>>()), expect);
        };
        check(&[], "batch_0");
        check(&["x", "batch_", "batch_x"], "batch_1");
        check(&["--batch_7 batch_31", "batch_007"], "batch_32");
        check(&["batch_99999999999999999999999"], "batch_1000000000000000000");
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(parts in prop::collection::vec(prop::sample::select(vec![
            "--b", "--b--", "--c", "--c--", "\r\n", "\n", "Content-Type: application/http", "Content-Type: multipart/mixed;boundary=c",
            "Content-ID: 1", "GET /v1.1/Things HTTP/1.1", "POST $1", "{}", " ", ":", "é",
        ]), 0..30)) {
            let _ = parse("multipart/mixed;boundary=b", &parts.concat().into());
        }
    }
}
