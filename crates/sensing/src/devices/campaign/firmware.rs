//! Images of firmware: kept in the records in parts, named by the SHA-256 of their content, fetched by ranges.

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use kernel::{Caller, Id, Problem, Tenant};
use records::{Tx, params};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    super::{Device, Devices, model::check_word},
    store::{self, Firmware},
};
use crate::{Error, route::action};

/// Bytes of an image.
pub const MOST: usize = 32 << 20;
/// Images of a department.
const IMAGES: usize = 200;
/// Bytes of a part: one row, read and written by itself, so that no image holds up the writer.
const PART: usize = 512 << 10;

/// What of an image is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    Whole,
    /// First and last byte.
    Part(u64, u64),
    /// Nothing of it is there.
    Beyond,
}

/// One range of bytes (RFC 9110 section 14.1.2). What is no such range, or several, is answered whole (section 14.2).
pub fn range(header: Option<&str>, size: u64) -> Range {
    let Some(text) = header.and_then(|h| h.strip_prefix("bytes=")) else { return Range::Whole };
    let Some((from, to)) = text.trim().split_once('-') else { return Range::Whole };
    let digits = |text: &str| -> Option<u64> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (from.is_empty(), to.is_empty(), digits(from), digits(to)) {
        // The last so many.
        (true, false, _, Some(last)) => {
            if last == 0 || size == 0 {
                Range::Beyond
            } else {
                Range::Part(size.saturating_sub(last), size - 1)
            }
        }
        (false, true, Some(from), _) if from < size => Range::Part(from, size - 1),
        (false, false, Some(from), Some(to)) if from <= to && from < size => Range::Part(from, to.min(size - 1)),
        (false, _, Some(from), Some(_)) if from >= size => Range::Beyond,
        _ => Range::Whole,
    }
}

/// A SHA-256 in small hexadecimal digits.
fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

impl Devices {
    /// Keeps an image. The same content again is the same image, and changes nothing. `expected` is the SHA-256 that the sender knows.
    ///
    /// # Errors
    /// 403 where the caller may not manage the department's devices; 400 for what does not fit; 409 when there are too many.
    pub async fn upload(
        &self,
        caller: &Caller,
        tenant: &Tenant,
        (name, version): (&str, &str),
        content: Bytes,
        expected: Option<&str>,
    ) -> Result<Firmware, Error> {
        if !self.may_campaign(caller, action::DEVICE_MANAGE, tenant) {
            return Err(Problem::forbidden("You may not keep firmware for this department.").into());
        }
        check_word("name", name, 200)?;
        check_word("version", version, 200)?;
        if content.is_empty() || content.len() > MOST {
            return Err(Error::field("body", format!("an image of 1 to {MOST} bytes is expected")));
        }
        let hashed = content.clone();
        let sha256 =
            tokio::task::spawn_blocking(move || hex::encode(Sha256::digest(&hashed))).await.map_err(Error::internal)?;
        if expected.is_some_and(|expected| !expected.trim().eq_ignore_ascii_case(&sha256)) {
            let detail = format!("the SHA-256 of what arrived is {sha256}; nothing was kept");
            return Err(Error::field("sha256", detail));
        }
        let (of, asked) = (tenant.clone(), sha256.clone());
        let known = self.inner.records.read(move |read| store::firmware(read, &of, None)).await?;
        if let Some(there) = known.iter().find(|f| f.sha256 == asked) {
            return Ok(there.clone());
        }
        if known.len() >= IMAGES {
            return Err(Error::conflict(format!("The department has {IMAGES} images. Remove one first.")));
        }
        // The parts first: the image is there when its row is, and parts without a row are written again by whoever sends it again.
        for (at, part) in content.chunks(PART).enumerate() {
            let (tenant, sha256, part) = (tenant.clone(), sha256.clone(), part.to_vec());
            let sql = "INSERT INTO sensing_firmware_part (tenant, sha256, part, content) VALUES ($1, $2, $3, $4)
                       ON CONFLICT (tenant, sha256, part) DO NOTHING";
            let command = move |tx: &mut Tx<'_>| tx.execute(sql, params![tenant, sha256, at as i64, part]);
            self.inner.records.write(command).await?;
        }
        let (caller, of, size) = (caller.clone(), tenant.clone(), content.len() as i64);
        let (name, version) = (name.to_owned(), version.to_owned());
        let command = move |tx: &mut Tx<'_>| {
            // Whoever removed the same image meanwhile took its parts along.
            let count = "SELECT COUNT(*) FROM sensing_firmware_part WHERE tenant = $1 AND sha256 = $2";
            let parts = tx.query_one(count, params![of, sha256], |row| row.get::<i64>(0))?;
            if parts != (size as usize).div_ceil(PART) as i64 {
                return Err(Error::conflict("The image was removed while it arrived. Send it again."));
            }
            let sql = "INSERT INTO sensing_firmware (tenant, sha256, name, version, size, created_at, created_by)
                       VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, sha256) DO NOTHING";
            tx.execute(sql, params![of, sha256, name, version, size, tx.now(), caller.label()])?;
            let detail = json!({"name": name, "version": version, "size": size});
            tx.audit(&caller, "firmware:keep", "Firmware", &sha256, Some(&of), detail)?;
            store::firmware(tx, &of, Some(&sha256))?.pop().ok_or_else(|| Error::not_found("The image"))
        };
        self.inner.records.write(command).await
    }

    /// Images of a department, newest first.
    ///
    /// # Errors
    /// 404 when the caller may not see the department's devices.
    pub async fn images(&self, caller: &Caller, tenant: &Tenant) -> Result<Vec<Firmware>, Error> {
        if !self.may_campaign(caller, action::DEVICE_READ, tenant) {
            return Err(Error::not_found("The list"));
        }
        let tenant = tenant.clone();
        Ok(self.inner.records.read(move |read| store::firmware(read, &tenant, None)).await?)
    }

    /// Removes an image that no campaign brings to devices any more.
    ///
    /// # Errors
    /// 404, 403 as everywhere; 409 while a campaign needs it.
    pub async fn remove_image(&self, caller: &Caller, tenant: &Tenant, sha256: &str) -> Result<(), Error> {
        let missing = || Error::not_found("The image");
        if !self.may_campaign(caller, action::DEVICE_MANAGE, tenant) {
            let sees = self.may_campaign(caller, action::DEVICE_READ, tenant);
            return Err(if sees { Problem::forbidden("You may not remove firmware.").into() } else { missing() });
        }
        let (caller, tenant, sha256) = (caller.clone(), tenant.clone(), sha256.to_owned());
        let command = move |tx: &mut Tx<'_>| {
            let needed =
                "SELECT 1 FROM sensing_campaign WHERE tenant = $1 AND sha256 = $2 AND ended_at IS NULL LIMIT 1";
            if tx.query_opt(needed, params![tenant, sha256], |row| row.get::<i64>(0))?.is_some() {
                return Err(Error::conflict("A campaign that has not ended needs the image."));
            }
            let sql = "DELETE FROM sensing_firmware WHERE tenant = $1 AND sha256 = $2";
            if tx.execute(sql, params![tenant, sha256])? == 0 {
                return Err(missing());
            }
            // With them those of images that never arrived whole, which nobody sees. One that is arriving now is told to come again.
            let sql = "DELETE FROM sensing_firmware_part WHERE tenant = $1 AND NOT EXISTS
                       (SELECT 1 FROM sensing_firmware f WHERE f.tenant = $1 AND f.sha256 = sensing_firmware_part.sha256)";
            tx.execute(sql, params![tenant])?;
            Ok(tx.audit(&caller, "firmware:remove", "Firmware", &sha256, Some(&tenant), json!({}))?)
        };
        self.inner.records.write(command).await
    }

    /// An image for a device that was told to fetch it, whole or in part.
    ///
    /// # Errors
    /// 404 for an image that the device was not told to fetch; 416 for a range that is not there.
    pub async fn fetch(
        &self,
        device: Id<Device>,
        tenant: &Tenant,
        sha256: &str,
        headers: &HeaderMap,
    ) -> Result<http::Response<Body>, Error> {
        let missing = || Error::not_found("The image");
        if !is_hash(sha256) {
            return Err(missing());
        }
        let (of, asked) = (tenant.clone(), sha256.to_owned());
        let found = self
            .inner
            .records
            .read(move |read| {
                if !store::may_fetch(read, device, &asked)? {
                    return Ok(None);
                }
                Ok::<_, records::Error>(store::firmware(read, &of, Some(&asked))?.pop())
            })
            .await?
            .ok_or_else(missing)?;
        let (size, tag) = (found.size.unsigned_abs(), format!("\"{sha256}\""));
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        // A range of another content would be put together with it (RFC 9110 section 13.1.5).
        let same = text(header::IF_RANGE).is_none_or(|given| given == tag);
        let (status, from, to) = match range(text(header::RANGE).filter(|_| same), size) {
            Range::Whole => (StatusCode::OK, 0, size - 1),
            Range::Part(from, to) => (StatusCode::PARTIAL_CONTENT, from, to),
            Range::Beyond => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
        };
        let mut response = if status == StatusCode::RANGE_NOT_SATISFIABLE {
            let detail = format!("The image has {size} bytes.");
            let problem = Problem::new(status, "range", "The range is not there", detail);
            axum::response::IntoResponse::into_response(problem)
        } else {
            http::Response::new(self.parts(tenant.clone(), sha256.to_owned(), from, to))
        };
        *response.status_mut() = status;
        let mut set = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        };
        set(header::ACCEPT_RANGES, "bytes".to_owned());
        match status {
            StatusCode::RANGE_NOT_SATISFIABLE => set(header::CONTENT_RANGE, format!("bytes */{size}")),
            status => {
                if status == StatusCode::PARTIAL_CONTENT {
                    set(header::CONTENT_RANGE, format!("bytes {from}-{to}/{size}"));
                }
                set(header::CONTENT_TYPE, "application/octet-stream".to_owned());
                set(header::CONTENT_LENGTH, (to - from + 1).to_string());
                set(header::ETAG, tag);
                // Compressing it on the way would make another length of it.
                set(header::CACHE_CONTROL, "private, no-transform".to_owned());
            }
        }
        Ok(response)
    }

    /// The bytes from one to another, part by part as the device takes them.
    fn parts(&self, tenant: Tenant, sha256: String, from: u64, to: u64) -> Body {
        let (records, size) = (self.inner.records.clone(), PART as u64);
        let parts = futures::stream::iter(from / size..=to / size).then(move |part| {
            let (records, tenant, sha256) = (records.clone(), tenant.clone(), sha256.clone());
            async move {
                let content = records.read(move |read| store::part(read, &tenant, &sha256, part as i64)).await;
                let content = content.map_err(|e: records::Error| std::io::Error::other(e.to_string()))?;
                let begins = part * size;
                let first = from.saturating_sub(begins) as usize;
                let last = ((to - begins + 1) as usize).min(content.len());
                Ok::<_, std::io::Error>(Bytes::from(content).slice(first.min(last)..last))
            }
        });
        Body::from_stream(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_standard() {
        let check = |header: Option<&str>, expect: Range| assert_eq!(range(header, 100), expect, "{header:?}");
        check(None, Range::Whole);
        check(Some("bytes=0-9"), Range::Part(0, 9));
        check(Some("bytes=90-"), Range::Part(90, 99));
        check(Some("bytes=-10"), Range::Part(90, 99));
        check(Some("bytes=-1000"), Range::Part(0, 99));
        check(Some("bytes=95-1000"), Range::Part(95, 99));
        check(Some("bytes=100-"), Range::Beyond);
        check(Some("bytes=100-200"), Range::Beyond);
        check(Some("bytes=-0"), Range::Beyond);
        check(Some("bytes=9-5"), Range::Whole);
        check(Some("bytes=0-1,5-6"), Range::Whole);
        check(Some("lines=0-1"), Range::Whole);
        check(Some("bytes=99999999999999999999-"), Range::Beyond);
        check(Some("bytes=+1-2"), Range::Whole);
    }

    proptest::proptest! {
        #[test]
        fn a_part_is_within_the_whole(header in "bytes=[0-9]{0,4}-?[0-9]{0,4}", size in 1u64..5_000) {
            if let Range::Part(from, to) = range(Some(&header), size) {
                proptest::prop_assert!(from <= to && to < size, "{} {} {}", header, from, to);
            }
        }
    }
}
