"""What a request's error looks like on the wire."""

from __future__ import annotations

import json

from phi_vision.errors import RequestError
from phi_vision.serving.http import error_response


def test_a_name_that_no_encoding_takes_is_escaped() -> None:
    """JSON can hold half of a surrogate pair, also in the name of a field that an error repeats."""
    error = RequestError("tools.\ud800: an integer must fit 64 bits", param="tools.\ud800")
    body = json.loads(bytes(error_response(error).body))
    assert body["error"]["param"] == "tools.\\ud800"
    assert body["error"]["message"].startswith("tools.\\ud800: ")
