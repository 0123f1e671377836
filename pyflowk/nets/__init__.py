"""Networks: conditioners of couplings, vector fields, contractions. Plain torch modules, zero-initialised at the end.

A `Network` may take a context, by a `ContextBias`; `drop_context` takes it from some rows. Texts are `ContextTokens`,
of which `text_rows` makes one tensor. Conditioners: `MLP`, `ConvNet`, `ResidualConvNet` (of `WeightNormConv2d`),
`MADE`, masked, and those of tokens: every `CausalNetwork`, such as the `CausalTransformer` of `CausalLayer`s, goes by a
`CausalWalk` too, `Away` from another where it is guided, and hears of noise what `with_level` says. Every `Field` is a
velocity: `MLPField`, `ConvField`, whose `TimeLinear` and `TimeConv2d` hear the time, `VelocityField`, of a network that
predicts something else, `Preconditioned` or with a `GaussianBaseline`, `TangentField`, of one on a manifold,
`FourierField`, of one that sees sines, too, and those of other clocks, `ReversedField` and `RescheduledField`;
`FunctionField` is a user's, `FusedParameters` what a kernel takes, a `FlowMap` jumps from one time to another, a
`CharacteristicsField` tells what jumps at any time; for images with far relations there are the `UNet` and `DiT`, whose
blocks hear the time by a `TimeEmbedding`, and `load_dit` and `load_sit`, which read published weights. Logits of
symbols are those of a `TokenTransformer`, to which `LeaveOneOut` adds what a place shows itself, those of the block
behind what is `Finished` also of a field that stands `Behind` it, those of tables of a `ColumnField`, of corners of a
simplex of a `SimplexField`, and an `EditTransformer` tells which of them come and go. An `Encoder` makes codes of
events, a `Decoder` events of codes, and `load_autoencoder` a `PretrainedEncoder` and a `PretrainedDecoder`, as
`load_language_model` gives what a `LanguageModel` makes a network of tokens. Every `Branch` contracts and has a
`TransposedJacobian`: the `LipschitzNet`s `LipschitzMLP` and `LipschitzConvNet`, of `SpectralLinear`, `SpectralConv2d`
and `LipSwish`; `FunctionBranch` is a user's. Names that they take: `CONDITIONER_ACTIVATIONS`, `FIELD_ACTIVATIONS`,
`CONTRACTIVE_ACTIVATIONS`, `TIMES`, `EMBEDDINGS`, `POSITIONS`, `PLACES`, `DIT_SIZES`.
"""

from .activations import CONDITIONER_ACTIVATIONS, CONTRACTIVE_ACTIVATIONS, FIELD_ACTIVATIONS, LipSwish
from .autoencoder import Decoder, Encoder
from .blockwise import Behind, Finished
from .branch import Branch, FunctionBranch, TransposedJacobian
from .causal import Away, CausalNetwork, CausalWalk
from .causal_transformer import PLACES, CausalLayer, CausalTransformer, with_level
from .characteristics import CharacteristicsField
from .checkpoints import load_dit, load_sit
from .clock import RescheduledField, ReversedField
from .column_field import ColumnField
from .context import ContextBias, Network, drop_context
from .convnet import ConvNet
from .dit import DIT_SIZES, POSITIONS, DiT
from .edit_transformer import EditTransformer
from .embedding import EMBEDDINGS, TimeEmbedding
from .field import Field, FunctionField, FusedParameters
from .fields import ConvField, MLPField
from .flow_map import FlowMap
from .fourier import FourierField
from .language_model import LanguageModel, load_language_model
from .leave_one_out import LeaveOneOut
from .lipschitz import LipschitzConvNet, LipschitzMLP, LipschitzNet
from .made import MADE
from .mlp import MLP
from .preconditioned import GaussianBaseline, Preconditioned
from .pretrained_autoencoder import PretrainedDecoder, PretrainedEncoder, load_autoencoder
from .resnet import ResidualConvNet, WeightNormConv2d
from .simplex_field import SimplexField
from .spectral import SpectralConv2d, SpectralLinear
from .tangent import TangentField
from .text import ContextTokens, text_rows
from .time import TIMES, TimeConv2d, TimeLinear
from .token_transformer import TokenTransformer
from .unet import UNet
from .velocity import VelocityField

__all__ = [
    "CONDITIONER_ACTIVATIONS",
    "CONTRACTIVE_ACTIVATIONS",
    "DIT_SIZES",
    "EMBEDDINGS",
    "FIELD_ACTIVATIONS",
    "MADE",
    "MLP",
    "PLACES",
    "POSITIONS",
    "TIMES",
    "Away",
    "Behind",
    "Branch",
    "CausalLayer",
    "CausalNetwork",
    "CausalTransformer",
    "CausalWalk",
    "CharacteristicsField",
    "ColumnField",
    "ContextBias",
    "ContextTokens",
    "ConvField",
    "ConvNet",
    "Decoder",
    "DiT",
    "EditTransformer",
    "Encoder",
    "Field",
    "Finished",
    "FlowMap",
    "FourierField",
    "FunctionBranch",
    "FunctionField",
    "FusedParameters",
    "GaussianBaseline",
    "LanguageModel",
    "LeaveOneOut",
    "LipSwish",
    "LipschitzConvNet",
    "LipschitzMLP",
    "LipschitzNet",
    "MLPField",
    "Network",
    "Preconditioned",
    "PretrainedDecoder",
    "PretrainedEncoder",
    "RescheduledField",
    "ResidualConvNet",
    "ReversedField",
    "SimplexField",
    "SpectralConv2d",
    "SpectralLinear",
    "TangentField",
    "TimeConv2d",
    "TimeEmbedding",
    "TimeLinear",
    "TokenTransformer",
    "TransposedJacobian",
    "UNet",
    "VelocityField",
    "WeightNormConv2d",
    "drop_context",
    "load_autoencoder",
    "load_dit",
    "load_language_model",
    "load_sit",
    "text_rows",
    "with_level",
]
