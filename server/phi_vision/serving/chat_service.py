"""A chat request that carries its pictures, and what those who make one need to know of the server."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import PrivateAttr
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse

from phi_vision.documents.answers import Answer, Status, status_of
from phi_vision.documents.readings import LOW_CONFIDENCE
from phi_vision.limits import Limits
from phi_vision.model.crops import CropPolicy
from phi_vision.model.geometry import CROP_PX, num_image_tokens
from phi_vision.planning.checkpoint import DEMO_FOLDER
from phi_vision.serving.pictures import Picture
from phi_vision.serving.vllm_compat import loop_guard
from phi_vision.spec import PHI_3_5_VISION
from phi_vision.tasks import presets


class PictureChatRequest(loop_guard.EndsLoops, ChatCompletionRequest):
    """A chat request that carries its pictures, and sees its answer."""

    _pictures: list[Picture] = PrivateAttr(default_factory=list)
    _statuses: list[Status] = PrivateAttr(default_factory=list)

    def see_answer(self, answer: ChatCompletionResponse) -> None:
        """Note how each choice ended, and leave a loop's log-probabilities out as its text is."""
        for choice in answer.choices:
            end = choice.finish_reason or "stop"
            self._statuses.append(status_of(Answer("", finish_reason=end)))
            if end == "repetition" and choice.logprobs and choice.logprobs.content:
                tokens, text = choice.logprobs.content, choice.message.content or ""
                choice.logprobs.content = loop_guard.tokens_left(text, tokens)

    def put_pictures(self, pictures: Sequence[Picture | Sequence[Picture]]) -> None:
        """Have vLLM's parser find `pictures`, in order, in place of their URLs.

        Args:
            pictures: for each URL a picture, or the pages of a document.
        """
        of_each_url = [[each] if isinstance(each, Picture) else each for each in pictures]
        self._pictures = list(itertools.chain.from_iterable(of_each_url))
        waiting = iter(of_each_url)
        self.messages = [_with_pictures(message, waiting) for message in self.messages]  # type: ignore[has-type]

    @property
    def statuses(self) -> Sequence[Status]:
        """How each choice of the answer ended; none of a stream."""
        return self._statuses

    def headers(self) -> dict[str, str]:
        """What the pictures cost, once they are drawn: one number each, in the order of the prompt."""
        if not self._pictures:
            return {}
        return {
            "x-phi-vision-num-crops": ",".join(str(picture.num_crops) for picture in self._pictures),
            "x-phi-vision-image-tokens": ",".join(
                str(picture.num_image_tokens) for picture in self._pictures
            ),
        }


class ChatService:
    """What the chat route needs to know of the server."""

    def __init__(self, model_config: ModelConfig, args: Namespace) -> None:
        self.served_names = frozenset(args.served_model_name)
        self.name: str = args.served_model_name[0]
        self.is_demo = model_config.model == str(DEMO_FOLDER)
        self.crop_policy = CropPolicy(**model_config.multimodal_config.mm_processor_kwargs)
        self.max_model_len: int = model_config.max_model_len

    @property
    def tokens_per_request(self) -> int:
        """What an ordinary request takes of the KV cache: one picture and an answer."""
        picture = num_image_tokens(CROP_PX, CROP_PX, self.crop_policy.single)
        return picture + presets.TYPICAL_ANSWER_TOKENS

    def describe(self, limits: Limits) -> dict[str, Any]:
        """What is served and what pictures may cost, as JSON for `GET /v1/tasks`."""
        return {
            "model": self.name,
            "demo": self.is_demo,
            "max_model_len": self.max_model_len,
            "short_window": PHI_3_5_VISION.short_window,
            "num_crops": self.crop_policy.single,
            "num_crops_multi": self.crop_policy.multi,
            "adaptive_crops": self.crop_policy.adaptive,
            "max_num_crops": PHI_3_5_VISION.max_num_crops,
            "max_images": limits.max_images,
            "max_pages": limits.max_pages,
            "max_body_mb": limits.max_body_mb,
            "low_confidence": LOW_CONFIDENCE,
        }


def _with_pictures(message: Any, waiting: Iterator[Sequence[Picture]]) -> Any:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts: list[Any] = []
    for part in content:
        if part["type"] == "image_url":
            parts += ({"type": "image_pil", "image_pil": picture} for picture in next(waiting))
        else:
            parts.append(part)
    return {**message, "content": parts}
