from __future__ import annotations

import subprocess
import sys
from typing import Any

WRITER = """
import sys
from itertools import count
from p2psyncd.core.ids import ActorId, ShareId
from p2psyncd.core.item import Draft, Kind, supersede
from p2psyncd.core.storage import Stored
from p2psyncd.core.version import Dot
from p2psyncd.store.share import ShareStore

store = ShareStore.open(
    sys.argv[1],
    share_id=ShareId(b"a share's own id"),
    secret=bytes(range(32)),
    mint_actor=lambda: ActorId(b"our self"),
    is_conflict=lambda item: False,
    received_us=lambda: 1,
)
for n in count():
    with store.transaction():
        first = store.next_seq(0, 40)
        store.put(
            Stored(
                item=supersede(
                    Draft(key=b"d%d/%d" % (at % 7, (n * 17 + at) % 900), kind=Kind.FILE, digest=bytes(32)),
                    Dot(store.actor(), first + at),
                    1,
                ),
                state=b"s",
            )
            for at in range(40)
        )
    print(store.arrival(), flush=True)
"""


def test_a_killed_writer_leaves_whole_transactions(share: Any) -> None:
    for commits in (1, 7, 30):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(share.path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(commits)]
            writer.kill()
        store = share.open()
        assert store.arrival() >= said[-1]
        assert store.arrival() % 40 == 0
        assert store.root() == store.rebuilt_root()
        assert store.knowledge()[store.actor()] == max(item.dot.seq for item in store.all_items())
        store.close()
