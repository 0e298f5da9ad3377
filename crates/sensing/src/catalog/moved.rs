//! Locations of Things that move, made from their fixes (18-088 section 8.2.3: the service itself adds the HistoricalLocation).

use kernel::Caller;
use records::params;
use serde_json::json;

use super::{
    Catalog, Changes, Parent,
    body::{Draft, Purpose},
    create_in, feature,
    write::Writer,
};
use crate::{
    Error,
    model::{EntityId, EntityType},
    moving::Fix,
    route::action,
};

/// Places of one Thing that are kept as Locations. Its whole way is in its position Datastream; these are for clients that know Locations only, and a fleet's
/// would otherwise become the greatest table of the catalogue.
const KEPT: i64 = 200;

/// The key of a Location that was made here; of one Thing they are in the order of time.
fn key(thing: EntityId, micros: i64) -> String {
    format!("@track.{thing}.{micros:020}")
}

impl Catalog {
    /// These Things are at these places now: each gets a Location of its own with its HistoricalLocation, and those beyond the newest [`KEPT`] go. A Thing that is
    /// not there any more is passed over.
    pub(crate) async fn moved(&self, moves: Vec<(EntityId, Fix)>) -> Result<Changes, Error> {
        let context = feature::own(&self.context(&Caller::system("track")));
        let mut drafts = Vec::with_capacity(moves.len());
        for (thing, fix) in moves {
            let body = json!({
                "name": "Position", "description": "From the Thing's position Datastream",
                "encodingType": "application/geo+json",
                "location": {"type": "Point", "coordinates": [fix.place.lon, fix.place.lat]},
                "properties": {"observed_at": fix.at, "made_from": "track"},
            });
            let mut draft = Draft::parse(EntityType::Location, &body, Purpose::Create)?;
            draft.key = Some(key(thing, fix.at.as_micros()));
            drafts.push((thing, draft));
        }
        let command = move |writer: &mut Writer<'_, '_>| {
            for (thing, draft) in &drafts {
                let Some(found) = writer.load(EntityType::Thing, *thing)? else { continue };
                // The same fix again, after an outcome that was not known.
                let known = draft.key.as_deref().map(|key| writer.by_key(EntityType::Location, &found.tenant, key));
                if known.transpose()?.flatten().is_some() {
                    continue;
                }
                let parent = Parent { entity: EntityType::Thing, id: *thing, navigation: "Locations" };
                create_in(writer, draft, Some(parent))?;
                let sql = "SELECT id FROM sensing_location WHERE tenant = $1 AND key > $2 AND key < $3
                           ORDER BY key DESC LIMIT 100 OFFSET $4";
                let (first, last) = (format!("@track.{thing}."), format!("@track.{thing}/"));
                let old = writer.tx.query(sql, params![found.tenant, first, last, KEPT], |row| row.get::<i64>(0))?;
                for id in old {
                    writer.delete(EntityType::Location, EntityId(id))?;
                }
            }
            Ok(())
        };
        self.command(context, action::WRITE, command).await.map(|((), changes)| changes)
    }
}
