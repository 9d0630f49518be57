import random

import pytest
import tokenizers
import torch

from hybrid.kinds import look_up, names
from hybrid.tasks import (
    ANSWER,
    END,
    MASK,
    PAD,
    SKETCH,
    BytePair,
    Character,
    Tokenizer,
    TokenizerConfig,
    collate,
    example,
    key_of,
    prompts,
)

TEXTS = ["7+3*2-5", "a <mask> b <mask>\n", "<pad><end><sketch><answer>" * 5, "héllo wörld  123 456 123\t"]


@pytest.fixture(params=[Character(), BytePair(320)], ids=["character", "byte_pair"])
def tokenizer(request) -> Tokenizer:
    return request.param.train(TEXTS)


def test_round_trip(tokenizer):
    letters = sorted(set("".join(TEXTS)))
    draws = random.Random(0)
    for _ in range(300):
        text = "".join(draws.choice(letters) for _ in range(draws.randrange(40)))
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for text in ("", " ", "\n\n", "  a  ", "a - b +c <s n <t", *TEXTS):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_byte_pairs_write_every_text():
    tokenizer = BytePair(300).train(["abc"])
    for text in ("日本語 🙂 \x00 \r\n", "naïve ½", "<|endoftext|>", "a , b . c 's n't"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_never_yields_a_special_id(tokenizer):
    for name in ("<pad>", "<end>", "<mask>", "<sketch>", "<answer>"):
        for text in (name, f"a{name}b", f" {name}", name * 3):
            assert min(tokenizer.encode(text)) > ANSWER
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_fixed_ids(tokenizer):
    assert (PAD, END, MASK, SKETCH, ANSWER) == (0, 1, 2, 3, 4)
    found = [tokenizer.model.id_to_token(i) for i in range(5)]
    assert found == ["<pad>", "<end>", "<mask>", "<sketch>", "<answer>"]
    assert tokenizer.special.never_drafted == (MASK, SKETCH, ANSWER)
    assert len(tokenizer) == max(tokenizer.model.get_vocab().values()) + 1


def test_decode_shows_what_is_there(tokenizer):
    a, b = tokenizer.encode("a"), tokenizer.encode("b")
    assert tokenizer.decode([*a, MASK, MASK, *b, PAD, *a, END, *b]) == "a__ba"
    assert tokenizer.decode([*a, SKETCH, ANSWER]) == "a<sketch><answer>"
    assert tokenizer.decode(torch.tensor([*a, *b])) == "ab"
    with pytest.raises(ValueError, match="ids 0 to"):
        tokenizer.decode([len(tokenizer)])


def test_unknown_character_is_named():
    tokenizer = Character().train(["0123+"])
    with pytest.raises(ValueError, match=r"unknown character 'x' at position 3 of '1\+2x'.*'\+0123'"):
        tokenizer.encode("1+2x")
    assert Character("x").train(["1+2"]).encode("x")
    with pytest.raises(ValueError, match="no characters"):
        Character().train([])


def test_byte_pair_keeps_digits_single_and_has_a_least_size():
    tokenizer = BytePair(400).train(["123 123 123 number number"] * 20)
    assert len(tokenizer.encode("123123")) == 6
    assert len(tokenizer.encode("number number")) <= 4
    assert len(tokenizer) <= 400
    with pytest.raises(ValueError, match="size = 260: must be at least 261"):
        BytePair(260)


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.load(path)
    library = tokenizers.Tokenizer.from_file(str(path))
    for text in TEXTS:
        assert loaded.encode(text) == tokenizer.encode(text) == library.encode(text).ids
    assert loaded.to_json() == tokenizer.to_json() and len(loaded) == len(tokenizer)


def test_loading_refuses_what_is_not_ours(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json: not a tokenizer file"):
        Tokenizer.load(path)
    other = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}))
    other.save(str(path))
    with pytest.raises(ValueError, match="ids 0 to 4 are"):
        Tokenizer.load(path)
    injectable = Character().train(["abc"]).model
    injectable.add_special_tokens(["<mask>"])
    injectable.save(str(path))
    with pytest.raises(ValueError, match="added tokens"):
        Tokenizer.load(path)


def test_kinds():
    assert names(TokenizerConfig) == ["byte_pair", "character", "pretrained", "two"]
    assert look_up(TokenizerConfig, "character") is Character


ROWS = [example("1+2", "12", "3"), example("12", "", "21")]


def test_collate_layout():
    tokenizer = Character().train(["123+"])
    plus, one, two, three = 5, 6, 7, 8
    batch = collate(ROWS, tokenizer, canvas=4)
    assert batch.prompts.tokens.tolist() == [[one, plus, two], [PAD, one, two]]
    assert batch.prompts.keep.tolist() == [[True] * 3, [False, True, True]]
    assert batch.sketch.tolist() == [[one, two, END, PAD], [END, PAD, PAD, PAD]]
    assert batch.answer.tolist() == [[three, END, PAD], [two, one, END]]
    assert batch.answer_keep.tolist() == [[True, True, False], [True] * 3]
    assert batch.prompts.keys.tolist() == [key_of("1+2"), key_of("12")]
    assert batch.prompts.tokens.dtype == batch.sketch.dtype == batch.prompts.keys.dtype == torch.int64
    wide = collate(ROWS, tokenizer, canvas=3, max_prompt=5, max_answer=4)
    assert wide.prompts.tokens.shape == (2, 5) and wide.answer.shape == (2, 4) and wide.sketch.shape == (2, 3)
    assert wide.prompts.tokens[0].tolist() == [PAD, PAD, one, plus, two]


def test_prompts_take_their_keys_from_the_text_or_the_caller():
    tokenizer = Character().train(["123+"])
    assert prompts(["1+2"], tokenizer).keys.tolist() == [key_of("1+2")]
    assert prompts(["1+2"], tokenizer, [2**63 - 1]).keys.tolist() == [2**63 - 1]
    with pytest.raises(ValueError, match="2 keys for 1 prompts"):
        prompts(["1+2"], tokenizer, [1, 2])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"examples": []}, "no prompts"),
        ({"examples": [example("", "1", "1")]}, "prompt 0 of 1 is empty"),
        ({"canvas": 2}, "sketch of 2 tokens, but canvas = 2 holds 1 and an end token; canvas = 3 would fit"),
        ({"max_prompt": 2}, "prompt of 3 tokens, but max_prompt = 2"),
        ({"max_answer": 2}, "answer of 2 tokens, but max_answer = 2"),
    ],
)
def test_collate_says_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        collate(**{"examples": ROWS, "tokenizer": Character().train(["123+"]), "canvas": 4, **arguments})
