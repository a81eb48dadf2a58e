"""Text from elsewhere, made safe for a terminal.

Names of files and devices come from other people. Printed raw they can move the cursor, change the title,
swap the reading direction so that `gpj.exe` reads `exe.jpg`, or fake a line of our own output.
"""

from __future__ import annotations

__all__ = ["escape"]

NAMED = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(text: str) -> str:
    r"""Return the text with every character that is not plainly visible written as an escape.

    Escaped are control characters, format characters (bidi overrides, zero-width ones), separators other
    than the space, unassigned and private characters, bytes that are not UTF-8 (lone surrogates), and the
    backslash itself, so that different names stay different: `\n`, `\x1b`, `\u202e`, `\udcff`.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(one if one.isprintable() and one != "\\" else escape_one(one) for one in text)


def escape_one(character: str) -> str:
    """Return one character as an escape of ASCII letters."""
    if character in NAMED:
        return NAMED[character]
    code = ord(character)
    for digits, letter in ((2, "x"), (4, "u")):
        if code < 16**digits:
            return f"\\{letter}{code:0{digits}x}"
    return f"\\U{code:08x}"
