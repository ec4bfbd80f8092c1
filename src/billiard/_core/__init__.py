"""What should happen: jobs, workers, limits, replacements. Pure rules.

May: decide. Time comes in as an argument, `now`, in seconds of the monotonic clock; what is to be done goes out as
orders and notifications.
May not: read a clock, do I/O, pickle, call user code, import os, threading or anything above. The one thing it looks
at besides its arguments is a worker's scoreboard, through the port `Scoreboard`.
"""
