//! Where an old value can hide from a census, as SQL for each database.

/// In the statements, `{old}` is a value of v9 and `{new}` one of v10, `{text}` a type of text, and `{name}` another name
/// in every run.
#[derive(Clone, Copy)]
pub struct Way {
    pub name: &'static str,
    /// Makes `tokens(id, token)`, which is filled with ids from 1 on.
    pub table: &'static str,
    /// Said on a connection of its own, before the census; with Galera on this node.
    pub open: &'static str,
    pub node: usize,
    /// Said on another connection behind that, and committed.
    pub plain: &'static str,
    /// Said on the first connection a moment after the census began.
    pub during: &'static str,
    /// Said on it after the census.
    pub finish: &'static str,
    /// Counts behind that what was hidden, on the first connection.
    pub truth: &'static str,
    /// What else is to be removed.
    pub clean: &'static str,
    /// Whether the census has to be conclusive; `None`: it hangs on who comes first.
    pub concludes: Option<bool>,
    /// The value comes when a snapshot may be under way: the next census has to see it.
    pub later: bool,
    /// A node of the cluster stands still.
    pub paused: bool,
}

const PLAIN: Way = Way {
    name: "",
    table: "CREATE TABLE tokens (id BIGINT PRIMARY KEY, token {text})",
    open: "",
    node: 0,
    plain: "",
    during: "",
    finish: "",
    truth: "SELECT COUNT(*) FROM tokens WHERE id = -7",
    clean: "",
    concludes: Some(true),
    later: false,
    paused: false,
};

/// Nothing is hidden: the census has to say so.
pub const NOTHING: Way = Way { name: "nothing", truth: "", ..PLAIN };

const OLD: &str = "INSERT INTO tokens VALUES (-7, '{old}')";
const OPEN: &str = "BEGIN; INSERT INTO tokens VALUES (-7, '{old}')";

const LOOK_ALIKE: Way =
    Way { name: "a look-alike", plain: "INSERT INTO tokens VALUES (-7, 'km:v09:{name}')", ..PLAIN };
const MALFORMED: Way =
    Way { name: "an unreadable row", plain: "INSERT INTO tokens VALUES (-7, 'km:v9:short')", ..PLAIN };
const UNKNOWN: Way = Way {
    name: "an unknown version",
    plain: "INSERT INTO tokens VALUES (-7, REPLACE('{old}', 'v9', 'v77'))",
    ..PLAIN
};
const OTHER_CASE: Way = Way {
    name: "another case",
    plain: "INSERT INTO tokens VALUES (-7, UPPER('{old}'))",
    concludes: Some(false),
    ..PLAIN
};
const BLANK: Way = Way {
    name: "a leading blank",
    plain: "INSERT INTO tokens VALUES (-7, ' {old}')",
    concludes: Some(false),
    ..PLAIN
};
const BEHIND: Way = Way { name: "behind the cursor", during: OLD, concludes: None, later: true, ..PLAIN };
const COMMITTED: Way = Way {
    name: "an open transaction, committed meanwhile",
    open: OPEN,
    during: "COMMIT",
    concludes: None,
    ..PLAIN
};
const HELD: Way =
    Way { name: "an open transaction", open: OPEN, finish: "COMMIT", concludes: Some(false), ..PLAIN };

pub const POSTGRES: &[Way] = &[
    COMMITTED,
    LOOK_ALIKE,
    MALFORMED,
    UNKNOWN,
    OTHER_CASE,
    BLANK,
    BEHIND,
    HELD,
    Way {
        name: "a prepared transaction",
        open: "BEGIN; INSERT INTO tokens VALUES (-7, '{old}'); PREPARE TRANSACTION '{name}'",
        finish: "COMMIT PREPARED '{name}'",
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "a prepared transaction, committed meanwhile",
        open: "BEGIN; INSERT INTO tokens VALUES (-7, '{old}'); PREPARE TRANSACTION '{name}'",
        during: "COMMIT PREPARED '{name}'",
        concludes: None,
        ..PLAIN
    },
    Way {
        name: "an open transaction, prepared meanwhile",
        open: OPEN,
        during: "PREPARE TRANSACTION '{name}'",
        finish: "COMMIT PREPARED '{name}'",
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "a session that hides what it does",
        open: "SET track_activities = off; BEGIN; INSERT INTO tokens VALUES (-7, '{old}')",
        finish: "COMMIT",
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "another partition",
        table: "CREATE TABLE tokens (id BIGINT PRIMARY KEY, token TEXT) PARTITION BY RANGE (id);
                CREATE TABLE tokens_new PARTITION OF tokens FOR VALUES FROM (0) TO (9000000);
                CREATE TABLE tokens_rest PARTITION OF tokens DEFAULT",
        plain: OLD,
        ..PLAIN
    },
    Way {
        name: "a table that inherits",
        table: "CREATE TABLE tokens (id BIGINT PRIMARY KEY, token TEXT); CREATE TABLE more () INHERITS (tokens)",
        plain: "INSERT INTO more VALUES (-7, '{old}')",
        clean: "DROP TABLE IF EXISTS more",
        ..PLAIN
    },
    Way {
        name: "a table of the same name in another schema",
        table: "CREATE TABLE tokens (id BIGINT PRIMARY KEY, token TEXT); CREATE SCHEMA shop",
        plain: "CREATE TABLE shop.tokens (id BIGINT PRIMARY KEY, token TEXT); INSERT INTO shop.tokens VALUES (1, '{old}')",
        truth: "SELECT COUNT(*) FROM shop.tokens",
        clean: "DROP SCHEMA IF EXISTS shop CASCADE",
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "a transaction on the server of a foreign partition",
        table: "CREATE TABLE tokens (id BIGINT, token TEXT) PARTITION BY RANGE (id);
                CREATE TABLE tokens_new PARTITION OF tokens FOR VALUES FROM (0) TO (9000000);
                CREATE DATABASE far; CREATE EXTENSION postgres_fdw;
                DO $$ BEGIN EXECUTE format('CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw
                    OPTIONS (host ''127.0.0.1'', port %L, dbname ''far'')', current_setting('port')); END $$;
                CREATE USER MAPPING FOR keymoot SERVER far OPTIONS (user 'keymoot', password 'not-for-print');
                CREATE FOREIGN TABLE tokens_far PARTITION OF tokens FOR VALUES FROM (-9) TO (0) SERVER far",
        open: "\\connect far\nCREATE TABLE tokens_far (id BIGINT, token TEXT); BEGIN; INSERT INTO tokens_far VALUES (-7, '{old}')",
        finish: "COMMIT;\n\\connect postgres\n",
        clean: "DROP EXTENSION IF EXISTS postgres_fdw CASCADE; DROP DATABASE IF EXISTS far",
        concludes: Some(false),
        ..PLAIN
    },
];

pub const MARIADB: &[Way] = &[
    COMMITTED,
    LOOK_ALIKE,
    MALFORMED,
    UNKNOWN,
    OTHER_CASE,
    BLANK,
    BEHIND,
    HELD,
    Way {
        name: "a prepared XA transaction",
        open: "XA START '{name}'; INSERT INTO tokens VALUES (-7, '{old}'); XA END '{name}'; XA PREPARE '{name}'",
        finish: "XA COMMIT '{name}'",
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "an XA transaction, prepared meanwhile",
        open: "XA START '{name}'; INSERT INTO tokens VALUES (-7, '{old}')",
        during: "XA END '{name}'; XA PREPARE '{name}'",
        finish: "XA COMMIT '{name}'",
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "a collation that is blind to case",
        table: "CREATE TABLE tokens (id BIGINT PRIMARY KEY, token VARCHAR(400) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci)",
        plain: "INSERT INTO tokens VALUES (-7, CONCAT('KM:v9:', SUBSTRING('{old}', 7)))",
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "a character set of wide characters",
        table: "CREATE TABLE tokens (id BIGINT PRIMARY KEY, token VARCHAR(400) CHARACTER SET utf16)",
        plain: OLD,
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "another partition",
        table: "CREATE TABLE tokens (id BIGINT PRIMARY KEY, token VARCHAR(400)) PARTITION BY RANGE (id)
                (PARTITION old VALUES LESS THAN (0), PARTITION new VALUES LESS THAN MAXVALUE)",
        plain: OLD,
        ..PLAIN
    },
    Way {
        name: "the history of a table",
        table: "CREATE TABLE tokens (id BIGINT PRIMARY KEY, token VARCHAR(400)) WITH SYSTEM VERSIONING",
        plain: "INSERT INTO tokens VALUES (-7, '{old}'); UPDATE tokens SET token = '{new}' WHERE id = -7",
        truth: "SELECT COUNT(*) FROM tokens FOR SYSTEM_TIME ALL WHERE token LIKE 'km:v9:%'",
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "rows that a view leaves out",
        table: "CREATE TABLE people (id BIGINT PRIMARY KEY, token VARCHAR(400));
                CREATE VIEW tokens AS SELECT * FROM people WHERE id > 0",
        plain: "INSERT INTO people VALUES (-7, '{old}')",
        truth: "SELECT COUNT(*) FROM people WHERE id = -7",
        clean: "DROP VIEW IF EXISTS tokens; DROP TABLE IF EXISTS people",
        concludes: Some(false),
        ..PLAIN
    },
    Way {
        name: "a primary that this server follows",
        plain: "SET GLOBAL read_only = 1",
        // Nothing is; but there a row could be that has not come here yet.
        truth: "",
        clean: "SET GLOBAL read_only = 0",
        concludes: Some(false),
        ..PLAIN
    },
];

pub const GALERA: &[Way] = &[
    Way { name: "an open transaction on another node, committed meanwhile", node: 2, ..COMMITTED },
    Way { name: "an open transaction on another node", node: 1, ..HELD },
    LOOK_ALIKE,
    BLANK,
    Way { name: "behind the cursor, from another node", node: 2, ..BEHIND },
    Way { name: "a commit on another node, just before", open: OLD, node: 2, ..PLAIN },
    Way {
        // Such a node takes none of the statements of XA (1235), so that the row is there at once.
        name: "XA on another node, which refuses it",
        open: "XA START '{name}'; INSERT INTO tokens VALUES (-7, '{old}'); XA END '{name}'; XA PREPARE '{name}'",
        node: 1,
        ..PLAIN
    },
    Way {
        name: "on one other node only",
        open: "SET SESSION wsrep_on = OFF; INSERT INTO tokens VALUES (-7, '{old}')",
        node: 2,
        concludes: Some(false),
        ..PLAIN
    },
    // Whether it can still commit then hangs on how long it stood still.
    Way { name: "a node that stands still", node: 2, paused: true, truth: "", ..HELD },
    Way {
        name: "a node that does not apply what others committed",
        open: "FLUSH TABLES WITH READ LOCK",
        node: 0,
        plain: OLD,
        finish: "UNLOCK TABLES",
        concludes: Some(false),
        ..PLAIN
    },
];

pub const SQLITE: &[Way] = &[
    Way { open: "BEGIN IMMEDIATE; INSERT INTO tokens VALUES (-7, '{old}')", ..COMMITTED },
    LOOK_ALIKE,
    MALFORMED,
    UNKNOWN,
    OTHER_CASE,
    BLANK,
    BEHIND,
    Way { open: "BEGIN IMMEDIATE; INSERT INTO tokens VALUES (-7, '{old}')", ..HELD },
    Way { name: "as bytes among text", plain: "INSERT INTO tokens VALUES (-7, CAST('{old}' AS BLOB))", ..PLAIN },
    Way {
        name: "rows that a view leaves out",
        table: "CREATE TABLE people (id INTEGER PRIMARY KEY, token TEXT);
                CREATE VIEW tokens AS SELECT * FROM people WHERE id > 0;
                CREATE TRIGGER fill INSTEAD OF INSERT ON tokens BEGIN INSERT INTO people VALUES (NEW.id, NEW.token); END",
        plain: "INSERT INTO people VALUES (-7, '{old}')",
        truth: "SELECT COUNT(*) FROM people WHERE id = -7",
        clean: "DROP VIEW tokens; DROP TABLE people",
        concludes: Some(false),
        ..PLAIN
    },
];
