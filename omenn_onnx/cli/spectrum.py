"""omenn-spectrum: what a network's layers look at in an input: singular vectors, and what each adds to the output."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from omenn_onnx.cli import Parser, UsageError, add_reading_options, run_cli
from omenn_onnx.cli.groups import add_map_options
from omenn_onnx.cli.reading import files_of, samples
from omenn_onnx.cli.spectrum_files import check_folder
from omenn_onnx.cli.spectrum_run import Run
from omenn_onnx.linearise import RULES
from omenn_onnx.spectral.analysis import COUNT, SMALL
from omenn_onnx.spectral.instances import Linearization

EPILOG = f"""\
Each row of INPUT is an instance of its own (where a model takes several rows at a time, or rows interact, they are one
instance together). At each layer, R = U S V' maps the input x to it, and y = sum of alpha_k + bias is the explained
number: alpha_k is what component k adds. Without -k and --full the whole spectrum is computed where the smaller side of
R is at most {SMALL}, else the {COUNT} largest components; what these leave out is the remainder.
The folder gets spectrum.json (every number), spectrum.npz (every vector, matrix and map) and figures."""


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="omenn-spectrum", description=__doc__, epilog=EPILOG)
    made.add_argument("model", metavar="MODEL.onnx", help="a model, or a file that omenn-compile wrote")
    made.add_argument("files", metavar="INPUT", nargs="+", type=Path, help=".npz, .npy, .csv, image, or folder of them")
    made.add_argument("-o", "--output-dir", type=Path, default=Path("spectrum"), help="default: spectrum")
    made.add_argument("--layers", default="auto", metavar="auto|A,B", help="tensors to look at (default: where stages "
                      "and blocks end, last convolution, penultimate layer)")  # fmt: skip
    made.add_argument("--list-layers", action="store_true", help="print the layers that auto proposes, and stop")
    made.add_argument("--target", default="argmax", metavar="T", help="the number that is split: argmax (default), an "
                      "index, a label, a margin such as 3-7, norm (all of a dense output)")  # fmt: skip
    made.add_argument("-k", type=int, metavar="K", help="this many components, the largest (with --layers auto: fewer "
                      "at layers of lower rank)")  # fmt: skip
    made.add_argument("--full", action="store_true", help="the whole spectrum, whatever the size")
    ways = made.add_mutually_exclusive_group()
    ways.add_argument("--reduce", action="store_true", help="shares: of what is left when opposite signs are "
                      "cancelled (default)")  # fmt: skip
    ways.add_argument("--quantile", type=float, metavar="Q", help="shares: of the components whose |alpha| reaches "
                      "this quantile")  # fmt: skip
    ways.add_argument("--threshold", type=float, metavar="T", help="shares: of the components of |alpha| >= T")
    surgery = made.add_mutually_exclusive_group()
    surgery.add_argument("--drop", metavar="WHICH", help="what the output would be without these components of each "
                         "layer, counted from 1 (1,3), or the fewest that hold a share (90%%)")  # fmt: skip
    surgery.add_argument("--keep", metavar="WHICH", help="... with these alone")
    made.add_argument("--export", action="store_true", help="with --drop or --keep: write the pruned affine models")
    made.add_argument("--axis", type=int, metavar="A", help="axis of the input that heat maps are summed over "
                      "(default: that of its channels)")  # fmt: skip
    made.add_argument("--regions", type=int, metavar="N", help="how far the operator holds: the distance to the next "
                      "linear region along N random directions")  # fmt: skip
    made.add_argument("--sympy", action="store_true", help="write the symbolic forms as SymPy expressions too")
    made.add_argument("--rules", choices=RULES[::-1], default="tangent", help="tangent: SpecXAI's (default); secant: "
                      "OMENN's")  # fmt: skip
    made.add_argument("--input", metavar="NAME", action="append", default=[], help="explained input, as omenn-compile "
                      "takes it (repeatable)")  # fmt: skip
    made.add_argument("--source", metavar="TENSOR", help="which of several explained inputs is x, or any other tensor")
    made.add_argument("--output", metavar="NAME", help="explained output (default: before the softmax)")
    made.add_argument("--tolerance", type=float, default=1e-4, metavar="T", help="residual of a component, relative to "
                      "its singular value (default: 1e-4)")  # fmt: skip
    add_map_options(made)
    made.add_argument("--figures", type=int, default=2, metavar="N", help="inputs that get figures of their own "
                      "(default: 2; those of all inputs together are always made)")  # fmt: skip
    made.add_argument("--no-figure", action="store_true", help="write numbers only")
    made.add_argument("--force", action="store_true", help="overwrite existing outputs")
    add_reading_options(made, batches=False)
    return made


@run_cli
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = parser().parse_intermixed_args(argv)
    _check(args)
    model = Linearization(
        args.model, rules=args.rules, inputs=args.input, output=args.output, opaque=args.opaque,
        providers=args.provider,
    )  # fmt: skip
    paths = files_of(args.files)
    run = Run(model, args)
    if args.list_layers:
        run.list_layers(next(samples(paths[:1], model.inputs, args)))
        return 0
    check_folder(args.output_dir, args.force)
    for sample in samples(paths, model.inputs, args):
        run.add(sample)
    run.finish()
    return 0


def _check(args: Namespace) -> None:
    if args.k is not None and args.k < 1:
        raise UsageError(f"-k must be at least 1, got {args.k}")
    if not args.memory_limit > 0:
        raise UsageError(f"--memory-limit must be above 0, got {args.memory_limit:g}")
    if not 0 < args.tolerance < 1:
        raise UsageError(f"--tolerance must lie between 0 and 1, got {args.tolerance:g}")
    if args.quantile is not None and not 0 <= args.quantile <= 1:
        raise UsageError(f"--quantile must lie between 0 and 1, got {args.quantile:g}")
    if args.threshold is not None and not args.threshold >= 0:
        raise UsageError(f"--threshold must not be negative, got {args.threshold:g}")
    if args.export and args.drop is None and args.keep is None:
        raise UsageError("--export writes what --drop or --keep leaves: give one of them")
    if args.regions is not None and args.regions < 1:
        raise UsageError(f"--regions must be at least 1, got {args.regions}")
    if args.figures < 0:
        raise UsageError(f"--figures must not be negative, got {args.figures}")


if __name__ == "__main__":
    raise SystemExit(main())
