import hashlib
import json

import pytest

from openlab.cli import main
from openlab.zoo import latencies, verify
from openlab.zoo.download import discard, download
from openlab.zoo.verify import verify_cache, verify_entry
from tests.zoo.misbehaving_server import MisbehavingServer

CONTENT = b'weights' * 1000
NAME = f'net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth'


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv('OPENLAB_CACHE', str(tmp_path))
    monkeypatch.delenv('OPENLAB_OFFLINE', raising=False)
    server = MisbehavingServer(CONTENT)
    yield lambda name: download(server.url(f'ok/{name}'))
    server.stop()


def test_a_cache_as_it_was_downloaded_is_fine(cached):
    named, plain = cached(NAME), cached('plain.pth')
    found = {check.path: check for check in verify_cache()}
    assert found[named].problem is None and found[named].against.startswith('sha256')
    assert found[plain].problem is None and found[plain].against == 'as it was downloaded'


def test_a_file_that_changed_since_is_found(cached):
    for name in (NAME, 'plain.pth'):
        cached(name).write_bytes(CONTENT[:-1] + b'!')
    assert [check.problem and 'sha256' in check.problem for check in verify_cache()] == [True, True]
    cached('plain.pth').write_bytes(b'')
    assert any('0 bytes instead of' in (check.problem or '') for check in verify_cache())


def test_what_openlab_notes_in_the_cache_is_no_download(cached):
    path = cached('plain.pth')
    latencies.remember('a/b', 3.0, 'cpu', (3, 4, 4))
    latencies.remember('a/c', 3.0, 'cpu', (3, 4, 4))
    assert latencies.file().is_file()
    assert [check.path for check in verify_cache()] == [path]


def test_a_bad_file_is_told_with_its_remedy_and_removed_on_request(cached, capsys):
    good, bad = cached(NAME), cached('plain.pth')
    bad.write_bytes(b'rotten')
    assert main(['zoo', 'verify']) == 1
    told = capsys.readouterr()
    assert f'BAD  {bad}' in told.out and 'openlab zoo verify --delete' in told.err
    assert bad.is_file()
    assert main(['zoo', 'verify', '--delete']) == 0
    assert f'removed {bad}' in capsys.readouterr().err
    assert not bad.exists() and good.is_file()
    assert cached('plain.pth').read_bytes() == CONTENT
    assert main(['zoo', 'verify']) == 0


def test_a_bad_file_elsewhere_is_never_removed(cached, tmp_path, monkeypatch, capsys):
    file = tmp_path / 'own.pth'
    file.write_bytes(CONTENT)
    model = {'name': 'a/b', 'weights': [file.as_uri()], 'sha256': '0' * 64}
    monkeypatch.setattr(verify, 'entry', lambda name: model)
    assert main(['zoo', 'verify', 'a/b', '--delete']) == 1
    assert 'no file of the cache' in capsys.readouterr().err
    with pytest.raises(ValueError, match='no file of the cache'):
        discard(file)
    assert file.is_file()


def test_a_file_of_an_entry_is_compared_with_the_index(cached, tmp_path, monkeypatch):
    file = tmp_path / 'own.pth'
    file.write_bytes(CONTENT)
    sha = hashlib.sha256(CONTENT).hexdigest()
    model = {'name': 'a/b', 'weights': [file.as_uri()], 'sha256': sha}
    monkeypatch.setattr(verify, 'entry', lambda name: json.loads(json.dumps(model)))
    assert verify_entry('a/b')[0].problem is None
    model['sha256'] = sha[::-1]
    assert 'sha256 starts with' in verify_entry('a/b')[0].problem
    file.unlink()
    with pytest.raises(FileNotFoundError, match='openlab zoo download a/b'):
        verify_entry('a/b')
