"""DETR: detection as the prediction of a set.

Paper: End-to-End Object Detection with Transformers, https://arxiv.org/abs/2005.12872.

Idea: a transformer encoder lets every place of the deepest map see all others; a fixed number of
learned queries then ask the map, and one another, for objects. Each answer is one box and one
class or "no object". In training each object is paired with exactly one query, at the lowest total
cost, so that queries learn not to answer twice and nothing has to be suppressed afterwards.

What differs from the paper: nothing in the network and the losses; every layer of the decoder
shares one final norm and one pair of heads, and auxiliary losses are those of the last layer
again. The pieces: pairing is in ``openlab/targets/hungarian.py``, waves for positions in
``openlab/layers/position.py``, attention in ``openlab/layers/attention.py``.

B batch · L layers of the decoder · Q queries · N objects in an image · K classes · D embedding ·
h, w size of the deepest map
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou, generalized_box_iou_loss

from openlab.algorithms.base import Algorithm
from openlab.layers.attention import CrossAttention
from openlab.layers.position import sine_position
from openlab.layers.transformer import MLP
from openlab.registry import MODELS
from openlab.structures.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from openlab.structures.data_sample import DataSample
from openlab.targets.hungarian import Match, flatten_matches, hungarian, set_cross_entropy
from openlab.targets.nms import truth_of
from openlab.zoo.key_map import KeyMap

RELU = {'type': nn.ReLU}


class DETROutputs(NamedTuple):
    """Raw outputs for a batch, of every layer of the decoder, the last one last.

    Attributes:
        logits: scores of the classes and of "no object", (L, B, Q, K + 1).
        boxes: centre and size as shares of the image without its padding, (L, B, Q, 4).
        image_size: (H, W) of the padded input.
    """

    logits: Tensor
    boxes: Tensor
    image_size: tuple[int, int]


class EncoderLayer(nn.Module):
    """Every place looks at all places; then an MLP. Norms come after the additions.

    Args:
        embed_dim: D.
        num_heads: heads of the attention.
        hidden_dim: inner size of the MLP.
        dropout: probability to drop an output in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.attn = CrossAttention(embed_dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.mlp = MLP(embed_dim, hidden_dim, dropout, RELU)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        """Map places x (B, h w, D), at ``position`` of the same shape, to the same shape."""
        place = x + position
        x = self.norm1(x + self.dropout(self.attn(place, place, x, mask)))
        return self.norm2(x + self.mlp(x))


class DecoderLayer(nn.Module):
    """Queries look at one another, then at the map; then an MLP.

    Args:
        embed_dim: D.
        num_heads: heads of each attention.
        hidden_dim: inner size of the MLP.
        dropout: probability to drop an output in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.self_attn = CrossAttention(embed_dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.cross_attn = CrossAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = MLP(embed_dim, hidden_dim, dropout, RELU)
        self.norm3 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, query_position: Tensor, memory: Tensor, position: Tensor,
                mask: Tensor | None) -> Tensor:
        """Refine the queries.

        Args:
            x: (B, Q, D).
            query_position: what tells the queries apart, (Q, D).
            memory: places of the encoded map, (B, h w, D).
            position: theirs, (B, h w, D).
            mask: True where a place is no padding, (B, 1, 1, h w).
        """
        asked = x + query_position
        x = self.norm1(x + self.dropout(self.self_attn(asked, asked, x)))
        found = self.cross_attn(x + query_position, memory + position, memory, mask)
        x = self.norm2(x + self.dropout(found))
        return self.norm3(x + self.mlp(x))


@MODELS.register_module()
class DETRHead(nn.Module):
    """Transformer, class and box of each query, set losses.

    Args:
        num_classes: K.
        in_channels: channels of the deepest map; taken from the backbone where left out.
        num_queries: Q, well above the most objects of an image.
        embed_dim: D.
        num_heads: heads of each attention.
        num_encoder_layers: layers that look at the map.
        num_decoder_layers: layers that refine the queries (L).
        hidden_dim: inner size of the MLPs.
        dropout: probability to drop an output in training.
        no_object_weight: weight of "no object" in the class loss.
        loss_weights: factors of the losses ``cls``, ``box`` (L1) and ``giou``; the costs of the
            pairing are weighted alike.
        min_score: predictions below are left out; 0 keeps all Q, as the COCO metric wants.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int | None = None,
        num_queries: int = 100,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        hidden_dim: int = 2048,
        dropout: float = 0.1,
        no_object_weight: float = 0.1,
        loss_weights: Mapping[str, float] | None = None,
        min_score: float = 0.0,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('DETRHead needs in_channels: nothing feeds it that has out_channels')
        self.num_classes, self.embed_dim = num_classes, embed_dim
        self.no_object_weight, self.min_score = no_object_weight, min_score
        self.loss_weights = {'cls': 1.0, 'box': 5.0, 'giou': 2.0, **(loss_weights or {})}
        if set(self.loss_weights) != {'cls', 'box', 'giou'}:
            raise ValueError(f'loss_weights are of cls, box and giou, not {loss_weights}')
        size = embed_dim, num_heads, hidden_dim, dropout
        self.input_proj = nn.Conv2d(in_channels, embed_dim, 1)
        self.encoder = nn.ModuleList(EncoderLayer(*size) for _ in range(num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*size) for _ in range(num_decoder_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.query_position = nn.Embedding(num_queries, embed_dim)
        self.cls_out = nn.Linear(embed_dim, num_classes + 1)
        self.box_out = nn.ModuleList(
            nn.Linear(embed_dim, 4 if i == 2 else embed_dim) for i in range(3))
        for part in (self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, feats: Sequence[Tensor], image_size: tuple[int, int],
                valid: Tensor | None = None) -> DETROutputs:
        """Answer of each query after each layer of the decoder.

        Args:
            feats: maps of the backbone, of which the deepest (B, C, h, w) is taken.
            image_size: (H, W) of the padded input.
            valid: False where the input is padding, (B, H, W); ``None`` if nothing is.
        """
        x = self.input_proj(feats[-1])
        B, _, h, w = x.shape
        mask = None
        if valid is None:
            valid = torch.ones(B, h, w, dtype=torch.bool, device=x.device)
        else:
            valid = F.interpolate(valid[None].float(), (h, w))[0].bool()
            mask = valid.flatten(1)[:, None, None]
        position = sine_position(valid, self.embed_dim).flatten(2).transpose(1, 2).to(x.dtype)
        memory = x.flatten(2).transpose(1, 2)
        for encode in self.encoder:
            memory = encode(memory, position, mask)
        queries = torch.zeros_like(self.query_position.weight).expand(B, -1, -1)
        answers = []
        for decode in self.decoder:
            queries = decode(queries, self.query_position.weight, memory, position, mask)
            answers.append(self.norm(queries))
        answer = torch.stack(answers)
        box = F.relu(self.box_out[1](F.relu(self.box_out[0](answer))))
        return DETROutputs(self.cls_out(answer), self.box_out[2](box).sigmoid(), image_size)

    def loss(self, outputs: DETROutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """Weighted class, L1 and GIoU losses; those of layer i before the last end in ``_i``.

        Every layer is paired with the objects on its own. Box losses are sums over objects,
        divided by the number of objects in the batch.
        """
        truths = [self._truth(s, outputs.image_size) for s in samples]
        boxes, labels = [b for b, _ in truths], [y for _, y in truths]
        per_image = [
            self._match(outputs.logits[:, b], outputs.boxes[:, b], *truths[b])
            for b in range(len(samples))]
        losses: dict[str, Tensor] = {}
        num_layers = len(outputs.logits)
        for layer in range(num_layers):
            matches = [of_layers[layer] for of_layers in per_image]
            found = self._layer_losses(
                outputs.logits[layer], outputs.boxes[layer], boxes, labels, matches)
            ending = '' if layer == num_layers - 1 else f'_{layer}'
            losses |= {f'loss_{k}{ending}': self.loss_weights[k] * v for k, v in found.items()}
        return losses

    def predict(self, outputs: DETROutputs, samples: list[DataSample]) -> list[DataSample]:
        """Best class and box of every query, best first, in pixels of the network's input."""
        predictions = []
        probs = outputs.logits[-1].float().softmax(-1)[..., :-1]
        for probs_QK, boxes, sample in zip(probs, outputs.boxes[-1].float(), samples, strict=True):
            scores, labels = probs_QK.max(-1)
            scores, order = scores.sort(descending=True, stable=True)
            order = order[scores >= self.min_score]
            boxes = cxcywh_to_xyxy(boxes[order]) * _extent(sample, outputs.image_size, boxes)
            predictions.append(DataSample(
                meta=dict(sample.meta), boxes=boxes, labels=labels[order],
                scores=scores[: len(order)]))
        return predictions

    def _truth(self, sample: DataSample, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        boxes, labels = truth_of(sample, self.num_classes)
        return xyxy_to_cxcywh(boxes) / _extent(sample, image_size, boxes), labels

    @torch.no_grad()
    def _match(self, logits: Tensor, boxes: Tensor, goals: Tensor, labels: Tensor) -> list[Match]:
        """Pair the queries of one image with its objects, for each layer (eq. 1)."""
        probs_LQN = logits.float().softmax(-1)[..., labels]
        l1_LQN = torch.cdist(boxes.float(), goals.float()[None], p=1)
        giou_LQN = generalized_box_iou(
            cxcywh_to_xyxy(boxes.float()).flatten(0, 1), cxcywh_to_xyxy(goals.float())
        ).view_as(l1_LQN)
        weights = self.loss_weights
        return hungarian(
            weights['box'] * l1_LQN - weights['cls'] * probs_LQN - weights['giou'] * giou_LQN)

    def _layer_losses(self, logits: Tensor, boxes: Tensor, goals: list[Tensor],
                      labels: list[Tensor], matches: list[Match]) -> dict[str, Tensor]:
        found = boxes[flatten_matches(matches)].float()
        goal = torch.cat([g[objects] for g, (_, objects) in zip(goals, matches, strict=True)])
        num_objects = max(sum(len(y) for y in labels), 1)
        giou = generalized_box_iou_loss(cxcywh_to_xyxy(found), cxcywh_to_xyxy(goal))
        return {
            'cls': set_cross_entropy(logits.float(), labels, matches, self.no_object_weight),
            'box': (found - goal).abs().sum() / num_objects,
            'giou': giou.sum() / num_objects,
        }


@MODELS.register_module()
class DETR(Algorithm):
    """Backbone and transformer head in a row.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps, of which the last is used.
        head: see ``DETRHead``.
        preprocessor: see ``Algorithm``.
    """

    weights = (
        KeyMap(
            'transformers',
            [
                (r'^model\.backbone\.(conv_encoder\.)?model\.', 'backbone.'),
                (r'^model\.query_position_embeddings\.', 'head.query_position.'),
                (r'^model\.input_projection\.', 'head.input_proj.'),
                (r'^model\.(encoder|decoder)\.layers\.', r'head.\1.'),
                (r'^model\.decoder\.layernorm\.', 'head.norm.'),
                (r'^class_labels_classifier\.', 'head.cls_out.'),
                (r'^bbox_predictor\.layers\.', 'head.box_out.'),
                (r'^(head\..*)\.(o_proj|out_proj)\.', r'\1.proj.'),
                (r'^(head\.encoder\.\d+)\.self_attn\.', r'\1.attn.'),
                (r'^(head\.encoder\.\d+)\.final_layer_norm\.', r'\1.norm2.'),
                (r'^(head\.decoder\.\d+)\.final_layer_norm\.', r'\1.norm3.'),
                (r'\.encoder_attn\.', '.cross_attn.'),
                (r'\.self_attn_layer_norm\.', '.norm1.'),
                (r'\.encoder_attn_layer_norm\.', '.norm2.'),
                (r'^(head\.(?:encoder|decoder)\.\d+)\.(fc\d)\.', r'\1.mlp.\2.'),
            ],
            signature=[r'^model\.query_position_embeddings\.', r'^class_labels_classifier\.'],
        ),
    )

    def __init__(self, backbone: nn.Module, head: nn.Module,
                 preprocessor: nn.Module | None = None):
        super().__init__(preprocessor)
        self.backbone = backbone
        self.head: Any = head  # has loss and predict besides forward

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> DETROutputs:
        """Images (B, 3, H, W) to the head's raw outputs; samples tell what is padding."""
        return self.outputs_of_maps(self.backbone(inputs), inputs, samples)

    def outputs_of_maps(self, feats: Sequence[Tensor], inputs: Tensor,
                        samples: list[DataSample] | None = None) -> DETROutputs:
        """Maps of the backbone to the head's raw outputs."""
        size = inputs.shape[-2], inputs.shape[-1]
        return self.head(feats, size, valid_pixels(inputs, samples))

    def loss(self, outputs: DETROutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """The head's losses."""
        return self.head.loss(outputs, samples)

    def predict(self, outputs: DETROutputs, samples: list[DataSample]) -> list[DataSample]:
        """The head's detections."""
        return self.head.predict(outputs, samples)


def valid_pixels(inputs: Tensor, samples: list[DataSample] | None) -> Tensor | None:
    """Where inputs are no padding, (B, H, W) bool, or ``None`` if all images fill the batch."""
    whole = tuple(inputs.shape[-2:])
    sizes = [tuple(s.meta.get('img_shape', whole)[:2]) for s in samples or ()]
    if all(size == whole for size in sizes):
        return None
    valid = torch.zeros(len(sizes), *whole, dtype=torch.bool, device=inputs.device)
    for place, (height, width) in zip(valid, sizes, strict=True):
        place[:height, :width] = True
    return valid


def _extent(sample: DataSample, image_size: tuple[int, int], like: Tensor) -> Tensor:
    """Width, height, width, height of the image without its padding."""
    height, width = sample.meta.get('img_shape', image_size)[:2]
    return like.new_tensor([width, height, width, height])
