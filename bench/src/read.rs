//! `bench read`: questions that people and pages ask, through HTTP, over many observations that lie in the lake.
//!
//! The observations are those of `bench ingest`, sent first and settled; then each question is asked again and again on one connection, of
//! another series each time, and the answer's figures are compared with what was sent. All of it once more after the lake has merged its files. Time is what the asker waits, CPU is the server's.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kernel::Timestamp;
use serde_json::Value;

use crate::{
    Place,
    http::Connection,
    ingest::Peer,
    lamppost::Lamppost,
    series::{Stretch, millis, thousandths},
    usage,
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    #[arg(long, default_value_t = 1_000)]
    series: usize,
    /// Of each series, one each ten seconds.
    #[arg(long, default_value_t = 20_000)]
    points: usize,
    /// Of the first series, which is to hold a year or more: 3,153,600 are a year at ten seconds.
    #[arg(long, default_value_t = 3_200_000)]
    long: usize,
    /// How often each question is asked.
    #[arg(long, default_value_t = 40)]
    times: usize,
}

struct Asker<'a> {
    server: &'a Lamppost,
    connection: Connection,
    args: &'a Args,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(args.series > 1 && args.points > 200 && args.long >= 100_000, "too few observations to ask about");
    let folder = tempfile::Builder::new().prefix("bench-read-").tempdir_in(&args.place.folder)?;
    let server = Lamppost::start(&args.place, folder.path(), args.series, &[])?;
    let rows = (args.series - 1) * args.points + args.long;
    println!("{} series x {} points and one of {}: {rows} observations", args.series - 1, args.points, args.long);
    let began = Instant::now();
    fill(&server, args)?;
    server.settle(Duration::from_secs(600))?;
    println!("sent and sealed in {:.0} s; as sealed:", began.elapsed().as_secs_f64());
    Asker { server: &server, connection: Connection::open(server.city.http)?, args }.all()?;
    println!("memory, at most: {} MB", usage::peak_memory(server.pid()).unwrap_or(0) >> 20);
    // What lies in the lake for some minutes is merged, with its sums by the hour.
    let server = server.merged(&args.place, folder.path(), &[])?;
    println!("merged:");
    Asker { server: &server, connection: Connection::open(server.city.http)?, args }.all()?;
    println!("memory, at most: {} MB", usage::peak_memory(server.pid()).unwrap_or(0) >> 20);
    Ok(())
}

/// Sends everything: the long series by itself, the others side by side.
fn fill(server: &Lamppost, args: &Args) -> anyhow::Result<()> {
    let mut sink = server.connect()?;
    for first in (0..args.long).step_by(5_000) {
        sink.put(&server.encode(&[Stretch { series: 0, first, rows: 5_000.min(args.long - first) }]))?;
    }
    let of_series = |connection: usize| (1 + connection..args.series).step_by(2);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..2)
            .map(|connection| {
                scope.spawn(move || {
                    let mut sink = server.connect()?;
                    for first in (0..args.points).step_by(100) {
                        let rows = 100.min(args.points - first);
                        let stretches: Vec<Stretch> =
                            of_series(connection).map(|series| Stretch { series, first, rows }).collect();
                        for batch in stretches.chunks(50) {
                            sink.put(&server.encode(batch))?;
                        }
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        senders.into_iter().try_for_each(|s| s.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

impl Asker<'_> {
    fn all(&mut self) -> anyhow::Result<()> {
        let (points, long, series) = (self.args.points, self.args.long, self.args.series);
        let number = |page: &Value| page["result"].as_f64();
        let sent = |series, point| thousandths(series, point) as f64 / 1e3;
        let any = move |n: usize| 1 + n * 7_919 % (series - 1);

        self.ask("latest value of one Datastream", |a, n| {
            let page = a.get(&format!("{}?$orderby=phenomenonTime%20desc&$top=1", a.observations(any(n))))?;
            ensure!(number(&page["value"][0]) == Some(sent(any(n), points - 1)), "{page}");
            Ok(())
        })?;
        self.ask("last 100 of one Datastream", |a, n| {
            let page = a.get(&format!("{}?$orderby=phenomenonTime%20desc&$top=100", a.observations(any(n))))?;
            ensure!(page["value"].as_array().is_some_and(|v| v.len() == 100), "{page}");
            ensure!(number(&page["value"][99]) == Some(sent(any(n), points - 100)), "{page}");
            Ok(())
        })?;
        self.ask("$count of one Datastream", |a, n| {
            let page = a.get(&format!("{}?$count=true&$top=0", a.observations(n % 2)))?;
            ensure!(page["@iot.count"] == [long, points][n % 2], "{page}");
            Ok(())
        })?;
        self.ask("first 100 of a day in the middle, by $filter", |a, n| {
            let first = (1 + n % 100) * 1_000;
            let (from, to) = (time(0, first), time(0, first + 8_640));
            let filter = format!("$filter=phenomenonTime%20ge%20{from}%20and%20phenomenonTime%20lt%20{to}");
            let page = a.get(&format!("{}?{filter}&$top=100&$orderby=phenomenonTime", a.observations(0)))?;
            ensure!(number(&page["value"][0]) == Some(sent(0, first)), "{page}");
            Ok(())
        })?;
        self.ask("$count of a day of the long one, by $filter", |a, n| {
            let first = (1 + n % 100) * 1_000;
            let (from, to) = (time(0, first), time(0, first + 8_640));
            let filter = format!("$filter=phenomenonTime%20ge%20{from}%20and%20phenomenonTime%20lt%20{to}");
            let page = a.get(&format!("{}?{filter}&$top=0&$count=true", a.observations(0)))?;
            ensure!(page["@iot.count"] == 8_640, "{page}");
            Ok(())
        })?;
        self.ask("$count of a million of the long one, by $filter", |a, n| {
            let last = (long - 1).min(1_000_000 + n);
            let filter = format!("$filter=phenomenonTime%20le%20{}", time(0, last));
            let page = a.get(&format!("{}?{filter}&$top=0&$count=true", a.observations(0)))?;
            ensure!(page["@iot.count"] == last + 1, "{page}");
            Ok(())
        })?;
        self.ask("a day of one Datastream as hourly means", |a, n| {
            let first = (1 + n % 100) * 360;
            a.means(0, first, first + 8_640)
        })?;
        self.ask("a year of one Datastream as hourly means", |a, n| {
            a.means(0, n * 360, (n * 360 + 3_153_600).min(long))
        })?;
        self.ask("latest values of all Datastreams, 100 to a page", |a, _| {
            let mut path = "/v1.1/Datastreams?$select=id&$top=100&$expand=Observations($select=result;$orderby=phenomenonTime%20desc;$top=1)".to_owned();
            let mut found = 0;
            loop {
                let page = a.get(&path)?;
                found += page["value"].as_array().map_or(0, |v| v.iter().filter(|d| number(&d["Observations"][0]).is_some()).count());
                let Some(next) = page["@iot.nextLink"].as_str() else { break };
                path = next[next.find("/v1.1/").context("a link to somewhere else")?..].to_owned();
            }
            ensure!(found >= series, "{found} of {series}");
            Ok(())
        })?;
        Ok(())
    }

    /// Asks, and prints how long it took.
    fn ask(&mut self, what: &str, question: impl Fn(&mut Self, usize) -> anyhow::Result<()>) -> anyhow::Result<()> {
        // Once before the clock runs: the first answer reads footers that the others find in memory.
        let cold = Instant::now();
        question(self, 0).with_context(|| what.to_owned())?;
        let (cold, cpu) = (cold.elapsed(), usage::cpu(self.server.pid())?);
        let mut took = Vec::with_capacity(self.args.times);
        for n in 1..=self.args.times {
            let asked = Instant::now();
            question(self, n).with_context(|| what.to_owned())?;
            took.push(asked.elapsed());
        }
        let cpu = usage::cpu(self.server.pid())? - cpu;
        took.sort_unstable();
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        println!(
            "{what:52} p50 {:>8.2} ms  p99 {:>8.2} ms  first {:>8.2} ms  {:>7.2} CPU-ms each",
            ms(usage::quantile(&took, 0.5)),
            ms(usage::quantile(&took, 0.99)),
            ms(cold),
            cpu * 1e3 / self.args.times as f64,
        );
        Ok(())
    }

    fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let body = self.server.city.get(&mut self.connection, path)?;
        Ok(serde_json::from_slice(&body)?)
    }

    fn observations(&self, series: usize) -> String {
        format!("/v1.1/Datastreams({})/Observations", self.server.ids[series])
    }

    /// Hourly means of points `from..to`, of which the second is computed again from what was sent.
    fn means(&mut self, series: usize, from: usize, to: usize) -> anyhow::Result<()> {
        let (start, end) = (time(series, from), time(series, to - 1));
        let id = self.server.ids[series];
        let page = self.get(&format!("/api/datastreams/{id}/series?step=PT1H&from={start}&to={end}"))?;
        let found = page["series"][0]["points"].as_array().context("no points")?;
        let hours = (to - from).div_ceil(360);
        ensure!((hours..=hours + 1).contains(&found.len()), "{} buckets for {hours} hours", found.len());
        let hour = found[1][0].as_i64().context("no time")?;
        let inside = (from..to).filter(|&p| (hour..hour + 3_600_000).contains(&millis(series, p)));
        let (sum, count) = inside.take(400).fold((0i64, 0), |(s, c), p| (s + thousandths(series, p), c + 1));
        let mean = found[1][1].as_f64().context("no mean")?;
        ensure!((mean - sum as f64 / 1e3 / f64::from(count)).abs() < 1e-6, "the mean is {mean}");
        Ok(())
    }
}

fn time(series: usize, point: usize) -> Timestamp {
    Timestamp::from_micros(millis(series, point) * 1_000)
}
