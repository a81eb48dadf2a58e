"""A user at work in one shared folder: seeded, and knowing exactly what each step replaced or removed.

A thing is replaced by exchange and deleted by moving it out of the share, and what came out is looked
at then: so the journal never blames the daemon for what the user's own step swept away.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from crashrig.journal import Journal, contents_below, digest_at, digest_of
from p2psyncd.sources.folder.beneath import exchange, rename_new

__all__ = ["User"]

CWD = -100  # AT_FDCWD
FILES_MAX = 120
FOLDER_FILES_MAX = 30
IN_PLACE_BYTES_MAX = 60_000
LARGE_BYTES = (3_000_000, 9_000_000)
SHARED_NAMES = 5
# What a user meets whose folder changes under their hands.
RACES = (FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError)


def sync(path: Path) -> None:
    """Make a file or folder durable."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class User:
    """Works in one share."""

    def __init__(
        self,
        name: str,
        root: Path,
        room: Path,
        journal: Journal,
        rng: random.Random,
        *,
        alone: bool = False,
        synced: float = 0.0,
    ) -> None:
        """Begin.

        Args:
            name: Of the device.
            root: The share.
            room: A folder beside it, on the same file system.
            journal: Of both users.
            rng: Decides everything.
            alone: Whether to keep to things that this user made: then nothing can conflict.
            synced: Share of the writes that are made durable, as a careful program does.
        """
        self.name = name
        self.root = root
        self.room = room
        self.journal = journal
        self.rng = rng
        self.alone = alone
        self.synced = synced
        self.temporary = count()
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (22, self.create),
            (18, self.replace),
            (10, self.edit_in_place),
            (8, self.append),
            (14, self.delete),
            (10, self.rename),
            (3, self.rename_folder),
            (3, self.delete_folder),
            (4, self.new_tree),
            (3, self.link),
            (4, self.change_mode),
            (3, self.large),
            (0 if alone else 5, self.shared_name),
        ]

    def step(self) -> None:
        """Do one thing."""
        weights = [weight for weight, _ in self.actions]
        [(_, action)] = self.rng.choices(self.actions, weights)
        if action in (self.create, self.new_tree) and len(self.files()) > FILES_MAX:
            action = self.rng.choice([self.delete_folder, self.delete])
        with suppress(*RACES):
            action()

    # Looking around
    def named(self, path: Path) -> str:
        """Return a path as the journal knows it."""
        return str(path.relative_to(self.root))

    def mine(self, path: Path) -> bool:
        """Return whether this user may work on a thing."""
        return not self.alone or path.name.startswith(f"{self.name}-")

    def folders(self) -> list[Path]:
        """Return the folders that may be worked in, the root first."""
        found = [self.root]
        for folder, names, _ in os.walk(self.root):
            names[:] = sorted(n for n in names if n != ".p2psync" and not (Path(folder) / n).is_symlink())
            found += [Path(folder) / name for name in names if self.mine(Path(folder) / name)]
        return found

    def files(self, *, links: bool = False) -> list[Path]:
        """Return the files that may be worked on."""
        found = []
        for folder in self.folders():
            with suppress(*RACES):
                found += [
                    path
                    for path in sorted(folder.iterdir())
                    if self.mine(path) and (path.is_file() or links) and path.is_symlink() <= links
                ]
        return [path for path in found if not path.is_dir() or path.is_symlink()]

    def a_file(self, *, small: bool = False) -> Path:
        """Return a file to work on."""
        files = self.files()
        if small:
            files = [path for path in files if path.lstat().st_size < IN_PLACE_BYTES_MAX]
        if not files:
            raise FileNotFoundError("there is no file yet")
        return self.rng.choice(files)

    def new_path(self, kind: str = "f") -> Path:
        """Return a path that was never used."""
        name = f"{self.name}-{kind}{self.journal.serial}-{next(self.temporary)}"
        return self.rng.choice(self.folders()) / name

    def apart(self) -> Path:
        """Return a new path outside the share."""
        return self.room / f"t{next(self.temporary)}"

    def is_careful(self) -> bool:
        """Return whether the next write is made durable."""
        return self.rng.random() < self.synced

    # Writing
    def prepare(self, data: bytes, *, durable: bool) -> Path:
        """Write a content outside the share."""
        temporary = self.apart()
        temporary.write_bytes(data)
        if durable:
            sync(temporary)
        return temporary

    def create(self, size: int | None = None, path: Path | None = None) -> Path:
        """Make a file, whole from the first moment."""
        path = path or self.new_path()
        data = self.journal.make(self.rng.randint(0, 30_000) if size is None else size)
        durable = self.is_careful()
        temporary = self.prepare(data, durable=durable)
        rename_new(CWD, os.fsencode(temporary), CWD, os.fsencode(path))
        if durable:
            sync(path.parent)
        self.journal.wrote(self.name, "create", self.named(path), data, durable=durable)
        return path

    def large(self) -> None:
        """Make a file that takes a while to travel."""
        old = [path for path in self.files() if "-big" in path.name]
        if len(old) > 2:
            self.delete(self.rng.choice(old))
        self.create(self.rng.randint(*LARGE_BYTES), self.new_path("big"))

    def shared_name(self) -> None:
        """Make or replace a file under a name that the other user takes too."""
        path = self.root / f"both-{self.rng.randrange(SHARED_NAMES)}"
        if path.exists():
            self.replace(path)
        else:
            self.create(path=path)

    def replace(self, path: Path | None = None) -> None:
        """Replace a file as an editor does."""
        path = path or self.a_file()
        data = self.journal.make(self.rng.randint(0, 30_000))
        durable = self.is_careful()
        temporary = self.prepare(data, durable=durable)
        if self.alone:
            # Nobody else changes it: rename over, as editors do, and as file systems look out for.
            old = digest_at(path)
            temporary.rename(path)
        else:
            exchange(CWD, os.fsencode(temporary), CWD, os.fsencode(path))
            old = digest_at(temporary)
            temporary.unlink()
        if durable:
            sync(path.parent)
        self.journal.removed(self.name, "replace", self.named(path), [old], durable=durable)
        self.journal.wrote(self.name, "replace", self.named(path), data, durable=durable)

    def edit_in_place(self) -> None:
        """Write over a file's content with one call."""
        path = self.a_file(small=True)
        opened = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            old = os.pread(opened, 1 << 30, 0)
            data = self.journal.make(len(old) + self.rng.randint(0, 2000))
            os.pwrite(opened, data, 0)
            self.finish_in_place(opened, path, "edit", digest_of(old), data)
        finally:
            os.close(opened)

    def append(self) -> None:
        """Add to a file's end."""
        path = self.a_file(small=True)
        opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
        try:
            old = os.pread(opened, 1 << 30, 0)
            added = self.journal.make(100)
            os.write(opened, added)
            self.finish_in_place(opened, path, "append", digest_of(old), old + added)
        finally:
            os.close(opened)

    def finish_in_place(self, opened: int, path: Path, op: str, old: bytes, data: bytes) -> None:
        """Sync what was written into a file, now and then, and note it."""
        durable = self.is_careful()
        if durable:
            os.fsync(opened)
        self.journal.removed(self.name, op, self.named(path), [old], durable=durable)
        self.journal.wrote(self.name, op, self.named(path), data, durable=durable, in_place=True)

    def link(self) -> None:
        """Make a symlink."""
        path = self.new_path("l")
        target = f"nowhere/{self.journal.seed}/{self.journal.serial}-{next(self.temporary)}"
        path.symlink_to(target)
        durable = self.is_careful()
        if durable:
            sync(path.parent)
        self.journal.wrote(self.name, "link", self.named(path), b"->" + target.encode(), durable=durable)

    def new_tree(self, parent: Path | None = None) -> None:
        """Make a folder with folders and files."""
        top = self.new_path("d")
        top = parent / top.name if parent else top
        below = [top, top / f"{self.name}-sub", top / f"{self.name}-sub" / f"{self.name}-deep"]
        for folder in below:
            folder.mkdir()
            for number in range(3):
                self.create(path=folder / f"{self.name}-{number}-{next(self.temporary)}")

    # Moving and removing
    def rename(self, path: Path | None = None) -> None:
        """Give a file another name, maybe in another folder."""
        path = path or self.a_file()
        new = self.new_path("r")
        rename_new(CWD, os.fsencode(path), CWD, os.fsencode(new))
        self.journal.moved(self.name, "rename", self.named(path), self.named(new), [digest_at(new)])

    def rename_folder(self) -> None:
        """Give a folder another name."""
        folders = self.folders()[1:]
        if not folders:
            return
        path = self.rng.choice(folders)
        new = path.parent / self.new_path("e").name
        rename_new(CWD, os.fsencode(path), CWD, os.fsencode(new))
        inside = contents_below(new)
        self.journal.moved(self.name, "rename-folder", self.named(path), self.named(new), inside.values())
        for name, digest in inside.items():
            self.journal.unsynced.setdefault(Path(name).name, set()).add(digest)

    def change_mode(self) -> None:
        """Change a file's mode."""
        path = self.a_file()
        digest = digest_at(path)
        path.chmod(self.rng.choice([0o600, 0o644, 0o755, 0o640]))
        self.journal.moved(self.name, "chmod", self.named(path), self.named(path), [digest])

    def delete(self, path: Path | None = None) -> None:
        """Delete a file or link."""
        if path is None:
            files = self.files(links=True)
            if not files:
                return
            path = self.rng.choice(files)
        durable = self.is_careful()
        trash = self.trash(path, durable=durable)
        self.journal.removed(self.name, "delete", self.named(path), [digest_at(trash)], durable=durable)
        self.journal.forget_path(self.named(path))

    def delete_folder(self) -> None:
        """Delete a folder with all that is in it."""
        folders = self.folders()[1:]
        if not folders:
            return
        path = self.rng.choice(folders)
        inside = contents_below(path)
        # More would be a mass deletion, which holds the share.
        if len(inside) > FOLDER_FILES_MAX or (self.alone and not all(self.mine(Path(p)) for p in inside)):
            return
        durable = self.is_careful()
        trash = self.trash(path, durable=durable)
        gone = contents_below(trash).values()
        self.journal.removed(self.name, "delete-folder", self.named(path), gone, durable=durable)
        self.journal.forget_path(self.named(path))

    def trash(self, path: Path, *, durable: bool) -> Path:
        """Move something out of the share."""
        trash = self.room / f"trash{next(self.temporary)}"
        path.rename(trash)
        if durable:
            sync(path.parent)
            sync(self.room)
        return trash

    def tidy_room(self) -> None:
        """Empty the room; what came into a deleted folder at the last moment went with it."""
        for name, digest in contents_below(self.room).items():
            if name.startswith("trash") and digest not in self.journal.removals:
                self.journal.removed(self.name, "delete-folder", name, [digest], durable=False)
        for path in list(self.room.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
