"""Every family keeps the contract of `Recommender`."""

from collections.abc import Callable

import pytest
import torch

from pipeline.models import MODELS, conformance
from pipeline.training.optimizers import TrainingConfig

FAMILIES = [
    pytest.param(name, marks=pytest.mark.long if issubclass(MODELS[name].Config, TrainingConfig) else ())
    for name in sorted(MODELS)
]


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("family", FAMILIES)
def test_conformance(family: str, check: Callable[[str], None]):
    check(family)


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
@pytest.mark.parametrize("family", sorted(MODELS))
def test_cuda_is_cpu(family: str, precision: str):
    conformance.check_cuda_is_cpu(family, precision)
