"""What is told of spreadsheets, character by character, as a reference for the pattern that the code has."""

from __future__ import annotations

import unicodedata

SIGNS = "=+-@\u2212"
LINE_STARTS = "\t\n\r"
# Blanks of all widths, what is not shown, and signs that look or count like those above.
BEFORE_SIGNS = " \0\x0b\x0c\x1f\x7f\x85\u00a0\u00ad\u200b\u200e\u2028\u202e\u2060\u3000\ufeff"
ALIKE = "\u207a\u207b\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20"


def is_formula(text: str) -> bool:
    """Whether some spreadsheet may take a text for a formula."""
    if text[:1] and text[0] in LINE_STARTS:
        return True
    for one in text:
        category = unicodedata.category(one)
        if not category.startswith("Z") and category not in ("Cc", "Cf"):
            return unicodedata.normalize("NFKC", one)[0] in SIGNS
    return False


def defused(text: str) -> str:
    """The text with an apostrophe in front where it would be a formula."""
    return f"'{text}" if is_formula(text) else text
