"""From the objects in an image to the classes that it shows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from openlab.data.errors import DataError
from openlab.data.transforms.base import Results, Transform
from openlab.data.transforms.geometry import PER_OBJECT
from openlab.registry import TRANSFORMS


@TRANSFORMS.register_module()
class GatherLabels(Transform):
    """Make several labels of an image out of its objects: any detection set trains a classifier.

    ``label_probs`` (K,) holds 1 for classes that occur, 0 for others, and -1, which losses and
    metrics leave out, for classes that truth says nothing of. Place it before transforms that
    crop: what an image shows is asked of the whole image. Objects are forgotten afterwards.
    Images without ``labels`` (inference) pass as they are.

    Args:
        num_classes: K.
        crowd: what a class counts as whose only objects are marked ``is_crowd`` (crowds of COCO,
            difficult objects of VOC).
    """

    def __init__(self, num_classes: int,
                 crowd: Literal['unknown', 'present', 'absent'] = 'unknown'):
        values = {'unknown': -1.0, 'present': 1.0, 'absent': 0.0}
        if crowd not in values:
            raise ValueError(f"crowd must be 'unknown', 'present' or 'absent', got {crowd!r}")
        self.num_classes = num_classes
        self.crowd = values[crowd]

    def __call__(self, results: Results) -> Results:
        """Write ``label_probs``."""
        if results.get('labels') is None:
            return results
        labels = np.asarray(results['labels'], dtype=np.int64).reshape(-1)
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(wrong):
            raise DataError(f'an object has class {wrong[0]}, but GatherLabels has '
                            f'num_classes={self.num_classes}')
        crowd = results.get('is_crowd')
        is_crowd = np.zeros(len(labels), bool) if crowd is None else np.asarray(crowd, bool)
        probs = np.zeros(self.num_classes, np.float32)
        probs[labels[is_crowd]] = self.crowd
        probs[labels[~is_crowd]] = 1
        results['label_probs'] = probs
        for name in (*PER_OBJECT, 'segmentation'):
            results.pop(name, None)
        return results
