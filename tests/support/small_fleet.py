"""`phi-vision replicas` with small servers in the place of `phi-vision serve`: they start at once.

    python tests/support/small_fleet.py [flags of `phi-vision replicas`]

A small server answers a chat with a digest of its body, after a moment; a stream it begins and ends after
`max_tokens` pieces. It stops as ours does: it says so for a while, then takes no more requests, and ends when
it has answered the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from unittest.mock import patch

from aiohttp import web
from phi_vision.cli.main import main
from phi_vision.replicas import run

_MOMENT_S = 0.05
_NOTICE_S = 3.0  # as `--stop-notice-s`
CHAT = "/v1/chat/completions"


class SmallServer:
    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.refusing = False
        self.in_flight = 0
        self.answered = 0

    async def readyz(self, _: web.Request) -> web.StreamResponse:
        if self.stopping.is_set():
            return web.json_response({"status": "the server is stopping"}, status=503)
        return web.json_response({"status": "ok"})

    async def about(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/metrics":
            sample = f'phi_vision_requests_total{{route="{CHAT}",status="2xx"}} {self.answered}'
            return web.Response(text=f"# TYPE phi_vision_requests_total counter\n{sample}\n")
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "small", "root": "small"}]})
        return web.json_response({"plan": None, "actual": {"kv_dtype": "auto", "max_model_len": 1}})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        if self.refusing:
            return web.json_response({}, status=503, headers={"Retry-After": "2"})
        self.in_flight += 1
        try:
            body = await request.json()
            if body.get("stream"):
                return await self._stream(request, body["max_tokens"])
            await asyncio.sleep(_MOMENT_S)
            digest = hashlib.sha256(await request.read()).hexdigest()
            self.answered += 1
            return web.json_response({"choices": [{"message": {"content": digest}}]})
        finally:
            self.in_flight -= 1

    async def _stream(self, request: web.Request, pieces: int) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(pieces):
            await answer.write(b"data: {}\n\n")
            await asyncio.sleep(_MOMENT_S)
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async def run(self) -> None:
        port = int(sys.argv[2])
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/readyz", self.readyz)
        for path in ("/metrics", "/v1/models", "/v1/plan"):
            app.router.add_get(path, self.about)
        app.router.add_post(CHAT, self.chat)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        await self.stopping.wait()
        await asyncio.sleep(_NOTICE_S)
        self.refusing = True
        while self.in_flight:
            await asyncio.sleep(0.01)
        await runner.cleanup()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--port"]:  # as the balancer's process starts each server
        asyncio.run(SmallServer().run())
    else:
        small = patch.object(run, "serve_command", lambda *flags: [sys.executable, __file__, *flags])
        with small:
            sys.exit(main(["replicas", *sys.argv[1:]]))
