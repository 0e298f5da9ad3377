//! Sums hold what they stand for; the way of a downsampled row through a real stream and a real lake, cut off at any moment.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use kernel::SystemClock;
use lake::{Lake, Root};
use proptest::prelude::*;
use stream::{Stream, TopicOptions};

use super::*;
use crate::{
    model::ResultValue,
    observe::{AggregateQuery, Batch, Fill, Options, SeriesQuery, Step},
};

/// 2024-03-10T00:00:00Z.
const START: i64 = 1_710_028_800_000_000;
const MINUTE: i64 = 60_000_000;

fn raw(at: i64, feature: i64, value: f64, quality: Option<&str>) -> Row {
    let quality = quality.map(|code| RawValue::from_string(format!("{{\"code\":\"{code}\"}}")).expect("JSON").into());
    let extra = Extra { quality, ..Extra::default() };
    Row { key: Key { at, feature, result_time: None }, value, extra: (!extra.is_empty()).then(|| Arc::new(extra)) }
}

fn forms(form: Form) -> Forms {
    Forms(vec![(Timestamp::from_micros(START + 2 * DAY), form)])
}

fn thinned(rows: &[Row], form: Form) -> Vec<Row> {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| row.key);
    reduce(rows.clone(), &forms(form)).0.unwrap_or(rows)
}

type Worth = (u64, i64, i64, i64, BTreeMap<String, u64>);

/// What a series is worth by the hour: count, sum, least, greatest, and how many of each quality.
fn worth(rows: &[Row]) -> BTreeMap<(i64, i64), Worth> {
    let mut all = BTreeMap::new();
    for row in rows {
        let mut cell = Cell::default();
        cell.push(row.clone());
        let hour = row.key.at.div_euclid(60 * MINUTE);
        let to = all.entry((hour, row.key.feature)).or_insert((0, 0, i64::MAX, i64::MIN, BTreeMap::new()));
        if cell.count > 0 {
            to.0 += cell.count;
            to.1 += (cell.sum * 10.0).round() as i64;
            to.2 = to.2.min((cell.min * 10.0).round() as i64);
            to.3 = to.3.max((cell.max * 10.0).round() as i64);
        }
        for (code, n) in cell.qualities {
            *to.4.entry(code).or_default() += n;
        }
    }
    all
}

fn a_row() -> impl Strategy<Value = Row> {
    let quality = prop::option::of(prop::sample::select(vec!["good", "bad", "missing", "suspect"]));
    (0i64..20_000, 1i64..3, any::<i16>(), quality).prop_map(|(at, feature, value, quality)| {
        raw(START + at * 7_000_000, feature, f64::from(value) / 10.0, quality)
    })
}

fn some_rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec(a_row(), 0..200).prop_map(|rows| {
        let by_key: BTreeMap<Key, Row> = rows.into_iter().map(|row| (row.key, row)).collect();
        by_key.into_values().collect()
    })
}

proptest! {
    /// Nothing is lost and nothing counted twice: in one step, in two, and with half of it coming late.
    #[test]
    fn sums_hold_what_they_stand_for(rows in some_rows(), late in any::<u64>()) {
        let before = worth(&rows);
        let ten = thinned(&rows, Form::Every(600));
        prop_assert_eq!(worth(&ten), before.clone());
        // As text: what means nothing is not a number, and equals nothing.
        let again = format!("{:?}", thinned(&ten, Form::Every(600)));
        prop_assert_eq!(again, format!("{:?}", &ten), "a second time changes nothing");
        prop_assert_eq!(worth(&thinned(&ten, Form::Every(3_600))), before.clone());
        let hourly = thinned(&rows, Form::Every(3_600));
        prop_assert_eq!(worth(&hourly), before.clone());
        // At most one row of an hour and a feature.
        let mut hours: Vec<_> = hourly.iter().map(|row| (row.key.at.div_euclid(60 * MINUTE), row.key.feature)).collect();
        hours.sort_unstable();
        let all = hours.len();
        hours.dedup();
        prop_assert_eq!(hours.len(), all);
        let (early, after): (Vec<Row>, Vec<Row>) =
            rows.iter().cloned().enumerate().fold((vec![], vec![]), |(mut a, mut b), (i, row)| {
                if late >> (i % 64) & 1 == 0 { a.push(row) } else { b.push(row) }
                (a, b)
            });
        let mut merged = thinned(&early, Form::Every(600));
        merged.extend(after);
        prop_assert_eq!(worth(&thinned(&merged, Form::Every(600))), before);
    }
}

#[test]
fn what_cannot_be_summed_up_stays() {
    let text = Row {
        key: Key { at: START + 1, feature: 1, result_time: None },
        value: f64::NAN,
        extra: Some(Arc::new(Extra {
            result: Some(RawValue::from_string("\"open\"".to_owned()).expect("JSON").into()),
            ..Extra::default()
        })),
    };
    let day = Row {
        key: Key { at: START + 2, feature: 1, result_time: None },
        value: 7.0,
        extra: Some(Arc::new(Extra { end: Some(Timestamp::from_micros(START + DAY)), ..Extra::default() })),
    };
    let rows = vec![raw(START, 1, 1.0, None), text.clone(), day.clone(), raw(START + 3, 1, 2.0, None)];
    let found = thinned(&rows, Form::Every(600));
    assert_eq!(found.len(), 3);
    let has = |row: &Row| found.iter().any(|f| f.key == row.key && f.extra == row.extra);
    assert!(has(&text) && has(&day));
    let (none, outcome) = reduce(rows, &forms(Form::Gone));
    assert_eq!((none, outcome.gone), (Some(vec![]), 4), "what is to go goes, whatever it is");
    let lone = vec![raw(START, 1, 1.0, None), raw(START + 20 * MINUTE, 1, 2.0, None)];
    assert_eq!(reduce(lone, &forms(Form::Every(600))).0, None, "what is no denser stays as it was measured");
}

#[test]
fn a_row_says_what_it_stands_for() {
    let rows: Vec<Row> =
        (0..60).map(|i| raw(START + i * 10_000_000, 1, i as f64, (i == 59).then_some("bad"))).collect();
    let found = thinned(&rows, Form::Every(600));
    let observation = found[0].observation(EntityId(1));
    assert!(observation.is_summed() && !rows[0].observation(EntityId(1)).is_summed());
    assert_eq!(observation.phenomenon.to_string(), "2024-03-10T00:00:00Z/2024-03-10T00:10:00Z");
    assert_eq!(observation.result, ResultValue::Number(29.0));
    let said: Value = serde_json::from_str(observation.parameters.as_ref().expect("parameters").get()).expect("JSON");
    let expected = json!({"aggregate": {"function": "mean", "interval": "PT10M", "count": 59, "min": 0.0, "max": 58.0,
        "sum": 1711.0, "first": 0.0, "last": 58.0, "qualities": {"bad": 1}}});
    assert_eq!(said, expected);
}

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
        let options = Options { seal_every: Duration::from_secs(3_600), ..Options::new(folder.join("heads")) };
        let observe =
            Observe::open(options, stream.topic("observations").expect("topic"), &lake).await.expect("observe");
        Self { stream, observe }
    }

    /// What a crash leaves.
    async fn crash(self) {
        self.observe.0.stopped.cancel();
        self.stream.close().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// A value every ten seconds for two days, and one an hour later than all that is summed up.
    async fn fill(&self, id: i64) {
        let mut run = super::super::Run::new(EntityId(id), EntityId(9));
        for i in 0..17_280 {
            run.push_number(Timestamp::from_micros(START + i * 10_000_000), (i % 360) as f64);
        }
        run.push_number(Timestamp::from_micros(START + 2 * DAY + 60 * MINUTE), 5.0);
        let mut batch = Batch::new();
        batch.push_run(run);
        self.observe.record(batch).await.expect("recorded");
    }

    async fn one(&self, id: i64, at: i64, value: f64) {
        let mut run = super::super::Run::new(EntityId(id), EntityId(9));
        run.push_number(Timestamp::from_micros(at), value);
        let mut batch = Batch::new();
        batch.push_run(run);
        self.observe.record(batch).await.expect("recorded");
    }

    async fn thin(&self, form: Form, series: &[i64], dry: bool) -> Thinned {
        self.observe.seal().await.expect("sealed");
        let border = Timestamp::from_micros(START + 2 * DAY);
        let mut thinning = self.observe.thinning().await;
        let mut all = Thinned::default();
        for part in self.observe.parts(border).await.expect("parts") {
            let plan = series.iter().map(|id| (*id, forms(form))).collect();
            let done = thinning.part(&part, Plan::new(plan, || true), dry).await.expect("thinned");
            all.bytes += done.bytes;
            all.by_series.extend(done.by_series);
        }
        thinning.finish().await.expect("kept");
        all
    }

    async fn hours(&self, id: i64) -> Vec<(u64, f64, f64, f64, f64, f64)> {
        let query = AggregateQuery {
            datastream: EntityId(id),
            from: Timestamp::from_micros(START),
            to: Timestamp::from_micros(START + 3 * DAY),
            step: Step::Hours(1),
            zone: jiff::tz::TimeZone::UTC,
            fill: Fill::Skip,
        };
        let number = |n: Option<f64>| n.expect("a number");
        let buckets = self.observe.aggregate(query).await.expect("sums");
        buckets
            .iter()
            .map(|b| (b.count, number(b.mean), number(b.min), number(b.max), number(b.first), number(b.last)))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_go_on_over_the_border() {
    let folder = tempfile::tempdir().expect("folder");
    let city = City::open(folder.path()).await;
    city.fill(1).await;
    city.fill(2).await;
    let before = city.hours(1).await;
    let seen = city.thin(Form::Every(600), &[1], true).await;
    assert_eq!(seen.by_series[&1], Outcome { gone: 0, summed: 17_280, sums: 288 });
    assert!(seen.bytes > 0);
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 17_281, "looking changes nothing");
    let done = city.thin(Form::Every(600), &[1], false).await;
    assert_eq!(done.by_series, seen.by_series);
    assert_eq!(city.hours(1).await, before, "and no sum has changed");
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 289);
    assert_eq!(city.observe.count(EntityId(2)).await.expect("count"), 17_281, "another Datastream's");
    let head = city.observe.head(EntityId(1)).expect("head");
    assert_eq!(head.count, 289);
    assert_eq!(head.latest.result, ResultValue::Number(5.0));
    assert_eq!(head.phenomenon.start.as_micros(), START);
    // Late: one of its own time, and one at the very moment at which a sum begins. Neither hides the sum.
    city.one(1, START + 5 * MINUTE + 1, 1_000.0).await;
    city.one(1, START + 3 * 60 * MINUTE, -50.0).await;
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 291);
    let late = city.hours(1).await;
    assert_eq!((late[0].0, late[0].3), (361, 1_000.0));
    assert_eq!((late[3].0, late[3].2), (361, -50.0));
    city.thin(Form::Every(600), &[1], false).await;
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 289, "they were merged in");
    let merged = city.hours(1).await;
    assert_eq!((merged[0].0, merged[0].3, merged[3].0, merged[3].2), (361, 1_000.0, 361, -50.0));
    assert!(city.thin(Form::Every(600), &[1], false).await.by_series.is_empty(), "nothing is left to do");
    // Coarser, then gone; the newest row is younger than the border and stays.
    city.thin(Form::Every(3_600), &[1], false).await;
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 49);
    assert_eq!(city.hours(1).await.iter().map(|h| h.0).sum::<u64>(), 17_283);
    city.thin(Form::Gone, &[1, 2], false).await;
    for id in [1, 2] {
        let head = city.observe.head(EntityId(id)).expect("head");
        assert_eq!((head.count, head.phenomenon.start.as_micros()), (1, START + 2 * DAY + 60 * MINUTE));
        assert_eq!(city.observe.read(SeriesQuery::all(EntityId(id))).await.expect("rows").len(), 1);
    }
    city.crash().await;
    let city = City::open(folder.path()).await;
    assert_eq!(city.observe.head(EntityId(1)).expect("head").count, 1, "a start knows it too");
    city.crash().await;
}

/// Cut off between the lake's commit and the heads: the next start reads the lake.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_a_cut_believes_the_lake() {
    let folder = tempfile::tempdir().expect("folder");
    let city = City::open(folder.path()).await;
    city.fill(1).await;
    city.observe.seal().await.expect("sealed");
    let border = Timestamp::from_micros(START + 2 * DAY);
    {
        let mut thinning = city.observe.thinning().await;
        let part = &city.observe.parts(border).await.expect("parts")[0];
        let plan = BTreeMap::from([(1, forms(Form::Every(600)))]);
        thinning.part(part, Plan::new(plan, || true), false).await.expect("thinned");
        // Not finished: the program ends here.
    }
    city.crash().await;
    let city = City::open(folder.path()).await;
    assert_eq!(city.observe.head(EntityId(1)).expect("head").count, 289);
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 289);
    city.crash().await;
    let city = City::open(folder.path()).await;
    assert_eq!(city.observe.head(EntityId(1)).expect("head").count, 289, "and again without the mark");
    city.crash().await;
}

/// What is deleted while a sweep is under way is in no sum.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_meanwhile_is_not_summed() {
    let folder = tempfile::tempdir().expect("folder");
    let city = City::open(folder.path()).await;
    city.fill(1).await;
    city.observe.seal().await.expect("sealed");
    let second = city.observe.read(SeriesQuery::all(EntityId(1))).await.expect("rows")[1].id();
    let mut thinning = city.observe.thinning().await;
    city.observe.remove(vec![second]).await.expect("removed");
    let border = Timestamp::from_micros(START + 2 * DAY);
    for part in city.observe.parts(border).await.expect("parts") {
        let plan = Plan::new([(1, forms(Form::Every(600)))].into(), || true);
        let done = thinning.part(&part, plan, false).await.expect("left alone");
        assert!(done.by_series.is_empty(), "{done:?}");
    }
    thinning.finish().await.expect("kept");
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 17_280);
    let done = city.thin(Form::Every(600), &[1], false).await;
    assert_eq!(done.by_series[&1], Outcome { gone: 0, summed: 17_279, sums: 288 });
    assert_eq!(city.hours(1).await[0].0, 359);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_comes_meanwhile_stops_it() {
    let folder = tempfile::tempdir().expect("folder");
    let city = City::open(folder.path()).await;
    city.fill(1).await;
    city.observe.seal().await.expect("sealed");
    let part = &city.observe.parts(Timestamp::from_micros(START + 2 * DAY)).await.expect("parts")[0];
    let mut thinning = city.observe.thinning().await;
    let plan = BTreeMap::from([(1, forms(Form::Gone))]);
    let stopped = thinning.part(part, Plan::new(plan, || false), false).await;
    assert!(matches!(stopped, Err(Error::Lake(lake::Error::Busy))), "{stopped:?}");
    thinning.finish().await.expect("kept");
    assert_eq!(city.observe.count(EntityId(1)).await.expect("count"), 17_281);
    city.crash().await;
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("folder");
    entries
        .map(|entry| {
            let entry = entry.expect("entry");
            let about = entry.metadata().expect("about");
            if about.is_dir() { bytes_below(&entry.path()) } else { about.len() }
        })
        .sum()
}

/// What was summed up leaves the disk.
#[tokio::test(flavor = "multi_thread")]
async fn vacuum_frees_the_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    let city = City::open(folder.path()).await;
    for id in 1..=4 {
        city.fill(id).await;
    }
    city.observe.seal().await.expect("sealed");
    let (lake, before) = (folder.path().join("lake"), city.observe.table().stats().bytes);
    city.thin(Form::Every(3_600), &[1, 2, 3, 4], false).await;
    let full = bytes_below(&lake);
    assert!(full > before, "replaced files are still there for whoever reads them");
    let freed = city.observe.table().vacuum(Duration::ZERO).await.expect("vacuum");
    let empty = bytes_below(&lake);
    assert!(freed.bytes >= before, "{freed:?}, {before}");
    assert!(empty + freed.bytes <= full && empty < before, "{empty} of {full}, table had {before}");
    assert_eq!(city.hours(3).await.iter().map(|h| h.0).sum::<u64>(), 17_281, "and nothing that counts is lost");
    city.crash().await;
}
