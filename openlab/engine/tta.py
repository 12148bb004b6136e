"""Test-time augmentation: several views of a batch, one merged prediction.

V views · B batch · K classes · H, W image height and width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from openlab.structures.data_sample import DataSample


@dataclass(frozen=True)
class View:
    """How one view was made from the batch.

    Attributes:
        scale: factor on height and width.
        flip: whether it is mirrored left to right.
    """

    scale: float = 1.0
    flip: bool = False


class TestTimeAugmentation:
    """Predict each view of a batch and merge.

    An algorithm merges by its own ``merge_augmented(predictions)`` where it has one: a list of
    samples for each view, in the coordinates of that view, which ``meta['view']`` describes.
    One that has to merge before it decides (a class for every pixel) has instead a method
    ``predict_views(inputs, samples, views)`` that gets the inputs of all views. Otherwise
    predictions of classes are merged by the mean of their probabilities.

    Args:
        flip: add the mirror image of each view.
        scales: factors on the size of the preprocessed batch.
        divisor: heights and widths of scaled views are multiples of it.
    """

    __test__ = False

    def __init__(self, flip: bool = True, scales: Sequence[float] = (1.0,), divisor: int = 1):
        if not scales or min(scales) <= 0:
            raise ValueError(f'tta.scales must be positive numbers, got {list(scales)}')
        self.views = [View(s, f) for s in scales for f in ((False, True) if flip else (False,))]
        self.divisor = divisor

    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> list[DataSample]:
        """Merged predictions of a preprocessed batch."""
        if hasattr(model, 'predict_views'):
            seen_by = [self.apply(batch['inputs'], view) for view in self.views]
            predict: Any = model.predict_views
            together: list[DataSample] = predict(seen_by, batch['samples'], self.views)
            return together
        predictions = []
        for view in self.views:
            samples = [replace(s, meta={**s.meta, 'view': asdict(view)}) for s in batch['samples']]
            inputs = self.apply(batch['inputs'], view)
            seen = {**batch, 'inputs': inputs, 'samples': samples}
            predictions.append(model(**seen, mode='predict'))
        merged = getattr(model, 'merge_augmented', merge_classes)(predictions)
        for sample in merged:
            sample.meta.pop('view', None)
        return merged

    def apply(self, inputs: Tensor, view: View) -> Tensor:
        """Make one view of the inputs, (B, 3, H, W)."""
        if not isinstance(inputs, Tensor) or inputs.ndim != 4:
            raise ValueError('tta needs batches of equal images, one tensor (B, C, H, W)')
        if view.scale != 1.0:
            height, width = (
                max(round(n * view.scale / self.divisor), 1) * self.divisor
                for n in inputs.shape[-2:])
            inputs = interpolate(inputs, (height, width), mode='bilinear', align_corners=False)
        return inputs.flip(-1) if view.flip else inputs


def merge_classes(predictions: Sequence[Sequence[DataSample]]) -> list[DataSample]:
    """Mean of the class probabilities over views.

    Args:
        predictions: for each view the samples of the batch.

    Raises:
        ValueError: if a prediction has no class probabilities.
    """
    merged = []
    for samples in zip(*predictions):
        if any(s.label_probs is None for s in samples):
            raise ValueError('tta merges by label_probs, which these predictions lack; give the '
                             'algorithm a method merge_augmented(predictions)')
        probs = torch.stack([s.label_probs for s in samples]).mean(0)
        # Labels that one view found say nothing of the mean.
        merged.append(replace(samples[0], label_probs=probs, label=probs.argmax(), labels=None,
                              scores=None))
    return merged
