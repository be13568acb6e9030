-- What the embedded coordinator must remember over a restart. Renewals are not here: after a restart every lease gets its
-- full TTL again.

-- A row stays for good, also when nobody stands: it is what keeps a token from being issued twice.
CREATE TABLE election (
    name       TEXT    NOT NULL PRIMARY KEY,
    last_token INTEGER NOT NULL CHECK (last_token >= 1)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER election_token_never_falls BEFORE UPDATE ON election
WHEN NEW.last_token < OLD.last_token BEGIN
    SELECT RAISE(ABORT, 'an election''s last token never falls');
END;

CREATE TRIGGER election_stays BEFORE DELETE ON election BEGIN
    SELECT RAISE(ABORT, 'an election''s last token is never forgotten');
END;

CREATE TABLE election_candidate (
    arrival   INTEGER NOT NULL PRIMARY KEY,   -- order of arrival, over all elections
    candidate BLOB    NOT NULL UNIQUE CHECK (length(candidate) = 16),
    election  TEXT    NOT NULL,
    holder    TEXT,
    ttl_ms    INTEGER NOT NULL CHECK (ttl_ms >= 1),
    token     INTEGER                         -- set on the one that leads
) STRICT;
