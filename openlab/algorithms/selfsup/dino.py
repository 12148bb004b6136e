"""DINO: a student learns to say of every crop what a slower teacher says of the large ones.

Paper: Emerging Properties in Self-Supervised Vision Transformers,
https://arxiv.org/abs/2104.14294

Idea: student and teacher have the same architecture and no labels; both end in a softmax over many
prototypes. The student, which sees all crops of an image, is trained to give what the teacher gives
for the two large ones (equation 3). The teacher's weights follow the student's. That everything
collapses into one answer is prevented by subtracting a running centre from the teacher's outputs
and by sharpening them with a low temperature (section 3.1).

What differs from the paper's code: the temperature of the teacher rises with every iteration
instead of every epoch; gradients are clipped by their common norm, not by that of each parameter;
positions are interpolated with antialiasing for small crops. That the last layer stays frozen in
the first epoch is a matter of ``FreezeHook`` in the config. The teacher is what is kept, as
``backbone`` and ``head``; it is moved in ``openlab/layers/follower.py``. Crops come from
``MultiView``.

B batch · V crops, the two large ones first · D bottleneck · K prototypes
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.selfsup.base import SelfSupervised, check_training, check_views
from openlab.layers.follower import follow, make_follower
from openlab.layers.gather import mean_over_processes
from openlab.layers.init import init_transformer
from openlab.layers.ramp import Ramp, as_ramp
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample

NUM_LARGE = 2


class DINOOutputs(NamedTuple):
    """Scores of prototypes.

    Attributes:
        student: of all crops, (V, B, K).
        teacher: of the two large crops, (2, B, K), without gradient.
    """

    student: Tensor
    teacher: Tensor


class PrototypeLayer(nn.Module):
    """Linear layer whose weight vectors have length 1, or a learned length.

    Args:
        in_channels: D.
        num_prototypes: K.
        with_length: learn the length of each vector, from 1 on.
    """

    def __init__(self, in_channels: int, num_prototypes: int, with_length: bool = False):
        super().__init__()
        self.direction = nn.Parameter(torch.empty(num_prototypes, in_channels))
        nn.init.trunc_normal_(self.direction, std=0.02)
        self.length = nn.Parameter(torch.ones(num_prototypes, 1)) if with_length else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D) to (B, K)."""
        weight = F.normalize(self.direction, dim=1)
        return F.linear(x, weight if self.length is None else self.length * weight)


@MODELS.register_module()
class DINOHead(nn.Module):
    """An MLP to a bottleneck of length 1, and the scores of the prototypes.

    Args:
        num_prototypes: K.
        in_channels: channels of the features; by default what feeds the head.
        hidden_channels: width of the MLP.
        bottleneck: D.
        num_layers: linear layers of the MLP, the one to the bottleneck included.
        with_length: learn the length of each prototype; steadier without, better with large
            batches.
    """

    def __init__(
        self,
        num_prototypes: int = 65536,
        in_channels: int | None = None,
        hidden_channels: int = 2048,
        bottleneck: int = 256,
        num_layers: int = 3,
        with_length: bool = False,
    ):
        super().__init__()
        if in_channels is None:
            raise ValueError('DINOHead needs in_channels: nothing feeds it that has out_channels')
        self.num_prototypes = num_prototypes
        widths = [in_channels, *[hidden_channels] * (num_layers - 1), bottleneck]
        self.layers = nn.Sequential()
        for i in range(num_layers):
            self.layers.append(nn.Linear(widths[i], widths[i + 1]))
            if i < num_layers - 1:
                self.layers.append(nn.GELU())
        init_transformer(self)
        self.last = PrototypeLayer(bottleneck, num_prototypes, with_length)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C) to scores (B, K)."""
        return self.last(F.normalize(self.layers(x), dim=1))


@MODELS.register_module()
class DINO(SelfSupervised):
    """A student, and the teacher that follows it.

    Args:
        backbone: image (B, 3, H, W) to a tuple of maps or vectors.
        head: features (B, C) to scores of K prototypes.
        momentum: share of its old weights that the teacher keeps in each step.
        student_temperature: divides the student's scores.
        teacher_temperature: divides the teacher's scores; lower is sharper.
        center_momentum: share of the old centre that remains in each step.
        preprocessor: see ``Algorithm``.
    """

    center: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: DINOHead,
        momentum: float | Ramp = 0.996,
        student_temperature: float = 0.1,
        teacher_temperature: float | Ramp = 0.04,
        center_momentum: float = 0.9,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(make_follower(backbone), preprocessor)
        self.head = make_follower(head)
        self.student_backbone, self.student_head = backbone, head
        self.momentum = as_ramp(momentum)
        self.teacher_temperature = as_ramp(teacher_temperature)
        if student_temperature <= 0 or self.teacher_temperature.value <= 0:
            raise ValueError(f'temperatures must be positive, got {student_temperature} and '
                             f'{self.teacher_temperature.value}')
        self.student_temperature = student_temperature
        self.center_momentum = center_momentum
        self.register_buffer('center', torch.zeros(head.num_prototypes))

    def train_outputs(self, inputs: list[Tensor]) -> DINOOutputs:
        """Scores by the student of all crops and by the teacher of the large ones."""
        crops = check_views(self, inputs)
        if len(crops) < NUM_LARGE or crops[0].shape != crops[1].shape:
            raise ValueError('DINO needs two large crops of one size first, got crops of '
                             f'{[tuple(c.shape[-2:]) for c in crops]}')
        with torch.no_grad():
            teacher = self.head(self.features(torch.cat(crops[:NUM_LARGE])))
        student = torch.cat([self.student(torch.cat(group)) for group in by_size(crops)])
        B = len(crops[0])
        return DINOOutputs(student.unflatten(0, (len(crops), B)),
                           teacher.unflatten(0, (NUM_LARGE, B)))

    def student(self, images: Tensor) -> Tensor:
        """The student's scores (B, K) of images (B, 3, H, W)."""
        return self.student_head(self.pool(self.student_backbone(images)[-1]))

    def loss(self, outputs: DINOOutputs, samples: list[DataSample]) -> dict[str, Tensor]:
        """``loss_dino``, the temperature and the momentum; the centre moves."""
        check_training(self, outputs)
        temperature = self.teacher_temperature.value
        # In float32 also under autocast: scores over 0.04 leave bfloat16 no digits.
        with torch.autocast(outputs.student.device.type, enabled=False):
            target = ((outputs.teacher.float() - self.center) / temperature).softmax(-1)
            log_probs = (outputs.student.float() / self.student_temperature).log_softmax(-1)
        loss = compare_crops(log_probs, target)
        self._move_center(outputs.teacher)
        return {'loss_dino': loss, 'teacher_temperature': loss.new_tensor(temperature),
                'momentum': loss.new_tensor(self.momentum.value)}

    def _move_center(self, teacher: Tensor) -> None:
        """Equation 4, over the batches of all processes."""
        mean = mean_over_processes(teacher.detach().float().mean((0, 1)))
        self.center.lerp_(mean, 1 - self.center_momentum)

    def after_step(self) -> None:
        """Let the teacher follow."""
        momentum = self.momentum.value
        follow(self.backbone, self.student_backbone, momentum)
        follow(self.head, self.student_head, momentum)


def by_size(crops: list[Tensor]) -> list[list[Tensor]]:
    """Runs of neighbouring crops of one size, which go through the network together."""
    groups: list[list[Tensor]] = []
    for crop in crops:
        if groups and groups[-1][0].shape == crop.shape:
            groups[-1].append(crop)
        else:
            groups.append([crop])
    return groups


def compare_crops(log_probs: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy between each teacher's crop and all other crops (equation 3).

    Args:
        log_probs: of the student, (V, B, K).
        target: probabilities by the teacher of the first two crops, (2, B, K).
    """
    pairs = [-(target[large] * log_probs[crop]).sum(-1).mean()
             for large in range(len(target)) for crop in range(len(log_probs)) if crop != large]
    return torch.stack(pairs).mean()
