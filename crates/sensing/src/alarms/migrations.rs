//! The tables of rules, alarms and notifications: one room's, in one history, because one transaction writes them together.

use records::Migration;

pub const ROOM: &str = "sensing_alarms";

pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "rules, alarms, deliveries", sql: TABLES },
    Migration { version: 2, name: "public warnings", sql: WARNINGS },
    Migration { version: 3, name: "what expressions remember", sql: MEMORY },
    Migration { version: 4, name: "notifications about several alarms", sql: GROUPS },
    Migration { version: 5, name: "silences", sql: SILENCES },
    Migration { version: 6, name: "inhibitions and assignments", sql: DUTY },
];

/// `open_key` is `rule/thing` while the condition stands and NULL afterwards; both engines let NULLs repeat in a unique index, so
/// it is the portable form of "one open alarm for each rule and Thing".
const TABLES: &str = "
CREATE TABLE sensing_rule (
  key TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, body TEXT NOT NULL, revision BIGINT NOT NULL, changed_at BIGINT NOT NULL);

CREATE TABLE sensing_rule_state (
  rule TEXT NOT NULL, datastream BIGINT NOT NULL, thing BIGINT NOT NULL, next_offset BIGINT NOT NULL,
  latest BIGINT, seen BIGINT, value DOUBLE PRECISION, raised BIGINT NOT NULL, raises BIGINT NOT NULL,
  turning_since BIGINT, turning_arrived BIGINT, PRIMARY KEY (rule, datastream));

CREATE TABLE sensing_rule_position (one BIGINT NOT NULL PRIMARY KEY, next_offset BIGINT NOT NULL);

CREATE TABLE sensing_alarm (
  id TEXT NOT NULL PRIMARY KEY, rule TEXT NOT NULL, tenant TEXT NOT NULL, public BIGINT NOT NULL, severity BIGINT NOT NULL,
  state TEXT NOT NULL, open_key TEXT, name TEXT NOT NULL, instruction TEXT, thing BIGINT NOT NULL, thing_name TEXT NOT NULL,
  datastream BIGINT NOT NULL, system TEXT, district TEXT, value DOUBLE PRECISION, unit TEXT,
  raised_at BIGINT NOT NULL, recorded_at BIGINT NOT NULL, acknowledged_by TEXT, acknowledged_at BIGINT, cleared_at BIGINT,
  closed_by TEXT, closed_at BIGINT, version BIGINT NOT NULL);
CREATE UNIQUE INDEX sensing_alarm_open ON sensing_alarm (open_key);
CREATE INDEX sensing_alarm_state ON sensing_alarm (state, id);
CREATE INDEX sensing_alarm_thing ON sensing_alarm (thing, id);

CREATE TABLE sensing_alarm_entry (
  alarm TEXT NOT NULL, version BIGINT NOT NULL, at BIGINT NOT NULL, actor TEXT NOT NULL, kind TEXT NOT NULL,
  remark TEXT, value DOUBLE PRECISION, PRIMARY KEY (alarm, version));

CREATE TABLE sensing_recipient (
  key TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, body TEXT NOT NULL, changed_at BIGINT NOT NULL);

CREATE TABLE sensing_delivery (
  id TEXT NOT NULL PRIMARY KEY, alarm TEXT NOT NULL, version BIGINT NOT NULL, recipient TEXT NOT NULL, tenant TEXT NOT NULL,
  event TEXT NOT NULL, state TEXT NOT NULL, attempts BIGINT NOT NULL, last_error TEXT, created_at BIGINT NOT NULL,
  delivered_at BIGINT);
CREATE INDEX sensing_delivery_alarm ON sensing_delivery (alarm, id);
CREATE INDEX sensing_delivery_state ON sensing_delivery (state, id);
";

/// `open_key` is `rule/district` or `rule/thing` on the newest message of a warning that stands, and NULL elsewhere, as with alarms. Messages are
/// kept whole, as they were signed. `sensing_alert_alarm` says which alarms hold a warning up.
const WARNINGS: &str = "
CREATE TABLE sensing_alert (
  identifier TEXT NOT NULL PRIMARY KEY, warning TEXT NOT NULL, number BIGINT NOT NULL, newest BIGINT NOT NULL, rule TEXT NOT NULL,
  tenant TEXT NOT NULL, district TEXT, severity BIGINT NOT NULL, open_key TEXT, lasts BIGINT NOT NULL, status TEXT NOT NULL,
  msg_type TEXT NOT NULL, sent BIGINT NOT NULL, expires BIGINT NOT NULL, renew_at BIGINT, reference TEXT NOT NULL,
  body TEXT NOT NULL, xml TEXT NOT NULL);
CREATE UNIQUE INDEX sensing_alert_open ON sensing_alert (open_key);
CREATE UNIQUE INDEX sensing_alert_chain ON sensing_alert (warning, number);
CREATE INDEX sensing_alert_newest ON sensing_alert (newest, sent, identifier);
CREATE INDEX sensing_alert_renew ON sensing_alert (renew_at);
CREATE TABLE sensing_alert_alarm (alarm TEXT NOT NULL PRIMARY KEY, warning TEXT NOT NULL);
CREATE INDEX sensing_alert_alarm_warning ON sensing_alert_alarm (warning);
CREATE TABLE sensing_alert_key (id TEXT NOT NULL PRIMARY KEY, jwk TEXT NOT NULL, since BIGINT NOT NULL);
";

/// `memory`: windows, the value before and values of neighbours, of rules with an expression; NULL for all others. `raised_at`: since when it stands.
const MEMORY: &str = "
ALTER TABLE sensing_rule_state ADD COLUMN memory TEXT;
ALTER TABLE sensing_rule_state ADD COLUMN raised_at BIGINT;
";

/// `gathered`: how many alarms a delivery is about. `sensing_group` says until when further alarms of the same rule, district and occasion are gathered
/// for a recipient, and in which delivery, once there is one.
const GROUPS: &str = "
ALTER TABLE sensing_delivery ADD COLUMN gathered BIGINT NOT NULL DEFAULT 1;
CREATE TABLE sensing_group (key TEXT NOT NULL PRIMARY KEY, ends_at BIGINT NOT NULL, delivery TEXT);
";

/// `withheld_by` on a delivery: what kept it back; `awaits`: whose end is waited for, NULL once it was looked back on. `sensing_silencing` is what the pack
/// allows, '' for the whole city.
const SILENCES: &str = "
CREATE TABLE sensing_silence (
  id TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, matchers TEXT NOT NULL, starts_at BIGINT NOT NULL, ends_at BIGINT NOT NULL,
  reason TEXT NOT NULL, made_by TEXT NOT NULL, created_at BIGINT NOT NULL, ended_by TEXT, ended_at BIGINT);
CREATE INDEX sensing_silence_standing ON sensing_silence (tenant, ends_at);
CREATE TABLE sensing_silencing (tenant TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL);
ALTER TABLE sensing_delivery ADD COLUMN withheld_by TEXT;
ALTER TABLE sensing_delivery ADD COLUMN awaits TEXT;
CREATE INDEX sensing_delivery_awaits ON sensing_delivery (awaits, id);
";

/// `sensing_inhibition`: in the order of the pack. `assignee` is who was asked to see to an alarm.
const DUTY: &str = "
CREATE TABLE sensing_inhibition (place BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX sensing_alarm_rule ON sensing_alarm (rule, state, district);
ALTER TABLE sensing_alarm ADD COLUMN assignee TEXT;
CREATE INDEX sensing_alarm_assignee ON sensing_alarm (assignee, id);
";
