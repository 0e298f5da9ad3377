//! Related entities, a whole level at a time: one statement for all parents of a page, never one for each.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use ahash::RandomState;
use kernel::Interval;

use super::{narrow::Sql, series::Series};
use crate::{
    Catalog, Error, Scope,
    catalog::{
        Entity,
        schema::{Link, List, Navigation, PLACE, Schema},
    },
    model::{EntityId, EntityType, Observation},
};

/// What the head of a series knows of its Datastream or MultiDatastream: computed properties.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Extent {
    pub phenomenon: Option<Interval>,
    pub result: Option<Interval>,
}

impl Extent {
    pub fn of(&self, property: &str) -> Option<Interval> {
        match property {
            "phenomenonTime" => self.phenomenon,
            "resultTime" => self.result,
            _ => None,
        }
    }
}

/// An entity of any type.
#[derive(Clone, Debug)]
pub enum Item {
    Entity(Arc<Entity>, Extent),
    /// With what it belongs to: a Datastream or a MultiDatastream.
    Observation(Arc<Observation>, EntityType),
}

impl Item {
    pub fn entity(entity: Entity, series: &dyn Series) -> Self {
        let extent = if entity.entity.has_series() { series.extent(entity.id) } else { Extent::default() };
        Self::Entity(Arc::new(entity), extent)
    }
    /// By what the far side of a tie is found: this entity's id, or the id its row points at.
    pub fn link_key(&self, navigation: &Navigation) -> Option<EntityId> {
        match self {
            Self::Entity(entity, _) => match navigation.link {
                Link::One { .. } => entity.one(navigation.name),
                Link::Many { .. } | Link::Through { .. } | Link::Series => Some(entity.id),
            },
            Self::Observation(o, of) => match navigation.target {
                EntityType::FeatureOfInterest => Some(o.feature),
                target => (target == *of).then_some(o.datastream),
            },
        }
    }
    pub fn as_entity(&self) -> Option<&Arc<Entity>> {
        match self {
            Self::Entity(entity, _) => Some(entity),
            Self::Observation(..) => None,
        }
    }
}

pub type Related = HashMap<EntityId, Vec<Item>, RandomState>;

/// Combinations of related rows that the filter of all rows of a chunk may look at together: a second's work at most, which nothing interrupts.
const COMBINATIONS: usize = 2_000_000;

/// The rows behind each variable of a filter.
#[derive(Default)]
pub struct Loaded {
    levels: Vec<Arc<Related>>,
    /// Combinations that have been looked at.
    spent: AtomicUsize,
}

impl Loaded {
    pub fn new(variables: usize) -> Self {
        Self { levels: (0..variables).map(|_| Arc::default()).collect(), spent: AtomicUsize::new(0) }
    }
    /// Takes note of one more combination; `false` when there are too many.
    pub fn spend(&self) -> bool {
        self.spent.fetch_add(1, Relaxed) < COMBINATIONS
    }
    pub fn is_spent(&self) -> bool {
        self.spent.load(Relaxed) > COMBINATIONS
    }
    pub fn set(&mut self, variable: usize, related: Related) {
        if let Some(level) = self.levels.get_mut(variable) {
            *level = Arc::new(related);
        }
    }
    /// Gives a variable the rows of another, which looks at the same.
    pub fn share(&mut self, variable: usize, twin: usize) {
        if let Some(level) = self.levels.get(twin).cloned()
            && let Some(slot) = self.levels.get_mut(variable)
        {
            *slot = level;
        }
    }
    pub fn of<'a>(&'a self, variable: usize, parent: &Item, navigation: Option<&Navigation>) -> &'a [Item] {
        let key = navigation.and_then(|n| parent.link_key(n));
        key.and_then(|key| self.levels.get(variable)?.get(&key)).map_or(&[], Vec::as_slice)
    }
    pub fn level(&self, variable: usize) -> impl Iterator<Item = &Item> {
        self.levels.get(variable).into_iter().flat_map(|level| level.values().flatten())
    }
}

/// Parents asked for in one statement.
const PARENTS: usize = 512;
/// Rows that one level may bring, whatever the question.
pub const MAX_RELATED: usize = 100_000;

/// How the rows of a level are limited for each parent.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// An exact condition on `{}`, with its parameters already in the statement.
    pub order: Option<String>,
    /// Rows for each parent, and how many of them to leave out first.
    pub limit: Option<(usize, u64)>,
}

/// What lies at the far side of `navigation` for each of `keys`, as far as the caller may see it, by id or in the order of the list.
pub async fn related(
    catalog: &Catalog,
    series: &Arc<dyn Series>,
    scope: &Scope,
    navigation: &'static Navigation,
    keys: &[EntityId],
    window: &Window,
) -> Result<Related, Error> {
    let schema = Schema::of(navigation.target);
    let mut all = Related::default();
    let mut rows = 0;
    for chunk in keys.chunks(PARENTS) {
        let ids: Vec<i64> = chunk.iter().map(|id| id.0).collect();
        let (text, sql) = statement(schema, navigation, &ids, scope, window);
        let columns = schema.columns("e").split(',').count();
        let found = catalog.records().read(move |read| {
            let rows =
                read.query(&text, &sql.params, |row| Ok((EntityId(row.get(columns)?), Entity::read(schema, row)?)))?;
            Ok::<_, Error>(rows)
        });
        for (key, entity) in found.await? {
            rows += 1;
            if rows > MAX_RELATED {
                let detail = format!(
                    "The question brings more than {MAX_RELATED} {}; narrow it or use $top.",
                    navigation.target.set()
                );
                return Err(Error::bad_request(detail));
            }
            all.entry(key).or_default().push(Item::entity(entity, series.as_ref()));
        }
    }
    Ok(all)
}

fn statement(
    schema: &'static Schema,
    navigation: &'static Navigation,
    ids: &[i64],
    scope: &Scope,
    window: &Window,
) -> (String, Sql) {
    let mut sql = Sql::default();
    let list = sql.ids(ids);
    let (from, key) = far_side(schema, navigation);
    let mut condition = format!("{key} IN ({list})");
    if let Some(scope) = sql.scope(scope, "e") {
        condition = format!("{condition} AND {scope}");
    }
    let columns = schema.columns("e");
    let own = if navigation.is_list() { format!("l.{PLACE}") } else { "e.id".to_owned() };
    let order = window.order.as_deref().unwrap_or(&own);
    let text = match window.limit {
        None => format!("SELECT {columns}, {key} FROM {from} WHERE {condition} ORDER BY {order}"),
        Some((limit, skip)) => {
            let first = sql.param(records::Param::Integer(i64::try_from(skip).unwrap_or(i64::MAX)));
            let last = sql
                .param(records::Param::Integer(i64::try_from(skip.saturating_add(limit as u64)).unwrap_or(i64::MAX)));
            let names: Vec<String> = columns.split(", ").map(|c| c.replacen("e.", "w.", 1)).collect();
            format!(
                "SELECT {}, w.parent_key FROM (SELECT {columns}, {key} AS parent_key,
                 ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY {order}) AS place FROM {from} WHERE {condition}) w
                 WHERE w.place > {first} AND w.place <= {last} ORDER BY w.parent_key, w.place",
                names.join(", ")
            )
        }
    };
    (text, sql)
}

/// The rows at the far side of `navigation`, with the alias `e`, and what says to whom each belongs.
fn far_side(schema: &Schema, navigation: &Navigation) -> (String, String) {
    match navigation.link {
        Link::Many { column } => (format!("{} e", schema.table), format!("e.{column}")),
        Link::Through { table, own, other, list } => {
            // Whoever stands in a list twice is in it once.
            let ties = match list {
                List::Far => format!("(SELECT DISTINCT {own}, {other} FROM {table})"),
                List::No | List::Near => table.to_owned(),
            };
            (format!("{ties} l JOIN {} e ON e.id = l.{other}", schema.table), format!("l.{own}"))
        }
        Link::One { .. } | Link::Series => (format!("{} e", schema.table), "e.id".to_owned()),
    }
}

/// How many entities lie behind each key.
pub async fn counts(
    catalog: &Catalog,
    scope: &Scope,
    navigation: &'static Navigation,
    keys: &[EntityId],
) -> Result<HashMap<EntityId, u64, RandomState>, Error> {
    let schema = Schema::of(navigation.target);
    let mut all = HashMap::default();
    for chunk in keys.chunks(PARENTS) {
        let ids: Vec<i64> = chunk.iter().map(|id| id.0).collect();
        let mut sql = Sql::default();
        let list = sql.ids(&ids);
        if matches!(navigation.link, Link::One { .. } | Link::Series) {
            return Ok(all);
        }
        let (from, key) = far_side(schema, navigation);
        let scope = sql.scope(scope, "e").map(|s| format!(" AND {s}")).unwrap_or_default();
        let text = format!("SELECT {key}, COUNT(*) FROM {from} WHERE {key} IN ({list}){scope} GROUP BY {key}");
        let found = catalog.records().read(move |read| {
            let rows = read.query(&text, &sql.params, |row| Ok((EntityId(row.get(0)?), row.get::<u64>(1)?)))?;
            Ok::<_, Error>(rows)
        });
        all.extend(found.await?);
    }
    Ok(all)
}
