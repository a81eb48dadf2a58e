"""Two concurrent versions of one path: a pure decision that every device makes alike.

The winner is the greatest (hlc, dot). What that order alone would get wrong is put right by a new
write on top of both (`rewrite`), never by another order: an order that prefers, say, edits over
deletes is not associative, and devices that meet in other orders would differ.

Each side's metadata names the write that made its content and the one that chose its mode. A side
whose content the other side knew, and replaced, has only changed metadata since: nothing of it is
lost when it loses, and its chmod joins the other's edit.
Extended attributes go with the mode (decision 0016).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from p2psyncd.core.item import Draft, Item, Kind, wins
from p2psyncd.sources.folder.attributes import Attributes, content_dot, decode_or_plain, encode, mode_dot
from p2psyncd.sources.folder.conflicts import aside_key
from p2psyncd.sources.source import Merged, Side

__all__ = ["aside", "deletion", "merge"]


@dataclass(frozen=True, slots=True)
class Version:
    """A version with its metadata decoded."""

    item: Item
    attributes: Attributes

    @property
    def same_content(self) -> tuple[Kind, bytes]:
        """What is compared to know whether two versions hold the same."""
        return self.item.kind, self.item.digest


def merge(ours: Item, theirs: Item) -> Merged:
    """Decide about two concurrent versions of one key; see `Source.merge`."""
    side = Side.OURS if wins(ours, theirs) else Side.THEIRS
    if ours.same_value(theirs) or not (ours.live or theirs.live):
        return Merged(winner=side)
    a, b = Version(ours, decode_or_plain(ours.meta)), Version(theirs, decode_or_plain(theirs.meta))
    winner, loser = (a, b) if side is Side.OURS else (b, a)
    rewrite, aside = decide(winner, loser)
    return Merged(winner=side, rewrite=rewrite, aside=aside)


def decide(winner: Version, loser: Version) -> tuple[Draft | None, Draft | None]:
    """Return (rewrite, aside) for versions of different value."""
    kinds = {winner.item.kind, loser.item.kind}
    if Kind.TOMBSTONE in kinds:
        live, gone = (loser, winner) if loser.item.live else (winner, loser)
        # A directory has no content to save: whether it stays is decided by what lies in it.
        if live.item.kind is Kind.DIRECTORY:
            return None, None
        if is_old_news(live, gone):
            # This content was deleted knowingly, and perhaps nobody has its bytes any more: brought back
            # by a change of metadata it might be waited for without end.
            return (Draft(key=gone.item.key, kind=Kind.TOMBSTONE) if live is winner else None), None
        return (written_again(live) if live is loser else None), None
    if loser.item.kind is Kind.DIRECTORY and winner.item.kind is not Kind.DIRECTORY:
        if is_old_news(winner, loser):
            return draft(loser.item, loser.attributes), None  # as above: the directory replaced that content
        # What lives in the directory brings it back, and the device that holds this file's bytes puts
        # them aside then: a write from here, on top of both, would keep that device from doing so.
        return None, None
    if winner.item.kind is Kind.DIRECTORY and loser.item.kind is not Kind.DIRECTORY:
        return None, None if is_old_news(loser, winner) else kept_aside(loser)
    content = winner
    if winner.same_content != loser.same_content:
        winner_is_old, loser_is_old = is_old_news(winner, loser), is_old_news(loser, winner)
        if winner_is_old and not loser_is_old:
            content = loser
        elif winner_is_old or not loser_is_old:
            # No rewrite beside a copy, for the same reason.
            return None, kept_aside(loser)
    mode = mode_of(winner, loser) if winner.item.kind is loser.item.kind else content
    return combined(content, mode, winner), None


def is_old_news(old: Version, new: Version) -> bool:
    """Return whether the content of `old` was known to whoever wrote `new`: it was replaced knowingly."""
    made = content_dot(old.item, old.attributes)
    # A delete may name one write that it knew, though not by its history: see `deletion`.
    return new.item.covers(made) or (not new.item.live and new.attributes.content == made)


def mode_of(winner: Version, loser: Version) -> Version:
    """Return the version whose mode and xattrs are to stay: the only one that changed them, else the winner's."""
    if winner.attributes.choice == loser.attributes.choice:
        return winner
    known_to_loser = loser.item.covers(mode_dot(winner.item, winner.attributes))
    known_to_winner = winner.item.covers(mode_dot(loser.item, loser.attributes))
    return loser if known_to_loser and not known_to_winner else winner


def combined(content: Version, mode: Version, winner: Version) -> Draft | None:
    """Return the write that joins one side's content with one side's mode; None if that is the winner."""
    if content is winner and mode.attributes.choice == winner.attributes.choice:
        return None
    attributes = Attributes(
        mode=mode.attributes.mode,
        mtime_ns=content.attributes.mtime_ns,
        target=content.attributes.target,
        xattrs=mode.attributes.xattrs,
        content=content_dot(content.item, content.attributes),
        chosen=mode_dot(mode.item, mode.attributes),
    )
    return draft(content.item, attributes)


def draft(item: Item, attributes: Attributes, key: bytes | None = None) -> Draft:
    """Return a draft with an item's content."""
    return Draft(
        key=item.key if key is None else key,
        kind=item.kind,
        digest=item.digest,
        size=item.size,
        meta=encode(attributes),
    )


def written_again(version: Version) -> Draft:
    """Return the write that puts a losing version back in its place."""
    attributes = replace(
        version.attributes,
        content=content_dot(version.item, version.attributes),
        chosen=mode_dot(version.item, version.attributes),
    )
    return draft(version.item, attributes)


def kept_aside(loser: Version) -> Draft:
    """Return the write of the conflict copy.

    Several devices may make it, each by a write of its own. It names the write that made the content, so
    that whoever deletes one of them deletes all.
    """
    made = content_dot(loser.item, loser.attributes)
    return draft(loser.item, replace(loser.attributes, content=made, chosen=None), aside_key(loser.item))


def deletion(item: Item) -> Draft:
    """Return the delete of a file or link, naming the write that made its content; of a directory, the plain delete.

    What else the delete knew of that actor may turn out to be no one's (decision 0013): this one write it knew.
    """
    gone = Draft(key=item.key, kind=Kind.TOMBSTONE)
    if item.kind is Kind.DIRECTORY:
        return gone
    made = content_dot(item, decode_or_plain(item.meta))
    return replace(gone, meta=encode(Attributes(mode=0, mtime_ns=0, content=made)))


def aside(loser: Item) -> Draft:
    """Return a losing version as its conflict copy."""
    return kept_aside(Version(loser, decode_or_plain(loser.meta)))
