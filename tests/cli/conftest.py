from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from p2psync.main import main


def load(path: Path) -> ModuleType:
    name = f"tests_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that the commands of this test use."""
    folder = tmp_path / "home"
    (folder / "run").mkdir(parents=True, mode=0o700)
    (folder / "run").chmod(0o700)
    monkeypatch.setenv("P2PSYNC_HOME", str(folder))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return folder


@pytest.fixture(scope="session")
def scripted() -> ModuleType:
    """The module with the scripted backend."""
    return load(Path(__file__).parent.parent / "control" / "scripted.py")


@pytest.fixture
def backend(scripted: ModuleType, home: Path) -> Iterator[Any]:
    """A scripted backend, served on this home's socket by the real server."""
    with scripted.served_in_a_thread(home / "run" / "control.sock") as served:
        yield served


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """What runs a command in this process and returns its exit code, stdout and stderr."""

    def run_command(*arguments: str) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        assert "Traceback" not in err
        return Result(code, out, err)

    return run_command
