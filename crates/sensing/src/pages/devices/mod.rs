//! The device desk: who is registered, how they are doing, and everything that is done to them.

mod campaigns;
mod form;
mod line;
mod list;
mod one;
mod place;
mod sheet;
pub mod upload;

use axum::{
    Router,
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use kernel::{Id, Problem, Tenant};
use ui::{Badge, Page};

use super::Pages;
use crate::{
    Audience, Route,
    devices::{Device, DeviceState},
    route::action::{DEVICE_MANAGE, DEVICE_READ},
};

pub use line::Door;

pub const ROUTES: &[Route] = &[
    read("/{language}/devices", "The device desk: devices of a department by how they are"),
    read("/{language}/devices/new", "The form that registers a device"),
    write("/{language}/devices/new", "Register a device"),
    read("/{language}/devices/sheet", "The form that registers many devices"),
    write("/{language}/devices/sheet", "Register the devices of a sheet; the answer is the file of their keys"),
    read("/{language}/devices/place", "The form that says by a claim code where a device stands"),
    write("/{language}/devices/place", "Say by a claim code where a device stands"),
    read("/{language}/devices/campaigns", "Campaigns and firmware of a department"),
    write("/{language}/devices/campaigns", "Keep an image of firmware"),
    read("/{language}/devices/campaigns/new", "The form that proposes a campaign"),
    write("/{language}/devices/campaigns/new", "Propose a campaign"),
    read("/{language}/devices/campaigns/{id}", "One campaign: its waves and its devices"),
    write("/{language}/devices/campaigns/{id}", "Approve, reject, pause, resume or abort a campaign"),
    read("/{language}/devices/{id}", "One device: health, places, keys"),
    write("/{language}/devices/{id}/claim", "A new claim code for a device, shown once"),
    write("/{language}/devices/{id}/certificates", "Register or revoke a certificate of a device"),
    write("/{language}/devices/{id}/decommission", "The end of a device"),
    read("/{language}/devices/{id}/change", "The form that changes a device"),
    write("/{language}/devices/{id}/change", "Change a device or move it to other Things"),
    write("/{language}/devices/{id}/keys", "Issue a key, shown once"),
    write("/{language}/devices/{id}/keys/rotate", "Issue a key and let the others end"),
    write("/{language}/devices/{id}/keys/revoke", "Revoke a key and end what is connected with it"),
    write("/{language}/devices/{id}/service", "Take a device out of service, or back"),
    write("/{language}/devices/{id}/remove", "Remove a device that is out of service"),
];

const fn read(path: &'static str, summary: &'static str) -> Route {
    Route { method: "GET", path, action: DEVICE_READ, audience: Audience::SignedIn, audit: false, summary }
}
const fn write(path: &'static str, summary: &'static str) -> Route {
    Route { method: "POST", path, action: DEVICE_MANAGE, audience: Audience::SignedIn, audit: true, summary }
}

pub fn router() -> Router<Pages> {
    let uploads = Router::new()
        .route("/{language}/devices/sheet", get(sheet::form).post(sheet::send))
        .route("/{language}/devices/campaigns", get(campaigns::list).post(campaigns::keep))
        // An image, and the fields beside it.
        .layer(axum::extract::DefaultBodyLimit::max((32 << 20) + (64 << 10)));
    Router::new()
        .route("/{language}/devices/place", get(place::form).post(place::place))
        .route("/{language}/devices/campaigns/new", get(campaigns::new).post(campaigns::propose))
        .route("/{language}/devices/campaigns/{id}", get(campaigns::one).post(campaigns::act))
        .route("/{language}/devices/{id}/claim", post(one::claim))
        .route("/{language}/devices/{id}/certificates", post(one::certificates))
        .route("/{language}/devices/{id}/decommission", post(one::decommission))
        .route("/{language}/devices", get(list::list))
        .route("/{language}/devices/new", get(form::new).post(form::register))
        .route("/{language}/devices/{id}", get(one::show))
        .route("/{language}/devices/{id}/change", get(form::edit).post(form::change))
        .route("/{language}/devices/{id}/keys", post(one::issue))
        .route("/{language}/devices/{id}/keys/rotate", post(one::rotate))
        .route("/{language}/devices/{id}/keys/revoke", post(one::revoke))
        .route("/{language}/devices/{id}/service", post(one::service))
        .route("/{language}/devices/{id}/remove", post(one::remove))
        .layer(axum::extract::DefaultBodyLimit::max(256 << 10))
        .merge(uploads)
}

fn badge(page: &Page, state: DeviceState) -> Badge {
    let (shape, key) = match state {
        DeviceState::Healthy => (ui::State::Good, "device.state.healthy"),
        DeviceState::Refused => (ui::State::Warning, "device.state.refused"),
        DeviceState::Silent => (ui::State::Offline, "device.state.silent"),
        DeviceState::NeverSeen => (ui::State::Unknown, "device.state.never-seen"),
        DeviceState::Disabled => (ui::State::Notice, "device.state.disabled"),
    };
    Badge::new(shape).word(page.t(key))
}

/// An id that cannot be is one that is not there.
fn id(text: &str) -> Result<Id<Device>, Problem> {
    text.parse().map_err(|_| Problem::not_found("The device"))
}

/// What sends whoever is not signed in to do so first.
pub(super) fn sign_in_first(page: &Page) -> Option<Response> {
    page.caller.is_anonymous().then(|| match page.sign_in_and_back() {
        Some(href) => Redirect::to(&href).into_response(),
        None => Problem::unauthenticated().into_response(),
    })
}

/// Departments whose devices the caller may see (or manage), the own one first.
fn departments(pages: &Pages, page: &Page, manage: bool) -> Vec<Tenant> {
    let own = page.caller.tenant.clone();
    let mut all: Vec<Tenant> = pages.owners.keys().filter_map(|slug| Tenant::parse(slug).ok()).collect();
    all.retain(|tenant| pages.devices.allows(&page.caller, manage, tenant));
    all.sort_by_key(|tenant| Some(tenant) != own.as_ref());
    all
}

fn department_name<'a>(pages: &'a Pages, page: &'a Page, tenant: &'a Tenant) -> &'a str {
    pages.owners.get(tenant.as_str()).map_or(tenant.as_str(), |name| page.text(name))
}

/// The page that one is sent to after something was done, which says so.
fn done(page: &Page, device: Id<Device>, what: &str) -> Response {
    Redirect::to(&page.href(&format!("/devices/{device}?did={what}"))).into_response()
}
