"""The control API: HTTP with JSON on a Unix socket that only its user can open.

One task serves one connection. While a request is answered the connection is watched: a client that goes
away cancels its call, so a `wait` that was interrupted does not go on in the daemon, and a pairing code
whose terminal was closed is withdrawn. Nothing that a client sends or does ends more than its connection.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import trio

from p2psyncd.control.arguments import Arguments
from p2psyncd.control.backend import Backend
from p2psyncd.control.http import ClientGone, HttpConnection, MalformedRequest, Request
from p2psyncd.control.listening import listening_socket
from p2psyncd.control.messages import ErrorBody
from p2psyncd.control.metrics import CONTENT_TYPE as METRICS_TYPE
from p2psyncd.control.metrics import exposition
from p2psyncd.control.routes import ROUTES
from p2psyncd.control.streams import find_stream
from p2psyncd.errors import BadRequest, P2psyncError

__all__ = ["serve"]

log = logging.getLogger(__name__)

JSON_TYPE = "application/json"
QUERY_FIELDS_MAX = 100

STATUS = {
    "bad_request": 400,
    "no_such_share": 404,
    "no_such_offer": 404,
    "no_such_device": 404,
    "no_such_item": 404,
    "no_such_conflict": 404,
    "folder_missing": 404,
    "share_exists": 409,
    "nested_share": 409,
    "already_shared": 409,
    "not_a_folder": 422,
    "database_linked": 422,
    "database_empty": 422,
    "holds_our_state": 422,
    "config": 422,
    "timeout": 504,
}
EXIT_REFUSED = 5


async def serve(
    backend: Backend,
    socket_path: Path,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer clients until cancelled; started once the socket listens.

    Args:
        backend: The daemon.
        socket_path: The socket; its folder must exist and be private to the user.
        task_status: Told when the socket listens.

    Raises:
        HomeLocked: Another daemon answers there.
        HomeUnusable: The socket cannot be made.
    """
    with listening_socket(socket_path) as listening:
        task_status.started()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        await trio.serve_listeners(partial(converse, backend), [listener])


async def converse(backend: Backend, stream: trio.SocketStream) -> None:
    """Answer one client's requests until either side is done."""
    http = HttpConnection(stream)
    try:
        async with stream:
            try:
                while (request := await http.next_request()) is not None:
                    await exchange(backend, http, request)
                    if not http.next_cycle():
                        return
            except MalformedRequest as error:
                await refuse(http, error)
    except* ClientGone:
        log.debug("control_client_gone")


async def refuse(http: HttpConnection, error: MalformedRequest) -> None:
    """Tell a client what is wrong with its HTTP, if there is still room for an answer."""
    if http.may_answer:
        await http.answer(error.status, body_of(BadRequest(error.reason)), JSON_TYPE, close=True)


async def exchange(backend: Backend, http: HttpConnection, request: Request) -> None:
    """Answer one request, unless the client goes away first."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await http.until_gone()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await answer(backend, http, request)
        nursery.cancel_scope.cancel()


async def answer(backend: Backend, http: HttpConnection, request: Request) -> None:
    """Find who answers, call it, and send what it says, be it an error."""
    try:
        path, given = read(request)
        stream = find_stream(request.method, path, request.headers, given)
        if stream is not None:
            await stream(backend, given, http)
            return
        methods = ROUTES.get(path)
        if methods is None or request.method not in methods:
            status, body, content_type = no_route(request.method, path)
        else:
            call = methods[request.method](backend, given)
            given.done()
            result = await call()
            status, body, content_type = success(path, result)
    except ClientGone:
        raise
    except P2psyncError as error:
        status, body, content_type = failure(error)
    except Exception as error:  # noqa: BLE001  # one broken call must not end the daemon; it is logged in full
        status, body, content_type = failure(unwrap(error))
    if http.may_answer:
        await http.answer(status, body, content_type)
    else:
        # The answer has begun: its last part says what went wrong.
        await http.send(body + b"\n")
        await http.end()


def read(request: Request) -> tuple[str, Arguments]:
    """Return a request's path and arguments.

    Raises:
        BadRequest: The target or the body cannot be read.
    """
    try:
        target = urlsplit(request.target)
        fields = parse_qsl(
            target.query, keep_blank_values=True, errors="surrogateescape", max_num_fields=QUERY_FIELDS_MAX
        )
    except ValueError as error:
        raise BadRequest(f"the address cannot be read: {error}") from error
    values: dict[str, object] = dict(fields)
    if request.body:
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise BadRequest("the body is not a JSON object")
        values.update(body)
    return target.path.rstrip("/"), Arguments(values)


def success(path: str, result: object) -> tuple[int, bytes, str]:
    """Return status, body and type of an answer to a call that went well."""
    if path == "/v1/metrics":
        return 200, exposition(result).encode("utf-8"), METRICS_TYPE  # type: ignore[arg-type]  # what its route returns
    return 200, json.dumps(result).encode("ascii"), JSON_TYPE


def failure(error: P2psyncError) -> tuple[int, bytes, str]:
    """Return status, body and type of an answer to a call that failed."""
    fallback = 403 if error.exit_code == EXIT_REFUSED else 500
    return STATUS.get(error.wire_code, fallback), body_of(error), JSON_TYPE


def unwrap(error: Exception) -> P2psyncError:
    """Return the one error for the user inside a group, or a general one after logging what happened."""
    found: BaseException = error
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    if isinstance(found, P2psyncError):
        return found
    log.error("control_call_failed error=%r", error, exc_info=error)
    return P2psyncError("the daemon failed to answer; its log says why")


def no_route(method: str, path: str) -> tuple[int, bytes, str]:
    """Return the answer to what cannot be asked."""
    methods = ROUTES.get(path)
    if methods is None:
        return 404, body_of(BadRequest(f"there is no {path}")), JSON_TYPE
    detail = f"{path} takes {' or '.join(methods)}, not {method}"
    return 405, body_of(BadRequest(detail)), JSON_TYPE


def body_of(error: P2psyncError) -> bytes:
    """Return an error as JSON."""
    body: ErrorBody = {"code": error.wire_code, "exit_code": error.exit_code, "message": error.message}
    return json.dumps({"error": body}).encode("ascii")
