import pytest

from openlab.zoo.index import rows
from openlab.zoo.metric_direction import lower_is_better


@pytest.mark.parametrize('name', [
    'FID', 'FID50k', 'FID-Full-50K', 'FID (Our Pipeline)', 'EPE', 'per_image_epe', 'Fl-all', 'MSE',
    'MAE', 'NME blur', 'PA-MPJPE', 'NIQE (Y)', 'perplexity', 'WER', 'l1 error', 'RMSE', 'SAD'])
def test_errors_and_distances_are_better_low(name):
    assert lower_is_better(name)


@pytest.mark.parametrize('name', [
    'top1', 'box AP', 'mIoU(ms+flip)', 'PSNR (Y)', 'MS-SSIM', 'IS', 'Mean@0.1', 'MOTA', 'NRQM (Y)',
    'Recall@1', 'PCK@0.2', 'CIDER', 'Precision', 'Face AP'])
def test_all_others_are_better_high(name):
    assert not lower_is_better(name)


def test_the_names_of_the_index_that_are_better_low_are_these():
    known = {result.metric for row in rows() for result in row.results}
    assert {name for name in known if lower_is_better(name)} == {
        name for name in known if any(word in name for word in (
            'FID', 'EPE', 'epe', 'Fl-all', 'fl_all', 'MSE', 'MAE', 'NME', 'PJPE', 'PVE', 'NIQE',
            'BRISQUE', 'PI (Y)', 'error', 'SAD', 'GRAD', 'CONN', 'MRRPE', 'MdR', 'MnR',
            'Robustness'))}
