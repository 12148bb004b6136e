"""What must hold between data and model, looked at before the first step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from openlab.data.class_names import REMEDY, class_difference

logger = logging.getLogger('openlab')
_MAX_LISTED = 5


def metainfo_of(dataloader: Any) -> dict[str, Any]:
    """What the dataset tells about itself, such as ``classes``; empty if nothing."""
    for owner in (dataloader, getattr(dataloader, 'dataset', None)):
        meta = getattr(owner, 'metainfo', None)
        if isinstance(meta, Mapping):
            return dict(meta)
    return {}


def check_classes(model: nn.Module, dataloader: Any, trains: bool = True) -> None:
    """Compare the classes of a head with those of the data, and the labels with both.

    Args:
        model: its heads are the modules with ``head`` in their name and ``num_classes``.
        dataloader: its dataset may tell ``classes`` and ``labels``.
        trains: whether the model learns these data; else it may be the data that are wrong.

    Raises:
        ValueError: if they do not fit; the message names where to change what.
    """
    classes = metainfo_of(dataloader).get('classes')
    heads = list(_heads(model))
    for name, count in heads:
        if classes and count != len(classes):
            some = ', '.join(map(str, classes[:_MAX_LISTED]))
            raise ValueError(
                f'{name}.num_classes={count}, but the dataset has {len(classes)} classes '
                f'({some}{" ..." if len(classes) > _MAX_LISTED else ""}); '
                + (f'set it to {len(classes)}' if trains else
                   f'if the model was trained on {count}, give the dataset the same classes=[...] '
                   f'as that of the training'))
    limit = len(classes) if classes else heads[0][1] if len(heads) == 1 else None
    if limit is not None:
        _check_labels(dataloader, limit)


def check_same_classes(model: nn.Module, wanted: Sequence[str] | None, dataloader: Any,
                       part: str, other: str) -> None:
    """Compare class names, for a model that has learned what each label means.

    Args:
        model: one without a head for classes, or one that ``gives_features``, may differ.
        wanted: the names that it learns or has learned, in the order of the labels.
        dataloader: the data that it is evaluated on.
        part: what to call these data.
        other: what to call the owner of ``wanted``.

    Raises:
        ValueError: if the same label means two classes; the message names them.
    """
    found = metainfo_of(dataloader).get('classes')
    difference = class_difference(wanted, found)
    if difference and any(_heads(model)) and not getattr(model, 'gives_features', False):
        raise ValueError(f'{part} has other classes than {other}, so its labels would mean other '
                         f'classes: it {difference}; {REMEDY}')


def check_learned_classes(model: nn.Module, learned: Sequence[str] | None, dataloader: Any,
                          part: str) -> None:
    """Compare the class names that loaded weights tell with those of the data.

    Raises:
        ValueError: if the same label means two classes.
    """
    found = metainfo_of(dataloader).get('classes')
    if learned and found and len(learned) == len(found) and set(learned).isdisjoint(found):
        # Two vocabularies of one set, such as WordNet ids and English names.
        logger.warning('%s has not one of the class names that the weights tell (%s; %s): they '
                       'are taken to be in the same order', part,
                       ', '.join(found[:_MAX_LISTED]), ', '.join(learned[:_MAX_LISTED]))
        return
    check_same_classes(model, learned, dataloader, part, 'the loaded weights')


def _heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Key path and class count of each head directly under the model."""
    for name, child in model.named_children():
        count = getattr(child, 'num_classes', None)
        if 'head' in name and isinstance(count, int):
            yield f'model.{name}', count


def _check_labels(dataloader: Any, limit: int) -> None:
    dataset = getattr(dataloader, 'source', getattr(dataloader, 'dataset', None))
    labels = getattr(dataset, 'labels', None)
    if not callable(labels):
        return
    values = labels()
    if len(values) == 0:
        return
    flat = values if isinstance(values, np.ndarray) and values.ndim == 1 else [
        v for item in values for v in np.atleast_1d(np.asarray(item))]
    array = np.asarray(flat)
    if array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        return
    wrong = (array < 0) | (array >= limit)
    if wrong.any():
        found = sorted({int(v) for v in array[wrong]})
        first = int(np.flatnonzero(wrong)[0])
        hint = ' (do the labels begin at 1?)' if array.min() >= 1 and found == [limit] else ''
        raise ValueError(
            f'{int(wrong.sum())} labels of {type(dataset).__name__} lie outside 0 to {limit - 1}: '
            f'{found[:_MAX_LISTED]}{hint}; the first is label number {first}')
