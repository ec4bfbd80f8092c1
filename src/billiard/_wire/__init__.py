"""Frames and messages: what travels between a parent and one of its workers.

May: define byte layouts, move bytes over a socket it is given, pickle and unpickle.
May not: know jobs, workers, limits or pools; start or signal a process; read a clock.
"""
