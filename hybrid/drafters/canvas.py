"""The canvas as a network reads it: its slots, its blocks, where predictions stand, and the denoiser over it.

Slot 0 is the opening marker and slot i + 1 token i, at the positions of the clean sketch that the canvas will become.
Block j holds the tokens j w .. j w + w - 1. Its *view* is slot j w, which leads, and the block's own slots after it:
bidirectional within, over the *past*, the clean slots before j w. So the view holds a reader before every token of the
block, as `shift` needs (in Dream's way, the first token is read at the one before it, which sees the block as it is
so far), and no token twice. The past is cut at the same slots: its blocks lead with the last token of the block
before, see one another from left to right, and are what the canvas leaves in memory once it has gone by.

A canvas with room for the answer goes on where the sketch's positions end, without a marker between them.

Two ends of this. One block: the view is the whole canvas, with no past. Blocks of one token, shifted: nobody but the
token's own mask would stand after the leader, so the leader is the whole view, which makes the canvas a causal row.
"""

import dataclasses
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybrid.diffusion.blocks import Blocks
from hybrid.diffusion.corruption import Alphabet
from hybrid.diffusion.guidance import Denoiser, Ending
from hybrid.drafters.self_condition import Carried
from hybrid.nets.layout import Segment
from hybrid.nets.network import Memory, Network, Part, prompt_segment
from hybrid.records import Prompts, Special, Spent


@dataclass(frozen=True)
class Canvas:
    """Which slots the network is given, and where it is read. is_shifted: at the slot before a token's own."""

    blocks: Blocks
    is_shifted: bool
    special: Special

    @property
    def view(self) -> int:
        """Slots of a block's view."""
        return 1 if self.is_causal else self.blocks.width + 1

    @property
    def is_causal(self) -> bool:
        """The canvas is read as plain text: each view is its leader alone."""
        return self.blocks.width == 1 and self.is_shifted

    def slots(self, tokens: Int[Tensor, "b l"], at: Int[Tensor, "... n"]) -> Int[Tensor, "b n"]:
        """What stands in those slots; anything in slots after the last."""
        padded = F.pad(tokens, (1, 0), value=self.special.sketch)
        return padded.gather(1, at.clamp(max=self.blocks.length).expand(len(tokens), -1))

    def past(self, x: Int[Tensor, "b l"], start: Int[Tensor, "b"]) -> list[Segment]:
        """The clean stream, which noisy blocks look back on; none where there is nothing to look back on."""
        columns = 0 if self.is_causal else (self.blocks.count - 1) * self.blocks.width
        at = torch.arange(columns, device=x.device)
        keep = torch.ones(len(x), columns, dtype=torch.bool, device=x.device)
        width = self.blocks.width
        past = Segment("past", self.slots(x, at), keep, start[:, None] + at, True, sees=("prompt",), block=width)
        return [past] if columns else []

    def noisy(self, z: Int[Tensor, "b l"], x: Int[Tensor, "b l"], start: Int[Tensor, "b"], name: str) -> Segment:
        """The noisy stream: the views of all blocks side by side, led by clean tokens."""
        view = torch.arange(self.view, device=z.device)
        at = (torch.arange(self.blocks.count, device=z.device)[:, None] * self.blocks.width + view).flatten()
        leads = (view == 0).repeat(self.blocks.count)
        return Segment(
            name,
            torch.where(leads, self.slots(x, at), self.slots(z, at)),
            (at <= self.blocks.length).expand(len(z), -1),
            start[:, None] + at.clamp(max=self.blocks.length),
            is_causal=self.is_causal,
            sees=("prompt",),
            block=self.view,
            before=("past",),
        )

    def logits(
        self, network: Network, hidden: Float[Tensor, "b _ d"], where: Bool[Tensor, "b l"]
    ) -> Float[Tensor, "n k"]:
        """Predictions of tokens from the hidden states of all views. The head runs at `where` alone."""
        token = torch.arange(self.blocks.length, device=hidden.device)
        within = token % self.blocks.width + (not self.is_shifted)
        return network.logits(hidden[:, token // self.blocks.width * self.view + within][where])

    def logits_of_block(
        self, network: Network, hidden: Float[Tensor, "b v d"], where: Bool[Tensor, "b l"], block: Int[Tensor, "b"]
    ) -> Float[Tensor, "n k"]:
        """The same from the hidden states of one view of each row, where only its tokens are asked about, in float32,
        since tokens are drawn from them."""
        row, token = where.nonzero(as_tuple=True)
        return network.logits(hidden[row, token - block[row] * self.blocks.width + (not self.is_shifted)]).float()


@dataclass
class Prefix:
    """The prompts of one call. The first forward over a row's canvas reads its prompt too, once.

    parts: memories of prompts that are read, and whose they are.
    """

    network: Network
    prompts: Prompts
    spent: Spent
    parts: list[Part] = field(default_factory=list)

    def is_read(self, rows: Int[Tensor, "r"]) -> bool:
        """Whether any of these prompts is."""
        return any(bool(torch.isin(rows, some).any()) for some, _ in self.parts)

    def segment(self, rows: Int[Tensor, "r"]) -> Segment:
        device = self.prompts.tokens.device
        return prompt_segment(self.prompts.select(rows.to(device)))

    def encoded(self) -> Memory | None:
        """All of them; those that no forward has read yet take one of their own. None: the network rereads."""
        if self.network.rereads:
            return None
        is_left = torch.ones(len(self.prompts), dtype=torch.bool)
        for some, _ in self.parts:
            is_left[some] = False
        if len(rows := is_left.nonzero()[:, 0]):
            width = self.prompts.tokens.shape[1]
            self.spent.charge("denoiser", positions=width, flops=self.network.flops(width, width), rows=rows)
            self.parts.append((rows, self.network.remember([self.segment(rows)])[1]))
        if len(self.parts) > 1:
            self.parts = [(torch.arange(len(self.prompts)), Memory.joined(self.parts))]
        return self.parts[0][1]


@dataclass
class CanvasDenoiser(Denoiser):
    """The network's prediction of a canvas, a block at a time, over the remembered prompt and past. For one call.

    Every row is asked about one block, that of its leftmost position asked about; all before it is done for good.
    Rows may be in different blocks. What a row's past lacks is encoded from clean tokens in the same forward as its
    next block, once. The prompt is read in the first forward, unless the prefix has it already. A network that
    rereads has no memory: prompt and past are sent, and charged, in every forward.

    Every forward is charged where it is made: its own positions to each row that takes part.

    rows: the places of its rows in the batch, ascending. start: the position after the prompt. prefix: None where the
    prompt is absent. memory: of prompt and past. done: blocks of each row in memory. carried: what was predicted last,
    under self-conditioning. skips: rows may ask nothing, which a policy that reopens brings about; to look costs a wait
    for the device.
    """

    canvas: Canvas
    network: Network
    spent: Spent
    rows: Int[Tensor, "b"]
    start: Int[Tensor, "b"]
    prefix: Prefix | None
    done: Int[Tensor, "b"]
    memory: Memory | None = None
    carried: Carried | None = None
    skips: bool = False

    def logits(self, z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Float[Tensor, "n k"]:
        if self.skips and not (asks := where.any(-1)).all():
            return self._of_some(asks, z, t, where)
        if len(z) == 0:
            return self._nothing(z)
        block = where.int().argmax(-1) // self.canvas.blocks.width
        lacking = self._lacking(block, where)
        prompt, past, view = self._prompt(), self._past(z, block, lacking), self._view(z, block)
        if self.carried is not None:
            view = self.carried.read(self.rows, view, self.start, self.canvas.special.mask)
        q, p, v = (sum(s.tokens.shape[1] for s in part) for part in (prompt, past, view))
        columns = q + (0 if self.memory is None else self.memory.keep.shape[1])
        self._charge(q, lacking * self.canvas.blocks.width, v, columns, p)
        segments, stays = [*prompt, *past, *view], columns + p + (v if self.canvas.is_causal else 0)
        if self.network.rereads or (q + p == 0 and not self.canvas.is_causal):
            hidden = self.network(segments, self.memory and self.memory.read_only())
        else:
            hidden, memory = self.network.remember(segments, self.memory and self.memory.fork())
            self.memory = memory.first(stays)
            self.done = block + self.canvas.is_causal
            if q and self.prefix is not None:
                self.prefix.parts.append((self.rows, memory.first(q)))
            if (lacking != lacking.max()).any():  # some rows were given more columns than they fill
                self.memory = self.memory.packed()
        if self.carried is None:
            return self.canvas.logits_of_block(self.network, hidden["canvas"], where, block)
        is_mask = (z == self.canvas.special.mask) & (self.canvas.blocks.of(z.device) == block[:, None])
        read = where | is_mask  # beyond a decode window masks are carried too, as in training
        logits = self.canvas.logits_of_block(self.network, hidden["canvas"], read, block)
        self.carried.write(self.network, self.rows, len(self.spent.flops), read, is_mask, logits)
        return logits[where[read]]

    def _of_some(
        self, asks: Bool[Tensor, "b"], z: Int[Tensor, "b l"], t: Float[Tensor, "b"], where: Bool[Tensor, "b l"]
    ) -> Float[Tensor, "n k"]:
        """The same, by a forward of the rows that ask, whose past is remembered from then on."""
        rows, others = asks.nonzero()[:, 0], (~asks).nonzero()[:, 0]
        some = self.select(rows)
        logits = some.logits(z[rows], t[rows], where[rows])
        if self.memory is not None and some.memory is not None and not torch.equal(some.done, self.done[rows]):
            self.memory = Memory.joined([(rows.cpu(), some.memory), (others.cpu(), self.memory.select(others))])
            self.done = self.done.index_copy(0, rows, some.done)
        return logits

    def _prompt(self) -> list[Segment]:
        """The prompts, where this forward is to read them; otherwise they are in memory, or absent."""
        if self.prefix is None or self.memory is not None:
            return []
        if not self.prefix.is_read(self.rows):
            return [self.prefix.segment(self.rows)]
        memory = self.prefix.encoded()
        assert memory is not None  # some of its prompts are read
        self.memory = memory.select(self.rows.to(self.start.device))
        return []

    def _past(self, z: Int[Tensor, "b l"], block: Int[Tensor, "b"], lacking: Int[Tensor, "b"]) -> list[Segment]:
        """Clean slots before each row's block that its memory lacks, if any row's does."""
        if not lacking.any():
            return []
        width = self.canvas.blocks.width
        at = self.done[:, None] * width + torch.arange(int(lacking.max()) * width, device=z.device)
        is_past = at < block[:, None] * width
        now = self.start[:, None] + at
        return [Segment("past", self.canvas.slots(z, at), is_past, now, is_causal=True, sees=("prompt",), block=width)]

    def _view(self, z: Int[Tensor, "b l"], block: Int[Tensor, "b"]) -> list[Segment]:
        """Each row's own view."""
        at = block[:, None] * self.canvas.blocks.width + torch.arange(self.canvas.view, device=z.device)
        keep, sees = at <= self.canvas.blocks.length, ("prompt", "past")
        now = self.start[:, None] + at.clamp(max=self.canvas.blocks.length)
        return [Segment("canvas", self.canvas.slots(z, at), keep, now, is_causal=False, sees=sees)]

    def _nothing(self, z: Int[Tensor, "0 l"]) -> Float[Tensor, "0 k"]:
        """Predictions for no row, which transformers refuse. Other ranks' collectives are kept company by a blank."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return torch.zeros(0, self.network.config.vocab_size, device=z.device)
        blank = z.new_zeros(1, 1)
        hidden = self.network([Segment("canvas", blank, blank == 0, blank, is_causal=False)])
        return self.network.logits(hidden["canvas"][0, :0])

    def _lacking(self, block: Int[Tensor, "b"], where: Bool[Tensor, "b l"]) -> Int[Tensor, "b"]:
        """Blocks before its own that each row's memory lacks, on the host."""
        if self.canvas.blocks.count == 1:
            return torch.zeros(len(block), dtype=torch.int64)
        last = where.shape[1] - 1 - where.flip(-1).int().argmax(-1)
        lacking, is_split = torch.stack([block - self.done, last // self.canvas.blocks.width - block]).cpu()
        assert not is_split.any(), "a row is asked about more than one block"
        if (lacking < 0).any():  # a causal row that reads its leader again
            assert self.canvas.is_causal and self.memory is not None
            self.memory = self.memory.without_last(block < self.done).packed()
            self.done = self.done.minimum(block)
        return lacking.clamp(min=0)

    def _charge(self, q: int, past: Int[Tensor, "b"], view: int, seen: int, columns: int) -> None:
        """One forward: the prompt's q positions if it reads them, those of each row's past, and the view."""
        flops = self.network.flops
        cost = flops(q, q) + past.double() * flops(1, seen + columns) + flops(view, seen + columns + view)
        if self.carried is not None:  # means of all embeddings
            cost = cost + 2.0 * view * self.network.config.vocab_size * self.network.config.hidden_size
        is_whole = len(self.rows) == len(self.spent.flops)  # in order, as rows stay
        self.spent.charge("denoiser", q + past + view, cost, slice(None) if is_whole else self.rows)

    def unprompted(self) -> "CanvasDenoiser":
        """The same with a prompt that is absent."""
        return dataclasses.replace(self, prefix=None, carried=None if self.carried is None else Carried())

    def select(self, rows: Int[Tensor, "r"]) -> "CanvasDenoiser":
        return dataclasses.replace(
            self,
            rows=self.rows[rows.to(self.rows.device)],
            start=self.start[rows],
            done=self.done[rows],
            memory=self.memory and self.memory.select(rows),
        )


def ending(special: Special, parts: tuple[int, ...] = ()) -> Ending:
    """How the parts of a canvas end."""
    return Ending(special.end, special.pad, special.mask, parts)


def alphabet_of(network: Network, special: Special) -> Alphabet:
    """What may stand on a canvas of the network's tokens."""
    return Alphabet(special.mask, network.config.vocab_size, special.never_drafted)


def check_blocks(block: int | None, window: int | None, next_token: float) -> None:
    """Refuse blocks that are none, that windows do not divide, or whose bound is the next-token loss already."""
    if block is None:
        return
    if block < 1:
        raise ValueError(f"attention_block={block}: must be 1 or more, or null for the whole canvas")
    if window is not None and block % window:
        raise ValueError(f"decode_window={window} with attention_block={block}: a window must divide the block")
    if next_token and block == 1:
        raise ValueError(
            f"next_token={next_token} with attention_block=1: the bound is already the next-token loss; "
            "set next_token: 0"
        )
