-- Items of databases.

-- Rows that are known and on purpose not shown: another row has what must be unique, or their table is not here.
CREATE INDEX items_withheld ON items (key) WHERE disk_state = x'00';
