"""SimCLR: two views of an image are each other's only match among all views of a batch.

Paper: A Simple Framework for Contrastive Learning of Visual Representations,
https://arxiv.org/abs/2002.05709

Idea: backbone and projector embed two random views of every image. Seen from one view, the other
view of the same image is the right answer among all other views of the batch, which a softmax over
cosine similarities is trained to pick (NT-Xent, equation 1). The projector is thrown away
afterwards: its input is the better representation (section 4.2).

Nothing differs from the paper, except that batch norms see the batch of their own process unless
``sync_bn=True``. The pieces: the projector is in ``openlab/heads/projector.py``, batches of several
processes are joined in ``openlab/layers/gather.py``, views come from ``MultiView``.

B batch · W processes · N = 2 W B views in all · D embedding
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.selfsup.base import SelfSupervised, check_training, check_views
from openlab.layers.gather import gather_batches, process_rank
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.zoo.key_map import KeyMap


class SimCLROutputs(NamedTuple):
    """Embeddings of the two views.

    Attributes:
        first: (B, D).
        second: (B, D).
    """

    first: Tensor
    second: Tensor


@MODELS.register_module()
class SimCLR(SelfSupervised):
    """Backbone and projector, the same for both views.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps or vectors.
        projector: features (B, C) to embeddings (B, D).
        temperature: divides cosine similarities.
        preprocessor: see ``Algorithm``.
    """

    weights = (
        KeyMap('openmmlab', ((r'^neck\.', 'projector.'),),
               signature=(r'^backbone\.', r'^neck\.fc0\.')),
    )

    def __init__(self, backbone: nn.Module, projector: nn.Module, temperature: float = 0.1,
                 preprocessor: nn.Module | None = None):
        super().__init__(backbone, preprocessor)
        self.projector = projector
        if temperature <= 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        self.temperature = temperature

    def train_outputs(self, inputs: list[Tensor]) -> SimCLROutputs:
        """Embeddings of two views, in one pass so that batch norms see both together."""
        views = check_views(self, inputs, 2)
        embeddings = self.projector(self.features(torch.cat(views)))
        return SimCLROutputs(*embeddings.chunk(2))

    def loss(self, outputs: SimCLROutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """``loss_contrast``, and in how many cases the right view was the likeliest."""
        check_training(self, outputs)
        logits, target = contrast_views(outputs.first, outputs.second, self.temperature)
        accuracy = (logits.argmax(1) == target).float().mean()
        return {'loss_contrast': F.cross_entropy(logits, target), 'contrast_accuracy': accuracy}


def contrast_views(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Let each view of this process choose its match among the views of all processes.

    Args:
        first: embeddings of one view of each image, (B, D).
        second: those of the other view, (B, D).
        temperature: divides cosine similarities.

    Returns:
        Logits (2B, N), -inf for the view itself, and the index of the right one, (2B,).
    """
    # In float32 also under autocast: a similarity divided by 0.1 leaves bfloat16 no digits.
    with torch.autocast(first.device.type, enabled=False):
        own = F.normalize(torch.cat([first, second]).float(), dim=1)
        pair_B2D = torch.stack(own.chunk(2), dim=1)
        all_ND = gather_batches(pair_B2D).transpose(0, 1).flatten(0, 1)
        logits = own @ all_ND.T / temperature
    B, num_images = len(first), len(all_ND) // 2
    index_B = torch.arange(B, device=first.device) + B * process_rank()
    self_2B = torch.cat([index_B, index_B + num_images])
    target_2B = torch.cat([index_B + num_images, index_B])
    logits = logits.scatter(1, self_2B[:, None], -torch.inf)
    return logits, target_2B
