-- What a container's asset says of its image.

-- +goose Up
ALTER TABLE assets ADD COLUMN image_name TEXT NOT NULL DEFAULT '';
ALTER TABLE assets ADD COLUMN image_config BYTES DEFAULT NULL; -- null: it is no container
