"""What the crash rig needs: the programs, the shim, and disks whose power can be cut."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from crashrig.devices import installed_here
from crashrig.disk import why_no_disk
from crashrig.rig import Rig
from crashrig.row_rig import RowRig
from crashrig.row_runs import row_rig_on
from crashrig.runs import rig_on
from crashrig.shim import compile_shim, why_no_compiler
from crashrig.trial import Totals
from p2plab.installed import Installed

NewRig = Callable[..., AbstractContextManager[Rig]]
NewRowRig = Callable[..., AbstractContextManager[RowRig]]


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> Installed:
    """The programs of this environment, or of one that is made for the tests."""
    return installed_here(Path(sys.prefix)) or request.getfixturevalue("installed")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim."""
    reason = why_no_compiler()
    if reason:
        pytest.skip(reason)
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def disks() -> dict[str, str | None]:
    """For each file system, why no disk with it can be cut here."""
    return {kind: why_no_disk(kind) for kind in ("ext4", "xfs")}


@pytest.fixture
def need_disk(disks: dict[str, str | None]) -> Callable[[str], None]:
    """Return a function that leaves a test out where it cannot have a disk of some file system."""

    def need(kind: str) -> None:
        if disks[kind]:
            pytest.skip(str(disks[kind]))

    return need


@pytest.fixture
def blamed() -> Iterator[list[Totals]]:
    """What rigs came to; what they blame on the devices fails the test."""
    made: list[Totals] = []
    yield made
    for totals in made:
        sys.stdout.write("\n".join(totals.lines()) + "\n")
        assert totals.violations == []


@pytest.fixture
def new_rig(short_folder: Path, programs: Installed, blamed: list[Totals]) -> NewRig:
    """Return a function that makes a rig, for `with`."""

    def make(
        seed: int, shim: Path | None = None, *, kind: str | None = None, options: str = ""
    ) -> AbstractContextManager[Rig]:
        blamed.append(Totals())
        return rig_on(short_folder, programs, shim, seed, blamed[-1], kind=kind, options=options)

    return make


@pytest.fixture
def new_row_rig(short_folder: Path, programs: Installed, blamed: list[Totals]) -> NewRowRig:
    """Return a function that makes a rig with databases, for `with`."""

    def make(seed: int, shim: Path, *, mode: str) -> AbstractContextManager[RowRig]:
        blamed.append(Totals())
        return row_rig_on(short_folder, programs, shim, seed, blamed[-1], mode=mode)

    return make
