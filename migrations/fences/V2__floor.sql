-- Set by `fencegate restore`: what a backup can't know of was below. A fence of this resource that has no mark of its own yet is
-- taken to have this one, so that a token from after the backup is stale on fences that the backup has never heard of, too.
CREATE TABLE floor (
    resource TEXT    NOT NULL PRIMARY KEY,
    token    INTEGER NOT NULL CHECK (token > 0),
    at_ms    INTEGER NOT NULL                       -- when it was set
) STRICT, WITHOUT ROWID;

CREATE TRIGGER floor_never_falls BEFORE UPDATE ON floor
WHEN NEW.token < OLD.token OR NEW.resource <> OLD.resource BEGIN
    SELECT RAISE(ABORT, 'a floor never falls');
END;
