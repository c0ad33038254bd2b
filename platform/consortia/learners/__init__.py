"""What is trained: the mathematics of each learner, without contracts, messages or participants.

Networks (`learner = "gradient"`) are not here: `clients.models` builds them and `privacy.dp_sgd` trains them.
"""
