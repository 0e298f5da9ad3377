//! The catalogue's tables. JSON lies in TEXT and is never looked into by SQL; what must be found quickly has a column of its own.

use records::Migration;

pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "catalogue", sql: CATALOGUE },
    Migration { version: 2, name: "things by system, district, name and place", sql: LISTING },
    Migration { version: 3, name: "multi-datastreams", sql: MULTI_DATASTREAMS },
    Migration { version: 4, name: "tasking", sql: TASKING },
    Migration { version: 5, name: "what the device of a task knows, and the record of kill switches", sql: TASKS_TOLD },
    Migration { version: 6, name: "legal holds", sql: HOLDS },
];

const CATALOGUE: &str = "
CREATE TABLE sensing_sequence (kind TEXT NOT NULL PRIMARY KEY, last BIGINT NOT NULL);
CREATE TABLE sensing_tenant (tenant TEXT NOT NULL PRIMARY KEY);

CREATE TABLE sensing_thing (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  name TEXT NOT NULL, description TEXT NOT NULL, properties TEXT);
CREATE UNIQUE INDEX sensing_thing_key ON sensing_thing (tenant, key);
CREATE INDEX sensing_thing_name ON sensing_thing (name, id);

CREATE TABLE sensing_location (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  name TEXT NOT NULL, description TEXT NOT NULL, encoding_type TEXT NOT NULL, location TEXT NOT NULL, properties TEXT,
  cell BIGINT, min_x DOUBLE PRECISION, min_y DOUBLE PRECISION, max_x DOUBLE PRECISION, max_y DOUBLE PRECISION);
CREATE UNIQUE INDEX sensing_location_key ON sensing_location (tenant, key);
CREATE INDEX sensing_location_name ON sensing_location (name, id);
CREATE INDEX sensing_location_cell ON sensing_location (cell);

CREATE TABLE sensing_thing_location (
  thing_id BIGINT NOT NULL, location_id BIGINT NOT NULL, PRIMARY KEY (thing_id, location_id));
CREATE INDEX sensing_thing_location_back ON sensing_thing_location (location_id, thing_id);

CREATE TABLE sensing_historical_location (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  at BIGINT NOT NULL, thing_id BIGINT NOT NULL);
CREATE UNIQUE INDEX sensing_historical_location_key ON sensing_historical_location (tenant, key);
CREATE INDEX sensing_historical_location_thing ON sensing_historical_location (thing_id, at);
CREATE INDEX sensing_historical_location_at ON sensing_historical_location (at, id);

CREATE TABLE sensing_location_history (
  history_id BIGINT NOT NULL, location_id BIGINT NOT NULL, PRIMARY KEY (history_id, location_id));
CREATE INDEX sensing_location_history_back ON sensing_location_history (location_id, history_id);

CREATE TABLE sensing_sensor (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  name TEXT NOT NULL, description TEXT NOT NULL, encoding_type TEXT NOT NULL, metadata TEXT NOT NULL, properties TEXT);
CREATE UNIQUE INDEX sensing_sensor_key ON sensing_sensor (tenant, key);
CREATE INDEX sensing_sensor_name ON sensing_sensor (name, id);

CREATE TABLE sensing_observed_property (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  name TEXT NOT NULL, definition TEXT NOT NULL, description TEXT NOT NULL, properties TEXT);
CREATE UNIQUE INDEX sensing_observed_property_key ON sensing_observed_property (tenant, key);
CREATE INDEX sensing_observed_property_name ON sensing_observed_property (name, id);

CREATE TABLE sensing_datastream (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  name TEXT NOT NULL, description TEXT NOT NULL, observation_type TEXT NOT NULL, unit TEXT NOT NULL, observed_area TEXT,
  properties TEXT, thing_id BIGINT NOT NULL, sensor_id BIGINT NOT NULL, observed_property_id BIGINT NOT NULL);
CREATE UNIQUE INDEX sensing_datastream_key ON sensing_datastream (tenant, key);
CREATE INDEX sensing_datastream_name ON sensing_datastream (name, id);
CREATE INDEX sensing_datastream_thing ON sensing_datastream (thing_id, id);
CREATE INDEX sensing_datastream_sensor ON sensing_datastream (sensor_id, id);
CREATE INDEX sensing_datastream_observed_property ON sensing_datastream (observed_property_id, id);

CREATE TABLE sensing_feature (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  name TEXT NOT NULL, description TEXT NOT NULL, encoding_type TEXT NOT NULL, feature TEXT NOT NULL, properties TEXT,
  origin TEXT,
  cell BIGINT, min_x DOUBLE PRECISION, min_y DOUBLE PRECISION, max_x DOUBLE PRECISION, max_y DOUBLE PRECISION);
CREATE UNIQUE INDEX sensing_feature_key ON sensing_feature (tenant, key);
CREATE UNIQUE INDEX sensing_feature_origin ON sensing_feature (origin);
CREATE INDEX sensing_feature_name ON sensing_feature (name, id);
CREATE INDEX sensing_feature_cell ON sensing_feature (cell);

CREATE TABLE sensing_observed_feature (
  feature_id BIGINT NOT NULL, datastream_id BIGINT NOT NULL, PRIMARY KEY (feature_id, datastream_id));
CREATE INDEX sensing_observed_feature_back ON sensing_observed_feature (datastream_id, feature_id);
";

/// What stands in `properties` and is found by has columns. `super::listing::catch_up` fills them for the Things that are there already.
const LISTING: &str = "
ALTER TABLE sensing_thing ADD COLUMN system TEXT NOT NULL DEFAULT '';
ALTER TABLE sensing_thing ADD COLUMN district TEXT NOT NULL DEFAULT '';
ALTER TABLE sensing_thing ADD COLUMN simulated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sensing_thing ADD COLUMN sought TEXT NOT NULL DEFAULT '';
ALTER TABLE sensing_thing ADD COLUMN cell BIGINT;
ALTER TABLE sensing_thing ADD COLUMN x DOUBLE PRECISION;
ALTER TABLE sensing_thing ADD COLUMN y DOUBLE PRECISION;
CREATE INDEX sensing_thing_list ON sensing_thing (tenant, public, system, district, sought, id);
CREATE INDEX sensing_thing_map ON sensing_thing (tenant, public, system, cell, x, y, id);
CREATE TABLE sensing_thing_count (
  tenant TEXT NOT NULL, public BIGINT NOT NULL, system TEXT NOT NULL, district TEXT NOT NULL,
  things BIGINT NOT NULL, simulated BIGINT NOT NULL, PRIMARY KEY (tenant, public, system, district));
CREATE TABLE sensing_catch_up (what TEXT NOT NULL PRIMARY KEY, after BIGINT NOT NULL);
INSERT INTO sensing_catch_up (what, after) VALUES ('things', 0);
";

/// Ids come from the Datastreams' sequence, because an Observation is named by the id of its series alone: so `sensing_observed_feature` serves
/// both, and an ObservedProperty may stand in a list twice (least and greatest of the same), so its place is the key.
const MULTI_DATASTREAMS: &str = "
CREATE TABLE sensing_multi_datastream (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  name TEXT NOT NULL, description TEXT NOT NULL, observation_type TEXT NOT NULL, data_types TEXT NOT NULL, units TEXT NOT NULL,
  observed_area TEXT, properties TEXT, thing_id BIGINT NOT NULL, sensor_id BIGINT NOT NULL);
CREATE UNIQUE INDEX sensing_multi_datastream_key ON sensing_multi_datastream (tenant, key);
CREATE INDEX sensing_multi_datastream_name ON sensing_multi_datastream (name, id);
CREATE INDEX sensing_multi_datastream_thing ON sensing_multi_datastream (thing_id, id);
CREATE INDEX sensing_multi_datastream_sensor ON sensing_multi_datastream (sensor_id, id);

CREATE TABLE sensing_multi_observed_property (
  multi_datastream_id BIGINT NOT NULL, place BIGINT NOT NULL, observed_property_id BIGINT NOT NULL,
  PRIMARY KEY (multi_datastream_id, place));
CREATE INDEX sensing_multi_observed_property_back ON sensing_multi_observed_property (observed_property_id, multi_datastream_id);
";

/// The entities of 17-079, and what becomes of a Task (`crate::tasking`): one history, because one transaction writes both. `body` is the whole
/// machine as JSON; what is looked for has a column. A lease's key is the Actuator, so there cannot be two.
const TASKING: &str = "
CREATE TABLE sensing_tasking_capability (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  name TEXT NOT NULL, description TEXT NOT NULL, tasking_parameters TEXT NOT NULL, properties TEXT,
  thing_id BIGINT NOT NULL, actuator_id BIGINT NOT NULL);
CREATE UNIQUE INDEX sensing_tasking_capability_key ON sensing_tasking_capability (tenant, key);
CREATE INDEX sensing_tasking_capability_name ON sensing_tasking_capability (name, id);
CREATE INDEX sensing_tasking_capability_thing ON sensing_tasking_capability (thing_id, id);
CREATE INDEX sensing_tasking_capability_actuator ON sensing_tasking_capability (actuator_id, id);

CREATE TABLE sensing_actuator (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  name TEXT NOT NULL, description TEXT NOT NULL, encoding_type TEXT NOT NULL, metadata TEXT NOT NULL, properties TEXT);
CREATE UNIQUE INDEX sensing_actuator_key ON sensing_actuator (tenant, key);
CREATE INDEX sensing_actuator_name ON sensing_actuator (name, id);

CREATE TABLE sensing_task (
  id BIGINT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, public BIGINT NOT NULL, key TEXT,
  tasking_parameters TEXT NOT NULL, creation_time BIGINT NOT NULL, status TEXT NOT NULL, tasking_capability_id BIGINT NOT NULL);
CREATE UNIQUE INDEX sensing_task_key ON sensing_task (tenant, key);
CREATE INDEX sensing_task_capability ON sensing_task (tasking_capability_id, id);
CREATE INDEX sensing_task_status ON sensing_task (status, id);

CREATE TABLE sensing_task_run (
  task_id BIGINT NOT NULL PRIMARY KEY, version BIGINT NOT NULL, status TEXT NOT NULL, actuator_id BIGINT NOT NULL,
  watched BIGINT, proposer TEXT NOT NULL, idempotency_key TEXT, request TEXT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX sensing_task_run_key ON sensing_task_run (proposer, idempotency_key);
CREATE INDEX sensing_task_run_status ON sensing_task_run (status, task_id);
CREATE INDEX sensing_task_run_actuator ON sensing_task_run (actuator_id, status, task_id);

CREATE TABLE sensing_task_entry (
  task_id BIGINT NOT NULL, version BIGINT NOT NULL, at BIGINT NOT NULL, actor TEXT NOT NULL, status TEXT NOT NULL,
  event TEXT NOT NULL, remark TEXT, PRIMARY KEY (task_id, version));

CREATE TABLE sensing_task_lease (actuator_id BIGINT NOT NULL PRIMARY KEY, task_id BIGINT NOT NULL);

CREATE TABLE sensing_task_stop (scope TEXT NOT NULL PRIMARY KEY, at BIGINT NOT NULL, actor TEXT NOT NULL, reason TEXT NOT NULL);
";

/// A dead man's handle is of use only when the device has it too, for when this program is cut off. And a kill switch that was lifted is still
/// looked for afterwards.
const TASKS_TOLD: &str = "
ALTER TABLE sensing_task ADD COLUMN due BIGINT;
ALTER TABLE sensing_task ADD COLUMN held_until BIGINT;
ALTER TABLE sensing_task ADD COLUMN fallback TEXT;
CREATE INDEX sensing_tasking_capability_tenant ON sensing_tasking_capability (tenant, id);

CREATE TABLE sensing_task_stop_entry (
  scope TEXT NOT NULL, at BIGINT NOT NULL, actor TEXT NOT NULL, stopped BIGINT NOT NULL, reason TEXT NOT NULL, number BIGINT NOT NULL PRIMARY KEY);
CREATE INDEX sensing_task_stop_entry_scope ON sensing_task_stop_entry (scope, number);
";

/// What keeps a department's, a Thing's or a Datastream's Observations until somebody lifts it. Here, because every deletion asks for it.
const HOLDS: &str = "
CREATE TABLE sensing_retention_hold (
  id TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL, thing BIGINT, datastream BIGINT, reason TEXT NOT NULL,
  made_by TEXT NOT NULL, made_at BIGINT NOT NULL, lifted_by TEXT, lifted_at BIGINT, lifted_reason TEXT);
CREATE INDEX sensing_retention_hold_tenant ON sensing_retention_hold (tenant, lifted_at, id);
CREATE INDEX sensing_retention_hold_lifted ON sensing_retention_hold (lifted_at, id);
";
