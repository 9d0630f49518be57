"""Tasks: problems, checkers, the tokenizer, and batches of them. Importing this registers every kind."""

from hybrid.tasks.addition import Addition
from hybrid.tasks.chain import Chain
from hybrid.tasks.checkpoint_tokenizer import CheckpointTokenizer, PretrainedTokenizer
from hybrid.tasks.collate import check_room, collate, prompts
from hybrid.tasks.countdown import Countdown
from hybrid.tasks.gsm8k import Gsm8k
from hybrid.tasks.json_lines import JsonLines
from hybrid.tasks.multiplication import Multiplication
from hybrid.tasks.ontology import ProntoQA, ProsQA
from hybrid.tasks.procedural import Drawn, Draws, Procedural
from hybrid.tasks.rows import Rows
from hybrid.tasks.sudoku import Sudoku
from hybrid.tasks.task import Data, Task, example, key_of, split
from hybrid.tasks.tokenizer import (
    ANSWER,
    END,
    MASK,
    PAD,
    SKETCH,
    BytePair,
    Character,
    Tokenizer,
    TokenizerConfig,
)
from hybrid.tasks.two_tokenizers import Two, TwoTokenizers

__all__ = [
    "ANSWER",
    "END",
    "MASK",
    "PAD",
    "SKETCH",
    "Addition",
    "BytePair",
    "Chain",
    "Character",
    "CheckpointTokenizer",
    "Countdown",
    "Data",
    "Drawn",
    "Draws",
    "Gsm8k",
    "JsonLines",
    "Multiplication",
    "Procedural",
    "PretrainedTokenizer",
    "ProntoQA",
    "ProsQA",
    "Rows",
    "Sudoku",
    "Task",
    "Tokenizer",
    "TokenizerConfig",
    "Two",
    "TwoTokenizers",
    "check_room",
    "collate",
    "example",
    "key_of",
    "prompts",
    "split",
]
