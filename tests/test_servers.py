"""The server of docs/servers.md answers with pictures and with errors, and never works on more than its pool allows."""

import asyncio
import io
import re
import threading
from pathlib import Path
from typing import Any

from conftest import picture
from lossless_codec import damaged, vaec
from PIL import Image

from vaecodec import Codec

DOCUMENT = Path(__file__).parents[1] / "docs" / "servers.md"


def load() -> dict[str, Any]:
    """The names of the example."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    return names


async def ask(app: Any, *parts: bytes) -> tuple[int, bytes]:
    """Status and body of a request whose body comes in parts."""
    sent: list[dict[str, Any]] = []
    left = list(parts)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http"}, receive, send)
    return sent[0]["status"], sent[1]["body"]


def test_the_example_serves() -> None:
    """A picture, in parts; damage is an answer, not a crash."""
    app, data = load()["app"], vaec(picture(40, 60))
    status, body = asyncio.run(ask(app, data[:100], data[100:]))
    with Image.open(io.BytesIO(body)) as image:
        assert (status, image.format, image.size) == (200, "JPEG", (60, 40))
    status, body = asyncio.run(ask(app, damaged(data)))
    assert status == 422 and b"[TILE_CRC]" in body


def test_no_more_pictures_are_in_work_than_threads(monkeypatch: Any) -> None:
    """However many clients there are."""
    names, lock = load(), threading.Lock()
    at_work, most, decode_file = 0, 0, Codec.decode_file

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        try:
            return decode_file(*arguments, **options)
        finally:
            with lock:
                at_work -= 1

    monkeypatch.setattr(Codec, "decode_file", counting)
    data = vaec(picture(40, 60))

    async def clients() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*(ask(names["app"], data) for _ in range(16)))

    assert [status for status, _ in asyncio.run(clients())] == [200] * 16
    assert 1 <= most <= 2
