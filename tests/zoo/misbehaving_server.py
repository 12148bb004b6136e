"""A real HTTP server on 127.0.0.1 that misbehaves on request.

The path says how: ``/ok/FILE``, ``/cut/3/FILE`` (the connection ends early three times) ...
"""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        manner = self.path.strip('/').split('/')[0]
        with server.lock:
            server.requests.append((self.path, self.headers.get('Range')))
            seen = sum(path == self.path for path, _ in server.requests)
        getattr(self, f'answer_{manner}', self.answer_404)(server.content, seen)

    def send(self, content, status=200, length=None, kind='application/octet-stream', **headers):
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        self.wfile.write(content)

    def ranged(self, content, upto=None, etag='"v1"'):
        """Honour Range as servers do; send only `upto` bytes of what was announced."""
        start = 0
        asked = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range') or '')
        if asked and self.headers.get('If-Range') in (None, etag):
            start = int(asked[1])
        if start > len(content):
            self.send(b'', 416)
            return
        body = content[start:]
        place = f'bytes {start}-{len(content) - 1}/{len(content)}'
        extra = {'Content_Range': place} if start else {}
        sent = body if upto is None else body[:upto]
        self.send(sent, 206 if start else 200, length=len(body), ETag=etag, **extra)
        if len(sent) < len(body):
            self.close_connection = True

    def answer_ok(self, content, seen):
        self.ranged(content)

    def answer_cut(self, content, seen):
        self.ranged(content, upto=len(content) // 3 if seen <= 2 else None)

    def answer_cutonce(self, content, seen):
        self.ranged(content, upto=len(content) // 3 if seen == 1 else None)

    def answer_changes(self, content, seen):
        """The file is replaced by another one between two attempts."""
        if seen == 1:
            self.ranged(bytes(len(content)), upto=len(content) // 2, etag='"old"')
        else:
            self.ranged(content, etag='"new"')

    def answer_norange(self, content, seen):
        body = content if seen > 1 else content[:len(content) // 2]
        self.send(body, length=len(content), ETag='"v1"')
        self.close_connection = seen == 1

    def answer_always(self, content, seen):
        self.ranged(content, upto=10)

    def answer_busy(self, content, seen):
        if seen < 3:
            self.send(b'later', 503, Retry_After='0')
        else:
            self.ranged(content)

    def answer_broken(self, content, seen):
        self.send(b'oops', 500)

    def answer_wrong(self, content, seen):
        self.send(content[::-1])

    def answer_longer(self, content, seen):
        self.send(content + b'more')

    def answer_page(self, content, seen):
        self.send(b'<!DOCTYPE html><title>Log in</title>', kind='text/html; charset=utf-8')

    def answer_disguised(self, content, seen):
        self.send(b'\n<html><body>moved</body></html>')

    def answer_hang(self, content, seen):
        self.server.released.wait(5)
        self.close_connection = True

    def answer_drip(self, content, seen):
        self.send(b'', length=len(content))
        while not self.server.released.is_set():
            try:
                self.wfile.write(b'.')
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    def answer_huge(self, content, seen):
        self.send(b'x' * 100, length=1 << 60)
        self.close_connection = True

    def answer_slow(self, content, seen):
        time.sleep(0.3)
        self.ranged(content)

    def answer_moved(self, content, seen):
        where = self.path.replace('/moved/', '/ok/')
        self.send(b'', 302, Location=f'http://127.0.0.1:{self.server.server_port}{where}')

    def answer_tofile(self, content, seen):
        self.send(b'', 302, Location='file:///etc/hostname')

    def answer_404(self, content, seen):
        self.send(b'<html>not found</html>', 404, kind='text/html')


class MisbehavingServer(ThreadingHTTPServer):
    """Serves `content`; `requests` lists the paths and ranges that were asked for."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(('127.0.0.1', 0), Handler)
        self.content = content
        self.requests = []
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def url(self, path):
        return f'http://127.0.0.1:{self.server_port}/{path}'

    def handle_error(self, request, client_address):
        pass

    def stop(self):
        self.released.set()
        self.shutdown()
        self.server_close()
