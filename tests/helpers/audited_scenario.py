"""The small scenario that the audit's tests and benchmarks audit."""

SCENARIO = """
schema = 1
name = "audited"
title = "Two banks, small enough to audit often"
[contract]
schema = 1
wire = 1
rounds = 3
[contract.industries.bank]
local_steps = 2
sampling_rate = 0.5
clip = 1.0
learning_rate = 0.5
[[roster]]
name = "bank-a"
industry = "bank"
dataset = "credit"
site = "radio-tv"
units = 280
epsilon = 2.0
[[roster]]
name = "bank-b"
industry = "bank"
dataset = "credit"
site = "new-car"
units = 234
epsilon = 3.0
"""
