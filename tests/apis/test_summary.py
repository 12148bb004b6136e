from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from openlab.apis.summary import (
    aligned,
    best_checkpoint,
    metric_table,
    print_summary,
    write_png,
)
from openlab.data.dataloader import DataLoader
from openlab.structures.data_sample import DataSample
from openlab.visualization.draw import RIGHT, WRONG

HISTORY = [
    {'stage': 'val', 'epoch': 1, 'iter': 10, 'accuracy/top1': 0.5, 'ece': 0.2},
    {'stage': 'val', 'epoch': 2, 'iter': 20, 'accuracy/top1': 0.9, 'ece': 0.1},
    {'stage': 'val', 'epoch': 3, 'iter': 30, 'accuracy/top1': 0.8, 'ece': 0.3}]


def test_the_table_gives_last_and_best_in_the_direction_of_each_metric():
    lines = [line.split() for line in metric_table(HISTORY)]
    assert lines[2] == ['accuracy/top1', '0.8000', '0.9000', 'epoch', '2,', 'iter', '20']
    assert lines[3] == ['ece', '0.3000', '0.1000', 'epoch', '2,', 'iter', '20']
    assert metric_table([]) == []


def test_a_test_is_shown_where_there_was_no_validation():
    assert 'top1' in metric_table([{'stage': 'test', 'epoch': 0, 'iter': 0, 'top1': 0.5}])[2]


def test_numbers_of_a_table_stand_to_the_right():
    assert aligned([('a', 'n'), ('x', '1.0'), ('y', '10.0')]) == [
        'a     n', '-------', 'x   1.0', 'y  10.0']


class Shades(torch.utils.data.Dataset):
    """Item i is an image of grey 20 i; its label is i."""

    metainfo = {'classes': ('black', 'dark', 'grey', 'light')}  # noqa: RUF012

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = torch.full((3, 8, 8), 20 * index, dtype=torch.uint8)
        return {'inputs': image, 'sample': DataSample(label=torch.tensor(index))}


class GuessDark(nn.Module):
    """Right about the two darkest images: says class 1 for all that is not black."""

    def forward(self, inputs, samples, mode):
        labels = (inputs.float().mean((1, 2, 3)) > 0).long()
        return [DataSample(label=label, label_probs=torch.eye(4)[label]) for label in labels]


def runner_in(folder, **changes):
    values = {'rank': 0, 'work_dir': str(folder), 'metrics_history': HISTORY, 'cfg': {}, 'iter': 30,
              'val_dataloader': DataLoader(Shades(), batch_size=3, num_workers=0),
              'unwrapped_model': GuessDark(),
              'stop_request': SimpleNamespace(signal=None, name='')}
    return SimpleNamespace(**{**values, **changes})


def test_the_summary_names_what_there_is_and_draws_errors_first(tmp_path, capsys):
    (tmp_path / 'curves.png').write_bytes(b'')
    files = print_summary(runner_in(tmp_path))
    out = capsys.readouterr().out
    assert set(files) == {'curves', 'predictions'}
    assert str(tmp_path / 'predictions.png') in out
    assert 'accuracy/top1' in out
    sheet = cv2.imread(str(files['predictions']))[..., ::-1]
    left, right = np.array_split(sheet, 2, axis=1)
    assert (left == np.array(WRONG)).all(-1).sum() > 100
    assert (left == np.array(RIGHT)).all(-1).sum() == 0
    assert (right == np.array(RIGHT)).all(-1).sum() > 100


def test_a_stopped_training_is_not_kept_waiting_and_told_how_to_go_on(tmp_path, capsys):
    stop = SimpleNamespace(signal=15, name='SIGTERM')
    assert print_summary(runner_in(tmp_path, stop_request=stop)) == {}
    assert 'stopped by SIGTERM after iteration 30; go on with --resume' in capsys.readouterr().out
    assert not (tmp_path / 'predictions.png').exists()


def test_only_the_first_process_prints(tmp_path, capsys):
    assert print_summary(runner_in(tmp_path, rank=1)) == {}
    assert capsys.readouterr().out == ''


def test_a_task_without_images_has_no_sheet(tmp_path):
    class Text(Shades):
        def __getitem__(self, index):
            return {'inputs': torch.zeros(5, dtype=torch.long), 'sample': DataSample()}

    loader = DataLoader(Text(), batch_size=2, num_workers=0)
    assert 'predictions' not in print_summary(runner_in(tmp_path, val_dataloader=loader))
    assert 'predictions' not in print_summary(runner_in(tmp_path, val_dataloader=None))


def test_features_alone_leave_nothing_to_draw(tmp_path):
    class Features(nn.Module):
        def forward(self, inputs, samples, mode):
            return [DataSample(extra={'feats': torch.zeros(4)}) for _ in inputs]

    assert 'predictions' not in print_summary(runner_in(tmp_path, unwrapped_model=Features()))


def test_a_run_without_checkpoints_has_no_best_one(tmp_path):
    assert best_checkpoint(tmp_path) is None


def test_a_picture_is_written_in_the_right_channel_order(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    file = write_png(tmp_path / 'new' / 'p.png', red)
    assert (cv2.imread(str(file))[..., 2] == 255).all()
    assert [p.name for p in file.parent.iterdir()] == ['p.png']


@pytest.mark.parametrize('length,count,expected', [(10, 3, [0, 4, 9]), (3, 10, [0, 1, 2])])
def test_items_are_spread_over_a_sorted_set(length, count, expected):
    from openlab.apis.visualization import spread

    assert spread(length, count) == expected
