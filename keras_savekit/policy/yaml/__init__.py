"""YAML text to a policy, with the place of every problem."""
