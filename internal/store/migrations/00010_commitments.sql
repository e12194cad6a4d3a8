-- Assets may be named by a salted commitment, in place of their digest.

-- +goose Up
ALTER TABLE assets ADD COLUMN commitment BYTES DEFAULT NULL; -- null: sha256 names it
