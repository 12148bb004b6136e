import copy

import pytest
import torch
import torch.nn.functional as F

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.algorithms.distillation import Distillation, FeaturePair
from openlab.backbones.resnet import ResNet
from openlab.backbones.vit import VisionTransformer
from openlab.config.build import build
from openlab.data.datasets.digits import Digits
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.packing import PackInputs
from openlab.engine.hooks.ema import EMAHook
from openlab.engine.loading import LoadError, load_weights
from openlab.engine.runner import Runner
from openlab.heads.distilled_head import DistilledHead
from openlab.heads.linear_head import LinearHead
from openlab.losses.distillation import HardTargetLoss, SoftTargetLoss
from openlab.structures.data_sample import DataSample


def classifier(width, classes=5, **more):
    return {'type': ImageClassifier,
            'backbone': {'type': ResNet, 'block': 'basic', 'num_blocks': (1, 1),
                         'base_channels': width, 'stem': 'conv3', 'out_stages': (3,)},
            'head': {'type': LinearHead, 'num_classes': classes, 'init_std': 0.3}, **more}


def distillation(**more):
    torch.manual_seed(0)
    return build({'type': Distillation, 'student': classifier(8), 'teacher': classifier(16),
                  'logits': {'type': SoftTargetLoss}, **more})


def batch(count=4, classes=5):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 16, 16, generator=generator)
    return images, [DataSample(meta={'img_id': i}, label=torch.tensor(i % classes))
                    for i in range(count)]


def test_losses_are_those_of_truth_and_teacher_by_their_weights():
    model = distillation(logits={'type': SoftTargetLoss, 'temperature': 2.0, 'loss_weight': 0.9},
                         truth_weight=0.1).eval()
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    with torch.no_grad():
        ours, theirs = model.student(images), model.teacher(images)
    truth = torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(losses['loss_cls'], 0.1 * F.cross_entropy(ours, truth))
    by_hand = ((theirs / 2).softmax(1) * ((theirs / 2).log_softmax(1) - (ours / 2).log_softmax(1)))
    torch.testing.assert_close(losses['loss_logits'], 0.9 * 4 * by_hand.sum() / 4)
    assert losses['num_items'] == 4


def test_the_teacher_stays_as_it_is_and_outside_of_what_is_trained_and_saved():
    model = distillation()
    before = copy.deepcopy(model.teacher.state_dict())
    images, samples = batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model.train()
        optimizer.zero_grad()
        losses = model(images, samples, mode='loss')
        (losses['loss_cls'] + losses['loss_logits']).backward()
        optimizer.step()
    assert not model.teacher.training and model.student.training
    for name, value in model.teacher.state_dict().items():  # batch statistics too
        assert torch.equal(value, before[name])
    assert not any(p.requires_grad or p.grad is not None for p in model.teacher.parameters())
    student = {f'student.{n}' for n in model.student.state_dict()}
    assert set(model.state_dict()) == student
    assert {n for n, _ in model.named_parameters()} <= student


def test_the_teacher_moves_with_the_student():
    model = distillation().double()
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
    assert {p.dtype for p in copy.deepcopy(model).float().teacher.parameters()} == {torch.float32}
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}


def test_predictions_and_outputs_are_the_students():
    model = distillation().eval()
    images, samples = batch()
    assert torch.equal(model(images), model.student(images))
    predictions = model(images, samples, mode='predict')
    assert [p.label.item() for p in predictions] == model.student(images).argmax(1).tolist()


def test_weights_of_the_student_load_into_the_plain_classifier(tmp_path):
    model = distillation(features=[
        {'type': FeaturePair, 'student': 'backbone.stages.0', 'teacher': 'backbone.stages.0',
         'in_channels': 8, 'out_channels': 16}])
    plain = build(classifier(8))
    report = load_weights(plain, model.state_dict())
    assert report.complete and report.share == 1
    images, _ = batch()
    assert torch.equal(plain.eval()(images), model.student.eval()(images))
    other = distillation()
    load_weights(other, build(classifier(8)).state_dict())  # and back, by the added prefix


def test_features_are_compared_after_a_projection_and_at_the_students_size():
    torch.manual_seed(0)
    pair = FeaturePair('a', 'b', in_channels=2, out_channels=3, loss_weight=0.5)
    ours, theirs = torch.randn(2, 2, 4, 4), torch.randn(2, 3, 8, 8)
    projected = torch.einsum('oc,bchw->bohw', pair.projector.weight, ours)
    projected = projected + pair.projector.bias[:, None, None]
    smaller = F.interpolate(theirs, size=(4, 4), mode='bilinear', align_corners=False)
    torch.testing.assert_close(pair(ours, theirs), 0.5 * (projected - smaller).square().mean())
    plain = FeaturePair('a', 'b')
    # two entries of two differ, by 1 and by 3: (1 + 9) / 2
    assert plain(torch.tensor([[1.0, 2]]), torch.tensor([[2.0, 5]])).item() == 5


def test_features_inside_of_both_are_led_together():
    model = distillation(logits=None, features=[
        {'type': FeaturePair, 'student': 'backbone.stages.0', 'teacher': 'backbone.stages.0',
         'in_channels': 8, 'out_channels': 16}, {
         'type': FeaturePair, 'student': 'head', 'teacher': 'head'}])
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    assert set(losses) == {'loss_cls', 'loss_feats0', 'loss_feats1', 'num_items'}
    maps = model.features[0].projector(model.student.backbone.stages[0](
        model.student.backbone.stem(images)).movedim(1, -1)).movedim(-1, 1)
    with torch.no_grad():
        theirs = model.teacher.backbone.stages[0](model.teacher.backbone.stem(images))
    torch.testing.assert_close(losses['loss_feats0'], F.mse_loss(maps, theirs))
    losses['loss_feats0'].backward()
    assert model.features[0].projector.weight.grad.any()
    assert not model.student.backbone.stages[0]._forward_hooks  # nothing is left behind


def test_a_distillation_token_listens_to_the_teacher_and_the_class_token_to_the_truth():
    torch.manual_seed(0)
    model = build({
        'type': Distillation,
        'student': {'type': ImageClassifier,
                    'backbone': {'type': VisionTransformer, 'embed_dim': 32, 'depth': 1,
                                 'num_heads': 2, 'image_size': 16, 'patch_size': 8,
                                 'with_distill_token': True},
                    'head': {'type': DistilledHead, 'num_classes': 5, 'init_std': 0.5}},
        'teacher': classifier(8), 'logits': {'type': HardTargetLoss, 'loss_weight': 0.5},
        'truth_weight': 0.5})
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    class_logits, distill_logits = model.student.head.branches(model.student.backbone(images))
    truth, taught = torch.arange(4), model.teacher(images).argmax(1)
    torch.testing.assert_close(losses['loss_cls'], 0.5 * F.cross_entropy(class_logits, truth))
    torch.testing.assert_close(losses['loss_logits'], 0.5 * F.cross_entropy(distill_logits, taught))
    torch.testing.assert_close(model(images), (class_logits + distill_logits) / 2)
    assert model.no_weight_decay() >= {'student.backbone.class_token'}


def test_images_are_normalised_anew_for_a_teacher_with_constants_of_its_own():
    model = distillation(
        student=classifier(8, preprocessor={
            'type': ImagePreprocessor, 'mean': [100.0, 110, 120], 'std': [50.0, 60, 70]}),
        teacher=classifier(16, preprocessor={
            'type': ImagePreprocessor, 'mean': [127.5] * 3, 'std': [127.5] * 3})).eval()
    pixels = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    inputs = model.preprocessor({'inputs': pixels})['inputs']
    expected = model.teacher.preprocessor({'inputs': pixels})['inputs']
    torch.testing.assert_close(model._for_teacher(inputs), expected)
    assert not any('preprocessor' in name for name in model.state_dict())


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match='teaches nothing'):
        distillation(logits=None)
    with pytest.raises(ValueError, match=r"student has no module 'backbone\.stage\.0'.*stages\.0"):
        distillation(features=[{'type': FeaturePair, 'student': 'backbone.stage.0',
                                'teacher': 'backbone.stages.0'}])
    with pytest.raises(ValueError, match='together, or neither'):
        FeaturePair('a', 'b', in_channels=3)
    images, samples = batch()
    with pytest.raises(ValueError, match='set in_channels and out_channels of the FeaturePair'):
        distillation(features=[{'type': FeaturePair, 'student': 'backbone', 'teacher': 'backbone'}]
                     )(images, samples, mode='loss')
    with pytest.raises(ValueError, match='gives 8 channels, not 33; set in_channels'):
        FeaturePair('a', 'b', in_channels=33, out_channels=4)(
            torch.zeros(1, 8, 2, 2), torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match='must know the same classes'):
        distillation(teacher=classifier(16, classes=7))(images, samples, mode='loss')
    with pytest.raises(ValueError, match='needs samples'):
        distillation()(images, mode='loss')


def run_of(folder, teacher, **more):
    loader = {'batch_size': 16, 'num_workers': 0, 'dataset': {
        'type': Digits, 'pipeline': [{'type': PackInputs}]}}
    normalise = {'type': ImagePreprocessor, 'mean': [77.8] * 3, 'std': [95.9] * 3}
    return Runner.from_config({
        'work_dir': str(folder), 'loggers': [], 'randomness': {'seed': 0},
        'model': {'type': Distillation, 'student': classifier(8, 10, preprocessor=normalise),
                  'teacher': classifier(16, 10), 'teacher_weights': str(teacher),
                  'logits': {'type': SoftTargetLoss}},
        'train_dataloader': loader, 'train_cfg': {'max_epochs': 2, 'max_batches': 3},
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        'default_hooks': {'run_folder': None, 'timer': None},
        'custom_hooks': [{'type': EMAHook}], **more})


def test_a_run_loads_the_teacher_and_resumes_to_the_same_weights(tmp_path):
    torch.manual_seed(5)
    teacher = build(classifier(16, 10))
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    whole = run_of(tmp_path / 'whole', tmp_path / 'teacher.pth')
    whole.train()
    loaded = whole.model.teacher.state_dict()
    assert all(torch.equal(v, loaded[n].cpu()) for n, v in teacher.state_dict().items())

    first = run_of(tmp_path / 'parts', tmp_path / 'teacher.pth',
                   train_cfg={'max_epochs': 1, 'max_batches': 3})
    first.train()
    second = run_of(tmp_path / 'parts', tmp_path / 'teacher.pth', resume=True)
    second.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name

    plain = build(classifier(8, 10))
    report = load_weights(plain, tmp_path / 'parts' / 'checkpoints' / 'last')
    assert report.complete and report.averaged
    assert not [k for k in report.unexpected if 'teacher' in k]


def test_a_teacher_that_loads_nothing_is_told_and_one_that_does_not_fit_is_named(
        tmp_path, caplog):
    torch.save(build(classifier(16, 7)).state_dict(), tmp_path / 'seven.pth')
    with pytest.raises(LoadError, match=r'model\.teacher_weights: the weights do not fit'):
        run_of(tmp_path / 'wrong', tmp_path / 'seven.pth').train()
    runner = run_of(tmp_path / 'none', tmp_path / 'seven.pth')
    runner.unwrapped_model.teacher_weights = None
    runner.train()
    assert 'model.teacher_weights is not set' in caplog.text
