"""What each operator does to channel labels.

One function per operator or family of operators; it reads the labels of the arguments, writes edges and fixes through
the `Labeller`, and returns the labels of the result. An operator without a rule fixes everything that flows into it.
"""

from edgespa.graph.rules import contraction, indexing, layout, pointwise, recurrent, reduction
from edgespa.graph.rules.registry import Call, rule_for

__all__ = ["Call", "contraction", "indexing", "layout", "pointwise", "recurrent", "reduction", "rule_for"]
