"""Checking written arithmetic: numbers, + - * / and parentheses, exactly, by a parser and never by `eval`."""

import re
from fractions import Fraction

TOKEN = re.compile(r"\s*(?:([0-9]+(?:,[0-9]{3})*(?:\.[0-9]*)?|\.[0-9]+)|([-+*/()]))")
LONGEST = 500
DEEPEST = 40


class Unlawful(ValueError):
    """The text is no arithmetic, divides by zero, or breaks the rule of whole numbers."""


def evaluate(text: str, whole: bool = False) -> tuple[Fraction, list[Fraction]]:
    """Value of an expression and the numbers it is written with, in order.

    whole: numbers without a point, no sign before a term, every division exact.

    Raises:
        Unlawful: see there.
    """
    if len(text) > LONGEST:
        raise Unlawful(f"longer than {LONGEST} characters")
    parser = _Parser(_tokens(text), whole)
    value = parser.sum(0)
    if parser.tokens:
        raise Unlawful(f"{parser.tokens[-1]!r} is left over")
    return value, parser.numbers


def number(text: str) -> Fraction | None:
    """The number a text stands for (`1,080`, `-3.50`, `$18`, `18.`), or None."""
    if len(text) > LONGEST:
        return None
    match = re.fullmatch(r"\s*(-?)\s*\$?\s*(-?)([0-9]+(?:,[0-9]{3})*\.?[0-9]*|\.[0-9]+)\s*\.?\s*", text)
    if match is None or (match[1] and match[2]):
        return None
    value = Fraction(match[3].replace(",", "").removesuffix("."))
    return -value if match[1] or match[2] else value


def holds(equation: str) -> bool:
    """Whether `left=right` is true, where right may be rounded or cut to the decimals it is written with."""
    left, equals, right = equation.rpartition("=")
    try:
        value, written = evaluate(left)[0], evaluate(right)[0]
    except Unlawful:
        return False
    decimals = len(right.strip().partition(".")[2])
    return bool(equals) and (value == written or (decimals > 0 and abs(value - written) < Fraction(1, 10**decimals)))


def _tokens(text: str) -> list[str]:
    """Tokens last first."""
    tokens, at, text = [], 0, text.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise Unlawful(f"{text[at:].strip()[0]!r} is no part of arithmetic")
        tokens.append(match[1] or match[2])
        at = match.end()
    return tokens[::-1]


class _Parser:
    """Recursive descent: sum of products of factors. `depth` counts open parentheses."""

    def __init__(self, tokens: list[str], whole: bool) -> None:
        self.tokens, self.whole = tokens, whole
        self.numbers: list[Fraction] = []

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while self.tokens and self.tokens[-1] in "+-":
            sign = 1 if self.tokens.pop() == "+" else -1
            value += sign * self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while self.tokens and self.tokens[-1] in "*/":
            operation, operand = self.tokens.pop(), self.factor(depth)
            if operation == "*":
                value *= operand
                continue
            if operand == 0 or (self.whole and value % operand != 0):
                raise Unlawful(f"{value}/{operand} does not divide")
            value /= operand
        return value

    def factor(self, depth: int) -> Fraction:
        token = self.tokens.pop() if self.tokens else "nothing"
        if token == "(" and depth < DEEPEST:
            value = self.sum(depth + 1)
            if not self.tokens or self.tokens.pop() != ")":
                raise Unlawful("a parenthesis stays open")
            return value
        if token in ("+", "-") and not self.whole and depth < DEEPEST:
            value = self.factor(depth + 1)
            return -value if token == "-" else value
        if token[0] not in "0123456789." or (self.whole and not token.isdigit()):
            raise Unlawful(f"{token!r} stands where a number should")
        self.numbers.append(Fraction(token.replace(",", "").removesuffix(".")))
        return self.numbers[-1]
