"""The learner `additive`: boosting on noisy histograms of gradients over binned columns (DP-EBM).

Nori et al. 2021, *Accuracy, Interpretability, and Differential Privacy via Explainable Boosting* (arXiv 2106.09680),
with three changes: columns are binned by public bounds, so no quantile is released; every message holds the histograms
of all columns at once, since it crosses a network; and steps are shrunk and smoothed by the known size of the noise.
The model is a sum of shape functions, one for each column, that a person can read.
"""
