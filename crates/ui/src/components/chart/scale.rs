//! Axes: where ticks stand and what they say. Pure.

use jiff::{ToSpan, tz::TimeZone};
use kernel::{Language, Timestamp};

use crate::format;

/// Ticks at 1, 2 or 5 times a power of ten, about `wanted` of them, and the places after the point that tell them apart. The first and last tick enclose
/// `low..high`.
pub(super) fn value_ticks(low: f64, high: f64, wanted: u32) -> (Vec<f64>, u8) {
    let (low, high) = if low < high { (low, high) } else { (low - 1.0, high + 1.0) };
    let raw = (high - low) / f64::from(wanted.max(1));
    let power = raw.log10().floor();
    let base = 10f64.powf(power);
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * base >= raw * 0.999).unwrap_or(10.0);
    let step = factor * base;
    let first = (low / step + 1e-9).floor();
    let last = (high / step - 1e-9).ceil();
    let decimals = (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as u8;
    // At most a handful by construction; the bound guards against values at the edge of f64.
    let count = ((last - first) as u32).min(20);
    ((0..=count).map(|i| (first + f64::from(i)) * step).collect(), decimals)
}

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
const STEPS: [i64; 16] = [
    MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
    30 * DAY,
    91 * DAY,
    182 * DAY,
    365 * DAY,
];

/// Ticks at round local times, about `wanted` of them, each with its label: a clock time within a day, the date at midnight.
pub(super) fn time_ticks(
    language: Language,
    start: Timestamp,
    end: Timestamp,
    zone: &TimeZone,
    wanted: i64,
) -> Vec<(Timestamp, String)> {
    let seconds = (end.micros_since(start) / 1_000_000).max(1);
    let step = STEPS.into_iter().find(|s| seconds / s <= wanted).unwrap_or((seconds / wanted / DAY + 1) * DAY);
    let Ok(first) = zone.to_datetime(start.to_jiff()).with().hour(0).minute(0).second(0).subsec_nanosecond(0).build()
    else {
        return Vec::new();
    };
    let mut ticks = Vec::new();
    for i in 0..2_000i64 {
        // Civil arithmetic: a day stays a day when clocks change.
        let span = if step % DAY == 0 { (i * step / DAY).days() } else { (i * step).seconds() };
        let Ok(civil) = first.checked_add(span) else { break };
        let Ok(zoned) = zone.to_ambiguous_zoned(civil).compatible() else { break };
        let at = Timestamp::from_jiff(zoned.timestamp());
        if at > end {
            break;
        }
        if at >= start {
            let midnight = civil.hour() == 0 && civil.minute() == 0;
            let label = if step >= 182 * DAY {
                format!("{:04}-{:02}", civil.year(), civil.month())
            } else if midnight {
                format::day(language, at, zone)
            } else {
                format::clock(at, zone)
            };
            ticks.push((at, label));
        }
    }
    ticks
}

/// Moves labels apart so that none lie on each other: `wanted` are heights in any order, the answer is in the same order.
pub(super) fn spread(wanted: &[f64], distance: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut placed = wanted.to_vec();
    let mut free = top;
    for &i in &order {
        placed[i] = wanted[i].max(free);
        free = placed[i] + distance;
    }
    let mut limit = bottom;
    for &i in order.iter().rev() {
        placed[i] = placed[i].min(limit);
        limit = placed[i] - distance;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_values() {
        assert_eq!(value_ticks(0.0, 97.0, 5), (vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0], 0));
        let (ticks, decimals) = value_ticks(1.02, 1.31, 4);
        assert_eq!((ticks.len(), decimals), (5, 1));
        assert!((ticks[0] - 1.0).abs() < 1e-9 && (ticks[4] - 1.4).abs() < 1e-9);
        assert_eq!(value_ticks(5.0, 5.0, 2).0, [4.0, 5.0, 6.0]);
    }

    #[test]
    fn round_local_times() {
        let zone = TimeZone::fixed(jiff::tz::offset(8));
        let at = |t: &str| t.parse::<Timestamp>().unwrap();
        let ticks = time_ticks(Language::En, at("2026-11-21T10:00:00Z"), at("2026-11-22T10:00:00Z"), &zone, 6);
        let labels: Vec<_> = ticks.iter().map(|t| t.1.as_str()).collect();
        assert_eq!(labels, ["18:00", "22 Nov", "06:00", "12:00", "18:00"]);
    }

    proptest::proptest! {
        #[test]
        fn ticks_enclose(low in -1e6f64..1e6, size in 1e-3f64..1e6) {
            let (ticks, _) = value_ticks(low, low + size, 5);
            let slack = size * 1e-6;
            proptest::prop_assert!(ticks.len() >= 2 && ticks.len() <= 12);
            proptest::prop_assert!(ticks[0] <= low + slack && *ticks.last().unwrap() >= low + size - slack);
        }

        #[test]
        fn labels_keep_their_distance(wanted in proptest::collection::vec(0.0f64..280.0, 1..=6)) {
            let mut placed = spread(&wanted, 18.0, 8.0, 272.0);
            placed.sort_by(f64::total_cmp);
            proptest::prop_assert!(placed.windows(2).all(|w| w[1] - w[0] >= 17.999));
            proptest::prop_assert!(placed[0] >= 7.999 && placed[placed.len() - 1] <= 272.001);
        }
    }
}
