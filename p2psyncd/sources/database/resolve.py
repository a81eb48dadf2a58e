"""Who has a UNIQUE value, and who has a number: decided by the versions of the rows alone.

Every device sees the same rows in the end, and shows them alike whatever order they came in:
- **UNIQUE.** Rows come in the order of (the latest write of any of their unique columns, key). One whose value
  another has by then is held: known, and not shown. References to it mean the row that has the value. That may
  give two children one value in turn, so a row is decided after the rows that its own unique columns refer to.
- **Numbers.** Of the rows that were born with one number and are shown, the one born first keeps it (rows without a
  birth were there before all others). The others get fresh numbers, in the order of their births.

What is decided together must be a whole: all rows that share a value or number, directly or over others. `plan` sees
to that. Then it does not matter what else is decided with it: the order of the rows of one whole is the same.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import apsw

from p2psyncd.core.item import Item
from p2psyncd.core.storage import Stored
from p2psyncd.sources.database.fitting import Fitting
from p2psyncd.sources.database.indexes import OddUnique
from p2psyncd.sources.database.keys import RowKey, collate, fresh_pk, pack_key
from p2psyncd.sources.database.row import RowState, Stamp
from p2psyncd.sources.database.rows import affinities, keeps_type
from p2psyncd.sources.database.schema import Schema, Table
from p2psyncd.sources.database.scratch import Scratch
from p2psyncd.sources.database.show import Place, as_value, reference_roots
from p2psyncd.sources.database.values import Cell, RawText, Ref, Value

__all__ = [
    "AHEAD_MAX",
    "WHOLE_TABLE",
    "Claim",
    "Constraints",
    "Row",
    "Uniqueness",
    "Wholes",
    "birth_order",
    "born_with",
    "claims_of",
    "decide_claims",
    "decide_numbers",
    "fresh_place",
    "parent_of",
    "with_new_parents",
]

log = logging.getLogger(__name__)

Token = object
Claim = tuple[str, int, tuple[Token, ...]]
"""A table, the number of one of its constraints, and the values, as they are equal in it."""
# A table of many columns may hold many combinations of types.
KEPT_MAX = 1000
# A person is to read them, and a peer could make up any number.
AHEAD_MAX, AHEAD_NAME_MAX = 100, 200
FIRST = Stamp(-1, b"", -1)
WHOLE_TABLE = ""
"""Stands among the columns that are not here for a whole table."""


@dataclass(slots=True, eq=False)
class Row:
    """A row about whose showing is decided."""

    key: bytes
    at: RowKey
    table: Table
    before: Stored | None
    """What is applied here; None: nothing."""
    item: Item | None
    """What is to be applied; None: it is deleted."""
    state: RowState | None = None
    cells: Mapping[str, Cell] = field(default_factory=dict)
    place: Place | None = None
    """Where it is shown now; None: it is not."""
    values: dict[str, Value] | None = None
    """What is there now."""
    born: Place = ()
    """Where its key says that it is, numbers of parents as they were born."""
    prepared: tuple[dict[str, Value], Place, bytes | None] | None = None
    """Goal, place and state where every row has the number that it was born with."""
    has_gone: bool = False
    """The app deleted it, and that is recorded: only others may have to be shown otherwise."""
    troubled: bool = False
    """What is there is not what is applied: somebody edits it."""
    broken: int = 0
    """0: nothing known; 1: its cells break a CHECK or NOT NULL; 2: so does the image of its newest write."""
    held: bool = False
    winner: bytes = b""
    """Which row it is held for."""
    number: Place | None = None
    """Where it is to be shown, if that is not where its cells say."""
    claims: Sequence[Claim] = ()
    goal: dict[str, Value] | None = None
    """What is to be there; None: nothing."""
    goal_place: Place | None = None
    goal_state: bytes | None = None
    """The state of the goal, where it was worked out before."""

    @property
    def to_show(self) -> bool:
        """Whether it is to be shown, as decided."""
        return self.item is not None and not self.held


class Wholes:
    """Which rows are decided together."""

    def __init__(self) -> None:
        self.united: dict[bytes, bytes] = {}

    def unite(self, a: bytes, b: bytes) -> None:
        """Note that two rows are decided together."""
        first, second = self.of(a), self.of(b)
        if first != second:
            self.united[first] = second

    def of(self, key: bytes) -> bytes:
        """Return what names the whole that a row belongs to."""
        while (above := self.united.get(key)) is not None:
            further = self.united.get(above)
            if further is not None:
                self.united[key] = further
            key = above
        return key


@dataclass(frozen=True, slots=True)
class Uniqueness:
    """One constraint."""

    columns: tuple[str, ...]
    """Those that it depends on."""
    collations: tuple[str, ...]
    odd: OddUnique | None = None
    """An index over expressions, or over some of the rows."""
    scratch: Scratch | None = None
    """Where its values are worked out."""

    def values(
        self, cells: Mapping[str, Cell], number: Callable[[str, Cell], Value]
    ) -> tuple[Value, ...] | None:
        """Return the values that a row holds; None if one is NULL or missing, or the index leaves the row out.

        Args:
            cells: The row's.
            number: Returns what a column's cell is shown as.
        """
        if any(column not in cells for column in self.columns):
            return None
        shown = {column: number(column, cells[column]) for column in self.columns}
        if self.odd is None or self.scratch is None:
            found: tuple[Value, ...] | None = tuple(shown.values())
        else:
            found = self.scratch.work_out(self.odd, shown)
        return None if found is None or None in found else found


class Constraints:
    """What of a schema the decisions need."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.roots = reference_roots(schema)
        self.births = {name: table.has_births(schema) for name, table in schema.tables.items()}
        self.affinities = {name: affinities(table) for name, table in schema.tables.items()}
        self.fitting = Fitting(schema, self.roots)
        self.referring = {table for table, _ in self.roots}
        """The tables with columns that refer to rows with births."""
        self.kept: dict[tuple[object, ...], bool] = {}
        self.ahead: set[tuple[str, str]] = set()
        """Columns of versions that came which the tables here have not, and tables (`WHOLE_TABLE`): kept, and shown once they are here."""
        self.unique = {name: self.of(table) for name, table in schema.tables.items()}
        self.columns = {
            name: tuple(dict.fromkeys(column for one in found for column in one.columns))
            for name, found in self.unique.items()
        }
        self.children: dict[str, list[tuple[str, str]]] = {}
        for (table, column), root in self.roots.items():
            self.children.setdefault(root, []).append((table, column))
        self.parents = {
            name: [
                (column, self.roots[name, column])
                for column in columns
                if (name, column) in self.roots and self.unique[self.roots[name, column]]
            ]
            for name, columns in self.columns.items()
        }
        """The unique columns that refer to rows that may themselves be held."""
        self.ranks = {name: len(self.ancestors(name)) for name in self.parents}
        """Tables of a lower rank are decided first, whichever of their rows a plan has: what refers to a row that is held
        means another one."""

    def ancestors(self, table: str) -> set[str]:
        """Return a table and all that its unique columns refer to, directly or over others."""
        found, ahead = {table}, [table]
        while ahead:
            for _, root in self.parents[ahead.pop()]:
                if root not in found:
                    found.add(root)
                    ahead.append(root)
        return found

    def note_ahead(self, table: str, columns: Iterable[str]) -> None:
        """Note columns that a version has and the table has not; not more than a person would read."""
        for name in columns:
            if len(self.ahead) < AHEAD_MAX and len(name) <= AHEAD_NAME_MAX:
                self.ahead.add((table, name))

    def lacks(self, table: str) -> bool:
        """Return whether this database has no such table, rather than one that is not synced."""
        schema = self.schema
        return not any(table in known for known in (schema.tables, schema.refused, schema.left_out))

    def keeps_types(self, table: str, values: Mapping[str, Value]) -> bool:
        """Return whether columns surely store values of such types as they are; the same few come again and again."""
        types = (table, *values, *map(type, values.values()))
        kept = self.kept.get(types)
        if kept is None:
            if len(self.kept) >= KEPT_MAX:
                self.kept.clear()
            here = self.affinities[table]
            kept = self.kept[types] = all(keeps_type(here[name], type(one)) for name, one in values.items())
        return kept

    def table_of(self, at: RowKey) -> Table | None:
        """Return the table that a row with a key is in; None if there is none that can have it."""
        return self.fitting.table_of(at)

    def of(self, table: Table) -> list[Uniqueness]:
        """Return the constraints of a table: its key only where two rows may come to have the same."""
        generated = {column.name for column in table.columns if column.generated}
        plain = [unique for unique in table.uniques if generated.isdisjoint(unique.columns)]
        found: list[Uniqueness] = []
        if not self.births[table.name]:
            by_name = {column.name: column.collation for column in table.columns}
            found.append(Uniqueness(table.pk, tuple(by_name[column] for column in table.pk)))
        found += [Uniqueness(unique.columns, unique.collations) for unique in plain]
        odd = [*table.odd_uniques, *(unique.as_odd() for unique in table.uniques if unique not in plain)]
        if not odd:
            return found
        try:
            scratch = Scratch(table, odd)
        except apsw.SQLError as error:
            log.warning("indexes_not_understood table=%r error=%r", table.name, str(error))
            return found
        return found + [
            Uniqueness(scratch.stored(table, one.columns), one.collations, one, scratch) for one in odd
        ]

    def order(self, row: Row) -> tuple[Stamp, bytes]:
        """Return a row's place in the order in which UNIQUE values are given out."""
        state = row.state
        if state is None:
            return (FIRST, row.key)
        base = state.base or FIRST
        stamps = [state.stamps.get(column) or base for column in self.columns[row.table.name]]
        return (max(stamps, default=base), row.key)


def parent_of(root: str, cell: Cell) -> bytes | None:
    """Return the key of the row that a column of a foreign key refers to; None if it refers to none."""
    if isinstance(cell, Ref):
        return pack_key(root, (cell.pk,), cell.birth)
    return pack_key(root, (cell,)) if type(cell) is int else None


def with_new_parents(rows: Mapping[bytes, Row], constraints: Constraints) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows that refer to others which are to be shown with them and are not yet, where any row may have to wait."""
    if not any(row.troubled for row in rows.values()):
        return
    for row in rows.values():
        if row.to_show and row.table.name in constraints.referring:
            for (table, column), root in constraints.roots.items():
                key = parent_of(root, row.cells.get(column)) if table == row.table.name else None
                parent = rows.get(key) if key is not None else None
                if parent is not None and parent.to_show and parent.place is None:
                    yield row.key, parent.key


def claims_of(row: Row, constraints: Constraints, number: Callable[[bytes], Value]) -> list[Claim]:
    """Return the UNIQUE values that a row wants; a constraint with a NULL, or a missing value, holds nothing.

    A reference is what it will be shown as, whichever row it means: SQLite compares what is shown, and of a parent that
    is not here a child knows only the number.

    Args:
        row: The row.
        constraints: The schema's.
        number: Returns the number under which a row, or the one that it is held for, will be shown.
    """
    table = row.table.name

    def shown(column: str, cell: Cell) -> Value:
        root = constraints.roots.get((table, column))
        parent = parent_of(root, cell) if root is not None else None
        return as_value(cell) if parent is None else number(parent)

    found: list[Claim] = []
    for which, unique in enumerate(constraints.unique[table]):
        values = unique.values(row.cells, shown)
        if values is not None:
            found.append((table, which, tuple(map(token, values, unique.collations))))
    return found


def token(value: Value, collation: str) -> Token:
    """Return what is equal for the values that a constraint takes for equal."""
    match value:
        case str():
            return value if collation.upper() == "BINARY" else (collation, collate(value.encode(), collation))
        case RawText(data):
            return value if collation.upper() == "BINARY" else (collation, collate(data, collation))
        case _:
            return value  # Python, too, takes 1 and 1.0 for equal, whatever their size


def decide_claims(
    rows: Mapping[bytes, Row], constraints: Constraints, number: Callable[[bytes], Value]
) -> list[tuple[bytes, bytes]]:
    """Set `held`, `winner` and `claims` of all rows; return which rows met (held, winner).

    Args:
        rows: By key.
        constraints: The schema's.
        number: As `claims_of` asks it.
    """
    groups: dict[int, list[Row]] = {}
    for row in rows.values():
        row.held, row.winner, row.claims = False, b"", ()
        if row.item is None:
            continue
        if row.broken > 1:
            row.held = True
        elif constraints.unique[row.table.name]:
            groups.setdefault(constraints.ranks[row.table.name], []).append(row)
    taken: dict[Claim, bytes] = {}
    met: list[tuple[bytes, bytes]] = []
    for _, group in sorted(groups.items()):
        for row in in_turn(group, constraints):
            row.claims = claims_of(row, constraints, number)
            holders = [taken[claim] for claim in row.claims if claim in taken]
            if holders:
                row.held, row.winner = True, holders[0]
                met += [(row.key, holder) for holder in holders]
            else:
                taken.update(dict.fromkeys(row.claims, row.key))
    return met


def in_turn(group: Sequence[Row], constraints: Constraints) -> Iterator[Row]:
    """Yield rows of tables of one rank in the order in which values are given out, parents before their children."""
    rows = {row.key: row for row in group}
    waiting: dict[bytes, int] = {}
    followers: dict[bytes, list[bytes]] = {}
    for row in group:
        parents = waited_for(row, rows, constraints)
        for parent in parents:
            followers.setdefault(parent, []).append(row.key)
        waiting[row.key] = len(parents)
    ready = [(constraints.order(rows[key]), key) for key, count in waiting.items() if not count]
    heapq.heapify(ready)
    while waiting:
        # Rows that refer to each other in a circle wait for ever: the first of them goes ahead.
        key = heapq.heappop(ready)[1] if ready else min(waiting, key=lambda k: constraints.order(rows[k]))
        if waiting.pop(key, None) is None:
            continue
        yield rows[key]
        for follower in followers.get(key, ()):
            if follower in waiting:
                waiting[follower] -= 1
                if not waiting[follower]:
                    heapq.heappush(ready, (constraints.order(rows[follower]), follower))


def waited_for(row: Row, rows: Mapping[bytes, Row], constraints: Constraints) -> set[bytes]:
    """Return the rows that must be decided before a row, because its unique columns refer to them."""
    found = set()
    for column, root in constraints.parents[row.table.name]:
        parent = parent_of(root, row.cells.get(column))
        other = rows.get(parent) if parent is not None else None
        if other is not None and other is not row and other.item is not None and other.broken <= 1:
            found.add(other.key)
    return found


def decide_numbers(firsts: Iterable[Row], later: Iterable[Row], taken: Callable[[Row, Place], bool]) -> None:
    """Set `number` of rows of tables with births.

    Args:
        firsts: They have the numbers that they were born with.
        later: Another row was born with the same number before.
        taken: Returns whether a fresh number is another row's, of those that are not among these.
    """
    used: set[tuple[str, Place]] = set()
    for row in firsts:
        row.number = born_with(row)
        used.add((row.table.name, row.number))
    for row in sorted(later, key=birth_order):
        attempt = 0
        while True:
            place = fresh_place(row, attempt)
            if (row.table.name, place) not in used and not taken(row, place):
                break
            attempt += 1
        row.number = place
        used.add((row.table.name, place))


def birth_order(row: Row) -> tuple[bytes, bytes]:
    """Return a row's place in the order in which numbers are given out: rows without a birth come first."""
    return (row.at.birth, row.key)


def fresh_place(row: Row, attempt: int) -> Place:
    """Return a number that a row gets where its own is another row's."""
    (born,) = born_with(row)
    return (fresh_pk(row.table.name, int(born), row.at.birth, attempt),)  # type: ignore[arg-type]


def born_with(row: Row) -> Place:
    """Return the number that a row was inserted with."""
    return row.born
