-- The audit log: who did what, each entry with the hash of the one before. It
-- refers to nothing, so that it can outlive all it tells of.

-- +goose Up
CREATE TABLE audit (
    sequence     BIGINT NOT NULL PRIMARY KEY, -- from 1, without gaps
    at           BIGINT NOT NULL,
    workspace_id TEXT   NOT NULL,             -- empty: the service as a whole
    actor_id     TEXT   NOT NULL,             -- empty: the service itself
    action       TEXT   NOT NULL,
    object_id    TEXT   NOT NULL,
    detail       TEXT   NOT NULL,             -- JSON
    previous     BYTES  NOT NULL,
    hash         BYTES  NOT NULL UNIQUE
) WITHOUT_ROWID;
CREATE INDEX audit_workspace ON audit (workspace_id, sequence);
CREATE INDEX audit_actor ON audit (workspace_id, actor_id, sequence);
CREATE INDEX audit_action ON audit (workspace_id, action, sequence);
CREATE INDEX audit_object ON audit (workspace_id, object_id, sequence);

-- Entries are only ever appended.
-- +only postgres
-- +goose StatementBegin
CREATE FUNCTION keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only appended to';
END $$;
-- +goose StatementEnd
CREATE TRIGGER audit_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION keep_audit();
-- +only sqlite
-- +goose StatementBegin
CREATE TRIGGER audit_not_changed BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is only appended to'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_not_deleted BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is only appended to'); END;
-- +goose StatementEnd
-- +both
