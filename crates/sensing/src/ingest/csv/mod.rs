//! Tables that an officer brings: CSV as spreadsheets and instruments write it.
//!
//! What the file is (encoding, delimiter, form of the times) is guessed and shown ([`guess`]); then it is a connector's document like any other, and goes
//! `rows → map → fit → what differs is recorded` with the same code. A dry run does all of it but the recording.

mod door;
pub mod guess;

pub use door::{Column, Outcome, Target, Upload};
pub use guess::{Guess, Wishes};
