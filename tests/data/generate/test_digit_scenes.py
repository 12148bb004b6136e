import json
import re

import numpy as np
import pytest
from PIL import Image

from openlab.cli import main
from openlab.data.datasets.digits import read_digits, stratified_split
from openlab.data.errors import DataError
from openlab.data.generate.digit_scenes import DigitScenes, make_digit_scenes, make_scene
from openlab.data.generate.folder import make_folder
from openlab.structures.masks import polygons_to_mask, rle_to_mask

SIZE = 96


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp('made') / 'scenes'
    make_digit_scenes(out, train=12, val=5, size=SIZE, seed=4, say=lambda text: None)
    return out


def read(folder, name):
    return json.loads((folder / 'annotations' / f'{name}.json').read_text())


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob('*')) if p.is_file()}


def mask_of(annotation):
    found = annotation['segmentation']
    return rle_to_mask(found) if isinstance(found, dict) else polygons_to_mask(found, (SIZE, SIZE))


def test_boxes_masks_and_maps_tell_the_same(folder):
    for part, count in (('train', 12), ('val', 5)):
        boxes, panoptic = read(folder, f'instances_{part}'), read(folder, f'panoptic_{part}')
        assert len(boxes['images']) == len(panoptic['annotations']) == count
        for image, scene in zip(boxes['images'], panoptic['annotations']):
            pixels = np.asarray(Image.open(folder / 'images' / part / image['file_name']))
            assert pixels.shape == (SIZE, SIZE, 3)
            semantic = np.asarray(Image.open(folder / 'semantic' / part / scene['file_name']))
            colours = np.asarray(Image.open(folder / 'panoptic' / part / scene['file_name']),
                                 np.int64)
            ids = colours @ [1, 256, 65536]
            objects = [a for a in boxes['annotations'] if a['image_id'] == image['id']]
            assert 1 <= len(objects) <= 6
            painted = np.zeros((SIZE, SIZE), int)
            segments = {s['category_id'] * 1000 + s['area']: s for s in scene['segments_info']}
            for a in objects:
                mask = mask_of(a) > 0
                assert not painted[mask].any()  # what is covered belongs to one digit only
                painted[mask] = a['category_id']
                left, top, width, height = a['bbox']
                assert mask.sum() == mask[top:top + height, left:left + width].sum() == a['area']
                assert mask[top].any() and mask[:, left].any()
                assert mask[top + height - 1].any() and mask[:, left + width - 1].any()
                segment = segments[a['category_id'] * 1000 + a['area']]
                assert (ids == segment['id']).sum() == a['area']
            assert np.array_equal(semantic, painted)
            assert set(np.unique(ids)) == {s['id'] for s in scene['segments_info']}


def test_no_digit_stands_in_both_parts(folder):
    used = [{a['digit'] for a in read(folder, f'instances_{p}')['annotations']}
            for p in ('train', 'val')]
    assert used[0] and used[1] and not used[0] & used[1]
    _, labels = read_digits()
    held_out = stratified_split(labels, share=0.25, seed=0)  # that of the Digits dataset
    assert not held_out[list(used[0])].any() and held_out[list(used[1])].all()
    for a in read(folder, 'instances_val')['annotations']:
        assert a['category_id'] == labels[a['digit']] + 1


def test_a_seed_decides_every_file_and_more_scenes_leave_the_first_as_they_are(folder, tmp_path):
    for name, train, seed in (('same', 12, 4), ('more', 14, 4), ('other', 12, 5)):
        make_digit_scenes(tmp_path / name, train, 5, SIZE, seed, say=lambda text: None)
    first = files_of(folder)
    assert files_of(tmp_path / 'same') == first
    more, other = files_of(tmp_path / 'more'), files_of(tmp_path / 'other')
    pixels = [name for name in first if name.endswith(('.jpg', '.png'))]
    assert all(more[name] == first[name] for name in pixels)
    assert not any(other[name] == first[name] for name in pixels if name.endswith('.jpg'))


def test_covered_digits_keep_a_visible_part():
    images, labels = read_digits()
    covered = 0
    for number in range(25):
        scene = make_scene(np.random.default_rng(number), images, labels, np.arange(100), SIZE, 6)
        for place, full in enumerate(scene.full_areas):
            share = (scene.owners == place).sum() / full
            assert 0.65 <= share <= 1
            covered += share < 1
    assert covered >= 5  # overlaps do occur


def test_the_command_makes_says_and_skips(tmp_path, capsys):
    out = tmp_path / 'deep' / 'scenes'
    command = ['data', 'make', 'digit-scenes', '--train', '2', '--val', '1', '--size', '64',
               '--out', str(out)]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert re.search(r'making digit scenes, 2 to train and 1 held out, 64 x 64 px, seed 0', text)
    assert f'made {out} in' in text
    before = {p: p.stat().st_mtime_ns for p in out.rglob('*')}
    assert main(command) == 0
    assert 'is complete already' in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob('*')}
    assert [p.name for p in out.parent.iterdir()] == ['scenes']  # no drafts, no locks
    assert main([*command, '--seed', '7']) == 2
    assert 'seed=0 (wanted: 7)' in capsys.readouterr().err


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / 'photo.jpg').write_bytes(b'mine')
    with pytest.raises(DataError, match='was not made here'):
        make_digit_scenes(tmp_path, 1, 1, 64)
    assert [p.name for p in tmp_path.iterdir()] == ['photo.jpg']


def test_a_stopped_making_leaves_nothing_half_done(tmp_path):
    def stop(folder):
        (folder / 'half').write_text('x')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_folder(tmp_path / 'set', {'kind': 'x'}, 'a set', stop, say=print)
    assert list(tmp_path.iterdir()) == []
    # That of a killed process, which could not tidy up, is replaced.
    (tmp_path / '.set.partial').mkdir()
    (tmp_path / '.set.partial' / 'old').write_text('x')
    assert make_folder(tmp_path / 'set', {'kind': 'x'}, 'a set',
                       lambda folder: (folder / 'new').write_text('x'), say=print)
    assert sorted(p.name for p in (tmp_path / 'set').iterdir()) == ['made.json', 'new']


def test_impossible_numbers_are_named():
    with pytest.raises(ValueError, match='train must be at least 1, got 0'):
        DigitScenes(train=0)
