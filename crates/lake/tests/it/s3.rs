//! The same table on a store that speaks S3.

use std::time::Duration;

use lake::{Compaction, Error, Lake, Options, Root, S3};

use crate::{common::*, sql};

fn on(server: &testkit::s3::Server) -> Lake {
    Lake::open(Options::new(root(server))).expect("a lake")
}

fn root(server: &testkit::s3::Server) -> Root {
    Root::S3(S3 {
        bucket: "city".to_owned(),
        prefix: "lake/main".to_owned(),
        endpoint: Some(server.endpoint()),
        region: String::new(),
        access_key: "test".to_owned(),
        secret_key: "test".to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_lives_in_a_bucket() {
    let server = testkit::s3::Server::start("city");
    let lake = on(&server);
    let table = table(&lake).await;
    for n in 0..6u64 {
        let rows = (0..40i64).map(|i| row(i % 4, START + i * DAY + n as i64, n as f64)).collect();
        table.commit(puts(n, rows)).await.expect("commit");
    }
    assert_eq!(table.commit(puts(6, vec![row(0, START, 9.0)])).await.expect("correction").replaced(), 1);
    let all = everything(&table.view()).await;
    assert_eq!(all.len(), 240);
    assert_eq!(sql::all_rows(&lake).await, all);

    // Another process that also thinks it is the writer: one of the two is told, nothing is lost.
    let second = crate::common::table(&on(&server)).await;
    second.commit(puts(7, vec![row(7, START, 1.0)])).await.expect("the second writer came first");
    assert!(matches!(table.commit(puts(7, vec![row(8, START, 1.0)])).await, Err(Error::Conflict { .. })));
    assert_eq!(table.sealed_through(), Some(7), "and sees what the other did");
    assert!(table.commit(puts(7, vec![row(8, START, 1.0)])).await.expect("no-op").series.is_empty());

    table.compact(Compaction { min_files: 2, ..Compaction::default() }).await.expect("compact");
    assert!(table.vacuum(Duration::ZERO).await.expect("vacuum").files > 0);
    let again = crate::common::table(&on(&server)).await;
    assert_eq!((again.sealed_through(), again.stats().rows), (Some(7), 241));
    assert_eq!(everything(&again.view()).await.len(), 241);

    let copy = tempfile::tempdir().expect("copy");
    again.backup(copy.path()).await.expect("backup");
    assert_eq!(
        everything(&crate::common::table(&open(copy.path())).await.view()).await,
        everything(&again.view()).await
    );

    // Into another bucket, and into a folder; never over something.
    let other = testkit::s3::Server::start("city");
    lake::restore(copy.path(), &root(&other)).await.expect("restore into a bucket");
    let moved = crate::common::table(&on(&other)).await;
    assert_eq!((moved.sealed_through(), everything(&moved.view()).await), (Some(7), everything(&again.view()).await));
    moved.commit(puts(8, vec![row(8, START, 1.0)])).await.expect("it goes on");
    assert!(matches!(lake::restore(copy.path(), &root(&other)).await, Err(Error::Invalid(_))));
    let folder = tempfile::tempdir().expect("folder");
    lake::restore(copy.path(), &Root::Local(folder.path().to_owned())).await.expect("restore into a folder");
    let back = crate::common::table(&open(folder.path())).await;
    assert_eq!(everything(&back.view()).await, everything(&again.view()).await);
}
