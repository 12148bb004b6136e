"""Several algorithms on one backbone, trained together.

Idea: a backbone costs the most and its maps serve many ends. Each task is an ordinary algorithm,
FCOS say, that begins with ``SharedMaps`` where its backbone would stand. The backbone (and a neck,
if there is one) runs once; every task goes on from there, and their losses are added, each with
its weight. A task computes exactly what it would alone.

Where the pieces are: each task's algorithm has its own file; what they share is
``Algorithm.outputs_of_maps``.

B batch · C channels · H, W size of the image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample


@MODELS.register_module()
class SharedMaps(nn.Module):
    """Stands where the backbone of a task would, and hands on maps of the shared one.

    Args:
        in_channels: of the shared maps, finest first; taken from what is shared where left out.
        levels: which of them the task sees, by place; by default all.

    Attributes:
        out_channels: of the maps that the task sees.
    """

    def __init__(self, in_channels: Sequence[int] | None = None,
                 levels: Sequence[int] | None = None):
        super().__init__()
        if in_channels is None:
            raise ValueError('SharedMaps needs in_channels: it stands inside of a task of '
                             'MultiTask, whose backbone feeds it')
        count = len(in_channels)
        wrong = [i for i in levels or () if not -count <= i < count]
        if wrong:
            raise ValueError(f'levels={tuple(levels or ())} names {wrong[0]}, but {count} maps are '
                             'shared; add stages to out_stages of the backbone')
        self.levels = tuple(range(count)) if levels is None else tuple(levels)
        self.out_channels = tuple(in_channels[i] for i in self.levels)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Choose from the shared maps."""
        return tuple(feats[i] for i in self.levels)


@MODELS.register_module()
class MultiTask(Algorithm):
    """One backbone under several named algorithms.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps.
        neck: maps to maps, shared as well.
        tasks: an algorithm for each name, with ``SharedMaps`` as its backbone and without a
            preprocessor of its own.
        loss_weights: factor of the losses of each task, 1 where left out.
        preprocessor: see ``Algorithm``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None = None,
        *,
        tasks: dict[str, nn.Module],
        loss_weights: Mapping[str, float] | None = None,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor)
        if not tasks:
            raise ValueError('MultiTask has no tasks; give an algorithm for each name')
        unknown = set(loss_weights or ()) - set(tasks)
        if unknown:
            raise ValueError(f'loss_weights has {sorted(unknown)}; tasks are {sorted(tasks)}')
        for name, task in tasks.items():
            if not isinstance(getattr(task, 'backbone', None), SharedMaps):
                raise ValueError(f'the backbone of tasks.{name} must be SharedMaps, not '
                                 f'{type(getattr(task, "backbone", None)).__name__}')
            if getattr(task, 'preprocessor', None) is not None:
                raise ValueError(f'tasks.{name} has a preprocessor; all tasks see the batch that '
                                 'the one of MultiTask prepares')
        self.backbone, self.neck = backbone, neck
        self.tasks = nn.ModuleDict(tasks)
        self.loss_weights = dict.fromkeys(tasks, 1.0) | dict(loss_weights or {})

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> dict[str, Any]:
        """Raw outputs of each task for images (B, 3, H, W)."""
        return self.outputs_of_maps(self.backbone(inputs), inputs, samples)

    def outputs_of_maps(self, feats: Sequence[Tensor], inputs: Tensor,
                        samples: list[DataSample] | None = None) -> dict[str, Any]:
        """Raw outputs of each task for the maps of images."""
        if self.neck is not None:
            feats = self.neck(feats)
        return {name: task.outputs_of_maps(task.backbone(feats), inputs, samples)
                for name, task in self._items()}

    def loss(self, outputs: dict[str, Any], samples: list[DataSample]) -> dict[str, Tensor]:
        """Losses of all tasks, weighted: ``loss_cls`` of ``detection`` is ``loss_detection_cls``.

        Tasks take their means over different things, so no ``num_items`` is told: accumulated
        batches and processes count by their number of samples.
        """
        losses: dict[str, Tensor] = {}
        for name, task in self._items():
            for key, value in task.loss(outputs[name], samples).items():
                if key.startswith('loss'):
                    losses[f'loss_{name}{key[4:]}'] = self.loss_weights[name] * value
                elif key != 'num_items':
                    losses[f'{name}_{key}'] = value
        return losses

    def predict(self, outputs: dict[str, Any], samples: list[DataSample]) -> list[DataSample]:
        """One sample for each image with what all tasks predict.

        Raises:
            ValueError: if two tasks predict the same field.
        """
        merged = [DataSample(meta=dict(sample.meta)) for sample in samples]
        owners: dict[str, str] = {}
        for name, task in self._items():
            for target, found in zip(merged, task.predict(outputs[name], samples), strict=True):
                for field in (f.name for f in fields(found) if f.name not in ('meta', 'extra')):
                    value = getattr(found, field)
                    if value is None:
                        continue
                    if owners.setdefault(field, name) != name:
                        raise ValueError(f'tasks {owners[field]!r} and {name!r} both predict '
                                         f'{field}; MultiTask cannot tell whose it is to keep')
                    setattr(target, field, value)
                target.extra |= found.extra
        return merged

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the backbone wants kept out of weight decay."""
        names: set[str] = getattr(self.backbone, 'no_weight_decay', set)()
        return {f'backbone.{name}' for name in names}

    def _items(self) -> list[tuple[str, Any]]:
        return list(self.tasks.items())
