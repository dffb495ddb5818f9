"""LSTM, GRU, RNN, Scan, Loop, If and CumProd against the oracle, which is given every step written out.

Variants, dynamic lengths and exporters are in tests/test_recurrent.py.
"""

from __future__ import annotations

import numpy as np

from .base import Case, Fed, case, i0, ints, w

_LONG = 66
"""More steps than are unrolled."""


def _steps(count: int) -> str:
    """x [T, ...] as x0, x1, ..."""
    parts = ", ".join(f"p{t}" for t in range(count))
    return f"{parts} = Split<axis=0, num_outputs={count}>(x);" + ";".join(
        f"x{t} = Squeeze(p{t}, first)" for t in range(count)
    )


def _joined(count: int, name: str = "h") -> str:
    """h1, h2, ... as y [T, ...]."""
    thin = ";".join(f"u{t} = Unsqueeze({name}{t}, first)" for t in range(1, count + 1))
    return f"{thin}; y = Concat<axis=0>({', '.join(f'u{t}' for t in range(1, count + 1))})"


def _scan() -> Case:
    """Both outputs: the sequence times the last state."""
    twin = [_steps(_LONG)]
    for t in range(_LONG):
        twin.append(f"a{t} = MatMul(x{t}, W); c{t} = MatMul(h{t}, R); d{t} = Add(a{t}, c{t}); h{t + 1} = Tanh(d{t})")
    body = (
        "body = step (float[b,k] s, float[b,i] e) => (float[b,k] n, float[b,k] m) "
        "{ a = MatMul(e, V) c = MatMul(s, S) d = Add(a, c) n = Tanh(d) m = Identity(n) }"
    )
    return case(
        "Scan-long",
        f"V = Identity(W); S = Identity(R); l, Y = Scan<num_scan_inputs=1, {body}>(h0, x); y = Add(Y, l)",
        x=(_LONG, 1, 2),
        h0=(1, 2),
        W=w(2, 2),
        R=w(2, 2, seed=1),
        first=ints(0),
        same_as=";".join(twin) + ";" + _joined(_LONG).replace("y = Concat", "Y = Concat") + f"; y = Add(Y, h{_LONG})",
    )


def _loop() -> Case:
    """s = tanh(s R + x), with x the same at every step."""
    twin = ["l0 = Identity(s0)"]
    for t in range(_LONG):
        twin.append(f"c{t} = MatMul(l{t}, R); d{t} = Add(c{t}, x); l{t + 1} = Tanh(d{t})")
    body = (
        "body = step (int64 i, bool g, float[b,k] s) => (bool on, float[b,k] n) "
        "{ on = Identity(g) c = MatMul(s, S) d = Add(c, x) n = Tanh(d) }"
    )
    return case(
        "Loop-long",
        f'S = Identity(R); y = Loop<{body}>(count, "", s0)',
        x=(2, 3),
        s0=(2, 3),
        R=w(3, 3),
        count=i0(_LONG),
        same_as=";".join(twin) + f"; y = Identity(l{_LONG})",
    )


_STEPS, _H = 3, 2


def _cell(op: str, blocks: int, step: str, start: str = "", **attributes: int) -> Case:
    """Three steps of one layer. ``step`` computes h[n] (and c[n]) from x[t], h[t]; {t} and {n} are numbers."""
    twin = [_steps(_STEPS), "V = Transpose<perm=[1, 0]>(Wt); S = Transpose<perm=[1, 0]>(Rt)"]
    for t in range(_STEPS):
        twin.append((start if t == 0 and start else step).format(t=t, n=t + 1))
    wt, rt, b = w(blocks * _H, 2), w(blocks * _H, _H, seed=1), w(2 * blocks * _H, seed=2)
    attrs = "".join(f", {k}={v}" for k, v in attributes.items())
    return case(
        f"{op}{''.join(f'-{k}' for k in attributes)}",
        f"Y = {op}<hidden_size={_H}{attrs}>(x, W, R, B); y = Squeeze(Y, second)",
        x=(_STEPS, 2, 2),
        W=wt[None],
        R=rt[None],
        B=b[None],
        Wt=wt,
        Rt=rt,
        b=b[: blocks * _H] + b[blocks * _H :],
        bw=b[: blocks * _H],
        br=b[blocks * _H :],
        one=w(1)[0] * 0 + 1,
        first=ints(0),
        second=ints(1),
        same_as=";".join(twin) + ";" + _joined(_STEPS),
    )


def _products(reverse: bool, exclusive: bool) -> Case:
    """Running products of four, each as the ReduceProd of its factors."""
    parts = []
    for i in range(4):
        begin, end = (i + exclusive, 4) if reverse else (0, i + 1 - exclusive)
        parts.append(
            f"p{i} = Slice (x, b{begin}, b{end}, b1); q{i} = ReduceProd <keepdims=1> (p{i}, b1)"
            if begin < end
            else f"q{i} = Identity (one)"
        )
    return case(
        f"CumProd-{int(reverse)}{int(exclusive)}",
        f"y = CumProd <reverse={int(reverse)}, exclusive={int(exclusive)}> (x, a)",
        opset=26,
        runtime=False,
        x=(2, 4),
        a=i0(1),
        one=np.ones((2, 1), np.float32),
        channel=0,
        same_as="; ".join(parts) + "; y = Concat <axis=1> (q0, q1, q2, q3)",
        same_opset=20,
        **{f"b{i}": ints(i) for i in range(5)},
    )


def _branches(taken: bool) -> Case:
    """A condition that only the run tells."""
    then = "then_branch = t () => (float[a,b] u) { l = Tanh (x) u = Mul (l, x) }"
    other = "else_branch = e () => (float[a,b] v) { k = Reshape (x, m) v = MatMul (k, W) }"
    return case(
        f"If-{taken}",
        f"W = Identity (V); m = Identity (n); y = If <{then}, {other}> (flag)",
        x=(2, 3),
        V=w(3, 3),
        n=ints(2, 3),
        flag=Fed(np.array(taken)),
        same_as="l = Tanh (x); y = Mul (l, x)" if taken else "y = MatMul (x, V)",
        dyn="a." if taken else "..",
    )


_SUMS = "a{t} = MatMul(x{t}, V); r{t} = MatMul(h{t}, S); s{t} = Add(a{t}, r{t})"
_FIRST = "s{t} = MatMul(x{t}, V)"
_LSTM = (
    "; g{t} = Add(s{t}, b); i{t}, o{t}, f{t}, n{t} = Split<axis=-1, num_outputs=4>(g{t}); I{t} = Sigmoid(i{t}); "
    "O{t} = Sigmoid(o{t}); F{t} = Sigmoid(f{t}); N{t} = Tanh(n{t}); m{t} = Mul(I{t}, N{t}); "
)
_RNN = "; g{t} = Add(s{t}, b); h{n} = Tanh(g{t})"
_SHOWN = "; t{t} = Tanh(c{n}); h{n} = Mul(O{t}, t{t})"
CASES = [
    _scan(),
    _loop(),
    *(_products(reverse, exclusive) for reverse in (False, True) for exclusive in (False, True)),
    _branches(True),
    _branches(False),
    _cell(
        "RNN",
        1,
        _SUMS + "; g{t} = Add(s{t}, b); h{n} = Tanh(g{t})",
        _FIRST + "; g{t} = Add(s{t}, b); h{n} = Tanh(g{t})",
    ),
    _cell(
        "LSTM",
        4,
        _SUMS + _LSTM + "k{t} = Mul(F{t}, c{t}); c{n} = Add(k{t}, m{t})" + _SHOWN,
        _FIRST + _LSTM + "c{n} = Identity(m{t})" + _SHOWN,
    ),
]
