"""What is trained: the mathematics of each learner, without contracts, messages or participants.

Networks (`learner = "gradient"`) are built by `clients.models` and trained by `privacy.dp_sgd`; here is what is not.
"""
