"""Pruning without training: by the weights alone, or by what a few unlabelled images say.

With images, units are chosen so that what the layers behind them compute changes least, and those layers get the
weights that make up for it best (El Halabi et al. 2022, arXiv 2203.04940).
"""

from edgespa.pruning.config import METHODS, PruneConfig
from edgespa.pruning.run import Pruning, prune

__all__ = ["METHODS", "PruneConfig", "Pruning", "prune"]
