//! The bytes of one batch on the `observations` topic.
//!
//! ```text
//! frame   := version:u8 (1)  kind:u8  body
//! kind 0  := runs:varint  run*                      observations
//! kind 1  := count:varint (datastream:varint at:zigzag feature:varint has_rt:u8 [rt:zigzag])*    removed
//! kind 2  := datastream:varint                      a Datastream dropped with everything in it
//! run     := datastream:varint feature:varint rows:varint
//!            time:zigzag (first absolute, then the difference to the row before)*
//!            value:f64 little endian *
//!            extras:varint (row:varint extra)*      rows ascending
//! extra   := flags:u8  fields in the order of the flags
//! ```
//! Integers are LEB128. The record around a frame (length, checksum, offset) belongs to `stream`. A reader refuses any byte it does not
//! understand; nothing is allocated beyond what the frame's own length can hold.

use std::sync::Arc;

use kernel::{Interval, Timestamp};
use serde_json::value::RawValue;

use super::batch::{Batch, Extra, Run};
use crate::model::{EntityId, ObservationId};

const VERSION: u8 = 1;
const OBSERVED: u8 = 0;
const REMOVED: u8 = 1;
const DROPPED: u8 = 2;

const RESULT_TIME: u8 = 1;
const END: u8 = 2;
const RESULT: u8 = 4;
const QUALITY: u8 = 8;
const VALID: u8 = 16;
const PARAMETERS: u8 = 32;

/// One thing that happened to observations.
#[derive(Clone, Debug)]
pub enum Frame {
    Observed(Batch),
    Removed(Vec<ObservationId>),
    Dropped(EntityId),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a frame of observations: {0}")]
pub struct FrameError(&'static str);

pub fn encode(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::with_capacity(match frame {
        Frame::Observed(batch) => 16 + batch.len() * 12 + batch.runs().len() * 16,
        Frame::Removed(ids) => 8 + ids.len() * 24,
        Frame::Dropped(_) => 16,
    });
    out.push(VERSION);
    match frame {
        Frame::Observed(batch) => {
            out.push(OBSERVED);
            varint(&mut out, batch.runs().len() as u64);
            for run in batch.runs() {
                encode_run(&mut out, run);
            }
        }
        Frame::Removed(ids) => {
            out.push(REMOVED);
            varint(&mut out, ids.len() as u64);
            for id in ids {
                varint(&mut out, id.datastream.0 as u64);
                zigzag(&mut out, id.at.as_micros());
                varint(&mut out, id.feature.0 as u64);
                out.push(u8::from(id.result_time.is_some()));
                if let Some(at) = id.result_time {
                    zigzag(&mut out, at.as_micros());
                }
            }
        }
        Frame::Dropped(id) => {
            out.push(DROPPED);
            varint(&mut out, id.0 as u64);
        }
    }
    out
}

fn encode_run(out: &mut Vec<u8>, run: &Run) {
    varint(out, run.datastream.0 as u64);
    varint(out, run.feature.0 as u64);
    varint(out, run.len() as u64);
    let mut before = 0i64;
    for &time in &run.times {
        zigzag(out, time.wrapping_sub(before));
        before = time;
    }
    for value in &run.values {
        out.extend_from_slice(&value.to_le_bytes());
    }
    let extras = run.extras.iter().enumerate().filter_map(|(row, e)| e.as_ref().map(|e| (row, e)));
    varint(out, extras.clone().count() as u64);
    for (row, extra) in extras {
        varint(out, row as u64);
        encode_extra(out, extra);
    }
}

fn encode_extra(out: &mut Vec<u8>, extra: &Extra) {
    let flag = |present: bool, bit: u8| if present { bit } else { 0 };
    out.push(
        flag(extra.result_time.is_some(), RESULT_TIME)
            | flag(extra.end.is_some(), END)
            | flag(extra.result.is_some(), RESULT)
            | flag(extra.quality.is_some(), QUALITY)
            | flag(extra.valid.is_some(), VALID)
            | flag(extra.parameters.is_some(), PARAMETERS),
    );
    for time in [extra.result_time, extra.end].into_iter().flatten() {
        zigzag(out, time.as_micros());
    }
    for text in [&extra.result, &extra.quality].into_iter().flatten() {
        string(out, text.get());
    }
    if let Some(valid) = extra.valid {
        zigzag(out, valid.start.as_micros());
        zigzag(out, valid.end.as_micros());
    }
    if let Some(text) = &extra.parameters {
        string(out, text.get());
    }
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn zigzag(out: &mut Vec<u8>, n: i64) {
    varint(out, ((n << 1) ^ (n >> 63)) as u64);
}

fn string(out: &mut Vec<u8>, text: &str) {
    varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

pub fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let mut input = Input(bytes);
    if input.u8()? != VERSION {
        return Err(FrameError("unknown version"));
    }
    let frame = match input.u8()? {
        OBSERVED => {
            let mut batch = Batch::new();
            for _ in 0..input.count(4)? {
                batch.push_run(input.run()?);
            }
            Frame::Observed(batch)
        }
        REMOVED => {
            let count = input.count(4)?;
            let mut ids = Vec::with_capacity(count);
            for _ in 0..count {
                ids.push(ObservationId {
                    datastream: input.id()?,
                    at: input.time()?,
                    feature: input.id()?,
                    result_time: match input.u8()? {
                        0 => None,
                        1 => Some(input.time()?),
                        _ => return Err(FrameError("a flag is neither 0 nor 1")),
                    },
                });
            }
            Frame::Removed(ids)
        }
        DROPPED => Frame::Dropped(input.id()?),
        _ => return Err(FrameError("unknown kind")),
    };
    if input.0.is_empty() { Ok(frame) } else { Err(FrameError("bytes after the end")) }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], FrameError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(FrameError("cut short"))?;
        self.0 = tail;
        Ok(head)
    }
    fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(self.take(1)?[0])
    }
    fn varint(&mut self) -> Result<u64, FrameError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(FrameError("a number is too long"))
    }
    fn zigzag(&mut self) -> Result<i64, FrameError> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }
    fn time(&mut self) -> Result<Timestamp, FrameError> {
        Ok(Timestamp::from_micros(self.zigzag()?))
    }
    fn id(&mut self) -> Result<EntityId, FrameError> {
        i64::try_from(self.varint()?).map(EntityId).map_err(|_| FrameError("an id is out of range"))
    }
    /// A count of items that take at least `least` bytes each, so that a lie about the count cannot allocate.
    fn count(&mut self, least: usize) -> Result<usize, FrameError> {
        let n = usize::try_from(self.varint()?).map_err(|_| FrameError("a count is out of range"))?;
        if n > self.0.len() / least { Err(FrameError("a count is larger than the frame")) } else { Ok(n) }
    }
    fn json(&mut self) -> Result<Arc<RawValue>, FrameError> {
        let len = self.count(1)?;
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| FrameError("text is not UTF-8"))?;
        let raw = RawValue::from_string(text.to_owned()).map_err(|_| FrameError("text is not JSON"))?;
        Ok(raw.into())
    }
    fn run(&mut self) -> Result<Run, FrameError> {
        let mut run = Run::new(self.id()?, self.id()?);
        let rows = self.count(9)?;
        run.times.reserve_exact(rows);
        let mut time = 0i64;
        for _ in 0..rows {
            time = time.wrapping_add(self.zigzag()?);
            run.times.push(time);
        }
        let values = self.take(rows * 8)?;
        run.values.extend(values.as_chunks::<8>().0.iter().map(|v| f64::from_le_bytes(*v)));
        let extras = self.count(2)?;
        if extras > 0 {
            run.extras.resize(rows, None);
        }
        let mut next = 0usize;
        for _ in 0..extras {
            let row = usize::try_from(self.varint()?).map_err(|_| FrameError("a row is out of range"))?;
            if row < next || row >= rows {
                return Err(FrameError("a row is out of order"));
            }
            next = row + 1;
            run.extras[row] = Some(Arc::new(self.extra()?));
        }
        Ok(run)
    }
    fn extra(&mut self) -> Result<Extra, FrameError> {
        let flags = self.u8()?;
        if flags == 0 || flags >= PARAMETERS << 1 {
            return Err(FrameError("unknown field"));
        }
        let has = |bit: u8| flags & bit != 0;
        Ok(Extra {
            result_time: if has(RESULT_TIME) { Some(self.time()?) } else { None },
            end: if has(END) { Some(self.time()?) } else { None },
            result: if has(RESULT) { Some(self.json()?) } else { None },
            quality: if has(QUALITY) { Some(self.json()?) } else { None },
            valid: if has(VALID) { Some(Interval { start: self.time()?, end: self.time()? }) } else { None },
            parameters: if has(PARAMETERS) { Some(self.json()?) } else { None },
            summed: None,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Observation, ResultValue};
    use proptest::prelude::*;

    fn json() -> impl Strategy<Value = Arc<RawValue>> {
        prop_oneof![Just("null"), Just("\"open\""), Just("{\"a\":[1,2]}"), Just("true")]
            .prop_map(|text| RawValue::from_string(text.to_owned()).expect("json").into())
    }

    pub fn an_observation() -> impl Strategy<Value = Observation> {
        let time = (0i64..100).prop_map(|n| Timestamp::from_secs(1_700_000_000 + n));
        let result = prop_oneof![
            any::<i16>().prop_map(|n| ResultValue::Number(f64::from(n) / 10.0)),
            json().prop_map(ResultValue::Json)
        ];
        (
            (
                1i64..4,
                1i64..3,
                time.clone(),
                prop_oneof![4 => Just(0i64), 1 => 1i64..60],
                proptest::option::weighted(0.2, time.clone()),
            ),
            (
                result,
                proptest::option::weighted(0.2, json()),
                proptest::option::weighted(0.1, time),
                proptest::option::weighted(0.1, json()),
            ),
        )
            .prop_map(|((ds, foi, start, long, result_time), (result, quality, valid, parameters))| {
                Observation {
                    datastream: EntityId(ds),
                    feature: EntityId(foi),
                    phenomenon: Interval { start, end: start.plus_secs(long) },
                    result_time,
                    result,
                    quality,
                    valid: valid.map(Interval::instant),
                    parameters,
                }
            })
    }

    proptest! {
        #[test]
        fn observations_survive_the_log(observations in proptest::collection::vec(an_observation(), 0..60)) {
            let mut batch = Batch::new();
            observations.iter().cloned().for_each(|o| batch.push(o));
            let Ok(Frame::Observed(back)) = decode(&encode(&Frame::Observed(batch))) else { panic!("kind changed") };
            prop_assert_eq!(back.observations().collect::<Vec<_>>(), observations);
        }

        #[test]
        fn removals_survive_the_log(observations in proptest::collection::vec(an_observation(), 0..20)) {
            let ids: Vec<_> = observations.iter().map(Observation::id).collect();
            let Ok(Frame::Removed(back)) = decode(&encode(&Frame::Removed(ids.clone()))) else { panic!("kind changed") };
            prop_assert_eq!(back, ids);
        }

        #[test]
        fn damage_is_an_error_or_another_frame_never_a_panic(
            observations in proptest::collection::vec(an_observation(), 1..20), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut batch = Batch::new();
            observations.into_iter().for_each(|o| batch.push(o));
            let mut bytes = encode(&Frame::Observed(batch));
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_lie_about_the_count_allocates_nothing() {
        assert!(decode(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
        assert!(decode(&[1, 0, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
