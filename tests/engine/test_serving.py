"""Tasks, crops and vLLM's own features through the real server with the real SDK."""

import re
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from phi_vision.tasks.presets import PRESETS
from PIL import Image

from tests.support.pictures import encoded, image_part, reference_picture, user
from tests.support.serving import Server

PHOTO = reference_picture(800, 600, 0)
TALL = reference_picture(100, 1500, 1)


def ask(client: openai.OpenAI, *parts: Any, **fields: Any) -> tuple[Any, Any]:
    """One user message; the answer and the response's headers."""
    request: dict[str, Any] = {"model": "phi-3.5-vision", "max_tokens": 12, "temperature": 0} | fields
    raw = client.chat.completions.with_raw_response.create(messages=[user(*parts)], **request)
    return raw.parse(), raw.headers


def text_of(answer: Any) -> str:
    return answer.choices[0].message.content


def test_models_are_listed_with_their_tasks(client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    for base in ("phi-3.5-vision", "phi-3.5-vision-demo"):
        assert {base, *(f"{base}:{task}" for task in PRESETS)} <= listed


def test_the_presets_are_shown(server: Server) -> None:
    listed = httpx.get(f"{server.base_url}/tasks").json()
    assert [entry["id"] for entry in listed["data"]] == list(PRESETS)
    ocr = listed["data"][1]
    assert ocr["prompt"] == PRESETS["ocr"].prompt
    assert ocr["models"] == ["phi-3.5-vision-demo:ocr", "phi-3.5-vision:ocr"]


def test_the_demo_says_that_it_is_one(server: Server, client: openai.OpenAI) -> None:
    answer, _ = ask(client, image_part(PHOTO), model="phi-3.5-vision:caption")
    assert answer.model == "phi-3.5-vision-demo"
    assert "DEMO MODEL" in server.log


@pytest.mark.parametrize("task", ["caption", "ocr"])
def test_name_and_field_ask_the_same(client: openai.OpenAI, task: str) -> None:
    few = {"max_tokens": 8}  # fewer than the loop detection of ocr would take for a loop
    by_name, headers = ask(client, image_part(PHOTO), model=f"phi-3.5-vision:{task}", **few)
    by_field, _ = ask(client, image_part(PHOTO), extra_body={"task": task}, **few)
    by_hand, no_task = ask(client, image_part(PHOTO), PRESETS[task].prompt, **few)
    assert text_of(by_name) == text_of(by_field) == text_of(by_hand)
    assert by_name.usage.prompt_tokens == by_hand.usage.prompt_tokens
    assert headers["x-phi-vision-task"] == task and "x-phi-vision-task" not in no_task


def test_a_question_is_answered_under_the_system_prompt(client: openai.OpenAI) -> None:
    asked, _ = ask(client, image_part(PHOTO), "How many?", model="phi-3.5-vision:vqa")
    plain, _ = ask(client, image_part(PHOTO), "How many?")
    assert asked.usage.prompt_tokens > plain.usage.prompt_tokens


def test_presets_bound_the_answer(client: openai.OpenAI) -> None:
    answer, _ = ask(
        client,
        image_part(PHOTO),
        model="phi-3.5-vision:caption",
        max_tokens=None,
        extra_body={"allowed_token_ids": [300]},  # a letter: the demo's own captions end long before
    )
    assert answer.usage.completion_tokens == PRESETS["caption"].fields["max_tokens"]


def test_the_presets_bound_gives_way_to_the_context(server: Server, client: openai.OpenAI) -> None:
    room = 10
    filler = "x" * (16384 - 313 - room - 40)  # a token a character; 313 for the picture
    answer, _ = ask(
        client,
        image_part(PHOTO, "low"),
        filler,
        model="phi-3.5-vision:ocr",
        max_tokens=None,
        extra_body={"allowed_token_ids": [300], "repetition_detection": {"max_pattern_size": 0}},
    )
    assert answer.usage.total_tokens == 16384
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("parts", "crops", "tokens"),
    [
        ([image_part(PHOTO)], "16", "1921"),
        ([image_part(PHOTO, "high")], "16", "1921"),
        ([image_part(PHOTO, "low")], "1", "313"),
        ([image_part(PHOTO), image_part(PHOTO)], "4,4", "757,757"),
        ([image_part(PHOTO, "low"), image_part(TALL), image_part(PHOTO, "high")], "1,4,16", "313,781,1921"),
        ([], None, None),
    ],
)
def test_crops_follow_count_and_detail(
    client: openai.OpenAI, parts: list[Any], crops: str | None, tokens: str | None
) -> None:
    answer, headers = ask(client, *parts, "Describe.")
    bare, _ = ask(client, "Describe.")
    assert headers.get("x-phi-vision-num-crops") == crops
    assert headers.get("x-phi-vision-image-tokens") == tokens
    # Each picture adds its tokens, "\n" and the <s> of the text behind it.
    image_tokens = sum(map(int, tokens.split(","))) if tokens else 0
    extra = answer.usage.prompt_tokens - bare.usage.prompt_tokens - image_tokens
    assert 0 <= extra <= 4 * len(parts)


def test_a_client_may_choose_the_crops(client: openai.OpenAI) -> None:
    answer, headers = ask(client, image_part(PHOTO), extra_body={"mm_processor_kwargs": {"num_crops": 9}})
    assert headers["x-phi-vision-num-crops"] == "9"
    assert answer.usage.prompt_tokens > int(headers["x-phi-vision-image-tokens"])


def test_other_routes_use_the_same_policy(server: Server) -> None:
    url = image_part(PHOTO)["image_url"]["url"]
    parts = [
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "input_text", "text": "Hi"},
    ]

    def prompt_tokens(content: list[Any]) -> int:
        body = {
            "model": "phi-3.5-vision",
            "input": [{"role": "user", "content": content}],
            "max_output_tokens": 4,
        }
        answer = httpx.post(f"{server.base_url}/responses", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["usage"]["input_tokens"]

    assert 1921 < prompt_tokens(parts) < 1960
    assert 2 * 757 < prompt_tokens([parts[0], *parts]) < 2 * 757 + 60


def test_streaming_says_the_same(client: openai.OpenAI) -> None:
    whole, headers = ask(client, image_part(PHOTO), model="phi-3.5-vision:caption")
    raw = client.chat.completions.with_raw_response.create(
        model="phi-3.5-vision:caption",
        messages=[user(image_part(PHOTO))],
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(raw.parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text_of(whole)
    assert {chunk.model for chunk in chunks} == {"phi-3.5-vision-demo"}
    assert chunks[-1].usage == whole.usage
    shared = [name for name in headers if name.startswith("x-phi-vision") and name != "x-phi-vision-status"]
    assert shared and all(raw.headers[name] == headers[name] for name in shared)


def test_errors_come_before_the_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="phi-3.5-vision:vqa", messages=[user(image_part(PHOTO))], stream=True
        )
    assert caught.value.param == "messages"


def test_the_same_picture_again_gives_the_same_answer(client: openai.OpenAI) -> None:
    first, _ = ask(client, image_part(PHOTO), "Describe.")
    again, _ = ask(client, image_part(PHOTO), "Describe.")
    uncached, _ = ask(client, image_part(PHOTO), "Describe.", extra_body={"cache_salt": "another"})
    assert text_of(first) == text_of(again) == text_of(uncached)


def test_what_a_picture_shows_matters(client: openai.OpenAI) -> None:
    def logprob(image: Image.Image, *others: Image.Image) -> float:
        answer, _ = ask(client, *map(image_part, (image, *others)), "?", logprobs=True, max_tokens=1)
        return answer.choices[0].logprobs.content[0].logprob

    left, right = Image.new("RGB", (400, 300), "red"), reference_picture(400, 300, 2)
    assert logprob(left) != logprob(right)
    assert logprob(left, right) != logprob(right, left)  # and their order


def test_vllms_own_features_work_with_pictures(client: openai.OpenAI) -> None:
    choice, _ = ask(
        client, image_part(PHOTO), "?", extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert text_of(choice) in ("yes", "no")
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "boolean"}}}
    as_json, _ = ask(client, image_part(PHOTO), "?", response_format=schema)
    assert text_of(as_json) in ("true", "false")
    logprobs, _ = ask(client, image_part(PHOTO), "?", logprobs=True, top_logprobs=2, max_tokens=3)
    assert len(logprobs.choices[0].logprobs.content[0].top_logprobs) == 2
    several, _ = ask(client, image_part(PHOTO), "?", n=2, temperature=1, seed=3)
    assert len(several.choices) == 2
    plain = text_of(ask(client, image_part(PHOTO), "?", max_tokens=30)[0])
    stopped, _ = ask(client, image_part(PHOTO), "?", max_tokens=30, stop=[plain[2]])
    assert text_of(stopped) == plain.partition(plain[2])[0]


@pytest.mark.parametrize(
    ("constraint", "form"),
    [
        ({"regex": r"[0-9]{2}-[a-f]"}, r"\d\d-[a-f]"),
        ({"choice": ["yes", "no", 'a "b" \\ c']}, r'yes|no|a "b" \\ c'),
        ({"grammar": 'root ::= root ",x" | "x"'}, r"x(,x)*"),
        ({"grammar": 'start: "a" b\nb: /[0-9]/'}, r"a\d"),
        ({"json": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}}, r"\{.*"),
        (
            {"structural_tag": '{"type": "structural_tag", "format": {"type": "regex", "pattern": "[a-c]"}}'},
            "[a-c]",
        ),
    ],
    ids=["regex", "choice", "grammar", "lark", "schema", "tag"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_constraints_hold(client: openai.OpenAI, constraint: dict[str, Any], form: str, stream: bool) -> None:
    fields: dict[str, Any] = {"max_tokens": 30, "extra_body": {"structured_outputs": constraint}}
    if stream:
        chunks, _ = ask(client, "?", stream=True, **fields)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    else:
        text = text_of(ask(client, "?", **fields)[0])
    assert re.match(form, text), text


@pytest.mark.parametrize(
    "picture",
    [
        encoded(PHOTO.convert("CMYK"), "JPEG"),
        encoded(PHOTO.convert("P", palette=Image.Palette.ADAPTIVE)),
        encoded(Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16)),
        encoded(PHOTO.convert("RGBA")),
        encoded(PHOTO.convert("LA")),
        encoded(PHOTO.convert("1")),
        encoded(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90), PHOTO.rotate(180)]),
        encoded(Image.new("RGB", (1, 1), "red")),
        encoded(PHOTO, "WEBP"),
        encoded(PHOTO, "BMP"),
        encoded(PHOTO, "TIFF"),
    ],
    ids=[
        "cmyk",
        "palette",
        "16-bit",
        "alpha",
        "grey-alpha",
        "1-bit",
        "animated",
        "1x1",
        "webp",
        "bmp",
        "tiff",
    ],
)
def test_every_common_kind_of_picture_gets_an_answer(client: openai.OpenAI, picture: bytes) -> None:
    answer, headers = ask(client, image_part(picture), "Describe.")
    assert answer.usage.completion_tokens > 0 and int(headers["x-phi-vision-image-tokens"]) > 300


def test_a_turned_photo_stands_upright(client: openai.OpenAI) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was turned by 90 degrees
    turned = encoded(PHOTO, "JPEG", exif=exif)
    _, headers = ask(client, image_part(turned), "Describe.")
    _, upright = ask(client, image_part(PHOTO.rotate(-90, expand=True)), "Describe.")
    assert headers["x-phi-vision-image-tokens"] == upright["x-phi-vision-image-tokens"] == "1933"
