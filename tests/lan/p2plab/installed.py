"""The wheel of this checkout, installed with its pinned dependencies into an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Installed", "install_wheel"]

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Where the two programs are."""

    venv: Path
    coverage_config: str = ""
    """Set: daemons record which lines ran (see ./test)."""

    @property
    def daemon(self) -> str:
        """Path of p2psyncd."""
        return str(self.venv / "bin" / "p2psyncd")

    @property
    def client(self) -> str:
        """Path of p2psync."""
        return str(self.venv / "bin" / "p2psync")

    @property
    def python(self) -> str:
        """Path of the environment's interpreter."""
        return str(self.venv / "bin" / "python")


def install_wheel(folder: Path) -> Installed:
    """Build the wheel and install it, the way a user would, but from this environment's build tools."""
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    venv = folder / "venv"
    # An environment that is activated around us must not reach into the one being made.
    environ = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}

    def run(*argv: str) -> None:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=environ)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")

    run(
        sys.executable,
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    )
    [wheel] = folder.glob("p2psyncd-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", str(venv))
    target = ["--python", str(venv / "bin" / "python"), "install"]
    run(
        sys.executable,
        *pip,
        *target,
        "--require-hashes",
        "--prefer-binary",
        "-r",
        str(ROOT / "requirements.txt"),
    )
    run(sys.executable, *pip, *target, "--no-deps", str(wheel))
    config = os.environ.get("P2PSYNC_LAB_COVERAGE", "")
    if config:
        lend_coverage(venv)
    return Installed(venv=venv, coverage_config=config)


def lend_coverage(venv: Path) -> None:
    """Let daemons of the new environment use this environment's coverage, which starts itself when told to."""
    ours = Path(sysconfig.get_path("purelib"))
    theirs = next((venv / "lib").glob("python3*")) / "site-packages"
    (theirs / "coverage").symlink_to(ours / "coverage")
    start = (
        "import os\nif os.getenv('COVERAGE_PROCESS_START'):\n import coverage\n coverage.process_startup()\n"
    )
    (theirs / "lab_coverage.pth").write_text(f"import sys; exec({start!r})\n")
