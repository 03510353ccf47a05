"""Our client on every row of agreement_table.py, and the table as docs/client.md shows it.

tests/browser/test_agreement.py has Chromium on the same rows.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from agreement import ROWS_BEGIN, ROWS_END, differences, observe, serving, table
from agreement_table import ROWS

PAGE = Path(__file__).parents[1] / "docs" / "client.md"


async def test_our_client_does_as_the_table_says() -> None:
    async with serving(ROWS) as site:
        assert differences(ROWS, "h2sse", await observe(site)) == []


def test_rows_are_told_apart() -> None:
    names = Counter((row.group, row.name) for row in ROWS)
    assert [name for name, count in names.items() if count > 1] == []


def test_a_difference_has_its_reason() -> None:
    for row in ROWS:
        assert (row.ours is None) == (not row.reason), row.name
        assert row.ours != row.outcome, row.name


def test_the_docs_show_the_table() -> None:
    """`python tests/agreement.py` puts it there."""
    shown = PAGE.read_text(encoding="utf-8").partition(ROWS_BEGIN)[2].partition(ROWS_END)[0]
    assert shown.strip() == table(ROWS)
