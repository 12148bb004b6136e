"""ClassMix: cut all pixels of some classes out of another image and lay them over this one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openlab.data.errors import DataError
from openlab.data.transforms.base import Results, check_prob
from openlab.data.transforms.geometry import IGNORE
from openlab.data.transforms.multi_image import MultiImageTransform, fit_into
from openlab.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ClassMix(MultiImageTransform):
    """Paste half of the classes of another image, with their places in its semantic map.

    Paper: ClassMix, https://arxiv.org/abs/2007.07936 (section 3.1), here with true maps in place
    of predicted ones. Objects meet in ways that no image shows, so that a network cannot learn
    scenes by heart. ``CopyPaste`` does so for data that have a mask for each object.

    Args:
        share: how much of the classes present is pasted, rounded up.
        keep_out: indices of classes that are never pasted, such as that of the background; they
            may be covered.
        min_visible: leave a drawn class out where it would leave less than this part of another
            one to be seen.
        prob: how often anything is done.

    Raises:
        DataError: if an image has no semantic map, or has boxes or masks besides, which would no
            longer be true.
    """

    def __init__(self, share: float = 0.5, keep_out: Sequence[int] = (),
                 min_visible: float = 0.0, prob: float = 1.0):
        super().__init__(prob)
        self.min_visible = check_prob(min_visible, 'min_visible')
        self.share = check_prob(share, 'share')
        self.keep_out = (*keep_out, IGNORE)

    def mix(self, results: Results, others: list[Results]) -> Results:
        """Draw classes, paste their pixels and their part of the map."""
        other = fit_into(others[0], results['img'].shape[:2])
        for item in (results, other):
            if item.get('semantic_map') is None:
                raise DataError('ClassMix needs semantic maps; let LoadAnnotations read them')
            if any(item.get(key) is not None for key in ('boxes', 'masks', 'panoptic_map')):
                raise DataError('ClassMix pastes into the semantic map alone; for boxes and masks '
                                'use CopyPaste')
        present = np.setdiff1d(np.unique(other['semantic_map']), self.keep_out)
        chosen = np.random.permutation(present)[:int(np.ceil(len(present) * self.share))]
        pasted = self._pasted(results['semantic_map'], other['semantic_map'], chosen)
        # Copies: image and map may be those that a dataset keeps.
        results['img'] = np.where(pasted[..., None], other['img'], results['img'])
        results['semantic_map'] = np.where(pasted, other['semantic_map'], results['semantic_map'])
        return results

    def _pasted(self, below: np.ndarray, above: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Which pixels are pasted: those of the chosen classes that leave enough to be seen."""
        if not self.min_visible:
            return np.isin(above, chosen)
        pasted = np.zeros(above.shape, bool)
        total = np.bincount(below.ravel(), minlength=IGNORE + 1)
        total[list(self.keep_out)] = 0
        for label in chosen:
            more = pasted | (above == label)
            covered = np.bincount(below[more], minlength=IGNORE + 1)
            if ((total - covered)[total > 0] >= self.min_visible * total[total > 0]).all():
                pasted = more
        return pasted
