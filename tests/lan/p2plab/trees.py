"""Trees: made, changed at random (seeded), described, compared."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Entry", "Mutator", "describe", "differences", "leftovers", "real_tree", "small_files"]

PRIVATE = ".p2psync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What must be equal on two devices."""

    kind: str
    mode: int
    content: str
    """BLAKE2 of a file, target of a symlink."""
    mtime_ns: int
    """Of files; a folder's changes with what is put into it."""


def describe(root: Path) -> dict[bytes, Entry]:
    """Return everything below a share's root, by relative path."""
    found: dict[bytes, Entry] = {}
    for folder, folders, files in os.walk(root):
        if folder == str(root) and PRIVATE in folders:
            folders.remove(PRIVATE)
        for name in [*folders, *files]:
            path = Path(folder) / name
            found[os.fsencode(path.relative_to(root))] = entry(path)
    return found


def entry(path: Path) -> Entry:
    """Describe one thing."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return Entry(kind="symlink", mode=0, content=str(path.readlink()), mtime_ns=0)
    if stat.S_ISDIR(info.st_mode):
        return Entry(kind="folder", mode=stat.S_IMODE(info.st_mode), content="", mtime_ns=0)
    if stat.S_ISREG(info.st_mode):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b").hexdigest()
        return Entry(kind="file", mode=stat.S_IMODE(info.st_mode), content=digest, mtime_ns=info.st_mtime_ns)
    return Entry(kind="other", mode=0, content="", mtime_ns=0)


def differences(one: Path, other: Path) -> list[str]:
    """Return what differs between two trees, for an assertion to show; empty: nothing."""
    ours, theirs = describe(one), describe(other)
    lines = [f"only in {one}: {path!r}" for path in sorted(ours.keys() - theirs.keys())]
    lines += [f"only in {other}: {path!r}" for path in sorted(theirs.keys() - ours.keys())]
    lines += [
        f"{path!r}: {ours[path]} / {theirs[path]}"
        for path in sorted(ours.keys() & theirs.keys())
        if ours[path] != theirs[path]
    ]
    return lines[:20]


def leftovers(root: Path) -> list[str]:
    """Return stray temporary files of a share: anything in staging, or a name that only the daemon would give."""
    staging = root / ".p2psync" / "staging"
    stray = [str(path) for path in staging.rglob("*") if not path.is_dir()] if staging.exists() else []
    for path in root.rglob("*"):
        inside = path.relative_to(root).parts[0] == ".p2psync"
        ours = ".p2psync" in path.name and path.name != ".p2psyncignore"
        if not inside and (ours or path.name.endswith((".tmp", ".part"))):
            stray.append(str(path))
    return stray


def small_files(root: Path, *, folders: int, files: int, least: int, most: int, seed: int = 1) -> None:
    """Make folders with `files` files of random bytes each, sizes between `least` and `most` bytes."""
    rng = random.Random(seed)
    for d in range(folders):
        folder = root / f"dir{d:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for f in range(files):
            (folder / f"file{f:04d}.bin").write_bytes(rng.randbytes(rng.randint(least, most)))


def real_tree(root: Path, *, modules: int = 400, docs: int = 150) -> None:
    """Fill a folder with real files: a part of Python's library and of /usr/share/doc, and names that bite.

    Args:
        modules: At most so many entries of the library, whole packages among them.
        docs: At most so many folders of documentation.
    """
    library = Path(sysconfig.get_path("stdlib"))
    skip = shutil.ignore_patterns(
        "__pycache__", "site-packages", "dist-packages", "test", "config-*", "lib-dynload", "*.a"
    )
    for item in sorted(library.iterdir())[:modules]:
        if item.name in {
            "site-packages",
            "dist-packages",
            "__pycache__",
            "test",
            "lib-dynload",
        } or item.name.startswith("config-"):
            continue
        copy(item, root / "library" / item.name, skip)
    documents = Path("/usr/share/doc")
    if documents.is_dir():
        for item in sorted(documents.iterdir())[:docs]:
            copy(item, root / "doc" / item.name, skip)
    odd_names(root / "odd")


def copy(item: Path, target: Path, skip: Callable[[str, list[str]], set[str]]) -> None:
    """Copy a file, link or folder with its modes and times, links as links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if item.is_dir() and not item.is_symlink():
        shutil.copytree(item, target, symlinks=True, ignore=skip, ignore_dangling_symlinks=True)
    elif item.is_file() or item.is_symlink():
        shutil.copy2(item, target, follow_symlinks=False)


def odd_names(root: Path) -> None:
    """Make the names and kinds that file systems allow and programs forget."""
    root.mkdir(parents=True)
    for name in (
        b"new\nline",
        b"esc\x1b[31mred",
        b"not-utf8-\xff\xfe",
        b"sp ace ",
        b"-rf",
        b"e\xcc\x81-nfd",
        b"\xc3\xa9-nfc",
        "雪だるま☃".encode(),
        b"x" * 255,
        b"quote'\"`$(id)",
        b"back\\slash",
        b"~",
        b"..dots",
    ):
        (root / os.fsdecode(name)).write_bytes(name)
    (root / "empty-folder").mkdir()
    (root / "empty-file").touch()
    (root / "deep").joinpath(*["d"] * 30).mkdir(parents=True)
    (root / "to-nowhere").symlink_to("no/such/thing")
    (root / "to-outside").symlink_to("/etc/hostname")
    (root / "to-itself").symlink_to("to-itself")
    (root / "to-folder").symlink_to("deep")
    for mode in (0o400, 0o444, 0o600, 0o755, 0o777, 0o640):
        file = root / f"mode-{mode:o}"
        file.write_text(f"{mode:o}")
        file.chmod(mode)
    os.utime(root / "empty-file", ns=(10**18 + 7, 10**18 + 7))
    os.utime(root / "mode-600", ns=(123_456_789, 123_456_789))
    (root / "big").write_bytes(random.Random(5).randbytes(3_000_000))


class Mutator:
    """Random changes below a root, the same for the same seed and tree."""

    def __init__(self, root: Path, seed: int, tag: str) -> None:
        self.root = root
        self.rng = random.Random(seed)
        self.tag = tag
        self.count = 0

    def change(self, times: int) -> None:
        """Make `times` changes."""
        for _ in range(times):
            self.once()

    def once(self) -> None:
        """Make one change; a thing that vanished meanwhile (a peer's change) is passed over."""
        actions = [
            (30, self.edit),
            (15, self.create),
            (12, self.rename),
            (10, self.delete),
            (8, self.append),
            (8, self.replace_atomically),
            (5, self.chmod),
            (5, self.link),
            (4, self.make_folder),
            (3, self.rename_folder),
        ]
        self.count += 1
        [action] = self.rng.choices([a for _, a in actions], [w for w, _ in actions])
        try:
            action()
        except (FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
            sys.stderr.write(f"{self.tag}: passed over: {error}\n")

    def fresh(self) -> str:
        return f"{self.tag}-{self.count}-{self.rng.choice(['plain', 'with space', 'ümlaut', 'new' + chr(10) + 'line'])}"

    def folders(self) -> list[Path]:
        found = [self.root]
        for folder, names, _ in os.walk(self.root):
            names.sort()
            if Path(folder) == self.root and ".p2psync" in names:
                names.remove(".p2psync")
            found += [Path(folder) / name for name in names if not (Path(folder) / name).is_symlink()]
        return found

    def files(self) -> list[Path]:
        found = []
        for folder in self.folders():
            found += [
                p
                for p in sorted(folder.iterdir())
                if p.is_file() and not p.is_symlink() and p.name != ".p2psyncignore"
            ]
        return found

    def a_file(self) -> Path:
        files = self.files()
        if not files:
            raise FileNotFoundError("no file is left")
        return self.rng.choice(files)

    def writable(self, path: Path) -> Path:
        mode = path.stat().st_mode
        if not mode & stat.S_IWUSR:
            path.chmod(mode | stat.S_IWUSR | stat.S_IRUSR)
        return path

    def edit(self) -> None:
        with self.writable(self.a_file()).open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(self.rng.randint(0, size))
            file.write(self.rng.randbytes(self.rng.randint(1, 200)))

    def append(self) -> None:
        with self.writable(self.a_file()).open("ab") as file:
            file.write(self.rng.randbytes(100))

    def create(self) -> None:
        (self.rng.choice(self.folders()) / self.fresh()).write_bytes(
            self.rng.randbytes(self.rng.randint(0, 20_000))
        )

    def replace_atomically(self) -> None:
        path = self.a_file()
        temporary = path.with_name(self.fresh())
        temporary.write_bytes(self.rng.randbytes(500))
        temporary.replace(path)

    def rename(self) -> None:
        self.a_file().rename(self.rng.choice(self.folders()) / self.fresh())

    def rename_folder(self) -> None:
        small = [f for f in self.folders()[1:] if sum(1 for _ in f.rglob("*")) < 50]
        if small:
            folder = self.rng.choice(small)
            folder.rename(folder.parent / self.fresh())

    def delete(self) -> None:
        self.a_file().unlink()

    def chmod(self) -> None:
        self.a_file().chmod(self.rng.choice([0o600, 0o644, 0o755, 0o640]))

    def link(self) -> None:
        (self.rng.choice(self.folders()) / self.fresh()).symlink_to(f"target-{self.count}")

    def make_folder(self) -> None:
        (self.rng.choice(self.folders()) / self.fresh()).mkdir()
