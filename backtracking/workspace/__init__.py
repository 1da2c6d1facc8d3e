"""Where things lie on this machine: paths, caches, checks of the environment."""
