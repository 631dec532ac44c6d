"""What the Hugging Face hub says of a repository, and its refusals as a line each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phi_vision.errors import PhiVisionError, UsageError
from phi_vision.planning.weights_cache import Listed

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_ANSWERS_WITHIN_S = 4.0
_COMMIT = re.compile("[0-9a-f]{40}")
_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class HubUnavailable(PhiVisionError):
    """No hub answers, or it fails: another time it may work. The message is a part of a sentence."""


class HubRefusal(UsageError):
    """The hub does not give what was asked for. The message is a part of a sentence."""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    commit: str
    files: Mapping[str, Listed]


def ask(hub_id: str, revision: str | None = None) -> ModelInfo:
    """One question: what the hub has of this repository for us. Raises what the hub's client raises."""
    from huggingface_hub import HfApi

    return HfApi().model_info(hub_id, revision=revision, files_metadata=True, timeout=_ANSWERS_WITHIN_S)


def list_files(hub_id: str, revision: str | None = None) -> Listing:
    """All files of a repository.

    Args:
        hub_id: as `owner/name`.
        revision: a branch, tag or commit; None for the main branch.

    Raises:
        HubRefusal, HubUnavailable: as they say.
    """
    try:
        info = ask(hub_id, revision)
    except Exception as error:  # the hub's errors share no base
        raise explained(error, hub_id, revision) from error
    if not _COMMIT.fullmatch(str(info.sha)):  # it becomes the name of a folder
        raise HubRefusal("the hub's answer makes no sense")
    return Listing(str(info.sha), {file.rfilename: _listed(file) for file in info.siblings or ()})


def _listed(file: RepoSibling) -> Listed:
    digest = file.lfs.sha256 if file.lfs else file.blob_id
    return Listed(file.size, digest if digest and _DIGEST.fullmatch(digest) else None)


def explained(error: Exception, hub_id: str, revision: str | None = None) -> HubRefusal | HubUnavailable:
    """An error of the hub's client as one of ours."""
    from huggingface_hub import constants, errors

    match error:
        case HubRefusal() | HubUnavailable():
            return error
        case errors.GatedRepoError():
            return HubRefusal(
                f"it is gated: accept its terms at {constants.ENDPOINT}/{hub_id} and set HF_TOKEN"
            )
        case errors.RepositoryNotFoundError():
            return HubRefusal("the hub has no such model, or not for you: check its name and HF_TOKEN")
        case errors.RevisionNotFoundError():
            return HubRefusal(f"the hub has no revision {revision} of it")
        case errors.HFValidationError():
            return HubRefusal("this is neither a folder nor a name that the hub can have")
        case errors.OfflineModeIsEnabled():
            return HubUnavailable("HF_HUB_OFFLINE is set")
        case errors.RemoteEntryNotFoundError():
            return HubRefusal("the hub has no such file of it")
        case errors.HfHubHTTPError():
            status = error.response.status_code
            if status in (401, 403):
                return HubRefusal(f"the hub does not let you have it ({status}): check HF_TOKEN")
            return HubUnavailable(f"the hub answers with an error ({status})")
    return HubUnavailable(f"the hub does not answer at {constants.ENDPOINT} ({type(error).__name__})")
