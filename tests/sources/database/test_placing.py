"""What becomes of a file at the path of an offered database."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from p2psyncd.errors import DatabaseBusy, FolderMissing, NotADatabase, NotAFolder
from p2psyncd.sources.database.file import check_new_database
from p2psyncd.sources.database.placing import clear, has_rows, make_database, put_aside

SCHEMA = """
CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, folder REFERENCES folders);
CREATE TABLE folders (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE trace (id INTEGER PRIMARY KEY, what TEXT);
CREATE TABLE log (line TEXT);
CREATE TABLE django_migrations (id INTEGER PRIMARY KEY, name TEXT);
CREATE VIRTUAL TABLE search USING fts5 (body, content='notes', content_rowid='id');
CREATE TRIGGER add_note AFTER INSERT ON notes BEGIN
    INSERT INTO search (rowid, body) VALUES (new.id, new.body);
END;
CREATE TRIGGER drop_note AFTER DELETE ON notes BEGIN
    INSERT INTO search (search, rowid, body) VALUES ('delete', old.id, old.body);
    INSERT INTO trace (what) VALUES ('deleted ' || old.id);
END;
"""
ROWS = """
INSERT INTO folders VALUES (1, 'home');
INSERT INTO notes VALUES (1, 'water the trees', 1);
INSERT INTO log VALUES ('started');
INSERT INTO django_migrations VALUES (1, '0001_initial');
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "app.db"
    run(made, SCHEMA)
    return made


def run(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path))
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def test_a_database_is_made_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    assert make_database(path)
    assert check_new_database(path) == path
    assert not make_database(path)
    (tmp_path / "empty.db").touch()
    assert not make_database(tmp_path / "empty.db")
    assert check_new_database(tmp_path / "empty.db").name == "empty.db"
    with pytest.raises(FolderMissing):
        make_database(tmp_path / "nowhere" / "new.db")
    with pytest.raises(NotAFolder):
        make_database(tmp_path)


def test_what_is_there_is_left_alone(path: Path) -> None:
    before = path.read_bytes()
    assert not make_database(path)
    assert path.read_bytes() == before


def test_rows_are_seen_in_tables_that_would_be_synced(path: Path, tmp_path: Path) -> None:
    assert not has_rows(tmp_path / "nowhere.db")
    assert not has_rows(path)
    run(path, "INSERT INTO log VALUES ('started'); INSERT INTO django_migrations VALUES (1, '0001_initial')")
    assert not has_rows(path)
    run(path, "INSERT INTO folders VALUES (1, 'home')")
    assert has_rows(path)
    assert not has_rows(path, ["FOLDERS"])
    (tmp_path / "text.db").write_text("This is no database, and long enough to be none.")
    with pytest.raises(NotADatabase):
        has_rows(tmp_path / "text.db")


def test_a_copy_is_put_aside_under_a_free_name(path: Path) -> None:
    run(path, ROWS)
    first, second = put_aside(path, "before"), put_aside(path, "before")
    assert [first.name, second.name] == ["app.db.before", "app.db.before.2"]
    assert (
        run(first, "SELECT body FROM notes")
        == run(second, "SELECT body FROM notes")
        == [("water the trees",)]
    )


def test_clearing_takes_the_rows_and_leaves_the_tables_and_what_is_not_synced(path: Path) -> None:
    run(path, ROWS)
    schema = run(path, "SELECT * FROM sqlite_schema WHERE name NOT LIKE 'search%'")
    clear(path)
    assert not has_rows(path)
    assert run(path, "SELECT * FROM sqlite_schema WHERE name NOT LIKE 'search%'") == schema
    assert run(path, "SELECT line FROM log") == [("started",)]
    assert run(path, "SELECT name FROM django_migrations") == [("0001_initial",)]
    # The app's own search index knows of it.
    assert run(path, "SELECT rowid FROM search WHERE search MATCH 'water'") == []
    run(path, "INSERT INTO search (search) VALUES ('integrity-check')")


def test_triggers_that_need_the_app_do_not_keep_rows_from_being_cleared(path: Path) -> None:
    run(path, ROWS)
    run(path, "CREATE TRIGGER odd BEFORE DELETE ON folders BEGIN SELECT only_the_app_has_this(old.id); END")
    clear(path)
    assert not has_rows(path)


def test_a_locked_database_is_not_cleared(path: Path) -> None:
    run(path, ROWS)
    holder = apsw.Connection(str(path))
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy):
        clear(path)
    holder.close()
    assert has_rows(path)


def test_a_trigger_that_forbids_it_does_not_keep_rows_from_being_cleared(path: Path) -> None:
    run(
        path,
        "CREATE TRIGGER keep BEFORE DELETE ON folders BEGIN SELECT RAISE(ABORT, 'append only'); END;" + ROWS,
    )
    clear(path)
    assert not has_rows(path)
