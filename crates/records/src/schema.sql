-- Who did what: written in the transaction that did it, never changed.
CREATE TABLE records_audit (
    id IDENTITY,
    at BIGINT NOT NULL,
    caller TEXT NOT NULL,
    tenant TEXT,
    action TEXT NOT NULL,
    kind TEXT NOT NULL,
    entity TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX records_audit_entity ON records_audit (kind, entity, id);
CREATE INDEX records_audit_tenant ON records_audit (tenant, id);

-- Events that wait to be handed on. seq is the order in which they are read; see outbox.rs for who writes it.
CREATE TABLE records_event (
    id IDENTITY,
    seq BIGINT UNIQUE,
    event TEXT NOT NULL,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    payload TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX records_event_unnumbered ON records_event (id) WHERE seq IS NULL;
CREATE TABLE records_event_head (one BIGINT PRIMARY KEY CHECK (one = 1), numbered BIGINT NOT NULL, delivered BIGINT NOT NULL);
INSERT INTO records_event_head (one, numbered, delivered) VALUES (1, 0, 0);

-- Work to be done. due_at is when it may be taken; taking it moves due_at to the end of the lease.
CREATE TABLE records_job (
    id TEXT PRIMARY KEY,
    queue TEXT NOT NULL,
    payload TEXT NOT NULL,
    due_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    unique_key TEXT,
    lease TEXT,
    last_error TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX records_job_due ON records_job (queue, due_at, id);
CREATE UNIQUE INDEX records_job_unique ON records_job (queue, unique_key);

-- Work that was given up: kept until somebody sends it again or throws it away.
CREATE TABLE records_dead_job (
    id TEXT PRIMARY KEY,
    queue TEXT NOT NULL,
    payload TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    max_attempts BIGINT NOT NULL,
    unique_key TEXT,
    last_error TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    died_at BIGINT NOT NULL
);
CREATE INDEX records_dead_job_queue ON records_dead_job (queue, id);
