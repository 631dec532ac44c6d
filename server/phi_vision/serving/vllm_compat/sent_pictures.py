"""A picture counts as sent to the engine once a request that carries it has got there.

Symptom: after a request that is refused late (a schema that is not supported, `max_tokens: 0`), or whose
client leaves early, the next one with the same picture is a 500.
Cause: vLLM notes a picture as sent when it has been processed, and leaves it out of later requests. If the
request then ends before the engine has it, the engine does not know the picture, and says so once.
Can go: when vLLM notes it as it sends the request.
"""

from __future__ import annotations

import threading
from typing import Any

from vllm.engine.protocol import EngineClient
from vllm.multimodal.cache.lru import LruKeyReplicatedSenderCache

_MOST_UNSENT = 10_000


def install(engine_client: EngineClient) -> None:
    """For an `AsyncLLM` whose pictures are sent once; other caches of vLLM's keep them on this side."""
    cache = engine_client.renderer.mm_processor_cache
    if isinstance(cache, LruKeyReplicatedSenderCache):
        _wrap(cache, engine_client.engine_core)


def _wrap(cache: Any, engine_core: Any) -> None:
    unsent: dict[str, None] = {}  # pictures that were processed, the oldest first
    lock = threading.Lock()  # they are processed on threads of vLLM's
    is_cached_item, get_and_update_item = cache.is_cached_item, cache.get_and_update_item
    add_request_async = engine_core.add_request_async

    def is_sent(mm_hash: str) -> bool:
        return mm_hash not in unsent and is_cached_item(mm_hash)

    def take(mm_item: Any, mm_hash: str) -> Any:
        if mm_item is not None:
            with lock:
                cache.invalidate(mm_hash)  # of a request that did not get there, or is still on its way
                unsent[mm_hash] = None
                if len(unsent) > _MOST_UNSENT:
                    oldest = next(iter(unsent))
                    del unsent[oldest]
                    cache.invalidate(oldest)
        return get_and_update_item(mm_item, mm_hash)

    async def add_request(request: Any) -> None:
        carried = [feature.mm_hash for feature in request.mm_features or () if feature.data is not None]
        await add_request_async(request)
        with lock:
            for mm_hash in carried:
                unsent.pop(mm_hash, None)

    cache.is_cached_item, cache.get_and_update_item = is_sent, take
    engine_core.add_request_async = add_request
