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


def _participants(names: str, epsilon: str) -> str:
    sites = {"a": ("radio-tv", 280), "b": ("new-car", 234), "c": ("used-car", 103), "d": ("furniture", 181)}
    return "".join(
        f'[[roster]]\nname = "bank-{name}"\nindustry = "bank"\ndataset = "credit"\nsite = "{site}"\nunits = {units}\n'
        f"epsilon = {epsilon}\n"
        for name, (site, units) in sites.items()
        if name in names
    )


#: Four banks that sum.
SUMS = """
schema = 1
name = "audited-sums"
title = "Four banks whose sums alone are opened"
[contract]
schema = 1
wire = 1
rounds = 3
trust = "aggregate"
[contract.secure]
colluders = 1
min_cohort = 3
[contract.industries.bank]
local_steps = 1
sampling_rate = 0.5
clip = 1.0
learning_rate = 0.5
""" + _participants("abcd", "2.0")

#: Three banks that trust their coordinator.
COORDINATOR = """
schema = 1
name = "audited-coordinator"
title = "Three banks whose coordinator adds the noise"
[contract]
schema = 1
wire = 1
rounds = 3
trust = "coordinator"
strategy = { name = "fedavg", weighting = "equal" }
[contract.central]
unit = "bank"
units = 4
sampling_rate = 0.5
clip = 0.5
epsilon = 3.0
delta = 1e-2
[contract.industries.bank]
local_steps = 2
sampling_rate = 0.5
clip = 1.0
learning_rate = 0.5
""" + _participants("abc", "inf")

#: A bank, a hospital and a factory that know some of the same persons.
VERTICAL = """
schema = 1
name = "audited-vertical"
title = "A bank, a hospital and a factory that know some of the same persons"
[contract]
schema = 1
wire = 1
mode = "vertical"
rounds = 1
releases = ["intersection", "labels", "scores"]
split = { train = 0.7, validation = 0.0, test = 0.3 }
[contract.vertical]
case = "customers"
label = "default"
purpose = "credit decisions with the consent of the persons"
label_owner = "bank"
partners = ["hospital", "factory"]
largest_set = 3600
""" + "".join(
    f'[[roster]]\nname = "{name}"\nindustry = "{name}"\ndataset = "customers"\nsite = "customers"\nunits = 3000\n'
    f"epsilon = {epsilon}\n"
    for name, epsilon in (("bank", "2.0"), ("hospital", "inf"), ("factory", "inf"))
)

#: One bank: what an audit makes of each participant costs half as much.
ONE = SCENARIO.partition('[[roster]]\nname = "bank-b"')[0].replace("Two banks", "One bank")

#: Two banks that release noisy histograms.
ADDITIVE = """
schema = 1
name = "audited-additive"
title = "Two banks whose noisy histograms are added"
[contract]
schema = 1
wire = 1
learner = "additive"
[contract.additive]
boosting_rounds = 3
pairs = { bank = [["duration", "amount"]] }
[contract.industries.bank]
""" + _participants("ab", "2.0")

#: One office with digits of ten classes.
CLASSES = """
schema = 1
name = "audited-classes"
title = "One office whose noisy histograms have ten outputs"
[contract]
schema = 1
wire = 1
learner = "additive"
[contract.additive]
boosting_rounds = 2
bins = 2
[contract.industries.digits]
[[roster]]
name = "office"
industry = "digits"
dataset = "digits"
site = "north"
units = 300
epsilon = 2.0
"""

#: Four banks whose noisy sums are summed in secret.
BLOCKS = """
schema = 1
name = "audited-blocks"
title = "Four banks whose noisy sums are summed in secret"
[contract]
schema = 1
wire = 1
learner = "sums"
trust = "aggregate"
[contract.secure]
colluders = 1
min_cohort = 3
[contract.industries.bank]
""" + _participants("abcd", "2.0")

#: Three banks: statistics before training.
STATISTICS = """
schema = 1
name = "audited-statistics"
title = "Statistics of three banks before training"
[contract]
schema = 1
wire = 1
mode = "horizontal"
learner = "statistics"
[contract.industries.bank]
""" + _participants("abc", "2.0")

#: One bank whose local steps adapt.
ADAPTIVE = ONE.replace("learning_rate = 0.5", 'learning_rate = 0.01\noptimizer = { name = "adam" }')

#: A bank with noisy sums and a factory with a network.
INDUSTRIES = """
schema = 1
name = "audited-industries"
title = "A bank with noisy sums, a factory with a network"
[contract]
schema = 1
wire = 1
learner = "sums"
[contract.industries.bank]
[contract.industries.factory]
local_steps = 2
sampling_rate = 0.5
clip = 0.7
learning_rate = 0.5
[contract.by_industry.factory]
rounds = 3
[[roster]]
name = "factory-a"
industry = "factory"
dataset = "machines"
site = "L"
units = 300
epsilon = 2.0
""" + _participants("a", "2.0")

SCENARIOS = {
    "local": SCENARIO,
    "one": ONE,
    "sums": SUMS,
    "additive": ADDITIVE,
    "classes": CLASSES,
    "blocks": BLOCKS,
    "industries": INDUSTRIES,
    "adaptive": ADAPTIVE,
    "coordinator": COORDINATOR,
    "vertical": VERTICAL,
    "statistics": STATISTICS,
}
