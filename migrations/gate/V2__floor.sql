-- One row for each `fencegate restore`: no election issues a token at or below the highest, since one may have been issued after the
-- backup was made. All are kept: a mark that equals one was set by a restore, and not by somebody's token.
CREATE TABLE floor (
    token INTEGER NOT NULL PRIMARY KEY CHECK (token >= 1)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER floor_stays_as_it_is BEFORE UPDATE ON floor BEGIN
    SELECT RAISE(ABORT, 'a floor stays as it is');
END;

CREATE TRIGGER floor_stays BEFORE DELETE ON floor BEGIN
    SELECT RAISE(ABORT, 'a floor is never forgotten');
END;
