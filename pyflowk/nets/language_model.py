"""A pretrained causal language model as the network of a causal map: its text goes in front of the tokens."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from .attention import zero_
from .causal import CausalNetwork, check_step
from .text import ContextTokens

__all__ = ["LanguageModel", "load_language_model"]


class LanguageModel(CausalNetwork):
    r"""A causal language model of transformers, fine-tuned to tell the parameters of tokens behind a text.

    It sees the vectors that the model has for ``length`` ids of a text, a learned start, and tokens 0 to T - 2 by a
    linear layer; what its last layer says of the start and of each of these becomes the parameters of the next token,
    (B, T, D) -> (B, T, k D), by one that is zero at first. The context are ids (B, length), as
    :func:`pyflowk.nets.text_rows` makes them of texts: the number of symbols, at a place without a token, has a learned
    vector. ``walk`` keeps the model's own keys and values.

    Args:
        model: what ``transformers.AutoModel`` gives, any decoder that takes ``inputs_embeds`` and ``past_key_values``.
        features, tokens, length: D, T, and how long a text is at most.
        classes: of how many symbols texts are, no more than the model knows.
        droppable: whether it can do without a text.

    Raises ValueError for more symbols than the model knows, tokens of another shape, a context that is missing or of
    another kind, and a temperature, which such models have none of. Cost: the model's. Gu et al., 2025,
    arXiv:2506.06276, who begin with Gemma.

    >>> from transformers import AutoModel  # doctest: +SKIP
    >>> net = LanguageModel(AutoModel.from_pretrained("gemma"), 16, 64, length=32, classes=256000)  # doctest: +SKIP
    """

    def __init__(
        self, model: Any, features: int, tokens: int, params_per_element: int = 2, *, length: int, classes: int,
        droppable: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = model
        width, known = model.config.hidden_size, model.get_input_embeddings().weight.shape[0]
        if classes > known:
            raise ValueError(
                f"classes: expected at most the {known} symbols that the language model knows, got {classes}"
            )
        self.features, self.tokens, self.params_per_element = features, tokens, params_per_element
        self.context = _Embedded(width, length, classes, droppable)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.first = nn.Linear(features, width)
        self.last = zero_(nn.Linear(width, params_per_element * features))

    def forward(self, x: Tensor, context: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        self._check(x)
        h = torch.cat((self._ahead(x, context, temperature), self.first(x[:, :-1])), 1)
        return self._told(self.model(inputs_embeds=h, use_cache=False))[:, self.context.length :]

    def walk(self, like: Tensor, context: Tensor | None = None, temperature: float = 1.0) -> _Walk:  # type: ignore[override]
        self._check(like)
        return _Walk(self, self._ahead(like, context, temperature))

    def _ahead(self, x: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        if temperature != 1:
            raise ValueError(f"temperature: expected 1, as language models have none of attention, got {temperature}")
        if context is None:
            context = self.context.no_context()
        known = self.model.get_input_embeddings().weight
        said = self.context.embedded(context, known).expand(x.shape[0], -1, -1)
        return torch.cat((said, self.start.expand(x.shape[0], 1, -1)), 1)

    def _told(self, found: Any) -> Tensor:
        hidden = found.last_hidden_state
        return self.last(hidden.to(self.last.weight.dtype))

    def _check(self, x: Tensor) -> None:
        if x.dim() != 3 or x.shape[1:] != (self.tokens, self.features):
            raise ValueError(f"LanguageModel expects (B, {self.tokens}, {self.features}), got {tuple(x.shape)}")


class _Embedded(ContextTokens):
    """Tokens whose vectors are another's, but for the one of no token."""

    def __init__(self, features: int, length: int, classes: int, droppable: bool) -> None:
        super().__init__(features, length, classes=classes, droppable=droppable)
        self.table = nn.Embedding(1, features)

    def embedded(self, context: Tensor, vectors: Tensor) -> Tensor:
        self._check(context)
        none = context.eq(self.classes or 0)
        found = nn.functional.embedding(context.where(~none, 0), vectors)
        return torch.where(none.unsqueeze(2), self.table.weight[0].to(found.dtype), found)


class _Walk:
    """A walk that keeps what the model keeps."""

    def __init__(self, net: LanguageModel, ahead: Tensor) -> None:
        from transformers import DynamicCache  # type: ignore[import-not-found,unused-ignore]

        self.net, self.ahead, self.known, self.past = net, ahead, 0, DynamicCache()
        words = inspect.signature(net.model.forward).parameters
        self.word = "cache" if "cache" in words else "past_key_values"  # of older ones

    def first(self) -> Tensor | None:
        return self._next(self.ahead)[:, -1:]

    def after(self, tokens: Tensor) -> Tensor:
        check_step(tokens, self.ahead.shape[0], self.net.features)
        self.known += tokens.shape[1]
        if self.known >= self.net.tokens:
            raise ValueError(f"expected {self.net.tokens - 1} tokens, as there is none behind the last; got more")
        return self._next(self.net.first(tokens))

    def back(self, tokens: int) -> None:
        self.known -= tokens
        self.past.crop(-tokens)

    def _next(self, h: Tensor) -> Tensor:
        return self.net._told(self.net.model(inputs_embeds=h, use_cache=True, **{self.word: self.past}))


def load_language_model(place: str) -> Any:
    """The decoder of a language model in a folder, or of a name, as transformers loads it; in float32, and without
    weights where models are made without memory. Raises ImportError without transformers."""
    try:
        from transformers import AutoConfig, AutoModel  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError("language_model: expected transformers to be installed, pip install transformers") from error
    if torch.empty(0).is_meta:
        return AutoModel.from_config(AutoConfig.from_pretrained(place))
    return AutoModel.from_pretrained(place, dtype=torch.float32)
