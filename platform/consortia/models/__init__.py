"""Uses the models of a run: keeps, predicts, exports, registers."""
