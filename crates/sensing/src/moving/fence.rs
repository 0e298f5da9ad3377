//! A geofence: what a pack or an officer draws, and how far a place is outside of it. Pure, no I/O.
//!
//! ```toml
//! [[fence]]
//! key = "hospital-qmh"
//! tenant = "ha"
//! name = { en = "Queen Mary Hospital", zh-hant = "瑪麗醫院", zh-hans = "玛丽医院" }
//! kind = "hospital"
//! circle = { lon = 114.1311, lat = 22.2702, radius = 250 }
//! ```

use std::sync::Arc;

use geo::{Geometry, LineString, Polygon};
use kernel::{FieldError, Tenant, Text};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    boxes::Boxes,
    plane::{DEGREE, Place, Plane},
};
use crate::{
    catalog::{cells::Bounds, geometry},
    rules::model::is_key,
};

/// Corners of one fence: more than any district of a city has.
pub const MAX_CORNERS: usize = 20_000;
/// Metres.
const RADIUS: std::ops::RangeInclusive<f64> = 5.0..=100_000.0;
/// Degrees from side to side. The plane that a fence is measured on ends there, and so does any city.
const MAX_SPAN: f64 = 5.0;
/// Beyond it a degree of longitude is no longer worth drawing with.
const MAX_LATITUDE: f64 = 80.0;

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circle {
    pub lon: f64,
    pub lat: f64,
    /// Metres.
    pub radius: f64,
}

/// A fence as it is declared: with exactly one of the four shapes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceDeclaration {
    /// Unique in the city; `a-z 0-9 - .`.
    pub key: String,
    /// Whose rules may name it; those of others only when it is public.
    pub tenant: Tenant,
    pub name: Text,
    /// What rules call several alike, such as `hospital`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Whether everybody may see it.
    #[serde(default)]
    pub public: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circle: Option<Circle>,
    /// One ring of longitudes and latitudes; it closes itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polygon: Option<Vec<[f64; 2]>>,
    /// A Polygon or MultiPolygon (RFC 7946).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geojson: Option<Value>,
    /// A district of the city's map, by its name there. Its outline is put in its place when the fence is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub district: Option<String>,
}

/// A fence whose every field has been checked, ready to be measured against.
#[derive(Clone, Debug)]
pub struct Fence {
    declaration: FenceDeclaration,
    outline: Outline,
}

impl PartialEq for Fence {
    fn eq(&self, other: &Self) -> bool {
        self.declaration == other.declaration
    }
}

impl std::ops::Deref for Fence {
    type Target = FenceDeclaration;
    fn deref(&self) -> &FenceDeclaration {
        &self.declaration
    }
}

#[derive(Clone, Debug)]
enum Outline {
    Circle { centre: Place, radius: f64, bounds: Bounds },
    Rings(Box<Rings>),
}

/// Polygons with their edges in metres, outer rings and holes alike: inside is where a ray crosses an odd number of edges.
#[derive(Clone, Debug)]
struct Rings {
    plane: Plane,
    edges: Vec<[[f64; 2]; 2]>,
    tree: Boxes,
    bounds: Bounds,
    shape: Vec<Polygon<f64>>,
}

impl Fence {
    /// # Errors
    /// Everything that is wrong, each with its JSON Pointer and what would be right.
    pub fn new(declaration: FenceDeclaration) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, detail: String| errors.push(FieldError { field: field.to_owned(), detail });
        let d = &declaration;
        if !is_key(&d.key) {
            wrong("/key", "use 1 to 80 of a-z, 0-9, '-' and '.', starting with a letter or digit".to_owned());
        }
        if let Err(detail) = Tenant::parse(d.tenant.as_str()) {
            wrong("/tenant", detail);
        }
        let forms =
            [("en", Some(&d.name.en)), ("zh-hant", d.name.zh_hant.as_ref()), ("zh-hans", d.name.zh_hans.as_ref())];
        for (language, form) in forms {
            if !form.is_some_and(|t| (1..=200).contains(&t.trim().len()) && !t.chars().any(char::is_control)) {
                wrong(&format!("/name/{language}"), "one line of 1 to 200 bytes is expected".to_owned());
            }
        }
        if d.kind.as_ref().is_some_and(|kind| !is_key(kind)) {
            wrong("/kind", "use 1 to 80 of a-z, 0-9, '-' and '.', starting with a letter or digit".to_owned());
        }
        let outline = match (&d.circle, &d.polygon, &d.geojson, &d.district) {
            (Some(circle), None, None, None) => Outline::circle(circle),
            (None, Some(ring), None, None) => {
                let line = LineString::from(ring.iter().map(|[x, y]| (*x, *y)).collect::<Vec<_>>());
                Outline::rings("/polygon", vec![Polygon::new(line, Vec::new())], true)
            }
            // An outline that the map gave may touch itself here and there; one that is drawn may not.
            (None, None, Some(shape), district) => match geometry::from_geojson(shape) {
                Some(Geometry::Polygon(one)) => Outline::rings("/geojson", vec![one], district.is_none()),
                Some(Geometry::MultiPolygon(all)) => Outline::rings("/geojson", all.0, district.is_none()),
                _ => Err(("/geojson", "a GeoJSON Polygon or MultiPolygon is expected".to_owned())),
            },
            (None, None, None, Some(name)) => {
                let name: String = name.chars().take(60).collect();
                Err(("/district", format!("the city's map has no district '{name}'")))
            }
            _ => Err(("/circle", "exactly one of circle, polygon, geojson and district is expected".to_owned())),
        };
        let outline = outline.map_err(|(field, detail)| wrong(field, detail)).ok();
        match outline {
            Some(outline) if errors.is_empty() => Ok(Self { declaration, outline }),
            _ => Err(errors),
        }
    }

    pub fn declaration(&self) -> &FenceDeclaration {
        &self.declaration
    }

    /// The box around it, in degrees.
    pub fn bounds(&self) -> &Bounds {
        match &self.outline {
            Outline::Circle { bounds, .. } => bounds,
            Outline::Rings(rings) => &rings.bounds,
        }
    }

    /// Metres that a place lies outside; less than nothing inside.
    pub fn distance(&self, place: Place) -> f64 {
        match &self.outline {
            Outline::Circle { centre, radius, .. } => centre.metres(place) - radius,
            Outline::Rings(rings) => rings.distance(place),
        }
    }

    /// Rings of longitudes and latitudes, to be drawn.
    pub fn rings(&self) -> Vec<Vec<[f64; 2]>> {
        match &self.outline {
            Outline::Circle { centre, radius, .. } => {
                let east = DEGREE * centre.lat.to_radians().cos();
                let corner = |n: i32| {
                    let (sin, cos) = (f64::from(n) / 64.0 * std::f64::consts::TAU).sin_cos();
                    [centre.lon + radius * cos / east, centre.lat + radius * sin / DEGREE]
                };
                vec![(0..=64).map(corner).collect()]
            }
            Outline::Rings(rings) => {
                let lines = rings.shape.iter().flat_map(|p| std::iter::once(p.exterior()).chain(p.interiors()));
                lines.map(|line| line.coords().map(|c| [c.x, c.y]).collect()).collect()
            }
        }
    }
}

impl Outline {
    fn circle(circle: &Circle) -> Result<Self, (&'static str, String)> {
        let centre = Place::new(circle.lon, circle.lat).filter(|p| p.lat.abs() <= MAX_LATITUDE);
        let wrong =
            || ("/circle/lat", format!("degrees of longitude, and of latitude to {MAX_LATITUDE}, are expected"));
        let centre = centre.ok_or_else(wrong)?;
        if !RADIUS.contains(&circle.radius) {
            return Err(("/circle/radius", format!("{} to {} metres are expected", RADIUS.start(), RADIUS.end())));
        }
        let (x, y) = (circle.radius / (DEGREE * centre.lat.to_radians().cos()), circle.radius / DEGREE);
        let bounds =
            Bounds { min_x: centre.lon - x, min_y: centre.lat - y, max_x: centre.lon + x, max_y: centre.lat + y };
        Ok(Self::Circle { centre, radius: circle.radius, bounds })
    }

    fn rings(field: &'static str, shape: Vec<Polygon<f64>>, drawn: bool) -> Result<Self, (&'static str, String)> {
        let lines = || shape.iter().flat_map(|p| std::iter::once(p.exterior()).chain(p.interiors()));
        let corners: usize = lines().map(|l| l.0.len()).sum();
        if corners > MAX_CORNERS {
            return Err((field, format!("at most {MAX_CORNERS} corners are possible, not {corners}")));
        }
        if lines().next().is_none() || lines().any(|l| l.0.len() < 4) {
            return Err((field, "a ring of at least three corners is expected".to_owned()));
        }
        if lines().flat_map(|l| l.coords()).any(|c| Place::new(c.x, c.y).is_none_or(|p| p.lat.abs() > MAX_LATITUDE)) {
            let detail = format!("every corner is longitude and latitude in degrees, to latitude {MAX_LATITUDE}");
            return Err((field, detail));
        }
        // Around every ring: a hole that reaches out of what it is in is part of the even and odd like the rest.
        let corner = |c: &geo::Coord<f64>| Bounds { min_x: c.x, min_y: c.y, max_x: c.x, max_y: c.y };
        let bounds = lines().flat_map(|l| l.coords()).map(corner).reduce(|a, b| a.with(&b));
        let bounds = bounds.ok_or((field, "a ring of at least three corners is expected".to_owned()))?;
        if bounds.max_x - bounds.min_x > MAX_SPAN || bounds.max_y - bounds.min_y > MAX_SPAN {
            return Err((field, format!("it may be at most {MAX_SPAN} degrees from side to side")));
        }
        let middle = Place { lon: (bounds.min_x + bounds.max_x) / 2.0, lat: (bounds.min_y + bounds.max_y) / 2.0 };
        let plane = Plane::around(middle);
        let mut edges = Vec::with_capacity(corners);
        for line in lines() {
            let points: Vec<[f64; 2]> = line.coords().map(|c| plane.xy(Place { lon: c.x, lat: c.y })).collect();
            edges.extend(points.windows(2).map(|w| [w[0], w[1]]).filter(|[a, b]| a != b));
        }
        let tree = Boxes::new(&edges.iter().map(around).collect::<Vec<_>>());
        let rings = Rings { plane, edges, tree, bounds, shape };
        if drawn && let Some([x, y]) = rings.crossing() {
            let (lon, lat) = (middle.lon + x / (DEGREE * middle.lat.to_radians().cos()), middle.lat + y / DEGREE);
            return Err((field, format!("two of its sides cross near {lon:.5}, {lat:.5}")));
        }
        if rings.area() < 1.0 {
            return Err((field, "it encloses nothing".to_owned()));
        }
        Ok(Self::Rings(Box::new(rings)))
    }
}

fn around([a, b]: &[[f64; 2]; 2]) -> Bounds {
    Bounds { min_x: a[0].min(b[0]), min_y: a[1].min(b[1]), max_x: a[0].max(b[0]), max_y: a[1].max(b[1]) }
}

/// On which side of the line from `a` to `b`.
fn side(a: [f64; 2], b: [f64; 2], p: [f64; 2]) -> f64 {
    (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
}

impl Rings {
    fn distance(&self, place: Place) -> f64 {
        let p = self.plane.xy(place);
        let least = |b: &Bounds| (p[0] - p[0].clamp(b.min_x, b.max_x)).hypot(p[1] - p[1].clamp(b.min_y, b.max_y));
        let metres = self.tree.nearest(least, |n| to_edge(p, self.edges[n as usize])).map_or(f64::INFINITY, |n| n.1);
        if self.holds(p) { -metres } else { metres }
    }

    /// Whether a ray to the east crosses an odd number of edges. An edge has its lower end and not its upper, so that a corner counts once.
    fn holds(&self, p: [f64; 2]) -> bool {
        let ray = Bounds { min_x: p[0], min_y: p[1], max_x: f64::MAX, max_y: p[1] };
        let mut inside = false;
        self.tree.each(&ray, |n| {
            let [a, b] = self.edges[n as usize];
            if (a[1] > p[1]) != (b[1] > p[1]) {
                let x = a[0] + (p[1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0]);
                inside ^= p[0] < x;
            }
        });
        inside
    }

    /// Where two edges cross other than at their ends.
    fn crossing(&self) -> Option<[f64; 2]> {
        for (at, &[a, b]) in self.edges.iter().enumerate() {
            let mut found = None;
            self.tree.each(&around(&[a, b]), |n| {
                let [c, d] = self.edges[n as usize];
                let apart = side(a, b, c) * side(a, b, d) < 0.0 && side(c, d, a) * side(c, d, b) < 0.0;
                if n as usize > at && apart {
                    found = Some(a);
                }
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Square metres, holes and all: enough to tell something from nothing.
    fn area(&self) -> f64 {
        self.edges.iter().map(|[a, b]| a[0] * b[1] - b[0] * a[1]).sum::<f64>().abs() / 2.0
    }
}

fn to_edge(p: [f64; 2], [a, b]: [[f64; 2]; 2]) -> f64 {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let along = ((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / (dx * dx + dy * dy);
    let along = if along.is_finite() { along.clamp(0.0, 1.0) } else { 0.0 };
    (p[0] - a[0] - along * dx).hypot(p[1] - a[1] - along * dy)
}

/// Several fences that are looked at together: a place is inside when it is inside one of them.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    fences: Vec<Arc<Fence>>,
    tree: Boxes,
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.fences == other.fences
    }
}

impl Zone {
    pub fn new(fences: Vec<Arc<Fence>>) -> Self {
        let tree = Boxes::new(&fences.iter().map(|f| *f.bounds()).collect::<Vec<_>>());
        Self { fences, tree }
    }
    pub fn fences(&self) -> &[Arc<Fence>] {
        &self.fences
    }
    pub fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }

    /// Metres outside of the nearest, less than nothing inside, and which one; `None` when there are no fences.
    pub fn distance(&self, place: Place) -> Option<(f64, &Arc<Fence>)> {
        // A box that holds the place says nothing of how deep inside it lies.
        let least = |b: &Bounds| match place.metres_to(b) {
            0.0 => f64::NEG_INFINITY,
            // A box is nearest at its corner or straight across, but for the curve of a parallel.
            metres => metres * 0.999,
        };
        let (nearest, metres) = self.tree.nearest(least, |n| self.fences[n as usize].distance(place))?;
        Some((metres, &self.fences[nearest as usize]))
    }

    /// The fences that hold a place, or come within so many metres of it.
    pub fn near(&self, place: Place, metres: f64, mut show: impl FnMut(usize, f64)) {
        // A little wider: a parallel is not straight.
        let (x, y) = (1.01 * metres / (DEGREE * place.lat.to_radians().cos()).max(1.0), 1.01 * metres / DEGREE);
        let window = Bounds { min_x: place.lon - x, min_y: place.lat - y, max_x: place.lon + x, max_y: place.lat + y };
        self.tree.each(&window, |n| {
            let distance = self.fences[n as usize].distance(place);
            if distance <= metres {
                show(n as usize, distance);
            }
        });
    }

    /// The box around all of them; `None` when there are none.
    pub fn bounds(&self) -> Option<Bounds> {
        self.fences.iter().map(|f| *f.bounds()).reduce(|a, b| a.with(&b))
    }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
pub(super) mod tests;
