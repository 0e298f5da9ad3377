//! How the records are opened.

use std::path::PathBuf;

use crate::Error;

/// Which engine, where, and how much may wait.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    pub engine: EngineOptions,
    /// Reading connections; as many queries run at once. 1 to 256.
    pub readers: usize,
    /// Writing connections on PostgreSQL, 1 to 256. SQLite has one writer, whatever stands here.
    pub writers: usize,
    /// Commands that may wait for a writer before callers wait themselves. 1 to 1,000,000.
    pub queue: usize,
    /// Commands that share one flush. 1 to 10,000; 1 flushes each alone.
    pub max_batch: usize,
}

#[derive(Clone, PartialEq, Eq)]
pub enum EngineOptions {
    /// A file on a local disk; network file systems do not support WAL.
    Sqlite { path: PathBuf },
    /// `postgres://user:password@host/database` or `host=… dbname=…`, as libpq reads them.
    Postgres { url: String },
}

impl Options {
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        let engine = EngineOptions::Sqlite { path: path.into() };
        Self { engine, readers: 4, writers: 1, queue: 4_096, max_batch: 512 }
    }

    /// Here the server groups the commits of its connections by itself, so each command is a transaction of its own and a
    /// conflict repeats nobody else's work.
    pub fn postgres(url: impl Into<String>) -> Self {
        let engine = EngineOptions::Postgres { url: url.into() };
        Self { engine, readers: 8, writers: 16, queue: 4_096, max_batch: 1 }
    }

    pub fn validate(&self) -> Result<(), Error> {
        let check = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::Invalid(format!("records.{name} is {value}; use 1 to {most}")))
        };
        check("readers", self.readers, 256)?;
        check("writers", self.writers, 256)?;
        check("queue", self.queue, 1_000_000)?;
        check("max_batch", self.max_batch, 10_000)?;
        match &self.engine {
            EngineOptions::Sqlite { path } if path.as_os_str().is_empty() => {
                Err(Error::Invalid("records.path is empty; name a file".to_owned()))
            }
            EngineOptions::Postgres { url } if url.trim().is_empty() => {
                Err(Error::Invalid("records.url is empty; write postgres://user@host/database".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Without the address of PostgreSQL, which may hold a password.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("engine", &self.engine)
            .field("readers", &self.readers)
            .field("writers", &self.writers)
            .field("queue", &self.queue)
            .field("max_batch", &self.max_batch)
            .finish()
    }
}
impl std::fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite { path } => write!(f, "Sqlite({})", path.display()),
            Self::Postgres { .. } => f.write_str("Postgres"),
        }
    }
}
