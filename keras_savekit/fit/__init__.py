"""One running `fit`: its position, what is due, what other callbacks remember."""
