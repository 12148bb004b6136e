from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from openlab.engine.checks import check_classes, metainfo_of


def model(num_classes):
    net = nn.Module()
    net.head = nn.Linear(1, 1)
    net.head.num_classes = num_classes
    return net


def loader(labels, classes=()):
    dataset = SimpleNamespace(labels=lambda: labels, metainfo={'classes': classes})
    return SimpleNamespace(dataset=dataset, metainfo=dataset.metainfo)


def test_a_head_must_have_as_many_classes_as_the_data():
    with pytest.raises(ValueError, match=r'model.head.num_classes=5, but the dataset has 2 classes '
                                         r'\(a, b\); set it to 2'):
        check_classes(model(5), loader([0, 1], ('a', 'b')))


def test_data_that_are_only_evaluated_do_not_tell_the_model_what_it_should_be():
    with pytest.raises(ValueError, match=r'has 2 classes .*if the model was trained on 5, give '
                                         r'the dataset the same classes') as error:
        check_classes(model(5), loader([0, 1], ('a', 'b')), trains=False)
    assert 'set it to' not in str(error.value)


@pytest.mark.parametrize('labels', [np.array([0, 1, 2]), [[0], [1, 2]], [0, 1, 2]])
def test_labels_outside_the_classes_are_named_before_the_first_step(labels):
    with pytest.raises(ValueError, match=r'1 labels of SimpleNamespace lie outside 0 to 1: \[2\]'):
        check_classes(model(2), loader(labels, ('a', 'b')))


def test_labels_that_begin_at_one_are_recognised():
    with pytest.raises(ValueError, match='do the labels begin at 1'):
        check_classes(model(2), loader([1, 2, 1], ('a', 'b')))


def test_what_fits_passes_and_what_is_unknown_is_not_guessed():
    check_classes(model(2), loader([0, 1], ('a', 'b')))
    check_classes(model(2), SimpleNamespace(dataset=[1, 2]))
    check_classes(nn.Linear(1, 1), loader([7]))
    assert metainfo_of(SimpleNamespace(dataset=[])) == {}
