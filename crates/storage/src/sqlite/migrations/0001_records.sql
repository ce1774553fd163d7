CREATE TABLE records (
    key   TEXT    NOT NULL PRIMARY KEY,
    value BLOB    NOT NULL,
    stamp INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The last stamp that was given out, for any record: stamps rise for ever, also over removals.
CREATE TABLE counter (
    one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    stamp INTEGER NOT NULL
) STRICT;

INSERT INTO counter (one, stamp) VALUES (1, 0);
