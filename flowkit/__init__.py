"""FlowKit: one flow-matching core for speech, video, policies and more.

Everything a plain script needs is here by name and imported on first use: ``import flowkit`` itself is instant;
torch, numpy, einops and jaxtyping are loaded once a name is touched, and nothing heavier before it is needed.

>>> import flowkit
>>> flowkit.LinearPath().coefficients  # doctest: +ELLIPSIS
<bound method ...>
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from flowkit.errors import UserError
from flowkit.version import __version__

#: Public name -> the module that defines it.
_WHERE = {
    # the shared words
    "Cond": "flowkit.cond",
    "Batch": "flowkit.couplings.coupling",
    "DataSource": "flowkit.data",
    "Samples": "flowkit.data",
    "Task": "flowkit.tasks",
    "Phase": "flowkit.objectives.phase",
    "Network": "flowkit.nn.network",
    "NetworkSpec": "flowkit.nn.network",
    "Head": "flowkit.nn.network",
    "Rows": "flowkit.random",
    # sources, paths, times
    "Source": "flowkit.sources.source",
    "Gaussian": "flowkit.sources.gaussian",
    "Path": "flowkit.paths.path",
    "Point": "flowkit.paths.path",
    "AffinePath": "flowkit.paths.affine",
    "LinearPath": "flowkit.paths.linear",
    "TrigonometricPath": "flowkit.paths.trigonometric",
    "VPBetaPath": "flowkit.paths.vp_beta",
    "VEPath": "flowkit.paths.ve",
    "PowerPath": "flowkit.paths.power",
    "DiffusionPath": "flowkit.paths.diffusion",
    "ConstantAccelerationPath": "flowkit.paths.constant_acceleration",
    "TimeLaw": "flowkit.times.law",
    "TimeGrid": "flowkit.times.law",
    "UniformTimes": "flowkit.times.laws",
    "StratifiedTimes": "flowkit.times.laws",
    "LogitNormalTimes": "flowkit.times.laws",
    "UShapedTimes": "flowkit.times.laws",
    "GridTimes": "flowkit.times.laws",
    "ImportanceTimes": "flowkit.times.laws",
    "UniformGrid": "flowkit.times.grids",
    "SigmoidGrid": "flowkit.times.grids",
    "ShiftedGrid": "flowkit.times.grids",
    "EDMGrid": "flowkit.times.grids",
    "SegmentGrid": "flowkit.times.segments",
    "Segments": "flowkit.times.segments",
    # fields
    "Field": "flowkit.fields.field",
    "FunctionField": "flowkit.fields.field",
    "Evaluation": "flowkit.fields.field",
    "NetworkField": "flowkit.fields.network_field",
    "Rescheduled": "flowkit.fields.reschedule",
    "ClassifierFree": "flowkit.fields.guidance",
    "Velocity": "flowkit.fields.predictions",
    "DataPrediction": "flowkit.fields.predictions",
    "NoisePrediction": "flowkit.fields.predictions",
    "ScorePrediction": "flowkit.fields.predictions",
    "DiffusionVelocity": "flowkit.fields.predictions",
    # solving
    "solve": "flowkit.solvers.solve",
    "Sampler": "flowkit.solvers.sampler",
    "Solver": "flowkit.solvers.solver",
    "Controller": "flowkit.solvers.solver",
    "Solution": "flowkit.solvers.solver",
    "Status": "flowkit.solvers.solver",
    "FixedSteps": "flowkit.solvers.controllers",
    "Tolerance": "flowkit.solvers.controllers",
    "VarianceAdaptive": "flowkit.solvers.variance_adaptive",
    "Euler": "flowkit.solvers.euler",
    "DDIM": "flowkit.solvers.ddim",
    "Midpoint": "flowkit.solvers.midpoint",
    "Heun": "flowkit.solvers.heun",
    "RK4": "flowkit.solvers.rk4",
    "RK4ThreeEighths": "flowkit.solvers.rk4_three_eighths",
    "DormandPrince": "flowkit.solvers.dormand_prince",
    "Tsitouras": "flowkit.solvers.tsitouras",
    "BogackiShampine": "flowkit.solvers.bogacki_shampine",
    "log_likelihood": "flowkit.likelihood",
    # couplings and objectives
    "Coupling": "flowkit.couplings.coupling",
    "Independent": "flowkit.couplings.independent",
    "MinibatchOT": "flowkit.couplings.minibatch_ot",
    "Sinkhorn": "flowkit.couplings.sinkhorn",
    "GivenPairs": "flowkit.couplings.given_pairs",
    "LearnedCoupling": "flowkit.couplings.learned",
    "Objective": "flowkit.objectives.objective",
    "Networks": "flowkit.objectives.objective",
    "Loss": "flowkit.objectives.objective",
    "FlowMatching": "flowkit.objectives.flow_matching",
    "AdaFlow": "flowkit.objectives.ada_flow",
    "ConsistencyFM": "flowkit.objectives.consistency_fm",
    "ConstantAcceleration": "flowkit.objectives.constant_acceleration",
    "Distance": "flowkit.objectives.distance",
    "Regression": "flowkit.objectives.regression",
    # runs and recipes
    "Trainer": "flowkit.train.trainer",
    "load": "flowkit.artifacts",
    "from_pretrained": "flowkit.artifacts",
    "save_pretrained": "flowkit.artifacts",
    "Card": "flowkit.model_card",
    "push_to_hub": "flowkit.hub",
    "load_recipe": "flowkit.config.recipe",
    "Plugin": "flowkit.config.plugins",
}

__all__ = ["UserError", "__version__", *_WHERE]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:  # name and obj let Python suggest the nearest public name
        raise AttributeError(f"module 'flowkit' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
