"""Which way a metric of a published evaluation is better, read off its name.

Published names are a closed list, so that this one may take all others for better when higher;
rules for the metrics of a run, whose names anyone may choose, stay with the hooks that use them.
"""

from __future__ import annotations

import re

# Words of names; digits and a 'k' behind them are left out before, so FID50k is an FID.
LOWER_IS_BETTER = frozenset((
    'loss', 'error', 'err', 'mae', 'mse', 'rmse', 'perplexity', 'ppl', 'bpc', 'bpb', 'nll', 'ece',
    'wer', 'cer', 'ter', 'eer',
    'fid', 'fvd', 'kid', 'swd', 'lpips', 'dists', 'niqe', 'brisque', 'pi',
    'sad', 'grad', 'conn',  # of mattes
    'epe', 'aepe', 'fl',  # of optical flow; fl is the share of outliers
    'nme', 'mpjpe', 'mrrpe', 'pve', 'mpvpe', 'absrel', 'silog',
    'minade', 'minfde', 'chamfer', 'hd',
    'mdr', 'mnr',  # median and mean rank of what was searched for
    'robustness',  # of trackers: how often they lost the object
))


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of a metric is the better one, as of ``FID50k``."""
    words = re.split(r'[^a-z0-9]+', metric.lower())
    return any(re.sub(r'\d+k?$', '', word) in LOWER_IS_BETTER for word in words)
