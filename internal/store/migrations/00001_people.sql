-- People: users, what lets them in, their workspaces, and who is asked in.
--
-- In all migrations: an id is a UUID as text, of version 7, so that it sorts by
-- time. A time or a duration is in nanoseconds, a time since 1970 in UTC; zero is
-- none. BYTES is the database's word for binary data. What is JSON is marked so.
-- Nothing is deleted with what it belongs to: only credentials, members and parts
-- go, and entries when their time is over.

-- +goose Up
CREATE TABLE users (
    id             TEXT    NOT NULL PRIMARY KEY,
    email          TEXT    NOT NULL UNIQUE, -- in lower case
    email_verified BOOLEAN NOT NULL,
    name           TEXT    NOT NULL,
    password_hash  TEXT    NOT NULL,        -- Argon2id; empty: none
    issuer         TEXT    NOT NULL,        -- of OpenID Connect; empty: none
    subject        TEXT    NOT NULL,
    operator       BOOLEAN NOT NULL,
    disabled       BOOLEAN NOT NULL,
    created        BIGINT  NOT NULL
);
CREATE UNIQUE INDEX users_subject ON users (issuer, subject) WHERE issuer <> '';

-- The secrets themselves are nowhere: hash is SHA-256 of one.
CREATE TABLE credentials (
    id      TEXT   NOT NULL PRIMARY KEY,
    user_id TEXT   NOT NULL REFERENCES users,
    kind    TEXT   NOT NULL,               -- session, token, link
    name    TEXT   NOT NULL,
    hash    BYTES  NOT NULL UNIQUE,
    client  TEXT   NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    used    BIGINT NOT NULL
);
CREATE INDEX credentials_user ON credentials (user_id, id);
CREATE INDEX credentials_expires ON credentials (expires) WHERE expires <> 0;
CREATE INDEX credentials_used ON credentials (kind, used);

CREATE TABLE workspaces (
    id           TEXT   NOT NULL PRIMARY KEY,
    name         TEXT   NOT NULL,
    created      BIGINT NOT NULL,
    keep_entries BIGINT NOT NULL           -- zero: for ever
);
CREATE INDEX workspaces_forgetful ON workspaces (id) WHERE keep_entries <> 0;

CREATE TABLE members (
    workspace_id TEXT   NOT NULL REFERENCES workspaces,
    user_id      TEXT   NOT NULL REFERENCES users,
    role         TEXT   NOT NULL,
    joined       BIGINT NOT NULL,
    PRIMARY KEY (workspace_id, user_id)
);
CREATE INDEX members_user ON members (user_id);

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
