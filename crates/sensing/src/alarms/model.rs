//! An alarm's life. Pure: decisions over values, no I/O, no clock.
//!
//! ```text
//!            acknowledge            condition over            close
//!   open ───────────────▶ acknowledged ─────────▶ cleared ───────────▶ closed
//!     │ ◀─────────────────  (undo)                   ▲ acknowledge, undo: stays cleared
//!     └──────────────── condition over ──────────────┘
//! ```
//! The rule raises and clears, people acknowledge and close. Closing an alarm whose condition still stands is possible (a broken sensor
//! would otherwise stay on the board for ever) and needs a reason. A closed alarm never changes; the next raise is a new alarm.

use std::sync::Arc;

use kernel::{Id, Kind, Tenant, Text, Timestamp};
use serde::Serialize;

use crate::{model::EntityId, rules::model::Severity};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlarmState {
    /// The condition stands and nobody has taken it on.
    Open,
    /// The condition stands and somebody is at work.
    Acknowledged,
    /// The condition is over; nobody has looked back yet.
    Cleared,
    /// Done.
    Closed,
}

impl AlarmState {
    pub const ALL: [Self; 4] = [Self::Open, Self::Acknowledged, Self::Cleared, Self::Closed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Cleared => "cleared",
            Self::Closed => "closed",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
    /// Whether the condition still stands.
    pub const fn stands(self) -> bool {
        matches!(self, Self::Open | Self::Acknowledged)
    }
}

/// Who did something, and when. `by` is [`kernel::Caller::label`]: never a person's name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mark {
    pub by: String,
    pub at: Timestamp,
}

/// One alarm: that a rule's condition stood at a Thing, from `raised_at` until `cleared_at`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Alarm {
    pub id: Id<Alarm>,
    /// The rule's key.
    pub rule: String,
    pub tenant: Tenant,
    /// Whether everybody may see it: as the Datastream that raised it.
    pub public: bool,
    pub severity: Severity,
    pub state: AlarmState,
    /// The rule's name when it was raised.
    pub name: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<Text>,
    pub thing: EntityId,
    pub thing_name: Text,
    /// The Datastream that raised it.
    pub datastream: EntityId,
    pub system: Option<String>,
    pub district: Option<String>,
    /// The number that raised it; `None` for silence.
    pub value: Option<f64>,
    pub unit: Option<String>,
    /// When the condition came to stand, by the time of measurement.
    pub raised_at: Timestamp,
    /// When this program found out.
    pub recorded_at: Timestamp,
    pub acknowledged: Option<Mark>,
    pub cleared_at: Option<Timestamp>,
    pub closed: Option<Mark>,
    /// Who was asked to see to it: `team:` and the key of a recipient, `person:` and an id, `role:` and a role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assignee: Option<Assignee>,
    /// Counts every change, from 1; what a client sends back to say which state it decided upon.
    pub version: u32,
}

impl Kind for Alarm {
    const NAME: &'static str = "alarm";
}

#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    Acknowledge {
        comment: Option<Comment>,
    },
    /// Undoes the acknowledgement.
    Unacknowledge {
        comment: Option<Comment>,
    },
    /// The rule says that the condition is over.
    Clear {
        at: Timestamp,
        value: Option<f64>,
    },
    Close {
        comment: Option<Comment>,
    },
    Remark {
        comment: Comment,
    },
    /// Asks somebody to see to it; nobody any more with `None`.
    Assign {
        to: Option<Assignee>,
        comment: Option<Comment>,
    },
}

/// Who is asked to see to an alarm.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Assignee(Arc<str>);

impl Assignee {
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let named = ["team:", "person:", "role:"].into_iter().find_map(|kind| text.strip_prefix(kind));
        let clean = |name: &str| (1..=100).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
        match named {
            Some(name) if clean(name) => Ok(Self(text.into())),
            _ => Err("'team:', 'person:' or 'role:' and a name is expected, such as team:dsd-duty".to_owned()),
        }
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The key of the recipient, of a team.
    pub fn team(&self) -> Option<&str> {
        self.0.strip_prefix("team:")
    }
}

/// What a person wrote: 1 to 2,000 characters, no control characters but line feeds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Comment(Arc<str>);

impl Comment {
    pub const MAX_CHARS: usize = 2_000;

    /// `None` for nothing but blanks.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.replace("\r\n", "\n");
        let text = text.trim();
        if text.chars().count() > Self::MAX_CHARS {
            return Err(format!("at most {} characters are expected", Self::MAX_CHARS));
        }
        if text.chars().any(|c| c.is_control() && c != '\n') {
            return Err("text without control characters is expected".to_owned());
        }
        Ok((!text.is_empty()).then(|| Self(text.into())))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One line of an alarm's history.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Entry {
    /// The alarm's version that this line made.
    pub version: u32,
    pub at: Timestamp,
    pub by: String,
    pub kind: EntryKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    Raised,
    Acknowledged,
    Unacknowledged,
    Cleared,
    Closed,
    Remark,
    Assigned,
}

impl EntryKind {
    const ALL: [Self; 7] = [
        Self::Raised,
        Self::Acknowledged,
        Self::Unacknowledged,
        Self::Cleared,
        Self::Closed,
        Self::Remark,
        Self::Assigned,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Acknowledged => "acknowledged",
            Self::Unacknowledged => "unacknowledged",
            Self::Cleared => "cleared",
            Self::Closed => "closed",
            Self::Remark => "remark",
            Self::Assigned => "assigned",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// Why a command is not possible now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the alarm is closed; a closed alarm does not change")]
    Closed,
    #[error("the alarm is acknowledged already")]
    AlreadyAcknowledged,
    #[error("the alarm is with them already")]
    AlreadyAssigned,
    #[error("the alarm is not acknowledged")]
    NotAcknowledged,
    #[error("the condition is over already")]
    AlreadyCleared,
    #[error("the condition still stands; to close the alarm all the same, say why in 'comment'")]
    ReasonNeeded,
}

/// The alarm after `command`, and the line for its history.
///
/// # Errors
/// A [`Refusal`] when the alarm's state does not admit the command; then nothing changes.
pub fn decide(alarm: &Alarm, command: &Command, by: &str, now: Timestamp) -> Result<(Alarm, Entry), Refusal> {
    use AlarmState as S;
    let mut next = alarm.clone();
    next.version = alarm.version.saturating_add(1);
    let mark = || Some(Mark { by: by.to_owned(), at: now });
    let (kind, comment, value) = match command {
        Command::Remark { comment } => (EntryKind::Remark, Some(comment), None),
        _ if alarm.state == S::Closed => return Err(Refusal::Closed),
        Command::Acknowledge { comment } => {
            if alarm.acknowledged.is_some() {
                return Err(Refusal::AlreadyAcknowledged);
            }
            next.acknowledged = mark();
            if alarm.state == S::Open {
                next.state = S::Acknowledged;
            }
            (EntryKind::Acknowledged, comment.as_ref(), None)
        }
        Command::Unacknowledge { comment } => {
            if alarm.acknowledged.is_none() {
                return Err(Refusal::NotAcknowledged);
            }
            next.acknowledged = None;
            if alarm.state == S::Acknowledged {
                next.state = S::Open;
            }
            (EntryKind::Unacknowledged, comment.as_ref(), None)
        }
        Command::Clear { at, value } => {
            if !alarm.state.stands() {
                return Err(Refusal::AlreadyCleared);
            }
            next.state = S::Cleared;
            next.cleared_at = Some(*at);
            (EntryKind::Cleared, None, *value)
        }
        Command::Assign { to, comment } => {
            if alarm.assignee == *to {
                return Err(Refusal::AlreadyAssigned);
            }
            next.assignee = to.clone();
            (EntryKind::Assigned, comment.as_ref(), None)
        }
        Command::Close { comment } => {
            if alarm.state.stands() && comment.is_none() {
                return Err(Refusal::ReasonNeeded);
            }
            next.state = S::Closed;
            next.closed = mark();
            (EntryKind::Closed, comment.as_ref(), None)
        }
    };
    let comment = comment.map(|c| c.as_str().to_owned());
    // The history says to whom, before what was said.
    let comment = match command {
        Command::Assign { to, .. } => {
            let to = to.as_ref().map_or("-", Assignee::as_str);
            Some(comment.map_or_else(|| to.to_owned(), |said| format!("{to}\n{said}")))
        }
        _ => comment,
    };
    let entry = Entry { version: next.version, at: now, by: by.to_owned(), kind, comment, value };
    Ok((next, entry))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn alarm() -> Alarm {
        Alarm {
            id: Id::new(Timestamp::from_secs(1), 7),
            rule: "r".to_owned(),
            tenant: Tenant::parse("dsd").expect("slug"),
            public: false,
            severity: Severity::Severe,
            state: AlarmState::Open,
            name: Text::plain("High water"),
            instruction: None,
            thing: EntityId(1),
            thing_name: Text::plain("San Tin"),
            datastream: EntityId(2),
            system: None,
            district: None,
            value: Some(3.0),
            unit: None,
            raised_at: Timestamp::from_secs(1),
            recorded_at: Timestamp::from_secs(2),
            acknowledged: None,
            cleared_at: None,
            closed: None,
            assignee: None,
            version: 1,
        }
    }

    fn comment() -> Option<Comment> {
        Comment::parse("because").expect("valid")
    }

    fn commands() -> [(&'static str, Command); 6] {
        [
            ("acknowledge", Command::Acknowledge { comment: None }),
            ("unacknowledge", Command::Unacknowledge { comment: None }),
            ("clear", Command::Clear { at: Timestamp::from_secs(9), value: None }),
            ("close", Command::Close { comment: None }),
            ("close because", Command::Close { comment: comment() }),
            ("remark", Command::Remark { comment: comment().expect("some") }),
        ]
    }

    /// Every reachable state with every command: the whole matrix.
    #[test]
    fn the_matrix() {
        use AlarmState::{Acknowledged, Cleared, Closed, Open};
        use Refusal::{AlreadyAcknowledged, AlreadyCleared, NotAcknowledged, ReasonNeeded};
        let shut = Err(Refusal::Closed);
        // The state, whether it was acknowledged, and what each command makes of it, in the order of `commands`.
        let matrix = [
            (
                Open,
                false,
                [
                    Ok((Acknowledged, true)),
                    Err(NotAcknowledged),
                    Ok((Cleared, false)),
                    Err(ReasonNeeded),
                    Ok((Closed, false)),
                    Ok((Open, false)),
                ],
            ),
            (
                Acknowledged,
                true,
                [
                    Err(AlreadyAcknowledged),
                    Ok((Open, false)),
                    Ok((Cleared, true)),
                    Err(ReasonNeeded),
                    Ok((Closed, true)),
                    Ok((Acknowledged, true)),
                ],
            ),
            (
                Cleared,
                false,
                [
                    Ok((Cleared, true)),
                    Err(NotAcknowledged),
                    Err(AlreadyCleared),
                    Ok((Closed, false)),
                    Ok((Closed, false)),
                    Ok((Cleared, false)),
                ],
            ),
            (
                Cleared,
                true,
                [
                    Err(AlreadyAcknowledged),
                    Ok((Cleared, false)),
                    Err(AlreadyCleared),
                    Ok((Closed, true)),
                    Ok((Closed, true)),
                    Ok((Cleared, true)),
                ],
            ),
            (Closed, false, [shut, shut, shut, shut, shut, Ok((Closed, false))]),
            (Closed, true, [shut, shut, shut, shut, shut, Ok((Closed, true))]),
        ];
        for (state, acknowledged, expected) in matrix {
            let mark = acknowledged.then(|| Mark { by: "a".to_owned(), at: Timestamp::from_secs(3) });
            let before = Alarm { state, acknowledged: mark, ..alarm() };
            for ((name, command), expect) in commands().into_iter().zip(expected) {
                let got = decide(&before, &command, "person:p", Timestamp::from_secs(10));
                if let Ok((after, entry)) = &got {
                    assert_eq!((after.version, entry.version), (2, 2));
                    assert_eq!((entry.by.as_str(), entry.at), ("person:p", Timestamp::from_secs(10)));
                }
                let got = got.map(|(a, _)| (a.state, a.acknowledged.is_some()));
                assert_eq!(got, expect, "{state:?} acknowledged={acknowledged} {name}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_way_leads_out_of_closed_or_back_from_cleared(way in proptest::collection::vec(0usize..6, 0..30)) {
            let mut now = alarm();
            for step in way {
                let command = &commands()[step].1;
                if let Ok((next, entry)) = decide(&now, command, "x", Timestamp::from_secs(10)) {
                    let undone = matches!(command, Command::Unacknowledge { .. });
                    prop_assert!(next.state >= now.state || undone);
                    prop_assert_eq!(next.version, now.version + 1);
                    prop_assert_eq!(entry.version, next.version);
                    prop_assert_eq!(next.closed.is_some(), next.state == AlarmState::Closed);
                    prop_assert!(next.cleared_at.is_none() || !next.state.stands());
                    now = next;
                }
            }
        }
    }

    #[test]
    fn comments_are_clean_and_bounded() {
        assert_eq!(Comment::parse(" \n ").expect("valid"), None);
        assert_eq!(Comment::parse(" a\r\nb ").expect("valid").expect("some").as_str(), "a\nb");
        assert!(Comment::parse("a\u{0}b").is_err());
        assert!(Comment::parse(&"字".repeat(2_001)).is_err());
    }
}
