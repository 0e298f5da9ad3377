//! The batch format of OData JSON 4.01, section 19.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use kernel::Problem;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};

use super::{COUNTED, Group, PARTS, Part, Replies, Reply, depends, method, named};
use crate::{Error, sta::Response, sta::json_response};

#[derive(Deserialize)]
struct Form<'a> {
    #[serde(borrow, deserialize_with = "bounded")]
    requests: Vec<Request<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    id: Value,
    method: String,
    url: String,
    atomicity_group: Option<String>,
    #[serde(default)]
    depends_on: Vec<String>,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(rename = "if")]
    condition: Option<Value>,
}

/// The requests, refused as soon as there are too many: a small request in JSON is a large one in memory.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Request<'de>>, D::Error> {
    struct Requests;
    impl<'de> Visitor<'de> for Requests {
        type Value = Vec<Request<'de>>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an array of requests")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
            let mut requests = Vec::new();
            while let Some(request) = all.next_element()? {
                if requests.len() >= PARTS {
                    return Err(serde::de::Error::custom(format!("a batch has at most {PARTS} requests")));
                }
                requests.push(request);
            }
            Ok(requests)
        }
    }
    deserializer.deserialize_seq(Requests)
}

/// Reads a batch.
pub fn parse(body: &Bytes) -> Result<Vec<Group>, Error> {
    let form: Form<'_> = serde_json::from_slice(body).map_err(|e| {
        let wanted = "a JSON batch is {\"requests\": [{\"id\": \"1\", \"method\": \"get\", \"url\": \"Things(1)\"}]}";
        Error::field("body", format!("{wanted}: {e}"))
    })?;
    let mut groups: Vec<Group> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (index, request) in form.requests.into_iter().enumerate() {
        let at = format!("/requests/{index}");
        if request.condition.is_some() {
            return Err(Problem::not_implemented(format!("This server does not support 'if' ({at}).")).into());
        }
        let id = match &request.id {
            Value::String(id) => named(&format!("{at}/id"), id)?,
            Value::Number(id) => id.to_string(),
            _ => return Err(Error::field(format!("{at}/id"), "a string is expected")),
        };
        if !seen.insert(id.clone()) {
            return Err(Error::field(format!("{at}/id"), "another request or group has this id"));
        }
        let wanted = "get, post, patch, put or delete is expected";
        let method = method(&request.method).ok_or_else(|| Error::field(format!("{at}/method"), wanted))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let counts = HeaderName::try_from(name.as_str()).ok().filter(|name| COUNTED.contains(name));
            if let (Some(name), Some(Ok(value))) = (counts, value.as_str().map(HeaderValue::try_from)) {
                headers.append(name, value);
            }
        }
        let content = request.body.map_or_else(Bytes::new, |raw| body.slice_ref(raw.get().as_bytes()));
        let (url, after) = (request.url, request.depends_on);
        let part = Part { name: Some(id), method, url, headers, body: content, at: at.clone(), after };
        let Some(name) = request.atomicity_group else {
            groups.push(Group::One(part));
            continue;
        };
        match groups.last_mut() {
            Some(Group::Set(Some(last), parts)) if *last == name => parts.push(part),
            _ => {
                // Section 19.1: the requests of a group stand together.
                if !seen.insert(named(&format!("{at}/atomicityGroup"), &name)?) {
                    let detail = "the requests of a group stand one after the other, and no request has its name";
                    return Err(Error::field(format!("{at}/atomicityGroup"), detail));
                }
                groups.push(Group::Set(Some(name), vec![part]));
            }
        }
    }
    Ok(groups)
}

/// One answer. Its body, when it is JSON, is taken over as it is: a tree of values would be many times as large.
fn one(out: &mut Vec<u8>, id: Option<&String>, group: Option<&String>, reply: &Reply) {
    let mut map = Map::new();
    map.insert("id".to_owned(), json!(id));
    if let Some(group) = group {
        map.insert("atomicityGroup".to_owned(), json!(group));
    }
    map.insert("status".to_owned(), json!(reply.status.as_u16()));
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    if let Some(location) = reply.headers.get(header::LOCATION) {
        // FROST's name for it, beside the standard's.
        map.insert("location".to_owned(), json!(text(location)));
    }
    let headers: Map<String, Value> =
        reply.headers.iter().map(|(name, value)| (name.to_string(), json!(text(value)))).collect();
    if !headers.is_empty() {
        map.insert("headers".to_owned(), Value::Object(headers));
    }
    if out.last() == Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(Value::Object(map).to_string().as_bytes());
    if reply.body.is_empty() {
        return;
    }
    out.pop();
    out.extend_from_slice(b",\"body\":");
    let kind = reply.headers.get(header::CONTENT_TYPE).map(text).unwrap_or_default();
    match serde_json::from_slice::<&RawValue>(&reply.body) {
        Ok(raw) if kind.contains("json") => out.extend_from_slice(raw.get().as_bytes()),
        _ => out.extend_from_slice(Value::from(String::from_utf8_lossy(&reply.body)).to_string().as_bytes()),
    }
    out.push(b'}');
}

/// An answer for each request that was come to.
pub(super) fn response(groups: &[Group], all: &[Replies]) -> Response {
    let mut out = b"{\"responses\":[".to_vec();
    for (group, replies) in groups.iter().zip(all) {
        match (group, replies) {
            (Group::One(part), Replies::One(reply)) => one(&mut out, part.name.as_ref(), None, reply),
            (Group::Set(name, parts), Replies::Set(replies)) => {
                let answered = parts.iter().zip(replies);
                answered.for_each(|(part, reply)| one(&mut out, part.name.as_ref(), name.as_ref(), reply));
            }
            (Group::Set(name, parts), Replies::Refused(reply, blamed)) => {
                for (index, part) in parts.iter().enumerate() {
                    // Whoever is to blame hears why; the others hear that it was not they.
                    if blamed.is_none_or(|blamed| blamed == index) {
                        one(&mut out, part.name.as_ref(), name.as_ref(), reply);
                    } else {
                        let detail =
                            "Another request of the group failed, so nothing of the group was done.".to_owned();
                        let other = Reply::problem(part.name.as_ref(), depends(detail));
                        one(&mut out, part.name.as_ref(), name.as_ref(), &other);
                    }
                }
            }
            _ => {}
        }
    }
    out.extend_from_slice(b"]}");
    json_response(StatusCode::OK, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_groups() {
        let text = r#"{"requests": [
            {"id": "0", "method": "get", "url": "Things(1)"},
            {"id": "1", "atomicityGroup": "g", "method": "post", "url": "Things", "body": {"name": "n"}, "headers": {"Prefer": "return=minimal", "Authorization": "x"}},
            {"id": 2, "atomicityGroup": "g", "method": "PATCH", "url": "$1", "dependsOn": ["0"], "body": {"name": "m"}}
        ]}"#;
        let groups = parse(&text.to_owned().into()).expect("a batch");
        let [Group::One(_), Group::Set(Some(name), parts)] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!((name.as_str(), parts.len()), ("g", 2));
        assert_eq!(&parts[0].body[..], br#"{"name": "n"}"#);
        assert_eq!(parts[0].headers.len(), 1, "{:?}", parts[0].headers);
        assert_eq!((parts[1].name.as_deref(), parts[1].after.as_slice()), (Some("2"), &["0".to_owned()][..]));
    }

    #[test]
    fn mistakes_name_their_place() {
        let check = |text: &str, expect: &str| {
            let error = parse(&text.to_owned().into()).expect_err(text).to_string();
            assert!(error.contains(expect), "{text}: {error}");
        };
        check("{}", "missing field `requests`");
        check(r#"{"requests": [{"id": "1", "method": "head", "url": "x"}]}"#, "/requests/0/method");
        check(r#"{"requests": [{"id": null, "method": "get", "url": "x"}]}"#, "/requests/0/id");
        check(
            r#"{"requests": [{"id": "1", "method": "get", "url": "x"}, {"id": "1", "method": "get", "url": "x"}]}"#,
            "/requests/1/id",
        );
        check(r#"{"requests": [{"id": "1", "method": "get", "url": "x", "if": "1"}]}"#, "'if'");
        let apart = r#"{"requests": [{"id": "1", "method": "post", "url": "x", "atomicityGroup": "g"}, {"id": "2", "method": "get", "url": "x"},
            {"id": "3", "method": "post", "url": "x", "atomicityGroup": "g"}]}"#;
        check(apart, "/requests/2/atomicityGroup");
        let request = r#"{"id": 0, "method": "get", "url": "x"},"#;
        check(
            &format!(r#"{{"requests": [{}{}]}}"#, request.repeat(PARTS), request.trim_end_matches(',')),
            "at most 1000",
        );
    }
}
