"""MoCo v3: a query network learns to recognise what a slower copy of it says of another view.

Paper: An Empirical Study of Training Self-Supervised Vision Transformers,
https://arxiv.org/abs/2104.02057

Idea: queries come from backbone, projector and predictor; keys from a second backbone and
projector, whose weights follow the first ones with a momentum and get no gradient. A query of one
view must pick the key of the other view of its image among the keys of the batch (equation 1, both
ways round). Vision transformers are kept steady by never training their patch projection (section
4.3).

What differs from the paper: the weights of the key network move after a step of the optimizer, not
before the next one, so a checkpoint holds both networks of the same moment; first weights are
those of our backbones. The pieces: the second network is moved in ``openlab/layers/follower.py``,
projector and predictor are in ``openlab/heads/projector.py``.

B batch · W processes · D embedding
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.selfsup.base import SelfSupervised, check_training, check_views
from openlab.layers.follower import follow, make_follower
from openlab.layers.gather import gather_batches, process_rank
from openlab.layers.ramp import Ramp, as_ramp
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.zoo.key_map import KeyMap


class MoCoOutputs(NamedTuple):
    """Embeddings of two views.

    Attributes:
        queries: of the first and the second view, each (B, D).
        keys: of the first and the second view, each (B, D), without gradient.
    """

    queries: tuple[Tensor, Tensor]
    keys: tuple[Tensor, Tensor]


@MODELS.register_module()
class MoCoV3(SelfSupervised):
    """Backbone, projector and predictor, and a slow copy of the first two.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps or vectors.
        projector: features (B, C) to embeddings (B, D).
        predictor: embeddings (B, D) to queries (B, D).
        momentum: share of its old weights that the key network keeps in each step.
        temperature: divides cosine similarities.
        freeze_patch_embed: keep the random patch projection of a vision transformer.
        preprocessor: see ``Algorithm``.
    """

    weights = (
        KeyMap(
            'openmmlab',
            renames=(
                (r'^neck\.', 'projector.'),
                (r'^head\.predictor\.', 'predictor.'),
                (r'^momentum_encoder\.module\.0\.', 'key_backbone.'),
                (r'^momentum_encoder\.module\.1\.', 'key_projector.'),
            ),
            drops=((r'^momentum_encoder\.steps$', 'only counts steps'),),
            signature=(r'^momentum_encoder\.module\.1\.', r'^head\.predictor\.')),
    )

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        predictor: nn.Module,
        momentum: float | Ramp = 0.99,
        temperature: float = 0.2,
        freeze_patch_embed: bool = False,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(backbone, preprocessor)
        self.projector, self.predictor = projector, predictor
        self.key_backbone = make_follower(backbone)
        self.key_projector = make_follower(projector)
        self.momentum = as_ramp(momentum)
        if temperature <= 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        self.temperature = temperature
        if freeze_patch_embed:
            if not hasattr(backbone, 'patch_embed'):
                raise ValueError(f'freeze_patch_embed=True: {type(backbone).__name__} has no '
                                 'patch_embed, only vision transformers do')
            backbone.patch_embed.requires_grad_(False)

    def train_outputs(self, inputs: list[Tensor]) -> MoCoOutputs:
        """Queries and keys of two views."""
        first, second = check_views(self, inputs, 2)
        queries = self._query(first), self._query(second)
        with torch.no_grad():
            keys = self._key(first), self._key(second)
        return MoCoOutputs(queries, keys)

    def _query(self, images: Tensor) -> Tensor:
        return self.predictor(self.projector(self.features(images)))

    def _key(self, images: Tensor) -> Tensor:
        return self.key_projector(self.pool(self.key_backbone(images)[-1]))

    def loss(self, outputs: MoCoOutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """``loss_contrast`` of both directions, and the momentum."""
        check_training(self, outputs)
        (query_1, query_2), (key_1, key_2) = outputs
        loss = (contrast_queries(query_1, key_2, self.temperature)
                + contrast_queries(query_2, key_1, self.temperature))
        return {'loss_contrast': loss, 'momentum': loss.new_tensor(self.momentum.value)}

    def after_step(self) -> None:
        """Let the key network follow."""
        momentum = self.momentum.value
        follow(self.key_backbone, self.backbone, momentum)
        follow(self.key_projector, self.projector, momentum)


def contrast_queries(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross entropy of picking the right key among those of all processes.

    Args:
        queries: (B, D).
        keys: of another view of the same images in the same order, (B, D).
        temperature: divides cosine similarities; the loss is scaled by twice of it, as in the
            paper's algorithm 1, so that it hardly changes the size of gradients.
    """
    # In float32 also under autocast: a similarity divided by 0.2 leaves bfloat16 no digits.
    with torch.autocast(queries.device.type, enabled=False):
        all_keys = gather_batches(F.normalize(keys.float(), dim=1).detach())
        logits = F.normalize(queries.float(), dim=1) @ all_keys.T / temperature
    target = torch.arange(len(queries), device=queries.device) + len(queries) * process_rank()
    return 2 * temperature * F.cross_entropy(logits, target)
