"""An evaluation from the data set to its page, on servers whose answers are known."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from phi_vision.batch.concurrency import ConcurrencyLimit
from phi_vision.batch.pages import Pages
from phi_vision.batch.servers import Servers
from phi_vision.batch.work import Item
from phi_vision.errors import UsageError
from phi_vision.tasks.presets import PRESETS

from benchmarks.evaluation import __main__ as command
from benchmarks.evaluation import page, run, tables
from benchmarks.evaluation.answers import Answers, collect
from benchmarks.evaluation.asking import QuestionAsk
from benchmarks.evaluation.datasets import DataSet, read
from benchmarks.evaluation.questions import Question
from benchmarks.evaluation.servers import Asked
from tests.support.answering_server import AnsweringServer, text_of
from tests.support.asking import OURS, Scripted, chat_answer, reply
from tests.support.browser import PHONE, running_browser, watched_page
from tests.support.pictures import encoded, reference_picture
from tests.support.serving import eventually

ROOT = Path(__file__).parents[2]
HOSTILE = '</pre><script>document.title = "taken"</script><img src=x onerror="document.title=1">\x00 end'


def picture(folder: Path, seed: int) -> Path:
    path = folder / f"{seed}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(reference_picture(40, 30, seed)))
    return path


def data_set(folder: Path, count: int = 20, wrong: int = 5) -> Path:
    """Pictures that an `AnsweringServer` reads; the right answers of the first `wrong` are others."""
    lines = []
    for seed in range(count):
        path = picture(folder, seed)
        right = "something else" if seed < wrong else text_of(path.read_bytes())
        line = {
            "image": path.name,
            "task": "vqa",
            "question": "What?",
            "answers": [right],
            "part": "ab"[seed % 2],
        }
        lines.append(json.dumps(line))
    target = folder / "set.jsonl"
    target.write_text("\n".join(lines))
    return target


def question(folder: Path, task: str = "vqa", text: str | None = "Why?", **more: Any) -> Question:
    made = {"answers": ("because",), "metrics": ("exact",)} | more
    return Question(key="1", images=(str(picture(folder, 1)),), task=task, text=text, **made)


def sent(scripted: Scripted, asked: Question, model: str | None = None) -> tuple[dict[str, Any], Any]:
    """The result of one question, and the request's body."""

    async def ask() -> dict[str, Any]:
        with closing(Pages(Path("fetched"))) as pages:
            ask = QuestionAsk(Servers([OURS]), pages, model, http=scripted.client())
            async with ask:
                await ask.check()
                return await ask(Item("1", asked.request))

    result = asyncio.run(ask())
    path, body = scripted.asked[-1]
    assert path == "/v1/chat/completions"
    return result, body


def models(*names: str) -> Any:
    return lambda: reply(200, {"data": [{"id": name} for name in names]})


TASKS = {"data": [{"id": task, "models": [f"m:{task}"]} for task in PRESETS]}
SERVERS: dict[str, Any] = {"_v1_models": models("m"), "_v1_chat_completions": chat_answer}


def ours() -> Scripted:
    return Scripted(**SERVERS, _v1_tasks=lambda: reply(200, TASKS))


def stock() -> Scripted:
    return Scripted(**SERVERS, _v1_tasks=lambda: reply(404, {"detail": "Not Found"}))


def test_a_server_with_presets_is_asked_by_task(tmp_path: Path) -> None:
    result, body = sent(ours(), question(tmp_path, extra_body={"max_tokens": 7}))
    assert (body["model"], body["max_tokens"]) == ("m:vqa", 7) and "temperature" not in body
    (message,) = body["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][1]["text"] == "Why?"
    assert (result["answer"], result["end"], result["model"]) == ("a word", "stop", "m")
    _, body = sent(ours(), question(tmp_path, "ocr", None))
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url"]


def test_any_other_server_is_asked_the_same_in_words(tmp_path: Path) -> None:
    _, body = sent(stock(), question(tmp_path))
    system, user = body["messages"]
    assert (body["model"], system["content"]) == ("m", PRESETS["vqa"].system)
    assert user["content"][-1]["text"] == "Why?"
    assert {name: body[name] for name in PRESETS["vqa"].fields} == PRESETS["vqa"].fields
    _, body = sent(stock(), question(tmp_path, "ocr", None))
    (message,) = body["messages"]
    assert message["content"][-1]["text"] == PRESETS["ocr"].prompt
    _, body = sent(ours(), question(tmp_path), model="named")
    assert body["model"] == "named" and len(body["messages"]) == 2


@pytest.mark.parametrize("end", ["length", "repetition", None])
def test_how_an_answer_ended_is_kept(end: str | None, tmp_path: Path) -> None:
    choice = {"message": {"content": None}, "finish_reason": end}
    chat = {**SERVERS, "_v1_chat_completions": lambda: reply(200, {"choices": [choice], "model": "m"})}
    result, _ = sent(Scripted(**chat), question(tmp_path))
    assert (result["answer"], result["end"]) == ("", end)


def answer(text: str, end: str = "stop") -> dict[str, Any]:
    return {"answer": text, "end": end, "model": "m:ocr", "usage": {}, "seconds": 0.1}


def result(folder: Path, *texts: str, other: str | None = None) -> tuple[dict[str, Any], str]:
    """What is written of these answers to as many questions, and the page."""
    questions = [
        Question(f"q{n}", (str(picture(folder, n)),), "ocr", None, ("RIGHT <b>",), ("cer", "exact"))
        for n in range(len(texts))
    ]
    found = {each.key: answer(text) for each, text in zip(questions, texts, strict=True)}
    answers = [Answers("http://a/v1", "presets", None, found, {})]
    if other is not None:
        found = {each.key: answer(other) for each in questions}
        answers.append(Answers("http://b/v1", "in words", None, found, {"q9": {"message": "<i>no</i>"}}))
    judged = [run.judged_answers(questions, each) for each in answers]
    data = DataSet("a & b", "JSONL", questions, len(questions))
    written = json.loads(json.dumps(run.result_of(data, answers, judged), allow_nan=False))
    return written, page.render(written, judged)


def test_answers_that_did_not_end_by_themselves_are_counted() -> None:
    found = {"1": answer("x"), "2": answer("x", "length"), "3": answer("x", "repetition"), "4": answer(" ")}
    answers = Answers("a", "in words", None, found, {"5": {"message": "no", "cause": "refused"}})
    assert answers.counts == {"answered": 4, "failed": 1, "truncated": 1, "repetition": 1, "empty": 1}
    assert answers.models == ["m"] and Answers.from_json(answers.as_json()) == answers
    assert tables.server_line(answers.as_json()) == (
        "a (m): 4 answered; 1 failed; 1 cut off at max_tokens; 1 ran in a loop; 1 empty; "
        "no task presets there: asked in words"
    )


def test_answers_are_text_on_the_page(tmp_path: Path) -> None:
    _, html = result(tmp_path, HOSTILE, "RIGHT <b>", other=HOSTILE)
    assert "<script>document" not in html and "<img src=x" not in html and "<i>no" not in html
    assert "a &amp; b" in html and "RIGHT &lt;b&gt;" in html and "&lt;i&gt;no" in html
    assert html.count("<article>") == 1 + 1  # the worst; and where the two differ
    assert html.count("data:image/jpeg;base64,") == 2


def test_all_right_leaves_no_worst_answer_and_what_is_written_has_everything(tmp_path: Path) -> None:
    written, html = result(tmp_path, "RIGHT <b>", "RIGHT <b>")
    assert "There are none." in html and not written["paired"]
    assert [(row["metric"], row["value"]) for row in written["servers"][0]["scores"]] == [
        ("exact", 1),
        ("cer", 0),
    ]
    assert written["questions"][1]["images"] == ["1.png"] and written["data"]["pictures"] == 2
    text = tables.text(written)
    assert "exact match" in text and "100.0 %" in text and "(less is better)" in text


def test_an_earlier_evaluation_is_compared_by_question(tmp_path: Path) -> None:
    written, _ = result(tmp_path / "a", "RIGHT <b>", "no")
    (tmp_path / "results.json").write_text(json.dumps(written))
    questions = [Question(**{**each, "images": tuple(each["images"])}) for each in written["questions"]]
    kept = run.kept_answers(tmp_path, questions)
    assert kept.found["q1"]["answer"] == "no" and kept.server == "http://a/v1"
    changed = [
        Question(**{**each, "images": tuple(each["images"]), "answers": ["x"]})
        for each in written["questions"]
    ]
    with pytest.raises(UsageError, match="another question named 'q0'"):
        run.kept_answers(tmp_path, [*changed[:1], *questions[1:]])
    with pytest.raises(UsageError, match="none of the questions"):
        run.kept_answers(tmp_path, changed)
    with pytest.raises(UsageError, match=r"cannot read .*results.json"):
        run.kept_answers(tmp_path / "nowhere", questions)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UsageError, match="is no result of an evaluation"):
        run.kept_answers(tmp_path, questions)


def test_flags_are_for_a_server_that_is_started() -> None:
    assert Asked(flags=["--model", "demo"]).name == "phi-vision serve --model demo"
    assert Asked("http://a/v1", model="m").name == "http://a/v1, m"
    with pytest.raises(UsageError, match="leave --base-url out"):
        Asked("http://a/v1", ["--model", "demo"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "make eval: cannot read nowhere: there is no such file or folder\n"),
        (["DATA", "--concurrency", "999"], "--concurrency: at most"),
        (["DATA", "--base-url", "http://127.0.0.1:1/v1"], "http://127.0.0.1:1/v1 does not answer"),
        (
            ["DATA", "--base-url", "http://127.0.0.1:1/v1", "--against", "nowhere"],
            "cannot read nowhere/results.json",
        ),
        (["DATA", "--base-url", "http://127.0.0.1:1/v1", "--", "--model", "demo"], "leave --base-url out"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(data_set(tmp_path / "data", 2)) if each == "DATA" else each for each in arguments]
    assert command.main([*names[:1], "--out", str(tmp_path / "out"), *names[1:]]) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err and captured.err.count("\n") == 1 and not captured.out


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnsweringServer]:
    with AnsweringServer(tmp_path_factory.mktemp("server")) as running:
        running.wait_until_ready()
        yield running


def evaluate(data: Path, out: Path, *options: str) -> tuple[int, dict[str, Any]]:
    code = command.main([str(data), "--out", str(out), "--concurrency", "4", *options])
    return code, json.loads((out / "results.json").read_text())


@pytest.mark.full
def test_known_answers_have_their_known_score(
    answering: AnsweringServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, url = data_set(tmp_path / "data"), answering.base_url
    code, found = evaluate(data, tmp_path / "out", "--base-url", url)
    scores = {(row["part"], row["metric"]): row for row in found["servers"][0]["scores"]}
    assert code == 0 and found["data"]["questions"] == 20
    assert scores["all", "exact"]["value"] == 15 / 20 and scores["a", "exact"]["value"] == 7 / 10
    assert scores["all", "exact"]["low"] < 0.75 < scores["all", "exact"]["high"]
    assert "75.0 %" in capsys.readouterr().out and (tmp_path / "out" / "report.html").exists()
    asks = sum(answering.asks.values())
    assert evaluate(data, tmp_path / "out", "--base-url", url)[1]["servers"] == found["servers"]
    assert sum(answering.asks.values()) == asks  # all was answered
    with pytest.raises(UsageError, match="holds answers of"):
        collect(tmp_path / "out", read(data).questions, Asked("http://127.0.0.1:1/v1"), ConcurrencyLimit(1))
    data_set(tmp_path / "data", wrong=0)  # other right answers: judged anew, not asked
    assert evaluate(data, tmp_path / "out", "--base-url", url)[1]["servers"][0]["scores"][0]["value"] == 1
    data.write_text(data.read_text().replace("What?", "Why?"))
    with pytest.raises(UsageError, match="holds an answer to another question named 'line 1'"):
        collect(tmp_path / "out", read(data).questions, Asked(url), ConcurrencyLimit(1))


@pytest.mark.full
def test_two_servers_are_compared_and_one_fails_at_some(answering: AnsweringServer, tmp_path: Path) -> None:
    data = data_set(tmp_path / "data")
    with AnsweringServer(tmp_path, "--no-tasks") as other:
        other.wait_until_ready()
        broken = text_of(picture(tmp_path, 19).read_bytes())
        other.fail("400", None, broken)
        options = ("--base-url", answering.base_url, "--against", other.base_url)
        code, found = evaluate(data, tmp_path / "out", *options)
        assert code == 1 and [each["counts"]["failed"] for each in found["servers"]] == [0, 1]
        assert [each["prompts"] for each in found["servers"]] == ["presets", "in words"]
        (row,) = (row for row in found["paired"] if (row["part"], row["metric"]) == ("all", "exact"))
        assert (row["questions"], row["difference"], row["p_value"]) == (19, 0, 1)
        assert "as asked" in (tmp_path / "out" / "report.html").read_text()
        other.mend()
        code, found = evaluate(data, tmp_path / "out", *options)  # what failed is asked again, and no more
        assert code == 0 and found["servers"][1]["counts"]["answered"] == 20 and other.asks[broken] == 2
    code, again = evaluate(
        data, tmp_path / "third", "--base-url", answering.base_url, "--against", str(tmp_path / "out")
    )
    assert code == 0 and again["servers"][1]["found"] == found["servers"][0]["found"]


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_goes_on_where_it_was_stopped(number: signal.Signals, tmp_path: Path) -> None:
    data = data_set(tmp_path / "data", 12)
    with AnsweringServer(tmp_path) as server:
        server.wait_until_ready()
        hangs = text_of(picture(tmp_path, 8).read_bytes())
        server.fail("hang", None, hangs)
        options = [
            str(data),
            "--base-url",
            server.base_url,
            "--out",
            str(tmp_path / "out"),
            "--concurrency",
            "1",
        ]
        run_command = [sys.executable, "-m", "benchmarks.evaluation", *options]
        # A shell's background job hands on that SIGINT is ignored.
        listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(
            run_command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=listen
        ) as first:
            eventually(lambda: server.asks.get(hangs) == 1)
            first.send_signal(number)
            _, said = first.communicate()
        if number == signal.SIGKILL:
            assert first.returncode == -number
        else:
            assert first.returncode == 128 + number and said.endswith(
                "run the same command again to go on\n"
            ), said
        server.mend()
        assert subprocess.run(run_command, cwd=ROOT, capture_output=True).returncode == 0
        assert set(server.asks.values()) == {1, 2} and server.asks[hangs] == 2
    assert (
        json.loads((tmp_path / "out" / "results.json").read_text())["servers"][0]["counts"]["answered"] == 12
    )


@pytest.mark.full
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    _, html = result(tmp_path, HOSTILE, "WRONG", "RIGHT <b>", other="RIGHT <b>")
    path = tmp_path / "report.html"
    path.write_text(html)
    with running_browser() as browser:
        for options in ({}, PHONE, {"color_scheme": "dark"}):
            with watched_page(browser, "file://", **options) as tab:
                tab.goto(path.as_uri())
                assert tab.title() == "a & b: evaluation"
                assert tab.locator("article").count() == 4 and tab.locator("article img").count() == 4
                assert "</pre><script>" in re.sub(r"\u00b7", "", tab.locator("article").first.inner_text())
                wide = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, options
