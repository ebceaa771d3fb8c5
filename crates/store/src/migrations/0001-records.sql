CREATE TABLE records (
    kind        TEXT   NOT NULL,
    key         TEXT   NOT NULL,
    owner       TEXT,
    version     BIGINT NOT NULL,
    body        TEXT   NOT NULL,
    due         BIGINT,
    lease_owner TEXT,
    lease_until BIGINT,
    PRIMARY KEY (kind, key)
);
CREATE INDEX records_owner ON records (kind, owner) WHERE owner IS NOT NULL;
CREATE INDEX records_due ON records (due) WHERE due IS NOT NULL;
