"""Which checkpoints of a run stay, and what its links name, as the policy's rules have it.

Two threads use it: the one that verifies brings the directory up to date with what is
known, the one that writes makes room. What nobody has verified yet, what is pinned and
what is being read stays.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from keras_savekit.errors import DirectoryError
from keras_savekit.policy.fields import Ranking
from keras_savekit.policy.plan import Policy
from keras_savekit.policy.rules.base import Record
from keras_savekit.policy.rules.free_space import FreeSpace, free_space_for
from keras_savekit.policy.rules.kinds import rank
from keras_savekit.policy.rules.prune import Pruning, prune
from keras_savekit.store.checkpoint import Checkpoint
from keras_savekit.store.listing_cache import ListingCache
from keras_savekit.store.run import Link
from keras_savekit.store.run_writer import RunWriter


class RetentionApplier:
    """Links and retention of one directory.

    clock: seconds since 1970, by which `newer_than` goes.
    unsure: names of checkpoints that must not go yet, as they are when it is asked.
    gone: called with the name of each that went.

    notices: what the user should know, until somebody takes it from there.
    """

    def __init__(
        self,
        directory: RunWriter,
        policy: Policy,
        clock: Callable[[], float],
        unsure: Collection[str],
        gone: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._rules = {plan.name: plan.keep for plan in policy.plans}
        self._limits = policy.limits
        self._best = best_rule(policy)
        self._clock = clock
        self._unsure = unsure
        self._gone = gone
        self._remembered = ListingCache(directory)
        self._kept: Mapping[str, tuple[str, ...]] = {}  # and why, as last told
        self._removing = threading.Lock()
        self.notices: SimpleQueue[str] = SimpleQueue()

    def checkpoints(self) -> list[Checkpoint]:
        """Those whose manifest can be read, by step, then name."""
        return self._remembered.checkpoints()

    def settle(self) -> None:
        """Bring links and retention up to date with what is verified now."""
        try:
            self._link()
        finally:  # on a full disk no link can be set before something goes
            self._prune()

    def make_room(self, save: Record) -> str:
        """Remove what the policy's limits let go for a save; why it has no room all the same."""
        with self._removing:
            room = self._room(save)
            for name, reason in room.remove.items():
                self._remove(name, reason)
        return room.refused

    def _link(self) -> None:
        records = self._records()
        verified = [record for record in records if record.verified]
        if verified:
            self._set("latest", max(verified, key=lambda each: (each.step, each.name)).name)
        if self._best is not None:
            plan, ranking = self._best
            best = next(iter(rank([each for each in records if each.plan == plan], ranking)), None)
            if best is not None:
                self._set("best", best.name)

    def _set(self, which: Link, name: str) -> None:
        try:
            self._directory.link(which, name)
        except DirectoryError:
            if not self._directory.occupied(which):
                raise
            place = self._directory.path / which
            self.notices.put(f"{which} is not set: {place} is no link of ours and is left alone")

    def _prune(self) -> None:
        with self._removing:
            pruning = self._pruning()
            keep = {name: why for name, why in pruning.keep.items() if self._kept.get(name) != why}
            self._kept = pruning.keep
            # The plan first: whoever reads the log sees what was meant, whatever then happens.
            if keep or pruning.remove:
                self._directory.events.append("retention", keep=keep, remove=pruning.remove)
            for name, reason in pruning.remove.items():
                self._remove(name, reason)

    def _pruning(self) -> Pruning:
        records, now = self._records(), self._clock()
        pruning = prune(records, self._rules, now=now)
        # Only of what would go must be known whether anyone reads it.
        read = {name for name in pruning.remove if self._directory.being_read(name)}
        if read:
            records = [replace(each, busy=True) if each.name in read else each for each in records]
            pruning = prune(records, self._rules, now=now)
        return pruning

    def _room(self, save: Record) -> FreeSpace:
        if self._limits.disk is None and self._limits.free_space is None:
            return FreeSpace({})
        free = shutil.disk_usage(self._directory.path).free
        hold_exclusive = [
            replace(each, busy=True) if self._directory.being_read(each.name) else each
            for each in self._records()
        ]
        return free_space_for(save, hold_exclusive, self._rules, self._limits, free)

    def _records(self) -> list[Record]:
        return [record(found, busy=found.name in self._unsure) for found in self.checkpoints()]

    def _remove(self, name: str, reason: str) -> None:
        def rescued(place: Path, names: tuple[str, ...]) -> None:
            self._directory.events.append("rescued", name=name, files=names, place=place)
            shown = ", ".join(names)
            self.notices.put(
                f"files that are not part of a checkpoint are kept: {shown} of {name}, which the"
                f" policy removed, moved to {place}"
            )

        if self._directory.remove(name, rescued):  # else someone has begun to read it
            self._gone(name)
            self._directory.events.append("removed", name=name, reason=reason)


def record(checkpoint: Checkpoint, *, busy: bool) -> Record:
    """What retention knows of a checkpoint."""
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
