"""The entry that `backtracking` and `python -m backtracking.cli` share."""

from backtracking.faces.commands import main

if __name__ == "__main__":
    main()
