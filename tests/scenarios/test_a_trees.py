"""Scenario A62: what developers do in a folder (clone, check out, install, unpack) arrives as it is."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from group import Group, put
from p2plab.trees import describe, differences

GIT = shutil.which("git")
MODULES = 60
git_needed = pytest.mark.skipif(GIT is None, reason="git is missing: apt-get install git")


def git(folder: Path, *words: str) -> str:
    """Run git as somebody without a configuration of their own."""
    assert GIT is not None
    settings = ("user.name=p", "user.email=p@localhost", "init.defaultBranch=main", "gc.auto=0")
    given = [word for setting in settings for word in ("-c", setting)]
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    # Looking at a tree must not write to it: `git status` refreshes the index otherwise, on both sides at once.
    environ["GIT_OPTIONAL_LOCKS"] = "0"
    return subprocess.run(
        [GIT, *given, *words],
        cwd=folder,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def make_repository(folder: Path) -> Path:
    """Make a repository with two branches that differ in kinds, modes, names and links."""
    folder.mkdir()
    git(folder, "init", "-q")
    for number in range(40):
        put(folder / "src" / f"part{number % 4}" / f"module{number}.py", f"print({number})\n" * 20)
    put(folder / "run.sh", "#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "latest").symlink_to("src/part1")
    put(folder / "thing", "a file on one branch")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    git(folder, "checkout", "-q", "-b", "other")
    git(folder, "rm", "-q", "-r", "src/part0", "thing", "latest")
    git(folder, "mv", "src/part1", "lib")
    put(folder / "thing" / "inside", "a directory on the other")
    (folder / "latest").symlink_to("lib")
    (folder / "run.sh").chmod(0o644)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "two")
    git(folder, "checkout", "-q", "main")
    return folder


def npm_like(root: Path) -> None:
    """Make what a package manager leaves: many small files, deep nesting, links to programs, odd times."""
    programs = root / "node_modules" / ".bin"
    programs.mkdir(parents=True)
    for number in range(MODULES):
        module = root / "node_modules" / (f"@scope/m{number}" if number % 3 == 0 else f"m{number}")
        put(module / "package.json", f'{{"name": "m{number}"}}')
        put(module / "lib" / "index.js", f"module.exports = {number};\n")
        put(module / "node_modules" / "inner" / "lib" / "a" / "b" / "c.js", "// deep\n")
        put(module / "cli.js", "#!/usr/bin/env node\n")
        (module / "cli.js").chmod(0o755)
        # Packages are unpacked with one fixed time of long ago.
        os.utime(module / "package.json", ns=(499_162_500 * 10**9, 499_162_500 * 10**9))
        (programs / f"m{number}").symlink_to(os.path.relpath(module / "cli.js", programs))


def archive() -> bytes:
    """Return a source tree as a tar file: times, modes and links of its own, a directory without write permission."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (("tree", 0o755), ("tree/doc", 0o755)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, mode, 1_000_000_000
            tar.addfile(entry)
        for number in range(100):
            entry = tarfile.TarInfo(f"tree/doc/{number}.txt")
            data = f"page {number}\n".encode()
            entry.size, entry.mode, entry.mtime = len(data), (0o444, 0o644, 0o755)[number % 3], 10**9 + number
            tar.addfile(entry, io.BytesIO(data))
        entry = tarfile.TarInfo("tree/README")
        entry.type, entry.linkname = tarfile.SYMTYPE, "doc/0.txt"
        tar.addfile(entry)
    return buffer.getvalue()


async def identical(pair: Group) -> None:
    """Check that both trees are the same by content, mode, target and mtime, links' and directories' modes too."""
    await pair.settle()
    await pair.same()
    here, there = pair.folders
    assert differences(here, there) == []
    for name, entry in describe(here).items():
        if entry.kind == "symlink":
            one, other = (root / os.fsdecode(name) for root in (here, there))
            assert one.lstat().st_mtime_ns == other.lstat().st_mtime_ns


@git_needed
async def test_a62_a_clone_and_the_checkout_of_another_branch_give_identical_trees(
    pair: Group, tmp_path: Path
) -> None:
    source = make_repository(tmp_path / "source")
    here, there = await pair.begin()
    git(here, "clone", "-q", str(source), "work")
    await identical(pair)
    assert git(there / "work", "status", "--porcelain") == ""
    git(here / "work", "checkout", "-q", "other")
    await identical(pair)
    assert (there / "work" / "thing" / "inside").read_text() == "a directory on the other"
    assert git(there / "work", "rev-parse", "HEAD") == git(here / "work", "rev-parse", "HEAD")
    assert git(there / "work", "status", "--porcelain") == ""
    git(here / "work", "checkout", "-q", "main")
    git(here / "work", "gc", "-q")
    await identical(pair)
    assert git(there / "work", "fsck", "--strict") == ""


async def test_a62_an_installed_package_tree_and_an_unpacked_one_are_identical(pair: Group) -> None:
    here, there = await pair.begin()
    npm_like(here / "app")
    with tarfile.open(fileobj=io.BytesIO(archive())) as tar:
        # Early 3.11 knows no filters; later ones warn without one.
        trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
        tar.extractall(here, **trusted)
    await identical(pair)
    assert len(describe(there)) > 7 * MODULES
    # Installed anew, as an update does: everything goes and comes again.
    shutil.rmtree(here / "app" / "node_modules")
    npm_like(here / "app")
    await identical(pair)
