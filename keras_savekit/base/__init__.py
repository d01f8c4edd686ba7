"""Values that all layers use. Imports no other part of this package but `errors`."""
