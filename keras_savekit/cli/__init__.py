"""savekit: the command line."""
