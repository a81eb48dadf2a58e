"""What must hold in the end, and what is known on the way to tell what may be missing.

- **Nothing is lost.** A value that a user wrote is a claim, until a user who had it before them replaces or
  deletes it. Every claim is live on every device in the end: under its name, as a conflict copy, or
  wherever the name went. The one way out: it was on no disk any more after a power cut or a restored
  backup, so nobody could have passed it on (what a receive-only device has and no record of is passed on by nobody).
  What a machine wrote that was set back as a whole afterwards must be in a history at least: until a
  peer finds it out, what it writes then passes for knowing what it wrote before (docs/decisions, 0013).
  A device that only sends keeps what it has to itself where others wrote the same name.
- **Nothing that was deleted is back** under the name where it was deleted, unless it was written there again, or a
  device lost its memory of it while it had it (its state was put back to before it came): such a
  device cannot tell it from a new file, and a new file beats a delete. Nor can the copy of a disk with what
  was written and not recorded when it was copied. Nor is a delete told whose row was lost, or was stamped again,
  before the device had looked.
- **All agree, and there is an end**: equal roots, equal pictures; the stored trie is the trie of the items;
  a scan finds nothing; nothing more is sent; a further meeting is one round trip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kinds import Claim, Deed, Machine
from memory_kind import named_before

if TYPE_CHECKING:
    from process import Process

__all__ = ["Oracle", "Violation"]


class Violation(AssertionError):
    """Something that must hold does not."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"{what}: {detail}")
        self.what = what


@dataclass
class Oracle:
    """Follows what users do; see the top of the file."""

    claims: dict[Claim, int] = field(default_factory=dict)
    """What must be found, and the machine where it was written."""
    deleted: dict[Claim, int] = field(default_factory=dict)
    """What must not be found, and the machine where it was deleted."""
    unsure: set[Claim] = field(default_factory=set)
    """Of that, what was deleted where a disaster came since: what is gone everywhere comes back with another disaster."""
    taken: dict[Claim, set[int]] = field(default_factory=dict)
    """What a user knowingly replaced or deleted at any time, and on which machines."""
    written: Counter[Claim] = field(default_factory=Counter)
    writers: dict[bytes, set[int]] = field(default_factory=dict)
    """The machines where a name was written or changed; ~number: a machine that it was new to, though it had written it."""
    displaced: set[bytes] = field(default_factory=set)
    """Values that a disaster may have put under other names than users had put them: taking one away counts for all."""
    renewed: set[Claim] = field(default_factory=set)
    """Of that, what had a name under which something else was written since, or was changed by who had not heard of it."""
    touched: dict[Claim, set[int]] = field(default_factory=dict)
    """The machines where something was changed about a value and the value itself was not."""
    forgetful: bool = False
    """Whether tombstones were forgotten: what is in the place of a thing then, and was written later, does not tell whether
    that thing was deleted, or lost a conflict and is kept by who has its bytes."""
    reborn: set[int] = field(default_factory=set)
    """Machines that go on as another actor: they have given up what they knew of the former one's writes, and what was
    deleted of these and forgotten is new to them where somebody has it still."""
    restored: set[int] = field(default_factory=set)
    """Machines that were set back, whether they were told so or not."""
    forgiven: set[Claim] = field(default_factory=set)
    """What may come back: see `forgive`."""
    perished: set[Claim] = field(default_factory=set)
    retracted: set[Claim] = field(default_factory=set)
    """What machines had written that were set back to before that, and told so."""
    set_back: set[int] = field(default_factory=set)
    """Machines that were set back, or their states, and not found out yet."""
    twins: set[int] = field(default_factory=set)
    """A machine and its copy, until one of the two is found out: what the one writes passes for knowing the other's."""
    doubtful: set[Claim] = field(default_factory=set)
    """What users wrote on these meanwhile, and before, if it is undone there and others may have it."""

    # On the way

    def note(self, deed: Deed, machine: Machine, *, unsettled: AbstractSet[Claim]) -> None:
        """Take note of what a user did.

        Args:
            deed: What came of it.
            machine: Where.
            unsettled: What a process that is gone had put there without noting that it had: if it is gone
                when the next one starts, that one takes it for not put there yet.
        """
        if machine.mode == "receive-only":
            return  # nothing of it is told to others, and what comes may replace it
        elsewhere = self.never_there(deed)
        for claim in {*deed.replaced, *deed.deleted} - elsewhere:
            self.claims.pop(claim, None)
            self.taken.setdefault(claim, set()).add(machine.number)
            if claim.value in self.displaced:
                for other in [one for one in self.claims if one.value == claim.value]:
                    del self.claims[other]
        for claim in set(deed.deleted) - unsettled - elsewhere:
            self.deleted[claim] = machine.number
            self.unsure.discard(claim)
        names = sorted({*deed.dirty.keys, *(claim.name for claim in deed.wrote)})
        for name in names:
            self.writers.setdefault(name, set()).add(machine.number)
        self.renewed.update(c for c in self.deleted if c.name in names and c not in deed.deleted)
        self.renewed.update(c for c in deed.deleted if self.touched.get(c, set()) - {machine.number})
        for claim in self.claims:
            if claim.name in names:
                self.touched.setdefault(claim, set()).add(machine.number)
        for claim in deed.wrote:
            self.touched.pop(claim, None)
            self.retracted.discard(claim)
            self.written[claim] += 1
            # Put back where it was, it may be no write at all: the device may not have looked meanwhile, or
            # never have heard that it was taken away elsewhere.
            if claim not in self.taken:
                self.claims[claim] = machine.number
            if machine.number in self.set_back:
                self.doubtful.add(claim)
            self.deleted.pop(claim, None)

    def never_there(self, deed: Deed) -> set[Claim]:
        """Return what a user took away under the names that conflict copies were made of, and that only the copies held.

        Who takes a copy away takes away what lost under the name itself, too. Not so where somebody had written into the copy:
        what is there then never was under that name, unless somebody puts it there by himself.
        """
        named = {
            Claim(claim.value, name)
            for claim in (*deed.replaced, *deed.deleted)
            if claim not in deed.named and self.written[claim]
            for name in named_before(claim.name)[1:]
        }
        return named & deed.named

    def note_last_copies(self, deed: Deed, machines: Iterable[Machine]) -> None:
        """Take note of what a user took away on a device that only receives, and was nowhere else any more.

        The machine where it was written had been set back to before that.
        """
        gone = {claim.value for claim in (*deed.replaced, *deed.deleted)}
        gone -= {claim.value for machine in machines for claim in machine.claims()}
        lost = [c for c, number in self.claims.items() if number in self.set_back or c in self.retracted]
        for claim in [c for c in lost if c.value in gone]:
            self.perished.add(claim)
            del self.claims[claim]

    def review(self, machines: Collection[Machine], struck: Machine) -> None:
        """Take note of what a disaster on one machine took from the world, or brought back."""
        # A value that is left only where a user of another machine took it away (it is still to go there) is gone, too.
        there = {
            claim.value
            for machine in machines
            for claim in told(machine)
            if not self.taken.get(claim, set()) - {struck.number}
        }.union(*(machine.remembered() for machine in machines))
        for claim in [claim for claim in self.claims if claim.value not in there]:
            self.perished.add(claim)
            del self.claims[claim]
        self.displaced.update(claim.value for claim in struck.claims())
        still = {claim for machine in machines for claim in machine.claims()}
        # Two users wrote the same value under two names, and one of the two is gone with the disk: whoever takes
        # the other one away takes away all that there is of it.
        self.displaced.update(claim.value for claim in self.claims if claim not in still)
        self.unsure.update(claim for claim, number in self.deleted.items() if number == struck.number)
        # What a user took away on a device that only receives is still told of by that device; and another one may know
        # of it, and not have it yet.
        telling = [one for one in machines if one.mode == "receive-only" or one.number != struck.number]
        for claim in self.unsure & self.deleted.keys():
            if claim in still or any(machine.records(claim.name) for machine in telling):
                del self.deleted[claim]  # the delete was undone before everybody had heard of it

    def retract(self, machine: Machine) -> None:
        """Take note that a machine was set back as a whole, and was told so."""
        there = machine.claims()
        undone = {c for c, number in self.claims.items() if number == machine.number and c not in there}
        self.retracted |= undone
        for claim in undone:
            self.rewritten(claim.name, machine)

    def undone(self, machine: Machine) -> None:
        """Take note that a machine, or its state, was set back, and cannot tell: it passes for knowing what it wrote since."""
        self.set_back.add(machine.number)
        there = machine.claims()
        own = {claim for claim, number in self.claims.items() if number == machine.number}
        self.doubtful |= own - there
        for claim in own - there:
            self.rewritten(claim.name, machine)

    def copied(
        self, original: Machine, copy: Machine, unrecorded: Collection[Claim], *, noticed: bool
    ) -> None:
        """Take note of what lies on a disk's copy and not in its state: both machines find it, each as a write of its own.

        Who deletes the one has not seen the other.
        """
        if not noticed:
            self.twins = {original.number, copy.number}
            self.set_back |= self.twins
        for numbers in self.writers.values():  # directories, too, which are no claims
            if original.number in numbers:
                numbers.add(copy.number)
        self.written.update(unrecorded)
        for claim in unrecorded:
            self.rewritten(claim.name, copy)

    def rewritten(self, name: bytes, machine: Machine) -> None:
        """Take note of what a machine has no row of (any more, or not yet again): found there, it is a new write.

        It has not heard of what it wrote under that name before: that is as good as another's.
        """
        self.writers.setdefault(name, set()).update((machine.number, ~machine.number))

    def row_lost(self, name: bytes, machine: Machine) -> None:
        """Take note of the loss of the row of what is there, or was taken away, and the device had not looked yet.

        Of the one it finds a new write; of the other nothing is left to tell others that it was deleted.
        """
        self.rewritten(name, machine)
        if name not in {claim.name for claim in machine.claims()}:
            self.forgive(
                [c for c, number in self.deleted.items() if c.name == name and number == machine.number]
            )

    def found_out(self, machine: Machine, claims: Collection[Claim], unseen: Collection[bytes] = ()) -> None:
        """Take note of what a device stamped again, as another actor: new writes of its own.

        What it writes from now on claims nothing that is false. What a user had taken away and it had not looked
        yet it stamps again as well, and the delete that it finds then is of that alone: what others have of it by
        the former actor is another's write.

        Args:
            machine: The device's.
            claims: What is there.
            unseen: Names of what was taken away.
        """
        if machine.number in self.twins:
            self.set_back -= self.twins
        self.set_back.discard(machine.number)
        self.reborn.add(machine.number)
        self.forgive(claims)
        self.forgive(
            [c for c, number in self.deleted.items() if c.name in unseen and number == machine.number]
        )
        for claim in claims:
            self.rewritten(claim.name, machine)

    def forgive(self, claims: Iterable[Claim]) -> None:
        """Take note of what a device has and cannot know whether it was deleted.

        It came after the state that was put back was saved; or it was written under an actor that may go on
        elsewhere, and was stamped again: both are new writes to all others, and a write beats a delete.
        """
        for claim in claims:
            self.deleted.pop(claim, None)
            self.forgiven.add(claim)

    # In the end

    def check(self, processes: list[Process]) -> None:
        """Raise Violation if anything does not hold."""
        mutual = [p for p in processes if p.machine.mode == "send-receive"]
        for process in processes:
            where = f"on {process.machine.number}"
            # What was changed on a receive-only device is not recorded, and may stand in the way of what comes.
            ailments = [] if process.machine.mode == "receive-only" else process.device.ailments()
            for ailment in ailments:
                raise Violation("ailing", f"{where}: {ailment}")
            failures = process.device.applier.failures
            if failures and process.machine.mode == "send-receive":
                raise Violation("failures", f"{where}: {failures}")
        for process in mutual:
            ours, other = mutual[0].machine.picture(), process.machine.picture()
            differing = sorted(key for key in {*ours, *other} if ours.get(key) != other.get(key))
            if differing:
                what = [f"{key!r}: {ours.get(key)}, {other.get(key)}" for key in differing]
                numbers = f"{mutual[0].machine.number}, {process.machine.number}"
                raise Violation("different pictures", f"{numbers}: {'; '.join(what)}")
        own = self.kept_at_home(processes)
        kept = {value for process in processes for value in process.machine.kept()}
        own |= {claim for claim in self.doubtful if claim.value in kept}
        # What a device that only receives had last, as whose writer was set back, it makes no copy of when it loses: it is in
        # that device's history.
        last = {v for p in processes if p.machine.mode == "receive-only" for v in p.machine.kept()}
        own |= {c for c, number in self.claims.items() if number in self.restored and c.value in last}
        for process in mutual:
            self.check_values(process, own)

    def kept_at_home(self, processes: list[Process]) -> set[Claim]:
        """Return what only its own device need have: a device that only sends, and takes in no other's version,
        never learns that it lost a conflict, and makes no copy of what is under its name still: the name where
        it was put, or, after a power cut that undid a rename, the one it had before. A copy of its disk is such a
        device, too.
        """
        there = {one for p in processes if p.machine.mode == "send-only" for one in p.machine.claims()}
        return {
            claim
            for claim, number in self.claims.items()
            for one in there
            if (one == claim or (one.value == claim.value and claim.value in self.displaced))
            and self.is_contested(one.name, number)
        }

    def is_contested(self, there: bytes, number: int) -> bool:
        """Return whether another machine than `number` wrote the same name, or one above or below it."""
        return any(
            numbers - {number}
            and (there + b"/").startswith(name + b"/") | (name + b"/").startswith(there + b"/")
            for name, numbers in self.writers.items()
        )

    def check_values(self, process: Process, own: AbstractSet[Claim]) -> None:
        """Check one device for what must and must not be there."""
        there = process.machine.claims()
        values = {claim.value for claim in there} | process.machine.remembered()
        where = f"on {process.machine.number}"
        lost = sorted(claim for claim in self.claims.keys() - own if claim.value not in values)
        if lost:
            raise Violation("lost", f"{where}: {lost}")
        may_be_back = self.forgiven | process.machine.revived
        if self.forgetful:
            may_be_back |= self.renewed
            may_be_back |= {c for c in self.deleted if self.writers.get(c.name, set()) & self.reborn}
        back = sorted(c for c in self.deleted.keys() - may_be_back if c in there and self.written[c] == 1)
        if back:
            raise Violation("back", f"{where}: {back}")


def told(machine: Machine) -> AbstractSet[Claim]:
    """Return what a machine has and others can have from it.

    What is in the folder of a receive-only device and not in its state (which was put back to before it came) passes
    for a change of its own there: it stays where it is, and nobody hears of it.
    """
    return machine.claims() - machine.unsettled() if machine.mode == "receive-only" else set(machine.claims())
