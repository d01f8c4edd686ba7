"""Select the checkpoint that a `fit` resumes from, and write down what the walk found.

For the holder of each directory's lock. Damaged checkpoints move to `quarantine/` with
their findings. Checkpoints that the system could not read stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from keras_savekit.errors import UnverifiableError
from keras_savekit.resume.load import LoadedCheckpoint, load_checkpoint
from keras_savekit.resume.select import Candidate, Search, Selection, select
from keras_savekit.store.read_errors import retried
from keras_savekit.store.run import RunDirectory


def select_and_record(
    directories: Sequence[RunDirectory], now: float
) -> Selection[LoadedCheckpoint]:
    """Select the newest good checkpoint, load it, and quarantine the damaged ones before it.

    Raises ResumeError, before anything is moved, if this process lacks the descriptors or
    the memory to read any checkpoint. Raises it too if a directory has no good checkpoint
    but some that could not be verified, or that its key did not sign: the file system may
    answer later, and the key may be wrong. Both kinds then stay where they are.
    """
    selection = select(directories, now, load_checkpoint)
    for search in selection.searches:
        search.require_readable()
        _record(search)
        search.require_known()
        search.require_trusted()
    return selection


def _record(search: Search) -> None:
    """Record the verification of the chosen checkpoint, and why others were skipped.

    Checkpoints that the key did not sign are quarantined only if it signed another one.
    """
    chosen = search.chosen
    if chosen is not None and chosen.fresh:
        _record_verification(search.directory, chosen)
    for candidate in search.skipped:
        if chosen is not None or not candidate.untrusted:
            _record_skipped(search.directory, candidate)


def _record_verification(directory: RunDirectory, candidate: Candidate) -> None:
    name, verification = candidate.name, candidate.verification
    with suppress(UnverifiableError):  # without a record it is verified again next time
        retried(lambda: directory.record(name, verification))
        directory.events.append("verified", name=name, depth=verification.depth, note="at resume")


def _record_skipped(directory: RunDirectory, candidate: Candidate) -> None:
    if candidate.failure is not None:
        directory.events.append("unverified", name=candidate.name, why=candidate.why_not())
        return
    findings = [str(finding) for finding in candidate.verification.findings]
    directory.quarantine(candidate.name, candidate.verification)
    directory.events.append("quarantined", name=candidate.name, findings=findings)
