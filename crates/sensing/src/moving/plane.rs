//! Places on the Earth and metres between them.

use crate::catalog::cells::Bounds;

/// The mean radius of the Earth in metres (IUGG R1): half a percent from the ellipsoid at worst, which is less than what a fence is drawn with.
const RADIUS: f64 = 6_371_008.8;
/// Metres of a degree of latitude.
pub const DEGREE: f64 = RADIUS * std::f64::consts::PI / 180.0;

/// Longitude and latitude in degrees of WGS 84.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Place {
    pub lon: f64,
    pub lat: f64,
}

impl Place {
    /// `None` for what is nowhere on the Earth.
    pub fn new(lon: f64, lat: f64) -> Option<Self> {
        ((-180.0..=180.0).contains(&lon) && (-90.0..=90.0).contains(&lat)).then_some(Self { lon, lat })
    }

    /// Metres along the great circle (haversine, which is exact for neighbours too).
    pub fn metres(self, other: Self) -> f64 {
        let (a, b) = (self.lat.to_radians(), other.lat.to_radians());
        let half = |x: f64| (x / 2.0).sin().powi(2);
        let h = half(b - a) + a.cos() * b.cos() * half((other.lon - self.lon).to_radians());
        2.0 * RADIUS * h.sqrt().min(1.0).asin()
    }

    /// The place a part of the way to another. Straight in degrees: fixes of one leg are near each other.
    pub fn toward(self, other: Self, part: f64) -> Self {
        Self { lon: self.lon + (other.lon - self.lon) * part, lat: self.lat + (other.lat - self.lat) * part }
    }

    /// Metres to the nearest point of a box; 0 inside it.
    pub fn metres_to(self, bounds: &Bounds) -> f64 {
        let lon = self.lon.clamp(bounds.min_x, bounds.max_x);
        let lat = self.lat.clamp(bounds.min_y, bounds.max_y);
        self.metres(Self { lon, lat })
    }
}

/// Metres east and north of an origin: what is within a city is as good as flat.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Plane {
    origin: Place,
    east: f64,
}

impl Plane {
    pub fn around(origin: Place) -> Self {
        Self { origin, east: DEGREE * origin.lat.to_radians().cos() }
    }
    pub fn xy(&self, place: Place) -> [f64; 2] {
        [(place.lon - self.origin.lon) * self.east, (place.lat - self.origin.lat) * DEGREE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_known_distance() {
        // Star Ferry, Tsim Sha Tsui to Central: 1.65 km on the chart.
        let (tst, central) = (Place { lon: 114.1686, lat: 22.2937 }, Place { lon: 114.1612, lat: 22.2870 });
        let metres = tst.metres(central);
        assert!((1_050.0..1_070.0).contains(&metres), "{metres}");
        assert_eq!(Place::new(181.0, 0.0), None);
        assert_eq!(Place::new(f64::NAN, 0.0), None);
    }

    proptest! {
        /// Within a city the plane and the sphere agree to a fifth of a percent.
        #[test]
        fn a_city_is_flat(ax in 113.8f64..114.5, ay in 22.1f64..22.6, bx in 113.8f64..114.5, by in 22.1f64..22.6) {
            let (a, b) = (Place { lon: ax, lat: ay }, Place { lon: bx, lat: by });
            let plane = Plane::around(Place { lon: 114.15, lat: 22.35 });
            let ([x, y], [u, v]) = (plane.xy(a), plane.xy(b));
            let flat = (x - u).hypot(y - v);
            prop_assert!((flat - a.metres(b)).abs() <= 0.002 * a.metres(b) + 0.01);
        }
    }
}
