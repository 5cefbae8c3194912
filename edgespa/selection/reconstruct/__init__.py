"""Choosing units so that what their readers compute changes least, and the readers' new weights. Pure maths.

After "Data-Efficient Structured Pruning via Submodular Optimization" (El Halabi et al. 2022, arXiv 2203.04940). A layer
reads columns ``B`` (one row per image, or per image and place) and should give ``Y``. For a set ``S`` of units,

    F(S) = ||Y||^2 - min_W ||Y - B_S W||^2

is what the columns of ``S`` explain. All of it follows from ``G = B^T B``, ``T = B^T Y`` and ``||Y||^2``, so rows are
met once and never kept (`Moments`). `greedy` gives the nested choice for every size, `reweight` the weights. Where rows
are few, `shrinkage` says how far the moments are to be trusted.
"""

from edgespa.selection.reconstruct.greedy import Path, Problem, greedy
from edgespa.selection.reconstruct.moments import Moments
from edgespa.selection.reconstruct.shrink import shrinkage
from edgespa.selection.reconstruct.solve import RIDGE, TOLERANCE, residual, reweight

__all__ = ["RIDGE", "TOLERANCE", "Moments", "Path", "Problem", "greedy", "residual", "reweight", "shrinkage"]
