import subprocess
import sys
import types
from pathlib import Path

import pytest

import openlab
from openlab import cli

ROOT = Path(__file__).resolve().parents[1]
READY = {
    name: module for name, (module, _) in cli.COMMANDS.items()
    if (ROOT / f'{module.replace(".", "/")}.py').exists()
}


@pytest.fixture
def command(monkeypatch):
    """A subcommand `try` whose `run` does what the test says."""

    def install(run, nested=False):
        module = types.ModuleType('openlab_test_command')
        module.HELP = 'try something'
        module.run = run

        def add_arguments(parser):
            parser.add_argument('--work-dir')
            if nested:
                parser.add_subparsers(dest='what').add_parser('show').add_argument('--depth')

        module.add_arguments = add_arguments
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, 'try', (module.__name__, module.HELP))

    return install


def raiser(error):
    def run(args):
        raise error

    return run


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def test_overview_names_every_command_with_its_help(capsys):
    assert cli.main(['--help']) == 0
    out = capsys.readouterr().out
    for name, (_, text) in cli.COMMANDS.items():
        assert f'  {name}' in out
        assert text in out


def test_no_arguments_print_the_overview_and_fail(capsys):
    assert cli.main([]) == 2
    assert 'usage: openlab COMMAND' in capsys.readouterr().out


def test_version_is_the_packages(capsys):
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out == f'openlab {openlab.__version__}\n'


def test_unknown_command_gives_the_near_one_and_exits_with_2(capsys):
    assert cli.main(['trian']) == 2
    assert "no command 'trian'; did you mean train?" in capsys.readouterr().err


def test_unknown_option_gives_the_near_one(command, capsys):
    command(lambda args: 0)
    with pytest.raises(SystemExit) as stop:
        cli.main(['try', '--wrok-dir', 'x'])
    assert stop.value.code == 2
    assert 'did you mean --work-dir?' in capsys.readouterr().err


def test_unknown_nested_command_gives_the_near_one(command, capsys):
    command(lambda args: 0, nested=True)
    with pytest.raises(SystemExit) as stop:
        cli.main(['try', 'shwo'])
    assert stop.value.code == 2
    assert 'did you mean show?' in capsys.readouterr().err


def test_options_may_not_be_abbreviated(command, capsys):
    command(lambda args: 0)
    with pytest.raises(SystemExit):
        cli.main(['try', '--work', 'x'])
    assert 'unrecognized arguments' in capsys.readouterr().err


def test_exit_code_of_a_command_is_handed_on(command):
    command(lambda args: 7)
    assert cli.main(['try']) == 7
    command(lambda args: None)
    assert cli.main(['try']) == 0


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (ValueError('bad value'), 'openlab try: bad value\n'),
        (FileNotFoundError(2, 'No such file or directory', 'a.py'),
         'openlab try: No such file or directory: a.py\n'),
        (KeyError('lr'), "openlab try: missing key 'lr' (add --debug for the traceback)\n"),
        (TypeError('not a number'), 'openlab try: TypeError: not a number\n'),
        (ValueError(), 'openlab try: ValueError: no message (add --debug for the traceback)\n'),
    ],
)
def test_user_errors_are_one_message_and_exit_code_2(command, capsys, error, message):
    command(raiser(error))
    assert cli.main(['try']) == 2
    captured = capsys.readouterr()
    assert captured.err == message
    assert captured.out == ''


def test_debug_shows_the_traceback(command):
    command(raiser(ValueError('bad value')))
    with pytest.raises(ValueError, match='bad value'):
        cli.main(['try', '--debug'])


def test_faults_of_the_program_keep_their_traceback(command):
    command(raiser(RuntimeError('fault')))
    with pytest.raises(RuntimeError, match='fault'):
        cli.main(['try'])


def test_ctrl_c_exits_with_130(command, capsys):
    command(raiser(KeyboardInterrupt()))
    assert cli.main(['try']) == 130
    assert 'interrupted' in capsys.readouterr().err


def test_debug_after_two_dashes_belongs_to_the_command():
    assert cli._take_debug(['try', '--', '--debug']) == (False, ['try', '--', '--debug'])
    assert cli._take_debug(['try', '--debug', 'x']) == (True, ['try', 'x'])


@pytest.mark.parametrize('name', READY)
def test_help_of_every_command_shows_its_usage(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, '--help'])
    assert stop.value.code == 0
    assert f'usage: openlab {name}' in capsys.readouterr().out


def test_every_command_of_the_table_has_its_module():
    assert READY.keys() == cli.COMMANDS.keys()


def test_no_help_imports_torch():
    code = (
        'import sys, openlab.cli as c\n'
        f'for name in {list(READY)!r}:\n'
        '    try: c.main([name, "--help"])\n'
        '    except SystemExit: pass\n'
        '    for heavy in ("torch", "numpy", "cv2", "mmengine", "matplotlib"):\n'
        '        assert heavy not in sys.modules, (name, heavy)\n'
    )
    done = python('-c', code)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_leaves_torch_out():
    done = python('-c', 'import sys, openlab; print("torch" in sys.modules)')
    assert done.stdout == 'False\n'


def test_the_package_says_which_attribute_it_lacks():
    with pytest.raises(AttributeError, match="no attribute 'Inferrer'"):
        _ = openlab.Inferrer


def test_python_dash_m_is_the_command():
    done = python('-m', 'openlab', 'doctr')
    assert (done.returncode, 'did you mean doctor?' in done.stderr) == (2, True)


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_command_has_a_thin_script(name):
    script = ROOT / 'tools' / f'{name}.py'
    assert len(script.read_text().splitlines()) < 20
    assert f"main(['{name}', *sys.argv[1:]])" in script.read_text()


def test_scripts_run_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'registry.py'), '--help'],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )
    assert 'usage: openlab registry' in done.stdout, done.stderr
