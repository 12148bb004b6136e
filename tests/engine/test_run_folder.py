import json
import os
import platform
import subprocess
import sys

import pytest

from openlab.engine.run_folder import environment, git_state, package_versions, write_run_folder


def git(folder, *arguments):
    subprocess.run(['git', '-c', 'user.name=a', '-c', 'user.email=a@b.c', *arguments], cwd=folder,
                   check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / 'repo'
    folder.mkdir()
    git(folder, 'init', '-q')
    (folder / 'code.py').write_text('x = 1\n')
    git(folder, 'add', '.')
    git(folder, 'commit', '-qm', 'first')
    return folder


def test_uncommitted_changes_are_kept_as_a_patch_that_applies(repository, tmp_path):
    (repository / 'code.py').write_text('x = 2\n')
    (repository / 'new.py').write_text('y = 1\n')
    patch = tmp_path / 'git_diff.patch'
    state = git_state(repository, patch)
    assert state['changed'] == ['code.py']
    assert state['untracked'] == ['new.py']
    assert len(state['commit']) == 40
    git(repository, 'checkout', '--', 'code.py')
    git(repository, 'apply', str(patch))
    assert (repository / 'code.py').read_text() == 'x = 2\n'


def test_a_clean_repository_leaves_no_patch(repository, tmp_path):
    assert git_state(repository, tmp_path / 'p')['changed'] == []
    assert not (tmp_path / 'p').exists()


def test_a_folder_outside_of_any_repository_has_no_git_state(tmp_path, monkeypatch):
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert git_state(tmp_path) is None


def test_the_record_holds_what_a_repetition_needs(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    state = git_state(repository)
    file = write_run_folder(tmp_path / 'start', state, seed=7, overrides=['lr=1'], world_size=2)
    record = json.loads(file.read_text())
    assert record['seed'] == 7
    assert record['overrides'] == ['lr=1']
    assert record['world_size'] == 2
    assert record['command'] == sys.orig_argv
    assert record['folder'] == str(repository)
    assert record['git']['branch'] in ('main', 'master')
    assert record['environment']['packages']['torch'].startswith('2.')
    assert record['environment']['variables']['OMP_NUM_THREADS'] == '1'


def test_versions_name_what_is_installed_and_openlab_always():
    versions = package_versions(['openlab', 'numpy', 'no-such-package'])
    assert set(versions) == {'openlab', 'numpy'}


def test_the_environment_names_the_processor():
    found = environment()
    assert found['cpu']
    assert found['cpu_count'] >= 1


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='loader workers are forked on POSIX only')
def test_no_process_is_started_that_forked_workers_could_keep_waiting(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f'started {args}')

    platform.platform.__globals__['_platform_cache'].clear()
    platform.platform.__globals__['_uname_cache'] = None
    monkeypatch.setattr(subprocess, 'Popen', refuse)
    record = json.loads(write_run_folder(tmp_path, None).read_text())
    assert record['environment']['platform'].startswith(platform.system())
