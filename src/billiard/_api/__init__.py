"""What callers hold: Pool, ApplyResult, MapResult, IMapIterator.

May: check arguments, pickle calls and unpickle results in the caller's thread, run the user's callbacks.
May not: talk to a worker, take the engine's lock, or keep a rule about jobs or workers of its own.
"""
