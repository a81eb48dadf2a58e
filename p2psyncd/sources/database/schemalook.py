"""Finding what apps have changed in the schema: each table, index, view and trigger is an item of its own."""

from __future__ import annotations

from collections.abc import Iterator

from p2psyncd.core.item import Draft, Item
from p2psyncd.sources.database.keys import SCHEMA_TABLE, pack_key
from p2psyncd.sources.database.row import (
    baseline_draft,
    draft,
    edited,
    inserted,
    is_sound,
    removed,
    revived,
    state_of,
)
from p2psyncd.sources.database.schema import Schema, SchemaObject
from p2psyncd.sources.database.show import HELD, Catalogue
from p2psyncd.sources.database.values import Cell, Value, row_hash, same_cell
from p2psyncd.sources.source import Observation

__all__ = ["as_draft", "look_at_schema", "object_cells", "object_key"]


def look_at_schema(store: Catalogue, schema: Schema, *, baseline: bool) -> Iterator[Observation]:
    """Yield the tables, indexes, views and triggers that the app made, changed or took away.

    Args:
        store: What is recorded.
        schema: The file's.
        baseline: Whether this is what was there before the share was.
    """
    listed = {
        row.key: row.state for row in store.below(SCHEMA_TABLE.encode()) if row.state not in {b"", HELD}
    }
    here = {object_key(each): object_cells(each) for each in schema.objects}
    states = {key: row_hash(cells) for key, cells in here.items()}
    differing = [key for key, state in states.items() if listed.get(key) != state]
    gone = [key for key in listed if key not in here]
    known, waiting = store.get_many([*differing, *gone]), store.pending_of([*differing, *gone])
    for key in (*differing, *gone):
        pending, stored = waiting.get(key), known.get(key)
        base = pending.base if pending is not None else stored
        applied = base.state if base is not None else b""
        cells: dict[str, Cell] = dict(here.get(key, {}))
        digest = False
        if key not in here:
            if base is None or not base.item.live:
                continue
            made = draft(key, removed(base.item))
        elif stored is None and baseline:
            made, digest = baseline_draft(key, cells), True
        elif base is not None and base.item.live and is_sound(base.item):
            now = state_of(base.item).cells
            changes = {name: cell for name, cell in cells.items() if not same_cell(cell, now.get(name))}
            made = draft(key, edited(base.item, changes)) if changes else as_draft(base.item)
        elif stored is not None and not stored.item.live and is_sound(stored.item):
            made = draft(key, revived(stored.item, cells))
        else:
            made = draft(key, inserted(cells))
        state = b"" if key not in here else states[key]
        yield Observation(draft=made, state=state, base_state=applied, changed_us=0, baseline=digest)


def object_key(each: SchemaObject) -> bytes:
    """Return the key of a table, index, view or trigger."""
    return pack_key(SCHEMA_TABLE, (each.type, each.name))


def object_cells(each: SchemaObject) -> dict[str, Value]:
    """Return the cells of a table, index, view or trigger."""
    return {"sql": each.sql, "table": each.table}


def as_draft(item: Item) -> Draft:
    """Return what an item says, as a draft that changes nothing."""
    return Draft(key=item.key, kind=item.kind, digest=item.digest, size=item.size, meta=item.meta)
