"""One thread at a time runs a model under interventions.

Hooks and replaced parts belong to a model, not to a thread: two threads would act on each other's rows. The second one
waits for the first. A process is forked by the thread that holds the lock, so its copy of it is its own.
"""

from threading import RLock

alone = RLock()
"""Held while something is in place on a model."""
