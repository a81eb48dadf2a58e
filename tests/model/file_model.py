"""A model of one synchronized file: what a user of several devices may see, and what must not be lost.

After John Hughes, Benjamin C. Pierce, Thomas Arts and Ulf Norell, "Mysteries of Dropbox: Property-Based Testing
of a Distributed Synchronization Service", ICST 2016, in our own words and fitted to devices without a server.

The world as the model sees it:

- There is one *global* value, the set of *conflict* values, and for each node a *local* value. A value is what the
  file holds; `MISSING` (None) is "there is no file", so deleting is writing `MISSING`.
- A node is *fresh* while it has heard of the newest global value, else *stale*. It is *dirty* while it has a local
  write that nobody else has heard of, else *clean*.

What is observed, by reading and writing files and nothing else:

- `write(N, V)` finds the local value of N and replaces it by V, in one step: N is dirty. Writing `MISSING` over
  `MISSING` is nothing.
- `read(N)` finds the local value of N.
- `stabilize(V, C)`: everything is up and connected and has come to rest. Every node is fresh and clean, every
  node holds V, and the conflict files hold exactly the values C.

What nobody sees, and may happen between any two observations:

- `down(N)`, for a clean and stale node: its local value becomes the global one; it is fresh.
- `up(N)`, for a dirty node; it is clean and fresh afterwards:
  - fresh: its value becomes the global one, all others are stale;
  - stale: a conflict, unless both values are the same.
    `MISSING` loses against any content, without a trace: an edit beats a deletion.
    Of two contents either may win: here the later write does, by clocks that the model does not
    know. The loser becomes a conflict value. If the node's own value lost, it gets the global one.

A trace is possible if *some* order of ups and downs explains it, so `Possible` keeps all states that the world may
be in and drops those that an observation rules out. When none is left, no order explains what was seen: something was
lost, brought back, or made up.

Where the model differs from the paper's: there the server's value always wins a conflict, because the server
decides in the order in which it hears; devices without a server decide by time, so here either value may
win. A conflict file that holds the very value that the file itself has at rest, is no matter: nothing is lost by it,
and it comes about when a deletion was undone after the copy had been made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["MISSING", "Impossible", "Node", "Possible", "State", "Value"]

Value = str | None
MISSING: Value = None
STATES_MAX = 200_000


class Impossible(AssertionError):
    """No order of unseen steps explains what was observed."""


@dataclass(frozen=True, slots=True)
class Node:
    """One device's view."""

    local: Value = MISSING
    fresh: bool = True
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """One way the world may be."""

    shared: Value
    conflicts: frozenset[str]
    nodes: tuple[Node, ...]

    def with_node(self, number: int, node: Node) -> State:
        """Return the state with one node replaced."""
        nodes = (*self.nodes[:number], node, *self.nodes[number + 1 :])
        return replace(self, nodes=nodes)

    def steps(self) -> Iterator[State]:
        """Yield what one unseen step may lead to."""
        for number, node in enumerate(self.nodes):
            if node.dirty:
                yield from self.up(number, node)
            elif not node.fresh:
                yield self.with_node(number, Node(local=self.shared))

    def up(self, number: int, node: Node) -> Iterator[State]:
        """Yield what becomes of a write when the others hear of it."""
        mine, theirs = node.local, self.shared
        if node.fresh or mine == theirs:
            yield self.published(number, mine, self.conflicts)
        elif mine is MISSING or theirs is MISSING:
            live = theirs if mine is MISSING else mine
            if live is mine:
                yield self.published(number, mine, self.conflicts)
            else:
                yield self.with_node(number, Node(local=theirs))
        else:
            yield self.published(number, mine, self.conflicts | {theirs})
            yield replace(self, conflicts=self.conflicts | {mine}).with_node(number, Node(local=theirs))

    def published(self, number: int, value: Value, conflicts: frozenset[str]) -> State:
        """Return the state after a node's value became the global one."""
        stale = value != self.shared
        nodes = tuple(
            Node(local=value) if n == number else replace(node, fresh=node.fresh and not stale)
            for n, node in enumerate(self.nodes)
        )
        return State(shared=value, conflicts=conflicts, nodes=nodes)


class Possible:
    """All states that the world may be in after what was observed."""

    def __init__(self, nodes: int) -> None:
        """Begin without the file, everywhere at rest."""
        self.states = {State(shared=MISSING, conflicts=frozenset(), nodes=(Node(),) * nodes)}
        self.trace: list[str] = []

    def write(self, number: int, value: Value, found: Value) -> None:
        """Observe that a node's file held `found` at the very moment when it was replaced by `value`."""
        self.trace.append(f"node {number}: writes {value} over {found}")
        self.narrow(number, found)
        if value is not MISSING or found is not MISSING:
            self.states = {
                s.with_node(number, replace(s.nodes[number], local=value, dirty=True)) for s in self.states
            }

    def read(self, number: int, found: Value) -> None:
        """Observe that a node's file holds `found`."""
        self.trace.append(f"node {number}: reads {found}")
        self.narrow(number, found)

    def stabilize(self, found: list[Value], conflicts: list[set[str]]) -> None:
        """Observe what every node holds at rest: the file's value, and the values of the conflict files."""
        self.trace.append(f"at rest: {found}, conflicts {[sorted(c) for c in conflicts]}")
        self.explore()
        self.keep(
            {
                state
                for state in self.states
                if all(node.fresh and not node.dirty for node in state.nodes)
                and all(value == state.shared for value in found)
                and all(one - {state.shared} == state.conflicts - {state.shared} for one in conflicts)
            }
        )

    def narrow(self, number: int, found: Value) -> None:
        """Drop the states in which a node's file cannot hold what was found."""
        self.explore()
        self.keep({state for state in self.states if state.nodes[number].local == found})

    def explore(self) -> None:
        """Add every state that unseen steps may lead to."""
        todo = list(self.states)
        while todo:
            for state in todo.pop().steps():
                if state not in self.states:
                    self.states.add(state)
                    todo.append(state)
            assert len(self.states) < STATES_MAX, "the example is too long for the model"

    def keep(self, states: set[State]) -> None:
        """Go on with these states.

        Raises:
            Impossible: There are none.
        """
        if not states:
            raise Impossible("no order of unseen steps explains this:\n  " + "\n  ".join(self.trace))
        self.states = states
