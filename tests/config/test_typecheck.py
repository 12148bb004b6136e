"""What fits an annotation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from torch import nn

from openlab.config.nodes import LazyName
from openlab.config.typecheck import describe, fits, wants_tuple


@pytest.mark.parametrize(('value', 'hint'), [
    (1, int), (1, float), (True, bool), ('a', str), ('a', Path), (None, None), (None, int | None),
    ([1, 2], tuple[int, ...]), ((1, 2), list[int]), ([1, 2], tuple[int, int]), ([], list[str]),
    (['a'], Sequence[str]), ({'a': 1}, dict[str, int]), ({'a': 1}, Mapping[str, Any]),
    ('x', Literal['x', 'y']), (nn.ReLU, type[nn.Module]), (LazyName('a.B'), type[nn.Module]),
    (print, Callable[..., Any]), (3, Any), (3, 'NotResolved'), (1, Annotated[int, 'unit']),
    ({'type': 'X'}, nn.Module), ([1, 'a'], list[int | str]), (None, Optional[str]),  # noqa: UP045
    (2, int | tuple[int, int]), ([2, 2], int | tuple[int, int]),
])
def test_what_fits(value, hint):
    assert fits(value, hint)


@pytest.mark.parametrize(('value', 'hint'), [
    (1.0, int), (True, int), (1, bool), (1, str), ('1', int), (None, int), ('cat', Sequence[str]),
    ([1, 2, 3], tuple[int, int]), (['a'], list[int]), ({'a': 'b'}, dict[str, int]),
    ('z', Literal['x', 'y']), (1, Literal[True]), (3, nn.Module), ('x', nn.Module),
    ({'depth': 1}, nn.Module), ([1], int | None), ({'type': 'X'}, int), (1, list[int]),
    (3, Callable[..., Any]),
])
def test_what_does_not_fit(value, hint):
    assert not fits(value, hint)


def test_annotations_are_described_as_written():
    assert describe(int | None) == 'int | None'
    assert describe(Literal['a', 2]) == "'a' or 2"
    assert describe(Sequence[int]) == 'Sequence[int]'


def test_only_an_annotation_without_list_asks_for_a_tuple():
    assert wants_tuple(tuple[int, ...] | None)
    assert not wants_tuple(tuple[int, ...] | list[int])
    assert not wants_tuple(Sequence[int])


def test_any_expects_no_class():
    from typing import Any

    from openlab.config.typecheck import expected_classes

    assert expected_classes(Any) == () and expected_classes(int | Any) == ()
    assert expected_classes(int | None) == (int,)
