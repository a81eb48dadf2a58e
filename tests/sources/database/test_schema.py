from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from p2psyncd.sources.database.hints import install
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import (
    MIGRATIONS,
    NO_KEY,
    OTHER_TEXT,
    RESERVED,
    SCHEMA_NAME,
    SHADOW,
    VIRTUAL,
    WITHOUT,
    Column,
    ForeignKey,
    Schema,
    Unique,
    read_schema,
)


def schema_of(*statements: str, without: tuple[str, ...] = ()) -> Schema:
    connection = apsw.Connection(":memory:")
    for sql in statements:
        connection.execute(sql)
    return read_schema(connection, without=without)


def test_columns_are_read_with_all_that_they_declare() -> None:
    table = schema_of(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a VARCHAR(20) NOT NULL DEFAULT 'x' COLLATE NOCASE, b,"
        " virtual_one AS (a || b), stored_one INT AS (id + 1) STORED)"
    ).tables["t"]
    assert table.columns[1] == Column(
        name="a", type="VARCHAR(20)", not_null=True, default="'x'", generated=False, collation="NOCASE"
    )
    assert [(c.name, c.generated) for c in table.columns] == [
        ("id", False),
        ("a", False),
        ("b", False),
        ("virtual_one", True),
        ("stored_one", True),
    ]
    assert [c.name for c in table.stored] == ["id", "a", "b"]
    assert table.sql.startswith("CREATE TABLE t(id")


@pytest.mark.parametrize(
    ("definition", "pk", "rowid"),
    [
        ("t(id INTEGER PRIMARY KEY, a)", ("id",), True),
        ("t(a, id integer, PRIMARY KEY(id))", ("id",), True),
        ("t(id INTEGER PRIMARY KEY DESC, a)", ("id",), False),
        ("t(id INT PRIMARY KEY, a)", ("id",), False),
        ("t(id INTEGER PRIMARY KEY, a) WITHOUT ROWID", ("id",), False),
        ("t(a, b, c, PRIMARY KEY(c, a))", ("c", "a"), False),
        ("t(a, b, c, PRIMARY KEY(c, a)) WITHOUT ROWID", ("c", "a"), False),
    ],
)
def test_the_key_is_in_its_own_order_and_known_as_the_rowid_where_it_is(
    definition: str, pk: tuple[str, ...], rowid: bool
) -> None:
    table = schema_of(f"CREATE TABLE {definition}").tables["t"]
    assert (table.pk, table.rowid) == (pk, rowid)
    assert table.without_rowid == definition.endswith("WITHOUT ROWID")


def test_strict_tables_are_known_as_such() -> None:
    schema = schema_of(
        "CREATE TABLE s(id INTEGER PRIMARY KEY) STRICT", "CREATE TABLE t(id INTEGER PRIMARY KEY)"
    )
    assert schema.tables["s"].strict
    assert not schema.tables["t"].strict


def test_a_key_may_be_null_unless_something_forbids_it() -> None:
    schema = schema_of(
        "CREATE TABLE a(x TEXT PRIMARY KEY)",
        "CREATE TABLE b(x TEXT NOT NULL PRIMARY KEY)",
        "CREATE TABLE c(x TEXT PRIMARY KEY) WITHOUT ROWID",
        "CREATE TABLE d(x INTEGER PRIMARY KEY)",
        "CREATE TABLE e(x NOT NULL, y, PRIMARY KEY(x, y))",
    )
    assert {name for name, table in schema.tables.items() if table.key_may_be_null} == {"a", "e"}


def test_the_collation_of_a_key_column_is_the_keys_own() -> None:
    schema = schema_of(
        "CREATE TABLE t(a TEXT COLLATE RTRIM, b TEXT, c TEXT, PRIMARY KEY(a, b COLLATE NOCASE), UNIQUE(c COLLATE RTRIM))"
    )
    table = schema.tables["t"]
    assert [column.collation for column in table.columns] == ["RTRIM", "NOCASE", "BINARY"]
    assert table.uniques[0].collations == ("RTRIM",)
    assert table.key_condition == '"a" COLLATE "RTRIM" IS ? AND "b" COLLATE "NOCASE" IS ?'


def test_unique_constraints_and_indexes_are_listed_and_odd_ones_apart() -> None:
    table = schema_of(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b, c, UNIQUE(b, c))",
        "CREATE INDEX plain ON t(c)",
        "CREATE UNIQUE INDEX one ON t(c, b COLLATE NOCASE)",
        "CREATE UNIQUE INDEX partial ON t(a, b) WHERE c IS NOT NULL",
        "CREATE UNIQUE INDEX expression ON t(lower(\"a\"), 'x,)' || b COLLATE RTRIM DESC)",
    ).tables["t"]
    assert table.uniques == (
        Unique(name="sqlite_autoindex_t_1", columns=("a",), collations=("BINARY",), constraint=True),
        Unique(
            name="sqlite_autoindex_t_2", columns=("b", "c"), collations=("BINARY", "BINARY"), constraint=True
        ),
        Unique(name="one", columns=("c", "b"), collations=("BINARY", "NOCASE"), constraint=False),
    )
    partial, expression = table.odd_uniques
    assert (partial.terms, partial.where, partial.columns) == (("a", "b"), "c IS NOT NULL", ("a", "b", "c"))
    assert expression.terms == ('lower ( "a" )', "'x,)' || b COLLATE RTRIM")
    assert (expression.where, expression.columns) == ("", ("a", "b"))


def test_foreign_keys_are_resolved_to_the_parents_own_names() -> None:
    schema = schema_of(
        "CREATE TABLE Parent(Id INTEGER PRIMARY KEY, Code UNIQUE)",
        "CREATE TABLE pair(a, b, PRIMARY KEY(b, a))",
        "CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent, c REFERENCES PARENT(code) ON DELETE CASCADE,"
        " x, y, nobody REFERENCES missing(z) ON DELETE SET NULL, FOREIGN KEY(x, y) REFERENCES pair ON DELETE RESTRICT)",
    )
    assert schema.tables["child"].foreign_keys == (
        ForeignKey(columns=("p",), parent="Parent", parent_columns=("Id",), on_delete="NO ACTION"),
        ForeignKey(columns=("c",), parent="Parent", parent_columns=("Code",), on_delete="CASCADE"),
        ForeignKey(columns=("nobody",), parent="missing", parent_columns=("z",), on_delete="SET NULL"),
        ForeignKey(columns=("x", "y"), parent="pair", parent_columns=("b", "a"), on_delete="RESTRICT"),
    )


@pytest.mark.parametrize("reference", ["pair", "pair(a)", "pair(nix)", "pair(c)"])
def test_a_reference_that_does_not_fit_its_parent_is_none(reference: str) -> None:
    schema = schema_of(
        "CREATE TABLE pair(a, b, c, PRIMARY KEY(a, b))",
        f"CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES {reference})",
    )
    assert schema.tables["child"].foreign_keys == ()


def test_two_devices_may_give_one_number_to_two_rows_where_the_key_is_one_integer_of_its_own() -> None:
    schema = schema_of(
        "CREATE TABLE a(id INTEGER PRIMARY KEY)",
        "CREATE TABLE b(id BIGINT NOT NULL PRIMARY KEY)",
        "CREATE TABLE c(id TEXT PRIMARY KEY)",
        "CREATE TABLE d(id INTEGER PRIMARY KEY REFERENCES a)",
        "CREATE TABLE e(x INT, y INT, PRIMARY KEY(x, y))",
    )
    assert {name for name, table in schema.tables.items() if table.has_births(schema)} == {"a", "b"}


@pytest.mark.parametrize(
    "name",
    [
        "django_migrations",
        "schema_migrations",
        "ar_internal_metadata",
        "alembic_version",
        "alembic_version_app",
        "goose_db_version",
        "flyway_schema_history",
        "knex_migrations",
        "knex_migrations_lock",
        "__EFMigrationsHistory",
        "_prisma_migrations",
        "_sqlx_migrations",
        "sqlx_migrations",
        "_sqlite_migrations",
        "migrations",
        "__diesel_schema_migrations",
        "SequelizeMeta",
    ],
)
def test_the_bookkeeping_of_migrations_is_left_out(name: str) -> None:
    assert schema_of(f'CREATE TABLE "{name}"(id INTEGER PRIMARY KEY)').left_out == {name: MIGRATIONS}


def test_virtual_tables_and_what_they_keep_their_data_in_are_left_out() -> None:
    schema = schema_of(
        "CREATE TABLE note(id INTEGER PRIMARY KEY, body)",
        "CREATE VIRTUAL TABLE note_fts USING fts5(body, content='note', content_rowid='id')",
        "CREATE VIRTUAL TABLE place USING rtree(id, x0, x1)",
        "CREATE TABLE note_fts_mine(id INTEGER PRIMARY KEY)",
    )
    assert set(schema.tables) == {"note", "note_fts_mine"}
    assert {name for name, reason in schema.left_out.items() if reason == VIRTUAL} == {"note_fts", "place"}
    assert {name for name, reason in schema.left_out.items() if reason == SHADOW} == {
        *(f"note_fts_{part}" for part in ("data", "idx", "docsize", "config")),
        *(f"place_{part}" for part in ("node", "rowid", "parent")),
    }
    assert {o.name for o in schema.objects} == {"note", "note_fts", "place", "note_fts_mine"}


def test_shadows_of_modules_that_only_the_app_has_are_known_by_name() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "INSERT INTO sqlite_schema VALUES('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING vec0(x float[2])')"
    )
    connection.execute("PRAGMA writable_schema = RESET")
    connection.execute(
        "CREATE TABLE v_chunks(id INTEGER PRIMARY KEY); CREATE TABLE v_mine(id INTEGER PRIMARY KEY)"
    )
    schema = read_schema(connection)
    assert set(schema.tables) == {"v_mine"}
    assert schema.left_out == {"v": VIRTUAL, "v_chunks": SHADOW}


def test_tables_are_left_out_by_name_whatever_the_case_of_its_letters() -> None:
    schema = schema_of("CREATE TABLE Cache(id INTEGER PRIMARY KEY)", without=("cACHE",))
    assert schema.left_out == {"Cache": WITHOUT}
    assert not schema.tables


def test_a_table_without_a_primary_key_is_refused_with_what_to_do() -> None:
    assert schema_of("CREATE TABLE t(a UNIQUE)").refused == {"t": NO_KEY}


def test_a_table_of_the_name_of_the_schema_itself_is_refused() -> None:
    assert schema_of('CREATE TABLE "#schema"(id TEXT PRIMARY KEY)').refused == {"#schema": SCHEMA_NAME}


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_what_is_defined_with_other_bytes_than_utf_8_is_refused_and_does_not_travel(
    tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "app.db"
    app = apsw.Connection(str(path))
    app.execute(f"PRAGMA encoding = '{encoding}'")
    for sql in (
        "CREATE TABLE t(id INTEGER PRIMARY KEY /* XXXX */)",
        "CREATE TABLE u(id INTEGER PRIMARY KEY, a)",
        "CREATE INDEX i ON u(a) WHERE a <> 'XXXX'",
        "CREATE TABLE fine(id INTEGER PRIMARY KEY)",
        "CREATE VIEW v AS SELECT 'XXXX'",
    ):
        app.execute(sql)
    app.close()
    # Half of a pair of surrogates; an e with an accent in Latin-1.
    ours, bad = ("XXXX".encode(encoding), b"\x3d\xd8" * 4) if encoding != "UTF-8" else (b"XXXX", b"caf\xe9")
    path.write_bytes(path.read_bytes().replace(ours, bad))
    schema = read_schema(apsw.Connection(str(path)))
    assert schema.refused == {"t": OTHER_TEXT, "u": OTHER_TEXT}
    assert set(schema.tables) == {"fine"}
    assert {each.name for each in schema.objects} == {"u", "fine"}


def a_collation(a: str, b: str) -> int:
    return (a > b) - (a < b)


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE t(a TEXT PRIMARY KEY COLLATE unicase)",),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT COLLATE unicase UNIQUE)",),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", "CREATE UNIQUE INDEX i ON t(a COLLATE unicase)"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", "CREATE INDEX i ON t(a COLLATE unicase)"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, a CHECK(only_the_app_has(a)))",),
    ],
)
def test_a_table_that_only_its_own_program_can_write_is_refused(
    statements: tuple[str, ...], tmp_path: Path
) -> None:
    path = str(tmp_path / "app.db")
    app = apsw.Connection(path)
    app.create_collation("unicase", a_collation)
    app.create_scalar_function("only_the_app_has", lambda _: True, 1, deterministic=True)
    for sql in (*statements, "CREATE TABLE other(id INTEGER PRIMARY KEY, a COLLATE unicase)"):
        app.execute(sql)
    app.close()
    connection = apsw.Connection(path)
    schema = read_schema(connection)
    connection.close()
    assert set(schema.tables) == {"other"}
    assert "leave the table out" in schema.refused["t"]


def test_reading_the_schema_leaves_the_connection_as_it_was() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(
        "CREATE TABLE t(id INTEGER PRIMARY KEY);"
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT only_the_app_has(1); END"
    )
    for enabled in (0, 1):
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, enabled)
        assert set(read_schema(connection).tables) == {"t"}
        assert connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, -1) == enabled


def test_the_apps_objects_are_listed_without_sqlites_and_ours() -> None:
    connection = apsw.Connection(":memory:")
    for sql in (
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE)",
        "CREATE INDEX i ON t(a)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TABLE _p2p_own(id INTEGER PRIMARY KEY)",
        "ANALYZE",
    ):
        connection.execute(sql)
    schema = read_schema(connection)
    install(connection, schema, share=b"s", device=b"d")
    again = read_schema(connection)
    assert again.objects == schema.objects
    assert [(o.type, o.name, o.table) for o in again.objects] == [
        ("table", "t", "t"),
        ("index", "i", "t"),
        ("view", "v", "v"),
        ("trigger", "tr", "t"),
        ("table", "_p2p_own", "_p2p_own"),
    ]
    assert again.tables == schema.tables
    assert again.left_out == {"_p2p_own": RESERVED}
    assert again.version != schema.version


@pytest.mark.parametrize("name", ["it's", 'say "hi"', "a b", "[x]", "`t`", "select", "Ünï ☃", "a--b", "t;"])
def test_names_may_consist_of_anything(name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    schema = schema_of(
        f"CREATE TABLE {quoted}({quoted} INTEGER PRIMARY KEY, u, UNIQUE(u))",
        f'CREATE UNIQUE INDEX {quoted[:-1]} i" ON {quoted}({quoted}) WHERE {quoted} > 0',
        f"CREATE TABLE c(id INTEGER PRIMARY KEY, r REFERENCES {quoted}({quoted}))",
    )
    table = schema.tables[name]
    assert (table.pk, table.rowid, len(table.uniques), len(table.odd_uniques)) == ((name,), True, 1, 1)
    assert table.odd_uniques[0].columns == (name,)
    assert schema.tables["c"].foreign_keys[0].parent_columns == (name,)


def test_a_file_that_is_no_database_is_the_callers_affair(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"no database at all" * 100)
    connection = apsw.Connection(str(path))
    with pytest.raises(apsw.NotADBError):
        read_schema(connection)
    connection.close()


def test_a_row_is_found_as_its_key_compares_and_not_as_its_column_was_declared() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(
        "CREATE TABLE t(a TEXT COLLATE NOCASE, b TEXT, PRIMARY KEY(a COLLATE BINARY, b COLLATE NOCASE));"
        "INSERT INTO t VALUES('x', 'Y'), ('X', 'z')"
    )
    table = read_schema(connection).tables["t"]
    rows = Rows(connection)
    assert rows.read(table, ("x", "y")) == {"a": "x", "b": "Y"}
    assert rows.read(table, ("X", "Y")) is None
    plan = connection.execute(
        f"EXPLAIN QUERY PLAN SELECT 1 FROM t WHERE {table.key_condition}", ("x", "y")
    ).fetchall()
    assert "(a=? AND b=?)" in plan[0][3]
