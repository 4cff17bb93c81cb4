"""`basicsr web`: over HTTP, and in a real browser where there is one."""

from __future__ import annotations

import contextlib
import copy
import http.client
import importlib.util
import json
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import BASICSR, TINY_NETWORK, call_basicsr, needs_browser, photograph
from PIL import ImageCms
from torch import Tensor, nn

from ramit_arch import RAMiT, Restorer
from ramit_arch.inference.checkpoints import write_checkpoint
from ramit_arch.inference.networks import describe
from ramit_arch.inference.pictures import Picture, decode_picture, encode_picture, write_picture
from ramit_arch.web import jobs

uvicorn = pytest.importorskip('uvicorn')
app = pytest.importorskip('ramit_arch.web.app')

OCTETS = {'Content-Type': 'application/octet-stream'}
MB = 10**6


class Server:
    """The page on a loopback port, in this process."""

    def __init__(self, networks: list[jobs.Network], max_mb: int = 32, max_pixels: int = 10**6) -> None:
        self.queue = jobs.JobQueue(networks, max_pixels)
        config = uvicorn.Config(
            app.make_app(self.queue, max_mb * MB, ['allowed.example']), log_level='warning', lifespan='off'
        )
        self.server = uvicorn.Server(config)
        self.listening = socket.create_server(('127.0.0.1', 0))
        self.port = self.listening.getsockname()[1]
        self.url = f'http://127.0.0.1:{self.port}/'
        self.thread = threading.Thread(target=self.server.run, args=[[self.listening]])
        self.thread.start()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listening.close()
        self.queue.close()

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Status, and the body: of JSON its value."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if answer.headers.get_content_subtype() == 'json' else content
        finally:
            connection.close()

    def post(self, body: Any, network: int = 0) -> Any:
        return self.request('POST', f'/jobs?network={network}', body, OCTETS)

    def finished(self, id: str) -> dict[str, Any]:
        return wait_for(lambda: (s := self.request('GET', f'/jobs/{id}')[1])['state'] in ('done', 'failed') and s)


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, 'timed out'
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def serving(*networks: nn.Module | Path, **limits: int) -> Iterator[Server]:
    server = Server([jobs.make_network(Restorer(each), f'net{i}') for i, each in enumerate(networks)], **limits)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope='module')
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.pth, a tiny x2 network, and deep.png: 16 bits, alpha, colour profile and resolution."""
    folder = tmp_path_factory.mktemp('home')
    torch.manual_seed(0)
    arguments = {key: value for key, value in TINY_NETWORK.items() if key != 'type'}
    content = {'params': RAMiT(**arguments).state_dict(), 'network': describe(dict(TINY_NETWORK), 2, 'SR')}
    write_checkpoint(content, folder / 'net.pth')
    pixels = photograph(0, 20, 26).astype(np.uint16) * 257
    alpha = np.full((20, 26), 65535, np.uint16)
    alpha[:5, :9] = 1000
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    write_picture(Picture(pixels, alpha, icc, (300.0, 300.0)), folder / 'deep.png')
    result = call_basicsr('restore', 'deep.png', '-m', 'net.pth', cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope='module')
def server(home: Path) -> Iterator[Server]:
    with serving(home / 'net.pth') as server:
        yield server


class Gate(nn.Module):
    """Copies images, once it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.entered, self.open = nn.Identity(), threading.Event(), threading.Event()

    def forward(self, image: Tensor) -> Tensor:
        self.entered.set()
        assert self.open.wait(20)
        return self.inner(image)


def png(height: int = 8, width: int = 8) -> bytes:
    pixels = photograph(1, height, width)
    return bytes(encode_picture(Picture(pixels))[0])


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and has one byte of pixels."""
    content = b'\x89PNG\r\n\x1a\n'
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    for name, data in ((b'IHDR', header), (b'IDAT', zlib.compress(b'\0')), (b'IEND', b'')):
        content += struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    return content


# ------------------------------------------------------------------------------------------------------------- HTTP


def test_the_result_is_the_file_that_restore_writes(server: Server, home: Path) -> None:
    status, answer = server.post((home / 'deep.png').read_bytes())
    assert status == 201
    job = server.finished(answer['id'])
    assert (job['state'], job['files'], job['notes']) == ('done', ['before', 'result'], [])
    assert job['sizes'] == {'before': [26, 20], 'after': [52, 40]}
    result = server.request('GET', f'/jobs/{answer["id"]}/result')[1]
    assert result == (home / 'deep_x2.png').read_bytes()
    restored = decode_picture(result)
    assert restored.pixels.dtype == np.uint16
    assert restored.alpha is not None
    assert restored.icc is not None
    assert restored.dpi == pytest.approx((300, 300), abs=0.1)
    before = decode_picture(server.request('GET', f'/jobs/{answer["id"]}/before')[1])
    assert np.array_equal(before.pixels, decode_picture((home / 'deep.png').read_bytes()).pixels)


def test_progress_within_a_tile_and_the_same_result(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / 'large.png').write_bytes(png(290, 310))  # large enough to copy the network and estimate its memory
    assert call_basicsr('restore', 'large.png', '-m', 'net.pth', cwd=home).returncode == 0
    steps = []
    queue, check = server.queue, server.queue._check

    def noting(within_tile: bool = True) -> None:
        check(within_tile)
        steps.append(queue._running.progress)

    monkeypatch.setattr(queue.networks[0].meter, 'check', noting)
    id = server.post((home / 'large.png').read_bytes())[1]['id']
    assert server.finished(id)['state'] == 'done'
    assert steps == sorted(steps)
    assert len({step for step in steps if 0 < step < 1}) > 5
    assert server.request('GET', f'/jobs/{id}/result')[1] == (home / 'large_x2.png').read_bytes()


def test_a_copy_of_a_network_is_not_measured() -> None:
    network, image, checks = nn.Sequential(nn.Identity(), nn.Identity()), torch.zeros(1, 3, 4, 5), []
    meter = jobs.Meter(network)
    meter.check = lambda: checks.append(meter.pixels)
    copy.deepcopy(network)(image)
    assert (meter.pixels, checks) == (0, [])
    network(image)
    assert (meter.pixels, checks) == (20, [6, 13, 20])


def test_what_is_too_large_to_be_shown_is_reduced_and_downloaded_whole(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, 'VIEW', 300)
    id = server.post((home / 'deep.png').read_bytes())[1]['id']
    assert server.finished(id)['files'] == ['after', 'before', 'result']
    assert server.request('GET', f'/jobs/{id}/result')[1] == (home / 'deep_x2.png').read_bytes()
    for name in ('before', 'after'):
        height, width = decode_picture(server.request('GET', f'/jobs/{id}/{name}')[1]).pixels.shape[:2]
        assert 200 < height * width <= 300


@pytest.mark.parametrize(
    ('body', 'error'),
    [
        (b'hello', 'damaged, truncated, or not an image of a known format'),
        (b'', 'damaged, truncated, or not an image of a known format'),
        (png()[:40], 'damaged, truncated, or not an image of a known format'),
        (png_header(60_000, 60_000), 'declares more than 178,956,970 pixels'),
        (png_header(1_001, 1_000), '1,001x1,000 pixels; at most 1 megapixels are accepted'),
    ],
)
def test_a_bad_upload_is_refused_in_one_sentence(server: Server, body: bytes, error: str) -> None:
    status, answer = server.post(body)
    assert status == 400
    assert error in answer['error']
    assert '\n' not in answer['error']


def test_a_picture_with_damaged_pixels_fails_in_one_sentence(server: Server) -> None:
    content = png(40, 40)
    id = server.post(content[:200] + bytes(20) + content[220:])[1]['id']
    job = server.finished(id)
    assert (job['state'], job['files']) == ('failed', [])
    assert job['error'].startswith('damaged, truncated')


def test_a_large_upload_is_refused_before_and_while_it_arrives(server: Server) -> None:
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=20)
    connection.putrequest('POST', '/jobs?network=0')
    for name, value in {**OCTETS, 'Content-Length': str(40 * MB)}.items():
        connection.putheader(name, value)
    connection.endheaders()  # and no body
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())['error'] == 'the file is too large; at most 32 MB are accepted'
    connection.close()

    assert server.post(bytes(MB) for _ in range(40))[0] == 413  # in chunks, without a length


def test_other_types_and_networks_are_refused(server: Server) -> None:
    assert server.request('POST', '/jobs?network=0', png())[0] == 415
    for network in ('1', '-1', 'x', ''):
        status, answer = server.request('POST', f'/jobs?network={network}', png(), OCTETS)
        assert (status, answer['error']) == (400, 'no such network')


def test_other_sites_are_refused(server: Server) -> None:
    def status(**headers: str) -> int:
        return server.request('GET', '/about', headers=headers)[0]

    own = f'127.0.0.1:{server.port}'
    assert status(Host='evil.example') == 421  # a name that leads here
    assert status(Host='localhost.evil.example:80') == 421
    assert status(Host='[oops') == 421
    assert status(Origin='http://evil.example') == 403
    assert status(Origin='null') == 403
    assert status(Origin=f'http://127.0.0.1:{server.port + 1}') == 403
    for host in (own, f'localhost:{server.port}', '[::1]:7860', '192.0.2.7', 'Allowed.example', socket.gethostname()):
        assert status(Host=host) == 200
    assert status(Host=own, Origin=f'http://{own}') == 200
    assert status(Host=own, Origin='https://allowed.example') == 200  # a reverse proxy


def test_nothing_is_left(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with serving(home / 'net.pth') as server:
        id = server.post(png())[1]['id']
        server.finished(id)
        assert server.request('DELETE', f'/jobs/{id}')[0] == 204
        for path in (f'/jobs/{id}', f'/jobs/{id}/result'):
            assert server.request('GET', path)[0] == 404
        assert server.request('DELETE', f'/jobs/{id}')[0] == 404
        # Without being asked for, a result goes by itself.
        id = server.post(png())[1]['id']
        server.finished(id)
        monkeypatch.setattr(jobs, 'EXPIRY', 0.05)
        time.sleep(0.1)
        assert server.request('GET', f'/jobs/{id}')[0] == 404
        assert server.queue._jobs == {}
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_results_go_when_there_are_too_many(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(home / 'net.pth') as server:
        ids = []
        for _ in range(3):
            ids.append(server.post(png())[1]['id'])
            job = server.finished(ids[-1])
        held = sum(len(server.queue.file(ids[-1], name) or b'') for name in job['files'])
        monkeypatch.setattr(jobs, 'MAX_HELD', 2 * held)
        assert [server.request('GET', f'/jobs/{id}')[0] for id in ids] == [404, 200, 200]


def test_pictures_wait_for_their_turn_and_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(jobs, 'MAX_WAITING', 2)
    with serving(gate) as server:
        first = server.post(png())[1]['id']
        assert gate.entered.wait(10)
        second, third = (server.post(png())[1]['id'] for _ in range(2))
        states = [server.request('GET', f'/jobs/{id}')[1] for id in (first, second, third)]
        assert [(state['state'], state['ahead']) for state in states] == [
            ('running', 0), ('waiting', 1), ('waiting', 2),
        ]  # fmt: skip
        status, answer = server.post(png())
        assert (status, answer['error']) == (503, '2 pictures are waiting already; try again in some minutes')
        server.request('DELETE', f'/jobs/{first}')
        server.request('DELETE', f'/jobs/{second}')
        gate.open.set()
        assert server.finished(third)['state'] == 'done'
        assert server.request('GET', f'/jobs/{first}')[0] == 404


def test_a_cancelled_restoration_ends_within_a_tile() -> None:
    gate = Gate()
    finished = []
    gate.inner.register_forward_hook(lambda *_: finished.append(1))
    with serving(gate) as server:
        id = server.post(png())[1]['id']
        assert gate.entered.wait(10)
        server.request('DELETE', f'/jobs/{id}')
        gate.open.set()
        server.finished(server.post(png())[1]['id'])
    assert finished == [1]


def test_what_nobody_waits_for_is_not_restored() -> None:
    gate = Gate()
    with serving(gate) as server:
        first, second = (server.post(png())[1]['id'] for _ in range(2))
        server.queue._jobs[second].touched -= jobs.ABANDONED
        assert server.request('GET', f'/jobs/{first}')[0] == 200
        assert server.request('GET', f'/jobs/{second}')[0] == 404
        gate.open.set()


def test_an_upload_that_is_cancelled_leaves_no_trace(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(('127.0.0.1', server.port)) as connection:
        lines = ['POST /jobs?network=0 HTTP/1.1', 'Host: localhost', 'Content-Length: 1000']
        lines += ['Content-Type: application/octet-stream', '', 'begun']
        connection.sendall('\r\n'.join(lines).encode())
        wait_for(lambda: server.queue._arriving)
    wait_for(lambda: not server.queue._arriving)
    assert server.request('GET', '/about')[0] == 200
    assert 'Traceback' not in caplog.text


def test_a_network_that_fails_is_one_sentence_on_the_page_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise ValueError('a secret')

    with serving(Broken()) as server:
        job = server.finished(server.post(png())[1]['id'])
    assert job['error'] == 'it could not be restored; the log of the server says why'
    assert 'ValueError: a secret' in caplog.text


def test_the_page_may_load_nothing_from_elsewhere(server: Server) -> None:
    connection = http.client.HTTPConnection('127.0.0.1', server.port)
    connection.request('GET', '/')
    answer = connection.getresponse()
    assert b'<title>Restore pictures</title>' in answer.read()
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in answer.headers['Content-Security-Policy']
    assert answer.headers['Referrer-Policy'] == 'no-referrer'
    connection.close()
    for file in app.STATIC.glob('*.*'):
        assert re.findall(r'https?://(?!www\.w3\.org/2000/svg)', file.read_text(encoding='utf-8')) == []


# ---------------------------------------------------------------------------------------------------------- command


def test_the_command_serves_until_it_is_interrupted(home: Path) -> None:
    process = subprocess.Popen(
        [BASICSR, 'web', '-m', 'net.pth', '--port', '0', '--threads', '1'],
        cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    line = process.stdout.readline()  # which ends with the process, should that fail to start
    address = re.fullmatch(r'Serving on http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends\)\n', line)
    assert address, process.communicate()
    connection = http.client.HTTPConnection('127.0.0.1', int(address[1]))
    connection.request('GET', '/about')
    labels = [network['label'] for network in json.loads(connection.getresponse().read())['networks']]
    assert labels[0] == 'Super-resolution ×2: net.pth'  # noqa: RUF001
    assert 'Super-resolution ×2: RAMiT-tiny_SRx2' in labels  # noqa: RUF001
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, '')
    assert err.endswith('interrupted\n')
    assert 'Traceback' not in err


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        result = call_basicsr('web', '--port', str(port), cwd=tmp_path)
        expected = f'error: 127.0.0.1, port {port}: Address already in use; choose others by --host and --port\n'
        assert (result.returncode, result.stderr) == (1, expected)
    result = call_basicsr('web', '--port', '0', '-m', 'nothing.pth', cwd=tmp_path)
    assert (result.returncode, result.stderr.count('\n')) == (1, 1)
    assert (
        '--port: 70000 is not an integer from 0 to 65535' in call_basicsr('web', '--port', '70000', cwd=tmp_path).stderr
    )
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'uvicorn' else found(name))
    result = call_basicsr('web', cwd=tmp_path)
    assert result.stderr == 'error: web needs uvicorn: pip install uvicorn\n'


# ---------------------------------------------------------------------------------------------------------- browser


class Visitor:
    """A browser window on the page. It fails the test if the page asks another host, or its script raises an error."""

    def __init__(self, browser: Any, server: Server, width: int = 1280) -> None:
        self.context = browser.new_context(viewport={'width': width, 'height': 800})
        self.context.set_default_timeout(10_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = self.context.new_page()
        self.page.on('request', lambda request: self.requests.append(request.url))
        self.page.on('pageerror', lambda error: self.errors.append(str(error)))
        self.page.goto(server.url)
        self.page.wait_for_selector('#network option', state='attached')
        self.server = server

    def choose(self, file: Any) -> None:
        self.page.set_input_files('#file', file)

    def restore(self) -> None:
        self.page.get_by_role('button', name='Restore').click()
        self.page.wait_for_selector('#result', state='visible')

    def overflow(self) -> int:
        return self.page.evaluate('document.documentElement.scrollWidth - innerWidth')

    def close(self) -> None:
        self.context.close()
        assert [url for url in self.requests if not url.startswith((self.server.url, 'blob:', 'about:'))] == []
        assert self.errors == []


@contextlib.contextmanager
def visiting(browser: Any, server: Server, width: int = 1280) -> Iterator[Visitor]:
    visitor = Visitor(browser, server, width)
    yield visitor
    visitor.close()


@needs_browser
def test_a_visitor_restores_compares_and_downloads(browser: Any, server: Server, home: Path) -> None:
    with visiting(browser, server) as visitor:
        page, others = visitor.page, set(server.queue._jobs)
        visitor.choose(home / 'deep.png')
        visitor.restore()
        assert '26 × 20 pixels' in page.inner_text('#facts')  # noqa: RUF001
        assert '52 × 40 pixels' in page.inner_text('#facts')  # noqa: RUF001
        assert page.inner_text('#live').startswith('Done in')
        slider = page.get_by_label('Divider between before and after')
        slider.focus()
        before = page.evaluate("document.getElementById('after').style.clipPath")
        for _ in range(10):
            page.keyboard.press('ArrowRight')
        assert slider.get_attribute('aria-valuetext') == '60 % before, 40 % after'
        assert page.evaluate("document.getElementById('after').style.clipPath") != before
        box = page.locator('#scroller').bounding_box()
        page.mouse.click(box['x'] + box['width'] / 4, box['y'] + 9)  # the pointer moves it too
        assert slider.input_value() == '25'
        page.get_by_role('button', name='400 %').click()
        assert page.locator('#stage').bounding_box()['width'] == 52 * 4
        with page.expect_download() as download:
            page.get_by_role('link', name='Download').click()
        assert download.value.suggested_filename == 'deep_x2.png'
        assert Path(download.value.path()).read_bytes() == (home / 'deep_x2.png').read_bytes()
        wait_for(lambda: set(server.queue._jobs) <= others)  # once it is received, the server holds nothing


@needs_browser
def test_bad_uploads_are_one_sentence_and_the_page_works_on(
    browser: Any, server: Server, home: Path, tmp_path: Path
) -> None:
    large = tmp_path / 'large.png'
    with large.open('wb') as file:
        file.truncate(40 * MB)
    (tmp_path / 'text.png').write_text('hello')
    (tmp_path / 'vast.png').write_bytes(png_header(60_000, 60_000))
    with visiting(browser, server) as visitor:
        alert = visitor.page.get_by_role('alert')
        for name, text in (('text', 'not an image'), ('vast', 'more than 178,956,970 pixels'), ('large', '32 MB')):
            visitor.choose(tmp_path / f'{name}.png')
            if name != 'large':  # refused without being sent
                visitor.page.get_by_role('button', name='Restore').click()
            alert.filter(has_text=text).wait_for()
            assert alert.inner_text().startswith(f'{name}.png: ')
            assert '\n' not in alert.inner_text()
        assert visitor.page.get_by_role('button', name='Restore').is_disabled()
        for _ in range(2):  # the same file again is a choice too
            visitor.page.get_by_role('button', name='Cat').click()
            visitor.page.get_by_text('cat.webp').wait_for()
            visitor.choose(home / 'deep.png')
            visitor.page.get_by_text('deep.png').wait_for()
        assert alert.inner_text() == ''
        visitor.restore()


NAMELESS = """[...document.querySelectorAll('input, select, button, a, progress')].filter(each =>
  each.offsetParent && !each.labels?.length && !each.textContent.trim() && !each.getAttribute('aria-label'))
  .concat([...document.querySelectorAll('img')].filter(each => !each.hasAttribute('alt')))
  .map(each => each.outerHTML)"""
SMALL = """[...document.querySelectorAll('select, button, a')].filter(each =>
  each.offsetParent && Math.min(each.offsetWidth, each.offsetHeight) < 40).map(each => each.outerHTML)"""


@needs_browser
def test_a_phone_and_the_keyboard_are_enough(browser: Any, server: Server) -> None:
    with visiting(browser, server, width=360) as visitor:
        page = visitor.page
        assert visitor.overflow() == 0
        reached = []
        for _ in range(5):
            page.keyboard.press('Tab')
            reached.append(page.evaluate('document.activeElement.id || document.activeElement.textContent.trim()'))
        assert reached == ['file', 'Cat', 'Coffee', 'Astronaut', 'network']
        for key in ('Shift+Tab', 'Enter'):
            page.keyboard.press(key)
        page.locator('#restore:focus').wait_for()
        page.keyboard.press('Enter')
        page.wait_for_selector('#result', state='visible')
        assert visitor.overflow() == 0
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate(SMALL) == []
        page.get_by_role('button', name='400 %').click()
        assert visitor.overflow() == 0
        assert page.get_attribute('html', 'lang') == 'en'


@needs_browser
def test_visitors_wait_in_a_queue_and_cancel(browser: Any) -> None:
    gate = Gate()
    photo = {'name': 'photo.png', 'mimeType': 'image/png', 'buffer': png()}
    with serving(gate) as server, visiting(browser, server) as first, visiting(browser, server) as second:
        for visitor in (first, second):
            visitor.choose(photo)
            visitor.page.get_by_role('button', name='Restore').click()
            wait_for(gate.entered.is_set)
        status = second.page.locator('#status')
        status.filter(has_text='Waiting: 1 picture before yours.').wait_for()
        first.page.get_by_role('button', name='Cancel').click()
        first.page.locator('#live').filter(has_text='Cancelled.').wait_for(state='attached')
        assert first.page.get_by_role('button', name='Restore').is_enabled()
        gate.open.set()
        second.page.wait_for_selector('#result', state='visible')
        wait_for(lambda: not server.queue._jobs)
        # Leaving the page cancels too.
        gate.open.clear()
        second.page.get_by_role('button', name='Restore').click()
        status.filter(has_text='Restoring').wait_for()
        second.page.goto('about:blank')
        wait_for(lambda: not server.queue._jobs)
        gate.open.set()
