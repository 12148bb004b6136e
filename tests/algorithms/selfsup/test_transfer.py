"""What pre-training saves goes straight into classifiers and detectors."""

import pytest
import torch

from openlab.config.build import build
from openlab.engine.loading import LoadError, load_weights
from openlab.engine.runner import Runner
from openlab.structures.data_sample import DataSample
from tests.algorithms.selfsup.common import views_with_shapes
from tests.engine.helpers import NO_HOOKS

RESNET = {'type': 'ResNet', 'block': 'basic', 'num_blocks': [1, 1, 1, 1], 'base_channels': 8}
VIT = {'type': 'VisionTransformer', 'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'patch_size': 8,
       'image_size': 32}
PROJECTOR = {'type': 'Projector', 'hidden_channels': 16, 'out_channels': 8}
METHODS = {
    'SimCLR': {'backbone': RESNET, 'projector': PROJECTOR},
    'MoCoV3': {'backbone': RESNET, 'projector': PROJECTOR, 'predictor': PROJECTOR},
    'DINO': {'backbone': VIT, 'head': {
        'type': 'DINOHead', 'num_prototypes': 12, 'hidden_channels': 16, 'bottleneck': 8}},
    'MAE': {'backbone': {**VIT, 'with_fixed_position': True}, 'decoder': {
        'type': 'MAEDecoder', 'embed_dim': 16, 'depth': 1, 'num_heads': 2}},
}


class Views(torch.utils.data.Dataset):
    """Eight images in two views, or in one."""

    def __init__(self, num_views):
        views = views_with_shapes(8)
        self.items = [list(item) if num_views > 1 else item[0] for item in zip(*views)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return {'inputs': self.items[index], 'sample': DataSample(meta={'img_id': index})}


def pretrained(method, folder):
    """A runner after two iterations, which saved a checkpoint."""
    runner = Runner.from_config({
        'model': {'type': method, **METHODS[method]},
        'work_dir': str(folder),
        'train_dataloader': {'dataset': Views(1 if method == 'MAE' else 2), 'batch_size': 4,
                             'num_workers': 0},
        'train_cfg': {'type': 'EpochTrainLoop', 'max_epochs': 1},
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.1}},
        'default_hooks': {**NO_HOOKS, 'checkpoint': {'type': 'CheckpointHook'}},
        'loggers': [], 'randomness': {'seed': 0}})
    runner.train()
    return runner


def targets(method):
    """A classifier and two detectors with the backbone of a method."""
    backbone = METHODS[method]['backbone']
    is_vit = backbone['type'] == 'VisionTransformer'
    vector = {**backbone, 'output': 'mean'} if is_vit else backbone
    maps = {**backbone, **({'output': 'maps'} if is_vit else {'out_stages': [3, 4, 5]})}
    return {
        'ImageClassifier': {'type': 'ImageClassifier', 'backbone': vector,
                            'head': {'type': 'LinearHead', 'num_classes': 5}},
        'FCOS': {'type': 'FCOS', 'backbone': maps,
                 'neck': {'type': 'FPN', 'out_channels': 16,
                          'extra': None if is_vit else 'p6p7', 'extra_from': 'p5'},
                 'head': {'type': 'FCOSHead', 'num_classes': 5, 'num_convs': 1,
                          **({'strides': [8]} if is_vit else {})}},
        'MaskRCNN': {'type': 'MaskRCNN', 'backbone': maps,
                     'neck': {'type': 'FPN', 'out_channels': 16, 'extra': 'pool'},
                     'rpn_head': {'type': 'RPNHead'},
                     'box_head': {'type': 'BoxHead', 'num_classes': 5, 'hidden': 16},
                     'mask_head': {'type': 'MaskHead', 'num_classes': 5, 'hidden': 8,
                                   'num_convs': 1}},
    }


@pytest.fixture(scope='module', params=list(METHODS))
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, pretrained(request.param, folder), folder / 'checkpoints' / 'last'


def test_a_checkpoint_goes_into_a_classifier_and_into_detectors(run):
    method, runner, checkpoint = run
    trained = runner.unwrapped_model.backbone.state_dict()
    for name, cfg in targets(method).items():
        model = build(cfg, path='model')
        with pytest.raises(LoadError, match='missing'):
            load_weights(model, checkpoint)
        report = load_weights(model, checkpoint, allow_missing=[r'^neck\.', r'^(\w+_)?head\.'])
        loaded = model.backbone.state_dict()
        assert loaded.keys() == trained.keys() and len(loaded) > 20
        assert all(loaded[key].equal(value) for key, value in trained.items()), name
        assert not [n for n in (*report.missing, *report.unexpected) if n.startswith('backbone.')]
        assert sorted(report.matched) == sorted(f'backbone.{key}' for key in trained)


def test_load_from_of_a_config_takes_the_backbone_and_says_so(run, tmp_path, monkeypatch):
    method, runner, checkpoint = run
    tuned = Runner.from_config({
        'model': targets(method)['ImageClassifier'], 'work_dir': str(tmp_path),
        'load_from': {'source': str(checkpoint), 'replace_head': True},
        'default_hooks': NO_HOOKS, 'loggers': []})
    said = []
    monkeypatch.setattr(tuned.logger, 'info', lambda text, *values: said.append(text % values))
    tuned.load_weights()
    trained = runner.unwrapped_model.backbone.state_dict()
    assert all(tuned.model.backbone.state_dict()[k].equal(v) for k, v in trained.items())
    assert 'parameters loaded into ImageClassifier' in said[0]
    assert 'head.fc.weight' in said[0]
    assert 'unexpected' in said[0]  # projector, decoder, second network: told, not silently lost


def test_a_bare_backbone_takes_the_same_weights(run):
    method, runner, checkpoint = run
    backbone = build(METHODS[method]['backbone'], path='backbone')
    report = load_weights(backbone, checkpoint)
    assert report.complete and "prefix 'backbone.' removed" in report.key_map
    trained = runner.unwrapped_model.backbone.state_dict()
    assert all(backbone.state_dict()[key].equal(value) for key, value in trained.items())


def test_the_teacher_of_dino_and_the_query_network_of_moco_are_what_is_kept(run):
    method, runner, _ = run
    other = {'DINO': 'student_backbone', 'MoCoV3': 'key_backbone'}.get(method)
    if other is None:
        assert [n for n, _ in runner.unwrapped_model.named_children() if 'backbone' in n] == [
            'backbone']
        return
    kept = runner.unwrapped_model.backbone.state_dict()
    moved = getattr(runner.unwrapped_model, other).state_dict()
    assert any(not moved[key].equal(value) for key, value in kept.items())
    is_trained = next(runner.unwrapped_model.backbone.parameters()).requires_grad
    assert is_trained is (method == 'MoCoV3')
