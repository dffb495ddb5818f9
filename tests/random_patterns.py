"""Random linear programs made of what the simplifier folds, and of what only looks like it."""

from __future__ import annotations

from random_programs import Maker, Model

from omenn_onnx.graph.ir import Shape
from omenn_onnx.linear import program as lp
from omenn_onnx.linear.program import Var, Window


class Sided(Maker):
    """``sums`` are side products: sums of a variable with factors."""

    ONWARD = 0.85

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.sums: list[Var] = []

    def factor(self, x: Var, s: Shape, rank: int) -> None:
        raise NotImplementedError

    def summed(self, s: Shape) -> Shape:
        raise NotImplementedError

    def side(self, x: Var, s: Shape, rank: int) -> None:
        """The sum of x with a factor. Now and then others may read the product too."""
        self.factor(x, s, rank)
        y = self.pool.pop()
        self.put(lp.Sum(), [y], self.summed(s))
        self.sums.append(self.pool.pop())
        if self.chance(0.25):
            self.pool.append(y)

    def total(self, x: Var, s: Shape, rank: int) -> None:
        if self.sums:
            first = self.pick(self.sums)
            same = [v for v in self.sums if v.shape == first.shape]
            self.put(lp.Add(), [first, *(self.pick(same) for _ in range(int(self.rng.integers(1, 4))))], first.shape)
            self.sums.append(self.pool.pop())


class Columns(Sided):
    """Products with matrices; factors and means of columns and of rows."""

    KINDS = "row factor factor middle lines reshape side side product total add sum".split()

    def start(self) -> None:
        shapes = [(self.pick([1, 3, "N"]), self.pick([1, 4, "T"]), self.pick([1, 3, 4])), ("N", 4), (2, "N", 3, 4)]
        x = self.leaf(self.pick(shapes))
        if self.chance(0.9):  # (what is given from outside is left alone)
            x = self.put(lp.Scale(self.model.coefficient((1,), False)), [x], x.shape)
        self.product(x, x.shape, x.rank)

    def row(self, x: Var, s: Shape, rank: int) -> None:
        shape = self.partial((*s[:-1], 1))
        self.put(lp.Scale(self.model.coefficient(shape, self.chance())), [x], s)

    def factor(self, x: Var, s: Shape, rank: int) -> None:
        shape = self.pick([(s[-1],), (1,) * (rank - 1) + (s[-1],), (1,), ()])
        self.put(lp.Scale(self.model.coefficient(shape, self.chance(0.8))), [x], s)

    def summed(self, s: Shape) -> Shape:
        return (*s[:-1], 1)

    def middle(self, x: Var, s: Shape, rank: int) -> None:
        self.put(lp.Centre((rank - 1,)), [x], s)

    def lines(self, x: Var, s: Shape, rank: int) -> None:
        if rank == 3:
            self.put(lp.Reshape(), [x], (self.model.product(s[:2]), s[2]))
        elif rank == 2:
            self.put(lp.Reshape(), [x], (s[0], 1, s[1]))

    def product(self, x: Var, s: Shape, rank: int) -> None:
        out, transposed = int(self.rng.integers(1, 5)), self.chance()
        shape = (out, s[-1]) if transposed else (s[-1], out)
        w = self.model.coefficient(shape, self.chance(0.9))
        self.put(lp.MatMul(w, False, transposed), [x], (*s[:-1], out))


class Channels(Sided):
    """Convolutions; factors of channels, some of them 0 or nearly, some known at run time only."""

    KINDS = "factor factor select scale side side same same layer layer total add conv".split()

    def start(self) -> None:
        space = [self.pick([2, 4]) for _ in range(int(self.rng.integers(1, 4)))]
        self.pool.append(self.leaf((self.pick([1, 3, "N"]), self.pick([1, 2, 4]), *space)))
        self.same(self.pool[0], self.pool[0].shape, self.pool[0].rank)

    def factor(self, x: Var, s: Shape, rank: int) -> None:
        shape = self.pick([(c, *[1] * (rank - 2)) for c in (s[1], s[1], 1)])
        shape = self.pick([shape, (1, *shape)])
        value = self.model.values(shape)
        value.reshape(-1)[0] = self.pick([value.reshape(-1)[0], 0.0, 1e-12])
        self.put(lp.Scale(self.model.coefficient(shape, self.chance(0.85), value)), [x], s)

    def summed(self, s: Shape) -> Shape:
        return (s[0], 1, *s[2:])

    def same(self, x: Var, s: Shape, rank: int) -> None:
        """A convolution that leaves the positions alone."""
        n, out, group, adjoint = rank - 2, int(self.rng.integers(1, 4)), 1, self.chance()
        if self.chance(0.25):
            group = out = s[1]
        front = (s[1], out // group) if adjoint else (out, s[1] // group)
        w = self.model.coefficient((*front, *[1] * n), self.chance(0.9))
        window = Window((1,) * n, (1,) * n, (0,) * (2 * n), (1,) * n)
        self.put(lp.Conv(w, window, group, adjoint), [x], (s[0], out, *s[2:]))

    def layer(self, x: Var, s: Shape, rank: int) -> None:
        """A convolution, sums of it, and a factor behind it."""
        self.same(x, s, rank)
        y = self.pool[-1]
        for _ in range(int(self.rng.integers(3))):
            self.side(y, y.shape, rank)
        self.factor(y, y.shape, rank)


class Groups(Maker):
    """Streams that repeat one channel, side by side."""

    KINDS = "wide pair pair join join join window window all_ full scale select add add same conv twin slice".split()

    def start(self) -> None:
        n = int(self.rng.integers(1, 5))
        self.space = tuple(self.pick([2, 3]) for _ in range(n))
        self.front = self.pick([[1], ["N"], [1, "N"], [3]])
        self.pool.append(self.leaf((self.pick(self.front), 1, *self.space)))
        for _ in range(3):
            self.wide(self.pool[0], self.pool[0].shape, n + 2)

    def wide(self, x: Var, s: Shape, rank: int) -> None:
        """One channel repeated, often at more positions and rows too."""
        thin = [v for v in self.pool if v.shape[1] == 1 and v.rank == rank]
        x = self.pick(thin) if thin and self.chance(0.7) else None
        if x is None:
            x = self.leaf((self.pick(self.front), 1, *(self.pick([1, d]) for d in self.space)))
        rows = "N" if x.shape[0] == 1 and self.chance() else x.shape[0]
        self.put(lp.Broadcast(), [x], (rows, self.pick([1, 2, 3]), *self.spread(x.shape)))

    def pair(self, x: Var, s: Shape, rank: int) -> None:
        """The sum of two concatenations, whose groups may differ, and the positions that their ones have."""
        rows = 3 if self.front == [3] else "N"
        joined = []
        for sizes in ((2, 3), self.pick([(2, 3), (3, 2)])):
            thin = self.leaf((self.pick([1, rows]), 1, *(self.pick([1, d, d]) for d in self.space)))
            parts = [self.put(lp.Broadcast(), [thin], (rows, n, *self.space)) for n in sizes]
            joined.append(self.put(lp.Concat(1), parts, (rows, 5, *self.space)))
        self.put(lp.Add(), joined, joined[0].shape)

    def spread(self, s: Shape) -> Shape:
        if self.chance(0.2):
            return s[2:]
        return tuple(b if a == 1 else a for a, b in zip(s[2:], self.space, strict=True))

    def full(self, x: Var, s: Shape, rank: int) -> None:
        self.put(lp.Broadcast(), [x], ("N" if s[0] == 1 else s[0], s[1], *self.spread(s)))

    def join(self, x: Var, s: Shape, rank: int) -> None:
        fits = [v for v in self.pool if v.rank == rank and (v.shape[0], v.shape[2:]) == (s[0], s[2:])]
        parts = [x, *(self.pick(fits) for _ in range(int(self.rng.integers(3))))]
        size = sum(v.shape[1] for v in parts)
        if size < 14:
            self.put(lp.Concat(1), parts[:: self.pick([1, -1])], (s[0], size, *s[2:]))

    def window(self, x: Var, s: Shape, rank: int) -> None:
        n = rank - 2
        if min(s[2:]) > 1:
            window = Window((2,) * n, (1,) * n, (0,) * (2 * n), (1,) * n)
            self.put(lp.WindowSum(window), [x], (*s[:2], *(d - 1 for d in s[2:])))

    def all_(self, x: Var, s: Shape, rank: int) -> None:
        """All channels summed, often rows and positions as well."""
        self.put(lp.Sum(), [x], (self.pick([s[0], s[0], 1]), 1, *(self.pick([1, d]) for d in s[2:])))

    same = Channels.same


class Boxes(Maker):
    """Boxes in zeros, and whatever may follow."""

    KINDS = (
        "scale select add twin broadcast sum centre reshape reshape permute slice embed concat concat matmul matmul "
        "einsum conv window_sum gather scatter_add cumsum merge merge around around beside"
    ).split()

    def start(self) -> None:
        batch = self.pick([1, 3, "N"])
        whole = self.pick(
            [
                tuple(self.pick([1, 2, 3, 4, 6, "N", "T"]) for _ in range(int(self.rng.integers(1, 6)))),
                (batch, self.pick([5, 7, "T"]), self.pick([4, 6, 12])),  # rows of tokens
                (batch, self.pick([2, 4, 6]), *(self.pick([3, 4, 6]) for _ in range(int(self.rng.integers(1, 4))))),
            ]
        )
        first = self.box(whole)
        if self.chance(0.3):  # rows of tokens, which a reshape makes rows of the batch
            whole = (3, 5, self.pick([4, 6]))
            at = int(self.rng.integers(4))
            first = self.put(lp.Embed((0, at, 0)), [self.leaf((3, int(self.rng.integers(1, 3)), whole[2]))], whole)
            for kind in ("scale", "merge"):
                getattr(self, kind)(self.pool[-1], self.pool[-1].shape, self.pool[-1].rank)
            return
        self.pool[:] = [first, *(self.box(whole, first.definition) for _ in range(int(self.rng.integers(3))))]

    def merge(self, x: Var, s: Shape, rank: int) -> None:
        """Rows of a batch one after the other."""
        if rank > 1 and all(d not in self.model.merged for d in s):
            self.put(lp.Reshape(), [x], (self.model.product(s[:2]), *s[2:]))

    def around(self, x: Var, s: Shape, rank: int) -> None:
        """A slice around a box, or through it."""
        d = x.definition
        begin, shape = [0] * rank, list(s)
        if d is None or not isinstance(d.primitive, lp.Embed):
            return
        for i, (a, b, n) in enumerate(zip(d.primitive.begin, d.inputs[0].shape, s, strict=True)):
            if b != n and isinstance(a, int) and isinstance(n, int):
                begin[i] = int(self.rng.integers(a + 1))
                shape[i] = int(self.rng.integers(max(1, a + b - begin[i] - 1), n - begin[i] + 1))
        self.put(lp.Slice(tuple(begin)), [x], shape)

    def beside(self, x: Var, s: Shape, rank: int) -> None:
        """Boxes at the same place side by side, of one size or not."""
        d = x.definition
        if d is not None and isinstance(d.primitive, lp.Embed):
            y, axis = self.box(s, d), int(self.rng.integers(rank))
            if isinstance(s[axis], int):
                self.put(lp.Concat(axis), [x, y], (*s[:axis], 2 * s[axis], *s[axis + 1 :]))
