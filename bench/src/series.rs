//! What the sensors of a benchmark say: the same for the same series and point, always, and computed from nothing else, so that a billion
//! rows need no memory.
//!
//! A city's gauges are not one kind. Of twenty series here two never change, two are switches, one counts, five show one decimal, six two
//! decimals, three three decimals of something slow, and one is nearly noise with three decimals. Every third series is stamped by the
//! device's own clock, to the millisecond; the others lie on the full second.

use std::fmt::Write as _;

/// Rows of one series that follow each other.
#[derive(Clone, Copy)]
pub struct Stretch {
    pub series: usize,
    pub first: usize,
    pub rows: usize,
}

/// 2024-01-01, an observation each ten seconds: past for every server.
pub const START_MILLIS: i64 = 1_704_067_200_000;
pub const EVERY_MILLIS: i64 = 10_000;
/// Points of a day, for the wave that most measurements have.
const DAY: f64 = 8_640.0;

impl Stretch {
    /// Time in milliseconds since 1970, and the value in thousandths.
    pub fn each(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        (self.first..self.first + self.rows).map(|point| (millis(self.series, point), thousandths(self.series, point)))
    }
}

/// SplitMix64's last step: every bit of the result depends on every bit of the input.
fn mixed(series: usize, point: u64, salt: u64) -> u64 {
    let mut n = ((series as u64) << 40 ^ point ^ salt << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// From -1 to 1.
fn noise(series: usize, point: u64, salt: u64) -> f64 {
    (mixed(series, point, salt) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// From -1 to 1, without a jump: lines between noise at every `width`th point.
fn drift(series: usize, point: usize, width: usize, salt: u64) -> f64 {
    let (at, part) = ((point / width) as u64, (point % width) as f64 / width as f64);
    let (a, b) = (noise(series, at, salt), noise(series, at + 1, salt));
    a + (b - a) * part
}

pub fn millis(series: usize, point: usize) -> i64 {
    let late = if series.is_multiple_of(3) { (mixed(series, point as u64, 9) % 1_000) as i64 } else { 0 };
    START_MILLIS + point as i64 * EVERY_MILLIS + late
}

/// Decimals that the series shows.
pub fn decimals(series: usize) -> u32 {
    match series % 20 {
        2..=4 => 0,
        0 | 5..=9 => 1,
        1 | 10..=15 => 2,
        _ => 3,
    }
}

pub fn thousandths(series: usize, point: usize) -> i64 {
    let wave = || ((point as f64 / DAY + series as f64 / 97.0) * std::f64::consts::TAU).sin();
    let weather = |width| drift(series, point, width, 1);
    let jitter = || noise(series, point as u64, 2);
    let base = 5.0 + (series % 37) as f64;
    let raw = match series % 20 {
        // A limit, a set point: never changes.
        0 | 1 => base,
        // A door, a pump: changes every few hours.
        2 | 3 => f64::from(u8::from(mixed(series, point as u64 / 1_440, 3).is_multiple_of(3))),
        // A counter of passengers.
        4 => point as f64 * 3.0 + (mixed(series, point as u64, 4) % 3) as f64,
        // Temperature, humidity.
        5..=9 => base + 4.0 * wave() + 3.0 * weather(20_000) + 0.2 * jitter(),
        // Air quality, electric current.
        10..=15 => base + 2.0 * wave() + 5.0 * weather(3_000) + 0.15 * jitter(),
        // Water levels: slow, in millimetres.
        16..=18 => base + 1.2 * weather(9_000) + 0.05 * drift(series, point, 60, 5) + 0.004 * jitter(),
        // Wind: hardly anything of it follows from the row before.
        _ => base + 3.0 * weather(500) + 4.0 * jitter(),
    };
    let step = 10i64.pow(3 - decimals(series));
    (raw * 1_000.0 / step as f64).round() as i64 * step
}

/// Writes a value with the decimals of its series.
pub fn decimal(out: &mut String, thousandths: i64, decimals: u32) {
    let sign = if thousandths < 0 { "-" } else { "" };
    let (whole, rest) = (thousandths.abs() / 1_000, thousandths.abs() % 1_000);
    // Writing to a String cannot fail.
    let _ = match decimals {
        0 => write!(out, "{sign}{whole}"),
        1 => write!(out, "{sign}{whole}.{}", rest / 100),
        2 => write!(out, "{sign}{whole}.{:02}", rest / 10),
        _ => write!(out, "{sign}{whole}.{rest:03}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is the value that is checked in the end, and no series is longer on decimals than it says.
    #[test]
    fn values_are_what_they_print() {
        for series in 0..60 {
            for point in (0..1_000_000).step_by(7_919) {
                let value = thousandths(series, point);
                let mut text = String::new();
                decimal(&mut text, value, decimals(series));
                let read: f64 = text.parse().expect("a number");
                assert_eq!(read, value as f64 / 1_000.0, "series {series} point {point}");
            }
        }
    }

    #[test]
    fn times_ascend() {
        for series in 0..6 {
            assert!((1..5_000).all(|point| millis(series, point - 1) < millis(series, point)));
        }
    }
}
