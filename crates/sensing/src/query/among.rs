//! Which series a question about Observations spans: Datastreams and MultiDatastreams, whose ids are of one sequence.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use kernel::Tenant;
use records::{Row, params};

use super::{
    ast::Operator,
    bounds::renumbered,
    eval,
    load::{Item, MAX_RELATED, Related},
    narrow::{Sql, narrow},
    observations::CHUNK,
    plan::{Node, Plan, Variable},
    run::{Engine, Source},
    series::Span,
    token::TokenId,
};
use crate::{
    Error, Scope,
    catalog::schema::Schema,
    model::{EntityId, EntityType, Observation},
};

/// Series that one question spans.
const SERIES: usize = 1_000_000;

/// A series: its id, and whether it is a Datastream's or a MultiDatastream's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Home {
    pub id: EntityId,
    pub of: EntityType,
}

/// The second column of a statement that reads both kinds.
fn kind(of: EntityType) -> String {
    format!("CAST({} AS BIGINT)", i64::from(of == EntityType::MultiDatastream))
}

fn home(row: &Row<'_>) -> Result<Home, records::Error> {
    let of = if row.get::<i64>(1)? == 0 { EntityType::Datastream } else { EntityType::MultiDatastream };
    Ok(Home { id: EntityId(row.get(0)?), of })
}

/// Those that may hold an answer and that the caller may see, by id. `feature` is the only one whose Observations are asked for.
pub(super) async fn series(
    engine: &Engine,
    scope: &Scope,
    plan: &Plan,
    source: &Source,
    feature: Option<EntityId>,
) -> Result<Vec<Home>, Error> {
    let all = stretch(engine, scope, plan, source, feature, (EntityId(0), SERIES)).await?;
    if all.len() >= SERIES {
        return Err(Error::bad_request(format!("The question spans more than {SERIES} Datastreams; narrow it.")));
    }
    Ok(all)
}

/// The first of them behind `after`, at most `limit`: a page that is full after three series need not know the other hundred thousand.
pub(super) async fn stretch(
    engine: &Engine,
    scope: &Scope,
    plan: &Plan,
    source: &Source,
    feature: Option<EntityId>,
    (after, limit): (EntityId, usize),
) -> Result<Vec<Home>, Error> {
    let own = match source {
        Source::Related { entity, id, .. } if entity.has_series() => Some(Home { id: *id, of: *entity }),
        Source::One(TokenId::Entity(_)) => return Ok(Vec::new()),
        _ => None,
    };
    // Who asks for the series of a Datastream has found the Datastream before, so it is visible.
    if let (Some(own), None) = (own, feature) {
        return Ok(if own.id > after { vec![own] } else { Vec::new() });
    }
    let mut sql = Sql::default();
    let mut parts = Vec::new();
    for of in EntityType::SERIES.into_iter().filter(|of| own.is_none_or(|own| own.of == *of)) {
        let before = sql.params.len();
        let mut conditions = vec![format!("e.id > {}", sql.id(after.0))];
        conditions.extend(sql.scope(scope, "e"));
        let one = match source {
            Source::One(TokenId::Observation(id)) => Some(id.datastream),
            _ => own.map(|own| own.id),
        };
        conditions.extend(one.map(|id| format!("e.id = {}", sql.id(id.0))));
        if let Some(feature) = feature {
            let place = sql.id(feature.0);
            conditions.push(format!(
                "e.id IN (SELECT datastream_id FROM sensing_observed_feature WHERE feature_id = {place})"
            ));
        }
        if engine.pushdown
            && let Some(filter) = &plan.filter
            && !may_hold(filter, &plan.variables, of, &mut sql, &mut conditions)
        {
            // A parameter that no text mentions is an error to both engines.
            sql.params.truncate(before);
            continue;
        }
        let condition = conditions.join(" AND ");
        parts.push(format!("SELECT e.id, {} FROM {} e WHERE {condition}", kind(of), Schema::of(of).table));
    }
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    // Without a limit the engines plan for all rows, and sort them.
    let place = sql.id(i64::try_from(limit).unwrap_or(i64::MAX));
    let text = format!("{} ORDER BY 1 LIMIT {place}", parts.join(" UNION ALL "));
    let found = engine.catalog.records().read(move |read| {
        let mut all = Vec::new();
        read.for_each(&text, &sql.params, |row| {
            all.push(home(row)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok::<_, Error>(all)
    });
    found.await
}

/// Adds what the filter says of the Datastream (or MultiDatastream) and of what hangs from it, so that it is looked up there. `false` when no
/// Observation of the kind can satisfy the filter: `MultiDatastream/id eq 7` is nothing that a Datastream's Observations need be read for.
fn may_hold(
    filter: &Node,
    variables: &[Variable],
    of: EntityType,
    sql: &mut Sql,
    conditions: &mut Vec<String>,
) -> bool {
    if let Node::Binary(Operator::And, left, right) = filter {
        return may_hold(left, variables, of, sql, conditions) && may_hold(right, variables, of, sql, conditions);
    }
    for kind in EntityType::SERIES {
        let Some((node, below)) = below(filter, variables, kind) else { continue };
        if kind != of {
            // Of the other kind there is no row, and what is not there is null.
            if !eval::holds_for_nothing(&node) {
                return false;
            }
        } else if let Some(condition) = narrow(&node, &below, sql) {
            conditions.push(condition.text);
        }
    }
    true
}

/// A filter that looks at the Datastream (or MultiDatastream) and below it alone, with these as the root; else `None`.
fn below(filter: &Node, variables: &[Variable], kind: EntityType) -> Option<(Node, Vec<Variable>)> {
    let base = variables.iter().position(|v| v.parent == 0 && v.entity == kind && v.navigation.is_some())?;
    let mut map: HashMap<usize, usize> = HashMap::from([(base, 0)]);
    let mut below = vec![Variable::root(kind)];
    for (index, variable) in variables.iter().enumerate().skip(base + 1) {
        if let Some(parent) = map.get(&variable.parent).copied() {
            map.insert(index, below.len());
            below.push(Variable { parent, ..variable.clone() });
        }
    }
    Some((renumbered(filter, &map)?, below))
}

impl Engine {
    /// All Observations of some Datastreams or features that begin in a span of time, for filters that look into them.
    pub(super) async fn related_observations(
        &self,
        scope: &Scope,
        from: EntityType,
        keys: &[EntityId],
        variable: &Variable,
    ) -> Result<Related, Error> {
        let (begin, end) = variable.ends;
        // A Datastream's first row answers whether there is one; of a feature's series the first may be about another feature.
        let first = variable.exists && from != EntityType::FeatureOfInterest;
        let limit = if first { 1 } else { CHUNK };
        let mut all = Related::default();
        let mut total = 0;
        let mut pairs: Vec<(EntityId, Home)> = keys.iter().map(|k| (*k, Home { id: *k, of: from })).collect();
        if from == EntityType::FeatureOfInterest {
            pairs.clear();
            for key in keys {
                pairs.extend(self.datastreams_of_feature(scope, *key).await?.into_iter().map(|d| (*key, d)));
            }
        }
        for (key, Home { id: datastream, of }) in pairs {
            // Most series are left out by what their head says.
            let Some(extent) = self.series.extent(datastream).phenomenon else { continue };
            if begin.is_some_and(|begin| extent.end < begin) || end.is_some_and(|end| extent.start > end) {
                continue;
            }
            let mut after = None;
            loop {
                let span = Span { datastream, from: begin, to: end, descending: false, after, limit };
                let chunk = self.series.read(span).await?;
                let full = chunk.len() == limit && !first;
                after = chunk.last().map(Observation::id);
                total += chunk.len();
                if total > MAX_RELATED {
                    return Err(Error::bad_request(
                        "The filter looks into too many Observations; ask for Observations and filter by their Datastream instead.",
                    ));
                }
                let wanted = chunk.into_iter().filter(|o| from != EntityType::FeatureOfInterest || o.feature == key);
                let found = all.entry(key).or_default();
                found.extend(wanted.map(|o| Item::Observation(Arc::new(o), of)));
                if !full || (variable.exists && !found.is_empty()) {
                    break;
                }
            }
        }
        Ok(all)
    }

    async fn datastreams_of_feature(&self, scope: &Scope, feature: EntityId) -> Result<Vec<Home>, Error> {
        let parts = EntityType::SERIES.map(|of| {
            format!(
                "SELECT e.id, {}, e.tenant, e.public FROM sensing_observed_feature o JOIN {} e ON e.id = o.datastream_id
                 WHERE o.feature_id = $1",
                kind(of),
                Schema::of(of).table
            )
        });
        let sql = format!("{} ORDER BY 1", parts.join(" UNION ALL "));
        let found = self.catalog.records().read(move |read| {
            let owned = |row: &Row<'_>| Ok((home(row)?, row.get::<Tenant>(2)?, row.get::<bool>(3)?));
            Ok::<_, Error>(read.query(&sql, params![feature.0], owned)?)
        });
        let found = found.await?.into_iter();
        Ok(found.filter(|(_, tenant, public)| scope.admits(tenant, *public)).map(|(home, ..)| home).collect())
    }
}
