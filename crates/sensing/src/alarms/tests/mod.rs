//! The whole way on real stores: stream → engine → records, on SQLite and PostgreSQL.

mod alerts;
mod api;
mod duty;
mod expressions;
mod geofence;
mod kill;
mod live;
mod notify;
mod silences;
mod storm;
mod trial;
mod watching;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use kernel::{Action, Caller, Clock, Decision, FixedClock, Policy, Principal, Resource, Tenant, Text, Timestamp};
use records::{Migration, Records, params};
use stream::{Offset, Stream, Subscription, Topic, TopicOptions};
use testkit::postgres::Database;

use super::{Alarms, Filter, model::Alarm};
use crate::{
    Error, Scopes,
    model::EntityId,
    notify::{Recipient, guard::Allowed},
    observe::{Batch, Frame, Run, decode_frame, encode_frame},
    rules::{
        Rules,
        engine::{self, Arrived, Feed, Handle, Options, Reader},
        model::{Condition, Level, RuleDeclaration, Selection, Severity, Trust},
    },
};

/// The columns of the catalogue that rules read.
const CATALOGUE: &[Migration] = &[Migration {
    version: 1,
    name: "what rules read of the catalogue",
    sql: "CREATE TABLE sensing_thing (id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
              name TEXT NOT NULL, properties TEXT, system TEXT NOT NULL, district TEXT NOT NULL,
              simulated BIGINT NOT NULL DEFAULT 0, x DOUBLE PRECISION, y DOUBLE PRECISION);
          CREATE TABLE sensing_observed_property (id BIGINT NOT NULL PRIMARY KEY, key TEXT);
          CREATE TABLE sensing_datastream (id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
              unit TEXT NOT NULL, thing_id BIGINT NOT NULL, observed_property_id BIGINT NOT NULL, properties TEXT);
          INSERT INTO sensing_observed_property (id, key) VALUES (1, 'water-level')",
}];

pub fn secs(s: i64) -> Timestamp {
    Timestamp::from_secs(s)
}
pub fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

/// A caller with roles in a tenant: `viewer` reads, `duty` acknowledges and closes, `manager` manages rules.
pub fn person(slug: &str, role: &'static str) -> Caller {
    Caller {
        principal: Principal::Person { id: role.into(), name: "P".into() },
        tenant: Some(tenant(slug)),
        roles: BTreeSet::from([role.into()]),
    }
}

struct Roles;
impl Policy for Roles {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        let allowed = match action.0 {
            "alarm:read" => resource.public || own,
            "alarm:acknowledge" | "alarm:close" | "alarm:silence" => own && caller.has_role("duty"),
            "rule:read" | "sensing:read" => own,
            "rule:manage" => own && caller.has_role("manager"),
            _ => false,
        };
        if allowed { Decision::Allow } else { Decision::Deny }
    }
}

/// A topic of the stream as the engine reads it.
#[derive(Clone)]
pub struct TopicFeed(pub Topic);

impl Feed for TopicFeed {
    type Reader = TopicReader;
    async fn read(&self, offset: u64) -> Result<TopicReader, Error> {
        let subscription = self.0.subscribe(Offset(offset)).await.map_err(Error::internal)?;
        Ok(TopicReader { subscription, ready: Vec::new() })
    }
    fn end(&self) -> u64 {
        self.0.end().0
    }
    fn settled(&self) -> (Timestamp, u64) {
        let settled = self.0.settled();
        (settled.at, settled.end.0)
    }
    fn hold(&self, _: u64) {}
}

pub struct TopicReader {
    subscription: Subscription,
    ready: Vec<Arrived>,
}

impl Reader for TopicReader {
    async fn next(&mut self) -> Result<Arrived, Error> {
        while self.ready.is_empty() {
            let records = self.subscription.next().await.map_err(Error::internal)?;
            self.ready = records
                .iter()
                .rev()
                .map(|r| Arrived { offset: r.offset.0, at: r.at, frame: decode_frame(&r.payload).expect("a frame") })
                .collect();
        }
        Ok(self.ready.pop().expect("not empty"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    Sqlite,
    Postgres,
}

pub struct City {
    pub clock: Arc<FixedClock>,
    pub records: Records,
    pub topic: Topic,
    pub alarms: Alarms,
    pub rules: Rules,
    pub scopes: Arc<Scopes>,
    _stream: Stream,
    _database: Option<Database>,
    _folder: tempfile::TempDir,
}

pub async fn open_stream(folder: &Path, clock: Arc<dyn Clock>) -> Stream {
    let options = stream::Options::local(folder.join("stream"), [TopicOptions::new("observations")]);
    Stream::open(options, clock).await.expect("stream")
}

impl City {
    pub async fn new(store: Store) -> Self {
        let clock = Arc::new(FixedClock::at(secs(1_000_000)));
        Self::with(store, clock.clone(), clock).await
    }

    pub async fn with(store: Store, clock: Arc<FixedClock>, records_clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let database = (store == Store::Postgres).then(testkit::postgres::database);
        let options = match &database {
            Some(database) => records::Options::postgres(database.url()),
            None => records::Options::sqlite(folder.path().join("city.db")),
        };
        let open = tokio::task::spawn_blocking(move || {
            let records = Records::open(&options, records_clock).expect("records");
            records.migrate("sensing_catalogue_test", CATALOGUE).expect("catalogue");
            records
        });
        let records = open.await.expect("opens");
        let stream = open_stream(folder.path(), clock.clone()).await;
        let topic = stream.topic("observations").expect("topic");
        let scopes = Arc::new(Scopes::new(Arc::new(Roles)));
        let (opened, known) = (records.clone(), Arc::clone(&scopes));
        let open = tokio::task::spawn_blocking(move || Alarms::open(opened, known).expect("tables"));
        let alarms = open.await.expect("opens");
        let rules = Rules::new(alarms.clone(), Allowed::new(["127.0.0.1".to_owned()]));
        Self { clock, records, topic, alarms, rules, scopes, _stream: stream, _database: database, _folder: folder }
    }

    /// A Thing of the flood system with one Datastream; both have this id.
    pub async fn gauge(&self, id: i64, slug: &str, public: bool) {
        gauge(&self.records, id, id, slug, public).await;
    }

    pub async fn apply(&self, declarations: Vec<RuleDeclaration>, recipients: Vec<Recipient>) {
        self.rules.apply(&Caller::system("test"), declarations, recipients).await.expect("applied");
    }

    pub fn options(&self) -> Options {
        let (clock, start) = (self.clock.clone(), self.clock.now());
        Options {
            checkpoint: Duration::from_secs(10),
            tick: Duration::from_millis(2),
            elapsed: Arc::new(move || Duration::from_micros(clock.now().micros_since(start).unsigned_abs())),
            ..Options::default()
        }
    }

    pub async fn engine(&self) -> Handle {
        let feed = TopicFeed(self.topic.clone());
        engine::start(feed, self.alarms.clone(), self.clock.clone(), self.options()).await.expect("engine")
    }

    /// Sends one record; the offset after it.
    pub async fn send(&self, rows: &[(i64, i64, f64)]) -> u64 {
        send(&self.topic, rows).await
    }

    pub async fn all(&self) -> Vec<Alarm> {
        all(&self.alarms).await
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        self.records.read(move |r| r.query_one(sql, params![], |row| row.get(0))).await.expect("count")
    }
}

pub async fn all(alarms: &Alarms) -> Vec<Alarm> {
    alarms.list(&Caller::system("test"), Filter::default(), None, Some(500)).await.expect("list").alarms
}

pub async fn gauge(records: &Records, id: i64, thing: i64, slug: &str, public: bool) {
    let slug = slug.to_owned();
    let add = records.write(move |tx| {
        let properties = r#"{"system":"flood","district":"Yuen Long","name_zh_hant":"新田"}"#;
        tx.execute(
            "INSERT INTO sensing_thing (id, tenant, public, key, name, properties, system, district, x, y)
             VALUES ($1, $2, $3, $4, 'San Tin', $5, 'flood', 'Yuen Long', 114.0725, 22.4985) ON CONFLICT DO NOTHING",
            params![thing, slug, public, format!("thing-{thing}"), properties],
        )?;
        tx.execute(
            "INSERT INTO sensing_datastream (id, tenant, public, key, unit, thing_id, observed_property_id)
             VALUES ($1, $2, $3, $4, '{\"symbol\":\"m\"}', $5, 1)",
            params![id, slug, public, format!("thing-{thing}.level-{id}"), thing],
        )?;
        Ok::<_, records::Error>(())
    });
    add.await.expect("gauge");
}

pub async fn send(topic: &Topic, rows: &[(i64, i64, f64)]) -> u64 {
    let mut batch = Batch::new();
    for &(datastream, at, value) in rows {
        let mut run = Run::new(EntityId(datastream), EntityId(1));
        run.push_number(secs(at), value);
        batch.push_run(run);
    }
    let bytes = Bytes::from(encode_frame(&Frame::Observed(batch)));
    topic.append(bytes).await.expect("durable").0 + 1
}

pub fn high(hold: u32) -> RuleDeclaration {
    RuleDeclaration {
        key: "high".to_owned(),
        name: Text::new("High water", "水位過高", "水位过高"),
        instruction: Some(Text::new("Go and look", "前往查看", "前往查看")),
        tenant: tenant("dsd"),
        severity: Severity::Severe,
        select: Selection { system: Some("flood".to_owned()), ..Selection::default() },
        when: Condition::Above(Level { raise: 10.0, clear: 8.0, hold, clear_hold: hold }),
        quality: Trust::Good,
        max_age: 86_400,
        notify: Vec::new(),
        area: None,
        escalate: Vec::new(),
        public_alert: None,
        enabled: true,
    }
}

pub fn silent(after: u32) -> RuleDeclaration {
    RuleDeclaration {
        key: "silent".to_owned(),
        when: Condition::Absence { after },
        severity: Severity::Minor,
        ..high(0)
    }
}
