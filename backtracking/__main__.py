"""The entry of `python -m backtracking`."""

from backtracking.faces.commands import main

main()
