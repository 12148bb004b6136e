import csv
import io
import json

import cv2
import pytest

from openlab import cli
from openlab.cli.log import comparison_table, config_differences, csv_table, results_of
from openlab.utils.json_lines import encode_row


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs: `b` gets the better accuracy, `a` ends better than its own best."""
    monkeypatch.chdir(tmp_path)
    for name, losses, accuracies, lr in (('a', [3.0, 1.0, 2.0], [0.5, 0.75], 0.1),
                                         ('b', [3.0, 2.0, 1.5], [0.9, 0.8], 0.2)):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{'iter': i, 'epoch': 1, 'train/loss': v} for i, v in enumerate(losses, 1)]
        rows += [{'iter': i, 'epoch': 1, 'val/accuracy/top1': v}
                 for i, v in zip((2, 3), accuracies)]
        (folder / 'log.jsonl').write_text(''.join(map(encode_row, rows)))
        (folder / 'config.json').write_text(json.dumps(
            {'work_dir': name, 'optimizer': {'lr': lr, 'type': 'SGD'}, 'stages': [1, 2]}))
    return tmp_path


def test_plot_writes_curves_into_the_run_folder_or_where_told(runs, capsys):
    assert cli.main(['log', 'plot', 'a']) == 0
    assert capsys.readouterr().out.strip() == 'a/curves.png'
    assert cli.main(['log', 'plot', 'a', 'b', '--keys', 'train/loss', '--out', 'x/c.png']) == 0
    one, two = (cv2.imread(str(runs / p)) for p in ('a/curves.png', 'x/c.png'))
    assert one.shape[1] > two.shape[1]  # two panels against one


def test_plot_refuses_an_unknown_scalar_and_a_missing_run(runs, capsys):
    assert cli.main(['log', 'plot', 'a', '--keys', 'train/los']) == 2
    assert 'train/loss' in capsys.readouterr().err
    assert cli.main(['log', 'plot', 'c']) == 2
    assert 'no run folder or log file at c' in capsys.readouterr().err
    assert cli.main(['log', 'plot', 'a', '--smooth', '1']) == 2


def test_compare_shows_last_and_best_and_what_differs(runs, capsys):
    assert cli.main(['log', 'compare', 'a', 'b']) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ['val/accuracy/top1', 'a', '0.75', '0.75', '3'] in rows
    assert ['b', '0.8', '0.9', '*', '2'] in rows
    assert ['train/loss', 'a', '2', '1', '*', '2'] in rows
    assert 'optimizer.lr' in out
    assert 'work_dir' not in out
    assert 'optimizer.type' not in out


def test_compare_prints_json(runs, capsys):
    assert cli.main(['log', 'compare', 'a', 'b', '--json']) == 0
    data = json.loads(capsys.readouterr().out)
    assert data['results']['b']['val/accuracy/top1'] == {'last': 0.8, 'best': 0.9, 'at': 2}
    assert data['config'] == {'optimizer.lr': {'a': 0.1, 'b': 0.2}}


def test_compare_reads_the_config_that_a_run_keeps(runs, capsys):
    (runs / 'a' / 'config.json').unlink()
    (runs / 'a' / 'config.py').write_text("optimizer = dict(lr=0.3, type='SGD')\nstages = [1, 2]\n")
    assert cli.main(['log', 'compare', 'a', 'b', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['config'] == {'optimizer.lr': {'a': 0.3, 'b': 0.2}}


def test_a_run_without_a_config_is_named(runs, capsys):
    (runs / 'b' / 'config.json').unlink()
    assert cli.main(['log', 'compare', 'a', 'b']) == 0
    assert 'no config in: b' in capsys.readouterr().out


def test_csv_merges_training_and_validation_and_keeps_every_digit(runs, capsys):
    assert cli.main(['log', 'csv', 'a']) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [r['iter'] for r in rows] == ['1', '2', '3']
    assert rows[1]['train/loss'] == '1.0'
    assert rows[1]['val/accuracy/top1'] == '0.5'
    assert rows[0]['val/accuracy/top1'] == ''
    _, table = csv_table({'r': [{'iter': 1, 'x': 0.1 + 0.2}]})
    assert float(table[0][2]) == 0.1 + 0.2


def test_csv_of_several_runs_names_the_run_and_takes_chosen_columns(runs, capsys):
    assert cli.main(['log', 'csv', 'a', 'b', '--keys', 'val/accuracy/top1', '--out', 'o.csv']) == 0
    assert capsys.readouterr().out.startswith('o.csv: 4 rows, 4 columns')
    rows = list(csv.reader((runs / 'o.csv').open()))
    assert rows[0] == ['run', 'iter', 'epoch', 'val/accuracy/top1']
    assert rows[-1] == ['b', '3', '1', '0.8']
    assert cli.main(['log', 'csv', 'a', '--keys', 'nope']) == 2
    assert "no scalar 'nope'" in capsys.readouterr().err


def test_a_part_that_one_config_lacks_is_one_difference():
    found = config_differences({'a': {'m': {'x': 1, 'y': [1, 2]}, 'n': {'p': {'q': 1}}},
                                'b': {'m': {'x': 1, 'y': [1, 3]}}, 'c': None})
    assert found == {'m.y[1]': {'a': 2, 'b': 3}, 'n': {'a': {'p': {'q': 1}}, 'b': '(not set)'}}
    assert config_differences({'a': None}) == {}


def test_the_best_run_is_not_starred_where_there_is_only_one():
    table = comparison_table({'a': results_of([{'iter': 1, 'val/acc': 0.5}])})
    assert '*' not in table[-1]
