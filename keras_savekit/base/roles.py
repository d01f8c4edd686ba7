"""Name the roles of the tensors of a snapshot."""

from __future__ import annotations

from typing import Literal

# `computed`: not a variable, but what a layer's own `save_own_variables` computed.
# `callback`: the state of a callback. `asset`: the bytes of a file that a layer saves.
Role = Literal["weight", "optimizer", "metric", "seed", "computed", "callback", "asset"]
