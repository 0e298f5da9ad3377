//! What SQL finds for a rule is what the rule selects, on both engines.

use std::collections::BTreeSet;

use kernel::{Action, Caller, Decision, FixedClock, Policy, Resource, Timestamp};
use rand::{Rng, SeedableRng, rngs::StdRng};
use records::Records;
use serde_json::json;

use super::*;
use crate::{
    Catalog,
    catalog::Declared,
    model::EntityType,
    rules::model::{Condition, RuleDeclaration, Severity, Trust},
};

struct Nobody;
impl Policy for Nobody {
    fn decide(&self, _: &Caller, _: Action, _: &Resource<'_>) -> Decision {
        Decision::Deny
    }
}

fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

async fn city(options: records::Options) -> Records {
    let clock = Arc::new(FixedClock::at(Timestamp::from_secs(1_000_000)));
    let open = tokio::task::spawn_blocking(move || {
        let records = Records::open(&options, clock.clone()).expect("records");
        (Catalog::open(records.clone(), Arc::new(Nobody), clock).expect("catalogue"), records)
    });
    let (catalog, records) = open.await.expect("opens");
    let system = Caller::system("test");
    let declared = |entity, key: &str, body: Value| Declared { entity, key: key.to_owned(), body };
    let mut shared = vec![declared(
        EntityType::Sensor,
        "sensor",
        json!({"name": "s", "description": "d", "encodingType": "text/html", "metadata": "m"}),
    )];
    for key in ["level", "battery"] {
        let body = json!({"name": key, "definition": "https://example.org", "description": "d"});
        shared.push(declared(EntityType::ObservedProperty, key, body));
    }
    let ids = catalog.upsert_all(&system, &tenant("city"), shared).await.expect("shared");
    let mut random = StdRng::seed_from_u64(3);
    for n in 0..40 {
        let of = ["flood", "air", "x"][random.random_range(0..3)];
        let mut properties = json!({"system": of});
        if random.random_bool(0.7) {
            properties["district"] = ["Yuen Long", "Sha Tin"][random.random_range(0..2)].into();
        }
        let key = format!("thing-{n}");
        let thing = json!({"name": "n", "description": "d", "properties": properties, "@lamppost.public": n % 3 == 0});
        let mut all = vec![declared(EntityType::Thing, &key, thing)];
        for shape in ["a", "b"] {
            let property = ids[random.random_range(1..3)];
            let body = json!({
                "name": shape, "description": "d", "unitOfMeasurement": {"name": "m", "symbol": "m", "definition": "m"},
                "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
                "Thing": {"@iot.key": key}, "Sensor": {"@iot.id": ids[0]},
                "ObservedProperty": {"@iot.id": property},
            });
            all.push(declared(EntityType::Datastream, &format!("{key}.{shape}"), body));
        }
        catalog.upsert_all(&system, &tenant(["dsd", "epd"][n % 2]), all).await.expect("things");
    }
    records
}

fn rule(key: usize, owner: &str, select: Selection) -> Arc<Rule> {
    let declaration = RuleDeclaration {
        key: format!("rule-{key}"),
        name: Text::new("n", "n", "n"),
        instruction: None,
        tenant: tenant(owner),
        severity: Severity::Minor,
        select,
        when: Condition::Absence { after: 60 },
        quality: Trust::Good,
        max_age: 60,
        notify: Vec::new(),
        area: None,
        escalate: Vec::new(),
        public_alert: None,
        enabled: true,
    };
    Arc::new(Rule::new(declaration).expect("valid"))
}

async fn check(options: records::Options) {
    let records = city(options).await;
    let mut random = StdRng::seed_from_u64(5);
    let mut rules = Vec::new();
    for n in 0..60 {
        let mut maybe = |text: &str| random.random_bool(0.4).then(|| text.to_owned());
        let select = Selection {
            system: maybe("flood"),
            observed_property: maybe("level"),
            thing: maybe(["thing-1", "thing-2"][n % 2]),
            datastream: maybe("thing-2.a"),
            district: maybe("Sha Tin"),
            within: None,
        };
        if select != Selection::default() {
            rules.push(rule(n, ["dsd", "epd"][n % 2], select));
        }
    }
    let seen = records.read(move |read| {
        let mut found = BTreeSet::new();
        for one in rules.iter().map(std::slice::from_ref).chain([&rules[..]]) {
            let (by_sql, newest) = load(read, one)?;
            // The other way looks at every row and lets the rule decide.
            let by_rule = between(read, one, 0, i64::MAX)?;
            assert_eq!(by_sql, by_rule, "{:?}", one[0].select);
            assert_eq!(newest, 80);
            found.extend(by_sql.iter().map(|f| f.datastream.0));
        }
        assert_eq!(between(read, &rules, 79, 80)?.len(), usize::from(found.contains(&80)));
        Ok::<_, records::Error>(found.len())
    });
    let seen = seen.await.expect("read");
    assert!((20..80).contains(&seen), "{seen}: some are selected and some are not");
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_finds_what_the_rule_selects() {
    let folder = tempfile::tempdir().expect("folder");
    check(records::Options::sqlite(folder.path().join("city.db"))).await;
    let database = testkit::postgres::database();
    check(records::Options::postgres(database.url())).await;
}
