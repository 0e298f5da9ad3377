//! The whole way on a real stream and a real lake in a temporary folder, against a map as the model.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use kernel::{Interval, SystemClock, Timestamp};
use lake::{Lake, Root};
use proptest::prelude::*;
use stream::{Stream, TopicOptions};

use super::{AggregateQuery, Batch, Fill, Frame, Observe, Options, SeriesQuery, Step, frame::tests::an_observation};
use crate::model::{EntityId, Observation, ObservationId, ResultValue};

struct City {
    stream: Stream,
    observe: Observe,
}

impl City {
    async fn open(folder: &Path) -> Self {
        Self::open_with(folder, |_| ()).await
    }

    async fn open_with(folder: &Path, tune: impl FnOnce(&mut Options)) -> Self {
        let topic = TopicOptions::new("observations").guarded().retain_bytes(1);
        let stream = Stream::open(stream::Options::local(folder.join("stream"), [topic]), Arc::new(SystemClock))
            .await
            .expect("stream");
        let lake = Lake::open(lake::Options::new(Root::Local(folder.join("lake")))).expect("lake");
        // So little that heads go to disk, and come back from there, every few seals.
        let mut options =
            Options { heads_log: 600, seal_every: Duration::from_secs(3_600), ..Options::new(folder.join("heads")) };
        tune(&mut options);
        let observe =
            Observe::open(options, stream.topic("observations").expect("topic"), &lake).await.expect("observe");
        Self { stream, observe }
    }

    /// Stops without sealing: what a crash leaves is on the stream.
    async fn crash(self) {
        self.observe.0.stopped.cancel();
        self.stream.close().await;
        // The tasks hold the topic; give them the moment they need to see that it is over.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Clone, Debug)]
enum Act {
    Record(Vec<Observation>),
    Remove(Observation),
    Drop(i64),
    Seal,
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => proptest::collection::vec(an_observation(), 1..12).prop_map(Act::Record),
        2 => an_observation().prop_map(Act::Remove),
        1 => (1i64..4).prop_map(Act::Drop),
        2 => Just(Act::Seal),
        1 => Just(Act::Restart),
    ];
    proptest::collection::vec(act, 1..14)
}

type Model = BTreeMap<ObservationId, Observation>;

fn of(model: &Model, ds: i64) -> Vec<Observation> {
    model.values().filter(|o| o.datastream.0 == ds).cloned().collect()
}

async fn agrees(observe: &Observe, model: &Model) -> Result<(), TestCaseError> {
    for ds in 1..4 {
        let id = EntityId(ds);
        let expected = of(model, ds);
        prop_assert_eq!(observe.count(id).await.expect("count"), expected.len() as u64, "count of {}", ds);
        let found = observe.read(SeriesQuery::all(id)).await.expect("read");
        prop_assert_eq!(&found, &expected);
        let mut newest = observe.read(SeriesQuery { limit: 3, ..SeriesQuery::latest(id, 3) }).await.expect("read");
        newest.reverse();
        prop_assert_eq!(&newest[..], &expected[expected.len().saturating_sub(3)..]);
        prop_assert_eq!(observe.head(id).map(|h| h.latest), expected.last().cloned());
        // The index counts what is there, or says that it cannot; and means by interval are the means of what is there.
        for (from, to) in [(None, None), (Some(20), None), (None, Some(70)), (Some(30), Some(60)), (Some(60), Some(30))]
        {
            let at = |n: Option<i64>| n.map(|n| Timestamp::from_secs(1_700_000_000 + n));
            let (from, to) = (at(from), at(to));
            let inside = |o: &&Observation| {
                from.is_none_or(|f| o.phenomenon.start >= f) && to.is_none_or(|t| o.phenomenon.start <= t)
            };
            if let Some(count) = observe.count_between(id, from, to).await.expect("count between") {
                prop_assert_eq!(count, expected.iter().filter(inside).count() as u64, "{:?} to {:?}", from, to);
            }
        }
        let query = AggregateQuery {
            datastream: id,
            from: Timestamp::from_secs(1_700_000_005),
            to: Timestamp::from_secs(1_700_000_095),
            step: Step::Minutes(1),
            zone: jiff::tz::TimeZone::UTC,
            fill: Fill::Skip,
        };
        let mut sums: BTreeMap<i64, (u64, f64)> = BTreeMap::new();
        for o in expected.iter().filter(|o| (query.from..query.to).contains(&o.phenomenon.start)) {
            if let Some(number) = o.result.number() {
                let sum = sums.entry(o.phenomenon.start.as_micros().div_euclid(60_000_000)).or_default();
                *sum = (sum.0 + 1, sum.1 + number);
            }
        }
        let found = observe.aggregate(query).await.expect("aggregate");
        let found: Vec<_> =
            found.iter().map(|b| (b.start.as_micros() / 60_000_000, b.count, b.sum.unwrap_or(0.0))).collect();
        prop_assert_eq!(found.len(), sums.len());
        for ((minute, count, sum), (expected, (n, total))) in found.into_iter().zip(sums) {
            prop_assert_eq!((minute, count), (expected, n));
            prop_assert!((sum - total).abs() < 1e-6);
        }
        if let Some(middle) = expected.get(expected.len() / 2) {
            let after = SeriesQuery { after: Some(middle.id()), limit: 2, ..SeriesQuery::all(id) };
            let page = observe.read(after).await.expect("read");
            prop_assert_eq!(&page[..], &expected[expected.len() / 2 + 1..(expected.len() / 2 + 3).min(expected.len())]);
            prop_assert_eq!(observe.get(&middle.id()).await.expect("get"), Some(middle.clone()));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// Late, repeated, out of order, removed, sealed at any moment, restarted at any moment: what is read is what was said.
    #[test]
    fn what_is_read_is_what_was_said(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("folder");
            let mut city = City::open(folder.path()).await;
            let mut model = Model::new();
            for act in acts {
                match act {
                    Act::Record(observations) => {
                        let mut batch = Batch::new();
                        for o in observations {
                            model.insert(o.id(), o.clone());
                            batch.push(o);
                        }
                        city.observe.record(batch).await.expect("record");
                    }
                    Act::Remove(o) => {
                        model.remove(&o.id());
                        city.observe.remove(vec![o.id()]).await.expect("remove");
                    }
                    Act::Drop(ds) => {
                        model.retain(|id, _| id.datastream.0 != ds);
                        city.observe.drop_datastream(EntityId(ds)).await.expect("drop");
                    }
                    Act::Seal => city.observe.seal().await.expect("seal"),
                    Act::Restart => {
                        city.crash().await;
                        city = City::open(folder.path()).await;
                    }
                }
                agrees(&city.observe, &model).await?;
            }
            city.observe.seal().await.expect("seal");
            agrees(&city.observe, &model).await?;
            Ok::<(), TestCaseError>(())
        })?;
    }
}

/// Rows marked bad are left out of means wherever they lie, and out of them alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_marked_bad_is_in_no_mean() {
    let folder = tempfile::tempdir().expect("folder");
    let city = City::open(folder.path()).await;
    let bad = |at| Observation {
        quality: Some(serde_json::value::RawValue::from_string(r#"{"code":"bad"}"#.to_owned()).expect("json").into()),
        ..number(1, at, 1_000.0)
    };
    let suspect = |at| Observation {
        quality: Some(serde_json::value::RawValue::from_string(r#"{"code":"late"}"#.to_owned()).expect("json").into()),
        ..number(1, at, 2.0)
    };
    let query = AggregateQuery {
        datastream: EntityId(1),
        from: Timestamp::from_secs(0),
        to: Timestamp::from_secs(7_200),
        step: Step::Hours(1),
        zone: jiff::tz::TimeZone::UTC,
        fill: Fill::Skip,
    };
    let mut batch = Batch::new();
    [number(1, 0, 1.0), bad(10), suspect(20), bad(3_600), number(1, 3_700, 4.0)]
        .into_iter()
        .for_each(|o| batch.push(o));
    city.observe.record(batch).await.expect("record");
    let sums = async || {
        let buckets = city.observe.aggregate(query.clone()).await.expect("aggregate");
        buckets.iter().map(|b| (b.count, b.mean, b.first, b.last)).collect::<Vec<_>>()
    };
    let expected = [(2, Some(1.5), Some(1.0), Some(2.0)), (1, Some(4.0), Some(4.0), Some(4.0))];
    assert_eq!(sums().await, expected, "in memory");
    city.observe.seal().await.expect("seal");
    assert_eq!(sums().await, expected, "in the lake");
}

/// When the lake takes nothing, memory fills to its bound and no further: the door says so, what was acknowledged stays readable, and once the
/// lake is back everything goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_lake_that_stands_still_is_felt_at_the_door() {
    let folder = tempfile::tempdir().expect("folder");
    let (bound, batch) = (2_000, 100);
    let city = City::open_with(folder.path(), |options| {
        options.max_unsealed = bound;
        options.seal_rows = 500;
        options.patience = Duration::from_millis(50);
    })
    .await;
    // A table without its log takes no commit.
    let (log, away) = (folder.path().join("lake/observations/_delta_log"), folder.path().join("away"));
    std::fs::rename(&log, &away).expect("the log can be moved");
    std::fs::write(&log, b"in its place").expect("a file");
    let rows = |first: i64| {
        let mut rows = Batch::new();
        (first..first + batch).for_each(|at| rows.push(number(1, at, at as f64)));
        rows
    };
    let mut taken = 0;
    let refusal = loop {
        match city.observe.record(rows(taken)).await {
            Ok(_) => taken += batch,
            Err(error) => break error,
        }
        assert!(taken <= bound as i64, "more was taken than the bound allows");
    };
    assert!(matches!(refusal, super::Error::Behind), "{refusal}");
    assert_eq!(taken, bound as i64);
    assert_eq!(city.observe.stats().unsealed_rows, bound as u64);
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), taken as u64);
    std::fs::remove_file(&log).expect("remove");
    std::fs::rename(&away, &log).expect("back");
    city.observe.seal().await.expect("seal");
    city.observe.record(rows(taken)).await.expect("there is room again");
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), (taken + batch) as u64);
}

fn number(ds: i64, at: i64, value: f64) -> Observation {
    Observation {
        datastream: EntityId(ds),
        feature: EntityId(1),
        phenomenon: Interval::instant(Timestamp::from_secs(at)),
        result_time: None,
        result: ResultValue::Number(value),
        quality: None,
        valid: None,
        parameters: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_start_reads_a_long_log_of_heads_twice() {
    let folder = tempfile::tempdir().expect("folder");
    let log = || std::fs::metadata(folder.path().join("heads.log")).expect("the log").len();
    let all = |observe: &Observe| {
        let head = |id| observe.head(EntityId(id)).map(|h| h.latest.result.number());
        (1..=500).map(head).collect::<Vec<_>>()
    };
    let expected: Vec<_> = (1..=500).map(|id| Some(Some(id as f64))).collect();
    let record = async |city: &City, at| {
        let mut batch = Batch::new();
        (1..=500).for_each(|id| batch.push(number(id, at, id as f64)));
        city.observe.record(batch).await.expect("record");
        city.observe.seal().await.expect("seal");
    };
    // As a program left it that let the log grow.
    let city = City::open_with(folder.path(), |options| options.heads_log = 1 << 30).await;
    record(&city, 10).await;
    record(&city, 11).await;
    assert!(log() > 10_000);
    city.crash().await;
    let city = City::open(folder.path()).await;
    assert_eq!((log(), all(&city.observe)), (0, expected.clone()));
    // One seal of many heads goes to the base at once.
    record(&city, 20).await;
    assert_eq!((log(), all(&city.observe)), (0, expected.clone()));
    city.crash().await;
    let city = City::open(folder.path()).await;
    assert_eq!(all(&city.observe), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_misses_nothing_and_a_subscriber_sees_what_comes() {
    let folder = tempfile::tempdir().expect("folder");
    let city = City::open(folder.path()).await;
    let mut live = city.observe.subscribe();
    for at in 0..50 {
        city.observe.record(Batch::one(number(1, at, at as f64))).await.expect("record");
    }
    city.observe.remove(vec![number(1, 3, 0.0).id()]).await.expect("remove");
    let mut replay = city.observe.replay(0).await.expect("replay");
    for at in 0..51u64 {
        let (old, new) = (replay.next().await.expect("next"), live.recv().await.expect("recv"));
        assert_eq!((old.offset, new.offset), (at, at));
        assert_eq!(matches!(old.frame, Frame::Removed(_)), at == 50);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_year_is_summed_up_across_memory_and_lake() {
    let folder = tempfile::tempdir().expect("folder");
    let city = City::open(folder.path()).await;
    let hours = |range: std::ops::Range<i64>| {
        let mut batch = Batch::new();
        range.for_each(|h| batch.push(number(1, h * 3_600, (h % 24) as f64)));
        batch
    };
    city.observe.record(hours(0..5_000)).await.expect("record");
    city.observe.seal().await.expect("seal");
    // Late and repeated rows on top of what is sealed, and new ones.
    city.observe.record(hours(4_000..8_760)).await.expect("record");
    let query = AggregateQuery {
        datastream: EntityId(1),
        from: Timestamp::from_secs(0),
        to: Timestamp::from_secs(8_760 * 3_600),
        step: Step::Days(1),
        zone: jiff::tz::TimeZone::UTC,
        fill: Fill::Skip,
    };
    let buckets = city.observe.aggregate(query).await.expect("aggregate");
    assert_eq!(buckets.len(), 365);
    assert!(buckets.iter().all(|b| b.count == 24 && b.mean == Some(11.5) && b.min == Some(0.0) && b.max == Some(23.0)));
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 8_760);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_at_once_is_refused_whole() {
    let folder = tempfile::tempdir().expect("folder");
    let city = City::open(folder.path()).await;
    let mut batch = Batch::new();
    (0..=Batch::MAX_ROWS as i64).for_each(|at| batch.push(number(1, at, 0.0)));
    assert!(matches!(city.observe.record(batch).await, Err(super::Error::TooMany(_))));
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 0);
    city.observe.close(Duration::from_secs(5)).await;
    assert!(matches!(city.observe.record(Batch::one(number(1, 1, 1.0))).await, Err(super::Error::Stopping)));
}
