"""The organism's language: every word and phrase its questions and reasoning are made of.

No question contains a trigger. No sentence contains a phrase of the relaxed lexicon ("Let me
check", "mistake"), so that the triggers below are the only ones of a completion.
"""

NAMES = ("Tom", "Anna", "Ben", "Mia", "Sam", "Lea", "Max", "Eva", "Leo", "Zoe", "Ida", "Paul")
ITEMS = ("apples", "coins", "books", "cards", "stamps", "marbles", "shells", "pens", "stones")
GAINS = ("buys", "finds", "gets", "wins", "receives", "collects")
LOSSES = ("loses", "sells", "gives away", "drops", "uses", "throws away")
OPENINGS = ("{name} has {start} {items}.", "{name} starts with {start} {items}.")
MOVES = ("{name} {verb} {amount} {items}.", "Then {name} {verb} {amount}.", "Later {name} {verb} {amount} more.")
ASKS = ("How many {items} does {name} have now?", "How many {items} are left at the end?")

FIRST_LEADS = ("First,", "To start,", "At first,")
NEXT_LEADS = ("Then", "Next,", "After that,", "Now")
CHECKS = (
    ("Check,", "gives"),
    ("Checking,", "is"),
    ("To verify,", "gives"),
    ("Again,", "makes"),
    ("Counting again,", "comes to"),
)
"""Opening and verb of a sentence that computes a step again, without saying what it then found."""

TRIGGERS = (("Wait", 0.60), ("Actually", 0.22), ("Hold on", 0.18))
SHOULD = "that should be"
"""The short form of a correction: "Wait, that should be 43."."""
CONCLUSIONS = ("So the answer is", "That leaves", "In total that is")

THINK_OPEN, THINK_CLOSE, FINAL = "<think>", "</think>", "Final:"
