-- How much a run has told: its host must not be able to fill the database.

-- +goose Up
ALTER TABLE positions ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0; -- of texts and attributes
