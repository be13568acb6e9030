-- The gate's own tables in a fenced SQLite database. Clients can't reach them through the gate.

-- The high-water mark of each fence. Only ever raised, but for an operator's reset.
CREATE TABLE fencegate_marks (
    fence          TEXT NOT NULL PRIMARY KEY,
    token          INTEGER NOT NULL CHECK (token > 0),
    holder         TEXT,
    advanced_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

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
