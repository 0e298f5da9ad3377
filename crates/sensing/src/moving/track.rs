//! What fixes make together: legs without gaps, speed, distance, what cannot be, and less of it where a screen can show no more. Pure, no I/O.

use std::{cmp::Ordering, collections::BinaryHeap};

use kernel::Timestamp;
use serde::Serialize;

use super::{
    fence::Zone,
    fix::Fix,
    plane::{Place, Plane},
};

/// What a position Datastream declares of its Thing (`properties.track`), or what holds for all.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Limits {
    /// Metres a second beyond which a move cannot have been.
    pub max_speed: f64,
    /// Seconds without a fix after which nobody knows where it was.
    pub gap: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // 250 km/h: nothing that a city moves on land or water is faster.
        Self { max_speed: 70.0, gap: 900 }
    }
}

/// Fixes that disagree with the one before and agree with each other, until they are believed: a Thing that was carried away while it was silent is not wrong
/// for ever.
const CONVINCING: usize = 3;

/// A track: fixes in the order of time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Track {
    /// Without gaps, each of at least one fix.
    pub legs: Vec<Vec<Fix>>,
    /// Fixes that no way leads to; they are in no leg.
    pub suspect: Vec<Fix>,
}

/// Metres a second from one fix to the next, as little as their accuracies admit.
fn speed(a: &Fix, b: &Fix) -> f64 {
    let doubt = a.accuracy.unwrap_or(0.0) + b.accuracy.unwrap_or(0.0);
    let seconds = b.at.micros_since(a.at) as f64 / 1e6;
    (a.place.metres(b.place) - doubt).max(0.0) / seconds.max(1e-3)
}

fn seconds(a: &Fix, b: &Fix) -> f64 {
    b.at.micros_since(a.at) as f64 / 1e6
}

impl Track {
    /// `fixes` in the order of time; of two at one time the first counts.
    pub fn new(fixes: &[Fix], limits: Limits) -> Self {
        let mut track = Self::default();
        let mut good: Vec<Fix> = Vec::with_capacity(fixes.len());
        let mut doubted: Vec<Fix> = Vec::new();
        for fix in fixes {
            match good.last() {
                Some(last) if fix.at <= last.at || doubted.last().is_some_and(|d| fix.at <= d.at) => {}
                Some(last) if speed(last, fix) > limits.max_speed => {
                    // Those that do not go on from each other were wrong each for itself.
                    if doubted.last().is_some_and(|d| speed(d, fix) > limits.max_speed) {
                        track.suspect.append(&mut doubted);
                    }
                    doubted.push(*fix);
                    if doubted.len() == CONVINCING {
                        // No way leads there from what was before, so a leg ends and another begins.
                        track.cut(&mut good, limits);
                        good.append(&mut doubted);
                    }
                }
                _ => {
                    track.suspect.append(&mut doubted);
                    good.push(*fix);
                }
            }
        }
        track.suspect.append(&mut doubted);
        track.cut(&mut good, limits);
        track.suspect.sort_by_key(|f| f.at);
        track
    }

    /// Fixes that are believed become legs.
    fn cut(&mut self, good: &mut Vec<Fix>, limits: Limits) {
        let gap = i64::from(limits.gap) * 1_000_000;
        self.legs.extend(good.chunk_by(|a, b| b.at.micros_since(a.at) <= gap).map(<[Fix]>::to_vec));
        good.clear();
    }

    pub fn fixes(&self) -> usize {
        self.legs.iter().map(Vec::len).sum()
    }
    pub fn first(&self) -> Option<&Fix> {
        self.legs.first()?.first()
    }
    pub fn last(&self) -> Option<&Fix> {
        self.legs.last()?.last()
    }

    /// Metres along the legs.
    pub fn metres(&self) -> f64 {
        let pairs = self.legs.iter().flat_map(|leg| leg.windows(2));
        pairs.map(|w| w[0].place.metres(w[1].place)).sum()
    }
    /// Seconds within legs.
    pub fn seconds(&self) -> f64 {
        self.legs.iter().filter_map(|leg| Some(seconds(leg.first()?, leg.last()?))).sum()
    }

    /// Metres a second at each fix but the first of a leg, by the way from the one before.
    pub fn speeds(&self) -> Vec<Vec<(Timestamp, f64)>> {
        let each = |w: &[Fix]| (w[1].at, w[0].place.metres(w[1].place) / seconds(&w[0], &w[1]).max(1e-3));
        self.legs.iter().map(|leg| leg.windows(2).map(each).collect()).collect()
    }

    /// Where it was: between two fixes on the straight way at an even speed; `None` in a gap and before and after all of it.
    pub fn at(&self, time: Timestamp) -> Option<Place> {
        let leg = self.legs.partition_point(|leg| leg.last().is_some_and(|last| last.at < time));
        let leg = self.legs.get(leg)?;
        let next = leg.partition_point(|fix| fix.at < time);
        let after = leg.get(next)?;
        if after.at == time {
            return Some(after.place);
        }
        let before = leg.get(next.checked_sub(1)?)?;
        Some(before.place.toward(after.place, seconds(before, &Fix { at: time, ..*after }) / seconds(before, after)))
    }

    /// Where it is taken to be still after its newest fix, for as long as it may be silent.
    pub fn still(&self, time: Timestamp, limits: Limits) -> Option<Place> {
        let silent = |last: &&Fix| (0..=i64::from(limits.gap) * 1_000_000).contains(&time.micros_since(last.at));
        self.last().filter(silent).map(|last| last.place)
    }

    /// The same with at most `most` fixes (but two a leg, and the newest legs only where those are too many), and the metres by which it is then wrong at worst at any
    /// time. Those stay that are furthest from where they would be taken to be without them at their time (top-down time ratio: Meratnia and de By 2004), so
    /// that what is played back is as right as what is drawn.
    pub fn simplified(&self, most: usize) -> (Self, f64) {
        let legs = &self.legs[self.legs.len().saturating_sub((most / 2).max(1))..];
        let mut kept: Vec<Vec<bool>> = legs.iter().map(|leg| vec![false; leg.len()]).collect();
        let mut left = most;
        let mut heap = BinaryHeap::new();
        for (number, leg) in legs.iter().enumerate() {
            for end in [0, leg.len() - 1] {
                left = left.saturating_sub(usize::from(!std::mem::replace(&mut kept[number][end], true)));
            }
            heap.extend(Piece::of(number, leg, 0, leg.len() - 1));
        }
        while left > 0
            && let Some(piece) = heap.pop()
        {
            let Piece { leg, from, middle, to, .. } = piece;
            kept[leg][middle] = true;
            left -= 1;
            heap.extend(Piece::of(leg, &legs[leg], from, middle));
            heap.extend(Piece::of(leg, &legs[leg], middle, to));
        }
        let wrong = heap.peek().map_or(0.0, |piece| piece.wrong);
        let chosen = legs
            .iter()
            .zip(kept)
            .map(|(leg, kept)| leg.iter().zip(kept).filter(|(_, kept)| *kept).map(|(fix, _)| *fix).collect());
        (Self { legs: chosen.collect(), suspect: self.suspect.clone() }, wrong)
    }

    /// When it was inside of which fence. Inside begins where it is `margin` metres (or the accuracy of a fix) deep, and ends as far outside; a gap ends nothing, as
    /// long as it is still inside afterwards.
    pub fn visits(&self, zone: &Zone, margin: f64) -> Vec<Visit> {
        let mut inside: Vec<Option<usize>> = vec![None; zone.fences().len()];
        let mut visits: Vec<Visit> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        for fix in self.legs.iter().flatten() {
            let doubt = margin.max(fix.accuracy.unwrap_or(0.0));
            zone.near(fix.place, 0.0, |fence, distance| {
                if distance <= -doubt && inside[fence].is_none() {
                    inside[fence] = Some(visits.len());
                    open.push(fence);
                    visits.push(Visit { fence, entered: fix.at, left: None, seen: fix.at });
                }
            });
            open.retain(|fence| {
                let Some(visit) = inside[*fence] else { return false };
                let out = zone.fences()[*fence].distance(fix.place) >= doubt;
                if out {
                    visits[visit].left = Some(fix.at);
                    inside[*fence] = None;
                } else {
                    visits[visit].seen = fix.at;
                }
                !out
            });
        }
        visits
    }
}

/// A stay inside a fence.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Visit {
    /// Its place in [`Zone::fences`].
    pub fence: usize,
    /// The first fix inside.
    pub entered: Timestamp,
    /// The first fix outside again; `None` while it is inside.
    pub left: Option<Timestamp>,
    /// The last fix that was not outside.
    pub seen: Timestamp,
}

impl Visit {
    pub fn seconds(&self) -> i64 {
        self.left.unwrap_or(self.seen).micros_since(self.entered) / 1_000_000
    }
}

/// What stands between two fixes that are kept, and the one that is missed most.
struct Piece {
    wrong: f64,
    leg: usize,
    from: usize,
    middle: usize,
    to: usize,
}

impl Piece {
    /// `None` when nothing stands between.
    fn of(number: usize, leg: &[Fix], from: usize, to: usize) -> Option<Self> {
        let (a, b) = (leg.get(from)?, leg.get(to)?);
        let plane = Plane::around(a.place);
        let ([ax, ay], [bx, by]) = (plane.xy(a.place), plane.xy(b.place));
        let span = seconds(a, b).max(1e-6);
        let missed = |at: &usize| {
            let fix = &leg[*at];
            let part = seconds(a, fix) / span;
            let [x, y] = plane.xy(fix.place);
            (x - ax - (bx - ax) * part).hypot(y - ay - (by - ay) * part)
        };
        let (middle, wrong) = (from + 1..to).map(|at| (at, missed(&at))).max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        Some(Self { wrong, leg: number, from, middle, to })
    }
}

impl PartialEq for Piece {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Piece {}
impl PartialOrd for Piece {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Piece {
    fn cmp(&self, other: &Self) -> Ordering {
        self.wrong.total_cmp(&other.wrong).then_with(|| (other.leg, other.from).cmp(&(self.leg, self.from)))
    }
}

#[cfg(test)]
#[path = "track_tests.rs"]
mod tests;
