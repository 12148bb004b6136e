"""Whether two parts of the data mean the same class by the same label."""

from __future__ import annotations

from collections.abc import Sequence

from openlab.data.datasets.base import preview

REMEDY = ('give both datasets the same classes=[...], or make their class folders (or the names '
          'in their files) the same; a class without items may be an empty folder')


def class_difference(wanted: Sequence[str] | None, found: Sequence[str] | None) -> str:
    """What ``found`` lacks of ``wanted``, has in addition, or has in another order.

    Returns:
        Words that follow "it", as in ``lacks cat``; empty if labels mean the same, or if one of
        the two has no names.
    """
    if not wanted or not found or list(wanted) == list(found):
        return ''
    lacks = [name for name in wanted if name not in set(found)]
    more = [name for name in found if name not in set(wanted)]
    words = [f'lacks {preview(lacks)}'] if lacks else []
    words += [f'has {preview(more)} in addition'] if more else []
    return ' and '.join(words) or f'has them in another order: {preview(found)}'
