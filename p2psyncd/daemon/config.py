"""The configuration: one frozen value, parsed once from config.toml and the command line.

Every key has a default; an unknown key or a value of the wrong type is an error that names it, because a
misspelt `allow` that is silently ignored opens or closes a door nobody looks at. README.md lists the keys.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal, TypeVar, get_args

from p2psyncd.errors import ConfigError

__all__ = ["DEFAULT_PORT", "Config", "ListenAddress", "Network", "load_config", "override", "parse_listen"]

DEFAULT_PORT = 22600
PORT_MAX = 65_535
NAME_CHARACTERS_MAX = 64

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
Network = IPv4Network | IPv6Network
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """Where to listen."""

    host: str
    """An IP address or a host name; empty: every address, of both families."""
    port: int
    """0: any free one."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a user can set."""

    name: str | None = None
    """This device's name; None: the host's."""
    listen: tuple[ListenAddress, ...] = (ListenAddress(host="", port=DEFAULT_PORT),)
    interfaces: tuple[str, ...] = ()
    """Interface names or IP addresses that mDNS and listening are limited to; empty: all usable ones."""
    mdns: bool = True
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    network_allow: tuple[Network, ...] = ()
    """Networks allowed beside the attached, private and link-local ones."""
    history_days: int = 30
    history_share_percent: int = 10
    """Most that history may take, in per cent of the share's bytes."""
    history_min_mb: int = 100
    """Megabytes of history that are kept whatever the percentage says."""
    tombstones_days: int = 365
    """How long a deletion is remembered that not every member of the share has heard of."""
    scan_interval_s: int = 3600
    """Between full scans of a share that nothing asked for; 0: none."""
    pairing_introduce: bool = True
    """Whether paired devices introduce each other to the devices they know."""


def load_config(file: Path) -> Config:
    """Return the configuration in a file; the defaults if there is no such file.

    Raises:
        ConfigError: It cannot be read or is wrong; the message names the file and the key.
    """
    try:
        with file.open("rb") as stream:
            values = tomllib.load(stream)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    try:
        return read_config(values)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error


def override(config: Config, **options: object) -> Config:
    """Return the configuration with command-line options in place of what the file says.

    Args:
        config: From the file.
        options: Values by the fields of `Config`; None means that the option was not given.
    """
    given = {name: value for name, value in options.items() if value is not None}
    return replace(config, **given)  # type: ignore[arg-type]  # main hands in what the fields hold


def read_config(values: Mapping[str, object]) -> Config:
    """Return the configuration in parsed TOML.

    Raises:
        ValueError: An unknown key or a wrong value, by its name.
    """
    found: dict[str, object] = {}
    for key, value in flatten(values).items():
        reader = READERS.get(key)
        if reader is None:
            raise ValueError(f"unknown key `{key}`{suggestion(key)}")
        try:
            found[key.replace(".", "_")] = reader(value)
        except ValueError as error:
            raise ValueError(f"`{key}`: {error}") from error
    return Config(**found)  # type: ignore[arg-type]  # each reader returns what its field holds


def flatten(values: Mapping[str, object]) -> dict[str, object]:
    """Return sections as dotted keys: `[history] days` is `history.days`."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key in SECTIONS:
            flat.update({f"{key}.{inner}": inner_value for inner, inner_value in value.items()})
        else:
            flat[key] = value
    return flat


def suggestion(key: str) -> str:
    """Return a hint if the key looks like a misspelt one."""
    from difflib import get_close_matches  # noqa: PLC0415  # only ever needed on the way out

    close = get_close_matches(key, READERS, n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def text(value: object) -> str:
    """Read text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected text, not {value!r}")
    return value


def device_name(value: object) -> str:
    """Read a device's name: what other people see, so it must be printable."""
    name = text(value).strip()
    if not name.isprintable() or len(name) > NAME_CHARACTERS_MAX:
        raise ValueError(f"expected at most {NAME_CHARACTERS_MAX} printable characters, not {value!r}")
    return name


def flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, not {value!r}")  # noqa: TRY004  # the caller names the key
    return value


def whole(low: int, high: int) -> Callable[[object], int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, not {value!r}")
        return value

    return read


def many(reader: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Return a reader of lists."""

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, not {value!r}")  # noqa: TRY004  # the caller names the key
        return tuple(reader(one) for one in value)

    return read


def choice(choices: Sequence[str]) -> Callable[[object], str]:
    """Return a reader of one of some words."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return read


def network(value: object) -> Network:
    """Read a network in CIDR notation; a single address is a network of one."""
    try:
        return ip_network(text(value))
    except ValueError as error:
        raise ValueError(f"expected a network such as 10.8.0.0/24, not {value!r}") from error


def parse_listen(value: object) -> ListenAddress:
    """Read `HOST:PORT`, `[IPv6]:PORT` or `:PORT`.

    Raises:
        ValueError: It is none of these.
    """
    host, colon, port = text(value).rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    plain = host[1:-1] if bracketed else host
    whole_port = port.isascii() and port.isdigit() and int(port[:6]) <= PORT_MAX
    if not colon or not whole_port or (":" in plain) != bracketed:
        raise ValueError(f"expected HOST:PORT or [IPV6]:PORT, not {value!r}")
    return ListenAddress(host="" if plain == "*" else plain, port=int(port))


YEARS_100_DAYS = 36_500
# A terabyte of history, and a month between scans: beyond that it is a slip of the keyboard.
HISTORY_MB_MAX = 1_000_000
SCAN_S_MAX = 31 * 86_400

READERS: dict[str, Callable[[object], object]] = {
    "name": device_name,
    "listen": many(parse_listen),
    "interfaces": many(text),
    "mdns": flag,
    "log_level": choice(get_args(LogLevel)),
    "log_format": choice(get_args(LogFormat)),
    "network.allow": many(network),
    "history.days": whole(0, YEARS_100_DAYS),
    "history.share_percent": whole(0, 100),
    "history.min_mb": whole(0, HISTORY_MB_MAX),
    "tombstones.days": whole(0, YEARS_100_DAYS),
    "scan.interval_s": whole(0, SCAN_S_MAX),
    "pairing.introduce": flag,
}
SECTIONS = {key.partition(".")[0] for key in READERS if "." in key}
# A field that no key sets, or a key that sets no field, is found by the first import.
assert {key.replace(".", "_") for key in READERS} == {field.name for field in fields(Config)}
