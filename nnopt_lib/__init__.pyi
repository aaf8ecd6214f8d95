"""The public names, for editors and type checkers; what loads them is `__init__.py`."""

from nnopt_lib import compression as compression
from nnopt_lib import data as data
from nnopt_lib import formats as formats
from nnopt_lib import measure as measure
from nnopt_lib.checks import NnoptError as NnoptError
from nnopt_lib.course.labs import student as labs
from nnopt_lib.data import Data as Data
from nnopt_lib.data import load_data as load_data
from nnopt_lib.experiments.run import published_rows as published_rows
from nnopt_lib.experiments.run import run_experiment as run_experiment
from nnopt_lib.models.build import build as build
from nnopt_lib.models.build import copy_weights as copy_weights
from nnopt_lib.models.build import get_weights as get_weights
from nnopt_lib.models.build import set_weights as set_weights
from nnopt_lib.models.channels import channel_rule as channel_rule
from nnopt_lib.models.describe import describe as describe
from nnopt_lib.nas.budgets import Budget as Budget
from nnopt_lib.nas.budgets import at_budget as at_budget
from nnopt_lib.nas.result import SearchResult as SearchResult
from nnopt_lib.nas.search import SearchSpace as SearchSpace
from nnopt_lib.nas.search import search as search
from nnopt_lib.pruning import penalties as penalties
from nnopt_lib.pruning import schedules as schedules
from nnopt_lib.pruning import scores as scores
from nnopt_lib.pruning.checkpoints import load_small as load_small
from nnopt_lib.pruning.checkpoints import save_small as save_small
from nnopt_lib.pruning.importance import importance as importance
from nnopt_lib.pruning.iterative import iterative_prune as iterative_prune
from nnopt_lib.pruning.iterative import reinitialize as reinitialize
from nnopt_lib.pruning.iterative import rewind as rewind
from nnopt_lib.pruning.masks import Masks as Masks
from nnopt_lib.pruning.masks import make_masks as make_masks
from nnopt_lib.pruning.masks import shuffle_masks as shuffle_masks
from nnopt_lib.pruning.node_masks import NodeMasks as NodeMasks
from nnopt_lib.pruning.penalties import Penalty as Penalty
from nnopt_lib.pruning.prune import apply_masks as apply_masks
from nnopt_lib.pruning.prune import hold as hold
from nnopt_lib.pruning.prune import prunable as prunable
from nnopt_lib.pruning.prune import prune as prune
from nnopt_lib.pruning.removal import remove_nodes as remove_nodes
from nnopt_lib.pruning.repair import recalibrate_batchnorm as recalibrate_batchnorm
from nnopt_lib.pruning.repair import reconstruct as reconstruct
from nnopt_lib.pruning.saliency import saliency as saliency
from nnopt_lib.pruning.second_order import OneShotMasks as OneShotMasks
from nnopt_lib.pruning.second_order import prune_one_shot as prune_one_shot
from nnopt_lib.results import figures as figures
from nnopt_lib.results.claims import claim as claim
from nnopt_lib.results.claims import replay as replay
from nnopt_lib.results.claims import verdicts as verdicts
from nnopt_lib.structure.classics import cnn as cnn
from nnopt_lib.structure.classics import lenet_5 as lenet_5
from nnopt_lib.structure.classics import lenet_300_100 as lenet_300_100
from nnopt_lib.structure.classics import mlp as mlp
from nnopt_lib.structure.classics import mnist1d_cnn as mnist1d_cnn
from nnopt_lib.structure.classics import mnist1d_mlp as mnist1d_mlp
from nnopt_lib.structure.coupling import couple as couple
from nnopt_lib.structure.edits.connect import connect as connect
from nnopt_lib.structure.edits.deepen import deepen as deepen
from nnopt_lib.structure.edits.factorize import factorize as factorize
from nnopt_lib.structure.edits.fold import fold_batchnorm as fold_batchnorm
from nnopt_lib.structure.edits.shrink import shrink as shrink
from nnopt_lib.structure.edits.widen import widen as widen
from nnopt_lib.structure.families import densenet as densenet
from nnopt_lib.structure.families import inception as inception
from nnopt_lib.structure.families import resnet as resnet
from nnopt_lib.structure.families import senet as senet
from nnopt_lib.structure.families import vgg as vgg
from nnopt_lib.structure.families import vit as vit
from nnopt_lib.structure.spec import NetSpec as NetSpec
from nnopt_lib.structure.spec import Node as Node
from nnopt_lib.training.distillation import Distillation as Distillation
from nnopt_lib.training.distillation import distillation_loss as distillation_loss
from nnopt_lib.training.fit import evaluate as evaluate
from nnopt_lib.training.fit import fit as fit
from nnopt_lib.training.fit import fit_many as fit_many
from nnopt_lib.training.fit import predict as predict
from nnopt_lib.training.fit import runner as runner
from nnopt_lib.training.fit import seed_everything as seed_everything
from nnopt_lib.training.movement import movement as movement
from nnopt_lib.training.recipe import History as History
from nnopt_lib.training.recipe import Training as Training

__version__: str
__all__ = [
    "NnoptError",
    "Data",
    "load_data",
    "NetSpec",
    "Node",
    "mlp",
    "cnn",
    "lenet_300_100",
    "lenet_5",
    "mnist1d_mlp",
    "mnist1d_cnn",
    "vgg",
    "inception",
    "resnet",
    "densenet",
    "senet",
    "vit",
    "deepen",
    "connect",
    "widen",
    "shrink",
    "factorize",
    "fold_batchnorm",
    "couple",
    "channel_rule",
    "describe",
    "build",
    "get_weights",
    "set_weights",
    "copy_weights",
    "Training",
    "History",
    "seed_everything",
    "fit",
    "fit_many",
    "evaluate",
    "predict",
    "runner",
    "Masks",
    "make_masks",
    "shuffle_masks",
    "NodeMasks",
    "importance",
    "saliency",
    "movement",
    "recalibrate_batchnorm",
    "reconstruct",
    "remove_nodes",
    "save_small",
    "load_small",
    "Penalty",
    "prunable",
    "prune",
    "apply_masks",
    "hold",
    "OneShotMasks",
    "prune_one_shot",
    "rewind",
    "reinitialize",
    "iterative_prune",
    "Budget",
    "at_budget",
    "SearchResult",
    "SearchSpace",
    "search",
    "run_experiment",
    "published_rows",
    "claim",
    "replay",
    "measure",
    "formats",
    "compression",
    "scores",
    "schedules",
    "penalties",
    "figures",
    "labs",
    "data",
]
