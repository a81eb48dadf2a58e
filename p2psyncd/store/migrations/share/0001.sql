-- One file holds everything of one share that must survive a restart.

-- A setting of the share, and what identifies the file: share (its id), secret (a hash), actor (ours).
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- An actor that wrote anything here, so that a dot costs a small number instead of 8 bytes a row.
CREATE TABLE actors (
    ref    INTEGER PRIMARY KEY,
    actor  BLOB NOT NULL UNIQUE,
    device BLOB                       -- whose incarnation it is, once known
) STRICT;

-- The newest known version of one key, tombstones included.
CREATE TABLE items (
    arrived     INTEGER PRIMARY KEY,  -- grows with every version that is put, never used twice
    key         BLOB NOT NULL UNIQUE,
    mark        BLOB,                 -- live: its trie entry (key hash, entry hash; 48 bytes);
                                      -- a tombstone whose thing is still on disk: the key hash (16); else NULL
    kind        INTEGER NOT NULL,     -- core.item.Kind; 0 is a tombstone
    digest      BLOB NOT NULL,
    size        INTEGER NOT NULL,
    meta        BLOB NOT NULL,
    actor       INTEGER NOT NULL REFERENCES actors,
    seq         INTEGER NOT NULL,     -- (actor, seq) is the dot
    hlc         INTEGER NOT NULL,
    vector      BLOB NOT NULL,
    pending     INTEGER NOT NULL,     -- 1: known but not applied on this device
    disk_kind   INTEGER NOT NULL,     -- what is applied now, 0: nothing; differs from kind only while pending
    disk_state  BLOB NOT NULL,        -- the source's fingerprint of that
    received_us INTEGER NOT NULL,     -- when it came to this device, by this device's clock
    conflict    INTEGER NOT NULL,     -- 1: live, and the key names a conflict copy
    failed      TEXT NOT NULL         -- why applying it failed, in words for the user; '' if it did not
) STRICT;

-- The delta log: "everything of an actor above a sequence number". Not unique: a dot is a peer's claim.
CREATE INDEX items_log ON items (actor, seq);
-- The leaves of the trie, and the children of a directory (they share the first two bytes).
CREATE INDEX items_mark ON items (mark) WHERE mark IS NOT NULL;
CREATE INDEX items_digest ON items (digest) WHERE kind = 1;
CREATE INDEX items_pending ON items (key) WHERE pending = 1;
CREATE INDEX items_conflict ON items (key) WHERE conflict = 1;

-- The version that is applied under a pending item's key; its kind is not always what the item's is.
CREATE TABLE bases (
    key    BLOB PRIMARY KEY,
    kind   INTEGER NOT NULL,
    digest BLOB NOT NULL,
    size   INTEGER NOT NULL,
    meta   BLOB NOT NULL,
    actor  INTEGER NOT NULL REFERENCES actors,
    seq    INTEGER NOT NULL,
    hlc    INTEGER NOT NULL,
    vector BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX bases_digest ON bases (digest) WHERE kind = 1;

-- A branch of the Merkle trie: more than 32 live items have a key hash that begins so.
CREATE TABLE branches (
    prefix   BLOB PRIMARY KEY,        -- one byte (0..15) a nibble
    children BLOB NOT NULL            -- 16 hashes of 32 bytes, then 16 counts of 4 bytes
) STRICT;

-- Knowledge: everything of that actor up to that write has been seen. Our own actor's is our last write.
CREATE TABLE knowledge (
    actor INTEGER PRIMARY KEY REFERENCES actors,
    seq   INTEGER NOT NULL
) STRICT;

-- How a large content is cut into chunks; the newest some thousands, the others can be computed again.
CREATE TABLE chunks (
    noted  INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    list   BLOB NOT NULL
) STRICT;
