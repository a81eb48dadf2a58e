"""Making what peers add to the schema in the app's file, in a transaction before that of the rows that came with it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import cbor2

from p2psyncd.core.storage import Pending
from p2psyncd.sources.database.file import DatabaseAccess
from p2psyncd.sources.database.hints import following, install, read_mark, write_mark
from p2psyncd.sources.database.objects import CutOff, Objects
from p2psyncd.sources.database.row import is_sound
from p2psyncd.sources.database.schema import Schema, read_schema, schema_version
from p2psyncd.sources.database.show import Settings
from p2psyncd.sources.faults import Faults
from p2psyncd.sources.source import Failed, Outcome, Surprised

__all__ = ["ObjectMaker"]

log = logging.getLogger(__name__)

MADE = "database-made"
"""The keys of tables, indexes, views and triggers that were made here for a peer."""
EMPTY = cbor2.dumps([])


class ObjectMaker:
    """Makes tables, indexes, views and triggers in one database."""

    def __init__(
        self,
        access: DatabaseAccess,
        store: Settings,
        *,
        propagate: bool,
        without: Collection[str],
        faults: Faults,
    ) -> None:
        """Begin; see `RowApplier`."""
        self.access = access
        self.store = store
        self.propagate = propagate
        self.without = without
        self.faults = faults
        self.cut_off: set[bytes] = set()
        """The keys of what took too long to make."""

    def make(self, batch: Sequence[Pending], schema: Schema) -> tuple[list[Outcome], Schema]:
        """Make what is wanted here; return the outcomes, and the schema then.

        Nothing needs to be noted for after a kill: what is there then is found there.
        """
        sound = [pending for pending in batch if is_sound(pending.item)]
        outcomes: list[Outcome] = [
            Failed(key=pending.item.key, reason="it is no part of a schema")
            for pending in batch
            if not is_sound(pending.item)
        ]
        while True:
            try:
                found, now = self.make_sound(sound, schema)
            except CutOff as cut:
                log.warning("object_takes_too_long key=%r", cut.key)
                self.cut_off.add(cut.key)
            else:
                return [*outcomes, *found], now

    def make_sound(self, batch: Sequence[Pending], schema: Schema) -> tuple[list[Outcome], Schema]:
        """Make what is wanted of some objects that can be read.

        Raises:
            CutOff: One took too long; nothing was done.
        """
        with self.access.writing(quiet=True) as connection:
            if schema_version(connection) != schema.version:
                return [Surprised(key=pending.item.key) for pending in batch], schema
            made = {bytes(key) for key in cbor2.loads(self.store.setting(MADE) or EMPTY)}
            objects = Objects(
                connection,
                schema,
                wanted=self.propagate,
                made=made,
                cut_off=self.cut_off,
                faults=self.faults,
            )
            objects.carry_out(batch)
            if schema_version(connection) != schema.version:
                mark = read_mark(connection)
                schema = read_schema(connection, without=self.without)
                if mark is not None:
                    write_mark(connection, following(mark.number), mark.nonce)
                    install(connection, schema, share=mark.share, device=mark.device)
                    schema = read_schema(connection, without=self.without)
                self.store.set_setting(MADE, cbor2.dumps(sorted(made | objects.made)))
        return objects.outcomes, schema
