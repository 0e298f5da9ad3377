//! Sessions and retained messages in `records`.

use futures::{FutureExt, future::BoxFuture};
use records::{Error, Migration, Records, params};

use super::city::{Keep, Kept, RecordError, SavedMessage, SavedSession};

const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "sessions and retained messages",
    sql: "CREATE TABLE mqtt_session (key TEXT PRIMARY KEY, body TEXT NOT NULL, expires_at BIGINT NOT NULL);
          CREATE TABLE mqtt_retained (topic TEXT PRIMARY KEY, payload BYTES NOT NULL, qos BIGINT NOT NULL);",
}];

/// [`Keep`] on `records`.
#[derive(Clone)]
pub struct Store(Records);

impl Store {
    /// Brings the tables up to date. Blocks.
    pub fn open(records: Records) -> Result<Self, Error> {
        records.migrate("mqtt", &MIGRATIONS)?;
        Ok(Self(records))
    }
}

fn unavailable(error: Error) -> RecordError {
    tracing::warn!(%error, "MQTT sessions could not be kept or read");
    RecordError::Unavailable
}

impl Keep for Store {
    fn load(&self) -> BoxFuture<'static, Result<Kept, RecordError>> {
        let records = self.0.clone();
        async move {
            let read = records.read(|read| {
                let sessions =
                    read.query("SELECT key, body, expires_at FROM mqtt_session ORDER BY key", params![], |row| {
                        Ok(SavedSession { key: row.get(0)?, body: row.get(1)?, expires_at: row.get(2)? })
                    })?;
                let messages =
                    read.query("SELECT topic, payload, qos FROM mqtt_retained ORDER BY topic", params![], |row| {
                        let qos: i64 = row.get(2)?;
                        Ok(SavedMessage { topic: row.get(0)?, payload: row.get(1)?, qos: qos.clamp(0, 2) as u8 })
                    })?;
                Ok((sessions, messages))
            });
            read.await.map_err(unavailable)
        }
        .boxed()
    }

    fn save(&self, sessions: Vec<SavedSession>, ended: Vec<String>) -> BoxFuture<'static, Result<(), RecordError>> {
        let records = self.0.clone();
        async move {
            let written = records.write(move |tx| {
                for s in &sessions {
                    tx.execute(
                        "INSERT INTO mqtt_session (key, body, expires_at) VALUES ($1, $2, $3)
                         ON CONFLICT (key) DO UPDATE SET body = excluded.body, expires_at = excluded.expires_at",
                        params![s.key.as_str(), s.body.as_str(), s.expires_at],
                    )?;
                }
                for key in &ended {
                    tx.execute("DELETE FROM mqtt_session WHERE key = $1", params![key.as_str()])?;
                }
                Ok::<_, Error>(())
            });
            written.await.map_err(unavailable)
        }
        .boxed()
    }

    fn retain(&self, message: SavedMessage) -> BoxFuture<'static, Result<(), RecordError>> {
        let records = self.0.clone();
        async move {
            let written = records.write(move |tx| {
                if message.payload.is_empty() {
                    tx.execute("DELETE FROM mqtt_retained WHERE topic = $1", params![message.topic.as_str()])
                } else {
                    tx.execute(
                        "INSERT INTO mqtt_retained (topic, payload, qos) VALUES ($1, $2, $3)
                         ON CONFLICT (topic) DO UPDATE SET payload = excluded.payload, qos = excluded.qos",
                        params![message.topic.as_str(), message.payload.as_slice(), i64::from(message.qos)],
                    )
                }
            });
            written.await.map(|_| ()).map_err(unavailable)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::{SystemClock, Timestamp};
    use std::sync::Arc;

    #[tokio::test]
    async fn keeps_what_it_is_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = crate::test_records::options(folder.path());
        let open = || Records::open(&options, Arc::new(SystemClock)).expect("opens");
        let store = Store::open(open()).expect("migrates");
        let session = |key: &str, body: &str| SavedSession {
            key: key.to_owned(),
            body: body.to_owned(),
            expires_at: Timestamp::from_secs(5),
        };
        store.save(vec![session("a", "1"), session("b", "1")], vec![]).await.expect("saved");
        store.save(vec![session("a", "2")], vec!["b".to_owned()]).await.expect("saved");
        let message =
            |payload: &[u8]| SavedMessage { topic: "tenant/a/b".to_owned(), payload: payload.to_vec(), qos: 1 };
        store.retain(message(b"x")).await.expect("kept");
        let store = Store::open(open()).expect("opens again");
        assert_eq!(store.load().await, Ok((vec![session("a", "2")], vec![message(b"x")])));
        store.retain(message(b"")).await.expect("removed");
        assert_eq!(store.load().await.expect("read").1, []);
    }
}
