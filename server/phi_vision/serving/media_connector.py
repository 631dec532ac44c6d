"""vLLM's media connector: it fetches nothing, and leaves each picture to `pictures`.

vLLM asks it for one picture at a time, without saying how many there are, on which their crops depend.
"""

from __future__ import annotations

from typing import Any

from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector
from vllm.multimodal.media.image import ImageMediaIO

from phi_vision.errors import RequestError
from phi_vision.plugin_names import MEDIA_CONNECTOR
from phi_vision.serving.pictures import Picture


@MEDIA_CONNECTOR_REGISTRY.register(MEDIA_CONNECTOR)
class PictureConnector(MediaConnector):
    """Takes note of where pictures are.

    Raises:
        RequestError: from every method, for anything but a picture.
    """

    def __init__(self, media_io_kwargs: Any = None, **allowed: Any) -> None:
        if media_io_kwargs:
            raise RequestError("media_io_kwargs are not supported here", param="media_io_kwargs")
        super().__init__(None, **allowed)

    def load_from_url(self, url: str, media_io: Any, *, fetch_timeout: Any = None) -> Any:
        """The picture, not yet fetched."""
        if not isinstance(media_io, ImageMediaIO):
            raise RequestError("the model takes pictures only, no sound and no video", param="messages")
        return Picture(url)

    async def load_from_url_async(self, url: str, media_io: Any, *, fetch_timeout: Any = None) -> Any:
        """The same."""
        return self.load_from_url(url, media_io)
