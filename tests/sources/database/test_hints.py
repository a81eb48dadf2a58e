from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from p2psyncd.errors import NameTaken
from p2psyncd.sources.database.hints import (
    drop_hints,
    install,
    installed,
    is_hinted,
    read_hints,
    read_mark,
    uninstall,
    write_mark,
)
from p2psyncd.sources.database.keys import pack_key
from p2psyncd.sources.database.schema import Schema, Table, quoted, read_schema
from p2psyncd.sources.database.triggers import hint_table, made_for
from p2psyncd.sources.database.values import RawText

SHARE, DEVICE = b"s" * 16, b"d" * 32
Key = tuple[str, tuple[Any, ...]]


def opened(*statements: str, path: str = ":memory:") -> apsw.Connection:
    """An app's connection to a file with these tables, and with hints."""
    app = apsw.Connection(path)
    # As SQLite is by default; the one of the tests may be built otherwise.
    app.execute("PRAGMA recursive_triggers = OFF")
    for sql in statements:
        app.execute(sql)
    put_in(app)
    return app


def put_in(app: apsw.Connection) -> Schema:
    schema = read_schema(app)
    install(app, schema, share=SHARE, device=DEVICE)
    return schema


def dumped(app: apsw.Connection) -> list[tuple[Any, ...]]:
    return app.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()


def taken(app: apsw.Connection) -> set[Key]:
    """Return the keys that are hinted, and drop the hints."""
    hints = read_hints(app, read_schema(app))
    drop_hints(app, hints)
    assert not read_hints(app, read_schema(app))
    return {(hint.table, hint.pk) for hint in hints}


def test_a_row_that_is_inserted_updated_or_deleted_is_hinted() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    app.execute("INSERT INTO t(a) VALUES('assigned by SQLite'), (NULL)")
    assert taken(app) == {("t", (1,)), ("t", (2,))}
    app.execute("UPDATE t SET a = 'x' WHERE id = 2")
    assert taken(app) == {("t", (2,))}
    app.execute("DELETE FROM t WHERE id = 1")
    assert taken(app) == {("t", (1,))}
    app.execute("DELETE FROM t")
    assert taken(app) == {("t", (2,))}


def test_a_hint_says_when_and_how_often_its_row_was_touched() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    app.execute("INSERT INTO t VALUES(1, 1)")
    app.execute("UPDATE t SET a = 2")
    app.execute("UPDATE t SET a = 3")
    (hint,) = read_hints(app, read_schema(app))
    now: int = app.execute("SELECT CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)").get
    assert hint.n == 3
    assert now - 60_000 < hint.ms <= now + 1


def test_a_hint_stays_if_its_row_was_touched_after_the_hint_was_read() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    app.execute("INSERT INTO t VALUES(1, 1), (2, 2)")
    schema = read_schema(app)
    seen = read_hints(app, schema)
    app.execute("UPDATE t SET a = 3 WHERE id = 2")
    drop_hints(app, seen)
    (left,) = read_hints(app, schema)
    assert (left.pk, left.n) == ((2,), 2)
    assert is_hinted(app, "t", (2,))
    assert not is_hinted(app, "t", (1,))
    assert not is_hinted(app, "no such table", (1,))


def test_of_many_hints_only_those_stay_whose_rows_were_touched_since() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE u(id TEXT PRIMARY KEY)")
    app.executemany("INSERT INTO t VALUES(?, 1)", [(n,) for n in range(100)])
    app.executemany("INSERT INTO u VALUES(CAST(? AS TEXT))", [(b"\xff%d" % n,) for n in range(100)])
    schema = read_schema(app)
    seen = read_hints(app, schema)
    assert len(seen) == 200
    app.execute("UPDATE t SET a = 3 WHERE id = 2")
    drop_hints(app, seen)
    assert [hint.pk for hint in read_hints(app, schema)] == [(2,)]
    app.executemany("INSERT INTO t VALUES(?, 1)", [(n,) for n in range(100, 200)])
    seen = read_hints(app, schema)
    app.execute("INSERT INTO t VALUES(200, 1)")
    drop_hints(app, seen)
    assert [hint.pk for hint in read_hints(app, schema)] == [(200,)]
    app.execute("UPDATE t SET a = 2")
    assert len(taken(app)) == 201


def test_twenty_thousand_updates_of_a_hundred_rows_leave_a_hundred_hints() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    app.executemany("INSERT INTO t VALUES(?, 0)", ((n,) for n in range(100)))
    taken(app)
    with app:
        app.executemany("UPDATE t SET a = a + 1 WHERE id = ?", ((n % 100,) for n in range(20_000)))
    hints = read_hints(app, read_schema(app))
    assert {hint.pk: hint.n for hint in hints} == {(n,): 200 for n in range(100)}


def test_nothing_of_a_transaction_or_savepoint_that_is_rolled_back_is_hinted() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)")
    app.execute("BEGIN; INSERT INTO t VALUES(1, 1); ROLLBACK")
    assert not taken(app)
    app.execute(
        "BEGIN; SAVEPOINT s; INSERT INTO t VALUES(1, 1); ROLLBACK TO s; INSERT INTO t VALUES(2, 2); COMMIT"
    )
    assert taken(app) == {("t", (2,))}
    with pytest.raises(apsw.ConstraintError):
        app.execute("INSERT INTO t VALUES(3, 3), (4, 2)")
    assert not taken(app)


@pytest.mark.parametrize("recursive", ["OFF", "ON"])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO t VALUES(3, 'one', 'z')",
        "REPLACE INTO t(u, v) VALUES('one', 'z')",
        "UPDATE OR REPLACE t SET u = 'one' WHERE id = 2",
    ],
)
def test_a_row_that_a_replace_evicts_is_hinted_whether_triggers_are_recursive_or_not(
    statement: str, recursive: str
) -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT UNIQUE, v)")
    app.execute(f"PRAGMA recursive_triggers = {recursive}")
    app.execute("INSERT INTO t VALUES(1, 'one', 'x'), (2, 'two', 'y')")
    taken(app)
    app.execute(statement)
    assert app.execute("SELECT count(*) FROM t WHERE id = 1").get == 0
    assert ("t", (1,)) in taken(app)


def test_an_eviction_keeps_a_hint_that_was_read_before_it() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE)")
    app.execute("INSERT INTO t VALUES(1, 'a')")
    seen = read_hints(app, read_schema(app))
    app.execute("REPLACE INTO t VALUES(2, 'a')")
    assert {hint.pk: hint.n for hint in read_hints(app, read_schema(app))} == {(1,): 2, (2,): 1}
    drop_hints(app, seen)
    assert is_hinted(app, "t", (1,))


def test_a_replace_that_evicts_two_rows_hints_at_both() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, v UNIQUE)")
    app.execute("INSERT INTO t VALUES(1, 'a', 'a'), (2, 'b', 'b'), (3, 'c', 'c')")
    taken(app)
    app.execute("REPLACE INTO t VALUES(3, 'a', 'b')")
    assert taken(app) == {("t", (1,)), ("t", (2,)), ("t", (3,))}


@pytest.mark.parametrize(
    ("index", "evictor"),
    [
        ("t(a COLLATE NOCASE)", "(9, 'ANNA', 0)"),
        ("t(lower(a))", "(9, 'ANNA', 0)"),
        ("t(b, -- the user's, (all)\n substr(a, 1, 1) COLLATE NOCASE DESC)", "(9, 'Alf', 1)"),
        ("t(a) WHERE b > 0 /* not , ) archived */", "(9, 'anna', 2)"),
        ("t(\"b\" ASC, [a] || `a`) WHERE a IN ('anna', 'x, y)')", "(9, 'anna', 1)"),
        ('t(abs(b)) WHERE "b" <> 7e0', "(9, 'x', -1)"),
    ],
)
def test_a_row_evicted_through_any_kind_of_unique_index_is_hinted(index: str, evictor: str) -> None:
    app = opened(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INTEGER)", f'CREATE UNIQUE INDEX "on" ON {index}'
    )
    app.execute("INSERT INTO t VALUES(1, 'anna', 1), (2, 'bert', 2)")
    taken(app)
    app.execute(f"REPLACE INTO t VALUES{evictor}")
    assert app.execute("SELECT id FROM t ORDER BY id").fetchall() == [(2,), (9,)]
    assert taken(app) == {("t", (1,)), ("t", (9,))}
    app.execute("REPLACE INTO t VALUES(1, 'anna', 1)")
    app.execute("INSERT INTO t VALUES(3, 'carl', 3)")
    taken(app)
    app.execute(
        f"UPDATE OR REPLACE t SET (a, b) = (SELECT column2, column3 FROM (VALUES{evictor})) WHERE id = 3"
    )
    assert app.execute("SELECT id FROM t ORDER BY id").fetchall() == [(2,), (3,)]
    assert taken(app) == {("t", (1,)), ("t", (3,))}


@pytest.mark.parametrize(
    "index",
    ["t(json_extract(d, '$.mail')) WHERE kind = 'user'", "t(lower(d->>'$.mail'), kind) WHERE json_valid(d)"],
)
def test_an_expression_is_worked_out_for_rows_of_its_index_only(index: str) -> None:
    app = opened(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, kind TEXT, d TEXT)", f"CREATE UNIQUE INDEX i ON {index}"
    )
    note, user = "('note', 'no JSON')", """('user', '{"mail": "m"}')"""
    for values in (note, user, note):
        app.execute(f"INSERT INTO t(kind, d) VALUES{values}")
    app.execute("UPDATE t SET d = 'none either' WHERE kind = 'note'")
    taken(app)
    app.execute(f"REPLACE INTO t(kind, d) VALUES{user}")
    assert taken(app) == {("t", (2,)), ("t", (4,))}
    app.execute("DROP INDEX i")
    app.execute(f"INSERT INTO t(kind, d) VALUES{note}")
    app.execute(f"INSERT INTO t(kind, d) VALUES{user}")


def test_who_has_a_value_is_looked_up_in_the_index_over_expressions_or_some_rows() -> None:
    app = opened(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, kind TEXT, d TEXT)",
        "CREATE UNIQUE INDEX i ON t(json_extract(d, '$.mail')) WHERE kind = 'user'",
    )
    (odd,) = read_schema(app).tables["t"].odd_uniques
    app.execute("CREATE TEMP TABLE new AS SELECT kind, d FROM t")
    plan = app.execute(f"EXPLAIN QUERY PLAN SELECT (SELECT id FROM t AS holder WHERE {odd.claim()}) FROM new")
    steps = [step for *_, step in plan if "holder" in step]
    assert [step.split(" (")[0] for step in steps] == ["SEARCH holder USING INDEX i"]


@pytest.mark.parametrize(
    "columns", ["k TEXT PRIMARY KEY, v", "k INT PRIMARY KEY, rowid, oid", "k, v, PRIMARY KEY(k, v)"]
)
def test_a_row_evicted_from_its_rowid_is_hinted_where_that_is_not_its_key(columns: str) -> None:
    app = opened(f"CREATE TABLE t({columns})")
    app.execute("INSERT INTO t(_rowid_, k) VALUES(5, 'old'), (6, 'other')")
    taken(app)
    app.execute("REPLACE INTO t(_rowid_, k) VALUES(5, 'new')")
    assert {key[0] for _, key in taken(app)} == {"old", "new"}
    app.execute("UPDATE OR REPLACE t SET _rowid_ = 6 WHERE k = 'new'")
    assert {key[0] for _, key in taken(app)} == {"new", "other"}
    app.execute("UPDATE t SET k = 'newer'")
    app.execute("INSERT INTO t(k) VALUES('another')")
    assert {key[0] for _, key in taken(app)} == {"new", "newer", "another"}


def test_a_row_evicted_through_a_unique_generated_column_is_hinted() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, a, g AS (a % 10) UNIQUE)")
    app.execute("INSERT INTO t VALUES(1, 11), (2, 22)")
    taken(app)
    app.execute("REPLACE INTO t VALUES(3, 31)")
    assert taken(app) == {("t", (1,)), ("t", (3,))}
    app.execute("UPDATE OR REPLACE t SET a = 42 WHERE id = 3")
    assert taken(app) == {("t", (2,)), ("t", (3,))}


def test_the_conflict_clause_of_the_apps_statement_neither_drops_nor_doubles_a_hint() -> None:
    app = opened(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE)", "CREATE TABLE w(a, b, PRIMARY KEY(a, b))"
    )
    for clause in ("REPLACE", "IGNORE", "FAIL", "ABORT", "ROLLBACK"):
        app.execute(f"INSERT OR {clause} INTO t VALUES(1, 'a')" if clause == "REPLACE" else "SELECT 1")
        app.execute(f"UPDATE OR {clause} t SET u = '{clause}' WHERE id = 1")
        app.execute(f"UPDATE OR {clause} t SET u = u || '!' WHERE id = 1")
        hints = read_hints(app, read_schema(app))
        assert [(hint.pk, hint.n >= 2) for hint in hints] == [((1,), True)], clause
        taken(app)
    app.execute("INSERT OR IGNORE INTO w VALUES(NULL, 1)")
    app.execute("INSERT OR IGNORE INTO w VALUES(NULL, 1)")
    assert [(hint.pk, hint.n) for hint in read_hints(app, read_schema(app))] == [((None, 1), 2)]


def test_an_upsert_hints_at_the_row_that_it_updates() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, a)")
    app.execute("INSERT INTO t VALUES(1, 'x', 0)")
    taken(app)
    app.execute("INSERT INTO t(u, a) VALUES('x', 1) ON CONFLICT(u) DO UPDATE SET a = excluded.a")
    assert taken(app) == {("t", (1,))}


def test_a_change_of_the_key_hints_at_both_keys() -> None:
    app = opened(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a)",
        "CREATE TABLE w(a TEXT, b INT, PRIMARY KEY(a, b)) WITHOUT ROWID",
    )
    app.execute("INSERT INTO t VALUES(1, 1), (2, 2)")
    app.execute("INSERT INTO w VALUES('a', 1)")
    taken(app)
    app.execute("UPDATE t SET id = 5 WHERE id = 1")
    app.execute("UPDATE t SET ROWID = 6 WHERE id = 2")
    app.execute("UPDATE t SET _rowid_ = 7 WHERE id = 6")
    app.execute("UPDATE t SET oid = 8 WHERE id = 7")
    app.execute("UPDATE w SET b = 2")
    assert taken(app) == {
        *(("t", (n,)) for n in (1, 2, 5, 6, 7, 8)),
        *(("w", ("a", n)) for n in (1, 2)),
    }


@pytest.mark.parametrize(("collation", "other"), [("NOCASE", "ANNA"), ("RTRIM", "anna  ")])
def test_keys_that_their_collation_takes_for_equal_share_a_hint(collation: str, other: str) -> None:
    app = opened(f"CREATE TABLE t(a TEXT PRIMARY KEY COLLATE {collation}, b)")
    app.execute("INSERT INTO t VALUES('anna', 1)")
    taken(app)
    app.execute("UPDATE t SET a = ?", (other,))
    (hint,) = read_hints(app, read_schema(app))
    assert is_hinted(app, "t", ("anna",))
    assert is_hinted(app, "t", (other,))
    table = read_schema(app).tables["t"]
    found = app.execute(f"SELECT a FROM t WHERE {table.key_condition}", hint.pk).get
    assert found == other


def test_a_key_with_a_collation_of_its_own_is_compared_as_it_compares() -> None:
    app = opened("CREATE TABLE t(a TEXT, b INT, PRIMARY KEY(a COLLATE NOCASE, b))")
    app.execute("INSERT INTO t VALUES('Anna', 1)")
    taken(app)
    app.execute("UPDATE t SET a = 'anna'")
    (hint,) = read_hints(app, read_schema(app))
    table = read_schema(app).tables["t"]
    assert app.execute(f"SELECT a FROM t WHERE {table.key_condition}", hint.pk).get == "anna"


def test_null_is_a_value_of_a_key_that_may_hold_it() -> None:
    app = opened("CREATE TABLE t(a, b, c, PRIMARY KEY(a, b))")
    app.execute("INSERT INTO t VALUES(NULL, 1, 'x'), (NULL, NULL, 'y'), (1, NULL, 'z')")
    assert taken(app) == {("t", (None, 1)), ("t", (None, None)), ("t", (1, None))}
    app.execute("UPDATE t SET a = NULL WHERE a = 1")
    assert taken(app) == {("t", (1, None)), ("t", (None, None))}


def test_values_of_every_kind_come_out_of_hints_as_they_are_in_the_key() -> None:
    app = opened("CREATE TABLE t(a PRIMARY KEY, b)")
    app.execute(
        "INSERT INTO t(a) VALUES(1.5), ('1'), (x'31'), (9223372036854775807), (char(65, 0, 66)),"
        " (CAST(x'ff41' AS TEXT))"
    )
    keys: set[Any] = {1.5, "1", b"1", 2**63 - 1, "A\0B", RawText(b"\xffA")}
    assert {pk[0] for _, pk in taken(app)} == keys
    app.execute("DELETE FROM t")
    assert is_hinted(app, "t", (RawText(b"\xffA"),))
    assert {pk[0] for _, pk in taken(app)} == keys


@pytest.mark.parametrize(
    "name",
    [
        "it's",
        'say "hi"',
        "a b",
        "[x]",
        "`t`",
        "new",
        "old",
        "holder",
        "select",
        "Ünï ☃",
        "a--b",
        "*/x%2A",
        "t;",
    ],
)
def test_names_may_consist_of_anything(name: str) -> None:
    app = apsw.Connection(":memory:")
    t, k, u, v = (quoted(part) for part in (name, f"k {name}", f"u {name}", name))
    app.execute(f"CREATE TABLE {t}({k} TEXT PRIMARY KEY, {u} UNIQUE, {v})")
    app.execute(f"CREATE UNIQUE INDEX {quoted('i ' + name)} ON {t}({v}) WHERE {u} > 0")
    before = dumped(app)
    schema = put_in(app)
    app.execute(f"INSERT INTO {t} VALUES('a', 1, 1), ('b', 2, 2)")
    taken(app)
    app.execute(f"REPLACE INTO {t} VALUES('c', 1, 2)")
    assert taken(app) == {(name, ("a",)), (name, ("b",)), (name, ("c",))}
    app.execute(f"ALTER TABLE {t} RENAME TO other")
    assert not installed(app, read_schema(app))
    put_in(app)
    app.execute(f"ALTER TABLE other RENAME TO {t}")
    put_in(app)
    assert installed(app, schema)
    uninstall(app)
    assert [row[:3] for row in dumped(app)] == [row[:3] for row in before]


def test_a_name_like_ours_that_the_app_uses_is_left_alone() -> None:
    app = opened("CREATE TABLE _p2p_h1(id INTEGER PRIMARY KEY)", "CREATE TABLE t(id INTEGER PRIMARY KEY)")
    app.execute("INSERT INTO t VALUES(1)")
    app.execute("INSERT INTO _p2p_h1 VALUES(7)")
    assert taken(app) == {("t", (1,))}
    uninstall(app)
    assert app.execute("SELECT * FROM _p2p_h1").fetchall() == [(7,)]


def test_what_the_app_asks_of_its_last_statement_is_what_it_would_be_without_hints() -> None:
    statements = (
        "INSERT INTO t(u) VALUES('a'), ('b'), ('c')",
        "INSERT INTO w VALUES('x', 1), ('y', 2)",
        "UPDATE t SET v = 1 WHERE id > 1",
        "UPDATE t SET id = id + 100",
        "REPLACE INTO t(u) VALUES('a')",
        "INSERT OR IGNORE INTO t(u) VALUES('a')",
        "DELETE FROM t WHERE u = 'b'",
        "UPDATE t SET v = 2 WHERE id = -1",
        "INSERT INTO t(u) VALUES('a') ON CONFLICT(u) DO UPDATE SET v = 9",
        "DELETE FROM t",
    )
    tables = (
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE, v)",
        "CREATE TABLE w(a PRIMARY KEY, b) WITHOUT ROWID",
        "CREATE TABLE log(id INTEGER PRIMARY KEY, last, changed)",
        "CREATE TRIGGER app AFTER INSERT ON t BEGIN UPDATE t SET v = 0 WHERE id = NEW.id;"
        " INSERT INTO log(last, changed) VALUES(last_insert_rowid(), changes()); END",
    )
    plain, captured = apsw.Connection(":memory:"), opened(*tables)
    plain.execute("PRAGMA recursive_triggers = OFF")
    for sql in tables:
        plain.execute(sql)
    for sql in statements:
        answers = []
        for app in (plain, captured):
            app.execute(sql)
            answers.append(
                (
                    app.changes(),
                    app.last_insert_rowid(),
                    app.execute("SELECT changes(), last_insert_rowid()").get,
                    app.execute("SELECT * FROM log").fetchall(),
                    app.execute("SELECT * FROM sqlite_sequence ORDER BY name").fetchall(),
                )
            )
        assert answers[0] == answers[1], sql


def test_triggers_of_the_app_run_as_before_and_what_they_write_is_hinted() -> None:
    app = opened(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, updated_at)",
        "CREATE TABLE audit(id INTEGER PRIMARY KEY, what)",
        "CREATE VIEW v AS SELECT id, a FROM t",
        "CREATE TRIGGER touched AFTER UPDATE OF a ON t BEGIN"
        " UPDATE t SET updated_at = 'now' WHERE id = NEW.id; INSERT INTO audit(what) VALUES(NEW.a); END",
        "CREATE TRIGGER viewed INSTEAD OF INSERT ON v BEGIN INSERT INTO t(id, a) VALUES(NEW.id, NEW.a); END",
        "CREATE TRIGGER refused BEFORE INSERT ON t WHEN NEW.a = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER ignored BEFORE INSERT ON t WHEN NEW.a = 'dull' BEGIN SELECT RAISE(IGNORE); END",
    )
    app.execute("INSERT INTO v VALUES(1, 'x')")
    assert taken(app) == {("t", (1,))}
    app.execute("UPDATE t SET a = 'y'")
    assert app.execute("SELECT updated_at FROM t").get == "now"
    assert taken(app) == {("t", (1,)), ("audit", (1,))}
    with pytest.raises(apsw.ConstraintError, match="no"):
        app.execute("INSERT INTO t(a) VALUES('fine'), ('bad')")
    app.execute("INSERT INTO t(a) VALUES('dull')")
    assert not taken(app)


def test_rows_that_a_foreign_key_deletes_or_changes_are_hinted() -> None:
    app = opened(
        "CREATE TABLE parent(id INTEGER PRIMARY KEY)",
        "CREATE TABLE gone(id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE CASCADE)",
        "CREATE TABLE kept(id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE SET NULL ON UPDATE CASCADE)",
        "CREATE TABLE tree(id INTEGER PRIMARY KEY, up REFERENCES tree ON DELETE CASCADE)",
    )
    app.execute("PRAGMA foreign_keys = ON")
    app.execute("INSERT INTO parent VALUES(1), (2)")
    app.execute("INSERT INTO gone VALUES(1, 1)")
    app.execute("INSERT INTO kept VALUES(1, 1), (2, 2)")
    app.execute("INSERT INTO tree VALUES(1, NULL), (2, 1), (3, 2)")
    taken(app)
    app.execute("DELETE FROM parent WHERE id = 1")
    assert taken(app) == {("parent", (1,)), ("gone", (1,)), ("kept", (1,))}
    app.execute("UPDATE parent SET id = 3")
    assert taken(app) == {("parent", (2,)), ("parent", (3,)), ("kept", (2,))}
    app.execute("DELETE FROM tree WHERE id = 1")
    assert taken(app) == {("tree", (n,)) for n in (1, 2, 3)}


def test_the_triggers_work_where_the_app_does_not_trust_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(opened("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE)", path=str(path))):
        pass
    # The other SQLite, that of Python's own module.
    with closing(sqlite3.connect(path, isolation_level=None)) as app:
        app.execute("PRAGMA trusted_schema = OFF")
        app.execute("INSERT INTO t VALUES(1, 'a')")
        app.execute("REPLACE INTO t VALUES(2, 'a')")
    with closing(apsw.Connection(str(path))) as daemon:
        daemon.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        daemon.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        daemon.execute("INSERT INTO t VALUES(3, 'c')")
        assert taken(daemon) == {("t", (1,)), ("t", (2,)), ("t", (3,))}


def test_the_statements_are_such_as_sqlite_3_11_runs() -> None:
    app = opened(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, g AS (u) UNIQUE)",
        "CREATE TABLE w(a TEXT, b, PRIMARY KEY(a, b)) STRICT, WITHOUT ROWID".replace("b,", "b ANY,"),
        "CREATE TABLE n(a, b, PRIMARY KEY(a, b))",
        "CREATE UNIQUE INDEX i ON n(lower(a)) WHERE b > 0",
    )
    schema = read_schema(app)
    for n, table in enumerate(schema.tables.values()):
        for made in made_for(hint_table(n, table)):
            words = set(made.sql.upper().replace("(", " ").split())
            # UPSERT 3.24, windows 3.25, RETURNING 3.35, STRICT and UPDATE FROM 3.37 and 3.33, generated columns 3.31.
            newer = {
                "CONFLICT",
                "OVER",
                "RETURNING",
                "STRICT",
                "GENERATED",
                "IIF",
                "TRUE",
                "FALSE",
                "NULLS",
                "FILTER",
            }
            assert not words & newer, made.sql
            # Row values came with 3.15.
            assert "(NEW" not in made.sql.split(" BEGIN ")[-1].replace("lower", ""), made.sql


def test_an_app_may_add_rename_and_drop_columns_and_tables() -> None:
    app = opened(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, a, b)",
        "CREATE TABLE other(id INTEGER PRIMARY KEY, t REFERENCES t)",
    )
    app.execute("INSERT INTO t VALUES(1, 'u', 'a', 'b')")
    app.execute("ALTER TABLE t ADD COLUMN c DEFAULT 7")
    app.execute("ALTER TABLE t RENAME COLUMN a TO aa")
    app.execute("ALTER TABLE t DROP COLUMN b")
    assert installed(app, read_schema(app))
    app.execute("ALTER TABLE t RENAME COLUMN id TO number")
    app.execute("ALTER TABLE t RENAME COLUMN u TO unique_one")
    app.execute("ALTER TABLE t RENAME TO tt")
    taken(app)
    app.execute("UPDATE tt SET c = 8")
    app.execute("REPLACE INTO tt(number, unique_one) VALUES(2, 'u')")
    assert taken(app) == {("tt", (1,)), ("tt", (2,))}
    assert not installed(app, read_schema(app))
    put_in(app)
    app.execute("DROP TABLE tt")
    app.execute("INSERT INTO other VALUES(1, NULL)")
    put_in(app)
    assert taken(app) == {("other", (1,))}


def test_a_column_of_a_unique_index_can_be_dropped_once_the_triggers_were_made_anew_without_the_index() -> (
    None
):
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)", "CREATE UNIQUE INDEX i ON t(a)")
    app.execute("DROP INDEX i")
    # A limit: SQLite takes no notice of the index being gone.
    with pytest.raises(apsw.SQLError, match="no such column"):
        app.execute("ALTER TABLE t DROP COLUMN a")
    assert not installed(app, read_schema(app))
    put_in(app)
    app.execute("ALTER TABLE t DROP COLUMN a")
    assert installed(app, read_schema(app))


def test_a_table_that_is_rebuilt_keeps_its_number_and_its_hints() -> None:
    app = opened("CREATE TABLE a(id INTEGER PRIMARY KEY, x)", "CREATE TABLE b(id INTEGER PRIMARY KEY, x)")
    before = {(row[1], row[2]) for row in dumped(app) if row[1].startswith("_p2p_")}
    app.execute("INSERT INTO a VALUES(1, 1)")
    app.execute(
        "CREATE TABLE new(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO new SELECT * FROM a; DROP TABLE a;"
        "ALTER TABLE new RENAME TO a"
    )
    assert not installed(app, read_schema(app))
    app.execute("UPDATE a SET x = 'not seen'")
    put_in(app)
    assert {(row[1], row[2]) for row in dumped(app) if row[1].startswith("_p2p_")} == before
    assert taken(app) == {("a", (1,))}


def test_a_renamed_table_keeps_its_hints() -> None:
    app = opened("CREATE TABLE a(k TEXT PRIMARY KEY, x)", "CREATE TABLE b(id INTEGER PRIMARY KEY)")
    app.execute("INSERT INTO a VALUES('k', 1)")
    app.execute("ALTER TABLE a RENAME TO c; CREATE TABLE a(id INTEGER PRIMARY KEY)")
    schema = put_in(app)
    assert installed(app, schema)
    app.execute("INSERT INTO a VALUES(5)")
    assert taken(app) == {("c", ("k",)), ("a", (5,))}


def test_a_table_with_another_key_gets_hints_of_another_shape() -> None:
    app = opened("CREATE TABLE a(id INTEGER PRIMARY KEY, x)")
    app.execute("INSERT INTO a VALUES(1, 'x')")
    app.execute("DROP TABLE a; CREATE TABLE a(x TEXT NOT NULL, y INT NOT NULL, PRIMARY KEY(x, y))")
    put_in(app)
    app.execute("INSERT INTO a VALUES('x', 1)")
    assert taken(app) == {("a", ("x", 1))}


def test_installing_again_changes_nothing() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY)", "CREATE TABLE n(a, b, PRIMARY KEY(a, b))")
    app.execute("INSERT INTO t VALUES(1)")
    write_mark(app, 5, b"nonce")
    before, version = dumped(app), app.pragma("schema_version")
    put_in(app)
    assert (dumped(app), app.pragma("schema_version")) == (before, version)
    assert read_mark(app) == (SHARE, DEVICE, 5, b"nonce", 0)
    assert taken(app) == {("t", (1,))}


def test_a_table_that_comes_to_be_left_out_loses_its_triggers() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY)", "CREATE TABLE cache(id INTEGER PRIMARY KEY)")
    schema = read_schema(app, without=["cache"])
    assert not installed(app, schema)
    install(app, schema, share=SHARE, device=DEVICE)
    assert installed(app, schema)
    app.execute("INSERT INTO cache VALUES(1)")
    assert not read_hints(app, schema)
    assert "cache" not in {row[2] for row in dumped(app) if row[0] == "trigger"}


def test_the_watermark_of_another_share_or_device_begins_anew() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    write_mark(app, 5, b"nonce")
    install(app, read_schema(app), share=SHARE, device=b"another")
    assert read_mark(app) == (SHARE, b"another", 0, b"", 0)
    uninstall(app)
    assert read_mark(app) is None


def test_installing_fails_as_a_whole() -> None:
    app = apsw.Connection(":memory:")
    app.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    before = dumped(app)
    schema = read_schema(app)
    app.authorizer = lambda action, *_: (
        apsw.SQLITE_DENY if action == apsw.SQLITE_CREATE_TRIGGER else apsw.SQLITE_OK
    )
    with pytest.raises(apsw.AuthError):
        install(app, schema, share=SHARE, device=DEVICE)
    app.authorizer = None
    assert dumped(app) == before
    assert not app.in_transaction


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE _p2p_mark(id INTEGER PRIMARY KEY)",
        'CREATE VIEW "_P2P_MARK" AS SELECT 1',
        "CREATE INDEX _p2p_mark ON t(id)",
    ],
)
def test_a_file_in_which_the_app_has_the_watermarks_name_is_refused_as_it_is(sql: str) -> None:
    app = apsw.Connection(":memory:")
    app.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    app.execute(sql)
    before = dumped(app)
    for look in (put_in, lambda app: installed(app, read_schema(app))):
        with pytest.raises(NameTaken, match="_p2p_mark: "):
            look(app)
    assert dumped(app) == before


def test_hints_can_be_put_in_within_a_transaction_that_is_open() -> None:
    app = apsw.Connection(":memory:")
    app.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    before = dumped(app)
    app.execute("BEGIN IMMEDIATE")
    schema = put_in(app)
    assert installed(app, schema)
    app.execute("ROLLBACK")
    assert dumped(app) == before


def test_taking_hints_out_leaves_the_schema_as_it_was() -> None:
    app = apsw.Connection(":memory:")
    for sql in (
        "CREATE TABLE  t ( id INTEGER PRIMARY KEY AUTOINCREMENT, u UNIQUE ) -- a comment",
        "CREATE INDEX i ON t(u)",
        "CREATE TABLE n(a, b, PRIMARY KEY(a, b)) /* x */",
        "CREATE VIEW v AS SELECT * FROM t",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE f USING fts5(u, content='t', content_rowid='id')",
        "INSERT INTO t(u) VALUES(1), (2)",
        "DELETE FROM t WHERE u = 2",
        # It puts tables before indexes.
        "ANALYZE; VACUUM",
    ):
        app.execute(sql)
    before = dumped(app)
    tables = {
        row[1]: app.execute(f"SELECT * FROM {row[1]}").fetchall() for row in before if row[0] == "table"
    }
    put_in(app)
    app.execute("INSERT INTO t(u) VALUES(3); DELETE FROM t WHERE u = 3; ANALYZE; VACUUM")
    uninstall(app)
    assert dumped(app) == before
    app.execute("UPDATE sqlite_sequence SET seq = 2; ANALYZE")
    assert {name: app.execute(f"SELECT * FROM {name}").fetchall() for name in tables} == tables
    assert app.pragma("integrity_check") == "ok"


def test_a_vacuum_leaves_no_hints() -> None:
    app = opened("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    app.execute("INSERT INTO t VALUES(1), (2)")
    taken(app)
    app.execute("VACUUM; ANALYZE; REINDEX")
    assert not taken(app)


# Random work on random tables: what differs afterwards is hinted, and no more hints than rows were touched.

KEYS = (
    ("id INTEGER PRIMARY KEY, k1 INT", ")"),
    ("id INTEGER PRIMARY KEY AUTOINCREMENT, k1", ")"),
    ("id INTEGER PRIMARY KEY DESC, k1", ")"),
    ("id TEXT COLLATE NOCASE PRIMARY KEY, k1", ")"),
    ("id PRIMARY KEY, k1 NUMERIC", ")"),
    ("id VARCHAR(10) NOT NULL, k1 INT NOT NULL", ", PRIMARY KEY(k1, id))"),
    ("id, k1 REAL", ", PRIMARY KEY(id COLLATE RTRIM, k1))"),
    ("id TEXT, k1", ", PRIMARY KEY(id, k1 DESC)) WITHOUT ROWID"),
    ("id TEXT COLLATE NOCASE PRIMARY KEY, k1", ") WITHOUT ROWID"),
)
COLUMNS = ("u", "u UNIQUE", "u TEXT UNIQUE COLLATE NOCASE", "u UNIQUE ON CONFLICT REPLACE")
INDEXES = (
    "",
    "CREATE UNIQUE INDEX i ON t(v)",
    "CREATE UNIQUE INDEX i ON t(lower(v))",
    "CREATE UNIQUE INDEX i ON t(v COLLATE NOCASE, u)",
    "CREATE UNIQUE INDEX i ON t(v) WHERE w > 1",
    "CREATE UNIQUE INDEX i ON t(w, v || '-') WHERE u IS NOT NULL",
)
VALUES = st.sampled_from(["NULL", "1", "2", "1.0", "1.5", "'1'", "'a'", "'A'", "'a '", "x'61'", "3", "'b'"])
WHERE = st.one_of(
    st.just("1"),
    st.builds("{} IS {}".format, st.sampled_from(["id", "k1", "u", "v", "w"]), VALUES),
    st.builds("rowid % {} = 0".format, st.integers(1, 3)),
)
CLAUSE = st.sampled_from(["", "", "OR REPLACE ", "OR IGNORE ", "OR FAIL ", "OR ABORT "])
ROW = st.tuples(*([VALUES] * 5)).map(lambda row: "(" + ", ".join(row) + ")")
STATEMENTS = st.one_of(
    st.builds("INSERT {}INTO t(id, k1, u, v, w) VALUES{}".format, CLAUSE, ROW),
    st.builds("INSERT {}INTO t(k1, u, v) VALUES({}, {}, {})".format, CLAUSE, VALUES, VALUES, VALUES),
    st.builds(
        "UPDATE {}t SET {} = {} WHERE {}".format, CLAUSE, st.sampled_from(["u", "v", "w"]), VALUES, WHERE
    ),
    st.builds(
        "UPDATE {}t SET {} = {} WHERE {}".format,
        CLAUSE,
        st.sampled_from(["id", "k1", "rowid", "OID"]),
        VALUES,
        WHERE,
    ),
    st.builds(
        "UPDATE {}t SET (u, v, w) = (SELECT {}, {}, {}) WHERE {}".format,
        CLAUSE,
        VALUES,
        VALUES,
        VALUES,
        WHERE,
    ),
    st.builds("DELETE FROM t WHERE {}".format, WHERE),
    st.builds(
        "INSERT INTO t(id, k1, u, v, w) VALUES{} ON CONFLICT DO UPDATE SET v = excluded.v, w = {}".format,
        ROW,
        VALUES,
    ),
    st.sampled_from(
        [
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "SAVEPOINT s",
            "RELEASE s",
            "ROLLBACK TO s",
            "DELETE FROM t",
            "REPLACE INTO t(u) SELECT v FROM t LIMIT 1",
        ]
    ),
)
TABLES = st.builds(
    lambda key, column: f"CREATE TABLE t({key[0]}, {column}, v, w{key[1]}",
    st.sampled_from(KEYS),
    st.sampled_from(COLUMNS),
)

# What of these is done twice is an error, which is no affair of hints.
EXPECTED = (apsw.ConstraintError, apsw.SQLError, apsw.MismatchError)


def identity(table: Table, pk: tuple[Any, ...]) -> bytes:
    return pack_key("t", pk, collations=tuple(column.collation for column in table.key_columns))


def rows_by_key(app: apsw.Connection) -> dict[bytes, list[tuple[Any, ...]]]:
    """Return the rows that share each key (a key that may be NULL can have several), bit for bit."""
    table = read_schema(app).tables["t"]
    columns = table.pk
    rows = app.execute(
        f"SELECT {', '.join(columns)}, quote(id), quote(k1), quote(u), quote(v), quote(w) FROM t"
    ).fetchall()
    found: dict[bytes, list[tuple[Any, ...]]] = {}
    for row in sorted(rows, key=repr):
        found.setdefault(identity(table, row[: len(columns)]), []).append(row[len(columns) :])
    return found


def hinted(app: apsw.Connection) -> set[bytes]:
    schema = read_schema(app)
    hints = read_hints(app, schema)
    assert len({(hint.table, hint.pk) for hint in hints}) == len(hints)
    return {identity(schema.tables["t"], hint.pk) for hint in hints}


@settings(max_examples=150, deadline=None)
@given(
    table=TABLES,
    index=st.sampled_from(INDEXES),
    recursive=st.sampled_from(["OFF", "ON"]),
    before=st.lists(STATEMENTS, max_size=12),
    work=st.lists(STATEMENTS, max_size=12),
)
def test_every_row_that_differs_afterwards_is_hinted_and_none_that_was_not_touched(
    table: str, index: str, recursive: str, before: list[str], work: list[str]
) -> None:
    with closing(opened(table, index)) as app:
        app.execute(f"PRAGMA recursive_triggers = {recursive}")
        run(app, before)
        drop_hints(app, read_hints(app, read_schema(app)))
        then = rows_by_key(app)
        touchable = set(then) | run(app, work)
        now = rows_by_key(app)
        differing = {key for key in then.keys() | now.keys() if then.get(key) != now.get(key)}
        hints = hinted(app)
        event(f"rows that differ: {min(len(differing), 3)}")
        assert differing <= hints
        assert hints <= touchable


@settings(max_examples=50, deadline=None)
@given(
    table=TABLES,
    index=st.sampled_from(INDEXES),
    before=st.lists(STATEMENTS, max_size=8),
    work=st.lists(STATEMENTS),
)
def test_no_work_that_is_rolled_back_is_hinted(
    table: str, index: str, before: list[str], work: list[str]
) -> None:
    with closing(opened(table, index)) as app:
        run(app, before)
        then = hinted(app)
        app.execute("BEGIN")
        run(
            app,
            [sql for sql in work if not sql.startswith(("BEGIN", "COMMIT", "ROLLBACK"))],
            ended="ROLLBACK",
        )
        assert hinted(app) == then


def run(app: apsw.Connection, statements: list[str], ended: str = "COMMIT") -> set[bytes]:
    """Run statements, and return all keys that a row had at some time, also for a moment only."""
    seen: set[bytes] = set()

    for sql in (*statements, ended):
        with suppress(*EXPECTED):
            app.execute(sql)
        seen |= rows_by_key(app).keys()
    return seen
