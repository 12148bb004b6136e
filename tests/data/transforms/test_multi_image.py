import numpy as np
import pytest

from openlab.data.datasets.multi_image import MultiImageDataset
from openlab.data.errors import DataError
from openlab.data.seeding import reseed
from openlab.data.transforms.crop import Pad
from openlab.data.transforms.multi_image import BoxMixUp, CopyPaste, Mosaic, fit_into
from openlab.data.transforms.packing import PackInputs


class Marked:
    """Items whose colours tell where each object is; a hundred, each slightly different."""

    def __init__(self, make):
        self.make = make
        self.metainfo = {'classes': tuple('abcdefgh')}

    def __len__(self):
        return 100

    def source(self, index):
        return f'item {index}'

    def __getitem__(self, index):
        results = self.make()
        results['img'][..., 2] = index
        results['ann_ids'] = np.array([index, index])
        return results


def mixed(marked, transform, seed=0, index=5):
    reseed(seed, 0, 0)
    return MultiImageDataset(Marked(marked), [transform])[index]


@pytest.mark.parametrize('seed', range(4))
def test_a_mosaic_carries_everything_of_its_four_pieces(marked, assert_all_follow, seed):
    results = mixed(marked, Mosaic((96, 128), min_visible=0), seed)
    assert results['img_shape'] == results['ori_shape'] == (96, 128)
    assert 'matrix' not in results and len(results['labels']) >= 4
    assert 'keypoints' in results and len(results['is_crowd']) == len(results['boxes'])
    for box, mask, label in zip(results['boxes'], results['masks'], results['labels']):
        ys, xs = np.nonzero(mask)
        around = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.abs(box - around).max() <= 1
        channel = {7: 0, 3: 1}[int(label)]
        inside = mask > 0
        assert (results['img'][inside, channel] > 127).mean() > 0.85
        assert (results['semantic_map'][inside] == channel + 1).all()
    # The four pieces meet at one point, each in its own corner.
    corners = [results['img'][y, x, 2] for y, x in ((1, 1), (1, -2), (-2, 1), (-2, -2))]
    assert set(results['ann_ids'].tolist()) <= {5, *map(int, corners), *results['img'][..., 2]
                                                .ravel().tolist()}


def test_mosaic_drops_what_the_seams_cut_off(marked):
    many = [len(mixed(marked, Mosaic(96, min_visible=0), seed)['boxes']) for seed in range(8)]
    few = [len(mixed(marked, Mosaic(96, min_visible=0.95), seed)['boxes']) for seed in range(8)]
    assert all(f <= m for f, m in zip(few, many)) and sum(few) < sum(many)


def test_mixup_blends_and_keeps_the_objects_of_both(marked):
    def make():
        results = marked()
        results.pop('semantic_map')
        return results

    results = mixed(make, BoxMixUp(share=0.75))
    first, second = results['ann_ids'].tolist()[0], results['ann_ids'].tolist()[-1]
    assert first == 5 and len(results['boxes']) == len(results['masks']) == 4
    blue = results['img'][0, 0, 2]
    assert abs(int(blue) - (0.75 * 5 + 0.25 * second)) <= 1
    with pytest.raises(DataError, match=r'cannot blend maps of classes.*annotation: item 5'):
        mixed(marked, BoxMixUp())


def paste_onto(base, other, transform):
    reseed(1, 0, 0)
    base['others'] = [other]
    return transform(base)


def moved_by(results, x):
    """The same item with its objects x pixels further to the right."""
    for key in ('img', 'masks', 'semantic_map'):
        axis = -2 if key == 'img' else -1
        results[key] = np.roll(results[key], x, axis=axis)
    results['boxes'] = results['boxes'] + np.array([x, 0, x, 0], np.float32)
    return results


class PasteAll(CopyPaste):
    def _choose(self, other):
        """All but crowds."""
        from openlab.data.transforms.geometry import select_objects
        select_objects(other, ~other['is_crowd'])


def test_pasted_objects_cover_what_was_there(marked):
    base, other = marked(), moved_by(marked(), 8)
    base['img'][..., 2], other['img'][..., 2] = 10, 99
    before = base['img'].copy()
    untouched = before
    results = paste_onto(base, other, PasteAll(min_visible=0, min_area=0))
    assert results['labels'].tolist() == [7, 3, 7]  # the crowd (3) of the other is not pasted
    covered, _, pasted = results['masks']
    assert results['boxes'][0].tolist() == [10, 8, 18, 20]  # was 10 to 26
    assert results['boxes'][2].tolist() == [18, 8, 34, 20]
    assert not (covered & pasted).any() and pasted.sum() == 16 * 12
    assert (results['img'][pasted > 0, 2] == 99).all() and (results['img'][pasted == 0, 2]
                                                            == 10).all()
    assert (results['semantic_map'][pasted > 0] == 1).all()
    assert np.array_equal(untouched, before)


def test_objects_that_hardly_show_any_more_go(marked):
    results = paste_onto(marked(), moved_by(marked(), 1), PasteAll(min_visible=0.1))
    assert results['labels'].tolist() == [3, 7]  # one column of sixteen is left: less than 0.1


def test_copy_paste_chooses_at_random_and_without_masks_says_so(marked):
    def free():  # nothing covers the other's objects, which lie where this one has none
        return moved_by(marked(), 8)

    counts = set()
    for seed in range(12):
        np.random.seed(seed)
        results = {**marked(), 'others': [free()]}
        counts.add(len(CopyPaste(min_visible=0, min_area=0)(results)['labels']))
    assert counts == {2, 3}  # the crowd is never pasted

    def without():
        results = marked()
        results.pop('masks')
        return results

    with pytest.raises(DataError, match='CopyPaste needs masks; give the dataset with_masks=True'):
        mixed(without, CopyPaste())


def test_others_depend_on_the_seed_of_the_item_alone(marked):
    dataset = MultiImageDataset(Marked(marked), [Mosaic(64), PackInputs()])
    items = []
    for seed, first in ((3, 0), (3, 50), (4, 0)):
        dataset[first]  # whatever was made before
        reseed(seed, 1, 7)
        items.append(dataset[20])
    same, again, different = (i['inputs'].numpy() for i in items)
    assert np.array_equal(same, again) and not np.array_equal(same, different)


def test_probability_zero_asks_for_no_other_item(marked):
    calls = []

    class Counting(Marked):
        def __getitem__(self, index):
            calls.append(index)
            return super().__getitem__(index)

    results = MultiImageDataset(Counting(marked), [Mosaic(64, prob=0.0)])[3]
    assert calls == [3] and results['img'].shape == (48, 64, 3) and 'others' not in results


def test_wrong_places_are_told(marked):
    with pytest.raises(DataError, match='Mosaic needs other items: put it into the pipeline of a '
                                        'MultiImageDataset'):
        Mosaic(64)(marked())

    class Packed(Marked):
        def __getitem__(self, index):
            return PackInputs()(super().__getitem__(index))

    with pytest.raises(TypeError, match='move PackInputs to the pipeline of the MultiImage'):
        MultiImageDataset(Packed(marked), [Mosaic(64)])[0]
    with pytest.raises(ValueError, match='0 < low <= high < 1'):
        Mosaic(64, center_range=(0, 0.5))


def test_fitting_keeps_the_ratio_and_pads(marked, assert_all_follow):
    results = fit_into(marked(), (48, 128))
    assert results['img'].shape == (48, 128, 3) and not results['img'][:, 64:].any()
    assert_all_follow(results)
    bigger = fit_into(marked(), (100, 130))
    assert_all_follow(bigger, slack=2.5)
    assert Pad(size=(48, 128))(marked())['img'].shape == results['img'].shape
