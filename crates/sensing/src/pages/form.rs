//! Forms that change something: what was typed, and whether it was typed on a page of ours.

use axum::{
    Extension, RequestExt,
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use jiff::{civil::DateTime, tz::TimeZone};
use kernel::{Problem, Timestamp};
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

/// A form that changes something, from a page that was made for this session. It has no other way in, so that no handler can forget to ask.
pub struct Posted {
    pub page: Page,
    pub typed: Typed,
}

impl<S: Send + Sync> FromRequest<S> for Posted {
    type Rejection = Response;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Response> {
        let Ok(page) = request.extract_parts::<Page>().await;
        let session = request.extensions().get::<SessionKey>().cloned().map(Extension);
        let axum::Form(sent) = Sent::from_request(request, state).await.map_err(IntoResponse::into_response)?;
        let typed = Typed(sent);
        genuine(&page, session, &typed).map_err(IntoResponse::into_response)?;
        Ok(Self { page, typed })
    }
}

/// What a problem says of the fields of a form: the name of each, and what is wrong. A problem that names no field is one for the whole page.
pub fn mistakes(problem: Problem) -> Result<Vec<(String, String)>, Problem> {
    if problem.errors.is_empty() {
        return Err(problem);
    }
    Ok(problem.errors.into_iter().map(|e| (e.field.trim_start_matches('/').to_owned(), e.detail)).collect())
}

/// A moment as browsers send it, in the city's time, or as RFC 3339.
pub fn moment(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    let zoned = text.parse::<DateTime>().ok()?.to_zoned(zone.clone()).ok()?;
    Some(Timestamp::from_jiff(zoned.timestamp()))
}
