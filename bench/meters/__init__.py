"""Meters: each measures one thing, names it for what it is, and keeps raw values."""
