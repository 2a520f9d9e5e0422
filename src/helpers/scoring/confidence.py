"""Turn the scores of answers into confidences, and measure how far they can be trusted.

A softmax over an n-best list gives each candidate a share of the total. The shares add up to 1 even
if the context has no answer, so a share is not yet a confidence. ``fit_temperature`` rescales the
logits on held-out questions (Guo et al. 2017, "On Calibration of Modern Neural Networks"), and
``reliability`` and ``risk_coverage`` show on other questions how reliable the result is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from helpers.config import InputError
from helpers.scoring.metrics import hit_rank, lower
from helpers.scoring.uncertainty import exact_interval

_LOWEST, _HIGHEST = 0.1, 20.0  # the range of temperatures that the fit considers


def at_temperature(nbest: Sequence, temperature: float = 1.0) -> list:
    """Return the candidates of one pair with the softmax of their logit sums / ``temperature``.

    The order stays the same. At temperature 1, the shares are those of the model; a higher
    temperature makes them more equal. If the list is shorter than the model's, the shares are
    normalized again.
    """
    if not temperature > 0:
        raise InputError(f"temperature must be greater than 0, not {temperature!r}")
    sums = [(c.start_logit + c.end_logit) / temperature for c in nbest]
    weights = [math.exp(value - max(sums)) for value in sums]
    total = sum(weights)
    return [replace(c, probability=w / total) for c, w in zip(nbest, weights, strict=True)]


def fit_temperature(
    candidates: Sequence[Sequence], golds: Sequence[Sequence[str]]
) -> tuple[float, int]:
    """Return the temperature that makes gold answers most likely, and the number of pairs used.

    ``golds[i]`` are the accepted answers of the pair with the n-best list ``candidates[i]``. The
    temperature, between 0.1 and 20, minimizes the mean of -ln(share of the gold answers) over the
    pairs whose list contains a gold answer. If there is no such pair, the temperature is 1.
    """
    from scipy.optimize import minimize_scalar  # takes a second to import

    lists = []
    for nbest, accepted in zip(candidates, golds, strict=True):
        wanted = {lower(text) for text in accepted}
        right = np.array([lower(c.text) in wanted for c in nbest], bool)
        if right.any():
            lists.append((np.array([c.start_logit + c.end_logit for c in nbest]), right))
    if not lists:
        return 1.0, 0

    def loss(log_temperature: float) -> float:
        scaled = [(sums / math.exp(log_temperature), right) for sums, right in lists]
        parts = [np.logaddexp.reduce(s) - np.logaddexp.reduce(s[right]) for s, right in scaled]
        return float(np.mean(parts))

    bounds = math.log(_LOWEST), math.log(_HIGHEST)
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return math.exp(best.x), len(lists)


def first_answers(
    ranked: Mapping[str, Sequence[tuple[str, float]]],
    golds: Mapping[str, Sequence[str]],
    contexts: Mapping[str, int],
    merge: str,
) -> pd.DataFrame:
    """Return each question's first answer, its confidence (0 to 1), and whether it is right.

    ``ranked`` is what ``decoding.rank_answers`` returns, and ``contexts`` counts the contexts of
    each question. The confidence is the score as a fraction of the highest possible score, which
    is the number of contexts if ``merge`` is "sum", and 1 if it is "max". The index contains the
    question ids in the order of ``golds``. A question without an answer has confidence 0.
    """
    rows = []
    for name, accepted in golds.items():
        text, score = (ranked.get(name) or [("", 0.0)])[0]
        most = max(contexts.get(name, 0), 1) if merge == "sum" else 1
        rows.append((text, score / most, hit_rank([text], accepted) == 1))
    return pd.DataFrame(rows, list(golds), ["answer", "confidence", "right"])


def reliability(confidence: Sequence[float], right: Sequence[bool], bins: int = 5) -> pd.DataFrame:
    """Group answers by confidence into ``bins`` equal ranges from 0 to 1; omit empty ranges.

    The columns are low and high (the range), questions, confidence (the mean), right (the
    fraction), and low_right and high_right (the exact 95% interval of the fraction).
    """
    confidence, right = np.asarray(confidence, float), np.asarray(right, bool)
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = []
    for k in np.unique(number):
        mine = number == k
        hits, n = int(right[mine].sum()), int(mine.sum())
        low, high = exact_interval(hits, n)
        rows.append((k / bins, (k + 1) / bins, n, confidence[mine].mean(), hits / n, low, high))
    names = ["low", "high", "questions", "confidence", "right", "low_right", "high_right"]
    return pd.DataFrame(rows, columns=names)


def calibration_error(table: pd.DataFrame) -> float:
    """Return the mean distance between confidence and fraction right, weighted by questions."""
    distance = (table["confidence"] - table["right"]).abs()
    return float((distance * table["questions"]).sum() / table["questions"].sum())


def risk_coverage(confidence: Sequence[float], right: Sequence[bool]) -> pd.DataFrame:
    """Return the risk if the system answers only the questions with the highest confidence.

    One row per threshold: threshold, coverage (fraction of the questions answered) and risk (the
    fraction of these answers that are wrong). Questions with equal confidence share a row, because
    no threshold can separate them.
    """
    table = pd.DataFrame({"threshold": confidence, "wrong": ~np.asarray(right, bool), "n": 1})
    sums = table.groupby("threshold")[["wrong", "n"]].sum().sort_index(ascending=False).cumsum()
    rows = sums.assign(coverage=sums["n"] / len(table), risk=sums["wrong"] / sums["n"])
    return rows.reset_index()[["threshold", "coverage", "risk"]]
