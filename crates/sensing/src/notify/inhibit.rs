//! Alarms that keep letters about others back: while a station has no power, nobody needs a letter that it says nothing. Pure.
//!
//! ```toml
//! [[inhibit]]
//! tenant = "dsd"
//! while = ["flood-power"]        # an alarm of one of these rules stands …
//! withhold = ["flood-silent"]    # … so letters about alarms of these are kept back
//! same = "thing"                 # at the same Thing, or in the same "district"
//! ```

use std::collections::{BTreeMap, BTreeSet};

use kernel::{FieldError, Tenant};
use serde::{Deserialize, Serialize};

use crate::rules::model::is_key;

/// Where both must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Same {
    Thing,
    District,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inhibition {
    pub tenant: Tenant,
    /// Keys of the rules whose alarms speak for others.
    #[serde(rename = "while")]
    pub standing: BTreeSet<String>,
    /// Keys of the rules about whose alarms letters are kept back meanwhile.
    pub withhold: BTreeSet<String>,
    pub same: Same,
}

const MAX_INHIBITIONS: usize = 200;
const MAX_RULES: usize = 50;

/// Checks what a pack declares, against its rules by key: each entry by itself, and that no two rules keep each other quiet.
pub fn check(declared: &[Inhibition], rules: &BTreeMap<&str, &Tenant>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut wrong = |field: String, detail: String| errors.push(FieldError { field, detail });
    if declared.len() > MAX_INHIBITIONS {
        wrong(String::new(), format!("at most {MAX_INHIBITIONS} [[inhibit]] are possible"));
        return errors;
    }
    for (at, inhibition) in declared.iter().enumerate() {
        for (field, keys) in [("while", &inhibition.standing), ("withhold", &inhibition.withhold)] {
            let place = format!("/{at}/{field}");
            if keys.is_empty() || keys.len() > MAX_RULES {
                wrong(place.clone(), format!("the keys of 1 to {MAX_RULES} rules are expected"));
            }
            for key in keys {
                match rules.get(key.as_str()) {
                    Some(tenant) if **tenant == inhibition.tenant => {}
                    Some(_) => wrong(place.clone(), format!("the rule '{key}' belongs to another tenant")),
                    None if is_key(key) => wrong(place.clone(), format!("no rule has the key '{key}'")),
                    None => wrong(place.clone(), "the key of a rule is expected".to_owned()),
                }
            }
        }
        if let Some(both) = inhibition.standing.intersection(&inhibition.withhold).next() {
            wrong(
                format!("/{at}/withhold"),
                format!("'{both}' would keep itself quiet; take it out of one of the two"),
            );
        }
    }
    if let Some((at, key)) = circle(declared) {
        let detail = format!("'{key}' would in the end keep itself quiet through others; take one of the links out");
        wrong(format!("/{at}/withhold"), detail);
    }
    errors
}

/// A rule from which one comes back to itself, and the entry that closes the circle.
fn circle(declared: &[Inhibition]) -> Option<(usize, &str)> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for inhibition in declared {
        for from in &inhibition.standing {
            let to = inhibition.withhold.iter().map(String::as_str).filter(|to| to != from);
            next.entry(from).or_default().extend(to);
        }
    }
    let mut ends =
        declared.iter().enumerate().flat_map(|(at, i)| i.withhold.iter().map(move |key| (at, key.as_str(), i)));
    ends.find(|(_, key, inhibition)| {
        // From what is kept quiet, back to what keeps it quiet.
        let (mut seen, mut open) = (BTreeSet::new(), vec![*key]);
        while let Some(rule) = open.pop() {
            if rule != *key && inhibition.standing.contains(rule) {
                return true;
            }
            if seen.insert(rule) {
                open.extend(next.get(rule).into_iter().flatten());
            }
        }
        false
    })
    .map(|(at, key, _)| (at, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let (dsd, epd) = (Tenant::parse("dsd").expect("slug"), Tenant::parse("epd").expect("slug"));
        let rules = BTreeMap::from([("a", &dsd), ("b", &dsd), ("c", &dsd), ("other", &epd)]);
        let check = |links: &[(&str, &str)], fields: &[&str]| {
            let entry = |(from, to): &(&str, &str)| Inhibition {
                tenant: dsd.clone(),
                standing: [(*from).to_owned()].into(),
                withhold: [(*to).to_owned()].into(),
                same: Same::Thing,
            };
            let declared: Vec<_> = links.iter().map(entry).collect();
            let found: Vec<String> = super::check(&declared, &rules).into_iter().map(|e| e.field).collect();
            assert_eq!(found, fields, "{links:?}");
        };
        check(&[("a", "b"), ("b", "c"), ("a", "c")], &[]);
        check(&[("a", "nobody")], &["/0/withhold"]);
        check(&[("a", "other")], &["/0/withhold"]);
        check(&[("A B", "b")], &["/0/while"]);
        check(&[("a", "a")], &["/0/withhold"]);
        check(&[("a", "b"), ("b", "a")], &["/0/withhold"]);
        check(&[("a", "b"), ("b", "c"), ("c", "a")], &["/0/withhold"]);
        assert!(
            toml::from_str::<Inhibition>("tenant = \"dsd\"\nwhile = [\"a\"]\nwithold = [\"b\"]\nsame = \"thing\"")
                .is_err()
        );
    }
}
