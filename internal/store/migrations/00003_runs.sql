-- Hosts, and what runs on them: runs, what they tell, and their receipts.

-- +goose Up
CREATE TABLE hosts (
    id                  TEXT    NOT NULL PRIMARY KEY,
    name                TEXT    NOT NULL,
    serial              TEXT    NOT NULL,  -- of the client certificate
    previous_serial     TEXT    NOT NULL,
    certificate_expires BIGINT  NOT NULL,
    enrolled            BIGINT  NOT NULL,
    revoked             BIGINT  NOT NULL,
    cordoned            BOOLEAN NOT NULL,
    draining            BOOLEAN NOT NULL,
    report              TEXT    NOT NULL,  -- JSON
    contact             BIGINT  NOT NULL,
    connected           BOOLEAN NOT NULL,
    process             TEXT    NOT NULL,
    address             TEXT    NOT NULL
);
CREATE UNIQUE INDEX hosts_serial ON hosts (serial) WHERE serial <> '';
CREATE UNIQUE INDEX hosts_previous_serial ON hosts (previous_serial) WHERE previous_serial <> '';

CREATE TABLE enrol_tokens (
    id      TEXT   NOT NULL PRIMARY KEY,
    name    TEXT   NOT NULL,
    hash    BYTES  NOT NULL UNIQUE,
    by_id   TEXT   NOT NULL REFERENCES users,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    host_id TEXT   REFERENCES hosts
);

CREATE TABLE runs (
    id             TEXT    NOT NULL PRIMARY KEY,
    computation_id TEXT    NOT NULL REFERENCES computations,
    workspace_id   TEXT    NOT NULL REFERENCES workspaces,
    number         BIGINT  NOT NULL,
    state          TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    by_id          TEXT    NOT NULL REFERENCES users,
    host_id        TEXT    REFERENCES hosts,
    agent_address  TEXT    NOT NULL,
    agent_key      TEXT    NOT NULL,
    agent_state    TEXT    NOT NULL,
    simulated      BOOLEAN NOT NULL,
    stop_asked     BIGINT  NOT NULL,
    ttl            BIGINT  NOT NULL,
    refused        TEXT    NOT NULL,       -- JSON list of hosts
    trace          TEXT    NOT NULL,
    created        BIGINT  NOT NULL,
    started        BIGINT  NOT NULL,
    ended          BIGINT  NOT NULL,
    swept          BOOLEAN NOT NULL DEFAULT FALSE, -- its entries' time was over and they are gone
    UNIQUE (computation_id, number)
);
CREATE INDEX runs_computation ON runs (computation_id, id);
CREATE INDEX runs_workspace ON runs (workspace_id, id);
CREATE INDEX runs_workspace_state ON runs (workspace_id, state, id);
CREATE INDEX runs_state ON runs (state, id);
CREATE INDEX runs_host ON runs (host_id, id) WHERE host_id IS NOT NULL;
CREATE INDEX runs_host_state ON runs (host_id, state, id) WHERE host_id IS NOT NULL;
CREATE INDEX runs_to_sweep ON runs (workspace_id, ended) WHERE ended <> 0 AND NOT swept;

-- Where each run's entries stand. Whoever appends holds the row until the commit:
-- so positions appear in their order, and a reader that follows misses none.
CREATE TABLE positions (
    run_id    TEXT    NOT NULL PRIMARY KEY REFERENCES runs,
    last      BIGINT  NOT NULL,            -- position given out
    sequences TEXT    NOT NULL,            -- JSON: highest sequence of each source
    swept     BOOLEAN NOT NULL             -- as in runs
);

-- Positions refer to runs already: a reference here would cost a look-up each row.
CREATE TABLE entries (
    run_id     TEXT   NOT NULL,
    position   BIGINT NOT NULL,
    type       TEXT   NOT NULL,            -- event, log
    source     TEXT   NOT NULL,
    sequence   BIGINT NOT NULL,            -- of an event; zero for a log line
    time       BIGINT NOT NULL,            -- by the source's clock
    level      TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    message    TEXT   NOT NULL,
    attributes TEXT   NOT NULL,            -- JSON
    dropped    BIGINT NOT NULL,
    committed  BIGINT NOT NULL,
    PRIMARY KEY (run_id, position)
) WITHOUT_ROWID;
CREATE UNIQUE INDEX entries_once ON entries (run_id, source, sequence) WHERE sequence > 0;
-- Events are few among the lines of a log.
CREATE INDEX entries_events ON entries (run_id, position) WHERE type = 'event';

CREATE TABLE receipts (
    run_id    TEXT    NOT NULL PRIMARY KEY REFERENCES runs,
    raw       BYTES   NOT NULL,
    by_id     TEXT    NOT NULL REFERENCES users,
    at        BIGINT  NOT NULL,
    simulated BOOLEAN NOT NULL,
    succeeded BOOLEAN NOT NULL
);
