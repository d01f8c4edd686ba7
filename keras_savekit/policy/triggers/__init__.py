"""Why a save is due: one class for each trigger."""
