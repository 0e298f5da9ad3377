//! The fences of the city: declared by the pack, or drawn by officers over the API; and how rules find theirs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use kernel::{Action, Caller, FieldError, Problem, Resource, Tenant, Timestamp};
use records::{Migration, Read, Row, Tx, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fence::{Fence, FenceDeclaration, Zone};
use crate::{
    Error,
    alarms::{Alarms, stored},
    route::action,
    rules::{
        model::{Condition, Places, Rule},
        store as rules,
    },
};

/// Fences that one department may have beside those of the pack.
pub const MAX_OWN: usize = 1_000;
/// Fences that a city may have.
pub const MAX_FENCES: usize = 10_000;

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "geofences",
    sql: "CREATE TABLE sensing_fence (
            key TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, source TEXT NOT NULL, body TEXT NOT NULL,
            revision BIGINT NOT NULL, changed_at BIGINT NOT NULL, changed_by TEXT NOT NULL);
          CREATE INDEX sensing_fence_tenant ON sensing_fence (tenant, key)",
}];

/// Who declared it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Pack,
    Api,
}

impl Source {
    const fn name(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Api => "api",
        }
    }
}

/// A fence as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    pub fence: Arc<Fence>,
    pub source: Source,
    pub revision: i64,
    pub changed_at: Timestamp,
    pub changed_by: String,
}

/// The file of a pack: `[[fence]]` tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceFile {
    #[serde(default)]
    pub fence: Vec<FenceDeclaration>,
}

/// Outlines of districts by their name, as GeoJSON geometries.
pub type Districts = BTreeMap<String, Value>;

type Hook = Box<dyn Fn() + Send + Sync>;

#[derive(Clone)]
pub struct Fences(Arc<Inner>);

struct Inner {
    alarms: Alarms,
    districts: Districts,
    changed: ArcSwapOption<Hook>,
    /// All of them as they were last read: their outlines are not measured anew for every question. Nobody else writes them.
    known: ArcSwapOption<Vec<Stored>>,
    /// How often they have changed.
    changes: AtomicU64,
}

/// Puts the outline of a district in the place of its name. A name that the map does not have stays, and is a mistake.
fn outlined(mut declaration: FenceDeclaration, districts: &Districts) -> FenceDeclaration {
    if declaration.geojson.is_none() {
        declaration.geojson = declaration.district.as_ref().and_then(|name| districts.get(name)).cloned();
    }
    declaration
}

/// Checks what a pack declares: every fence by itself, and no key twice.
///
/// # Errors
/// Every mistake; fields begin with the fence's place, such as `/3/circle/radius`.
pub fn check_all(declarations: Vec<FenceDeclaration>, districts: &Districts) -> Result<Vec<Fence>, Vec<FieldError>> {
    let (mut fences, mut errors) = (Vec::new(), Vec::new());
    let mut keys = std::collections::BTreeSet::new();
    if declarations.len() > MAX_FENCES {
        return Err(vec![FieldError { field: String::new(), detail: format!("at most {MAX_FENCES} are possible") }]);
    }
    for (at, declaration) in declarations.into_iter().enumerate() {
        if !keys.insert(declaration.key.clone()) {
            errors.push(FieldError { field: format!("/{at}/key"), detail: "the key is used twice".to_owned() });
        }
        match Fence::new(outlined(declaration, districts)) {
            Ok(fence) => fences.push(fence),
            Err(found) => {
                errors.extend(found.into_iter().map(|e| FieldError { field: format!("/{at}{}", e.field), ..e }));
            }
        }
    }
    if errors.is_empty() { Ok(fences) } else { Err(errors) }
}

/// Fences that rules name and nobody declares, or that are another department's own. `known` is key, owner, kind and whether it is public.
pub fn missing(rule: &Rule, known: &[Fence]) -> Vec<FieldError> {
    let may = |f: &&Fence| f.tenant == rule.tenant || f.public;
    let mut errors = Vec::new();
    let mut look = |field: String, key: &str| {
        if !known.iter().filter(may).any(|f| f.key == key) {
            errors.push(FieldError { field, detail: format!("no fence of '{}' has the key '{key}'", rule.tenant) });
        }
    };
    if let Some(key) = &rule.select.within {
        look("/select/within".to_owned(), key);
    }
    let Condition::Geofence(form) = &rule.when else { return errors };
    for (nth, key) in form.fences.iter().enumerate() {
        look(format!("/when/geofence/fences/{nth}"), key);
    }
    if let Some(kind) = &form.kind
        && !known.iter().filter(may).any(|f| f.kind.as_ref() == Some(kind))
    {
        let detail = format!("no fence of '{}' is of the kind '{kind}'", rule.tenant);
        errors.push(FieldError { field: "/when/geofence/kind".to_owned(), detail });
    }
    errors
}

fn problem(errors: Vec<FieldError>) -> Error {
    let Some(first) = errors.first() else { return Error::bad_request("The fence is wrong.") };
    let mut problem = Problem::field(first.field.clone(), first.detail.clone());
    problem.errors = errors;
    problem.into()
}

/// What applying a pack has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub written: usize,
    pub removed: usize,
}

impl Fences {
    /// # Errors
    /// When the table cannot be brought up to date.
    pub fn open(alarms: Alarms, districts: Districts) -> Result<Self, Error> {
        alarms.records().migrate("sensing_fence", MIGRATIONS)?;
        Ok(Self(Arc::new(Inner {
            alarms,
            districts,
            changed: ArcSwapOption::empty(),
            known: ArcSwapOption::empty(),
            changes: AtomicU64::new(0),
        })))
    }

    /// Who must hear that fences are others now: the rules.
    pub fn telling(&self, changed: impl Fn() + Send + Sync + 'static) {
        self.0.changed.store(Some(Arc::new(Box::new(changed))));
    }
    fn tell(&self) {
        self.0.changes.fetch_add(1, Ordering::AcqRel);
        self.0.known.store(None);
        if let Some(changed) = self.0.changed.load_full() {
            changed();
        }
    }

    fn may(&self, caller: &Caller, action: Action, fence: &FenceDeclaration) -> bool {
        let resource = Resource { kind: "Fence", id: &fence.key, tenant: Some(&fence.tenant), public: fence.public };
        caller.is_system() || self.0.alarms.policy().allows(caller, action, &resource)
    }

    async fn all(&self) -> Result<Arc<Vec<Stored>>, Error> {
        if let Some(known) = self.0.known.load_full() {
            return Ok(known);
        }
        let before = self.0.changes.load(Ordering::Acquire);
        let found = Arc::new(self.0.alarms.records().read(all).await.map_err(stored)?);
        self.0.known.store(Some(Arc::clone(&found)));
        // What has changed meanwhile may not be among them.
        if self.0.changes.load(Ordering::Acquire) != before {
            self.0.known.store(None);
        }
        Ok(found)
    }

    /// What the caller may see, by key.
    ///
    /// # Errors
    /// Those of the records.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<Stored>, Error> {
        let all = self.all().await?;
        Ok(all.iter().filter(|s| self.may(caller, action::READ, &s.fence)).cloned().collect())
    }

    /// What the caller may see with keys beyond `after`, and the key to go on from.
    ///
    /// # Errors
    /// Those of the records.
    pub async fn page(
        &self,
        caller: &Caller,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Stored>, Option<String>), Error> {
        let all = self.all().await?;
        let from = after.map_or(0, |after| all.partition_point(|s| s.fence.key.as_str() <= after));
        let seen = all[from..].iter().filter(|s| self.may(caller, action::READ, &s.fence));
        let mut found: Vec<Stored> = seen.take(limit + 1).cloned().collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|s| s.fence.key.clone());
        Ok((found, next))
    }

    /// The fences that a Thing of this department may be measured against, as far as the caller may see them.
    ///
    /// # Errors
    /// Those of the records.
    pub async fn zone(&self, caller: &Caller, tenant: &Tenant, kind: Option<&str>) -> Result<Zone, Error> {
        let mut all = self.list(caller).await?;
        all.retain(|s| {
            (s.fence.public || s.fence.tenant == *tenant) && (kind.is_none() || s.fence.kind.as_deref() == kind)
        });
        Ok(Zone::new(all.into_iter().map(|s| s.fence).collect()))
    }

    /// # Errors
    /// 404 when there is none, or the caller may not see it.
    pub async fn get(&self, caller: &Caller, key: &str) -> Result<Stored, Error> {
        let asked = key.to_owned();
        let found = self.0.alarms.records().read(move |read| one(read, &asked)).await.map_err(stored)?;
        let shown: String = key.chars().take(80).collect();
        found
            .filter(|s| self.may(caller, action::READ, &s.fence))
            .ok_or_else(|| Error::not_found(format!("The fence '{shown}'")))
    }

    fn manages(&self, caller: &Caller, fence: &FenceDeclaration) -> Result<(), Error> {
        if self.may(caller, action::RULE_MANAGE, fence) {
            return Ok(());
        }
        Err(Problem::forbidden(format!("You may not draw fences for '{}'.", fence.tenant)).into())
    }

    /// Whether the caller may draw fences for a department.
    pub fn may_draw(&self, caller: &Caller, tenant: &Tenant) -> bool {
        let resource = Resource { kind: "Fence", id: "", tenant: Some(tenant), public: false };
        caller.is_system() || self.0.alarms.policy().allows(caller, action::RULE_MANAGE, &resource)
    }

    /// The districts of the map that a fence may follow.
    pub fn districts(&self) -> impl Iterator<Item = &str> {
        self.0.districts.keys().map(String::as_str)
    }

    /// Declares one, or draws it anew. Whoever has seen it names its revision, 0 where there was none.
    ///
    /// # Errors
    /// 400 with every mistake, also for a key that does not begin with the department; 403 without `rule:manage` there; 409 for one that the pack has declared, where
    /// a department has too many, and where it is no longer as it was seen.
    pub async fn declare(
        &self,
        caller: &Caller,
        declaration: FenceDeclaration,
        seen: Option<i64>,
    ) -> Result<Stored, Error> {
        self.manages(caller, &declaration)?;
        // Keys are the whole city's. Without the department in them, whoever tries some would learn which ones others have.
        let own = format!("{}.", declaration.tenant);
        if !declaration.key.starts_with(&own) {
            return Err(Error::field("/key", format!("begin it with the department, '{own}'")));
        }
        let fence = Fence::new(outlined(declaration, &self.0.districts)).map_err(problem)?;
        if fence.public && self.0.alarms.policy().seals(&fence.tenant) {
            let detail = format!("'{}' is sealed: nothing of it is published. Leave it out, or false.", fence.tenant);
            return Err(Error::field("/public", detail));
        }
        let key = fence.key.clone();
        let by = caller.clone();
        let written = self.0.alarms.records().write(move |tx| {
            let before = one(tx, &fence.key)?;
            let revision = before.as_ref().map_or(0, |before| before.revision);
            if let Some(before) = before {
                // A pack may name its fences as it likes; what it has declared for another department is still its own.
                if before.source == Source::Pack || before.fence.tenant != fence.tenant {
                    let detail = format!("The city's pack declares the fence '{}'; it is changed there.", fence.key);
                    return Ok(Err(Error::conflict(detail)));
                }
            } else {
                let sql = "SELECT COUNT(*) FROM sensing_fence WHERE tenant = $1 AND source = 'api'";
                let own: i64 = tx.query_one(sql, params![fence.tenant], |row| row.get(0))?;
                if own >= MAX_OWN as i64 {
                    let detail = format!("'{}' has {MAX_OWN} fences already; remove one first.", fence.tenant);
                    return Ok(Err(Error::conflict(detail)));
                }
            }
            if seen.is_some_and(|seen| seen != revision) {
                let detail = match revision {
                    0 => format!("The fence '{}' is no longer there.", fence.key),
                    _ if seen == Some(0) => format!("There is a fence '{}' already. Choose another key.", fence.key),
                    _ => format!("Somebody else has drawn the fence '{}' anew. Open it again and look.", fence.key),
                };
                return Ok(Err(Error::conflict(detail)));
            }
            put(tx, &by, &fence, Source::Api)?;
            Ok::<_, records::Error>(Ok(()))
        });
        written.await.map_err(stored)??;
        self.tell();
        self.get(caller, &key).await
    }

    /// # Errors
    /// 404 when there is none or the caller may not see it; 403 without `rule:manage`; 409 while a rule names it, and for one that the pack declares.
    pub async fn remove(&self, caller: &Caller, key: &str) -> Result<(), Error> {
        let found = self.get(caller, key).await?;
        self.manages(caller, &found.fence)?;
        if found.source == Source::Pack {
            return Err(Error::conflict(format!("The city's pack declares the fence '{key}'; it is removed there.")));
        }
        let (by, key) = (caller.clone(), key.to_owned());
        let written = self.0.alarms.records().write(move |tx| {
            if let Some(rule) = rules::rules(tx)?.iter().find(|r| r.names_fence(&key)) {
                let detail = format!("The rule '{}' names the fence; change the rule first.", rule.key);
                return Ok(Err(Error::conflict(detail)));
            }
            if tx.execute("DELETE FROM sensing_fence WHERE key = $1 AND source = 'api'", params![key])? > 0 {
                tx.audit(&by, "fence:remove", "Fence", &key, Some(&found.fence.tenant), json!({}))?;
            }
            Ok::<_, records::Error>(Ok(()))
        });
        written.await.map_err(stored)??;
        self.tell();
        Ok(())
    }

    /// Makes the fences of the pack those that are given; what officers have drawn stays.
    ///
    /// # Errors
    /// 400 with every mistake and its place; 403 for everybody but the program itself.
    pub async fn apply(&self, caller: &Caller, declarations: Vec<FenceDeclaration>) -> Result<Applied, Error> {
        if !caller.is_system() {
            return Err(Problem::forbidden("The fences of the pack are said by the pack.").into());
        }
        let fences = check_all(declarations, &self.0.districts).map_err(problem)?;
        let by = caller.clone();
        let written = self.0.alarms.records().write(move |tx| {
            let mut applied = Applied::default();
            for fence in &fences {
                applied.written += usize::from(put(tx, &by, fence, Source::Pack)?);
            }
            let sql = "SELECT key, tenant FROM sensing_fence WHERE source = 'pack'";
            let before = tx.query(sql, params![], |row| Ok((row.get::<String>(0)?, row.get::<Tenant>(1)?)))?;
            for (key, tenant) in before.iter().filter(|(key, _)| !fences.iter().any(|f| f.key == *key)) {
                tx.execute("DELETE FROM sensing_fence WHERE key = $1", params![key])?;
                tx.audit(&by, "fence:remove", "Fence", key, Some(tenant), json!({}))?;
                applied.removed += 1;
            }
            Ok::<_, records::Error>(applied)
        });
        let applied = written.await.map_err(stored)?;
        if applied != Applied::default() {
            self.tell();
        }
        Ok(applied)
    }
}

const COLUMNS: &str = "body, source, revision, changed_at, changed_by";

fn read_row(row: &Row<'_>) -> Result<Option<Stored>, records::Error> {
    let body: String = row.get(0)?;
    let read = serde_json::from_str::<FenceDeclaration>(&body).map_err(|e| e.to_string());
    let fence = match read.and_then(|d| Fence::new(d).map_err(|e| format!("{e:?}"))) {
        Ok(fence) => Arc::new(fence),
        Err(error) => {
            tracing::error!(error, "a stored fence is not valid and is not watched");
            return Ok(None);
        }
    };
    let source = if row.get::<String>(1)? == Source::Pack.name() { Source::Pack } else { Source::Api };
    let (revision, changed_at, changed_by) = (row.get(2)?, row.get(3)?, row.get(4)?);
    Ok(Some(Stored { fence, source, revision, changed_at, changed_by }))
}

fn all(read: &mut Read<'_>) -> Result<Vec<Stored>, records::Error> {
    let sql = format!("SELECT {COLUMNS} FROM sensing_fence");
    let mut all: Vec<Stored> = read.query(&sql, params![], read_row)?.into_iter().flatten().collect();
    // By their bytes, whatever order of letters the database has.
    all.sort_by(|a, b| a.fence.key.cmp(&b.fence.key));
    Ok(all)
}

fn one(read: &mut Read<'_>, key: &str) -> Result<Option<Stored>, records::Error> {
    let sql = format!("SELECT {COLUMNS} FROM sensing_fence WHERE key = $1");
    Ok(read.query_opt(&sql, params![key], read_row)?.flatten())
}

/// Writes a fence if it differs from what is stored; whether it did.
fn put(tx: &mut Tx<'_>, caller: &Caller, fence: &Fence, source: Source) -> Result<bool, records::Error> {
    let body = serde_json::to_string(fence.declaration()).map_err(|e| records::Error::Invalid(e.to_string()))?;
    let changed = tx.execute(
        "INSERT INTO sensing_fence (key, tenant, public, source, body, revision, changed_at, changed_by)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $7)
         ON CONFLICT (key) DO UPDATE SET tenant = excluded.tenant, public = excluded.public, source = excluded.source,
             body = excluded.body, revision = sensing_fence.revision + 1, changed_at = excluded.changed_at,
             changed_by = excluded.changed_by
         WHERE sensing_fence.body <> excluded.body OR sensing_fence.source <> excluded.source",
        params![fence.key, fence.tenant, fence.public, source.name(), body, tx.now(), caller.label()],
    )?;
    if changed > 0 {
        let detail = json!({ "kind": fence.kind, "public": fence.public });
        tx.audit(caller, "fence:declare", "Fence", &fence.key, Some(&fence.tenant), detail)?;
    }
    Ok(changed > 0)
}

/// The same rules with the fences that they name: their own department's, and what is public. Reads nothing where no rule names any.
///
/// # Errors
/// Those of the records.
pub fn attach(read: &mut Read<'_>, rules: Vec<Arc<Rule>>) -> Result<Vec<Arc<Rule>>, records::Error> {
    if !rules.iter().any(|r| r.is_placed()) {
        return Ok(rules);
    }
    let fences: Vec<Arc<Fence>> = all(read)?.into_iter().map(|s| s.fence).collect();
    // Several rules about the same fences measure against one tree.
    let mut zones: HashMap<(Tenant, Vec<String>, Option<String>), Arc<Zone>> = HashMap::new();
    let mut zone = |rule: &Rule, keys: &[String], kind: Option<&String>| {
        let name = (rule.tenant.clone(), keys.to_vec(), kind.cloned());
        let found = zones.entry(name).or_insert_with(|| {
            let fits = |f: &&Arc<Fence>| {
                (f.tenant == rule.tenant || f.public)
                    && (keys.contains(&f.key) || (kind.is_some() && f.kind.as_ref() == kind))
            };
            let found: Vec<_> = fences.iter().filter(fits).cloned().collect();
            for key in keys.iter().filter(|key| !found.iter().any(|f| f.key == **key)) {
                tracing::warn!(rule = rule.key, fence = key, "the rule names a fence that is not there");
            }
            Arc::new(Zone::new(found))
        });
        Arc::clone(found)
    };
    let placed = rules.into_iter().map(|rule| {
        if !rule.is_placed() {
            return rule;
        }
        let of_condition = match &rule.when {
            Condition::Geofence(form) => Some(zone(&rule, &form.fences, form.kind.as_ref())),
            _ => None,
        };
        let within = rule.select.within.as_ref().map(|key| zone(&rule, std::slice::from_ref(key), None));
        Arc::new(rule.placed(Places { zone: of_condition, within }))
    });
    Ok(placed.collect())
}
