import math

import pytest
import torch
import torch.nn.functional as F

from openlab.losses.distillation import HardTargetLoss, SoftTargetLoss


def test_soft_targets_cost_what_is_worked_out_by_hand():
    # student (1/2, 1/2), teacher (1/4, 3/4): KL = 0.25 ln 0.5 + 0.75 ln 1.5
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert SoftTargetLoss(1.0)(student, teacher).item() == pytest.approx(divergence, rel=1e-5)
    assert SoftTargetLoss(2.0)(student, 2 * teacher).item() == pytest.approx(4 * divergence)
    assert SoftTargetLoss(1.0, per_class=True)(student, teacher).item() == pytest.approx(
        divergence / 2, rel=1e-5)
    assert SoftTargetLoss()(teacher, teacher).item() == 0
    with pytest.raises(ValueError, match='temperature must be positive'):
        SoftTargetLoss(0)


def test_hard_targets_are_the_teachers_likeliest_classes():
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    expected = F.cross_entropy(student, teacher.argmax(1), label_smoothing=0.1)
    torch.testing.assert_close(HardTargetLoss(0.1)(student, teacher), expected)
