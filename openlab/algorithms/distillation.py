"""Distillation: a network learns from the truth and from a teacher that is there already.

* Logits: Hinton et al., Distilling the Knowledge in a Neural Network,
  https://arxiv.org/abs/1503.02531
* A token that listens to the teacher: Touvron et al., DeiT, https://arxiv.org/abs/2012.12877
* Features: Romero et al., FitNets, https://arxiv.org/abs/1412.6550

Idea: besides its own losses the student gets a loss on its logits, on the outputs of modules
inside of it, or on both, each compared with the teacher's for the same images. A student whose
head has ``branches`` (``DistilledHead``) shows truth and teacher one branch each. The teacher is
frozen and in evaluation mode, and no part of the student's weights: it is not optimised, averaged
or saved, so a checkpoint is that of the student, and a plain classifier loads it.

What differs from FitNets: both losses are minimised together, not one stage after the other.

B batch · C channels · H, W height and width of a map
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlab.algorithms.base import Algorithm, Mode
from openlab.registry import MODELS
from openlab.structures.data_sample import DataSample


@MODELS.register_module()
class FeaturePair(nn.Module):
    """A module of the student whose output is to come close to that of one of the teacher.

    Args:
        student: name of the module, such as ``'backbone.stages.2'``; of a tuple of maps the last
            one is taken.
        teacher: the same in the teacher.
        in_channels: channels of the student's output. With ``out_channels``, a learned linear
            layer leads from one to the other; it is thrown away after training.
        out_channels: channels of the teacher's output.
        loss: compares both, the student's first; by default the mean square.
        loss_weight: factor of the result.
    """

    def __init__(self, student: str, teacher: str, in_channels: int | None = None,
                 out_channels: int | None = None, loss: nn.Module | None = None,
                 loss_weight: float = 1.0):
        super().__init__()
        if (in_channels is None) != (out_channels is None):
            raise ValueError('FeaturePair takes in_channels and out_channels together, or neither')
        self.student, self.teacher = student, teacher
        self.projector: nn.Module = (
            nn.Identity() if in_channels is None or out_channels is None
            else nn.Linear(in_channels, out_channels))
        self.loss = loss or nn.MSELoss()
        self.loss_weight = loss_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Loss, (), of two maps (B, C, H, W) or of two outputs (B, ..., C).

        The teacher's map is brought to the size of the student's.
        """
        is_map = student.ndim == 4
        last = student.movedim(1, -1) if is_map else student
        if isinstance(self.projector, nn.Linear) and last.shape[-1] != self.projector.in_features:
            raise ValueError(
                f'{self.student!r} of the student gives {last.shape[-1]} channels, not '
                f'{self.projector.in_features}; set in_channels of the FeaturePair to them')
        projected = self.projector(last)
        projected = projected.movedim(-1, 1) if is_map else projected
        if is_map and teacher.ndim == 4 and teacher.shape[-2:] != projected.shape[-2:]:
            size = (projected.shape[-2], projected.shape[-1])
            teacher = F.interpolate(teacher, size=size, mode='bilinear', align_corners=False)
        if projected.shape != teacher.shape:
            raise ValueError(
                f'{self.student!r} of the student gives {tuple(student.shape)} and '
                f'{self.teacher!r} of the teacher {tuple(teacher.shape)}; set in_channels and '
                'out_channels of the FeaturePair to the channels of both')
        return self.loss(projected.float(), teacher.float()) * self.loss_weight


@MODELS.register_module()
class Distillation(Algorithm):
    """Train a student with the help of a teacher.

    Args:
        student: the algorithm to train.
        teacher: the one to learn from, such as an ``ImageClassifier``, or
            ``dict(type=zoo_model, name='...')``. Where it has a preprocessor of its own, images
            are normalised anew for it.
        logits: compares logits of both, the student's first: ``SoftTargetLoss`` or
            ``HardTargetLoss``.
        features: pairs of modules whose outputs are compared.
        truth_weight: factor of the student's own losses.
        teacher_weights: what training loads into the teacher: anything that ``load_from`` takes.
            Without, the teacher is taken as it is given.
        preprocessor: see ``Algorithm``; by default the student's.
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        student: Algorithm,
        teacher: Algorithm,
        logits: nn.Module | None = None,
        features: Sequence[FeaturePair] = (),
        truth_weight: float = 1.0,
        teacher_weights: str | None = None,
        preprocessor: nn.Module | None = None,
    ):
        super().__init__(preprocessor or student.preprocessor)
        if logits is None and not features:
            raise ValueError('Distillation needs logits=dict(type=SoftTargetLoss), features=[...] '
                             'or both; without them the teacher teaches nothing')
        self.student: Any = student
        # Ours now: one module must not be saved under two names.
        self.student.preprocessor = None  # type: ignore[assignment]
        # In a list, so that torch does not count its parameters among ours.
        self._unlisted = [teacher.eval().requires_grad_(False)]
        self.logits = logits
        self.features: Any = nn.ModuleList(features)
        self.truth_weight = truth_weight
        self.teacher_weights = teacher_weights
        for pair in features:
            _find(student, pair.student, 'student')
            _find(teacher, pair.teacher, 'teacher')
        scale, shift = _renormalisation(self.preprocessor, teacher.preprocessor)
        self.register_buffer('scale', scale, persistent=False)
        self.register_buffer('shift', shift, persistent=False)

    @property
    def teacher(self) -> Any:
        """The frozen algorithm."""
        return self._unlisted[0]

    def weights_of_parts(self) -> list[tuple[str, nn.Module, str | None]]:
        """What a training loads before it begins: setting, module and source, if any, of each."""
        return [('teacher_weights', self.teacher, self.teacher_weights)]

    def forward(self, inputs: Any, samples: list[DataSample] | None = None,
                mode: Mode = 'tensor') -> Any:
        """As ``Algorithm``; the teacher is asked only where a loss is."""
        if mode != 'loss':
            return self.student(inputs, samples, mode)
        if samples is None:
            raise ValueError("mode='loss' needs samples")
        return self.distill(inputs, samples)

    def distill(self, inputs: Tensor, samples: list[DataSample]) -> dict[str, Tensor]:
        """The student's losses, and ``loss_logits`` and ``loss_feats<i>`` from the teacher."""
        with _recorded(self.student, [p.student for p in self.features]) as ours:
            for_truth, for_teacher = self._student_outputs(inputs, samples)
        with _recorded(self.teacher, [p.teacher for p in self.features]) as theirs, torch.no_grad():
            taught = self.teacher(self._for_teacher(inputs))
        losses: dict[str, Tensor] = {
            name: value * self.truth_weight if name.startswith('loss') else value
            for name, value in self.student.loss(for_truth, samples).items()}
        if self.logits is not None:
            if for_teacher.shape != taught.shape:
                raise ValueError(f'student and teacher give logits of {tuple(for_teacher.shape)} '
                                 f'and {tuple(taught.shape)}; they must know the same classes')
            losses['loss_logits'] = self.logits(for_teacher, taught)
        for i, pair in enumerate(self.features):
            losses[f'loss_feats{i}'] = pair(ours[pair.student], theirs[pair.teacher])
        return losses

    def _student_outputs(self, inputs: Tensor, samples: list[DataSample]) -> tuple[Any, Any]:
        """Outputs that truth and teacher judge: those of two branches where the head has them."""
        head: Any = getattr(self.student, 'head', None)
        if self.logits is not None and hasattr(head, 'branches'):
            for_truth, for_teacher = head.branches(self.student.feats(inputs))
            return for_truth, for_teacher
        outputs = self.student(inputs, samples)
        return outputs, outputs

    def _for_teacher(self, inputs: Tensor) -> Tensor:
        if self.scale is None or self.shift is None:
            return inputs
        return inputs * self.scale + self.shift

    def outputs(self, inputs: Any, samples: list[DataSample] | None = None) -> Any:
        """Those of the student."""
        return self.student.outputs(inputs, samples)

    def loss(self, outputs: Any, samples: list[DataSample]) -> dict[str, Tensor]:
        """Those of the student alone; ``mode='loss'`` of ``forward`` asks the teacher too."""
        return self.student.loss(outputs, samples)

    def predict(self, outputs: Any, samples: list[DataSample]) -> list[DataSample]:
        """Those of the student."""
        return self.student.predict(outputs, samples)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the student wants kept out of weight decay."""
        names: set[str] = getattr(self.student, 'no_weight_decay', set)()
        return {f'student.{name}' for name in names}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distillation:
        """Take the teacher along wherever the student is moved."""
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _find(model: nn.Module, name: str, role: str) -> None:
    names = [n for n, _ in model.named_modules() if n]
    if name not in names:
        import difflib

        near = difflib.get_close_matches(name, names, n=3)
        raise ValueError(f'the {role} has no module {name!r}'
                         + (f'; did you mean {" or ".join(near)}?' if near else ''))


@contextmanager
def _recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of modules, by name, of the forward pass made in this context."""
    found: dict[str, Tensor] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def record(_: nn.Module, __: Any, output: Any) -> None:
            found[name] = output[-1] if isinstance(output, (tuple, list)) else output

        return record

    handles = [model.get_submodule(n).register_forward_hook(hook_of(n)) for n in set(names)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _renormalisation(ours: Any, theirs: Any) -> tuple[Tensor | None, Tensor | None]:
    """Factor and summand, (3, 1, 1), from images normalised for us to ones for the teacher."""
    if not hasattr(ours, 'mean') or not hasattr(theirs, 'mean'):
        return None, None
    return ours.std / theirs.std, (ours.mean - theirs.mean) / theirs.std
