"""One running `fit`: its position, its order, its requests, and the state of other callbacks."""
