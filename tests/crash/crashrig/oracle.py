"""Holds what is there against what was written: nothing torn, nothing lost, nothing back from the dead."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from crashrig.journal import Journal, Removal, contents_below
from p2psyncd.sources.folder.conflicts import is_conflict

__all__ = ["Cut", "Verdict", "judge", "torn"]

DIGEST_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Cut:
    """What was known when the power of one device was cut."""

    side: str
    peer_had: dict[str, bytes]
    """What lay in the other device's folder at that moment."""


@dataclass
class Verdict:
    """What an epoch came to."""

    violations: list[str] = field(default_factory=list)
    own_losses: int = 0
    """Files that their own writer left unsynced, that nobody else had, and that the cut tore."""

    def blame(self, what: str, digest: bytes, path: str, journal: Journal) -> None:
        """Add a violation, with what the journal says about it."""
        story = "; ".join(journal.about(digest)) or "never written"
        self.violations.append(f"{what}: {path!r} {digest.hex()[:DIGEST_SHOWN]} [{story}]")


def torn(root: Path, journal: Journal) -> list[str]:
    """Return the files of a folder that are nobody's content."""
    return [
        f"torn: {root / path}"
        for path, digest in contents_below(root).items()
        if digest not in journal.contents
    ]


def judge(
    journal: Journal,
    tree: dict[str, bytes],
    *,
    history: set[bytes],
    killed: set[str],
    cut: Cut | None,
) -> Verdict:
    """Judge the tree that both devices agree on.

    Args:
        journal: What was written.
        tree: Digests by path.
        history: Contents that lie in either device's history.
        killed: The devices that were killed since both were last equal.
        cut: Set if the power of one device was cut meanwhile.
    """
    verdict = Verdict()
    before = journal.copies
    here: dict[bytes, list[str]] = {}
    for path, digest in tree.items():
        here.setdefault(digest, []).append(path)
    for digest in journal.contents.keys() - here.keys():
        if must_be_there(journal, digest, before, cut):
            if journal.contents[digest].in_place and digest in history:
                continue
            verdict.blame("lost", digest, journal.contents[digest].path, journal)
    for digest, paths in here.items():
        if digest not in journal.contents:
            judge_unknown(verdict, journal, digest, paths, cut)
        elif must_be_gone(journal, digest, paths, killed, cut):
            verdict.blame("resurrected", digest, paths[0], journal)
    if cut is not None:
        judge_cut(verdict, journal, tree, before, cut)
    return verdict


def must_be_there(journal: Journal, digest: bytes, before: Counter[bytes], cut: Cut | None) -> bool:
    """Return whether a content has to exist somewhere."""
    if digest in journal.removals:
        return False
    content = journal.contents[digest]
    if cut is None or content.side != cut.side or content.durable or before[digest]:
        return True
    return digest in cut.peer_had.values()


def must_be_gone(
    journal: Journal, digest: bytes, paths: list[str], killed: set[str], cut: Cut | None
) -> bool:
    """Return whether a content must not exist: someone removed it, and nobody kept it meanwhile."""
    removals = journal.removals.get(digest, [])
    known_before = journal.copies[digest]
    if digest in journal.touched or known_before > 1 or any(is_copy(path) for path in paths):
        return False
    if not journal.contents[digest].serial:
        return False  # what a cut left, an empty file say: others may be like it
    if not known_before:
        # It may have come, and been removed, before the device that was killed could note that it had come.
        author = journal.contents[digest].side
        removals = [one for one in removals if one.side == author or one.side not in killed]
    return any(holds(removal, digest, journal.copies, cut) for removal in removals)


def holds(removal: Removal, digest: bytes, before: Counter[bytes], cut: Cut | None) -> bool:
    """Return whether a removal cannot have been undone by the cut."""
    if cut is None or removal.side != cut.side or removal.durable:
        return True
    return bool(before[digest]) and digest not in cut.peer_had.values()


def is_copy(path: str) -> bool:
    """Return whether a path is a conflict copy's."""
    return any(is_conflict(os.fsencode(part)) for part in Path(path).parts)


def judge_unknown(
    verdict: Verdict, journal: Journal, digest: bytes, paths: list[str], cut: Cut | None
) -> None:
    """Judge a content that nobody wrote: only the cut may have made it, of what nobody else had."""
    for path in paths:
        meant = journal.unsynced.get(Path(path).name, set()) if cut is not None else set()
        if cut is None or not meant or not meant.isdisjoint(cut.peer_had.values()):
            verdict.blame("torn", digest, path, journal)
        else:
            verdict.own_losses += 1


def judge_cut(
    verdict: Verdict, journal: Journal, tree: dict[str, bytes], before: Counter[bytes], cut: Cut
) -> None:
    """Judge what only a cut can do: old contents in place of newer ones, and conflicts and copies out of nothing."""
    for path, digest in cut.peer_had.items():
        if journal.last_write.get(path) == digest and tree.get(path) not in {digest, None}:
            verdict.blame("stale", digest, path, journal)
    for path, digest in tree.items():
        if is_copy(path) and path not in cut.peer_had:
            verdict.blame("conflict out of nothing", digest, path, journal)
    for digest, times in Counter(tree.values()).items():
        known = journal.contents.get(digest)
        # Files that the cut left empty are alike and yet no copies of each other.
        if known is not None and known.serial and times > max(1, before[digest]):
            verdict.blame("doubled", digest, min(p for p, d in tree.items() if d == digest), journal)
