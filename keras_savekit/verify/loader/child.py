"""Load checkpoints with stock Keras in a process of its own, and make loading fast.

`client` starts it through `isolation` with the arguments IN and OUT, two inherited pipes. For
each checkpoint, one line of JSON comes in and one goes out. The process ends when the pipe
is closed, so it ends with the training or after the current checkpoint. A lack of memory is
no finding about a checkpoint.
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

# Keras's other random initializers are based on these.
RANDOM_INITIALIZERS = (
    "VarianceScaling",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "Orthogonal",
)


def main(arguments: list[str]) -> None:
    """Answer questions until the pipe is closed."""
    _lower_priority()
    loader = prepare()
    incoming, outgoing = (int(argument) for argument in arguments)
    with os.fdopen(incoming, "rb") as questions, os.fdopen(outgoing, "wb") as answers:
        for line in questions:
            question = json.loads(line)
            for name in question["trusted"]:
                trust(name)
            answer: dict[str, Any] = {"failure": ""}
            try:
                result = loader.load(Path(question["path"]), question["depth"], question["probe"])
                answer |= asdict(result)
            except MemoryError as error:
                answer["failure"] = f"the verifying process has too little memory: {error}"
            answer["cpu_seconds"] = time.process_time()
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
            gc.collect()


def _lower_priority() -> None:
    """Use the processor only when it is idle, and be killed first if memory runs out."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def prepare() -> StockLoader:
    """Import all modules, and exclude their objects from garbage collection.

    Otherwise each collection takes as long as loading a model. There is one collection after
    each checkpoint, and none during a load.
    """
    import keras

    from keras_savekit.verify.loader.stock_load import StockLoader

    for name in RANDOM_INITIALIZERS:
        _skip_drawing(getattr(keras.initializers, name))
    gc.collect()
    gc.freeze()
    gc.disable()
    return StockLoader()


def _skip_drawing(initializer: Any) -> None:
    """Make an initializer return NaN, since loading overwrites the values.

    Drawing random numbers took most of the time of a load. Values that loading does not
    overwrite then differ from each number that was saved.
    """
    draw = initializer.__call__

    def fill(self: Any, shape: Any, dtype: Any = None, **options: Any) -> Any:
        import keras

        dtype = keras.backend.standardize_dtype(dtype)
        if not keras.backend.is_float_dtype(dtype):
            return draw(self, shape, dtype=dtype, **options)
        return keras.ops.full(shape, math.nan, dtype)

    initializer.__call__ = fill


if __name__ == "__main__":
    main(sys.argv[1:])
