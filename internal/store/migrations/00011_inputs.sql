-- What an algorithm's asset says of files and packages beside the program, and a
-- dataset's of where the agent itself takes it from.

-- +goose Up
ALTER TABLE assets ADD COLUMN files TEXT NOT NULL DEFAULT '[]';  -- JSON, as in a manifest
ALTER TABLE assets ADD COLUMN python TEXT NOT NULL DEFAULT '{}'; -- JSON
ALTER TABLE assets ADD COLUMN source TEXT NOT NULL DEFAULT '{}'; -- JSON
