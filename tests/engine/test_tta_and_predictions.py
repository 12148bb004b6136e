from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from openlab.engine.predictions import plain_sample, read, write
from openlab.engine.tta import TestTimeAugmentation, View
from openlab.structures.data_sample import DataSample


class LeftRight(nn.Module):
    """Class 0 where the left half is brighter; probabilities are the mean of each half."""

    def forward(self, inputs, samples, mode):
        assert mode == 'predict'
        half = inputs.shape[-1] // 2
        sides = torch.stack([inputs[..., :half].mean((1, 2, 3)),
                             inputs[..., half:].mean((1, 2, 3))], 1)
        return [DataSample(meta=s.meta, label=p.argmax(), label_probs=p)
                for p, s in zip(sides, samples)]


def batch():
    inputs = torch.zeros(1, 3, 4, 4)
    inputs[..., :2] = 0.8
    inputs[..., 2:] = 0.2
    return {'inputs': inputs, 'samples': [DataSample(meta={'img_id': 5})]}


def test_probabilities_of_the_views_are_averaged():
    [merged] = TestTimeAugmentation(flip=True).predict(LeftRight(), batch())
    assert torch.allclose(merged.label_probs, torch.tensor([0.5, 0.5]))
    assert merged.meta == {'img_id': 5}


def test_views_are_all_scales_with_and_without_flip():
    tta = TestTimeAugmentation(flip=True, scales=(1.0, 2.0), divisor=4)
    assert tta.views == [View(1.0, False), View(1.0, True), View(2.0, False), View(2.0, True)]
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert tta.apply(image, View(2.0, False)).shape == (1, 1, 8, 8)
    assert torch.equal(tta.apply(image, View(1.0, True))[0, 0, 0], torch.tensor([3.0, 2, 1, 0]))


def test_an_algorithm_merges_by_its_own_method_and_knows_the_views():
    class Own(LeftRight):
        def merge_augmented(self, predictions):
            self.views = [p[0].meta['view'] for p in predictions]
            return predictions[0]

    model = Own()
    [merged] = TestTimeAugmentation(flip=True).predict(model, batch())
    assert model.views == [{'scale': 1.0, 'flip': False}, {'scale': 1.0, 'flip': True}]
    assert merged.label == 0
    assert 'view' not in merged.meta


def test_predictions_without_probabilities_cannot_be_merged():
    class NoProbs(LeftRight):
        def forward(self, inputs, samples, mode):
            return [DataSample(label=torch.tensor(0)) for _ in samples]

    with pytest.raises(ValueError, match='merges by label_probs'):
        TestTimeAugmentation().predict(NoProbs(), batch())


@pytest.mark.parametrize('suffix', ['.pt', '.pkl', '.json'])
def test_a_dump_gives_back_what_was_predicted(tmp_path, suffix):
    truth = DataSample(meta={'img_path': 'a.png', 'ori_shape': (4, 5)}, label=torch.tensor(1),
                       boxes=torch.rand(0, 4))
    found = DataSample(label=torch.tensor(2), label_probs=torch.tensor([0.1, 0.2, 0.7]))
    file = tmp_path / f'p{suffix}'
    write(file, [{'prediction': plain_sample(found), 'sample': plain_sample(truth)}],
          {'classes': ('a', 'b', 'c')})
    [(prediction, sample)], meta = read(file)
    assert meta == {'classes': ['a', 'b', 'c']}
    assert torch.equal(prediction.label_probs, found.label_probs)
    assert prediction.label.item() == 2
    assert sample.boxes.shape == (0, 4)
    assert sample.meta == {'img_path': 'a.png', 'ori_shape': [4, 5]}


def test_numpy_values_in_a_dump_become_plain():
    sample = DataSample(meta={'n': np.int64(3), 'scale': np.array([1.0, 2.0])})
    meta = plain_sample(sample)['meta']
    assert meta['n'] == 3
    assert type(meta['n']) is int
    assert torch.equal(meta['scale'], torch.tensor([1.0, 2.0], dtype=torch.float64))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'ending in \.pt, \.pkl, \.json'):
        read(tmp_path / 'p.csv')
    with pytest.raises(FileNotFoundError):
        read(tmp_path / 'p.pt')
    (tmp_path / 'p.json').write_text('{}')
    with pytest.raises(ValueError, match='holds no predictions'):
        read(tmp_path / 'p.json')
