"""Vertical mode: different organisations, the same persons, different columns.

One label owner, any number of partners. The label owner passes its labels through randomised response once, and sends
every partner the same vector. Each partner fits a model of its choice to it, cross-fitted, and returns one coarse score
for each row. The label owner stacks the scores with its own columns and true labels at home. It keeps its own model
unless the stack is better in cross-validation. `docs/guarantees.md` says what is protected, how and from whom, and what
is not.
"""
