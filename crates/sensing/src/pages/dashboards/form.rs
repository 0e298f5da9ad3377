//! The form that makes and changes a dashboard. Everything that is being written stands in the form itself until it is saved: adding a tile, moving one
//! and taking one away are answered with the same form, so nothing typed is lost and nothing half done is kept.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use kernel::{Problem, Tenant, Text};
use ui::{Choice, ErrorSummary, Field, FieldKind, Html, Page};

use super::{
    super::{
        Pages,
        form::{Posted, Typed},
    },
    departments,
};
use crate::{
    dashboards::model::{
        Audience, Column, Combine, Declaration, Kind, MAX_COLUMNS, MAX_TILES, Period, Tile, parse_levels, show_levels,
    },
    rules::model::{Selection, Severity},
};

const LANGUAGES: [(&str, &str); 3] = [("en", "English"), ("zh-hant", "繁體"), ("zh-hans", "简体")];

#[derive(Template)]
#[template(path = "dashboard-form.html")]
struct View {
    page: Page,
    action: String,
    fields: Vec<Field>,
    tiles: Vec<Fieldset>,
    errors: ErrorSummary,
    kinds: Vec<(&'static str, String)>,
    hidden: Vec<(String, String)>,
    back: String,
}

struct Fieldset {
    nth: usize,
    legend: String,
    fields: Vec<Field>,
    first: bool,
    last: bool,
}

/// A mistake beside its field, or without one.
type Wrong = Vec<(String, String)>;

fn put(out: &mut Vec<(String, String)>, name: impl Into<String>, value: impl Into<String>) {
    out.push((name.into(), value.into()));
}

fn put_text(out: &mut Vec<(String, String)>, name: &str, text: &Text) {
    put(out, format!("{name}.en"), text.en.as_str());
    put(out, format!("{name}.zh-hant"), text.zh_hant.as_deref().unwrap_or_default());
    put(out, format!("{name}.zh-hans"), text.zh_hans.as_deref().unwrap_or_default());
}

/// A dashboard as its form holds it.
pub fn fill(d: &Declaration) -> Typed {
    let mut out = Vec::new();
    let own = d.key.rsplit_once('.').map_or(d.key.as_str(), |(_, own)| own);
    put(&mut out, "key", own);
    put(&mut out, "tenant", d.tenant.as_str());
    put_text(&mut out, "title", &d.title);
    if let Some(about) = &d.about {
        put_text(&mut out, "about", about);
    }
    put(&mut out, "audience", d.audience.name());
    put(&mut out, "roles", d.roles.iter().cloned().collect::<Vec<_>>().join(", "));
    put(&mut out, "refresh", d.refresh.to_string());
    put(&mut out, "tiles", d.tiles.len().to_string());
    for (nth, tile) in d.tiles.iter().enumerate() {
        fill_tile(&mut out, nth, tile);
    }
    Typed(out)
}

fn fill_tile(out: &mut Vec<(String, String)>, nth: usize, t: &Tile) {
    let mut own = |name: &str, value: String| put(out, format!("t{nth}.{name}"), value);
    let named = |value: &Option<String>| value.clone().unwrap_or_default();
    own("kind", t.kind.name().to_owned());
    // What the form has no field for stays as it was.
    own("base", serde_json::to_string(t).unwrap_or_default());
    own("width", t.width.to_string());
    own("system", named(&t.select.system));
    own("observed_property", named(&t.select.observed_property));
    own("district", named(&t.select.district));
    own("thing", named(&t.select.thing));
    own("datastream", named(&t.select.datastream));
    own("owner", t.tenant.as_ref().map(ToString::to_string).unwrap_or_default());
    own("levels", show_levels(&t.levels));
    own("combine", t.combine.map_or_else(String::new, |c| c.name().to_owned()));
    own("period", t.period.map_or_else(String::new, |p| p.name().to_owned()));
    own("compare", if t.compare { "on".to_owned() } else { String::new() });
    own("columns", show_columns(&t.columns));
    own("weeks", t.weeks.map_or_else(String::new, |w| w.to_string()));
    own("most", t.most.map_or_else(String::new, |m| m.to_string()));
    own("severity", t.severity.map_or_else(String::new, |s| s.name().to_owned()));
    put_text(out, &format!("t{nth}.title"), &t.title);
    if let Some(text) = &t.text {
        put_text(out, &format!("t{nth}.text"), text);
    }
}

/// Columns as officers type them, a line each: `ammonia`, `occupied-cubicles of cubicles`, `occupied-cubicles left of cubicles`.
fn show_columns(columns: &[Column]) -> String {
    let one = |c: &Column| match (&c.of, c.left) {
        (Some(of), true) => format!("{} left of {of}", c.observed_property),
        (Some(of), false) => format!("{} of {of}", c.observed_property),
        (None, _) => c.observed_property.clone(),
    };
    columns.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Names and levels of a column that was there before stay.
fn parse_columns(text: &str, before: &[Column]) -> Result<Vec<Column>, String> {
    let mut columns = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if columns.len() == MAX_COLUMNS {
            return Err(format!("at most {MAX_COLUMNS} columns are possible"));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let (property, left, of) = match words.as_slice() {
            [property] => (*property, false, None),
            [property, "of", of] => (*property, false, Some((*of).to_owned())),
            [property, "left", "of", of] => (*property, true, Some((*of).to_owned())),
            _ => {
                let shown: String = line.chars().take(60).collect();
                return Err(format!(
                    "'{shown}': write the key of an observed property, or 'key of name', or 'key left of name'"
                ));
            }
        };
        let known = before.iter().find(|c| c.observed_property == property && c.left == left);
        columns.push(Column {
            observed_property: property.to_owned(),
            title: known.and_then(|c| c.title.clone()),
            levels: known.map(|c| c.levels.clone()).unwrap_or_default(),
            of,
            left,
        });
    }
    Ok(columns)
}

fn text(typed: &Typed, name: &str) -> Text {
    let get = |language: &str| typed.get(&format!("{name}.{language}")).replace("\r\n", "\n");
    let some = |t: String| (!t.is_empty()).then_some(t);
    Text { en: get("en"), zh_hant: some(get("zh-hant")), zh_hans: some(get("zh-hans")) }
}

/// What the form holds, and what of it is not even a number or a choice. A form that names no department is of `own`.
pub fn read(typed: &Typed, own: &Tenant) -> (Declaration, Wrong) {
    let mut wrong = Wrong::new();
    let tenant = Tenant::parse(typed.get("tenant")).unwrap_or_else(|_| own.clone());
    let refresh = typed.get("refresh").parse().unwrap_or(0);
    let roles = typed.get("roles").split([',', ' ']).map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned);
    let about = text(typed, "about");
    let audience = if typed.get("audience") == "public" { Audience::Public } else { Audience::Tenant };
    let mut declaration = Declaration {
        key: format!("{tenant}.{}", typed.get("key")),
        title: text(typed, "title"),
        about: (about != Text::default()).then_some(about),
        audience,
        roles: roles.collect(),
        refresh,
        tiles: Vec::new(),
        tenant,
    };
    let count = typed.get("tiles").parse::<usize>().unwrap_or(0).min(MAX_TILES);
    for nth in 0..count {
        declaration.tiles.push(read_tile(typed, nth, &mut wrong));
    }
    (declaration, wrong)
}

fn read_tile(typed: &Typed, nth: usize, wrong: &mut Wrong) -> Tile {
    let name = |name: &str| format!("t{nth}.{name}");
    let get = |field: &str| typed.get(&name(field));
    let some = |field: &str| Some(get(field)).filter(|t| !t.is_empty()).map(str::to_owned);
    let kind = Kind::from_name(get("kind")).unwrap_or(Kind::Text);
    let title = text(typed, &name("title"));
    let before = serde_json::from_str::<Tile>(get("base")).unwrap_or_else(|_| Tile::new(kind, title.clone()));
    let number = |field: &str, wrong: &mut Wrong| {
        let typed = some(field)?;
        let parsed = typed.parse::<u16>().ok();
        if parsed.is_none() {
            wrong.push((name(field), "a whole number is expected".to_owned()));
        }
        parsed
    };
    let has = |kinds: &[Kind]| kinds.contains(&kind);
    let mut tile = Tile::new(kind, title);
    tile.width = get("width").parse().unwrap_or(1);
    if kind != Kind::Text {
        tile.select = Selection {
            system: some("system"),
            observed_property: some("observed_property"),
            thing: some("thing"),
            datastream: some("datastream"),
            district: some("district"),
            within: None,
        };
        tile.tenant = some("owner").and_then(|t| Tenant::parse(&t).ok());
    }
    if has(&[Kind::Value, Kind::Map]) {
        tile.levels = if get("levels") == show_levels(&before.levels) {
            before.levels.clone()
        } else {
            parse_levels(get("levels")).unwrap_or_else(|why| {
                wrong.push((name("levels"), why));
                Vec::new()
            })
        };
    }
    if has(&[Kind::Value, Kind::Chart, Kind::Heat]) {
        tile.combine = Combine::from_name(get("combine"));
    }
    if kind == Kind::Chart {
        tile.period = Period::from_name(get("period"));
        tile.compare = get("compare") == "on";
    }
    if has(&[Kind::Status, Kind::Table]) {
        tile.columns = parse_columns(get("columns"), &before.columns).unwrap_or_else(|why| {
            wrong.push((name("columns"), why));
            before.columns.clone()
        });
    }
    if kind == Kind::Heat {
        tile.weeks = number("weeks", wrong).map(|w| u8::try_from(w).unwrap_or(u8::MAX));
    }
    if has(&[Kind::Status, Kind::Table, Kind::Map, Kind::Alarms]) {
        tile.most = number("most", wrong);
    }
    if kind == Kind::Alarms {
        tile.severity = Severity::from_name(get("severity"));
    }
    if kind == Kind::Text {
        tile.text = Some(text(typed, &name("text")));
    }
    tile
}

/// The field of the form that a mistake's JSON Pointer is about.
fn field_of(pointer: &str) -> String {
    let mut parts = pointer.trim_start_matches('/').split('/');
    let first = parts.next().unwrap_or_default();
    if first != "tile" {
        let rest: Vec<&str> = parts.collect();
        return [&[first], rest.as_slice()].concat().join(".");
    }
    let Some(nth) = parts.next() else { return "tiles".to_owned() };
    let rest: Vec<&str> = parts.collect();
    let own = match rest.as_slice() {
        ["select"] => "system".to_owned(),
        ["select", field] => (*field).to_owned(),
        ["column", ..] => "columns".to_owned(),
        ["levels", ..] => "levels".to_owned(),
        ["tenant"] => "owner".to_owned(),
        other => other.join("."),
    };
    format!("t{nth}.{own}")
}

fn three(
    page: &Page,
    out: &mut Vec<Field>,
    typed: &Typed,
    wrong: &Wrong,
    (name, label): (&str, &str),
    area: bool,
    required: bool,
) {
    for (language, endonym) in LANGUAGES {
        let name = format!("{name}.{language}");
        let label = format!("{} ({endonym})", page.t(label));
        let kind = if area { FieldKind::Area { rows: 4 } } else { FieldKind::Input("text") };
        let field = Field::new(&name, label, kind).value(typed.get(&name)).error(error(wrong, &name));
        out.push(if required { field.required() } else { field });
    }
}

fn error(wrong: &Wrong, name: &str) -> Option<String> {
    wrong.iter().find(|(field, _)| field == name).map(|(_, why)| why.clone())
}

fn kind_word(page: &Page, kind: Kind) -> &str {
    page.t(match kind {
        Kind::Value => "board.kind.value",
        Kind::Status => "board.kind.status",
        Kind::Chart => "board.kind.chart",
        Kind::Alarms => "board.kind.alarms",
        Kind::Map => "board.kind.map",
        Kind::Table => "board.kind.table",
        Kind::Heat => "board.kind.heat",
        Kind::Text => "board.kind.text",
    })
}

fn tile_fields(pages: &Pages, page: &Page, typed: &Typed, wrong: &Wrong, nth: usize, kind: Kind) -> Vec<Field> {
    let name = |field: &str| format!("t{nth}.{field}");
    let mut out = Vec::new();
    three(page, &mut out, typed, wrong, (&name("title"), "board.title"), false, true);
    let select = |field: &str, label: &str, choices: Vec<Choice>| {
        let name = name(field);
        Field::new(&name, page.t(label), FieldKind::Select(choices)).value(typed.get(&name)).error(error(wrong, &name))
    };
    let input = |field: &str, label: &str, hint: &str| {
        let name = name(field);
        let shown = Field::input(&name, page.t(label), "text")
            .value(typed.get(&name))
            .max_length(200)
            .error(error(wrong, &name));
        if hint.is_empty() { shown } else { shown.hint(page.t(hint)) }
    };
    let any = || Choice::new("", page.t("silence.any"));
    let has = |kinds: &[Kind]| kinds.contains(&kind);
    out.push(
        select(
            "width",
            "board.width",
            (1..=4u8).map(|w| Choice::new(w.to_string(), page.count("board.columns", u64::from(w)))).collect(),
        )
        .required(),
    );
    if kind == Kind::Text {
        three(page, &mut out, typed, wrong, (&name("text"), "board.text"), true, true);
        return out;
    }
    let systems = pages.directory.systems().iter().map(|s| Choice::new(&*s.key, page.text(&s.name)));
    out.push(select("system", "thing.system", std::iter::once(any()).chain(systems).collect()));
    if kind != Kind::Alarms {
        if !has(&[Kind::Status, Kind::Table]) {
            out.push(input("observed_property", "board.property", "board.property-hint"));
        }
        out.push(input("thing", "board.thing", "board.thing-hint"));
        out.push(input("datastream", "board.datastream", "board.datastream-hint"));
    }
    out.push(input("district", "thing.district", "silence.district-hint"));
    let owners = pages.owners.iter().map(|(slug, name)| Choice::new(slug, page.text(name)));
    out.push(select("owner", "thing.owner", std::iter::once(any()).chain(owners).collect()));
    if has(&[Kind::Status, Kind::Table]) {
        let name = name("columns");
        out.push(
            Field::new(&name, page.t("board.columns-of"), FieldKind::Area { rows: 4 })
                .hint(page.t("board.columns-hint"))
                .required()
                .value(typed.get(&name))
                .error(error(wrong, &name)),
        );
    }
    if has(&[Kind::Value, Kind::Map]) {
        out.push(input("levels", "board.levels", "board.levels-hint"));
    }
    if has(&[Kind::Value, Kind::Chart, Kind::Heat]) {
        let choices = Combine::ALL.iter().map(|c| {
            let key = match c {
                Combine::Mean => "board.combine.mean",
                Combine::Min => "board.combine.min",
                Combine::Max => "board.combine.max",
                Combine::Sum => "board.combine.sum",
                Combine::Total => "board.combine.total",
            };
            Choice::new(c.name(), page.t(key))
        });
        out.push(select("combine", "board.combine-by", choices.collect()));
    }
    if kind == Kind::Chart {
        let choices = Period::ALL.iter().map(|p| {
            let key = match p {
                Period::Day => "board.period.day",
                Period::Week => "board.period.week",
                Period::Month => "board.period.month",
            };
            Choice::new(p.name(), page.t(key))
        });
        out.push(select("period", "board.period-of", choices.collect()));
        let name = name("compare");
        out.push(Field::new(&name, page.t("board.compare"), FieldKind::Checkbox).value(typed.get(&name)));
    }
    if kind == Kind::Heat {
        out.push(input("weeks", "board.weeks-of", "").input_mode("numeric"));
    }
    if has(&[Kind::Status, Kind::Table, Kind::Map, Kind::Alarms]) {
        out.push(input("most", "board.most", "").input_mode("numeric"));
    }
    if kind == Kind::Alarms {
        let severities = Severity::ALL.iter().map(|s| Choice::new(s.name(), super::super::alarms::severity(page, *s)));
        out.push(select("severity", "board.severity", std::iter::once(any()).chain(severities).collect()));
    }
    out
}

/// The form; `open` is the key and version of the one that is being changed.
fn render(pages: &Pages, page: Page, typed: &Typed, wrong: &Wrong, open: Option<(&str, u32)>) -> Result<View, Problem> {
    let boards = pages.boards()?;
    let mut fields = Vec::new();
    let field = |name: &str, label: &str, hint: &str| {
        let shown = Field::input(name, page.t(label), "text").value(typed.get(name)).error(error(wrong, name));
        if hint.is_empty() { shown } else { shown.hint(page.t(hint)) }
    };
    if open.is_none() {
        let may = departments(pages, boards, &page.caller);
        let names = may.iter().map(|t| Choice::new(t.as_str(), pages.owner(&page, t)));
        fields.push(
            Field::new("tenant", page.t("device.department"), FieldKind::Select(names.collect()))
                .required()
                .value(typed.get("tenant"))
                .error(error(wrong, "tenant")),
        );
        fields.push(field("key", "board.key", "board.key-hint").max_length(60).required());
    }
    three(&page, &mut fields, typed, wrong, ("title", "board.title"), false, true);
    three(&page, &mut fields, typed, wrong, ("about", "board.about"), false, false);
    let audiences = vec![
        Choice::new("tenant", page.t("board.audience.tenant")),
        Choice::new("public", page.t("board.audience.public")),
    ];
    fields.push(
        Field::new("audience", page.t("board.audience-of"), FieldKind::Radios(audiences))
            .hint(page.t("board.audience-hint"))
            .required()
            .value(typed.get("audience"))
            .error(error(wrong, "audience")),
    );
    fields.push(field("roles", "board.roles", "board.roles-hint"));
    fields.push(field("refresh", "board.refresh", "board.refresh-hint").input_mode("numeric").required());
    let count = typed.get("tiles").parse::<usize>().unwrap_or(0).min(MAX_TILES);
    let mut hidden = vec![("tiles".to_owned(), count.to_string())];
    if let Some((_, version)) = open {
        hidden.push(("version".to_owned(), version.to_string()));
        for kept in ["tenant", "key"] {
            hidden.push((kept.to_owned(), typed.get(kept).to_owned()));
        }
    }
    let mut tiles = Vec::with_capacity(count);
    for nth in 0..count {
        let kind = Kind::from_name(typed.get(&format!("t{nth}.kind"))).unwrap_or(Kind::Text);
        for kept in ["kind", "base"] {
            let name = format!("t{nth}.{kept}");
            hidden.push((name.clone(), typed.get(&name).to_owned()));
        }
        let (n, what) = (nth as u64 + 1, kind_word(&page, kind));
        tiles.push(Fieldset {
            nth,
            legend: page.msg("board.tile").n(n).with("kind", what).to_string(),
            fields: tile_fields(pages, &page, typed, wrong, nth, kind),
            first: nth == 0,
            last: nth + 1 == count,
        });
    }
    let all: Vec<Field> = fields.iter().chain(tiles.iter().flat_map(|t| &t.fields)).cloned().collect();
    let errors = ErrorSummary::new(&all);
    let kinds = Kind::ALL.iter().map(|k| (k.name(), kind_word(&page, *k).to_owned())).collect();
    let (action, back, heading) = match open {
        Some((key, _)) => {
            (page.href(&format!("/dashboards/{key}/edit")), page.href(&format!("/dashboards/{key}")), "board.edit")
        }
        None => (page.href("/dashboards/new"), page.href("/dashboards"), "board.new"),
    };
    let page = page.in_section("dashboards").dense().under_t("board.heading", "/dashboards").titled_t(heading);
    Ok(View { action, fields, tiles, errors, kinds, hidden, back, page })
}

/// Makes of the form what a button other than "Save" asks for; `false` when it was "Save".
fn edited(typed: &mut Typed) -> bool {
    let deed = typed.get("do").to_owned();
    let count = typed.get("tiles").parse::<usize>().unwrap_or(0).min(MAX_TILES);
    let (verb, nth) = deed.split_once(':').map_or((deed.as_str(), None), |(verb, n)| (verb, n.parse::<usize>().ok()));
    let set = |typed: &mut Typed, count: usize| {
        typed.0.retain(|(name, _)| name != "tiles");
        put(&mut typed.0, "tiles", count.to_string());
    };
    match (verb, nth) {
        ("add", _) => {
            let kind = Kind::from_name(typed.get("kind")).unwrap_or(Kind::Value);
            if count < MAX_TILES {
                let mut tile = Tile::new(kind, Text::default());
                tile.width = if matches!(kind, Kind::Value | Kind::Alarms) { 1 } else { 2 };
                fill_tile(&mut typed.0, count, &tile);
                set(typed, count + 1);
            }
        }
        ("up", Some(nth)) if nth > 0 && nth < count => swap(typed, nth - 1, nth),
        ("down", Some(nth)) if nth + 1 < count => swap(typed, nth, nth + 1),
        ("take", Some(nth)) if nth < count => {
            for at in nth..count - 1 {
                swap(typed, at, at + 1);
            }
            let prefix = format!("t{}.", count - 1);
            typed.0.retain(|(name, _)| !name.starts_with(&prefix));
            set(typed, count - 1);
        }
        ("up" | "down" | "take", _) => {}
        _ => return false,
    }
    true
}

fn swap(typed: &mut Typed, a: usize, b: usize) {
    let (a, b) = (format!("t{a}."), format!("t{b}."));
    for (name, _) in &mut typed.0 {
        if let Some(rest) = name.strip_prefix(&a) {
            *name = format!("{b}{rest}");
        } else if let Some(rest) = name.strip_prefix(&b) {
            *name = format!("{a}{rest}");
        }
    }
}

pub async fn blank(State(pages): State<Pages>, page: Page) -> Result<Response, Problem> {
    let boards = pages.boards()?;
    let own = maker(&pages, &page)?;
    let mut typed = match page.query.get("from") {
        Some(key) => fill(&boards.get(&page.caller, &key).await?.declaration),
        None => Typed(vec![
            ("audience".to_owned(), "tenant".to_owned()),
            ("refresh".to_owned(), "15".to_owned()),
            ("tiles".to_owned(), "0".to_owned()),
        ]),
    };
    typed.0.retain(|(name, _)| name != "tenant");
    put(&mut typed.0, "tenant", own.as_str());
    Ok(Html(render(&pages, page, &typed, &Wrong::new(), None)?).into_response())
}

/// The department that a new dashboard is first offered for. Who may make none is told so where something of a department may be read at all.
fn maker(pages: &Pages, page: &Page) -> Result<Tenant, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let boards = pages.boards()?;
    let first = departments(pages, boards, &page.caller).into_iter().next();
    first.ok_or_else(|| Problem::forbidden("Ask the department for the right to make dashboards."))
}

fn mistakes(problem: Problem) -> Result<Wrong, Problem> {
    if problem.errors.is_empty() {
        return Err(problem);
    }
    Ok(problem.errors.into_iter().map(|e| (field_of(&e.field), e.detail)).collect())
}

pub async fn make(State(pages): State<Pages>, Posted { page, mut typed }: Posted) -> Result<Response, Problem> {
    let own = maker(&pages, &page)?;
    if edited(&mut typed) {
        return Ok(Html(render(&pages, page, &typed, &Wrong::new(), None)?).into_response());
    }
    let (declaration, mut wrong) = read(&typed, &own);
    if wrong.is_empty() {
        match pages.boards()?.create(&page.caller, declaration).await.map_err(Problem::from) {
            Ok(made) => {
                let key = made.declaration.key;
                return Ok(Redirect::to(&page.href(&format!("/dashboards/{key}?did=saved"))).into_response());
            }
            Err(problem) => wrong = mistakes(problem)?,
        }
    }
    Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(render(&pages, page, &typed, &wrong, None)?)).into_response())
}

pub async fn open(
    State(pages): State<Pages>,
    Path((_, key)): Path<(String, String)>,
    page: Page,
) -> Result<Response, Problem> {
    let dashboard = changeable(&pages, &page, &key).await?;
    let typed = fill(&dashboard.declaration);
    Ok(Html(render(&pages, page, &typed, &Wrong::new(), Some((&key, dashboard.version)))?).into_response())
}

async fn changeable(pages: &Pages, page: &Page, key: &str) -> Result<crate::dashboards::store::Dashboard, Problem> {
    if page.caller.is_anonymous() {
        return Err(Problem::unauthenticated());
    }
    let boards = pages.boards()?;
    let dashboard = boards.get(&page.caller, key).await?;
    if !boards.may_manage(&page.caller, &dashboard.declaration.tenant) {
        return Err(Problem::forbidden("Ask the dashboard's department for the right to change it."));
    }
    if dashboard.declared {
        return Err(Problem::conflict("The pack declares this dashboard. Copy it, and change the copy."));
    }
    Ok(dashboard)
}

pub async fn save(
    State(pages): State<Pages>,
    Path((_, key)): Path<(String, String)>,
    Posted { page, mut typed }: Posted,
) -> Result<Response, Problem> {
    let dashboard = changeable(&pages, &page, &key).await?;
    let version = typed
        .get("version")
        .parse::<u32>()
        .map_err(|_| Problem::field("version", "the version that you have seen is expected; open the form again"))?;
    if edited(&mut typed) {
        return Ok(Html(render(&pages, page, &typed, &Wrong::new(), Some((&key, version)))?).into_response());
    }
    let (mut declaration, mut wrong) = read(&typed, &dashboard.declaration.tenant);
    // Whose it is and how it is called are not the form's to say.
    (declaration.key, declaration.tenant) = (key.clone(), dashboard.declaration.tenant);
    if wrong.is_empty() {
        match pages.boards()?.change(&page.caller, &key, declaration, version).await.map_err(Problem::from) {
            Ok(_) => return Ok(Redirect::to(&page.href(&format!("/dashboards/{key}?did=saved"))).into_response()),
            Err(problem) => wrong = mistakes(problem)?,
        }
    }
    let view = render(&pages, page, &typed, &wrong, Some((&key, version)))?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(view)).into_response())
}

pub async fn remove(
    State(pages): State<Pages>,
    Path((_, key)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    changeable(&pages, &page, &key).await?;
    let version = typed
        .get("version")
        .parse::<u32>()
        .map_err(|_| Problem::field("version", "the version that you have seen is expected"))?;
    pages.boards()?.remove(&page.caller, &key, version).await?;
    Ok(Redirect::to(&page.href("/dashboards?did=removed")).into_response())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dashboards::model::check;

    fn title(n: u8) -> Text {
        Text::new(format!("T{n}"), "甲", "甲")
    }

    /// Tiles of each kind that are as they should be.
    fn tile(kind: Kind, n: u8) -> Tile {
        let mut t = Tile::new(kind, title(n));
        t.width = n % 4 + 1;
        if kind != Kind::Text {
            t.select.system = Some("toilet".to_owned());
            t.select.district = (n.is_multiple_of(2)).then(|| "Sha Tin".to_owned());
        }
        match kind {
            Kind::Value | Kind::Map => {
                t.levels = parse_levels("2 warning, 3.5 alarm").expect("levels");
                t.levels[1].word = Some(title(9));
            }
            Kind::Chart => (t.period, t.compare) = (Some(Period::Week), n.is_multiple_of(2)),
            Kind::Heat => t.weeks = Some(3),
            Kind::Alarms => t.severity = Some(Severity::Severe),
            Kind::Text => t.text = Some(title(n)),
            Kind::Status | Kind::Table => {
                let column = |property: &str, of: Option<&str>, left| Column {
                    observed_property: property.to_owned(),
                    title: Some(title(n)),
                    levels: parse_levels("1 alarm").expect("levels"),
                    of: of.map(str::to_owned),
                    left,
                };
                t.columns = vec![column("a", None, false), column("b", Some("c"), true), column("b", Some("c"), false)];
                t.most = Some(7);
            }
        }
        if matches!(kind, Kind::Value | Kind::Chart | Kind::Heat) {
            t.combine = Some(Combine::Max);
        }
        t
    }

    fn dashboard(kinds: &[usize]) -> Declaration {
        Declaration {
            key: "fehd.mine".to_owned(),
            tenant: Tenant::parse("fehd").expect("slug"),
            title: title(0),
            about: Some(title(1)),
            audience: Audience::Tenant,
            roles: ["admin".to_owned(), "operator".to_owned()].into(),
            refresh: 30,
            tiles: kinds.iter().enumerate().map(|(n, k)| tile(Kind::ALL[*k], n as u8)).collect(),
        }
    }

    #[test]
    fn a_mistake_stands_beside_its_field() {
        let mut d = dashboard(&[0, 1, 7]);
        d.tiles[0].select = Selection::default();
        d.tiles[1].columns[1].observed_property = "x\u{7}".to_owned();
        d.tiles[2].text = Some(Text::plain("only"));
        d.title.zh_hans = None;
        let fields: Vec<String> = check(&d, &|_| false).into_iter().map(|e| field_of(&e.field)).collect();
        assert_eq!(fields, ["title.zh-hans", "t0.system", "t1.columns", "t2.text.zh-hant", "t2.text.zh-hans"]);
    }

    #[test]
    fn tiles_are_added_moved_and_taken_away() {
        let own = Tenant::parse("fehd").expect("slug");
        let mut typed = fill(&dashboard(&[0, 1, 2]));
        let mut press = |deed: &str| {
            typed.0.retain(|(name, _)| name != "do" && name != "kind");
            typed.0.push(("do".to_owned(), deed.to_owned()));
            typed.0.push(("kind".to_owned(), "heat".to_owned()));
            assert!(edited(&mut typed), "{deed}");
            let (read, wrong) = read(&typed, &own);
            assert!(wrong.is_empty(), "{wrong:?}");
            read.tiles.iter().map(|t| t.kind.name()).collect::<Vec<_>>()
        };
        assert_eq!(press("down:0"), ["status", "value", "chart"]);
        assert_eq!(press("up:2"), ["status", "chart", "value"]);
        assert_eq!(press("take:0"), ["chart", "value"]);
        assert_eq!(press("add"), ["chart", "value", "heat"]);
        assert_eq!(press("up:0"), ["chart", "value", "heat"], "the first is the first");
        assert_eq!(press("take:99"), ["chart", "value", "heat"]);
        typed.0.retain(|(name, _)| name != "do");
        typed.0.push(("do".to_owned(), "save".to_owned()));
        assert!(!edited(&mut typed));
    }

    #[test]
    fn what_is_no_number_is_said() {
        let mut typed = fill(&dashboard(&[6, 1]));
        for (name, value) in &mut typed.0 {
            match name.as_str() {
                "t0.weeks" => *value = "many".to_owned(),
                "t1.columns" => *value = "a of".to_owned(),
                _ => {}
            }
        }
        let fields: Vec<String> =
            read(&typed, &Tenant::parse("fehd").expect("slug")).1.into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["t0.weeks", "t1.columns"]);
    }

    proptest! {
        /// A form that nobody touches says what was there, what it has no field for included.
        #[test]
        fn a_form_reads_back(kinds in proptest::collection::vec(0usize..8, 0..6)) {
            let d = dashboard(&kinds);
            prop_assert!(check(&d, &|_| false).is_empty());
            let (again, wrong) = read(&fill(&d), &d.tenant);
            prop_assert!(wrong.is_empty());
            prop_assert_eq!(again, d);
        }
        #[test]
        fn whatever_is_typed_for_columns_is_understood_or_named(text in "\\PC{0,60}(\n[a-z ]{0,30}){0,3}") {
            if let Ok(columns) = parse_columns(&text, &[]) {
                prop_assert!(columns.len() <= MAX_COLUMNS);
                prop_assert_eq!(parse_columns(&show_columns(&columns), &[]).expect("reads back"), columns);
            }
        }
    }
}
