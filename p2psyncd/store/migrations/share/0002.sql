-- What a share must remember so that forgetting tombstones, old states put back and copied disks lose nothing.

-- G: tombstones of that actor may have been forgotten up to that write.
CREATE TABLE forgotten (
    actor INTEGER PRIMARY KEY REFERENCES actors,
    seq   INTEGER NOT NULL
) STRICT;

-- The last opening of another replica's state that was met: its number only grows, unless an older state is put back.
CREATE TABLE boots (
    actor  INTEGER PRIMARY KEY REFERENCES actors,
    number INTEGER NOT NULL,
    nonce  BLOB NOT NULL,
    seq    INTEGER NOT NULL           -- what was known of the actor when that replica was last in contact; -1: nothing
) STRICT;

-- What a member of the share is known to know: tombstones that all of them know are forgotten.
CREATE TABLE members (
    device    BLOB PRIMARY KEY,
    knowledge BLOB NOT NULL           -- packed as core.version says
) STRICT, WITHOUT ROWID;

-- Tombstones whose thing is gone here too, by age.
CREATE INDEX items_tombstones ON items (received_us) WHERE kind = 0 AND pending = 0;
