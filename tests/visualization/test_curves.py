import cv2
import pytest

from openlab.utils.json_lines import encode_row
from openlab.visualization import curves


def write_run(folder, values, name='train/loss'):
    folder.mkdir(parents=True)
    (folder / 'log.jsonl').write_text(''.join(
        encode_row({'iter': i + 1, 'epoch': 1, name: v}) for i, v in enumerate(values)))
    return folder


def test_points_are_sorted_and_the_last_row_of_an_iteration_counts():
    rows = [{'iter': 2, 'a': 5.0}, {'iter': 1, 'a': 1.0}, {'iter': 2, 'a': 7.0},
            {'iter': 3, 'a': float('nan')}, {'iter': 4, 'b': 1.0}]
    assert curves.series(rows, 'a') == ([1, 2], [1.0, 7.0])


def test_the_best_point_depends_on_the_direction_of_the_metric():
    rows = [{'iter': 1, 'val/acc': 0.5, 'val/loss': 2.0},
            {'iter': 2, 'val/acc': 0.4, 'val/loss': 1.0}]
    assert curves.best_of(rows, 'val/acc') == (1, 0.5)
    assert curves.best_of(rows, 'val/loss') == (2, 1.0)
    assert curves.best_of(rows, 'val/none') is None


@pytest.mark.parametrize('metric,is_smaller', [
    ('loss', True), ('train/loss_cls', True), ('calibration/ece', True), ('accuracy/top1', False),
    ('closs', False)])
def test_the_direction_of_a_metric_follows_from_its_words(metric, is_smaller):
    assert curves.smaller_is_better(metric) is is_smaller


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant():
    assert curves.smoothed([3.0, 3.0, 3.0], 0.9) == pytest.approx([3, 3, 3])
    assert curves.smoothed([0.0, 1.0], 0.5) == pytest.approx([0, 2 / 3])


def test_runs_are_named_as_briefly_as_tells_them_apart(tmp_path):
    a, b, c = (write_run(tmp_path / p, [1]) for p in ('x/run', 'y/run', 'y/other'))
    assert list(curves.load_runs([a, c])) == ['run', 'other']
    assert list(curves.load_runs([a, b])) == ['x/run', 'y/run']
    assert len(curves.load_runs([a, a])) == 2


def test_a_folder_without_a_log_names_the_runs_below_it(tmp_path):
    write_run(tmp_path / 'run1', [1])
    with pytest.raises(FileNotFoundError, match=r'log\.jsonl; runs below it: .*run1'):
        curves.find_log(tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        curves.find_log(tmp_path / 'nowhere')


def test_the_picture_shows_each_run_in_its_colour(tmp_path):
    folders = [write_run(tmp_path / f'r{i}', [9 - i, 6 - i, 3 - i]) for i in range(2)]
    file = curves.plot_curves(curves.load_runs(folders), tmp_path / 'out' / 'c.png', smooth=0)
    picture = cv2.imread(str(file))[..., ::-1].astype(int)
    assert picture.shape[1] > 400
    for colour in curves.COLOURS[:2]:
        rgb = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
        assert (abs(picture - rgb).max(-1) < 12).sum() > 100
    third = [int(curves.COLOURS[2][i:i + 2], 16) for i in (1, 3, 5)]
    assert (abs(picture - third).max(-1) < 12).sum() == 0
    assert [p.name for p in file.parent.iterdir()] == ['c.png']  # nothing half-written is left


def test_all_losses_of_one_run_share_a_panel_and_metrics_follow():
    names = [n for n, _ in curves._panels(
        ['train/lr', 'train/loss', 'train/loss_cls', 'val/accuracy/top1', 'val/accuracy/top5'],
        is_single=True)]
    assert names == ['loss', 'accuracy', 'train/lr']


def test_an_unknown_scalar_is_answered_with_those_there_are(tmp_path):
    runs = curves.load_runs([write_run(tmp_path / 'r', [1, 2])])
    with pytest.raises(ValueError, match=r"\['train/los'\].*train/loss"):
        curves.plot_curves(runs, tmp_path / 'c.png', keys=['train/los'])


def test_curves_are_drawn_without_torch(tmp_path):
    import subprocess
    import sys

    folder = write_run(tmp_path / 'r', [2, 1])
    code = ('import sys; from openlab.visualization.curves import main\n'
            f'main([{str(folder)!r}, {str(tmp_path / "c.png")!r}])\n'
            'assert "torch" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True)
    assert (tmp_path / 'c.png').stat().st_size > 5000


def test_counts_are_left_out_where_they_are_not_asked_for(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr('openlab.visualization.curves._draw_panel',
                        lambda axis, name, members, *rest: drawn.extend(members))
    rows = [{'iter': i, 'train/loss': 1.0 / i, 'val/seg/miou': 0.5, 'val/seg/num_classes': 11.0}
            for i in (1, 2)]
    curves.plot_curves({'run': rows}, tmp_path / 'a.png')
    assert drawn == ['train/loss', 'val/seg/miou']
    drawn.clear()
    curves.plot_curves({'run': rows}, tmp_path / 'b.png', keys=['val/seg/num_classes'])
    assert drawn == ['val/seg/num_classes']
