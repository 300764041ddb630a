-- Identifiers are 16 bytes, times are seconds since 1970-01-01 UTC, truth is 0 or 1. What is sealed is nonce, text and tag
-- (src/seal.rs).

CREATE TABLE settings (
    id          INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    server_id   BLOB    NOT NULL CHECK (length(server_id) = 16),
    timeline    BLOB    NOT NULL CHECK (length(timeline) = 16), -- drawn anew by each restore
    created     INTEGER NOT NULL,
    started     INTEGER NOT NULL, -- opened for writing so often
    restored    INTEGER NOT NULL, -- restored from a backup so often
    root_check  BLOB    NOT NULL, -- opens under the right root key
    audit_seq   INTEGER NOT NULL, -- the last row of the audit log
    audit_hash  BLOB    NOT NULL CHECK (length(audit_hash) = 32),
    audit_mac   BLOB    NOT NULL CHECK (length(audit_mac) = 32) -- over both, under the root key
) STRICT;

CREATE TABLE tenants (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name        TEXT    NOT NULL UNIQUE,
    sealed_key  BLOB    NOT NULL,
    created     INTEGER NOT NULL
) STRICT;

CREATE TABLE enclaves (
    id            BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    tenant_id     BLOB    NOT NULL REFERENCES tenants (id),
    name          TEXT    NOT NULL,
    version       INTEGER NOT NULL,
    revision      INTEGER NOT NULL, -- of its newest change
    changes_floor INTEGER NOT NULL, -- changes up to this one are gone
    file          TEXT    NOT NULL,
    created       INTEGER NOT NULL,
    UNIQUE (tenant_id, name)
) STRICT;

CREATE TABLE records (
    enclave_id  BLOB    NOT NULL REFERENCES enclaves (id) ON DELETE CASCADE,
    kind        TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    secret      INTEGER NOT NULL CHECK (secret IN (0, 1)),
    value       BLOB    NOT NULL,
    PRIMARY KEY (enclave_id, kind, key)
) STRICT;

CREATE TABLE static_keys (
    static_key  BLOB    NOT NULL PRIMARY KEY CHECK (length(static_key) = 32),
    enclave_id  BLOB    NOT NULL REFERENCES enclaves (id) ON DELETE CASCADE,
    member_id   BLOB    NOT NULL CHECK (length(member_id) = 16),
    UNIQUE (enclave_id, member_id)
) STRICT;

CREATE TABLE tokens (
    id            BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    enclave_id    BLOB    NOT NULL REFERENCES enclaves (id) ON DELETE CASCADE,
    template      TEXT    NOT NULL,
    member        TEXT,    -- the name of the one member that it makes; none: any
    sealed_secret BLOB    NOT NULL,
    uses_allowed  INTEGER NOT NULL CHECK (uses_allowed > 0),
    uses_made     INTEGER NOT NULL CHECK (uses_made BETWEEN 0 AND uses_allowed),
    not_after     INTEGER NOT NULL,
    source        TEXT,    -- the prefix that it may be used from, for people
    source_first  BLOB,    -- its family and first address
    source_last   BLOB,    -- its family and last address
    time_to_live  INTEGER, -- of a member that it makes, seconds
    made_by       TEXT    NOT NULL,
    created       INTEGER NOT NULL,
    revoked_at    INTEGER,
    UNIQUE (enclave_id, id), -- for those who refer to both, so that a token of another enclave is none
    CHECK ((source IS NULL) = (source_first IS NULL) AND (source IS NULL) = (source_last IS NULL))
) STRICT;

CREATE TABLE token_uses (
    enclave_id  BLOB    NOT NULL,
    member_id   BLOB    NOT NULL CHECK (length(member_id) = 16),
    token_id    BLOB    NOT NULL,
    name        TEXT    NOT NULL, -- of the member
    time        INTEGER NOT NULL,
    source      TEXT    NOT NULL,
    ended       INTEGER, -- when the member was gone for good
    PRIMARY KEY (enclave_id, member_id),
    FOREIGN KEY (enclave_id, token_id) REFERENCES tokens (enclave_id, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX token_uses_of_token ON token_uses (enclave_id, token_id);

CREATE TABLE tickets (
    enclave_id    BLOB    NOT NULL REFERENCES enclaves (id) ON DELETE CASCADE,
    member_id     BLOB    NOT NULL CHECK (length(member_id) = 16),
    current_hash  BLOB    NOT NULL CHECK (length(current_hash) = 32),
    previous_hash BLOB    CHECK (length(previous_hash) = 32),
    replaced_at   INTEGER NOT NULL,
    token_id      BLOB,    -- with which it is presented; none: the member has no token
    PRIMARY KEY (enclave_id, member_id),
    FOREIGN KEY (enclave_id, token_id) REFERENCES tokens (enclave_id, id)
) STRICT;
CREATE INDEX tickets_of_token ON tickets (enclave_id, token_id);

CREATE TABLE changes (
    enclave_id  BLOB    NOT NULL REFERENCES enclaves (id) ON DELETE CASCADE,
    revision    INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    concerns    TEXT    NOT NULL, -- names of communities, with a space between two
    time        INTEGER NOT NULL,
    PRIMARY KEY (enclave_id, revision, kind, subject)
) STRICT;

CREATE TABLE tasks (
    kind          TEXT    NOT NULL,
    subject       TEXT    NOT NULL,
    due           INTEGER NOT NULL,
    asked         INTEGER NOT NULL, -- so often since it was last done
    attempts      INTEGER NOT NULL,
    claimed_until INTEGER,
    last_error    TEXT,
    PRIMARY KEY (kind, subject)
) STRICT;
CREATE INDEX tasks_by_due ON tasks (due);

CREATE TABLE audit (
    seq         INTEGER NOT NULL PRIMARY KEY,
    tenant_id   BLOB    CHECK (length(tenant_id) = 16), -- no reference: what was done outlives whom it was done to
    time        INTEGER NOT NULL,
    actor       TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    object      TEXT    NOT NULL,
    detail      TEXT    NOT NULL,
    hash        BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE INDEX audit_of_tenant ON audit (tenant_id, seq);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

CREATE TABLE principals (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    tenant_id   BLOB    REFERENCES tenants (id) ON DELETE CASCADE, -- none: the operator of the server
    name        TEXT    NOT NULL,
    role        TEXT    NOT NULL CHECK (role IN ('owner', 'admin', 'operator', 'auditor')),
    secret_hash BLOB    NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    created     INTEGER NOT NULL,
    not_after   INTEGER,
    revoked_at  INTEGER,
    last_used   INTEGER
) STRICT;
CREATE UNIQUE INDEX principals_of_tenant ON principals (tenant_id, name) WHERE tenant_id IS NOT NULL;
CREATE UNIQUE INDEX principals_of_server ON principals (name) WHERE tenant_id IS NULL;
