//! Devices that sign in with a certificate (X.509, RFC 5280) instead of a key.
//!
//! TLS has verified the certificate: its chain to an authority that the operator declared, its dates, and the authority's revocation lists. Here it
//! is told whose it is, and whether the register still wants it. Whose it is stands in the certificate, in the first of these that is there:
//! - a URI among the subject alternative names, `urn:lamppost:device:<department>:<key>` or `urn:uuid:<device id>`;
//! - a common name `<department>/<key>`, or a device id;
//! - a common name that is the device's key, with the department as the organisation.
//!
//! A device for which certificates are registered comes in with those alone; one for which none is, with any that names it.

use std::sync::atomic::Ordering::Relaxed;

use base64::{Engine, engine::general_purpose::STANDARD};
use kernel::{Caller, Id, Tenant, Timestamp};
use records::params;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Device, Devices, store};
use crate::Error;

/// Bytes of a certificate.
const MOST: usize = 16 << 10;
/// Certificates of one device, those that were revoked among them.
const CERTIFICATES: i64 = 20;
/// Names that are read of one certificate.
const NAMES: usize = 20;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// SHA-256 of the whole, in hexadecimal.
    pub fingerprint: String,
    /// Hexadecimal, as authorities print it.
    pub serial: String,
    pub common_name: Option<String>,
    pub organisation: Option<String>,
    /// URIs among the subject alternative names.
    pub uris: Vec<String>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Whose a certificate is.
#[derive(Clone, Debug, PartialEq)]
pub enum Named {
    Id(Id<Device>),
    Key(Tenant, String),
}

/// A certificate that is registered for a device.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Registered {
    pub fingerprint: String,
    pub subject: String,
    pub serial: String,
    pub not_after: Timestamp,
    pub created_at: Timestamp,
    /// Not good since then, and never again.
    pub revoked_at: Option<Timestamp>,
}

/// One element of DER (X.690 section 8.1): its tag, its content, and what follows it. Definite lengths in their shortest form alone.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    // Tags above 30 occur in no certificate.
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The content of the next element, which must have this tag.
fn take<'a>(bytes: &mut &'a [u8], expected: u8) -> Option<&'a [u8]> {
    let (tag, content, rest) = element(bytes)?;
    *bytes = rest;
    (tag == expected).then_some(content)
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
/// 2.5.4.3, 2.5.4.10 and 2.5.29.17.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANISATION: &[u8] = &[0x55, 4, 10];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// A time as certificates write it (RFC 5280 section 4.1.2.5): `YYMMDDHHMMSSZ` until 2049, `YYYYMMDDHHMMSSZ` from 2050 on.
fn time(bytes: &mut &[u8]) -> Option<Timestamp> {
    let (tag, content, rest) = element(bytes)?;
    *bytes = rest;
    let text = std::str::from_utf8(content).ok()?;
    let full = match tag {
        0x17 if text.len() == 13 => format!("{}{text}", if text < "50" { "20" } else { "19" }),
        0x18 if text.len() == 15 => text.to_owned(),
        _ => return None,
    };
    if !full.ends_with('Z') || !full[..14].bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| &full[from..to];
    let iso =
        format!("{}-{}-{}T{}:{}:{}Z", part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14));
    iso.parse().ok()
}

/// The value of the last attribute of this kind in a name: the most specific one (RFC 4514 writes it first).
fn attribute(mut name: &[u8], kind: &[u8]) -> Option<Option<String>> {
    let (mut found, mut count) = (None, 0);
    while !name.is_empty() {
        count += 1;
        if count > NAMES {
            return None;
        }
        let mut set = take(&mut name, SET)?;
        while !set.is_empty() {
            let mut pair = take(&mut set, SEQUENCE)?;
            let oid = take(&mut pair, OID)?;
            let (tag, value, _) = element(pair)?;
            // UTF8String, PrintableString, IA5String: those of which the bytes are the text.
            if oid == kind && matches!(tag, 0x0c | 0x13 | 0x16) {
                found = Some(std::str::from_utf8(value).ok()?.to_owned());
            }
        }
    }
    Some(found)
}

impl Certificate {
    /// Reads DER. `None` for what is no certificate of version 3 (or 1, which names nobody here).
    pub fn read(der: &[u8]) -> Option<Self> {
        if der.len() > MOST {
            return None;
        }
        let mut whole = der;
        let mut certificate = take(&mut whole, SEQUENCE)?;
        if !whole.is_empty() {
            return None;
        }
        let mut body = take(&mut certificate, SEQUENCE)?;
        if body.first() == Some(&0xa0) {
            take(&mut body, 0xa0)?;
        }
        let serial = take(&mut body, 0x02)?;
        take(&mut body, SEQUENCE)?;
        take(&mut body, SEQUENCE)?;
        let mut validity = take(&mut body, SEQUENCE)?;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        let subject = take(&mut body, SEQUENCE)?;
        take(&mut body, SEQUENCE)?;
        let mut uris = Vec::new();
        while !body.is_empty() {
            let (tag, content, rest) = element(body)?;
            body = rest;
            if tag == 0xa3 {
                uris = alternative_uris(content)?;
            }
        }
        Some(Self {
            fingerprint: hex::encode(Sha256::digest(der)),
            serial: hex::encode(serial),
            common_name: attribute(subject, COMMON_NAME)?,
            organisation: attribute(subject, ORGANISATION)?,
            uris,
            not_before,
            not_after,
        })
    }

    /// From PEM (RFC 7468) or base64 alone: the first certificate in it.
    pub fn read_pem(text: &str) -> Option<Self> {
        let inner = match text.split_once("-----BEGIN CERTIFICATE-----") {
            Some((_, rest)) => rest.split_once("-----END CERTIFICATE-----")?.0,
            None => text,
        };
        if inner.len() > 2 * MOST {
            return None;
        }
        let base64: String = inner.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        Self::read(&STANDARD.decode(base64).ok()?)
    }

    /// Whose it is.
    pub fn names(&self) -> Option<Named> {
        for uri in &self.uris {
            if let Some(rest) = uri.strip_prefix("urn:lamppost:device:") {
                let (tenant, key) = rest.split_once(':')?;
                return Some(Named::Key(Tenant::parse(tenant).ok()?, key.to_owned()));
            }
            if let Some(id) = uri.strip_prefix("urn:uuid:") {
                return Some(Named::Id(id.parse().ok()?));
            }
        }
        let name = self.common_name.as_deref()?;
        if let Ok(id) = name.parse() {
            return Some(Named::Id(id));
        }
        if let Some((tenant, key)) = name.split_once('/') {
            return Some(Named::Key(Tenant::parse(tenant).ok()?, key.to_owned()));
        }
        let tenant = Tenant::parse(self.organisation.as_deref()?).ok()?;
        Some(Named::Key(tenant, name.to_owned()))
    }

    /// For people: the names in it.
    fn subject(&self) -> String {
        let names = self.uris.iter().map(String::as_str).chain(self.common_name.as_deref());
        let text = names.collect::<Vec<_>>().join(", ");
        text.chars().filter(|c| !c.is_control()).take(300).collect()
    }
}

/// The URIs of the extension `subjectAltName` among all extensions (RFC 5280 section 4.2.1.6).
fn alternative_uris(extensions: &[u8]) -> Option<Vec<String>> {
    let mut outer = extensions;
    let mut all = take(&mut outer, SEQUENCE)?;
    let mut uris = Vec::new();
    while !all.is_empty() {
        let mut extension = take(&mut all, SEQUENCE)?;
        let oid = take(&mut extension, OID)?;
        if extension.first() == Some(&0x01) {
            take(&mut extension, 0x01)?;
        }
        let mut value = take(&mut extension, 0x04)?;
        if oid != ALTERNATIVE_NAMES {
            continue;
        }
        let mut names = take(&mut value, SEQUENCE)?;
        while !names.is_empty() && uris.len() < NAMES {
            let (tag, content, rest) = element(names)?;
            names = rest;
            // [6] IA5String
            if tag == 0x86 {
                uris.push(std::str::from_utf8(content).ok()?.to_owned());
            }
        }
    }
    Some(uris)
}

/// A fingerprint as people copy it: with or without colons, in either case.
fn fingerprint(text: &str) -> Option<String> {
    let plain: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect::<String>().to_lowercase();
    (plain.len() == 64 && plain.bytes().all(|b| b.is_ascii_hexdigit())).then_some(plain)
}

impl Devices {
    /// The caller behind a certificate that TLS has verified; `None` for one that names no device in service, or one that the register does not
    /// want (any more).
    ///
    /// # Errors
    /// When the register cannot be read.
    pub async fn authenticate_certificate(&self, der: &[u8]) -> Result<Option<Caller>, Error> {
        let Some(certificate) = Certificate::read(der) else { return Ok(None) };
        let Some(named) = certificate.names() else { return Ok(None) };
        // TLS looks at the dates with the clock of the machine; this is the program's.
        if !(certificate.not_before..certificate.not_after).contains(&self.now()) {
            return Ok(None);
        }
        let fingerprint = certificate.fingerprint.clone();
        let found = self
            .inner
            .records
            .read(move |read| {
                let device = match &named {
                    Named::Id(id) => store::get(read, *id)?,
                    Named::Key(tenant, key) => store::by_keys(read, tenant, &[key])?.pop(),
                };
                let Some(device) = device.filter(|d| d.enabled && d.decommissioned.is_none()) else { return Ok(None) };
                // Whosever it was: an entry of the register can be removed and made again under the same key.
                let revoked =
                    "SELECT 1 FROM sensing_device_certificate WHERE fingerprint = $1 AND revoked_at IS NOT NULL";
                if read.query_opt(revoked, params![fingerprint], |row| row.get::<i64>(0))?.is_some() {
                    return Ok(None);
                }
                let sql = "SELECT fingerprint, revoked_at FROM sensing_device_certificate WHERE device = $1";
                let listed = read.query(sql, params![device.id], |row| {
                    Ok((row.get::<String>(0)?, row.get::<Option<Timestamp>>(1)?))
                })?;
                let own = listed.iter().find(|(known, _)| *known == fingerprint);
                // Where every one that was registered is revoked, none is wanted: not just any that names the device.
                let wanted = listed.is_empty() || own.is_some_and(|(_, revoked)| revoked.is_none());
                Ok::<_, records::Error>(wanted.then_some(device))
            })
            .await?;
        let Some(device) = found else { return Ok(None) };
        let caller = self.come_in(&device);
        self.inner.live.certified(&device.id.to_string(), Some(certificate.not_after));
        Ok(Some(caller))
    }

    /// Ends the connections that were opened with a certificate that is over meanwhile.
    pub(super) fn cut_uncertified(&self) {
        for device in self.inner.live.take_uncertified(self.now()) {
            if let Ok(id) = device.parse() {
                self.cut(id);
            }
        }
    }

    /// Registers a certificate for a device, which comes in with registered ones alone from then on. `text` is PEM, base64 of DER, or (with the end of
    /// its validity unknown) a SHA-256 fingerprint.
    ///
    /// # Errors
    /// 404, 403 as everywhere; 400 for what is no certificate, or one that names another device; 409 when it is there already, or there are too many.
    pub async fn add_certificate(&self, caller: &Caller, id: Id<Device>, text: &str) -> Result<Registered, Error> {
        let device = self.find(id).await?;
        self.demand(caller, true, &device)?;
        if device.decommissioned.is_some() {
            return Err(store::over());
        }
        let (fingerprint, subject, serial, not_after) = match fingerprint(text) {
            Some(fingerprint) => (fingerprint, String::new(), String::new(), Timestamp::from_micros(i64::MAX / 2)),
            None => {
                let read = Certificate::read_pem(text).ok_or_else(|| {
                    Error::field("/certificate", "a certificate as PEM, or its SHA-256 fingerprint, is expected")
                })?;
                let own = match read.names() {
                    Some(Named::Id(named)) => named == id,
                    Some(Named::Key(tenant, key)) => tenant == device.tenant && key == device.key,
                    None => false,
                };
                if !own {
                    let detail = format!(
                        "it does not name this device: its common name should be {}/{}, or a URI in it urn:lamppost:device:{}:{}",
                        device.tenant, device.key, device.tenant, device.key
                    );
                    return Err(Error::field("/certificate", detail));
                }
                if read.not_after <= self.now() {
                    return Err(Error::field("/certificate", format!("it was good until {}", read.not_after)));
                }
                let subject = read.subject();
                (read.fingerprint, subject, read.serial, read.not_after)
            }
        };
        let caller = caller.clone();
        let registered = self
            .inner
            .records
            .write(move |tx| {
                let count = "SELECT COUNT(*) FROM sensing_device_certificate WHERE device = $1";
                if tx.query_one(count, params![id], |row| row.get::<i64>(0))? >= CERTIFICATES {
                    return Err(Error::conflict(format!("The device has {CERTIFICATES} certificates already.")));
                }
                let sql = "INSERT INTO sensing_device_certificate (fingerprint, device, subject, serial, not_after, created_at)
                           VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (fingerprint) DO NOTHING";
                if tx.execute(sql, params![fingerprint, id, subject, serial, not_after, tx.now()])? == 0 {
                    return Err(Error::conflict("The certificate was registered already."));
                }
                let detail = json!({"fingerprint": fingerprint, "subject": subject, "not_after": not_after});
                tx.audit(&caller, "device:certificate", "Device", &id.to_string(), Some(&device.tenant), detail)?;
                Ok(Registered {
                    fingerprint: fingerprint.clone(),
                    subject: subject.clone(),
                    serial: serial.clone(),
                    not_after,
                    created_at: tx.now(),
                    revoked_at: None,
                })
            })
            .await?;
        // What came in with another certificate comes in again, with this one.
        self.inner.generation.fetch_add(1, Relaxed);
        self.cut(id);
        Ok(registered)
    }

    /// Revokes a certificate of a device, and ends what is connected.
    ///
    /// # Errors
    /// 404, 403 as everywhere; 404 also when the certificate is not registered, or revoked already.
    pub async fn revoke_certificate(&self, caller: &Caller, id: Id<Device>, text: &str) -> Result<(), Error> {
        let device = self.find(id).await?;
        self.demand(caller, true, &device)?;
        let fingerprint = fingerprint(text).ok_or_else(|| Error::not_found("The certificate"))?;
        let caller = caller.clone();
        self.inner
            .records
            .write(move |tx| {
                let sql = "UPDATE sensing_device_certificate SET revoked_at = $3
                           WHERE device = $1 AND fingerprint = $2 AND revoked_at IS NULL";
                if tx.execute(sql, params![id, fingerprint, tx.now()])? == 0 {
                    return Err(Error::not_found("The certificate"));
                }
                let detail = json!({"fingerprint": fingerprint});
                let id = id.to_string();
                Ok(tx.audit(&caller, "device:certificate-revoke", "Device", &id, Some(&device.tenant), detail)?)
            })
            .await?;
        self.inner.generation.fetch_add(1, Relaxed);
        self.cut(id);
        Ok(())
    }

    /// The certificates that are registered for a device, oldest first.
    ///
    /// # Errors
    /// 404 as everywhere.
    pub async fn certificates(&self, caller: &Caller, id: Id<Device>) -> Result<Vec<Registered>, Error> {
        let device = self.find(id).await?;
        self.demand(caller, false, &device)?;
        let sql =
            "SELECT fingerprint, subject, serial, not_after, created_at, revoked_at FROM sensing_device_certificate
                   WHERE device = $1 ORDER BY created_at, fingerprint";
        let found = self
            .inner
            .records
            .read(move |read| {
                read.query(sql, params![id], |row| {
                    Ok(Registered {
                        fingerprint: row.get(0)?,
                        subject: row.get(1)?,
                        serial: row.get(2)?,
                        not_after: row.get(3)?,
                        created_at: row.get(4)?,
                        revoked_at: row.get(5)?,
                    })
                })
            })
            .await;
        found.map_err(|e: records::Error| e.into())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn made(name: &str, organisation: Option<&str>, uri: Option<&str>) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["station.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(organisation) = organisation {
            params.distinguished_name.push(DnType::OrganizationName, organisation);
        }
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2055, 12, 31);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_says_whose_it_is() {
        let check = |name: &str, organisation: Option<&str>, uri: Option<&str>, expect: Option<Named>| {
            let made = made(name, organisation, uri);
            let read = Certificate::read(made.der()).unwrap();
            assert_eq!(read.names(), expect, "{name} {organisation:?} {uri:?}");
            assert_eq!(Certificate::read_pem(&made.pem()), Some(read.clone()));
            assert_eq!(read.not_before.to_string(), "2024-02-29T00:00:00Z");
            assert_eq!(read.not_after.to_string(), "2055-12-31T00:00:00Z", "a GeneralizedTime");
        };
        let key = |tenant: &str, key: &str| Some(Named::Key(Tenant::parse(tenant).unwrap(), key.to_owned()));
        let id = "01900000-0000-7000-8000-000000000001";
        check("dsd/wl-1", None, None, key("dsd", "wl-1"));
        check("wl-1", Some("dsd"), None, key("dsd", "wl-1"));
        check("wl-1", None, None, None);
        check("wl-1", Some("Drainage Services"), None, None);
        check(id, None, None, Some(Named::Id(id.parse().unwrap())));
        check("epd/other", Some("epd"), Some("urn:lamppost:device:dsd:wl-1"), key("dsd", "wl-1"));
        check("x", None, Some(&format!("urn:uuid:{id}")), Some(Named::Id(id.parse().unwrap())));
        check("dsd/wl-1", None, Some("urn:uuid:none"), None);
        check("dsd/wl-1", None, Some("https://example.org/"), key("dsd", "wl-1"));
    }

    #[test]
    fn a_fingerprint_is_the_same_however_it_is_written() {
        let made = made("dsd/wl-1", None, None);
        let read = Certificate::read(made.der()).unwrap();
        let colons: Vec<String> =
            read.fingerprint.as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).to_uppercase()).collect();
        assert_eq!(fingerprint(&colons.join(":")), Some(read.fingerprint));
        assert_eq!(fingerprint("ab"), None);
        assert_eq!(fingerprint(&"g".repeat(64)), None);
    }

    #[test]
    fn what_is_cut_off_is_no_certificate() {
        let made = made("dsd/wl-1", Some("dsd"), Some("urn:lamppost:device:dsd:wl-1"));
        let der = made.der();
        for end in 0..der.len() {
            assert_eq!(Certificate::read(&der[..end]), None, "{end}");
        }
        let mut longer = der.to_vec();
        longer.push(0);
        assert_eq!(Certificate::read(&longer), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer(at in 0usize..600, byte in proptest::prelude::any::<u8>(), bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Certificate::read(&bytes);
            let made = made("dsd/wl-1", None, None);
            let mut der = made.der().to_vec();
            let at = at % der.len();
            der[at] = byte;
            let _ = Certificate::read(&der).map(|c| c.names());
        }
    }
}
