"""Vertical mode: different organisations, the same persons, different columns.

One label owner, any number of partners. The label owner sends every partner the same vector of labels, passed once
through
randomised response; each partner fits any model of its own on it, cross-fitted, and returns one coarse score a row;
the label
owner stacks the scores with its own columns and true labels at home, and keeps its own model unless cross-validation
says better. `docs/guarantees.md` says what is protected from whom by what, and what is not.
"""
