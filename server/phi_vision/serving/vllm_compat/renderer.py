"""Have pictures drawn before vLLM's renderer sees them.

Symptom: pictures were resized one after the other, whatever the number of cores, and how many crops a picture
got was decided in two places.
Cause: vLLM fetches pictures one by one, without saying how many a prompt has, and hands them to a processor
on its only multimodal thread. `process_for_engine_async` is the step in between, on every route, where all
pictures of a prompt are known and that thread is not yet taken.
Can go: when vLLM has an asynchronous step for all media of a prompt that a plugin may fill.
"""

from __future__ import annotations

from typing import Any

from phi_vision.serving import tracing
from phi_vision.serving.pictures import Pictures

_SHARE = "phi_vision_share"  # of the request, on its way through vLLM's `prompt_extras`


def install(renderer: Any, pictures: Pictures) -> None:
    """For all prompts of this renderer, a `vllm.renderers.base.BaseRenderer`."""
    render_chat_async = renderer.render_chat_async
    process_for_engine_async = renderer.process_for_engine_async

    async def render_chat(*args: Any, prompt_extras: dict[str, Any] | None = None, **options: Any) -> Any:
        extras = {**(prompt_extras or {}), _SHARE: pictures.share()}  # one for all conversations of a batch
        with tracing.span("render"):
            return await render_chat_async(*args, prompt_extras=extras, **options)

    async def process_for_engine(prompt: Any, *args: Any, **options: Any) -> Any:
        share = prompt.pop(_SHARE, None) or pictures.share()
        media = prompt.get("multi_modal_data")
        if media and media.get("image"):
            prompt["multi_modal_data"] = {**media, "image": await pictures.draw(media["image"], share)}
        return await process_for_engine_async(prompt, *args, **options)

    renderer.render_chat_async = render_chat
    renderer.process_for_engine_async = process_for_engine
