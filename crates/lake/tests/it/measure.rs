//! Figures, not checks: `cargo test --release -p lake -- --ignored --nocapture measure`. docs/benchmarks.md quotes them.

use std::{sync::Arc, time::Instant};

use kernel::Timestamp;
use lake::{
    Access, Aggregate, Buckets, Commit, Compaction, Order, SeriesQuery, SqlOptions,
    arrow::{
        array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema},
    },
    times,
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, ZstdLevel},
    file::properties::WriterProperties,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::common::*;

/// Seconds of processor time of this process so far: what a figure means on a machine that does other things too.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<f64> =
        stat.rsplit_once(')').expect("a name").1.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // Fields 14 and 15 of proc(5), in hundredths; the state's letter is left out.
    (fields[10] + fields[11]) / 100.0
}

const SERIES: i64 = 1_000;

/// What a sensor shows: a slow wave and a little noise, rounded to the decimals it has.
fn reading(rng: &mut StdRng, series: i64, minute: i64) -> f64 {
    let day = (minute as f64 / 1_440.0 + series as f64 / 100.0) * std::f64::consts::TAU;
    let raw = 20.0 + (series % 17) as f64 + 6.0 * day.sin() + rng.random_range(-0.3..0.3);
    match series % 3 {
        0 => (raw * 10.0).round() / 10.0,
        1 => (raw * 100.0).round() / 100.0,
        _ => raw.round(),
    }
}

/// One minute after the other for every series, a few milliseconds late as networks are.
fn stretch(rng: &mut StdRng, minutes: std::ops::Range<i64>) -> RecordBatch {
    let (mut ds, mut at, mut value, mut feature) = (vec![], vec![], vec![], vec![]);
    for series in 0..SERIES {
        for minute in minutes.clone() {
            ds.push(series);
            at.push(Some(START + minute * 60_000_000 + rng.random_range(0..250) * 1_000));
            value.push(Some(reading(rng, series, minute)));
            feature.push(Some(series / 4));
        }
    }
    let none = || Arc::new(times(vec![None; ds.len()])) as ArrayRef;
    let text = || Arc::new(StringArray::from(vec![None::<&str>; ds.len()])) as ArrayRef;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ds.clone())),
        Arc::new(times(at)),
        none(),
        none(),
        Arc::new(Float64Array::from(value)),
        text(),
        Arc::new(Int64Array::from(feature)),
        text(),
        none(),
        none(),
        text(),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns fit")
}

#[test]
#[ignore = "a measurement"]
fn bytes_of_a_value_by_encoding() {
    let mut rng = StdRng::seed_from_u64(1);
    let all = stretch(&mut rng, 0..2_000);
    for decimals in 0..3i64 {
        let ds = all.column(0).clone();
        use lake::arrow::{array::AsArray, datatypes::Int64Type};
        let kept: lake::arrow::array::BooleanArray =
            ds.as_primitive::<Int64Type>().values().iter().map(|s| Some(s % 3 == (decimals + 2) % 3)).collect();
        let values = lake::arrow::compute::filter(all.column(4), &kept).expect("values");
        let schema = Arc::new(Schema::new(vec![Field::new("value", DataType::Float64, true)]));
        let batch = RecordBatch::try_new(schema.clone(), vec![values]).expect("batch");
        for (name, dictionary, encoding) in [
            ("plain", false, Encoding::PLAIN),
            ("split", false, Encoding::BYTE_STREAM_SPLIT),
            ("dictionary", true, Encoding::BYTE_STREAM_SPLIT),
        ] {
            for level in [1, 5, 9] {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::try_new(level).expect("level")))
                    .set_dictionary_enabled(dictionary)
                    .set_dictionary_page_size_limit(128 << 10)
                    .set_data_page_row_count_limit(4_096)
                    .set_column_encoding("value".into(), encoding)
                    .build();
                let begun = Instant::now();
                let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).expect("writer");
                writer.write(&batch).expect("write");
                let bytes = writer.into_inner().expect("file").len();
                println!(
                    "{decimals} decimals {name:10} zstd {level}: {:.2} bytes, {:.0} M values/s",
                    bytes as f64 / batch.num_rows() as f64,
                    batch.num_rows() as f64 / begun.elapsed().as_secs_f64() / 1e6
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn ten_million_rows() {
    let folder = tempfile::tempdir().expect("folder");
    let lake = open(folder.path());
    let table = table(&lake).await;
    let mut rng = StdRng::seed_from_u64(1);
    let (commits, minutes) = (20, 500);
    let (mut rows, mut spent, mut cpu_spent) = (0, 0.0, 0.0);
    for n in 0..commits {
        let batch = stretch(&mut rng, n * minutes..(n + 1) * minutes);
        rows += batch.num_rows();
        let (begun, cpu_begun) = (Instant::now(), cpu());
        table.commit(Commit { through: n as u64, puts: vec![batch], ..Commit::default() }).await.expect("commit");
        spent += begun.elapsed().as_secs_f64();
        cpu_spent += cpu() - cpu_begun;
    }
    let per = |bytes: u64| bytes as f64 / rows as f64;
    println!(
        "commit: {rows} rows, {:.2} M rows/s, {:.2} M a CPU-second, {:.2} bytes a row",
        rows as f64 / spent / 1e6,
        rows as f64 / cpu_spent / 1e6,
        per(table.stats().bytes)
    );
    let reads = async |what: &str| {
        let view = table.view();
        let (mut rng, count) = (StdRng::seed_from_u64(2), 4_000);
        let (begun, cpu_begun) = (Instant::now(), cpu());
        for _ in 0..count {
            let query = SeriesQuery { order: Order::Descending, limit: 100, ..query(rng.random_range(0..SERIES)) };
            assert_eq!(view.series(&query).await.expect("series").num_rows(), 100);
        }
        println!(
            "{what}: latest 100 of one series, all columns: {:.0} a second, {:.0} a CPU-second",
            f64::from(count) / begun.elapsed().as_secs_f64(),
            f64::from(count) / (cpu() - cpu_begun)
        );
        let (begun, cpu_begun) = (Instant::now(), cpu());
        for _ in 0..count {
            let columns = Some(&["phenomenon_time", "value"][..]);
            let query =
                SeriesQuery { order: Order::Descending, limit: 100, columns, ..query(rng.random_range(0..SERIES)) };
            assert_eq!(view.series(&query).await.expect("series").num_rows(), 100);
        }
        println!(
            "{what}: latest 100 of one series, time and value: {:.0} a second, {:.0} a CPU-second",
            f64::from(count) / begun.elapsed().as_secs_f64(),
            f64::from(count) / (cpu() - cpu_begun)
        );
    };
    reads("before compaction").await;
    let (begun, cpu_begun) = (Instant::now(), cpu());
    table.compact(Compaction { min_files: 2, ..Compaction::default() }).await.expect("compact");
    println!(
        "compaction: {:.2} M rows/s, {:.2} M a CPU-second",
        rows as f64 / begun.elapsed().as_secs_f64() / 1e6,
        rows as f64 / (cpu() - cpu_begun) / 1e6
    );
    println!("after: {} files, {:.2} bytes a row", table.stats().files, per(table.stats().bytes));
    reads("after compaction").await;

    let query = Aggregate {
        series: &[17],
        from: Timestamp::MIN,
        to: Timestamp::MAX,
        buckets: Buckets::Width { origin: Timestamp::from_micros(0), width: 3_600_000_000 },
        column: "value",
        unless: None,
    };
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(table.view().aggregate(query.clone()).await.expect("aggregate")[&17].len() > 100);
    }
    println!("aggregate 10,000 rows by hour: {:.2} ms", begun.elapsed().as_secs_f64() * 10.0);
    let all: Vec<i64> = (0..SERIES).collect();
    let begun = Instant::now();
    table.view().aggregate(Aggregate { series: &all, ..query }).await.expect("aggregate");
    println!("aggregate all by hour: {:.1} M rows/s", rows as f64 / begun.elapsed().as_secs_f64() / 1e6);
    let begun = Instant::now();
    assert_eq!(table.view().latest(None).await.expect("latest").iter().map(|b| b.num_rows()).sum::<usize>(), 1_000);
    println!("latest row of 1,000 series: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);

    let begun = Instant::now();
    let text = "select datastream, avg(value) from observation group by datastream";
    let mut answer = lake.sql(text, SqlOptions::default(), Arc::new(|_: &str| Access::All)).await.expect("sql");
    answer.collect_all().await.expect("rows");
    println!("SQL average of each series: {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);

    let one = stretch(&mut StdRng::seed_from_u64(9), 0..1);
    let begun = Instant::now();
    let changes =
        table.commit(Commit { through: 99, puts: vec![one.slice(0, 1)], ..Commit::default() }).await.expect("late");
    println!("a late row into {} rows: {:.2} s ({changes:?})", table.stats().rows, begun.elapsed().as_secs_f64());
}
