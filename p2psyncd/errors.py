"""The tree of errors.

The first paragraph of a class's docstring is what the user reads, so it says what to do next.
`exit_code` is what the client exits with (INTERFACE: 0 done, 1 failed, 2 usage, 3 no daemon,
4 timed out, 5 refused); `wire_code` names the error to a peer or to a client of the control API.
"""

from __future__ import annotations

import inspect

__all__ = [
    "AddressNotAllowed",
    "AlreadyShared",
    "BadRequest",
    "CodeExpired",
    "ConfigError",
    "DaemonNotRunning",
    "DatabaseBusy",
    "DatabaseDamaged",
    "DatabaseEmpty",
    "DatabaseFault",
    "DatabaseInUse",
    "DatabaseLinked",
    "DatabaseNotWritable",
    "DatabaseUnavailable",
    "DeviceDoubled",
    "DeviceRefused",
    "FileSystemUnfit",
    "FolderMissing",
    "HoldsOurState",
    "HomeLocked",
    "HomeUnusable",
    "IdentityDamaged",
    "KindUnsupported",
    "MistypedCode",
    "NameTaken",
    "NestedShare",
    "NoSuchConflict",
    "NoSuchDevice",
    "NoSuchItem",
    "NoSuchOffer",
    "NoSuchShare",
    "NotADatabase",
    "NotAFolder",
    "NotApprovable",
    "NotHeld",
    "P2psyncError",
    "PairingError",
    "PairingFailed",
    "PairingIntercepted",
    "PathUnsafe",
    "PortTaken",
    "ProtocolTooOld",
    "RemoteProtocolError",
    "ShareExists",
    "ShareFault",
    "ShareHeld",
    "SharePaused",
    "StateCorrupt",
    "StateForked",
    "StateTooNew",
    "TimedOut",
    "Undecided",
    "WrongCode",
]


class P2psyncError(Exception):
    """Something went wrong. Run `p2psync doctor` to find out what."""

    exit_code = 1
    wire_code = "error"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def message(self) -> str:
        """What the user reads: the detail (which names the thing), then what to do next."""
        advice = inspect.cleandoc(type(self).__doc__ or "").split("\n\n")[0].replace("\n", " ")
        if not self.detail:
            return advice
        mark = " " if self.detail[-1] in ".?!" else ": " if " " not in self.detail else ". "
        return f"{self.detail}{mark}{advice}"

    def __str__(self) -> str:
        return self.message


class BadRequest(P2psyncError):
    """The request cannot be understood. See `p2psync --help`."""

    exit_code = 2
    wire_code = "bad_request"

    @property
    def message(self) -> str:
        """What the user reads: the detail says it all."""
        return f"{self.detail.rstrip('.')}." if self.detail else super().message


class ConfigError(P2psyncError):
    """The configuration cannot be used. Mend the named key in config.toml; README.md lists them all."""

    wire_code = "config"


class DaemonNotRunning(P2psyncError):
    """The daemon is not running. Start it with `p2psync up`, or its systemd unit if that is installed (README.md says how)."""

    exit_code = 3
    wire_code = "not_running"


class TimedOut(P2psyncError):
    """It did not finish in time. `p2psync status` shows what is missing."""

    exit_code = 4
    wire_code = "timeout"


class HomeLocked(P2psyncError):
    """Another daemon uses this home already. Stop it first, or give this one another `--home`."""

    wire_code = "home_locked"


class HomeUnusable(P2psyncError):
    """The daemon cannot use its home folder. Make it writable for this user, or choose another `--home`."""

    wire_code = "home_unusable"


class PortTaken(P2psyncError):
    """The port is taken. Stop the other program, or choose another port with `--listen HOST:PORT` (port 0: any)."""

    wire_code = "port_taken"


class AddressNotAllowed(P2psyncError):
    """The address is outside the attached and private networks. Add it to `[network] allow` in config.toml if it is yours."""

    exit_code = 5
    wire_code = "address_not_allowed"


class IdentityDamaged(P2psyncError):
    """The device's key cannot be read. Put a backup back; or move the named file away and pair again, as a new device."""

    wire_code = "identity_damaged"


class StateCorrupt(P2psyncError):
    """The state database is damaged; your files are not touched. Move the named file away and start again: devices merge anew."""

    wire_code = "state_corrupt"


class StateTooNew(P2psyncError):
    """A newer p2psyncd wrote this state database; nothing was changed. Upgrade p2psyncd on this device."""

    wire_code = "state_too_new"


class FolderMissing(P2psyncError):
    """There is no such folder or file. Check the path; a new folder is made with `mkdir` first, a database by its app."""

    wire_code = "folder_missing"


class NotAFolder(P2psyncError):
    """It cannot be shared as it is. What can be shared is a folder that this user can read and write, or an SQLite file."""

    wire_code = "not_a_folder"


class KindUnsupported(P2psyncError):
    """This version does not know such a kind of share. Upgrade p2psyncd on this device."""

    wire_code = "unsupported"


class DatabaseUnavailable(P2psyncError):
    """The database cannot be used now; nothing was changed. `p2psync status` says how the share stands."""

    wire_code = "database_unavailable"


class DatabaseBusy(DatabaseUnavailable):
    """An app keeps this database locked. Nothing need be done: it is synced as soon as the app lets go of it, at the latest when the app is closed."""

    wire_code = "database_busy"


class DatabaseInUse(DatabaseBusy):
    """An app keeps the database locked, so what is ours cannot be taken out of it, and nothing was changed. Close the app; or forget the share all the same with `p2psync share remove NAME --force`."""

    wire_code = "database_in_use"


class DatabaseNotWritable(DatabaseUnavailable):
    """This user cannot write the database. Make the file and its folder writable for the user that p2psyncd runs as: SQLite keeps a journal beside the file."""

    wire_code = "database_not_writable"


class DatabaseDamaged(DatabaseUnavailable):
    """The database is damaged; nothing was changed. Close its app and put a backup back, or rescue what is left with `sqlite3 FILE .recover`; then `p2psync share approve NAME`."""

    wire_code = "database_damaged"


class NotADatabase(DatabaseUnavailable):
    """This file is no SQLite database, or it is encrypted. Check the path; an encrypted database cannot be synced."""

    wire_code = "not_a_database"


class DatabaseEmpty(NotADatabase):
    """There is nothing in it to be shared yet. Let its app make its tables first."""

    wire_code = "database_empty"


class DatabaseLinked(DatabaseUnavailable):
    """SQLite keeps a journal for each name of a database, so one with several names cannot be synced safely. Remove the other names (`ls -i` tells them), or share a copy of the file."""

    wire_code = "database_linked"


class DatabaseFault(P2psyncError):
    """SQLite reported an error that p2psyncd has no answer to; nothing was changed. It is tried again by itself; if it stays, look at the tables that it names, and report it with the daemon's log."""

    wire_code = "database_fault"


class NameTaken(P2psyncError):
    """The database has something of its app's under a name that p2psyncd needs. Rename it there; then the share goes on by itself, or can be added."""

    wire_code = "name_taken"


class ShareFault(P2psyncError):
    """Something happened that p2psyncd has no answer to. Other shares go on, and this one is tried again by itself; if it stays, report it with the daemon's log, which says where."""

    wire_code = "share_fault"


class FileSystemUnfit(P2psyncError):
    """The file system cannot replace files safely. Choose a folder on ext4, XFS, btrfs or another Linux file system."""

    wire_code = "file_system_unfit"


class NestedShare(P2psyncError):
    """A share cannot lie inside another share. Choose a folder outside, or remove the other share first."""

    wire_code = "nested_share"


class AlreadyShared(NestedShare):
    """It is shared here already, and nothing was changed. `p2psync share list` shows the shares."""

    wire_code = "already_shared"


class HoldsOurState(P2psyncError):
    """The daemon keeps its key and its state there, which no other device may have. Share a folder beside it, or one inside that does not hold it."""

    wire_code = "holds_our_state"


class ShareExists(P2psyncError):
    """A share of this name is here already. Remove that one first (`p2psync share remove NAME`; its data stays), or offer the other one under another name (`share add PATH --name N`)."""

    wire_code = "share_exists"


class NoSuchShare(P2psyncError):
    """There is no such share here. `p2psync share list` shows the shares."""

    wire_code = "no_such_share"


class NoSuchOffer(P2psyncError):
    """No connected device offers such a share. `p2psync share offers` shows what is offered."""

    wire_code = "no_such_offer"


class NoSuchDevice(P2psyncError):
    """No such device is paired. `p2psync device list` shows the devices."""

    wire_code = "no_such_device"


class NoSuchItem(P2psyncError):
    """There is no such item or version. `p2psync history PATH` shows the versions kept."""

    wire_code = "no_such_item"


class NoSuchConflict(P2psyncError):
    """There is no such conflict here, or it is settled. `p2psync conflict list` shows the open ones."""

    wire_code = "no_such_conflict"


class SharePaused(P2psyncError):
    """A paused share is equal to nothing. `p2psync share resume NAME` lets it go on."""

    exit_code = 5
    wire_code = "paused"


class ShareHeld(P2psyncError):
    """The share is held so that nothing is lost. `p2psync status` says why; `p2psync share approve NAME` releases it."""

    exit_code = 5
    wire_code = "held"


class NotApprovable(ShareHeld):
    """Approving does not mend that. Put what is missing back, and the share goes on by itself; or forget it with `p2psync share remove NAME`."""

    wire_code = "not_approvable"


class Undecided(P2psyncError):
    """There are rows in that file already. Say `--merge` to unite both, or `--adopt` to put the file aside and take the peer's."""

    exit_code = 5
    wire_code = "undecided"


class PathUnsafe(P2psyncError):
    """A path led out of the share and was refused. Look for a symlink that was put in place of a folder."""

    wire_code = "path_unsafe"


class PairingError(P2psyncError):
    """The devices were not paired. Show a new code with `p2psync pair` and try again."""

    exit_code = 5
    wire_code = "pairing"


class WrongCode(PairingError):
    """A code was entered that is not the one shown, and that one is used up. Show a new one with `p2psync pair`."""

    wire_code = "wrong_code"


class NotHeld(P2psyncError):
    """There is nothing to approve, and nothing was changed. `p2psync status` shows how the shares stand."""

    wire_code = "not_held"


class CodeExpired(PairingError):
    """The code is no longer valid. Show a new one with `p2psync pair`."""

    wire_code = "code_expired"


class PairingFailed(PairingError):
    """The other device was not found or went away. Check that both are on one network, or give `--at HOST:PORT`."""

    wire_code = "pairing_failed"


class MistypedCode(PairingError):
    """This is not the code as it was shown. Type it again; the code is still valid."""

    wire_code = "mistyped_code"


class PairingIntercepted(PairingError):
    """Something on the network stood between the two devices, so nothing was paired. Connect them directly and try again."""

    wire_code = "pairing_intercepted"


class DeviceRefused(P2psyncError):
    """The other device does not know this one (any more). Pair them again with `p2psync pair`."""

    exit_code = 5
    wire_code = "not_paired"


class DeviceDoubled(P2psyncError):
    """Two machines have one and the same identity, so both are refused. On the one that is the copy: stop p2psyncd, move its `identity` folder away, start it again and pair it anew; its files stay."""

    exit_code = 5
    wire_code = "device_doubled"


class RemoteProtocolError(P2psyncError):
    """The other device sent something that is not allowed. Both should run the same version of p2psyncd."""

    wire_code = "protocol"


class StateForked(RemoteProtocolError):
    """One of the two devices goes on from an older or a copied state of this share. It begins anew by itself, and nothing is lost; if this stays, remove the share there (the files stay) and accept it again."""

    wire_code = "state_forked"


class ProtocolTooOld(RemoteProtocolError):
    """The devices speak no common version of the protocol. Upgrade p2psyncd on the named side."""

    wire_code = "protocol_version"
