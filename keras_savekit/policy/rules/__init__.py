"""Why a checkpoint stays: one class for each rule of `keep`."""
