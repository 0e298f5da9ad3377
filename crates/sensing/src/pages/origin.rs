//! Where the values of a Datastream come from, on its page: what they are computed from, what officers have found out about them, and the forms in
//! which they say so.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use jiff::tz::TimeZone;
use kernel::{Problem, Timestamp};
use ui::{Cell, Choice, Column, Field, FieldKind, Notice, Page, Query, Table, Tone};

use super::{
    Pages,
    form::{Posted, Typed},
};
use crate::{
    catalog::Entity,
    derived::{
        Provenance,
        correct::{Calibration, Method, NewCalibration, NewCorrection, Verdict},
    },
    model::{EntityId, EntityType, Observation},
    route::action,
};

/// What stands on the page about it.
#[derive(Default)]
pub struct Origin {
    pub notices: Vec<Notice>,
    /// By what it is computed; `None` for what is measured.
    pub computed: Option<String>,
    /// Address and name of each input that the reader may see.
    pub inputs: Vec<(String, String)>,
    pub formulas: Vec<String>,
    pub published: Option<String>,
    pub calibrations: Option<Table>,
    pub calibrate: Vec<Field>,
    /// For taking one back, where any counts.
    pub withdraw: Vec<Field>,
    pub correct: Vec<Field>,
}

impl Pages {
    /// The Datastream that is shown for an address: the corrected version where there is one, unless the raw one is asked for.
    pub(super) async fn version(&self, entity: Entity, query: &Query) -> Result<Entity, Problem> {
        let Some(derived) = &self.derived else { return Ok(entity) };
        let wanted = match query.get("version").as_deref() {
            None | Some("corrected") => derived.corrected(entity.id),
            Some("raw") => derived.raw(entity.id),
            Some(_) => return Err(Problem::field("version", "raw or corrected is expected")),
        };
        let Some(id) = wanted else { return Ok(entity) };
        // Both belong to one Thing: who may see the one may see the other.
        let other = self.catalog.get(&crate::Scope::Everything, EntityType::Datastream, id).await?;
        Ok(other.filter(|o| o.tenant == entity.tenant && o.public == entity.public).unwrap_or(entity))
    }

    pub(super) async fn origin(&self, page: &Page, shown: &Entity, rows: &[Observation]) -> Result<Origin, Problem> {
        let Some(derived) = &self.derived else { return Ok(Origin::default()) };
        let found = derived.provenance(&page.caller, shown.id).await?;
        let mut origin = Origin { notices: notices(page, &found), ..Origin::default() };
        if let Some(by) = &found.by {
            let name = page.text(&by.name);
            origin.computed =
                Some(page.msg("derived.computed").with("name", name).with("version", by.version).to_string());
            origin.inputs = found
                .from
                .iter()
                .map(|f| {
                    let raw = if found.corrects.is_some() { "?version=raw" } else { "" };
                    (page.href(&format!("/datastreams/{}{raw}", f.datastream)), page.text(&f.label).to_owned())
                })
                .collect();
            origin.published.clone_from(&by.source);
            let since = |f: &crate::derived::model::Formula| match f.from {
                Some(from) => {
                    format!("{}\n{}", page.msg("derived.from").with("time", page.exact(&from)), f.expression.trim())
                }
                None => f.expression.trim().to_owned(),
            };
            origin.formulas = by.formulas.iter().map(since).collect();
        }
        let raw = found.corrects.or(found.corrected_by.map(|_| shown.id));
        if let Some(raw) = raw {
            let all = derived.calibrations(&page.caller, raw).await?;
            if !all.is_empty() {
                origin.calibrations = Some(calibrations(page, &all));
            }
            origin.withdraw = withdraw_fields(page, &all);
        }
        if found.origin != "derived" {
            let resource = kernel::Resource { kind: "Datastream", id: "", tenant: Some(&shown.tenant), public: false };
            let may = |action| self.catalog.scopes().policy().allows(&page.caller, action, &resource);
            if may(action::WRITE) {
                origin.calibrate = calibrate_fields(page);
            } else {
                origin.withdraw.clear();
            }
            if may(action::OBSERVE) && !rows.is_empty() {
                origin.correct = correct_fields(page, rows);
            }
        }
        Ok(origin)
    }
}

fn notices(page: &Page, found: &Provenance) -> Vec<Notice> {
    let mut notices = Vec::new();
    let here = |id: EntityId, query: &str| page.href(&format!("/datastreams/{id}{query}"));
    if let Some(raw) = found.corrects {
        let notice = Notice::new(Tone::Information, page.t("derived.shows-corrected"));
        notices.push(notice.link(here(raw, "?version=raw"), page.t("derived.raw")));
    }
    if let Some(corrected) = found.corrected_by {
        let notice = Notice::new(Tone::Information, page.t("derived.shows-raw"));
        notices.push(notice.link(here(corrected, ""), page.t("derived.corrected")));
    }
    if let Some(work) = found.work.first() {
        let text = page.msg("derived.work").with("percent", work.percent).to_string();
        notices.push(Notice::new(Tone::Information, text));
    }
    if let Some(trouble) = &found.trouble {
        let text = page.msg("derived.trouble").with("why", trouble).to_string();
        notices.push(Notice::new(Tone::Warning, text));
    }
    notices
}

/// A method as people write it.
fn how(method: &Method) -> String {
    match method {
        Method::Linear { gain, offset } => format!("{gain} × + {offset}"),
        Method::Polynomial { coefficients } => {
            let term = |(power, c): (usize, &f64)| match power {
                0 => c.to_string(),
                1 => format!("{c} ×"),
                _ => format!("{c} ×^{power}"),
            };
            coefficients.iter().enumerate().map(term).collect::<Vec<_>>().join(" + ")
        }
        Method::Table { points, .. } => {
            points.iter().take(6).map(|[x, y]| format!("{x} → {y}")).collect::<Vec<_>>().join(", ")
        }
    }
}

fn calibrations(page: &Page, all: &[Calibration]) -> Table {
    Table::new(page.t("derived.calibrations"))
        .column(Column::number("id", page.t("derived.number")))
        .column(Column::text("from", page.t("derived.begins")))
        .column(Column::text("to", page.t("derived.ends")))
        .column(Column::text("how", page.t("derived.method")))
        .column(Column::text("reason", page.t("derived.reason")))
        .column(Column::text("certificate", page.t("derived.certificate")))
        .column(Column::text("by", page.t("derived.by")))
        .column(Column::text("state", page.t("derived.state")))
        .rows(all.iter().rev().map(|c| {
            let state = if c.withdrawn.is_some() { "derived.withdrawn" } else { "derived.counts" };
            vec![
                Cell::number(c.id as f64, 0),
                Cell::At(c.from),
                c.to.map_or(Cell::Empty, Cell::At),
                Cell::text(how(&c.method)),
                Cell::text(&c.reason),
                Cell::text(c.certificate.as_deref().unwrap_or_default()),
                Cell::text(page.who(&c.by)),
                Cell::text(page.t(state)),
            ]
        }))
}

fn calibrate_fields(page: &Page) -> Vec<Field> {
    vec![
        Field::input("gain", page.t("derived.gain"), "text")
            .hint(page.t("derived.gain-hint"))
            .value("1")
            .required()
            .input_mode("decimal"),
        Field::input("offset", page.t("derived.offset"), "text")
            .hint(page.t("derived.offset-hint"))
            .value("0")
            .required()
            .input_mode("decimal"),
        Field::input("from", page.t("derived.begins"), "datetime-local").hint(page.t("derived.local")).required(),
        Field::input("to", page.t("derived.ends"), "datetime-local").hint(page.t("derived.ends-hint")),
        Field::input("reason", page.t("derived.reason"), "text")
            .hint(page.t("derived.reason-hint"))
            .required()
            .max_length(300),
        Field::input("certificate", page.t("derived.certificate"), "text").max_length(300),
    ]
}

fn withdraw_fields(page: &Page, all: &[Calibration]) -> Vec<Field> {
    let counts = all.iter().rev().filter(|c| c.withdrawn.is_none());
    let choice =
        |c: &Calibration| Choice::new(c.id.to_string(), format!("{}  {}  {}", c.id, page.exact(&c.from), c.reason));
    let choices: Vec<Choice> = counts.map(choice).collect();
    if choices.is_empty() {
        return Vec::new();
    }
    vec![
        Field::new("calibration", page.t("derived.number"), FieldKind::Select(choices)).required(),
        Field::input("because", page.t("derived.reason"), "text")
            .hint(page.t("derived.reason-hint"))
            .required()
            .max_length(300),
    ]
}

fn correct_fields(page: &Page, rows: &[Observation]) -> Vec<Field> {
    let choice = |o: &Observation| {
        let value = o.result.number().map_or_else(String::new, |v| page.number(&v, super::decimals(v)));
        Choice::new(o.id().to_string(), format!("{}  {value}", page.exact(&o.phenomenon.start)))
    };
    let verdicts = [
        Choice::new("", page.t("derived.as-it-is")),
        Choice::new("good", page.t("derived.good")),
        Choice::new("suspect", page.t("derived.suspect")),
        Choice::new("bad", page.t("derived.bad")),
    ];
    vec![
        Field::new("observation", page.t("derived.observation"), FieldKind::Select(rows.iter().map(choice).collect()))
            .required(),
        Field::input("value", page.t("derived.value"), "text").hint(page.t("derived.value-hint")).input_mode("decimal"),
        Field::new("quality", page.t("derived.quality"), FieldKind::Select(verdicts.into())),
        Field::input("why", page.t("derived.reason"), "text")
            .hint(page.t("derived.reason-hint"))
            .required()
            .max_length(300),
    ]
}

fn number(typed: &Typed, name: &'static str) -> Result<Option<f64>, Problem> {
    let text = typed.get(name);
    if text.is_empty() {
        return Ok(None);
    }
    let value: Option<f64> = text.parse().ok().filter(|v: &f64| v.is_finite());
    value.map(Some).ok_or_else(|| Problem::field(name, "a number such as 1.02 is expected"))
}

/// A moment, or nothing where the field is empty.
fn moment(typed: &Typed, name: &'static str, zone: &TimeZone) -> Result<Option<Timestamp>, Problem> {
    let text = typed.get(name);
    let at = super::form::moment(text, zone);
    if at.is_none() && !text.is_empty() {
        return Err(Problem::field(name, "a date and a time are expected, such as 2026-11-22T09:00"));
    }
    Ok(at)
}

/// What an officer says about the Datastream or one of its Observations.
pub async fn act(
    State(pages): State<Pages>,
    Path((_, id)): Path<(String, String)>,
    Posted { page, typed }: Posted,
) -> Result<Response, Problem> {
    let entity = pages.datastream(&page.caller, &id).await?;
    let Some(derived) = &pages.derived else { return Err(Problem::not_found("What you want to do")) };
    let zone = &page.site.zone;
    match typed.get("deed") {
        "calibrate" => {
            let certificate = Some(typed.get("certificate").to_owned()).filter(|t| !t.is_empty());
            let new = NewCalibration {
                method: Method::Linear {
                    gain: number(&typed, "gain")?.unwrap_or(1.0),
                    offset: number(&typed, "offset")?.unwrap_or(0.0),
                },
                from: moment(&typed, "from", zone)?
                    .ok_or_else(|| Problem::field("from", "a date and a time are expected"))?,
                to: moment(&typed, "to", zone)?,
                reason: typed.get("reason").to_owned(),
                certificate,
            };
            derived.calibrate(&page.caller, entity.id, new).await?;
        }
        "correct" => {
            let observation = typed.get("observation").parse().map_err(|e: String| Problem::field("observation", e))?;
            let quality = match typed.get("quality") {
                "" => None,
                name => Some(
                    Verdict::from_name(name)
                        .ok_or_else(|| Problem::field("quality", "good, suspect or bad is expected"))?,
                ),
            };
            let new = NewCorrection { value: number(&typed, "value")?, quality, reason: typed.get("why").to_owned() };
            derived.correct(&page.caller, observation, new).await?;
        }
        "withdraw" => {
            let missing = || Problem::field("calibration", "the number of a calibration is expected");
            let calibration = typed.get("calibration").parse().map_err(|_| missing())?;
            derived.withdraw(&page.caller, entity.id, calibration, typed.get("because")).await?;
        }
        _ => return Err(Problem::field("deed", "calibrate, withdraw or correct is expected")),
    }
    Ok(Redirect::to(&page.href(&format!("/datastreams/{}", entity.id))).into_response())
}
