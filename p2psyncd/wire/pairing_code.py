"""The pairing code a person reads aloud: a number and two words, `7-amber-falcon`.

The number (nameplate) says which device shows the code and may be announced; the two words are the secret,
16 bits, of which one guess is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from p2psyncd.errors import BadRequest, MistypedCode
from p2psyncd.wire.words import EVEN, ODD, WORDS_PER_LIST

__all__ = ["CODE_ENTROPY_BYTES", "NAMEPLATE", "Code", "free_nameplate", "make_code", "parse_code"]

CODE_ENTROPY_BYTES = 2
NAMEPLATE = re.compile(r"[1-9][0-9]{0,3}")
# Up to here nameplates are given out; two digits stay easy to say.
NAMEPLATE_GIVEN_MAX = 99
# Longer than any code, however it is spaced.
TYPED_CHARACTERS_MAX = 100
EXPECTED = "a code is a number and two words, such as 7-amber-falcon"
SHAPE = re.compile(r"([0-9]{1,4})-([a-z]{1,20})-([a-z]{1,20})")
# `ambr` is a slip for amber; `guess` is near no word of the lists.
SLIP_RATIO = 0.8
SLIP_LETTERS_MIN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A pairing code; its words are a secret and stay out of `repr`."""

    nameplate: str
    """Decimal, without leading zeros."""
    words: tuple[str, str] = field(repr=False)

    @property
    def text(self) -> str:
        """As a person reads it."""
        return f"{self.nameplate}-{self.words[0]}-{self.words[1]}"

    @property
    def password(self) -> bytes:
        """What SPAKE2 is run over."""
        return self.text.encode("ascii")


def make_code(nameplate: str, entropy: bytes) -> Code:
    """Return the code of two words chosen by `entropy`.

    Args:
        nameplate: 1 to 9999, decimal, not shown by another device at this moment.
        entropy: `CODE_ENTROPY_BYTES` random bytes.
    """
    if NAMEPLATE.fullmatch(nameplate) is None or len(entropy) != CODE_ENTROPY_BYTES:
        msg = "a code takes a nameplate from 1 to 9999 and two bytes of entropy"
        raise ValueError(msg)
    return Code(
        nameplate=nameplate, words=(EVEN[entropy[0] % WORDS_PER_LIST], ODD[entropy[1] % WORDS_PER_LIST])
    )


def free_nameplate(taken: Collection[str], entropy: bytes) -> str:
    """Return a short nameplate that no other device shows.

    Args:
        taken: Nameplates seen on the network.
        entropy: Random bytes that choose among the free ones.
    """
    numbers = [str(number) for number in range(1, NAMEPLATE_GIVEN_MAX + 1)]
    numbers = [number for number in numbers if number not in taken] or numbers
    return numbers[int.from_bytes(entropy, "big") % len(numbers)]


def parse_code(text: str) -> Code:
    """Return the code that a person typed, whatever the case and whatever stands between its parts.

    A word that is one slip away from a word of the lists is refused here, so that a typing error does not
    cost the code; any other word is taken as it is, and will be a wrong guess.

    Raises:
        BadRequest: Not a number and two words.
        MistypedCode: A word is nearly one of the lists.
    """
    readable = len(text) <= TYPED_CHARACTERS_MAX and text.isascii()
    plain = "-".join(re.findall(r"[0-9a-z]+", text.lower())) if readable else ""
    match = SHAPE.fullmatch(plain)
    if match is None or int(match[1]) == 0:
        msg = f"not a pairing code: {text[:60]!r}; {EXPECTED}"
        raise BadRequest(msg)
    words = (match[2], match[3])
    for word, listed in zip(words, (EVEN, ODD), strict=True):
        if word in EVEN or word in ODD or len(word) < SLIP_LETTERS_MIN:
            continue
        near = difflib.get_close_matches(word, listed, n=1, cutoff=SLIP_RATIO)
        if near:
            msg = f"{word!r} is not a word of pairing codes; {near[0]!r} is"
            raise MistypedCode(msg)
    return Code(nameplate=str(int(match[1])), words=words)
