-- What writes with an Idempotency-Key were answered, each kept in the transaction that wrote it (docs/idempotency.md).

-- A queue for each fence: numbers rise, and the lowest goes first. A write that touches several fences is in the queue of each.
CREATE TABLE fencegate_answers (
    fence   TEXT    NOT NULL,
    number  INTEGER NOT NULL,
    key     TEXT    NOT NULL,
    request BLOB    NOT NULL CHECK (length(request) = 32),  -- SHA-256 of what was asked
    fences  TEXT    NOT NULL,                               -- all fences that it wrote to, with spaces between
    kept_ms INTEGER NOT NULL,                               -- by the clock of the gate's own running time: no date
    bytes   INTEGER NOT NULL,                               -- what this row counts for
    total   INTEGER NOT NULL,                               -- the bytes of all rows that this fence ever had, this one included
    answer  BLOB,                                           -- null where it was too large to keep
    PRIMARY KEY (fence, number)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX fencegate_answers_by_key ON fencegate_answers (fence, key);
