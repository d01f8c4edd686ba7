"""DECIDE: when to save and what to keep. Pure values and functions."""
