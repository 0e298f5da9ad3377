//! The subscriptions of everybody as a tree of topic levels: matching costs the topic's depth, not the number of subscribers.

use std::collections::HashMap;

use ahash::RandomState;

/// Values under topic filters. A value is named by its filter and a key, and there is one of each.
pub struct Trie<K, T> {
    root: Node<K, T>,
    len: usize,
}

struct Node<K, T> {
    children: HashMap<Box<str>, Node<K, T>, RandomState>,
    plus: Option<Box<Node<K, T>>>,
    /// Subscribed to this level and everything below: `.../#`.
    below: Vec<(K, T)>,
    here: Vec<(K, T)>,
}

impl<K, T> Default for Node<K, T> {
    fn default() -> Self {
        Self { children: HashMap::default(), plus: None, below: Vec::new(), here: Vec::new() }
    }
}

impl<K, T> Node<K, T> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.below.is_empty() && self.here.is_empty()
    }
}

impl<K, T> Default for Trie<K, T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

fn put<K: PartialEq, T>(values: &mut Vec<(K, T)>, key: K, value: T) -> bool {
    match values.iter_mut().find(|(k, _)| *k == key) {
        Some((_, old)) => {
            *old = value;
            false
        }
        None => {
            values.push((key, value));
            true
        }
    }
}

fn take<K: PartialEq, T>(values: &mut Vec<(K, T)>, key: &K) -> bool {
    match values.iter().position(|(k, _)| k == key) {
        Some(at) => {
            values.swap_remove(at);
            if values.is_empty() {
                values.shrink_to_fit();
            }
            true
        }
        None => false,
    }
}

impl<K: PartialEq, T> Trie<K, T> {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `filter` must have passed [`super::topic::is_filter`], which bounds the depth. Replaces what `key` had under it.
    pub fn insert(&mut self, filter: &str, key: K, value: T) {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            match level {
                "#" => {
                    self.len += usize::from(put(&mut node.below, key, value));
                    return;
                }
                "+" => node = node.plus.get_or_insert_default(),
                _ => {
                    // entry() would allocate the key each time; levels mostly exist already.
                    if !node.children.contains_key(level) {
                        node.children.insert(level.into(), Node::default());
                    }
                    match node.children.get_mut(level) {
                        Some(child) => node = child,
                        None => return,
                    }
                }
            }
        }
        self.len += usize::from(put(&mut node.here, key, value));
    }

    /// Whether there was one.
    pub fn remove(&mut self, filter: &str, key: &K) -> bool {
        fn descend<K: PartialEq, T>(node: &mut Node<K, T>, mut levels: std::str::Split<'_, char>, key: &K) -> bool {
            match levels.next() {
                None => take(&mut node.here, key),
                Some("#") => take(&mut node.below, key),
                Some("+") => {
                    let Some(child) = &mut node.plus else { return false };
                    let found = descend(child, levels, key);
                    if child.is_empty() {
                        node.plus = None;
                    }
                    found
                }
                Some(level) => {
                    let Some(child) = node.children.get_mut(level) else { return false };
                    let found = descend(child, levels, key);
                    if child.is_empty() {
                        node.children.remove(level);
                    }
                    found
                }
            }
        }
        let found = descend(&mut self.root, filter.split('/'), key);
        self.len -= usize::from(found);
        found
    }

    /// Calls `each` with what is subscribed to `topic` by a filter without wildcards.
    pub fn exact<'a>(&'a self, topic: &str, each: &mut impl FnMut(&'a T)) {
        let mut node = &self.root;
        for level in topic.split('/') {
            match node.children.get(level) {
                Some(child) => node = child,
                None => return,
            }
        }
        node.here.iter().for_each(|(_, value)| each(value));
    }

    /// Calls `each` with everything subscribed to `topic`, and whether it is by a filter that ends in `#`.
    pub fn matches<'a>(&'a self, topic: &str, each: &mut impl FnMut(&'a T, bool)) {
        fn descend<'a, K, T>(
            node: &'a Node<K, T>,
            mut levels: std::str::Split<'_, char>,
            wild: bool,
            each: &mut impl FnMut(&'a T, bool),
        ) {
            if wild {
                node.below.iter().for_each(|(_, value)| each(value, true));
            }
            match levels.next() {
                None => node.here.iter().for_each(|(_, value)| each(value, false)),
                Some(level) => {
                    if let Some(child) = &node.plus
                        && wild
                    {
                        descend(child, levels.clone(), true, each);
                    }
                    if let Some(child) = node.children.get(level) {
                        descend(child, levels, true, each);
                    }
                }
            }
        }
        descend(&self.root, topic.split('/'), !topic.starts_with('$'), each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::topic;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just(String::new()), Just("$x".to_owned())]
    }
    fn name() -> impl Strategy<Value = String> {
        proptest::collection::vec(level(), 1..5).prop_map(|l| l.join("/")).prop_filter("a name", |t| topic::is_name(t))
    }
    fn filter() -> impl Strategy<Value = String> {
        let one = prop_oneof![3 => level(), 2 => Just("+".to_owned()), 1 => Just("#".to_owned())];
        proptest::collection::vec(one, 1..5).prop_map(|l| l.join("/")).prop_filter("a filter", |f| topic::is_filter(f))
    }

    proptest! {
        /// The tree against the definition, through insertions and removals.
        #[test]
        fn matches_what_the_definition_matches(
            edits in proptest::collection::vec((filter(), 0u64..4, any::<bool>()), 0..40),
            topics in proptest::collection::vec(name(), 1..10),
        ) {
            let mut trie = Trie::default();
            let mut model = BTreeMap::new();
            for (n, (filter, key, add)) in edits.into_iter().enumerate() {
                if add {
                    trie.insert(&filter, key, (filter.clone(), key, n));
                    model.insert((filter, key), n);
                } else {
                    prop_assert_eq!(trie.remove(&filter, &key), model.remove(&(filter, key)).is_some());
                }
                prop_assert_eq!(trie.len, model.len());
            }
            for topic in topics {
                let mut found = BTreeSet::new();
                trie.matches(&topic, &mut |value: &(String, u64, usize), _| assert!(found.insert(value.clone()), "twice"));
                let expected = model
                    .iter()
                    .filter(|((filter, _), _)| topic::matches(filter, &topic))
                    .map(|((filter, key), n)| (filter.clone(), *key, *n))
                    .collect::<BTreeSet<_>>();
                prop_assert_eq!(found, expected, "{}", topic);
                let mut exact = BTreeSet::new();
                trie.exact(&topic, &mut |value: &(String, u64, usize)| assert!(exact.insert(value.clone()), "twice"));
                let expected: BTreeSet<_> =
                    model.iter().filter(|((filter, _), _)| *filter == topic).map(|((f, k), n)| (f.clone(), *k, *n)).collect();
                prop_assert_eq!(exact, expected, "{}", topic);
            }
            for (filter, key) in model.into_keys() {
                prop_assert!(trie.remove(&filter, &key));
            }
            prop_assert!(trie.root.is_empty());
        }

        #[test]
        fn any_text_is_judged_without_panic(text in ".{0,80}", other in ".{0,80}") {
            let _ = (topic::is_name(&text), topic::is_filter(&text), topic::shared(&text), topic::Address::of(&text));
            let _ = topic::matches(&text, &other);
        }
    }

    #[test]
    fn the_examples_of_the_standard() {
        let check = |filter, topic, expect| {
            assert!(topic::is_filter(filter), "{filter}");
            assert_eq!(topic::matches(filter, topic), expect, "{filter} {topic}");
        };
        check("sport/tennis/player1/#", "sport/tennis/player1", true);
        check("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true);
        check("sport/tennis/+", "sport/tennis/player1", true);
        check("sport/tennis/+", "sport/tennis/player1/ranking", false);
        check("sport/+", "sport", false);
        check("sport/+", "sport/", true);
        check("+/+", "/finance", true);
        check("/+", "/finance", true);
        check("+", "/finance", false);
        check("#", "$SYS/monitor", false);
        check("$SYS/#", "$SYS/monitor", true);
        for bad in ["", "sport/tennis#", "sport/tennis/#/ranking", "sport+", "a\0b"] {
            assert!(!topic::is_filter(bad), "{bad}");
        }
    }
}
