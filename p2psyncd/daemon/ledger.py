"""The decisions of one replica, written down: what local changes and remote versions do to the store.

Everything here blocks and runs inside one transaction under the replica's lock. What an item becomes
follows from four cases: the other version is known already (nothing), it is newer (take it), ours is
newer (keep ours), or the two are concurrent (the source merges them; see `sources.source.Merged`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from p2psyncd.core.clock import Clock
from p2psyncd.core.ids import BASELINE_ACTOR, ActorId, DeviceId
from p2psyncd.core.item import Draft, Item, Kind, baseline_item, supersede
from p2psyncd.core.knowledge import covers
from p2psyncd.core.storage import Pending, ShareStorage, Stored
from p2psyncd.core.version import Dot, join_vectors, pack_vector, unpack_vector
from p2psyncd.daemon.page import Page
from p2psyncd.daemon.versions import (
    covers_all,
    folders_above,
    is_passed_over,
    is_plainly_new,
    is_same,
    is_touched_directory,
    same_content,
    shown_as,
)
from p2psyncd.sources.source import Merged, Observation, Side, Source

__all__ = ["Ledger", "Received"]

# While a long stream comes in that is applied as a whole, what is pending is better looked up than remembered.
FRESH_MAX = 50_000


@dataclass(slots=True, kw_only=True)
class Received:
    """What became of items that a peer sent."""

    answers: list[Item] = field(default_factory=list)
    """Our better versions of repaired items, for the peer."""
    changed: set[bytes] = field(default_factory=set)
    """Keys that have another version now."""
    deferred: list[Item] = field(default_factory=list)
    """Not taken: a local edit under the same key must be captured first."""
    gone: list[tuple[bytes, Dot]] = field(default_factory=list)
    """Versions that a stale peer still has: they were deleted, and their tombstones are forgotten."""


class Ledger:
    """Writes versions into a share's store; one writer at a time.

    Every step that makes a version, or takes one in, is durable when it returns: a peer is told of a write
    only then, and nothing is put in place of which this device would know nothing after a power cut.
    """

    def __init__(
        self,
        store: ShareStorage,
        source: Source,
        clock: Clock,
        *,
        announces: bool = True,
        mint: Callable[[int], int] | None = None,
    ) -> None:
        """Begin.

        Args:
            store: The share's storage.
            source: What the share is made of.
            clock: The wall clock.
            announces: Whether local changes become versions (not in receive-only shares).
            mint: Returns the first of n fresh sequence numbers (default: the store's).
        """
        self.store = store
        self.source = source
        self.clock = clock
        self.announces = announces
        self.next_seq = mint or (lambda count: store.next_seq(clock.now_us(), count))
        self.first: int | None = None
        """The first number that this ledger gave, as this actor."""
        self.fresh: dict[bytes, Pending] = {}
        """What became pending since the applier last looked."""
        self.overtaken = False
        """Whether some of that may not be pending any more, or was never written down after all."""
        self.overflowed = False
        """Whether that became too much to be kept in mind."""
        self.former: set[bytes] = set()
        """Keys of directories that became something else and were not looked at since."""

    def page(self, keys: Sequence[bytes]) -> Page:
        """Return what the store says about some keys."""
        stored = self.store.get_many(keys)
        # What is pending is not in place: most keys are either new, or in place.
        waiting = self.store.pending_of([key for key, row in stored.items() if not row.state])
        return Page(stored, waiting, unknown={*keys}.difference(stored))

    def write(self, page: Page) -> None:
        """Hand a page's rows to the store."""
        self.former |= page.former
        if page.puts:
            self.store.put(page.puts.values(), new=page.unknown.issuperset(page.puts))
            self.settled(page.puts)
        if page.pendings:
            self.store.put_pending(page.pendings.values(), new=page.unknown.issuperset(page.pendings))
            self.fresh.update(page.pendings)
            if len(self.fresh) > FRESH_MAX:
                self.fresh.clear()
                self.overflowed = True
        if page.states:
            self.store.set_state(page.states.items())

    def settled(self, keys: Iterable[bytes]) -> None:
        """Note that some items are not pending any more, unless the transaction fails."""
        self.overtaken = self.overtaken or not self.fresh.keys().isdisjoint(keys)

    def mint(self, count: int) -> int:
        """Return the first of `count` fresh sequence numbers."""
        first = self.next_seq(count)
        if self.first is None:
            self.first = first
        return first

    def dot(self) -> Dot:
        """Return the name of a fresh write of this replica."""
        return Dot(self.store.actor(), self.mint(1))

    # Local changes

    def record(self, observations: Sequence[Observation]) -> set[bytes]:
        """Turn observed local changes into versions; return the keys that changed."""
        if not observations:
            return set()
        page = self.page([o.draft.key for o in observations])
        if (
            self.announces
            and len(page.unknown) == len(observations)
            and all(map(is_plainly_new, observations))
        ):
            self.record_new(page, observations)
            return {*page.puts}
        actor = self.store.actor()
        known: list[Observation] = []
        news: list[Observation] = []
        baseline: list[Observation] = []
        for one in observations:
            if one.baseline and one.draft.key not in page.stored:
                baseline.append(one)
            else:
                (known if self.is_known(page, one) else news).append(one)
        with self.store.transaction(durable=bool(news)):
            for observation in observations:
                if observation.chunks:
                    self.store.put_chunk_list(observation.draft.digest, observation.chunks)
            for observation in known:
                page.states[observation.draft.key] = observation.state
            # Numbers only for what others may hear of: one taken for nothing changes what we claim to know.
            first = self.mint(len(news)) if news and self.announces else 0
            for place, observation in enumerate(news):
                self.observe(page, observation, Dot(actor, first + place))
                if observation.partial:
                    self.leave_open(page, observation)
            for observation in baseline:
                page.put(Stored(item=baseline_item(observation.draft), state=observation.state))
            if baseline:
                self.store.commit_knowledge({BASELINE_ACTOR: 0})
            self.write(page)
        return {*page.puts, *page.pendings}

    def record_new(self, page: Page, observations: Sequence[Observation]) -> None:
        """Make versions of observed things under keys of which nothing is known: there is nothing to decide."""
        actor, now = self.store.actor(), self.clock.now_us()
        with self.store.transaction(durable=True):
            first = self.mint(len(observations))
            for seq, one in enumerate(observations, start=first):
                made_us = min(one.changed_us, now) if one.changed_us else now
                item = supersede(one.draft, Dot(actor, seq), made_us)
                page.puts[item.key] = Stored(item=item, state=one.state)
            self.write(page)

    def is_known(self, page: Page, observation: Observation) -> bool:
        """Return whether an observation brings only a new fingerprint of what is recorded and in place."""
        draft = observation.draft
        stored = page.stored.get(draft.key)
        return (
            self.announces
            and stored is not None
            and stored.item.live
            and draft.key not in page.pending
            and stored.state == observation.base_state
            and stored.item.same_value(draft)
        )

    def observe(self, page: Page, observation: Observation, dot: Dot) -> None:
        """Decide about one observed change."""
        draft = observation.draft
        base = page.applied(draft.key)
        if observation.base_state != (base.state if base else b""):
            return  # seen before the store's last word about this key: a later look will tell
        waiting = page.pending.get(draft.key)
        if not self.announces:
            self.tolerate(page, observation, dot)
        elif waiting is not None:
            self.observe_over_pending(page, observation, waiting, base, dot)
        else:
            stored = page.stored.get(draft.key)
            if draft.kind is Kind.TOMBSTONE:
                if stored is not None and stored.item.live:
                    gone = self.deletion(draft, stored.item)
                    item = supersede(gone, dot, self.clock.now_us(), stored.item)
                    page.put(Stored(item=self.knowing_copies(item)))
            elif stored is not None and stored.item.live and stored.item.same_value(draft):
                page.states[draft.key] = observation.state
            else:
                replaced = [stored.item] if stored is not None else []
                item = supersede(draft, dot, self.when(observation), *replaced)
                if replaced:
                    item = self.knowing_copies(item)
                page.put(Stored(item=item, state=observation.state))

    def leave_open(self, page: Page, observation: Observation) -> None:
        """Make a version pending that was recorded as one that is in place, and is so in part only."""
        stored = page.stored.get(observation.draft.key)
        if stored is not None and stored.item.live and stored.state == observation.state:
            page.put_pending(Pending(item=stored.item, base=shown_as(stored.item, stored.state)))

    def deletion(self, draft: Draft, item: Item) -> Draft:
        """Return a local delete's draft, naming what it deletes where that is a write of our own.

        Once this replica goes on as another actor nothing else tells what its delete knew: see `renew`.
        """
        named = draft.kind is Kind.TOMBSTONE and not draft.meta
        ours = self.source.made_by(item).actor == self.store.actor()
        return self.source.deletion(item) if named and ours else draft

    def knowing_copies(self, item: Item, waiting: Item | None = None) -> Item:
        """Return a local write as one that knows the versions whose conflict copies lie, or lay, beside it.

        The winner of a conflict does not claim to know the loser (decision 0010); who writes over the winner, or
        deletes it, had the loser's content beside it. A device that was away, and comes with the loser, would
        bring it back otherwise.

        That write alone, and nothing else of what a copy's own version knows: who made the copy, or edited it, may have
        written under the item's name just before, and nobody has seen that here.

        Args:
            item: The write.
            waiting: A version that is not in place yet, so that whoever wrote had not seen it.
        """
        begin = self.source.copies_begin(item.key)
        copies = self.store.beginning(begin) if begin else []
        if not copies:
            return item
        vector = unpack_vector(item.vector)
        for copy in copies:
            if self.source.is_copy_of(copy.item.key, item.key):
                lost = self.source.lost_write(copy.item)
                if lost is not None and not (
                    waiting is not None and waiting.dot.actor == lost.actor and waiting.dot.seq <= lost.seq
                ):
                    vector = join_vectors(vector, {lost.actor: lost.seq})
        vector.pop(item.dot.actor, None)
        return replace(item, vector=pack_vector(vector))

    def when(self, observation: Observation) -> int:
        """Return when a change was made: edits made while the daemon was down keep their time."""
        now = self.clock.now_us()
        return min(observation.changed_us, now) if observation.changed_us else now

    def observe_over_pending(
        self, page: Page, observation: Observation, waiting: Pending, base: Stored | None, dot: Dot
    ) -> None:
        """Decide about a local change under a key for which a remote version waits to be applied."""
        draft = observation.draft
        if waiting.item.live and waiting.item.same_value(draft):
            page.put(Stored(item=waiting.item, state=observation.state))
        elif base is not None and base.item.dot == waiting.item.dot:
            # What waits is what was there before, and only the rest of it.
            ours = supersede(self.deletion(draft, base.item), dot, self.when(observation), base.item)
            page.put(Stored(item=ours, state=observation.state))
        elif base is not None and (
            base.item.same_value(draft) or is_touched_directory(draft, base.item, waiting.item)
        ):
            # With the metadata that is there: what comes instead of `waiting` must not pass for in place already.
            here = replace(base.item, meta=draft.meta)
            page.put_pending(Pending(item=waiting.item, base=Stored(item=here, state=observation.state)))
        elif draft.kind is Kind.FILE and same_content(waiting.item, draft):
            # It was put in place, and a power cut took the note of that: only its metadata is the user's.
            replaced = [waiting.item, *([base.item] if base is not None else [])]
            ours = supersede(draft, dot, self.when(observation), *replaced)
            page.put(Stored(item=ours, state=observation.state))
        else:
            # A delete, too: an edit that waits beats it, a mere change of metadata does not.
            replaced = [base.item] if base is not None else []
            if base is not None:
                draft = self.deletion(draft, base.item)
            ours = supersede(draft, dot, self.when(observation), *replaced)
            if replaced:
                ours = self.knowing_copies(ours, waiting.item)
            self.merge(page, Stored(item=ours, state=observation.state), waiting.item)

    def tolerate(self, page: Page, observation: Observation, dot: Dot) -> None:
        """Note what is on a receive-only device, so that a version that comes can replace it.

        Nobody hears of it: `dot` names it here only, and takes no number.
        """
        draft = observation.draft
        waiting = page.pending.get(draft.key)
        if waiting is None:
            self.tolerate_over_applied(page, observation)
        elif draft.kind is Kind.TOMBSTONE:
            page.put_pending(Pending(item=waiting.item, base=None))
        elif waiting.item.same_value(draft):
            page.put(Stored(item=waiting.item, state=observation.state))
        else:
            found = Stored(item=supersede(draft, dot, self.when(observation)), state=observation.state)
            page.put_pending(Pending(item=waiting.item, base=found))

    def tolerate_over_applied(self, page: Page, observation: Observation) -> None:
        """Note whether an applied directory is still there: what comes into it later brings it back."""
        draft = observation.draft
        stored = page.stored.get(draft.key)
        if stored is None or stored.item.kind is not Kind.DIRECTORY:
            return
        if draft.kind is Kind.TOMBSTONE:
            page.states[draft.key] = b""
        elif stored.item.same_value(draft):
            page.states[draft.key] = observation.state

    def bring_back_directories(self, page: Page) -> None:
        """Make the missing directories of what is pending pending again, on a receive-only device."""
        above = folders_above(key for key, row in page.pendings.items() if row.item.live)
        missing = [
            row.item
            for row in self.store.get_many(sorted(above - page.pendings.keys())).values()
            if row.item.kind is Kind.DIRECTORY and not row.state
        ]
        for item in missing:
            page.put_pending(Pending(item=item, base=None))

    def reopen(self, shown: Mapping[bytes, bytes]) -> None:
        """Make live items pending again, with what is shown instead as their base (empty: nothing is)."""
        page = self.page(list(shown))
        with self.store.transaction():
            for key, stored in list(page.stored.items()):
                if stored.item.live and page.applied(key) is not None:
                    base = shown_as(stored.item, shown[key]) if shown[key] else None
                    page.put_pending(Pending(item=stored.item, base=base))
            self.write(page)

    # Remote versions

    def receive(
        self,
        items: Sequence[Item],
        devices: Iterable[tuple[ActorId, DeviceId]],
        *,
        repair: bool,
        stale: bool = False,
    ) -> Received:
        """Take in versions that a peer sent.

        Args:
            items: In the peer's order.
            devices: Which device actors belong to.
            repair: Whether the Merkle descent brought them: then the peer gets our better versions.
            stale: Whether the peer missed deletes that are forgotten here. What it has, and we know of
                but have not, was deleted; from any other peer it would be what we lost.
        """
        received = Received()
        page = self.page([item.key for item in items])
        # A device that only receives lets nobody delete anything, and a state that has lost rows says they were deleted.
        known = self.store.knowledge() if stale and self.announces else {}
        with self.store.transaction(durable=True):
            # Of no others: a peer could make up any number of them.
            writers = {item.dot.actor for item in items}
            self.store.learn_actors([(actor, device) for actor, device in devices if actor in writers])
            all_new = not known and page.put_new(items)
            for item in () if all_new else items:
                # Knowing one of the rows that were there before the share was says nothing about another one.
                named = item.dot.actor != BASELINE_ACTOR
                if (
                    item.live
                    and named
                    and covers(known, item.dot)
                    and is_passed_over(item, page.stored.get(item.key))
                ):
                    received.gone.append((item.key, item.dot))
                else:
                    self.take(page, item, received, repair=repair)
            if not self.announces:
                self.bring_back_directories(page)
            self.write(page)
        received.changed = {*page.puts, *page.pendings}
        return received

    def take(self, page: Page, item: Item, received: Received, *, repair: bool) -> None:
        """Decide about one remote version."""
        stored = page.stored.get(item.key)
        if stored is None:
            page.put_pending(Pending(item=item, base=None))
            return
        ours = stored.item
        if ours.dot == item.dot:
            if ours.same_value(item) or not (self.announces or item.dot.actor == BASELINE_ACTOR):
                return
            # One name for two writes: a disk was copied, and both machines went on with the same number at the
            # same time (or a device lies). Ours goes by another name from now on, and the two are concurrent.
            # Of what was there before the share was, a device that only receives names nothing: it takes what wins.
            if self.announces:
                ours = replace(ours, dot=self.dot())
        # Two versions that each claim to know the other are a liar's: two honest devices that hold one each would
        # answer each other with theirs for ever. They are settled as what they are, concurrent.
        newer, older = self.knows(item, ours), self.knows(ours, item)
        base = page.applied(item.key)
        if older and not newer:
            if ours.kind is Kind.DIRECTORY and not item.live and not covers_all(ours, item):
                if self.announces:
                    self.write_again(page, ours, item, base)
            elif repair:
                received.answers.append(ours)
            return
        if newer and not older:
            # What ours was united with, its writer may never have heard of: a delete, whose word would be lost.
            self.take_newer(page, item if covers_all(item, ours) else item.knowing(ours), base)
        elif not self.merge(page, Stored(item=ours, state=stored.state), item, base=base):
            received.deferred.append(item)
        elif repair and self.must_answer(item, ours) and is_same(page.stored[item.key].item, ours):
            received.answers.append(page.stored[item.key].item)

    def must_answer(self, item: Item, ours: Item) -> bool:
        """Return whether who brought a version that lost to ours would never hear of ours otherwise.

        What was there before the share was has one name on all devices. And a delete is in no trie: who has forgotten it, or
        never had it, would bring the other version for ever.
        """
        untold = self.announces and not self.source.whole and item.live and not ours.live
        return untold or item.dot.actor == BASELINE_ACTOR

    def write_again(self, page: Page, ours: Item, gone: Item, base: Stored | None) -> None:
        """Write a directory that stands against a delete that is forgotten here: in knowledge of it, as it could not be named before.

        Who remembers it, and not that it may be forgotten, would hold it against what its own device made there since. What is
        more than a directory those write again themselves.
        """
        draft = Draft(key=ours.key, kind=ours.kind, digest=ours.digest, size=ours.size, meta=ours.meta)
        again = supersede(draft, self.dot(), self.clock.now_us(), ours, gone)
        if base is not None and self.is_in_place(base, again):
            page.put(Stored(item=again, state=base.state))
        else:
            page.put_pending(Pending(item=again, base=base))

    def knows(self, item: Item, other: Item) -> bool:
        """Return whether a version was written in knowledge of another one.

        What was there before the share was has one dot on all devices, whatever it is: the source tells whether it is
        the one that was known.
        """
        if not item.covers(other.dot):
            return False
        if other.dot.actor == BASELINE_ACTOR:
            return self.source.knows_baseline(item, other)
        # Of a machine that was set back, or copied, a later write goes by the same actor and knows nothing of an
        # earlier one: what that had been united with tells. And a delete that was united with another one has one name
        # with what it was before: who wrote in knowledge of that may never have heard of the other.
        # Of a folder's later content that is not asked: what it replaces goes to history. What a delete does not know
        # is nowhere, where it was not in place yet.
        if (item.live and other.live and not self.source.whole) or covers_all(item, other):
            return True
        # Unless its actor may have forgotten that delete: then the later write cannot name what that knew.
        return not other.live and covers(self.store.forgotten(), other.dot)

    def take_newer(self, page: Page, item: Item, base: Stored | None) -> None:
        """Take a version that was written in knowledge of ours."""
        if base is not None and self.is_in_place(base, item):
            page.put(Stored(item=item, state=base.state))
        else:
            page.put_pending(Pending(item=item, base=base))

    def is_in_place(self, here: Stored, item: Item) -> bool:
        """Return whether nothing is to be done for a version: what it says is in place already.

        Of a source that is one whole who wrote it, and when, may decide about other things than this one: who of two rows
        has a value.
        """
        same = item.live and here.item.same_value(item)
        return same and (not self.source.whole or here.item.dot == item.dot)

    def merge(self, page: Page, ours: Stored, theirs: Item, *, base: Stored | None = None) -> bool:
        """Settle two concurrent versions; return False if a local edit must be captured first.

        Args:
            page: Where the outcome goes.
            ours: Our version; its state is empty if it is not applied here.
            theirs: The other version.
            base: What is applied here if `ours` is not.
        """
        merged = self.merged(ours.item, theirs)
        here = ours if ours.state else base
        if merged.aside is not None and here is not None and self.announces:
            loser = theirs if merged.winner is Side.OURS else ours.item
            if not self.keep_aside(page, here, loser, merged.aside):
                return False
            if ours.item.dot.actor == theirs.dot.actor:
                self.announce_aside(page, loser, merged.aside)
        if merged.rewrite is not None and self.announces:
            item = supersede(merged.rewrite, self.dot(), self.clock.now_us(), ours.item, theirs)
        else:
            winner, loser = (ours.item, theirs) if merged.winner is Side.OURS else (theirs, ours.item)
            if merged.rewrite is not None and merged.rewrite.kind is not Kind.TOMBSTONE and not winner.live:
                # An edit beats a delete. Who only receives cannot write it again in knowledge of both, and where the delete
                # is forgotten nobody does.
                winner, loser = loser, winner
            # A winner that claimed to know the loser would replace it, where its bytes are, without a copy; and a
            # delete that claimed to know an edit would delete it, where somebody could have written it again.
            unsettled = merged.aside is not None or merged.rewrite is not None
            item = winner if unsettled else winner.knowing(loser)
            stored = page.stored.get(item.key)
            if item is ours.item and stored is not None and stored.item is item:
                return True
        if here is not None and self.is_in_place(here, item):
            page.put(Stored(item=item, state=here.state))
        else:
            page.put_pending(Pending(item=item, base=here))
        return True

    def merged(self, ours: Item, theirs: Item) -> Merged:
        """Return what becomes of two concurrent versions.

        A delete of our own that loses to an edit may be told to nobody, and whoever else has what was deleted would keep
        it: we write the edit again, in knowledge of both, as others do where the delete comes later than the edit.
        """
        merged = self.source.merge(ours, theirs)
        if merged != Merged(winner=Side.THEIRS) or ours.live or ours.dot.actor != self.store.actor():
            return merged
        if all(theirs.covers(Dot(*entry)) for entry in unpack_vector(ours.vector).items()):
            return merged
        return replace(merged, rewrite=self.source.merge(replace(ours, hlc=theirs.hlc + 1), theirs).rewrite)

    def keep_aside(self, page: Page, here: Stored, loser: Item, aside: Draft) -> bool:
        """Write a losing version under its conflict copy's name, if its bytes are what is here."""
        if not same_content(here.item, aside) or self.store.get(aside.key) is not None:
            return True  # another device holds those bytes; or the copy was made already
        state = self.source.preserve(here, aside.key)
        if state is None:
            return False
        # It knows the loser, though that has another key: a delete of any such copy is then known to have
        # been a delete of this content.
        made = supersede(aside, self.dot(), self.clock.now_us()).knowing(loser)
        copy = Stored(item=made, state=state)
        meta = self.source.aside(here.item).meta
        if meta == aside.meta:
            page.put(copy)
        else:  # its mode and time are still to be set, and until then it must not pass for another device's copy
            page.put_pending(Pending(item=made, base=replace(copy, item=replace(made, meta=meta))))
        return True

    def give_up(self, keys: Sequence[bytes], digests: Collection[bytes]) -> list[bytes]:
        """Write what is in place over pending versions whose content nobody has; return their keys."""
        page = self.page(keys)
        with self.store.transaction(durable=True):
            for key, waiting in list(page.pending.items()):
                lost, base = waiting.item, waiting.base
                if lost.digest not in digests:
                    continue
                old = base.item if base is not None else Draft(key=key, kind=Kind.TOMBSTONE)
                draft = Draft(key=key, kind=old.kind, digest=old.digest, size=old.size, meta=old.meta)
                replaced = [lost] if base is None else [lost, base.item]
                item = supersede(draft, self.dot(), self.clock.now_us(), *replaced)
                page.put(Stored(item=item, state=base.state if base is not None else b""))
            self.write(page)
        return list(page.puts)

    def announce_aside(self, page: Page, loser: Item, aside: Draft) -> None:
        """Write a losing version's copy though its bytes are elsewhere: nobody else will.

        A later write of the same actor stands for knowing the earlier one, and here it did not: a local
        edit under a name for which a version waits that this device itself wrote again. Or whoever holds
        the bytes takes nothing in.
        """
        if aside.key not in page.puts and self.store.get(aside.key) is None:
            copy = supersede(aside, self.dot(), self.clock.now_us()).knowing(loser)
            page.put_pending(Pending(item=copy, base=None))

    def bury(self, entries: Sequence[tuple[bytes, Dot]]) -> set[bytes]:
        """Delete versions that everybody else saw deleted long ago; return the keys that changed.

        What was written on top of them here since is new work, and stays.
        """
        page = self.page([key for key, _ in entries])
        with self.store.transaction(durable=True):
            for key, dot in entries:
                stored = page.stored.get(key)
                if stored is not None and stored.item.live and stored.item.dot == dot:
                    draft = self.source.buried(stored.item)
                    item = supersede(draft, self.dot(), self.clock.now_us(), stored.item)
                    page.put_pending(Pending(item=item, base=page.applied(key)))
            self.write(page)
        return {*page.puts, *page.pendings}

    # Going on as another actor

    def renew(self, actor: ActorId, *, since: int) -> int:
        """Go on as another actor, because this one went on elsewhere; return how many writes were stamped again.

        Args:
            actor: The new one.
            since: The last write of the old actor that is surely no other's: what it wrote here
                afterwards is stamped again.
        """
        old = self.store.actor()
        with self.store.transaction(durable=True):
            written = self.store.written_by(old, above=since)
            self.store.renew_actor(actor)
            self.first = None
            # What it wrote elsewhere is learned from those who know; they know what it wrote here before, too.
            self.store.lower_knowledge(old, -1)
            page = self.page([item.key for item in written])
            for item in written:
                base = page.applied(item.key)
                waiting = item.key in page.pending
                # What it knew of the old actor's writes was all from before they parted.
                known = {**unpack_vector(item.vector), **({old: since} if since >= 0 else {})}
                again = self.source.stamped_again(replace(item, vector=pack_vector(known)), self.dot(), since)
                if waiting:
                    page.put_pending(Pending(item=again, base=base))
                else:
                    page.put(Stored(item=again, state=base.state if base is not None else b""))
            self.write(page)
        return len(written)

    def mend(self, changed: Iterable[bytes]) -> int:
        """Make merged versions fit together again, as the source says; return how many writes that took."""
        written = 0
        unsettled = set(changed) if self.announces else set()
        while unsettled and (drafts := self.source.mend(unsettled)):
            unsettled = self.overwrite(drafts)
            written += len(unsettled)
        return written

    def overwrite(self, drafts: Sequence[Draft]) -> set[bytes]:
        """Write drafts over the newest versions; they are still to be applied here, too. Return their keys."""
        page = self.page([draft.key for draft in drafts])
        with self.store.transaction(durable=True):
            for draft in drafts:
                stored = page.stored.get(draft.key)
                replaced = [stored.item] if stored is not None else []
                item = supersede(draft, self.dot(), self.clock.now_us(), *replaced)
                page.put_pending(Pending(item=item, base=page.applied(draft.key)))
            self.write(page)
        return {*page.puts, *page.pendings}

    # The shape of the tree

    def settle_structure(
        self,
        changed: Iterable[bytes],
        directory: Callable[[bytes, Item | None], Draft],
        *,
        stuck: Collection[bytes] = (),
    ) -> int:
        """Make sure that every live item lies in a live directory; return how many writes that took.

        A directory deleted here and given a child there comes back; where a file took a directory's
        name, the directory keeps it and the file goes aside (by the device that holds its bytes).

        Args:
            changed: Keys that changed, from one moment of the device that changed them: half a stream
                may hold a directory's delete and not yet its children's.
            directory: Makes the draft of a directory, from its key and its earlier version.
            stuck: Keys that have waited for a while. What takes a directory's name there is put aside from here:
                a device that only sends holds its bytes, perhaps, and never does it.
        """
        written = 0
        unsettled = {*changed, *stuck} if self.announces else set()
        while unsettled:
            stored = self.store.get_many(sorted(unsettled))
            suspects = {
                key
                for key, row in stored.items()
                if (key in self.former or key in stuck)
                and row.item.kind is not Kind.DIRECTORY
                and self.store.live_below(key)
            }
            # What lives in anything else came lately itself, and is found by its parent.
            self.former -= stored.keys()
            parents = {key.rpartition(b"/")[0] for key, row in stored.items() if row.item.live}
            parents.discard(b"")
            known = self.store.get_many(sorted(parents))
            for parent in parents:
                row = known.get(parent)
                if row is None or row.item.kind is not Kind.DIRECTORY:
                    suspects.add(parent)
            unsettled = self.revive(sorted(suspects), directory, stuck) if suspects else set()
            written += len(unsettled)
        return written

    def revive(
        self,
        keys: Sequence[bytes],
        directory: Callable[[bytes, Item | None], Draft],
        stuck: Collection[bytes],
    ) -> set[bytes]:
        """Write directories where live items lie below something else; return the keys written."""
        page = self.page(keys)
        with self.store.transaction(durable=True):
            for key in keys:
                stored = page.stored.get(key)
                old = stored.item if stored is not None else None
                if old is not None and old.live:
                    applied = page.applied(key)
                    if applied is not None and same_content(applied.item, old):
                        if not self.keep_aside(page, applied, old, self.source.aside(old)):
                            continue
                    elif key in stuck:
                        self.announce_aside(page, old, self.source.aside(old))
                    else:
                        continue  # not our bytes: the device that holds them decides
                replaced = [old] if old is not None else []
                item = supersede(directory(key, old), self.dot(), self.clock.now_us(), *replaced)
                page.put_pending(Pending(item=item, base=page.applied(key)))
            self.write(page)
        return {*page.puts, *page.pendings}
