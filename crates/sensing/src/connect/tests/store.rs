//! What connectors remember, on both engines.

use std::sync::Arc;

use kernel::{FixedClock, Timestamp};
use records::{Options, Records};
use testkit::postgres;

use super::of_pack;
use crate::connect::{
    fetch::Tags,
    report::Report,
    store::{self, Success},
};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn remembers(records: &Records, clock: &FixedClock) {
    records.migrate("sensing_connect", store::MIGRATIONS).expect("migrated");
    let (rain, air) = (of_pack("hko-daily-rainfall"), of_pack("epd-daily-air"));
    let key = "hko-daily-rainfall";
    let put = |c: &super::Connector| {
        let c = c.clone();
        records.write_blocking(move |tx| store::put(tx, &c)).expect("put")
    };
    assert!(put(&rain) && put(&air));
    clock.set(at(200));
    assert!(!put(&rain), "the same again writes nothing");
    let one = || records.read_blocking(|read| store::one(read, key)).expect("read").expect("there");
    assert_eq!((one().next_run, one().forced, one().report), (at(100), false, None));
    assert_eq!(one().declaration, *rain.declaration());

    // Of two that have seen the same, one gets it.
    let claim = |seen, next| records.write_blocking(move |tx| store::claim(tx, key, seen, next)).expect("claim");
    assert!(claim(at(100), at(800)) && !claim(at(100), at(800)));
    assert_eq!((one().next_run, one().started_at), (at(800), Some(at(200))));
    let due = |now| records.read_blocking(move |read| store::due(read, now, 10)).expect("due").len();
    assert_eq!((due(at(99)), due(at(799)), due(at(800))), (0, 1, 2));
    assert_eq!(records.read_blocking(store::next_due).expect("next"), Some(at(100)));

    let fail = |next| records.write_blocking(move |tx| store::fail(tx, key, "gone", 3, next)).expect("fail");
    fail(at(900));
    assert_eq!(
        (one().next_run, one().failures, one().error.as_deref(), one().failed_at),
        (at(900), 3, Some("gone"), Some(at(200)))
    );
    assert!(records.write_blocking(|tx| store::force(tx, key)).expect("force"));
    fail(at(900));
    assert_eq!((one().next_run, one().forced), (at(200), true), "a wish is not put off");

    clock.set(at(300));
    let report = Report { rows: 3, values: 3, written: 3, ..Report::default() };
    let tags = Tags { etag: Some("\"1\"".to_owned()), modified: None };
    let success =
        Success { tags, content: Some("c".to_owned()), read_as: Some(rain.hash.clone()), report: Some(report.clone()) };
    let succeed =
        |success: Success| records.write_blocking(move |tx| store::succeed(tx, key, &success)).expect("succeed");
    succeed(success.clone());
    clock.set(at(400));
    succeed(Success { report: None, ..success });
    let now = one();
    assert_eq!((now.failures, now.error, now.changed_at, now.succeeded_at), (0, None, Some(at(300)), Some(at(400))));
    assert_eq!(
        (now.report, now.tags.etag.as_deref(), now.content.as_deref()),
        (Some(report), Some("\"1\""), Some("c"))
    );

    let write = |name: &'static str, content: &'static str| {
        records.write_blocking(move |tx| store::put_file(tx, key, name, content)).expect("file");
    };
    write("a", "1");
    write("a", "2");
    write("b", "3");
    records.write_blocking(|tx| store::forget_file(tx, key, "b")).expect("forgotten");
    let files = || records.read_blocking(|read| store::files(read, key)).expect("files");
    assert_eq!(files(), [("a".to_owned(), "2".to_owned())].into());
    records.write_blocking(|tx| store::delete(tx, key)).expect("deleted");
    assert!(files().is_empty());
    assert_eq!(records.read_blocking(store::all).expect("all").len(), 1);
}

#[test]
fn sqlite_remembers() {
    let folder = tempfile::tempdir().expect("folder");
    let clock = Arc::new(FixedClock::at(at(100)));
    let records = Records::open(&Options::sqlite(folder.path().join("city.db")), clock.clone()).expect("records");
    remembers(&records, &clock);
}

#[test]
fn postgres_remembers() {
    let database = postgres::database();
    let clock = Arc::new(FixedClock::at(at(100)));
    let records = Records::open(&Options::postgres(database.url()), clock.clone()).expect("records");
    remembers(&records, &clock);
}
