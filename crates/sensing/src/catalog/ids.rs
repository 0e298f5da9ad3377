//! Which ids have been given, for a backup: an id that was given after the rows were copied must not be given again, because its
//! Observations may be in the copy.

use records::{Records, params};

/// The last id of each kind of entity.
pub async fn last_ids(records: &Records) -> Result<Vec<(String, i64)>, records::Error> {
    let sql = "SELECT kind, last FROM sensing_sequence ORDER BY kind";
    records.read(move |read| read.query(sql, params![], |row| Ok((row.get(0)?, row.get(1)?)))).await
}

/// Gives no id up to these any more.
pub async fn skip_ids(records: &Records, ids: Vec<(String, i64)>) -> Result<(), records::Error> {
    let sql = "INSERT INTO sensing_sequence (kind, last) VALUES ($1, $2)
               ON CONFLICT (kind) DO UPDATE SET last = excluded.last WHERE sensing_sequence.last < excluded.last";
    let all = move |tx: &mut records::Tx<'_>| {
        ids.iter().try_for_each(|(kind, last)| tx.execute(sql, params![kind, *last]).map(drop))
    };
    records.write(all).await
}
