"""What is wrong with the prediction for one image: the noun between analysis and drawings.

P predicted objects · T true objects · H, W image height and width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Task = Literal['classification', 'detection', 'instance', 'semantic', 'panoptic']
TASKS: tuple[Task, ...] = ('classification', 'detection', 'instance', 'semantic', 'panoptic')

RIGHT = 'right'
IGNORED = 'ignored'
COVERED = 'covered'

_OBJECT_KINDS = {
    'class': ('Wrong class', 'lies well on an object of another class'),
    'location': ('Poorly located', 'right class, but overlaps its object too little'),
    'both': ('Class and place', 'overlaps an object of another class, too little'),
    'duplicate': ('Duplicate', 'the object is found already, by a surer prediction'),
    'background': ('Background', 'there is nothing'),
    'missed': ('Missed', 'a true object that no prediction finds or comes near'),
}
# Kinds of errors of each task, the most telling first: name on the page, and what it means.
KINDS: Mapping[Task, Mapping[str, tuple[str, str]]] = {
    'classification': {
        'confident': ('Confident mistake', 'wrong, with a probability of 80 % or more'),
        'mistake': ('Mistake', 'wrong, and the true class is not the second likeliest either'),
        'near': ('Near miss', 'wrong, but the true class is the second likeliest'),
    },
    'detection': _OBJECT_KINDS,
    'instance': _OBJECT_KINDS,
    'panoptic': {k: v for k, v in _OBJECT_KINDS.items() if k != 'duplicate'},
    'semantic': {
        'confused': ('Confused', 'one class for another, away from the border between the two'),
        'missed': ('Missed class', 'a class of the truth that is predicted nowhere in the image'),
        'invented': ('Invented class', 'a predicted class that is nowhere in the truth'),
        'border': ('Border', 'wrong, but next to a true border'),
        'nothing': ('Nothing', 'the prediction names no class'),
    },
}
# The colour of an error kind, apart from those of the classes: hex for the page and the sheet.
KIND_COLOURS: Mapping[str, str] = {
    'right': '#16823c', 'ignored': '#7a828e', 'covered': '#7a828e', 'class': '#d1242f',
    'location': '#bf6a02', 'both': '#a3366f', 'duplicate': '#7b4bd1', 'background': '#c2410c',
    'missed': '#0969da', 'confident': '#d1242f', 'mistake': '#bf6a02', 'near': '#7b4bd1',
    'confused': '#d1242f', 'invented': '#c2410c', 'border': '#9a7d0a', 'nothing': '#7a828e',
}  # fmt: skip


@dataclass
class Verdict:
    """What became of one object.

    Attributes:
        kind: ``right``, ``ignored`` (crowds, places without truth) or a kind of error; of a true
            object ``right``, ``missed``, ``ignored`` or ``covered`` (not found, but a prediction
            with the wrong class or place already counts as the error).
        partner: index of the object on the other side that it was judged by, -1 for none.
        iou: overlap with the partner, or with whatever comes nearest.
        found_at: of a true object, the score of the prediction that finds it; -1 without one.
        covered_at: of a true object, the best score of a prediction that has only its class or
            only its place wrong; -1 without one.
    """

    kind: str
    partner: int = -1
    iou: float = 0.0
    found_at: float = -1.0
    covered_at: float = -1.0


@dataclass
class Region:
    """Wrong pixels of one kind, true and predicted class; a class of -1 stands for several.

    Attributes:
        kind: kind of error.
        true: true class.
        predicted: predicted class; -1 with the kind ``nothing`` where there is none.
        pixels: how many.
        mask: which, (H, W) bool.
    """

    kind: str
    true: int
    predicted: int
    pixels: int
    mask: Tensor


@dataclass
class ItemErrors:
    """What is wrong with the prediction for one image.

    Attributes:
        task: what was compared.
        severity: larger is worse, 0 or less is right; how it is made up depends on the task.
        quality: from 0 to 1, 1 is right.
        counts: number of errors of each kind; of a semantic map, wrong pixels.
        predicted: verdict on each predicted object, (P,).
        truths: verdict on each true object, (T,).
        regions: wrong pixels of a semantic map, the largest first.
    """

    task: Task
    severity: float
    quality: float
    counts: dict[str, int] = field(default_factory=dict)
    predicted: list[Verdict] = field(default_factory=list)
    truths: list[Verdict] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether there is no error."""
        return not any(self.counts.values())
