//! What a map shows of one system: every Thing where there are few, and where there are many, groups of what stands close together.
//!
//! The window is cut into at most [`SQUARES`] squares of the catalogue's quadtree, and each square is one short look at an index, which
//! stops counting at [`ENOUGH`]. So an answer costs the same for a thousand Things and for a million, and says what it left out.

use kernel::Tenant;
use records::{Param, Read, ToParam};

use super::directory::{self, Groups, ThingEntry};
use crate::{
    Error,
    catalog::cells::{Bounds, Grid},
    model::EntityId,
};

/// Things that are drawn one by one.
pub const SINGLE: u64 = 2_000;
/// Squares of a window.
const SQUARES: usize = 256;
/// Where the counting of one square ends: then it says "or more".
const ENOUGH: i64 = 500;
/// A square with so many Things shows them and not their number.
const FEW: i64 = 2;

/// Things that stand close together.
#[derive(Clone, PartialEq, Debug)]
pub struct Cluster {
    pub position: [f64; 2],
    pub things: i64,
    /// There are at least so many.
    pub more: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Plot {
    pub things: Vec<ThingEntry>,
    pub clusters: Vec<Cluster>,
}

/// Things of one owner in the system.
type Owner = (Tenant, bool, String);

/// Draws the groups within `window`: up to `single` Things one by one, and more than that gathered. Things in `urgent` are shown by themselves in
/// any case.
pub fn plot(
    read: &mut Read<'_>,
    groups: &Groups,
    window: Bounds,
    urgent: &[EntityId],
    single: u64,
) -> Result<Plot, Error> {
    let owners = groups.owners();
    let inside = |t: &ThingEntry| {
        t.position.is_some_and(|[x, y]| window.intersects(&Bounds { min_x: x, min_y: y, max_x: x, max_y: y }))
    };
    let grid = Grid::over(&window, SQUARES);
    if groups.count(|_| true).things <= single {
        let mut ids = Vec::new();
        for owner in &owners {
            ids.extend(ids_between(read, owner, Grid::WORLD)?);
        }
        let mut things = directory::entries(read, &ids)?;
        things.retain(inside);
        return Ok(Plot { things, clusters: Vec::new() });
    }
    let mut squares = Vec::new();
    for range in grid.ranges() {
        let square = look(read, &owners, range)?;
        if square.things > 0 {
            squares.push((range, square));
        }
    }
    let all: i64 = squares.iter().map(|(_, s)| s.things).sum();
    let singly = all <= single as i64 && squares.iter().all(|(_, s)| !s.more);
    let mut plot = Plot::default();
    let mut ids = Vec::new();
    for (range, square) in squares {
        if singly || square.things <= FEW {
            for owner in &owners {
                ids.extend(ids_between(read, owner, range)?);
            }
        } else {
            plot.clusters.push(square);
        }
    }
    ids.extend(urgent.iter().map(|id| id.0));
    ids.sort_unstable();
    ids.dedup();
    plot.things = directory::entries(read, &ids)?;
    // What is urgent elsewhere, in another system, or nobody's business, is not shown here.
    let shown = |t: &ThingEntry| owners.contains(&(t.tenant.clone(), t.public, t.system.clone()));
    plot.things.retain(|t| inside(t) && shown(t));
    Ok(plot)
}

/// How many Things a square holds, and where their middle is.
fn look(read: &mut Read<'_>, owners: &[Owner], (from, to): (i64, i64)) -> Result<Cluster, records::Error> {
    let sql = "SELECT COUNT(*), AVG(s.x), AVG(s.y) FROM
                 (SELECT x, y FROM sensing_thing
                  WHERE tenant = $1 AND public = $2 AND system = $3 AND cell BETWEEN $4 AND $5 LIMIT $6) AS s";
    let (mut things, mut more, mut middle) = (0, false, [0.0, 0.0]);
    for (tenant, public, system) in owners {
        let values = [
            tenant.to_param(),
            public.to_param(),
            system.to_param(),
            from.to_param(),
            to.to_param(),
            ENOUGH.to_param(),
        ];
        let (count, x, y) = read.query_one(sql, &values, |row| {
            Ok((row.get::<i64>(0)?, row.get::<Option<f64>>(1)?, row.get::<Option<f64>>(2)?))
        })?;
        things += count;
        more |= count >= ENOUGH;
        middle[0] += x.unwrap_or_default() * count as f64;
        middle[1] += y.unwrap_or_default() * count as f64;
    }
    let share = 1.0 / (things.max(1) as f64);
    Ok(Cluster { position: middle.map(|sum| sum * share), things, more })
}

/// The Things of an owner with a place in these cells; never more than are drawn one by one.
fn ids_between(read: &mut Read<'_>, owner: &Owner, (from, to): (i64, i64)) -> Result<Vec<i64>, records::Error> {
    let (tenant, public, system) = owner;
    let limit = SINGLE as i64;
    let values: [Param<'_>; 6] =
        [tenant.to_param(), public.to_param(), system.to_param(), from.to_param(), to.to_param(), limit.to_param()];
    let sql = "SELECT id FROM sensing_thing
               WHERE tenant = $1 AND public = $2 AND system = $3 AND cell BETWEEN $4 AND $5 ORDER BY cell, x, y, id LIMIT $6";
    read.query(sql, &values, |row| row.get(0))
}
