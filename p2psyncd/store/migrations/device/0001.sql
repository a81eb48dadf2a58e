-- One file holds what belongs to the device and not to a share.

-- A value of the device's.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- A paired device.
CREATE TABLE peers (
    device        BLOB PRIMARY KEY,
    name          TEXT NOT NULL,
    certificate   BLOB NOT NULL,      -- DER
    introduced_by BLOB,               -- the device that introduced it; NULL: paired by code
    addresses     TEXT NOT NULL,      -- JSON list of "ip:port", the last one known to work first
    paused        INTEGER NOT NULL,
    paired_us     INTEGER NOT NULL,
    last_seen_us  INTEGER NOT NULL,   -- 0: never
    found_by      TEXT NOT NULL       -- "mdns", "address" or "inbound"; '' if never seen
) STRICT, WITHOUT ROWID;

-- A device that was removed, so that no introduction brings it back.
CREATE TABLE removals (
    device     BLOB PRIMARY KEY,
    removed_us INTEGER NOT NULL,
    removed_by BLOB NOT NULL,         -- the device on which it was removed
    everywhere INTEGER NOT NULL       -- 1: it is to be passed on to others
) STRICT, WITHOUT ROWID;

-- A share of this device.
CREATE TABLE shares (
    id           BLOB PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    kind         TEXT NOT NULL,       -- "folder" or "database"
    path         BLOB NOT NULL,       -- as the file system has it
    mode         TEXT NOT NULL,       -- "send-receive", "send-only" or "receive-only"
    secret       BLOB NOT NULL,       -- key of the trie's key hashes, 32 bytes
    paused       INTEGER NOT NULL,
    with_devices BLOB,                -- device ids of 32 bytes, one after another; NULL: all paired ones
    added_us     INTEGER NOT NULL,
    settings     TEXT NOT NULL        -- JSON object
) STRICT, WITHOUT ROWID;

-- Something that happened; the newest 10,000.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    time_us INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    fields  TEXT NOT NULL             -- JSON object
) STRICT;
