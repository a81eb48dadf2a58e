"""Takes a plan through: machines, processes, links, and the settling in the end. See `kinds` and `oracle`."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from random import Random
from typing import Any

import trio
from kinds import Claim, Killed, Kind, Machine, Operation
from network import Connection, Link, is_able
from oracle import Oracle, Violation
from plan import Plan, Step
from process import Process

from p2psyncd.core.ids import DeviceId
from p2psyncd.daemon.applier import RETRY_S
from p2psyncd.daemon.forgetting import forget_now
from p2psyncd.daemon.replica import EVERYTHING, Phase
from p2psyncd.daemon.signal import Signal
from p2psyncd.errors import StateForked

__all__ = ["World", "live"]

RECONNECT_S = 1.0
# Five times what the most talkative of some thousand plans sent.
MESSAGES_MAX = 8_000
# Retries of all sorts have had their turn by then; giving up a lost content takes 300 s for each device.
AGREE_S = 4000.0
LOOK_S = 3.0
MEETINGS_MAX = 3
YEAR_S = 366 * 86_400


class World:
    """Everything there is in one simulation."""

    def __init__(self, plan: Plan, kind: Kind, nursery: trio.Nursery) -> None:
        self.plan = plan
        self.kind = kind
        self.nursery = nursery
        self.random = Random(plan.seed)
        self.oracle = Oracle()
        self.machines: list[Machine] = []
        self.processes: dict[int, Process] = {}
        self.links: dict[tuple[int, int], Link] = {}
        self.snapshots: dict[int, list[Any]] = {}
        self.amnesiac: set[int] = set()
        """Machines whose state was put back since they ran."""
        self.unsettled: dict[int, set[Claim]] = {}
        """What the last process of a machine had put there and not noted; until the next one has looked."""
        self.changed = Signal()
        self.trace: list[str] = []
        self.sent = 0
        for number, (mode, skew_s) in enumerate(plan.machines):
            self.machines.append(kind.machine(number, mode=mode, skew_us=skew_s * 1_000_000))

    def log(self, event: str) -> None:
        """Note what happened."""
        self.trace.append(f"{trio.current_time():.6f} {event}")

    def log_message(self, event: str) -> None:
        self.sent += 1
        self.log(event)
        if self.sent > MESSAGES_MAX:
            raise Violation("endless traffic", f"{self.sent} messages")

    # Steps

    async def take(self, step: Step) -> None:
        """Do one step of the plan."""
        self.log(f"step {step!r}")
        match step:
            case ("user", int(number), tuple(operation), bool(noticed)):
                self.operate(self.machine(number), operation, noticed=noticed)
            case ("wait", float(seconds)):
                await trio.sleep(seconds)
            case ("pause", int(checkpoints)):
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
            case ("link", int(a), int(b), float(latency_s)):
                self.with_link(a, b, lambda link: link.join(latency_s))
            case ("cut", int(a), int(b)):
                self.with_link(a, b, Link.cut)
            case ("replace", int(a), int(b)):
                self.with_link(a, b, Link.drop)
            case ("isolate", int(number)):
                self.isolate(self.machine(number))
            case ("year",):
                for machine in self.machines:
                    machine.clock.skew_us += YEAR_S * 1_000_000
            case ("forget", int(days)):
                self.oracle.forgetful = True
                await self.forget(days)
            case (str(name), int(number), *rest):
                await self.strike(name, self.machine(number), rest)
            case _:
                msg = f"no step {step!r}"
                raise ValueError(msg)
        self.changed.fire()

    async def strike(self, name: str, machine: Machine, rest: Sequence[Any]) -> None:
        """Do a step that one machine suffers."""
        process = self.processes.get(machine.number)
        match name, rest:
            case "scan", []:
                if process is not None:
                    process.notice(EVERYTHING)
            case "boot", []:
                await self.boot(machine)
            case "kill", []:
                await self.kill(machine)
            case "kill", [int(operations)]:
                machine.hazard.operations_left = operations
            case "power", [int(seed)]:
                await self.kill(machine)
                machine.cut_power(Random(seed))
                self.struck(machine)
            case "snapshot", []:
                self.snapshot(machine)
            case "restore", [int(which), bool(everything), bool(noticed)]:
                await self.restore(machine, which, everything=everything, noticed=noticed)
            case "clone", [bool(noticed)]:
                await self.clone(machine, noticed=noticed)
            case "repair", []:
                await self.pair_again(machine)
            case "clock", [int(skew_s)]:
                machine.clock.skew_us = skew_s * 1_000_000
            case "full", [bool(full)]:
                machine.hazard.full = full
            case "rot", [int(seed)]:
                await self.rot(machine, Random(seed))
            case _:
                msg = f"no step {name!r} with {rest!r}"
                raise ValueError(msg)

    def machine(self, number: int) -> Machine:
        return self.machines[number % len(self.machines)]

    def operate(self, machine: Machine, operation: Operation, *, noticed: bool) -> None:
        deed = machine.operate(operation)
        process = self.processes.get(machine.number)
        if process is not None and process.lives and process.scanned:
            self.unsettled.pop(machine.number, None)
        self.oracle.note(deed, machine, unsettled=self.unsettled.get(machine.number, set()))
        if machine.mode == "receive-only":
            self.oracle.note_last_copies(deed, self.machines)
        if noticed and process is not None:
            process.notice(deed.dirty)

    # Processes

    async def boot(self, machine: Machine) -> None:
        """Start a device where none runs."""
        process = self.processes.get(machine.number)
        if process is not None and process.lives:
            return
        await self.kill(machine)
        machine.hazard.revive()
        try:
            process = Process(machine, self.changed.fire, lambda: self.members(machine))
        except OSError as error:
            self.log(f"{machine.number} cannot start: {error}")
            return
        if machine.number in self.amnesiac:
            self.amnesiac.discard(machine.number)
            found = sorted(process.device.unrecorded())
            self.oracle.forgive(found)
            for claim in found:
                self.oracle.rewritten(claim.name, machine)
        # After a power cut its memory may be shorter than what it had when it ended.
        self.unsettled.setdefault(machine.number, set()).update(process.device.unsettled())
        process.on_stamped_again = partial(self.oracle.found_out, machine)
        self.processes[machine.number] = process
        self.nursery.start_soon(self.run, process)
        self.changed.fire()

    async def run(self, process: Process) -> None:
        await process.run()
        if process.scanned or process.machine.number not in self.unsettled:
            self.unsettled[process.machine.number] = process.unsettled
        if process.machine.hazard.hit:
            self.log(f"{process.machine.number} was killed at: {process.machine.hazard.hit}")
        for link in self.links_of(process):
            link.drop()
        self.changed.fire()

    async def kill(self, machine: Machine) -> None:
        """End a device's process, and wait until nothing of it is left."""
        process = self.processes.pop(machine.number, None)
        if process is None:
            return
        machine.hazard.dead = True
        process.scope.cancel()
        for link in self.links_of(process):
            link.drop()
        await process.gone.wait()
        while self.links_of(process):  # noqa: ASYNC110  (a few steps of the same scheduler)
            await trio.lowlevel.checkpoint()

    def links_of(self, process: Process) -> list[Link]:
        """Return the links whose connection a process takes part in."""
        return [
            link
            for link in self.links.values()
            if link.connection is not None and process in {link.connection.a, link.connection.b}
        ]

    # Links

    def with_link(self, a: int, b: int, change: Callable[[Link], None]) -> None:
        """Change the link between two machines; it is made when it is first spoken of."""
        low, high = sorted((a % len(self.machines), b % len(self.machines)))
        if low == high:
            return
        link = self.links.get((low, high))
        if link is None:
            link = self.links[low, high] = Link()
            self.nursery.start_soon(self.keep, low, high, link)
        change(link)
        self.changed.fire()

    def isolate(self, machine: Machine) -> None:
        for pair, link in self.links.items():
            if machine.number in pair:
                link.cut()

    async def keep(self, low: int, high: int, link: Link) -> None:
        """Keep two machines connected whenever they can be."""
        while True:
            changed = self.changed.event
            a, b = self.processes.get(low), self.processes.get(high)
            if a is None or b is None or not self.may_talk(a, b, link):
                await changed.wait()
                continue
            link.connection = Connection(a, b, link.latency_s, Random(self.random.random()), self.log_message)
            try:
                await link.connection.run()
            except* Killed:
                for process in (a, b):
                    if process.machine.hazard.dead:
                        process.scope.cancel()
            finally:
                link.connection = None
                self.changed.fire()
            await trio.sleep(RECONNECT_S)

    def may_talk(self, a: Process, b: Process, link: Link) -> bool:
        """Return whether two processes can be connected now."""
        able = all(p.lives and is_able(p.device.replica) for p in (a, b))
        return (
            link.whole and able and a.key != b.key and not self.is_doubled(a, b) and not self.is_doubled(b, a)
        )

    def is_doubled(self, process: Process, peer: Process) -> bool:
        """Return whether a peer meets the same device key twice: then it refuses both."""
        return any(
            other is not process
            and other.key == process.key
            and other.lives
            and self.is_linked(other.machine.number, peer.machine.number)
            for other in self.processes.values()
        )

    def is_linked(self, a: int, b: int) -> bool:
        low, high = sorted((a, b))
        link = self.links.get((low, high))
        return link is not None and link.whole

    # Disasters

    def struck(self, machine: Machine) -> None:
        """Let the oracle know that a disk is not as it was."""
        self.amnesiac.add(machine.number)
        # What it had put there may be undone in its memory alone: removed before the next process looks,
        # it passes for not put there yet.
        self.unsettled.setdefault(machine.number, set()).update(machine.unsettled())
        self.oracle.review(self.machines, machine)

    def snapshot(self, machine: Machine) -> None:
        process = self.processes.get(machine.number)
        if process is None or process.lives:
            self.snapshots.setdefault(machine.number, []).append(machine.snapshot())

    async def restore(self, machine: Machine, which: int, *, everything: bool, noticed: bool) -> None:
        made = self.snapshots.get(machine.number)
        if not made:
            return
        await self.kill(machine)
        if everything:
            # What was saved later is of a past that is undone: a state must not be newer than what it speaks of.
            del made[which % len(made) + 1 :]
        machine.restore(made[which % len(made)], everything=everything, noticed=noticed)
        self.oracle.restored.add(machine.number)
        if not noticed:
            # Of a state within one opening nothing on the machine itself tells, either.
            self.oracle.undone(machine)
        elif everything:
            self.oracle.retract(machine)
        self.struck(machine)
        await self.boot(machine)

    async def clone(self, machine: Machine, *, noticed: bool) -> None:
        if len(self.machines) > len(self.plan.machines):
            return  # one clone is enough
        process = self.processes.get(machine.number)
        runs = process is not None and process.lives
        await self.kill(machine)
        other = machine.clone(len(self.machines), noticed=noticed)
        self.machines.append(other)
        if runs:
            await self.boot(machine)
        await self.boot(other)
        unrecorded = self.processes[other.number].device.unrecorded()
        self.oracle.copied(machine, other, unrecorded, noticed=noticed)

    async def pair_again(self, machine: Machine) -> None:
        """Give a clone a key of its own, as its user is told to."""
        key = DeviceId(bytes([machine.number + 1]) * 32)
        if machine.device != key:
            process = self.processes.get(machine.number)
            await self.kill(machine)
            machine.device = key
            if process is not None:
                await self.boot(machine)

    async def rot(self, machine: Machine, random: Random) -> None:
        """Let a row vanish from a state."""
        process = self.processes.get(machine.number)
        await self.kill(machine)
        machine.hazard.revive()
        full, machine.hazard.full = machine.hazard.full, False
        name = machine.lose_row(random)
        machine.hazard.full = full
        self.log(f"{machine.number} lost {name!r}")
        if name is not None:
            self.oracle.row_lost(name, machine)
        self.struck(machine)
        if process is not None:
            await self.boot(machine)

    async def forget(self, days: int) -> None:
        """Let every device forget the tombstones that it may forget now."""
        for process in list(self.processes.values()):
            replica = process.device.replica
            if process.lives and replica.phase is Phase.READY:
                now_us, members = process.machine.clock.now_us(), self.members(process.machine)
                drivers = [
                    link.connection.driver_of(process) for link in self.links_of(process) if link.connection
                ]
                sessions = [driver for driver in drivers if driver is not None]
                try:
                    gone = await forget_now(replica, now_us, days=days, members=members, sessions=sessions)
                    self.log(f"{process.machine.number} forgot {gone}")
                except (Killed, OSError) as error:
                    self.log(f"{process.machine.number} did not forget: {error!r}")

    def members(self, machine: Machine) -> set[DeviceId]:
        """Return the other devices of the share."""
        return {other.device for other in self.machines} - {machine.device}

    # The end

    async def settle(self) -> None:
        """Let all faults stop, all devices meet, and hold the outcome against the oracle."""
        for machine in self.machines:
            machine.hazard.full = False
            machine.hazard.operations_left = None
            await self.pair_again(machine)
            await self.boot(machine)
        for process in self.processes.values():
            process.notice(EVERYTHING)
        for a, b in combinations(range(len(self.machines)), 2):
            self.with_link(a, b, lambda link: link.join(0.0))
        await self.until_quiet()
        await self.scan_again()
        self.oracle.check(self.running())
        await self.meet_again()
        self.check_troubles()

    def running(self) -> list[Process]:
        return [self.processes[number] for number in sorted(self.processes)]

    async def until_quiet(self) -> None:
        """Wait until all agree and nothing is sent any more."""
        with trio.move_on_after(AGREE_S):
            while True:
                before = self.sent
                waits = any(p.device.replica.totals.pending_items for p in self.running())
                await trio.sleep(LOOK_S + RETRY_S if waits else LOOK_S)
                if self.sent == before and self.agree():
                    return
        what = "no agreement" if self.sent == before else "endless traffic"
        raise Violation(what, self.stand())

    def agree(self) -> bool:
        running = [p for p in self.running() if p.machine.mode != "send-only"]
        return (
            len({p.device.replica.standing.root for p in running}) <= 1
            and all(
                p.device.replica.totals.pending_items == 0
                for p in running
                if p.machine.mode == "send-receive"
            )
            and all(p.lives and is_able(p.device.replica) for p in self.running())
            and all(link.connection is not None and link.connection.at_rest for link in self.links.values())
        )

    async def scan_again(self) -> None:
        """Check that a scan finds nothing, and nothing is sent for it."""
        # What stands in the way of something that came to a device that only receives is noted when it is next seen: where
        # the content of what came is not to be had, that is now.
        for process in self.running():
            if process.machine.mode == "receive-only" and process.device.replica.totals.pending_items:
                process.notice(EVERYTHING)
                await trio.sleep(LOOK_S)
        arrivals = [p.device.store.arrival() for p in self.running()]
        sent = self.sent
        for process in self.running():
            process.notice(EVERYTHING)
        await trio.sleep(LOOK_S)
        if [p.device.store.arrival() for p in self.running()] != arrivals:
            raise Violation("echo", f"a scan finds what nobody changed\n{self.stand()}")
        if self.sent != sent:
            raise Violation("echo", f"a scan makes traffic\n{self.stand()}")

    async def meet_again(self) -> None:
        """Check that a further meeting is one round trip.

        A copied state may be found out only then: its number was no lower than the last one met. That takes
        a moment, and then all must be as quiet as before.
        """
        # What its user put in the way on a device that only receives is tried again every few seconds, and what comes
        # of it is told.
        busy = {
            process.machine.number
            for process in self.running()
            if process.machine.mode == "receive-only" and process.device.replica.totals.pending_items
        }
        for _ in range(MEETINGS_MAX):
            forked = sum(len(process.troubles) for process in self.running())
            for link in self.links.values():
                link.drop()
            await trio.sleep(RECONNECT_S + LOOK_S)
            if sum(len(process.troubles) for process in self.running()) == forked:
                break
            await self.until_quiet()
        # What a device that only sends knows is taken over by nobody, so two others may go on telling each other of it.
        if any(machine.mode == "send-only" for machine in self.machines):
            return
        for pair, link in sorted(self.links.items()):
            talk = link.connection.talk if link.connection is not None else None
            if talk != (["Hello"], ["Hello"]) and busy.isdisjoint(pair):
                raise Violation("more than one round trip", f"{pair}: {talk}\n{self.stand()}")

    def check_troubles(self) -> None:
        """Check that no honest device broke the rules of the protocol."""
        for process in self.running():
            for trouble in process.troubles:
                if "simulated" not in trouble and trouble != str(StateForked()):
                    raise Violation("session failed", trouble)

    def stand(self) -> str:
        """Return how all stand."""
        lines = []
        for process in self.running():
            replica, applier = process.device.replica, process.device.applier
            standing = replica.standing
            lines.append(
                f"{process.machine.number}: {process.machine.mode} {replica.phase.value} {replica.reason}"
                f" root={standing.root.hex()[:8]} actor={standing.actor.hex()[:4]} pending={replica.totals.pending_items}"
                f" failures={applier.failures} troubles={process.troubles}"
                f" K={ {actor.hex()[:4]: seq % 10**12 for actor, seq in sorted(standing.knowledge.items())} }"
                f" G={ {actor.hex()[:4]: seq % 10**12 for actor, seq in sorted(standing.forgotten.items())} }"
            )
            lines += [f"    {name!r}: {what}" for name, what in sorted(process.machine.picture().items())]
            lines += [
                f"    pending {p.item.key!r}: {p.item.kind.name} {p.item.digest.hex()[:4]} {p.item.dot.actor.hex()[:4]}"
                f" over {p.base.item.dot.actor.hex()[:4] if p.base else 'nothing'}"
                for p in process.device.store.pending(limit=20)
            ]
        return "\n".join(lines)


async def live(plan: Plan, kind: Kind, trace: list[str]) -> Violation | None:
    """Take one plan through; return what does not hold. What happened is added to `trace`."""
    found: list[Violation] = []
    try:
        async with trio.open_nursery() as nursery:
            world = World(plan, kind, nursery)
            world.trace = trace
            for number in range(len(world.machines)):
                await world.boot(world.machines[number])
            for step in plan.steps:
                await world.take(step)
            await world.settle()
            nursery.cancel_scope.cancel()
    except* Violation as group:
        found += [error for error in flat(group) if isinstance(error, Violation)]
    except* Exception as group:  # noqa: BLE001 - whatever escapes from a device is a finding
        found += [crash(error) for error in flat(group)]
    return found[0] if found else None


def flat(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """Return the errors in a group, however deep."""
    errors: list[BaseException] = []
    for one in group.exceptions:
        errors += flat(one) if isinstance(one, BaseExceptionGroup) else [one]
    return errors


def crash(error: BaseException) -> Violation:
    """Return an error that nobody caught as a finding."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = "".join(traceback.format_exception(error))
    return Violation(f"crash {type(error).__name__} in {where.name}", text)
