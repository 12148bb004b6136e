import io

import cv2
import numpy as np
import pytest
from PIL import Image

from openlab.data.errors import DataError
from openlab.data.transforms import loading
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.base import Compose, RandomApply, RandomChoice
from openlab.data.transforms.erasing import RandomErasing
from openlab.data.transforms.loading import LoadImage, decode_image, is_complete, jpeg_size
from openlab.data.transforms.packing import Normalize, PackInputs


def picture(height=12, width=18):
    y, x = np.mgrid[:height, :width]
    return np.uint8(np.stack([x * 12, y * 18, (x + y) * 7], -1))


def encoded(image, kind='PNG', **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_a_file_bytes_and_an_array_give_the_same_rgb_image(tmp_path, backend):
    file = tmp_path / 'ä picture.png'
    file.write_bytes(encoded(picture()))
    load = LoadImage(backend=backend)
    for results in ({'img_path': str(file)}, {'img_bytes': file.read_bytes()}, {'img': picture()}):
        found = load(results)
        assert np.array_equal(found['img'], picture())
        assert found['ori_shape'] == found['img_shape'] == (12, 18)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_the_exif_orientation_is_applied(backend):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter
    data = encoded(picture(), 'JPEG', exif=exif, quality=100, subsampling=0)
    found = LoadImage(backend=backend)({'img_bytes': data})['img']
    assert found.shape == (18, 12, 3)
    assert np.abs(found.astype(int) - np.rot90(picture(), -1)).max() <= 6


def test_gray_alpha_and_16_bit_become_rgb_of_8_bit():
    gray = picture()[..., 0]
    assert np.array_equal(decode_image(encoded(gray)), np.stack([gray] * 3, -1))
    rgba = np.dstack([picture(), np.full((12, 18), 255, np.uint8)])
    assert np.array_equal(decode_image(encoded(rgba)), picture())
    deep = gray.astype(np.uint16) * 256 + 99
    ok, data = cv2.imencode('.png', deep)
    assert ok and np.array_equal(decode_image(data.tobytes())[..., 0], gray)
    kept = decode_image(data.tobytes(), keep_depth=True)
    assert kept.dtype == np.uint16 and np.array_equal(kept[..., 2], deep)
    assert LoadImage()({'img': gray[..., None]})['img'].shape == (12, 18, 3)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
@pytest.mark.parametrize('part', [0.3, 0.7, 0.95])
def test_a_truncated_file_is_an_error_and_a_complete_one_is_not(tmp_path, kind, part):
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    assert is_complete(data) and is_complete(data + b'\0\0trailing')
    file = tmp_path / f'cut.{kind.lower()}'
    file.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(DataError, match=rf'truncated: .*cut\.{kind.lower()}'):
        LoadImage()({'img_path': str(file)})


def test_half_an_image_can_be_asked_for():
    data = encoded(np.full((64, 64, 3), 200, np.uint8), 'JPEG')
    found = LoadImage(allow_truncated=True)({'img_bytes': data[:-20]})['img']
    assert found.shape == (64, 64, 3)


@pytest.mark.parametrize('content, message', [
    (None, 'missing: '), (b'', 'empty: '), (b'<html>not found</html>', 'not an image'),
    (b'\xff\xd8\xff' + b'0' * 50 + b'\xff\xd9', 'not an image'),
])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_what_is_no_image_is_named(tmp_path, content, message, backend):
    file = tmp_path / 'bad.jpg'
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=rf'{message}.*bad\.jpg'):
        LoadImage(backend=backend)({'img_path': str(file)})


@pytest.mark.parametrize('reduce', [1, 2, 4])
@pytest.mark.parametrize('kind', ['plain', 'odd', 'gray', 'progressive', 'exif'])
def test_the_pixels_of_a_jpeg_do_not_depend_on_simplejpeg(monkeypatch, kind, reduce):
    pytest.importorskip('simplejpeg')
    image = cv2.resize(picture(), (91, 67) if kind == 'odd' else (96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {'exif': {'exif': exif}, 'progressive': {'progressive': True}}.get(kind, {})
    data = encoded(image[..., 0] if kind == 'gray' else image, 'JPEG', **options)
    called = []
    decode = loading.simplejpeg.decode_jpeg
    monkeypatch.setattr(loading.simplejpeg, 'decode_jpeg',
                        lambda *a, **k: called.append(1) or decode(*a, **k))
    with_it = decode_image(data, reduce=reduce)
    assert bool(called) == (kind != 'exif')
    monkeypatch.setattr(loading, 'simplejpeg', None)
    assert np.array_equal(with_it, decode_image(data, reduce=reduce))


def test_a_reduced_jpeg_is_near_the_shrunk_one():
    image = cv2.resize(picture(), (180, 120), interpolation=cv2.INTER_CUBIC)
    reduced = decode_image(encoded(image, 'JPEG', quality=95), reduce=2)
    expected = cv2.resize(image, (90, 60), interpolation=cv2.INTER_AREA)
    assert reduced.shape == (60, 90, 3)
    assert np.abs(reduced.astype(int) - expected).mean() < 2


def test_fast_decoding_is_near_the_exact_one_and_needs_simplejpeg(monkeypatch):
    image = cv2.resize(picture(), (180, 120), interpolation=cv2.INTER_CUBIC)
    data = encoded(image, 'JPEG', quality=90)
    exact, fast = decode_image(data), LoadImage(fast=True)({'img_bytes': data})['img']
    gap = np.abs(exact.astype(int) - fast)
    assert 0 < gap.mean() < 2
    monkeypatch.setattr(loading, 'simplejpeg', None)
    assert np.array_equal(decode_image(data, fast=True), exact)
    with pytest.raises(ValueError, match='fast needs'):
        LoadImage(fast=True, keep_depth=True)


def test_large_jpegs_are_decoded_smaller_where_that_is_asked_for():
    image = cv2.resize(picture(), (200, 120), interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, 'JPEG', quality=95)
    assert jpeg_size(data) == (120, 200) and jpeg_size(encoded(image)) is None
    for shrink_to, shape in ((70, (120, 200)), (60, (60, 100)), (29, (30, 50)), (1, (15, 25))):
        found = LoadImage(shrink_to=shrink_to)({'img_bytes': data})
        assert found['img'].shape == (*shape, 3) and found['img_shape'] == shape
        assert found['ori_shape'] == (120, 200)
        if shape != (120, 200):
            assert found['scale_factor'] == (shape[1] / 200, shape[0] / 120)
            expected = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(found['img'].astype(int) - expected).mean() < 2
    turned = LoadImage(shrink_to=60)({'img_bytes': encoded(image, 'JPEG', exif=exif)})
    assert turned['img'].shape == (100, 60, 3) and turned['ori_shape'] == (200, 120)
    whole = LoadImage(shrink_to=60)({'img_bytes': data, 'boxes': [[0, 0, 1, 1]]})
    assert whole['img'].shape == (120, 200, 3)


def annotated(**fields):
    return {'img': np.zeros((20, 30, 3), np.uint8), 'boxes': [[2, 3, 10, 8], [5, 5, 9, 9]],
            'labels': [1, 0], **fields}


def test_annotations_become_arrays():
    results = LoadAnnotations('xywh')(annotated(
        is_crowd=[0, 1], keypoints=[[1, 2, 2, 3, 4, 0]] * 2,
        segmentation=[[[2, 3, 12, 3, 12, 11, 2, 11]], {'size': [20, 30], 'counts': [600]}]))
    assert results['boxes'].tolist() == [[2, 3, 12, 11], [5, 5, 14, 14]]
    assert results['labels'].dtype == np.int64 and results['is_crowd'].tolist() == [False, True]
    assert results['keypoints'].shape == (2, 2, 3)
    assert results['masks'].shape == (2, 20, 30) and results['masks'].sum() == 80
    assert LoadAnnotations('cxcywh')(annotated())['boxes'][1].tolist() == [.5, .5, 9.5, 9.5]
    assert LoadAnnotations()(annotated(boxes=[], labels=[]))['boxes'].shape == (0, 4)


def test_invalid_boxes_are_dropped_or_named():
    bad = {'boxes': [[2, 3, 10, 8], [25, 5, 60, 9], [40, 0, 50, 9]], 'labels': [1, 0, 2]}
    results = LoadAnnotations()(annotated(**bad))
    assert results['boxes'].tolist() == [[2, 3, 10, 8], [25, 5, 30, 9]]
    assert results['labels'].tolist() == [1, 0]
    with pytest.raises(DataError, match=r'box 2 has no area inside the image of 30 x 20'):
        LoadAnnotations(drop_invalid=False)(annotated(**bad))


@pytest.mark.parametrize('fields, message', [
    ({'labels': [1]}, '2 boxes but 1 labels'), ({'boxes': [[1, 2, 3]]}, 'lists of four'),
    ({'boxes': [[0, 0, float('nan'), 3]] * 2}, 'finite'),
    ({'keypoints': [[1, 2], [3, 4]]}, 'x, y, visibility'),
    ({'segmentation': [[[1, 2, 3, 4]]] * 2}, 'at least three points'),
])
def test_annotations_that_do_not_fit_are_explained(fields, message):
    with pytest.raises(DataError, match=message):
        LoadAnnotations()(annotated(**fields))


def test_a_semantic_map_is_read_as_indices(tmp_path):
    indices = np.arange(600, dtype=np.uint8).reshape(20, 30) % 5
    image = Image.fromarray(indices)
    image.putpalette([i for c in range(256) for i in (c, 255 - c, 7)])
    image.save(tmp_path / 'map.png')
    results = LoadAnnotations(map_offset=-1)(annotated(seg_path=str(tmp_path / 'map.png')))
    assert np.array_equal(results['semantic_map'] == 255, indices == 0)
    assert np.array_equal(results['semantic_map'][indices > 0], indices[indices > 0] - 1)
    Image.fromarray(indices[:5]).save(tmp_path / 'small.png')
    with pytest.raises(DataError, match=r'\(5, 30\) but its image is \(20, 30\)'):
        LoadAnnotations()(annotated(seg_path=str(tmp_path / 'small.png')))


def test_packing_makes_a_valid_sample():
    results = LoadAnnotations('xywh')(annotated(
        label=3, img_path='a.png', depth=np.ones(4, np.float32),
        segmentation=[[[2, 3, 12, 3, 12, 11, 2, 11]]] * 2))
    packed = PackInputs(extra_keys=['depth'])(results)
    assert packed['inputs'].shape == (3, 20, 30)
    assert packed['inputs'].permute(1, 2, 0).is_contiguous()
    sample = packed['sample'].validate(num_classes=4)
    assert sample.label.item() == 3 and sample.meta['img_path'] == 'a.png'
    assert sample.masks.shape == (2, 20, 30) and sample.extra['depth'].tolist() == [1] * 4
    with pytest.raises(DataError, match='label must become a tensor'):
        PackInputs()({'img': picture(), 'label': 'cat'})


def test_normalize_is_mean_and_std():
    found = Normalize([1, 2, 3], [2, 4, 8])({'img': np.full((1, 1, 3), 11, np.uint8)})['img']
    assert found.dtype == np.float32 and found[0, 0].tolist() == [5, 2.25, 1]


def test_erasing_paints_one_rectangle_of_a_fitting_area():
    np.random.seed(0)
    for mode in ('const', 'noise'):
        image = np.full((50, 60, 3), 200, np.uint8)
        found = RandomErasing(1.0, mode=mode, fill=(1, 2, 3))({'img': image})['img']
        ys, xs = np.nonzero((found != 200).any(-1))
        window = found[ys.min():ys.max() + 1, xs.min():xs.max() + 1]
        assert 0.015 < window.shape[0] * window.shape[1] / 3000 < 0.34
        assert (window == [1, 2, 3]).all() if mode == 'const' else window.std() > 40
        assert (image == 200).all()


def test_composition_stops_at_none_and_choices_follow_their_odds():
    def add(amount):
        return lambda results: {**results, 'n': results['n'] + amount}

    assert Compose([add(1), lambda r: None, add(5)])({'n': 0}) is None
    np.random.seed(0)
    choice = RandomChoice([add(1), add(100)], probs=[3, 1])
    total = sum(choice({'n': 0})['n'] == 100 for _ in range(200))
    assert 35 < total < 65
    applied = sum(RandomApply([add(1)], 0.3)({'n': 0})['n'] for _ in range(200))
    assert 45 < applied < 75
    with pytest.raises(TypeError, match=r'pipeline\[0\]'):
        Compose([{'type': 'Resize'}])
