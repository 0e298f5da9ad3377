//! Locations that make themselves, and the feature that stays.

use super::*;
use crate::{
    moving::{
        Fix, Place,
        locate::{Locator, Options},
    },
    scope::Scope,
};

async fn count(city: &City, sql: &'static str) -> i64 {
    let records = city.catalog.records();
    records.read(move |r| r.query_one(sql, records::params![], |row| row.get(0))).await.expect("count")
}

const MADE: &str = "SELECT COUNT(*) FROM sensing_location WHERE key LIKE '@track.%'";

#[tokio::test(flavor = "multi_thread")]
async fn a_location_is_made_when_it_has_gone_far_and_not_with_every_fix() {
    let city = City::open().await;
    let (thing, track, oxygen) = city.vessel("epd", "usv", true).await;
    let now = 43_200;
    let mut locator = Locator::default();
    let options = Options::default();
    let look = async |locator: &mut Locator| {
        locator.heard(track);
        locator.heard(oxygen);
        locator.look(&city.moving, options).await.expect("looked").len()
    };
    city.sail(track, &[(now - 60, 114.1, 22.3), (now - 30, 114.1005, 22.3)]).await;
    assert_eq!(look(&mut locator).await, 1);
    assert_eq!(count(&city, MADE).await, 1);
    let entity = city.catalog.get(&Scope::Everything, EntityType::Thing, thing).await.expect("read").expect("there");
    assert_eq!(entity.name(), "usv");
    let at = "SELECT CAST(ROUND(x * 10000) AS BIGINT) FROM sensing_thing WHERE name = 'usv'";
    assert_eq!(count(&city, at).await, 1_141_005, "the map finds it there");
    let histories = "SELECT COUNT(*) FROM sensing_historical_location";
    assert_eq!(count(&city, histories).await, 2, "the pier, then here");
    // A minute later it is elsewhere, and five minutes have not passed.
    city.clock.advance_micros(60_000_000);
    city.sail(track, &[(now + 60, 114.102, 22.3)]).await;
    assert_eq!(look(&mut locator).await, 0);
    city.clock.advance_micros(300_000_000);
    assert_eq!(look(&mut locator).await, 1, "it waited");
    // It lies at anchor.
    city.clock.advance_micros(600_000_000);
    city.sail(track, &[(now + 900, 114.1021, 22.3)]).await;
    assert_eq!(look(&mut locator).await, 0);
    // What cannot be moves nothing, and neither does what was long ago.
    city.sail(track, &[(now + 930, 115.9, 22.3)]).await;
    assert_eq!(look(&mut locator).await, 0);
    city.clock.advance_micros(2 * 86_400_000_000);
    city.sail(track, &[(now + 1_000, 114.12, 22.3)]).await;
    assert_eq!(look(&mut locator).await, 0);
    assert_eq!((count(&city, MADE).await, count(&city, histories).await), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_locations_go() {
    let city = City::open().await;
    let (thing, _, _) = city.vessel("epd", "usv", true).await;
    for n in 0..203 {
        let place = Place { lon: 114.0 + f64::from(n) / 1_000.0, lat: 22.3 };
        let fix = Fix { at: sec(i64::from(n) * 300), place, accuracy: None };
        city.catalog.moved(vec![(thing, fix)]).await.expect("moved");
        // The same once more writes nothing.
        let again = city.catalog.moved(vec![(thing, fix), (EntityId(999_999), fix)]).await.expect("moved");
        assert!(again.list.is_empty());
    }
    assert_eq!(count(&city, MADE).await, 200);
    let histories = "SELECT COUNT(*) FROM sensing_historical_location";
    assert_eq!(count(&city, histories).await, 201, "and their history with them");
    let at = "SELECT CAST(ROUND(x * 1000) AS BIGINT) FROM sensing_thing WHERE name = 'usv'";
    assert_eq!(count(&city, at).await, 114_202);
}

/// An Observation is named by its feature: one that was sent before the Thing moved and is sent again is the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_feature_of_what_moves_stays() {
    let city = City::open().await;
    let (thing, track, oxygen) = city.vessel("epd", "usv", true).await;
    city.sail(track, &[(0, 114.1, 22.3)]).await;
    let before = city.catalog.datastream(oxygen).await.expect("read").expect("there").feature;
    let fix = Fix { at: sec(0), place: Place { lon: 114.1, lat: 22.3 }, accuracy: None };
    city.catalog.moved(vec![(thing, fix)]).await.expect("moved");
    let after = city.catalog.datastream(oxygen).await.expect("read").expect("there").feature;
    assert_eq!(before, after);
    city.sail(track, &[(0, 114.1, 22.3)]).await;
    assert_eq!(city.observe.count(track).await.expect("count"), 1, "sent again is the same");
}
