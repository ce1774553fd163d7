-- Bytes as they are: no collation of the server may make two keys one, or order them in another way.
CREATE TABLE keymoot_records (
    key   text COLLATE "C" NOT NULL PRIMARY KEY,
    value bytea            NOT NULL,
    stamp bigint           NOT NULL
);

-- `oldest_build` is the format that a build must know at least to work with these tables: a migration that only
-- adds leaves it, so that builds of before and after run side by side.
CREATE TABLE keymoot_format (
    one          integer NOT NULL PRIMARY KEY CHECK (one = 1),
    format       integer NOT NULL,
    oldest_build integer NOT NULL
);

INSERT INTO keymoot_format (one, format, oldest_build) VALUES (1, 0, 1);
