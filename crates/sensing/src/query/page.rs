//! Pages: where one ends, and how the next goes on.

use std::cmp::Ordering;

use super::{
    eval,
    load::{Item, Loaded},
    plan::Plan,
    run::Next,
    token::{Token, TokenId},
    value::Value,
};
use crate::{
    Error,
    model::{Observation, ObservationId},
};

#[derive(Default)]
pub(super) struct Page {
    pub items: Vec<Item>,
    pub count: Option<u64>,
    pub next: Option<Next>,
}

impl Page {
    pub fn last_observation(&self) -> Option<&Observation> {
        match self.items.last() {
            Some(Item::Observation(o, _)) => Some(o),
            _ => None,
        }
    }
    pub fn last_id(&self) -> Option<ObservationId> {
        self.last_observation().map(Observation::id)
    }
}

fn id_of(item: &Item) -> TokenId {
    match item {
        Item::Entity(entity, _) => TokenId::Entity(entity.id),
        Item::Observation(observation, _) => TokenId::Observation(observation.id()),
    }
}

pub(super) fn place(plan: &Plan, item: &Item, loaded: &Loaded) -> Result<Token, Error> {
    Ok(Token { keys: eval::order_keys(&plan.order, &plan.variables, item, loaded)?, id: id_of(item) })
}

pub(super) fn next(plan: &Plan, last: Option<&Token>) -> Next {
    match last.and_then(Token::print) {
        Some(token) => Next::Token(token),
        None => Next::Skip(plan.skip + plan.top as u64),
    }
}

/// The page of those of `items` for which the filter holds.
pub(super) fn kept_page(plan: &Plan, list: bool, items: Vec<Item>, loaded: &Loaded) -> Result<Page, Error> {
    let mut kept = Vec::new();
    for item in items {
        let holds = match &plan.filter {
            Some(filter) => eval::holds(filter, &plan.variables, &item, loaded)?,
            None => true,
        };
        if holds {
            kept.push((eval::order_keys(&plan.order, &plan.variables, &item, loaded)?, item));
        }
    }
    let count = kept.len() as u64;
    let mut page = if list { list_page(plan, kept) } else { sorted_page(plan, kept) };
    page.count = plan.count.then_some(count);
    Ok(page)
}

/// The order of the keys, without anything that decides between equal ones.
fn by_keys(plan: &Plan, a: &[Value<'static>], b: &[Value<'static>]) -> Ordering {
    let mut orders = a.iter().zip(b).zip(&plan.order).map(|((a, b), (_, descending))| {
        let order = a.sort(b);
        if *descending { order.reverse() } else { order }
    });
    orders.find(|o| *o != Ordering::Equal).unwrap_or(Ordering::Equal)
}

/// Sorts, goes on behind the token, and cuts the page out.
pub(super) fn sorted_page(plan: &Plan, mut all: Vec<(Vec<Value<'static>>, Item)>) -> Page {
    all.sort_by(|(a, x), (b, y)| by_keys(plan, a, b).then_with(|| id_of(x).cmp(&id_of(y))));
    if let Some(token) = &plan.token {
        let start = all.partition_point(|(keys, item)| {
            by_keys(plan, keys, &token.keys).then_with(|| id_of(item).cmp(&token.id)).is_le()
        });
        all.drain(..start);
    }
    let last = |all: &[(Vec<Value<'static>>, Item)]| {
        let last = all.last().map(|(keys, item)| Token { keys: keys.clone(), id: id_of(item) });
        next(plan, last.as_ref())
    };
    cut_page(plan, all, last)
}

/// The same of a list, where equal keys leave its own order, and where the same entity may stand twice: so its pages are counted. A list is
/// short.
fn list_page(plan: &Plan, mut all: Vec<(Vec<Value<'static>>, Item)>) -> Page {
    all.sort_by(|(a, _), (b, _)| by_keys(plan, a, b));
    cut_page(plan, all, |_| Next::Skip(plan.skip + plan.top as u64))
}

fn cut_page(
    plan: &Plan,
    mut all: Vec<(Vec<Value<'static>>, Item)>,
    next: impl Fn(&[(Vec<Value<'static>>, Item)]) -> Next,
) -> Page {
    let skip = usize::try_from(plan.skip).unwrap_or(usize::MAX).min(all.len());
    all.drain(..skip);
    let more = all.len() > plan.top;
    all.truncate(plan.top);
    let next = more.then(|| next(&all));
    Page { items: all.into_iter().map(|(_, item)| item).collect(), count: None, next }
}
