"""New rows that have to do with nothing else: most of what comes, so they are put in place without a plan.

A plan asks of each row what it crosses, who has its number or its UNIQUE values, and what hangs together with it. Of a
row with a birth, of a table without UNIQUE values and references to rows with births, the answer is known beforehand:
if nothing is at its place, if no other row of the batch is born there, and as long as nothing in the database is shown
otherwise than its key says and no edit of that table, or of its parents, waits to be captured, it goes where its key says. So 20,000 such rows
keep an app's writers out for half the time that a plan takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from p2psyncd.sources.database.prepare import Prepared
from p2psyncd.sources.database.resolve import Constraints
from p2psyncd.sources.database.rows import Rows
from p2psyncd.sources.database.show import natural
from p2psyncd.sources.database.values import Value

__all__ = ["insert_all", "without_a_plan"]


def without_a_plan(
    batch: Sequence[Prepared], constraints: Constraints, file: Rows, edited: Collection[str]
) -> tuple[list[Prepared], list[Prepared]]:
    """Return the rows of a batch that can simply be inserted, and the others.

    Args:
        batch: In which no key comes twice.
        constraints: The schema's.
        file: The rows as they are, in the transaction that will insert.
        edited: The tables of which an app has touched rows that nobody has looked at since.
    """
    independent = {name for name in constraints.births if stands_alone(constraints, name, edited)}
    simple: dict[str, list[Prepared]] = {}
    others: list[Prepared] = []
    for one in batch:
        if one.plain and one.table.name in independent:
            simple.setdefault(one.table.name, []).append(one)
        else:
            others.append(one)
    born: dict[str, set[Value]] = {}
    for one in others:
        born.setdefault(one.at.table, set()).update(natural(one.at))
    found: list[Prepared] = []
    for name, rows in simple.items():
        numbers = [one.place[0] for one in rows]
        crossed = file.numbers_present(rows[0].table, numbers) | born.get(name, set())
        if len(set(numbers)) < len(numbers):
            crossed |= {number for number, count in Counter(numbers).items() if count > 1}
        if crossed:
            for one in rows:
                (others if one.place[0] in crossed else found).append(one)
        else:
            found += rows
    return found, others


def stands_alone(constraints: Constraints, name: str, edited: Collection[str]) -> bool:
    """Return whether rows of a table are shown where their keys say, whatever becomes of others."""
    table = constraints.schema.tables[name]
    return (
        constraints.births[name]
        and not constraints.unique[name]
        and name not in constraints.referring
        and name not in edited
        and not any(foreign.parent in edited for foreign in table.foreign_keys)
    )


def insert_all(rows: Iterable[Prepared], file: Rows) -> None:
    """Insert plain rows.

    Raises:
        apsw.ConstraintError: One breaks a constraint.
    """
    tables: dict[str, list[Prepared]] = {}
    for one in rows:
        tables.setdefault(one.table.name, []).append(one)
    for members in tables.values():
        # Plain rows of a table have the same columns: all, in the order of their names.
        file.insert(members[0].table, tuple(members[0].goal), [tuple(one.goal.values()) for one in members])
