"""What went wrong in a nursery, one by one."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["leaves"]


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions of a group and of the groups in it."""
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from leaves(each)
        else:
            yield each
