from __future__ import annotations

import math
import struct

import apsw
import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2psyncd.sources.database.values import (
    BIRTH_BYTES,
    INTEGER_MAX,
    INTEGER_MIN,
    Cell,
    RawText,
    Ref,
    Value,
    canonical_bytes,
    column_hash,
    column_hashes,
    from_wire,
    row_hash,
    same_cell,
    text_of,
    to_wire,
)

BIRTH = bytes(range(BIRTH_BYTES))
NOT_UTF8 = st.binary(min_size=1, max_size=6).filter(lambda data: isinstance(text_of(data), RawText))
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.integers(INTEGER_MIN, INTEGER_MAX),
    st.integers(-2, 2),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, 5e-324]),
    st.floats(allow_nan=False),
    st.text(max_size=6),
    st.binary(max_size=6),
    NOT_UTF8.map(RawText),
)
CELLS: st.SearchStrategy[Cell] = VALUES | st.builds(
    Ref, st.integers(INTEGER_MIN, INTEGER_MAX), st.binary(min_size=BIRTH_BYTES, max_size=BIRTH_BYTES)
)


def exact(cell: Cell) -> object:
    """What tells two cells apart, said in another way than the code under test says it."""
    return type(cell), struct.pack(">d", cell) if isinstance(cell, float) else repr(cell)


@given(CELLS)
def test_a_cell_comes_back_from_the_wire_exactly(cell: Cell) -> None:
    assert exact(from_wire(cbor2.loads(cbor2.dumps(to_wire(cell))))) == exact(cell)


@given(CELLS, CELLS)
def test_cells_are_the_same_when_type_and_bits_are(one: Cell, other: Cell) -> None:
    same = exact(one) == exact(other)
    assert same_cell(one, other) == same
    assert (canonical_bytes(one) == canonical_bytes(other)) == same


@given(VALUES, VALUES)
def test_values_have_one_hash_only_when_they_are_the_same(one: Value, other: Value) -> None:
    assert len(column_hash(one)) == 8
    assert (column_hash(one) == column_hash(other)) == (exact(one) == exact(other))


@pytest.mark.parametrize(
    "value",
    [
        True,
        INTEGER_MAX + 1,
        INTEGER_MIN - 1,
        math.nan,
        [],
        [b"valid"],
        ["text"],
        [1],
        [b"\xff", b"\xff"],
        [1, BIRTH[1:]],
        [1, BIRTH, 1],
        [True, BIRTH],
        [INTEGER_MAX + 1, BIRTH],
        [1.0, BIRTH],
        [1, "x" * BIRTH_BYTES],
        {},
        (1, BIRTH),
    ],
)
def test_what_no_column_holds_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"value|number|marked|range"):
        from_wire(value)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=5))
def test_a_rows_state_is_its_columns_hashes_by_name(values: dict[str, Value]) -> None:
    state = row_hash(dict(reversed(values.items())))
    assert state == b"".join(column_hash(values[name]) for name in sorted(values))


@given(VALUES)
def test_sqlite_gives_back_what_it_was_given(value: Value) -> None:
    # What these types stand for: everything that a column without affinity holds.
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t(v)")
    if isinstance(value, RawText):
        connection.execute("INSERT INTO t VALUES(CAST(? AS TEXT))", (value.data,))
    else:
        connection.execute("INSERT INTO t VALUES(?)", (value,))
    kind, plain, raw = connection.execute(
        "SELECT typeof(v), CASE typeof(v) WHEN 'text' THEN NULL ELSE v END, CAST(v AS BLOB) FROM t"
    ).get
    connection.close()
    found = text_of(raw or b"") if kind == "text" else plain
    assert exact(found) == exact(value) or (isinstance(value, float) and found == value == 0)


def test_the_hashes_of_numbers_are_what_they_were() -> None:
    # They are in stores: other ones would make every row look changed.
    values: list[Value] = [None, 1, 1.0, "1", b"1", RawText(b"\xff")]
    assert [column_hash(value).hex() for value in values] == [
        "0000000000000000",
        "257194ed78877044",
        "e29ff53a5f1d36f1",
        "548704d81d7cb4e7",
        "12b4a150701fcbb1",
        "1a00fb2c5bf5f770",
    ]


@given(st.lists(VALUES))
def test_many_values_hash_as_each_does(values: list[Value]) -> None:
    assert column_hashes(values, set(map(type, values))) == [column_hash(one) for one in values]


@pytest.mark.parametrize("values", [["a", "", "é"], [0, -1, 2**63 - 1, -(2**63)]])
def test_many_values_of_one_type_hash_as_each_does(values: list[Value]) -> None:
    assert column_hashes(values, {type(values[0])}) == [column_hash(one) for one in values]
