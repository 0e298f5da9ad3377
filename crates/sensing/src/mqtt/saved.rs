//! The text of a session in `records`: its subscriptions and its position, nothing of its messages.

use std::num::NonZeroU32;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use super::{
    hub,
    interest::Selection,
    session::{Position, State, Subscription},
    wire::QoS,
};

#[derive(Serialize, Deserialize)]
struct Text {
    expiry: u32,
    offset: u64,
    /// Twice the Observation's place in its frame: once it counted the messages of an Observation, of which there were two.
    index: u32,
    /// Records that are gone and of which the client must be told.
    #[serde(default)]
    missed: u64,
    subscriptions: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    filter: String,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    id: Option<NonZeroU32>,
    since: u64,
}

pub struct Body {
    pub expiry: u32,
    pub position: Position,
    pub missed: u64,
    pub subscriptions: Vec<(ByteString, Subscription)>,
}

pub fn write(state: &State, position: Position) -> String {
    let subscriptions = state
        .subscriptions
        .iter()
        .map(|(filter, s)| Line {
            filter: filter.to_string(),
            qos: s.qos.value(),
            no_local: s.no_local,
            retain_as_published: s.retain_as_published,
            id: s.id,
            since: s.since,
        })
        .collect();
    // Which of an Observation's messages comes next is not kept: after a restart they may all come again.
    let index = position.index.saturating_mul(2);
    let text = Text { expiry: state.expiry, offset: position.offset, index, missed: state.missed, subscriptions };
    // Plain numbers and strings always serialise.
    serde_json::to_string(&text).unwrap_or_default()
}

/// `None` for text that this door has not written.
pub fn read(text: &str) -> Option<Body> {
    let text: Text = serde_json::from_str(text).ok()?;
    let subscriptions = text
        .subscriptions
        .into_iter()
        .map(|line| {
            let select = Selection::of(hub::split(&line.filter).1).ok()?;
            Some((
                ByteString::from(line.filter),
                Subscription {
                    qos: QoS::try_from(line.qos).ok()?,
                    no_local: line.no_local,
                    retain_as_published: line.retain_as_published,
                    id: line.id,
                    since: line.since,
                    select,
                },
            ))
        })
        .collect::<Option<_>>()?;
    let position = Position { offset: text.offset, index: text.index / 2, slot: 0 };
    Some(Body { expiry: text.expiry, position, missed: text.missed, subscriptions })
}
