"""Prompt token ids equal those of the model's original processor, for every shape of chat."""

import re
from typing import Any

import openai
import pytest
from phi_vision.planning.checkpoint import DEMO_FOLDER
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.support.pictures import image_part, reference_picture, user

A, B, C = (image_part(reference_picture(300 + 50 * i, 200, i), "low") for i in range(3))
TOKENS = 313  # of each at one crop


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_FOLDER)


def original_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The published processor's procedure: each chunk between tags is tokenised on its own."""
    image = tokenizer.convert_tokens_to_ids("<|image|>")
    chunks = [tokenizer(chunk).input_ids for chunk in re.split(r"<\|image_\d+\|>", text)]
    ids = list(chunks[0])
    for chunk in chunks[1:]:
        ids += [image] * TOKENS + chunk
    return ids


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CHATS: dict[str, tuple[list[Any], str]] = {
    "one picture": (
        [user(A, "What is it?")],
        "<|user|>\n<|image_1|>\nWhat is it?<|end|>\n<|assistant|>\n",
    ),
    "text first": (
        [user("Look:", A)],
        "<|user|>\nLook:\n<|image_1|><|end|>\n<|assistant|>\n",
    ),
    "between texts": (
        [user("First", A, "then", B, "so?")],
        "<|user|>\nFirst\n<|image_1|>\nthen\n<|image_2|>\nso?<|end|>\n<|assistant|>\n",
    ),
    "side by side": (
        [user(A, B, C, "Compare.")],
        "<|user|>\n<|image_1|>\n<|image_2|>\n<|image_3|>\nCompare.<|end|>\n<|assistant|>\n",
    ),
    "several turns": (
        [user(A, "Who?"), assistant("A cat."), user("Sure?"), assistant("Yes."), user(B, "And here?")],
        "<|user|>\n<|image_1|>\nWho?<|end|>\n<|assistant|>\nA cat.<|end|>\n<|user|>\nSure?<|end|>\n"
        "<|assistant|>\nYes.<|end|>\n<|user|>\n<|image_2|>\nAnd here?<|end|>\n<|assistant|>\n",
    ),
    "system": (
        [{"role": "system", "content": "Be short."}, user(A, "What?")],
        "<|system|>\nBe short.<|end|>\n<|user|>\n<|image_1|>\nWhat?<|end|>\n<|assistant|>\n",
    ),
    "text only": ([user("Hello, you!")], "<|user|>\nHello, you!<|end|>\n<|assistant|>\n"),
    "text only, several turns": (
        [user("Hi"), assistant("Hello."), user("Bye  now")],
        "<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n<|user|>\nBye  now<|end|>\n<|assistant|>\n",
    ),
    "beyond ASCII": (
        [user("Größe? 猫 🙂", A, "naïve — ok")],
        "<|user|>\nGröße? 猫 🙂\n<|image_1|>\nnaïve — ok<|end|>\n<|assistant|>\n",
    ),
    "line breaks and spaces": (
        [user(A, "  two\n\nlines  \n")],
        "<|user|>\n<|image_1|>\n  two\n\nlines  \n<|end|>\n<|assistant|>\n",
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_equals_the_original(client: openai.OpenAI, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    messages, text = CHATS[name]
    answer = client.chat.completions.create(
        model="phi-3.5-vision", messages=messages, max_tokens=1, extra_body={"return_token_ids": True}
    )
    assert answer.prompt_token_ids == original_ids(tokenizer, text)  # type: ignore[attr-defined]


def test_the_completions_route_begins_with_bos_too(
    client: openai.OpenAI, tokenizer: PreTrainedTokenizerBase
) -> None:
    answer = client.completions.create(
        model="phi-3.5-vision", prompt="Hello", max_tokens=1, extra_body={"return_token_ids": True}
    )
    assert answer.choices[0].prompt_token_ids == tokenizer("Hello").input_ids  # type: ignore[attr-defined]
