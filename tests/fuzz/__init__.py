"""The fuzzer: seeded bad input for everything that reads what others wrote. `python -m tests.fuzz --help`.

Every input ends in success or in a Refusal of one line: never in another traceback, a hang, an allocation above the limit, a file
outside its folder, or silently in another value. One domain a file; what is watched is in guard.py, how input is damaged in damage.py.
"""
