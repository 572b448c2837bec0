"""What a spreadsheet takes for a formula, though it was a text: one pattern for all that writes CSV.

A cell is a formula if it begins with a sign. Some programs strip what they do not show before they look: blanks,
control characters, marks of byte order and direction. Some turn the wide, small, raised and lowered forms of a sign
into the sign. A text that begins with a tab or a line end is never left alone, whatever follows.

Only the beginning counts. A spreadsheet that is told to cut a file at another character than the comma makes cells of
parts of texts, which nobody can defuse without changing texts in their middle.
"""

from __future__ import annotations

from typing import Final

SIGNS: Final = "=+-@"
SIGNS_ALIKE: Final = "⁺⁻⁼₊₋₌−⩵⩶﬩﹢﹣﹦﹫＋－＝＠"
LINE_STARTS: Final = "\t\n\r"
# For RE2, which Arrow and DuckDB have in common. The minus sign is the last of the class.
FORMULA_START: Final = rf"^(?:[\t\n\r]|[\p{{Z}}\p{{Cc}}\p{{Cf}}]*[{SIGNS_ALIKE}{SIGNS.replace('-', '')}-])"
