import pytest
import torch
import torch.nn.functional as F

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.resnet import ResNet
from openlab.config import load_config
from openlab.config.build import build
from openlab.data.preprocessors import CutMix, MixUp
from openlab.engine.runner import Runner
from openlab.heads.linear_head import LinearHead
from openlab.metrics.accuracy import Accuracy
from openlab.structures.data_sample import DataSample

CFG = {
    'type': ImageClassifier,
    'backbone': {'type': ResNet, 'depth': 18, 'base_channels': 8, 'stem': 'conv3'},
    'head': {'type': LinearHead, 'num_classes': 5},
}


def truth_of(*labels):
    return [DataSample(meta={'img_id': i}, label=torch.tensor(v)) for i, v in enumerate(labels)]


def test_head_takes_its_channels_from_the_backbone():
    model = build(CFG)
    assert model.head.fc.in_features == model.backbone.out_channels[-1] == 64


def test_the_three_modes_give_logits_losses_and_predictions():
    model, images, truth = build(CFG).eval(), torch.randn(2, 3, 16, 16), truth_of(3, 1)
    logits = model(images)
    assert logits.shape == (2, 5)
    losses = model(images, truth, mode='loss')
    expected = F.cross_entropy(logits, torch.tensor([3, 1]))
    torch.testing.assert_close(losses['loss_cls'], expected)
    predictions = model(images, truth, mode='predict')
    assert [p.label.item() for p in predictions] == logits.argmax(1).tolist()


def test_soft_labels_of_mixup_train():
    model, images = build(CFG), torch.randn(2, 3, 16, 16)
    soft = torch.tensor([[0.4, 0.6, 0, 0, 0], [0, 0, 0, 0.1, 0.9]])
    truth = [DataSample(label_probs=p) for p in soft]
    losses = model(images, truth, mode='loss')
    losses['loss_cls'].backward()
    assert losses['num_items'] == 2
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('augment', [MixUp(5, alpha=0.8), CutMix(5)])
def test_mixed_batches_train_and_are_evaluated_by_their_likeliest_class(augment):
    torch.manual_seed(0)
    model = build(CFG)
    inputs, truth = augment(torch.randn(4, 3, 16, 16), truth_of(0, 1, 2, 3))
    losses = model(inputs, truth, mode='loss')
    logits = model(inputs)
    mixed = torch.stack([t.label_probs for t in truth])
    torch.testing.assert_close(losses['loss_cls'], F.cross_entropy(logits, mixed))
    metric = Accuracy()
    metric.update(model(inputs, truth, mode='predict'), truth)
    expected = (logits.argmax(1) == mixed.argmax(1)).float().mean().item()
    assert metric.compute()['top1'] == pytest.approx(expected)


@pytest.mark.slow
def test_the_quickstart_reaches_what_it_promises(tmp_path):
    cfg = load_config('quickstart/classification', [f'work_dir={tmp_path}'])
    runner = Runner.from_config(cfg)
    runner.train()
    assert runner.last_metrics['accuracy/top1'] >= 0.97


def test_parameters_that_the_backbone_keeps_out_of_weight_decay_are_named_in_full():
    model = build(CFG)
    assert model.no_weight_decay() == set()
    model.backbone.no_weight_decay = lambda: {'position'}
    assert model.no_weight_decay() == {'backbone.position'}
