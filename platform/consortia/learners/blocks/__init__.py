"""What learners that release noisy sums share: blocks of numbers, their part of the budget, their noise.

A run has a fixed number of messages. A message has one block or more; each is a sum over units of vectors whose L2
norm has a public bound. `recipe.BlockRecipe` is what a learner has to say about them.
"""
