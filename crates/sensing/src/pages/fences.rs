//! Geofences: the list with their outlines, the page of one, and the form that draws, redraws and removes one.

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use http::StatusCode;
use kernel::{FieldError, Problem, Tenant, Text};
use serde_json::Value;
use ui::{Act, Cell, Choice, Column, ErrorSummary, Field, FieldKind, Html, Markup, Notice, Page, Pager, Table, Tone};

use super::{
    Pages,
    drawing::{Drawing, Line, around},
    form::{Posted, Typed},
};
use crate::{
    Audience, Route,
    moving::{
        Circle, FenceDeclaration, Moving, Place,
        fences::{Source, Stored},
    },
    route::action,
    rules::model::{Condition, Rule},
};

/// Fences of a page of the list.
const PER_PAGE: usize = 100;
/// Fences that are drawn together.
const DRAWN: usize = 200;
/// Characters of an outline; more corners go through the API.
const OUTLINE: u32 = 40_000;

const fn draws(path: &'static str, summary: &'static str) -> Route {
    Route { method: "POST", path, action: action::RULE_MANAGE, audience: Audience::SignedIn, audit: true, summary }
}

const fn page(path: &'static str, summary: &'static str) -> Route {
    Route { method: "GET", path, action: action::READ, audience: Audience::Public, audit: false, summary }
}

pub const ROUTES: &[Route] = &[
    page("/{language}/fences", "Geofences, and the form that draws one"),
    page("/{language}/fences/{key}", "One geofence, the rules that name it, and the form that draws it anew"),
    draws("/{language}/fences", "Draw a geofence"),
    draws("/{language}/fences/{key}", "Draw a geofence anew"),
    draws("/{language}/fences/{key}/remove", "Remove a geofence that no rule names"),
];

pub fn router() -> Router<Pages> {
    Router::new()
        .route("/{language}/fences", get(list).post(make))
        .route("/{language}/fences/{key}", get(show).post(change))
        .route("/{language}/fences/{key}/remove", post(remove))
}

#[derive(Template)]
#[template(path = "fences.html")]
struct ListPage {
    page: Page,
    notice: Option<Notice>,
    map: Markup,
    table: Table,
    pager: Pager,
    /// Nothing where the reader may draw none.
    fields: Vec<Field>,
    errors: ErrorSummary,
}

#[derive(Template)]
#[template(path = "fence.html")]
struct OnePage {
    page: Page,
    notice: Option<Notice>,
    map: Markup,
    facts: Vec<(String, String)>,
    fields: Vec<Field>,
    errors: ErrorSummary,
    revision: i64,
    action: String,
    remove: Option<Act>,
    /// Why it has no form for somebody who draws fences.
    fixed: Option<String>,
    api: String,
}

/// The outlines as lines.
pub(super) fn lines<'a>(fences: impl IntoIterator<Item = &'a Stored>) -> Vec<Line> {
    let rings = fences.into_iter().take(DRAWN).flat_map(|s| s.fence.rings());
    rings
        .map(|ring| Line { class: "fence", points: ring.into_iter().map(|[lon, lat]| Place { lon, lat }).collect() })
        .collect()
}

fn drawn<'a>(page: &Page, fences: impl ExactSizeIterator<Item = &'a Stored>) -> Markup {
    let summary = page.count("move.fences-drawn", fences.len() as u64);
    let lines = lines(fences);
    let window = around(lines.iter().flat_map(|line| line.points.iter()));
    window.map(|window| Drawing { lines, marks: Vec::new(), summary }.html(&window)).unwrap_or_default()
}

fn names_kind(rule: &Rule, kind: Option<&str>) -> bool {
    match &rule.when {
        Condition::Geofence(form) => kind.is_some() && form.kind.as_deref() == kind,
        _ => false,
    }
}

impl Pages {
    /// The rules that the reader may see, none for the public.
    async fn rules_about(&self, page: &Page) -> Result<Vec<Arc<Rule>>, Problem> {
        match &self.rules {
            Some(rules) if !page.caller.is_anonymous() => Ok(rules.list(&page.caller).await?),
            _ => Ok(Vec::new()),
        }
    }

    /// Departments for which the reader may draw, the own one first.
    fn draws_for(&self, moving: &Moving, page: &Page) -> Vec<Tenant> {
        let own = page.caller.tenant.clone();
        let mut all: Vec<Tenant> = self.owners.keys().filter_map(|slug| Tenant::parse(slug).ok()).collect();
        all.retain(|tenant| moving.fences().may_draw(&page.caller, tenant));
        all.sort_by_key(|tenant| Some(tenant) != own.as_ref());
        all
    }
}

fn naming<'a>(page: &'a Page, rules: &'a [Arc<Rule>], s: &Stored) -> String {
    let names = |r: &&Arc<Rule>| r.names_fence(&s.fence.key) || names_kind(r, s.fence.kind.as_deref());
    rules.iter().filter(names).map(|r| page.text(&r.name)).collect::<Vec<_>>().join(" · ")
}

fn did(page: &Page) -> Option<Notice> {
    let key = match page.query.get("did").as_deref() {
        Some("drawn") => "move.fence-drawn",
        Some("removed") => "move.fence-removed",
        _ => return None,
    };
    Some(Notice::new(Tone::Done, page.t(key)))
}

// --- the form ---------------------------------------------------------------------------------------------------------

const CIRCLE: &str = "circle";
const OUTLINED: &str = "outline";
const DISTRICT: &str = "district";

/// The form's fields as they were typed, each with what is wrong with it. `departments` is empty where a fence that is there is drawn anew: it stays whose it is.
fn fields(
    pages: &Pages,
    moving: &Moving,
    page: &Page,
    departments: &[Tenant],
    typed: &Typed,
    wrong: &[FieldError],
) -> Vec<Field> {
    let error = |name: &str| wrong.iter().find(|e| e.field == name).map(|e| e.detail.clone());
    let with = |field: Field, name: &str| field.value(typed.get(name)).error(error(name));
    let text = |name: &str, label: &str| with(Field::input(name, page.t(label), "text").max_length(200), name);
    let number = |name: &str, label: &str| text(name, label).input_mode("decimal");
    let select =
        |name: &str, label: &str, of: Vec<Choice>| with(Field::new(name, page.t(label), FieldKind::Select(of)), name);
    let mut fields = Vec::new();
    if departments.len() > 1 {
        let names = departments.iter().map(|t| Choice::new(t.as_str(), pages.owner(page, t)));
        fields.push(select("tenant", "device.department", names.collect()).required());
    }
    if !departments.is_empty() {
        fields.push(text("key", "move.key").hint(page.t("move.key-hint")).max_length(60).required());
    }
    for (name, label) in
        [("name-en", "move.name-en"), ("name-zh-hant", "move.name-hant"), ("name-zh-hans", "move.name-hans")]
    {
        fields.push(text(name, label).required());
    }
    fields.push(text("kind", "move.kind").hint(page.t("move.kind-hint")).max_length(80));
    let seen = vec![Choice::new("", page.t("move.seen-own")), Choice::new("yes", page.t("move.seen-all"))];
    fields.push(select("public", "move.seen", seen));
    let shapes = [(CIRCLE, "move.shape-circle"), (OUTLINED, "move.shape-outline"), (DISTRICT, "move.shape-district")];
    let shapes = shapes.map(|(value, label)| Choice::new(value, page.t(label)));
    let shape = Field::new("shape", page.t("move.shape"), FieldKind::Radios(shapes.to_vec())).required();
    fields.push(
        shape
            .value(match typed.get("shape") {
                "" => CIRCLE,
                shape => shape,
            })
            .error(error("shape")),
    );
    fields.push(number("circle-lat", "move.lat").hint(page.t("move.lat-hint")));
    fields.push(number("circle-lon", "move.lon"));
    fields.push(number("circle-radius", "move.radius"));
    let area = Field::new("outline", page.t("move.outline"), FieldKind::Area { rows: 5 });
    fields.push(with(area.hint(page.t("move.outline-hint")).max_length(OUTLINE), "outline"));
    let none = std::iter::once(Choice::new("", page.t("move.no-district")));
    let districts = none.chain(moving.fences().districts().map(|name| Choice::new(name, name)));
    fields.push(select("district", "move.district", districts.collect()));
    fields
}

/// What is there, as it would have been typed.
fn typed_of(s: &Stored) -> Typed {
    let d = s.fence.declaration();
    let mut typed = Vec::new();
    let mut put = |name: &str, value: String| typed.push((name.to_owned(), value));
    put("name-en", d.name.en.clone());
    put("name-zh-hant", d.name.zh_hant.clone().unwrap_or_default());
    put("name-zh-hans", d.name.zh_hans.clone().unwrap_or_default());
    put("kind", d.kind.clone().unwrap_or_default());
    put("public", if d.public { "yes" } else { "" }.to_owned());
    if let Some(circle) = &d.circle {
        put("shape", CIRCLE.to_owned());
        put("circle-lat", circle.lat.to_string());
        put("circle-lon", circle.lon.to_string());
        put("circle-radius", circle.radius.to_string());
    } else if let Some(district) = &d.district {
        put("shape", DISTRICT.to_owned());
        put("district", district.clone());
    } else {
        put("shape", OUTLINED.to_owned());
        let ring =
            |ring: &Vec<[f64; 2]>| ring.iter().map(|[lon, lat]| format!("{lat}, {lon}")).collect::<Vec<_>>().join("\n");
        let geojson = || d.geojson.as_ref().map(Value::to_string).unwrap_or_default();
        put("outline", d.polygon.as_ref().map_or_else(geojson, ring));
    }
    Typed(typed)
}

/// Corners a line each, latitude first as map programs copy them; or GeoJSON.
fn outline(text: &str, into: &mut FenceDeclaration) -> Result<(), &'static str> {
    if text.starts_with('{') {
        into.geojson = Some(serde_json::from_str(text).map_err(|_| "move.wrong-geojson")?);
        return Ok(());
    }
    let corner = |line: &str| {
        let mut numbers = line.split([',', ' ', '\t']).filter(|part| !part.is_empty()).map(str::parse::<f64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(lat)), Some(Ok(lon)), None) => Ok([lon, lat]),
            _ => Err("move.wrong-outline"),
        }
    };
    let lines = text.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty());
    let ring: Vec<[f64; 2]> = lines.map(corner).collect::<Result<_, _>>()?;
    if ring.len() < 3 {
        return Err("move.wrong-outline");
    }
    into.polygon = Some(ring);
    Ok(())
}

/// What was typed, or what is wrong with it and beside which field.
fn declaration(page: &Page, typed: &Typed, tenant: Tenant, key: String) -> Result<FenceDeclaration, Vec<FieldError>> {
    let mut wrong = Vec::new();
    let mut number = |name: &str| {
        let number = typed.get(name).parse::<f64>().ok().filter(|n| n.is_finite());
        if number.is_none() {
            wrong.push(FieldError { field: name.to_owned(), detail: page.t("move.wrong-number").to_owned() });
        }
        number.unwrap_or_default()
    };
    let filled = |name: &str| Some(typed.get(name).to_owned()).filter(|text| !text.is_empty());
    let name =
        Text { en: typed.get("name-en").to_owned(), zh_hant: filled("name-zh-hant"), zh_hans: filled("name-zh-hans") };
    let (kind, public) = (filled("kind"), typed.get("public") == "yes");
    let mut drawn = FenceDeclaration {
        key,
        tenant,
        name,
        kind,
        public,
        circle: None,
        polygon: None,
        geojson: None,
        district: None,
    };
    match typed.get("shape") {
        DISTRICT => {
            drawn.district = filled("district");
            if drawn.district.is_none() {
                wrong.push(FieldError {
                    field: "district".to_owned(),
                    detail: page.t("move.wrong-district").to_owned(),
                });
            }
        }
        OUTLINED => {
            if let Err(key) = outline(typed.get("outline"), &mut drawn) {
                wrong.push(FieldError { field: "outline".to_owned(), detail: page.t(key).to_owned() });
            }
        }
        _ => {
            let (lat, lon, radius) = (number("circle-lat"), number("circle-lon"), number("circle-radius"));
            drawn.circle = Some(Circle { lon, lat, radius });
        }
    }
    if wrong.is_empty() { Ok(drawn) } else { Err(wrong) }
}

/// What the model says of a declaration, beside the fields of the form.
fn mistakes(problem: Problem) -> Result<Vec<FieldError>, Problem> {
    if problem.errors.is_empty() {
        return Err(problem);
    }
    let beside = |e: FieldError| {
        let field = e.field.trim_start_matches('/');
        let drawn = field.starts_with("polygon") || field.starts_with("geojson");
        FieldError { field: if drawn { "outline".to_owned() } else { field.replace('/', "-") }, ..e }
    };
    Ok(problem.errors.into_iter().map(beside).collect())
}

// --- pages ------------------------------------------------------------------------------------------------------------

async fn listed(pages: &Pages, page: Page, typed: &Typed, wrong: &[FieldError]) -> Result<ListPage, Problem> {
    let moving = pages.moves()?;
    let (found, next) = moving.fences().page(&page.caller, page.query.get("after").as_deref(), PER_PAGE).await?;
    let pager = Pager::after(&page, next.as_deref());
    let rules = pages.rules_about(&page).await?;
    let map = drawn(&page, found.iter());
    let rows = found.iter().map(|s| {
        vec![
            Cell::link(page.href(&format!("/fences/{}", s.fence.key)), page.text(&s.fence.name)),
            Cell::text(s.fence.kind.as_deref().unwrap_or_default()),
            Cell::text(pages.owner(&page, &s.fence.tenant)),
            Cell::text(naming(&page, &rules, s)),
            Cell::At(s.changed_at),
        ]
    });
    let table = Table::new(page.count("move.fences-caption", found.len() as u64))
        .column(Column::text("name", page.t("move.fence")))
        .column(Column::text("kind", page.t("move.kind")))
        .column(Column::text("tenant", page.t("device.department")))
        .column(Column::text("rules", page.t("rule.heading")))
        .column(Column::text("changed", page.t("move.changed")))
        .rows(rows)
        .empty(page.t("move.no-fences"));
    let departments = pages.draws_for(moving, &page);
    let fields = match departments.is_empty() {
        true => Vec::new(),
        false => fields(pages, moving, &page, &departments, typed, wrong),
    };
    let errors = ErrorSummary::new(&fields);
    let notice = did(&page);
    let page = page.in_section("map").wide().under_t("map.heading", "/map").titled_t("move.fences");
    Ok(ListPage { notice, map, table, pager, fields, errors, page })
}

async fn list(State(pages): State<Pages>, page: Page) -> Result<Html<impl Template>, Problem> {
    Ok(Html(listed(&pages, page, &Typed::default(), &[]).await?))
}

async fn make(State(pages): State<Pages>, Posted { page, typed }: Posted) -> Result<Response, Problem> {
    let moving = pages.moves()?;
    let tenant = match typed.get("tenant") {
        "" => pages.draws_for(moving, &page).into_iter().next(),
        slug => Tenant::parse(slug).ok(),
    };
    let tenant = tenant.ok_or_else(|| Problem::forbidden("Ask your department for the right to draw its fences."))?;
    let key = format!("{tenant}.{}", typed.get("key"));
    let wrong = match declaration(&page, &typed, tenant, key) {
        Err(wrong) => wrong,
        Ok(declaration) => match moving.fences().declare(&page.caller, declaration, Some(0)).await {
            Ok(made) => return Ok(to(&page, &made.fence.key)),
            Err(error) => mistakes(Problem::from(error))?,
        },
    };
    let view = listed(&pages, page, &typed, &wrong).await?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(view)).into_response())
}

fn to(page: &Page, key: &str) -> Response {
    Redirect::to(&page.href(&format!("/fences/{key}?did=drawn"))).into_response()
}

async fn one(
    pages: &Pages,
    page: Page,
    s: &Stored,
    typed: Option<&Typed>,
    wrong: &[FieldError],
) -> Result<OnePage, Problem> {
    let moving = pages.moves()?;
    let fence = &s.fence;
    let rules = pages.rules_about(&page).await?;
    let mut facts = vec![
        (page.t("device.department").to_owned(), pages.owner(&page, &fence.tenant).to_owned()),
        (
            page.t("move.seen").to_owned(),
            page.t(if fence.public { "move.seen-all" } else { "move.seen-own" }).to_owned(),
        ),
        (page.t("move.changed").to_owned(), page.exact(&s.changed_at)),
    ];
    if let Some(kind) = &fence.kind {
        facts.insert(1, (page.t("move.kind").to_owned(), kind.clone()));
    }
    if !page.caller.is_anonymous() {
        facts.push((page.t("alarm.by").to_owned(), page.who(&s.changed_by)));
        let naming = naming(&page, &rules, s);
        facts.push((
            page.t("rule.heading").to_owned(),
            if naming.is_empty() { page.t("move.no-rules").to_owned() } else { naming },
        ));
    }
    let may = moving.fences().may_draw(&page.caller, &fence.tenant);
    let (own, fixed) = match s.source {
        Source::Api => (may, None),
        Source::Pack => (false, may.then(|| page.t("move.fixed").to_owned())),
    };
    let path = format!("/fences/{}", fence.key);
    let (fields, remove) = if own {
        let before = typed_of(s);
        let act = Act::new(page.href(&format!("{path}/remove")), page.t("move.remove")).about(page.text(&fence.name));
        (fields(pages, moving, &page, &[], typed.unwrap_or(&before), wrong), Some(act))
    } else {
        (Vec::new(), None)
    };
    let map = drawn(&page, std::iter::once(s));
    let (errors, notice, action) = (ErrorSummary::new(&fields), did(&page), page.href(&path));
    let (revision, api, title) = (s.revision, format!("/api/fences/{}", fence.key), page.text(&fence.name).to_owned());
    let page = page.in_section("map").under_t("map.heading", "/map").under_t("move.fences", "/fences").titled(title);
    Ok(OnePage { page, notice, map, facts, fields, errors, revision, action, remove, fixed, api })
}

async fn show(
    State(pages): State<Pages>,
    Path((_, key)): Path<(String, String)>,
    page: Page,
) -> Result<Html<impl Template>, Problem> {
    let found = pages.moves()?.fences().get(&page.caller, &key).await?;
    Ok(Html(one(&pages, page, &found, None, &[]).await?))
}

async fn change(
    State(pages): State<Pages>,
    Path((_, key)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let fences = pages.moves()?.fences();
    let found = fences.get(&page.caller, &key).await?;
    let revision: i64 =
        typed.get("revision").parse().map_err(|_| Problem::field("revision", "the number in the form is expected"))?;
    let wrong = match declaration(&page, &typed, found.fence.tenant.clone(), key) {
        Err(wrong) => wrong,
        Ok(declaration) => match fences.declare(&page.caller, declaration, Some(revision)).await {
            Ok(made) => return Ok(to(&page, &made.fence.key)),
            Err(error) => mistakes(Problem::from(error))?,
        },
    };
    let view = one(&pages, page, &found, Some(&typed), &wrong).await?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(view)).into_response())
}

async fn remove(
    State(pages): State<Pages>,
    Path((_, key)): Path<(String, String)>,
    Posted { page, .. }: Posted,
) -> Result<Response, Problem> {
    pages.moves()?.fences().remove(&page.caller, &key).await?;
    Ok(Redirect::to(&page.href("/fences?did=removed")).into_response())
}
