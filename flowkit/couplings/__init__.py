"""Who is paired with whom."""

from flowkit.couplings.coupling import Batch, Coupling, Draw
from flowkit.couplings.given_pairs import GivenPairs
from flowkit.couplings.independent import Independent
from flowkit.couplings.learned import LearnedCoupling
from flowkit.couplings.minibatch_ot import MinibatchOT
from flowkit.couplings.sinkhorn import Sinkhorn

__all__ = ["Batch", "Coupling", "Draw", "GivenPairs", "Independent", "LearnedCoupling", "MinibatchOT", "Sinkhorn"]
