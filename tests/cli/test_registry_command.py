"""``openlab registry``, as typed."""

import subprocess
import sys

import pytest

from openlab import cli
from openlab.cli.registry import describe_entry, find_paper
from openlab.registry import MODELS


def test_ls_names_place_summary_and_paper(capsys):
    assert cli.main(['registry', 'ls', 'models']) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if ' ResNet ' in x)
    assert 'openlab/backbones/resnet.py:' in line
    assert 'arxiv.org' in line


def test_ls_of_everything_imports_no_torch():
    code = (
        'import sys; from openlab import cli; cli.main(["registry", "ls"]); '
        'print("torch" in sys.modules)'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == 'False'
    assert any(line.startswith('hook ') for line in out.stdout.splitlines())


def test_ls_of_an_unknown_kind_names_the_near_one(capsys):
    assert cli.main(['registry', 'ls', 'modl']) == 2
    assert 'did you mean model?' in capsys.readouterr().err


def test_find_looks_into_names_and_summaries_and_suggests(capsys):
    assert cli.main(['registry', 'find', 'crossentropy']) == 0
    assert 'CrossEntropyLoss' in capsys.readouterr().out
    assert cli.main(['registry', 'find', 'ResNettt']) == 1
    assert 'ResNet' in capsys.readouterr().out


def test_show_prints_signature_import_and_arguments(capsys):
    assert cli.main(['registry', 'show', 'LinearHead']) == 0
    out = capsys.readouterr().out
    assert 'LinearHead(num_classes: int, in_channels: int | None=None' in out
    assert 'from openlab.heads.linear_head import LinearHead' in out
    assert 'num_classes: number of classes.' in out


def test_show_of_a_library_class_by_dotted_path(capsys):
    assert cli.main(['registry', 'show', 'torch.nn.ReLU']) == 0
    assert 'ReLU(inplace: bool = False)' in capsys.readouterr().out


def test_show_of_an_unknown_name_suggests_and_exits_with_2(capsys):
    assert cli.main(['registry', 'show', 'LinearHed']) == 2
    assert 'did you mean LinearHead' in capsys.readouterr().err


@pytest.mark.parametrize(('text', 'paper'), [
    ('X.\n\nPaper: A title, 2020.', 'A title, 2020.'),
    ('He et al., https://arxiv.org/abs/1512.03385, section 3.', 'https://arxiv.org/abs/1512.03385'),
    ('X.\n\nPaper: A title\n  that goes on.\n\nMore.', 'A title that goes on.'),
    ('nothing', ''),
])
def test_the_paper_is_a_line_or_a_link(text, paper):
    assert find_paper(text) == paper


def test_every_model_has_a_summary():
    missing = [n for n, e in MODELS.entries().items() if not describe_entry(e).summary]
    assert not missing
