"""For all tests: what LAN and systemd tests share, and the list of what was left out at the end."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from p2plab.installed import Installed, install_wheel
from p2plab.machine import why_no_machine
from p2plab.network import Lab, why_no_lab

MARKS = {"lan": why_no_lab, "systemd": why_no_machine}


def pytest_configure() -> None:
    """Undo what a shell does to a job in the background: programs that are tested are stopped by Ctrl-C, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what cannot run here, with what to do about it as the reason."""
    for mark, why_not in MARKS.items():
        marked = [item for item in items if item.get_closest_marker(mark)]
        reason = why_not() if marked else None
        if reason:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were left out and what would bring them in."""
    reasons: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    if not reasons:
        return
    terminalreporter.section("left out here")
    for reason, tests in reasons.items():
        terminalreporter.write_line(f"{len(tests)} tests: {reason}")
        files = sorted({test.split("::")[0] for test in tests})
        terminalreporter.write_line(f"    in {', '.join(files)}")


@pytest.fixture(scope="session")
def lab_folder() -> Iterator[Path]:
    """A folder for the whole session that every user may look into."""
    folder = Path(tempfile.mkdtemp(prefix="p2plab-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def installed(lab_folder: Path) -> Installed:
    """The wheel of this checkout in an environment of its own."""
    return install_wheel(lab_folder)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A LAN without hosts; `lab.host(0)` makes the first."""
    with Lab() as made:
        yield made


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short name: a Unix socket's path may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="p2p-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
