-- Invitations that wait for an answer, of those that a workspace ever sent.

-- +goose Up
CREATE INDEX invitations_waiting ON invitations (workspace_id, id) WHERE state = 'pending';
CREATE INDEX invitations_waiting_into ON invitations (computation_id, id) WHERE state = 'pending' AND computation_id IS NOT NULL;
