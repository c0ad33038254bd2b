"""`consortia audit`: tests whether the training code does what the ledger claims.

Every instrument runs the participant's real path (`consortia.participant.handle.handle`, bytes in, bytes out) on rows
of the audit's own making, in homes and ledgers of its own, and compares what left with the claim:

* `noise`: without gradients a release is Gaussian noise of the charged size, independent of every other release;
* `mechanism`: with known gradients it is the sum of the clipped units plus that noise, over the public normaliser;
* `metrics`: a histogram that leaves is the counts of evaluation units plus noise of the size that their account paid;
* `sampler`: draws are Poisson by unit: Binomial sizes, empty draws, independent steps;
* `recount`: what left, charged, stored and reported agrees, and its epsilon, counted anew, keeps the budgets;
* `canary`: an attacker who knows all but who took part guesses no better than the claimed epsilon permits;
* `neighbours`: one unit moves what noise is added to by no more than the ledger charged (the neighbour game);
* `phases`, `sizes`: FedRep's two phases, and the number of training units that leaves once a run;
* `sums`, `coordinator`, `vectorised`, `vertical`: the laws of the other modes, where the scenario has them.

Noise of both kinds is met: the policy's `noise = "secure"`, as deployed, and "float", as simulations are by default.
What a scenario has nothing for is skipped, and the result says why.

No instrument knows a mistake by name: a law is stated, and whatever breaks it is a violation. Each instrument's
chance of a false alarm is at most `result.ALPHA`, by Bonferroni over its checks.
"""
