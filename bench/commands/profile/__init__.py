"""`profile`: what a backbone costs, without training it: parameters, FLOPs, time, memory, what fits a card, and where two of them cross."""
