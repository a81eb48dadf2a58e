from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from p2psyncd.daemon.config import Config, ListenAddress, load_config, override, parse_listen
from p2psyncd.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_without_a_file_the_defaults_hold(file: Path) -> None:
    assert load_config(file) == Config()
    assert Config().listen == (ListenAddress(host="", port=22600),)


def test_every_key_is_read(file: Path) -> None:
    file.write_text("""
        name = "laptop"
        listen = ["192.168.1.5:22600", "[fe80::1]:0", ":7", "*:8"]
        interfaces = ["eth0", "10.0.0.1"]
        mdns = false
        log_level = "debug"
        log_format = "json"
        [network]
        allow = ["10.8.0.0/24", "2001:db8::/32", "192.0.2.1"]
        [history]
        days = 7
        share_percent = 5
        min_mb = 0
        [tombstones]
        days = 90
        [scan]
        interval_s = 60
        [pairing]
        introduce = false
    """)
    assert load_config(file) == Config(
        name="laptop",
        listen=(
            ListenAddress(host="192.168.1.5", port=22600),
            ListenAddress(host="fe80::1", port=0),
            ListenAddress(host="", port=7),
            ListenAddress(host="", port=8),
        ),
        interfaces=("eth0", "10.0.0.1"),
        mdns=False,
        log_level="debug",
        log_format="json",
        network_allow=(ip_network("10.8.0.0/24"), ip_network("2001:db8::/32"), ip_network("192.0.2.1/32")),
        history_days=7,
        history_share_percent=5,
        history_min_mb=0,
        tombstones_days=90,
        scan_interval_s=60,
        pairing_introduce=False,
    )


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("nmae = 'x'", "unknown key `nmae`, did you mean `name`?"),
        ("[histroy]\ndays = 1", "unknown key `histroy`"),
        ("[history]\ndayz = 1", "unknown key `history.dayz`, did you mean `history.days`?"),
        ("history = 1", "unknown key `history`"),
        ("mdns = 'no'", "`mdns`: expected true or false, not 'no'"),
        ("name = 3", "`name`: expected text, not 3"),
        ("name = ' '", "`name`: expected text"),
        ('name = "a\\u001b[1m"', "`name`: expected at most 64 printable"),
        ("listen = ':1'", "`listen`: expected a list"),
        ("listen = [1]", "`listen`: expected text"),
        ("listen = ['1.2.3.4']", "`listen`: expected HOST:PORT"),
        ("listen = ['fe80::1:22600']", "`listen`: expected HOST:PORT or [IPV6]:PORT"),
        ("listen = ['x:65536']", "`listen`: expected HOST:PORT"),
        ("log_level = 'loud'", "`log_level`: expected one of debug, info, warning, error"),
        ("[network]\nallow = ['10.0.0.1/8']", "`network.allow`: expected a network such as"),
        ("[history]\ndays = true", "`history.days`: expected a whole number from 0"),
        ("[history]\nshare_percent = 101", "`history.share_percent`: expected a whole number from 0 to 100"),
        ("[scan]\ninterval_s = -1", "`scan.interval_s`: expected a whole number"),
        ("name = ", "Invalid value"),
        ("a = '\xff'", "utf-8"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(file: Path, written: str, says: str) -> None:
    file.write_bytes(written.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert says in caught.value.detail
    assert str(file) in caught.value.detail


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)


def test_the_command_line_overrides_the_file() -> None:
    config = Config(name="file", mdns=True, log_level="debug")
    listen = (parse_listen("127.0.0.1:0"),)
    changed = override(config, name="line", mdns=False, log_level=None, listen=listen)
    assert changed == Config(name="line", mdns=False, log_level="debug", listen=listen)


def test_a_listen_address_reads_back_as_it_is_shown() -> None:
    for shown in ("192.168.1.5:22600", "[fe80::1]:0", ":7"):
        assert str(parse_listen(shown)) == shown
