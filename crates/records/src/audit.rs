//! Who did what to which thing: written in the transaction that did it.

use kernel::{Caller, Tenant, Timestamp};

use crate::{Error, Param, Records, Row, Tx, params};

/// One row of the audit. Never changed, never deleted by the program.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// Grows with each row; the key of paging.
    pub id: i64,
    pub at: Timestamp,
    /// [`Caller::label`].
    pub caller: String,
    /// The tenant whose thing it is; `None` for the city as a whole.
    pub tenant: Option<Tenant>,
    /// What was done, `room:verb`.
    pub action: String,
    /// The kind of thing, and its id.
    pub kind: String,
    pub entity: String,
    pub detail: serde_json::Value,
}

/// Which rows; every field that is set narrows.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    pub tenant: Option<Tenant>,
    pub kind: Option<String>,
    /// The id of the thing; asks for `kind` too.
    pub entity: Option<String>,
    /// The `next` of the page before.
    pub before: Option<i64>,
    /// Rows on a page, 1 to 1,000.
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AuditPage {
    /// Newest first.
    pub rows: Vec<AuditRow>,
    /// Goes into [`AuditQuery::before`] for the next page; `None` on the last.
    pub next: Option<i64>,
}

/// Bytes of an audit row's detail as JSON.
const MAX_DETAIL: usize = 64 << 10;

impl Tx<'_> {
    /// Notes what this transaction does. `tenant` is the owner of the thing, not of the caller.
    #[expect(clippy::needless_pass_by_value, reason = "callers build the detail for this call with json!")]
    pub fn audit(
        &mut self,
        caller: &Caller,
        action: &str,
        kind: &str,
        id: &str,
        tenant: Option<&Tenant>,
        detail: serde_json::Value,
    ) -> Result<(), Error> {
        let detail = detail.to_string();
        if detail.len() > MAX_DETAIL {
            let size = detail.len();
            return Err(Error::Invalid(format!("the detail of an audit row has {size} bytes; at most {MAX_DETAIL}")));
        }
        self.execute(
            "INSERT INTO records_audit (at, caller, tenant, action, kind, entity, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            params![self.now(), caller.label(), tenant, action, kind, id, detail],
        )?;
        Ok(())
    }
}

const COLUMNS: &str = "SELECT id, at, caller, tenant, action, kind, entity, detail FROM records_audit WHERE id < $1";

fn read_row(row: &Row<'_>) -> Result<AuditRow, Error> {
    Ok(AuditRow {
        id: row.get(0)?,
        at: row.get(1)?,
        caller: row.get(2)?,
        tenant: row.get(3)?,
        action: row.get(4)?,
        kind: row.get(5)?,
        entity: row.get(6)?,
        detail: row.get(7)?,
    })
}

impl Records {
    /// A page of the audit, newest first. Who may see it is the caller's business.
    pub async fn audit(&self, query: AuditQuery) -> Result<AuditPage, Error> {
        if !(1..=1_000).contains(&query.limit) {
            return Err(Error::Invalid(format!("a page of {} audit rows; use 1 to 1000", query.limit)));
        }
        if query.entity.is_some() && query.kind.is_none() {
            return Err(Error::Invalid("an audit query for an id needs its kind".to_owned()));
        }
        let size = query.limit as usize;
        let mut rows = self
            .read(move |read| {
                let mut sql = COLUMNS.to_owned();
                let mut values = vec![Param::Integer(query.before.unwrap_or(i64::MAX))];
                let tenant = query.tenant.map(|tenant| tenant.to_string());
                for (filter, value) in [("tenant", tenant), ("kind", query.kind), ("entity", query.entity)] {
                    if let Some(value) = value {
                        values.push(Param::Text(value.into()));
                        sql.push_str(&format!(" AND {filter} = ${}", values.len()));
                    }
                }
                // One more than asked tells whether there is a next page.
                values.push(Param::Integer(i64::from(query.limit) + 1));
                sql.push_str(&format!(" ORDER BY id DESC LIMIT ${}", values.len()));
                read.query(&sql, &values, read_row)
            })
            .await?;
        let more = rows.len() > size;
        rows.truncate(size);
        let next = if more { rows.last().map(|row| row.id) } else { None };
        Ok(AuditPage { rows, next })
    }
}
