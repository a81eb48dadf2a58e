from __future__ import annotations

import math
import re

import apsw
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2psyncd.core.ids import ActorId
from p2psyncd.sources.database.keys import (
    FRESH_COUNT,
    FRESH_MIN,
    NAME_BYTES_MAX,
    SCHEMA_TABLE,
    RowKey,
    fresh_pk,
    identities,
    is_acceptable,
    new_birth,
    pack_key,
    unpack_key,
)
from p2psyncd.sources.database.values import (
    BIRTH_BYTES,
    INTEGER_MAX,
    INTEGER_MIN,
    Cell,
    RawText,
    Ref,
    Value,
    canonical_bytes,
    text_of,
)
from p2psyncd.wire.records import KEY_BYTES_MAX

BIRTH = bytes(range(BIRTH_BYTES))
ACTOR = ActorId(b"actor567")
INTEGERS = st.integers(-3, 3) | st.integers(INTEGER_MIN, INTEGER_MAX)
TEXTS = st.text(alphabet="aAbB \0,/%#'é\x7f\x1f", max_size=5) | st.text(max_size=5)
RAW_TEXTS = (
    st.binary(min_size=1, max_size=5).filter(lambda data: isinstance(text_of(data), RawText)).map(RawText)
)
REALS = st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0**53, 2.0**63, -(2.0**63), math.inf]) | st.floats(
    allow_nan=False
)
VALUES: st.SearchStrategy[Value] = st.one_of(INTEGERS, TEXTS, RAW_TEXTS, REALS, st.binary(max_size=5))
CELLS: st.SearchStrategy[Cell] = st.one_of(
    VALUES, st.none(), st.builds(Ref, INTEGERS, st.binary(min_size=BIRTH_BYTES, max_size=BIRTH_BYTES))
)
TABLES = st.text(max_size=5).filter(lambda name: name != SCHEMA_TABLE) | st.sampled_from(
    ["", "a/b", "%", "#", "-", "..", "a b", "tab\tle", "%00", "\0"]
)
PKS = st.lists(CELLS, min_size=1, max_size=3).map(tuple)


def canonical(pk: tuple[Cell, ...]) -> tuple[object, ...]:
    """What SQLite tells apart in columns that compare bytes: 1 is 1.0."""
    return tuple(
        canonical_bytes(int(cell))
        if isinstance(cell, float) and cell.is_integer() and INTEGER_MIN <= cell <= INTEGER_MAX
        else canonical_bytes(cell)
        for cell in pk
    )


@pytest.mark.parametrize(
    ("table", "pk", "birth", "key"),
    [
        ("t", (5,), b"", b"t/0/5"),
        ("t", (5,), BIRTH, b"t/0/5/00010203040506070809"),
        ("t", (1000,), b"", b"t/3/1000"),
        ("t", (-1,), b"", b"t/-1/-1"),
        ("t", (INTEGER_MIN,), b"", b"t/-80000000000000/-9223372036854775808"),
        ("t", (INTEGER_MAX,), b"", b"t/7fffffffffffff/9223372036854775807"),
        ("t", (-0.0,), b"", b"t/0/0"),
        ("t", (1.5,), b"", b"t/-/r3ff8000000000000"),
        ("t", ("",), b"", b"t/-/'"),
        ("t", (b"",), b"", b"t/-/x"),
        ("t", ("5",), b"", b"t/-/'5"),
        ("t", ("a/b,c%#\0\n",), b"", b"t/-/'a%2Fb%2Cc%25%23%00%0A"),
        ("t", ("é",), b"", "t/-/'é".encode()),
        ("t", (RawText(b"\xe9 x"),), b"", b"t/-/'%E9 x"),
        ("t", (None, b"\0\xff", 7), b"", b"t/-/n,x00ff,7"),
        ("t", (Ref(-5, BIRTH), "x"), b"", b"t/-/@-5.00010203040506070809,'x"),
        ("a/b #", (5,), b"", b"a%2Fb %23/0/5"),
        ("", (5,), b"", b"%/0/5"),
        (SCHEMA_TABLE, ("table", "t"), b"", b"#schema/-/'table,'t"),
    ],
)
def test_how_rows_are_named(table: str, pk: tuple[Cell, ...], birth: bytes, key: bytes) -> None:
    assert pack_key(table, pk, birth) == key
    found = unpack_key(key)
    assert pack_key(found.table, found.pk, found.birth) == key
    assert is_acceptable(key)


@given(TABLES, PKS, st.booleans())
def test_a_name_tells_what_it_was_made_of(table: str, pk: tuple[Cell, ...], born: bool) -> None:
    birth = BIRTH if born and len(pk) == 1 and type(pk[0]) is int else b""
    found = unpack_key(pack_key(table, pk, birth))
    assert (found.table, found.birth) == (table, birth)
    assert tuple(map(canonical_bytes, found.pk)) == canonical(pk)


@given(TABLES, PKS, TABLES, PKS)
@example("t", ("a,b",), "t", ("a", "b"))
@example("t", ("%2C",), "t", (",",))
@example("t", ("",), "t", (b"",))
@example("a/0/1", (5,), "a", (5,))
@example("t", (None,), "t", ("n",))
def test_two_rows_have_two_names(
    table: str, pk: tuple[Cell, ...], other_table: str, other: tuple[Cell, ...]
) -> None:
    same = (table, canonical(pk)) == (other_table, canonical(other))
    assert (pack_key(table, pk) == pack_key(other_table, other)) == same


@given(TABLES, PKS)
def test_the_parts_of_a_name_hold_no_byte_that_means_something(table: str, pk: tuple[Cell, ...]) -> None:
    key = pack_key(table, pk)
    name, bucket, text = key.split(b"/")
    assert all((bucket, text, name))
    assert not re.search(rb"[\x00-\x1f\x7f#]", key)
    assert key.decode()  # it is text, whatever the row holds


@given(
    st.sampled_from(["BINARY", "NOCASE", "RTRIM", "nocase"]),
    st.sampled_from(["", "INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB"]),
    VALUES,
    VALUES,
)
@example("NOCASE", "TEXT", "a\0b", "A\0c")
@example("NOCASE", "TEXT", "a\0é", "A\0cd")
@example("NOCASE", "TEXT", "É", "é")
@example("RTRIM", "TEXT", "a ", "a")
@example("RTRIM", "TEXT", " \0 ", " \0")
@example("BINARY", "", 2**53 + 1, 2.0**53)
@example("BINARY", "", 1, 1.0)
@example("BINARY", "", "1", 1)
@example("BINARY", "REAL", -0.0, 0)
@example("BINARY", "", INTEGER_MAX, 2.0**63)
def test_sqlite_takes_two_keys_for_one_where_the_names_are_one(
    collation: str, affinity: str, one: Value, other: Value
) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(f"CREATE TABLE t(v {affinity} COLLATE {collation} PRIMARY KEY NOT NULL) WITHOUT ROWID")
    stored: list[Value] = []
    one_row = True
    for value in (one, other):
        plain = value.data if isinstance(value, RawText) else value
        bound = "CAST(? AS TEXT)" if isinstance(value, RawText) else "?"
        before = connection.total_changes()
        try:
            ((kind, number, raw),) = connection.execute(
                f"INSERT INTO t VALUES({bound}) RETURNING typeof(v), iif(typeof(v) = 'text', 0, v), CAST(v AS BLOB)",
                (plain,),
            ).fetchall()
        except apsw.ConstraintError:
            break
        assert connection.total_changes() == before + 1
        # As the column has it: its affinity has changed some.
        stored.append(text_of(raw or b"") if kind == "text" else number)
    else:
        one_row = False
    if one_row:
        # The other one was not stored: what its affinity makes of it is asked without the constraint.
        connection.execute(f"CREATE TABLE u(v {affinity})")
        ((kind, number, raw),) = connection.execute(
            f"INSERT INTO u VALUES({bound}) RETURNING typeof(v), iif(typeof(v) = 'text', 0, v), CAST(v AS BLOB)",
            (plain,),
        ).fetchall()
        stored.append(text_of(raw or b"") if kind == "text" else number)
    connection.close()
    names = {pack_key("t", (value,), collations=(collation,)) for value in stored}
    assert (len(names) == 1) == one_row


def test_a_collation_that_is_not_sqlites_own_names_nothing() -> None:
    with pytest.raises(ValueError, match="collation"):
        pack_key("t", ("a",), collations=("unicase",))


@pytest.mark.parametrize("length", [999, 1000, 50_000])
def test_what_is_too_long_is_named_by_its_hash(length: int) -> None:
    text = "/" * (length // 3) + "x" * (length % 3)
    key = pack_key("t" * NAME_BYTES_MAX, (text, 1))
    assert len(key) <= KEY_BYTES_MAX
    assert is_acceptable(key)
    found = unpack_key(key)
    assert found in {RowKey("t" * NAME_BYTES_MAX, ()), RowKey("t" * NAME_BYTES_MAX, (text, 1))}
    assert pack_key("t" * NAME_BYTES_MAX, (text, 2)) != key


def test_the_longest_name_of_all_fits_into_a_record() -> None:
    name = "/" * NAME_BYTES_MAX
    for size in range(980, 1001):
        key = pack_key(name, ("x" * size,))
        assert len(key) <= KEY_BYTES_MAX
        assert is_acceptable(key)
    assert len(pack_key(name, (INTEGER_MIN,), BIRTH)) <= KEY_BYTES_MAX
    with pytest.raises(ValueError, match="too long"):
        pack_key(name + "x", (1,))


@pytest.mark.parametrize(
    ("pk", "birth"),
    [
        ((), b""),
        ((INTEGER_MAX + 1,), b""),
        ((INTEGER_MIN - 1,), b""),
        ((math.nan,), b""),
        ((True,), b""),
        ((5,), BIRTH[1:]),
        (("x",), BIRTH),
        ((1.5,), BIRTH),
        ((1, 2), BIRTH),
        ((Ref(1, b"short"),), b""),
        ((Ref(2**63, BIRTH),), b""),
        (("\ud800",), b""),
        ((1,) * 2001, b""),
    ],
)
def test_what_no_row_has_for_a_key_has_no_name(pk: tuple[Cell, ...], birth: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (one of them is Python's own)
        pack_key("t", pk, birth)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"t",
        b"t/0",
        b"t/0/",
        b"/0/5",
        b"t/1/5",
        b"t/-/5",
        b"t/00/5",
        b"t/0/05",
        b"t/0/+5",
        b"t/0/-0",
        b"t/0/5/",
        b"t/0/5/0001",
        b"t/0/5/0001020304050607080G",
        b"t/0/5/0001020304050607080A",
        b"t/0/5/00010203040506070809/",
        b"t/0/5/00010203040506070809/x",
        b"t/-/'a/00010203040506070809",
        b"t/7fffffffffffff/9223372036854775808",
        b"t/0/ 5",
        b"t/0/5 ",
        b"t/0/5\n",
        b"t/-/x0",
        b"t/-/xFF",
        b"t/-/x 00",
        b"t/-/r3ff0000000000000",  # 1.0 is 1
        b"t/-/r7ff8000000000000",  # not a number
        b"t/-/r3ff8",
        b"t/-/r",
        b"t/-/nn",
        b"t/-/n,",
        b"t/-/,n",
        b"t/-/'%2f",
        b"t/-/'%41",
        b"t/-/'%",
        b"t/-/'%4",
        b"t/-/'#",
        b"t/-/'\x01",
        b"t/-/'\xff",
        b"t/-/'%C3%A9",  # that is valid UTF-8
        b"t/-/@5",
        b"t/-/@5.00",
        b"t/-/@05.00010203040506070809",
        b"t/-/@5.0001020304050607080A",
        b"t/-/h" + b"a" * 63,
        b"t/-/h" + b"A" * 64,
        b"t/0/h" + b"a" * 64,
        b"t/-/h" + b"a" * 64 + b"/",
        b"t/-/h" + b"a" * 64 + b"/00010203040506070809",
        b"t/-/'" + b"x" * 1000,
        b"t/-/" + b",".join([b"n"] * 2001),
        b"%23schema%/0/5",
        b"#schem/0/5",
        b"\xff/0/5",
        b"x" * 1025 + b"/0/5",
    ],
)
def test_a_name_that_nobody_would_make_is_refused(key: bytes) -> None:
    assert not is_acceptable(key)
    with pytest.raises(ValueError):  # noqa: PT011  (some are Python's own)
        unpack_key(key)


@given(st.binary(max_size=40) | st.text(alphabet="t/0-5'hxrn@.,%23", max_size=30).map(str.encode))
def test_whatever_is_accepted_is_what_would_be_made(key: bytes) -> None:
    if is_acceptable(key):
        found = unpack_key(key)
        assert not found.pk or pack_key(found.table, found.pk, found.birth) == key


@given(TABLES, PKS, st.integers(0, 60), st.integers(0, 255))
def test_a_name_with_one_byte_changed_is_another_name_or_none(
    table: str, pk: tuple[Cell, ...], place: int, byte: int
) -> None:
    key = bytearray(pack_key(table, pk))
    key[place % len(key)] = byte
    if is_acceptable(bytes(key)):
        found = unpack_key(bytes(key))
        assert pack_key(found.table, found.pk, found.birth) == bytes(key)


def test_all_rows_of_one_number_lie_below_one_prefix() -> None:
    prefix = identities("t", 300)
    assert prefix == b"t/1/300" == pack_key("t", (300,))
    assert pack_key("t", (300,), BIRTH).startswith(prefix + b"/")


def test_a_birth_sorts_by_its_time() -> None:
    assert new_birth(1, ACTOR) < new_birth(2, ActorId(bytes(8))) < new_birth(1_700_000_000_000, ACTOR)
    assert len(new_birth(1_700_000_000_000, ACTOR)) == BIRTH_BYTES
    assert new_birth(-5, ACTOR) == new_birth(0, ACTOR)
    assert new_birth(2**60, ACTOR) == new_birth(2**48 - 1, ACTOR)


@given(st.text(max_size=3), INTEGERS, st.integers(0, 5))
def test_a_fresh_number_is_one_of_a_range_and_the_next_try_the_next(
    table: str, pk: int, attempt: int
) -> None:
    number = fresh_pk(table, pk, BIRTH, attempt)
    assert FRESH_MIN <= number < FRESH_MIN + FRESH_COUNT < 2**31
    assert (fresh_pk(table, pk, BIRTH, attempt + 1) - number) % FRESH_COUNT == 1


def test_fresh_numbers_are_the_same_on_every_device() -> None:
    assert fresh_pk("t", 5, BIRTH) == fresh_pk("t", 5, bytes(BIRTH)) != fresh_pk("t", 5, BIRTH[::-1])
    assert fresh_pk("t", 5, BIRTH) == 1_745_729_098
