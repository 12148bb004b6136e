import pytest
import torch
import torch.nn.functional as F

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.config.build import build
from openlab.engine.tta import merge_classes
from openlab.heads.csra_head import CSRAHead
from openlab.heads.multi_label_head import MultiLabelHead
from openlab.losses.multi_label import AsymmetricLoss
from openlab.structures.data_sample import DataSample


def truth_of(*rows):
    return [DataSample(meta={'img_id': i}, label_probs=torch.tensor(r, dtype=torch.float32))
            for i, r in enumerate(rows)]


def test_labels_above_the_threshold_come_likeliest_first():
    head = MultiLabelHead(4, 2, threshold=0.6)
    logits = torch.tensor([[1.0, -2.0, 3.0, 0.1], [-1.0, -1.0, -2.0, -3.0]])
    first, second = head.predict(logits, truth_of([0] * 4, [0] * 4))
    assert first.labels.tolist() == [2, 0] and first.label == 2
    torch.testing.assert_close(first.scores, logits[0, [2, 0]].sigmoid())
    torch.testing.assert_close(first.label_probs, logits[0].sigmoid())
    assert second.labels.tolist() == [] and second.scores.shape == (0,)
    first.validate(4)


def test_the_loss_is_the_sum_over_classes_by_default():
    head = MultiLabelHead(3, 2)
    logits = torch.randn(2, 3)
    rows = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    losses = head.loss(logits, truth_of(*rows.tolist()))
    expected = F.binary_cross_entropy_with_logits(logits, rows, reduction='sum') / 2
    torch.testing.assert_close(losses['loss_cls'], expected)
    assert losses['num_items'] == 2


def test_views_merged_at_test_time_forget_the_labels_of_one_view():
    head = MultiLabelHead(2, 2)
    views = [head.predict(torch.tensor([[2.0, -2.0]]), truth_of([0, 0])),
             head.predict(torch.tensor([[-2.0, -2.0]]), truth_of([0, 0]))]
    merged = merge_classes(views)[0]
    assert merged.labels is None and merged.scores is None
    torch.testing.assert_close(merged.label_probs[0].item(), 0.5)


@pytest.mark.parametrize(('num_heads', 'temperatures'), [
    (1, [1]), (2, [1, None]), (4, [1, 2, 4, None]), (6, [1, 2, 3, 4, 5, None])])
def test_residual_attention_equals_the_equations_place_by_place(num_heads, temperatures):
    torch.manual_seed(0)
    head = CSRAHead(3, 4, num_heads=num_heads, residual=0.3).eval()
    maps = torch.randn(2, 4, 3, 2)
    expected = torch.zeros(2, 3)
    for b in range(2):
        places = [maps[b, :, y, x] for y in range(3) for x in range(2)]
        for classifier, temperature in zip(head.classifiers, temperatures, strict=True):
            for k in range(3):
                row = classifier.weight[k] / classifier.weight[k].norm()
                scores = torch.stack([row @ place for place in places])  # eq. 1
                if temperature is None:
                    attended = scores.max()
                else:
                    weights = (temperature * scores).exp()
                    attended = (weights / weights.sum() * scores).sum()  # eq. 2 and 3
                expected[b, k] += scores.mean() + 0.3 * attended  # eq. 7
    torch.testing.assert_close(head([maps]), expected)


def test_csra_refuses_numbers_of_heads_without_temperatures():
    with pytest.raises(ValueError, match='num_heads'):
        CSRAHead(3, 4, num_heads=3)


def test_csra_says_that_vectors_have_no_places():
    with pytest.raises(ValueError, match=r"model\.backbone\.output='maps'"):
        CSRAHead(3, 4)([torch.randn(2, 4)])


@pytest.mark.parametrize('kind', [MultiLabelHead, CSRAHead])
def test_a_few_images_with_several_labels_are_learned(kind):
    torch.manual_seed(0)
    model = build({'type': ImageClassifier,
                   'backbone': {'type': ResNet, 'depth': 18, 'base_channels': 8, 'stem': 'conv3'},
                   'head': {'type': kind, 'num_classes': 4, 'loss': {'type': AsymmetricLoss}}})
    images = torch.randn(6, 3, 16, 16)
    rows = (torch.rand(6, 4) < 0.5).float()
    truth = truth_of(*rows.tolist())
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model(images, truth, mode='loss')['loss_cls'].backward()
        optimizer.step()
    # batch norms as in training: so few steps leave running statistics behind
    found = model(images, truth, mode='predict')
    assert [sorted(f.labels.tolist()) for f in found] == [
        r.nonzero()[:, 0].tolist() for r in rows]
