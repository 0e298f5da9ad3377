//! From a plan to an answer.

use std::{collections::HashMap, sync::Arc};

use futures::future::BoxFuture;
use kernel::Limits;
use records::Param;

use super::{
    eval,
    load::{Item, Loaded, MAX_RELATED, Related, Window, counts, related},
    narrow::{Sql, column, narrow},
    page::{Page, kept_page, next, place, sorted_page},
    plan::{Expansion, Leaf, Node, Plan, Variable},
    series::Series,
    token::{Token, TokenId},
    value::Value,
};
use crate::{
    Catalog, Error, Scope,
    catalog::{
        Entity,
        schema::{Link, Navigation, Schema},
    },
    model::{EntityId, EntityType},
};

/// What answers questions. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) catalog: Catalog,
    pub(super) series: Arc<dyn Series>,
    pub(super) limits: Limits,
    /// Whether filters are narrowed by SQL at all. Only the test that compares both ways switches it off.
    pub(super) pushdown: bool,
}

/// Which entities a question is about.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    All,
    /// Those at the far side of a tie: `Things(1)/Datastreams`.
    Related {
        entity: EntityType,
        id: EntityId,
        navigation: &'static Navigation,
    },
    /// One by its id.
    One(TokenId),
}

/// How to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Token(String),
    Skip(u64),
}

/// An entity with what was expanded.
#[derive(Clone, Debug)]
pub struct Row {
    pub item: Item,
    /// In the order of [`Plan::expand`].
    pub expanded: Vec<Inline>,
}

#[derive(Clone, Debug)]
pub enum Inline {
    One(Option<Box<Row>>),
    Many(Answer),
}

/// A page of an answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub rows: Vec<Row>,
    pub count: Option<u64>,
    pub next: Option<Next>,
}

/// Rows looked at for one page before it is handed out unfilled, with a link to go on.
const SCAN: usize = 50_000;
/// Rows that are sorted in memory.
const SORT: usize = 100_000;
/// Rows looked at for a count under a filter that SQL cannot decide.
const COUNT_SCAN: usize = 2_000_000;
/// Entities of one answer, all levels together.
const ANSWER: usize = 100_000;

fn too_many() -> Error {
    Error::bad_request(format!("The answer would hold more than {ANSWER} entities; use $top here or in $expand."))
}

impl Row {
    /// Itself and everything below it.
    fn entities(&self) -> usize {
        let below = self.expanded.iter().map(|inline| match inline {
            Inline::One(row) => row.as_ref().map_or(0, |row| row.entities()),
            Inline::Many(answer) => answer.rows.iter().map(Row::entities).fold(0, usize::saturating_add),
        });
        below.fold(1, usize::saturating_add)
    }
}

impl Engine {
    pub fn new(catalog: Catalog, series: Arc<dyn Series>, limits: Limits) -> Self {
        Self { catalog, series, limits, pushdown: true }
    }
    /// Answers without asking SQL to narrow anything: the reference that the narrowing is held against.
    #[must_use]
    pub fn with_pushdown(self, pushdown: bool) -> Self {
        Self { pushdown, ..self }
    }
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
    pub fn series(&self) -> &Arc<dyn Series> {
        &self.series
    }

    /// Answers a plan about an entity set.
    pub async fn answer(&self, scope: &Scope, plan: &Plan, source: &Source) -> Result<Answer, Error> {
        let mut left = ANSWER;
        let page = self.page(scope, plan, source).await?;
        self.expanded(scope, plan, page, &mut left).await
    }

    /// One entity with its expansions; `None` when there is none that the caller may see.
    pub async fn one(&self, scope: &Scope, plan: &Plan, id: TokenId) -> Result<Option<Row>, Error> {
        let Some(item) = self.item(scope, plan.entity, id).await? else { return Ok(None) };
        let mut left = ANSWER;
        let page = Page { items: vec![item], ..Page::default() };
        Ok(self.expanded(scope, plan, page, &mut left).await?.rows.pop())
    }

    /// One entity as it is.
    pub async fn item(&self, scope: &Scope, entity: EntityType, id: TokenId) -> Result<Option<Item>, Error> {
        match id {
            TokenId::Entity(id) => {
                Ok(self.catalog.get(scope, entity, id).await?.map(|e| Item::entity(e, self.series.as_ref())))
            }
            TokenId::Observation(id) => {
                for of in EntityType::SERIES {
                    if self.catalog.get(scope, of, id.datastream).await?.is_some() {
                        return Ok(self.series.get(id).await?.map(|o| Item::Observation(Arc::new(o), of)));
                    }
                }
                Ok(None)
            }
        }
    }

    /// The entity at the far side of a tie to one.
    pub async fn follow(
        &self,
        scope: &Scope,
        item: &Item,
        navigation: &'static Navigation,
    ) -> Result<Option<Item>, Error> {
        let Some(id) = item.link_key(navigation) else { return Ok(None) };
        self.item(scope, navigation.target, TokenId::Entity(id)).await
    }

    async fn page(&self, scope: &Scope, plan: &Plan, source: &Source) -> Result<Page, Error> {
        if plan.entity == EntityType::Observation {
            self.observations(scope, plan, source).await
        } else {
            self.entities(scope, plan, source).await
        }
    }

    /// The rows behind every variable of a filter or order, level by level.
    pub(super) async fn load(&self, scope: &Scope, variables: &[Variable], roots: &[Item]) -> Result<Loaded, Error> {
        let mut loaded = Loaded::new(variables.len());
        // For each variable the first that looks at the same rows: `a/any(…) and a/any(…)` reads them once.
        let mut first: Vec<usize> = (0..variables.len()).collect();
        for (index, variable) in variables.iter().enumerate().skip(1) {
            let Some(navigation) = variable.navigation else { continue };
            let same = |twin: &usize| {
                variables.get(*twin).is_some_and(|v| {
                    first.get(v.parent) == first.get(variable.parent)
                        && v.navigation.is_some_and(|n| std::ptr::eq(n, navigation))
                        && (v.ends, v.exists) == (variable.ends, variable.exists)
                })
            };
            if let Some(twin) = (1..index).find(same) {
                loaded.share(index, twin);
                first[index] = twin;
                continue;
            }
            let mut keys: Vec<EntityId> = if variable.parent == 0 {
                roots.iter().filter_map(|item| item.link_key(navigation)).collect()
            } else {
                loaded.level(variable.parent).filter_map(|item| item.link_key(navigation)).collect()
            };
            keys.sort_unstable();
            keys.dedup();
            let from = variables.get(variable.parent).map_or(variable.entity, |p| p.entity);
            let level = if variable.entity == EntityType::Observation {
                self.related_observations(scope, from, &keys, variable).await?
            } else {
                related(&self.catalog, &self.series, scope, navigation, &keys, &Window::default()).await?
            };
            loaded.set(index, level);
        }
        Ok(loaded)
    }

    // --- entities -------------------------------------------------------------------------------------------------

    async fn entities(&self, scope: &Scope, plan: &Plan, source: &Source) -> Result<Page, Error> {
        if let Source::Related { id, navigation, .. } = source
            && navigation.is_list()
        {
            let found = related(&self.catalog, &self.series, scope, navigation, &[*id], &Window::default()).await?;
            let items: Vec<Item> = found.into_values().flatten().collect();
            let loaded = self.load(scope, &plan.variables, &items).await?;
            return kept_page(plan, true, items, &loaded);
        }
        let mut sql = Sql::default();
        let Some(base) = conditions(scope, plan, source, self.pushdown, &mut sql) else { return Ok(Page::default()) };
        let order = if self.pushdown || plan.order.is_empty() { sql_order(plan) } else { None };
        let mut page = match order {
            Some(order) => self.by_sql(scope, plan, &base, sql.params.clone(), &order).await?,
            None => self.by_rust(scope, plan, &base, sql.params.clone()).await?,
        };
        if plan.count {
            page.count = Some(match source {
                Source::All if plan.filter.is_none() => self.catalog.count(scope, plan.entity).await?,
                _ => self.count(scope, plan, &base, sql.params).await?,
            });
        }
        Ok(page)
    }

    /// SQL orders, and starts where the last page ended.
    async fn by_sql(
        &self,
        scope: &Scope,
        plan: &Plan,
        base: &Base,
        params: Vec<Param<'static>>,
        order: &[(String, bool)],
    ) -> Result<Page, Error> {
        let exact = base.exact;
        let mut page = Page::default();
        let mut skip = plan.skip;
        let mut at = plan.token.clone();
        let mut last = None;
        let mut scanned = 0;
        let order_by = order_text(order);
        loop {
            let mut sql = Sql::with(params.clone());
            let mut text = base.text.clone();
            if let Some(token) = &at {
                text = format!("{text} AND {}", beyond(order, token, &mut sql)?);
            }
            let wanted = plan.top + 1 - page.items.len();
            let (limit, offset) = if exact { (wanted, skip) } else { ((wanted * 2).clamp(100, 2_000), 0) };
            let found = self.rows(plan.entity, text, sql, &order_by, limit, offset).await?;
            let full = found.len() == limit;
            if exact {
                skip = 0;
            }
            scanned += found.len();
            let items: Vec<Item> = found.into_iter().map(|e| Item::entity(e, self.series.as_ref())).collect();
            let loaded = self.load(scope, &plan.variables, &items).await?;
            for item in items {
                let place = place(plan, &item, &loaded)?;
                at = Some(place.clone());
                let holds = match &plan.filter {
                    Some(filter) => eval::holds(filter, &plan.variables, &item, &loaded)?,
                    None => true,
                };
                if !holds {
                    continue;
                }
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                if page.items.len() == plan.top {
                    page.next = Some(next(plan, last.as_ref()));
                    return Ok(page);
                }
                last = Some(place);
                page.items.push(item);
            }
            if !full {
                return Ok(page);
            }
            if scanned >= SCAN && skip == 0 {
                page.next = at.as_ref().and_then(Token::print).map(Next::Token);
                return Ok(page);
            }
        }
    }

    /// Everything that holds is read and sorted here, because SQL has no column to order by.
    async fn by_rust(
        &self,
        scope: &Scope,
        plan: &Plan,
        base: &Base,
        params: Vec<Param<'static>>,
    ) -> Result<Page, Error> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let chunk = self.chunk(plan.entity, base, &params, after).await?;
            let full = chunk.len() == CHUNK;
            let items: Vec<Item> = chunk.into_iter().map(|e| Item::entity(e, self.series.as_ref())).collect();
            after = items.last().and_then(|item| item.as_entity().map(|e| e.id)).or(after);
            let loaded = self.load(scope, &plan.variables, &items).await?;
            for item in items {
                let holds = match &plan.filter {
                    Some(filter) => eval::holds(filter, &plan.variables, &item, &loaded)?,
                    None => true,
                };
                if holds {
                    all.push((eval::order_keys(&plan.order, &plan.variables, &item, &loaded)?, item));
                }
            }
            if all.len() > SORT {
                let detail = format!(
                    "To sort by this, more than {SORT} entities would have to be read; narrow the filter, or sort by id or name."
                );
                return Err(Error::bad_request(detail));
            }
            if !full {
                return Ok(sorted_page(plan, all));
            }
        }
    }

    async fn count(&self, scope: &Scope, plan: &Plan, base: &Base, params: Vec<Param<'static>>) -> Result<u64, Error> {
        let table = Schema::of(plan.entity).table;
        let Some(filter) = plan.filter.as_ref().filter(|_| !base.exact) else {
            let text = format!("SELECT COUNT(*) FROM {table} e WHERE {}", base.text);
            let count = self
                .catalog
                .records()
                .read(move |read| Ok::<_, Error>(read.query_one(&text, &params, |row| row.get(0))?));
            return count.await;
        };
        let (mut total, mut scanned, mut after) = (0, 0, None);
        loop {
            let chunk = self.chunk(plan.entity, base, &params, after).await?;
            let full = chunk.len() == CHUNK;
            scanned += chunk.len();
            let items: Vec<Item> = chunk.into_iter().map(|e| Item::entity(e, self.series.as_ref())).collect();
            after = items.last().and_then(|item| item.as_entity().map(|e| e.id)).or(after);
            let loaded = self.load(scope, &plan.variables, &items).await?;
            for item in &items {
                total += u64::from(eval::holds(filter, &plan.variables, item, &loaded)?);
            }
            if !full {
                return Ok(total);
            }
            if scanned >= COUNT_SCAN {
                return Err(Error::bad_request(
                    "The count under this filter would look at too many entities; narrow it or leave $count out.",
                ));
            }
        }
    }

    /// The next rows by id.
    async fn chunk(
        &self,
        entity: EntityType,
        base: &Base,
        params: &[Param<'static>],
        after: Option<EntityId>,
    ) -> Result<Vec<Entity>, Error> {
        let mut sql = Sql::with(params.to_vec());
        let text = match after {
            Some(id) => format!("{} AND e.id > {}", base.text, sql.id(id.0)),
            None => base.text.clone(),
        };
        self.rows(entity, text, sql, "e.id", CHUNK, 0).await
    }

    async fn rows(
        &self,
        entity: EntityType,
        text: String,
        mut sql: Sql,
        order: &str,
        limit: usize,
        offset: u64,
    ) -> Result<Vec<Entity>, Error> {
        let schema = Schema::of(entity);
        let limit = sql.id(i64::try_from(limit).unwrap_or(i64::MAX));
        let offset = if offset > 0 {
            format!(" OFFSET {}", sql.id(i64::try_from(offset).unwrap_or(i64::MAX)))
        } else {
            String::new()
        };
        let text = format!(
            "SELECT {} FROM {} e WHERE {text} ORDER BY {order} LIMIT {limit}{offset}",
            schema.columns("e"),
            schema.table
        );
        let found = self
            .catalog
            .records()
            .read(move |read| Ok::<_, Error>(read.query(&text, &sql.params, |row| Entity::read(schema, row))?));
        found.await
    }

    // --- expansions -----------------------------------------------------------------------------------------------

    /// Adds what the plan expands, one level for the whole page at a time.
    fn expanded<'a>(
        &'a self,
        scope: &'a Scope,
        plan: &'a Plan,
        page: Page,
        left: &'a mut usize,
    ) -> BoxFuture<'a, Result<Answer, Error>> {
        Box::pin(async move {
            *left = left.checked_sub(page.items.len()).ok_or_else(too_many)?;
            let mut rows: Vec<Row> = page.items.into_iter().map(|item| Row { item, expanded: Vec::new() }).collect();
            for expansion in &plan.expand {
                let inline = self.expansion(scope, plan.entity, expansion, &rows, left).await?;
                for (row, inline) in rows.iter_mut().zip(inline) {
                    row.expanded.push(inline);
                }
            }
            Ok(Answer { rows, count: page.count, next: page.next })
        })
    }

    /// One expansion for each of `rows`.
    async fn expansion(
        &self,
        scope: &Scope,
        from: EntityType,
        expansion: &Expansion,
        rows: &[Row],
        left: &mut usize,
    ) -> Result<Vec<Inline>, Error> {
        let Expansion { navigation, plan, .. } = expansion;
        let mut keys: Vec<EntityId> = rows.iter().filter_map(|row| row.item.link_key(navigation)).collect();
        keys.sort_unstable();
        keys.dedup();
        if !navigation.to_many() {
            let found = related(&self.catalog, &self.series, scope, navigation, &keys, &Window::default()).await?;
            let page = Page { items: found.into_values().flatten().collect(), ..Page::default() };
            let inner = self.expanded(scope, plan, page, left).await?;
            // Read once and written under every row that leads to it: ten thousand Observations with all of their Datastream's Observations under
            // each are few reads and a hundred million entities.
            let by_id: HashMap<EntityId, (&Row, usize)> =
                inner.rows.iter().filter_map(|row| Some((row.item.as_entity()?.id, (row, row.entities())))).collect();
            let found: Vec<Option<(&Row, usize)>> =
                rows.iter().map(|row| by_id.get(&row.item.link_key(navigation)?).copied()).collect();
            let again = found.iter().flatten().map(|(_, entities)| *entities).fold(0, usize::saturating_add);
            let once = by_id.values().map(|(_, entities)| *entities).sum::<usize>();
            *left = left.checked_sub(again.saturating_sub(once)).ok_or_else(too_many)?;
            return Ok(found.into_iter().map(|row| Inline::One(row.map(|(row, _)| Box::new(row.clone())))).collect());
        }
        let pages = if navigation.target == EntityType::Observation {
            let mut pages = Vec::with_capacity(rows.len());
            for row in rows {
                let page = match row.item.link_key(navigation) {
                    Some(id) => {
                        self.observations(scope, plan, &Source::Related { entity: from, id, navigation }).await?
                    }
                    None => Page::default(),
                };
                pages.push(page);
            }
            pages
        } else {
            self.collections(scope, expansion, rows, &keys).await?
        };
        // All collections of the level go down together, so that the next level is one statement again.
        let lengths: Vec<usize> = pages.iter().map(|p| p.items.len()).collect();
        let mut ends = Vec::with_capacity(pages.len());
        let mut items = Vec::new();
        for page in pages {
            ends.push((page.count, page.next));
            items.extend(page.items);
        }
        let below = self.expanded(scope, plan, Page { items, ..Page::default() }, left).await?;
        let mut below = below.rows.into_iter();
        Ok(lengths
            .into_iter()
            .zip(ends)
            .map(|(length, (count, next))| {
                Inline::Many(Answer { rows: below.by_ref().take(length).collect(), count, next })
            })
            .collect())
    }

    async fn collections(
        &self,
        scope: &Scope,
        expansion: &Expansion,
        rows: &[Row],
        keys: &[EntityId],
    ) -> Result<Vec<Page>, Error> {
        let Expansion { navigation, plan, .. } = expansion;
        let list = navigation.is_list();
        let order = if plan.filter.is_none() && !list { sql_order(plan) } else { None };
        let mut pages = Vec::with_capacity(rows.len());
        if let Some(order) = order {
            let window = Window { order: Some(order_text(&order)), limit: Some((plan.top + 1, plan.skip)) };
            let mut found = related(&self.catalog, &self.series, scope, navigation, keys, &window).await?;
            let counts = if plan.count { Some(counts(&self.catalog, scope, navigation, keys).await?) } else { None };
            let empty = Loaded::new(plan.variables.len());
            for row in rows {
                let key = row.item.link_key(navigation);
                let mut items = key.and_then(|key| found.get_mut(&key).map(std::mem::take)).unwrap_or_default();
                let more = items.len() > plan.top;
                items.truncate(plan.top);
                let last = items.last().map(|item| place(plan, item, &empty)).transpose()?;
                let count = counts.as_ref().map(|c| key.and_then(|key| c.get(&key).copied()).unwrap_or(0));
                pages.push(Page { items, count, next: more.then(|| next(plan, last.as_ref())) });
            }
            return Ok(pages);
        }
        let mut found: Related =
            related(&self.catalog, &self.series, scope, navigation, keys, &Window::default()).await?;
        let all: Vec<Item> = found.values().flatten().cloned().collect();
        if all.len() > MAX_RELATED {
            return Err(Error::bad_request("The expansion brings too many entities; narrow it."));
        }
        let loaded = self.load(scope, &plan.variables, &all).await?;
        for row in rows {
            let items = row
                .item
                .link_key(navigation)
                .and_then(|key| found.get_mut(&key).map(std::mem::take))
                .unwrap_or_default();
            let page = kept_page(plan, list, items, &loaded)?;
            pages.push(page);
        }
        Ok(pages)
    }
}

/// Rows read at once where all must be looked at.
const CHUNK: usize = 2_000;

/// The condition of a question on the table with alias `e`, and whether it decides the filter by itself.
struct Base {
    text: String,
    exact: bool,
}

/// `None` when the answer is empty whatever is stored.
fn conditions(scope: &Scope, plan: &Plan, source: &Source, pushdown: bool, sql: &mut Sql) -> Option<Base> {
    let mut all = Vec::new();
    all.extend(sql.scope(scope, "e"));
    match source {
        Source::All => {}
        Source::One(TokenId::Entity(id)) => all.push(format!("e.id = {}", sql.id(id.0))),
        Source::One(TokenId::Observation(_)) => return None,
        Source::Related { id, navigation, .. } => all.push(match navigation.link {
            Link::Many { column } => format!("e.{column} = {}", sql.id(id.0)),
            Link::Through { table, own, other, .. } => {
                format!("e.id IN (SELECT l.{other} FROM {table} l WHERE l.{own} = {})", sql.id(id.0))
            }
            Link::One { .. } | Link::Series => return None,
        }),
    }
    let mut exact = plan.filter.is_none();
    if pushdown
        && let Some(filter) = &plan.filter
        && let Some(condition) = narrow(filter, &plan.variables, sql)
    {
        exact = condition.exact;
        all.push(condition.text);
    }
    let text = if all.is_empty() { "1 = 1".to_owned() } else { all.join(" AND ") };
    Some(Base { text, exact })
}

/// The columns to order by, when every key has one that is never null.
fn sql_order(plan: &Plan) -> Option<Vec<(String, bool)>> {
    plan.order
        .iter()
        .map(|(key, descending)| {
            let column = match key {
                Node::Leaf(0, leaf) => format!("e.{}", column(Schema::of(plan.entity), leaf)?.0),
                // The id at the far side of a tie to one is a column here.
                Node::Leaf(variable, Leaf::Id) => {
                    let Variable { parent: 0, navigation: Some(navigation), .. } = plan.variables.get(*variable)?
                    else {
                        return None;
                    };
                    let Link::One { column } = navigation.link else { return None };
                    // The far side may be hidden, and then orders as null.
                    if navigation.target != EntityType::Thing {
                        return None;
                    }
                    format!("e.{column}")
                }
                _ => return None,
            };
            Some((column, *descending))
        })
        .collect()
}

fn order_text(order: &[(String, bool)]) -> String {
    let mut text = String::new();
    for (column, descending) in order {
        text.push_str(column);
        text.push_str(if *descending { " DESC, " } else { ", " });
    }
    text.push_str("e.id");
    text
}

/// Everything behind the place where the last page ended.
fn beyond(order: &[(String, bool)], token: &Token, sql: &mut Sql) -> Result<String, Error> {
    let TokenId::Entity(id) = token.id else {
        return Err(Error::bad_request("The $skiptoken belongs to another question."));
    };
    let mut text = format!("e.id > {}", sql.id(id.0));
    for ((column, descending), key) in order.iter().zip(&token.keys).rev() {
        let param = match key {
            Value::Text(text) => Param::Text(text.to_string().into()),
            Value::Number(number) => Param::Integer(*number as i64),
            Value::Time(time) => Param::Integer(time.start.as_micros()),
            _ => return Err(Error::bad_request("The $skiptoken belongs to another question.")),
        };
        let place = sql.param(param);
        let sign = if *descending { "<" } else { ">" };
        text = format!("({column} {sign} {place} OR ({column} = {place} AND {text}))");
    }
    Ok(text)
}
