//! One Observation in one request, as devices and other clients of 18-088 send it. When everything about it lies in memory, nothing else is
//! looked at: no catalogue, no tree of values. The rest takes the whole way, [`super::write::create`], which also has the words for what is wrong.

use http::{HeaderMap, Uri};
use kernel::{Caller, Interval};

use super::{Response, SensorThings, Sent};
use crate::{
    Error,
    catalog::{Target, plain},
    model::{EntityId, EntityType, Observation},
    observe::Batch,
    query::TokenId,
};

/// Digits of an id that is certain to be one.
const DIGITS: usize = 18;

/// `Observations`, or `Datastreams(1)/Observations` with its id.
fn address(path: &str) -> Option<Option<EntityId>> {
    let rest = path.strip_prefix("/v1.1/")?;
    if rest == "Observations" {
        return Some(None);
    }
    let id = rest.strip_prefix("Datastreams(")?.strip_suffix(")/Observations")?;
    let digits = (1..=DIGITS).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| id.parse().ok().map(|id| Some(EntityId(id)))).flatten()
}

impl SensorThings {
    /// The Observation that a request holds, with the caller's right to it: all that the whole way would find out, from memory alone. `None` says
    /// nothing but that the whole way must be gone.
    pub(super) fn plain(&self, caller: &Caller, uri: &Uri, body: &[u8]) -> Option<Observation> {
        if caller.is_anonymous() || uri.query().is_some() {
            return None;
        }
        let addressed = address(uri.path())?;
        let draft = plain(body)?;
        let named = match draft.datastream {
            Some((EntityType::Datastream, Target::Id(id))) => Some(id),
            None => None,
            Some(_) => return None,
        };
        let id = match (named, addressed) {
            (Some(named), Some(addressed)) if named != addressed => return None,
            (named, addressed) => named.or(addressed)?,
        };
        let catalog = self.engine.catalog();
        let info = catalog.datastream_cached(id).filter(|info| info.entity() == EntityType::Datastream)?;
        // Who asks below a Datastream's address must be able to see the Datastream there.
        if addressed.is_some() && !info.public && !catalog.scope(caller).admits(&info.tenant, info.public) {
            return None;
        }
        if !self.may_observe(caller, &info) || info.check(&draft.result).is_err() {
            return None;
        }
        Some(draft.into_observation(id, info.feature, Interval::instant(catalog.now())))
    }

    /// Records it and answers.
    pub(super) async fn single(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        observation: Observation,
    ) -> Result<Response, Error> {
        let (id, end) = (observation.id(), observation.phenomenon.end);
        match self.engine.series().record(Batch::one(observation)).await {
            Ok(()) => self.sent(caller, Sent::Recorded(1, Some(end))),
            Err(error) => {
                self.told(caller, &error);
                return Err(error);
            }
        }
        self.created(caller, headers, EntityType::Observation, TokenId::Observation(id)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_addresses_are_taken() {
        assert_eq!(address("/v1.1/Observations"), Some(None));
        assert_eq!(address("/v1.1/Datastreams(12)/Observations"), Some(Some(EntityId(12))));
        for other in [
            "/v1.1/Observations/",
            "/v1.1/Observations(1-2-3)",
            "/v1.1/Datastreams()/Observations",
            "/v1.1/Datastreams(-1)/Observations",
            "/v1.1/Datastreams(1234567890123456789)/Observations",
            "/v1.1/Datastreams(1)/Observations/$ref",
            "/v1.1/Datastreams(%31)/Observations",
            "/v1.1/MultiDatastreams(1)/Observations",
            "/v1.1/Things(1)/Datastreams(1)/Observations",
            "/v1.0/Observations",
        ] {
            assert_eq!(address(other), None, "{other}");
        }
    }
}
