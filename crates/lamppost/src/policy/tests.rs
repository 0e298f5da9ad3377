use super::*;
use std::sync::Arc;

const SCHEMA: &str = include_str!("../../../../packs/hong-kong/policies/schema.cedarschema");
const CITY: &str = include_str!("../../../../packs/hong-kong/policies/city.cedar");

fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).unwrap()
}

fn policy() -> CedarPolicy {
    CedarPolicy::new(("schema", SCHEMA), &[("city.cedar", CITY)], BTreeSet::from([tenant("prison")])).unwrap()
}

fn caller(kind: &str, of: &str, roles: &[&str]) -> Caller {
    let id: Arc<str> = "x".into();
    let principal = match kind {
        "person" => Principal::Person { id: id.clone(), name: id },
        "key" => Principal::ApiKey { id },
        "device" => Principal::Device { id },
        _ => return Caller::anonymous(),
    };
    Caller { principal, tenant: Some(tenant(of)), roles: roles.iter().map(|r| Role::Owned((*r).to_owned())).collect() }
}

/// One line per expectation: kind, tenant, role, action, owner, public, answer.
#[test]
fn the_citys_policies_say_what_they_mean() {
    let policy = policy();
    for (who, action, owner, public, allowed) in [
        (caller("", "", &[]), "sensing:read", "dsd", true, true),
        (caller("", "", &[]), "sensing:read", "dsd", false, false),
        (caller("", "", &[]), "sensing:observe", "dsd", true, false),
        (caller("", "", &[]), "alarm:read", "dsd", true, false),
        (caller("person", "dsd", &["viewer"]), "sensing:read", "dsd", false, true),
        (caller("person", "dsd", &["viewer"]), "sensing:read", "epd", false, false),
        (caller("person", "dsd", &["viewer"]), "sensing:observe", "dsd", false, false),
        (caller("person", "dsd", &[]), "sensing:read", "dsd", false, false),
        (caller("person", "dsd", &["operator"]), "alarm:acknowledge", "dsd", false, true),
        (caller("person", "dsd", &["operator"]), "alarm:acknowledge", "epd", false, false),
        (caller("person", "dsd", &["operator"]), "device:manage", "dsd", false, false),
        (caller("person", "dsd", &["device-manager"]), "device:manage", "dsd", false, true),
        (caller("person", "dsd", &["admin"]), "operator:manage", "dsd", false, true),
        (caller("person", "dsd", &["admin"]), "operator:manage", "epd", false, false),
        (caller("person", "dsd", &["admin"]), "ops:manage", "city", false, false),
        (caller("person", "city", &["admin"]), "ops:manage", "city", false, true),
        (caller("person", "city", &["admin"]), "operator:manage", "epd", false, true),
        (caller("person", "city", &["viewer"]), "sensing:read", "epd", false, true),
        (caller("person", "city", &["viewer"]), "sensing:read", "prison", false, false),
        (caller("person", "city", &["viewer"]), "sensing:write", "epd", false, false),
        (caller("person", "prison", &["viewer"]), "sensing:read", "prison", false, true),
        (caller("", "", &[]), "sensing:read", "prison", true, false),
        (caller("person", "dsd", &["viewer"]), "sensing:read", "prison", true, false),
        (caller("person", "city", &["admin"]), "operator:manage", "prison", false, false),
        (caller("person", "city", &["admin"]), "operator:read", "prison", false, false),
        (caller("person", "city", &["admin"]), "audit:read", "prison", false, false),
        (caller("person", "prison", &["auditor"]), "audit:read", "prison", false, true),
        (caller("person", "prison", &["auditor"]), "sensing:read", "prison", false, false),
        (caller("person", "prison", &["operator"]), "audit:read", "prison", false, false),
        (caller("person", "dsd", &["auditor"]), "audit:read", "dsd", false, false),
        (caller("key", "dsd", &["operator"]), "sensing:observe", "dsd", false, true),
        (caller("key", "dsd", &["admin"]), "operator:manage", "dsd", false, false),
        (caller("key", "city", &["admin"]), "sensing:read", "epd", false, false),
        (caller("device", "dsd", &[]), "sensing:observe", "dsd", false, true),
        (caller("device", "dsd", &[]), "sensing:observe", "epd", false, false),
        (caller("device", "dsd", &["admin"]), "sensing:delete", "dsd", false, false),
        (caller("person", "dsd", &["admin"]), "no:such", "dsd", true, false),
    ] {
        let owner = tenant(owner);
        let resource = Resource { kind: "Thing", id: "7", tenant: Some(&owner), public };
        // The test's actions are few and live as long as the test.
        let action = Action(Box::leak(action.to_owned().into_boxed_str()));
        for _ in 0..2 {
            assert_eq!(policy.allows(&who, action, &resource), allowed, "{who:?} {action:?} {resource:?}");
        }
    }
    assert!(policy.allows(
        &Caller::system("rules"),
        Action("sensing:delete"),
        &Resource { kind: "Thing", id: "", tenant: None, public: false }
    ));
}

#[test]
fn every_action_of_sensing_is_in_the_schema() {
    use sensing::route::action;
    let policy = policy();
    for known in [
        action::READ,
        action::WRITE,
        action::OBSERVE,
        action::DELETE,
        action::ALARM_READ,
        action::ALARM_ACKNOWLEDGE,
        action::ALARM_CLOSE,
        action::RULE_READ,
        action::RULE_MANAGE,
        action::DEVICE_READ,
        action::DEVICE_MANAGE,
        action::CONNECTOR_READ,
        action::CONNECTOR_MANAGE,
        action::OPS_READ,
    ] {
        assert!(policy.actions().contains(known.0), "{known:?}");
    }
}

#[test]
fn mistakes_name_their_file() {
    let bad = |text: &str| CedarPolicy::new(("schema", SCHEMA), &[("a.cedar", text)], BTreeSet::new()).unwrap_err();
    for text in [
        "permit (principal, action, resource",
        "permit (principal, action == Lamppost::Action::\"sensing:raed\", resource);",
        "permit (principal, action, resource) when { resource.colour == \"red\" };",
        "permit (principal == ?principal, action, resource);",
    ] {
        let errors = bad(text);
        assert!(errors.iter().any(|e| e.file == "a.cedar" && !e.message.is_empty()), "{text}: {errors:?}");
    }
}

#[test]
fn who_can_lists_callers() {
    let policy = policy();
    let dsd = tenant("dsd");
    let resource = Resource { kind: "Thing", id: "", tenant: Some(&dsd), public: false };
    let roles = ["viewer", "operator", "device-manager", "admin"].map(str::to_owned);
    let who = policy.who_can(Action("sensing:write"), &resource, &[dsd.clone(), tenant("city")], &roles);
    assert_eq!(who, ["person dsd device-manager", "person dsd admin", "key dsd device-manager", "key dsd admin"]);
}

proptest::proptest! {
    /// The cache never changes an answer: asked in any order, any number of times, it is what Cedar says.
    #[test]
    fn cached_answers_are_the_policys(questions in proptest::collection::vec((0usize..4, 0usize..3, 0usize..5, 0usize..4, 0usize..3, proptest::bool::ANY), 1..40)) {
        static POLICY: std::sync::LazyLock<CedarPolicy> = std::sync::LazyLock::new(policy);
        let policy = &*POLICY;
        for (kind, of, role, action, owner, public) in questions {
            let who = caller(["", "person", "key", "device"][kind], ["dsd", "city", "prison"][of], &[["viewer", "operator", "device-manager", "admin", "other"][role]]);
            let owner = tenant(["dsd", "epd", "prison"][owner]);
            let resource = Resource { kind: "Thing", id: "", tenant: Some(&owner), public };
            let action = Action(["sensing:read", "sensing:write", "alarm:read", "ops:read"][action]);
            proptest::prop_assert_eq!(policy.decide(&who, action, &resource), policy.ask(&who, action, &resource));
        }
    }
}
