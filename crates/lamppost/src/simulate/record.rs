//! The published record that drives the field: daily rain at the Observatory, daily air quality at 18 stations.
//!
//! A simulated day replays one day of the record. Nothing is invented at this scale: a wet day in the field was a wet day in Hong Kong.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result};

/// One day of the record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Day {
    /// `2023-09-08`.
    pub date: String,
    /// Millimetres.
    pub rain: f64,
    /// Daily means by (station column, pollutant), as published (µg/m³).
    pub air: HashMap<(String, Pollutant), f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pollutant {
    No2,
    Pm25,
    So2,
    O3,
    Pm10,
}

/// The days that are replayed, in order and then again from the start.
#[derive(Clone, Debug)]
pub struct Record {
    days: Vec<Day>,
}

impl Record {
    /// Reads `data/` of a pack from the day `first` on.
    pub fn read(data: &Path, first: &str, count: usize) -> Result<Self> {
        let rain = std::fs::read_to_string(data.join("hko-daily-rainfall.csv")).context("hko-daily-rainfall.csv")?;
        let air = std::fs::read_to_string(data.join("epd-air-quality-daily-2017-2024.csv"))
            .context("epd-air-quality-daily-2017-2024.csv")?;
        let mut days: Vec<Day> =
            rain.lines().filter_map(rain_of).filter(|d| d.date.as_str() >= first).take(count).collect();
        anyhow::ensure!(!days.is_empty(), "the rainfall record has no day from {first} on");
        let index: HashMap<String, usize> = days.iter().enumerate().map(|(i, d)| (d.date.clone(), i)).collect();
        let mut stations: Vec<String> = Vec::new();
        for line in air.lines() {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            if fields.first() == Some(&"DATE") {
                stations = fields[2..].iter().map(|s| (*s).to_owned()).collect();
                continue;
            }
            let pollutant = match fields.get(1) {
                Some(&"Nitrogen Dioxide") => Pollutant::No2,
                Some(&"Fine Suspended Particulates") => Pollutant::Pm25,
                Some(&"Sulphur Dioxide") => Pollutant::So2,
                Some(&"Ozone") => Pollutant::O3,
                Some(&"Respirable Suspended Particulates") => Pollutant::Pm10,
                _ => continue,
            };
            let date: Vec<&str> = fields[0].split('-').collect();
            let [d, m, y] = date.as_slice() else { continue };
            let Some(&day) = index.get(&format!("{y}-{m}-{d}")) else { continue };
            for (station, value) in stations.iter().zip(&fields[2..]) {
                if let Ok(value) = value.parse() {
                    days[day].air.insert((station.clone(), pollutant), value);
                }
            }
        }
        Ok(Self { days })
    }

    pub fn day(&self, n: usize) -> &Day {
        &self.days[n % self.days.len()]
    }
}

/// `1884,3,1,0.0,C`; "Trace" is less than 0.05 mm, `***` is no data, and everything else in the file is no day.
fn rain_of(line: &str) -> Option<Day> {
    let fields: Vec<&str> = line.split(',').collect();
    let [year, month, day, value, _] = fields.as_slice() else { return None };
    let date =
        format!("{:04}-{:02}-{:02}", year.parse::<u16>().ok()?, month.parse::<u8>().ok()?, day.parse::<u8>().ok()?);
    let rain = if *value == "Trace" { 0.02 } else { value.parse().ok()? };
    Some(Day { date, rain, air: HashMap::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_published_form() {
        assert_eq!(rain_of("1884,3,7,50.6,C").map(|d| (d.date, d.rain)), Some(("1884-03-07".to_owned(), 50.6)));
        assert_eq!(rain_of("2025,5,8,Trace,C").map(|d| d.rain), Some(0.02));
        for other in [
            "年/Year,月/Month,日/Day,數值/Value,數據完整性/data Completeness",
            "2020,1,1,***,",
            "",
            "*** 沒有數據/unavailable",
        ] {
            assert_eq!(rain_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_pack_holds_the_black_rainstorm_of_2023() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong/data");
        let record = Record::read(&data, "2023-09-07", 5).expect("the pack's data");
        assert_eq!(record.day(1).date, "2023-09-08");
        assert!(record.day(0).rain + record.day(1).rain > 300.0);
        assert!(record.day(0).air.contains_key(&("MONG KOK".to_owned(), Pollutant::No2)));
        assert_eq!(record.day(5).date, "2023-09-07", "the record starts again");
    }
}
