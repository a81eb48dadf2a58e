"""The anti-entropy session of one share with one peer, without I/O.

Messages go in, effects come out; whoever drives the session carries the effects out in order and
tells the session how the replica stands (`Standing`) whenever it calls. The rules:

1. Both sides say `Hello`. Equal knowledge and equal roots: done, one round trip.
2. Otherwise each side streams its log above the peer's knowledge, then says `Done` with its own
   knowledge joined with what it took in from the peer. From then on both push what arrives.
3. A comparison of roots means something only when both `Done` name the same knowledge. Equal roots:
   the knowledge is committed. Different ones: look again a moment later (writes may be under way);
   if they still differ, the side with the smaller device ID descends the Merkle trie.
4. Knowledge is committed at the very end, after any repair: committing it early brings deleted files
   back (docs/design.md, "Anti-entropy session").
5. A replica forgets tombstones in time; `forgotten` (G) says up to where. A peer whose knowledge in its
   hello does not cover G is *stale*: it missed deletes that can no more be told one by one. What it has
   and we have not, though we know of it, is not lost here but deleted: it is told so (`Gone`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

from p2psyncd.core.ids import BASELINE_ACTOR, ActorId, DeviceId, ShareId
from p2psyncd.core.item import Item
from p2psyncd.core.knowledge import Knowledge, covers, includes, join, knowledge_hash
from p2psyncd.core.merkle import PREFIXES_MAX
from p2psyncd.core.version import Dot, pack_vector, unpack_vector
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.wire.effects import (
    Answer,
    Bury,
    Commit,
    Descend,
    Effect,
    Inspected,
    PeerStanding,
    Recheck,
    Send,
    Standing,
    StreamLog,
    Summarize,
    Supply,
    Take,
)
from p2psyncd.wire.messages import (
    Ask,
    Delta,
    Done,
    Gone,
    Hello,
    Know,
    SessionMessage,
    Summaries,
    Want,
)

__all__ = ["REPAIRS_MAX", "Session", "State"]

# Past this many actors a hello carries only the hash: 64 times 16 bytes = 1 KiB.
HELLO_ACTORS_MAX = 64
# Twice at 8-byte hashes, then at full width; then something is wrong that a descent cannot mend.
NARROW_REPAIRS = 2
REPAIRS_MAX = 5
WANT_MAX = 4096
HEARD_MAX = 100_000
# Far above any share's: ten devices that were each restored a hundred times.
ACTORS_MAX = 4096


class State(Enum):
    """Where a session is."""

    NEW = "new"
    GREETING = "greeting"
    """Our hello is out; the peer's hello (or its knowledge) has not come."""
    STREAMING = "streaming"
    """Our log is on its way."""
    LIVE = "live"
    """Both push what arrives."""


ALLOWED: dict[State, tuple[type[SessionMessage], ...]] = {
    State.NEW: (),
    State.GREETING: (Hello, Know),
    State.STREAMING: (Delta, Done, Know, Ask, Want),
    State.LIVE: (Delta, Done, Know, Ask, Summaries, Want, Gone),
}


@dataclass(slots=True, kw_only=True)
class Session:
    """One side of a session; see the top of the file for the rules."""

    share: ShareId
    our_device: DeviceId
    peer_device: DeviceId
    deaf: bool = False
    """Whether we take nothing in (a send-only share): then what the peer knows does not become ours."""
    state: State = State.NEW
    peer: PeerStanding | None = None
    agreed_root: bytes | None = None
    """The root that both sides had when their knowledge was last equal."""
    repairs: int = 0
    """Descents since the roots last agreed."""

    taken: dict[ActorId, int] = field(default_factory=dict)
    known: Knowledge | None = None
    """The peer's knowledge when the session began; None where it was equal to ours."""
    missed: Knowledge = field(default_factory=dict)
    """The peer's G when the session began: what we lack of it in our own knowledge is why we may be stale."""
    greeted_with: Knowledge = field(default_factory=dict)
    """Our own knowledge when the session began."""
    said_forgotten: Knowledge = field(default_factory=dict)
    """Our G when the session began."""
    heard: set[Dot] = field(default_factory=set)
    """What the peer sent since its last `Done`: no news to it."""
    hello: Hello | None = None
    said: tuple[dict[ActorId, int], bytes, int, int] | None = None
    descending: bool = False
    inspecting: bool = False
    """Whether the descent is only for a person who asked what differs."""
    offered: bool = False
    """Whether a deaf side has looked what the peer lacks of that of which its log does not tell, or never will."""
    offering: bool = False
    """Whether the descent is for that."""
    full: bool = False
    lacking: list[bytes] = field(default_factory=list)
    surplus: list[bytes] = field(default_factory=list)
    to_ask: list[bytes] = field(default_factory=list)
    asked: tuple[bytes, ...] = ()
    rechecking: bool = False
    doubted: tuple[bytes, bytes] | None = None

    def start(self, standing: Standing, *, closings: int = 0) -> list[Send]:
        """Return our hello.

        Args:
            standing: How we stand.
            closings: How many `Closed` of the peer for this share have come on this connection.
        """
        self.state = State.GREETING
        self.greeted_with = dict(standing.knowledge)
        self.said_forgotten = dict(standing.forgotten)
        short = is_short(standing)
        self.said = (
            dict(standing.knowledge),
            standing.root,
            standing.need_items,
            standing.need_size,
        )
        return [
            Send(
                Hello(
                    share=self.share,
                    actor=standing.actor,
                    knowledge_hash=knowledge_hash(standing.knowledge),
                    knowledge=pack_vector(standing.knowledge) if short else b"",
                    root=standing.root,
                    need_items=standing.need_items,
                    need_size=standing.need_size,
                    boot=standing.boot,
                    forgotten=pack_vector(standing.forgotten) if short else b"",
                    closings=closings,
                )
            )
        ]

    def receive(self, message: SessionMessage, standing: Standing) -> list[Effect]:
        """Return what a message makes us do.

        Raises:
            RemoteProtocolError: The message has no place in this state.
        """
        if not isinstance(message, ALLOWED[self.state]):
            what = type(message).__name__
            raise RemoteProtocolError(f"{what} has no place in a session that is {self.state.value}")
        match message:
            case Hello():
                return self.greeted(message, standing)
            case Know():
                return self.informed(unpack_vector(message.knowledge), unpack_vector(message.forgotten))
            case Delta():
                if len(self.heard) > HEARD_MAX:
                    self.heard.clear()  # some of it is sent back then, for nothing
                self.heard.update(item.dot for item in message.items)
                return [Take(message, self.is_stale(standing))]
            case Gone():
                return self.bereaved(message)
            case Done():
                return self.told(message, standing)
            case Ask():
                return [Summarize(message.prefixes, message.full)]
            case Summaries():
                return self.summarized(message)
            case Want():
                return [Answer(message.hashes)]
            case _:
                assert_never(message)

    def greeted(self, hello: Hello, standing: Standing) -> list[Effect]:
        """Handle the peer's hello."""
        if self.hello is not None:
            raise RemoteProtocolError("A second hello came in one session")
        self.hello = hello
        ours = knowledge_hash(standing.knowledge)
        if hello.knowledge_hash == ours:
            self.peer = PeerStanding(
                knowledge=dict(standing.knowledge),
                root=hello.root,
                need_items=hello.need_items,
                need_size=hello.need_size,
            )
            self.state = State.LIVE
            return self.settle(standing)
        effects: list[Effect] = []
        if not is_short(standing):
            known, forgotten = pack_vector(standing.knowledge), pack_vector(standing.forgotten)
            effects.append(Send(Know(share=self.share, knowledge=known, forgotten=forgotten)))
        if hello.knowledge or hello.knowledge_hash == knowledge_hash({}):
            theirs = unpack_vector(hello.knowledge)
            if knowledge_hash(theirs) != hello.knowledge_hash:
                raise RemoteProtocolError("A hello's knowledge does not match its hash")
            return effects + self.informed(theirs, unpack_vector(hello.forgotten))
        return effects

    def informed(self, theirs: Knowledge, missed: Knowledge) -> list[Effect]:
        """Handle the peer's knowledge: stream what it lacks."""
        check_actors(theirs, missed)
        if self.hello is None:
            raise RemoteProtocolError("Knowledge came before the hello")
        if self.state is not State.GREETING:
            return []  # both long: theirs crossed our hello, which was enough
        self.state = State.STREAMING
        self.known, self.missed = dict(theirs), dict(missed)
        return [StreamLog(dict(theirs))]

    def is_stale(self, standing: Standing) -> bool:
        """Return whether the peer missed deletes that are forgotten here by now."""
        return self.known is not None and not includes(self.known, standing.forgotten)

    @property
    def told_forgotten(self) -> bool:
        """Whether the peer knows from our hello that it missed deletes; if not, it does not believe a `Gone`.

        What was forgotten here since, or by another peer whose G we took over, takes another hello.
        """
        return self.known is not None and not includes(self.known, self.said_forgotten)

    def bereaved(self, message: Gone) -> list[Effect]:
        """Handle the word that some of our items were deleted; only a stale device believes it."""
        if includes(self.greeted_with, self.missed):
            raise RemoteProtocolError(
                "The other device calls items deleted whose tombstones it cannot have forgotten"
            )
        return [] if self.deaf else [Bury(message.entries)]

    def streamed(self, standing: Standing) -> list[Effect]:
        """Handle the end of our stream: everything up to `standing.arrival` is on its way."""
        if self.state is State.STREAMING:
            self.state = State.LIVE
            self.said = None
        return self.noticed(standing)

    def knows(self, standing: Standing) -> dict[ActorId, int]:
        """Return our knowledge joined with what the peer's stream brought."""
        return join(standing.knowledge, self.taken)

    def noticed(self, standing: Standing) -> list[Effect]:
        """Say how we stand if that is news; everything up to `standing.arrival` has been sent before."""
        if self.state is not State.LIVE:
            return []
        effects = self.settle(standing)
        now = (self.knows(standing), standing.root, standing.need_items, standing.need_size)
        if now != self.said:
            self.said = now
            effects.append(
                Send(
                    Done(
                        share=self.share,
                        knowledge=pack_vector(now[0]),
                        root=standing.root,
                        need_items=standing.need_items,
                        need_size=standing.need_size,
                    )
                )
            )
        return effects

    def told(self, done: Done, standing: Standing) -> list[Effect]:
        """Handle the peer's word that it has sent all, and how it stands."""
        theirs = unpack_vector(done.knowledge)
        check_actors(self.taken, theirs)
        self.heard.clear()
        if not self.deaf:
            self.taken = join(self.taken, theirs)
        self.peer = PeerStanding(
            knowledge=theirs, root=done.root, need_items=done.need_items, need_size=done.need_size
        )
        return self.settle(standing)

    def is_news(self, item: Item) -> bool:
        """Return whether an item that arrived here may be news to the peer, going by what it said."""
        if item.dot in self.heard or (self.hello is not None and item.dot.actor == self.hello.actor):
            return False
        return self.peer is None or not covers(self.peer.knowledge, item.dot)

    @property
    def pushes(self) -> bool:
        """Whether what arrives here is sent as it comes."""
        return self.state is State.LIVE

    def comparable(self, standing: Standing) -> bool:
        """Return whether both sides name the same knowledge."""
        return self.peer is not None and self.peer.knowledge == self.knows(standing)

    def settle(self, standing: Standing) -> list[Effect]:
        """Commit when knowledge and roots are equal; have another look when only the roots differ."""
        if self.peer is None:
            return []
        if not self.comparable(standing):
            return self.offer(self.peer, standing)
        if self.peer.root == standing.root:
            self.agreed_root = standing.root
            self.repairs = 0
            knowledge = self.knows(standing)
            if knowledge == dict(standing.knowledge):
                return []
            return [Commit(knowledge, {} if self.deaf else self.missed)]
        if self.rechecking or self.descending or self.repairs >= REPAIRS_MAX:
            return []
        self.rechecking = True
        self.doubted = (standing.root, self.peer.root)
        return [Recheck()]

    def offer(self, peer: PeerStanding, standing: Standing) -> list[Effect]:
        """Look once what the peer lacks of what was here before the share was, on a device that only sends.

        That has one dot on all devices, so it is in no log; and what others write never becomes known here, so that
        roots are not compared.
        """
        wanted = self.deaf and BASELINE_ACTOR in standing.knowledge and peer.root != standing.root
        ready = self.state is State.LIVE and includes(peer.knowledge, standing.knowledge)
        if not wanted or not ready or self.offered or self.descending:
            return []
        self.offered = self.offering = self.descending = True
        self.full = False
        self.lacking, self.surplus, self.to_ask = [], [], [b""]
        return [self.ask()]

    def recheck(self, standing: Standing) -> list[Effect]:
        """Handle the moment after `Recheck`: descend if nothing has changed and the roots still differ."""
        if not self.rechecking:
            return []
        self.rechecking = False
        if self.state is not State.LIVE or self.peer is None or not self.comparable(standing):
            return []
        if self.doubted != (standing.root, self.peer.root) or self.our_device > self.peer_device:
            return self.settle(standing) if self.our_device < self.peer_device else []
        self.descending = True
        self.full = self.repairs >= NARROW_REPAIRS
        self.repairs += 1
        self.lacking, self.surplus, self.to_ask = [], [], [b""]
        return [self.ask()]

    def inspect(self) -> list[Effect]:
        """Begin a descent that only tells what differs; nothing if one is under way."""
        if self.state is not State.LIVE or self.descending:
            return []
        self.descending = self.inspecting = True
        self.full = False
        self.lacking, self.surplus, self.to_ask = [], [], [b""]
        return [self.ask()]

    def ask(self) -> Send:
        """Ask for the next nodes of the descent."""
        self.to_ask.sort()
        self.asked, self.to_ask = tuple(self.to_ask[:PREFIXES_MAX]), self.to_ask[PREFIXES_MAX:]
        return Send(Ask(share=self.share, prefixes=self.asked, full=self.full))

    def summarized(self, message: Summaries) -> list[Effect]:
        """Handle the answer to our `Ask`."""
        if not self.descending:
            raise RemoteProtocolError("Summaries came that nobody asked for")
        return [Descend(message.body, self.asked)]

    def descended(
        self, following: Sequence[bytes], lacking: Sequence[bytes], surplus: Sequence[bytes]
    ) -> list[Effect]:
        """Handle one step of the descent.

        Args:
            following: Prefixes of the nodes to ask for next.
            lacking: Key hashes (≥ 8 bytes) of entries that the peer has and we have not, or differently.
            surplus: Keys of items that we have and the peer has not, or differently.
        """
        self.lacking += lacking
        self.surplus += surplus
        self.to_ask += following
        if self.to_ask:
            return [self.ask()]
        self.descending = False
        if self.inspecting:
            self.inspecting = False
            return [Inspected(tuple(self.lacking), tuple(self.surplus))]
        effects: list[Effect] = []
        if self.surplus:
            effects.append(Supply(tuple(self.surplus)))
        if self.offering:
            self.offering = False
            return effects
        effects += [
            Send(Want(share=self.share, hashes=tuple(self.lacking[at : at + WANT_MAX])))
            for at in range(0, len(self.lacking), WANT_MAX)
        ]
        self.said = None  # both look at each other's root again
        return effects


def check_actors(*parts: Knowledge) -> None:
    """Refuse what would make knowledge grow without end.

    Raises:
        RemoteProtocolError: More actors than any share has.
    """
    if len(set().union(*parts)) > ACTORS_MAX:
        raise RemoteProtocolError("The other device names more actors than a share can have")


def is_short(standing: Standing) -> bool:
    """Return whether a hello holds K and G, and not only K's hash."""
    return len(standing.knowledge) + len(standing.forgotten) <= HELLO_ACTORS_MAX
