"""The model families by name. To add one: a file and a line here."""

from pipeline.models.base import FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.blend import Blend
from pipeline.models.bpmf import Bpmf
from pipeline.models.ease import Ease
from pipeline.models.ials import Ials
from pipeline.models.item_knn import ItemKnn
from pipeline.models.lightgcn import LightGcn
from pipeline.models.mf import MatrixFactorization
from pipeline.models.multvae import MultVae
from pipeline.models.ncf import Ncf
from pipeline.models.pmf import Pmf
from pipeline.models.popularity import Popularity
from pipeline.models.recvae import RecVae
from pipeline.models.rp3beta import Rp3Beta
from pipeline.models.sasrec import SasRec
from pipeline.models.slim import Slim

MODELS: dict[str, type[Recommender]] = {
    "blend": Blend,
    "bpmf": Bpmf,
    "ease": Ease,
    "ials": Ials,
    "item_knn": ItemKnn,
    "lightgcn": LightGcn,
    "mf": MatrixFactorization,
    "multvae": MultVae,
    "ncf": Ncf,
    "pmf": Pmf,
    "popularity": Popularity,
    "recvae": RecVae,
    "rp3beta": Rp3Beta,
    "sasrec": SasRec,
    "slim": Slim,
}

__all__ = ["MODELS", "FitContext", "ModelConfig", "NotServable", "Recommender"]
