"""How clean tokens are corrupted, what a prediction of them costs, and how a step goes back.

A corruption is a forward process q(z_t | x), independent per position, with its own bound. The parts that
use it (bound, drafting loop, policies) meet it only through this contract. Predictions are posteriors
p(x_i | z_t), packed: one row per position that somebody asked about.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion.guidance import Denoiser, FromLeaveOneOut
from hybrid.diffusion.schedule import NoiseSchedule
from hybrid.kinds import register


@dataclass(frozen=True)
class Alphabet:
    """What may stand on a canvas: a vocabulary of `size` tokens, without the mask and without `absent` ones."""

    mask_id: int
    size: int
    absent: tuple[int, ...] = ()

    @property
    def gone(self) -> tuple[int, ...]:
        """Tokens that are no text, ascending."""
        return tuple(sorted({self.mask_id, *self.absent}))

    @property
    def k(self) -> int:
        """How many tokens noise is drawn from."""
        return self.size - len(self.gone)

    def drawn(self, u: Float[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Tokens of text, equally likely, from uniform numbers in [0, 1)."""
        token = (u * self.k).long().clamp(max=self.k - 1)
        for gone in self.gone:
            token = token + (token >= gone).long()
        return token


@dataclass(frozen=True)
class Corruption:
    """The forward process.

    marks_noise: noise can be told from text (it is the mask), so that text on a canvas is certain. What rests on
        that (pads that are free after a visible end, masking by counts, remasking) is refused where it is False.
    """

    marks_noise: ClassVar[bool] = True

    @property
    def is_absorbing(self) -> bool:
        """Whether masks fall on all tokens alike, at the cost of `Absorbing`: what masking by counts rests on, and
        every weight on that cost."""
        own = type(self)
        return own.corrupt is Absorbing.corrupt and own.cost is Absorbing.cost

    def corrupt(
        self, x: Int[Tensor, "b l"], alpha: Float[Tensor, "b"], u: Float[Tensor, "b l"], alphabet: Alphabet
    ) -> Int[Tensor, "b l"]:
        """z_t ~ q(. | x) for survival probability alpha, decided by uniform numbers u."""
        raise NotImplementedError

    def noise(self, u: Float[Tensor, "b l"], alphabet: Alphabet) -> Int[Tensor, "b l"]:
        """Pure noise z_1: the state that drafting starts from, and what a reopened position returns to."""
        raise NotImplementedError

    def is_open(
        self, z: Int[Tensor, "b l"], is_decided: Bool[Tensor, "b l"], alphabet: Alphabet
    ) -> Bool[Tensor, "b l"]:
        """Positions that drafting has yet to decide; `is_decided`: those that it holds to be decided."""
        raise NotImplementedError

    def is_supervised(self, z: Int[Tensor, "b l"], alphabet: Alphabet) -> Bool[Tensor, "b l"]:
        """Positions that the bound asks about, so that nothing is predicted elsewhere."""
        raise NotImplementedError

    def posterior(self, denoise: Denoiser, schedule: NoiseSchedule, alphabet: Alphabet) -> Denoiser:
        """The network's own output, read as p(x_i | z_t)."""
        return denoise

    def cost(
        self,
        logits: Float[Tensor, "n k"],
        x: Int[Tensor, "n"],
        z: Int[Tensor, "n"],
        t: Float[Tensor, "n"],
        schedule: NoiseSchedule,
        alphabet: Alphabet,
    ) -> Float[Tensor, "n"]:
        """Integrand of the bound on -log p(x) at time t, in nats, at the supervised positions."""
        raise NotImplementedError

    def reverse(
        self,
        z: Int[Tensor, "b l"],
        tokens: Int[Tensor, "b l"],
        survive_t: Float[Tensor, "b"],
        survive_s: Float[Tensor, "b"],
        alphabet: Alphabet,
    ) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        """q(z_s | z_t, x = tokens) at open positions, as the chances to take the token and to become noise afresh.

        Otherwise the position stays as it is.
        """
        raise NotImplementedError


@register(Corruption, "absorbing")
@dataclass(frozen=True)
class Absorbing(Corruption):
    """Each token survives with probability alpha(t) and is otherwise the mask token (MDLM, arXiv 2406.07524).

    At a masked position z_i says nothing of x_i: posterior and leave-one-out prediction are the same.
    """

    def corrupt(
        self, x: Int[Tensor, "b l"], alpha: Float[Tensor, "b"], u: Float[Tensor, "b l"], alphabet: Alphabet
    ) -> Int[Tensor, "b l"]:
        return torch.where(u < alpha[:, None], x, alphabet.mask_id)

    def noise(self, u: Float[Tensor, "b l"], alphabet: Alphabet) -> Int[Tensor, "b l"]:
        return torch.full(u.shape, alphabet.mask_id, dtype=torch.int64, device=u.device)

    def is_open(
        self, z: Int[Tensor, "b l"], is_decided: Bool[Tensor, "b l"], alphabet: Alphabet
    ) -> Bool[Tensor, "b l"]:
        return z == alphabet.mask_id

    def is_supervised(self, z: Int[Tensor, "b l"], alphabet: Alphabet) -> Bool[Tensor, "b l"]:
        return z == alphabet.mask_id

    def cost(
        self,
        logits: Float[Tensor, "n k"],
        x: Int[Tensor, "n"],
        z: Int[Tensor, "n"],
        t: Float[Tensor, "n"],
        schedule: NoiseSchedule,
        alphabet: Alphabet,
    ) -> Float[Tensor, "n"]:
        """weight(t) * -log p(x_i | z_t) at masked positions (MDLM eq. 10)."""
        nll = F.cross_entropy(logits.float(), x, reduction="none")
        return schedule.weight(t).to(nll.dtype) * nll

    def reverse(
        self,
        z: Int[Tensor, "b l"],
        tokens: Int[Tensor, "b l"],
        survive_t: Float[Tensor, "b"],
        survive_s: Float[Tensor, "b"],
        alphabet: Alphabet,
    ) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        """Revealed with probability (alpha_s - alpha_t) / (1 - alpha_t) (MDLM eq. 6), else still masked."""
        reveal = (survive_s - survive_t) / (1 - survive_t)
        return reveal[:, None].expand(z.shape), torch.zeros(z.shape, dtype=reveal.dtype, device=z.device)


@register(Corruption, "uniform")
@dataclass(frozen=True)
class Uniform(Corruption):
    """Each token survives with probability alpha(t) and is otherwise redrawn from the k tokens of text, itself
    among them (D3PM, arXiv 2107.03006; SEDD, 2310.16834): q(y | x) = alpha [y = x] + (1 - alpha) / k.

    Noise looks like text, so every position stays in question until the end, pads are ordinary tokens, and the
    bound supervises the whole canvas.

    output: what the network's head means.
        leave_one_out: p(x_i | z_t without z_i), which knows nothing where it is uniform. The evidence of z_i
            itself is added outside the network (FromLeaveOneOut, arXiv 2605.22765, eq. 13), which is how time
            enters: the network is never told it.
        posterior: p(x_i | z_t) itself; then nobody uses the time but the sampler, and the network has to guess
            from the canvas how far to trust z_i.
    """

    marks_noise: ClassVar[bool] = False

    output: Literal["leave_one_out", "posterior"] = "leave_one_out"

    def corrupt(
        self, x: Int[Tensor, "b l"], alpha: Float[Tensor, "b"], u: Float[Tensor, "b l"], alphabet: Alphabet
    ) -> Int[Tensor, "b l"]:
        """The part of u above alpha draws the noise."""
        alpha = alpha[:, None]
        return torch.where(u < alpha, x, self.noise(((u - alpha) / (1 - alpha)).clamp(min=0), alphabet))

    def noise(self, u: Float[Tensor, "b l"], alphabet: Alphabet) -> Int[Tensor, "b l"]:
        return alphabet.drawn(u)

    def is_open(
        self, z: Int[Tensor, "b l"], is_decided: Bool[Tensor, "b l"], alphabet: Alphabet
    ) -> Bool[Tensor, "b l"]:
        return ~is_decided

    def is_supervised(self, z: Int[Tensor, "b l"], alphabet: Alphabet) -> Bool[Tensor, "b l"]:
        return torch.ones_like(z, dtype=torch.bool)

    def posterior(self, denoise: Denoiser, schedule: NoiseSchedule, alphabet: Alphabet) -> Denoiser:
        return FromLeaveOneOut(denoise, schedule.alpha, alphabet.k) if self.output == "leave_one_out" else denoise

    def cost(
        self,
        logits: Float[Tensor, "n k"],
        x: Int[Tensor, "n"],
        z: Int[Tensor, "n"],
        t: Float[Tensor, "n"],
        schedule: NoiseSchedule,
        alphabet: Alphabet,
    ) -> Float[Tensor, "n"]:
        """-alpha' / (alpha k) * sum over y != z of (s^_y - s_y - s_y log(s^_y / s_y)), the score-entropy bound
        (SEDD, arXiv 2310.16834), with s_y = q(y|x) / q(z|x) and s^_y its mean under p(x | z_t).

        With rho = q(z|z) / q(y|z) = 1 + alpha k / (1 - alpha), each term is s (r - log(1 + r)) for the relative
        error r = s^ / s - 1, written so that nothing cancels as alpha falls to 0, nor in the logarithm where r is all
        but -1: where a likely token of a large vocabulary is noise.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        t = t.double()
        alpha = schedule.alpha(t).clamp(1e-7, 1 - 1e-12)  # towards either end the factors diverge, the integrand not
        rate = (-schedule.slope(t) / (alpha * alphabet.k)).to(logits.dtype)
        excess = (alpha * alphabet.k / (1 - alpha)).to(logits.dtype)[:, None]  # rho - 1
        rho = 1 + excess
        p = logits.softmax(-1)
        p_z = p.gather(-1, z[:, None])
        others = p.scatter(-1, z[:, None], 0.0).sum(-1, keepdim=True)
        token = torch.arange(logits.shape[-1], device=logits.device)
        is_x, is_kept = token == x[:, None], (x == z)[:, None]
        odds = p - p_z / rho  # s^_y = 1 + excess * odds
        s = torch.where(is_kept, 1 / rho, torch.where(is_x, rho, 1.0))
        r = excess * torch.where(is_kept, others + rho * p, torch.where(is_x, (odds - 1) / rho, odds))
        ratio = torch.where(is_kept, 1 + r, (others + p_z / rho + excess * p) / torch.where(is_x, rho, 1.0))  # 1 + r
        log = torch.where(r > -0.5, torch.log1p(r.clamp(min=-0.5)), ratio.log())
        is_term = token != z[:, None]
        is_term[:, list(alphabet.gone)] = False
        return rate * torch.where(is_term, s * (r - log), 0.0).sum(-1)

    def reverse(
        self,
        z: Int[Tensor, "b l"],
        tokens: Int[Tensor, "b l"],
        survive_t: Float[Tensor, "b"],
        survive_s: Float[Tensor, "b"],
        alphabet: Alphabet,
    ) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        """Of q(z_t | z_s) q(z_s | x), with a = alpha_t / alpha_s: x arrived as it is, from a (if z_t = x) or by
        noise after s; z_t was there at s already; or another token was, which noise replaced."""
        k, alpha_t, alpha_s = alphabet.k, survive_t[:, None], survive_s[:, None]
        a, same = alpha_t / alpha_s, (z == tokens).to(survive_t.dtype)
        total = alpha_t * same + (1 - alpha_t) / k
        return ((1 - a) / k + same * a) * alpha_s / total, (1 - a) * (1 - alpha_s) / (k * total)


def check_marks(corruption: Corruption, times: str, **neutral: tuple[float, float]) -> None:
    """Refuse what rests on the masks of absorbing corruption under another: counting them, and settings that stand at
    another value than their neutral one, given as name=(value, neutral)."""
    if corruption.is_absorbing:
        return
    name = type(corruption).__name__
    has = "a law or cost of its own" if corruption.marks_noise else "none"
    if times == "counts":
        raise ValueError(f"times='counts' counts masks, and {name} corruption has {has}; use times: continuous")
    for setting, (value, expected) in neutral.items():
        if value != expected:
            raise ValueError(
                f"{setting}={value}: is about the masks of absorbing corruption, and {name} corruption has {has}, so "
                f"it must be {expected}"
            )
