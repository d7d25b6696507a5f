"""A quarter of an hour of a GPU: what is worth most is measured first, each part with a limit of its own, and a later one goes on."""
