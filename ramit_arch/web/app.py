"""The web page over HTTP.

    GET    /                   the page
    GET    /about              networks and limits
    POST   /jobs?network=N     a picture as the body; answers its id
    GET    /jobs/ID            state, place in the queue, progress
    GET    /jobs/ID/NAME       the PNGs `result`, `before`, `after`
    DELETE /jobs/ID            cancel, and remove the result

Errors are {"error": "one sentence"}.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ramit_arch.errors import UserError
from ramit_arch.web.jobs import Busy, JobQueue

STATIC = Path(__file__).with_name('static')
UPLOAD_SECONDS = 300.0  # for a picture to arrive
HEADERS = {
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
}


def make_app(queue: JobQueue, max_bytes: int, allowed_hosts: Collection[str] = ()) -> Starlette:
    """The page and its requests.

    Args:
        queue: restores the pictures.
        max_bytes: of a picture's file.
        allowed_hosts: names under which the page may be opened, besides IP addresses, localhost and this machine's.
    """
    handlers = Handlers(queue, max_bytes)
    routes = [
        Route('/about', handlers.about),
        Route('/jobs', handlers.submit, methods=['POST']),
        Route('/jobs/{id}', handlers.status, methods=['GET']),
        Route('/jobs/{id}', handlers.remove, methods=['DELETE']),
        Route('/jobs/{id}/{name}', handlers.file),
        Mount('/', StaticFiles(directory=STATIC, html=True)),
    ]
    names = {'localhost', socket.gethostname().lower(), *(name.lower() for name in allowed_hosts)}
    return Starlette(routes=routes, middleware=[Middleware(Guard, names=names)])


class Handlers:
    """Answers requests.

    Args:
        queue: restores the pictures.
        max_bytes: of a picture's file.
    """

    def __init__(self, queue: JobQueue, max_bytes: int) -> None:
        self.queue, self.max_bytes = queue, max_bytes

    async def about(self, request: Request) -> Response:
        networks = [{'label': network.label, 'suffix': network.suffix} for network in self.queue.networks]
        limits = {'max_bytes': self.max_bytes, 'max_pixels': self.queue.max_pixels}
        return JSONResponse({'networks': networks, **limits})

    async def submit(self, request: Request) -> Response:
        too_large = f'the file is too large; at most {self.max_bytes / 1e6:g} MB are accepted'
        if int(request.headers.get('content-length', '0')) > self.max_bytes:
            return _error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)
        # A form of another site cannot send this type.
        if request.headers.get('content-type') != 'application/octet-stream':
            return _error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 'a picture is sent as application/octet-stream')
        network = request.query_params.get('network', '')
        data = bytearray()
        try:
            with self.queue.place(), anyio.fail_after(UPLOAD_SECONDS):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > self.max_bytes:
                        return _error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)
                number = int(network) if network.isdecimal() else -1
                job = await run_in_threadpool(self.queue.submit, number, bytes(data))
            if await request.is_disconnected():
                self.queue.remove(job.id)
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        except Busy as error:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except TimeoutError:
            return _error(HTTPStatus.REQUEST_TIMEOUT, f'sending took more than {UPLOAD_SECONDS:g} seconds')
        except UserError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        return JSONResponse({'id': job.id}, HTTPStatus.CREATED)

    async def status(self, request: Request) -> Response:
        status = self.queue.status(request.path_params['id'])
        return _gone() if status is None else JSONResponse(status)

    async def file(self, request: Request) -> Response:
        content = self.queue.file(request.path_params['id'], request.path_params['name'])
        return _gone() if content is None else Response(content, media_type='image/png')

    async def remove(self, request: Request) -> Response:
        return Response(status_code=204) if self.queue.remove(request.path_params['id']) else _gone()


def _error(status: HTTPStatus, text: str) -> Response:
    return JSONResponse({'error': text}, status)


def _gone() -> Response:
    return _error(HTTPStatus.NOT_FOUND, 'the result has expired; restore the picture again')


class Guard:
    """Refuses requests that another site makes a browser send, and adds security headers to every answer.

    Args:
        app: the application.
        names: host names of this server. Only names are a danger: another site can let its own name lead here (DNS
            rebinding), but not an IP address.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message['type'] == 'http.response.start':
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers['Cache-Control'] = 'no-store' if '/jobs' in scope['path'] else 'no-cache'
            await send(message)

        refused = self._refuse(Headers(scope=scope))
        await (refused or self.app)(scope, receive, send_guarded)

    def _refuse(self, headers: Headers) -> Response | None:
        host, origin = headers.get('host', ''), headers.get('origin')
        name = _host_name(f'//{host}')
        if name not in self.names and not _is_address(name):
            text = f'this server is not {name or "named"}; --allow_host adds a name'
            return _error(HTTPStatus.MISDIRECTED_REQUEST, text)
        # Behind a reverse proxy the host may be the proxy's own name for this server.
        if origin is not None and urlsplit(origin).netloc != host and _host_name(origin) not in self.names:
            return _error(HTTPStatus.FORBIDDEN, 'requests of other sites are refused')
        return None


def _host_name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or '').rstrip('.')
    except ValueError:
        return ''


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
