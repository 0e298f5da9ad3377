//! Rows of looks.

use kernel::{Tenant, Timestamp};
use records::{Error, Migration, Param, Read, Tx, params};
use sha2::{Digest, Sha256};

use super::WHAT;

pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "who of a sealed department has looked at what",
    sql: "CREATE TABLE sealed_look (
        id IDENTITY, tenant TEXT NOT NULL, caller TEXT NOT NULL, door TEXT NOT NULL, what TEXT NOT NULL, answer BIGINT NOT NULL,
        hash TEXT NOT NULL, minute BIGINT NOT NULL, first_at BIGINT NOT NULL, last_at BIGINT NOT NULL, times BIGINT NOT NULL,
        UNIQUE (tenant, caller, hash, minute));
    CREATE INDEX sealed_look_page ON sealed_look (tenant, id);
    CREATE INDEX sealed_look_caller ON sealed_look (tenant, caller, id);
    CREATE INDEX sealed_look_age ON sealed_look (first_at)",
}];

/// Rows forgotten at a time.
const SWEPT: i64 = 10_000;

/// One look, as it happens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    /// `http`, `batch` (a part of one) or `mqtt`.
    pub door: &'static str,
    /// `GET /v1.1/Things?$filter=…`, `SUBSCRIBE v1.1/Things`.
    pub what: String,
    /// The status of the answer; 0 where there is none.
    pub answer: u16,
}

/// A look as it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub id: i64,
    /// [`kernel::Caller::label`].
    pub caller: String,
    /// Of a person who has an account still.
    pub name: Option<String>,
    pub door: String,
    pub what: String,
    pub answer: i64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub times: i64,
}

/// Which looks, newest first.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub caller: Option<String>,
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// The id of the last one of the page before.
    pub before: Option<i64>,
    /// At most so many, one more than a page to know whether there is another.
    pub limit: u32,
}

pub fn insert(tx: &mut Tx<'_>, tenant: &Tenant, caller: &str, look: &Look) -> Result<(), Error> {
    let now = tx.now();
    let minute = now.as_micros().div_euclid(60_000_000);
    let hash = hex::encode(Sha256::digest(format!("{}\n{}\n{}", look.door, look.answer, look.what)));
    let mut what: String = look.what.chars().filter(|c| !c.is_control()).take(WHAT).collect();
    if what.len() < look.what.len() {
        what.push('…');
    }
    tx.execute(
        "INSERT INTO sealed_look (tenant, caller, door, what, answer, hash, minute, first_at, last_at, times)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, 1)
         ON CONFLICT (tenant, caller, hash, minute) DO UPDATE SET times = sealed_look.times + 1, last_at = excluded.last_at",
        params![tenant, caller, look.door, what, i64::from(look.answer), hash, minute, now],
    )?;
    Ok(())
}

pub fn sweep(tx: &mut Tx<'_>, before: Timestamp) -> Result<u64, Error> {
    let sql = "DELETE FROM sealed_look WHERE id IN (SELECT l.id FROM sealed_look l WHERE l.first_at < $1 ORDER BY l.first_at LIMIT $2)";
    tx.execute(sql, params![before, SWEPT])
}

pub fn list(read: &mut Read<'_>, tenant: &Tenant, wanted: &Wanted) -> Result<Vec<Found>, Error> {
    let mut sql =
        "SELECT l.id, l.caller, p.name, l.door, l.what, l.answer, l.first_at, l.last_at, l.times FROM sealed_look l
                   LEFT JOIN operators_person p ON l.caller = 'person:' || p.id WHERE l.tenant = $1"
            .to_owned();
    let mut values = vec![Param::Text(tenant.as_str().into())];
    let micros = |at: Timestamp| Param::Integer(at.as_micros());
    let filters = [
        ("l.id <", wanted.before.map(Param::Integer)),
        ("l.caller =", wanted.caller.as_deref().map(|caller| Param::Text(caller.into()))),
        ("l.last_at >=", wanted.from.map(micros)),
        ("l.first_at <", wanted.to.map(micros)),
    ];
    for (condition, value) in filters {
        if let Some(value) = value {
            values.push(value);
            sql.push_str(&format!(" AND {condition} ${}", values.len()));
        }
    }
    values.push(Param::Integer(i64::from(wanted.limit)));
    sql.push_str(&format!(" ORDER BY l.id DESC LIMIT ${}", values.len()));
    read.query(&sql, &values, |row| {
        Ok(Found {
            id: row.get(0)?,
            caller: row.get(1)?,
            name: row.get(2)?,
            door: row.get(3)?,
            what: row.get(4)?,
            answer: row.get(5)?,
            first_at: row.get(6)?,
            last_at: row.get(7)?,
            times: row.get(8)?,
        })
    })
}
