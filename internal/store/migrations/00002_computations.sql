-- What is computed: keys, assets, computations with their parts and approvals,
-- and the invitations into them.

-- +goose Up
CREATE TABLE keys (
    id          TEXT   NOT NULL PRIMARY KEY,
    user_id     TEXT   NOT NULL REFERENCES users,
    name        TEXT   NOT NULL,
    public      BYTES  NOT NULL,           -- DER SubjectPublicKeyInfo
    fingerprint TEXT   NOT NULL,
    created     BIGINT NOT NULL,
    revoked     BIGINT NOT NULL,
    replaced_by TEXT   REFERENCES keys
);
CREATE UNIQUE INDEX keys_in_use ON keys (fingerprint) WHERE revoked = 0;
CREATE INDEX keys_user ON keys (user_id, id);

CREATE TABLE assets (
    id           TEXT   NOT NULL PRIMARY KEY,
    workspace_id TEXT   NOT NULL REFERENCES workspaces,
    owner_id     TEXT   NOT NULL REFERENCES users,
    name         TEXT   NOT NULL,
    kind         TEXT   NOT NULL,          -- algorithm, dataset
    description  TEXT   NOT NULL,
    sha256       BYTES  NOT NULL,
    size         BIGINT NOT NULL,
    unpacked_max BIGINT NOT NULL,
    type         TEXT   NOT NULL,          -- of an algorithm
    created      BIGINT NOT NULL,
    retired      BIGINT NOT NULL
);
CREATE INDEX assets_in_use ON assets (workspace_id, id) WHERE retired = 0;
CREATE INDEX assets_kind_in_use ON assets (workspace_id, kind, id) WHERE retired = 0;
CREATE INDEX assets_retired ON assets (workspace_id, id) WHERE retired <> 0;

-- stage, last_run and last_number follow from approvals and runs: lists select by
-- status without looking at those.
CREATE TABLE computations (
    id           TEXT   NOT NULL PRIMARY KEY,
    workspace_id TEXT   NOT NULL REFERENCES workspaces,
    creator_id   TEXT   NOT NULL REFERENCES users,
    created      BIGINT NOT NULL,
    name         TEXT   NOT NULL,          -- the draft's, in lower case, to search
    draft        TEXT   NOT NULL,          -- JSON
    revision     BIGINT NOT NULL,
    manifest     BYTES,                    -- canonical JSON; null: not frozen
    digest       BYTES,
    frozen       BIGINT NOT NULL,
    copied_from  TEXT   REFERENCES computations,
    archived     BIGINT NOT NULL,
    must_approve BIGINT NOT NULL,          -- how many approvals the manifest wants
    stage        TEXT   NOT NULL,          -- draft, approvals, ready
    last_run     TEXT   NOT NULL DEFAULT '', -- state of the newest run
    last_number  BIGINT NOT NULL DEFAULT 0,
    status       TEXT   NOT NULL
        GENERATED ALWAYS AS (CASE WHEN last_run = '' THEN stage ELSE last_run END) STORED
);
CREATE UNIQUE INDEX computations_digest ON computations (workspace_id, digest) WHERE digest IS NOT NULL;
CREATE INDEX computations_list ON computations (workspace_id, id, name) WHERE archived = 0;
CREATE INDEX computations_status ON computations (workspace_id, status, id) WHERE archived = 0;
CREATE INDEX computations_archived ON computations (workspace_id, id) WHERE archived <> 0;

-- A frozen manifest never changes, whoever writes.
-- +only postgres
-- +goose StatementBegin
CREATE FUNCTION keep_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a frozen manifest never changes';
END $$;
-- +goose StatementEnd
CREATE TRIGGER computations_frozen BEFORE UPDATE ON computations FOR EACH ROW
    WHEN (OLD.manifest IS NOT NULL
        AND (NEW.manifest IS DISTINCT FROM OLD.manifest OR NEW.digest IS DISTINCT FROM OLD.digest
            OR NEW.frozen <> OLD.frozen OR NEW.revision <> OLD.revision
            OR NEW.workspace_id <> OLD.workspace_id OR NEW.must_approve <> OLD.must_approve))
    EXECUTE FUNCTION keep_frozen();
-- +only sqlite
-- +goose StatementBegin
CREATE TRIGGER computations_frozen BEFORE UPDATE ON computations FOR EACH ROW
    WHEN OLD.manifest IS NOT NULL
        AND (NEW.manifest IS NOT OLD.manifest OR NEW.digest IS NOT OLD.digest
            OR NEW.frozen <> OLD.frozen OR NEW.revision <> OLD.revision
            OR NEW.workspace_id <> OLD.workspace_id OR NEW.must_approve <> OLD.must_approve)
    BEGIN SELECT RAISE(ABORT, 'a frozen manifest never changes'); END;
-- +goose StatementEnd
-- +both

-- workspace_id, status and archived are the computation's: a user's list needs no
-- join to find what is in it.
CREATE TABLE parts (
    computation_id TEXT    NOT NULL REFERENCES computations,
    user_id        TEXT    NOT NULL REFERENCES users,
    parts          TEXT    NOT NULL,       -- JSON list of words
    workspace_id   TEXT    NOT NULL REFERENCES workspaces,
    status         TEXT    NOT NULL,
    archived       BOOLEAN NOT NULL,
    PRIMARY KEY (computation_id, user_id)
);
CREATE INDEX parts_user ON parts (user_id, workspace_id, archived, computation_id);
CREATE INDEX parts_user_status ON parts (user_id, workspace_id, archived, status, computation_id);

-- How many computations lists show in each status: triggers keep count, because
-- counting a hundred thousand takes as long as the rest of a page ten times over.
CREATE TABLE tallies (
    workspace_id TEXT   NOT NULL,
    user_id      TEXT   NOT NULL,          -- who has a part in them; empty: all
    status       TEXT   NOT NULL,
    shard        BIGINT NOT NULL,          -- keeps those apart who write at the same time
    n            BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, user_id, status, shard)
);
-- +only postgres
-- +goose StatementBegin
CREATE FUNCTION tally(place TEXT, who TEXT, what TEXT, more BIGINT) RETURNS void LANGUAGE sql AS $$
    INSERT INTO tallies AS t (workspace_id, user_id, status, shard, n) VALUES (place, who, what, pg_backend_pid() % 64, more)
    ON CONFLICT (workspace_id, user_id, status, shard) DO UPDATE SET n = t.n + excluded.n
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION tally_computation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.archived = 0 THEN
        PERFORM tally(OLD.workspace_id, '', OLD.status, -1);
    END IF;
    IF NEW.archived = 0 THEN
        PERFORM tally(NEW.workspace_id, '', NEW.status, 1);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION tally_part() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND NOT OLD.archived THEN
        PERFORM tally(OLD.workspace_id, OLD.user_id, OLD.status, -1);
    END IF;
    IF TG_OP <> 'DELETE' AND NOT NEW.archived THEN
        PERFORM tally(NEW.workspace_id, NEW.user_id, NEW.status, 1);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER tally_computation_made AFTER INSERT ON computations FOR EACH ROW EXECUTE FUNCTION tally_computation();
CREATE TRIGGER tally_computation_changed AFTER UPDATE ON computations FOR EACH ROW
    WHEN (OLD.status <> NEW.status OR OLD.archived <> NEW.archived OR OLD.workspace_id <> NEW.workspace_id)
    EXECUTE FUNCTION tally_computation();
CREATE TRIGGER tally_part_made AFTER INSERT OR DELETE ON parts FOR EACH ROW EXECUTE FUNCTION tally_part();
CREATE TRIGGER tally_part_changed AFTER UPDATE ON parts FOR EACH ROW
    WHEN (OLD.status <> NEW.status OR OLD.archived <> NEW.archived)
    EXECUTE FUNCTION tally_part();
-- +only sqlite
-- +goose StatementBegin
CREATE TRIGGER tally_computation_made AFTER INSERT ON computations WHEN NEW.archived = 0 BEGIN
    INSERT INTO tallies VALUES (NEW.workspace_id, '', NEW.status, 0, 1)
    ON CONFLICT (workspace_id, user_id, status, shard) DO UPDATE SET n = n + excluded.n;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tally_computation_changed AFTER UPDATE ON computations
    WHEN OLD.status <> NEW.status OR OLD.archived <> NEW.archived OR OLD.workspace_id <> NEW.workspace_id BEGIN
    INSERT INTO tallies SELECT OLD.workspace_id, '', OLD.status, 0, -1 WHERE OLD.archived = 0
    ON CONFLICT (workspace_id, user_id, status, shard) DO UPDATE SET n = n + excluded.n;
    INSERT INTO tallies SELECT NEW.workspace_id, '', NEW.status, 0, 1 WHERE NEW.archived = 0
    ON CONFLICT (workspace_id, user_id, status, shard) DO UPDATE SET n = n + excluded.n;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tally_part_made AFTER INSERT ON parts WHEN NOT NEW.archived BEGIN
    INSERT INTO tallies VALUES (NEW.workspace_id, NEW.user_id, NEW.status, 0, 1)
    ON CONFLICT (workspace_id, user_id, status, shard) DO UPDATE SET n = n + excluded.n;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tally_part_gone AFTER DELETE ON parts WHEN NOT OLD.archived BEGIN
    INSERT INTO tallies VALUES (OLD.workspace_id, OLD.user_id, OLD.status, 0, -1)
    ON CONFLICT (workspace_id, user_id, status, shard) DO UPDATE SET n = n + excluded.n;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER tally_part_changed AFTER UPDATE ON parts
    WHEN OLD.status <> NEW.status OR OLD.archived <> NEW.archived BEGIN
    INSERT INTO tallies SELECT OLD.workspace_id, OLD.user_id, OLD.status, 0, -1 WHERE NOT OLD.archived
    ON CONFLICT (workspace_id, user_id, status, shard) DO UPDATE SET n = n + excluded.n;
    INSERT INTO tallies SELECT NEW.workspace_id, NEW.user_id, NEW.status, 0, 1 WHERE NOT NEW.archived
    ON CONFLICT (workspace_id, user_id, status, shard) DO UPDATE SET n = n + excluded.n;
END;
-- +goose StatementEnd
-- +both

CREATE TABLE approvals (
    computation_id TEXT   NOT NULL REFERENCES computations,
    user_id        TEXT   NOT NULL REFERENCES users,
    public         BYTES  NOT NULL,
    signature      BYTES  NOT NULL,
    at             BIGINT NOT NULL,
    PRIMARY KEY (computation_id, user_id)
);

CREATE TABLE invitations (
    id             TEXT   NOT NULL PRIMARY KEY,
    workspace_id   TEXT   NOT NULL REFERENCES workspaces,
    email          TEXT   NOT NULL,
    role           TEXT   NOT NULL,
    computation_id TEXT   REFERENCES computations,
    parts          TEXT   NOT NULL,        -- JSON list of words
    state          TEXT   NOT NULL,        -- pending, accepted, declined, withdrawn
    hash           BYTES  NOT NULL UNIQUE, -- SHA-256 of the link's secret
    by_id          TEXT   NOT NULL REFERENCES users,
    created        BIGINT NOT NULL,
    sent           BIGINT NOT NULL,
    expires        BIGINT NOT NULL,
    answered_by    TEXT   REFERENCES users
);
CREATE INDEX invitations_workspace ON invitations (workspace_id, id);
CREATE INDEX invitations_email ON invitations (email, id);
