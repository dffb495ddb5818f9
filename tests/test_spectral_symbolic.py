"""An output as a short sum of named components."""

from __future__ import annotations

import json
import math
import re
import sys
from decimal import Decimal

import numpy as np
import pytest

from omenn_onnx.errors import SpectrumError
from omenn_onnx.spectral.contributions import Contributions, contributions
from omenn_onnx.spectral.full import full_spectrum
from omenn_onnx.spectral.symbolic import symbolic

SEED = 3


def split(scale=1.0):
    print("seed", SEED)
    random = np.random.default_rng(SEED)
    right, left, x, b = (random.standard_normal(s) for s in ((20, 30), (3, 20), 30, 3))
    return contributions(full_spectrum(right), left * scale, right @ x, b * scale)


@pytest.mark.parametrize("count", [0, 1, 4, None])
@pytest.mark.parametrize("form", ["all", "reduced", "above"])
def test_the_sum_is_the_output(form, count):
    found = {"all": split(), "reduced": split().reduced(), "above": split().above(0.5)}[form]
    for output in range(3):
        made = symbolic(found, output, count=count)
        total = math.fsum([*(t.amount for t in made.terms), made.remainder, made.bias])
        assert total == pytest.approx(made.y, rel=1e-14)
        assert made.y == found.y[output]
        nonzero = np.count_nonzero(found.alpha[output])
        assert len(made.terms) == (nonzero if count is None else min(count, nonzero))
        for t in made.terms:
            assert t.weight * t.coordinate == pytest.approx(t.amount, rel=1e-14)
            assert t.share == found.shares[output, t.index]
        if count is None:
            assert math.fsum(t.share for t in made.terms) == pytest.approx(1)


@pytest.mark.parametrize("digits", [1, 3, 6])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e7])
def test_printed_numbers_add_up(scale, digits):
    for output in range(3):
        made = symbolic(split(scale), output, count=5, label="cat")
        head, *lines = made.text(digits).splitlines()
        numbers = [Decimal(line.split()[0]) for line in lines]
        assert head.startswith("cat = ")
        assert sum(numbers) == Decimal(head.removeprefix("cat = "))
        assert [line.split()[1] for line in lines] == [t.name for t in made.terms] + ["remainder", "bias"]
        biggest = max(abs(made.y), abs(made.bias), *(abs(t.amount) for t in made.terms))
        for t, n in zip(made.terms, numbers, strict=False):
            assert abs(float(n) - t.amount) <= 0.51 * 10.0 ** (math.floor(math.log10(biggest)) - digits + 1)
        found = re.findall(r"([+-]?) ?(\d[\d.]*) (\S+)", made.sentence(digits).split(" = ")[2])
        assert sum(Decimal(sign + n) for sign, n, _ in found) == Decimal(head.removeprefix("cat = "))


def test_a_text_is_what_it_should_be():
    found = Contributions(
        np.array([[3.0, -1.0, 0.25]]), np.array([[1.5, 1.0, 0.5]]), np.array([2.0, -1.0, 0.5]), np.array([2.5]),
        np.array([0.5]), np.arange(3),
    )  # fmt: skip
    made = symbolic(found, count=2, label="logit 7", names=["edge", "spot", "rim"])
    assert made.text(3) == (
        "logit 7 = 3.00\n  +3.00  edge       70.6 %\n  -1.00  spot       23.5 %\n  +0.50  remainder\n  +0.50  bias"
    )
    assert made.sentence(3) == "logit 7 = 3.00 = 3.00 edge - 1.00 spot + 0.50 remainder + 0.50 bias"


def test_json():
    made = symbolic(split(), 1, count=3)
    read = json.loads(json.dumps(made.as_dict()))
    assert read["y"] == made.y
    assert sum(t["amount"] for t in read["terms"]) + read["remainder"] + read["bias"] == pytest.approx(made.y)
    assert set(read["terms"][0]) == {"name", "index", "weight", "coordinate", "amount", "share"}


def test_sympy():
    sp = pytest.importorskip("sympy")
    for found in (split(), split().reduced()):
        made = symbolic(found, 2, count=4, names=[f"E {k}" for k in range(20)])
        expression = made.sympy()
        assert {s.name for s in expression.free_symbols} == {t.name for t in made.terms}
        assert float(expression.subs(made.sympy_values())) == pytest.approx(made.y, rel=1e-12)
        t = made.terms[0]
        assert float(sp.diff(expression, sp.Symbol(t.name, real=True))) == pytest.approx(t.weight)


def test_without_sympy_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sympy", None)
    with pytest.raises(SpectrumError, match=r"pip install 'omenn-onnx\[symbolic\]'"):
        symbolic(split()).sympy()


def test_bad_input():
    found = split()
    with pytest.raises(SpectrumError, match="output 3 does not exist"):
        symbolic(found, 3)
    with pytest.raises(SpectrumError, match="number of components"):
        symbolic(found, count=-1)
    for names in (["a"], ["a"] * 20):
        with pytest.raises(SpectrumError, match="different names"):
            symbolic(found, names=names)
    with pytest.raises(SpectrumError, match="at least 1 digit"):
        symbolic(found).text(0)
