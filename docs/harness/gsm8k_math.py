"""GSM8K's metric for gsm8k_local.yaml: the answer's mathematical meaning, by math-verify."""

from hybrid.tasks.math_answers import same_answer


def process_results(doc: dict, results: list[str]) -> dict[str, int]:
    gold = doc["answer"].rpartition("####")[2].strip().replace(",", "")
    return {"math_verify": int(same_answer(gold, results[0].rpartition("####")[2].strip()))}
