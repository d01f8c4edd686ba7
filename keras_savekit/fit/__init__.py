"""One running `fit`: where it stands, what is due, what others remember."""
