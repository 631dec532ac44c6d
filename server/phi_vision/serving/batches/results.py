"""What came of a batch as two uploaded files of its owner: good answers, and lines that have none."""

from __future__ import annotations

import json
import tempfile
from typing import IO, Any

from phi_vision.batch.output import response_line
from phi_vision.batch.queue import Queue
from phi_vision.batch.work import Record
from phi_vision.serving.batches.lines import line_id
from phi_vision.serving.batches.store import Batch, Status
from phi_vision.serving.files import FileStore

_HEAD_BYTES = 2000  # of a stored file, which describes it
_NOT_RUN = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before the line was run"),
    "expired": ("batch_expired", "the batch expired before the line was run"),
}


def keep_results(
    queue: Queue, files: FileStore, batch: Batch, status: Status
) -> tuple[str | None, str | None]:
    """Write both files, a line for each line of the input in its order.

    Args:
        queue: of the batch; nothing is at work.
        files: where they are kept.
        batch: whose they are.
        status: that the batch ends with, for the lines that were not run.

    Returns:
        Ids of the file of outputs and of the file of errors; null for one without lines.

    Raises:
        RequestError: 503: there is no room.
    """
    folder = queue.path.parent  # large drafts may not fit into the temporary folder
    with tempfile.TemporaryFile(dir=folder) as outputs, tempfile.TemporaryFile(dir=folder) as errors:
        for record in queue.records():
            target = outputs if record.state == "done" else errors
            target.write(json.dumps(_line(record, batch, status)).encode() + b"\n")
        output_id = _keep(files, batch, outputs, "output")
        try:
            return output_id, _keep(files, batch, errors, "error")
        except BaseException:
            if output_id:
                files.delete(output_id, batch.owner)
            raise


def _line(record: Record, batch: Batch, status: Status) -> dict[str, Any]:
    line = response_line(record) | {"id": line_id(batch.id, record.item)}
    if line["response"]:
        line["response"]["request_id"] = line["id"]
    if record.state not in ("done", "failed"):
        code, message = _NOT_RUN[status]
        line["error"] = {"code": code, "message": message}
    return line


def _keep(files: FileStore, batch: Batch, data: IO[bytes], name: str) -> str | None:
    if not (size := data.tell()):
        return None
    draft = files.reserve(batch.owner, size + _HEAD_BYTES)
    try:
        filename = f"{batch.id}_{name}.jsonl"
        return files.keep(draft, data, filename=filename, purpose="batch_output", age_s=batch.output_age_s).id
    finally:
        draft.unlink(missing_ok=True)  # nothing where it was kept
