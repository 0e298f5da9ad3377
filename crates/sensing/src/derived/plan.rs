//! From declarations to Datastreams: which output is computed from which inputs, in which order, and what stands in the way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use kernel::{Tenant, Text};
use records::{Param, Read, Row, ToParam, params};
use serde::Serialize;
use serde_json::Value;

use super::{
    correct::{self, Corrections, Pair},
    model::{Declaration, Definition, Formula, Input, Name},
    store::Stored,
};
use crate::model::{EntityId, ObservationType};

/// How many steps an output may be away from what was measured.
pub const MAX_DEPTH: u32 = 8;
/// Outputs of a city.
pub const MAX_OUTPUTS: usize = 100_000;

/// One output and what it is computed from.
#[derive(Clone, Debug)]
pub struct Instance {
    pub definition: Arc<Definition>,
    pub version: i64,
    pub paused: bool,
    pub output: EntityId,
    pub kind: ObservationType,
    pub inputs: Vec<EntityId>,
    /// 1 for what is computed from measurements alone.
    pub depth: u32,
    /// What officers have found out about a raw Datastream, where that is what it is computed by.
    pub corrections: Option<Arc<Corrections>>,
}

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Something is not there, or may not be read.
    Missing,
    /// What comes out does not fit where it is to go.
    Unfit,
    /// A circle, too many steps, or two for one output: a mistake whatever the Things are.
    Order,
}

/// Why something is not computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    pub reason: Reason,
    pub definition: String,
    pub output: Option<EntityId>,
    pub detail: String,
}

/// All of a city, in the order in which it is computed.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub instances: Vec<Instance>,
    pub troubles: Vec<Trouble>,
    by_output: HashMap<EntityId, usize>,
    /// Raw Datastreams and the corrected ones beside them.
    pub pairs: Vec<Pair>,
    /// Datastreams that are or once were an output.
    pub computed: BTreeSet<EntityId>,
    /// Input to instances, and which of their inputs it is.
    by_input: HashMap<EntityId, Vec<(usize, usize)>>,
}

impl Plan {
    /// With the corrected Datastreams that stand beside raw ones.
    #[must_use]
    pub fn beside(self, pairs: Vec<Pair>) -> Self {
        Self { pairs, ..self }
    }
    /// With what is or once was an output.
    #[must_use]
    pub fn knowing(self, computed: BTreeSet<EntityId>) -> Self {
        Self { computed, ..self }
    }
    pub fn of(&self, output: EntityId) -> Option<&Instance> {
        self.by_output.get(&output).map(|at| &self.instances[*at])
    }
    /// The corrected Datastream beside a raw one.
    pub fn corrected(&self, raw: EntityId) -> Option<EntityId> {
        self.pairs.iter().find(|p| p.raw == raw).map(|p| p.corrected)
    }
    /// The raw Datastream that a corrected one stands beside.
    pub fn raw(&self, corrected: EntityId) -> Option<EntityId> {
        self.pairs.iter().find(|p| p.corrected == corrected).map(|p| p.raw)
    }
    pub fn readers(&self, input: EntityId) -> &[(usize, usize)] {
        self.by_input.get(&input).map_or(&[], Vec::as_slice)
    }

    /// Puts instances in order. Two for one output, circles and what is too deep are left out, and said.
    pub fn new(found: Vec<Instance>, mut troubles: Vec<Trouble>) -> Self {
        let mut first: BTreeMap<EntityId, Instance> = BTreeMap::new();
        for instance in found {
            let trouble = |detail: String| Trouble {
                reason: Reason::Order,
                definition: instance.definition.key.clone(),
                output: Some(instance.output),
                detail,
            };
            if let Some(other) = first.get(&instance.output) {
                troubles.push(trouble(format!("'{}' computes the same Datastream", other.definition.key)));
            } else if first.len() >= MAX_OUTPUTS {
                troubles.push(trouble(format!("at most {MAX_OUTPUTS} outputs are possible")));
            } else {
                first.insert(instance.output, instance);
            }
        }
        let depths = depths(&first);
        let mut instances = Vec::new();
        for (output, mut instance) in first {
            match depths.get(&output).copied() {
                Some(depth) if depth <= MAX_DEPTH => {
                    instance.depth = depth;
                    instances.push(instance);
                }
                deep => troubles.push(Trouble {
                    reason: Reason::Order,
                    definition: instance.definition.key.clone(),
                    output: Some(output),
                    detail: match deep {
                        Some(_) => format!("it is more than {MAX_DEPTH} steps away from what is measured"),
                        None => "it is computed from itself, directly or by way of others".to_owned(),
                    },
                }),
            }
        }
        instances.sort_by_key(|i| (i.depth, i.output));
        let by_output = instances.iter().enumerate().map(|(at, i)| (i.output, at)).collect();
        let mut by_input: HashMap<EntityId, Vec<(usize, usize)>> = HashMap::new();
        for (at, instance) in instances.iter().enumerate() {
            for (nth, input) in instance.inputs.iter().enumerate() {
                by_input.entry(*input).or_default().push((at, nth));
            }
        }
        Self { instances, troubles, by_output, pairs: Vec::new(), computed: BTreeSet::new(), by_input }
    }
}

/// The steps from each output down to what is measured (Kahn's order, so that it takes as long as there are links). Who is in a circle, or hangs
/// on one, has none.
fn depths(all: &BTreeMap<EntityId, Instance>) -> HashMap<EntityId, u32> {
    let mut waits: HashMap<EntityId, usize> = HashMap::new();
    let mut readers: HashMap<EntityId, Vec<EntityId>> = HashMap::new();
    for (output, instance) in all {
        let computed = instance.inputs.iter().filter(|input| all.contains_key(input));
        waits.insert(*output, computed.clone().count());
        computed.for_each(|input| readers.entry(*input).or_default().push(*output));
    }
    let mut depths: HashMap<EntityId, u32> = HashMap::new();
    let mut ready: Vec<EntityId> = waits.iter().filter(|(_, n)| **n == 0).map(|(output, _)| *output).collect();
    while let Some(output) = ready.pop() {
        let below = all[&output].inputs.iter().filter_map(|input| depths.get(input)).max().copied().unwrap_or(0);
        depths.insert(output, below.saturating_add(1));
        for reader in readers.get(&output).into_iter().flatten() {
            if let Some(left) = waits.get_mut(reader) {
                *left -= 1;
                if *left == 0 {
                    ready.push(*reader);
                }
            }
        }
    }
    depths
}

/// What must be known of a Datastream.
#[derive(Clone, Debug)]
struct Found {
    id: EntityId,
    tenant: Tenant,
    public: bool,
    thing: EntityId,
    kind: ObservationType,
    simulated: bool,
}

const COLUMNS: &str = "d.id, d.tenant, d.public, d.thing_id, d.observation_type, d.properties, t.simulated";

fn found(row: &Row<'_>) -> Result<Found, records::Error> {
    let properties: Value =
        row.get::<Option<String>>(5)?.and_then(|p| serde_json::from_str(&p).ok()).unwrap_or_default();
    Ok(Found {
        id: EntityId(row.get(0)?),
        tenant: row.get(1)?,
        public: row.get(2)?,
        thing: EntityId(row.get(3)?),
        kind: ObservationType::from_code(&row.get::<String>(4)?).unwrap_or(ObservationType::Any),
        simulated: row.get::<bool>(6)? || properties.get("simulated") == Some(&Value::Bool(true)),
    })
}

fn named(read: &mut Read<'_>, tenant: &Tenant, name: &Name) -> Result<Option<Found>, records::Error> {
    let from = format!("SELECT {COLUMNS} FROM sensing_datastream d CROSS JOIN sensing_thing t WHERE t.id = d.thing_id");
    match name {
        Name::Id(id) => read.query_opt(&format!("{from} AND d.id = $1"), params![id.0], found),
        Name::Key(key) => {
            read.query_opt(&format!("{from} AND d.tenant = $1 AND d.key = $2"), params![tenant, key], found)
        }
    }
}

/// The Datastreams of one shape, by their Things.
fn shaped(
    read: &mut Read<'_>,
    definition: &Definition,
    shape: &str,
) -> Result<BTreeMap<EntityId, Found>, records::Error> {
    let Some(things) = &definition.things else { return Ok(BTreeMap::new()) };
    let mut values: Vec<Param<'_>> = vec![definition.tenant.to_param(), things.system.to_param()];
    let suffix = format!(".{shape}");
    values.push(suffix.to_param());
    let mut sql = format!(
        "SELECT {COLUMNS} FROM sensing_thing t CROSS JOIN sensing_datastream d
         WHERE d.thing_id = t.id AND t.tenant = $1 AND t.public IN (0, 1) AND t.system = $2 AND d.tenant = t.tenant AND d.key = t.key || $3"
    );
    for (column, value) in [("t.key", &things.thing), ("t.district", &things.district)] {
        if let Some(value) = value {
            values.push(value.to_param());
            sql.push_str(&format!(" AND {column} = ${}", values.len()));
        }
    }
    Ok(read.query(&sql, &values, found)?.into_iter().map(|f| (f.thing, f)).collect())
}

/// The Datastreams that declarations mean, as the catalogue is now. One that has no Datastream yet is no mistake: Things come later.
///
/// # Errors
/// Those of `records`.
pub fn resolve(read: &mut Read<'_>, stored: &[Stored]) -> Result<(Vec<Instance>, Vec<Trouble>), records::Error> {
    let (mut instances, mut troubles) = (Vec::new(), Vec::new());
    for one in stored.iter().filter(|s| s.definition.enabled) {
        resolve_one(read, one, &mut instances, &mut troubles)?;
    }
    Ok((instances, troubles))
}

fn resolve_one(
    read: &mut Read<'_>,
    one: &Stored,
    instances: &mut Vec<Instance>,
    troubles: &mut Vec<Trouble>,
) -> Result<(), records::Error> {
    let definition = &one.definition;
    let outputs: BTreeMap<EntityId, Found> = match (&definition.things, &definition.output) {
        (Some(_), Name::Key(shape)) => shaped(read, definition, shape)?,
        // What may not be read does not exist, whatever its number.
        (_, name) => {
            let found = named(read, &definition.tenant, name)?.filter(|f| f.tenant == definition.tenant || f.public);
            found.map(|f| (f.thing, f)).into_iter().collect()
        }
    };
    let trouble = |reason: Reason, output: Option<EntityId>, detail: String| Trouble {
        reason,
        definition: definition.key.clone(),
        output,
        detail,
    };
    if outputs.is_empty() {
        troubles.push(trouble(
            Reason::Missing,
            None,
            "there is no Datastream yet that it would be computed for".to_owned(),
        ));
        return Ok(());
    }
    let mut inputs: Vec<BTreeMap<EntityId, Found>> = Vec::new();
    for input in &definition.inputs {
        let own = definition.things.is_some() && !input.shared;
        inputs.push(match (&input.datastream, own) {
            (Name::Key(shape), true) => shaped(read, definition, shape)?,
            (name, _) => {
                let tenant = input.tenant.as_ref().unwrap_or(&definition.tenant);
                let found = named(read, tenant, name)?;
                outputs.keys().filter_map(|thing| Some((*thing, found.clone()?))).collect()
            }
        });
    }
    for (thing, output) in outputs {
        let said = |reason: Reason, detail: String| trouble(reason, Some(output.id), detail);
        if output.tenant != definition.tenant {
            troubles.push(said(Reason::Unfit, format!("the output is not one of '{}'", definition.tenant)));
            continue;
        }
        let fits = match output.kind {
            ObservationType::Measurement | ObservationType::Count => !definition.truth,
            ObservationType::Truth => definition.truth,
            ObservationType::Any => true,
            _ => false,
        };
        if !fits {
            troubles
                .push(said(Reason::Unfit, format!("its results do not fit a Datastream of {}", output.kind.name())));
            continue;
        }
        let found: Vec<Option<&Found>> = inputs.iter().map(|i| i.get(&thing)).collect();
        let unseen = |f: &Found| f.tenant != definition.tenant && !f.public;
        if let Some(nth) = found.iter().position(|f| f.is_none_or(unseen)) {
            let name = &definition.inputs[nth].name;
            troubles.push(said(
                Reason::Missing,
                format!("there is no Datastream for the input '{name}', or it may not be read"),
            ));
            continue;
        }
        // What is computed from what is made up is made up.
        if !output.simulated && found.iter().flatten().any(|f| f.simulated) {
            let detail = "an input is simulated, so the output must be labelled as simulated";
            troubles.push(said(Reason::Unfit, detail.to_owned()));
            continue;
        }
        instances.push(Instance {
            definition: Arc::clone(definition),
            version: one.version,
            paused: one.paused,
            output: output.id,
            kind: output.kind,
            inputs: found.into_iter().flatten().map(|f| f.id).collect(),
            depth: 0,
            corrections: None,
        });
    }
    Ok(())
}

/// Declarations of corrected Datastreams begin with it.
pub const CORRECTED: &str = "corrected-";

/// What is computed because officers have said something about a raw Datastream.
///
/// # Errors
/// Those of `records`.
pub fn corrected(read: &mut Read<'_>) -> Result<(Vec<Pair>, Vec<Instance>), records::Error> {
    let pairs = correct::pairs(read)?;
    let mut instances = Vec::new();
    for pair in &pairs {
        let Some(output) = named_any(read, pair.corrected)? else { continue };
        let text = |t: &str| Some(t.to_owned());
        let declaration = Declaration {
            key: format!("{CORRECTED}{}", pair.raw),
            tenant: output.tenant.clone(),
            name: Text {
                en: "Calibrations and corrections".to_owned(),
                zh_hant: text("校準及更正"),
                zh_hans: text("校准及更正"),
            },
            source: None,
            things: None,
            output: Name::Id(pair.corrected),
            inputs: vec![Input {
                name: "raw".to_owned(),
                datastream: Name::Id(pair.raw),
                shared: false,
                tenant: None,
                window: None,
                within: None,
                need: None,
            }],
            tables: Vec::new(),
            formulas: vec![Formula { expression: "raw.value".to_owned(), from: None, note: None }],
            every: None,
            faulty: super::model::Faulty::Carry,
            backfill: super::model::Backfill::All,
            enabled: true,
        };
        let definition = Definition::new(declaration).map_err(|p| records::Error::Invalid(p.to_string()))?;
        let said = Corrections::new(correct::calibrations(read, pair.raw)?, correct::latest(read, pair.raw)?);
        instances.push(Instance {
            definition: Arc::new(definition),
            version: pair.version,
            paused: false,
            output: pair.corrected,
            kind: output.kind,
            inputs: vec![pair.raw],
            depth: 0,
            corrections: Some(Arc::new(said)),
        });
    }
    Ok((pairs, instances))
}

fn named_any(read: &mut Read<'_>, id: EntityId) -> Result<Option<Found>, records::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM sensing_datastream d CROSS JOIN sensing_thing t WHERE t.id = d.thing_id AND d.id = $1"
    );
    read.query_opt(&sql, params![id.0], found)
}
