import numpy as np
import pytest

from openlab.data.errors import DataError
from openlab.data.transforms.image_labels import GatherLabels
from openlab.data.transforms.packing import PackInputs


@pytest.mark.parametrize(('crowd', 'value'), [('unknown', -1), ('present', 1), ('absent', 0)])
def test_classes_of_objects_become_labels_of_the_image(marked, crowd, value):
    results = GatherLabels(9, crowd)(marked())  # object 7 is plain, object 3 a crowd
    assert results['label_probs'].tolist() == [0, 0, 0, value, 0, 0, 0, 1, 0]
    sample = PackInputs()(results)['sample']
    assert sample.boxes is None and sample.labels is None and sample.masks is None


def test_a_plain_object_makes_its_class_known_whatever_crowds_there_are():
    results = {'labels': [1, 1, 0], 'is_crowd': [True, False, True]}
    assert GatherLabels(3)(results)['label_probs'].tolist() == [-1, 1, 0]


def test_no_objects_are_no_labels_and_no_truth_passes_as_it_is():
    assert GatherLabels(2)({'labels': np.zeros(0)})['label_probs'].tolist() == [0, 0]
    assert GatherLabels(2)({'img': 1}) == {'img': 1}


def test_classes_beyond_the_number_are_told():
    with pytest.raises(DataError, match='class 5, but GatherLabels has num_classes=5'):
        GatherLabels(5)({'labels': [5]})
    with pytest.raises(ValueError, match="'unknown', 'present' or 'absent', got 'maybe'"):
        GatherLabels(5, 'maybe')
