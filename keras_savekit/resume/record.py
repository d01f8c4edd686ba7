"""Select the checkpoint that a `fit` resumes from, and write down what the walk found.

Damaged checkpoints move to `quarantine/` with
their findings. Checkpoints that the system could not read stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from keras_savekit.errors import UnverifiableError
from keras_savekit.resume.load import LoadedCheckpoint, load_checkpoint
from keras_savekit.resume.select import Candidate, Search, Selection, select
from keras_savekit.store.read_errors import retry_unverifiable
from keras_savekit.store.run_writer import RunWriter


def select_and_record(writers: Sequence[RunWriter], now: float) -> Selection[LoadedCheckpoint]:
    """Select the newest good checkpoint, load it, and quarantine the damaged ones before it.

    Raises ResumeError, before anything is moved, if this process lacks the descriptors or
    the memory to read any checkpoint. Raises it too if a directory has no good checkpoint
    but some that could not be verified, or that its key did not sign: the file system may
    answer later, and the key may be wrong. Both kinds then stay where they are.
    """
    selection = select(writers, now, load_checkpoint)
    writer_at = {writer.path: writer for writer in writers}
    for search in selection.searches:
        search.require_readable()
        _record(search, writer_at[search.directory.path])
        search.require_known()
        search.require_trusted()
    return selection


def _record(search: Search, writer: RunWriter) -> None:
    """Record the verification of the chosen checkpoint, and why others were skipped.

    Checkpoints that the key did not sign are quarantined only if it signed another one.
    """
    chosen = search.chosen
    if chosen is not None and chosen.fresh:
        _record_verification(writer, chosen)
    for candidate in search.skipped:
        if chosen is not None or not candidate.untrusted:
            _record_skipped(writer, candidate)


def _record_verification(writer: RunWriter, candidate: Candidate) -> None:
    name, verification = candidate.name, candidate.verification
    with suppress(UnverifiableError):  # without a record it is verified again next time
        retry_unverifiable(lambda: writer.record(name, verification))
        writer.events.append("verified", name=name, depth=verification.depth, note="at resume")


def _record_skipped(writer: RunWriter, candidate: Candidate) -> None:
    if candidate.failure is not None:
        writer.events.append("unverified", name=candidate.name, why=candidate.why_not())
        return
    findings = [str(finding) for finding in candidate.verification.findings]
    writer.quarantine(candidate.name, candidate.verification)
    writer.events.append("quarantined", name=candidate.name, findings=findings)
