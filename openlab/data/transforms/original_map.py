"""Keep the truth that a metric in original resolution compares with."""

from __future__ import annotations

from openlab.data.errors import DataError
from openlab.data.transforms.base import Results, Transform
from openlab.registry import TRANSFORMS


@TRANSFORMS.register_module()
class KeepOriginalMap(Transform):
    """Lay the semantic map aside before transforms resample it, for evaluation.

    Comes after ``LoadAnnotations``. With ``dict(type=PackInputs, extra_keys=('original_map',))``
    at the end, ``SegmentationMetric`` finds it in ``sample.extra``. Where the pipeline does not
    move the image, it is not needed. Images without truth pass through.
    """

    def __call__(self, results: Results) -> Results:
        """Copy the map."""
        if results.get('semantic_map') is not None:
            results['original_map'] = results['semantic_map'].copy()
        elif results.get('seg_path') is not None:
            raise DataError('KeepOriginalMap finds no semantic_map but a file of one; put it after '
                            'LoadAnnotations')
        return results
