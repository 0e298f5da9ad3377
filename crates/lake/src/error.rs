use std::sync::Arc;

/// What can go wrong in the lake. Messages name tables and columns, never paths or addresses of the store: they may reach a client.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be right: rows out of order, a column that does not exist, a schema that contradicts the table's.
    #[error("{0}")]
    Invalid(String),
    /// The query is not one read-only `SELECT`, or does not parse, or names what the caller may not see.
    #[error("{0}")]
    Query(String),
    /// The query ran past its time limit and was stopped.
    #[error("the query ran longer than {seconds} s and was stopped; narrow its time range or aggregate")]
    Timeout { seconds: u64 },
    /// The query needed more memory than it may use and was stopped.
    #[error("the query needed more than {megabytes} MB of memory and was stopped; narrow its time range or aggregate")]
    Memory { megabytes: usize },
    /// All places for queries are taken, or the tail moved faster than it could be paired with the sealed data.
    #[error("the lake is busy; try again in a moment")]
    Busy,
    /// The store refused to write because it is full. Nothing was committed; the same commit succeeds once there is room.
    #[error("the store of table '{table}' is full; nothing was committed")]
    Full { table: String },
    /// Another program committed to the table in the meantime. This lake must be the only writer.
    #[error("table '{table}' was changed by another writer")]
    Conflict { table: String },
    /// Files of the table lack the marks that this writer leaves, so another program rewrote them.
    #[error("table '{table}' holds a file that another program wrote")]
    Foreign { table: String },
    /// The store or the table format failed. Details are in the log.
    #[error("the lake's store failed: {message}")]
    Store {
        message: String,
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// Wraps a failure below the lake. The text of the cause goes to the log, not into the message.
    pub(crate) fn store(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        tracing::warn!(error = %chain(&source), "{what}");
        Self::Store { message: what.to_owned(), source: Some(Arc::new(source)) }
    }

    /// Turns a failure to write into [`Error::Full`] when a cause anywhere in the chain says that the disk or the quota is full.
    pub(crate) fn writing(table: &str, what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        if is_full(&source) {
            tracing::warn!(table, "the store is full");
            return Self::Full { table: table.to_owned() };
        }
        Self::store(what, source)
    }
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull
                    | std::io::ErrorKind::QuotaExceeded
                    | std::io::ErrorKind::FileTooLarge
                    | std::io::ErrorKind::WriteZero
            )
        {
            return true;
        }
        next = error.source();
    }
    // Some layers keep only the text of their cause.
    let text = chain(error);
    text.contains("No space left on device") || text.contains("Disk quota exceeded") || text.contains("os error 28")
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::store("columns could not be processed", error)
    }
}
impl From<parquet::errors::ParquetError> for Error {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::store("a Parquet file could not be read or written", error)
    }
}
impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        Self::store("the object store failed", error)
    }
}
impl From<deltalake::DeltaTableError> for Error {
    fn from(error: deltalake::DeltaTableError) -> Self {
        Self::store("the Delta log could not be read or written", error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_recognised_through_layers() {
        let io = std::io::Error::new(std::io::ErrorKind::StorageFull, "x");
        let layered = object_store::Error::Generic { store: "local", source: Box::new(io) };
        assert!(matches!(Error::writing("t", "w", layered), Error::Full { .. }));
        let other = object_store::Error::Generic { store: "local", source: "x".into() };
        assert!(matches!(Error::writing("t", "w", other), Error::Store { .. }));
    }
}
