"""Hints in the databases of real programs, whose schema comes out of their own packages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from real_programs import run

from p2psyncd.sources.database.hints import drop_hints, install, installed, read_hints, uninstall
from p2psyncd.sources.database.schema import MIGRATIONS, NO_KEY, Schema, quoted, read_schema

FILES = {"django": "app.db", "huey": "app.db", "diskcache": "cache.db"}
Rows = dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]


def made(program: str, folder: Path) -> Path:
    folder.mkdir()
    run(program, "make", folder)
    return folder


@contextmanager
def daemon(program: str, folder: Path) -> Iterator[apsw.Connection]:
    with closing(apsw.Connection(str(folder / FILES[program]))) as connection:
        yield connection


def put_in(connection: apsw.Connection) -> Schema:
    schema = read_schema(connection)
    install(connection, schema, share=b"share", device=b"device")
    return schema


def dumped(connection: apsw.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()


def rows_of(connection: apsw.Connection, schema: Schema) -> Rows:
    found: Rows = {}
    for name, table in schema.tables.items():
        columns = ", ".join(quoted(column) for column in table.pk)
        cells = ", ".join(f"quote({quoted(column.name)})" for column in table.stored)
        rows = connection.execute(f"SELECT {columns}, {cells} FROM {quoted(name)}")
        width = len(table.pk)
        found[name] = {row[:width]: row[width:] for row in rows}
    return found


def differing(before: Rows, after: Rows) -> set[tuple[str, tuple[Any, ...]]]:
    return {
        (name, key)
        for name in before.keys() | after.keys()
        for key in before.get(name, {}).keys() | after.get(name, {}).keys()
        if before.get(name, {}).get(key) != after.get(name, {}).get(key)
    }


@pytest.mark.parametrize("program", FILES)
def test_a_real_programs_own_work_goes_on_as_before_and_every_row_that_it_changes_is_hinted(
    program: str, tmp_path: Path
) -> None:
    plain, captured = made(program, tmp_path / "plain"), made(program, tmp_path / "captured")
    with daemon(program, captured) as connection:
        schema_before = dumped(connection)
        schema = put_in(connection)
        assert schema.tables
        assert schema.refused == ({"Settings": NO_KEY} if program == "diskcache" else {})
        before = rows_of(connection, schema)
    assert run(program, "use", captured) == run(program, "use", plain)
    with daemon(program, captured) as connection:
        assert installed(connection, read_schema(connection))
        changed = differing(before, rows_of(connection, schema))
        hints = read_hints(connection, schema)
        assert len(changed) >= 3
        assert changed <= {(hint.table, hint.pk) for hint in hints}
        drop_hints(connection, hints)
        uninstall(connection)
        assert dumped(connection) == schema_before
        assert connection.pragma("integrity_check") == "ok"
    with daemon(program, plain) as connection:
        assert dumped(connection) == schema_before


def test_django_alters_a_field_and_the_next_save_is_hinted(tmp_path: Path) -> None:
    folder = made("django", tmp_path / "app")
    with daemon("django", folder) as connection:
        schema = put_in(connection)
        assert schema.left_out["django_migrations"] == MIGRATIONS
        numbers = {row[1]: row[2] for row in dumped(connection) if row[1].startswith("_p2p_")}
    run("django", "use", folder)
    run("django", "alter", folder)
    with daemon("django", folder) as connection:
        assert not installed(connection, read_schema(connection))
        schema = put_in(connection)
        assert {row[1]: row[2] for row in dumped(connection) if row[1].startswith("_p2p_")} == numbers
        assert "300" in schema.tables["auth_user"].column("first_name").type
        drop_hints(connection, read_hints(connection, schema))
    pk, count = run("django", "save", folder)
    assert count == 1
    with daemon("django", folder) as connection:
        assert ("auth_user", (pk,)) in {(hint.table, hint.pk) for hint in read_hints(connection, schema)}
