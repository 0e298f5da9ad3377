//! What every HTTP door of the room does alike: who asks, what the body is, and that nothing on the way keeps the answer.

use axum::{
    Extension,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use kernel::{Caller, Id, Problem};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::Error;

/// Anonymous when no door has put anybody there.
pub type Who = Option<Extension<Caller>>;

pub fn caller(who: Who) -> Caller {
    who.map_or_else(Caller::anonymous, |Extension(caller)| caller)
}

/// What somebody says with a deed: why, and which version of the thing they have seen.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    #[serde(default)]
    pub comment: String,
    pub version: Option<u32>,
}

/// # Errors
/// 401 for nobody.
pub fn signed_in(who: Who) -> Result<Caller, Error> {
    let caller = caller(who);
    if caller.is_anonymous() { Err(Problem::unauthenticated().into()) } else { Ok(caller) }
}

/// # Errors
/// 404, not 400: an id that cannot exist does not exist.
pub fn parse_id<K: kernel::Kind>(text: &str) -> Result<Id<K>, Error> {
    text.parse().map_err(|_| Error::not_found(format!("The {} {}", K::NAME, text.chars().take(60).collect::<String>())))
}

/// # Errors
/// 400 with the place where the body is another than is expected.
pub fn json_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|e| Error::bad_request(format!("The body is not the JSON that is expected: {e}.")))
}

/// A declaration whose key the address names: a key in the body may only say the same.
///
/// # Errors
/// 400 with the place where the body is another than is expected.
pub fn keyed_body<T: DeserializeOwned>(body: &[u8], key: &str, what: &str) -> Result<T, Error> {
    let mut body: Value = json_body(body)?;
    let Some(fields) = body.as_object_mut() else { return Err(Error::bad_request("An object is expected.")) };
    if fields.get("key").is_some_and(|k| k.as_str() != Some(key)) {
        return Err(Error::field("/key", "it differs from that of the address"));
    }
    fields.insert("key".to_owned(), key.into());
    serde_json::from_value(body).map_err(|e| Error::bad_request(format!("The {what} cannot be read: {e}")))
}

/// What somebody may see, a key above all, is nobody else's to keep.
pub fn fresh(body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
