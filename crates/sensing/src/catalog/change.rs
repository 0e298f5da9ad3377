//! PATCH, PUT, JSON Patch and the natural-key upsert: one entity changes, or nothing is written at all.

use records::params;
use serde_json::Value;

use super::{
    Entity, Update,
    body::{Draft, Purpose, Target},
    entity::Field,
    listing, multi,
    schema::{Link, List, Navigation, Schema},
    write::{Bound, Owner, Writer},
};
use crate::{
    Error,
    model::{EntityId, EntityType},
    route::action,
};

/// What a body says of an entity that it shall change; `None` of a JSON Patch, which needs the entity.
pub(super) fn draft_of(entity: EntityType, body: &Value, how: Update) -> Result<Option<Draft>, Error> {
    match how {
        Update::Merge => Draft::parse(entity, body, Purpose::Change).map(Some),
        Update::Replace => Draft::parse(entity, body, Purpose::Replace).map(Some),
        Update::JsonPatch => Ok(None),
    }
}

/// Changes one entity by the draft of [`draft_of`]; nothing is written when it is equal already.
pub(super) fn update_in(
    writer: &mut Writer<'_, '_>,
    entity: EntityType,
    id: EntityId,
    draft: Option<&Draft>,
    body: &Value,
) -> Result<(), Error> {
    match draft {
        Some(draft) => writer.change(id, draft),
        None => {
            let draft = json_patch(&writer.seen(entity, id)?, body)?;
            writer.change(id, &draft)
        }
    }
}

impl Writer<'_, '_> {
    /// An entity that is there and that the caller may see.
    pub fn seen(&mut self, entity: EntityType, id: EntityId) -> Result<Entity, Error> {
        let nothing = || Error::not_found(format!("{}({id})", entity.set()));
        let found = self.load(entity, id)?.ok_or_else(nothing)?;
        let owner = Owner { tenant: found.tenant.clone(), public: found.public };
        if self.admits(&owner) { Ok(found) } else { Err(nothing()) }
    }

    /// Applies the draft's properties and ties. What is equal already is not written.
    pub fn change(&mut self, id: EntityId, draft: &Draft) -> Result<(), Error> {
        let set = draft.entity.set();
        let entity = self.seen(draft.entity, id)?;
        let before = Owner { tenant: entity.tenant.clone(), public: entity.public };
        self.require(action::WRITE, draft.entity, &before, &format!("{set}({id})"))?;
        self.merge(entity, draft, None)
    }

    fn merge(&mut self, before: Entity, draft: &Draft, bound: Option<Bound>) -> Result<(), Error> {
        let mut after = before.clone();
        for (slot, field) in after.fields.iter_mut().zip(&draft.fields) {
            if let Some(field) = field
                && !same(slot, field)
            {
                *slot = field.clone();
            }
        }
        for (navigation, _) in before.schema().ones() {
            let given = draft.links(navigation.name).first();
            let at = draft.at(navigation.name);
            let owner = Owner { tenant: before.tenant.clone(), public: before.public };
            let id = match (given, bound.filter(|(n, _)| n.name == navigation.name)) {
                (Some(target), _) => self.refer(target, navigation, &at, &owner)?,
                (None, Some((_, id))) => id,
                (None, None) => continue,
            };
            after.set_one(navigation.name, id);
        }
        let own = !Entity::belongs_to_thing(before.entity);
        if own {
            after.tenant = draft.tenant.clone().unwrap_or(after.tenant);
            after.public = draft.public.unwrap_or(after.public);
        } else if before.one("Thing") != after.one("Thing")
            && let Some(thing) = after.one("Thing")
        {
            let thing = self.visible(EntityType::Thing, thing, &draft.at("Thing"))?;
            (after.tenant, after.public) = (thing.tenant, thing.public);
        }
        self.stays_with(&before, &after, draft)?;
        self.keeps_length(&before, &after)?;
        // What is held as its Thing's or its department's would be held no longer.
        if before.tenant != after.tenant || before.one("Thing") != after.one("Thing") {
            self.unheld(&before)?;
        }
        if after != before {
            let owner = Owner { tenant: after.tenant.clone(), public: after.public };
            self.require(action::WRITE, after.entity, &owner, &format!("{}({})", after.entity.set(), after.id))?;
            self.check_tasking(Some(&before), &after, &draft.pointer)?;
            self.update_row(&after, &draft.pointer)?;
            self.hand_down(&after)?;
            self.counts.add(&before, -1);
            self.counts.add(&after, 1);
            self.note_changed(&before, &after)?;
            self.consequences(&before, &after)?;
        }
        self.collections(&after, draft)
    }

    /// What else must change when an entity does.
    fn consequences(&mut self, before: &Entity, after: &Entity) -> Result<(), Error> {
        match after.entity {
            EntityType::Thing if (&before.tenant, before.public) != (&after.tenant, after.public) => {
                // Whoever owns the Thing owns its series and its history, and they are as public as it is.
                for table in [
                    "sensing_datastream",
                    "sensing_multi_datastream",
                    "sensing_historical_location",
                    "sensing_tasking_capability",
                ] {
                    let sql = format!("UPDATE {table} SET tenant = $1, public = $2 WHERE thing_id = $3");
                    self.tx.execute(&sql, params![after.tenant, after.public, after.id.0])?;
                }
                let sql = "UPDATE sensing_task SET tenant = $1, public = $2 WHERE tasking_capability_id IN
                           (SELECT c.id FROM sensing_tasking_capability c WHERE c.thing_id = $3)";
                self.tx.execute(sql, params![after.tenant, after.public, after.id.0])?;
                self.stale_series(after.id)
            }
            // Who follows a system must learn that the Thing has left it.
            EntityType::Thing if before.properties().get("system") != after.properties().get("system") => {
                self.stale_series(after.id)
            }
            EntityType::Location if before.field("location") != after.field("location") => {
                for thing in self.things_at(after.id)? {
                    listing::settle(self.tx, thing)?;
                }
                self.release_feature(after.id)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn things_at(&mut self, location: EntityId) -> Result<Vec<EntityId>, Error> {
        self.ids("SELECT thing_id FROM sensing_thing_location WHERE location_id = $1 ORDER BY thing_id", location)
    }

    /// Past Observations keep the feature of the old place; the next one gets a new feature.
    pub(super) fn release_feature(&mut self, location: EntityId) -> Result<(), Error> {
        let sql = "UPDATE sensing_feature SET origin = NULL WHERE origin = $1";
        self.tx.execute(sql, params![format!("location:{location}")])?;
        for thing in self.things_at(location)? {
            self.stale_series(thing)?;
        }
        Ok(())
    }

    fn collections(&mut self, entity: &Entity, draft: &Draft) -> Result<(), Error> {
        let owner = Owner { tenant: entity.tenant.clone(), public: entity.public };
        for navigation in entity.schema().navigation {
            let targets = draft.links(navigation.name);
            let at = draft.at(navigation.name);
            match navigation.link {
                Link::Many { .. } => {
                    for (i, target) in targets.iter().enumerate() {
                        let at = format!("{at}/{i}");
                        if let Target::New(inner) = target {
                            let back = Schema::of(navigation.target)
                                .navigation(navigation.inverse)
                                .map(|(_, n)| (n, entity.id));
                            self.put_keyed(inner, back, &owner)?;
                        } else {
                            self.adopt(entity, navigation, target, &at, &owner)?;
                        }
                    }
                }
                Link::Through { list: List::Far, .. } => {
                    for (i, target) in targets.iter().enumerate() {
                        let back = Schema::of(navigation.target).navigation(navigation.inverse);
                        match target {
                            Target::New(inner) => self.put_keyed(inner, back.map(|(_, n)| (n, entity.id)), &owner)?,
                            _ => return Err(multi::only_from_the_list(navigation, &format!("{at}/{i}"))),
                        };
                    }
                }
                Link::Through { .. } if !targets.is_empty() => {
                    let mut ids = Vec::with_capacity(targets.len());
                    for (i, target) in targets.iter().enumerate() {
                        ids.push(self.refer(target, navigation, &format!("{at}/{i}"), &owner)?);
                    }
                    self.connect(entity, navigation, &ids, &at)?;
                }
                _ => {}
            }
        }
        if entity.entity == EntityType::MultiDatastream { self.whole(entity, &draft.pointer) } else { Ok(()) }
    }

    /// A link whose inline entity, if it has one, is found again by its key.
    fn refer(
        &mut self,
        target: &Target,
        navigation: &'static Navigation,
        at: &str,
        owner: &Owner,
    ) -> Result<EntityId, Error> {
        match target {
            Target::New(draft) => self.put_keyed(draft, None, owner),
            other => self.resolve(other, navigation.target, at, Some(owner)),
        }
    }

    /// Creates or changes the entity that the draft's natural key names; writes nothing when it is equal already.
    pub fn put_keyed(&mut self, draft: &Draft, bound: Option<Bound>, owner: &Owner) -> Result<EntityId, Error> {
        let Some(key) = &draft.key else {
            let detail =
                "an entity inside a declared one needs its own \"@iot.key\", or it would be made anew each time";
            return Err(Error::field(draft.at("@iot.key"), detail));
        };
        let tenant = draft.tenant.as_ref().unwrap_or(&owner.tenant);
        let Some(id) = self.by_key(draft.entity, tenant, key)? else { return self.insert(draft, bound, Some(owner)) };
        let entity = self.load(draft.entity, id)?.ok_or_else(|| Error::internal("a key leads nowhere"))?;
        let before = Owner { tenant: entity.tenant.clone(), public: entity.public };
        self.require(action::WRITE, draft.entity, &before, &format!("{}({id})", draft.entity.set()))?;
        self.merge(entity, draft, bound)?;
        Ok(id)
    }
}

/// JSON is equal when it means the same, so that a pack may be re-indented without touching a row.
fn same(a: &Field, b: &Field) -> bool {
    match (a, b) {
        (Field::Json(x), Field::Json(y)) => x == y || a.to_value() == b.to_value(),
        _ => a == b,
    }
}

/// Operations of one JSON Patch.
const MAX_OPERATIONS: usize = 1_000;

/// Applies a JSON Patch (RFC 6902) to an entity's own properties and gives the draft of the result.
pub(super) fn json_patch(entity: &Entity, patch: &Value) -> Result<Draft, Error> {
    Draft::parse(entity.entity, &patched(entity.to_json(), patch)?, Purpose::Replace)
}

/// A representation after a JSON Patch (RFC 6902): all of its operations, or an error that names the one that failed.
pub(crate) fn patched(mut document: Value, patch: &Value) -> Result<Value, Error> {
    let operations =
        patch.as_array().ok_or_else(|| Error::bad_request("A JSON Patch is an array of operations (RFC 6902)."))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Error::bad_request(format!("A JSON Patch may have at most {MAX_OPERATIONS} operations.")));
    }
    for (i, operation) in operations.iter().enumerate() {
        apply(&mut document, operation).map_err(|detail| Error::field(format!("/{i}"), detail))?;
    }
    Ok(document)
}

fn apply(document: &mut Value, operation: &Value) -> Result<(), String> {
    let text =
        |name: &str| operation.get(name).and_then(Value::as_str).ok_or_else(|| format!("'{name}' must be a string"));
    let value = || operation.get("value").cloned().ok_or_else(|| "'value' is missing".to_owned());
    let path = text("path")?;
    match text("op")? {
        "add" => add(document, path, value()?),
        "replace" => {
            remove(document, path)?;
            add(document, path, value()?)
        }
        "remove" => remove(document, path).map(|_| ()),
        "move" => {
            let from = text("from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err("a value cannot be moved into itself".to_owned());
            }
            let moved = remove(document, from)?;
            add(document, path, moved)
        }
        "copy" => {
            let from = text("from")?;
            let copied = document.pointer(from).cloned().ok_or_else(|| format!("there is no '{from}'"))?;
            add(document, path, copied)
        }
        "test" => {
            let found = document.pointer(path).ok_or_else(|| format!("there is no '{path}'"))?;
            if *found == value()? { Ok(()) } else { Err(format!("'{path}' has another value")) }
        }
        other => Err(format!("'{other}' is not add, remove, replace, move, copy or test")),
    }
}

fn split(path: &str) -> Result<(&str, String), String> {
    let (parent, last) = path.rsplit_once('/').ok_or("a path starts with '/' and names a property")?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(document: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let (parent, last) = split(path)?;
    match document.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.insert(last, value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let at = if last == "-" { items.len() } else { index(&last)? };
            if at > items.len() {
                return Err(format!("'{path}' lies past the end of the array"));
            }
            items.insert(at, value);
            Ok(())
        }
        _ => Err(format!("there is no '{parent}' to add to")),
    }
}

fn remove(document: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, last) = split(path)?;
    let nothing = || format!("there is no '{path}'");
    match document.pointer_mut(parent) {
        Some(Value::Object(map)) => map.shift_remove(&last).ok_or_else(nothing),
        Some(Value::Array(items)) => {
            let at = index(&last)?;
            if at < items.len() { Ok(items.remove(at)) } else { Err(nothing()) }
        }
        _ => Err(nothing()),
    }
}

fn index(text: &str) -> Result<usize, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or_else(|| format!("'{text}' is not a position in an array"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patch_follows_rfc_6902() {
        let check = |patch: Value, expect: Value| {
            let mut document = json!({"a": {"b": [1, 2]}, "c/d": 1});
            apply(&mut document, &patch).expect("applies");
            assert_eq!(document, expect, "{patch}");
        };
        check(json!({"op": "add", "path": "/a/b/1", "value": 9}), json!({"a": {"b": [1, 9, 2]}, "c/d": 1}));
        check(json!({"op": "add", "path": "/a/b/-", "value": 9}), json!({"a": {"b": [1, 2, 9]}, "c/d": 1}));
        check(json!({"op": "remove", "path": "/c~1d"}), json!({"a": {"b": [1, 2]}}));
        check(json!({"op": "move", "from": "/a/b", "path": "/e"}), json!({"a": {}, "c/d": 1, "e": [1, 2]}));
        check(json!({"op": "copy", "from": "/a/b/0", "path": "/e"}), json!({"a": {"b": [1, 2]}, "c/d": 1, "e": 1}));
        check(json!({"op": "test", "path": "/a/b/0", "value": 1}), json!({"a": {"b": [1, 2]}, "c/d": 1}));
        for bad in [
            json!({"op": "test", "path": "/a/b/0", "value": 2}),
            json!({"op": "remove", "path": "/x"}),
            json!({"op": "add", "path": "/a/b/01", "value": 1}),
            json!({"op": "move", "from": "/a", "path": "/a/x"}),
            json!({"op": "jump", "path": "/a"}),
            json!({"path": "/a"}),
        ] {
            assert!(apply(&mut json!({"a": {"b": [1, 2]}}), &bad).is_err(), "{bad}");
        }
    }
}
