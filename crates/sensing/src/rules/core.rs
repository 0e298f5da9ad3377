//! All state machines together: which Datastream moves which, when one is due, and what has to be written. No I/O.
//!
//! Time is the arrival time of records and of ticks. Before a record is applied, everything that was due by its arrival happens first;
//! so the alarms depend on the stream alone, and reading it again gives the same ones.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use ahash::{AHashMap, AHashSet};
use jiff::tz::TimeZone;
use kernel::{Id, Timestamp};
use sha2::{Digest, Sha256};

use super::{
    cel::{self, Env, Memory, Sample, Verdict},
    columns::{Columns, Reading, reading},
    machine::{self, Event, MAX_AHEAD_SECS, State, Transition, Turn},
    model::{Condition, Facts, Rule, Side, Together},
};
use crate::{
    alarms::model::Alarm,
    model::EntityId,
    moving::{Place, accuracy, place},
    observe::{Batch, Run},
};

/// One rule at one Datastream.
#[derive(Clone, Debug)]
struct Slot {
    rule: u32,
    facts: Arc<Facts>,
    state: State,
    /// Of a rule with an expression.
    memory: Option<Box<Memory>>,
    /// The offset after the last record that moved it: what was applied is never applied again, whatever is replayed.
    next_offset: u64,
    dirty: bool,
    /// The earliest entry in the heap. It may be too early, never too late.
    due: Option<Timestamp>,
}

/// The alarm of a rule at a Thing: raised while any Datastream of the two is.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    raised: u32,
    alarm: Option<Id<Alarm>>,
}

/// What one alarm is about: a Thing, or a district for rules that ask for several Things.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Group {
    Thing(i64),
    District(String),
}

impl Group {
    /// Things without a district are one group.
    fn of(rule: &Rule, thing: EntityId, district: Option<&str>) -> Self {
        match rule.area {
            Some(_) => Self::District(district.unwrap_or_default().to_owned()),
            None => Self::Thing(thing.0),
        }
    }
}

/// The Things of a district that fulfil a rule's condition, by which of their Datastreams, and since when: no more than what the slots' own
/// states say, so that a start finds the same.
#[derive(Clone, Debug, Default)]
struct Gathered {
    raised: BTreeMap<(i64, i64), Timestamp>,
    alarm: Option<Id<Alarm>>,
}

impl Gathered {
    /// Whether enough of them have begun to within the span that ends with `at`.
    fn suffices(&self, together: Together, at: Timestamp) -> bool {
        let enough = together.at_least as usize;
        let Some(within) = together.within.map(i64::from) else {
            return self.things(Timestamp::MIN, Timestamp::MAX) >= enough;
        };
        // A record may come late, so the span may end after `at`; it holds `at` in any case.
        let mut begins = self.raised.values().filter(|since| **since <= at && **since >= at.plus_secs(-within));
        begins.any(|since| self.things(*since, since.plus_secs(within)) >= enough)
    }

    /// Things of which a Datastream began to between these times, both inclusive.
    fn things(&self, from: Timestamp, to: Timestamp) -> usize {
        let (mut count, mut last) = (0, None);
        for ((thing, _), _) in self.raised.iter().filter(|(_, since)| (from..=to).contains(*since)) {
            count += usize::from(last.replace(thing) != Some(thing));
        }
        count
    }
}

/// An alarm whose condition stands, as the database knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Open {
    pub rule: String,
    pub thing: EntityId,
    pub district: Option<String>,
    pub id: Id<Alarm>,
}

/// One row of `sensing_rule_state`.
#[derive(Clone, PartialEq, Debug)]
pub struct SlotRow {
    pub rule: String,
    pub datastream: EntityId,
    pub thing: EntityId,
    pub next_offset: u64,
    pub state: State,
    /// As [`Memory::encode`] writes it.
    pub memory: Option<String>,
}

/// What has to be written to the alarms.
#[derive(Clone, Debug)]
pub enum Happening {
    Raised { id: Id<Alarm>, rule: Arc<Rule>, facts: Arc<Facts>, at: Timestamp, value: Option<f64> },
    Cleared { id: Id<Alarm>, rule: String, at: Timestamp, value: Option<f64> },
}

/// What one transaction writes.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub happenings: Vec<Happening>,
    pub slots: Vec<SlotRow>,
    /// State rows that have no rule or no Datastream any more.
    pub gone: Vec<(String, EntityId)>,
}

#[derive(Default)]
pub struct Core {
    rules: Vec<Arc<Rule>>,
    slots: Vec<Slot>,
    by_datastream: AHashMap<i64, Vec<u32>>,
    /// Slots that look at a Datastream beside their own, and as which of their inputs.
    feeds: AHashMap<i64, Vec<(u32, u8)>>,
    /// The city's; expressions may ask for the hour.
    zone: Option<TimeZone>,
    standing: AHashMap<(u32, i64), Standing>,
    /// By rule and district, of rules that ask for several Things.
    gathered: AHashMap<(u32, String), Gathered>,
    heap: BinaryHeap<Reverse<(Timestamp, u32)>>,
    grace: Timestamp,
    now: Timestamp,
    changes: Changes,
    /// Slots that were raised or cleared since the last [`Core::take`].
    turned: Vec<u32>,
}

impl Core {
    /// Silence counts from `grace` at the earliest.
    pub fn new(grace: Timestamp) -> Self {
        Self { grace, now: Timestamp::MIN, ..Self::default() }
    }

    /// Hours and weekdays are those of this zone.
    #[must_use]
    pub fn in_zone(mut self, zone: TimeZone) -> Self {
        self.zone = Some(zone);
        self
    }

    /// The program has not been listening, or the clock has jumped: silence counts from `now`.
    pub fn forgive(&mut self, now: Timestamp) {
        self.grace = now;
        self.now = now;
        for slot in &mut self.slots {
            let state = machine::forgive(&slot.state, now);
            slot.dirty |= state != slot.state;
            slot.state = state;
        }
        self.reschedule();
    }

    pub fn slots(&self) -> usize {
        self.slots.len()
    }
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Watches further Datastreams, which have never been seen; those that are watched already are left alone.
    pub fn extend(&mut self, facts: &[Arc<Facts>]) {
        for facts in facts {
            if self.by_datastream.contains_key(&facts.datastream.0) {
                continue;
            }
            let mut indices = Vec::new();
            for (at, _) in self.rules.iter().enumerate().filter(|(_, r)| r.selects(facts)) {
                indices.push(self.slots.len() as u32);
                self.slots.push(Slot {
                    rule: at as u32,
                    facts: Arc::clone(facts),
                    state: State::default(),
                    memory: self.rules[at].compiled().map(|c| Box::new(Memory::fitting(c, None))),
                    next_offset: 0,
                    dirty: false,
                    due: None,
                });
            }
            for index in &indices {
                self.schedule(*index);
            }
            self.by_datastream.insert(facts.datastream.0, indices);
        }
    }

    /// Sets what is watched. `stored` and `open` are what the database remembers, and are only looked at for slots that are not in memory;
    /// slots that are no longer wanted clear their alarms.
    pub fn install(
        &mut self,
        rules: Vec<Arc<Rule>>,
        facts: &[Arc<Facts>],
        stored: &[SlotRow],
        open: &[Open],
        now: Timestamp,
    ) {
        let mut known: AHashMap<(String, i64), (State, u64, Option<Memory>)> = stored
            .iter()
            .map(|r| {
                let memory = r.memory.as_deref().and_then(Memory::decode);
                ((r.rule.clone(), r.datastream.0), (r.state, r.next_offset, memory))
            })
            .collect();
        for slot in &self.slots {
            let key = (self.rules[slot.rule as usize].key.clone(), slot.facts.datastream.0);
            known.insert(key, (slot.state, slot.next_offset, slot.memory.as_deref().cloned()));
        }
        let group = |open: &Open| match rules.iter().find(|r| r.key == open.rule) {
            Some(rule) => Group::of(rule, open.thing, open.district.as_deref()),
            None => Group::Thing(open.thing.0),
        };
        let mut alarms: AHashMap<(String, Group), Id<Alarm>> = AHashMap::new();
        for one in open {
            // Several alarms of one group are left by a rule that asked for single Things before: one goes on, the others are over.
            if let Some(other) = alarms.insert((one.rule.clone(), group(one)), one.id) {
                let rule = one.rule.clone();
                self.changes.happenings.push(Happening::Cleared { id: other, rule, at: now, value: None });
            }
        }
        for ((rule, thing), standing) in &self.standing {
            if let Some(id) = standing.alarm {
                alarms.insert((self.rules[*rule as usize].key.clone(), Group::Thing(*thing)), id);
            }
        }
        for ((rule, district), gathered) in &self.gathered {
            if let Some(id) = gathered.alarm {
                alarms.insert((self.rules[*rule as usize].key.clone(), Group::District(district.clone())), id);
            }
        }
        let before: Vec<Slot> = std::mem::take(&mut self.slots);
        let dirty: AHashSet<(String, i64)> = before
            .iter()
            .filter(|s| s.dirty)
            .map(|s| (self.rules[s.rule as usize].key.clone(), s.facts.datastream.0))
            .collect();
        (self.rules, self.by_datastream, self.standing) = (rules, AHashMap::new(), AHashMap::new());
        self.gathered.clear();
        for facts in facts {
            for (at, rule) in self.rules.iter().enumerate().filter(|(_, r)| r.selects(facts)) {
                let key = (rule.key.clone(), facts.datastream.0);
                let (state, next_offset, memory) = known.remove(&key).unwrap_or_default();
                let memory = rule.compiled().map(|c| Box::new(Memory::fitting(c, memory)));
                // The clock may have been set back while nobody was listening.
                let state = machine::forgive(&state, now);
                let index = self.slots.len() as u32;
                let (rule, dirty) = (at as u32, dirty.contains(&key));
                self.slots.push(Slot { rule, facts: Arc::clone(facts), state, memory, next_offset, dirty, due: None });
                self.by_datastream.entry(facts.datastream.0).or_default().push(index);
                if state.raised {
                    self.standing.entry((rule, facts.thing.0)).or_default().raised += 1;
                }
            }
        }
        // What has moved and is not written yet goes with the next alarm, which may rest on it.
        self.turned = (0..self.slots.len() as u32).filter(|at| self.slots[*at as usize].dirty).collect();
        let standing = self.slots.iter().filter(|s| s.state.raised);
        let standing: Vec<_> = standing.map(|s| (s.rule, Arc::clone(&s.facts), s.state.since)).collect();
        for (rule, facts, since) in standing {
            self.gather(rule, &facts, since.unwrap_or(Timestamp::MIN));
        }
        self.connect(facts);
        for ((rule, thing), standing) in &mut self.standing {
            if self.rules[*rule as usize].area.is_some() {
                continue;
            }
            standing.alarm = alarms.remove(&(self.rules[*rule as usize].key.clone(), Group::Thing(*thing)));
        }
        for ((rule, district), gathered) in &mut self.gathered {
            let rule = &self.rules[*rule as usize];
            // Fewer than are asked for hold no alarm up; the rule may have changed.
            if rule.area.is_some_and(|area| gathered.things(Timestamp::MIN, Timestamp::MAX) >= area.at_least as usize) {
                gathered.alarm = alarms.remove(&(rule.key.clone(), Group::District(district.clone())));
            }
        }
        // Whatever is left has nobody who could ever clear it.
        for ((rule, datastream), _) in known {
            self.changes.gone.push((rule, EntityId(datastream)));
        }
        for ((rule, _), id) in alarms {
            self.changes.happenings.push(Happening::Cleared { id, rule, at: now, value: None });
        }
        self.reschedule();
    }

    /// A Datastream of a rule that asks for several Things fulfils the condition since then; the district's group.
    fn gather(&mut self, rule: u32, facts: &Facts, since: Timestamp) -> Option<(Together, &mut Gathered)> {
        let together = self.rules[rule as usize].area?;
        let district = facts.district.clone().unwrap_or_default();
        let gathered = self.gathered.entry((rule, district)).or_default();
        gathered.raised.insert((facts.thing.0, facts.datastream.0), since);
        Some((together, gathered))
    }

    /// It does no more; the alarm that falls with it.
    fn scatter(&mut self, rule: u32, facts: &Facts) -> Option<Id<Alarm>> {
        let together = self.rules[rule as usize].area?;
        let key = (rule, facts.district.clone().unwrap_or_default());
        let gathered = self.gathered.get_mut(&key)?;
        gathered.raised.remove(&(facts.thing.0, facts.datastream.0));
        let fewer = gathered.things(Timestamp::MIN, Timestamp::MAX) < together.at_least as usize;
        let fallen = gathered.alarm.take_if(|_| fewer);
        if gathered.raised.is_empty() {
            self.gathered.remove(&key);
        }
        fallen
    }

    /// Whether one of these Datastreams is looked at from beside, or would look: then everything is matched anew.
    pub fn entangles(&self, facts: &[Arc<Facts>]) -> bool {
        let rules = || self.rules.iter().filter(|r| !r.inputs().is_empty());
        facts.iter().any(|f| rules().any(|r| r.selects(f) || r.reads(f).is_some()))
    }

    /// Leads the Datastreams that expressions look at beside their own to them. Of two with the same key the first counts.
    fn connect(&mut self, facts: &[Arc<Facts>]) {
        self.feeds.clear();
        let mut looking: AHashMap<(u32, i64), Vec<u32>> = AHashMap::new();
        for (at, slot) in self.slots.iter().enumerate() {
            if !self.rules[slot.rule as usize].inputs().is_empty() {
                looking.entry((slot.rule, slot.facts.thing.0)).or_default().push(at as u32);
            }
        }
        let mut fed: AHashSet<(u32, u8)> = AHashSet::new();
        for facts in facts {
            for (at, rule) in self.rules.iter().enumerate() {
                let Some(input) = rule.reads(facts) else { continue };
                for slot in looking.get(&(at as u32, facts.thing.0)).into_iter().flatten() {
                    if fed.insert((*slot, input)) {
                        self.feeds.entry(facts.datastream.0).or_default().push((*slot, input));
                    }
                }
            }
        }
    }

    fn reschedule(&mut self) {
        self.heap.clear();
        for slot in &mut self.slots {
            slot.due = None;
        }
        for index in 0..self.slots.len() {
            self.schedule(index as u32);
        }
    }

    fn schedule(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let rule = &self.rules[slot.rule as usize];
        let Some(due) = machine::deadline(&slot.state, rule, self.grace) else { return };
        // A deadline that moved later keeps its early entry, and is looked at again then: one entry a slot, not one an Observation.
        if slot.due.is_none_or(|earlier| due < earlier) {
            slot.due = Some(due);
            self.heap.push(Reverse((due, index)));
        }
    }

    /// When [`Core::tick`] has something to do next.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// It is `now`, and every record that had arrived by then is applied.
    pub fn tick(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        while let Some(Reverse((due, index))) = self.heap.peek().copied().filter(|Reverse((due, _))| *due <= self.now) {
            self.heap.pop();
            let slot = &mut self.slots[index as usize];
            if slot.due != Some(due) {
                continue;
            }
            slot.due = None;
            // Which of two deadlines comes first decides which Datastream's alarm it is: an entry that was early goes back to its place.
            let rule = &self.rules[slot.rule as usize];
            if machine::deadline(&slot.state, rule, self.grace) == Some(due) {
                self.step(index, &Event::Tick { now: self.now, grace: self.grace });
            }
            self.schedule(index);
        }
    }

    /// Applies the Observations of one record.
    pub fn apply(&mut self, offset: u64, arrived: Timestamp, batch: &Batch) {
        self.tick(arrived);
        let runs = batch.runs();
        let earliest = |run: &Run| run.times.iter().copied().min();
        let mut order: Vec<u32> = (0..runs.len() as u32).collect();
        // A file may list the newest first, or devices in turns; rules look at each Datastream in the order of measurement.
        if runs.windows(2).any(|w| earliest(&w[0]) > earliest(&w[1])) {
            order.sort_by_key(|at| earliest(&runs[*at as usize]));
        }
        let mut touched: Vec<u32> = Vec::new();
        for at in order {
            let run = &runs[at as usize];
            self.feed(offset, arrived, run, &mut touched);
            let Some(slots) = self.by_datastream.get(&run.datastream.0) else { continue };
            let mut columns = Columns::of(run);
            let slots = slots.len();
            for nth in 0..slots {
                let index = self.by_datastream[&run.datastream.0][nth];
                if self.slots[index as usize].next_offset > offset {
                    continue;
                }
                self.run(index, run, &mut columns, arrived);
                touched.push(index);
            }
        }
        for index in touched {
            self.slots[index as usize].next_offset = offset + 1;
            self.schedule(index);
        }
    }

    /// The newest value of a run, for those that look at its Datastream from beside.
    fn feed(&mut self, offset: u64, arrived: Timestamp, run: &Run, touched: &mut Vec<u32>) {
        let Some(slots) = self.feeds.get(&run.datastream.0) else { return };
        for &(index, input) in slots {
            let slot = &mut self.slots[index as usize];
            if slot.next_offset > offset {
                continue;
            }
            let trust = self.rules[slot.rule as usize].quality;
            let believed = (0..run.len()).filter_map(|row| reading(run, row, trust));
            let soon = arrived.plus_secs(MAX_AHEAD_SECS);
            let newest = believed.filter(|r| r.at <= soon).max_by_key(|r| r.at);
            if let (Some(Reading { at, value: Some(value), good }), Some(memory)) = (newest, &mut slot.memory) {
                slot.dirty |= memory.heard(input, Sample { at: at.as_micros(), value, good });
                touched.push(index);
            }
        }
    }

    /// One Observation for a rule with an expression.
    fn judge(&mut self, index: u32, arrived: Timestamp, reading: Reading) {
        let slot = &mut self.slots[index as usize];
        let rule = &self.rules[slot.rule as usize];
        let (Some(compiled), Some(memory), Some(value)) = (rule.compiled(), &mut slot.memory, reading.value) else {
            return;
        };
        // What does not move the machine is not remembered either: a straggler would count twice.
        if !machine::counts(&slot.state, reading.at, arrived) {
            return;
        }
        memory.previous = slot.state.value;
        for window in &mut memory.windows {
            window.add(reading.at, value);
        }
        let utc = TimeZone::UTC;
        let zone = self.zone.as_ref().unwrap_or(&utc);
        let env = Env {
            value,
            time: reading.at,
            good: reading.good,
            district: slot.facts.district.as_deref().unwrap_or_default(),
            system: slot.facts.system.as_deref().unwrap_or_default(),
            local: compiled.local.then(|| cel::local(reading.at, zone)),
            memory: &**memory,
        };
        let verdict = compiled.verdict(&env);
        self.step(index, &Event::Judged { at: reading.at, arrived, value, verdict });
    }

    /// One fix for a rule with a geofence.
    fn locate(&mut self, index: u32, arrived: Timestamp, at: Timestamp, (place, doubt): (Place, Option<f64>)) {
        let slot = &self.slots[index as usize];
        let rule = &self.rules[slot.rule as usize];
        let Condition::Geofence(form) = &rule.when else { return };
        if !machine::counts(&slot.state, at, arrived) {
            return;
        }
        let doubt = form.margin.max(doubt.unwrap_or(0.0));
        let (distance, verdict) = match rule.zone().and_then(|zone| zone.distance(place)) {
            Some((distance, _)) => {
                // Distance from a fence changes no faster than the place. What has jumped is not believed, until so much time has passed that it need not have.
                let before = slot.state.latest.zip(slot.state.value);
                if before.is_some_and(|(latest, value)| {
                    let seconds = at.micros_since(latest) as f64 / 1e6;
                    (distance - value).abs() > form.max_speed * seconds + 2.0 * doubt
                }) {
                    return;
                }
                let (inside, outside) = (distance <= -doubt, distance >= doubt);
                // Too near to the line to say: everything stays as it is, a hold that has begun too.
                if !inside && !outside {
                    return;
                }
                let raise = if form.raise == Side::Inside { inside } else { outside };
                (distance, Verdict { raise, clear: !raise })
            }
            // Nothing is inside of no fence, and nothing has left it.
            None => (slot.state.value.unwrap_or(0.0), Verdict { raise: false, clear: true }),
        };
        self.step(index, &Event::Judged { at, arrived, value: distance, verdict });
    }

    /// One run for one slot: at once when nothing in it can matter, row by row when something can.
    fn run(&mut self, index: u32, run: &Run, columns: &mut Columns, arrived: Timestamp) {
        let slot = &mut self.slots[index as usize];
        let rule = &self.rules[slot.rule as usize];
        if columns.calm(&slot.state, rule, arrived) {
            let newest = columns.newest;
            let at = Timestamp::from_micros(run.times[newest]);
            if slot.state.latest.is_none_or(|latest| at > latest) {
                slot.state =
                    State { latest: Some(at), seen: Some(arrived), value: Some(run.values[newest]), ..slot.state };
                slot.dirty = true;
            }
            return;
        }
        let (trust, judged) = (rule.quality, rule.compiled().is_some());
        let fenced = matches!(rule.when, Condition::Geofence(_));
        for &row in columns.sorted(run) {
            let Some(reading) = reading(run, row as usize, trust) else { continue };
            if fenced {
                let place = run.extra(row as usize).and_then(|e| Some((e, place(e.result.as_ref()?.get())?)));
                if let Some((extra, place)) = place {
                    let doubt = accuracy(extra.parameters.as_ref().map(|p| p.get()));
                    self.locate(index, arrived, reading.at, (place, doubt));
                }
            } else if judged {
                self.judge(index, arrived, reading);
            } else {
                self.step(index, &Event::Observation { at: reading.at, arrived, value: reading.value });
            }
        }
    }

    fn step(&mut self, index: u32, event: &Event) {
        let slot = &mut self.slots[index as usize];
        let rule = &self.rules[slot.rule as usize];
        let (next, transition) = machine::step(&slot.state, rule, event);
        slot.dirty |= next != slot.state;
        slot.state = next;
        if let Some(transition) = transition {
            self.turned(index, transition);
        }
    }

    fn turned(&mut self, index: u32, Transition { turn, at, value }: Transition) {
        self.turned.push(index);
        let slot = &self.slots[index as usize];
        let (number, facts) = (slot.rule, Arc::clone(&slot.facts));
        let rule = Arc::clone(&self.rules[number as usize]);
        let id = alarm_id(&rule, facts.datastream, slot.state.raises, at);
        let standing = self.standing.entry((number, facts.thing.0)).or_default();
        match turn {
            Turn::Raise => {
                standing.raised += 1;
                match rule.area {
                    None if standing.raised > 1 => return,
                    None => standing.alarm = Some(id),
                    Some(_) => match self.gather(number, &facts, at) {
                        // The alarm is about the district, and names the Thing that made them enough.
                        Some((together, all)) if all.alarm.is_none() && all.suffices(together, at) => {
                            all.alarm = Some(id);
                        }
                        _ => return,
                    },
                }
                // One that is made up among them makes all of it an exercise.
                let exercise = rule.area.is_some()
                    && self.slots.iter().any(|s| {
                        s.rule == number && s.state.raised && s.facts.simulated && s.facts.district == facts.district
                    });
                let facts = if exercise { Arc::new(Facts { simulated: true, ..(*facts).clone() }) } else { facts };
                // The number of such an alarm is how far the Thing is from the line.
                let facts = match rule.when {
                    Condition::Geofence(_) => Arc::new(Facts { unit: Some("m".to_owned()), ..(*facts).clone() }),
                    _ => facts,
                };
                self.changes.happenings.push(Happening::Raised { id, rule, facts, at, value });
            }
            Turn::Clear => {
                standing.raised = standing.raised.saturating_sub(1);
                let own = if standing.raised == 0 { standing.alarm.take() } else { None };
                let scattered = self.scatter(number, &facts);
                if let Some(id) = own.or(scattered) {
                    self.changes.happenings.push(Happening::Cleared { id, rule: rule.key.clone(), at, value });
                }
            }
        }
    }

    /// A Datastream was deleted with everything in it.
    pub fn dropped(&mut self, datastream: EntityId, now: Timestamp) {
        for (index, input) in self.feeds.remove(&datastream.0).unwrap_or_default() {
            let slot = &mut self.slots[index as usize];
            if let Some(memory) = &mut slot.memory {
                memory.forget(input);
                slot.dirty = true;
            }
        }
        for index in self.by_datastream.remove(&datastream.0).unwrap_or_default() {
            let slot = &mut self.slots[index as usize];
            let raised = std::mem::take(&mut slot.state).raised;
            slot.memory = self.rules[slot.rule as usize].compiled().map(|c| Box::new(Memory::fitting(c, None)));
            // The entry in the heap, if any, finds nothing due; the slot itself goes with the next `install`.
            (slot.due, slot.dirty) = (None, false);
            self.changes.gone.push((self.rules[slot.rule as usize].key.clone(), datastream));
            if raised {
                self.turned(index, Transition { turn: Turn::Clear, at: now, value: None });
            }
        }
    }

    pub fn has_happened(&self) -> bool {
        !self.changes.happenings.is_empty()
    }

    /// Takes what has happened, with the states of all slots that turned: alarms and the states that made them are written together. With
    /// `all`, every state that has moved since it was last taken.
    pub fn take(&mut self, all: bool) -> Changes {
        let mut changes = std::mem::take(&mut self.changes);
        let turned = std::mem::take(&mut self.turned);
        let indices = if all { (0..self.slots.len() as u32).collect() } else { turned };
        for index in indices {
            let slot = &mut self.slots[index as usize];
            if !std::mem::take(&mut slot.dirty) {
                continue;
            }
            changes.slots.push(SlotRow {
                rule: self.rules[slot.rule as usize].key.clone(),
                datastream: slot.facts.datastream,
                thing: slot.facts.thing,
                next_offset: slot.next_offset,
                state: slot.state,
                memory: slot.memory.as_deref().map(Memory::encode),
            });
        }
        changes
    }

    /// What [`Core::take`] gave could not be written; the next call gives it again.
    pub fn give_back(&mut self, changes: Changes) {
        let written: AHashSet<(&str, i64)> = changes.slots.iter().map(|r| (r.rule.as_str(), r.datastream.0)).collect();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let rule = &self.rules[slot.rule as usize];
            if written.contains(&(rule.key.as_str(), slot.facts.datastream.0)) {
                slot.dirty = true;
                self.turned.push(index as u32);
            }
        }
        let later = std::mem::take(&mut self.changes);
        self.changes = Changes { slots: Vec::new(), ..changes };
        self.changes.happenings.extend(later.happenings);
        self.changes.gone.extend(later.gone);
    }
}

/// The same alarm always has the same id, so that writing it twice writes it once.
fn alarm_id(rule: &Rule, datastream: EntityId, raises: u32, at: Timestamp) -> Id<Alarm> {
    let mut hash = Sha256::new();
    hash.update(rule.key.as_bytes());
    hash.update([0]);
    hash.update(datastream.0.to_be_bytes());
    hash.update(raises.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let (entropy, _) = digest.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    Id::new(at, u128::from_be_bytes(*entropy))
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
