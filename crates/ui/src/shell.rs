//! What stands between the city's pages and the network: security headers, the nonce, and errors as pages.

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use kernel::Language;
use rand::RngCore;
use serde::Deserialize;

use crate::{
    assets::assets_router,
    page::{Fresh, Nonce, Page, Site, split_language},
};

/// A problem's JSON is far smaller; a larger one is passed on as it is.
const MAX_PROBLEM: usize = 64 << 10;

/// Adds the assets and [`shell`] to a router. The program's session layer goes around the result, so that `Caller` and
/// [`crate::SessionKey`] are in the request's extensions when a page is made.
pub fn install(router: Router, site: &Arc<Site>) -> Router {
    router.merge(assets_router(site.assets.clone())).layer(axum::middleware::from_fn_with_state(site.clone(), shell))
}

/// The middleware: gives each request its [`Site`], each page its [`Nonce`], each answer its security headers, and turns
/// `application/problem+json` into a page when a browser asked for one.
pub async fn shell(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let fresh = Fresh::default();
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(site);
    parts.extensions.insert(fresh.clone());
    // Only a browser that navigates names HTML before anything else; programs keep their JSON.
    let page = wants_html(&parts.headers).then(|| parts.clone());
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if let Some(parts) = page
        && is_problem(&response)
    {
        response = problem_page(Page::from_parts(&parts), response).await;
    }
    secure(response.headers_mut(), fresh.0.get());
    response
}

impl Nonce {
    pub(crate) fn new() -> Self {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        Self(STANDARD.encode(bytes).into())
    }
}

// 'self' covers our hashed files; the nonce is for a script that a page must carry inside itself. Workers: MapLibre starts
// its own from a blob. Styles have no exception: islands set styles through the CSSOM, which the policy does not touch.
macro_rules! policy {
    ($scripts:literal) => {
        concat!(
            "default-src 'none'; script-src 'self'",
            $scripts,
            "; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; worker-src 'self' blob:; \
             manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
    };
}

fn secure(headers: &mut HeaderMap, nonce: Option<&Nonce>) {
    let policy = match nonce {
        None => Ok(HeaderValue::from_static(policy!(""))),
        Some(nonce) => HeaderValue::from_str(&format!(policy!(" 'nonce-{}'"), nonce.0)),
    };
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "strict-origin-when-cross-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "accelerometer=(), camera=(), display-capture=(), geolocation=(self), gyroscope=(), microphone=(), payment=(), usb=()",
        ),
    ];
    for (name, value) in fixed {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(policy) = policy {
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
    }
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let position = |kind: &str| accept.find(kind).unwrap_or(usize::MAX);
    position("text/html") < position("json")
}

fn is_problem(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/problem+json"))
}

#[derive(Deserialize, Default)]
struct Shown {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<ShownField>,
}

#[derive(Deserialize)]
struct ShownField {
    field: String,
    detail: String,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    page: Page,
    status: u16,
    advice: String,
    shown: Shown,
}

/// lang-keys: problem.*
async fn problem_page(page: Page, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, MAX_PROBLEM).await else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "").into_response();
    };
    let shown: Shown = serde_json::from_slice(&bytes).unwrap_or_default();
    let code = shown.kind.rsplit('/').next().unwrap_or("");
    let (title_key, advice_key) = (format!("problem.{code}.title"), format!("problem.{code}.advice"));
    let known = page.site.catalogue.has(&title_key);
    let title = if known { page.t(&title_key).to_owned() } else { shown.title.clone() };
    let advice = if known { page.t(&advice_key) } else { page.t("problem.advice") }.to_owned();
    let page = page.titled(title);
    let language = HeaderValue::from_static(page.language.tag());
    let Ok(html) = (ProblemPage { page, status: parts.status.as_u16(), advice, shown }).render() else {
        return Response::from_parts(parts, Body::from(bytes));
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::ETAG);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    parts.headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Language, Cookie"));
    parts.headers.insert(header::CONTENT_LANGUAGE, language);
    Response::from_parts(parts, Body::from(html))
}

/// `/` and any page's address without a language lead to the reader's own: `/map?x=1` becomes `/zh-hant/map?x=1`. For the router's entrance and fallback.
pub async fn to_language(request: Request) -> Response {
    let uri = request.uri();
    // A path that starts with two slashes would lead to another host.
    if split_language(uri.path()).is_some() || uri.path().starts_with("//") || request.method() != http::Method::GET {
        return kernel::Problem::not_found("this page").into_response();
    }
    let accepted = request.headers().get(header::ACCEPT_LANGUAGE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let language = Language::negotiate(accepted).segment();
    let path = if uri.path() == "/" { "" } else { uri.path() };
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut response = Redirect::temporary(&format!("/{language}{path}{query}")).into_response();
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Language"));
    response
}

/// A rendered page as an answer.
pub struct Html<T>(pub T);

impl<T: Template> IntoResponse for Html<T> {
    fn into_response(self) -> Response {
        match self.0.render() {
            // Every page carries a nonce and names its caller: it is made for one reader and asked for again each time.
            Ok(html) => (
                [
                    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                    (header::CACHE_CONTROL, "private, no-cache"),
                    (header::VARY, "Cookie, Accept-Encoding"),
                ],
                html,
            )
                .into_response(),
            Err(error) => {
                tracing::error!(%error, "a page's template failed");
                kernel::Problem::internal().into_response()
            }
        }
    }
}
