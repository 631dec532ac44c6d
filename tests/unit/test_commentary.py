from __future__ import annotations

import pytest
from phi_vision.documents.commentary import page_span, strip_commentary

PAGE = "GARDEN MARKET\nCOFFEE $3.50"


@pytest.mark.parametrize(
    "answer",
    [
        PAGE,
        f"  \n{PAGE}\n ",
        f"```\n{PAGE}\n```",
        f"```markdown\n{PAGE}\n```\n",
        f"````text\n{PAGE}\n````",
        f"Here is the text:\n```\n{PAGE}\n```",
        f"The text in the image is as follows:\n\n{PAGE}",
        f"The text in the image is:\n{PAGE}",
        f'The text in the image is: "{PAGE}"',
        f"The text in the picture reads: “{PAGE}”",
        f'Here is the text: "{PAGE}"',
        f"Sure, here is the transcription of the document:\n\n{PAGE}",
        f"The image contains the following text:\n\n{PAGE}",
        f"Here is the text from the image:\n\n```plaintext\n{PAGE}\n```",
    ],
)
def test_commentary_is_taken_away(answer: str) -> None:
    assert strip_commentary(answer) == PAGE
    start, stop = page_span(answer)
    assert answer[start:stop] == PAGE


@pytest.mark.parametrize(
    "page",
    [
        "The text in the image",  # the page's own words: no colon
        "The text in the image is: blurred",  # nothing but the phrase speaks for commentary
        "The text in the image is:",  # nothing follows
        "The text of the treaty:\nArticle 1",  # names no picture
        "Here is the text:\nDear Ada",
        'The page says: "open" and "closed"',  # two quotes, not one around everything
        'She said: "GO"',
        '"QUOTED"',
        "Use it so:\n```\nmake\n```",  # a fence, but not around everything
        "```\nmake\n```\nand then\n```\nmake test\n```",
        "TOTAL: 5\nThe text in the image:\nGO",
        "There is no text in the image that you sent us.",
        "No text, no talk",
        "x" * 200 + " text in the image:\nGO",
    ],
)
def test_what_may_be_the_pages_own_stays(page: str) -> None:
    assert strip_commentary(page) == page


@pytest.mark.parametrize(
    "answer", ["There is no text.", "There is no text in the image.", "No text", "  ", "", "```\n\n```"]
)
def test_an_answer_that_says_no_text_stands_for_none(answer: str) -> None:
    assert strip_commentary(answer) == ""
