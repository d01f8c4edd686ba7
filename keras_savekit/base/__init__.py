"""Values that every layer speaks. Imports nothing of this package but `errors`."""
