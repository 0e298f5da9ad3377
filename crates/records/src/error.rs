//! What can go wrong between a room and its rows.

/// Every failure of this room. `Clone`, because one failed flush is the answer to every command of its batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached, or its disk is full. Nothing was saved; the same command may be sent again.
    #[error("the database is not available, nothing was saved: {0}")]
    Unavailable(String),
    /// The connection was lost between COMMIT and its answer, so the command may or may not be saved. Only a unique key
    /// that the command writes makes it safe to send again.
    #[error("the connection was lost while saving, the outcome is not known: {0}")]
    OutcomeUnknown(String),
    /// Other transactions kept winning; [`crate::MAX_TRIES`] attempts were made. May be sent again.
    #[error("too many transactions at once on the same rows; gave up after {0} attempts")]
    Contention(u32),
    /// The handle was closed.
    #[error("the records are closed")]
    Closed,
    /// Another program has taken over what only one may do; see [`crate::Records::fence`]. Nothing was saved.
    #[error("another program has taken over, nothing was saved")]
    Fenced,
    /// A UNIQUE or PRIMARY KEY constraint refused the row.
    #[error("already there: {0}")]
    Unique(String),
    /// A FOREIGN KEY refused the row: what it points at is missing, or something still points at it.
    #[error("a reference does not hold: {0}")]
    Reference(String),
    /// A CHECK, NOT NULL or type constraint refused the value.
    #[error("a value is refused: {0}")]
    Check(String),
    /// `query_one` found no row.
    #[error("no row")]
    NoRow,
    /// More rows than the call can hold: two for `query_opt`, [`crate::MAX_ROWS`] for `query`.
    #[error("more than {0} rows")]
    TooManyRows(usize),
    /// The statement or the use of a row is wrong: a mistake in the program, not in its input.
    #[error("wrong statement: {0}")]
    Statement(String),
    /// A statement of this transaction has failed before, so nothing more can be done in it (see [`crate::Tx::attempt`]).
    #[error("the transaction has already failed: {0}")]
    Failed(String),
    /// The command panicked. Its changes are undone, the others of its batch are kept.
    #[error("the command panicked: {0}")]
    Panicked(String),
    /// An option, parameter or limit is not valid.
    #[error("not valid: {0}")]
    Invalid(String),
    /// The migrations of the program and of the database do not fit together.
    #[error("migration of '{room}' refused: {reason}")]
    Migration { room: String, reason: String },
    /// A backup cannot be written or read.
    #[error("backup: {0}")]
    Backup(String),
}

impl Error {
    /// Whether the same command may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Contention(_))
    }
}
