-- The fences of all HTTP resources of one gate: the file fences.db in the data directory.

-- One row: what the crash journal beside this file must name to belong to it.
CREATE TABLE store (
    id BLOB NOT NULL CHECK (length(id) = 16)
) STRICT;

-- The high-water mark of each fence.
CREATE TABLE mark (
    id             INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),  -- its place in the crash journal, counted from 1
    fence          TEXT    NOT NULL UNIQUE,
    token          INTEGER CHECK (token > 0),                    -- null after an operator's reset to none
    holder         TEXT,
    advanced_at_ms INTEGER NOT NULL,
    settled        INTEGER NOT NULL CHECK (settled IN (0, 1)),   -- whether nothing older than the mark can be applied any more
    resets         INTEGER NOT NULL DEFAULT 0                    -- how often an operator has set the mark
) STRICT;

CREATE TRIGGER mark_never_falls BEFORE UPDATE ON mark
WHEN OLD.token IS NOT NULL AND (NEW.token IS NULL OR NEW.token < OLD.token) AND NEW.resets <> OLD.resets + 1 BEGIN
    SELECT RAISE(ABORT, 'a mark never falls, but by a reset');
END;

CREATE TRIGGER mark_keeps_its_place BEFORE UPDATE ON mark WHEN NEW.id <> OLD.id OR NEW.fence <> OLD.fence BEGIN
    SELECT RAISE(ABORT, 'a fence keeps its number');
END;

CREATE TRIGGER mark_stays BEFORE DELETE ON mark BEGIN
    SELECT RAISE(ABORT, 'a mark is never forgotten');
END;

-- The two tables below are the same as in a fenced SQLite database, and the same code works on them.

-- Who was at which token when.
CREATE TABLE fencegate_history (
    id       INTEGER PRIMARY KEY,
    fence    TEXT NOT NULL,
    at_ms    INTEGER NOT NULL,
    event    TEXT NOT NULL,
    token    INTEGER,
    previous INTEGER,
    holder   TEXT,
    reason   TEXT
) STRICT;
CREATE INDEX fencegate_history_by_fence ON fencegate_history (fence, id);

-- How often refused tokens knocked. The holder is empty where none was named.
CREATE TABLE fencegate_refusals (
    fence       TEXT NOT NULL,
    verdict     TEXT NOT NULL,
    token       INTEGER NOT NULL,
    holder      TEXT NOT NULL,
    count       INTEGER NOT NULL,
    first_at_ms INTEGER NOT NULL,
    last_at_ms  INTEGER NOT NULL,
    PRIMARY KEY (fence, verdict, token, holder)
) STRICT, WITHOUT ROWID;
