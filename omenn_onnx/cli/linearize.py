"""omenn-linearize: the full linear map of a model at real inputs, F(x) = W x + b; and of each of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omenn_onnx.cli import Parser, UsageError, add_reading_options, run_cli
from omenn_onnx.cli.groups import add_map_options
from omenn_onnx.cli.linear_files import NPZ_LIMIT, SHOWN_FIGURES, LinearFile
from omenn_onnx.cli.reading import check_outputs, files_of, samples
from omenn_onnx.linearise import RULES
from omenn_onnx.spectral.instances import Linearization

WITHIN, OUTSIDE = 0, 1

EPILOG = """\
Each row of INPUT is an instance of its own (where a model takes several rows at a time, or rows interact, they are one
instance together). NAME.npz holds, with the instances first: W [N, units, inputs] and b [N, units]; x [N, inputs] and
y [N, units], the values of source and target, flat; residual [N, units]: |W x + b - y|, and relative_residual: that
over max(1, |y|, sum|W x|, |b|), which the bar is for; rows, units: which they are; source, target, source_shape,
target_shape, rules, bar. W[n] is flat, as W[n] @ x[n] wants it: W[n].reshape(*target_shape, *source_shape) has it by
axes where all units are there. With several explained inputs there are W.NAME and x.NAME, and y = sum of W.NAME
x.NAME + b. With --format npy W stands in NAME.W.npy, to be opened by numpy.load(..., mmap_mode="r").
--layers adds, for each LAYER: LAYER/W, LAYER/b: the segment that ends there (the product of the segments is the whole);
LAYER/contribution: what each feature brings to each unit, R x by element [N, layer units, inputs], which with
LAYER/contribution_b sums to LAYER/y; and summed over the units, for the target's unit `unit`, whose gradient at the
layer is g: LAYER/feeds: sum|R x|, LAYER/through: sum|g R x|, LAYER/signed: sum g R x.
Exit status: 0 within the bar, 1 outside, 2 for an error."""


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="omenn-linearize", description=__doc__, epilog=EPILOG)
    made.add_argument("model", metavar="MODEL.onnx", help="a model, or a file that omenn-compile wrote")
    made.add_argument("files", metavar="INPUT", nargs="+", type=Path, help=".npz, .npy, .csv, image, or folder of them")
    made.add_argument("-o", "--output-dir", type=Path, default=Path("linear_maps"), help="default: linear_maps")
    made.add_argument("--input", metavar="NAME", action="append", default=[], help="explained input, as omenn-compile "
                      "takes it (repeatable)")  # fmt: skip
    made.add_argument("--source", metavar="TENSOR", help="where the map begins (default: the explained input)")
    made.add_argument("--target", "--layer", metavar="TENSOR", help="where it ends: any tensor behind the explained "
                      "input (default: the explained output, before its softmax)")  # fmt: skip
    made.add_argument("--units", "--output-index", metavar="UNITS", help="which elements of the target, flat: 3, 0:10, "
                      "1,5,7 (default: all)")  # fmt: skip
    made.add_argument("--rules", choices=RULES[::-1], default="tangent", help="tangent: W is the Jacobian (default); "
                      "secant: OMENN's")  # fmt: skip
    made.add_argument("--layers", metavar="auto|all|A,B", help="layer by layer too: those proposed, every tensor that "
                      "separates input and output, or these")  # fmt: skip
    made.add_argument("--figure", action="store_true", help=f"with --layers: features x layers as NAME.png, for the "
                      f"first {SHOWN_FIGURES} rows")  # fmt: skip
    made.add_argument("--format", choices=("auto", "npz", "npy"), default="auto", help="where W goes: into the "
                      f".npz, or a memory map beside it; auto: .npy above {NPZ_LIMIT // 10**6} MB")  # fmt: skip
    made.add_argument("--dtype", choices=("float32", "model", "float64"), default="float32", help="arithmetic of W")
    add_map_options(made)
    made.add_argument("--force", action="store_true", help="overwrite existing outputs")
    add_reading_options(made, batches=False)
    return made


@run_cli
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = parser().parse_intermixed_args(argv)
    if args.figure and args.layers is None:
        raise UsageError("--figure shows layers: say which, e.g. --layers auto")
    if not args.memory_limit > 0:
        raise UsageError(f"--memory-limit must be above 0, got {args.memory_limit:g}")
    model = Linearization(
        args.model, rules=args.rules, inputs=args.input, dtype=args.dtype, opaque=args.opaque, providers=args.provider
    )
    paths = files_of(args.files)
    check_outputs(paths, args.output_dir, (".npz", ".png") if args.figure else (".npz",), args.force)
    within = True
    for path, sample in zip(paths, samples(paths, model.inputs, args), strict=True):
        within &= LinearFile(model, path, sample, args, len(paths) > 1).run()
    return WITHIN if within else OUTSIDE


if __name__ == "__main__":
    raise SystemExit(main())
