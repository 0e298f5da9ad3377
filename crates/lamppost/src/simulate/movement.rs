//! How simulated things move, and what a vessel samples on its way: pure functions of time and place, like the rest of the field.

use super::field::{Moment, drift, noise, round, seed};

/// Metres of a degree of latitude.
const DEGREE: f64 = 111_195.0;
/// Metres a second of a survey vessel: three knots.
const CRUISE: f64 = 1.5;
/// Seconds that it stays over a station.
const STAY: i64 = 600;
/// Seconds between two samples of a cast, on the way down.
pub const SAMPLE: i64 = 20;
/// Metres between them.
const STEP: f64 = 1.0;
/// Metres a second of a van with a unit in it, streets and lights and all.
const VAN: f64 = 6.0;

/// A station: longitude, latitude, metres of water.
type Station = (f64, f64, f64);

/// Where a vessel goes, round and round: places near the Environmental Protection Department's marine monitoring stations of the water control zone.
fn round_trip(key: &str) -> Option<&'static [Station]> {
    const HARBOUR: &[Station] = &[
        (114.2200, 22.2920, 14.0),
        (114.2010, 22.2960, 12.0),
        (114.1830, 22.2950, 11.0),
        (114.1690, 22.2890, 12.0),
        (114.1480, 22.2945, 13.0),
        (114.1310, 22.2990, 15.0),
    ];
    const TOLO: &[Station] = &[
        (114.2170, 22.4390, 7.0),
        (114.2290, 22.4480, 10.0),
        (114.2520, 22.4600, 13.0),
        (114.2800, 22.4700, 17.0),
        (114.3080, 22.4850, 20.0),
    ];
    match key {
        "vessel-harbour" => Some(HARBOUR),
        "vessel-tolo" => Some(TOLO),
        _ => None,
    }
}

/// Where a vessel is at a time, and how deep its instrument.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Voyage {
    pub place: [f64; 2],
    /// Metres, while it samples.
    pub depth: Option<f64>,
    /// Metres of water at the station, or at the one before.
    pub bottom: f64,
}

fn metres(a: [f64; 2], b: [f64; 2]) -> f64 {
    ((b[0] - a[0]) * DEGREE * a[1].to_radians().cos()).hypot((b[1] - a[1]) * DEGREE)
}

fn toward(a: [f64; 2], b: [f64; 2], part: f64) -> [f64; 2] {
    [a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part]
}

/// `None` for what is no vessel. `at` is in seconds since the epoch.
pub fn voyage(key: &str, at: i64) -> Option<Voyage> {
    let stations = round_trip(key)?;
    let there_and_back: Vec<Station> =
        stations.iter().chain(stations[1..stations.len() - 1].iter().rev()).copied().collect();
    let legs: Vec<(Station, Station, i64)> = there_and_back
        .iter()
        .zip(there_and_back.iter().cycle().skip(1))
        .map(|(a, b)| (*a, *b, (metres([a.0, a.1], [b.0, b.1]) / CRUISE) as i64))
        .collect();
    let whole: i64 = legs.iter().map(|(_, _, under_way)| STAY + under_way).sum();
    let mut left = at.rem_euclid(whole);
    for (a, b, under_way) in legs {
        let (from, to) = ([a.0, a.1], [b.0, b.1]);
        if left < STAY {
            // It swings around the station a little, and the instrument goes down and is then heaved.
            let swing = |nth: u64| 4e-5 * drift(seed(key) ^ nth, at.div_euclid(60), 5);
            let depth = 1.0 + STEP * (left / SAMPLE) as f64;
            let depth = Some(depth).filter(|depth| *depth <= a.2 - 1.0);
            return Some(Voyage { place: [a.0 + swing(1), a.1 + swing(2)], depth, bottom: a.2 });
        }
        left -= STAY;
        if left < under_way {
            let mut place = toward(from, to, left as f64 / under_way as f64);
            place[1] += 3e-4 * (std::f64::consts::PI * left as f64 / under_way as f64).sin();
            return Some(Voyage { place, depth: None, bottom: a.2 });
        }
        left -= under_way;
    }
    None
}

/// Summer is 1, winter 0: the water lags two months behind the sun.
fn summer(month: u32) -> f64 {
    0.5 - 0.5 * (std::f64::consts::TAU * (f64::from(month) - 2.0) / 12.0).cos()
}

/// How much the water is layered at a depth: 0 at the surface, 1 below the thermocline. Tolo Harbour is sheltered and layers in summer; the tide mixes Victoria Harbour.
fn below(key: &str, v: &Voyage, month: u32) -> f64 {
    let depth = v.depth.unwrap_or(1.0);
    let middle = 0.5 * v.bottom;
    let mixed = if key == "vessel-tolo" { 1.0 } else { 0.35 };
    mixed * summer(month) / (1.0 + (-(depth - middle) / 1.2).exp())
}

fn month(m: &Moment<'_>) -> u32 {
    m.day.date.get(5..7).and_then(|m| m.parse().ok()).unwrap_or(9)
}

/// Degrees Celsius.
pub fn water_temperature(key: &str, v: &Voyage, m: &Moment<'_>) -> f64 {
    let surface = 17.5 + 11.5 * summer(month(m)) + 0.4 * ((m.hour - 9.0) / 24.0 * std::f64::consts::TAU).sin();
    round(surface - 5.5 * below(key, v, month(m)) + 0.06 * noise(seed(key) ^ 0x74, m.minute), 2)
}

/// Practical salinity: rain and the Pearl River make the surface fresher in summer.
pub fn salinity(key: &str, v: &Voyage, m: &Moment<'_>) -> f64 {
    let rain = (m.day.rain + m.before.rain).min(200.0) / 200.0;
    let surface = 33.2 - 2.4 * summer(month(m)) - 2.0 * rain;
    round(surface + (33.6 - surface) * below(key, v, month(m)) + 0.05 * noise(seed(key) ^ 0x73, m.minute), 2)
}

/// Milligrams of oxygen a litre: what sinks is eaten below, and no new oxygen gets through the layers.
pub fn dissolved_oxygen(key: &str, v: &Voyage, m: &Moment<'_>) -> f64 {
    let surface = 8.1 - 1.9 * summer(month(m)) + 0.3 * ((m.hour - 9.0) / 24.0 * std::f64::consts::TAU).sin();
    round((surface - 4.6 * below(key, v, month(m)) + 0.12 * noise(seed(key) ^ 0x6f, m.minute)).max(0.2), 2)
}

/// Nephelometric units: a little more near the bed, and after rain.
pub fn turbidity(key: &str, v: &Voyage, m: &Moment<'_>) -> f64 {
    let near_bed = (-(v.bottom - v.depth.unwrap_or(1.0)) / 1.5).exp();
    round(2.0 + 5.0 * near_bed + m.day.rain.min(150.0) / 20.0 + 0.6 * noise(seed(key) ^ 0x75, m.minute), 1)
}

/// Where a unit is: in its hospital, but for the last of each, which is lent to the next hospital from ten to four, and is on the road for as long as that takes.
pub fn unit(key: &str, home: [f64; 2], next: Option<[f64; 2]>, hour: f64, minute: i64) -> [f64; 2] {
    // A receiver beneath a roof trembles.
    let tremble = |nth: u64| 6e-5 * (noise(seed(key) ^ nth, minute) - 0.5);
    let place = match next.filter(|_| key.ends_with("-25")) {
        Some(next) => {
            let hours = metres(home, next) / VAN / 3_600.0;
            let out = ((hour - 10.0) / hours).clamp(0.0, 1.0);
            let back = ((hour - 16.0) / hours).clamp(0.0, 1.0);
            toward(home, next, out - back)
        }
        None => home,
    };
    [place[0] + tremble(1), place[1] + tremble(2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vessel_goes_no_faster_than_it_can_and_samples_on_its_way_down() {
        for key in ["vessel-harbour", "vessel-tolo"] {
            let mut casts = 0;
            let mut before = voyage(key, 0).expect("a vessel");
            for at in (SAMPLE..40_000).step_by(SAMPLE as usize) {
                let now = voyage(key, at).expect("a vessel");
                let speed = metres(before.place, now.place) / SAMPLE as f64;
                assert!(speed < 3.0, "{key} {at} {speed}");
                match (before.depth, now.depth) {
                    (Some(above), Some(below)) => assert_eq!(below, above + STEP),
                    (None, Some(first)) => {
                        casts += 1;
                        assert_eq!(first, 1.0);
                    }
                    _ => {}
                }
                before = now;
            }
            assert!(casts > 5, "{key} {casts}");
        }
        assert_eq!(voyage("hepa-qmh-01", 0), None);
    }

    #[test]
    fn a_lent_unit_is_on_the_road_and_comes_back() {
        let (home, next) = ([114.1311, 22.2702], [114.1752, 22.3089]);
        let at = |hour| unit("hepa-qmh-25", home, Some(next), hour, 0);
        assert!(metres(at(9.0), home) < 20.0 && metres(at(14.0), next) < 20.0 && metres(at(23.0), home) < 20.0);
        let road = at(10.1);
        assert!(metres(road, home) > 500.0 && metres(road, next) > 500.0);
        assert!(metres(unit("hepa-qmh-01", home, Some(next), 14.0, 0), home) < 20.0);
    }
}
