//! What a run did with every row and value: nothing is lost silently.

use serde::{Deserialize, Serialize};

/// Rejections that are told with place and reason; all are counted.
pub const EXAMPLES: usize = 20;

/// The account of one run.
///
/// It always balances: `values + gaps = written + unchanged + repeated + rejected`, and every row is mapped, skipped or rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Rows that were read.
    pub rows: u64,
    /// Footers, and rows that `only` leaves out.
    pub rows_skipped: u64,
    /// Rows that could not be understood as a whole: no time, or too many fields.
    pub rows_rejected: u64,
    /// Values in the rows that were mapped.
    pub values: u64,
    /// Steps without a row that were found between two rows.
    pub gaps: u64,
    /// New or different from what was stored.
    pub written: u64,
    /// Stored already, exactly so.
    pub unchanged: u64,
    /// Values for an Observation that a later row of the same file gives again; the later stands.
    pub repeated: u64,
    /// Values that could not be used.
    pub rejected: u64,
    /// Those of `written` and `unchanged` that carry a `resultQuality`.
    pub flagged: u64,
    /// Columns of the file that the declaration does not use.
    pub unread_columns: Vec<String>,
    /// The first rejections.
    pub examples: Vec<Rejection>,
}

/// A row or value that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The line of a CSV file, or the number of the element, from 1.
    pub line: u64,
    pub field: String,
    /// What stood there.
    pub text: String,
    pub reason: String,
}

const SHOWN: usize = 80;

/// The beginning of a text from outside, on one line.
pub fn shorten(text: &str) -> String {
    text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Rejection {
    pub fn new(line: u64, field: &str, text: &str, reason: &str) -> Self {
        let reason = reason.chars().take(4 * SHOWN).collect();
        Self { line, field: shorten(field), text: shorten(text), reason }
    }
}

impl Report {
    fn example(&mut self, rejection: Rejection) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(rejection);
        }
    }
    pub fn reject_row(&mut self, rejection: Rejection) {
        self.rows_rejected += 1;
        self.example(rejection);
    }
    pub fn reject(&mut self, rejection: Rejection) {
        self.rejected += 1;
        self.example(rejection);
    }
    /// Whether every row and value is accounted for.
    pub fn balances(&self) -> bool {
        self.values + self.gaps == self.written + self.unchanged + self.repeated + self.rejected
            && self.rows_skipped + self.rows_rejected <= self.rows
    }
    /// Takes in the account of another file of the same run.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.rows_skipped += other.rows_skipped;
        self.rows_rejected += other.rows_rejected;
        self.values += other.values;
        self.gaps += other.gaps;
        self.written += other.written;
        self.unchanged += other.unchanged;
        self.repeated += other.repeated;
        self.rejected += other.rejected;
        self.flagged += other.flagged;
        for column in other.unread_columns {
            if !self.unread_columns.contains(&column) {
                self.unread_columns.push(column);
            }
        }
        self.unread_columns.truncate(EXAMPLES);
        other.examples.into_iter().for_each(|e| self.example(e));
    }
}
