"""Answers compared by mathematical meaning: 1/2 is 0.5, and \\frac{1}{2}."""

import threading


def same_answer(gold: str, given: str) -> bool:
    """Whether two answers mean the same, by math-verify; a `\\boxed{}` in either is looked for first.

    Its limit on time works by a signal and so only in the main thread; elsewhere there is none.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        from math_verify import parse, verify
    except ImportError:
        raise ValueError("check: math needs the package math-verify: pip install 'hybrid-reasoning[math]'") from None
    limit = 5 if threading.current_thread() is threading.main_thread() else None
    sides = [
        parse(text if "\\" not in text or "$" in text else f"${text}$", parsing_timeout=limit) for text in (gold, given)
    ]
    return bool(sides[0]) and bool(sides[1]) and bool(verify(*sides, timeout_seconds=limit))
