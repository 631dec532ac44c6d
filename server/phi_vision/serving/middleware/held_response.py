"""Holds the head of a response back until it is known what must stand in it.

Some of vLLM's routes send the head of a stream before they ask the engine. Asking takes no work of the model,
so holding the head until then costs nothing.
"""

from __future__ import annotations

from starlette.types import Message, Send


class HeldResponse:
    """The messages of one response, until they are released."""

    def __init__(self, send: Send) -> None:
        self.begun = False  # the head has been sent
        self._send = send
        self._held: list[Message] = []

    @property
    def head(self) -> Message | None:
        """The message with status and headers, while it can still be changed."""
        return self._held[0] if self._held and self._held[0]["type"] == "http.response.start" else None

    def add(self, message: Message) -> bool:
        """Take the next message; True if it is the response's last."""
        self._held.append(message)
        return message["type"] == "http.response.body" and not message.get("more_body", False)

    async def release(self) -> None:
        """Send all messages so far."""
        self.begun = True
        for message in self._held:
            await self._send(message)
        self._held.clear()
