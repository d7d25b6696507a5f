"""Matched pairs: sizes of rivals found so that they cost the same on a stated axis."""
