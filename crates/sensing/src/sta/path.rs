//! Resource paths (18-088 section 9.2): `Things(1)/Datastreams(2)/Observations`, `Datastreams(2)/unitOfMeasurement/name/$value`,
//! `Observations('1-2-3')/result[0]`.

use crate::{
    catalog::Schema,
    catalog::schema::Navigation,
    model::{EntityId, EntityType},
    query::TokenId,
};

/// Segments of one path.
const SEGMENTS: usize = 32;

/// One step down a path.
#[derive(Clone, Debug)]
pub enum Step {
    /// An entity set at the root.
    Set(EntityType),
    /// A navigation property; `None` as the entity means the root.
    Navigation(&'static Navigation),
    /// `(1)` behind a set or a navigation to many.
    Key(TokenId),
}

/// What is wanted of where the steps lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    Entities,
    /// `$ref`: only the links.
    References,
    /// The index in the schema, and the way into its JSON.
    Property(usize, Vec<String>),
    /// The same with `$value`.
    Raw(usize, Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Path {
    pub steps: Vec<Step>,
    pub tail: Tail,
    /// The type of the entities that the steps lead to.
    pub entity: EntityType,
    /// Whether they lead to a collection.
    pub many: bool,
    /// What an answer calls the property: the last part of the address as it is written. Empty for entities.
    pub shown: String,
}

/// Splits at slashes outside quotes.
fn segments(path: &str) -> Vec<&str> {
    let mut all = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (i, c) in path.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            '/' if !quoted => {
                all.push(&path[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    all.push(&path[start..]);
    all
}

/// `Things(1)` into its name and key.
fn keyed(segment: &str) -> Option<(&str, Option<&str>)> {
    match segment.split_once('(') {
        None => Some((segment, None)),
        Some((name, rest)) => Some((name, Some(rest.strip_suffix(')')?))),
    }
}

/// `result[0]` into the name and the places in arrays behind it.
fn indexed(segment: &str) -> (&str, Vec<String>) {
    let mut rest = segment;
    let mut places = Vec::new();
    while let Some((name, index)) = rest.strip_suffix(']').and_then(|r| r.rsplit_once('[')) {
        let plain = (1..=9).contains(&index.len()) && index.bytes().all(|b| b.is_ascii_digit());
        if name.is_empty() || !plain || (index.len() > 1 && index.starts_with('0')) || places.len() >= SEGMENTS {
            break;
        }
        places.push(index.to_owned());
        rest = name;
    }
    places.reverse();
    (rest, places)
}

fn key(entity: EntityType, text: &str) -> Option<TokenId> {
    let plain = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).unwrap_or(text);
    match entity {
        EntityType::Observation => plain.parse().ok().map(TokenId::Observation),
        _ => {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| digits).map(|id| TokenId::Entity(EntityId(id)))
        }
    }
}

impl Path {
    /// Parses what follows `/v1.1/`, percent-decoded. `None` is an address that means nothing: 404.
    pub fn parse(text: &str) -> Option<Self> {
        let segments = segments(text.trim_end_matches('/'));
        if segments.len() > SEGMENTS {
            return None;
        }
        let mut segments = segments.into_iter().peekable();
        let (name, id) = keyed(segments.next()?)?;
        let entity = EntityType::from_set(name)?;
        let steps = vec![Step::Set(entity)];
        let mut path = Self { steps, tail: Tail::Entities, entity, many: true, shown: String::new() };
        path.key(id)?;
        while let Some(segment) = segments.next() {
            let (name, id) = keyed(segment)?;
            if name == "$ref" && id.is_none() {
                path.tail = Tail::References;
                return segments.next().is_none().then_some(path);
            }
            if path.many {
                return None;
            }
            let schema = Schema::of(path.entity);
            if let Some((_, navigation)) = schema.navigation(name) {
                path.steps.push(Step::Navigation(navigation));
                path.entity = navigation.target;
                path.many = navigation.to_many();
                path.key(id)?;
                continue;
            }
            let (name, mut inner) = indexed(name);
            let (index, _) = schema.property(name).filter(|_| id.is_none())?;
            path.shown = segment.to_owned();
            let mut raw = false;
            for segment in segments.by_ref() {
                // Behind $value there is nothing.
                if raw || inner.len() > SEGMENTS {
                    return None;
                }
                raw = segment == "$value";
                if !raw {
                    let (name, places) = indexed(segment);
                    inner.push(name.to_owned());
                    inner.extend(places);
                    path.shown = segment.to_owned();
                }
            }
            path.tail = if raw { Tail::Raw(index, inner) } else { Tail::Property(index, inner) };
            return Some(path);
        }
        Some(path)
    }

    fn key(&mut self, id: Option<&str>) -> Option<()> {
        let Some(id) = id else { return Some(()) };
        if !self.many {
            return None;
        }
        self.steps.push(Step::Key(key(self.entity, id)?));
        self.many = false;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn resource_path_usages_1_to_8() {
        let check = |text: &str, entity, many, tail| {
            let path = Path::parse(text).expect(text);
            assert_eq!((path.entity, path.many, path.tail), (entity, many, tail), "{text}");
        };
        use EntityType as E;
        check("Things", E::Thing, true, Tail::Entities);
        check("Things/", E::Thing, true, Tail::Entities);
        check("Things(1)", E::Thing, false, Tail::Entities);
        check("Things(1)/name", E::Thing, false, Tail::Property(0, vec![]));
        check("Things(1)/properties/a/b", E::Thing, false, Tail::Property(2, vec!["a".into(), "b".into()]));
        check("Things(1)/name/$value", E::Thing, false, Tail::Raw(0, vec![]));
        check("Datastreams(1)/Observations", E::Observation, true, Tail::Entities);
        check("Datastreams(1)/Observations/$ref", E::Observation, true, Tail::References);
        check("Datastreams(1)/Observations('1-5-3')/FeatureOfInterest", E::FeatureOfInterest, false, Tail::Entities);
        check("Datastreams(1)/Observations(1-5-3)/resultTime", E::Observation, false, Tail::Property(1, vec![]));
        check("Datastreams(1)/Thing/Locations(3)/Things", E::Thing, true, Tail::Entities);
        check("Observations(1-5-3)/result[0]", E::Observation, false, Tail::Property(2, vec!["0".into()]));
        check("Observations(1-5-3)/result[10]/$value", E::Observation, false, Tail::Raw(2, vec!["10".into()]));
        let inner = ["a", "0", "1", "b"].map(str::to_owned).to_vec();
        check("Things(1)/properties/a[0][1]/b", E::Thing, false, Tail::Property(2, inner));
        for bad in [
            "",
            "Lamps",
            "Things(x)",
            "Things(1",
            "Things(1)/Datastreams/name",
            "Things(1)/colour",
            "Things(-1)",
            "Datastreams(1)/Thing(1)",
            "Things(1)/$ref/x",
            "Observations(1-5-3)/result[-1]",
            "Observations(1-5-3)/result[01]",
            "Observations(1-5-3)/result[x]",
            "Observations(1-5-3)/result[",
            "Observations(1-5-3)/[0]",
            "Things(1)[0]",
            "Things(1)/name/$value/x",
        ] {
            assert!(Path::parse(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "\\PC{0,80}") {
            let _ = Path::parse(&text);
        }
    }
}
