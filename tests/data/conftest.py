"""Tiny sets as ordinary files."""

import json

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 20, 10


def save_image(path, size=(WIDTH, HEIGHT), colour=(90, 60, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, colour).save(path)


def annotation(number, image, category, bbox, **more):
    return {'id': number, 'image_id': image, 'category_id': category, 'bbox': bbox,
            'area': bbox[2] * bbox[3], 'iscrowd': 0, **more}


def write_coco(folder, annotations, categories=((3, 'cat'), (7, 'dog'), (90, 'owl')),
               images=((11, 'a.png'), (12, 'b.png')), name='train.json'):
    content = {
        'images': [{'id': i, 'file_name': f, 'width': WIDTH, 'height': HEIGHT}
                   for i, f in images],
        'annotations': annotations,
        'categories': [{'id': i, 'name': n} for i, n in categories]}
    for _, file in images:
        save_image(folder / 'images' / file)
    (folder / name).write_text(json.dumps(content))
    return content


def write_voc(folder, objects, names=('a', 'b')):
    """``objects``: for each name a list of (class, four corners as in the file, difficult)."""
    for kind in ('Annotations', 'ImageSets/Main'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name, found in zip(names, objects):
        save_image(folder / 'JPEGImages' / f'{name}.jpg')
        rows = ''.join(
            f'<object><name>{label}</name><difficult>{int(difficult)}</difficult><bndbox>'
            + ''.join(f'<{k}>{v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
            + '</bndbox></object>' for label, box, difficult in found)
        (folder / 'Annotations' / f'{name}.xml').write_text(
            f'<annotation><filename>{name}.jpg</filename><size><width>{WIDTH}</width><height>'
            f'{HEIGHT}</height><depth>3</depth></size>{rows}</annotation>')
    (folder / 'ImageSets' / 'Main' / 'train.txt').write_text('\n'.join(names) + '\n')


def write_yolo(folder, lines, names=('cat', 'dog')):
    """``lines``: text of the file of each image, ``None`` for no file."""
    for number, text in enumerate(lines):
        save_image(folder / 'images' / 'train' / f'{number}.png')
        if text is not None:
            file = folder / 'labels' / 'train' / f'{number}.txt'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    (folder / 'data.yaml').write_text(f'names: {list(names)}\n')


def write_pairs(folder, masks, part='train'):
    for number, mask in enumerate(masks):
        save_image(folder / 'images' / part / f'{number}.jpg', mask.shape[::-1])
        file = folder / 'masks' / part / f'{number}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(file)


@pytest.fixture
def files():
    """The writers above, as one object."""
    class Files:
        size = (HEIGHT, WIDTH)
        image = staticmethod(save_image)
        annotation = staticmethod(annotation)
        coco = staticmethod(write_coco)
        voc = staticmethod(write_voc)
        yolo = staticmethod(write_yolo)
        pairs = staticmethod(write_pairs)

        @staticmethod
        def reasons(dataset):
            return sorted(d.reason for d in dataset.dropped)

        @staticmethod
        def array(*rows):
            return np.array(rows)

    return Files
