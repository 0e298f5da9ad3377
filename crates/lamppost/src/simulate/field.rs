//! How simulated devices behave: pure functions of the day's record, the time of day and a seed. The same moment always
//! gives the same reading, so a restart does not jump and history can be filled in.

use std::f64::consts::TAU;

use super::record::{Day, Pollutant};

/// A moment in the field.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    pub day: &'a Day,
    /// The day before, whose rain still runs off.
    pub before: &'a Day,
    /// Hours of local time, 0 to 24.
    pub hour: f64,
    /// Whole minutes since the epoch: the time part of the noise.
    pub minute: i64,
}

/// A hash that is as good as noise and needs no state (the finaliser of SplitMix64).
pub(super) fn noise(seed: u64, minute: i64) -> f64 {
    let mut z = seed ^ (minute as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Noise around 0, between -1 and 1, that moves smoothly over `period` minutes.
pub(super) fn drift(seed: u64, minute: i64, period: i64) -> f64 {
    let (step, part) = (minute.div_euclid(period), minute.rem_euclid(period) as f64 / period as f64);
    let (a, b) = (noise(seed, step), noise(seed, step + 1));
    let smooth = part * part * (3.0 - 2.0 * part);
    2.0 * (a + (b - a) * smooth) - 1.0
}

pub fn seed(key: &str) -> u64 {
    // FNV-1a: stable across versions of the program, which std's hasher is not.
    key.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

pub(super) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// Share of the day's rain that falls in ten minutes around `hour`: two showers, the second heavier.
fn shower(day: &Day, hour: f64) -> f64 {
    let bell = |centre: f64, width: f64| (-((hour - centre) / width).powi(2) / 2.0).exp() / (width * TAU.sqrt());
    let shift = (seed(&day.date) % 600) as f64 / 100.0;
    (0.35 * bell(4.0 + shift, 1.0) + 0.65 * bell(12.0 + shift, 1.5)) / 6.0
}

/// Millimetres in ten minutes at a station.
pub fn rain(key: &str, m: &Moment<'_>) -> f64 {
    let local = 1.0 + 0.4 * drift(seed(key), m.minute, 180);
    round(m.day.rain * shower(m.day, m.hour) * local, 1)
}

/// Metres above the channel's bed: a linear reservoir fed by the rain of the last hours.
pub fn water_level(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key);
    let base = 0.35 + 0.3 * noise(s, 0);
    let response = 0.010 + 0.012 * noise(s, 1);
    // Eight hours of inflow in ten-minute steps, each draining away with a time constant of two hours.
    let runoff: f64 = (0..48)
        .map(|step| {
            let ago = f64::from(step) / 6.0;
            let (day, hour) = if m.hour >= ago { (m.day, m.hour - ago) } else { (m.before, m.hour - ago + 24.0) };
            day.rain * shower(day, hour) * (-ago / 2.0).exp()
        })
        .sum();
    round(base + response * runoff + 0.01 * drift(s, m.minute, 7), 3)
}

/// µg/m³ at a lamppost: the nearest station's daily mean, shaped by the day's two rush hours.
pub fn air(key: &str, station: &str, pollutant: Pollutant, m: &Moment<'_>) -> Option<f64> {
    let mean = m.day.air.get(&(station.to_owned(), pollutant))?;
    let rush = |centre: f64| (-((m.hour - centre) / 2.0).powi(2)).exp();
    let shape = 0.75 + 0.45 * rush(8.5) + 0.5 * rush(18.5);
    let s = seed(key) ^ pollutant as u64;
    Some(round((mean * shape * (1.0 + 0.12 * drift(s, m.minute, 20))).max(0.0), 1))
}

/// µg/m³ of ozone: the sun makes it, and traffic takes it away.
pub fn ozone(key: &str, station: &str, m: &Moment<'_>) -> Option<f64> {
    let mean = m.day.air.get(&(station.to_owned(), Pollutant::O3))?;
    let sun = (-((m.hour - 14.5) / 3.5).powi(2)).exp();
    let s = seed(key) ^ Pollutant::O3 as u64;
    Some(round((mean * (0.7 + 1.1 * sun) * (1.0 + 0.1 * drift(s, m.minute, 30))).max(0.0), 1))
}

pub fn temperature(key: &str, m: &Moment<'_>) -> f64 {
    let month: f64 = m.day.date.get(5..7).and_then(|t| t.parse().ok()).unwrap_or(6.0);
    let season = 23.5 - 6.5 * ((month - 1.0) / 12.0 * TAU).cos();
    let cooler = if m.day.rain > 5.0 { 2.0 } else { 0.0 };
    let daily = -2.6 * ((m.hour - 2.5) / 24.0 * TAU).cos();
    round(season - cooler + daily + 0.6 * drift(seed(key), m.minute, 45), 1)
}

pub fn humidity(key: &str, m: &Moment<'_>) -> f64 {
    let wet = (m.day.rain / 50.0).min(1.0) * 18.0;
    let daily = 8.0 * ((m.hour - 4.0) / 24.0 * TAU).cos();
    round((72.0 + wet + daily + 4.0 * drift(seed(key), m.minute, 60)).clamp(30.0, 100.0), 0)
}

/// How busy the city is, 0 to 1.
fn busy(hour: f64) -> f64 {
    let bump = |centre: f64, width: f64| (-((hour - centre) / width).powi(2)).exp();
    (0.06 + 0.7 * bump(8.7, 1.8) + 0.55 * bump(13.0, 2.5) + 0.8 * bump(18.6, 2.4)).min(1.0)
}

/// Vehicles in five minutes.
pub fn traffic(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key);
    (busy(m.hour) * (60.0 + 90.0 * noise(s, 0)) * (1.0 + 0.25 * drift(s, m.minute, 5))).max(0.0).round()
}

pub fn visitors(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key);
    (busy(m.hour) * (6.0 + 12.0 * noise(s, 0)) * (1.0 + 0.5 * drift(s, m.minute, 5))).max(0.0).round()
}

pub fn occupied(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key) ^ 1;
    (busy(m.hour) * 8.0 * (0.6 + 0.5 * drift(s, m.minute, 3))).clamp(0.0, 8.0).round()
}

/// ppm: builds up with visitors and falls when the cleaners come, every four hours at a time of each toilet's own.
pub fn ammonia(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key) ^ 2;
    let since = (m.hour + 4.0 * noise(s, 0)).rem_euclid(4.0);
    round(0.8 + busy(m.hour) * since * (1.2 + 1.4 * noise(s, 1)) + 0.2 * drift(s, m.minute, 9).abs(), 1)
}

/// Percent of the paper that is left: refilled once a day at a time of each toilet's own, used up by visitors.
pub fn paper(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key) ^ 3;
    let since = (m.hour + 24.0 * noise(s, 0)).rem_euclid(24.0);
    round((100.0 - since * (2.6 + 1.8 * noise(s, 1)) - 2.0 * drift(s, m.minute, 60).abs()).max(0.0), 0)
}

/// Particles of 0.5 µm in a litre behind the filter: few, and more as it wears.
pub fn particles(key: &str, m: &Moment<'_>) -> f64 {
    let worn = 1.0 - filter(key, m) / 100.0;
    round((6.0 + 60.0 * worn.powi(3)) * (1.0 + 0.2 * drift(seed(key) ^ 8, m.minute, 12)), 0)
}

/// Spaces left of `spaces`.
pub fn vacancy(key: &str, spaces: f64, m: &Moment<'_>) -> f64 {
    let s = seed(key);
    let full = (0.25 + 0.7 * busy((m.hour - 1.0).rem_euclid(24.0)) + 0.12 * drift(s, m.minute, 25)).clamp(0.0, 1.0);
    (spaces * (1.0 - full)).round()
}

/// Pascal against the corridor. A few units lose their seal for a while: one hour in fifty.
pub fn pressure(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key);
    let leak = if noise(s ^ 7, m.minute.div_euclid(60)) < 0.02 { 6.5 } else { 0.0 };
    round(-8.0 + leak + 0.9 * drift(s, m.minute, 6), 1)
}

/// Percent of a filter's 180 days that are left.
pub fn filter(key: &str, m: &Moment<'_>) -> f64 {
    const LIFE_MINUTES: i64 = 180 * 24 * 60;
    let age = (m.minute + (noise(seed(key), 0) * LIFE_MINUTES as f64) as i64).rem_euclid(LIFE_MINUTES);
    round(100.0 * (1.0 - age as f64 / LIFE_MINUTES as f64), 1)
}

pub fn fan(key: &str, m: &Moment<'_>) -> f64 {
    (1_450.0 + unevenness(key, m)).round()
}

/// By how much a fan is off its speed.
pub fn unevenness(key: &str, m: &Moment<'_>) -> f64 {
    40.0 * drift(seed(key), m.minute, 8)
}

/// Percent of a lamp's light: on from dusk to dawn.
pub fn lamp_level(m: &Moment<'_>) -> f64 {
    if (6.5..18.0).contains(&m.hour) { 0.0 } else { 100.0 }
}

/// 1 while a door is open: for three minutes of each twenty by day, and once in a while for too long.
pub fn door(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key);
    let (turn, part) = (m.minute.div_euclid(20), m.minute.rem_euclid(20));
    let left_open = noise(s, turn) > 0.97;
    let used = (7.0..19.0).contains(&m.hour) && part < 3;
    f64::from(used || (left_open && part < 12))
}

/// Minutes since the last round: each hour, and once in a while one is left out.
pub fn round_age(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key);
    let held = |hour: i64| noise(s ^ 0x726f_756e, hour) < 0.97;
    let hour = m.minute.div_euclid(60);
    let missed = (0..6).take_while(|ago| !held(hour - ago)).count() as i64;
    (m.minute.rem_euclid(60) + 60 * missed) as f64
}

/// Beats a minute of somebody who sleeps at night and works by day.
pub fn pulse(key: &str, m: &Moment<'_>) -> f64 {
    let s = seed(key);
    let day = if (6.5..22.0).contains(&m.hour) { 14.0 } else { 0.0 };
    (58.0 + 8.0 * noise(s, 0) + day + 9.0 * drift(s, m.minute, 6)).round()
}

/// 1 while somebody calls: a minute, about once a day.
pub fn call(key: &str, m: &Moment<'_>) -> f64 {
    f64::from(noise(seed(key) ^ 0x6361_6c6c, m.minute) > 0.9993)
}

/// Volts of a battery charged by the sun.
pub fn battery(key: &str, m: &Moment<'_>) -> f64 {
    let sun = (-((m.hour - 13.0) / 3.5).powi(2)).exp() * if m.day.rain > 10.0 { 0.3 } else { 1.0 };
    round(12.4 + 1.2 * sun + 0.05 * drift(seed(key), m.minute, 30), 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(rain: f64) -> Day {
        let air = [(("CENTRAL".to_owned(), Pollutant::No2), 40.0)].into();
        Day { date: "2023-09-08".to_owned(), rain, air }
    }

    /// All the hours of a day.
    fn through<T>(day: &Day, read: impl Fn(&Moment<'_>) -> T) -> Vec<T> {
        (0..144)
            .map(|i| read(&Moment { day, before: day, hour: f64::from(i) / 6.0, minute: i64::from(i) * 10 }))
            .collect()
    }

    #[test]
    fn the_days_rain_falls_on_the_day() {
        let total: f64 = through(&day(200.0), |m| 200.0 * shower(m.day, m.hour)).iter().sum();
        assert!((180.0..=200.5).contains(&total), "{total}");
    }

    #[test]
    fn heavy_rain_raises_the_water_and_a_dry_day_does_not() {
        let highest = |rain| through(&day(rain), |m| water_level("flood-kam-tin", m)).into_iter().fold(0.0, f64::max);
        assert!(highest(0.0) < 0.8);
        assert!(highest(250.0) > highest(0.0) + 0.8);
    }

    #[test]
    fn readings_stay_in_the_range_of_their_instrument() {
        for rain in [0.0, 30.0, 400.0] {
            let day = day(rain);
            through(&day, |m| {
                assert!((30.0..=100.0).contains(&humidity("a", m)));
                assert!((0.0..=8.0).contains(&occupied("a", m)));
                assert!((0.0..=200.0).contains(&vacancy("a", 200.0, m)));
                assert!((0.0..=100.0).contains(&filter("a", m)));
                assert!((0.0..=100.0).contains(&paper("a", m)) && (0.0..200.0).contains(&particles("a", m)));
                assert!([0.0, 1.0].contains(&door("a", m)) && [0.0, 1.0].contains(&call("a", m)));
                assert!((0.0..420.0).contains(&round_age("a", m)) && (40.0..120.0).contains(&pulse("a", m)));
                assert!(air("a", "CENTRAL", Pollutant::No2, m).is_some_and(|v| (0.0..500.0).contains(&v)));
                assert_eq!(air("a", "NOWHERE", Pollutant::No2, m), None);
                assert_eq!(rain_twice(m), rain_twice(m), "the same moment gives the same reading");
            });
        }
    }

    fn rain_twice(m: &Moment<'_>) -> (f64, f64) {
        (super::rain("weather-hko", m), super::ammonia("toilet", m))
    }
}
