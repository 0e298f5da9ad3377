use kernel::{Caller, Principal, Tenant};
use records::{AuditQuery, Error};
use serde_json::json;

use crate::support::{BOTH, Place, counter, demo, fixed_clock};

#[tokio::test(flavor = "multi_thread")]
async fn audit_rows_live_and_die_with_their_transaction() {
    for engine in BOTH {
        let place = Place::new(engine);
        let records = demo(&place);
        drop(records);
        let clock = fixed_clock();
        let records = place.open_at(clock.clone());
        let (dsd, epd) = (Tenant::parse("dsd").unwrap(), Tenant::parse("epd").unwrap());
        let officer = Caller {
            principal: Principal::Person { id: "p7".into(), name: "Chan Tai Man".into() },
            ..Caller::anonymous()
        };
        for n in 0..30_i64 {
            clock.advance_micros(1);
            let (officer, tenant) = (officer.clone(), if n % 2 == 0 { dsd.clone() } else { epd.clone() });
            let result = records.write(move |tx| {
                tx.execute("UPDATE demo_counter SET n = n + 1 WHERE id = 'a'", &[])?;
                let kind = if n % 3 == 0 { "Alarm" } else { "Thing" };
                tx.audit(&officer, "demo:change", kind, &format!("id{}", n % 5), Some(&tenant), json!({ "n": n }))?;
                if n % 10 == 9 { Err(Error::NoRow) } else { Ok(()) }
            });
            assert_eq!(result.await.is_ok(), n % 10 != 9);
        }
        assert_eq!(counter(&records, "a").await, Some(27), "{engine:?}");

        // Page by page, newest first, nothing twice.
        let mut seen = Vec::new();
        let mut query = AuditQuery { limit: 10, ..AuditQuery::default() };
        loop {
            let page = records.audit(query.clone()).await.unwrap();
            seen.extend(page.rows.iter().map(|row| row.detail["n"].as_i64().unwrap()));
            assert!(page.rows.iter().all(|row| row.caller == "person:p7" && row.action == "demo:change"));
            query.before = page.next;
            if page.next.is_none() {
                break;
            }
        }
        let expected: Vec<i64> = (0..30).rev().filter(|n| n % 10 != 9).collect();
        assert_eq!(seen, expected, "{engine:?}");

        let find = |tenant: Option<&Tenant>, kind: Option<&str>, entity: Option<&str>| {
            let query = AuditQuery {
                tenant: tenant.cloned(),
                kind: kind.map(str::to_owned),
                entity: entity.map(str::to_owned),
                before: None,
                limit: 100,
            };
            let records = records.clone();
            async move { records.audit(query).await.map(|page| page.rows) }
        };
        let of =
            |rows: &[records::AuditRow]| rows.iter().map(|row| row.detail["n"].as_i64().unwrap()).collect::<Vec<_>>();
        let rows = find(Some(&dsd), Some("Alarm"), Some("id2")).await.unwrap();
        assert_eq!(of(&rows), [12], "{engine:?}");
        assert_eq!(
            (rows[0].tenant.as_ref(), rows[0].kind.as_str(), rows[0].entity.as_str()),
            (Some(&dsd), "Alarm", "id2")
        );
        assert_eq!(rows[0].at.micros_since(fixed_clock_start()), 13);
        assert_eq!(of(&find(None, Some("Alarm"), None).await.unwrap()), [27, 24, 21, 18, 15, 12, 6, 3, 0]);
        assert_eq!(find(Some(&epd), None, None).await.unwrap().len(), 12);
        assert!(matches!(find(None, None, Some("id2")).await, Err(Error::Invalid(_))));
        let large = records.audit(AuditQuery { limit: 1_001, ..AuditQuery::default() }).await;
        assert!(matches!(large, Err(Error::Invalid(_))));
    }
}

fn fixed_clock_start() -> kernel::Timestamp {
    kernel::Clock::now(&*fixed_clock())
}
