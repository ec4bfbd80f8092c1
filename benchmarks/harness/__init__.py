"""What every benchmark program shares. Imports nothing, because every worker of every library imports this package.

envs      the three interpreters: ours, billiard 4.3.2 (same import name!), the other peers
tasks     the functions that workers run
adapters  one small class per library, so that a program is written once
child     the fresh process in which one library does one piece of work
runner    starts that process, gives it a time limit, and leaves nothing of it behind
rows      alternating rounds, medians, spread, ratios, bars, JSON
"""
