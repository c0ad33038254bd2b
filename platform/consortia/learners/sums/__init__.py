"""The learner `sums`: noisy sufficient statistics, released once in two messages, and a model solved from them.

Message 1 holds the sums of the columns and of their squares, from which everybody gets one centre and one radius.
Message 2 holds the Gram matrix and the products with the target, of rows that were centred and scaled into the unit
ball. A ridge model, and at home the posterior mean given one's own rows, follow from them in closed form.
"""
