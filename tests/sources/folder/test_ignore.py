from __future__ import annotations

from pathlib import Path

from p2psyncd.sources.folder.ignore import ANSWERS_MAX, Ignore


def rules(root: Path, text: str | bytes) -> Ignore:
    (root / ".p2psyncignore").write_bytes(text.encode() if isinstance(text, str) else text)
    ignore = Ignore(root)
    ignore.refresh()
    return ignore


def test_without_a_file_nothing_is_ignored(tmp_path: Path) -> None:
    ignore = Ignore(tmp_path)
    ignore.refresh()
    assert not ignore.ignored(b"anything")
    assert ignore.generation == 0


def test_gitignores_syntax_counts(tmp_path: Path) -> None:
    ignore = rules(tmp_path, "# comment\n*.log\n!keep.log\n/top\nbuild/\n**/cache/*.tmp\n")
    assert ignore.ignored(b"a/b/x.log")
    assert not ignore.ignored(b"a/keep.log")
    assert ignore.ignored(b"top")
    assert not ignore.ignored(b"a/top")
    assert ignore.ignored(b"a/build", directory=True)
    assert not ignore.ignored(b"a/build")
    assert ignore.ignored(b"a/build/deep/below")
    assert ignore.ignored(b"cache/x.tmp")
    assert not ignore.ignored(b"# comment")


def test_nothing_below_an_ignored_directory_comes_back(tmp_path: Path) -> None:
    ignore = rules(tmp_path, "out/\n!out/keep\n")
    assert ignore.ignored(b"out/keep")


def test_names_that_are_not_utf_8_are_matched(tmp_path: Path) -> None:
    ignore = rules(tmp_path, b"bad\xff*\n")
    assert ignore.ignored(b"d/bad\xff\xfe")
    assert not ignore.ignored(b"d/bad")


def test_a_changed_file_counts_after_a_refresh(tmp_path: Path) -> None:
    ignore = rules(tmp_path, "a\n")
    assert ignore.ignored(b"a")
    before = ignore.generation
    ignore.refresh()
    assert ignore.generation == before
    (tmp_path / ".p2psyncignore").write_text("b\n")
    ignore.refresh()
    assert ignore.generation == before + 1
    assert ignore.ignored(b"b")
    assert not ignore.ignored(b"a")
    (tmp_path / ".p2psyncignore").unlink()
    ignore.refresh()
    assert not ignore.ignored(b"b")


def test_a_comment_more_changes_no_rule(tmp_path: Path) -> None:
    ignore = rules(tmp_path, "a\n")
    before = ignore.generation
    (tmp_path / ".p2psyncignore").write_text("# why\na\n")
    ignore.refresh()
    assert ignore.generation == before


def test_a_symlink_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("*\n")
    (tmp_path / ".p2psyncignore").symlink_to("elsewhere")
    ignore = Ignore(tmp_path)
    ignore.refresh()
    assert not ignore.ignored(b"a")
    missing = Ignore(tmp_path / "missing")
    missing.refresh()
    assert not missing.ignored(b"a")


def test_answers_do_not_pile_up(tmp_path: Path) -> None:
    ignore = rules(tmp_path, "x\n")
    for number in range(ANSWERS_MAX + 10):
        ignore.ignored(b"%d" % number)
    assert len(ignore.rules.answers) <= ANSWERS_MAX
