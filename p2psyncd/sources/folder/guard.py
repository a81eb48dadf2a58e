"""The marker of a shared folder, and whether its root is still what it was.

`.p2psync/share` holds the share's id. Where it is missing, the disk is most likely not mounted, and
everything that seems deleted is not: the share is held.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from p2psyncd.core.ids import SHARE_ID_BYTES, ShareId
from p2psyncd.errors import FileSystemUnfit, FolderMissing, NestedShare, NotAFolder, ShareHeld
from p2psyncd.sources.folder.beneath import Directories, exchange, open_beneath, open_root
from p2psyncd.sources.folder.layout import HISTORY, MARKER, META, STAGING

__all__ = ["RootGuard", "check_new_root", "create_marker", "marker_of", "remove_marker"]

MARKER_NAME = b"share"
MARKER_BYTES_MAX = 4 * SHARE_ID_BYTES
EXPLANATION = "p2psyncd keeps its notes about this shared folder here; see `p2psync share list`.\n"


def read_marker(root: int) -> ShareId | None:
    """Return the share's id from the marker beneath an opened root; None where there is no good one."""
    try:
        opened = open_beneath(root, MARKER, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        text = os.read(opened, MARKER_BYTES_MAX)
    except OSError:
        return None
    finally:
        os.close(opened)
    try:
        return ShareId(bytes.fromhex(text.split(b"\n", 1)[0].decode("ascii")))
    except ValueError:
        return None


def marker_of(root: Path) -> ShareId | None:
    """Return the id of the share whose marker a folder holds; None if it holds none."""
    try:
        opened = open_root(root)
    except OSError:
        return None
    try:
        return read_marker(opened)
    finally:
        os.close(opened)


def check_new_root(path: Path) -> Path:
    """Return the real path of a folder that is to be shared.

    Raises:
        FolderMissing: It does not exist.
        NotAFolder: It is something else, or cannot be written to.
        NestedShare: It lies inside a shared folder.
    """
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise FolderMissing(f"{path} does not exist") from error
    if not root.is_dir():
        raise NotAFolder(f"{root} is not a folder")
    for above in root.parents:
        if marker_of(above) is not None or above.name == os.fsdecode(META):
            raise NestedShare(f"{root} lies inside the share at {above}")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise NotAFolder(f"{root} cannot be read and written by this user")
    return root


def check_exchange(staging: int) -> None:
    """Check that the file system can exchange two files, with two files in staging.

    Raises:
        FileSystemUnfit: It cannot.
    """
    names = (b".probe-one", b".probe-two")
    try:
        for name in names:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=staging))
        exchange(staging, names[0], staging, names[1])
    except OSError as error:
        raise FileSystemUnfit(f"exchanging two files failed ({error.strerror})") from error
    finally:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=staging)


def create_marker(root: Path, share_id: ShareId) -> None:
    """Make `.p2psync` with the marker in a folder; an older marker is replaced.

    Raises:
        FileSystemUnfit: Files cannot be replaced safely here.
        NotAFolder: It cannot be written to, or something else has the name `.p2psync`.
    """
    try:
        with Directories(root) as directories:
            check_exchange(directories.ensure(STAGING))
            directories.ensure(HISTORY)
            meta = directories.directory(META)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            opened = os.open(b"share.new", flags, 0o600, dir_fd=meta)
            try:
                os.write(opened, f"{share_id.hex()}\n{EXPLANATION}".encode())
                os.fsync(opened)
            finally:
                os.close(opened)
            os.rename(b"share.new", MARKER_NAME, src_dir_fd=meta, dst_dir_fd=meta)
            os.fsync(meta)
            os.fsync(directories.root)
    except OSError as error:
        raise NotAFolder(f"{root} cannot be shared ({error.strerror})") from error


def remove_marker(root: Path) -> None:
    """Take the marker away: the folder is no longer a share; its history stays."""
    try:
        with Directories(root) as directories:
            os.unlink(MARKER_NAME, dir_fd=directories.directory(META))
    except OSError:
        return


class RootGuard:
    """Knows what a share's root was, and says whether it still is."""

    def __init__(self, root: Path, share_id: ShareId, *, filesystem: int | None = None) -> None:
        """Args: filesystem: The identity that `filesystem` had in an earlier run, if that is known."""
        self.root = root
        self.share_id = share_id
        self.filesystem = filesystem
        self.device: int | None = None

    def check(self) -> None:
        """Check root and marker.

        Raises:
            ShareHeld: Something is not as it was; the detail says what.
        """
        try:
            opened = open_root(self.root)
        except OSError as error:
            raise ShareHeld(self.why_not_opened(error)) from error
        try:
            device = os.fstat(opened).st_dev
            filesystem = os.fstatvfs(opened).f_fsid
            marker = read_marker(opened)
        finally:
            os.close(opened)
        if marker is None:
            raise ShareHeld(
                f"{self.root} has no marker .p2psync/share (any more): is its disk mounted? Once it is there, the "
                "share goes on by itself; if it was deleted, remove the share and add or accept it again"
            )
        if marker != self.share_id:
            raise ShareHeld(f"{self.root} is marked as another share's folder")
        if (self.device is not None and device != self.device) or (
            self.filesystem is not None and filesystem != self.filesystem
        ):
            raise ShareHeld(
                f"{self.root} lies on another file system than before; if that is meant, approve it "
                "(`p2psync share approve`)"
            )
        self.device, self.filesystem = device, filesystem

    def accept(self) -> None:
        """Take the root as it is now, whatever file system it is on (the user approved it)."""
        self.device = self.filesystem = None
        self.check()

    def why_not_opened(self, error: OSError) -> str:
        """Return in words why the root cannot be opened."""
        match error.errno:
            case errno.ENOENT:
                return f"{self.root} is missing: is its disk mounted? Once it is there, the share goes on by itself"
            case errno.ELOOP:
                return f"{self.root} is a symlink now"
            case errno.ENOTDIR:
                # O_DIRECTORY comes before O_NOFOLLOW: a symlink answers this too.
                return f"{self.root} is {'a symlink' if self.root.is_symlink() else 'not a folder'} now"
            case _:
                return f"{self.root} cannot be opened ({error.strerror})"
