"""The limits of a server: what a request, a picture and a connection may take.

The command line, its help, the docs and the server read this one type. It reaches vLLM's API processes on
vLLM's own parsed arguments.
"""

from __future__ import annotations

import ipaddress
import os
import re
from argparse import Namespace
from pathlib import Path

from pydantic.dataclasses import dataclass

from phi_vision.cores import count_cores
from phi_vision.errors import UsageError
from phi_vision.settings import CONFIG, Settings, setting

_ATTRIBUTE = "phi_vision_limits"  # of vLLM's parsed arguments


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Limits(Settings):
    """Each limit is one field and one flag of `phi-vision serve`."""

    max_images: int = setting(16, "pictures in one request at most", unit="N", ge=1, le=1000)
    max_pages: int = setting(
        64, "pages of the PDF and TIFF files in one request at most", unit="N", ge=1, le=1000
    )
    max_image_megapixels: float = setting(
        50.0, "pixels of one picture at most, in millions", unit="N", ge=0.01, le=1000
    )
    max_image_mb: float = setting(
        20.0, "size of one picture file at most, in millions of bytes", unit="N", ge=0.01, le=1000
    )
    media_timeout_s: float = setting(
        10.0,
        "time to fetch one picture from its URL, redirects included",
        unit="SECONDS",
        ge=0.1,
        le=600,
    )
    decode_timeout_s: float = setting(
        20.0, "decoder time of one request, all of its pictures together", unit="SECONDS", ge=0.1, le=600
    )
    media_workers: int | None = setting(
        None,
        "processes that decode pictures, shared out among the API processes; default: one for each core",
        unit="N",
        ge=1,
        le=256,
    )
    allow_private_media: str = setting(
        "",
        "networks with commas (10.1.0.0/16,fd00::/8) from which pictures may be fetched although they are "
        "not public; default none",
        unit="NETWORKS",
    )
    max_body_mb: float = setting(
        64.0, "size of one request at most, in millions of bytes", unit="N", ge=0.01, le=2000
    )
    files_folder: str = setting(
        "", "folder for uploaded files; default ~/.cache/phi-vision/files", unit="FOLDER"
    )
    max_file_mb: float = setting(
        50.0, "size of one uploaded file at most, in millions of bytes", unit="N", ge=0.01, le=1000
    )
    max_files_mb: float = setting(
        2000.0,
        "size of all uploaded files together at most, in millions of bytes; 0 takes none",
        unit="N",
        ge=0,
        le=10_000_000,
    )
    max_file_age_h: float = setting(
        24.0, "time after which an uploaded file is deleted", unit="HOURS", ge=0.01, le=8760
    )
    max_batches: int = setting(16, "batches of one key at most that have not ended", unit="N", ge=1, le=1000)
    max_batch_lines: int = setting(50_000, "requests in one batch at most", unit="N", ge=1, le=1_000_000)
    batch_share: float = setting(
        0.5,
        "share of the requests which run at once that batches may fill, where clients leave room",
        unit="SHARE",
        ge=0.01,
        le=1.0,
    )
    max_connections: int = setting(
        1000,
        "open connections at most; a new one closes the one that has waited longest for a request",
        unit="N",
        ge=2,
        le=50_000,
    )
    client_timeout_s: float = setting(
        60.0,
        "time for a client to send a request's head, to send its body, and to take each 48 KiB of its answer",
        unit="SECONDS",
        ge=0.1,
        le=3600,
    )
    stop_notice_s: float = setting(
        0.0,
        "time after SIGTERM, part of --shutdown-timeout, in which /readyz says 503 and requests are still "
        "taken: a balancer notices before any is refused",
        unit="SECONDS",
        ge=0,
        le=600,
    )
    max_num_queued_reqs: int | None = setting(
        None,
        "HTTP requests at work or waiting at most, of all API processes together; the next one gets 429. It "
        "replaces vLLM's flag of this name, which answers 503; default: twice what the KV caches hold",
        unit="N",
        ge=1,
        le=49_999,
    )
    allowed_hosts: str | None = setting(
        None,
        "names with commas (phi.example.org,*.lab.example.org) that the server goes by, beside addresses, "
        "localhost and the machine's own; * for all, the default with a key",
        unit="NAMES",
    )

    def __post_init__(self) -> None:
        if self.max_num_queued_reqs is not None and self.max_num_queued_reqs >= self.max_connections:
            raise UsageError("--max-num-queued-reqs must be below --max-connections: each takes one")
        try:
            [ipaddress.ip_network(network) for network in split_list(self.allow_private_media)]
        except ValueError as error:
            raise UsageError(f"--allow-private-media: {error}") from error
        for host in split_list(self.allowed_hosts):
            if not re.fullmatch(r"\*|(\*\.)?[\w.-]+", host):
                raise UsageError(
                    f"--allowed-hosts: {host} is no name such as phi.example.org, without a port"
                )

    @property
    def max_image_pixels(self) -> int:
        """`max_image_megapixels` in pixels."""
        return int(self.max_image_megapixels * 1e6)

    @property
    def max_image_bytes(self) -> int:
        """`max_image_mb` in bytes."""
        return int(self.max_image_mb * 1e6)

    @property
    def max_body_bytes(self) -> int:
        """`max_body_mb` in bytes."""
        return int(self.max_body_mb * 1e6)

    @property
    def max_file_bytes(self) -> int:
        """`max_file_mb` in bytes."""
        return int(self.max_file_mb * 1e6)

    @property
    def max_file_age_s(self) -> int:
        """`max_file_age_h` in seconds."""
        return int(self.max_file_age_h * 3600)

    @property
    def files_path(self) -> Path:
        """`files_folder`; by default in the user's cache."""
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(self.files_folder or f"{cache}/phi-vision/files").expanduser()

    @property
    def images_per_prompt(self) -> int:
        """What the engine must take: pictures, and pages of documents."""
        return self.max_images + self.max_pages

    def media_workers_each(self, api_processes: int = 1, cores: int | None = None) -> int:
        """An API process's part of `media_workers`; by default of `cores`, or of as many as are here."""
        return max(1, (self.media_workers or cores or count_cores()) // api_processes)

    def put_on(self, args: Namespace) -> None:
        """Add the limits to vLLM's parsed arguments, which vLLM hands to each API process.

        Raises:
            UsageError: vLLM's own limit of requests is set, which ours replaces.
        """
        if getattr(args, "max_num_queued_reqs", None) is not None:
            raise UsageError(
                "--max-num-queued-reqs is a limit of phi-vision's, not vLLM's: write it with dashes, on the "
                "command line"
            )
        setattr(args, _ATTRIBUTE, self)

    @classmethod
    def from_args(cls, args: Namespace) -> Limits:
        """The limits that the launcher put there; the defaults under plain `vllm serve`."""
        limits: Limits | None = getattr(args, _ATTRIBUTE, None)
        return cls() if limits is None else limits


def split_list(text: str | None) -> list[str]:
    """The entries of a list with commas."""
    return [entry.strip() for entry in (text or "").split(",") if entry.strip()]
