"""What is kept of an answer, and answers that mean harm."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from phi_vision.batch import results
from phi_vision.batch.sending import Reply
from phi_vision.batch.work import ItemError
from phi_vision.errors import PhiVisionError

WORDS = [
    {"text": "two", "confidence": 0.5, "start_index": 0},
    {"text": "words", "confidence": 1, "start_index": 4},
]
PAGE: dict[str, Any] = {
    "index": 0,
    "markdown": "two words",
    "status": "complete",
    "rotation": 90,
    "tiles": 2,
    "attempts": [{"purpose": "read"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    "confidence_scores": {"average_page_confidence_score": 0.75, "word_confidence_scores": WORDS},
}


def page_reply(**fields: Any) -> Reply:
    page = {name: value for name, value in (PAGE | fields).items() if value is not ...}
    return Reply({"pages": [page], "model": "m"}, {})


def chat_reply(text: Any = "two words", finish_reason: Any = "stop", **fields: Any) -> Reply:
    tokens = [{"token": token, "logprob": -math.log(2)} for token in str(text).split()]
    choice = {
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish_reason,
        "logprobs": {"content": tokens},
        **fields.pop("choice", {}),
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return Reply({"choices": [choice], "model": "m", "usage": usage, **fields}, {})


def test_a_page() -> None:
    assert results.of_page(page_reply()) == {
        "text": "two words",
        "status": "complete",
        "model": "m",
        "confidence": 0.75,
        "words": [["two", 0.5, 0], ["words", 1.0, 4]],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        "rotation": 90,
        "tiles": 2,
        "attempts": [{"purpose": "read"}],
    }


def test_a_page_of_another_server_of_this_shape() -> None:
    bare = {name: ... for name in PAGE if name not in ("index", "markdown")}
    result = results.of_page(page_reply(**bare))
    assert (result["text"], result["status"]) == ("two words", "complete")
    assert all(value is None for name, value in result.items() if name not in ("text", "status", "model"))


def test_a_blank_page() -> None:
    result = results.of_page(page_reply(markdown="", status="blank", confidence_scores=None))
    assert (result["text"], result["status"], result["confidence"]) == ("", "blank", None)


def test_a_page_that_was_not_read() -> None:
    with pytest.raises(ItemError, match=r"^the page was not read: no\\u001b light$") as raised:
        results.of_page(page_reply(status="failed", error="no\x1b light"))
    assert raised.value.cause == "not read" and raised.value.is_final
    with pytest.raises(ItemError, match="the model gives no text"):
        results.of_page(page_reply(status="failed"))


def test_several_pages() -> None:
    with pytest.raises(ItemError, match="it has 2 pages; name one") as raised:
        results.of_page(Reply({"pages": [PAGE, PAGE], "model": "m"}, {}))
    assert raised.value.cause == "unreadable"


def test_a_chat() -> None:
    assert results.of_chat(chat_reply(), is_page=False) == {
        "text": "two words",
        "status": "complete",
        "model": "m",
        "confidence": pytest.approx(0.5),
        "words": [["two", pytest.approx(0.5), 0], ["words", pytest.approx(0.5), 4]],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        "rotation": None,
        "tiles": None,
        "attempts": None,
    }


@pytest.mark.parametrize(
    ("reason", "status"), [("length", "truncated"), ("repetition", "repetition"), (None, "complete")]
)
def test_how_a_chat_ended(reason: str | None, status: str) -> None:
    assert results.of_chat(chat_reply(finish_reason=reason), is_page=False)["status"] == status


def test_a_chat_about_a_page_loses_what_is_said_around_it() -> None:
    said = 'The text in the image is:\n"two words"'
    page = results.of_chat(chat_reply(said), is_page=True)
    assert page["text"] == "two words" and [word[2] for word in page["words"]] == [0, 4]
    assert results.of_chat(chat_reply(said), is_page=False)["text"] == said
    with pytest.raises(ItemError) as raised:
        results.of_chat(chat_reply("I cannot read it."), is_page=True)
    assert raised.value.cause == "not read"


def test_a_chat_without_text_or_log_probabilities() -> None:
    result = results.of_chat(chat_reply(None, choice={"logprobs": None}, usage=None), is_page=False)
    assert (result["text"], result["confidence"], result["words"], result["usage"]) == ("", None, None, None)
    with pytest.raises(ItemError) as raised:
        results.of_chat(chat_reply("half", "abort"), is_page=False)
    assert raised.value.cause == "not read"


ODD_CHATS: dict[str, Any] = {
    "no choices": {"choices": []},
    "two choices": {"choices": [{}, {}]},
    "a choice of numbers": {"choices": [1]},
    "text of numbers": {"choice": {"message": {"content": 7}}},
    "tokens of numbers": {"choice": {"logprobs": {"content": [7]}}},
    "a token without a number": {"choice": {"logprobs": {"content": [{"token": "a", "logprob": "x"}]}}},
    "no model": {"model": None},
    "usage as text": {"usage": "much"},
    "usage of texts": {"usage": {"prompt_tokens": "7", "completion_tokens": 1}},
}


@pytest.mark.parametrize("name", ODD_CHATS)
def test_an_odd_chat(name: str) -> None:
    with pytest.raises(PhiVisionError, match="the server's answer is not understood: "):
        results.of_chat(chat_reply(**ODD_CHATS[name]), is_page=True)


ODD_PAGES: dict[str, Any] = {
    "text of numbers": {"markdown": 7},
    "no text": {"markdown": None},
    "a status of numbers": {"status": 7},
    "scores of texts": {"confidence_scores": {"average_page_confidence_score": "high"}},
    "endless confidence": {"confidence_scores": {"average_page_confidence_score": math.inf}},
    "words of numbers": {
        "confidence_scores": {"average_page_confidence_score": 1.0, "word_confidence_scores": [7]}
    },
    "rotation as text": {"rotation": "left"},
    "usage without numbers": {"usage": {}},
}


@pytest.mark.parametrize("name", ODD_PAGES)
def test_an_odd_page(name: str) -> None:
    with pytest.raises(PhiVisionError, match="the server's answer is not understood: "):
        results.of_page(page_reply(**ODD_PAGES[name]))


@pytest.mark.parametrize("pages", [None, 7, [], [7], [None]])
def test_odd_pages(pages: Any) -> None:
    with pytest.raises(PhiVisionError):
        results.of_page(Reply({"pages": pages, "model": "m"}, {}))


def test_absurd_log_probabilities_stay_numbers() -> None:
    tokens = [{"token": "two", "logprob": 1e308}, {"token": "words", "logprob": -1e308}]
    result = results.of_chat(chat_reply(choice={"logprobs": {"content": tokens}}), is_page=False)
    assert [word[1] for word in result["words"]] == [1.0, 0.0]
    json.dumps(result, allow_nan=False)
