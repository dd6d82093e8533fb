"""Reading an interest: h_t alone told in words, and as a picture. What export throws away, kept beside the run.

Nothing here is served unless it is asked for: it explains a vector, and takes no part in finding one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penchant.data.output import whole
from penchant.data.store import write_json
from penchant.errors import RunError
from penchant.papers.karma.generators import Generator, GeneratorConfig
from penchant.papers.karma.language import Language, Vocabulary, told_after_prompt
from penchant.papers.karma.model import Karma
from penchant.papers.karma.objective import KarmaObjective

WEIGHTS, DESCRIBED, TOKENIZER = "reader.safetensors", "reader.json", "tokenizer"


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """What a reader must know before it can be built.

    Attributes:
        width: D, of h_t and of words.
        words: V, the catalogue's.
        begin, end: words that a text begins and ends with.
        own_head: whether words are told by another table than they are read by.
        literal: whether h_t is read without an adapter, as printed.
        max_words: of a text.
        picture: width of the picture's vector; 0 = none is told.
        head: what tells it.
    """

    width: int
    words: int
    begin: int
    end: int
    own_head: bool
    literal: bool
    max_words: int
    picture: int
    head: GeneratorConfig


class InterestReader(nn.Module):
    """Task 2 (Eq. 7) and Eq. 8 as they were learned, to be asked: words and picture of h_t, nothing else given."""

    tokens: Tensor

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        width, table = config.width, torch.zeros(config.words, config.width)
        self.register_buffer("tokens", torch.zeros(config.words, dtype=torch.int64))
        vocabulary = Vocabulary(np.zeros(config.words, dtype=np.int64), config.begin, config.end)
        self.language = Language(vocabulary, table, table.clone() if config.own_head else table)
        self.adapter = self.adapted = None
        if not config.literal:
            self.adapter = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            self.adapted = nn.RMSNorm(width, eps=1e-6)
        self.painter = Generator(config.head, config.picture, width) if config.picture else None

    @classmethod
    def of(cls, objective: KarmaObjective) -> InterestReader:
        """What an objective has learned.

        Raises:
            ValueError: it tells no text from h_t.
        """
        told, language = objective.config, objective.language
        if language is None or not told.reconstruct:
            raise ValueError("this objective does not tell a text from h_t")
        painter = objective.painter if told.picture else None
        config = ReaderConfig(
            width=language.words.weight.shape[1],
            words=language.words.weight.shape[0],
            begin=language.vocabulary.begin,
            end=language.vocabulary.end,
            own_head=language.own_head is not None,
            literal=told.literal,
            max_words=told.max_words,
            picture=painter.target_width if painter else 0,
            head=told.head,
        )
        reader = cls(config)
        learned = objective.state_dict()
        own = {name: learned[name] for name in reader.state_dict() if name != "tokens"}
        reader.load_state_dict({**own, "tokens": torch.from_numpy(language.vocabulary.tokens.astype(np.int64))})
        return reader.eval()

    def prompt(self, h: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """h_t as the decoder reads it."""
        return h if self.adapter is None or self.adapted is None else self.adapted(self.adapter(h))

    @torch.no_grad()
    def tell(self, model: Karma, h: Float[Tensor, "B D"]) -> Int[Tensor, "B W"]:
        """The likeliest words one after the other, each given those before it; -1 after the end."""
        prompt, end = self.prompt(h), self.language.vocabulary.end
        words = torch.zeros(len(h), 0, dtype=torch.int64, device=h.device)
        ended = torch.zeros(len(h), dtype=torch.bool, device=h.device)
        for _ in range(self.config.max_words):
            states = told_after_prompt(model, self.language, prompt, F.pad(words, (0, 1)))[:, -1]
            word = self.language.logits(states).argmax(1)
            ended = ended | (word == end)
            words = torch.cat([words, torch.where(ended, -1, word)[:, None]], 1)
            if bool(ended.all()):
                break
        return words

    @torch.no_grad()
    def nll(self, model: Karma, h: Float[Tensor, "B D"], words: Int[Tensor, "B W"]) -> Float[Tensor, " B"]:
        """Nats a word of given texts (-1 = none) told from h; 0 where there is no text."""
        logits = self.language.logits(told_after_prompt(model, self.language, self.prompt(h), words))
        real = words >= 0
        losses = F.cross_entropy(logits.transpose(1, 2), words.clamp(min=0), reduction="none") * real
        return losses.sum(1) / real.sum(1).clamp(min=1)

    @torch.no_grad()
    def picture(self, h: Float[Tensor, "B D"], samples: int = 16) -> Float[Tensor, "B V"]:
        """The mean of samples of the next item's standardised picture vector.

        Raises:
            ValueError: pictures were not learned.
        """
        if self.painter is None:
            raise ValueError("this reader tells no pictures")
        draw = torch.Generator(h.device).manual_seed(0)
        width = self.painter.target_width
        # One noise for all, so that what is told of one does not depend on its company.
        one = lambda: torch.randn(1, width, generator=draw, device=h.device)  # noqa: E731
        return self.painter.sample(h, count=samples, noise=one)

    def without_pictures(self) -> InterestReader:
        """The same, which tells words alone."""
        reader = InterestReader(replace(self.config, picture=0))
        kept = self.state_dict()
        reader.load_state_dict({name: kept[name] for name in reader.state_dict()})
        return reader.eval()

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Weights, sizes, and the tokenizer that words come from."""
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder / TOKENIZER)
        with whole(folder / WEIGHTS) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, temporary)
        write_json(folder / DESCRIBED, asdict(self.config))

    @classmethod
    def load(cls, folder: Path) -> InterestReader:
        """The reader in a folder.

        Raises:
            RunError: there is none, or it is damaged.
        """
        if not (folder / DESCRIBED).is_file():
            fix = "Train KARMA with objective.reconstruct above 0, as the recipe karma_decoded does."
            raise RunError("nothing here can be read: the run tells no text from h_t", where=folder, fix=fix)
        try:
            said = json.loads((folder / DESCRIBED).read_text())
            reader = cls(ReaderConfig(**{**said, "head": GeneratorConfig(**said["head"])}))
            reader.load_state_dict(load_file(folder / WEIGHTS))
        except (ValueError, KeyError, TypeError, RuntimeError, FileNotFoundError, SafetensorError) as error:
            raise RunError(f"damaged or of another version ({error})", where=folder, fix="Train it again.") from error
        return reader.eval()


@dataclass(frozen=True)
class Spelling:
    """Words as text: a reader's tokens, and the tokenizer they are of."""

    tokens: np.ndarray
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, reader: InterestReader) -> Spelling:
        """Of a reader's folder.

        Raises:
            RunError: its tokenizer is missing or damaged.
        """
        from transformers import AutoTokenizer

        kept = folder / TOKENIZER
        try:
            tokenizer = AutoTokenizer.from_pretrained(kept, local_files_only=True, trust_remote_code=False)
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise RunError(f"no tokenizer can be read ({error})", where=kept, fix="Train the run again.") from error
        return cls(reader.tokens.cpu().numpy(), tokenizer)

    def spelt(self, words: Int[Tensor, " W"]) -> str:
        """Told words as one line of text; -1 = none."""
        tokens = self.tokens[words[words >= 0].cpu().numpy()]
        return " ".join(self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True).split())
