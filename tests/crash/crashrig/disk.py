"""A disk whose power can be cut: a file system in an image, shut down so that what was not synced is gone.

`FS_IOC_SHUTDOWN` without a flush of the log stops the file system at once, as xfstests does it:
pages that were not written stay in memory and are dropped with the mount, and at the next mount the
journal is replayed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from itertools import count
from pathlib import Path

from p2plab.waiting import eventually

__all__ = ["Disk", "why_no_disk"]

# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN: _IOR('X', 125, __u32); no flush of the log.
SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
IMAGE_BYTES = 512 * 1024 * 1024
FREE_S = 3.0


class Disk:
    """An image with one file system, mounted."""

    def __init__(self, image: Path, mountpoint: Path, *, kind: str = "ext4", options: str = "") -> None:
        """Make and mount it.

        Args:
            image: The file to be made.
            mountpoint: A folder to be made.
            kind: "ext4" or "xfs".
            options: Of the mount, separated by commas.
        """
        self.image = image
        self.mountpoint = mountpoint
        self.kind = kind
        # XFS takes two file systems of one identity for an error; see `replug`.
        self.options = ",".join(filter(None, ["loop", options, "nouuid" if kind == "xfs" else ""]))
        self.numbers = count()
        self.device = 0
        self.moved = False
        """Whether the last mount gave it another device: XFS takes its identity from that."""
        mountpoint.mkdir()
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        run(f"mkfs.{kind}", "-q", *(["-F"] if kind == "ext4" else ["-f"]), str(image))
        self.mount()

    def mount(self) -> None:
        """Mount it; a journal is replayed."""
        run("mount", "-t", self.kind, "-o", self.options, str(self.image), str(self.mountpoint))
        device, self.device = self.device, self.mountpoint.stat().st_dev
        self.moved = device not in {0, self.device}

    def cut(self) -> None:
        """Cut the power: everything that was not synced is gone. Nothing on it can be used until `replug`."""
        opened = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(opened, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(opened)

    def replug(self) -> None:
        """Mount what had reached the disk; nobody may have anything on it open.

        Where a mount namespace that was made meanwhile, by another test say, keeps the file system alive
        that was shut down, a copy is mounted: with the same image that one would come back.
        """
        self.unmount()
        try:
            eventually("the image is free", lambda: not self.attached(), within_s=FREE_S)
        except TimeoutError:
            copied = self.image.with_suffix(f".{next(self.numbers)}")
            run("cp", "--sparse=always", "--reflink=auto", str(self.image), str(copied))
            self.image.unlink()
            self.image = copied
        self.mount()

    def attached(self) -> bool:
        """Return whether a loop device still has the image."""
        found = subprocess.run(["losetup", "-j", str(self.image)], capture_output=True, check=True)
        return bool(found.stdout.strip())

    def unmount(self) -> None:
        """Unmount it, once nothing on it is open any more."""
        command = ["umount", str(self.mountpoint)]
        eventually(
            f"{self.mountpoint} is unmounted",
            lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0,
            within_s=20,
        )

    def close(self) -> None:
        """Unmount and delete it."""
        self.unmount()
        self.image.unlink()


def run(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def why_no_disk(kind: str = "ext4") -> str | None:
    """Return why no disk can be made and cut here; None where it can."""
    packages = {"ext4": "e2fsprogs", "xfs": "xfsprogs"}
    if shutil.which(f"mkfs.{kind}") is None:
        return f"apt-get install {packages[kind]}"
    if shutil.which("mount") is None:
        return "apt-get install mount"
    if os.geteuid() != 0:
        return "mounting a disk image needs root"
    folder = Path(tempfile.mkdtemp(prefix="p2pdisk-"))
    try:
        disk = Disk(folder / "image", folder / "mounted", kind=kind)
        disk.cut()
        disk.replug()
        disk.close()
    except OSError as error:
        return f"disk images cannot be mounted or shut down here ({error})"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None
