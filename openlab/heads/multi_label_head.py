"""One linear layer from features to classes of which an image may show any number.

B batch · C channels · K classes
"""

from __future__ import annotations

from torch import Tensor, nn

from openlab.heads.linear_head import LinearHead
from openlab.losses.base import ClassificationLoss
from openlab.losses.cross_entropy import BinaryCrossEntropyLoss
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample


@MODELS.register_module()
class MultiLabelHead(LinearHead):
    """Pool the last feature map and judge each class on its own.

    Truth is ``label_probs`` of 0 and 1; entries of -1 are not known and teach nothing.

    Args:
        num_classes: number of classes.
        in_channels: channels of the last map; by default what feeds the head.
        pool: how a map becomes a vector; by default its mean.
        dropout: probability to drop a feature in training.
        loss: compares logits with targets; by default binary cross entropy, summed over classes.
        init_std: deviation of the first weights.
        threshold: predicted labels are the classes that are at least this probable.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        pool: nn.Module | None = None,
        dropout: float = 0.0,
        loss: ClassificationLoss | None = None,
        init_std: float = 0.01,
        threshold: float = 0.5,
    ):
        super().__init__(num_classes, in_channels, pool, dropout,
                         loss or BinaryCrossEntropyLoss(reduction='sum'), init_std)
        if not 0 <= threshold <= 1:
            raise ValueError(f'threshold must lie in [0, 1], not {threshold}')
        self.threshold = threshold

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """``label_probs`` (K,), their likeliest ``label``, and ``labels`` above the threshold.

        ``labels`` come with ``scores``, the likeliest first; there may be none.
        """
        predictions = super().predict(outputs, samples)
        for prediction in predictions:
            assert prediction.label_probs is not None
            scores, labels = prediction.label_probs.sort(descending=True)
            chosen = scores >= self.threshold
            prediction.labels, prediction.scores = labels[chosen], scores[chosen]
        return predictions
