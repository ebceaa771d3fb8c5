-- Version 1 of the schema, for SQLite and PostgreSQL alike. A released migration is never changed: write the next one.
--
-- Keys and owners are compared byte by byte, whatever the language of the database: PostgreSQL is given a collation of SQLite's name.

-- One row: what this database is, and the number from which the versions of new records are taken.
CREATE TABLE store_state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    schema_version BIGINT NOT NULL,
    last_version BIGINT NOT NULL
);
INSERT INTO store_state (id, schema_version, last_version) VALUES (1, 0, 0);

-- The records of all kinds. `due` and the lease are for jobs only; times are milliseconds since 1970.
CREATE TABLE record (
    kind TEXT COLLATE "binary" NOT NULL,
    key TEXT COLLATE "binary" NOT NULL,
    owner TEXT COLLATE "binary",
    version BIGINT NOT NULL,
    body TEXT NOT NULL,
    due BIGINT,
    lease_owner TEXT COLLATE "binary",
    lease_until BIGINT,
    PRIMARY KEY (kind, key)
);

-- For the records of one owner, in order.
CREATE INDEX record_of_owner ON record (kind, owner, key) WHERE owner IS NOT NULL;

-- For the job that has been due longest, and for what a server held.
CREATE INDEX record_due ON record (due, key) WHERE due IS NOT NULL;
CREATE INDEX record_leased ON record (lease_owner) WHERE lease_owner IS NOT NULL;
