"""Mask2Former: panoptic, instance and semantic segmentation by one network.

Paper: Masked-attention Mask Transformer for Universal Image Segmentation,
https://arxiv.org/abs/2112.01527.

Idea: all three tasks ask for a set of masks, each with a class; they differ only in what counts as
one mask. A pixel decoder refines the backbone's maps with deformable attention and makes an
embedding of every pixel; learned queries look at the maps, coarse to fine in turn, each only where
its own mask of the layer before is; their dot products with the pixels are the masks. Each object
is paired with one query, as in DETR, by costs and losses at a few thousand random points.

What differs from the paper: nothing in the network and the losses. ``task`` says what is learned;
``predicts`` what comes out, which may be more: a panoptic model knows instances and classes too.
The pieces: deformable attention is in ``openlab/layers/deformable_attention.py``, pairing in
``openlab/targets/hungarian.py``.

B batch · L layers of predictions · Q queries · N masks in an image · K classes · D embedding ·
P points · H, W size of the padded input · h, w size of a map
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm
from openlab.layers.attention import CrossAttention
from openlab.layers.deformable_attention import DeformableAttention, Size, grid_places
from openlab.layers.position import sine_position
from openlab.layers.transformer import MLP
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample
from openlab.structures.masks import masks_to_boxes
from openlab.targets.hungarian import Match, flatten_matches, hungarian, set_cross_entropy
from openlab.targets.nms import check_objects
from openlab.zoo.key_map import KeyMap

Task = Literal['panoptic', 'instance', 'semantic']
IGNORED = 255
RELU = {'type': nn.ReLU}


class MaskOutputs(NamedTuple):
    """Raw outputs for a batch, one entry for each of the L predictions, the last one last.

    Attributes:
        logits: scores of the classes and of "no object", (B, Q, K + 1) each.
        masks: logits of the masks at a quarter of the resolution, (B, Q, h, w) each.
        image_size: (H, W) of the padded input.
    """

    logits: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    image_size: tuple[int, int]


@MODELS.register_module()
@dataclass(frozen=True)
class SegmentLimits:
    """Which masks are reported.

    Attributes:
        score: a panoptic segment needs this class probability.
        overlap: and must keep this share of its mask when each pixel goes to its best mask.
        mask: a pixel belongs to a mask from this probability on.
        detections: instances at most.
        weighted: compare masks by their probability times their score, also with ``mask``, and
            give a segment every pixel where it is best, as transformers does; the paper's
            program compares the bare probability and leaves unsure pixels empty.
    """

    score: float = 0.8
    overlap: float = 0.8
    mask: float = 0.5
    detections: int = 100
    weighted: bool = False


class PixelLayer(nn.Module):
    """Every place looks at a few points of all levels; then an MLP.

    Args:
        embed_dim: D.
        num_heads: heads of the attention.
        num_levels: levels that are looked at.
        hidden_dim: inner size of the MLP.
        dropout: probability to drop an output in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, num_levels: int, hidden_dim: int,
                 dropout: float):
        super().__init__()
        self.attn = DeformableAttention(embed_dim, num_heads, num_levels)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.mlp = MLP(embed_dim, hidden_dim, dropout, RELU)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, sizes: Sequence[Size],
                places: Tensor) -> Tensor:
        """Map the places of all levels (B, M, D) to the same shape."""
        x = self.norm1(x + self.dropout(self.attn(x + position, x, sizes, places)))
        return self.norm2(x + self.mlp(x))


@MODELS.register_module()
class PixelDecoder(nn.Module):
    """The backbone's deeper maps refined together; finer maps added to make pixel embeddings.

    Args:
        in_channels: channels of the backbone's maps, finest first; more than ``num_levels``.
        embed_dim: channels of the refined levels (D), a multiple of 32.
        mask_dim: size of a pixel's embedding.
        num_heads: heads of the deformable attention.
        num_layers: its layers.
        num_levels: deepest maps that it sees.
        hidden_dim: inner size of the MLPs.
        dropout: probability to drop an output in training.

    Attributes:
        out_channels: of the pixel embeddings, then of each level.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        embed_dim: int = 256,
        mask_dim: int = 256,
        num_heads: int = 8,
        num_layers: int = 6,
        num_levels: int = 3,
        hidden_dim: int = 1024,
        dropout: float = 0.0,
    ):
        super().__init__()
        if len(in_channels) <= num_levels:
            raise ValueError(
                f'PixelDecoder refines {num_levels} maps and needs at least one finer one, but '
                f'in_channels={tuple(in_channels)} names {len(in_channels)}; set '
                'model.backbone.out_stages, or a smaller num_levels')
        if embed_dim % 32:
            raise ValueError(f'embed_dim must be a multiple of 32, not {embed_dim}')
        finer, deeper = in_channels[:-num_levels], in_channels[-num_levels:]
        self.embed_dim, self.num_levels = embed_dim, num_levels
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, embed_dim, 1), nn.GroupNorm(32, embed_dim))
            for c in reversed(deeper))
        self.level_embed = nn.Parameter(torch.randn(num_levels, embed_dim))
        self.layers = nn.ModuleList(
            PixelLayer(embed_dim, num_heads, num_levels, hidden_dim, dropout)
            for _ in range(num_layers))
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, embed_dim, 1, bias=False), nn.GroupNorm(32, embed_dim))
            for c in finer)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(embed_dim, embed_dim, 3, padding=1, bias=False),
                nn.GroupNorm(32, embed_dim), nn.ReLU())
            for _ in finer)
        self.mask_proj = nn.Conv2d(embed_dim, mask_dim, 1)
        self.out_channels = (mask_dim, *[embed_dim] * num_levels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone, finest first, to pixel embeddings and levels, coarsest first."""
        if len(feats) != len(self.lateral) + self.num_levels:
            raise ValueError(
                f'PixelDecoder got {len(feats)} maps but was built for '
                f'{len(self.lateral) + self.num_levels}; set model.backbone.out_stages to match '
                'model.pixel_decoder.in_channels')
        deeper = feats[: -self.num_levels - 1 : -1]
        maps = [layer(x) for layer, x in zip(self.input_proj, deeper, strict=True)]
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        position = torch.cat(
            [flat_position(m, self.embed_dim) + e for m, e in zip(maps, self.level_embed)])
        places = grid_places(sizes, x.device).to(x.dtype)
        for layer in self.layers:
            x = layer(x, position, sizes, places)
        levels = [
            level.transpose(1, 2).unflatten(-1, size)
            for level, size in zip(x.split([h * w for h, w in sizes], dim=1), sizes)]
        finest = levels[-1]
        for i in range(len(self.lateral) - 1, -1, -1):
            lateral = self.lateral[i](feats[i])
            coarse = F.interpolate(finest, lateral.shape[-2:], mode='bilinear')
            finest = self.smooth[i](lateral + coarse)
        return self.mask_proj(finest), *levels


class QueryLayer(nn.Module):
    """Queries look at one level, each where its mask is; then at one another; then an MLP.

    Args:
        embed_dim: D.
        num_heads: heads of each attention.
        hidden_dim: inner size of the MLP.
        dropout: probability to drop an output in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.cross_attn = CrossAttention(embed_dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.self_attn = CrossAttention(embed_dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = MLP(embed_dim, hidden_dim, dropout, RELU)
        self.norm3 = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, query_position: Tensor, level: Tensor, position: Tensor,
                seen: Tensor) -> Tensor:
        """Refine the queries.

        Args:
            x: (B, Q, D).
            query_position: what tells the queries apart, (Q, D).
            level: places of one level, (B, h w, D).
            position: theirs, (h w, D).
            seen: True where a query may look, (B, 1, Q, h w).
        """
        found = self.cross_attn(x + query_position, level + position, level, seen)
        x = self.norm1(x + self.dropout(found))
        asked = x + query_position
        x = self.norm2(x + self.dropout(self.self_attn(asked, asked, x)))
        return self.norm3(x + self.mlp(x))


@MODELS.register_module()
class Mask2FormerHead(nn.Module):
    """Masked-attention decoder, set losses at points, and the three ways to read the masks.

    Args:
        num_classes: K, of the task's labels; for panoptic those of things and stuff together.
        in_channels: of the pixel embeddings and of each level; taken from the pixel decoder
            where left out.
        task: what is learned.
        predicts: what comes out; by default ``task`` alone.
        stuff: labels that have no instances: one panoptic segment for each, and no detection.
        num_queries: Q.
        embed_dim: D.
        num_heads: heads of each attention.
        num_layers: layers that refine the queries; they make L = num_layers + 1 predictions.
        hidden_dim: inner size of the MLPs.
        dropout: probability to drop an output in training.
        num_points: points of a mask that costs and losses look at (P).
        oversample: times P points are drawn, of which the least sure are taken.
        importance: share of P that is taken so; the others are drawn evenly.
        no_object_weight: weight of "no object" in the class loss.
        loss_weights: factors of the losses ``cls``, ``mask`` (cross entropy) and ``dice``; the
            costs of the pairing are weighted alike.
        limits: which masks are reported.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int] | None = None,
        task: Task = 'panoptic',
        predicts: Sequence[Task] | None = None,
        stuff: Sequence[int] = (),
        num_queries: int = 100,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_layers: int = 9,
        hidden_dim: int = 2048,
        dropout: float = 0.0,
        num_points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        no_object_weight: float = 0.1,
        loss_weights: Mapping[str, float] | None = None,
        limits: SegmentLimits | None = None,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('Mask2FormerHead needs in_channels: no pixel decoder feeds it')
        self.task, self.predicts = task, tuple(predicts or (task,))
        for name in (task, *self.predicts):
            if name not in get_args(Task):
                raise ValueError(f'task must be one of {", ".join(get_args(Task))}, not {name!r}')
        if any(not 0 <= label < num_classes for label in stuff):
            raise ValueError(f'stuff must be labels from 0 to num_classes - 1 = {num_classes - 1}, '
                             f'not {list(stuff)}')
        self.loss_weights = {'cls': 2.0, 'mask': 5.0, 'dice': 5.0, **(loss_weights or {})}
        if set(self.loss_weights) != {'cls', 'mask', 'dice'}:
            raise ValueError(f'loss_weights are of cls, mask and dice, not {loss_weights}')
        self.num_classes, self.stuff, self.embed_dim = num_classes, tuple(stuff), embed_dim
        self.num_points, self.oversample, self.importance = num_points, oversample, importance
        self.no_object_weight = no_object_weight
        self.limits = limits or SegmentLimits()

        mask_dim, *channels = in_channels
        self.query_feat = nn.Embedding(num_queries, embed_dim)
        self.query_position = nn.Embedding(num_queries, embed_dim)
        self.level_embed = nn.Embedding(len(channels), embed_dim)
        self.input_proj = nn.ModuleList(
            nn.Identity() if c == embed_dim else nn.Conv2d(c, embed_dim, 1) for c in channels)
        self.layers = nn.ModuleList(
            QueryLayer(embed_dim, num_heads, hidden_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.cls_out = nn.Linear(embed_dim, num_classes + 1)
        self.mask_out = nn.Sequential(
            nn.Linear(embed_dim, embed_dim), nn.ReLU(),
            nn.Linear(embed_dim, embed_dim), nn.ReLU(),
            nn.Linear(embed_dim, mask_dim))  # fmt: skip

    def forward(self, feats: Sequence[Tensor], image_size: tuple[int, int]) -> MaskOutputs:
        """Class and mask of each query, before and after each layer.

        Args:
            feats: pixel embeddings (B, C, h, w) and levels, coarsest first.
            image_size: (H, W) of the padded input.
        """
        pixels, *maps = feats
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        positions = [flat_position(x, self.embed_dim) for x in maps]
        levels = [
            layer(x).flatten(2).transpose(1, 2) + embed
            for layer, x, embed in zip(self.input_proj, maps, self.level_embed.weight, strict=True)]
        queries = self.query_feat.weight.expand(len(pixels), -1, -1)
        logits, masks = [], []
        for i in range(len(self.layers) + 1):
            answer = self.norm(queries)
            logits.append(self.cls_out(answer))
            masks.append(torch.einsum('bqc,bchw->bqhw', self.mask_out(answer), pixels))
            if i < len(self.layers):
                at = i % len(levels)
                queries = self.layers[i](
                    queries, self.query_position.weight, levels[at], positions[at],
                    mask_to_attention(masks[-1], sizes[at]))
        return MaskOutputs(tuple(logits), tuple(masks), image_size)

    def loss(self, outputs: MaskOutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """Weighted class, mask and dice losses; those of an earlier prediction i end in ``_i``.

        Every prediction is paired with the masks on its own.
        """
        truths = [segments_of(s, self.task, outputs.image_size, self.num_classes) for s in samples]
        last = len(outputs.logits) - 1
        losses: dict[str, Tensor] = {}
        for i in (last, *range(last)):
            found = self._prediction_losses(outputs.logits[i], outputs.masks[i], truths)
            ending = '' if i == last else f'_{i}'
            losses |= {f'loss_{k}{ending}': self.loss_weights[k] * v for k, v in found.items()}
        return losses

    def predict(self, outputs: MaskOutputs, samples: list[DataSample]) -> list[DataSample]:
        """What ``predicts`` names, in pixels of the network's input without its padding.

        ``panoptic`` fills ``panoptic_map`` and ``segments``; ``instance`` fills ``masks``, their
        ``boxes``, ``labels`` and ``scores``; ``semantic`` fills ``semantic_map``.
        """
        predictions = []
        for logits, small, sample in zip(
                outputs.logits[-1], outputs.masks[-1], samples, strict=True):
            height, width = sample.meta.get('img_shape', outputs.image_size)[:2]
            masks = F.interpolate(small[None].float(), outputs.image_size, mode='bilinear')[0]
            masks, probs = masks[:, :height, :width], logits.float().softmax(-1)
            fields: dict[str, Any] = {}
            if 'panoptic' in self.predicts:
                fields |= panoptic_prediction(probs, masks, self.stuff, self.limits)
            if 'instance' in self.predicts:
                fields |= instance_prediction(probs, masks, self.stuff, self.limits)
            if 'semantic' in self.predicts:
                fields['semantic_map'] = torch.einsum(
                    'qk,qhw->khw', probs[:, :-1], masks.sigmoid()).argmax(0)
            predictions.append(DataSample(meta=dict(sample.meta), **fields))
        return predictions

    def _prediction_losses(self, logits: Tensor, masks: Tensor,
                           truths: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        logits, masks = logits.float(), masks.float()
        goals, labels = [m for m, _ in truths], [y for _, y in truths]
        matches = [self._match(*of_image) for of_image in zip(logits, masks, goals, labels)]
        found = masks[flatten_matches(matches)]
        goal = torch.cat([g[objects] for g, (_, objects) in zip(goals, matches)])
        with torch.no_grad():
            points = self._unsure_points(found)
            goal_points = sample_points(goal.float(), points)
        logits_NP = sample_points(found, points)
        num_masks = max(sum(len(y) for y in labels), 1)
        cross = F.binary_cross_entropy_with_logits(logits_NP, goal_points, reduction='none')
        probs_NP = logits_NP.sigmoid()
        both = 2 * (probs_NP * goal_points).sum(-1)
        dice = 1 - (both + 1) / (probs_NP.sum(-1) + goal_points.sum(-1) + 1)
        return {
            'cls': set_cross_entropy(logits, labels, matches, self.no_object_weight),
            'mask': cross.sum() / self.num_points / num_masks,
            'dice': dice.sum() / num_masks,
        }

    @torch.no_grad()
    def _match(self, logits: Tensor, masks: Tensor, goals: Tensor, labels: Tensor) -> Match:
        """Pair the queries of one image with its masks, seen at the same random points."""
        points = torch.rand(1, self.num_points, 2, device=masks.device)
        logits_QP = sample_points(masks, points)
        goals_NP = sample_points(goals.float(), points)
        # cross entropy is softplus(x) - x y: two terms instead of one for each pair
        cross_QN = F.softplus(logits_QP).sum(-1, keepdim=True) - logits_QP @ goals_NP.T
        probs_QP = logits_QP.sigmoid()
        both_QN = 2 * probs_QP @ goals_NP.T
        dice_QN = 1 - (both_QN + 1) / (probs_QP.sum(-1)[:, None] + goals_NP.sum(-1) + 1)
        weights = self.loss_weights
        cost = (weights['mask'] * cross_QN / self.num_points + weights['dice'] * dice_QN
                - weights['cls'] * logits.softmax(-1)[:, labels])
        return hungarian(cost[None])[0]

    def _unsure_points(self, masks: Tensor) -> Tensor:
        """Points (N, P, 2) where masks (N, h, w) are mostly least sure (PointRend)."""
        num_unsure = int(self.importance * self.num_points)
        drawn = torch.rand(
            len(masks), int(self.num_points * self.oversample), 2, device=masks.device)
        doubt = -sample_points(masks, drawn).abs()
        best = doubt.topk(num_unsure, dim=1).indices
        unsure = drawn.gather(1, best[..., None].expand(-1, -1, 2))
        if num_unsure == self.num_points:
            return unsure
        others = torch.rand(len(masks), self.num_points - num_unsure, 2, device=masks.device)
        return torch.cat([unsure, others], dim=1)


@MODELS.register_module()
class Mask2Former(Algorithm):
    """Backbone, pixel decoder and query decoder in a row.

    Args:
        backbone: image (B, 3, H, W) to maps, finest first; the paper's have strides 4 to 32.
        pixel_decoder: see ``PixelDecoder``.
        head: see ``Mask2FormerHead``.
        preprocessor: see ``Algorithm``.
    """

    weights = (
        KeyMap(
            'transformers',
            [
                (r'^model\.pixel_level_module\.encoder\.', 'backbone.'),
                (r'^model\.pixel_level_module\.decoder\.', 'pixel_decoder.'),
                (r'^model\.transformer_module\.', 'head.'),
                (r'^class_predictor\.', 'head.cls_out.'),
                (r'^pixel_decoder\.encoder\.layers\.(\d+)\.self_attn\.',
                 r'pixel_decoder.layers.\1.attn.'),
                (r'^pixel_decoder\.encoder\.', 'pixel_decoder.'),
                (r'^pixel_decoder\.input_projections\.', 'pixel_decoder.input_proj.'),
                (r'^pixel_decoder\.mask_projection\.', 'pixel_decoder.mask_proj.'),
                (r'^pixel_decoder\.adapter_1\.', 'pixel_decoder.lateral.0.'),
                (r'^pixel_decoder\.layer_1\.', 'pixel_decoder.smooth.0.'),
                (r'\.attn\.sampling_offsets\.', '.attn.offsets.'),
                (r'\.attn\.attention_weights\.', '.attn.point_weights.'),
                (r'\.attn\.value_proj\.', '.attn.v_proj.'),
                (r'\.attn\.output_proj\.', '.attn.proj.'),
                (r'^(pixel_decoder\..*)\.self_attn_layer_norm\.', r'\1.norm1.'),
                (r'^(pixel_decoder\..*)\.final_layer_norm\.', r'\1.norm2.'),
                (r'^head\.queries_embedder\.', 'head.query_position.'),
                (r'^head\.queries_features\.', 'head.query_feat.'),
                (r'^head\.input_projections\.', 'head.input_proj.'),
                (r'^head\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.',
                 r'head.mask_out.\1.'),
                *((rf'^head\.mask_out\.{i}\.', f'head.mask_out.{2 * i}.') for i in (2, 1)),
                (r'^head\.decoder\.layernorm\.', 'head.norm.'),
                (r'^head\.decoder\.', 'head.'),
                (r'^(head\..*)\.cross_attn_layer_norm\.', r'\1.norm1.'),
                (r'^(head\..*)\.self_attn_layer_norm\.', r'\1.norm2.'),
                (r'^(head\..*)\.final_layer_norm\.', r'\1.norm3.'),
                (r'_attn\.out_proj\.', '_attn.proj.'),
                (r'^((?:pixel_decoder|head)\..*)\.(fc\d)\.', r'\1.mlp.\2.'),
            ],
            drops=[(r'^criterion\.', 'weights of the class loss are arguments here')],
            transforms=[
                (r'in_proj_(weight|bias)$', lambda fused: {
                    rf'{part}_proj.\1': tensor for part, tensor in zip('qkv', fused.chunk(3))}),
            ],
            signature=[r'^model\.transformer_module\.queries_features\.', r'^class_predictor\.'],
        ),
    )

    def __init__(self, backbone: nn.Module, pixel_decoder: nn.Module, head: nn.Module,
                 preprocessor: nn.Module | None = None):
        super().__init__(preprocessor)
        self.backbone, self.pixel_decoder = backbone, pixel_decoder
        self.head: Any = head  # has loss and predict besides forward

    def outputs(self, inputs: Tensor, samples: list[DataSample] | None = None) -> MaskOutputs:
        """Images (B, 3, H, W) to the head's raw outputs."""
        return self.outputs_of_maps(self.backbone(inputs), inputs)

    def outputs_of_maps(self, feats: Sequence[Tensor], inputs: Tensor,
                        samples: list[DataSample] | None = None) -> MaskOutputs:
        """Maps of the backbone to the head's raw outputs."""
        size = inputs.shape[-2], inputs.shape[-1]
        return self.head(self.pixel_decoder(feats), size)

    def loss(self, outputs: MaskOutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """The head's losses."""
        return self.head.loss(outputs, samples)

    def predict(self, outputs: MaskOutputs, samples: list[DataSample]) -> list[DataSample]:
        """The head's masks and maps."""
        return self.head.predict(outputs, samples)


def flat_position(x: Tensor, embed_dim: int) -> Tensor:
    """Positions of the places of a map (B, C, h, w), (h w, D)."""
    valid = torch.ones(1, *x.shape[-2:], dtype=torch.bool, device=x.device)
    return sine_position(valid, embed_dim)[0].flatten(1).T.to(x.dtype)


def mask_to_attention(masks: Tensor, size: Size) -> Tensor:
    """Where queries may look on a map: inside their masks, or everywhere where those are empty.

    Args:
        masks: logits, (B, Q, h, w).
        size: (h', w') of the map.

    Returns:
        (B, 1, Q, h' w') bool.
    """
    inside = F.interpolate(masks.detach(), size, mode='bilinear').flatten(2) >= 0
    return (inside | ~inside.any(-1, keepdim=True))[:, None]


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Values of maps (N, h, w) between their pixels, (N, P).

    Args:
        maps: what is looked up; zero outside.
        points: x and y as shares of width and height, (N, P, 2), or (1, P, 2) for all.
    """
    grid = (2 * points - 1)[:, :, None]
    if len(points) == 1:  # the same points: one image of N channels
        return F.grid_sample(maps[None], grid, align_corners=False)[0, ..., 0]
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, :, 0]


def segments_of(sample: DataSample, task: Task, image_size: Size,
                num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Masks (N, H, W), padded to ``image_size``, and labels (N,) that a task has to find.

    Args:
        sample: the truth.
        task: which of its fields tell.
        image_size: (H, W) of the padded input.
        num_classes: K, to check the labels as well (on the CPU only).

    Raises:
        ValueError: if the sample lacks what the task needs, or does not fit.
    """
    masks, labels = _TRUTHS[task](sample)
    if num_classes is not None:
        check_objects(DataSample(meta=sample.meta, labels=labels, masks=masks), num_classes)
    height, width = masks.shape[-2:]
    if height > image_size[0] or width > image_size[1]:
        name = sample.meta.get('img_path', sample.meta.get('img_id', '?'))
        raise ValueError(f'the masks of sample {name} are {height} x {width}, larger than the '
                         f'input {image_size}: the transforms must move both alike')
    padding = (0, image_size[1] - width, 0, image_size[0] - height)
    return F.pad(masks, padding) if any(padding) else masks, labels


def _panoptic_truth(sample: DataSample) -> tuple[Tensor, Tensor]:
    segment_map, segments = sample.panoptic_map, sample.segments
    if segment_map is None or segments is None:
        raise _lacks(sample, 'panoptic_map and segments')
    kept = [s for s in segments if not s.get('is_crowd')]
    ids = torch.tensor([s['id'] for s in kept], device=segment_map.device, dtype=torch.long)
    labels = torch.tensor([s['label'] for s in kept], device=segment_map.device, dtype=torch.long)
    masks = segment_map == ids[:, None, None]
    seen = masks.flatten(1).any(1)  # a crop may have cut some off
    return masks[seen], labels[seen]


def _instance_truth(sample: DataSample) -> tuple[Tensor, Tensor]:
    if sample.masks is None or sample.labels is None:
        raise _lacks(sample, 'masks and labels')
    if sample.is_crowd is None:
        return sample.masks, sample.labels
    return sample.masks[~sample.is_crowd], sample.labels[~sample.is_crowd]


def _semantic_truth(sample: DataSample) -> tuple[Tensor, Tensor]:
    if sample.semantic_map is None:
        raise _lacks(sample, 'a semantic_map')
    labels = sample.semantic_map.unique()
    labels = labels[labels != IGNORED].long()
    return sample.semantic_map == labels[:, None, None], labels


_TRUTHS = {
    'panoptic': _panoptic_truth, 'instance': _instance_truth, 'semantic': _semantic_truth}


def _lacks(sample: DataSample, what: str) -> ValueError:
    name = sample.meta.get('img_path', sample.meta.get('img_id', '?'))
    return ValueError(f'sample {name} lacks {what}, which model.head.task needs to learn from')


def panoptic_prediction(probs: Tensor, masks: Tensor, stuff: Sequence[int],
                        limits: SegmentLimits) -> dict[str, Any]:
    """Give each pixel to its best mask; report the masks that keep most of themselves.

    Args:
        probs: of the classes and "no object", (Q, K + 1).
        masks: logits, (Q, H, W).
        stuff: labels of which all masks make one segment.
        limits: which masks are reported.

    Returns:
        ``panoptic_map`` (H, W) of segment ids, 0 for none, and ``segments``.
    """
    scores, labels = probs.max(-1)
    kept = (labels < probs.shape[-1] - 1) & (scores > limits.score)
    if not bool(kept.any()):
        return {'panoptic_map': masks.new_zeros(masks.shape[1:], dtype=torch.long), 'segments': []}
    scores, labels = scores[kept], labels[kept]
    shares = masks[kept].sigmoid()
    weighted = shares * scores[:, None, None]
    owner = weighted.argmax(0)
    inside = (weighted if limits.weighted else shares) >= limits.mask
    own = torch.ones_like(owner, dtype=torch.bool)
    if not limits.weighted:
        own = inside.gather(0, owner[None])[0]
    areas = torch.bincount(owner[own], minlength=len(labels)).tolist()
    wholes = inside.flatten(1).sum(1).tolist()
    segments: list[dict[str, Any]] = []
    stuff_ids: dict[int, int] = {}
    ids = [0] * len(areas)
    found = zip(labels.tolist(), scores.tolist(), areas, wholes, strict=True)
    for i, (label, score, area, whole) in enumerate(found):
        if not area or not whole or area / whole <= limits.overlap:
            continue
        if label in stuff_ids:
            ids[i] = stuff_ids[label]
            continue
        ids[i] = len(segments) + 1
        segments.append({
            'id': ids[i], 'label': label, 'score': score, 'is_thing': label not in stuff,
            'is_crowd': False})
        if label in stuff:
            stuff_ids[label] = ids[i]
    return {
        'panoptic_map': torch.tensor(ids, device=owner.device)[owner] * own, 'segments': segments}


def instance_prediction(probs: Tensor, masks: Tensor, stuff: Sequence[int],
                        limits: SegmentLimits) -> dict[str, Any]:
    """Best pairs of query and class; a score counts how sure the pixels of the mask are, too.

    Args:
        probs: of the classes and "no object", (Q, K + 1).
        masks: logits, (Q, H, W).
        stuff: labels that are no objects.
        limits: how many are reported.

    Returns:
        ``masks`` (n, H, W), ``boxes``, ``labels`` and ``scores``, best first; empty masks are
        left out.
    """
    num_classes = probs.shape[-1] - 1
    pairs = probs[:, :-1].flatten()
    scores, order = pairs.topk(min(limits.detections, len(pairs)))
    query, labels = order // num_classes, order % num_classes
    thing = ~torch.isin(labels, torch.tensor(stuff, device=labels.device, dtype=labels.dtype))
    scores, query, labels = scores[thing], query[thing], labels[thing]
    inside = masks > 0
    areas = inside.flatten(1).sum(1)
    sure = (masks.sigmoid() * inside).flatten(1).sum(1) / (areas + 1e-6)
    scores, order = (scores * sure[query]).sort(descending=True, stable=True)
    order = order[areas[query[order]] > 0]
    found = inside[query[order]]
    return {
        'masks': found, 'boxes': masks_to_boxes(found), 'labels': labels[order],
        'scores': scores[: len(order)]}
