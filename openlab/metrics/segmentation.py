"""How well the regions of a semantic map agree with the truth.

K classes · H, W size of the original image
"""

from __future__ import annotations

import torch
from torch import Tensor

from openlab.metrics.base import Metric
from openlab.metrics.labels import class_names
from openlab.registry import METRICS
from openlab.structures.data_sample import DataSample
from openlab.structures.geometry import to_original

IGNORE = 255


@METRICS.register_module()
class SegmentationMetric(Metric):
    """Mean IoU and its relatives from counts of pixel pairs, of which K x (K + 1) are kept.

    Maps are compared in the resolution of the original image: predictions are brought back to
    it, and so is the truth, unless the sample has it untouched as ``extra['original_map']``
    (``KeepOriginalMap`` in the pipeline). Pixels whose truth is ignored count for nothing; where
    only the prediction is missing (a crop did not show the place), the pixel counts as wrong.

    Results: ``miou``, ``pixel_accuracy``, ``mean_accuracy`` (mean recall), ``mean_dice``,
    ``num_classes`` (over how many classes ``miou`` is the mean) and ``iou_NAME`` of each class.
    A class that neither truth nor prediction holds anywhere has no IoU and no Dice, and stays
    out of their means and results; one that is only predicted has 0. Recall is averaged over the
    classes of the truth. The counts themselves are ``matrix``, rows true, columns predicted, the
    last one for "nothing".

    Args:
        num_classes: K; by default as many as the dataset names.
        ignore_index: class index of pixels in the truth that count for nothing, besides 255.
        per_class: report the IoU of each class.
        name: prefix of the result names.
    """

    name = 'segmentation'

    def __init__(self, num_classes: int | None = None, ignore_index: int = IGNORE,
                 per_class: bool = True, name: str | None = None):
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.per_class = per_class
        super().__init__(name)

    def reset(self) -> None:
        """Forget everything seen."""
        self.matrix: Tensor | None = None

    def update(self, predictions: list[DataSample], samples: list[DataSample]) -> None:
        """Count the pairs of true and predicted class of all pixels."""
        K = self._count_classes()
        for prediction, sample in zip(predictions, samples, strict=True):
            truth, guess = _original_truth(sample), _original_prediction(prediction)
            if truth.shape != guess.shape:
                raise ValueError(f'the truth of {_name(sample)} is {tuple(truth.shape)} but its '
                                 f'prediction {tuple(guess.shape)}')
            new = self._count(truth.flatten().long(), guess.flatten().long(), K, sample)
            self.matrix = new if self.matrix is None else self.matrix + new

    def _count(self, truth: Tensor, guess: Tensor, K: int, sample: DataSample) -> Tensor:
        valid = (truth != self.ignore_index) & (truth != IGNORE)
        truth, guess = truth[valid], guess[valid]
        guess = guess.where(guess != IGNORE, K)
        for what, values, limit in (('truth', truth, K - 1), ('prediction', guess, K)):
            if len(values) and (values.min() < 0 or values.max() > limit):
                bad = values[(values < 0) | (values > limit)][0]
                raise ValueError(f'the {what} of {_name(sample)} holds class {int(bad)}; classes '
                                 f'lie in 0 to {K - 1}, {IGNORE} is ignored')
        return torch.bincount(truth * (K + 1) + guess, minlength=K * (K + 1)).view(K, K + 1)

    def _count_classes(self) -> int:
        if self.num_classes is not None:
            return self.num_classes
        if not self.dataset_meta.get('classes'):
            raise ValueError('the number of classes is unknown: the dataset names no classes; '
                             'give num_classes to SegmentationMetric')
        return len(self.dataset_meta['classes'])

    def compute(self) -> dict[str, float]:
        """Means over classes, and the IoU of each class that occurs."""
        if self.matrix is None:
            raise ValueError('SegmentationMetric has seen no map: is the dataset empty?')
        counts = self.matrix.double()
        K = len(counts)
        right = counts[:, :K].diagonal()
        true, guessed = counts.sum(1), counts[:, :K].sum(0)
        union = true + guessed - right
        occurs = union > 0
        if not true.sum():
            raise ValueError('SegmentationMetric has seen no pixel that is not ignored: do the '
                             'class indices of the maps fit the classes of the dataset?')
        iou, dice = right / union, 2 * right / (true + guessed)
        recall = (right / true)[true > 0]
        results = {
            'miou': iou[occurs].mean().item(), 'pixel_accuracy': (right.sum() / true.sum()).item(),
            'mean_accuracy': recall.mean().item(), 'mean_dice': dice[occurs].mean().item(),
            'num_classes': float(occurs.sum()),
        }  # fmt: skip
        if self.per_class:
            names = class_names(self.dataset_meta, K)
            results |= {f'iou_{n}': v for n, v, o in zip(names, iou.tolist(), occurs) if o}
        return results

    def state(self) -> Tensor | None:
        """The counts, (K, K + 1)."""
        return self.matrix

    def merge(self, states: list[Tensor | None]) -> None:
        """Sum the counts of all processes; one that saw nothing has none."""
        seen = [s for s in states if s is not None]
        self.matrix = torch.stack(seen).sum(0) if seen else None


def _original_truth(sample: DataSample) -> Tensor:
    kept = sample.extra.get('original_map')
    return kept if kept is not None else _original_map(sample, 'truth')


def _original_prediction(sample: DataSample) -> Tensor:
    return _original_map(sample, 'prediction')


def _original_map(sample: DataSample, what: str) -> Tensor:
    if sample.semantic_map is None:
        raise ValueError(f'the {what} of {_name(sample)} has no semantic_map, which '
                         'SegmentationMetric compares')
    if sample.meta.get('ori_shape') is not None:
        sample = to_original(sample)
    assert sample.semantic_map is not None
    return sample.semantic_map


def _name(sample: DataSample) -> str:
    return f'sample {sample.meta.get("img_path") or sample.meta.get("img_id", "without a name")}'
