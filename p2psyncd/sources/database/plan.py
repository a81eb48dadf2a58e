"""What a batch of versions means for the app's file: which rows change, and how.

A plan begins with the rows of the batch, and takes in whatever is to be decided together with them: the row that has a
UNIQUE value or a number that one of them wants, the rows held for one that goes, the children of one whose number
changes. It is made inside the transaction that carries it out, so that what it read is what is there. Rows
that somebody is editing are not touched, and neither is anything that hangs together with them: that
waits until the edit is captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from p2psyncd.core.item import Item
from p2psyncd.core.storage import Stored
from p2psyncd.sources.database.edits import Edits
from p2psyncd.sources.database.keys import FRESH_MIN, pack_key, unpack_key
from p2psyncd.sources.database.prepare import Prepared
from p2psyncd.sources.database.resolve import (
    Claim,
    Constraints,
    Row,
    Uniqueness,
    Wholes,
    birth_order,
    born_with,
    claims_of,
    decide_claims,
    decide_numbers,
    fresh_place,
    parent_of,
    with_new_parents,
)
from p2psyncd.sources.database.row import state_of
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.show import (
    HELD,
    Identities,
    Place,
    Places,
    View,
    as_value,
    canonical_place,
    key_values,
    natural,
)
from p2psyncd.sources.database.values import Cell, Ref, Value, row_hash, same_cell

__all__ = ["Planner"]

ROUNDS_MAX = 100


class Planner:
    """Makes one plan; `rows` is the outcome."""

    def __init__(
        self,
        constraints: Constraints,
        places: Places,
        view: View,
        file: Rows,
        *,
        edits: Edits,
        broken: Mapping[bytes, int],
    ) -> None:
        """Begin; `broken` is what is known of rows that break a CHECK or NOT NULL (see `Row.broken`)."""
        self.constraints = constraints
        self.schema = constraints.schema
        self.places = places
        self.view = view
        self.file = file
        self.edits = edits
        self.broken = broken
        self.identities = Identities(self.schema, places, view)
        self.rows: dict[bytes, Row] = {}
        self.wholes = Wholes()
        self.looked: set[tuple[bytes, Claim]] = set()
        self.waiting: dict[str, list[Row]] = {}
        self.held_claims: dict[str, dict[Claim, list[bytes]]] = {}
        self.grown: dict[bytes, object] = {}
        self.occupants: dict[bytes, bytes] = {}
        self.contested: dict[bytes, bytes] = {}

    def make(self, batch: Sequence[Prepared], also: Iterable[bytes] = ()) -> None:
        """Decide about the rows of a batch, about others whose showing is in doubt, and all that it takes with it."""
        for one in batch:
            self.view.note(one.pending.item.key, one.pending.base)
        for one in batch:
            item = one.pending.item
            self.take(item.key, self.view.known[item.key], item if item.live else None, one)
        for key in also:
            self.add(key)
            if key not in self.rows and self.constraints.table_of(unpack_key(key)) is not None:
                self.take(key, None, None)
                self.rows[key].has_gone = True
        self.decide()
        plain = not self.places and not any(
            row.held or (row.number is not None and row.number != row.born) for row in self.rows.values()
        )
        for row in self.rows.values():
            if plain and row.prepared is not None:
                row.goal, row.goal_place, row.goal_state = row.prepared
            else:
                self.set_goal(row)
            row.troubled = row.troubled or self.edits.cross(row, self.file)
        # Until a parent is there, another row has its number, or none.
        for pair in with_new_parents(self.rows, self.constraints):
            self.wholes.unite(*pair)

    # Rows

    def add(self, key: bytes, because: Row | None = None) -> None:
        """Take in a row that is applied."""
        if key not in self.rows:
            applied = self.view.applied(key)
            if applied is None or self.constraints.table_of(unpack_key(key)) is None:
                return
            self.take(key, applied, applied.item)
        if because is not None:
            self.wholes.unite(key, because.key)

    def take(
        self, key: bytes, before: Stored | None, item: Item | None, prepared: Prepared | None = None
    ) -> None:
        """Take in a row, and look at what is there for it."""
        at = prepared.at if prepared is not None else unpack_key(key)
        table = self.schema.tables[at.table]
        row = Row(key, at, table, before, item, broken=self.broken.get(key, 0), born=natural(at))
        self.rows[key] = row
        if item is not None:
            row.state = prepared.state if prepared is not None else state_of(item)
            if prepared is not None and not row.broken:
                row.prepared = (prepared.goal, prepared.place, prepared.hash)
            row.cells = {**row.state.cells, **row.state.image} if row.broken else row.state.cells
        if before is not None and before.state != HELD:
            row.place = self.places.moved.get(key) or self.named(row, before.item)
            row.values = self.file.read(table, row.place)
            row.troubled = (
                row.values is None
                or self.edits.touched(table, row.place)
                or row_hash(row.values) != before.state
            )
        elif item is not None:
            self.look_for_occupant(row, item)

    def named(self, row: Row, item: Item) -> Place:
        """Return the key values that a row's key names, or, where it has only their hash, its cells."""
        if row.born:
            columns = ((row.table.name, column) for column in row.table.pk)
            return tuple(map(self.shown_part, columns, row.at.pk))
        return key_values(row.table, state_of(item).cells) or ()

    def look_for_occupant(self, row: Row, item: Item) -> None:
        """Look whether anything has the key values of a row that is not there yet."""
        place = self.named(row, item)
        values = self.file.read(row.table, place)
        if values is None and not self.edits.touched(row.table, place):
            return
        occupant = self.identities.at(row.table, place)
        if occupant is not None:
            # The app has just deleted it, perhaps: then it is still to be captured, before its place is taken.
            self.occupants[row.key] = occupant
            return
        if values is None:
            return
        hinted = self.edits.touched(row.table, place)
        # Of two rows born with one number the app's own is another one, unless it is the very one: put there before
        # this device forgot about it.
        equal = all(same_cell(as_value(row.cells.get(name)), value) for name, value in values.items())
        row.troubled = hinted or not equal
        if equal and not (hinted and row.at.birth):
            row.place, row.values = place, values

    def shown_part(self, column: tuple[str, str], part: Cell) -> Value:
        """Return what a part of a key is shown as now: a reference has the number that its row has."""
        if isinstance(part, Ref) and (root := self.constraints.roots.get(column)) is not None:
            return self.places.number(pack_key(root, (part.pk,), part.birth))
        return as_value(part)

    # Deciding

    def decide(self) -> None:
        """Decide what is shown, and with which number, and take in whatever that touches, until nothing more comes of it.

        Which values are wanted depends on the numbers of parents, and these on which parents are held: a round for
        each step from parents to children. Where rows refer to each other in a circle it need not come to rest (decision 0019).
        """
        rounds = ROUNDS_MAX
        while True:
            size = len(self.rows)
            used: dict[bytes, Value] = {}

            def number(key: bytes, used: dict[bytes, Value] = used) -> Value:
                found = used[key] = self.number_then(key)
                return found

            self.held_claims.clear()
            for held, holder in decide_claims(self.rows, self.constraints, number):
                self.wholes.unite(held, holder)
            self.decide_numbers()
            for row in list(self.rows.values()):
                self.grow(row)
            if size == len(self.rows):
                if not rounds or all(self.number_then(key) == value for key, value in used.items()):
                    return
                rounds -= 1

    def resolved(self, key: bytes) -> bytes:
        """Return which row a key means: the one that it is held for, or itself."""
        row = self.rows.get(key)
        if row is not None:
            return row.winner if row.held and row.winner else key
        return self.places.held.get(key) or key

    def decide_numbers(self) -> None:
        """Give numbers to the rows of tables with births."""
        groups: dict[tuple[str, Place], list[Row]] = {}
        left: set[tuple[str, Place]] = set()
        for row in self.rows.values():
            row.number = None
            went = row.has_gone or (row.place is not None and not row.to_show)
            if went and self.constraints.births[row.table.name]:
                left.add((row.table.name, born_with(row)))
            if row.to_show and self.constraints.births[row.table.name]:
                groups.setdefault((row.table.name, born_with(row)), []).append(row)
        firsts: list[Row] = []
        later: list[Row] = []
        for born, group in groups.items():
            if any(row.place is None for row in group) or born in left:
                first, *others = sorted(group, key=birth_order)
                firsts.append(first)
                later += others
            else:
                for row in group:
                    (later if row.key in self.places.moved else firsts).append(row)
            for row in group[1:]:
                self.wholes.unite(row.key, group[0].key)
        decide_numbers(firsts, later, self.is_taken)

    def is_taken(self, row: Row, place: Place) -> bool:
        """Return whether a fresh number is that of a row which the plan does not touch."""
        if self.file.read(row.table, place) is None:
            return False
        occupant = self.identities.at(row.table, place)
        if occupant is None:
            row.troubled = True
            return False
        if occupant in self.rows:
            return False
        if occupant in self.places.moved:
            if (unpack_key(occupant).birth, occupant) < birth_order(row):
                return True
            self.contested[occupant] = row.key
            return False
        return True

    # Growing

    def grow(self, row: Row) -> None:
        """Take in what is to be decided together with a row."""
        for key in self.places.stand_ins.get(row.key, ()):
            self.add(key, row)
        if row.has_gone or (row.place is not None) != row.to_show:
            self.grow_numbers(row)
        if row.claims and self.places.held:
            held = self.claims_of_held(row.table.name)
            for claim in row.claims:
                for key in held.get(claim, ()):
                    self.add(key, row)
        for claim in row.claims:
            if (row.key, claim) not in self.looked:
                self.looked.add((row.key, claim))
                self.grow_claim(row, claim)
        if row.table.name in self.constraints.children:
            self.grow_children(row)
        for key, because in list(self.contested.items()):
            self.add(key, self.rows[because])
        self.contested.clear()

    def grow_numbers(self, row: Row) -> None:
        """Take in the rows that were born with the number of one that comes or goes, and who has it now."""
        occupant = self.occupants.get(row.key)
        if occupant is not None:
            self.add(occupant, row)
        if not self.constraints.births[row.table.name]:
            return
        born = born_with(row)
        if row.has_gone and (occupant := self.identities.at(row.table, born)) is not None:
            self.add(occupant, row)
        for key in list(self.places.births.get((row.table.name, born), ())):
            self.add(key, row)
        (number,) = row.place or self.places.moved.get(row.key) or born
        if isinstance(number, int) and number >= FRESH_MIN:
            self.grow_clashes(row)

    def grow_clashes(self, row: Row) -> None:
        """Take in the rows that have not the first of their fresh numbers: one may be free now."""
        for key, place in self.places.moved.items():
            at = unpack_key(key)
            other = Row(key, at, row.table, None, None, born=natural(at))
            if at.table == row.table.name and at.birth and fresh_place(other, 0) != place:
                self.add(key, row)

    def claims_of_held(self, table: str) -> dict[Claim, list[bytes]]:
        """Return the rows of a table that are held, and that the plan does not have yet, by the values that they want."""
        if table in self.held_claims:
            return self.held_claims[table]
        if table not in self.waiting:
            self.waiting[table] = [
                Row(key, at, self.schema.tables[table], None, None, cells=state_of(applied.item).cells)
                for key in self.places.held
                if (at := unpack_key(key)).table == table and (applied := self.view.applied(key)) is not None
            ]
        found = self.held_claims[table] = {}
        for other in self.waiting[table]:
            if other.key not in self.rows:
                for claim in claims_of(other, self.constraints, self.number_then):
                    found.setdefault(claim, []).append(other.key)
        return found

    def grow_claim(self, row: Row, claim: Claim) -> None:
        """Take in the rows that have a UNIQUE value now, as it is shown now and as it will be."""
        unique = self.constraints.unique[row.table.name][claim[1]]
        table = row.table.name
        now = then = unique.values(
            row.cells, lambda name, cell: self.shown(table, name, cell, self.number_now)
        )
        if table in self.constraints.referring:
            then = unique.values(
                row.cells, lambda name, cell: self.shown(table, name, cell, self.number_then)
            )
        for values in dict.fromkeys((now, then)):
            if values is not None:
                self.grow_values(row, unique, values)

    def grow_values(self, row: Row, unique: Uniqueness, values: Place) -> None:
        """Take in the row that is shown with values of a constraint."""
        if unique.odd is not None:
            found = self.file.find_odd(row.table, unique.odd, values)
        elif row.values is not None and all(
            same_cell(row.values[column], value) for column, value in zip(unique.columns, values, strict=True)
        ):
            return
        else:
            found = self.file.find(row.table, unique.columns, values, unique.collations)
        here = canonical_place(row.table, row.place) if row.place is not None else None
        for place in found:
            if canonical_place(row.table, place) == here:
                continue
            owner = self.identities.at(row.table, place)
            if owner is None:
                row.troubled |= None not in place  # without a key it is never captured
            else:
                self.add(owner, row)

    def shown(self, table: str, column: str, cell: Cell, number: Callable[[bytes], Value]) -> Value:
        """Return what a cell is shown as."""
        root = self.constraints.roots.get((table, column))
        parent = parent_of(root, cell) if root is not None else None
        return as_value(cell) if parent is None else number(parent)

    def number_now(self, key: bytes) -> Value:
        """Return the number that a row has now, but of the row that is meant then."""
        return self.places.number(self.resolved(key))

    def number_then(self, key: bytes) -> Value:
        """Return the number under which a row will be shown, or the row that it is held for."""
        key = self.resolved(key)
        row = self.rows.get(key)
        if row is not None:
            return (row.number or (self.places.moved.get(key) if row.to_show else None) or born_with(row))[0]
        return (self.places.moved.get(key) or natural(unpack_key(key)))[0]

    def means_another(self, row: Row) -> bool:
        """Return whether references to a row will be shown otherwise."""
        return self.places.number(row.key) != self.number_then(row.key) or self.resolved(row.key) != (
            self.places.held.get(row.key) or row.key
        )

    def grow_children(self, row: Row) -> None:
        """Take in the children of a row whose number changes."""
        if not self.constraints.births[row.table.name] or not self.means_another(row):
            return
        now, then = self.places.number(row.key), self.number_then(row.key)
        if self.grown.get(row.key) == (now, then, self.resolved(row.key)):
            return
        self.grown[row.key] = (now, then, self.resolved(row.key))
        for name, column in self.constraints.children[row.table.name]:
            table = self.schema.tables[name]
            for place in self.file.find(table, (column,), (now,)):
                child = self.identities.at(table, place)
                # One that is being edited may mean this row, or the one that gets its number.
                if child is None or self.edits.touched(table, place):
                    row.troubled = True
                if child is not None:
                    self.add_child(child, column, row)
            for child in [key for key in self.places.held if unpack_key(key).table == name]:
                self.add_child(child, column, row)

    def add_child(self, key: bytes, column: str, parent: Row) -> None:
        """Take in a row if a column of it refers to another."""
        applied = self.view.applied(key)
        if applied is not None:
            cell = state_of(applied.item).cells.get(column)
            if parent_of(parent.table.name, cell) == parent.key:
                self.add(key, parent)

    # What is to be there

    def set_goal(self, row: Row) -> None:
        """Set what a row is to look like."""
        if not row.to_show:
            return
        table = row.table.name
        goal: dict[str, Value] = {}
        for column in self.file.table(row.table).columns:
            if column not in row.cells:
                continue
            cell = row.cells[column]
            root = self.constraints.roots.get((table, column))
            goal[column] = as_value(cell) if root is None else self.shown_reference(row, root, cell)
        if row.number is not None:
            goal[row.table.pk[0]] = row.number[0]
        row.goal = goal
        row.goal_place = tuple(goal[column] for column in row.table.pk)

    def shown_reference(self, row: Row, root: str, cell: Cell) -> Value:
        """Return the number that a reference is shown as here."""
        parent = parent_of(root, cell)
        if parent is None:
            return as_value(cell)
        other = self.rows.get(parent)
        if other is not None and self.means_another(other):
            self.wholes.unite(row.key, parent)
        return self.number_then(parent)
