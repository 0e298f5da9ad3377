//! Boxes that do not change, packed into a tree, so that a question costs what is near it and not what there is.
//!
//! Sort-tile-recursive packing (Leutenegger, Lopez, Edgington 1997): sorted by x into slices, each slice by y, sixteen to a node. Built once for a fence's
//! edges and once for a set of fences; nothing is ever put into it or taken out.

use crate::catalog::cells::Bounds;

/// Boxes of one node.
const NODE: usize = 16;

/// Levels of boxes, the given ones first, each level around groups of [`NODE`] of the one below.
#[derive(Clone, Debug, Default)]
pub struct Boxes {
    levels: Vec<Vec<Bounds>>,
    /// What each box of the first level is called.
    names: Vec<u32>,
}

fn around(boxes: &[Bounds]) -> Bounds {
    let empty =
        Bounds { min_x: f64::INFINITY, min_y: f64::INFINITY, max_x: f64::NEG_INFINITY, max_y: f64::NEG_INFINITY };
    boxes.iter().fold(empty, |all, b| all.with(b))
}

impl Boxes {
    /// The boxes are called by their place in the list.
    pub fn new(boxes: &[Bounds]) -> Self {
        if boxes.is_empty() {
            return Self::default();
        }
        let middle = |n: &u32| {
            let b = &boxes[*n as usize];
            (b.min_x + b.max_x, b.min_y + b.max_y)
        };
        let mut names: Vec<u32> = (0..boxes.len() as u32).collect();
        names.sort_by(|a, b| middle(a).0.total_cmp(&middle(b).0));
        let nodes = boxes.len().div_ceil(NODE);
        let slice = NODE * (nodes as f64).sqrt().ceil() as usize;
        for slice in names.chunks_mut(slice) {
            slice.sort_by(|a, b| middle(a).1.total_cmp(&middle(b).1));
        }
        let mut levels = vec![names.iter().map(|n| boxes[*n as usize]).collect::<Vec<_>>()];
        while let Some(below) = levels.last().filter(|l| l.len() > 1) {
            levels.push(below.chunks(NODE).map(around).collect());
        }
        Self { levels, names }
    }

    /// Shows every box that touches the window.
    pub fn each(&self, window: &Bounds, mut show: impl FnMut(u32)) {
        let mut open: Vec<(usize, usize)> = self.top().into_iter().collect();
        while let Some((level, at)) = open.pop() {
            if !self.levels[level][at].intersects(window) {
                continue;
            }
            match level.checked_sub(1) {
                None => show(self.names[at]),
                Some(below) => open.extend(self.members(below, at).map(|at| (below, at))),
            }
        }
    }

    /// The one with the least `exact`, looking at those alone whose box does not rule them out: `least` is never more than `exact` of what is inside the box.
    pub fn nearest(&self, least: impl Fn(&Bounds) -> f64, mut exact: impl FnMut(u32) -> f64) -> Option<(u32, f64)> {
        let mut best: Option<(u32, f64)> = None;
        let (level, at) = self.top()?;
        let mut open = vec![(least(&self.levels[level][at]), level, at)];
        while let Some((bound, level, at)) = open.pop() {
            if best.is_some_and(|(_, found)| bound >= found) {
                continue;
            }
            match level.checked_sub(1) {
                None => {
                    let (name, found) = (self.names[at], exact(self.names[at]));
                    if best.is_none_or(|(_, best)| found < best) {
                        best = Some((name, found));
                    }
                }
                Some(below) => {
                    let first = open.len();
                    open.extend(self.members(below, at).map(|at| (least(&self.levels[below][at]), below, at)));
                    // The last is looked at first: the one that promises most, so that it rules the others out.
                    open[first..].sort_by(|a, b| b.0.total_cmp(&a.0));
                }
            }
        }
        best
    }

    fn top(&self) -> Option<(usize, usize)> {
        self.levels.len().checked_sub(1).map(|level| (level, 0))
    }
    fn members(&self, level: usize, parent: usize) -> std::ops::Range<usize> {
        parent * NODE..((parent + 1) * NODE).min(self.levels[level].len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boxes() -> impl Strategy<Value = Vec<Bounds>> {
        let one = (-100.0f64..100.0, -100.0f64..100.0, 0.0f64..20.0, 0.0f64..20.0);
        proptest::collection::vec(
            one.prop_map(|(x, y, w, h)| Bounds { min_x: x, min_y: y, max_x: x + w, max_y: y + h }),
            0..600,
        )
    }
    fn distance(b: &Bounds, x: f64, y: f64) -> f64 {
        (x - x.clamp(b.min_x, b.max_x)).hypot(y - y.clamp(b.min_y, b.max_y))
    }

    proptest! {
        /// The tree says what a look at every box says.
        #[test]
        fn finds_what_a_scan_finds(all in boxes(), window in boxes(), x in -120.0f64..120.0, y in -120.0f64..120.0) {
            let tree = Boxes::new(&all);
            for window in window.iter().take(5) {
                let mut found = Vec::new();
                tree.each(window, |n| found.push(n as usize));
                found.sort_unstable();
                let wanted: Vec<usize> = (0..all.len()).filter(|n| all[*n].intersects(window)).collect();
                prop_assert_eq!(found, wanted);
            }
            let exact = |n: u32| distance(&all[n as usize], x, y);
            let found = tree.nearest(|b| distance(b, x, y), exact).map(|(_, d)| d);
            let wanted = all.iter().map(|b| distance(b, x, y)).min_by(f64::total_cmp);
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_question_looks_at_little() {
        let all: Vec<Bounds> = (0..10_000)
            .map(|n| {
                let (x, y) = (f64::from(n % 100), f64::from(n / 100));
                Bounds { min_x: x, min_y: y, max_x: x + 0.5, max_y: y + 0.5 }
            })
            .collect();
        let mut looked = 0;
        let found = Boxes::new(&all).nearest(
            |b| distance(b, 42.2, 17.3),
            |n| {
                looked += 1;
                distance(&all[n as usize], 42.2, 17.3)
            },
        );
        assert_eq!(found, Some((1_742, 0.0)));
        assert!(looked <= 2 * NODE, "{looked} of 10,000 were looked at");
    }
}
