use super::*;

use kernel::{Clock, Decision, FixedClock};
use records::Options;

/// Admins manage their own department, fitters its devices.
struct Own;
impl Policy for Own {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        let fits = action.0 == "device:manage" && caller.has_role("fitter");
        if own && (fits || caller.has_role("admin")) { Decision::Allow } else { Decision::Deny }
    }
}

struct Office {
    operators: Operators,
    clock: Arc<FixedClock>,
    _folder: tempfile::TempDir,
}

const PASSWORD: &str = "seven kind lamps at dusk";

fn office() -> Office {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_secs(1_000_000)));
    let options = if testkit::outside() {
        Options::postgres(testkit::postgres::database().url())
    } else {
        Options::sqlite(folder.path().join("r.sqlite"))
    };
    let records = Records::open(&options, clock.clone()).unwrap();
    let roles = ["viewer", "fitter", "admin"].into_iter().map(Role::Borrowed).collect();
    let options = crate::config::Config::defaults().operators;
    let operators = Operators::open(records, Arc::new(Own), roles, options).unwrap();
    Office { operators, clock, _folder: folder }
}

fn city() -> Tenant {
    Tenant::parse("city").unwrap()
}
fn here() -> IpAddr {
    IpAddr::from([127, 0, 0, 1])
}
fn viewer() -> BTreeSet<Role> {
    BTreeSet::from([Role::Borrowed("viewer")])
}

/// The first administrator, signed in: caller and session token.
async fn admin(office: &Office) -> (Caller, String) {
    let link = office.operators.first_link(&city()).await.unwrap().unwrap();
    office.operators.join(&link, "Chan.TM", "Chan Tai Man", PASSWORD.to_owned()).await.unwrap();
    let token = office.operators.sign_in("chan.tm", PASSWORD.to_owned(), here(), "browser").await.unwrap();
    let (caller, _) = office.operators.session(&token).await.unwrap().unwrap();
    (caller, token)
}

#[tokio::test]
async fn the_first_link_makes_one_admin_once() {
    let office = office();
    let old = office.operators.first_link(&city()).await.unwrap().unwrap();
    let link = office.operators.first_link(&city()).await.unwrap().unwrap();
    let replaced = office.operators.join(&old, "chan", "Chan", PASSWORD.to_owned()).await;
    assert!(matches!(replaced, Err(Refusal::Link)), "a later start replaces the link of an earlier one");
    office.operators.join(&link, "chan", "Chan", PASSWORD.to_owned()).await.unwrap();
    assert_eq!(office.operators.first_link(&city()).await.unwrap(), None);
}

#[tokio::test]
async fn a_link_is_good_once_and_for_a_day() {
    let office = office();
    let (caller, _) = admin(&office).await;
    assert_eq!(caller.roles, BTreeSet::from([Role::Borrowed("admin")]));
    assert_eq!(office.operators.first_link(&city()).await.unwrap(), None, "there is somebody");

    let link = office.operators.invite(&caller, &city(), viewer()).await.unwrap();
    let taken = office.operators.join(&link, "chan.tm", "Other", PASSWORD.to_owned()).await;
    assert!(matches!(taken, Err(Refusal::Form { field: "account", .. })), "{taken:?}");
    office
        .operators
        .join(&link, "lee", "Lee", PASSWORD.to_owned())
        .await
        .expect("the link was not used up by the mistake");
    let again = office.operators.join(&link, "wong", "Wong", PASSWORD.to_owned()).await;
    assert!(matches!(again, Err(Refusal::Link)));

    let late = office.operators.invite(&caller, &city(), viewer()).await.unwrap();
    office.clock.advance_micros(24 * 3_600 * 1_000_000);
    assert!(matches!(office.operators.join(&late, "wong", "Wong", PASSWORD.to_owned()).await, Err(Refusal::Link)));
    let people: Vec<String> =
        office.operators.people(&caller, &city()).await.unwrap().into_iter().map(|(p, _)| p.account).collect();
    assert_eq!(people, ["chan.tm", "lee"]);
}

#[tokio::test]
async fn a_link_used_twice_at_once_makes_one_account() {
    let office = office();
    let link = office.operators.first_link(&city()).await.unwrap().unwrap();
    let joins = ["a-person", "b-person", "c-person"]
        .map(|account| office.operators.join(&link, account, "Name", PASSWORD.to_owned()));
    let made = futures::future::join_all(joins).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(made, 1);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_account_look_alike() {
    let office = office();
    admin(&office).await;
    for (account, password) in [("chan.tm", "seven kind lamps at dawn"), ("nobody", PASSWORD), ("", "")] {
        let answer = office.operators.sign_in(account, password.to_owned(), here(), "").await;
        assert!(matches!(answer, Err(Refusal::Wrong)), "{account}");
    }
    // Three were tried above for three accounts; this one has four left from here.
    for _ in 0..4 {
        assert!(matches!(
            office.operators.sign_in("chan.tm", "wrong".to_owned(), here(), "").await,
            Err(Refusal::Wrong)
        ));
    }
    let locked = office.operators.sign_in("chan.tm", PASSWORD.to_owned(), here(), "").await;
    assert!(
        matches!(locked, Err(Refusal::Slow(_))),
        "even the right one waits: else it could be told from the wrong ones"
    );
    let elsewhere = office.operators.sign_in("chan.tm", PASSWORD.to_owned(), IpAddr::from([10, 0, 0, 1]), "").await;
    assert!(elsewhere.is_ok(), "the owner, from another address");
}

#[tokio::test]
async fn a_session_ends_by_idleness_by_age_and_by_hand() {
    let office = office();
    let (caller, token) = admin(&office).await;
    let hours = |n: i64| office.clock.advance_micros(n * 3_600 * 1_000_000);
    hours(11);
    assert!(office.operators.session(&token).await.unwrap().is_some());
    hours(11);
    assert!(office.operators.session(&token).await.unwrap().is_some(), "use keeps it");
    hours(12);
    assert!(office.operators.session(&token).await.unwrap().is_none(), "idle");

    let token = office.operators.sign_in("chan.tm", PASSWORD.to_owned(), here(), "").await.unwrap();
    for _ in 0..16 {
        assert!(office.operators.session(&token).await.unwrap().is_some());
        hours(10);
    }
    hours(8);
    assert!(office.operators.session(&token).await.unwrap().is_none(), "a week");

    let token = office.operators.sign_in("chan.tm", PASSWORD.to_owned(), here(), "").await.unwrap();
    let generation = office.operators.generation();
    let (_, id) = office.operators.session(&token).await.unwrap().unwrap();
    office.operators.end_session(&caller, &id.to_string()).await.unwrap();
    assert!(office.operators.session(&token).await.unwrap().is_none());
    assert!(office.operators.generation() > generation, "who caches callers must ask again");
    assert!(office.operators.session("x").await.unwrap().is_none());
}

#[tokio::test]
async fn keys_carry_their_roles_until_revoked() {
    let office = office();
    let (caller, _) = admin(&office).await;
    let key = office.operators.make_key(&caller, &city(), "dashboard", viewer(), None).await.unwrap();
    let program = office.operators.authenticate(&key).await.unwrap().unwrap();
    assert_eq!((program.tenant.clone(), program.roles.clone()), (Some(city()), viewer()));
    assert!(
        office.operators.make_key(&program, &city(), "more", viewer(), None).await.is_err(),
        "a viewer makes no keys"
    );
    assert!(
        office.operators.make_key(&caller, &city(), "x", BTreeSet::from([Role::Borrowed("king")]), None).await.is_err()
    );
    let other = Tenant::parse("dsd").unwrap();
    assert!(office.operators.make_key(&caller, &other, "x", viewer(), None).await.is_err(), "another department's");
    let soon = office
        .operators
        .make_key(&caller, &city(), "soon over", viewer(), Some(office.clock.now().plus_secs(60)))
        .await
        .unwrap();
    assert!(office.operators.authenticate(&soon).await.unwrap().is_some());
    office.clock.advance_micros(60_000_000);
    assert!(office.operators.authenticate(&soon).await.unwrap().is_none());
    let prefix = office.operators.keys(&caller, &city()).await.unwrap()[0].prefix.clone();
    assert_eq!(office.operators.revoke_key(&program, &prefix).await.unwrap_err().status.as_u16(), 404);
    office.operators.revoke_key(&caller, &prefix).await.unwrap();
    assert!(office.operators.authenticate(&key).await.unwrap().is_none());
}

#[tokio::test]
async fn a_visit_ends_by_itself() {
    let office = office();
    let (caller, _) = admin(&office).await;
    let visit = async |roles: BTreeSet<Role>, name: &str, reason: &str, hours| {
        office.operators.visit(&caller, &city(), roles, (name, reason), hours).await
    };
    let refused = async |roles, name: &str, reason: &str, hours, field: &str| {
        let problem = visit(roles, name, reason, hours).await.unwrap_err();
        assert_eq!(problem.errors[0].field, field);
    };
    let reason = "The yearly inspection";
    refused(viewer(), "", reason, 2, "name").await;
    refused(viewer(), "Wong", "no", 2, "reason").await;
    refused(viewer(), "Wong", reason, 0, "hours").await;
    refused(viewer(), "Wong", reason, LONGEST_VISIT + 1, "hours").await;
    for role in ["admin", "fitter"] {
        refused(BTreeSet::from([Role::Borrowed(role)]), "Wong", reason, 2, "roles").await;
    }
    let nobody = Caller { roles: viewer(), ..caller.clone() };
    let denied = office.operators.visit(&nobody, &city(), viewer(), ("Wong", reason), 2).await.unwrap_err();
    assert_eq!(denied.status, 404);

    let link = visit(viewer(), "Justice Wong", reason, 2).await.unwrap();
    let waiting = office.operators.visits(&city()).await.unwrap();
    assert_eq!((waiting.len(), &waiting[0].caller, waiting[0].visit.reason.as_str()), (1, &None, reason));
    let person = office.operators.join(&link, "wong", "Another Name", PASSWORD.to_owned()).await.unwrap();
    assert_eq!(person.name, "Justice Wong", "a visitor is called what they were let in as");
    let admin = BTreeSet::from([Role::Borrowed("admin")]);
    let more = office.operators.set_roles(&caller, &person.id.to_string(), admin).await.unwrap_err();
    assert_eq!(more.errors[0].field, "roles", "nor are they given more later");
    let token = office.operators.sign_in("wong", PASSWORD.to_owned(), here(), "").await.unwrap();
    let (_, _, ends_at) = office.operators.session_until(&token).await.unwrap().unwrap();
    assert_eq!(ends_at, person.ends_at);
    let inside = office.operators.visits(&city()).await.unwrap();
    assert_eq!((inside.len(), inside[0].caller.clone()), (1, Some(format!("person:{}", person.id))));
    assert_eq!(inside[0].by, caller.label());

    office.clock.advance_micros(2 * 3_600_000_000 - 1);
    assert!(office.operators.session(&token).await.unwrap().is_some());
    office.clock.advance_micros(1);
    assert!(office.operators.session(&token).await.unwrap().is_none());
    let again = office.operators.sign_in("wong", PASSWORD.to_owned(), here(), "").await;
    assert!(matches!(again, Err(Refusal::Wrong)));

    // A link that nobody used is over with the visit.
    let link = visit(viewer(), "Wong", reason, 1).await.unwrap();
    office.clock.advance_micros(3_600_000_000);
    assert!(office.operators.invitation(&link).await.unwrap().is_none());
    let audit =
        office.operators.inner.records.audit(records::AuditQuery { limit: 10, ..Default::default() }).await.unwrap();
    let row = audit.rows.iter().find(|row| row.action == "operator:visit").unwrap();
    assert_eq!((&row.detail["visitor"], &row.detail["reason"]), (&"Wong".into(), &reason.into()));
}

/// Colleagues read each other's names, and nobody else does who may not list them; also after a restart.
#[tokio::test]
async fn a_name_is_for_colleagues() {
    let office = office();
    let (chief, _) = admin(&office).await;
    let label = chief.label();
    let of = |tenant: &str, roles: &[&'static str]| Caller {
        principal: Principal::Person { id: "p9".into(), name: "P".into() },
        tenant: Some(Tenant::parse(tenant).unwrap()),
        roles: roles.iter().map(|role| Role::Borrowed(role)).collect(),
    };
    let name = |caller: &Caller| office.operators.name(caller, &label);
    assert_eq!(name(&of("city", &["viewer"])).as_deref(), Some("Chan Tai Man"));
    assert_eq!(name(&of("dsd", &["viewer"])), None);
    assert_eq!(name(&Caller::anonymous()), None);
    let device = Caller { principal: Principal::Device { id: "d1".into() }, ..of("city", &[]) };
    assert_eq!(name(&device), None);
    let key = office.operators.make_key(&chief, &city(), "counter", viewer(), None).await.unwrap();
    let program = office.operators.authenticate(&key).await.unwrap().unwrap();
    assert_eq!(office.operators.name(&chief, &program.label()).as_deref(), Some("counter"));
    let records = office.operators.inner.records.clone();
    let options = crate::config::Config::defaults().operators;
    let again = Operators::open(records, Arc::new(Own), viewer(), options).unwrap();
    assert_eq!(again.name(&chief, &label).as_deref(), Some("Chan Tai Man"));
    assert_eq!(again.name(&chief, &program.label()).as_deref(), Some("counter"));
}
