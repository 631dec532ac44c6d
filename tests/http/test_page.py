"""`GET /` and the files of the page, as browsers get them."""

from __future__ import annotations

import httpx
import pytest
from phi_vision import page

from tests.support.serving import eventually
from tests.support.stub_server import StubServer


@pytest.mark.parametrize("path", page.files())
def test_each_file_is_served_with_the_policy(stub: StubServer, path: str) -> None:
    file = page.files()[path]
    answer = httpx.get(stub.url + path)
    assert (answer.status_code, answer.content) == (200, file.content)
    assert answer.headers["content-type"] == file.media_type
    assert all(answer.headers[name] == value for name, value in page.HEADERS.items())
    again = httpx.get(stub.url + path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = httpx.head(stub.url + path)
    assert (head.status_code, head.headers["etag"]) == (200, file.etag)


def test_the_policy_names_this_server_alone(stub: StubServer) -> None:
    policy = httpx.get(stub.url).headers["content-security-policy"]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules.pop("img-src") == "'self' blob: data:"
    own = {"script-src", "style-src", "connect-src"}
    assert {name: rules[name] for name in own} == dict.fromkeys(own, "'self'")
    assert set(rules) - own == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert {rules[name] for name in set(rules) - own} == {"'none'"}


@pytest.mark.parametrize(
    "path", ["/page/", "/page/index.html", "/page/__init__.py", "/page/../config.py", "/page/x"]
)
def test_nothing_else_is_served(stub: StubServer, path: str) -> None:
    with httpx.Client() as http:
        asked = http.build_request("GET", stub.url)
        asked.url = asked.url.copy_with(raw_path=path.encode())
        assert http.send(asked).status_code == 404


def test_it_needs_no_key_and_tells_nothing(keyed: StubServer) -> None:
    assert httpx.get(keyed.url).content == page.files()["/"].content
    for path in ("/v1/tasks", "/v1/plan", "/v1/queue"):
        assert httpx.get(keyed.url + path).status_code == 401


def test_a_page_of_another_origin_does_not_get_it(stub: StubServer) -> None:
    stranger = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}
    assert httpx.get(stub.url, headers=stranger).status_code == 403
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}  # a link to it
    assert httpx.get(stub.url, headers=followed).status_code == 200


def test_the_queue_is_counted(stub: StubServer) -> None:
    empty = httpx.get(f"{stub.url}/v1/queue").json()
    assert empty["requests"] == 0 < empty["max_requests"]


def test_looking_at_the_server_does_not_fill_the_log(stub: StubServer) -> None:
    for path in ("/readyz", "/livez", "/v1/queue", "/v1/plan"):
        assert httpx.get(f"{stub.url}{path}?look=1").status_code == 200
    eventually(lambda: '"GET /v1/plan?look=*** HTTP/1.1" 200' in stub.log)
    assert not any(f'"GET {path}' in stub.log for path in ("/readyz", "/livez", "/v1/queue"))


def test_what_is_served_is_described(stub: StubServer) -> None:
    told = httpx.get(f"{stub.url}/v1/tasks").json()["server"]
    assert (told["model"], told["demo"]) == ("phi-3.5-vision-demo", True)
    assert (told["num_crops"], told["num_crops_multi"], told["max_num_crops"]) == (16, 4, 16)
    assert (told["max_model_len"], told["short_window"], told["adaptive_crops"]) == (16384, 4096, False)
