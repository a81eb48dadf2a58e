"""Sessions as transcripts: messages in, effects out, no socket in sight."""

from __future__ import annotations

import pytest

from p2psyncd.core.ids import BASELINE_ACTOR, ActorId, DeviceId, ShareId
from p2psyncd.core.item import Item, Kind
from p2psyncd.core.knowledge import knowledge_hash
from p2psyncd.core.version import Dot, pack_vector
from p2psyncd.errors import RemoteProtocolError
from p2psyncd.wire.effects import (
    Answer,
    Commit,
    Descend,
    Inspected,
    Recheck,
    Send,
    Standing,
    StreamLog,
    Summarize,
    Supply,
    Take,
)
from p2psyncd.wire.messages import Ask, Boot, Delta, Done, Hello, Know, Summaries, Want
from p2psyncd.wire.session import REPAIRS_MAX, Session, State

SHARE = ShareId(b"s" * 16)
A, B = ActorId(b"a" * 8), ActorId(b"b" * 8)
ROOT, OTHER = b"r" * 32, b"o" * 32
BOOT = Boot(number=1, nonce=b"n" * 8)


def standing(
    knowledge: dict[ActorId, int] | None = None, root: bytes = ROOT, need: int = 0, arrival: int = 0
) -> Standing:
    return Standing(
        actor=A,
        knowledge=knowledge if knowledge is not None else {A: 1},
        root=root,
        need_items=need,
        need_size=need,
        arrival=arrival,
    )


def session(*, smaller: bool = True) -> Session:
    ours, peer = (b"1" * 32, b"2" * 32) if smaller else (b"2" * 32, b"1" * 32)
    return Session(share=SHARE, our_device=DeviceId(ours), peer_device=DeviceId(peer))


def hello(knowledge: dict[ActorId, int], root: bytes = ROOT) -> Hello:
    return Hello(
        share=SHARE,
        actor=B,
        knowledge_hash=knowledge_hash(knowledge),
        knowledge=pack_vector(knowledge),
        root=root,
        need_items=0,
        need_size=0,
        boot=BOOT,
    )


def done(knowledge: dict[ActorId, int], root: bytes = ROOT) -> Done:
    return Done(share=SHARE, knowledge=pack_vector(knowledge), root=root, need_items=0, need_size=0)


def live(*, smaller: bool = True) -> Session:
    """A session whose two sides agreed at once."""
    made = session(smaller=smaller)
    made.start(standing())
    made.receive(hello({A: 1}), standing())
    return made


def item(actor: ActorId, seq: int) -> Item:
    return Item(key=b"k", kind=Kind.DIRECTORY, digest=b"", size=0, meta=b"", dot=Dot(actor, seq), hlc=1)


def test_equal_knowledge_and_roots_need_one_round_trip() -> None:
    ours = session()
    (first,) = ours.start(standing())
    assert isinstance(first, Send)
    assert isinstance(first.message, Hello)
    assert ours.receive(hello({A: 1}), standing()) == []
    assert ours.noticed(standing()) == []
    assert ours.state is State.LIVE
    assert ours.agreed_root == ROOT


def test_each_side_streams_what_the_other_lacks_and_commits_at_the_end() -> None:
    ours = session()
    ours.start(standing())
    assert ours.receive(hello({B: 7}), standing()) == [StreamLog({B: 7})]
    (said,) = ours.streamed(standing(root=OTHER))
    assert isinstance(said, Send)
    assert isinstance(said.message, Done)
    delta = Delta(share=SHARE, items=(item(B, 7),))
    assert ours.receive(delta, standing()) == [Take(delta, False)]
    # The peer has taken ours in: it names both, and has the root that we have too.
    assert ours.receive(done({A: 1, B: 7}), standing()) == [Commit({A: 1, B: 7}, {})]
    (said,) = ours.noticed(standing({A: 1, B: 7}))
    assert isinstance(said, Send)
    assert ours.noticed(standing({A: 1, B: 7})) == []


def test_knowledge_is_not_committed_while_roots_differ() -> None:
    ours = live()
    assert ours.receive(done({A: 1, B: 7}, root=OTHER), standing()) == [Recheck()]


def test_different_knowledge_is_never_compared() -> None:
    ours = live()
    assert ours.receive(done({B: 7}, root=OTHER), standing()) == []


def test_writes_under_way_do_not_start_a_descent() -> None:
    ours = live()
    ours.receive(done({A: 1}, root=OTHER), standing())
    assert ours.recheck(standing(root=OTHER)) == []
    assert not ours.descending


def test_the_side_with_the_smaller_device_id_descends() -> None:
    ours = live()
    assert ours.receive(done({A: 1}, root=OTHER), standing()) == [Recheck()]
    assert ours.recheck(standing()) == [Send(Ask(share=SHARE, prefixes=(b"",), full=False))]
    summaries = Summaries(share=SHARE, body=["body"])
    assert ours.receive(summaries, standing()) == [Descend(["body"], (b"",))]
    assert ours.descended([b"\x02", b"\x01"], [], []) == [
        Send(Ask(share=SHARE, prefixes=(b"\x01", b"\x02"), full=False))
    ]
    assert ours.descended([], [b"h" * 8], [b"key"]) == [
        Supply((b"key",)),
        Send(Want(share=SHARE, hashes=(b"h" * 8,))),
    ]
    assert not ours.descending


def test_the_other_side_waits_for_the_descent() -> None:
    theirs = live(smaller=False)
    assert theirs.receive(done({A: 1}, root=OTHER), standing()) == [Recheck()]
    assert theirs.recheck(standing()) == []


def test_repairs_end_even_if_the_roots_never_agree() -> None:
    ours = live()
    asked = []
    ours.receive(done({A: 1}, root=OTHER), standing())
    for _ in range(REPAIRS_MAX + 3):
        effects = ours.recheck(standing())
        asked += [e for e in effects if isinstance(e, Send)]
        ours.descended([], [], [])
        ours.noticed(standing())
    assert len(asked) == REPAIRS_MAX
    widths = [e.message.full for e in asked if isinstance(e.message, Ask)]
    assert widths == [False, False, True, True, True]


def test_questions_are_answered_whatever_the_state_of_our_own_descent() -> None:
    ours = live()
    assert ours.receive(Ask(share=SHARE, prefixes=(b"",)), standing()) == [Summarize((b"",), full=False)]
    assert ours.receive(Want(share=SHARE, hashes=(b"h" * 8,)), standing()) == [Answer((b"h" * 8,))]


def test_an_inspection_tells_and_repairs_nothing() -> None:
    ours = live()
    assert ours.inspect() == [Send(Ask(share=SHARE, prefixes=(b"",), full=False))]
    assert ours.inspect() == []
    assert ours.descended([], [b"h" * 8], [b"key"]) == [Inspected((b"h" * 8,), (b"key",))]
    assert ours.repairs == 0


def test_what_the_peer_sent_is_no_news_to_it() -> None:
    ours = live()
    ours.receive(Delta(share=SHARE, items=(item(ActorId(b"c" * 8), 5),)), standing())
    assert not ours.is_news(item(ActorId(b"c" * 8), 5))
    assert not ours.is_news(item(B, 9))
    assert not ours.is_news(item(A, 1))
    assert ours.is_news(item(A, 2))


def test_long_knowledge_follows_the_hello_only_where_it_differs() -> None:
    many = {ActorId(n.to_bytes(8, "big")): n for n in range(100)}
    ours = session()
    (first,) = ours.start(standing(many))
    assert isinstance(first, Send)
    assert isinstance(first.message, Hello)
    assert first.message.knowledge == b""
    short = Hello(
        share=SHARE,
        actor=B,
        knowledge_hash=knowledge_hash({**many, B: 1}),
        knowledge=b"",
        root=ROOT,
        need_items=0,
        need_size=0,
        boot=BOOT,
    )
    (sent,) = ours.receive(short, standing(many))
    assert isinstance(sent, Send)
    assert isinstance(sent.message, Know)
    know = Know(share=SHARE, knowledge=pack_vector({**many, B: 1}))
    assert ours.receive(know, standing(many)) == [StreamLog({**many, B: 1})]


def test_an_empty_peer_needs_no_second_message_to_say_so() -> None:
    ours = session()
    ours.start(standing())
    assert ours.receive(hello({}), standing()) == [StreamLog({})]


def test_a_send_only_side_never_makes_the_peers_knowledge_its_own() -> None:
    ours = session()
    ours.deaf = True
    ours.start(standing())
    ours.receive(hello({B: 7}), standing())
    ours.streamed(standing())
    assert ours.receive(done({A: 1, B: 7}), standing()) == []
    assert ours.knows(standing()) == {A: 1}


def test_a_send_only_side_looks_once_what_the_peer_lacks_of_the_first_sight() -> None:
    here = standing({A: 1, BASELINE_ACTOR: 0})
    ours = session(smaller=False)
    ours.deaf = True
    ours.start(here)
    ours.receive(hello({B: 7, BASELINE_ACTOR: 0}, OTHER), here)
    ours.streamed(here)
    assert ours.receive(done({B: 7, BASELINE_ACTOR: 0}, OTHER), here) == [], "it has not heard all yet"
    (sent,) = ours.receive(done({A: 1, B: 7, BASELINE_ACTOR: 0}, OTHER), here)
    assert sent == Send(Ask(share=SHARE, prefixes=(b"",)))
    assert ours.receive(Summaries(share=SHARE, body=[]), here) == [Descend([], (b"",))]
    assert ours.descended([], [b"h" * 8], [b"row"]) == [Supply((b"row",))], "it wants nothing"
    assert ours.receive(done({A: 1, B: 8, BASELINE_ACTOR: 0}, OTHER), here) == []


@pytest.mark.parametrize(
    "message",
    [
        Delta(share=SHARE, items=()),
        done({A: 1}),
        Ask(share=SHARE, prefixes=(b"",)),
        Want(share=SHARE, hashes=()),
    ],
    ids=lambda m: type(m).__name__,
)
def test_nothing_has_a_place_before_the_hello(message: Delta | Done | Ask | Want) -> None:
    ours = session()
    ours.start(standing())
    with pytest.raises(RemoteProtocolError, match="no place"):
        ours.receive(message, standing())


def test_a_second_hello_a_false_hash_and_unasked_summaries_are_refused() -> None:
    ours = live()
    with pytest.raises(RemoteProtocolError):
        ours.receive(hello({A: 1}), standing())
    with pytest.raises(RemoteProtocolError):
        ours.receive(Summaries(share=SHARE, body=[]), standing())
    fresh = session()
    fresh.start(standing())
    with pytest.raises(RemoteProtocolError, match="hash"):
        fresh.receive(
            Hello(
                share=SHARE,
                actor=B,
                knowledge_hash=b"x" * 16,
                knowledge=pack_vector({B: 7}),
                root=ROOT,
                need_items=0,
                need_size=0,
                boot=BOOT,
            ),
            standing(),
        )
    unheard = session()
    unheard.start(standing())
    with pytest.raises(RemoteProtocolError, match="before the hello"):
        unheard.receive(Know(share=SHARE, knowledge=b""), standing())
