import math

import pytest
import torch
import torch.nn.functional as F

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.config.build import build
from openlab.heads.margin_head import MarginHead, lower_cosine
from openlab.structures.data_sample import DataSample

HALF = torch.tensor(0.5)  # an angle of 60 degrees


def samples_of(*labels):
    return [DataSample(meta={'img_id': i}, label=torch.tensor(v)) for i, v in enumerate(labels)]


@pytest.mark.parametrize(('margins', 'expected'), [
    ((1, 0.5, 0), 0.023596),         # cos(60 deg + 0.5 rad)
    ((1, 0, 0.35), 0.15),            # 0.5 - 0.35
    ((4, 0, 0), -1.5),               # 240 deg is past half a turn: -cos(240 deg) - 2
    ((2, 0, 0), -0.5),               # cos(120 deg)
    ((1, 0.3, 0.2), 0.021741),       # cos(60 deg + 0.3 rad) - 0.2
    ((0.9 + 0.1, 0, 0), 0.5)])
def test_lowered_cosines_are_those_worked_out_by_hand(margins, expected):
    assert lower_cosine(HALF, *margins).item() == pytest.approx(expected, abs=1e-5)


def test_arcface_goes_on_as_its_code_does_where_the_angle_passes_half_a_turn():
    cosine = torch.tensor([math.cos(3.0)])
    expected = math.cos(3.0) - 0.5 * math.sin(0.5)
    assert lower_cosine(cosine, 1, 0.5, 0).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('margins', [(1, 0.5, 0), (1, 0, 0.35), (4, 0, 0), (1.35, 0, 0),
                                     (2, 0.3, 0.1)])
def test_the_larger_the_angle_the_lower_the_value_and_never_above_the_cosine(margins):
    angles = torch.linspace(0, math.pi, 500)
    values = lower_cosine(angles.cos(), *margins)
    is_falling = values.diff() < 1e-4
    # the released code of ArcFace jumps up once, where the angle passes half a turn
    assert is_falling.sum() >= 499 - (margins == (1, 0.5, 0))
    assert (values <= angles.cos() + 1e-6).all()


@pytest.mark.parametrize('margins', [(1, 0.5, 0), (4, 0, 0)])
def test_gradients_are_finite_at_angles_of_zero_and_half_a_turn(margins):
    cosine = torch.tensor([1.0, -1.0, 0.3], requires_grad=True)
    lower_cosine(cosine, *margins).sum().backward()
    assert cosine.grad.isfinite().all()


def test_loss_holds_only_the_true_class_to_the_margin():
    torch.manual_seed(0)
    head = MarginHead(4, 3, add=0.5, scale=10.0)
    outputs = head([torch.randn(5, 3)]).detach()
    labels = torch.tensor([0, 3, 2, 1, 0])
    expected = outputs.clone()
    for row, k in zip(expected, labels):
        row[k] = 10 * math.cos(math.acos(row[k] / 10) + 0.5)
    losses = head.loss(outputs, samples_of(*labels.tolist()))
    torch.testing.assert_close(losses['loss_cls'], F.cross_entropy(expected, labels))
    assert losses['num_items'] == 5
    without = MarginHead(4, 3, add=0.0, scale=10.0)
    torch.testing.assert_close(without.loss(outputs, samples_of(*labels.tolist()))['loss_cls'],
                               F.cross_entropy(outputs, labels))


def test_logits_are_scaled_cosines_and_predictions_have_no_margin():
    head = MarginHead(3, 2, scale=8.0)
    x = torch.randn(4, 2)
    outputs = head([x])
    for i in range(4):
        for k in range(3):
            torch.testing.assert_close(
                outputs[i, k], 8 * F.cosine_similarity(x[i], head.centers[k], dim=0))
    predictions = head.predict(outputs, samples_of(0, 0, 0, 0))
    assert [p.label.item() for p in predictions] == outputs.argmax(1).tolist()
    torch.testing.assert_close(predictions[0].label_probs, outputs[0].softmax(0))


def test_the_nearest_of_several_centers_counts():
    head = MarginHead(2, 2, num_centers=2, scale=1.0)
    head.centers.data = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    outputs = head([torch.tensor([[0.6, 0.8], [-0.8, -0.6]])])
    torch.testing.assert_close(outputs, torch.tensor([[0.8, -0.6], [-0.6, 0.8]]))


def test_embeddings_have_length_one_and_the_asked_size():
    head = MarginHead(3, 8, embed_dim=5)
    assert head.embed([torch.randn(4, 8, 3, 3)]).shape == (4, 5)
    torch.testing.assert_close(head.embed([torch.randn(4, 8)]).norm(dim=1), torch.ones(4))
    assert MarginHead(3, 8).embed([torch.randn(4, 8)]).shape == (4, 8)


def test_in_half_precision_cosines_are_still_those_of_float():
    head, x = MarginHead(3, 8), torch.randn(4, 8)
    with torch.autocast('cpu', torch.bfloat16):
        half = head([x])
    torch.testing.assert_close(half, head([x]))


def test_wrong_margins_and_soft_labels_are_refused():
    with pytest.raises(ValueError, match='margins need multiply >= 1'):
        MarginHead(3, 2, multiply=0.5)
    with pytest.raises(ValueError, match='needs in_channels'):
        MarginHead(3)
    with pytest.raises(ValueError, match='num_centers'):
        MarginHead(3, 2, num_centers=0)
    head = MarginHead(2, 2)
    with pytest.raises(ValueError, match='remove mixup'):
        head.loss(torch.zeros(1, 2), [DataSample(label_probs=torch.tensor([0.5, 0.5]))])


@pytest.mark.parametrize('margins', [{'add': 0.5}, {'add': 0.0, 'subtract': 0.35},
                                     {'add': 0.0, 'multiply': 4.0}, {'num_centers': 3}])
def test_every_member_of_the_family_learns_a_few_images(margins):
    torch.manual_seed(0)
    model = build({'type': ImageClassifier,
                   'backbone': {'type': ResNet, 'block': 'basic', 'num_blocks': (1, 1),
                                'base_channels': 8, 'stem': 'conv3', 'out_stages': (3,)},
                   'head': {'type': MarginHead, 'num_classes': 4, 'scale': 16.0, **margins}})
    images, truth = torch.randn(8, 3, 16, 16), samples_of(0, 1, 2, 3, 0, 1, 2, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(images, truth, mode='loss')['loss_cls'].backward()
        optimizer.step()
    predictions = model(images, truth, mode='predict')
    assert [p.label.item() for p in predictions] == [0, 1, 2, 3, 0, 1, 2, 3]
