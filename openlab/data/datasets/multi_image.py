"""A dataset whose transforms may ask for other items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openlab.data.datasets.wrappers import DatasetWrapper
from openlab.data.errors import DataError
from openlab.data.transforms.base import Results
from openlab.data.transforms.multi_image import MultiImageTransform
from openlab.registry import DATASETS

_MAX_TRIES = 20


@DATASETS.register_module()
class MultiImageDataset(DatasetWrapper):
    """Mosaic, mixup and copy-paste: transforms that take other items of the same dataset.

    Which other items they get is drawn from the generators that the loader seeds for every item,
    and so depends neither on workers nor on processes.

    Args:
        dataset: loads items; its pipeline loads image and annotations and ends before
            ``PackInputs``.
        pipeline: what comes after; ends with ``PackInputs``.
    """

    def __init__(self, dataset: Any, pipeline: Sequence[Callable[[Results], Any]]):
        self.dataset = dataset
        self.pipeline = list(pipeline)
        for place, transform in enumerate(self.pipeline):
            if not callable(transform):
                raise TypeError(f'pipeline[{place}] is {transform!r}, which cannot be called')

    def __len__(self) -> int:
        return len(self.dataset)

    def locate(self, index: int) -> tuple[Any, int]:
        """The same index inside."""
        return self.dataset, index

    def parts(self) -> list[Any]:
        """The one dataset."""
        return [self.dataset]

    def __getitem__(self, index: int) -> Any:
        results = self._plain(self._checked(index))
        try:
            for transform in self.pipeline:
                if results is None:
                    return None
                if isinstance(transform, MultiImageTransform):
                    count = transform.draw_count()
                    results['others'] = [self._other() for _ in range(count)]
                results = transform(results)
        except DataError as error:
            text = str(error)
            where = '' if 'annotation:' in text else f'; annotation: {self.source(index)}'
            raise DataError(f'{text}{where}') from error
        return results

    def _other(self) -> Results:
        for _ in range(_MAX_TRIES):
            results = self._plain(int(np.random.randint(len(self.dataset))))
            if results is not None:
                return results
        raise DataError(f'the inner pipeline turned down {_MAX_TRIES} items in a row')

    def _plain(self, index: int) -> Results | None:
        results = self.dataset[index]
        if results is not None and (not isinstance(results, dict) or 'sample' in results):
            raise TypeError('the dataset inside a MultiImageDataset must give plain results; '
                            'move PackInputs to the pipeline of the MultiImageDataset')
        return results
