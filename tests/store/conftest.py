from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2psyncd.core.ids import ActorId, ShareId
from p2psyncd.core.item import Draft, Item, Kind, supersede
from p2psyncd.core.version import Dot
from p2psyncd.store.device import DeviceStore
from p2psyncd.store.share import ShareStore

OpenShare = Callable[..., ShareStore]


class Share:
    """Opens a share's store with what a test does not care about filled in."""

    ID = ShareId(b"a share's own id")
    SECRET = bytes(range(32))
    ACTOR = ActorId(b"our self")

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.now_us = 1_000_000

    def open(self, path: Path | str | None = None, **changes: object) -> ShareStore:
        settings = {
            "share_id": self.ID,
            "secret": self.SECRET,
            "mint_actor": lambda: self.ACTOR,
            "is_conflict": lambda item: item.live and b".conflict-" in item.key,
            "received_us": lambda: self.now_us,
        }
        return ShareStore.open(path or self.path, **(settings | changes))  # type: ignore[arg-type]

    @staticmethod
    def item(
        key: bytes,
        seq: int,
        *,
        actor: bytes = b"another ",
        kind: Kind = Kind.FILE,
        digest: bytes = b"d" * 32,
        size: int = 10,
        vector: bytes = b"",
    ) -> Item:
        live = kind is not Kind.TOMBSTONE
        file = kind is Kind.FILE
        draft = Draft(
            key=key, kind=kind, digest=digest if live else b"", size=size if file else 0, meta=b"meta"
        )
        made = supersede(draft, Dot(ActorId(actor), seq), 1000 + seq)
        return (
            made
            if not vector
            else type(made)(**{name: getattr(made, name) for name in made.__slots__} | {"vector": vector})
        )


@pytest.fixture
def share(tmp_path: Path) -> Share:
    return Share(tmp_path / "share.db")


@pytest.fixture(scope="session")
def share_in_memory() -> type[Share]:
    """For property tests: `share_in_memory(":memory:").open()`."""
    return Share


@pytest.fixture
def store(share: Share) -> Iterator[ShareStore]:
    opened = share.open()
    yield opened
    opened.close()


@pytest.fixture
def device_store(tmp_path: Path) -> Iterator[DeviceStore]:
    opened = DeviceStore.open(tmp_path / "device.db")
    yield opened
    opened.close()
