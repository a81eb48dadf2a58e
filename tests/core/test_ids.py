from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.core.ids import (
    ALPHABET,
    DeviceId,
    check_character,
    format_device_id,
    parse_device_id,
    short_device_id,
)

devices = st.binary(min_size=32, max_size=32).map(DeviceId)


@given(device=devices)
def test_a_device_id_reads_back_as_it_was_written(device: DeviceId) -> None:
    assert parse_device_id(format_device_id(device)) == device


@given(device=devices)
def test_dashes_spaces_and_case_do_not_matter(device: DeviceId) -> None:
    text = format_device_id(device)
    assert parse_device_id(text.lower().replace("-", " ")) == device
    assert parse_device_id(text.replace("-", "")) == device


def test_a_device_id_is_eight_groups_of_seven() -> None:
    text = format_device_id(DeviceId(bytes(range(32))))
    assert [len(group) for group in text.split("-")] == [7] * 8
    assert short_device_id(DeviceId(bytes(range(32)))) == text[:7]


@given(device=devices, at=st.integers(0, 55), other=st.sampled_from(ALPHABET))
def test_any_single_wrong_character_is_noticed(device: DeviceId, at: int, other: str) -> None:
    plain = format_device_id(device).replace("-", "")
    if plain[at] == other:
        return
    with pytest.raises(ValueError, match="device ID"):
        parse_device_id(plain[:at] + other + plain[at + 1 :])


@given(text=st.text(max_size=60))
def test_other_text_is_no_device_id(text: str) -> None:
    with pytest.raises(ValueError, match="device ID"):
        parse_device_id(text)


@given(run=st.text(alphabet=ALPHABET, min_size=56, max_size=56))
def test_a_device_has_one_spelling_only(run: str) -> None:
    try:
        device = parse_device_id(run)
    except ValueError:
        return
    assert format_device_id(device).replace("-", "") == run


def test_bits_that_no_device_has_are_refused() -> None:
    # The last of 52 base32 characters carries one bit; the other four are always zero.
    plain = format_device_id(DeviceId(bytes(32))).replace("-", "")
    run = plain[42:54] + "B"
    with pytest.raises(ValueError, match="device ID"):
        parse_device_id(plain[:42] + run + check_character(run))
