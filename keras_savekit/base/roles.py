"""What a tensor of a snapshot is for."""

from __future__ import annotations

from typing import Literal

# `computed`: no variable, but what a layer's own `save_own_variables` made of some.
# `callback`: what a callback remembers. `asset`: the bytes of a file of a layer's own.
Role = Literal["weight", "optimizer", "metric", "seed", "computed", "callback", "asset"]
