"""The property: whatever users do on three devices, the model can explain what they see.

An example is a list of commands on a few fresh files, with cables pulled and daemons restarted in between. Each command
is carried out on real daemons; each observation is shown to the model of its file, and in the end everything comes
to rest and is looked at once more. Timing decides what the daemons do, so a failed example need not fail
again; its trace is in the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster import NODES, Cluster
from file_model import MISSING, Possible
from hypothesis import strategies as st

__all__ = ["Command", "Cut", "Delete", "Join", "Read", "Rest", "Restart", "Write", "examples", "run_example"]

FILES = 3
COMMANDS_LEAST, COMMANDS_MAX = 10, 24
nodes = st.integers(0, NODES - 1)
files = st.integers(0, FILES - 1)


@dataclass(frozen=True, slots=True)
class Write:
    """Give a file a new value."""

    node: int
    file: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a file."""

    node: int
    file: int


@dataclass(frozen=True, slots=True)
class Read:
    """Look at a file."""

    node: int
    file: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Wait until all is equal, and look at everything."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Pull a node's cable."""

    node: int


@dataclass(frozen=True, slots=True)
class Join:
    """Plug a node's cable in."""

    node: int


@dataclass(frozen=True, slots=True)
class Restart:
    """End a daemon and start it again."""

    node: int
    kill: bool


Command = Write | Delete | Read | Rest | Cut | Join | Restart

writes = st.builds(Write, nodes, files)
deletes = st.builds(Delete, nodes, files)
reads = st.builds(Read, nodes, files)
trouble = st.one_of(st.builds(Cut, nodes), st.builds(Join, nodes))
restarts = st.builds(Restart, nodes, st.booleans())
# What is listed twice comes twice as often; a restart takes as long as everything else.
commands = st.one_of(
    writes, writes, writes, deletes, reads, reads, trouble, trouble, st.just(Rest()), restarts
)
examples = st.lists(commands, min_size=COMMANDS_LEAST, max_size=COMMANDS_MAX)


def run_example(cluster: Cluster, example: list[Command]) -> int:
    """Carry out an example; return how many observations the model explained.

    Raises:
        Impossible: It cannot explain one.
    """
    names = [cluster.fresh_name() for _ in range(FILES)]
    models = [Possible(NODES) for _ in range(FILES)]
    try:
        for command in [*example, Rest()]:
            carry_out(cluster, command, names, models)
    except AssertionError as error:
        error.add_note(f"the example: {example}")
        raise
    return sum(len(model.trace) for model in models)


def carry_out(cluster: Cluster, command: Command, names: list[str], models: list[Possible]) -> None:
    """Carry out one command and show the model what was seen."""
    match command:
        case Write(node, file):
            value = cluster.fresh_value()
            models[file].write(node, value, cluster.replace(node, names[file], value))
        case Delete(node, file):
            models[file].write(node, MISSING, cluster.delete(node, names[file]))
        case Read(node, file):
            models[file].read(node, cluster.read(node, names[file]))
        case Rest():
            cluster.rest()
            for name, model in zip(names, models, strict=True):
                found_everywhere = [cluster.read(node, name) for node in range(NODES)]
                model.stabilize(found_everywhere, [cluster.look(node, name) for node in range(NODES)])
        case Cut(node):
            cluster.cut(node)
        case Join(node):
            cluster.join(node)
        case Restart(node, kill):
            cluster.restart(node, kill=kill)
