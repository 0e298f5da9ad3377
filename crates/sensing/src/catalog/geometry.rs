//! Geometries: GeoJSON (RFC 7946) as it is stored, WKT (06-104r4 section 7) as it stands in a filter.

use geo::{
    BoundingRect, Coord, Geometry, GeometryCollection, LineString, MultiLineString, MultiPoint, MultiPolygon, Point,
    Polygon,
};
use serde_json::Value;

use super::cells::Bounds;

/// Levels of GeometryCollection inside GeometryCollection.
const DEPTH: u32 = 8;
/// Corners of one geometry: 1.6 MB, more than any district of the city.
pub const MAX_POINTS: usize = 100_000;

/// Reads a GeoJSON geometry or Feature; `None` for a Feature without a place and for what is not GeoJSON.
pub fn from_geojson(value: &Value) -> Option<Geometry<f64>> {
    let mut left = MAX_POINTS;
    geojson(value, DEPTH, &mut left)
}

fn geojson(value: &Value, depth: u32, left: &mut usize) -> Option<Geometry<f64>> {
    let depth = depth.checked_sub(1)?;
    let coordinates = || value.get("coordinates");
    Some(match value.get("type")?.as_str()? {
        "Feature" => geojson(value.get("geometry")?, depth, left)?,
        "FeatureCollection" => {
            let features = value.get("features")?.as_array()?;
            let all: Option<Vec<_>> = features.iter().map(|f| geojson(f, depth, left)).collect();
            Geometry::GeometryCollection(GeometryCollection::from(all?))
        }
        "GeometryCollection" => {
            let members = value.get("geometries")?.as_array()?;
            let all: Option<Vec<_>> = members.iter().map(|g| geojson(g, depth, left)).collect();
            Geometry::GeometryCollection(GeometryCollection::from(all?))
        }
        "Point" => Point(position(coordinates()?, left)?).into(),
        "MultiPoint" => MultiPoint::new(positions(coordinates()?, left)?.into_iter().map(Point).collect()).into(),
        "LineString" => LineString::new(positions(coordinates()?, left)?).into(),
        "MultiLineString" => MultiLineString::new(lines(coordinates()?, left)?).into(),
        "Polygon" => polygon(lines(coordinates()?, left)?)?.into(),
        "MultiPolygon" => {
            let members = coordinates()?.as_array()?;
            let all: Option<Vec<_>> = members.iter().map(|m| polygon(lines(m, left)?)).collect();
            MultiPolygon::new(all?).into()
        }
        _ => return None,
    })
}

fn position(value: &Value, left: &mut usize) -> Option<Coord<f64>> {
    *left = left.checked_sub(1)?;
    let array = value.as_array().filter(|a| (2..=4).contains(&a.len()))?;
    let (x, y) = (array[0].as_f64()?, array[1].as_f64()?);
    (x.is_finite() && y.is_finite()).then_some(Coord { x, y })
}
fn positions(value: &Value, left: &mut usize) -> Option<Vec<Coord<f64>>> {
    value.as_array()?.iter().map(|v| position(v, left)).collect()
}
fn lines(value: &Value, left: &mut usize) -> Option<Vec<LineString<f64>>> {
    value.as_array()?.iter().map(|v| positions(v, left).map(LineString::new)).collect()
}
fn polygon(rings: Vec<LineString<f64>>) -> Option<Polygon<f64>> {
    let mut rings = rings.into_iter();
    Some(Polygon::new(rings.next()?, rings.collect()))
}

/// The box around a geometry; `None` when it has no points.
pub fn bounds(geometry: &Geometry<f64>) -> Option<Bounds> {
    let rect = geometry.bounding_rect()?;
    let bounds = Bounds { min_x: rect.min().x, min_y: rect.min().y, max_x: rect.max().x, max_y: rect.max().y };
    bounds.is_finite().then_some(bounds)
}

/// Reads WKT such as `POINT (114.16 22.28)` or `POLYGON((…))`; the error says what was expected and where.
pub fn from_wkt(text: &str) -> Result<Geometry<f64>, String> {
    let text = match text.trim_start() {
        // Extended WKT names the reference system; only WGS 84 is stored here.
        t if t.len() >= 10 && t.is_char_boundary(10) && t[..10].eq_ignore_ascii_case("SRID=4326;") => &t[10..],
        t => t,
    };
    let mut reader = Wkt { text: text.as_bytes(), at: 0 };
    let geometry = reader.geometry(DEPTH)?;
    reader.space();
    if reader.at < reader.text.len() { Err(reader.expected("the end of the geometry")) } else { Ok(geometry) }
}

struct Wkt<'a> {
    text: &'a [u8],
    at: usize,
}

impl Wkt<'_> {
    fn expected(&self, what: &str) -> String {
        format!("{what} is expected at character {} of the WKT", self.at + 1)
    }
    fn space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }
    fn eat(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }
    fn need(&mut self, byte: u8) -> Result<(), String> {
        if self.eat(byte) { Ok(()) } else { Err(self.expected(&format!("'{}'", char::from(byte)))) }
    }
    fn word(&mut self) -> String {
        self.space();
        let start = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_alphabetic) {
            self.at += 1;
        }
        self.text[start..self.at].iter().map(|b| char::from(b.to_ascii_uppercase())).collect()
    }
    fn number(&mut self) -> Result<f64, String> {
        self.space();
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|b| !matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
        let digits = &rest[..end.unwrap_or(rest.len())];
        let number: f64 = fast_float2::parse(digits).map_err(|_| self.expected("a number"))?;
        if !number.is_finite() {
            return Err(self.expected("a finite number"));
        }
        self.at += digits.len();
        Ok(number)
    }
    fn coord(&mut self) -> Result<Coord<f64>, String> {
        let coord = Coord { x: self.number()?, y: self.number()? };
        // Height and measure are allowed and play no part in plane predicates.
        for _ in 0..2 {
            self.space();
            if self.text.get(self.at).is_some_and(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.')) {
                self.number()?;
            }
        }
        Ok(coord)
    }
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        self.need(b'(')?;
        let mut all = vec![item(self)?];
        while self.eat(b',') {
            if all.len() >= MAX_POINTS {
                return Err(format!("a geometry may have at most {MAX_POINTS} points"));
            }
            all.push(item(self)?);
        }
        self.need(b')')?;
        Ok(all)
    }
    fn line(&mut self) -> Result<LineString<f64>, String> {
        self.list(Self::coord).map(LineString::new)
    }
    fn area(&mut self) -> Result<Polygon<f64>, String> {
        let mut rings = self.list(Self::line)?;
        let outer = rings.remove(0);
        Ok(Polygon::new(outer, rings))
    }
    fn geometry(&mut self, depth: u32) -> Result<Geometry<f64>, String> {
        let Some(depth) = depth.checked_sub(1) else { return Err(self.expected("a geometry that is less deep")) };
        let kind = self.word();
        // POINT Z (1 2 3), POINT M, POINT ZM
        let before = self.at;
        if !matches!(self.word().as_str(), "" | "Z" | "M" | "ZM") {
            self.at = before;
            return Err(self.expected("'('"));
        }
        Ok(match kind.as_str() {
            "POINT" => {
                self.need(b'(')?;
                let coord = self.coord()?;
                self.need(b')')?;
                Point(coord).into()
            }
            "LINESTRING" => self.line()?.into(),
            "POLYGON" => self.area()?.into(),
            "MULTIPOINT" => {
                let points = self.list(|r| {
                    let inner = r.eat(b'(');
                    let coord = r.coord()?;
                    if inner {
                        r.need(b')')?;
                    }
                    Ok(Point(coord))
                })?;
                MultiPoint::new(points).into()
            }
            "MULTILINESTRING" => MultiLineString::new(self.list(Self::line)?).into(),
            "MULTIPOLYGON" => MultiPolygon::new(self.list(Self::area)?).into(),
            "GEOMETRYCOLLECTION" => {
                Geometry::GeometryCollection(GeometryCollection::from(self.list(|r| r.geometry(depth))?))
            }
            _ => return Err(self.expected("POINT, LINESTRING, POLYGON, a MULTI form or GEOMETRYCOLLECTION")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn reads_both_notations_alike() {
        let check = |wkt: &str, json: Value| {
            assert_eq!(from_wkt(wkt).expect(wkt), from_geojson(&json).expect("geojson"), "{wkt}");
        };
        check("POINT (30 10)", json!({"type":"Point","coordinates":[30,10]}));
        check("point z(30 10 5)", json!({"type":"Point","coordinates":[30,10,5]}));
        check("SRID=4326;POINT(30 10)", json!({"type":"Feature","geometry":{"type":"Point","coordinates":[30,10]}}));
        check("LINESTRING(30 10, 1e1 30)", json!({"type":"LineString","coordinates":[[30,10],[10,30]]}));
        check(
            "POLYGON((0 0,4 0,4 4,0 0),(1 1,2 1,2 2,1 1))",
            json!({"type":"Polygon","coordinates":[[[0,0],[4,0],[4,4],[0,0]],[[1,1],[2,1],[2,2],[1,1]]]}),
        );
        check("MULTIPOINT((1 2),(3 4))", json!({"type":"MultiPoint","coordinates":[[1,2],[3,4]]}));
        check(
            "GEOMETRYCOLLECTION(POINT(1 2))",
            json!({"type":"GeometryCollection","geometries":[{"type":"Point","coordinates":[1,2]}]}),
        );
    }

    #[test]
    fn says_where_wkt_is_wrong() {
        for bad in
            ["", "POINT", "POINT(1)", "POINT(1 2", "POINT(1 2) x", "CIRCLE(1 2)", "POLYGON(1 2)", "POINT(1e999 0)"]
        {
            assert!(from_wkt(bad).expect_err(bad).contains("expected"), "{bad}");
        }
        assert!(from_wkt(&"GEOMETRYCOLLECTION(".repeat(1_000)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "\\PC{0,60}") {
            let _ = from_wkt(&text);
        }
    }
}
