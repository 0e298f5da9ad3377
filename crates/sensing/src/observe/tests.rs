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
        let topic = TopicOptions::new("observations").guarded().retain_bytes(1);
        let stream = Stream::open(stream::Options::local(folder.join("stream"), [topic]), Arc::new(SystemClock))
            .await
            .expect("stream");
        let lake = Lake::open(lake::Options::new(Root::Local(folder.join("lake")))).expect("lake");
        // So little that heads go to disk, and come back from there, every few seals.
        let heads_log = 600;
        let options = Options { heads_log, seal_every: Duration::from_secs(3_600), ..Options::new(folder.join("heads")) };
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
