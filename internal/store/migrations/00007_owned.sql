-- What one person has among many people's.

-- +goose Up
CREATE INDEX assets_owned_in_use ON assets (workspace_id, owner_id, kind, id) WHERE retired = 0;
