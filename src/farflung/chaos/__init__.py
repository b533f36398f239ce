"""A swarm of real processes on this machine under a seeded storm of faults, and its judge.

`schedule` says what happens when, `storm` makes it happen, `judge` reads what all processes wrote.
"""
