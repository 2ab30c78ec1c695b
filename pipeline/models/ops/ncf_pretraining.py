"""Pre-training of NeuMF: GMF and MLP are fitted alone, and what they learnt starts the whole."""

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.core.seeding import seed_of
from pipeline.training.context import FitContext
from pipeline.training.interactions import Interactions
from pipeline.training.optimizers import TrainingConfig

if TYPE_CHECKING:
    from pipeline.models.ncf import Ncf, NcfConfig


class Pretraining(TrainingConfig):
    """What a fit after a pre-training has beside the settings of any gradient fit."""

    pretrain: bool = False
    """neumf: fit gmf and mlp alone first, with the other settings as they are, and start from their weights."""
    pretrain_epochs: PositiveInt = 10
    """Of each of the two."""
    pretrain_mix: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of gmf in the output layer, 1 - that of mlp: the trade-off of the paper."""
    finetune_optimizer: Literal["sgd", "adam", "adamw", "adagrad"] = "sgd"
    """Of the whole after pre-training; the paper's is sgd, as adam's moments are not carried over."""
    finetune_rate: PositiveFloat = 0.1
    """Its learning rate; the learning-rate finder is not asked."""


def pretrain(model: "Ncf", train: Interactions, context: FitContext) -> "NcfConfig":
    """Fit the two parts, put their weights into `model` (a neumf), and return the settings of what follows.

    The parts are fitted for a fixed number of epochs, without a look at valid, so a refit repeats them.
    """
    config = model.config
    parts = {}
    for variant in ("gmf", "mlp"):
        alone = config.model_copy(update={"variant": variant, "pretrain": False})
        parts[variant] = type(model)(alone, model.n_users, model.n_items)
        of_part = FitContext(
            device=context.device,
            precision=context.precision,
            seed=seed_of(context.seed, "pretraining", variant),
            epochs=config.pretrain_epochs,
            deadline=context.deadline,
            memory=context.memory,
            world=context.world,
        )
        parts[variant].fit(train, of_part)
        context.cut_short |= of_part.cut_short
    join(model, parts["gmf"], parts["mlp"], config.pretrain_mix)
    tuning = {"optimizer": config.finetune_optimizer, "learning_rate": config.finetune_rate}
    context.finder = None  # a refit would take the rate that it found for that of the parts
    return config.model_copy(update=tuning)


@torch.no_grad()
def join(whole: "Ncf", gmf: "Ncf", mlp: "Ncf", mix: float) -> None:
    """Weights of the parts into the whole; h = [mix h_gmf ; (1 - mix) h_mlp] (He et al. 2017, sec. 3.4.1).

    The bias of the output, of which the paper says nothing, is mixed alike, so the logit of every pair is
    the mean of the parts' logits, weighted by `mix`.
    """
    for part in (gmf, mlp):
        learnt = {name: tensor for name, tensor in part.state_dict().items() if not name.startswith("out.")}
        whole.load_state_dict(learnt, strict=False)
    whole.out.weight.copy_(torch.cat([mix * gmf.out.weight, (1 - mix) * mlp.out.weight], 1))  # (1, D + H')
    whole.out.bias.copy_(mix * gmf.out.bias + (1 - mix) * mlp.out.bias)  # (1,)
