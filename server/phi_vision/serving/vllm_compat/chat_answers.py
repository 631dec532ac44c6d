"""Let a chat request see its answer before it becomes JSON.

Symptom: a response header that depends on the answer, or a change in it, takes a second parse of the body.
Cause: vLLM's route serializes what its serving class returns.
Can go: when vLLM's route hands out the answer as an object.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat


@runtime_checkable
class SeesAnswer(Protocol):
    """A request that is shown its answer."""

    def see_answer(self, answer: ChatCompletionResponse) -> None:
        """Called once, before the answer is sent; not for streams. May change the answer."""


def install(serving_chat: OpenAIServingChat) -> None:
    """Wrap `create_chat_completion` of this serving class."""
    create = serving_chat.create_chat_completion

    async def create_and_show(request: Any, *arguments: Any, **options: Any) -> Any:
        answer = await create(request, *arguments, **options)
        if isinstance(answer, ChatCompletionResponse) and isinstance(request, SeesAnswer):
            request.see_answer(answer)
        return answer

    serving_chat.create_chat_completion = create_and_show
