"""`basicsr web`"""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket

import torch

from ramit_arch.errors import UserError
from ramit_arch.inference import packaged
from ramit_arch.inference.restorer import Restorer


def run(args: argparse.Namespace) -> None:
    """Serve the page until interrupted.

    Raises:
        UserError: a package is missing, a network cannot be loaded, or the address cannot be used.
    """
    missing = [name for name in ('starlette', 'uvicorn') if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'web needs {" and ".join(missing)}: pip install {" ".join(missing)}')
    import uvicorn

    from ramit_arch.web.app import make_app
    from ramit_arch.web.jobs import JobQueue, make_network

    if args.threads:
        torch.set_num_threads(args.threads)
    with _listen(args.host, args.port) as listening:
        restorers = [(model, Restorer(model, task=args.task, device=args.device)) for model in args.model]
        restorers += [(name, Restorer(name, device=args.device)) for name in packaged.networks()]
        queue = JobQueue([make_network(restorer, name) for name, restorer in restorers], args.max_megapixels * 10**6)
        app = make_app(queue, args.max_mb * 10**6, args.allow_host)
        # No log of requests: it would hold the addresses of visitors.
        config = uvicorn.Config(
            app, access_log=False, log_level='warning', server_header=False, lifespan='off', ws='none',
            limit_concurrency=200, timeout_graceful_shutdown=2,
        )  # fmt: skip
        host = f'[{args.host}]' if ':' in args.host else args.host
        print(f'Serving on http://{host}:{listening.getsockname()[1]}/ (Ctrl-C ends)', flush=True)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            queue.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        # Of create_server, strerror repeats the address.
        text = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise UserError(f'{host}, port {port}: {text}; choose others by --host and --port') from error
