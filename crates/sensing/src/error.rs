//! Everything that can go wrong in the room, and how a client sees it. One place, so that the same mistake always has the same answer.

use kernel::Problem;

/// Every failure of this room.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request is at fault, or asks for what may not be: the answer is complete already.
    #[error("{0}")]
    Refused(Box<Problem>),
    #[error(transparent)]
    Records(#[from] records::Error),
    /// A mistake of the program. The text goes to the log, never to the client.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::Internal(cause.to_string())
    }
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Problem::not_found(what).into()
    }
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Problem::field(field, detail).into()
    }
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Problem::bad_request(detail).into()
    }
    pub fn conflict(detail: impl Into<String>) -> Self {
        Problem::conflict(detail).into()
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

impl From<crate::observe::Error> for Error {
    fn from(error: crate::observe::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&crate::observe::Error> for Error {
    fn from(error: &crate::observe::Error) -> Self {
        use crate::observe::Error as Cause;
        match error {
            Cause::TooMany(_) => Problem::too_large(error.to_string()).into(),
            Cause::Behind | Cause::Stopping => Problem::unavailable(error.to_string(), 5).into(),
            Cause::Query(detail) => Self::bad_request(detail.clone()),
            Cause::Stream(stream::Error::Full { .. }) => {
                tracing::warn!(%error, "observations are refused");
                let detail =
                    "No space is left for observations. Nothing was taken; they are taken again when there is space.";
                Problem::unavailable(detail, 30).into()
            }
            error => {
                tracing::warn!(%error, "observations are not available");
                Problem::unavailable("The observations are not available right now. Nothing was changed.", 5).into()
            }
        }
    }
}

/// The answer while the database is away or this program is on its way out; `None` when that is not what failed.
pub fn away(error: &records::Error) -> Option<Problem> {
    use records::Error as Cause;
    let detail = match error {
        Cause::OutcomeUnknown(_) => {
            "The database went away while this was being saved. Look whether it was before you send it again."
        }
        Cause::Fenced | Cause::Closed => "This program is stopping. Nothing was changed.",
        error if error.is_transient() => "The database is not available. Nothing was changed.",
        _ => return None,
    };
    Some(Problem::unavailable(detail, 5))
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(problem) => *problem,
            Error::Records(error) => {
                tracing::warn!(%error, "the records refused");
                match error {
                    records::Error::Unique(_) => Self::conflict("Something with the same key exists already."),
                    records::Error::TooManyRows(most) => {
                        Self::bad_request(format!("The question brings more than {most} rows; narrow it or use $top."))
                    }
                    records::Error::Invalid(detail) => Self::bad_request(detail),
                    error => away(&error).unwrap_or_else(Self::internal),
                }
            }
            Error::Internal(cause) => {
                tracing::error!(%cause, "a request failed");
                Self::internal()
            }
        }
    }
}

impl axum::response::IntoResponse for Error {
    fn into_response(self) -> axum::response::Response {
        Problem::from(self).into_response()
    }
}
