"""Update rules: how a gradient changes a vector, the same on a shard and on a replica.

``build_rule`` makes one from a job's section; ``RULES`` lists them; ``describe`` and ``one_line`` say what they are.
"""

from ps.rules.adam import Adam, AdaMax, AdamW, AMSGrad, Nadam, QHAdam
from ps.rules.adaptive import Adadelta, Adagrad, RMSprop
from ps.rules.adding import Add, MovingAverage
from ps.rules.base import Context, UpdateRule
from ps.rules.delay import DCASGD, AdaptiveRevision, AsyncAdaGrad, DynSGD, StalenessAware
from ps.rules.descent import NAG, QHM, SGD, AggMo, Momentum
from ps.rules.registry import RULES, build_rule, build_schedule, describe, one_line
from ps.rules.schedules import SCHEDULES, Schedule
from ps.rules.transforms import ClipByNorm, ClipByValue, GradientNoise, WeightDecay
from ps.rules.wrappers import AveragedCenter, DecoupledWeightDecay, Scheduled, Wrapper

__all__ = [
    "AMSGrad", "AdaMax", "Adadelta", "Adagrad", "Adam", "AdamW", "AdaptiveRevision", "Add", "AggMo",
    "AsyncAdaGrad", "AveragedCenter", "ClipByNorm", "ClipByValue", "Context", "DCASGD", "DecoupledWeightDecay",
    "DynSGD", "GradientNoise", "Momentum", "MovingAverage", "NAG", "Nadam", "QHAdam", "QHM", "RMSprop", "RULES",
    "SCHEDULES", "SGD", "Schedule", "Scheduled", "StalenessAware", "UpdateRule", "WeightDecay", "Wrapper",
    "build_rule", "build_schedule", "describe", "one_line",
]  # fmt: skip
