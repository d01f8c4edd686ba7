"""Apply a policy's retention rules to a run: which checkpoints stay, and what the links name.

Two threads use it: the verifying thread brings the directory up to date, the writing
thread makes room. A checkpoint that is not verified yet, is pinned or is being read stays.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from keras_savekit.errors import DirectoryError
from keras_savekit.policy.fields import Ranking
from keras_savekit.policy.plan import Policy
from keras_savekit.policy.rules.base import Record
from keras_savekit.policy.rules.free_space import FreeSpace, free_space_for
from keras_savekit.policy.rules.kinds import rank
from keras_savekit.policy.rules.prune import Pruning, prune
from keras_savekit.save.outcomes import Outcomes
from keras_savekit.store.checkpoint import Checkpoint
from keras_savekit.store.listing_cache import ListingCache
from keras_savekit.store.run import Link
from keras_savekit.store.run_writer import RunWriter


class RetentionApplier:
    """The links and the retention of one directory.

    clock: seconds since 1970; the rule `newer_than` uses it.
    undecided: names of checkpoints that are not verified yet and must stay; may change.
    on_removed: called with the name of each removed checkpoint.
    outcomes: where notices for the user go.
    """

    def __init__(
        self,
        directory: RunWriter,
        policy: Policy,
        clock: Callable[[], float],
        undecided: Collection[str],
        on_removed: Callable[[str], None],
        outcomes: Outcomes,
    ) -> None:
        self._directory = directory
        self._rules = {plan.name: plan.keep for plan in policy.plans}
        self._limits = policy.limits
        self._best = best_rule(policy)
        self._clock = clock
        self._undecided = undecided
        self._on_removed = on_removed
        self._outcomes = outcomes
        self._listing = ListingCache(directory)
        self._kept: Mapping[str, tuple[str, ...]] = {}  # with the reasons, as last logged
        self._removing = threading.Lock()

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints whose manifest can be read, by step, then name."""
        return self._listing.checkpoints()

    def apply(self) -> None:
        """Bring links and retention up to date with what is verified now."""
        try:
            self._update_links()
        finally:  # on a full disk no link can be set before something is removed
            self._prune()

    def make_room(self, save: Record) -> str:
        """Remove what the policy's limits allow; return why there is still no room, or empty."""
        with self._removing:
            room = self._plan_room(save)
            for name, reason in room.remove.items():
                self._remove(name, reason)
        return room.refused

    def _update_links(self) -> None:
        records = self._records()
        verified = [record for record in records if record.verified]
        if verified:
            newest = max(verified, key=lambda record: (record.step, record.name))
            self._set_link("latest", newest.name)
        if self._best is not None:
            plan, ranking = self._best
            of_plan = [record for record in records if record.plan == plan]
            best = next(iter(rank(of_plan, ranking)), None)
            if best is not None:
                self._set_link("best", best.name)

    def _set_link(self, which: Link, name: str) -> None:
        try:
            self._directory.link(which, name)
        except DirectoryError:
            if not self._directory.occupied(which):
                raise
            place = self._directory.path / which
            self._outcomes.add_notice_once(
                f"{which} is not set: {place} is no link of ours and is left alone"
            )

    def _prune(self) -> None:
        with self._removing:
            pruning = self._plan_pruning()
            keep = {name: why for name, why in pruning.keep.items() if self._kept.get(name) != why}
            self._kept = pruning.keep
            # The plan first: the log then shows the intention, also if a removal fails.
            if keep or pruning.remove:
                self._directory.events.append("retention", keep=keep, remove=pruning.remove)
            for name, reason in pruning.remove.items():
                self._remove(name, reason)

    def _plan_pruning(self) -> Pruning:
        records, now = self._records(), self._clock()
        pruning = prune(records, self._rules, now=now)
        # Only for those to remove it matters whether they are being read.
        read = {name for name in pruning.remove if self._directory.being_read(name)}
        if read:
            records = [replace(found, busy=found.busy or found.name in read) for found in records]
            pruning = prune(records, self._rules, now=now)
        return pruning

    def _plan_room(self, save: Record) -> FreeSpace:
        if self._limits.disk is None and self._limits.free_space is None:
            return FreeSpace({})
        free = shutil.disk_usage(self._directory.path).free
        records = [
            replace(record, busy=record.busy or self._directory.being_read(record.name))
            for record in self._records()
        ]
        return free_space_for(save, records, self._rules, self._limits, free)

    def _records(self) -> list[Record]:
        return [
            record_of(checkpoint, busy=checkpoint.name in self._undecided)
            for checkpoint in self.checkpoints()
        ]

    def _remove(self, name: str, reason: str) -> None:
        def report_rescued(place: Path, names: tuple[str, ...]) -> None:
            self._directory.events.append("rescued", name=name, files=names, place=place)
            shown = ", ".join(names)
            self._outcomes.add_notice_once(
                f"files that are not part of a checkpoint are kept: {shown} of {name}, which the"
                f" policy removed, moved to {place}"
            )

        if self._directory.remove(name, report_rescued):  # else a reader has begun
            self._on_removed(name)
            self._directory.events.append("removed", name=name, reason=reason)


def record_of(checkpoint: Checkpoint, *, busy: bool) -> Record:
    """Return what the retention rules know about a checkpoint."""
    manifest = checkpoint.manifest
    return Record(
        name=checkpoint.name,
        plan=manifest.plan,
        step=manifest.moment.step,
        logs=manifest.moment.logs,
        verified=checkpoint.status == "verified",
        busy=busy,
        pinned=checkpoint.pinned,
        epoch=manifest.moment.epoch,
        seconds=manifest.moment.seconds,
        created=manifest.created,
        bytes=manifest.bytes,
    )


def best_rule(policy: Policy) -> tuple[str, Ranking] | None:
    """Return the plan and the ranking of the `best` link: the first that any plan names."""
    for plan in policy.plans:
        rankings = [rule.ranking() for rule in plan.keep]
        rankings += [trigger.ranking() for trigger in plan.when]
        for ranking in filter(None, rankings):
            return plan.name, ranking
    return None
