//! What a topic filter below `v1.1/` asks for (18-088 section 14.2), and which properties of it.

use std::sync::Arc;

use kernel::{Limits, Timestamp};

use crate::{
    catalog::{Schema, schema::Link},
    model::EntityType,
    query::{Options, Plan},
    sta::{Path, Step, Tail},
};

/// Where the service root lies among the topics.
const ROOT: &str = "v1.1/";

/// `$select` behind a topic: `v1.1/Datastreams(1)/Observations?$select=phenomenonTime,result`.
#[derive(Debug)]
pub struct Selection {
    /// From the question mark on, as the client wrote it: its messages come under the topic that it named.
    pub query: Box<str>,
    pub plan: Plan,
}

impl PartialEq for Selection {
    fn eq(&self, other: &Self) -> bool {
        self.query == other.query
    }
}
impl Eq for Selection {}

/// A filter without its query, and the query with its question mark; empty when there is none. Only SensorThings has queries.
pub fn split_query(filter: &str) -> (&str, &str) {
    match filter.find('?').filter(|_| filter.starts_with(ROOT)) {
        Some(at) => filter.split_at(at),
        None => (filter, ""),
    }
}

/// Which entity type the messages of a filter have; `None` when its wildcards leave that open.
fn entity_of(bare: &str) -> Option<EntityType> {
    if let Some(path) = bare.strip_prefix(ROOT).and_then(Path::parse) {
        return Some(path.entity);
    }
    let last = bare.rsplit('/').next()?;
    let name = last.split_once('(').map_or(last, |(name, _)| name);
    EntityType::from_set(name).or_else(|| EntityType::ALL.into_iter().find(|t| t.singular() == name))
}

impl Selection {
    /// The selection of a filter, if it has one. `Err` when its query is none: anything but `$select`, or a property that is not there.
    pub fn of(filter: &str) -> Result<Option<Arc<Self>>, ()> {
        let (bare, query) = split_query(filter);
        if query.is_empty() {
            return Ok(None);
        }
        let options = Options::parse(&query[1..]).map_err(|_| ())?;
        let only = Options { select: options.select.clone(), ..Options::default() };
        let entity = entity_of(bare).filter(|_| options.select.is_some() && options == only).ok_or(())?;
        let plan = Plan::new(entity, &options, &Limits::DEFAULT, Timestamp::from_secs(0)).map_err(|_| ())?;
        Ok(Some(Arc::new(Self { query: query.into(), plan })))
    }
}

/// How the messages for a filter are found.
#[derive(Debug)]
pub enum Interest {
    /// `v1.1/Datastreams(1)/Observations`, `v1.1/Observations`, or wildcards that match nothing else.
    Observations,
    /// `v1.1/FeaturesOfInterest(1)/Observations`.
    OfFeature,
    /// `v1.1/Observations('…')` or a property of it.
    Single,
    /// Entities under names that every change has: their own, their set's, and those of the entities that they are tied to; or wildcards.
    Entities,
    /// Entities behind another path, which is walked when one of its type changes.
    Path(Box<Path>),
    /// Observations behind another path: of the Datastream or feature where it leads before its last step. Walked when it is subscribed
    /// to and when the catalogue changes, not for each Observation.
    Series(Box<Path>),
    /// Not SensorThings.
    Other,
}

impl Interest {
    /// `Err` for an address below `v1.1/` under which nothing can ever be sent.
    pub fn of(bare: &str) -> Result<Self, ()> {
        if bare.contains(['+', '#']) {
            let other = bare.starts_with("tenant/") || bare.starts_with("devices/");
            let observations = bare.ends_with("/Observations");
            return Ok(if other {
                Self::Other
            } else if observations {
                Self::Observations
            } else {
                Self::Entities
            });
        }
        let Some(text) = bare.strip_prefix(ROOT) else { return Ok(Self::Other) };
        let path =
            Path::parse(text).filter(|path| matches!(path.tail, Tail::Entities | Tail::Property(..))).ok_or(())?;
        let whole = path.tail == Tail::Entities;
        // What is written in another way than the messages are named would match none of them.
        if text.ends_with('/') {
            return Err(());
        }
        if path.entity == EntityType::Observation {
            return match path.steps.as_slice() {
                [Step::Set(_)] if whole => Ok(Self::Observations),
                [Step::Set(_), Step::Key(_)] => Ok(Self::Single),
                [Step::Set(of), Step::Key(_), Step::Navigation(_)] if whole && of.has_series() => {
                    Ok(Self::Observations)
                }
                [Step::Set(EntityType::FeatureOfInterest), Step::Key(_), Step::Navigation(_)] if whole => {
                    Ok(Self::OfFeature)
                }
                // One Observation has a name of its own; under a longer path it is not sent.
                [.., Step::Navigation(_)] if whole && path.many => Ok(Self::Series(Box::new(path))),
                _ => Err(()),
            };
        }
        let plain = match &path.tail {
            Tail::Property(_, inner) => inner.is_empty(),
            _ => true,
        };
        let named = match path.steps.as_slice() {
            [Step::Set(_)] | [Step::Set(_), Step::Key(_)] => plain,
            [Step::Set(_), Step::Key(_), Step::Navigation(to)] => whole && enumerated(to),
            [Step::Set(_), Step::Key(_), Step::Navigation(to), Step::Key(_)] => whole && enumerated(to),
            _ => false,
        };
        Ok(if named { Self::Entities } else { Self::Path(Box::new(path)) })
    }
}

/// Whether an entity at the far side of this tie knows where it comes from by its own rows.
fn enumerated(to: &crate::catalog::schema::Navigation) -> bool {
    let back = Schema::of(to.target).navigation(to.inverse).map(|(_, back)| back.link);
    to.to_many() && matches!(back, Some(Link::One { .. } | Link::Through { .. }))
}

/// Orders the messages that one Observation becomes: by the kind of topic, then by its query. The same text has the same place on every
/// server and after every start, so a position that falls between two of them means the same everywhere.
pub fn slot(kind: u8, text: &str) -> u64 {
    // FNV-1a: small, and fixed for ever.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let low = if text.is_empty() { 0 } else { hash >> 9 };
    (u64::from(kind) << 56) | low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_told_apart() {
        let name = |bare: &str| match Interest::of(bare) {
            Ok(Interest::Observations) => "observations",
            Ok(Interest::OfFeature) => "feature",
            Ok(Interest::Single) => "single",
            Ok(Interest::Entities) => "entities",
            Ok(Interest::Path(_)) => "path",
            Ok(Interest::Series(_)) => "series",
            Ok(Interest::Other) => "other",
            Err(()) => "nothing",
        };
        for (bare, expect) in [
            ("v1.1/Observations", "observations"),
            ("v1.1/Datastreams(1)/Observations", "observations"),
            ("v1.1/MultiDatastreams(1)/Observations", "observations"),
            ("v1.1/+/Observations", "observations"),
            ("v1.1/FeaturesOfInterest(1)/Observations", "feature"),
            ("v1.1/Observations('1-2-3')/result", "single"),
            ("v1.1/Things", "entities"),
            ("v1.1/Things(1)", "entities"),
            ("v1.1/Things(1)/name", "entities"),
            ("v1.1/Datastreams(1)/observedArea", "entities"),
            ("v1.1/Things(1)/Datastreams", "entities"),
            ("v1.1/Things(1)/Datastreams(2)", "entities"),
            ("v1.1/Locations(1)/Things", "entities"),
            ("v1.1/Things(1)/MultiDatastreams", "entities"),
            ("v1.1/ObservedProperties(1)/MultiDatastreams", "entities"),
            ("v1.1/MultiDatastreams(1)/ObservedProperties", "entities"),
            ("v1.1/MultiDatastreams(1)/unitOfMeasurements[0]", "path"),
            ("v1.1/MultiDatastreams(1)/Thing", "path"),
            ("v1.1/#", "entities"),
            ("#", "entities"),
            ("v1.1/Things(1)/properties/colour", "path"),
            ("v1.1/Datastreams(1)/Thing", "path"),
            ("v1.1/Datastreams(1)/Thing/name", "path"),
            ("v1.1/Things(1)/Datastreams(2)/Sensor", "path"),
            ("tenant/dsd/x", "other"),
            ("tenant/+/x", "other"),
            ("v1.1/Lamps", "nothing"),
            ("v1.1/Things/", "nothing"),
            ("v1.1/Things(1)/name/$value", "nothing"),
            ("v1.1/Things(1)/Datastreams(2)/Observations", "series"),
            ("v1.1/Observations('1-2-3')/Datastream/Observations", "series"),
            ("v1.1/Things(1)/MultiDatastreams(2)/Observations", "series"),
            ("v1.1/Datastreams(2)/Observations('1-2-3')", "nothing"),
            ("v1.1/Things(1)/Datastreams/Observations", "nothing"),
        ] {
            assert_eq!(name(bare), expect, "{bare}");
        }
    }

    #[test]
    fn a_selection_is_of_what_is_there() {
        let select = |filter: &str| Selection::of(filter).map(|s| s.map(|s| s.plan.entity));
        assert_eq!(select("v1.1/Things"), Ok(None));
        assert_eq!(select("tenant/dsd/what?"), Ok(None), "only SensorThings has queries");
        let good = "v1.1/Datastreams(1)/Observations?$select=phenomenonTime,result";
        assert_eq!(select(good), Ok(Some(EntityType::Observation)));
        assert_eq!(select("v1.1/+/Observations?$select=result"), Ok(Some(EntityType::Observation)));
        assert_eq!(select("v1.1/Datastreams(1)/Thing?$select=name"), Ok(Some(EntityType::Thing)));
        for bad in [
            "v1.1/Things?",
            "v1.1/Things?$select=colour",
            "v1.1/Things?$top=1",
            "v1.1/Things?$select=name&$expand=Datastreams",
            "v1.1/+?$select=name",
        ] {
            assert_eq!(select(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn slots_keep_kinds_apart() {
        assert_eq!(slot(0, ""), 0);
        assert!(slot(0, "?$select=result") > slot(0, ""));
        assert!(slot(1, "") > slot(0, "?$select=result"));
        assert_ne!(slot(0, "?$select=result"), slot(0, "?$select=id"));
    }
}
