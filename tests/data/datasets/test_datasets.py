import csv
import gzip
import io
import json
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from openlab.data.datasets.cifar import Cifar10, Cifar100, load_plain_pickle
from openlab.data.datasets.digits import Digits, stratified_split
from openlab.data.datasets.image_folder import ImageFolder
from openlab.data.datasets.imagenet import ImageNet
from openlab.data.datasets.lists import CsvDataset, JsonDataset
from openlab.data.datasets.mnist import FashionMnist, Mnist, read_idx
from openlab.data.errors import DataError
from openlab.data.paths import relative_to
from openlab.data.transforms.annotations import LoadAnnotations
from openlab.data.transforms.loading import LoadImage
from openlab.data.transforms.packing import PackInputs

PIPELINE = [LoadImage(), PackInputs()]


def save(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (6, 4), color).save(path)


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / 'dog' / '1.png', (10, 0, 0))
    save(tmp_path / 'cat' / 'deep' / '2.PNG', (20, 0, 0))
    save(tmp_path / 'cat' / '3.png', (30, 0, 0))
    (tmp_path / 'cat' / 'notes.txt').write_text('x')
    (tmp_path / 'empty').mkdir()
    return tmp_path


def test_an_image_folder_takes_classes_from_folder_names(folder):
    dataset = ImageFolder(data_root=folder, pipeline=PIPELINE)
    assert dataset.metainfo['classes'] == ('cat', 'dog', 'empty')
    assert [dataset.get_info(i)['img_path'] for i in range(len(dataset))] == [
        'cat/3.png', 'cat/deep/2.PNG', 'dog/1.png']
    assert list(dataset.labels()) == [0, 0, 1]
    item = dataset[2]
    assert item['inputs'][0, 0, 0] == 10 and item['sample'].label == 1
    reasons = {d.source.rsplit('/', 1)[-1]: d.reason for d in dataset.dropped}
    assert reasons == {'notes.txt': "suffix '.txt' is not one of an image",
                       'empty': 'class folder has no images'}


def test_the_config_can_choose_and_order_classes(folder):
    dataset = ImageFolder(data_root=folder, classes=['dog', 'cat'])
    assert list(dataset.labels()) == [1, 1, 0]
    with pytest.raises(DataError, match="'cats', which the files do not have; did you mean cat"):
        len(ImageFolder(data_root=folder, classes=['cats']))
    with pytest.raises(ValueError, match='repeated'):
        ImageFolder(data_root=folder, classes=['cat', 'cat'])


def test_a_missing_folder_lists_near_names(folder):
    with pytest.raises(FileNotFoundError, match=r'no such file or folder: .*dgo; .* has dog'):
        len(ImageFolder('dgo', data_root=folder))


def test_an_empty_dataset_says_what_was_dropped(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'x.txt').write_text('')
    with pytest.raises(DataError, match=r"(?s)no items.*all 2 annotations were dropped.*'\.txt'"):
        len(ImageFolder(data_root=tmp_path))
    (tmp_path / 'flat').mkdir()
    with pytest.raises(DataError, match=r'no class folders; ImageFolder expects'):
        len(ImageFolder('flat', data_root=tmp_path))


def test_a_relative_root_is_also_looked_for_beside_the_config(folder, monkeypatch):
    monkeypatch.chdir('/')
    with relative_to(folder.parent / 'config.py'):
        dataset = ImageFolder(data_root=folder.name)
    assert len(dataset) == 3
    assert not ImageFolder(data_root=folder.name).data_root.exists()


def write_csv(path, rows):
    with path.open('w', newline='') as stream:
        csv.writer(stream).writerows(rows)


def test_a_csv_list_reads_names_and_reports_bad_lines(folder):
    write_csv(folder / 'list.csv', [
        ['file', 'kind', 'weight'], ['dog/1.png', 'dog', '3'], ['', 'cat', '1'],
        ['cat/3.png', 'cat', '2'], ['x.png', '', '1'], ['only.png']])
    dataset = CsvDataset('list.csv', folder, pipeline=PIPELINE, path_field='file',
                         label_field='kind')
    assert dataset.metainfo['classes'] == ('cat', 'dog')
    assert list(dataset.labels()) == [1, 0]
    assert dataset.get_info(0)['weight'] == '3'
    assert sorted(str(d).split('list.csv, ')[1] for d in dataset.dropped) == [
        "line 3: no 'file' (fields: file, kind, weight)", "line 5: 'kind' is empty",
        'line 6: not 3 columns']
    assert dataset[1]['inputs'][0, 0, 0] == 30
    with pytest.raises(DataError, match=r"no column 'img_path'.*set path_field"):
        len(CsvDataset('list.csv', folder))


def test_numbers_as_classes_are_ordered_as_numbers(folder):
    write_csv(folder / 'n.csv', [['img_path', 'label'], ['a', '10'], ['b', '9'], ['c', '2']])
    assert CsvDataset('n.csv', folder).metainfo['classes'] == ('2', '9', '10')


@pytest.mark.parametrize('damage, message', [
    ('missing', 'image file is missing'), ('truncated', 'truncated'), ('text', 'not an image')])
def test_a_bad_file_is_named_with_its_line(folder, damage, message):
    write_csv(folder / 'list.csv', [['img_path', 'label'], ['cat/3.png', 'c'], ['dog/1.png', 'd']])
    file = folder / 'dog' / '1.png'
    data = file.read_bytes()
    file.unlink()
    if damage != 'missing':
        file.write_bytes(data[:40] if damage == 'truncated' else b'hello')
    dataset = CsvDataset('list.csv', folder, pipeline=PIPELINE)
    assert dataset[0] is not None
    with pytest.raises(DataError, match=rf'{message}.*1\.png.*annotation: .*list\.csv, line 3'):
        dataset[1]


def test_json_lists_and_lines_agree(folder):
    items = [{'img_path': 'dog/1.png', 'label': 'dog'}, {'img_path': 'cat/3.png', 'label': 'cat'}]
    (folder / 'a.json').write_text(json.dumps(items))
    (folder / 'b.json').write_text(json.dumps({'classes': ['dog', 'cat'], 'items': items}))
    (folder / 'c.jsonl').write_text('\n'.join(map(json.dumps, items)) + '\n\n{oops\n[1]\n')
    plain, named, lines = (JsonDataset(f, folder) for f in ('a.json', 'b.json', 'c.jsonl'))
    assert list(plain.labels()) == list(lines.labels()) == [1, 0]
    assert list(named.labels()) == [0, 1] and named.metainfo['classes'] == ('dog', 'cat')
    assert [d.source.rsplit(', ')[-1] for d in lines.dropped] == ['line 4', 'line 5']
    assert plain.source(1).endswith('a.json, entry 1')
    (folder / 'd.json').write_text('{"a": 1}')
    with pytest.raises(DataError, match="an object with 'items'"):
        len(JsonDataset('d.json', folder))
    (folder / 'e.json').write_text('{')
    with pytest.raises(DataError, match=r'e\.json is not JSON'):
        len(JsonDataset('e.json', folder))


def test_several_labels_become_a_vector(folder):
    (folder / 'a.json').write_text(json.dumps([
        {'img_path': 'dog/1.png', 'label': ['dog', 'brown']},
        {'img_path': 'cat/3.png', 'label': []}]))
    dataset = JsonDataset('a.json', folder, pipeline=PIPELINE, multi_label=True)
    assert dataset.metainfo['classes'] == ('brown', 'dog')
    assert dataset[0]['sample'].label_probs.tolist() == [1, 1]
    assert dataset[1]['sample'].label_probs.tolist() == [0, 0]
    write_csv(folder / 'm.csv', [['img_path', 'label'], ['a', 'x|y'], ['b', 'y'], ['c', '']])
    assert list(CsvDataset('m.csv', folder, multi_label=True).labels()) == [[0, 1], [1], []]


def test_json_carries_boxes_through_to_the_sample(folder):
    (folder / 'a.json').write_text(json.dumps([
        {'img_path': 'dog/1.png', 'boxes': [[0, 0, 3, 3]], 'labels': [4]},
        {'img_path': 'cat/3.png', 'boxes': [], 'labels': []}]))
    dataset = JsonDataset('a.json', folder, pipeline=[LoadImage(), LoadAnnotations(), PackInputs()])
    assert dataset[0]['sample'].boxes.tolist() == [[0, 0, 3, 3]]
    assert dataset[0]['sample'].labels.tolist() == [4]
    assert dataset[1]['sample'].validate().boxes.shape == (0, 4)


def cifar_arrays(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 10, count), rng.integers(0, 256, (count, 3072), dtype=np.uint8)


def test_cifar_reads_the_binary_and_the_python_version_alike(tmp_path):
    names = [f'class{i}' for i in range(10)]
    parts = [cifar_arrays(4, seed) for seed in range(6)]
    binary, python = tmp_path / 'b', tmp_path / 'p' / 'cifar-10-batches-py'
    binary.mkdir()
    python.mkdir(parents=True)
    for number, (labels, pixels) in enumerate(parts, start=1):
        name = f'data_batch_{number}' if number < 6 else 'test_batch'
        rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
        (binary / f'{name}.bin').write_bytes(rows.tobytes())
        content = {b'labels': labels.tolist(), b'data': pixels}
        (python / name).write_bytes(pickle.dumps(content, protocol=2))
    (binary / 'batches.meta.txt').write_text('\n'.join(names) + '\n')
    meta = {b'label_names': [n.encode() for n in names]}
    (python / 'batches.meta').write_bytes(pickle.dumps(meta, protocol=2))
    first = Cifar10('train', binary, [PackInputs()])
    second = Cifar10('train', tmp_path / 'p', [PackInputs()])
    assert len(first) == len(second) == 20 and len(Cifar10('test', binary)) == 4
    assert first.metainfo['classes'] == second.metainfo['classes'] == tuple(names)
    for i in (0, 19):
        assert torch.equal(first[i]['inputs'], second[i]['inputs'])
        assert first[i]['sample'].label == second[i]['sample'].label
    expected = parts[0][1][0].reshape(3, 32, 32)
    assert np.array_equal(first[0]['inputs'].numpy(), expected)
    archive = tmp_path / 'a' / 'cifar-10-binary.tar.gz'
    archive.parent.mkdir()
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(binary, 'cifar-10-batches-bin')
    packed = Cifar10('test', archive.parent, [PackInputs()])
    assert torch.equal(packed[3]['inputs'], Cifar10('test', binary, [PackInputs()])[3]['inputs'])
    (binary / 'test_batch.bin').write_bytes(b'123')
    with pytest.raises(DataError, match=r'test_batch\.bin is truncated'):
        len(Cifar10('test', binary))


def test_cifar100_takes_the_fine_label(tmp_path):
    row = np.concatenate([[7, 42], np.arange(3072) % 256]).astype(np.uint8)
    (tmp_path / 'test.bin').write_bytes(row.tobytes())
    (tmp_path / 'fine_label_names.txt').write_text('\n'.join(f'n{i}' for i in range(100)))
    dataset = Cifar100('test', tmp_path)
    assert list(dataset.labels()) == [42] and len(dataset.metainfo['classes']) == 100


def test_missing_cifar_files_are_explained_without_a_download(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'neither .*nothing is downloaded by itself'):
        len(Cifar10('train', tmp_path))


class Attack:
    def __reduce__(self):
        return (print, ('executed',))


def test_a_pickle_with_code_is_refused(capsys):
    with pytest.raises(DataError, match=r'asks for __builtin__\.print|asks for builtins\.print'):
        load_plain_pickle(pickle.dumps({b'data': Attack()}, protocol=2))
    assert 'executed' not in capsys.readouterr().out
    with pytest.raises(DataError, match='not a pickle'):
        load_plain_pickle(b'nonsense')


def idx(array):
    kind = {np.dtype('u1'): 8, np.dtype('>i4'): 12}[array.dtype]
    return struct.pack('>BBBB', 0, 0, kind, array.ndim) + struct.pack(
        f'>{array.ndim}I', *array.shape) + array.tobytes()


@pytest.mark.parametrize('dataset_class', [Mnist, FashionMnist])
def test_idx_files_are_read_raw_and_gzipped(tmp_path, dataset_class):
    images = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    labels = np.array([5, 0, 9], np.uint8)
    (tmp_path / 't10k-images-idx3-ubyte.gz').write_bytes(gzip.compress(idx(images)))
    (tmp_path / 't10k-labels.idx1-ubyte').write_bytes(idx(labels))
    dataset = dataset_class('test', tmp_path, [PackInputs()])
    assert len(dataset) == 3 and list(dataset.labels()) == [5, 0, 9]
    assert len(dataset.metainfo['classes']) == 10
    assert np.array_equal(dataset[1]['inputs'][2].numpy(), images[1])
    with pytest.raises(FileNotFoundError, match='train-images-idx3-ubyte'):
        len(dataset_class('train', tmp_path))


def test_idx_files_of_other_types_and_damaged_ones(tmp_path):
    file = tmp_path / 'x'
    file.write_bytes(idx(np.array([[1, -2]], '>i4')))
    assert read_idx(file).tolist() == [[1, -2]]
    for content, message in ((b'abcd', 'no IDX file'), (idx(np.zeros(9, 'u1'))[:-1], 'truncated'),
                             (gzip.compress(b'x' * 99)[:20], 'damaged or truncated'),
                             (b'\0\0\x08\x03\0', 'truncated')):
        file.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_idx(file)


def test_imagenet_reads_class_folders_lists_and_names(tmp_path):
    save(tmp_path / 'train' / 'n02' / 'a.JPEG', (1, 1, 1))
    save(tmp_path / 'train' / 'n01' / 'b.JPEG', (1, 1, 1))
    save(tmp_path / 'val' / 'v1.JPEG', (1, 1, 1))
    (tmp_path / 'val.txt').write_text('v1.JPEG n02\nv2.JPEG 0\nv3.JPEG n99\n')
    (tmp_path / 'names.txt').write_text('n01 tench, Tinca tinca\nn02 goldfish\n')
    train = ImageNet('train', tmp_path, name_file='names.txt')
    val = ImageNet('val', tmp_path, val_list='val.txt', name_file='names.txt')
    assert train.metainfo['classes'] == val.metainfo['classes'] == ('tench', 'goldfish')
    assert val.metainfo['wnids'] == ('n01', 'n02')
    assert list(train.labels()) == [0, 1] and list(val.labels()) == [1, 0]
    assert [d.source.rsplit(', ')[-1] for d in val.dropped] == ['line 3']
    assert val.get_info(0)['img_path'] == 'val/v1.JPEG'


def test_digits_split_is_fixed_stratified_and_disjoint():
    train, val, both = (Digits(s) for s in ('train', 'val', 'all'))
    assert (len(train), len(val), len(both)) == (1348, 449, 1797)
    ids = [{d.get_info(i)['img_id'] for i in range(len(d))} for d in (train, val)]
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 1797
    shares = np.bincount(val.labels()) / np.bincount(both.labels())
    assert np.abs(shares - 0.25).max() < 0.01
    assert sorted(ids[1])[:5] == sorted({val.get_info(i)['img_id'] for i in range(449)})[:5]
    image = val.prepare(0)['img']
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8 and image.max() > 200


def test_a_stratified_split_has_the_exact_size():
    labels = np.repeat([0, 1, 2], [50, 30, 21])
    chosen = stratified_split(labels, 0.25, seed=0)
    assert chosen.sum() == 25
    assert np.abs(np.bincount(labels[chosen]) - np.array([12.5, 7.5, 5.25])).max() <= 1


def test_reading_annotations_needs_no_image(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps([{'img_path': 'nowhere.jpg', 'label': 'x'}]))
    dataset = JsonDataset('a.json', tmp_path, pipeline=PIPELINE)
    assert dataset.get_info(0)['img_path'] == 'nowhere.jpg'
    assert io.StringIO(repr(dataset.pipeline)).read().startswith('Compose(')


def test_an_unknown_label_among_known_ones_is_told_with_its_line(folder):
    (folder / 'u.csv').write_text('img_path,label\na.png,cat|dgo\nb.png,dog\nc.png,cot\n')
    dataset = CsvDataset('u.csv', folder, multi_label=True, classes=['dog', 'cat'])
    assert list(dataset.labels()) == [[1], [0]]
    file = folder / 'u.csv'
    assert [str(d) for d in dataset.dropped] == [
        f'{file}, line 2: class dgo is not in classes (dog, cat); did you mean dog?; the item is '
        f'kept with cat',
        f'{file}, line 4: class cot is not in classes (dog, cat); did you mean cat?']
