//! `GET /api/looks`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
};
use kernel::{Caller, Problem, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Found, Record, Wanted, failed};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    caller: Option<String>,
    from: Option<String>,
    to: Option<String>,
    before: Option<String>,
    limit: Option<String>,
}

impl Asked {
    /// How many are wanted, and one more to know whether there are others.
    fn wanted(self) -> Result<(usize, Wanted), Problem> {
        let time = |field: &str, text: Option<String>| -> Result<Option<Timestamp>, Problem> {
            let wrong = |_| Problem::field(field, "an RFC 3339 time is expected, such as 2026-11-28T08:00:00Z");
            text.map(|text| text.parse().map_err(wrong)).transpose()
        };
        let limit = match self.limit.as_deref() {
            None => 100,
            Some(text) => {
                let limit = text.parse::<u32>().ok().filter(|limit| (1..=1_000).contains(limit));
                limit.ok_or_else(|| Problem::field("limit", "1 to 1000 is expected"))?
            }
        };
        let before = self
            .before
            .map(|text| text.parse().map_err(|_| Problem::field("before", "the next of a page is expected")));
        if self.caller.as_ref().is_some_and(|caller| caller.len() > 200) {
            return Err(Problem::field("caller", "a caller as the list names it is expected"));
        }
        let (from, to) = (time("from", self.from)?, time("to", self.to)?);
        let wanted = Wanted { caller: self.caller, from, to, before: before.transpose()?, limit: limit + 1 };
        Ok((limit as usize, wanted))
    }
}

fn shown(look: &Found) -> Value {
    json!({
        "caller": look.caller,
        "name": look.name,
        "door": look.door,
        "what": look.what,
        "answer": (look.answer > 0).then_some(look.answer),
        "first": look.first_at,
        "last": look.last_at,
        "times": look.times,
    })
}

pub async fn looks(
    State(record): State<Arc<Record>>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let tenant = record.readable(&caller)?;
    let Query(asked) = asked.map_err(|e| Problem::bad_request(e.body_text()))?;
    let (size, wanted) = asked.wanted()?;
    let mut found = record.sealed.list(&tenant, wanted).await.map_err(|e| failed(&e))?;
    let more = found.len() > size;
    found.truncate(size);
    let next = if more { found.last().map(|look| look.id.to_string()) } else { None };
    Ok(Json(json!({"looks": found.iter().map(shown).collect::<Vec<_>>(), "next": next})))
}
