"""Zero-shot classification: images and the descriptions of classes in one space.

* Radford et al., CLIP, https://arxiv.org/abs/2103.00020
* Zhai et al., SigLIP, https://arxiv.org/abs/2303.15343

An image belongs to the class whose description points in the most similar direction. Classes are
named once, by ``describe``; nothing is trained for them.

B batch · K classes · P prompts of a class · T tokens · D embedding
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.heads.linear_head import stack_targets
from openlab.losses.base import ClassificationLoss
from openlab.losses.cross_entropy import CrossEntropyLoss
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.zoo.key_map import KeyMap

_KEYS = (
    (r'^vision_model\.', 'image_encoder.'),
    (r'^text_model\.', 'text_encoder.'),
    (r'^visual_projection\.', 'image_proj.'),
    # CLIP keeps the projection of texts beside the tower, SigLIP inside it.
    (r'^text_projection\.', 'text_encoder.head.'),
)


def _scalar(tensor: Tensor) -> Tensor:
    return tensor.reshape(())


@MODELS.register_module()
class ZeroShotClassifier(Algorithm):
    """An image tower, a text tower, and the similarity of what they put out.

    Args:
        image_encoder: images to a tuple whose last entry is (B, C).
        text_encoder: token ids (B, T) to vectors (B, D).
        image_dim: C, where images are projected to the D of texts (CLIP); ``None``: they are not.
        with_bias: add a learned bias to similarities (SigLIP).
        loss: what tuning on labelled images minimises, and what similarities mean: by default
            cross entropy, whose probabilities sum to 1. SigLIP's are those of
            ``BinaryCrossEntropyLoss``.
        tokenizer: texts to token ids (P, T), such as ``CaptionTokenizer``.
        prompts: descriptions of a class, ``{}`` being its name. Several are averaged.
        preprocessor: see ``Algorithm``.
    """

    weights = (
        KeyMap('transformers', _KEYS,
               transforms=((r'^logit_(scale|bias)$', _scalar),),
               signature=(r'^vision_model\.', r'^text_model\.')),
    )
    class_vectors: Tensor | None

    def __init__(
        self,
        image_encoder: nn.Module,
        text_encoder: nn.Module,
        image_dim: int | None = None,
        with_bias: bool = False,
        loss: ClassificationLoss | None = None,
        tokenizer: Callable[[Sequence[str]], Tensor] | None = None,
        prompts: Sequence[str] = ('a photo of a {}.',),
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor)
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        out_dim: Any = text_encoder.out_channels
        self.image_proj = (
            nn.Identity() if image_dim is None else nn.Linear(image_dim, out_dim[0], bias=False))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if with_bias:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        self.loss_function: ClassificationLoss = loss or CrossEntropyLoss()
        self.tokenizer, self.prompts = tokenizer, tuple(prompts)
        plain = [prompt for prompt in self.prompts if '{}' not in prompt]
        if plain or not self.prompts:
            raise ValueError('each of prompts has {} where the name of the class belongs, as in '
                             f"'a photo of a {{}}.'; not {plain or self.prompts}")
        self.register_buffer('class_vectors', None, persistent=False)

    def describe(self, classes: Sequence[str]) -> None:
        """Describe the classes by their names, in the words of ``prompts``.

        Raises:
            ValueError: if there is no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError('ZeroShotClassifier reads no names without tokenizer=...; give one, '
                             'or token ids to set_classes')
        place = self.logit_scale.device
        self.set_classes([
            self.tokenizer([prompt.replace('{}', name) for prompt in self.prompts]).to(place)
            for name in classes])

    @torch.no_grad()
    def set_classes(self, tokens: Sequence[Tensor]) -> None:
        """Describe the classes.

        Args:
            tokens: for each class, token ids of its prompts, (P, T); their directions are
                averaged.
        """
        vectors = [F.normalize(self.encode_texts(t).mean(0), dim=-1) for t in tokens]
        self.class_vectors = torch.stack(vectors)

    def encode_images(self, images: Tensor) -> Tensor:
        """Directions (B, D) of images (B, 3, H, W)."""
        return F.normalize(self.image_proj(self.image_encoder(images)[-1]), dim=-1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Directions (B, D) of texts as token ids (B, T)."""
        return F.normalize(self.text_encoder(tokens), dim=-1)

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Logits (B, K) of directions of images (B, D) and of texts (K, D)."""
        logits = self.logit_scale.exp() * images @ texts.T
        return logits + self.logit_bias if hasattr(self, 'logit_bias') else logits

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W)."""
        if self.class_vectors is None:
            raise ValueError('there are no classes yet: openlab infer takes --classes NAME NAME, a '
                             'config custom_hooks=[dict(type=DescribeClassesHook)], code describe')
        return self.similarity(self.encode_images(inputs), self.class_vectors)

    def loss(self, outputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """Loss of the image tower where descriptions of classes stay as they are."""
        target = stack_targets(samples, outputs.shape[1])
        return {'loss_cls': self.loss_function(outputs, target)}

    def predict(self, outputs: Tensor, samples: list[DataSample]) -> list[DataSample]:
        """``label`` (the most similar class) and ``label_probs`` (K,) of each image."""
        probs = self.loss_function.probs(outputs)
        return [DataSample(meta=dict(sample.meta), label=p.argmax(), label_probs=p)
                for sample, p in zip(samples, probs)]
