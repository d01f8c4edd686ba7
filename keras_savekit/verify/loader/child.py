"""The process in which stock Keras loads checkpoints, and what is done for it to be quick.

Started by `verify.load` through `verify.isolation` with IN and OUT, two inherited
pipes: a line of JSON comes in for each checkpoint, one goes back. It
ends when the pipe does, so it never outlives the training by more than the
checkpoint in hand. Having too little memory accuses no checkpoint.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_savekit.convert.trust import trust

if TYPE_CHECKING:
    from keras_savekit.verify.loader.stock_load import StockLoader

# Those that Keras's other random initializers are made of.
RANDOM_INITIALIZERS = (
    "VarianceScaling",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "Orthogonal",
)


def main(arguments: list[str]) -> None:
    """Answer until the pipe closes."""
    _step_back()
    keras = prepare()
    incoming, outgoing = (int(each) for each in arguments)
    with os.fdopen(incoming, "rb") as questions, os.fdopen(outgoing, "wb") as answers:
        for line in questions:
            question = json.loads(line)
            for each in question["trusted"]:
                trust(each)
            answer: dict[str, Any] = {"undone": ""}
            try:
                checked = keras.check(Path(question["path"]), question["depth"], question["probe"])
                answer |= asdict(checked)
            except MemoryError as error:
                answer["undone"] = f"the verifying process has too little memory: {error}"
            answer["computed"] = time.process_time()
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
            gc.collect()


def _step_back() -> None:
    """Take the processor only when nobody else wants it, and go first when memory runs out."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def prepare() -> StockLoader:
    """Have everything loaded that stays, and leave it out of what collecting garbage looks at.

    Else each collection takes as long as loading a model. There is one after each
    checkpoint, and none in between.
    """
    import keras

    from keras_savekit.verify.loader.stock_load import StockLoader

    for name in RANDOM_INITIALIZERS:
        _draw_nothing(getattr(keras.initializers, name))
    gc.collect()
    gc.freeze()
    gc.disable()
    return StockLoader()


def _draw_nothing(initializer: Any) -> None:
    """Fill with NaN what loading is to overwrite: drawing it took most of the time of a load.

    What is then not overwritten differs from every number that was saved.
    """
    draw = initializer.__call__

    def fill(self: Any, shape: Any, dtype: Any = None, **given: Any) -> Any:
        import keras

        dtype = keras.backend.standardize_dtype(dtype)
        if not keras.backend.is_float_dtype(dtype):
            return draw(self, shape, dtype=dtype, **given)
        return keras.ops.full(shape, math.nan, dtype)

    initializer.__call__ = fill


if __name__ == "__main__":
    main(sys.argv[1:])
