//! `POST /v1.1/CreateObservations` (18-088 section 13.2): from the bytes of the request straight into columns.
//!
//! The rows are read by hand, because this is the way on which nearly all Observations come: an instant and a number cost one pass over
//! their bytes and no allocation. Whatever else a row may hold takes a general path. A row that does not fit its Datastream
//! becomes `"error"` in the answer; JSON that is broken refuses the whole request before anything is recorded.

use std::{borrow::Cow, sync::Arc};

use kernel::{Interval, Timestamp};
use serde_json::value::RawValue;

use crate::{
    catalog::no_result,
    model::{DatastreamInfo, EntityId, EntityType, ObservationType, ResultValue},
    observe::{Batch, Extra, Run},
};

/// Levels of JSON inside one value.
const DEPTH: u32 = 32;
/// Rows after which the reader lets others run.
const TURN: usize = 16_384;

/// What is wrong, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {expected} is expected")]
pub struct Broken {
    pub at: usize,
    pub expected: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Component {
    PhenomenonTime,
    ResultTime,
    Result,
    Feature,
    Quality,
    Valid,
    Parameters,
    /// Sent back from an answer; the service makes ids itself.
    Ignored,
}

impl Component {
    const NAMES: &str =
        "phenomenonTime, result, resultTime, FeatureOfInterest/id, resultQuality, validTime, parameters";

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "phenomenonTime" => Self::PhenomenonTime,
            "resultTime" => Self::ResultTime,
            "result" => Self::Result,
            "FeatureOfInterest/id" | "FeatureOfInterest/@iot.id" | "FeatureOfInterest" => Self::Feature,
            "resultQuality" => Self::Quality,
            "validTime" => Self::Valid,
            "parameters" => Self::Parameters,
            "id" | "@iot.id" => Self::Ignored,
            _ => return None,
        })
    }
}

/// One object of the request: a Datastream or MultiDatastream, and where its rows lie.
#[derive(Clone, Debug)]
pub struct Group {
    pub datastream: EntityId,
    /// Which of the two it is.
    pub of: EntityType,
    components: Arc<[Component]>,
    /// The first byte behind the `[` of `dataArray`.
    rows_at: usize,
    /// Where the object goes on behind `dataArray`, when that is known already.
    end: Option<usize>,
}

/// Why the rows stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// All rows of the group are read.
    End,
    /// Others may run now; call again.
    Turn,
    /// A row names this feature, about which nothing is known here: find out, then call again.
    Feature(EntityId),
}

/// What is known of a feature that a row names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    Yes,
    No,
    Unknown,
}

pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    started: bool,
    /// The components that were read last: groups of one request mostly have the same.
    components: Option<(&'a [u8], Arc<[Component]>)>,
}

/// The rows of a request, as columns, and which of them did not fit. Nothing is kept for a row that did but its place in a column.
#[derive(Default)]
pub struct Rows {
    batches: Vec<Batch>,
    batch: Batch,
    run: Option<Run>,
    /// Rows that were read.
    pub total: usize,
    /// Numbers of the rows that were refused, ascending.
    pub refused: Vec<usize>,
}

impl Rows {
    fn run(&mut self, datastream: EntityId, feature: EntityId) -> &mut Run {
        self.total += 1;
        let same = self.run.as_ref().is_some_and(|r| r.datastream == datastream && r.feature == feature);
        let full = self.run.as_ref().is_some_and(|r| self.batch.len() + r.len() >= Batch::MAX_ROWS);
        if !same || full {
            if let Some(run) = self.run.take() {
                self.batch.push_run(run);
            }
            if full {
                self.batches.push(std::mem::take(&mut self.batch));
            }
        }
        self.run.get_or_insert_with(|| Run::new(datastream, feature))
    }
    fn refuse(&mut self) {
        self.refused.push(self.total);
        self.total += 1;
    }
    /// The batches to be recorded: all rows that fit, in order.
    pub fn take_batches(&mut self) -> Vec<Batch> {
        if let Some(run) = self.run.take() {
            self.batch.push_run(run);
        }
        let last = std::mem::take(&mut self.batch);
        let mut batches = std::mem::take(&mut self.batches);
        if !last.is_empty() {
            batches.push(last);
        }
        batches
    }
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, started: false, components: None }
    }

    fn expected<T>(&self, expected: impl Into<String>) -> Result<T, Broken> {
        Err(Broken { at: self.at, expected: expected.into() })
    }
    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }
    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }
    #[inline]
    fn need(&mut self, byte: u8) -> Result<(), Broken> {
        if self.eat(byte) { Ok(()) } else { self.expected(format!("'{}'", char::from(byte))) }
    }

    /// The inside of a string, and whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<(&'a [u8], bool), Broken> {
        self.need(b'"')?;
        let rest = &self.bytes[self.at..];
        let mut from = 0;
        let mut escaped = false;
        while let Some(found) = memchr::memchr2(b'"', b'\\', &rest[from..]) {
            let i = from + found;
            if rest[i] == b'"' {
                self.at += i + 1;
                return Ok((&rest[..i], escaped));
            }
            escaped = true;
            from = i + 2;
            if from > rest.len() {
                break;
            }
        }
        self.at = self.bytes.len();
        self.expected("the closing quote of a string")
    }

    /// A name: nearly always a plain word.
    fn name(&mut self) -> Result<Cow<'a, str>, Broken> {
        let start = self.at;
        if let (inside, false) = self.string()?
            && inside.iter().all(|b| matches!(b, b'@' | b'.' | b'/' | b'_' | b'a'..=b'z' | b'A'..=b'Z'))
            && let Ok(name) = std::str::from_utf8(inside)
        {
            return Ok(Cow::Borrowed(name));
        }
        self.at = start;
        self.text().map(Cow::Owned)
    }

    /// A string with its escapes resolved; for names, not for rows.
    fn text(&mut self) -> Result<String, Broken> {
        let start = self.at;
        self.string()?;
        let mut whole = &self.bytes[start..self.at];
        while let [b' ' | b'\n' | b'\r' | b'\t', tail @ ..] = whole {
            whole = tail;
        }
        serde_json::from_slice(whole).map_err(|_| Broken { at: start, expected: "a string".to_owned() })
    }

    /// A number with few digits and no exponent, in one pass: below 2^53 and divided by a power of ten that is exact, the quotient is the
    /// nearest there is (Clinger's fast path). `None` moves nothing.
    #[inline]
    fn decimal(&mut self) -> Option<f64> {
        const TENS: [f64; 16] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
        let rest = &self.bytes[self.at..];
        let digit = |i: usize| rest.get(i).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10);
        let start = usize::from(rest.first() == Some(&b'-'));
        let (mut i, mut n) = (start, 0u64);
        while let Some(d) = digit(i) {
            n = n.wrapping_mul(10).wrapping_add(u64::from(d));
            i += 1;
        }
        let mut digits = i - start;
        if digits == 0 || (digits > 1 && rest[start] == b'0') {
            return None;
        }
        let mut decimals = 0;
        if rest.get(i) == Some(&b'.') {
            i += 1;
            let from = i;
            while let Some(d) = digit(i) {
                n = n.wrapping_mul(10).wrapping_add(u64::from(d));
                i += 1;
            }
            decimals = i - from;
            digits += decimals;
            if decimals == 0 {
                return None;
            }
        }
        if digits > 15 || matches!(rest.get(i), Some(b'e' | b'E')) {
            return None;
        }
        self.at += i;
        let value = n as f64 / TENS[decimals];
        Some(if start == 1 { -value } else { value })
    }

    /// The bytes of a number as JSON writes it.
    #[inline]
    fn number(&mut self) -> Option<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let digits = |from: usize| rest[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut i = usize::from(rest.first() == Some(&b'-'));
        let whole = digits(i);
        if whole == 0 || (whole > 1 && rest[i] == b'0') {
            return None;
        }
        i += whole;
        if rest.get(i) == Some(&b'.') {
            let fraction = digits(i + 1);
            if fraction == 0 {
                return None;
            }
            i += 1 + fraction;
        }
        if let Some(b'e' | b'E') = rest.get(i) {
            let sign = usize::from(matches!(rest.get(i + 1), Some(b'+' | b'-')));
            let exponent = digits((i + 1 + sign).min(rest.len()));
            if exponent == 0 {
                return None;
            }
            i += 1 + sign + exponent;
        }
        self.at += i;
        Some(&rest[..i])
    }

    /// Any value, as its bytes.
    fn value(&mut self) -> Result<&'a [u8], Broken> {
        self.space();
        let start = self.at;
        self.skip(DEPTH)?;
        Ok(&self.bytes[start..self.at])
    }
    fn skip(&mut self, depth: u32) -> Result<(), Broken> {
        let Some(depth) = depth.checked_sub(1) else {
            return self.expected(format!("JSON that is at most {DEPTH} levels deep"));
        };
        self.space();
        match self.bytes.get(self.at) {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => {
                self.at += 1;
                if self.eat(b'}') {
                    return Ok(());
                }
                loop {
                    self.string()?;
                    self.need(b':')?;
                    self.skip(depth)?;
                    if self.eat(b'}') {
                        return Ok(());
                    }
                    self.need(b',')?;
                }
            }
            Some(b'[') => {
                self.at += 1;
                if self.eat(b']') {
                    return Ok(());
                }
                loop {
                    self.skip(depth)?;
                    if self.eat(b']') {
                        return Ok(());
                    }
                    self.need(b',')?;
                }
            }
            Some(b'-' | b'0'..=b'9') => match self.number() {
                Some(_) => Ok(()),
                None => self.expected("a number"),
            },
            _ => {
                for word in [&b"null"[..], b"true", b"false"] {
                    if self.bytes[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(());
                    }
                }
                self.expected("a value")
            }
        }
    }

    /// The next object of the request up to its rows; `None` at the end.
    pub fn group(&mut self) -> Result<Option<Group>, Broken> {
        if !self.started {
            self.need(b'[')?;
            self.started = true;
            if self.eat(b']') {
                return self.finish();
            }
        } else if self.eat(b']') {
            return self.finish();
        } else {
            self.need(b',')?;
        }
        self.need(b'{')?;
        let (mut datastream, mut components, mut rows_at) = (None, None, None);
        loop {
            let name = self.name()?;
            self.need(b':')?;
            match &*name {
                "Datastream" | "MultiDatastream" if datastream.is_some() => {
                    return self.expected("one Datastream or one MultiDatastream");
                }
                "Datastream" => datastream = Some((self.datastream(EntityType::Datastream)?, EntityType::Datastream)),
                "MultiDatastream" => {
                    datastream = Some((self.datastream(EntityType::MultiDatastream)?, EntityType::MultiDatastream));
                }
                "components" => components = Some(self.components()?),
                "dataArray" => {
                    self.need(b'[')?;
                    rows_at = Some(self.at);
                    if let (Some((datastream, of)), Some(components)) = (datastream, &components) {
                        // The usual order: the rows are read where they stand.
                        return Ok(Some(Group {
                            datastream,
                            of,
                            components: components.clone(),
                            rows_at: self.at,
                            end: None,
                        }));
                    }
                    self.at -= 1;
                    self.value()?;
                }
                _ => {
                    self.value()?;
                }
            }
            if self.eat(b'}') {
                break;
            }
            self.need(b',')?;
        }
        let (Some((datastream, of)), Some(components), Some(rows_at)) = (datastream, components, rows_at) else {
            return self.expected("an object with Datastream or MultiDatastream, components and dataArray");
        };
        let end = self.at;
        self.at = rows_at;
        Ok(Some(Group { datastream, of, components, rows_at, end: Some(end) }))
    }

    fn finish(&mut self) -> Result<Option<Group>, Broken> {
        self.space();
        if self.at < self.bytes.len() { self.expected("the end of the request") } else { Ok(None) }
    }

    fn datastream(&mut self, of: EntityType) -> Result<EntityId, Broken> {
        let start = self.at;
        let value = self.value()?;
        let digits = value.strip_prefix(br#"{"@iot.id":"#).and_then(|rest| rest.strip_suffix(b"}"));
        let plain = digits.filter(|d| (1..=18).contains(&d.len()) && d[0] != b'0' && d.iter().all(u8::is_ascii_digit));
        if let Some(digits) = plain {
            return Ok(EntityId(digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0'))));
        }
        let value: Option<serde_json::Value> = serde_json::from_slice(value).ok();
        let id = value.as_ref().and_then(|v| v.get("@iot.id").or_else(|| v.get("id")));
        let id = id.and_then(|id| id.as_i64().or_else(|| id.as_str()?.parse().ok())).filter(|id| *id > 0);
        id.map(EntityId)
            .ok_or_else(|| Broken { at: start, expected: format!("a {} such as {{\"@iot.id\": 42}}", of.singular()) })
    }

    fn components(&mut self) -> Result<Arc<[Component]>, Broken> {
        let start = self.at;
        let value = self.value()?;
        if let Some((_, components)) = self.components.as_ref().filter(|(bytes, _)| *bytes == value) {
            return Ok(components.clone());
        }
        let broken = |expected: String| Broken { at: start, expected };
        let names: Vec<String> = serde_json::from_slice(value).map_err(|_| broken("an array of names".to_owned()))?;
        let mut components = Vec::with_capacity(names.len());
        for name in &names {
            let component = Component::from_name(name)
                .ok_or_else(|| broken(format!("one of {} instead of '{}'", Component::NAMES, name.escape_default())))?;
            if component != Component::Ignored && components.contains(&component) {
                return Err(broken(format!("'{name}' only once")));
            }
            components.push(component);
        }
        for needed in [Component::PhenomenonTime, Component::Result] {
            if !components.contains(&needed) {
                return Err(broken("at least phenomenonTime and result (18-088 table 36)".to_owned()));
            }
        }
        let components: Arc<[Component]> = components.into();
        self.components = Some((value, components.clone()));
        Ok(components)
    }

    /// Reads rows of `group` into `rows`. Without `info` every row is an error: there is no such Datastream or MultiDatastream.
    pub fn rows(
        &mut self,
        group: &Group,
        info: Option<&DatastreamInfo>,
        known: &dyn Fn(EntityId) -> Known,
        rows: &mut Rows,
    ) -> Result<Stop, Broken> {
        let first = self.at == group.rows_at;
        if first && self.eat(b']') {
            return self.close(group);
        }
        let simple = *group.components == [Component::PhenomenonTime, Component::Result];
        let numeric =
            matches!(info.map(|i| i.observation_type), Some(ObservationType::Measurement | ObservationType::Any));
        for _ in 0..TURN {
            let start = self.at;
            let quick = simple && numeric && self.quick(info, rows);
            if !quick {
                self.at = start;
                if let Some(feature) = self.row(group, info, known, rows)? {
                    self.at = start;
                    return Ok(Stop::Feature(feature));
                }
            }
            if self.eat(b']') {
                return self.close(group);
            }
            self.need(b',')?;
        }
        Ok(Stop::Turn)
    }

    /// `["<instant>", <number>]` and nothing else; `false` leaves the row to the general path.
    #[inline]
    fn quick(&mut self, info: Option<&DatastreamInfo>, rows: &mut Rows) -> bool {
        let Some(info) = info else { return false };
        if !self.eat(b'[') || !self.eat(b'"') {
            return false;
        }
        let rest = &self.bytes[self.at..];
        // Times are 20 to 35 bytes: a short look is cheaper than a search.
        let Some(end) = rest.iter().take(40).position(|b| *b == b'"') else { return false };
        let Some(at) = Timestamp::parse_bytes(&rest[..end]) else { return false };
        self.at += end + 1;
        if !self.eat(b',') {
            return false;
        }
        self.space();
        let value = self.decimal();
        let Some(value) = value.or_else(|| fast_float2::parse::<f64, _>(self.number()?).ok()) else { return false };
        if !value.is_finite() || !(Timestamp::MIN..=Timestamp::MAX).contains(&at) || !self.eat(b']') {
            return false;
        }
        rows.run(info.id, info.feature).push_number(at, value);
        true
    }

    fn close(&mut self, group: &Group) -> Result<Stop, Broken> {
        if let Some(end) = group.end {
            self.at = end;
            return Ok(Stop::End);
        }
        while !self.eat(b'}') {
            self.need(b',')?;
            let name = self.name()?;
            if matches!(&*name, "Datastream" | "MultiDatastream" | "components" | "dataArray") {
                return self.expected(format!("'{name}' only once"));
            }
            self.need(b':')?;
            self.value()?;
        }
        Ok(Stop::End)
    }

    /// Any row. `Some` asks for what is known of a feature.
    fn row(
        &mut self,
        group: &Group,
        info: Option<&DatastreamInfo>,
        known: &dyn Fn(EntityId) -> Known,
        rows: &mut Rows,
    ) -> Result<Option<EntityId>, Broken> {
        self.need(b'[')?;
        let mut row = Row::default();
        for (i, component) in group.components.iter().enumerate() {
            if i > 0 {
                self.need(b',')?;
            }
            let value = self.value()?;
            row.take(*component, value);
        }
        if !self.eat(b']') {
            return self.expected(format!("']' after the {} values that components names", group.components.len()));
        }
        let Some(info) = info else {
            rows.refuse();
            return Ok(None);
        };
        let feature = row.feature.unwrap_or(info.feature);
        if row.good && feature != info.feature {
            match known(feature) {
                Known::Yes => {}
                Known::No => row.good = false,
                Known::Unknown => return Ok(Some(feature)),
            }
        }
        match row.finish(info) {
            Some((at, value, extra)) => rows.run(info.id, feature).push(at, value, extra),
            None => rows.refuse(),
        }
        Ok(None)
    }
}

/// A row while it is read.
struct Row {
    good: bool,
    phenomenon: Option<Interval>,
    result: Option<ResultValue>,
    feature: Option<EntityId>,
    extra: Extra,
}

impl Default for Row {
    fn default() -> Self {
        Self { good: true, phenomenon: None, result: None, feature: None, extra: Extra::default() }
    }
}

fn json<T: serde::de::DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}
fn raw(value: &[u8]) -> Option<Arc<RawValue>> {
    serde_json::from_slice::<Box<RawValue>>(value).ok().map(Into::into)
}
fn inside(interval: &Interval) -> bool {
    interval.start >= Timestamp::MIN && interval.end <= Timestamp::MAX
}

impl Row {
    fn take(&mut self, component: Component, value: &[u8]) {
        let null = value == b"null";
        let good = match component {
            Component::Ignored => true,
            Component::PhenomenonTime => {
                self.phenomenon = json(value).filter(inside);
                self.phenomenon.is_some()
            }
            Component::Result => {
                let number = match value.first() {
                    Some(b'-' | b'0'..=b'9') => fast_float2::parse::<f64, _>(value).ok().filter(|n| n.is_finite()),
                    _ => None,
                };
                self.result = match number {
                    Some(number) => Some(ResultValue::Number(number)),
                    None => raw(value).map(ResultValue::Json),
                };
                self.result.is_some()
            }
            _ if null => true,
            Component::ResultTime => {
                self.extra.result_time = json(value).filter(|at| (Timestamp::MIN..=Timestamp::MAX).contains(at));
                self.extra.result_time.is_some()
            }
            Component::Feature => {
                let id: Option<serde_json::Value> = json(value);
                let id = id.as_ref().map(|v| v.get("@iot.id").unwrap_or(v));
                self.feature =
                    id.and_then(|v| v.as_i64().or_else(|| v.as_str()?.parse().ok())).filter(|id| *id > 0).map(EntityId);
                self.feature.is_some()
            }
            Component::Quality => {
                self.extra.quality = raw(value);
                self.extra.quality.is_some()
            }
            Component::Valid => {
                self.extra.valid = json(value).filter(inside);
                self.extra.valid.is_some()
            }
            Component::Parameters => {
                self.extra.parameters = raw(value).filter(|_| value.first() == Some(&b'{'));
                self.extra.parameters.is_some()
            }
        };
        self.good &= good;
    }

    fn finish(mut self, info: &DatastreamInfo) -> Option<(Timestamp, f64, Extra)> {
        let (phenomenon, result) = (self.phenomenon?, self.result?);
        if !self.good || info.check(&result).is_err() {
            return None;
        }
        self.extra.end = (!phenomenon.is_instant()).then_some(phenomenon.end);
        // The name of a row that sums up others: it would take the place of one ([`crate::observe::thin`]).
        if self.extra.end.is_some_and(|end| self.extra.result_time == Some(end.plus_micros(1))) {
            return None;
        }
        let value = match result {
            ResultValue::Number(number) => number,
            ResultValue::Json(raw) => {
                if raw.get() == "null" && self.extra.quality.is_none() {
                    self.extra.quality = Some(no_result());
                }
                self.extra.result = Some(raw);
                f64::NAN
            }
        };
        Some((phenomenon.start, value, self.extra))
    }
}
