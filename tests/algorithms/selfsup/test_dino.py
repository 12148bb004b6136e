import pytest
import torch

from openlab.algorithms.selfsup.dino import DINO, DINOHead, DINOOutputs, PrototypeLayer, by_size
from openlab.backbones.vit import VisionTransformer
from openlab.layers.ramp import CosineRamp, LinearRamp, Progress
from tests.algorithms.selfsup.common import losses_of_training, samples_of, views_with_shapes


def make_ours(prototypes=12, **changes):
    torch.manual_seed(0)
    backbone = VisionTransformer(embed_dim=16, depth=1, num_heads=2, patch_size=8, image_size=16,
                                 drop_path=0.1)
    head = DINOHead(prototypes, 16, hidden_channels=24, bottleneck=8)
    return DINO(backbone, head, **changes)


def slow_loss(student, teacher, center, student_temperature, teacher_temperature):
    """Algorithm 1 and equation 3 of the paper, crop by crop and image by image."""
    total, count = 0.0, 0
    for large in range(2):
        for crop in range(len(student)):
            if crop == large:
                continue
            for s, t in zip(student[crop], teacher[large]):
                target = torch.softmax((t - center) / teacher_temperature, dim=0)
                total = total - (target * torch.log_softmax(s / student_temperature, 0)).sum()
                count += 1
    return total / count


def test_loss_gradients_and_centre_equal_a_slow_reference():
    torch.manual_seed(0)
    model = make_ours(teacher_temperature=0.06)
    model.center.normal_()
    center = model.center.clone()
    student = torch.randn(5, 3, 12, requires_grad=True)
    teacher = torch.randn(2, 3, 12)
    loss = model.loss(DINOOutputs(student, teacher), samples_of(3))['loss_dino']
    expected = slow_loss(student, teacher, center, 0.1, 0.06)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    ours, = torch.autograd.grad(loss, student)
    theirs, = torch.autograd.grad(expected, student)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    mean = sum(row for crop in teacher for row in crop) / 6
    torch.testing.assert_close(model.center, 0.9 * center + 0.1 * mean)


def test_the_student_sees_all_crops_and_the_teacher_the_large_ones():
    model = make_ours().train()
    crops = [torch.randn(3, 3, 16, 16) for _ in range(2)] + [
        torch.randn(3, 3, 8, 8) for _ in range(4)]
    outputs = model(crops)
    assert outputs.student.shape == (6, 3, 12) and outputs.teacher.shape == (2, 3, 12)
    assert outputs.student.requires_grad and not outputs.teacher.requires_grad
    model.student_backbone.eval()
    outputs = model(crops)
    for number, crop in enumerate(crops):
        torch.testing.assert_close(outputs.student[number], model.student(crop))
    torch.testing.assert_close(outputs.teacher[1], model.head(model.features(crops[1])))


def test_crops_of_one_size_go_through_together():
    crops = [torch.zeros(1, 3, s, s) for s in (16, 16, 8, 8, 16)]
    assert [len(group) for group in by_size(crops)] == [2, 2, 1]


def test_the_teacher_begins_as_a_copy_and_follows():
    model = make_ours(momentum=CosineRamp(0.5, 1.0))
    pairs = [(model.backbone, model.student_backbone), (model.head, model.student_head)]
    for teacher, student in pairs:
        assert all(a.equal(b) for a, b in zip(teacher.parameters(), student.parameters()))
        assert not any(p.requires_grad for p in teacher.parameters())
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1.0)
    before = [p.clone() for teacher, _ in pairs for p in teacher.parameters()]
    model.after_step()
    after = [p for teacher, _ in pairs for p in teacher.parameters()]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old + 0.5)


def test_temperature_and_momentum_are_those_of_the_moment_and_reported():
    model = make_ours(momentum=CosineRamp(0.5, 1.0), teacher_temperature=LinearRamp(
        0.04, 0.08, epochs=2)).train()
    for ramp in (model.momentum, model.teacher_temperature):
        ramp.progress = Progress(5, 10, 5)
    outputs = DINOOutputs(torch.randn(2, 3, 12), torch.randn(2, 3, 12))
    losses = model.loss(outputs, samples_of(3))
    assert losses['teacher_temperature'].item() == pytest.approx(0.06)
    assert losses['momentum'].item() == pytest.approx(0.75)
    expected = slow_loss(outputs.student, outputs.teacher, torch.zeros(12), 0.1, 0.06)
    torch.testing.assert_close(losses['loss_dino'], expected, rtol=1e-5, atol=1e-6)


def test_scores_of_prototypes_are_cosines_unless_lengths_are_learned():
    head = DINOHead(12, 16, hidden_channels=24, bottleneck=8)
    scores = head(100 * torch.randn(50, 16))
    assert scores.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        head.last.direction.mul_(7.0)
    assert head(torch.randn(50, 16)).abs().max() <= 1 + 1e-6
    assert 'last.length' not in head.state_dict()


def test_the_last_layer_equals_weight_norm_of_torch():
    torch.manual_seed(0)
    ours = PrototypeLayer(8, 12, with_length=True)
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 12, bias=False))
    with torch.no_grad():
        ours.length.uniform_(0.5, 2)
    theirs.parametrizations.weight.original0.data.copy_(ours.length.data)
    theirs.parametrizations.weight.original1.data.copy_(ours.direction.data)
    x = torch.randn(4, 8)
    torch.testing.assert_close(ours(x), theirs(x))


def test_in_evaluation_features_of_the_teacher_come_out():
    model = make_ours()
    with torch.no_grad():
        for parameter in model.student_backbone.parameters():
            parameter.add_(1.0)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.eval()(images), model.backbone(images)[0])


def test_the_centre_is_saved():
    model = make_ours()
    model.center.normal_()
    other = make_ours()
    other.load_state_dict(model.state_dict())
    assert other.center.equal(model.center)


def test_a_tiny_batch_is_learned():
    crops = views_with_shapes(8, 2, 16) + views_with_shapes(8, 2, 8)
    model = make_ours(momentum=0.9, teacher_temperature=0.04)
    losses = losses_of_training(model, crops, steps=60)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(('use', 'message'), [
    (lambda: make_ours().train()([torch.zeros(2, 3, 16, 16)]), 'two large crops'),
    (lambda: make_ours().train()([torch.zeros(2, 3, s, s) for s in (16, 8)]), 'two large crops'),
    (lambda: make_ours().train()(torch.zeros(2, 3, 16, 16)), 'put a MultiView'),
    (lambda: make_ours(teacher_temperature=0.0), 'temperatures must be positive'),
    (lambda: DINOHead(), 'needs in_channels'),
])
def test_wrong_use_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()
