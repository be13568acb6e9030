-- Set by `fencegate restore`: no election issues a token at or below it, since one may have been issued after the backup was made.
CREATE TABLE floor (
    id    INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),   -- one row at most
    token INTEGER NOT NULL CHECK (token >= 1)
) STRICT;

CREATE TRIGGER floor_never_falls BEFORE UPDATE ON floor WHEN NEW.token < OLD.token BEGIN
    SELECT RAISE(ABORT, 'the floor never falls');
END;

CREATE TRIGGER floor_stays BEFORE DELETE ON floor BEGIN
    SELECT RAISE(ABORT, 'the floor is never forgotten');
END;
