"""Rows that refer to a parent which is deleted: what the app's own database would have made of them, had it seen both.

One device deletes a parent, another gives it a child: each of the two is right by itself. What the reference declares
decides: CASCADE deletes the child, SET NULL and SET DEFAULT let go of the parent, anything else brings it back. That is a
new write on top of the two, equal on whichever device makes it. An app that leaves orphans itself, or makes
them, does not enforce its references, and its rows stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

import apsw

from p2psyncd.core.item import Draft, Item
from p2psyncd.sources.database.culprits import find_culprits
from p2psyncd.sources.database.defaults import UnknownDefault, default_of
from p2psyncd.sources.database.keys import pack_key, unpack_key
from p2psyncd.sources.database.row import (
    UNENFORCED,
    RowState,
    draft,
    edited,
    is_sound,
    removed,
    revived,
    state_of,
)
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.schema import ForeignKey, Schema, Table
from p2psyncd.sources.database.show import Catalogue, Identities, Places, View, as_value, collations, natural
from p2psyncd.sources.database.values import Cell, Ref, same_cell
from p2psyncd.sources.faults import ROW_FAULTS, Faults

__all__ = ["Mender"]

PENDING_PAGE = 1000
FAULTS = (apsw.SQLError, apsw.BindingsError, *ROW_FAULTS)


class Mender:
    """Looks after the orphans that some changes leave; works on the newest versions, applied or not."""

    def __init__(self, schema: Schema, store: Catalogue, places: Places, connection: apsw.Connection) -> None:
        """Begin.

        Args:
            schema: The app's.
            store: What is known.
            places: Where rows are shown.
            connection: The app's file, to find the children that are shown in it.
        """
        self.schema = schema
        self.store = store
        self.places = places
        self.rows = Rows(connection)
        self.identities = Identities(schema, places, View(store))
        self.children: dict[str, list[tuple[Table, ForeignKey]]] = {}
        for table in schema.tables.values():
            for foreign in table.foreign_keys:
                if foreign.parent in schema.tables and len(foreign.columns) == len(foreign.parent_columns):
                    self.children.setdefault(foreign.parent, []).append((table, foreign))
        self.related = {
            pack_key(table.name, (0,)).partition(b"/")[0]: table
            for table in schema.tables.values()
            if table.foreign_keys or table.name in self.children
        }
        """The tables that have parents or children, by how their rows' keys begin."""

    def mend_all_but_faults(
        self, changed: Collection[bytes], faults: Faults
    ) -> tuple[list[Draft], dict[bytes, str]]:
        """Return what `mend` does, without the rows on which it fails for a reason that nobody foresaw; and these, with the reason."""
        try:
            return self.mend(changed), {}
        except FAULTS:
            found = {
                key: faults.reason("looking after a row's parents and children", error)
                for key, error in find_culprits(sorted(changed), self.attempt)
            }
        return self.mend(set(changed) - found.keys()), found

    def attempt(self, changed: Collection[bytes]) -> Exception | None:
        """Return what `mend` fails by."""
        try:
            self.mend(changed)
        except FAULTS as error:
            return error
        return None

    def mend(self, changed: Collection[bytes]) -> list[Draft]:
        """Return the writes that make changed rows fit their parents and children; what they entail is for the next call."""
        drafts: dict[bytes, Draft] = {}
        # Most tables have neither parents nor children, and most changes are to many rows at once.
        related = sorted(key for key in changed if key.partition(b"/")[0] in self.related)
        children: list[tuple[Table, Item, ForeignKey, bytes]] = []
        for key, stored in self.store.get_many(related).items():
            item, table = stored.item, self.related[key.partition(b"/")[0]]
            if not is_sound(item):
                continue
            if item.live:
                children += self.with_parents(table, item)
            elif table.name in self.children:
                for child_table, foreign in self.children[table.name]:
                    for child in self.children_of(table, item, child_table, foreign):
                        self.settle(child_table, child, foreign, item, drafts)
        parents = self.store.get_many(sorted({parent for *_, parent in children}))
        for table, child, foreign, key in children:
            parent = parents.get(key)
            if parent is not None and not parent.item.live and is_sound(parent.item):
                self.settle(table, child, foreign, parent.item, drafts)
        return [drafts[key] for key in sorted(drafts)]

    # From the child

    def with_parents(self, table: Table, child: Item) -> Iterator[tuple[Table, Item, ForeignKey, bytes]]:
        """Yield a row with each of its references and the key of the parent that it means."""
        if table.foreign_keys:
            cells = state_of(child).cells
            for foreign in table.foreign_keys:
                key = self.parent_key(foreign, cells)
                if key is not None:
                    yield table, child, foreign, key

    def parent_key(self, foreign: ForeignKey, cells: dict[str, Cell]) -> bytes | None:
        """Return the key of the row that a reference means; None where that is not its primary key, or nothing."""
        parent = self.schema.tables.get(foreign.parent)
        if parent is None or set(foreign.parent_columns) != set(parent.pk):
            return None
        by_column = dict(zip(foreign.parent_columns, (cells.get(c) for c in foreign.columns), strict=False))
        meant = [by_column[column] for column in parent.pk]
        if any(cell is None for cell in meant):
            return None
        if parent.has_births(self.schema) and isinstance(meant[0], Ref):
            return pack_key(parent.name, (meant[0].pk,), meant[0].birth)
        return pack_key(parent.name, meant, collations=collations(parent))

    # From the parent

    def children_of(
        self, table: Table, parent: Item, child_table: Table, foreign: ForeignKey
    ) -> Iterator[Item]:
        """Yield the live rows whose newest version refers to a deleted row."""
        state = state_of(parent)
        meant = self.meant(table, parent.key, state, foreign)
        if meant is None:
            return
        keys = {
            *self.shown_children(parent.key, table, child_table, foreign, meant),
            *self.waiting(child_table),
            *(key for key in self.places.held if unpack_key(key).table == child_table.name),
        }
        for stored in self.store.get_many(sorted(keys)).values():
            if stored.item.live and is_sound(stored.item):
                cells = state_of(stored.item).cells
                if all(same_cell(cells.get(c), cell) for c, cell in zip(foreign.columns, meant, strict=True)):
                    yield stored.item

    def meant(self, table: Table, key: bytes, state: RowState, foreign: ForeignKey) -> list[Cell] | None:
        """Return the cells of a reference to a row; None if they are not known, or NULL."""
        at = unpack_key(key)
        found: list[Cell] = []
        for column in foreign.parent_columns:
            if at.birth and (column,) == table.pk:
                (number,) = natural(at)
                found.append(Ref(number, at.birth) if isinstance(number, int) else number)
            elif state.cells.get(column) is not None:
                found.append(state.cells[column])
            else:
                return None
        return found

    def shown_children(
        self, parent: bytes, table: Table, child_table: Table, foreign: ForeignKey, meant: Sequence[Cell]
    ) -> Iterator[bytes]:
        """Yield the rows that are shown with a reference to where a row is, or was."""
        key = self.places.held.get(parent) or parent
        place = self.places.moved.get(key) if foreign.parent_columns == table.pk else None
        values = {tuple(as_value(cell) for cell in meant), *([place] if place is not None else [])}
        for shown in values:
            for child in self.rows.find(child_table, foreign.columns, shown):
                found = self.identities.at(child_table, child)
                if found is not None:
                    yield found

    def waiting(self, table: Table) -> Iterator[bytes]:
        """Yield the rows of a table that are not applied yet."""
        prefix = pack_key(table.name, (0,)).partition(b"/")[0] + b"/"
        after = prefix
        while True:
            page = self.store.pending(limit=PENDING_PAGE, after=after)
            for pending in page:
                if not pending.item.key.startswith(prefix):
                    return
                yield pending.item.key
            if len(page) < PENDING_PAGE:
                return
            after = page[-1].item.key

    # What becomes of them

    def settle(
        self, table: Table, child: Item, foreign: ForeignKey, parent: Item, drafts: dict[bytes, Draft]
    ) -> None:
        """Decide about a child and its deleted parent."""
        if child.key in drafts or parent.key in drafts:
            return
        if (state_of(child).flags | state_of(parent).flags) & UNENFORCED:
            return
        changes: dict[str, Cell] = {}
        match foreign.on_delete:
            case "CASCADE":
                drafts[child.key] = draft(child.key, removed(child))
                return
            case "SET NULL":
                changes = dict.fromkeys(foreign.columns)
            case "SET DEFAULT":
                # Where only the app knows the default, the parent comes back.
                with suppress(UnknownDefault):
                    changes = {column: default_of(table, column) for column in foreign.columns}
            case _:
                pass
        if changes.keys() & set(table.pk):
            changes = {}  # with another value in its key it would be another row
        cells = state_of(child).cells
        let_go = any(not same_cell(cells.get(column), cell) for column, cell in changes.items())
        if let_go and not any(cell is None and table.column(c).not_null for c, cell in changes.items()):
            drafts[child.key] = draft(child.key, edited(child, changes))
            return
        last = state_of(parent).cells
        if last:
            drafts[parent.key] = draft(parent.key, revived(parent, last))
