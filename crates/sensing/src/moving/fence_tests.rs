use geo::Contains as _;
use proptest::prelude::*;
use serde_json::json;

use super::*;

pub(in crate::moving) fn declared(key: &str, shape: Value) -> FenceDeclaration {
    let mut body = json!({"key": key, "tenant": "ha", "name": {"en": "Yard", "zh-hant": "場", "zh-hans": "场"}});
    body.as_object_mut().expect("object").extend(shape.as_object().expect("object").clone());
    serde_json::from_value(body).expect("a declaration")
}

fn square(lon: f64, lat: f64, half: f64) -> Value {
    let (w, e, s, n) = (lon - half, lon + half, lat - half, lat + half);
    json!({"polygon": [[w, s], [e, s], [e, n], [w, n]]})
}

#[test]
fn what_is_wrong_is_named() {
    let check = |shape: Value, field: &str| {
        let errors = Fence::new(declared("yard", shape.clone())).expect_err(field);
        assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), [field], "{shape} {errors:?}");
    };
    check(json!({}), "/circle");
    check(json!({"circle": {"lon": 114.1, "lat": 22.3, "radius": 50}, "district": "Sha Tin"}), "/circle");
    check(json!({"circle": {"lon": 114.1, "lat": 22.3, "radius": 1}}), "/circle/radius");
    check(json!({"circle": {"lon": 114.1, "lat": 92.3, "radius": 50}}), "/circle/lat");
    check(json!({"polygon": [[114.1, 22.3], [114.2, 22.3]]}), "/polygon");
    check(json!({"polygon": [[114.1, 22.3], [114.2, 22.3], [114.3, 22.3]]}), "/polygon");
    check(json!({"polygon": [[114.1, 22.3], [124.2, 22.3], [114.3, 22.9]]}), "/polygon");
    check(json!({"polygon": [[114.1, 22.3], [114.2, 122.3], [114.3, 22.3]]}), "/polygon");
    check(json!({"polygon": [[114.1, 22.3], [114.2, 22.4], [114.2, 22.3], [114.1, 22.4]]}), "/polygon");
    check(json!({"geojson": {"type": "Point", "coordinates": [114.1, 22.3]}}), "/geojson");
    check(json!({"district": "Atlantis"}), "/district");
    check(json!({"kind": "Big One", "circle": {"lon": 114.1, "lat": 22.3, "radius": 50}}), "/kind");
    let ring: Vec<[f64; 2]> = (0..=MAX_CORNERS)
        .map(|n| (n as f64 / MAX_CORNERS as f64 * std::f64::consts::TAU).sin_cos())
        .map(|(sin, cos)| [114.0 + cos, 22.0 + sin])
        .collect();
    check(json!({"polygon": ring}), "/polygon");
    assert!(serde_json::from_value::<FenceDeclaration>(json!({"key": "a", "tenant": "ha", "radius": 3})).is_err());
}

#[test]
fn inside_is_less_than_nothing() {
    let fence = Fence::new(declared("yard", square(114.1, 22.3, 0.01))).expect("valid");
    let at = |lon, lat| fence.distance(Place { lon, lat });
    let half = 0.01 * DEGREE;
    assert!((at(114.1, 22.3) + half * 22.3f64.to_radians().cos()).abs() < 1.0, "the sides are nearer than the ends");
    assert!((at(114.1, 22.32) - half).abs() < 0.1);
    assert!(at(114.1, 22.31).abs() < 0.01, "on the line");
    let hole = json!({"geojson": {"type": "Polygon", "coordinates": [
        [[114.0, 22.0], [114.2, 22.0], [114.2, 22.2], [114.0, 22.2], [114.0, 22.0]],
        [[114.09, 22.09], [114.11, 22.09], [114.11, 22.11], [114.09, 22.11], [114.09, 22.09]]]}});
    let fence = Fence::new(declared("ring", hole)).expect("valid");
    assert!(fence.distance(Place { lon: 114.1, lat: 22.1 }) > 900.0, "a hole is outside");
    assert!(fence.distance(Place { lon: 114.05, lat: 22.05 }) < -4_000.0);
    let round = json!({"circle": {"lon": 114.1, "lat": 22.3, "radius": 100}});
    let fence = Fence::new(declared("round", round)).expect("valid");
    assert!((fence.distance(Place { lon: 114.1, lat: 22.3 + 150.0 / DEGREE }) - 50.0).abs() < 0.1);
    assert_eq!(fence.rings()[0].len(), 65);
}

fn star() -> impl Strategy<Value = Vec<[f64; 2]>> {
    // Corners in the order of their angle make a polygon whose sides do not cross, however far out each lies.
    proptest::collection::vec(0.1f64..1.0, 3..40).prop_map(|radii| {
        let count = radii.len() as f64;
        let corner = |(n, r): (usize, &f64)| {
            let (sin, cos) = (n as f64 / count * std::f64::consts::TAU).sin_cos();
            [114.1 + 0.1 * r * cos, 22.3 + 0.1 * r * sin]
        };
        radii.iter().enumerate().map(corner).collect()
    })
}

proptest! {
    /// What is inside is what another's algorithm calls inside, and the line is as far as the nearest side.
    #[test]
    fn agrees_with_a_scan_of_all_sides(ring in star(), x in 113.95f64..114.25, y in 22.15f64..22.45) {
        let fence = Fence::new(declared("star", json!({"polygon": ring}))).expect("valid");
        let line = LineString::from(ring.iter().map(|[x, y]| (*x, *y)).collect::<Vec<_>>());
        let polygon = Polygon::new(line, Vec::new());
        let distance = fence.distance(Place { lon: x, lat: y });
        let plane = Plane::around(Place { lon: 114.1, lat: 22.3 });
        let corners: Vec<[f64; 2]> = polygon.exterior().coords().map(|c| plane.xy(Place { lon: c.x, lat: c.y })).collect();
        let p = plane.xy(Place { lon: x, lat: y });
        let scanned = corners.windows(2).map(|w| to_edge(p, [w[0], w[1]])).fold(f64::INFINITY, f64::min);
        // The plane of the fence is around its own middle.
        prop_assert!((distance.abs() - scanned).abs() <= 0.005 * scanned + 1.0, "{distance} {scanned}");
        if scanned > 1.0 {
            prop_assert_eq!(distance < 0.0, polygon.contains(&geo::Point::new(x, y)));
        }
    }

    /// The nearest of many fences is what a look at each says.
    #[test]
    fn a_zone_is_its_nearest_fence(
        all in proptest::collection::vec((113.9f64..114.4, 22.2f64..22.5, 20.0f64..8_000.0), 0..60),
        x in 113.8f64..114.5, y in 22.1f64..22.6, within in 0.0f64..5_000.0,
    ) {
        let fences: Vec<Arc<Fence>> = all.iter().enumerate().map(|(n, (lon, lat, radius))| {
            let circle = json!({"circle": {"lon": lon, "lat": lat, "radius": radius}});
            Arc::new(Fence::new(declared(&format!("f-{n}"), circle)).expect("valid"))
        }).collect();
        let place = Place { lon: x, lat: y };
        let zone = Zone::new(fences.clone());
        let wanted = fences.iter().map(|f| f.distance(place)).min_by(f64::total_cmp);
        prop_assert_eq!(zone.distance(place).map(|(d, _)| d), wanted);
        let mut near = Vec::new();
        zone.near(place, within, |n, _| near.push(n));
        near.sort_unstable();
        let wanted: Vec<usize> = (0..fences.len()).filter(|n| fences[*n].distance(place) <= within).collect();
        prop_assert_eq!(near, wanted);
    }

    /// A fence never lets a place move faster than it does: that is why a jump is seen in the distance alone.
    #[test]
    fn distance_changes_no_faster_than_the_place(ring in star(), ax in 113.95f64..114.25, ay in 22.15f64..22.45, bx in 113.95f64..114.25, by in 22.15f64..22.45) {
        let fence = Fence::new(declared("star", json!({"polygon": ring}))).expect("valid");
        let (a, b) = (Place { lon: ax, lat: ay }, Place { lon: bx, lat: by });
        prop_assert!((fence.distance(a) - fence.distance(b)).abs() <= a.metres(b) * 1.005 + 1.0);
    }
}
