//! Questions about Observations: they lie in series, one for each Datastream or MultiDatastream, ordered by phenomenonTime.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use kernel::Timestamp;

use super::{
    among::{Home, series, stretch},
    ast::Operator,
    bounds::{both, instants, necessary},
    load::Item,
    page::{Page, sorted_page},
    plan::{Leaf, Node, Plan, Variable},
    run::{Engine, Next, Source},
    series::Span,
    token::{Token, TokenId},
    value::Value,
};
use crate::{
    Error, Scope,
    model::{EntityId, EntityType, Observation, ObservationId},
};

/// Observations looked at for one page before it is handed out unfilled, with a link to go on.
const SCAN: usize = 200_000;
/// Observations looked at for a count under a filter.
const COUNT_SCAN: usize = 5_000_000;
/// Observations that are sorted by something else than time.
const SORT: usize = 200_000;
/// Series that are looked up at once while a page is not full: few at first, for the page is mostly full soon.
const STRETCH: std::ops::RangeInclusive<usize> = 64..=16_384;
/// Rows in one read of a series.
pub(super) const CHUNK: usize = 2_000;

/// The order that decides how series are walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Walk {
    /// One Datastream after the other, by id.
    Natural,
    /// All at once, by phenomenonTime.
    Time { descending: bool },
    /// Everything is read, then sorted.
    Sorted,
}

/// The place of an Observation among those of all Datastreams, by time.
fn place(id: &ObservationId) -> (Timestamp, EntityId, EntityId, Option<Timestamp>) {
    (id.at, id.datastream, id.feature, id.result_time)
}

struct Question<'a> {
    engine: &'a Engine,
    scope: &'a Scope,
    plan: &'a Plan,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    feature: Option<EntityId>,
}

impl Engine {
    pub(super) async fn observations(&self, scope: &Scope, plan: &Plan, source: &Source) -> Result<Page, Error> {
        let mut question = Question { engine: self, scope, plan, from: None, to: None, feature: None };
        if let Source::Related { entity: EntityType::FeatureOfInterest, id, .. } = source {
            question.feature = Some(*id);
        }
        if let Some(filter) = &plan.filter {
            question.bounds(filter);
        }
        let walk = walk(plan);
        if walk == Walk::Natural {
            let mut page = question.natural(source).await?;
            if plan.count {
                page.count = Some(question.count_all(source, None).await?);
            }
            return Ok(page);
        }
        let datastreams = series(self, scope, plan, source, question.feature).await?;
        let mut page = match walk {
            // The latest Observation of one Datastream lies in the head.
            Walk::Time { descending: true }
                if plan.top == 1
                    && plan.filter.is_none()
                    && plan.token.is_none()
                    && plan.skip == 0
                    && question.feature.is_none()
                    && datastreams.len() == 1 =>
            {
                question.head(datastreams[0]).await?
            }
            Walk::Time { descending } => question.by_time(&datastreams, descending).await?,
            Walk::Natural | Walk::Sorted => question.sorted(&datastreams).await?,
        };
        if plan.count {
            page.count = Some(question.count_all(source, Some(datastreams)).await?);
        }
        Ok(page)
    }
}

fn walk(plan: &Plan) -> Walk {
    match plan.order.as_slice() {
        [] => Walk::Natural,
        [(Node::Leaf(0, Leaf::Property(0, path)), descending)] if path.is_empty() => {
            Walk::Time { descending: *descending }
        }
        _ => Walk::Sorted,
    }
}

impl Question<'_> {
    /// Reads from the filter what the series can be asked for: the range of phenomenonTime, and the feature.
    fn bounds(&mut self, filter: &Node) {
        match filter {
            Node::Binary(Operator::And, left, right) => {
                self.bounds(left);
                self.bounds(right);
            }
            Node::Binary(operator, left, right) => {
                let (leaf, value, operator) = match (&**left, &**right) {
                    (leaf @ Node::Leaf(..), Node::Literal(value)) => (leaf, value, *operator),
                    (Node::Literal(value), leaf @ Node::Leaf(..)) => (leaf, value, operator.flipped()),
                    _ => return,
                };
                self.bound(leaf, value, operator);
            }
            _ => {}
        }
    }

    fn bound(&mut self, leaf: &Node, value: &Value<'_>, operator: Operator) {
        match leaf {
            Node::Leaf(0, Leaf::Property(0, path)) if path.is_empty() => {
                (self.from, self.to) = both((self.from, self.to), necessary(operator, value));
            }
            Node::Leaf(variable, Leaf::Id) if operator == Operator::Eq => {
                let root = |v: &Variable| v.parent == 0 && v.entity == EntityType::FeatureOfInterest;
                if let Value::Number(id) = value
                    && *variable > 0
                    && self.plan.variables.get(*variable).is_some_and(root)
                    && id.fract() == 0.0
                {
                    self.feature = self.feature.or(Some(EntityId(*id as i64)));
                }
            }
            _ => {}
        }
    }

    fn admits(&self, observation: &Observation) -> bool {
        self.feature.is_none_or(|f| f == observation.feature)
    }

    /// Those of `chunk` for which the filter holds.
    async fn filtered(&self, chunk: Vec<Observation>, of: EntityType) -> Result<Vec<(Observation, bool)>, Error> {
        let Some(filter) = &self.plan.filter else {
            return Ok(chunk
                .into_iter()
                .map(|o| {
                    let holds = self.admits(&o);
                    (o, holds)
                })
                .collect());
        };
        let items: Vec<Item> = chunk.iter().map(|o| Item::Observation(Arc::new(o.clone()), of)).collect();
        let loaded = self.engine.load(self.scope, &self.plan.variables, &items).await?;
        let mut all = Vec::with_capacity(chunk.len());
        for (observation, item) in chunk.into_iter().zip(&items) {
            let holds = self.admits(&observation) && super::eval::holds(filter, &self.plan.variables, item, &loaded)?;
            all.push((observation, holds));
        }
        Ok(all)
    }

    fn span(&self, datastream: EntityId, descending: bool, after: Option<ObservationId>, limit: usize) -> Span {
        Span { datastream, from: self.from, to: self.to, descending, after, limit }
    }

    async fn head(&self, Home { id: datastream, of }: Home) -> Result<Page, Error> {
        let Some(latest) = self.engine.series.latest(datastream) else { return Ok(Page::default()) };
        let mut page = Page::default();
        let next = self.engine.series.count(datastream).await? > 1;
        let id = latest.id();
        page.next = if next { Some(self.token(&id, Value::Time(latest.phenomenon))) } else { None };
        page.items.push(Item::Observation(Arc::new(latest), of));
        Ok(page)
    }

    fn token(&self, id: &ObservationId, key: Value<'static>) -> Next {
        let keys = if self.plan.order.is_empty() { Vec::new() } else { vec![key] };
        let token = Token { keys, id: TokenId::Observation(*id) };
        token.print().map_or(Next::Skip(self.plan.skip + self.plan.top as u64), Next::Token)
    }

    fn continued(&self) -> Option<ObservationId> {
        match self.plan.token.as_ref()?.id {
            TokenId::Observation(id) => Some(id),
            TokenId::Entity(_) => None,
        }
    }

    /// Datastream by Datastream, a stretch of them at a time.
    async fn natural(&self, source: &Source) -> Result<Page, Error> {
        let mut page = Page::default();
        let mut resume = self.continued();
        let mut skip = self.plan.skip;
        let mut scanned = 0;
        let mut behind = resume.map_or(EntityId(0), |id| EntityId(id.datastream.0.saturating_sub(1)));
        let mut length = *STRETCH.start();
        loop {
            let place = (behind, length);
            let datastreams = stretch(self.engine, self.scope, self.plan, source, self.feature, place).await?;
            for &home in &datastreams {
                let after = resume.take().filter(|id| id.datastream == home.id);
                if self.one_by_one(home, after, &mut skip, &mut scanned, &mut page).await? {
                    return Ok(page);
                }
            }
            let Some(last) = datastreams.last().filter(|_| datastreams.len() == length) else { return Ok(page) };
            behind = last.id;
            length = (length * 4).min(*STRETCH.end());
        }
    }

    /// One series of [`Question::natural`]; `true` when the page is over.
    async fn one_by_one(
        &self,
        Home { id: datastream, of }: Home,
        mut resume: Option<ObservationId>,
        skip: &mut u64,
        scanned: &mut usize,
        page: &mut Page,
    ) -> Result<bool, Error> {
        if self.engine.series.extent(datastream).phenomenon.is_none() {
            return Ok(false);
        }
        // Whole series are left out by their count alone.
        if *skip > 0 && self.plan.filter.is_none() && self.feature.is_none() && resume.is_none() {
            let count = self.engine.series.count(datastream).await?;
            if count <= *skip {
                *skip -= count;
                return Ok(false);
            }
        }
        loop {
            let wanted = self.plan.top + 1 - page.items.len() + *skip as usize;
            let limit = if self.plan.filter.is_none() { wanted.min(CHUNK * 5) } else { CHUNK };
            let chunk = self.engine.series.read(self.span(datastream, false, resume, limit)).await?;
            let full = chunk.len() == limit;
            *scanned += chunk.len();
            for (observation, holds) in self.filtered(chunk, of).await? {
                resume = Some(observation.id());
                if !holds {
                    continue;
                }
                if *skip > 0 {
                    *skip -= 1;
                    continue;
                }
                if page.items.len() == self.plan.top {
                    page.next =
                        page.last_id().map(|id| self.token(&id, Value::Null)).or(Some(Next::Skip(self.plan.skip)));
                    return Ok(true);
                }
                page.items.push(Item::Observation(Arc::new(observation), of));
            }
            if !full {
                return Ok(false);
            }
            if *scanned >= SCAN
                && *skip == 0
                && let Some(id) = resume
            {
                page.next = Some(self.token(&id, Value::Null));
                return Ok(true);
            }
        }
    }

    /// All series merged by time. A series is opened only once its newest (or oldest) Observation may be next.
    async fn by_time(&self, datastreams: &[Home], descending: bool) -> Result<Page, Error> {
        let token = self.continued();
        let mut waiting: Vec<(Timestamp, Home)> = Vec::new();
        for &Home { id: datastream, of } in datastreams {
            let Some(extent) = self.engine.series.extent(datastream).phenomenon else { continue };
            let bound = if descending {
                self.to.map_or(extent.end, |t| t.min(extent.end))
            } else {
                self.from.map_or(extent.start, |t| t.max(extent.start))
            };
            waiting.push((bound, Home { id: datastream, of }));
        }
        // The next to open stands last.
        waiting.sort_unstable_by(|a, b| if descending { a.cmp(b) } else { b.cmp(a) });
        let mut heap: BinaryHeap<Cursor> = BinaryHeap::new();
        let mut page = Page::default();
        let (mut skip, mut scanned) = (self.plan.skip, 0usize);
        let limit = (self.plan.top + 1).min(CHUNK);
        loop {
            while let Some(&(bound, home)) = waiting.last() {
                let later = heap.peek().and_then(|c| c.buffer.front()).is_some_and(|(o, _)| {
                    if descending { o.phenomenon.start > bound } else { o.phenomenon.start < bound }
                });
                if later {
                    break;
                }
                waiting.pop();
                let mut cursor = Cursor {
                    home,
                    descending,
                    after: None,
                    from: self.from,
                    to: self.to,
                    buffer: VecDeque::new(),
                    done: false,
                };
                if let Some(id) = token {
                    cursor.resume(&id);
                }
                scanned += self.fill(&mut cursor, limit).await?;
                if !cursor.buffer.is_empty() {
                    heap.push(cursor);
                }
            }
            let Some(mut cursor) = heap.pop() else { return Ok(page) };
            let Some((observation, holds)) = cursor.buffer.pop_front() else { continue };
            let of = cursor.home.of;
            let id = observation.id();
            let time = observation.phenomenon;
            if holds && skip > 0 {
                skip -= 1;
            } else if holds {
                if page.items.len() == self.plan.top {
                    page.next = page
                        .last_observation()
                        .map(|o| self.token(&o.id(), Value::Time(o.phenomenon)))
                        .or(Some(Next::Skip(self.plan.skip)));
                    return Ok(page);
                }
                page.items.push(Item::Observation(Arc::new(observation), of));
            }
            if cursor.buffer.is_empty() && !cursor.done {
                scanned += self.fill(&mut cursor, CHUNK).await?;
            }
            let exhausted = cursor.buffer.is_empty();
            if !exhausted {
                heap.push(cursor);
            }
            if scanned >= SCAN && skip == 0 && !(heap.is_empty() && waiting.is_empty()) {
                page.next = Some(self.token(&id, Value::Time(time)));
                return Ok(page);
            }
        }
    }

    async fn fill(&self, cursor: &mut Cursor, limit: usize) -> Result<usize, Error> {
        let span = Span {
            datastream: cursor.home.id,
            from: cursor.from,
            to: cursor.to,
            descending: cursor.descending,
            after: cursor.after,
            limit,
        };
        let chunk = self.engine.series.read(span).await?;
        cursor.done = chunk.len() < limit;
        cursor.after = chunk.last().map(Observation::id).or(cursor.after);
        let read = chunk.len();
        cursor.buffer.extend(self.filtered(chunk, cursor.home.of).await?);
        Ok(read)
    }

    async fn sorted(&self, datastreams: &[Home]) -> Result<Page, Error> {
        let mut all: Vec<(Vec<Value<'static>>, Item)> = Vec::new();
        let mut scanned = 0;
        for &Home { id: datastream, of } in datastreams {
            let mut resume = None;
            loop {
                let chunk = self.engine.series.read(self.span(datastream, false, resume, CHUNK)).await?;
                let full = chunk.len() == CHUNK;
                resume = chunk.last().map(Observation::id);
                scanned += chunk.len();
                if scanned > SORT {
                    let detail = format!(
                        "To sort by this, more than {SORT} Observations would have to be read; add a filter on phenomenonTime, or sort by phenomenonTime."
                    );
                    return Err(Error::bad_request(detail));
                }
                let kept: Vec<Item> = self
                    .filtered(chunk, of)
                    .await?
                    .into_iter()
                    .filter(|(_, holds)| *holds)
                    .map(|(o, _)| Item::Observation(Arc::new(o), of))
                    .collect();
                let loaded = self.engine.load(self.scope, &self.plan.variables, &kept).await?;
                for item in kept {
                    all.push((super::eval::order_keys(&self.plan.order, &self.plan.variables, &item, &loaded)?, item));
                }
                if !full {
                    break;
                }
            }
        }
        Ok(sorted_page(self.plan, all))
    }

    /// Counts what the question is about; `datastreams` where they are known already.
    async fn count_all(&self, source: &Source, datastreams: Option<Vec<Home>>) -> Result<u64, Error> {
        let everything = matches!(source, Source::All) && self.plan.filter.is_none() && self.feature.is_none();
        if everything && let Some(total) = self.engine.total(self.scope).await? {
            return Ok(total);
        }
        let datastreams = match datastreams {
            Some(datastreams) => datastreams,
            None => series(self.engine, self.scope, self.plan, source, self.feature).await?,
        };
        self.count(&datastreams).await
    }

    async fn count(&self, datastreams: &[Home]) -> Result<u64, Error> {
        let mut total = 0;
        if self.plan.filter.is_none() && self.feature.is_none() {
            for &Home { id: datastream, .. } in datastreams {
                total += self.engine.series.count(datastream).await?;
            }
            return Ok(total);
        }
        // A filter that is nothing but a span of time is counted by the index; its rows are read only where some of them last for a while.
        let span = match &self.plan.filter {
            Some(filter) if self.feature.is_none() => instants(filter),
            _ => None,
        };
        let mut scanned = 0;
        for &Home { id: datastream, of } in datastreams {
            if let Some((from, to)) = span
                && let Some(count) = self.engine.series.count_between(datastream, from, to).await?
            {
                total += count;
                continue;
            }
            let mut resume = None;
            loop {
                let chunk = self.engine.series.read(self.span(datastream, false, resume, CHUNK)).await?;
                let full = chunk.len() == CHUNK;
                resume = chunk.last().map(Observation::id);
                scanned += chunk.len();
                if scanned > COUNT_SCAN {
                    return Err(Error::bad_request(format!(
                        "To count under this filter, more than {COUNT_SCAN} Observations would have to be read; narrow it by phenomenonTime or leave $count out."
                    )));
                }
                total += self.filtered(chunk, of).await?.iter().filter(|(_, holds)| *holds).count() as u64;
                if !full {
                    break;
                }
            }
        }
        Ok(total)
    }
}

/// One series in a merge.
struct Cursor {
    home: Home,
    descending: bool,
    after: Option<ObservationId>,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    buffer: VecDeque<(Observation, bool)>,
    done: bool,
}

impl Cursor {
    /// Goes on behind `id`, which may belong to another Datastream: at the same time, lower Datastreams come first (last when descending).
    fn resume(&mut self, id: &ObservationId) {
        let passed = match self.home.id.cmp(&id.datastream) {
            Ordering::Equal => {
                self.after = Some(*id);
                return;
            }
            Ordering::Less => !self.descending,
            Ordering::Greater => self.descending,
        };
        if self.descending {
            let to = if passed { id.at.plus_micros(-1) } else { id.at };
            self.to = Some(self.to.map_or(to, |t| t.min(to)));
        } else {
            let from = if passed { id.at.plus_micros(1) } else { id.at };
            self.from = self.from.max(Some(from));
        }
    }
    fn order(&self, other: &Self) -> Ordering {
        let key = |c: &Self| c.buffer.front().map(|(o, _)| place(&o.id()));
        let order = key(self).cmp(&key(other));
        // A BinaryHeap gives the greatest first.
        if self.descending { order } else { order.reverse() }
    }
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Equal
    }
}
impl Eq for Cursor {}
impl PartialOrd for Cursor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Cursor {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order(other)
    }
}
