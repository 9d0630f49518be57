"""Toy worlds whose law is known exactly, and reasoners small enough to test in milliseconds."""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from hybrid.diffusion.guidance import Denoiser


class Joint(Denoiser):
    """A known law over canvases of `length` tokens 0..k-1, and the exact denoiser that follows from it.

    Token k is the mask. As a denoiser it gives log p(x_i | the visible tokens) in float64.
    """

    def __init__(self, table: Tensor) -> None:
        self.length, self.k = table.ndim, table.shape[0]
        self.mask = self.k
        self.canvases = torch.tensor(list(product(range(self.k), repeat=self.length)))
        self.probs = (table.double() / table.double().sum()).flatten()

    @classmethod
    def random(cls, k: int, length: int, seed: int = 0) -> "Joint":
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.rand((k,) * length, generator=generator, dtype=torch.float64) ** 2 + 0.01)

    @classmethod
    def independent(cls, marginals: Tensor) -> "Joint":
        """Row i of `marginals` is the law of position i."""
        table = marginals[0]
        for row in marginals[1:]:
            table = table[..., None] * row
        return cls(table)

    def posterior(self, z: Tensor) -> Tensor:
        """p(x_i = y | visible tokens of z), (b, l, k)."""
        agrees = ((z[:, None] == self.mask) | (z[:, None] == self.canvases)).all(-1)
        weight = agrees * self.probs
        weight = weight / weight.sum(-1, keepdim=True)
        one_hot = torch.nn.functional.one_hot(self.canvases, self.k).double()
        return torch.einsum("bn,nlk->blk", weight, one_hot)

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.posterior(z), torch.zeros(*z.shape, 1, dtype=torch.float64)], dim=-1).log()

    @property
    def blank(self) -> Tensor:
        return torch.full((1, self.length), self.mask)

    def index(self, z: Tensor) -> Tensor:
        """Place of each canvas (without masks) in `canvases`."""
        powers = self.k ** torch.arange(self.length - 1, -1, -1)
        return (z * powers).sum(-1)

    def counts(self, z: Tensor) -> Tensor:
        return torch.bincount(self.index(z), minlength=len(self.canvases)).double()

    def law_of(self, states: dict[tuple[int, ...], float]) -> Tensor:
        """A law given by state as one given by place."""
        return torch.tensor([states.get(tuple(c), 0.0) for c in self.canvases.tolist()], dtype=torch.float64)

    def completions(self, z: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], float]]:
        """Every way to fill the masks of z by independent draws from the posterior, and its probability."""
        probs = self.posterior(torch.tensor([z]))[0].tolist()
        choices = [range(self.k) if token == self.mask else (token,) for token in z]
        for tokens in product(*choices):
            p = 1.0
            for i, token in enumerate(tokens):
                p *= probs[i][token] if z[i] == self.mask else 1.0
            if p > 0:
                yield tokens, p


class Noisy(Denoiser):
    """The exact denoiser of a joint under uniform corruption, which has to be told the time.

    leaves_one_out: p(x_i | z without z_i) instead of the posterior p(x_i | z).
    """

    def __init__(self, joint: Joint, schedule, leaves_one_out: bool = False) -> None:
        self.joint, self.schedule, self.leaves_one_out = joint, schedule, leaves_one_out

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        joint, alpha = self.joint, self.schedule.alpha(t.double())[:, None, None]
        likelihood = alpha * (z[:, None] == joint.canvases) + (1 - alpha) / joint.k  # b n l
        laws = []
        for i in range(joint.length):
            used = [j for j in range(joint.length) if not (self.leaves_one_out and j == i)]
            weight = joint.probs * likelihood[:, :, used].prod(-1)
            laws.append(weight @ torch.nn.functional.one_hot(joint.canvases[:, i], joint.k).double())
        probs = torch.stack(laws, dim=1)
        probs = probs / probs.sum(-1, keepdim=True)
        return torch.cat([probs, torch.zeros(*z.shape, 1, dtype=torch.float64)], dim=-1).log()


class RandomDenoiser(Denoiser):
    """Arbitrary predictions, blind to time: logits are a fixed function of z. Token k is the mask."""

    def __init__(self, k: int, length: int, seed: int = 0) -> None:
        self.k, self.length, self.mask = k, length, k
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn((k + 1) ** length, length, k, generator=generator, dtype=torch.float64)

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        powers = (self.k + 1) ** torch.arange(self.length - 1, -1, -1)
        known = self.table[(z * powers).sum(-1)]
        return torch.cat([known, torch.full((*z.shape, 1), -torch.inf, dtype=torch.float64)], dim=-1)


def chi_squared_p(observed: Tensor, expected: Tensor) -> float:
    """Pearson's p-value of counts against a law, over the outcomes that the law allows.

    Outcomes that the law forbids must not occur at all.
    """
    possible = expected > 1e-12
    assert observed[~possible].sum() == 0, "an impossible outcome occurred"
    n = observed.sum()
    statistic = ((observed - n * expected)[possible] ** 2 / (n * expected[possible])).sum()
    freedom = torch.tensor(max(int(possible.sum()) - 1, 1), dtype=torch.float64)
    return float(torch.special.gammaincc(freedom / 2, statistic / 2))


def logits_of(network, segments: list, name: str, memory=None) -> Tensor:
    """A network's predictions on one segment of a row."""
    return network.logits(network(segments, memory)[name])


def tiny_backbone(seed: int = 0, **options):
    """A Qwen3 of two layers whose random weights are large enough to tell predictions apart."""
    from hybrid.nets.backbone import Qwen3

    torch.manual_seed(seed)
    return Qwen3(**({"width": 16, "layers": 2, "heads": 2, "initial_scale": 0.4} | options))


def tiny_tokenizer():
    from hybrid.tasks.tokenizer import Character

    return Character().train(["0123456789+="])


def tiny_reasoner(seed: int = 0, canvas: int = 6, max_answer: int = 4, backbone=None, **options):
    """An untrained reasoner; the same seed gives the same weights."""
    from hybrid.reasoner import Model, Reasoner

    model = Model(backbone=backbone or tiny_backbone(seed), canvas=canvas, max_answer=max_answer, **options)
    return Reasoner(model, tiny_tokenizer()).eval()


def tiny_batch(rows: int = 4, canvas: int = 6):
    """Ragged prompts, sketches and answers; keys are 0, 1, 2, ..."""
    from hybrid.records import Example
    from hybrid.tasks.collate import collate

    prompts = ["1+2=", "12+3=", "7=", "123+45=", "5+5="]
    sketches = ["12", "1", "", "12345", "505"]
    answers = ["3", "15", "7", "168", "10"]
    examples = [Example(i, prompts[i % 5] + "1" * (i // 5), sketches[i % 5], answers[i % 5]) for i in range(rows)]
    return collate(examples, tiny_tokenizer(), canvas)
