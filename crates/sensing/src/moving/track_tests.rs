use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::moving::{
    fence::{Fence, tests::declared},
    plane::DEGREE,
};

fn fix(second: i64, east: f64, north: f64) -> Fix {
    let lat = 22.3 + north / DEGREE;
    Fix {
        at: Timestamp::from_secs(second),
        place: Place { lon: 114.1 + east / (DEGREE * 22.3f64.to_radians().cos()), lat },
        accuracy: None,
    }
}

fn limits() -> Limits {
    Limits { max_speed: 20.0, gap: 60 }
}

#[test]
fn legs_end_where_nobody_knows() {
    let fixes =
        [fix(0, 0.0, 0.0), fix(10, 100.0, 0.0), fix(20, 200.0, 0.0), fix(100, 900.0, 0.0), fix(110, 900.0, 50.0)];
    let track = Track::new(&fixes, limits());
    assert_eq!(track.legs.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
    assert!((track.metres() - 250.0).abs() < 1.0, "the gap is no way: {}", track.metres());
    assert_eq!(track.seconds(), 30.0);
    assert!(track.suspect.is_empty());
    let speeds: Vec<i64> = track.speeds().concat().iter().map(|(_, v)| v.round() as i64).collect();
    assert_eq!(speeds, [10, 10, 5]);
    let at = |micros: i64| track.at(Timestamp::from_micros(micros));
    let middle = at(5_000_000).expect("on the way");
    assert!(middle.metres(fix(0, 50.0, 0.0).place) < 0.5);
    assert_eq!(at(20_000_000), Some(fixes[2].place));
    assert_eq!((at(50_000_000), at(-1), at(110_000_001)), (None, None, None), "not in a gap, before or after");
    let still = |second: i64| track.still(Timestamp::from_secs(second), limits());
    assert_eq!(
        (still(109), still(110), still(170), still(171)),
        (None, Some(fixes[4].place), Some(fixes[4].place), None)
    );
}

#[test]
fn what_cannot_be_is_flagged_and_in_no_leg() {
    let mut fixes: Vec<Fix> = (0..10).map(|n| fix(n * 10, n as f64 * 100.0, 0.0)).collect();
    fixes[4] = fix(40, 400.0, 9_000.0);
    let track = Track::new(&fixes, limits());
    assert_eq!(track.suspect, [fixes[4]]);
    assert_eq!(track.fixes(), 9);
    assert!((track.metres() - 900.0).abs() < 2.0);
    // What an instrument is not sure of is no jump.
    fixes[4].accuracy = Some(9_500.0);
    assert!(Track::new(&fixes, limits()).suspect.is_empty());
}

/// A Thing that was carried away: the first fixes there are doubted, then believed, and no line leads there.
#[test]
fn who_is_elsewhere_for_good_is_believed() {
    let mut fixes: Vec<Fix> = (0..5).map(|n| fix(n * 10, 0.0, 0.0)).collect();
    fixes.extend((5..9).map(|n| fix(n * 10, 50_000.0, n as f64)));
    let track = Track::new(&fixes, limits());
    assert!(track.suspect.is_empty(), "{:?}", track.suspect);
    assert_eq!(track.legs.iter().map(Vec::len).collect::<Vec<_>>(), [5, 4]);
    assert!(track.metres() < 10.0);
}

#[test]
fn a_repetition_counts_once() {
    let fixes = [fix(0, 0.0, 0.0), fix(10, 50.0, 0.0), fix(10, 90.0, 0.0), fix(20, 100.0, 0.0)];
    assert_eq!(Track::new(&fixes, limits()).fixes(), 3);
}

#[test]
fn visits_begin_and_end_beyond_doubt() {
    let circle = |key: &str, east: f64| {
        let place = fix(0, east, 0.0).place;
        let shape = json!({"circle": {"lon": place.lon, "lat": place.lat, "radius": 100}});
        Arc::new(Fence::new(declared(key, shape)).expect("valid"))
    };
    let zone = Zone::new(vec![circle("a", 0.0), circle("b", 1_000.0), circle("c", 9_000.0)]);
    // It trembles on the line of `a`, goes to `b` and stays.
    let east = [-500.0, -105.0, -95.0, -103.0, 0.0, 95.0, 105.0, 95.0, 130.0, 500.0, 950.0, 1_000.0];
    let fixes: Vec<Fix> = east.iter().enumerate().map(|(n, e)| fix(n as i64 * 60, *e, 0.0)).collect();
    let track = Track::new(&fixes, Limits::default());
    let seen: Vec<_> = track
        .visits(&zone, 20.0)
        .iter()
        .map(|v| (v.fence, v.entered.as_micros() / 60_000_000, v.left.map(|t| t.as_micros() / 60_000_000), v.seconds()))
        .collect();
    assert_eq!(seen, [(0, 4, Some(8), 240), (1, 10, None, 60)]);
}

fn walk() -> impl Strategy<Value = Vec<Fix>> {
    proptest::collection::vec((1i64..120, -500.0f64..500.0, -500.0f64..500.0), 1..300).prop_map(|steps| {
        let (mut second, mut east, mut north) = (0, 0.0, 0.0);
        let step = |(seconds, x, y): (i64, f64, f64)| {
            second += seconds;
            east += x;
            north += y;
            fix(second, east, north)
        };
        steps.into_iter().map(step).collect()
    })
}

proptest! {
    /// Every fix is in one leg or suspect; legs are in order, without gaps, and no faster than is possible.
    #[test]
    fn nothing_is_lost_and_nothing_impossible_is_left(fixes in walk(), max_speed in 1.0f64..50.0, gap in 10u32..100) {
        let limits = Limits { max_speed, gap };
        let track = Track::new(&fixes, limits);
        let mut all: Vec<Timestamp> = track.legs.iter().flatten().chain(&track.suspect).map(|f| f.at).collect();
        prop_assert!(track.legs.iter().flatten().is_sorted_by(|a, b| a.at < b.at));
        all.sort();
        prop_assert_eq!(all, fixes.iter().map(|f| f.at).collect::<Vec<_>>());
        for w in track.legs.iter().flat_map(|leg| leg.windows(2)) {
            prop_assert!(speed(&w[0], &w[1]) <= max_speed && seconds(&w[0], &w[1]) <= f64::from(gap));
        }
    }

    /// At most as many as were asked for, out of those that there are, the ends of each leg among them; and at no fix further off than was said.
    #[test]
    fn a_simpler_track_is_as_right_as_it_says(fixes in walk(), most in 2usize..80) {
        let track = Track::new(&fixes, Limits { max_speed: 1e9, gap: 90 });
        let (simple, wrong) = track.simplified(most);
        prop_assert!(simple.fixes() <= most, "{} of {most}", simple.fixes());
        let whole = simple.legs.len() == track.legs.len();
        prop_assert!(whole || track.legs.len() > most / 2);
        let legs = &track.legs[track.legs.len() - simple.legs.len()..];
        for (leg, simple_leg) in legs.iter().zip(&simple.legs) {
            prop_assert_eq!((leg.first(), leg.last()), (simple_leg.first(), simple_leg.last()));
            prop_assert!(simple_leg.iter().all(|f| leg.contains(f)));
            for f in leg {
                let taken = simple.at(f.at).expect("within a leg");
                prop_assert!(taken.metres(f.place) <= wrong * 1.01 + 0.5, "{} {wrong}", taken.metres(f.place));
            }
        }
        if track.fixes() <= most && whole {
            prop_assert_eq!(&simple, &track);
        }
    }

    /// Between two fixes it is between them; with every fix it is where that says.
    #[test]
    fn interpolation_stays_on_the_way(fixes in walk(), part in 0.0f64..1.0) {
        let track = Track::new(&fixes, Limits { max_speed: 1e9, gap: 90 });
        for leg in &track.legs {
            for w in leg.windows(2) {
                let time = w[0].at.plus_micros((part * w[1].at.micros_since(w[0].at) as f64) as i64);
                let at = track.at(time).expect("within a leg");
                prop_assert!(at.metres(w[0].place) + at.metres(w[1].place) <= w[0].place.metres(w[1].place) * 1.001 + 0.1);
            }
        }
    }
}
