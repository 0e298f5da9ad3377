//! One device: how it is doing, where it stands, its keys, and the way out of service.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, StatusCode};
use kernel::{Id, Problem, Tenant, Timestamp};
use ui::{Act, Badge, Cell, Choice, Column, Field, FieldKind, Html, Markup, Notice, Page, Table, Tone};

use super::{Pages, badge, department_name, done, id, line::line, sign_in_first};
use crate::{
    devices::{Device, DeviceState, Health, NewKey, Place, Stream, certificate::Registered, claim::Claim, patience},
    door::fresh,
    model::ResultValue,
    pages::{
        decimals,
        form::{Posted, Typed},
    },
};

/// Things shown with their Datastreams; a gateway or a device of many shows the first.
const PLACES: usize = 20;
/// A clock that differs by more than this is worth a word.
const SKEW: i64 = 60 * 1_000_000;
/// How long the other keys may stay good when a new one is issued.
const GRACE: [(u32, &str); 4] = [
    (0, "device.grace.now"),
    (3_600, "device.grace.hour"),
    (86_400, "device.grace.day"),
    (604_800, "device.grace.week"),
];
/// Days until a key ends by itself; 0 is never.
const ENDS: [(u32, &str); 4] =
    [(0, "device.ends.never"), (90, "device.ends.quarter"), (365, "device.ends.year"), (7, "device.ends.week")];

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage {
    page: Page,
    device: Device,
    state: Badge,
    notice: Option<Notice>,
    made: Option<Made>,
    facts: Vec<(String, Markup)>,
    places: Table,
    keys: Table,
    manages: bool,
    grace: Field,
    ends: Field,
    base: String,
    out_of_service: Markup,
    back: Markup,
    remove: Option<Field>,
    /// A claim code that was just made.
    code: Option<String>,
    claim: Option<String>,
    certificates: Table,
    certificate: Field,
    ended: Option<Markup>,
    reason: Field,
}

/// What stands on the page this once.
#[derive(Default)]
struct Once {
    made: Option<Made>,
    code: Option<String>,
    sure: Option<String>,
    certificate: Option<String>,
    reason: Option<String>,
}

impl DevicePage {
    /// An address below the device's own.
    fn at(&self, path: &str) -> String {
        self.page.href(&format!("{}{path}", self.base))
    }
}

/// A key that was just made, shown this once.
struct Made {
    secret: String,
    /// A line to try it with, and the Datastream that it writes to.
    line: Option<(String, String)>,
}

pub async fn show(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    page: Page,
) -> Result<Response, Problem> {
    if let Some(response) = sign_in_first(&page) {
        return Ok(response);
    }
    let device = pages.devices.get(&page.caller, id(&text)?).await?;
    Ok(Html(render(&pages, page, device, Once::default()).await?).into_response())
}

fn notice(page: &Page, device: &Device) -> Option<Notice> {
    let said = |key: &str| Some(Notice::new(Tone::Done, page.t(key)));
    match page.query.get("did")?.as_str() {
        "registered" => said("device.did.registered"),
        "changed" => said("device.did.changed"),
        "revoked" => said("device.did.revoked"),
        "out" if !device.enabled => said("device.did.out"),
        "back" if device.enabled => said("device.did.back"),
        "certified" => said("device.did.certified"),
        "uncertified" => said("device.did.uncertified"),
        "ended" if device.decommissioned.is_some() => said("device.did.ended"),
        _ => None,
    }
}

async fn render(pages: &Pages, page: Page, device: Device, once: Once) -> Result<DevicePage, Problem> {
    let manages = pages.devices.allows(&page.caller, true, &device.tenant);
    let first: Vec<_> = device.things.iter().copied().take(PLACES).collect();
    let places = pages.devices.places(&device.tenant, &first).await?;
    let shortest = places.iter().flat_map(|p| &p.streams).filter_map(|s| s.interval).min();
    let health = pages.devices.health(&device);
    let state = DeviceState::of(&device, &health, patience(shortest), page.now());
    let base = format!("/devices/{}", device.id);
    let keys = keys(&page, &device, manages, &base);
    let select = |name: &str, label: &str, choices: &[(u32, &str)]| {
        let choices = choices.iter().map(|(value, key)| Choice::new(value.to_string(), page.t(key))).collect();
        Field::new(name, page.t(label), FieldKind::Select(choices)).required()
    };
    let (grace, ends) = (select("grace", "device.grace-label", &GRACE), select("ends", "device.ends-label", &ENDS));
    let service = |enabled: &str, key: &str| {
        Act::new(page.href(&format!("{base}/service")), page.t(key)).field("enabled", enabled).about(&device.name)
    };
    let out_of_service = service("no", "device.take-out").danger().html(&page);
    let back = service("yes", "device.put-back").main().html(&page);
    let remove = (!device.enabled).then(|| {
        Field::new("sure", page.t("device.remove-sure"), FieldKind::Checkbox).required().error(once.sure.as_ref())
    });
    let claim = claimed(&page, pages.devices.claim_of(&page.caller, device.id).await?.as_ref());
    let registered = pages.devices.certificates(&page.caller, device.id).await?;
    let certificates = certificates_table(&page, &device, manages, &base, &registered);
    let certificate = Field::new("certificate", page.t("device.certificate.label"), FieldKind::Area { rows: 4 })
        .hint(page.msg("device.certificate.hint").with("name", format!("{}/{}", device.tenant, device.key)))
        .required()
        .error(once.certificate.as_ref());
    let reason = Field::input("reason", page.t("device.end.reason"), "text")
        .hint(page.t("device.end.reason-hint"))
        .required()
        .max_length(500)
        .error(once.reason.as_ref());
    let ended = device.decommissioned.as_ref().map(|end| {
        let mut out = page.at(&end.at);
        out.raw(" · ").text(page.who(&end.by)).raw("<br>").text(&end.reason);
        out
    });
    let department = department_name(pages, &page, &device.tenant);
    let (facts, places) = (facts(&page, &device, &health, department), table(pages, &page, &device, &places));
    let notice = notice(&page, &device);
    let heading = device.name.clone();
    Ok(DevicePage {
        state: badge(&page, state),
        facts,
        places,
        keys,
        manages,
        grace,
        ends,
        out_of_service,
        back,
        remove,
        notice,
        made: once.made,
        code: once.code,
        claim,
        certificates,
        certificate,
        ended,
        reason,
        device,
        base,
        page: page.in_section("devices").dense().under_t("device.heading", "/devices").titled(heading),
    })
}

fn facts(page: &Page, device: &Device, health: &Health, department: &str) -> Vec<(String, Markup)> {
    let text = |value: &str| {
        let mut out = Markup::default();
        out.text(value);
        out
    };
    let ago = |at: Option<Timestamp>| at.map_or_else(|| text(page.t("device.never")), |at| page.ago(&at));
    let number = |n: u64| text(&page.number(&(n as f64), 0));
    let mut facts = vec![
        ("device.connected", text(page.t(if health.connected { "device.by-mqtt" } else { "device.not-connected" }))),
        ("device.seen", ago(health.seen_at)),
        ("device.observed", ago(health.observed_at)),
        ("device.per-minute", number(health.per_minute)),
        ("device.taken", number(health.observations)),
        ("device.errors", number(health.errors)),
    ];
    if let Some(at) = &health.refused_at {
        let mut out = page.ago(at);
        if let Some(why) = &health.refusal {
            // The reason is what the device itself was told, in the protocol's language.
            out.raw("<br><span lang=\"en\">").text(why).raw("</span>");
        }
        facts.push(("device.refusal", out));
    }
    if let Some(battery) = health.battery {
        facts.push(("device.battery", text(&page.quantity(battery as f64, "%", 0))));
    }
    if let Some(signal) = health.signal {
        facts.push(("device.signal", text(&page.quantity(signal as f64, "dBm", 0))));
    }
    if let Some(skew) = health.skew_micros.filter(|skew| skew.abs() > SKEW) {
        let minutes = skew.unsigned_abs() / 60_000_000;
        let key = if skew > 0 { "device.clock-behind" } else { "device.clock-ahead" };
        facts.push(("device.clock", text(&page.msg(key).n(minutes).to_string())));
    }
    facts.push(("device.department", text(department)));
    facts.push(("device.key", text(&device.key)));
    facts.push(("device.kind", text(&device.kind)));
    if let Some(firmware) = &device.firmware {
        facts.push(("device.firmware", text(firmware)));
    }
    facts.push(("device.registered", page.at(&device.created_at)));
    facts.into_iter().map(|(key, value)| (page.t(key).to_owned(), value)).collect()
}

fn table(pages: &Pages, page: &Page, device: &Device, places: &[Place]) -> Table {
    let rows = places.iter().flat_map(|place| place.streams.iter().map(move |stream| (place, stream)));
    let rows = rows.map(|(place, stream)| {
        let latest = pages.observe.head(stream.id).map(|head| head.latest);
        let value = match latest.as_ref().map(|o| &o.result) {
            Some(ResultValue::Number(n)) => Cell::quantity(*n, decimals(*n), &stream.unit),
            Some(ResultValue::Json(raw)) => Cell::text(raw.get().trim_matches('"')),
            None => Cell::Empty,
        };
        // A MultiDatastream is shown on the page of its place.
        let shown = match stream.elements {
            Some(_) => format!("/things/{}", place.id),
            None => format!("/datastreams/{}", stream.id),
        };
        vec![
            Cell::link(page.href(&shown), page.text(&stream.name)),
            Cell::link(page.href(&format!("/things/{}", place.id)), page.text(&place.name)),
            value,
            latest.map_or(Cell::Empty, |o| Cell::Ago(o.phenomenon.end)),
        ]
    });
    let caption = if device.things.len() > PLACES { "device.streams-some" } else { "device.streams" };
    Table::new(page.t(caption))
        .headed()
        .column(Column::text("stream", page.t("device.stream")))
        .column(Column::text("place", page.t("device.place")))
        .column(Column::number("value", page.t("thing.value")))
        .column(Column::text("at", page.t("thing.as-of")))
        .rows(rows)
        .empty(page.t(if device.gateway { "device.streams-gateway" } else { "device.streams-none" }))
}

fn keys(page: &Page, device: &Device, manages: bool, base: &str) -> Table {
    let now = page.now();
    let rows = device.keys.iter().map(|key| {
        let over = key.expires_at.is_some_and(|at| at <= now);
        let until = match key.expires_at {
            Some(_) if over => Cell::State(Badge::new(ui::State::Offline).word(page.t("device.key-over"))),
            Some(at) => Cell::Ago(at),
            None => Cell::text(page.t("device.ends.never")),
        };
        let revoke = Act::new(page.href(&format!("{base}/keys/revoke")), page.t("device.revoke"))
            .field("prefix", &key.prefix)
            .about(&key.prefix)
            .danger();
        let mut row = vec![
            Cell::text(&key.prefix),
            Cell::At(key.created_at),
            key.used_at.map_or_else(|| Cell::text(page.t("device.never")), Cell::Ago),
            until,
        ];
        if manages {
            row.push(Cell::Html(revoke.html(page)));
        }
        row
    });
    let table = Table::new(page.t("device.keys"))
        .headed()
        .column(Column::text("prefix", page.t("device.prefix")))
        .column(Column::text("since", page.t("device.key-since")))
        .column(Column::text("used", page.t("device.key-used")))
        .column(Column::text("until", page.t("device.key-until")));
    let table = if manages { table.column(Column::text("do", page.t("device.col-do"))) } else { table };
    table.rows(rows).empty(page.t("device.keys-none"))
}

/// What a new key may be tried with: a Datastream of its own, for a gateway any of its department.
async fn to_try(pages: &Pages, device: &Device) -> Result<Option<Stream>, Problem> {
    let first: Vec<_> = device.things.iter().copied().take(PLACES).collect();
    let mut places = pages.devices.places(&device.tenant, &first).await?;
    if device.gateway && places.iter().all(|p| p.streams.is_empty()) {
        places = any(pages, &device.tenant).await?;
    }
    Ok(places.into_iter().flat_map(|p| p.streams).next())
}

async fn any(pages: &Pages, tenant: &Tenant) -> Result<Vec<Place>, Problem> {
    let found = pages.devices.find_places(tenant, "", PLACES).await?;
    let things: Vec<_> = found.iter().map(|p| p.id).collect();
    Ok(pages.devices.places(tenant, &things).await?)
}

/// The device's page with its new key, which nothing on the way may keep.
async fn with_key(
    pages: &Pages,
    mut page: Page,
    headers: &HeaderMap,
    device: Id<Device>,
    key: NewKey,
) -> Result<Response, Problem> {
    let device = pages.devices.get(&page.caller, device).await?;
    at_home(&mut page, &device);
    let plain = device.key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let name = if plain { device.key.clone() } else { device.id.to_string() };
    let line = to_try(pages, &device).await?.map(|stream| {
        let shown = page.text(&stream.name).to_owned();
        (line(pages.door.as_ref(), headers, &name, &key.secret, &stream), shown)
    });
    let made = Made { secret: key.secret, line };
    let once = Once { made: Some(made), ..Once::default() };
    Ok(fresh(Html(render(pages, page, device, once).await?)))
}

/// What answers a form is the device's page: its links must not lead to where the form was sent.
fn at_home(page: &mut Page, device: &Device) {
    page.path = format!("/devices/{}", device.id);
    page.query = ui::Query::default();
}

/// One of the offered numbers.
fn offered(typed: &Typed, name: &str, among: &[(u32, &str)]) -> Result<u32, Problem> {
    let given = typed.get(name);
    let found = among.iter().find(|(value, _)| given.is_empty() || value.to_string() == given);
    found.map(|(value, _)| *value).ok_or_else(|| Problem::field(name, "one of the offered times is expected"))
}

pub async fn issue(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    headers: HeaderMap,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let device = id(&text)?;
    let days = offered(&typed, "ends", &ENDS)?;
    let expires_at = (days > 0).then(|| page.now().plus_secs(i64::from(days) * 86_400));
    let key = pages.devices.issue_key(&page.caller, device, expires_at).await?;
    with_key(&pages, page, &headers, device, key).await
}

pub async fn rotate(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    headers: HeaderMap,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let device = id(&text)?;
    let grace = Duration::from_secs(offered(&typed, "grace", &GRACE)?.into());
    let key = pages.devices.rotate_key(&page.caller, device, grace).await?;
    with_key(&pages, page, &headers, device, key).await
}

pub async fn revoke(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let device = id(&text)?;
    pages.devices.revoke_key(&page.caller, device, typed.get("prefix")).await?;
    Ok(done(&page, device, "revoked"))
}

/// How far a claim is, in a sentence.
fn claimed(page: &Page, claim: Option<&Claim>) -> Option<String> {
    let claim = claim?;
    let key = match (claim.collected_at, claim.placed_at) {
        (None, None) => "device.claim.open",
        (Some(_), None) => "device.claim.collected",
        (None, Some(_)) => "device.claim.placed",
        (Some(_), Some(_)) => "device.claim.both",
    };
    let mut text = page.t(key).to_owned();
    if claim.refusals > 0 {
        text.push(' ');
        text.push_str(&page.count("device.claim.refusals", claim.refusals.unsigned_abs()));
    }
    Some(text)
}

fn certificates_table(page: &Page, device: &Device, manages: bool, base: &str, all: &[Registered]) -> Table {
    let rows = all.iter().map(|one| {
        let mut name = Markup::default();
        name.text(if one.subject.is_empty() { "–" } else { &one.subject });
        name.raw("<br><code class=\"note\">").text(&one.fingerprint[..16.min(one.fingerprint.len())]).raw("…</code>");
        let over = one.revoked_at.is_some() || one.not_after <= page.now();
        let until = if one.revoked_at.is_some() {
            Cell::State(Badge::new(ui::State::Offline).word(page.t("device.certificate.revoked")))
        } else if over {
            Cell::State(Badge::new(ui::State::Offline).word(page.t("device.key-over")))
        } else if one.serial.is_empty() {
            Cell::Empty
        } else {
            Cell::Ago(one.not_after)
        };
        let mut row = vec![Cell::Html(name), Cell::At(one.created_at), until];
        if manages && device.decommissioned.is_none() {
            row.push(if over {
                Cell::Empty
            } else {
                let revoke = Act::new(page.href(&format!("{base}/certificates")), page.t("device.revoke"));
                Cell::Html(revoke.field("revoke", &one.fingerprint).about(&one.subject).danger().html(page))
            });
        }
        row
    });
    let table = Table::new(page.t("device.certificate.heading"))
        .headed()
        .column(Column::text("subject", page.t("device.certificate.subject")))
        .column(Column::text("since", page.t("device.registered")))
        .column(Column::text("until", page.t("device.key-until")));
    let acts = manages && device.decommissioned.is_none();
    let table = if acts { table.column(Column::text("do", page.t("device.col-do"))) } else { table };
    table.rows(rows).empty(page.t("device.certificate.none"))
}

/// What a form on the page got wrong, beside its field; what is no field's fault stays a problem.
fn mistake(error: crate::Error) -> Result<String, Problem> {
    let problem = Problem::from(error);
    problem.errors.first().map(|e| e.detail.clone()).ok_or(problem)
}

pub async fn claim(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    Posted { mut page, .. }: Posted,
) -> Result<Response, Problem> {
    let device = id(&text)?;
    let code = pages.devices.new_claim(&page.caller, device, None).await?;
    let device = pages.devices.get(&page.caller, device).await?;
    at_home(&mut page, &device);
    let once = Once { code: Some(code), ..Once::default() };
    Ok(fresh(Html(render(&pages, page, device, once).await?)))
}

pub async fn certificates(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    Posted { mut page, typed }: Posted,
) -> Result<Response, Problem> {
    let id = id(&text)?;
    let revoke = typed.get("revoke");
    if !revoke.is_empty() {
        pages.devices.revoke_certificate(&page.caller, id, revoke).await?;
        return Ok(done(&page, id, "uncertified"));
    }
    match pages.devices.add_certificate(&page.caller, id, typed.get("certificate")).await {
        Ok(_) => Ok(done(&page, id, "certified")),
        Err(error) => {
            let wrong = mistake(error)?;
            let device = pages.devices.get(&page.caller, id).await?;
            at_home(&mut page, &device);
            let form = render(&pages, page, device, Once { certificate: Some(wrong), ..Once::default() }).await?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(form)).into_response())
        }
    }
}

pub async fn decommission(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    Posted { mut page, typed }: Posted,
) -> Result<Response, Problem> {
    let id = id(&text)?;
    match pages.devices.decommission(&page.caller, id, typed.get("reason")).await {
        Ok(_) => Ok(done(&page, id, "ended")),
        Err(error) => {
            mistake(error)?;
            let device = pages.devices.get(&page.caller, id).await?;
            let wrong = page.t("device.end.wrong").to_owned();
            at_home(&mut page, &device);
            let form = render(&pages, page, device, Once { reason: Some(wrong), ..Once::default() }).await?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(form)).into_response())
        }
    }
}

/// Out of service and back: nothing is lost by it, so it is undone by a button and not asked about twice.
pub async fn service(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let device = id(&text)?;
    let enabled = match typed.get("enabled") {
        "yes" => true,
        "no" => false,
        _ => return Err(Problem::field("enabled", "'yes' or 'no' is expected")),
    };
    let change = crate::devices::Change { enabled: Some(enabled), ..Default::default() };
    pages.devices.update(&page.caller, device, change).await?;
    Ok(done(&page, device, if enabled { "back" } else { "out" }))
}

pub async fn remove(
    State(pages): State<Pages>,
    Path((_, text)): Path<(String, String)>,
    Posted { mut page, typed }: Posted,
) -> Result<Response, Problem> {
    let device = pages.devices.get(&page.caller, id(&text)?).await?;
    if device.enabled && pages.devices.allows(&page.caller, true, &device.tenant) {
        return Err(Problem::conflict("Take the device out of service first, then remove it."));
    }
    if typed.get("sure") != "on" && pages.devices.allows(&page.caller, true, &device.tenant) {
        let wrong = page.t("device.wrong.sure").to_owned();
        at_home(&mut page, &device);
        let form = render(&pages, page, device, Once { sure: Some(wrong), ..Once::default() }).await?;
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(form)).into_response());
    }
    let tenant = device.tenant.clone();
    pages.devices.delete(&page.caller, device.id).await?;
    Ok(Redirect::to(&page.href(&format!("/devices?tenant={tenant}&did=removed"))).into_response())
}
