"""Names in an app's database: how they are quoted, and which tables their names give away."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

__all__ = ["MARK_TABLE", "OURS", "is_bookkeeping", "is_ours", "is_shadow_of", "literal", "quoted"]

MARK_TABLE = "_p2p_mark"
OURS = "/* p2psyncd "
"""What stands in the text of every table and trigger that we make."""

# Tables in which tools note which migrations have run. Each device migrates its own file.
BOOKKEEPING = (
    "django_migrations",
    "schema_migrations",  # Rails, dbmate, golang-migrate and others
    "ar_internal_metadata",
    "alembic_version*",
    "migrations",  # Laravel, beets
    "_migrations",
    "_*_migrations",  # Prisma, sqlx, sqlite-migrate
    "goose_db_version",
    "flyway_schema_history",
    "databasechangelog",  # Liquibase
    "databasechangeloglock",
    "knex_migrations*",
    "sequelizemeta",
    "typeorm_migrations",
    "mikro_orm_migrations",
    "__drizzle_migrations",
    "__efmigrationshistory",
    "__efmigrationslock",
    "sqlx_migrations",
    "seaql_migrations",
    "refinery_schema_history",
    "__diesel_schema_migrations",
    "gorp_migrations",
    "_yoyo_*",
    "yoyo_lock",
    "migratehistory",  # peewee-migrate
    "south_migrationhistory",
    "migrate_version",  # sqlalchemy-migrate
    "phinxlog",
    "doctrine_migration_versions",
    "android_metadata",
    "room_master_table",
    "grdb_migrations",
)

# The tables behind virtual tables of modules that our SQLite may not have, so that it does not know them as such.
SHADOWS = {
    "fts3": ("content", "segments", "segdir", "docsize", "stat"),
    "fts4": ("content", "segments", "segdir", "docsize", "stat"),
    "fts5": ("content", "data", "idx", "docsize", "config"),
    "rtree": ("node", "parent", "rowid"),
    "rtree_i32": ("node", "parent", "rowid"),
    "geopoly": ("node", "parent", "rowid"),
    "spellfix1": ("vocab",),
    "vec0": ("chunks", "rowids", "info", "auxiliary", "vector_chunks*", "metadatachunks*", "metadatatext*"),
}

MODULE = re.compile(r"\bUSING\s+[\"'`\[]?(\w+)", re.IGNORECASE)


def quoted(name: str) -> str:
    """Return a name as SQL has it, whatever it consists of."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def is_bookkeeping(table: str) -> bool:
    """Tell whether migrations are noted in a table."""
    return any(fnmatchcase(table.lower(), pattern) for pattern in BOOKKEEPING)


def is_shadow_of(table: str, virtual: str, sql: str) -> bool:
    """Tell whether a virtual table, made by `sql`, keeps its data in another table."""
    module = MODULE.search(sql)
    stem = virtual.lower() + "_"
    if module is None or not table.lower().startswith(stem):
        return False
    rest = table.lower()[len(stem) :]
    return any(fnmatchcase(rest, pattern) for pattern in SHADOWS.get(module[1].lower(), ()))


def is_ours(name: str, sql: str) -> bool:
    """Tell whether we made a table, index or trigger, and not the app under a name like ours."""
    return name.startswith("_p2p_") and OURS in sql
