//! Devices that are claimed: one leaves the factory with a code on its plate, and the register knows the code's hash. The device shows the code
//! once and gets a key of its own; somebody in the field shows the same code once and says where the device stands. Either may be first.

use std::{collections::HashMap, net::IpAddr};

use kernel::{Caller, Id, Problem, Tenant, Timestamp};
use parking_lot::Mutex;
use rand::RngCore;
use records::{Tx, params};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Device, Devices, NewKey, as_caller, bulk::sheet::Named, store, token};
use crate::{Error, model::EntityId};

/// Letters and digits of a code: 16 of an alphabet of 32 are 80 random bits, which nobody finds by trying.
const LEAST: usize = 16;
const MOST: usize = 128;
/// Different characters in a code, at least: `0000000000000000` is no secret.
const DIFFERENT: usize = 6;
/// Characters of a code that is made here: 100 bits.
const MADE: usize = 20;
/// Refused replays of one claim that leave an audit row; the rest are counted.
const AUDITED: i64 = 10;

/// The SHA-256 of a code, however it is grouped and cased: what is stored, and what is looked for.
///
/// # Errors
/// What is wrong with it, when it is too short to be a secret.
pub fn hash(code: &str) -> Result<String, &'static str> {
    let plain: String =
        code.chars().filter(|c| !matches!(c, '-' | ' ' | '.' | ':')).map(|c| c.to_ascii_uppercase()).collect();
    if !plain.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err("letters, digits and hyphens are expected");
    }
    if !(LEAST..=MOST).contains(&plain.len()) {
        return Err("16 to 128 letters and digits are expected, or it could be guessed");
    }
    let mut letters: Vec<u8> = plain.bytes().collect();
    letters.sort_unstable();
    letters.dedup();
    if letters.len() < DIFFERENT {
        return Err("it is too regular and could be guessed");
    }
    Ok(hex::encode(Sha256::digest(format!("lamppost claim {plain}"))))
}

/// A new code, in groups that can be read aloud.
pub fn make() -> String {
    let mut bytes = [0u8; MADE];
    rand::rng().fill_bytes(&mut bytes);
    let letters = bytes.map(|b| char::from(token::ALPHABET[usize::from(b % 32)]).to_ascii_uppercase());
    letters.chunks(5).map(String::from_iter).collect::<Vec<_>>().join("-")
}

/// What becomes of whoever shows a code that is not good: the same for all reasons.
fn refused() -> Error {
    Problem::new(
        http::StatusCode::FORBIDDEN,
        "claim-refused",
        "The claim code is not good",
        "It is not known, was used already, or is over. Ask whoever looks after the device for a new one.",
    )
    .into()
}

/// Wrong codes in a row, and microseconds until one more.
const ADDRESS: (i64, i64) = (20, 6_000_000);
const ALL: (i64, i64) = (600, 50_000);
/// Addresses that are remembered.
const REMEMBERED: usize = 50_000;

/// Who is counted: an address, or of IPv6 the network of one subscriber (RFC 6177), who has 2^64 addresses to guess from.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// Slows whoever guesses. Right codes do not count, so that a factory's worth of devices behind one address comes in.
#[derive(Default)]
pub struct Guard(Mutex<(HashMap<String, i64>, i64)>);

impl Guard {
    /// Seconds to wait, when somebody has to. Who is known by name waits for own mistakes alone: nobody outside can keep an office from its work.
    fn wait(&self, who: &str, known: bool, now: Timestamp) -> Result<(), Error> {
        let now = now.as_micros();
        let tries = self.0.lock();
        let over = |clear: i64, (most, every): (i64, i64)| clear.max(now) - now - (most - 1) * every;
        let own = over(tries.0.get(who).copied().unwrap_or(0), ADDRESS);
        let wait = if known { own } else { own.max(over(tries.1, ALL)) };
        if wait > 0 {
            let seconds = u32::try_from(wait / 1_000_000 + 1).unwrap_or(u32::MAX);
            return Err(Problem::too_many("Too many codes that are not good. Wait, then try again.", seconds).into());
        }
        Ok(())
    }
    fn wrong(&self, who: &str, known: bool, now: Timestamp) {
        let now = now.as_micros();
        let (all, total) = &mut *self.0.lock();
        if all.len() >= REMEMBERED {
            all.retain(|_, clear| *clear > now);
            if all.len() >= REMEMBERED {
                // Only an attack from everywhere fills it with live ones: the limit over all still holds.
                all.clear();
            }
        }
        let clear = all.entry(who.to_owned()).or_default();
        *clear = (*clear).max(now) + ADDRESS.1;
        if !known {
            *total = (*total).max(now) + ALL.1;
        }
    }
}

/// A claim of a device, without its code.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Claim {
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// When the device has shown the code and was given its key.
    pub collected_at: Option<Timestamp>,
    /// When somebody has shown the code and said where it stands, and who.
    pub placed_at: Option<Timestamp>,
    pub placed_by: Option<String>,
    /// How often the code was shown when it was not good any more: somebody may have copied it.
    pub refusals: i64,
    pub refused_at: Option<Timestamp>,
}

const COLUMNS: &str =
    "SELECT created_at, expires_at, collected_at, placed_at, placed_by, refusals, refused_at, device, hash
     FROM sensing_device_claim";

fn read_claim(row: &records::Row<'_>) -> Result<(Claim, Id<Device>), records::Error> {
    Ok((
        Claim {
            created_at: row.get(0)?,
            expires_at: row.get(1)?,
            collected_at: row.get(2)?,
            placed_at: row.get(3)?,
            placed_by: row.get(4)?,
            refusals: row.get(5)?,
            refused_at: row.get(6)?,
        },
        row.get(7)?,
    ))
}

/// A code that was used or is over was shown again.
fn note_refusal(tx: &mut Tx<'_>, hash: &str, device: &Device, by: &Caller, before: i64) -> Result<(), Error> {
    let sql = "UPDATE sensing_device_claim SET refusals = refusals + 1, refused_at = $2 WHERE hash = $1";
    tx.execute(sql, params![hash, tx.now()])?;
    if before < AUDITED {
        let detail = json!({"key": device.key, "times": before + 1});
        let id = device.id.to_string();
        tx.audit(by, "device:claim-refused", "Device", &id, Some(&device.tenant), detail)?;
    }
    Ok(())
}

enum Collected {
    Unknown,
    Refused,
    Key(Box<Device>),
}

impl Devices {
    /// The device's side: its code for a key of its own. Once; `who` is where it comes from, for the limit on tries.
    ///
    /// # Errors
    /// 403 for every code that is not good, whatever the reason; 429 for whoever tries many.
    pub async fn collect(&self, code: &str, who: Option<IpAddr>) -> Result<(Device, NewKey), Error> {
        let who = who.map_or_else(|| "nowhere".to_owned(), network);
        self.inner.guessers.wait(&who, false, self.now())?;
        let Ok(hash) = hash(code) else {
            self.inner.guessers.wrong(&who, false, self.now());
            return Err(refused());
        };
        let key = token::issue(token::Kind::Device);
        let (prefix, proof) = (key.prefix.clone(), key.hash.clone());
        let command = move |tx: &mut Tx<'_>| {
            let found = tx.query_opt(&format!("{COLUMNS} WHERE hash = $1"), params![hash], read_claim)?;
            let Some((claim, id)) = found else { return Ok(Collected::Unknown) };
            let device = store::get(tx, id)?.ok_or_else(refused)?;
            let over = claim.expires_at.is_some_and(|at| at <= tx.now());
            let own = as_caller(&device);
            if claim.collected_at.is_some() || over || !device.enabled || device.decommissioned.is_some() {
                note_refusal(tx, &hash, &device, &Caller::anonymous(), claim.refusals)?;
                return Ok(Collected::Refused);
            }
            let sql = "UPDATE sensing_device_claim SET collected_at = $2 WHERE hash = $1";
            tx.execute(sql, params![hash, tx.now()])?;
            store::insert_key(tx, &own, &device, (&prefix, &proof), None, None)?;
            let detail = json!({"key": device.key, "prefix": prefix});
            tx.audit(&own, "device:claim", "Device", &id.to_string(), Some(&device.tenant), detail)?;
            Ok::<_, Error>(Collected::Key(Box::new(device)))
        };
        match self.inner.records.write(command).await? {
            Collected::Key(device) => {
                self.inner.generation.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok((*device, NewKey { secret: key.text, prefix: key.prefix }))
            }
            Collected::Unknown | Collected::Refused => {
                self.inner.guessers.wrong(&who, false, self.now());
                Err(refused())
            }
        }
    }

    /// The field engineer's side: a code and the Thing that the device stands at. Once; the same again changes nothing.
    ///
    /// # Errors
    /// 404 for a code that is not known or not of a department whose devices the caller manages, 429 for whoever tries many, 400 for a Thing that is
    /// not the department's, 409 when it was placed elsewhere already.
    pub async fn place(&self, caller: &Caller, code: &str, thing: &Named) -> Result<Device, Error> {
        let who = caller.label();
        self.inner.guessers.wait(&who, true, self.now())?;
        let missing = || Error::not_found("A device with this claim code");
        let found = match hash(code) {
            Ok(hash) => {
                let asked = hash.clone();
                let sql = format!("{COLUMNS} WHERE hash = $1");
                let found = self
                    .inner
                    .records
                    .read(move |read| {
                        let found = read.query_opt(&sql, params![asked], read_claim)?;
                        let Some((_, id)) = found else { return Ok(None) };
                        store::get(read, id)
                    })
                    .await?;
                found.map(|device| (hash, device))
            }
            Err(_) => None,
        };
        // Of another department's device nothing is told, not even that it is there.
        let found = found.filter(|(_, device)| self.may(caller, true, &device.tenant));
        let Some((hash, _)) = found else {
            self.inner.guessers.wrong(&who, true, self.now());
            return Err(missing());
        };
        let (caller, thing) = (caller.clone(), thing.clone());
        let command = move |tx: &mut Tx<'_>| {
            let (claim, id) =
                tx.query_opt(&format!("{COLUMNS} WHERE hash = $1"), params![hash], read_claim)?.ok_or_else(missing)?;
            let device = store::get(tx, id)?.ok_or_else(missing)?;
            let thing = thing_of(tx, &device.tenant, &thing)?
                .ok_or_else(|| Error::field("/thing", "there is no such Thing in the device's department"))?;
            if device.decommissioned.is_some() || claim.expires_at.is_some_and(|at| at <= tx.now()) {
                note_refusal(tx, &hash, &device, &caller, claim.refusals)?;
                return Ok(Err("The claim code is over. Make a new one on the device's page."));
            }
            if claim.placed_at.is_some() {
                if device.things == [thing] {
                    return Ok(Ok(device));
                }
                note_refusal(tx, &hash, &device, &caller, claim.refusals)?;
                return Ok(Err("The device was placed with this code already. Move it on its own page."));
            }
            let sql = "UPDATE sensing_device_claim SET placed_at = $2, placed_by = $3 WHERE hash = $1";
            tx.execute(sql, params![hash, tx.now(), caller.label()])?;
            let change = super::Change { things: Some(vec![thing]), ..Default::default() };
            let device = store::update(tx, &caller, &device, &change)?;
            let detail = json!({"key": device.key, "thing": thing});
            tx.audit(&caller, "device:place", "Device", &id.to_string(), Some(&device.tenant), detail)?;
            Ok::<_, Error>(Ok(device))
        };
        let device = self.inner.records.write(command).await?.map_err(Error::conflict)?;
        self.changed(&device);
        Ok(device)
    }

    /// A new code for a device that is there, shown once: for one that lost its key, or whose code was used by somebody else. The old one ends.
    ///
    /// # Errors
    /// 404, 403 as everywhere; 409 when the device is decommissioned.
    pub async fn new_claim(
        &self,
        caller: &Caller,
        id: Id<Device>,
        expires_at: Option<Timestamp>,
    ) -> Result<String, Error> {
        let device = self.find(id).await?;
        self.demand(caller, true, &device)?;
        let code = make();
        let hash = hash(&code).map_err(Error::internal)?;
        let caller = caller.clone();
        let command = move |tx: &mut Tx<'_>| {
            if store::get(tx, id)?.is_none_or(|device| device.decommissioned.is_some()) {
                return Err(store::over());
            }
            tx.execute("DELETE FROM sensing_device_claim WHERE device = $1", params![id])?;
            let sql = "INSERT INTO sensing_device_claim (hash, device, created_at, expires_at, refusals)
                       VALUES ($1, $2, $3, $4, 0)";
            tx.execute(sql, params![hash, id, tx.now(), expires_at])?;
            let detail = json!({"key": device.key, "expires_at": expires_at});
            Ok(tx.audit(&caller, "device:claim-code", "Device", &id.to_string(), Some(&device.tenant), detail)?)
        };
        self.inner.records.write(command).await?;
        Ok(code)
    }

    /// The claim of a device, for whoever may see the device.
    ///
    /// # Errors
    /// 404 as everywhere.
    pub async fn claim_of(&self, caller: &Caller, id: Id<Device>) -> Result<Option<Claim>, Error> {
        let device = self.find(id).await?;
        self.demand(caller, false, &device)?;
        let sql = format!("{COLUMNS} WHERE device = $1");
        let found = self.inner.records.read(move |read| read.query_opt(&sql, params![id], read_claim)).await;
        Ok(found.map_err(|e: records::Error| e)?.map(|(claim, _)| claim))
    }
}

/// A Thing of a department by id or key.
fn thing_of(tx: &mut Tx<'_>, tenant: &Tenant, named: &Named) -> Result<Option<EntityId>, Error> {
    let by_id = "SELECT id FROM sensing_thing WHERE tenant = $1 AND id = $2";
    let by_key = "SELECT id FROM sensing_thing WHERE tenant = $1 AND key = $2";
    let found = match named {
        Named::Id(id) => tx.query_opt(by_id, params![tenant, id.0], |row| row.get::<i64>(0))?,
        Named::Key(key) => tx.query_opt(by_key, params![tenant, key], |row| row.get::<i64>(0))?,
    };
    Ok(found.map(EntityId))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_same_however_it_is_written() {
        assert_eq!(hash("abcd-efgh-jkmn-pqrs"), hash("ABCDEFGHJKMNPQRS"));
        assert_ne!(hash("abcd-efgh-jkmn-pqrs"), hash("abcd-efgh-jkmn-pqrt"));
        for weak in
            ["", "ABCD-EFGH", "000000000000000000", "ABABABABABABABABAB", "ABCD_EFGH_JKMN_PQRS", "水水水水水水水水"]
        {
            assert!(hash(weak).is_err(), "{weak}");
        }
        let (one, two) = (make(), make());
        assert_ne!(one, two);
        assert_eq!((one.len(), hash(&one).is_ok()), (23, true), "{one}");
    }

    #[test]
    fn whoever_guesses_waits() {
        let guard = Guard::default();
        let at = |secs: i64| Timestamp::from_secs(1_000_000 + secs);
        let tried = |who: &str, now| {
            (0..1_000).take_while(|_| guard.wait(who, false, now).is_ok()).map(|_| guard.wrong(who, false, now)).count()
        };
        assert_eq!(tried("10.0.0.1", at(0)), 20);
        assert_eq!(tried("10.0.0.2", at(0)), 20, "others are not held up");
        assert_eq!(tried("10.0.0.1", at(5)), 0);
        assert_eq!(tried("10.0.0.1", at(13)), 2, "one more each six seconds");
        let all: usize = (0..100).map(|n| tried(&format!("10.1.0.{n}"), at(13))).sum();
        assert!((500..=700).contains(&all), "and all together: {all}");
        assert!(guard.wait("10.2.0.1", false, at(13)).is_err());
        assert!(guard.wait("person:p", true, at(13)).is_ok(), "nobody outside keeps an office waiting");
    }

    #[test]
    fn of_ipv6_a_network_is_who_guesses() {
        let of = |address: &str| network(address.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
