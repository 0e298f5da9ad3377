//! Forms that change something: what was typed, and whether it was typed on a page of ours.

use axum::Extension;
use kernel::Problem;
use ui::{Page, SessionKey};

/// The fields of a form in order; some repeat.
pub type Sent = axum::Form<Vec<(String, String)>>;

/// What somebody typed.
#[derive(Clone, Debug, Default)]
pub struct Typed(pub Vec<(String, String)>);

impl Typed {
    /// A field without the spaces around it; empty when it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.trim())
    }
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Whether the form stood on a page that was made for this session.
pub fn genuine(page: &Page, session: Option<Extension<SessionKey>>, typed: &Typed) -> Result<(), Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let Extension(session) = session.ok_or_else(Problem::unauthenticated)?;
    if page.site.csrf.verify(&session.0, typed.get(ui::csrf::FIELD)) {
        return Ok(());
    }
    Err(Problem::forbidden("The form was not made for this session. Open the page again and send it once more."))
}
