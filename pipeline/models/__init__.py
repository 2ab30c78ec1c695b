"""The model families by name. To add one: a file and a line here."""

from pipeline.models.base import FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.ease import Ease
from pipeline.models.ials import Ials
from pipeline.models.item_knn import ItemKnn
from pipeline.models.mf import MatrixFactorization
from pipeline.models.ncf import Ncf
from pipeline.models.pmf import Pmf
from pipeline.models.popularity import Popularity
from pipeline.models.rp3beta import Rp3Beta

MODELS: dict[str, type[Recommender]] = {
    "ease": Ease,
    "ials": Ials,
    "item_knn": ItemKnn,
    "mf": MatrixFactorization,
    "ncf": Ncf,
    "pmf": Pmf,
    "popularity": Popularity,
    "rp3beta": Rp3Beta,
}

__all__ = ["MODELS", "FitContext", "ModelConfig", "NotServable", "Recommender"]
