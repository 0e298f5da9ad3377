//! `/metrics`: what the program counts, in the OpenMetrics text form that Prometheus reads.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use kernel::Problem;
use parking_lot::RwLock;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Routed {
    method: &'static str,
    route: String,
}

/// One figure that a store or a room gives when it is asked.
pub struct Figure {
    /// `lamppost_records_commands`; a counter gets `_total` from the encoder.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: FigureKind,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FigureKind {
    Counter,
    Gauge,
}

impl Figure {
    #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 may be off by a few")]
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, kind: FigureKind::Counter, labels: Vec::new(), value: value as f64 }
    }
    #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 may be off by a few")]
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, kind: FigureKind::Gauge, labels: Vec::new(), value: value as f64 }
    }
    fn put(&self, encoder: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self.kind {
            FigureKind::Counter => encoder.encode_counter::<NoLabelSet, f64, f64>(&self.value, None),
            FigureKind::Gauge => encoder.encode_gauge(&self.value),
        }
    }
    #[must_use]
    pub fn label(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.labels.push((name, value.into()));
        self
    }
}

type Source = Box<dyn Fn(&mut Vec<Figure>) + Send + Sync>;

/// Every figure of the program. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    answered: Family<Answered, Counter>,
    took: Family<Routed, Histogram, fn() -> Histogram>,
    /// Those of the families that were needed before, by the route: they are looked for with every answer.
    near: RwLock<HashMap<String, Vec<Near>, ahash::RandomState>>,
    at_work: Gauge,
    refused: Counter,
    sources: Sources,
}

struct Near {
    method: &'static str,
    status: u16,
    answered: Counter,
    took: Histogram,
}

#[derive(Clone, Default)]
struct Sources(Arc<RwLock<Vec<Source>>>);

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sources", self.0.read().len())
    }
}

/// From half a millisecond, where head reads are, to the longest a request may take.
fn latencies() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("lamppost");
        let answered = Family::default();
        let took: Family<Routed, Histogram, fn() -> Histogram> = Family::new_with_constructor(latencies);
        let (at_work, refused, sources) = (Gauge::default(), Counter::default(), Sources::default());
        registry.register("http_requests", "Requests answered, by route and status", answered.clone());
        registry.register("http_request_seconds", "Time until the answer's head was ready, by route", took.clone());
        registry.register("http_requests_at_work", "Requests at work now", at_work.clone());
        registry.register(
            "http_requests_refused",
            "Requests answered 503 because too many were at work",
            refused.clone(),
        );
        registry.register_collector(Box::new(sources.clone()));
        let metrics =
            Self(Arc::new(Inner { registry, answered, took, near: RwLock::default(), at_work, refused, sources }));
        metrics.add(process);
        metrics
    }

    /// Adds figures that are read when `/metrics` is asked.
    pub fn add(&self, source: impl Fn(&mut Vec<Figure>) + Send + Sync + 'static) {
        self.0.sources.0.write().push(Box::new(source));
    }

    pub fn began(&self) {
        self.0.at_work.inc();
    }
    pub fn refused(&self) {
        self.0.refused.inc();
    }
    /// `route` is the router's pattern, never the address: addresses are unbounded.
    pub fn answered(&self, method: &http::Method, route: &str, status: http::StatusCode, took: Duration) {
        self.0.at_work.dec();
        let (method, status, took) = (known_method(method), status.as_u16(), took.as_secs_f64());
        let same = |near: &&Near| near.method == method && near.status == status;
        if let Some(near) = self.0.near.read().get(route).and_then(|of| of.iter().find(same)) {
            near.answered.inc();
            near.took.observe(took);
            return;
        }
        let answered = self.0.answered.get_or_create_owned(&Answered { method, route: route.to_owned(), status });
        let histogram = self.0.took.get_or_create_owned(&Routed { method, route: route.to_owned() });
        answered.inc();
        histogram.observe(took);
        let mut near = self.0.near.write();
        let of = near.entry(route.to_owned()).or_default();
        // Somebody else may have been here meanwhile.
        if !of.iter().any(|near| same(&near)) {
            of.push(Near { method, status, answered, took: histogram });
        }
    }

    pub fn text(&self) -> Result<String, Problem> {
        let mut out = String::with_capacity(16 << 10);
        encode(&mut out, &self.0.registry).map_err(|error| {
            tracing::error!(%error, "the metrics could not be written");
            Problem::internal()
        })?;
        Ok(out)
    }
}

fn known_method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut figures = Vec::new();
        for source in self.0.read().iter() {
            source(&mut figures);
        }
        // One descriptor for each name, whatever the order of the sources. The sort is stable: labels keep theirs.
        figures.sort_by_key(|f| f.name);
        for group in figures.chunk_by(|a, b| a.name == b.name) {
            let first = &group[0];
            let kind = match first.kind {
                FigureKind::Counter => MetricType::Counter,
                FigureKind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(first.name, first.help, None, kind)?;
            for figure in group {
                if figure.labels.is_empty() {
                    figure.put(&mut metric)?;
                } else {
                    figure.put(&mut metric.encode_family(&figure.labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// Memory, threads and open files of this process, as Linux tells them; nothing elsewhere.
fn process(out: &mut Vec<Figure>) {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let number = |field: &str| -> Option<u64> {
        status.lines().find_map(|l| l.strip_prefix(field)?.split_whitespace().next()?.parse().ok())
    };
    if let Some(kib) = number("VmRSS:") {
        out.push(Figure::gauge("process_resident_memory_bytes", "Memory of this process in RAM", kib * 1024));
    }
    if let Some(kib) = number("VmHWM:") {
        out.push(Figure::gauge("process_resident_memory_peak_bytes", "The most it ever was", kib * 1024));
    }
    if let Some(threads) = number("Threads:") {
        out.push(Figure::gauge("process_threads", "Threads of this process", threads));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        out.push(Figure::gauge("process_open_files", "Open files and connections", files.count() as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_one_name_share_a_descriptor() {
        let metrics = Metrics::new();
        for topic in ["events", "observations"] {
            metrics.add(move |out| {
                out.push(Figure::counter("stream_appended", "Records", 7).label("topic", topic));
                out.push(Figure::gauge("depth", "Depth", 1));
            });
        }
        metrics.began();
        metrics.answered(&http::Method::GET, "/v1.1/{*path}", http::StatusCode::OK, Duration::from_millis(3));
        let text = metrics.text().unwrap();
        assert_eq!(text.matches("# TYPE lamppost_stream_appended counter").count(), 1, "{text}");
        assert!(text.contains("lamppost_stream_appended_total{topic=\"events\"} 7"), "{text}");
        assert!(
            text.contains("lamppost_http_requests_total{method=\"GET\",route=\"/v1.1/{*path}\",status=\"200\"} 1"),
            "{text}"
        );
        assert!(text.contains("lamppost_http_requests_at_work 0"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
