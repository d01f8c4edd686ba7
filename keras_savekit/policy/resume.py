"""How a run begins when its directory holds checkpoints already."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_serializer

from keras_savekit.base.text import show
from keras_savekit.policy.fields import Value, WrongValueError, wrong

OnMismatch = Literal["error", "weights", "ignore"]
_MODES = {"auto": "resumes if it can", "never": "never resumes", "required": "must resume"}
_MISMATCHED = {
    "error": "",
    "weights": ", from the weights alone where settings have changed",
    "ignore": ", also where settings have changed",
}


class Resume(Value):
    """Whether to resume from a checkpoint, and from one that was saved under other settings.

    mode: `auto`: from the newest good checkpoint, if there is one. `never`: the
        directory must be empty. `required`: there must be a checkpoint.
    on_mismatch: when model, optimizer or data are not those of the checkpoint.
        `error`: an error lists the differences and nothing is changed. `weights`: the
        weights that fit are restored, everything else starts over at the run's step.
        `ignore`: everything that fits is restored; where settings differ, the code's apply.
    """

    mode: Literal["auto", "never", "required"] = Field("auto", description="when to resume")
    on_mismatch: OnMismatch = Field(
        "error", description="what to do with a checkpoint of other settings"
    )

    def describe(self) -> str:
        """Return a text such as `resumes if it can`."""
        return _MODES[self.mode] + ("" if self.mode == "never" else _MISMATCHED[self.on_mismatch])

    @model_serializer
    def plain(self) -> Any:
        """The shortest YAML shape that reads back as this."""
        if self.on_mismatch == "error":
            return self.mode
        mode = {} if self.mode == "auto" else {"mode": self.mode}
        return {**mode, "on_mismatch": self.on_mismatch}


def _read(value: object) -> object:
    if isinstance(value, Resume | dict):
        return value
    if not isinstance(value, str):
        raise wrong(
            f"must be {' or '.join(_MODES)}, or a mapping such as {{on_mismatch: weights}};"
            f" got {show(value)}"
        )
    try:
        return Resume(mode=value)
    except WrongValueError as error:
        raise wrong(error.problems[0].message) from None


Resuming = Annotated[Resume, BeforeValidator(_read)]
