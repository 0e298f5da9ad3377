//! Many devices at once: a whole sheet is checked, then written in one transaction or not at all.
//!
//! A device is known by its key in the department, so a sheet that is sent twice registers nobody twice. Keys are made before the transaction,
//! which may run more than once, and stand in the one answer.

pub mod sheet;

use std::collections::{HashMap, HashSet};

use kernel::{Caller, Id, Tenant};
use records::{ColumnKind, Param, Read, ToParam, Tx, params};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Device, Devices, claim,
    store::{self, NAMED, marks},
    token,
};
use crate::{Error, model::EntityId, spreadsheet};
use sheet::{Line, Mistake, Named, Sheet};

/// Rows of one INSERT; the widest has 9 columns.
const INSERTED: usize = 400;

/// What is to be done with a sheet.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub tenant: Tenant,
    /// Look, and change nothing.
    pub check: bool,
    /// Take the rows that are right though others are wrong.
    pub partial: bool,
    /// A device that is there and is described differently is changed; else it is a mistake.
    pub update: bool,
    pub keys: Keys,
}

/// What new devices are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keys {
    /// A key each.
    New,
    /// The same, and also to devices that are there and have never used a key: the answer that held theirs may be lost.
    Unused,
    /// A claim code each, to be printed.
    Claim,
    /// Nothing.
    None,
}

impl Keys {
    pub fn of(name: &str) -> Option<Self> {
        serde_json::from_value(json!(name)).ok()
    }
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    Registered,
    Changed,
    Unchanged,
}

impl Fate {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// A row and what it became.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Done {
    pub line: u64,
    pub id: Id<Device>,
    pub device: String,
    pub fate: Fate,
    /// A key or a claim code, shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// What came of a sheet.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// Whether anything was written.
    pub applied: bool,
    pub registered: usize,
    pub changed: usize,
    pub unchanged: usize,
    /// The first 200.
    pub mistakes: Vec<Mistake>,
    pub mistakes_in_all: usize,
    pub devices: Vec<Done>,
}

impl Outcome {
    /// As a file for a spreadsheet or a label printer.
    pub fn csv(&self, keys: Keys) -> String {
        let secret = if keys == Keys::Claim { "claim_code" } else { "secret" };
        let mut out = format!("line,id,key,fate,{secret}\r\n");
        for done in &self.devices {
            out.push_str(&format!("{},{},", done.line, done.id));
            spreadsheet::field(&mut out, &done.device);
            out.push_str(&format!(",{},", done.fate.name()));
            spreadsheet::field(&mut out, done.secret.as_deref().unwrap_or_default());
            out.push_str("\r\n");
        }
        out
    }
}

/// A row with what it would be given.
struct Prepared {
    line: Line,
    id: Id<Device>,
    key: Option<token::Issued>,
    code: Option<(String, String)>,
}

/// What the register has to say about the rows.
#[derive(Default)]
struct Known {
    things: HashMap<Named, EntityId>,
    devices: HashMap<String, Device>,
    /// Hashes of claim codes, and whose they are.
    claims: HashMap<String, Id<Device>>,
}

/// What is to be done for one row.
struct Step<'a> {
    row: &'a Prepared,
    things: Vec<EntityId>,
    /// The one that is there.
    device: Option<&'a Device>,
    fate: Fate,
    key: bool,
    /// The row's claim code is not the device's yet. One that is stays as it is: a code that was used is not made good by sending the sheet again.
    claim: bool,
}

fn known(read: &mut Read<'_>, tenant: &Tenant, rows: &[Prepared]) -> Result<Known, records::Error> {
    let mut known = Known::default();
    let named: HashSet<&Named> = rows.iter().flat_map(|row| &row.line.things).collect();
    let (mut ids, mut keys) = (Vec::new(), Vec::new());
    for named in named {
        match named {
            Named::Id(id) => ids.push(id.0),
            Named::Key(key) => keys.push(key.as_str()),
        }
    }
    for chunk in ids.chunks(NAMED) {
        let mut values: Vec<Param<'_>> = vec![tenant.to_param()];
        values.extend(chunk.iter().map(|id| Param::Integer(*id)));
        let sql = format!("SELECT id FROM sensing_thing WHERE tenant = $1 AND id IN ({})", marks(2, chunk.len()));
        for id in read.query(&sql, &values, |row| row.get::<i64>(0))? {
            known.things.insert(Named::Id(EntityId(id)), EntityId(id));
        }
    }
    for chunk in keys.chunks(NAMED) {
        let mut values: Vec<Param<'_>> = vec![tenant.to_param()];
        values.extend(chunk.iter().map(|key| key.to_param()));
        let sql = format!("SELECT key, id FROM sensing_thing WHERE tenant = $1 AND key IN ({})", marks(2, chunk.len()));
        for (key, id) in read.query(&sql, &values, |row| Ok((row.get::<String>(0)?, row.get::<i64>(1)?)))? {
            known.things.insert(Named::Key(key), EntityId(id));
        }
    }
    let keys: Vec<&str> = rows.iter().map(|row| row.line.key.as_str()).collect();
    known.devices = store::by_keys(read, tenant, &keys)?.into_iter().map(|d| (d.key.clone(), d)).collect();
    let hashes: Vec<&str> = rows.iter().filter_map(|row| row.line.claim.as_deref()).collect();
    for chunk in hashes.chunks(NAMED) {
        let values: Vec<Param<'_>> = chunk.iter().map(|hash| hash.to_param()).collect();
        let sql = format!("SELECT hash, device FROM sensing_device_claim WHERE hash IN ({})", marks(1, chunk.len()));
        known.claims.extend(read.query(&sql, &values, |row| Ok((row.get(0)?, row.get(1)?)))?);
    }
    Ok(known)
}

/// Decides about one row: pure.
fn decide<'a>(
    row: &'a Prepared,
    known: &'a Known,
    wanted: &Wanted,
    unused: &dyn Fn(&Device) -> bool,
) -> Result<Step<'a>, Vec<Mistake>> {
    let line = &row.line;
    let mut mistakes = Vec::new();
    let mut wrong = |column, detail: String| mistakes.push(Mistake::new(line.line, column, detail));
    let mut things = Vec::new();
    for named in &line.things {
        match known.things.get(named) {
            Some(id) => things.push(*id),
            None => wrong("things", format!("the department has no Thing '{named}'")),
        }
    }
    things.sort_unstable();
    things.dedup();
    let device = known.devices.get(&line.key);
    let claimed = line.claim.as_ref().and_then(|hash| known.claims.get(hash));
    if claimed.is_some_and(|of| device.is_none_or(|device| device.id != *of)) {
        wrong("claim_code", "another device has this code".to_owned());
    }
    let mut fate = Fate::Registered;
    if let Some(device) = device {
        if device.decommissioned.is_some() {
            wrong("key", "the device of this key is decommissioned".to_owned());
        }
        // An empty field says nothing, so it agrees.
        let differs = [
            ("name", line.name.as_ref().is_some_and(|name| *name != device.name), &device.name),
            ("kind", line.kind != device.kind, &device.kind),
        ];
        let mut differing: Vec<(&'static str, String)> =
            differs.into_iter().filter(|(_, differs, _)| *differs).map(|(c, _, is)| (c, is.clone())).collect();
        if line.firmware.is_some() && line.firmware != device.firmware {
            differing.push(("firmware", device.firmware.clone().unwrap_or_default()));
        }
        let found = line.things.iter().all(|named| known.things.contains_key(named));
        if !line.things.is_empty() && found && things != device.things {
            differing.push(("things", device.things.iter().map(ToString::to_string).collect::<Vec<_>>().join(";")));
        }
        if line.gateway.is_some_and(|gateway| gateway != device.gateway) {
            differing.push(("gateway", if device.gateway { "yes" } else { "no" }.to_owned()));
        }
        if line.claim.is_some() && claimed.is_none() {
            differing.push(("claim_code", "another one, or none".to_owned()));
        }
        if wanted.update {
            fate = if differing.is_empty() { Fate::Unchanged } else { Fate::Changed };
        } else {
            fate = Fate::Unchanged;
            for (column, is) in differing {
                wrong(column, format!("the register says '{is}'; ask for existing=update to change it"));
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let key = row.key.is_some() && line.claim.is_none() && (device.is_none() || device.is_some_and(unused));
    let claim = line.claim.is_some() && claimed.is_none();
    Ok(Step { row, things, device, fate, key, claim })
}

fn text(text: &str) -> Param<'_> {
    Param::Text(text.into())
}
fn of(id: Id<Device>) -> Param<'static> {
    Param::Text(id.to_string().into())
}

/// Rows of values for an INSERT, some hundred at a time.
fn insert(tx: &mut Tx<'_>, into: &str, width: usize, values: &[Param<'_>]) -> Result<(), records::Error> {
    for chunk in values.chunks(width * INSERTED) {
        let rows: Vec<String> =
            (0..chunk.len() / width).map(|row| format!("({})", marks(1 + row * width, width))).collect();
        tx.execute(&format!("INSERT INTO {into} VALUES {}", rows.join(", ")), chunk)?;
    }
    Ok(())
}

/// Writes what was decided. Everything new goes in by the hundred; what changes does so one by one.
fn write(tx: &mut Tx<'_>, caller: &Caller, wanted: &Wanted, steps: &[Step<'_>], hash: &str) -> Result<(), Error> {
    let (now, tenant) = (tx.now(), &wanted.tenant);
    let (mut devices, mut things, mut keys, mut claims) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let at = || Param::Integer(now.as_micros());
    for step in steps {
        let (row, line) = (step.row, &step.row.line);
        let id = step.device.map_or(row.id, |device| device.id);
        if step.device.is_none() {
            devices.extend([
                of(id),
                text(tenant.as_str()),
                text(&line.key),
                text(line.name.as_ref().unwrap_or(&line.key)),
                text(&line.kind),
                line.firmware.as_deref().map_or(Param::Null(ColumnKind::Text), text),
                Param::Integer(line.gateway.unwrap_or(false).into()),
                Param::Integer(1),
                at(),
            ]);
            for thing in &step.things {
                things.extend([of(id), Param::Integer(thing.0)]);
            }
        }
        if step.key
            && let Some(key) = &row.key
        {
            keys.extend([text(&key.prefix), of(id), text(&key.hash), at()]);
        }
        let made = row.code.as_ref().map(|(_, hash)| hash);
        if let Some(hash) = line.claim.as_ref().or(made)
            && (step.device.is_none() || (step.fate == Fate::Changed && step.claim))
        {
            claims.push((id, hash));
        }
    }
    let columns = "sensing_device (id, tenant, key, name, kind, firmware, gateway, enabled, created_at)";
    insert(tx, columns, 9, &devices)?;
    insert(tx, "sensing_device_thing (device, thing)", 2, &things)?;
    for step in steps {
        let (line, id) = (&step.row.line, step.device.map_or(step.row.id, |device| device.id));
        if let Some(device) = step.device {
            if step.key {
                // Never used, so nobody is cut off.
                tx.execute("DELETE FROM sensing_device_key WHERE device = $1", params![id])?;
                let detail = json!({"key": line.key, "sheet": hash});
                tx.audit(caller, "device:key-rotate", "Device", &id.to_string(), Some(tenant), detail)?;
            }
            if step.fate == Fate::Changed {
                let change = super::Change {
                    name: line.name.clone(),
                    kind: Some(line.kind.clone()),
                    firmware: line.firmware.clone(),
                    things: (!line.things.is_empty()).then(|| step.things.clone()),
                    gateway: line.gateway,
                    enabled: None,
                };
                store::update(tx, caller, device, &change)?;
            }
        } else {
            let detail = json!({
                "key": line.key, "kind": line.kind, "gateway": line.gateway.unwrap_or(false), "things": step.things, "sheet": hash,
            });
            tx.audit(caller, "device:register", "Device", &id.to_string(), Some(tenant), detail)?;
        }
    }
    insert(tx, "sensing_device_key (prefix, device, hash, created_at)", 4, &keys)?;
    for (id, _) in &claims {
        tx.execute("DELETE FROM sensing_device_claim WHERE device = $1", params![*id])?;
    }
    let values = claims.iter().flat_map(|(id, hash)| [text(hash), of(*id), at(), Param::Integer(0)]);
    insert(tx, "sensing_device_claim (hash, device, created_at, refusals)", 4, &values.collect::<Vec<_>>())?;
    Ok(())
}

impl Devices {
    /// Registers the devices of a sheet, all or none (unless asked to take the right ones). What is wrong is told by row and column.
    ///
    /// # Errors
    /// 403 where the caller may not register devices of the department; 400 for a tenant that is none.
    pub async fn register_sheet(&self, caller: &Caller, bytes: &[u8], wanted: Wanted) -> Result<Outcome, Error> {
        Tenant::parse(wanted.tenant.as_str()).map_err(|detail| Error::field("tenant", detail))?;
        if !self.may(caller, true, &wanted.tenant) {
            return Err(kernel::Problem::forbidden("You may not register devices of this department.").into());
        }
        let hash = hex::encode(Sha256::digest(bytes));
        let Sheet { lines, mistakes } = sheet::read(bytes);
        let mut rows = Vec::with_capacity(lines.len());
        for line in lines {
            let key = matches!(wanted.keys, Keys::New | Keys::Unused).then(|| token::issue(token::Kind::Device));
            let code = if wanted.keys == Keys::Claim && line.claim.is_none() {
                let code = claim::make();
                let hash = claim::hash(&code).map_err(Error::internal)?;
                Some((code, hash))
            } else {
                None
            };
            rows.push(Prepared { line, id: Id::generate(), key, code });
        }
        let (live, caller) = (self.clone(), caller.clone());
        let command = move |tx: &mut Tx<'_>| live.sheet_in(tx, &caller, &rows, &mistakes, &wanted, &hash);
        let (outcome, touched) = self.inner.records.write(command).await?;
        if outcome.applied {
            for id in touched {
                // What changed is read again; a device that was never heard of here needs no word.
                if let Ok(device) = self.find(id).await {
                    self.changed(&device);
                }
            }
            self.inner.generation.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(outcome)
    }

    fn sheet_in(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        rows: &[Prepared],
        mistakes: &[Mistake],
        wanted: &Wanted,
        hash: &str,
    ) -> Result<(Outcome, Vec<Id<Device>>), Error> {
        let known = known(tx, &wanted.tenant, rows)?;
        let mut mistakes = mistakes.to_vec();
        let unused = |device: &Device| {
            let fresh =
                |key: &super::DeviceKey| key.used_at.is_none() && self.inner.live.last_used(&key.prefix).is_none();
            wanted.keys == Keys::Unused && device.enabled && device.seen_at.is_none() && device.keys.iter().all(fresh)
        };
        let mut steps = Vec::with_capacity(rows.len());
        for row in rows {
            match decide(row, &known, wanted, &unused) {
                Ok(step) => steps.push(step),
                Err(wrong) => mistakes.extend(wrong),
            }
        }
        mistakes.sort_by_key(|m| m.line);
        let of = |fate| steps.iter().filter(|step| step.fate == fate).count();
        let mut outcome = Outcome {
            applied: !wanted.check && (mistakes.is_empty() || wanted.partial) && !steps.is_empty(),
            registered: of(Fate::Registered),
            changed: of(Fate::Changed),
            unchanged: of(Fate::Unchanged),
            mistakes_in_all: mistakes.len(),
            ..Outcome::default()
        };
        mistakes.truncate(sheet::TOLD);
        outcome.mistakes = mistakes;
        if !outcome.applied {
            return Ok((outcome, Vec::new()));
        }
        write(tx, caller, wanted, &steps, hash)?;
        outcome.devices = steps
            .iter()
            .map(|step| {
                let code = step.row.code.as_ref().filter(|_| step.device.is_none()).map(|(code, _)| code.clone());
                let key = step.row.key.as_ref().filter(|_| step.key).map(|key| key.text.clone());
                Done {
                    line: step.row.line.line,
                    id: step.device.map_or(step.row.id, |device| device.id),
                    device: step.row.line.key.clone(),
                    fate: step.fate,
                    secret: key.or(code),
                }
            })
            .collect();
        let touched = steps.iter().filter(|s| s.fate == Fate::Changed).filter_map(|s| s.device.map(|d| d.id));
        Ok((outcome, touched.collect()))
    }
}
