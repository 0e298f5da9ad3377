//! Where a geometry lies, as columns that both engines can index: a quadtree cell and a bounding box.
//!
//! A cell is one number: the Morton code of its corner at the finest level, shifted left once for every level with a 1 bit as the end mark.
//! All cells inside a cell then form one range of numbers, so `cell BETWEEN a AND b` finds what lies inside it, and the few
//! cells that contain it are listed. A geometry is kept under the smallest cell that holds its whole box; a search
//! covers its own box with a handful of cells. SQL thus narrows, and the exact predicate decides.

use std::collections::BTreeSet;

/// Levels below the whole world: at level 26 a cell is 0.6 m of longitude at the equator.
const LEVELS: u32 = 26;
/// Cells that a search is covered with.
const COVER: usize = 8;

/// West, south, east, north in degrees of WGS 84.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bounds {
    pub min_x: f64,
    pub min_y: f64,
    pub max_x: f64,
    pub max_y: f64,
}

impl Bounds {
    pub fn intersects(&self, other: &Self) -> bool {
        self.min_x <= other.max_x && self.max_x >= other.min_x && self.min_y <= other.max_y && self.max_y >= other.min_y
    }
    /// Widened by `by` degrees on every side.
    pub fn widened(&self, by: f64) -> Self {
        Self { min_x: self.min_x - by, min_y: self.min_y - by, max_x: self.max_x + by, max_y: self.max_y + by }
    }
    /// The box around both.
    pub fn with(&self, other: &Self) -> Self {
        Self {
            min_x: self.min_x.min(other.min_x),
            min_y: self.min_y.min(other.min_y),
            max_x: self.max_x.max(other.max_x),
            max_y: self.max_y.max(other.max_y),
        }
    }
    pub fn is_finite(&self) -> bool {
        [self.min_x, self.min_y, self.max_x, self.max_y].iter().all(|v| v.is_finite())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
struct Square {
    x: u64,
    y: u64,
    level: u32,
}

fn grid(value: f64, low: f64, span: f64) -> u64 {
    let cells = 1u64 << LEVELS;
    let at = ((value - low) / span * cells as f64).floor();
    // Outside the world (or not a number) counts as its edge: still the same for rows and searches, so nothing is missed.
    if at >= 0.0 { (at as u64).min(cells - 1) } else { 0 }
}

/// West, south, east, north on the finest grid.
fn corners(bounds: &Bounds) -> [u64; 4] {
    let x = |v| grid(v, -180.0, 360.0);
    let y = |v| grid(v, -90.0, 180.0);
    [x(bounds.min_x), y(bounds.min_y), x(bounds.max_x), y(bounds.max_y)]
}

fn spread(v: u64) -> u64 {
    let mut v = v & 0xffff_ffff;
    v = (v | (v << 16)) & 0x0000_ffff_0000_ffff;
    v = (v | (v << 8)) & 0x00ff_00ff_00ff_00ff;
    v = (v | (v << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    v = (v | (v << 2)) & 0x3333_3333_3333_3333;
    (v | (v << 1)) & 0x5555_5555_5555_5555
}

impl Square {
    /// The smallest square that holds both corners.
    fn around([x0, y0, x1, y1]: [u64; 4]) -> Self {
        let differing = 64 - ((x0 ^ x1) | (y0 ^ y1)).leading_zeros();
        Self { x: x0 >> differing, y: y0 >> differing, level: LEVELS - differing.min(LEVELS) }
    }
    fn end_mark(self) -> i64 {
        1i64 << (2 * (LEVELS - self.level))
    }
    fn id(self) -> i64 {
        let up = LEVELS - self.level;
        let morton = (spread(self.x << up) | (spread(self.y << up) << 1)) as i64;
        (morton << 1) | self.end_mark()
    }
    /// The ids of this square and of all inside it.
    fn range(self) -> (i64, i64) {
        let (id, mark) = (self.id(), self.end_mark());
        (id - (mark - 1), id + (mark - 1))
    }
    fn parent(self) -> Option<Self> {
        (self.level > 0).then(|| Self { x: self.x / 2, y: self.y / 2, level: self.level - 1 })
    }
    fn children(self) -> [Self; 4] {
        let (x, y, level) = (self.x * 2, self.y * 2, self.level + 1);
        [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(dx, dy)| Self { x: x + dx, y: y + dy, level })
    }
    /// Compared on the grid, not in degrees, so that rows and searches round alike.
    fn overlaps(self, grid: &[u64; 4]) -> bool {
        let up = LEVELS - self.level;
        let [x0, y0, x1, y1] = grid;
        self.x <= x1 >> up && self.x >= x0 >> up && self.y <= y1 >> up && self.y >= y0 >> up
    }
}

/// The cell under which a geometry with this box is kept.
pub fn cell(bounds: &Bounds) -> i64 {
    Square::around(corners(bounds)).id()
}

/// A window cut into squares of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grid {
    /// West, south, east, north, in squares.
    at: [u64; 4],
    level: u32,
}

impl Grid {
    /// Every cell that there is.
    pub const WORLD: (i64, i64) = (i64::MIN, i64::MAX);

    /// The smallest squares of which at most `most` cover the window.
    pub fn over(window: &Bounds, most: usize) -> Self {
        let [x0, y0, x1, y1] = corners(window);
        let (x1, y1) = (x1.max(x0), y1.max(y0));
        let at = |level: u32| {
            let up = LEVELS - level;
            [x0 >> up, y0 >> up, x1 >> up, y1 >> up]
        };
        let fits = |level: &u32| {
            let [x0, y0, x1, y1] = at(*level);
            (x1 - x0 + 1).saturating_mul(y1 - y0 + 1) <= most.max(1) as u64
        };
        let level = (0..=LEVELS).rev().find(fits).unwrap_or(0);
        Self { at: at(level), level }
    }

    /// The cells of each square, first and last.
    pub fn ranges(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let Self { at: [x0, y0, x1, y1], level } = *self;
        (y0..=y1).flat_map(move |y| (x0..=x1).map(move |x| Square { x, y, level }.range()))
    }
}

/// What a search must look at: ranges of cells inside the searched box, and the single cells that contain parts of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cover {
    pub ranges: Vec<(i64, i64)>,
    pub cells: Vec<i64>,
}

impl Cover {
    pub fn of(bounds: &Bounds) -> Self {
        let grid = corners(bounds);
        let mut squares = vec![Square::around(grid)];
        // Splitting the coarsest square drops the quarters outside the box; each round costs at most three more squares.
        while squares.len() + 3 <= COVER {
            let finer = (0..squares.len()).filter(|&i| squares[i].level < LEVELS);
            let Some(at) = finer.min_by_key(|&i| squares[i].level) else { break };
            let coarse = squares.swap_remove(at);
            squares.extend(coarse.children().into_iter().filter(|child| child.overlaps(&grid)));
        }
        let mut ranges: Vec<(i64, i64)> = squares.iter().map(|s| s.range()).collect();
        ranges.sort_unstable();
        let mut cells = BTreeSet::new();
        for square in &squares {
            let mut up = square.parent();
            while let Some(parent) = up {
                cells.insert(parent.id());
                up = parent.parent();
            }
        }
        let cells = cells.into_iter().filter(|c| !ranges.iter().any(|(a, b)| a <= c && c <= b)).collect();
        Self { ranges, cells }
    }
    pub fn holds(&self, cell: i64) -> bool {
        self.ranges.iter().any(|&(a, b)| a <= cell && cell <= b) || self.cells.contains(&cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bounds() -> impl Strategy<Value = Bounds> {
        let span = prop_oneof![Just(0.0), 0.0..0.001, 0.0..1.0, 0.0..90.0];
        (-200.0..200.0, -100.0..100.0, span.clone(), span).prop_map(|(x, y, w, h)| Bounds {
            min_x: x,
            min_y: y,
            max_x: x + w,
            max_y: y + h,
        })
    }

    proptest! {
        /// The one property that matters: a search never misses a row.
        #[test]
        fn what_intersects_is_covered(row in bounds(), search in bounds()) {
            if row.intersects(&search) {
                prop_assert!(Cover::of(&search).holds(cell(&row)));
            }
        }

        #[test]
        fn a_cover_is_small(search in bounds()) {
            let cover = Cover::of(&search);
            prop_assert!(cover.ranges.len() <= COVER);
            prop_assert!(cover.cells.len() <= COVER * LEVELS as usize);
        }
    }

    proptest! {
        /// A grid holds every point of its window once, and stays small.
        #[test]
        fn a_grid_holds_each_point_once(window in bounds(), u in 0.0..1.0, v in 0.0..1.0) {
            let grid = Grid::over(&window, 256);
            let ranges: Vec<_> = grid.ranges().collect();
            prop_assert!(ranges.len() <= 256);
            let x = window.min_x + u * (window.max_x - window.min_x);
            let y = window.min_y + v * (window.max_y - window.min_y);
            let at = cell(&Bounds { min_x: x, min_y: y, max_x: x, max_y: y });
            prop_assert_eq!(ranges.iter().filter(|(a, b)| *a <= at && at <= *b).count(), 1);
        }
    }

    #[test]
    fn a_search_leaves_most_of_the_world_out() {
        let at = |x: f64, y: f64| cell(&Bounds { min_x: x, min_y: y, max_x: x, max_y: y });
        let central = Cover::of(&Bounds { min_x: 114.15, min_y: 22.27, max_x: 114.17, max_y: 22.29 });
        assert!(central.holds(at(114.16, 22.28)));
        assert!(!central.holds(at(114.03, 22.45)));
        assert!(!central.holds(at(0.0, 0.0)));
    }
}
