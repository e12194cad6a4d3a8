-- How PostgreSQL looks after tables that its own measures don't suit.

-- +goose Up
-- +only postgres
-- A search by name reads an index and nothing else, as long as the server knows of
-- most pages that all see the same of them: vacuum notes it, and by its own measure
-- would come when a fifth of a hundred thousand rows has changed.
ALTER TABLE computations SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_insert_threshold = 500);
-- Rows that change with each batch of events change in their page's own room.
ALTER TABLE positions SET (fillfactor = 60);
ALTER TABLE hosts SET (fillfactor = 60);
-- +both
