"""Several random views of one image, as self-supervised learning compares them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from openlab.data.transforms.base import Compose, Results, Transform
from openlab.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MultiView(Transform):
    """Make views of an image, each by a pipeline of its own random numbers.

    ``results['views']`` holds the images of all views in order; ``PackInputs`` comes next and
    makes a list of tensors of them, of which collating makes one batch for each view. Everything
    else in ``results`` stays as it was for the whole image.

    Args:
        pipelines: the transforms of each kind of view (image to image, no packing).
        counts: how many views of each kind; by default one.
    """

    def __init__(self, pipelines: Sequence[Sequence[Transform]],
                 counts: Sequence[int] | None = None):
        counts = [1] * len(pipelines) if counts is None else list(counts)
        if not pipelines or len(counts) != len(pipelines) or min(counts) < 1:
            raise ValueError(f'MultiView needs a positive count for each pipeline, got '
                             f'{len(pipelines)} pipelines and counts={counts}')
        self.pipelines = [Compose(pipeline) for pipeline in pipelines]
        self.counts = counts

    def __call__(self, results: Results) -> Results | None:
        """Draw all views; ``None`` where a pipeline turns the image down."""
        views = []
        for pipeline, count in zip(self.pipelines, self.counts):
            for _ in range(count):
                view = pipeline(copy.deepcopy(results))
                if view is None:
                    return None
                views.append(view['img'])
        return {**results, 'views': views}
