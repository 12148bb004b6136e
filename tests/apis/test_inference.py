from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import openlab
from openlab.algorithms.base import Algorithm
from openlab.apis.image_inputs import count
from openlab.apis.inference import Inferencer, find_recipe, to_original
from openlab.apis.result_files import plain_result, run_lengths
from openlab.cli import main
from openlab.data.errors import DataError
from openlab.engine.checkpoint import CheckpointParts, save_checkpoint
from openlab.engine.checkpoint_files import CheckpointError, write_pointer
from openlab.structures.data_sample import DataSample

CLASSES = ('red', 'green', 'blue')


class BrightestChannel(Algorithm):
    """Says which channel of an image is the brightest; counts its batches."""

    def __init__(self, preprocessor: nn.Module | None = None):
        super().__init__(preprocessor)
        self.scale = nn.Parameter(torch.ones(()))
        self.batches: list[int] = []

    def outputs(self, inputs, samples=None):
        self.batches.append(len(inputs))
        return self.scale * inputs.float().mean((2, 3)) / 32

    def loss(self, outputs, samples):
        return {'loss': outputs.mean()}

    def predict(self, outputs, samples):
        probs = outputs.softmax(1)
        return [DataSample(meta=s.meta, label=p.argmax(), label_probs=p)
                for s, p in zip(samples, probs)]


CONFIG = {
    'model': {'type': f'{__name__}.BrightestChannel',
              'preprocessor': {'type': 'ImagePreprocessor'}},
    'val_dataloader': {'dataset': {
        'type': 'RepeatDataset', 'dataset': {
            'type': 'ImageFolder', 'data_root': 'nowhere',
            'pipeline': [{'type': 'LoadImage'}, {'type': 'Resize', 'size': 8},
                         {'type': 'PackInputs'}]}}},
}


@pytest.fixture
def model():
    cfg = {**CONFIG, 'model': {**CONFIG['model'], 'type': BrightestChannel}}
    return Inferencer(cfg, {'scale': torch.ones(())}, classes=CLASSES, device='cpu')


def picture(channel, height=12, width=10):
    image = np.full((height, width, 3), 20, np.uint8)
    image[..., channel] = 200
    image[0, 0] = 255  # so that turning it over shows
    return image


@pytest.fixture
def folder(tmp_path):
    """Red, green and blue as PNG, one of them in a folder below."""
    files = [tmp_path / 'in' / name for name in ('a.png', 'b.png', 'sub/c.png')]
    for channel, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(channel)).save(file)
    return tmp_path / 'in'


def labels(samples):
    return [int(s.label) for s in samples]


def names(samples):
    return [s.meta['class_name'] for s in samples]


def test_a_path_gives_one_sample_with_names_and_probabilities(model, folder):
    for path in (folder / 'b.png', str(folder / 'b.png')):
        [sample] = model(path)
        assert sample.meta['class_name'] == 'green'
        assert sample.meta['classes'] == CLASSES
        assert sample.meta['img_path'] == str(folder / 'b.png')
        assert sample.meta['ori_shape'] == (12, 10)
        assert sample.label_probs.sum() == pytest.approx(1)


def test_a_folder_is_searched_in_depth_and_in_order(model, folder):
    assert names(model(folder)) == ['red', 'green', 'blue']


def test_globs_are_expanded(model, folder):
    assert names(model(f'{folder}/*.png')) == ['red', 'green']
    assert names(model(f'{folder}/**/c.png')) == ['blue']


def test_arrays_are_rgb_unless_said_otherwise(model):
    assert names(model(picture(0))) == ['red']
    assert names(model(picture(0), channel_order='bgr')) == ['blue']


def test_gray_alpha_and_float_arrays_are_taken(model):
    gray = np.full((9, 9), 100, np.uint8)
    rgba = np.dstack([picture(1), np.full((12, 10), 255, np.uint8)])
    assert len(model([gray, rgba, picture(2).astype(np.float32) / 255])) == 3
    assert names(model([rgba, picture(2).astype(np.float32) / 255])) == ['green', 'blue']


def test_tensors_pil_images_and_bytes_are_taken(model, folder):
    tensor = torch.from_numpy(picture(2)).permute(2, 0, 1)
    pil = Image.open(folder / 'b.png')
    encoded = (folder / 'a.png').read_bytes()
    assert names(model([tensor, tensor / 255, pil, encoded])) == ['blue', 'blue', 'green', 'red']


def test_a_batch_of_images_in_one_array_or_tensor_is_taken_apart(model):
    batch = np.stack([picture(0), picture(1)])
    assert names(model(batch)) == ['red', 'green']
    assert names(model(torch.from_numpy(batch).permute(0, 3, 1, 2))) == ['red', 'green']


def test_lists_and_generators_may_mix_kinds_and_nest(model, folder):
    mixed = [picture(2), [folder / 'a.png', picture(1)], f'{folder}/b.*']
    assert names(model(mixed)) == ['blue', 'red', 'green', 'green']
    assert names(model(x for x in mixed)) == ['blue', 'red', 'green', 'green']


def test_what_is_no_image_is_refused_by_its_type(model):
    with pytest.raises(TypeError, match='cannot take int for an image'):
        model([3])
    with pytest.raises(DataError, match=r'image 1: .*must be'):
        model([picture(0), np.zeros((4, 4, 7), np.uint8)])


def test_a_stream_reads_no_further_than_it_must(model):
    read = []

    def endless():
        while True:
            read.append(1)
            yield picture(len(read) % 3)

    stream = model.stream(endless(), batch_size=2)
    assert [int(next(stream).label) for _ in range(3)] == [1, 2, 0]
    assert len(read) == 4


def test_images_go_through_in_batches(model):
    model([picture(i % 3) for i in range(7)], batch_size=3)
    assert model.model.batches == [3, 3, 1]


def test_batches_give_what_single_images_give():
    # without resizing, so that sizes differ and batches have to be made of equal ones
    pipeline = [{'type': 'PackInputs'}]
    cfg = {'model': {'type': BrightestChannel, 'preprocessor': {'type': 'ImagePreprocessor'}},
           'test_dataloader': {'dataset': {'type': 'Digits', 'pipeline': pipeline}}}
    model = Inferencer(cfg, {'scale': torch.ones(())}, device='cpu')
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (8 + i % 3, 9, 3), dtype=np.uint8) for i in range(20)]
    together, alone = model(images, batch_size=4), [model(image)[0] for image in images]
    assert all(torch.equal(a.label_probs, b.label_probs) for a, b in zip(together, alone))
    assert max(model.model.batches) == 4


def test_drawings_and_json_are_saved(model, folder, tmp_path):
    model([folder, folder / 'a.png'], out_dir=tmp_path / 'out')
    data = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert model.results_file == tmp_path / 'out' / 'results.json'
    assert data['classes'] == list(CLASSES)
    assert [r['class'] for r in data['results']] == ['red', 'green', 'blue', 'red']
    assert [r['drawing'] for r in data['results']] == [
        'drawings/a.png', 'drawings/b.png', 'drawings/c.png', 'drawings/a_2.png']
    for result in data['results']:
        assert cv2.imread(str(tmp_path / 'out' / result['drawing'])) is not None
    first = data['results'][0]
    assert first['top'][0] == {'label': 0, 'class': 'red', 'score': first['score']}
    assert first['size'] == [12, 10]
    assert data['skipped'] == []


def write_video(path, channels):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10.0, (64, 48))
    for channel in channels:
        writer.write(cv2.cvtColor(picture(channel, 48, 64), cv2.COLOR_RGB2BGR))
    writer.release()


def test_a_video_gives_a_sample_for_each_frame_and_an_annotated_video(model, tmp_path):
    write_video(tmp_path / 'clip.avi', (0, 1, 2, 2))
    samples = model(tmp_path / 'clip.avi', batch_size=3, out_dir=tmp_path / 'out')
    assert names(samples) == ['red', 'green', 'blue', 'blue']
    assert [s.meta['frame'] for s in samples] == [0, 1, 2, 3]
    capture = cv2.VideoCapture(str(tmp_path / 'out' / 'clip.mp4'))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert count([tmp_path / 'clip.avi', picture(0)]) == 5


@pytest.mark.parametrize(('kind', 'reason'), [
    ('missing', 'image file is missing'), ('text', 'not an image'), ('cut', 'truncated'),
    ('empty', 'is empty'), ('folder', 'folder without images'), ('glob', 'matches no file'),
    ('video', 'not a video')])
def test_what_cannot_be_read_is_an_error_or_skipped_and_listed(model, folder, tmp_path, kind,
                                                               reason):
    bad = {'folder': tmp_path / 'nothing', 'glob': tmp_path / '*.jpg',
           'video': tmp_path / 'v.mp4'}.get(kind, tmp_path / 'bad.png')
    if kind == 'folder':
        bad.mkdir()
    elif kind in ('text', 'video'):
        bad.write_text('not at all')
    elif kind == 'empty':
        bad.write_bytes(b'')
    elif kind == 'cut':
        bad.write_bytes((folder / 'a.png').read_bytes()[:-20])
    with pytest.raises(DataError, match=f'{reason}.*{re.escape(str(bad))}'):
        model([folder / 'a.png', bad])
    samples = model([folder / 'a.png', bad, folder / 'b.png'], on_error='skip',
                    out_dir=tmp_path / 'out')
    assert names(samples) == ['red', 'green']
    [(name, why)] = model.skipped
    assert name == str(bad)
    assert reason in why
    saved = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert saved['skipped'] == [{'image': name, 'reason': why}]


def test_options_outside_their_range_are_refused(model):
    with pytest.raises(ValueError, match='batch_size must be at least 1'):
        model(picture(0), batch_size=0)
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip'"):
        model(picture(0), on_error='ignore')
    with pytest.raises(ValueError, match="channel_order must be 'rgb' or 'bgr'"):
        model(picture(0), channel_order='gbr')


def test_the_wrong_number_of_class_names_is_refused():
    class WithHead(BrightestChannel):
        def __init__(self, preprocessor=None):
            super().__init__(preprocessor)
            self.head = nn.Identity()
            self.head.num_classes = 3

    with pytest.raises(ValueError, match=r'2 class names .* for a model of 3 classes'):
        Inferencer({**CONFIG, 'model': {'type': WithHead}}, {'scale': torch.ones(())},
                   classes=['a', 'b'])


def saved_run(folder, scale=1.0, name='epoch_0001'):
    parts = CheckpointParts(
        model={'scale': torch.tensor(scale)},
        metadata={'config': CONFIG, 'classes': list(CLASSES)},
        position={'epoch': 1, 'iter': 3})
    return save_checkpoint(parts, folder / 'checkpoints' / name)


def test_a_checkpoint_folder_or_file_is_all_that_is_needed(tmp_path, folder):
    checkpoint = saved_run(tmp_path / 'run')
    for source in (checkpoint, checkpoint / 'model.safetensors', str(checkpoint)):
        model = openlab.Inferencer(source, device='cpu')
        assert names(model(folder)) == ['red', 'green', 'blue']


def test_of_a_run_the_best_checkpoint_is_taken(tmp_path):
    best = saved_run(tmp_path, 2.0, 'epoch_0001')
    last = saved_run(tmp_path, 3.0, 'epoch_0002')
    write_pointer(tmp_path / 'checkpoints', 'last', last)
    assert Inferencer(tmp_path, device='cpu').model.scale == 3
    write_pointer(tmp_path / 'checkpoints', 'best', best)
    assert Inferencer(tmp_path, device='cpu').model.scale == 2
    assert Inferencer(tmp_path / 'checkpoints' / 'last', device='cpu').model.scale == 3
    assert Inferencer(tmp_path, last, device='cpu').model.scale == 3


def test_weights_without_a_config_say_what_to_give(tmp_path):
    torch.save({'scale': torch.ones(())}, tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match='give the config, and this as weights'):
        Inferencer(tmp_path / 'w.pth')


def test_a_config_without_weights_says_what_to_give():
    with pytest.raises(ValueError, match=r'no weights for config: give weights=\.\.\.'):
        Inferencer(CONFIG)


def test_a_config_finds_its_own_newest_run(tmp_path):
    checkpoint = saved_run(tmp_path)
    write_pointer(tmp_path / 'checkpoints', 'last', checkpoint)
    recipe = find_recipe({**CONFIG, 'work_dir': str(tmp_path)})
    assert recipe.weights == checkpoint


def test_results_are_in_pixels_of_the_original_image():
    # the network saw the image doubled and moved by 10 to the right
    matrix = np.array([[2.0, 0, 10], [0, 2, 0], [0, 0, 1]])
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, :20, 10:30] = True
    sample = to_original(DataSample(
        meta={'matrix': matrix, 'ori_shape': (20, 25), 'img_shape': (40, 60)},
        boxes=torch.tensor([[10.0, 0, 30, 20], [0.0, 0, 100, 100]]),
        keypoints=torch.tensor([[[30.0, 20, 1]]]), masks=mask))
    assert sample.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 25, 20]]
    assert sample.keypoints.tolist() == [[[10, 10, 1]]]
    assert sample.masks.shape == (1, 20, 25)
    assert sample.masks[0, :10, :10].all()
    assert sample.masks.sum() == 100
    assert sample.meta['img_shape'] == (20, 25)


def test_objects_become_plain_data():
    sample = DataSample(
        meta={'img_path': 'x.png', 'classes': CLASSES},
        boxes=torch.tensor([[1.0, 2, 3, 4]]), labels=torch.tensor([2]),
        scores=torch.tensor([math.nan]), masks=torch.tensor([[[True, False], [False, False]]]))
    result = plain_result(sample)
    assert result['objects'] == [{
        'label': 2, 'class': 'blue', 'score': None, 'box': [1, 2, 3, 4],
        'mask': {'size': [2, 2], 'values': [1, 0], 'lengths': [1, 3]}}]
    json.dumps(result, allow_nan=False)
    assert run_lengths(torch.tensor([[7, 7], [7, 255]])) == {
        'size': [2, 2], 'values': [7, 255], 'lengths': [3, 1]}


def test_the_command_prints_a_table(tmp_path, folder, capsys):
    run = saved_run(tmp_path)
    assert main(['infer', str(run), str(folder), '--topk', '2', '--device', 'cpu',
                 '--out', str(tmp_path / 'out')]) == 0
    out, err = capsys.readouterr()
    rows = out.splitlines()
    assert len(rows) == 3
    assert re.search(r'a\.png\s+red 0\.\d{3}  (green|blue) 0\.\d{3}$', rows[0])
    assert '100 % of 1 parameters' in err
    assert (tmp_path / 'out' / 'drawings' / 'a.png').exists()


def test_the_command_prints_json_alone_to_standard_output(tmp_path, folder, capsys):
    run = saved_run(tmp_path)
    blue = str(folder / 'sub' / 'c.png')
    assert main(['infer', str(run), blue, '--json', '-', '--device', 'cpu']) == 0
    [result] = json.loads(capsys.readouterr().out)
    assert result['class'] == 'blue'


def test_the_command_reports_a_bad_file_in_one_message(tmp_path, folder, capsys):
    run, missing = saved_run(tmp_path), folder / 'no.png'
    assert main(['infer', str(run), str(missing), '--device', 'cpu']) == 2
    assert capsys.readouterr().err.endswith(f'image file is missing: {missing}\n')
    assert main(['infer', str(tmp_path / 'nowhere.safetensors'), str(folder)]) == 2
    assert 'nowhere.safetensors' in capsys.readouterr().err
    assert main(['infer', str(run), str(folder), str(missing), '--skip-bad',
                 '--device', 'cpu']) == 1
    assert f'skipped {missing}' in capsys.readouterr().err


@pytest.mark.parametrize(('options', 'message'), [
    (['--out', 'afile'], '--out afile: afile is a file; --out takes a folder'),
    (['--out', 'afile/x'], '--out afile/x: afile is a file; --out takes a folder'),
    (['--json', 'nodir/x.json'], '--json nodir/x.json: nodir does not exist; --json takes a file'),
    (['--json', 'afile/x.json'], '--json afile/x.json: afile is no folder; --json takes a file'),
    (['--json', 'adir'], '--json adir: it is a folder; --json takes a file'),
    (['--batch-size', '0'], '--batch-size must be at least 1, not 0'),
    (['--topk', '-1'], '--topk must be at least 1, not -1'),
])
def test_the_command_refuses_options_before_it_looks_for_a_model(tmp_path, monkeypatch, capsys,
                                                                 options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'afile').write_text('text')
    (tmp_path / 'adir').mkdir()
    assert main(['infer', 'no_such_model', 'no.png', *options]) == 2
    assert message in capsys.readouterr().err


def test_the_json_of_the_command_may_lie_in_the_folder_that_it_makes(tmp_path, folder):
    run, out = saved_run(tmp_path), tmp_path / 'new' / 'out'
    assert main(['infer', str(run), str(folder / 'a.png'), '--device', 'cpu', '--out', str(out),
                 '--json', str(out / 'all.json')]) == 0
    assert json.loads((out / 'all.json').read_text())


def test_importing_openlab_stays_free_of_torch_until_the_inferencer_is_asked_for():
    code = ('import sys, openlab; assert "torch" not in sys.modules; '
            'openlab.Inferencer; assert "torch" in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)


class ChannelMeans(BrightestChannel):
    """Its embedding is the mean of each channel."""

    def embed(self, inputs):
        return self.scale * inputs.float().mean((2, 3))


@pytest.fixture
def search(folder):
    cfg = {**CONFIG, 'model': {**CONFIG['model'], 'type': ChannelMeans}}
    return Inferencer(cfg, {'scale': torch.ones(())}, device='cpu', gallery=folder)


def test_a_search_names_the_most_alike_images_of_a_gallery(search, folder):
    query = np.full((30, 20, 3), (10, 120, 60), np.uint8)
    [sample] = search(query)
    files = [str(folder / name) for name in ('b.png', 'sub/c.png', 'a.png')]
    assert sample.meta['matches'] == files
    assert sample.extra['matches'].tolist() == [1, 2, 0]
    expected = np.array((10, 120, 60), float)
    of_gallery = np.array([np.asarray(Image.open(f).resize((8, 8), Image.BILINEAR), float)
                           .mean((0, 1)) for f in files])
    cosines = of_gallery @ expected / np.linalg.norm(of_gallery, axis=1) / np.linalg.norm(expected)
    torch.testing.assert_close(sample.extra['match_scores'].double(), torch.tensor(cosines),
                               atol=0.01, rtol=0)
    assert sample.label is None


def test_a_search_writes_what_it_found_and_draws_it(search, folder, tmp_path):
    search(folder / 'a.png', out_dir=tmp_path / 'out', topk=2)
    written = json.loads((tmp_path / 'out' / 'results.json').read_text('utf-8'))
    [result] = written['results']
    assert [m['image'] for m in result['matches']] == [str(folder / 'a.png'),
                                                       str(folder / 'b.png')]
    assert result['matches'][0]['score'] == pytest.approx(1)
    drawing = cv2.imread(str(tmp_path / 'out' / result['drawing']))
    blue, red = ((drawing[..., c] > 150) & (drawing[..., 2 - c] < 60) for c in (0, 2))
    green = (drawing[..., 1] > 150) & (drawing[..., 2] < 60)
    assert red.any() and green.any() and not blue.any()  # the query and two of three


class FeaturesAlone(ChannelMeans):
    """Its predictions are for others to compare."""

    gives_features = True


def test_the_command_refuses_features_alone_and_says_what_they_are_good_for(
        tmp_path, folder, capsys):
    path = f'{FeaturesAlone.__module__}.{FeaturesAlone.__qualname__}'
    parts = CheckpointParts(
        model={'scale': torch.ones(())}, trainer={}, position={'iter': 1},
        metadata={'config': {**CONFIG, 'model': {**CONFIG['model'], 'type': path}}})
    run = save_checkpoint(parts, tmp_path / 'run' / 'checkpoints' / 'iter_00000001')
    words = ['infer', str(run), str(folder / 'a.png'), '--device', 'cpu']
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out and 'says nothing of an image by itself' in err
    for way in ('--replace-head', 'openlab probe', '--gallery'):
        assert way in err
    assert main([*words, '--gallery', str(folder)]) == 0
    assert 'a.png 1.000' in capsys.readouterr().out


def test_an_empty_gallery_is_refused(tmp_path, folder):
    cfg = {**CONFIG, 'model': {**CONFIG['model'], 'type': ChannelMeans}}
    with pytest.raises(ValueError, match='gallery holds no image'):
        Inferencer(cfg, {'scale': torch.ones(())}, device='cpu', gallery=[])


def test_a_network_without_features_is_no_search(folder):
    cfg = {**CONFIG, 'model': {**CONFIG['model'], 'type': BrightestChannel}}
    with pytest.raises(ValueError, match='neither embed nor a backbone'):
        Inferencer(cfg, {'scale': torch.ones(())}, device='cpu', gallery=folder)


@pytest.mark.parametrize(('device', 'words'), [
    ('gpu', "device 'gpu' is no device; accepted here: cpu"),
    ('cuda:99', "device 'cuda:99' is not on this machine")])
def test_a_device_that_is_not_here_is_refused_before_anything_is_loaded(device, words):
    with pytest.raises(ValueError, match=words):
        Inferencer('no such config', device=device)
